"""The workloads: programs of tests/fixtures/load whose speed is measured in windows."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workload import Workload

from benchmarks.generator import Generator, Server
from benchmarks.paired import Window
from benchmarks.stages import Stage, unmeasured
from gotrace.watch.target import cpu_time_ns

_PATIENCE_S = 90
_CONNECTIONS = 16
_TIMEOUT_NS = 5_000_000_000
_SHARE_OF_SATURATION = 0.5
_LOAD_S = 0.25


@dataclass(frozen=True)
class Kind:
    """A workload by its name on the command line. `arguments` are the fixture's; none: the server under fixed load, of `rate`
    requests/s or, where that is 0, half of the highest that is answered without a tracer. `quick`: it is part of a quick run."""

    name: str
    title: str
    unit: str
    arguments: tuple[str, ...] = ()
    quick: bool = True
    rate: float = 0.0


KINDS = (
    Kind("pingpong", "channel ping-pong", "round trips", ("pingpong",)),
    Kind("http", "HTTP at saturation, 16 clients", "requests", ("http", "16")),
    Kind("http-fixed", "HTTP at a fixed rate, half of saturation", "requests"),
    Kind("http-2500", "HTTP at a low rate, some 10,000 intervals/s", "requests", quick=False, rate=2500.0),
    Kind("mutex", "mutex contention", "turns", ("mutex", "16")),
    Kind("files", "file I/O", "rounds", ("files", "8")),
    Kind("timers", "timers", "sleeps", ("timers", "1000")),
    Kind("goroutines-100", "100 parked goroutines, 1 % active", "round trips", ("goroutines", "100"), quick=False),
    Kind("goroutines-100k", "100,000 parked goroutines, 1 % active", "round trips", ("goroutines", "100000")),
    Kind("goroutines-1m", "1,000,000 parked goroutines, 1 % active", "round trips", ("goroutines", "1000000"), quick=False),
    Kind("stacks-10", "10 distinct stacks", "round trips", ("stacks", "10"), quick=False),
    Kind("stacks-5k", "5,000 distinct stacks", "round trips", ("stacks", "5000")),
)


class Target:
    """A running workload: `process` is what a tracer attaches to. `detail` is what the table's title says beside the kind's."""

    detail = ""

    def __init__(self, process: Workload) -> None:
        self.process = process

    @property
    def pids(self) -> list[int]:
        """All processes that take part."""
        return [self.pid, os.getpid()]

    @property
    def pid(self) -> int:
        return self.process.pid

    def measure(self, warm_s: float, window_s: float) -> Window:
        """Runs the workload for both times and tells of the second."""
        self.process.send(f"run {round(warm_s * 1e9)}ns {round(window_s * 1e9)}ns")
        found = self.process.read_json(warm_s + window_s + _PATIENCE_S)
        operations = found["operations"]
        return Window(operations * 1e9 / found["elapsed_ns"], found["cpu_ns"] / operations if operations else 0.0, found["latency"] or {})

    def command(self, line: str) -> str:
        """The answer to a command to one of the profilers in the process."""
        self.process.send(line)
        return self.process.read_line(_PATIENCE_S)

    @contextlib.contextmanager
    def loaded(self) -> Iterator[None]:
        """The workload runs, again and again, until the context is left."""
        over = threading.Event()

        def go_on() -> None:
            while not over.is_set():
                self.measure(0, _LOAD_S)

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


class FixedRate(Target):
    """The server under a fixed rate."""

    def __init__(self, server: Workload, generator: Generator, rate: float) -> None:
        super().__init__(server)
        self._generator = generator
        self._rate = rate
        self.detail = f"{rate:,.0f}/s"

    @property
    def pids(self) -> list[int]:
        return [*super().pids, self._generator.pid]

    def measure(self, warm_s: float, window_s: float) -> Window:
        stage = Stage(round(window_s * 1e9), self._rate)
        if warm_s:
            self._generator.run([unmeasured(stage, round(warm_s * 1e9))])
        before, start = cpu_time_ns(self.pid), time.monotonic()
        figures = self._generator.run([stage])[0]
        spent = (cpu_time_ns(self.pid) - before) * window_s / (time.monotonic() - start)
        return Window(figures.throughput, spent / figures.requests if figures.requests else 0.0, figures.latency)


@contextlib.contextmanager
def running(kind: Kind, program: Path) -> Iterator[Target]:
    """The workload, warmed up."""
    with contextlib.ExitStack() as stack:
        if kind.arguments:
            target = Target(stack.enter_context(Workload(program, "work", *kind.arguments)))
        else:
            server = stack.enter_context(Server(program))
            generator = stack.enter_context(Generator(server.url, _CONNECTIONS, _TIMEOUT_NS))
            target = FixedRate(server, generator, kind.rate or _part_of_saturation(generator))
        target.measure(0.2, 0.1)
        yield target


def _part_of_saturation(generator: Generator) -> float:
    closed = generator.run([unmeasured(Stage(1), 300_000_000), Stage(500_000_000)])[0].throughput
    # A closed loop asks in batches when all are busy; one that keeps instants can't, and does less.
    sustained = generator.run([Stage(500_000_000, closed)])[0].throughput
    return max(100.0, round(_SHARE_OF_SATURATION * min(closed, sustained), -2))
