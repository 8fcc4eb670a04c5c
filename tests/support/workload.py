"""Runs a fixture program: waits until it is ready, talks to it over its pipes, always ends it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from pathlib import Path


class Workload:
    """A running program that prints ``ready`` (the whole line is in `ready`) and ends when its stdin closes. A context manager."""

    ready = ""

    def __init__(self, binary: Path | str, *arguments: str, undisturbed: bool = False) -> None:
        """`undisturbed`: other processes of the machine hardly take the CPU from it (highest priority, if we may)."""
        self._command = [str(binary), *arguments]
        self._undisturbed = undisturbed

    def __enter__(self) -> Workload:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            preexec_fn=_favoured if self._undisturbed else None,
        )
        self._buffer = b""
        self._output = select.poll()  # not select(2): a test may run more programs than that can watch
        self._output.register(self._process.stdout, select.POLLIN)
        try:
            line = self.read_line(20)
            self.ready = line
            assert line.startswith("ready"), f"the program said {line!r}: {self._errors()}"
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, line: str) -> None:
        self._process.stdin.write(line.encode() + b"\n")

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    def close(self) -> None:
        """Closes its stdin."""
        self._process.stdin.close()

    def read_line(self, timeout_s: float) -> str:
        """The next line of stdout; raises TimeoutError, or EOFError with the program's stderr if it has ended."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not self._output.poll(left * 1000):
                raise TimeoutError(f"{self._command[0]} printed no line within {timeout_s} s")
            chunk = self._process.stdout.read(65536)
            if not chunk:
                raise EOFError(f"{self._command[0]} ended: {self._errors()}")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def read_json(self, timeout_s: float) -> object:
        return json.loads(self.read_line(timeout_s))

    def wait(self, timeout_s: float = 20) -> int:
        """The exit code of a program that ends by itself, or is killed."""
        return self._process.wait(timeout_s)

    def finish(self, timeout_s: float = 20) -> tuple[int, str]:
        """Closes stdin and returns (exit code, rest of stdout)."""
        self._process.stdin.close()
        rest = self._buffer + self._process.stdout.read()
        code = self._process.wait(timeout_s)
        return code, rest.decode()

    def _errors(self) -> str:
        self._process.kill()
        return self._process.stderr.read().decode(errors="replace")[-3000:]

    def _end(self) -> None:
        if not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()


def _favoured() -> None:
    # Not a real-time class: its threads must share the CPUs fairly among themselves, sysmon with the spinners.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
