"""Puts a terminal back when a full-screen program that used it is killed: nothing in that program can."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_MODES = (2026, 1000, 1002, 1003, 1006, 1015, 1004, 2004, 2048, 1049)
_RESTORE = "".join(f"\\033[?{mode}l" for mode in _MODES) + "\\033[<u\\033[?25h\\033[0m"
"""Ends what Textual switches on: updates in one piece, reports of the mouse, focus, pastes and sizes, the alternate screen, the keyboard
protocol; and shows the cursor (textual/drivers/linux_driver.py)."""
# Descriptor 0 is a pipe, 1 the terminal. `read` returns when the other end of the pipe is closed: after a line by `guarded`, without one by
# the kernel. A shell that has its terminal back has set it up for itself by then; that signals are off tells what Textual has set up.
_SCRIPT = (
    "exec 3<&1; saved=$(stty -g <&3) || exit 0; echo >&2; exec 2>/dev/null; read -r line && exit 0; "
    f"printf '{_RESTORE}'; case \"$(stty -a <&3)\" in *-isig*) stty \"$saved\" <&3;; esac"
)


@contextmanager
def guarded(terminal: int) -> Iterator[None]:
    """While this lasts, a shell waits for the end of this process. If the process ends before, however that may be, the shell puts the
    terminal, a descriptor, back as it is now. Without a shell and stty nothing is guarded."""
    guard: subprocess.Popen[bytes] | None = None
    told, tell = os.pipe()
    with suppress(OSError):
        # In a session of its own: neither Ctrl-C nor a hang-up ends it, and the terminal does not stop it as a background job.
        guard = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT], stdin=told, stdout=terminal, stderr=subprocess.PIPE, start_new_session=True, cwd="/",
        )
    os.close(told)
    try:
        if guard is not None and guard.stderr is not None:
            guard.stderr.readline()  # it has read how the terminal is
        yield
    finally:
        with suppress(OSError):
            os.write(tell, b"over\n")
        os.close(tell)
        if guard is not None:
            guard.communicate()
