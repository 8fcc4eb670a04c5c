"""Debian's etcd, which is not ours, with its own client."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from prerequisites import unavailable

PORT, PEER = 32379, 32380


class Etcd:
    """A running server (stripped; Go 1.19 in Debian 12, 1.24 in 13)."""

    def __init__(self, process: subprocess.Popen, client: str) -> None:
        self.process = process
        self.pid = process.pid
        self._client = [client, f"--endpoints=127.0.0.1:{PORT}"]

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs etcdctl."""
        return subprocess.run([*self._client, *arguments], env=_environment(), capture_output=True, text=True, timeout=180)

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """etcdctl's own load test, as long as the context is open."""
        process = subprocess.Popen(
            [*self._client, "check", "perf", "--load", "s"], env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)

    def metric(self, pattern: str) -> float:
        """The sum of its own metrics whose name and labels match."""
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(pattern, line))


def _environment() -> dict[str, str]:
    return os.environ | {"ETCDCTL_API": "3"}


@contextlib.contextmanager
def running_etcd(folder: Path) -> Iterator[Etcd]:
    """A server with an empty store in `folder`, once it answers. Skips the test where etcd is not installed."""
    server, client = shutil.which("etcd"), shutil.which("etcdctl")
    if not server or not client:
        unavailable("needs etcd: sudo apt-get install etcd-server etcd-client")
    listen, peer = f"http://127.0.0.1:{PORT}", f"http://127.0.0.1:{PEER}"
    process = subprocess.Popen(
        [server, "--data-dir", folder / "data", "--listen-client-urls", listen, "--advertise-client-urls", listen,
         "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        etcd = Etcd(process, client)
        for _ in range(100):
            if etcd.ask("put", "k", "v").returncode == 0:
                break
            time.sleep(0.2)
        else:
            raise AssertionError("etcd did not come up")
        yield etcd
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
