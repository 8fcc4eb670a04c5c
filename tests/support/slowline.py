"""Runs a command on a terminal of its own and relays to this one, late, as a far connection does.

    python slowline.py MILLISECONDS COMMAND [ARGUMENTS]
"""

from __future__ import annotations

import collections
import fcntl
import os
import pty
import select
import sys
import termios
import time
import tty


def relay(master: int, delay_s: float) -> None:
    """Until the command's side is closed and all of it has arrived."""
    late: collections.deque[tuple[float, int, bytes]] = collections.deque()
    sources = {0: master, master: 1}
    while master in sources or late:
        wait = max(0, late[0][0] - time.monotonic()) if late else None
        for source in select.select(list(sources), [], [], wait)[0]:
            try:
                data = os.read(source, 65536)
            except OSError:  # EIO: the other side of a terminal was closed
                data = b""
            if data:
                late.append((time.monotonic() + delay_s, sources[source], data))
            else:
                del sources[source]
        while late and late[0][0] <= time.monotonic():
            _, to, data = late.popleft()
            while data:
                data = data[os.write(to, data):]


def main() -> int:
    before = termios.tcgetattr(0)
    size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
    child, master = pty.fork()
    if not child:
        fcntl.ioctl(0, termios.TIOCSWINSZ, size)
        os.execvp(sys.argv[2], sys.argv[2:])
    tty.setraw(0)
    try:
        relay(master, int(sys.argv[1]) / 1000)
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
