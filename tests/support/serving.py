"""Runs `gotrace serve` as a user does, and asks it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class UnixConnection(http.client.HTTPConnection):
    """Over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=180)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


class Serving:
    """A running `gotrace serve`, behind the command `before`; `said` and `lines` are what it has written to stderr and stdout, `notified`
    what it has told systemd. A context manager."""

    def __init__(self, folder: Path, *arguments: object, before: Sequence[str] = ()) -> None:
        self.folder = folder
        listen = () if "--listen" in arguments else ("--listen", "127.0.0.1:0")
        kill_file = () if "--kill-file" in arguments else ("--kill-file", folder / "off")
        self._command = [
            *before, sys.executable, "-m", "gotrace", "serve", *map(str, (*listen, *kill_file, "--dir", folder / "captures", *arguments))
        ]

    def __enter__(self) -> Serving:
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        (self.folder / "notify").unlink(missing_ok=True)  # that of an earlier one
        self._notify.bind(str(self.folder / "notify"))
        environment = os.environ | {"NOTIFY_SOCKET": str(self.folder / "notify"), "WATCHDOG_USEC": "2000000"}
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder, env=environment
        )
        self.said: list[str] = []
        self.lines: list[dict[str, Any]] = []
        self.notified: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_notifications),
            threading.Thread(target=lambda: self.said.extend(iter(self.process.stderr.readline, ""))),
            threading.Thread(target=lambda: self.lines.extend(json.loads(line) for line in self.process.stdout)),
        ]
        for reader in self._readers:
            reader.start()
        self.until(lambda: any(line.startswith("serving at ") for line in self.said))
        self.url = next(line for line in self.said if line.startswith("serving at ")).removeprefix("serving at ").partition(";")[0]
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", str(self.folder / "notify"))  # ends its reader
        for reader in self._readers:
            reader.join()
        self._notify.close()
        self.process.stdout.close()
        self.process.stderr.close()

    def _read_notifications(self) -> None:
        while text := self._notify.recv(4096).decode():
            self.notified.append(text)

    def until(self, what: Callable[[], object], seconds: float = 90) -> Any:
        """Waits until that is true; returns it."""
        deadline = time.monotonic() + seconds
        while not (found := what()):
            assert self.process.poll() is None and time.monotonic() < deadline, "".join(self.said[-30:])
            time.sleep(0.05)
        return found

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        """The status, the body and the headers of an answer."""
        connection: http.client.HTTPConnection
        if self.url.startswith("unix:"):
            connection = UnixConnection(self.url.removeprefix("unix:"))
        else:
            connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=180)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def json(self, path: str, method: str = "GET", body: bytes | None = None) -> Any:
        """An answer in JSON."""
        status, text, _ = self.ask(path, method, body)
        assert status == 200, text
        return json.loads(text)

    def targets(self) -> list[dict[str, Any]]:
        """What /targets says."""
        return self.json("/targets")["targets"]

    def tracing(self, pid: int, kept_s: float = 1.0) -> dict[str, Any]:
        """Waits until that process is traced and so much is kept of it."""

        def found() -> dict[str, Any] | None:
            for target in self.targets():
                ring = target["ring"]
                if target["pid"] == pid and target["condition"] == "tracing" and ring["to"] and ring["to"] - ring["from"] >= kept_s:
                    return target
            return None

        return self.until(found)

    def end(self, number: int = signal.SIGTERM) -> float:
        """Ends it; returns how many seconds that took. The exit code must be 0."""
        began = time.monotonic()
        self.process.send_signal(number)
        assert self.process.wait(30) == 0, "".join(self.said[-30:])
        return time.monotonic() - began
