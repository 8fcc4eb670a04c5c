"""Tells systemd how the service is (sd_notify(3)): datagrams to the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


class Notify:
    """Does nothing where systemd does not ask for it. `every_s`: how often to call `alive`, 0: not at all."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        watched = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = os.environ.pop("WATCHDOG_USEC", "")
        self.every_s = int(microseconds) / 2e6 if microseconds.isdigit() and watched else 0.0

    def ready(self, status: str) -> None:
        """The service has begun."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self, status: str) -> None:
        """The service goes on."""
        self._send(f"WATCHDOG=1\nSTATUS={status}")

    def reloading(self) -> None:
        """The service reloads, and has done so."""
        self._send("STATUS=reloading")

    def stopping(self) -> None:
        """The service ends."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            # Whoever does not read must not keep us waiting.
            sock.sendto(text.encode(), socket.MSG_DONTWAIT, address)
