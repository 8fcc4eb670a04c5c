"""The HTTP server and the load generator of tests/fixtures/load, as processes."""

from __future__ import annotations

import ipaddress
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gobuild import GO_VERSIONS, build
from workload import Workload

from benchmarks.stages import Stage
from gotrace.common.errors import UsageError

GO_VERSION = GO_VERSIONS[-1]
_SLACK_S = 70
"""Beyond a profile's length: the longest timeout that the generator takes, and then some."""


def fixture() -> Path:
    """The program, built if need be."""
    return build("load", GO_VERSION, "plain")


@dataclass(frozen=True)
class Figures:
    """What became of one counted stage. `throughput` is answers per second within the stage; `errors` are by kind: timeout,
    status, connection, unsent (no connection was free in time). `latency` (from the instant at which a request was due) and
    `late` (the generator's own delay) have p50_ns, p90_ns, p99_ns, p999_ns, max_ns, mean_ns; empty where nothing was measured."""

    requests: int
    answers: int
    throughput: float
    errors: dict[str, int]
    error_rate: float
    latency: dict[str, int]
    late: dict[str, int]


class Server(Workload):
    """The fixture's HTTP server on a free port of the loopback; a context manager."""

    def __init__(self, program: Path | None = None) -> None:
        super().__init__(program or fixture(), "serve")

    @property
    def url(self) -> str:
        """Where it answers: the address of its "ready"."""
        return f"http://{self.ready.split()[1]}/"


class Generator(Workload):
    """The load generator; a context manager."""

    def __init__(self, url: str, connections: int, timeout_ns: int) -> None:
        super().__init__(fixture(), "generate", loopback_url(url), str(connections), f"{timeout_ns}ns")

    def start(self, stages: list[Stage]) -> None:
        """Sends the load of `stages`; `result` waits for its end."""
        self._stages = stages
        self.send(json.dumps([stage.as_dict() for stage in stages]))

    def result(self) -> list[Figures]:
        """The figures of the counted stages that were started last."""
        seconds = sum(stage.duration_ns + stage.ramp_ns for stage in self._stages) / 1e9
        found = self.read_json(seconds + _SLACK_S)
        return [Figures(**each | {"latency": each["latency"] or {}, "late": each["late"] or {}}) for each in found]

    def run(self, stages: list[Stage]) -> list[Figures]:
        """`start` and `result`."""
        self.start(stages)
        return self.result()


def loopback_url(url: str) -> str:
    """`url` if it is HTTP on this machine's loopback.

    Raises:
        UsageError: it is anything else.
    """
    parts = urlsplit(url)
    hint = "load is sent to this machine alone: http://127.0.0.1:PORT/"
    try:
        addresses = {each[4][0] for each in socket.getaddrinfo(parts.hostname, parts.port or 80)} if parts.hostname else set()
    except (OSError, ValueError):
        addresses = set()
    if parts.scheme != "http" or not addresses or not all(ipaddress.ip_address(each).is_loopback for each in addresses):
        raise UsageError(f"{url} is not HTTP on the loopback", hint)
    return url
