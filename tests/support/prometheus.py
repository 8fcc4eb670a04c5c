"""Debian's prometheus, which is not ours, with the histogram that it keeps of its own requests."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prerequisites import unavailable

_DURATION = re.compile(r'prometheus_http_request_duration_seconds_(bucket|sum|count)\{handler="([^"]*)"(?:,le="([^"]*)")?\} (\S+)')


@dataclass
class Served:
    """What it says of the requests that it has answered: how many, their sum, and how many took at most so many seconds."""

    count: int
    sum_s: float
    up_to: dict[float, int]

    def __sub__(self, other: Served) -> Served:
        return Served(
            self.count - other.count, self.sum_s - other.sum_s, {edge: n - other.up_to.get(edge, 0) for edge, n in self.up_to.items()}
        )


class Prometheus:
    """A running server that scrapes nothing."""

    def __init__(self, process: subprocess.Popen, port: int) -> None:
        self.pid = process.pid
        self._url = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> float:
        """The one value of an expression."""
        (found,) = json.loads(self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression})))["data"]["result"]
        return float(found["value"][1])

    def served(self) -> Served:
        """All handlers together. Being asked is a request, too, but not yet answered."""
        count, total, up_to = 0, 0.0, Counter()
        for what, _, edge, value in _DURATION.findall(self._get("/metrics")):
            if what == "bucket":
                up_to[float(edge)] += int(float(value))
            elif what == "sum":
                total += float(value)
            else:
                count += int(float(value))
        return Served(count, total, dict(up_to))

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self._get("/-/ready"))
        return False

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self._url + path, timeout=180) as answer:
            return answer.read().decode()


@contextlib.contextmanager
def running_prometheus(folder: Path) -> Iterator[Prometheus]:
    """A server with an empty store in `folder`, once it answers. Skips the test where prometheus is not installed."""
    program = shutil.which("prometheus")
    if not program:
        unavailable("needs prometheus: sudo apt-get install prometheus")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "prometheus.yml").write_text("global: {}\n")
    process = subprocess.Popen(
        [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
         f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        prometheus = Prometheus(process, port)
        for _ in range(100):
            if prometheus.is_ready():
                break
            time.sleep(0.2)
        else:
            raise AssertionError("prometheus did not come up")
        yield prometheus
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
