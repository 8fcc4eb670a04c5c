"""The HTTP side of `gotrace serve`, without a process to trace."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from profiles import durations

from gotrace.common.histogram import bucket_of
from gotrace.common.vocabulary import State
from gotrace.host.choice import Wanted
from gotrace.profile.requests import SpanBucket
from gotrace.profile.types import Distribution, Frame, StackStat, Target
from gotrace.sched.types import Goroutines, Snapshot
from gotrace.serve.listening import Address, Guard, bind, tls_of
from gotrace.serve.options import ServeOptions
from gotrace.serve.recorder import Recorder
from gotrace.serve.service import Service
from gotrace.serve.slices import Known
from gotrace.serve.steps import Calls, Step, Wait
from gotrace.serve.totals import Totals
from gotrace.serve.tracing import Condition, Traced, identity_of
from gotrace.serve.web import Server, application

S = 1_000_000_000
MS = 1_000_000


class Web:
    """A server by a thread of its own, of a service that traces nothing."""

    def __init__(self, folder: Path, token: bytes | None = None, tls: tuple[Path, Path] | None = None, **options: Any) -> None:
        self.service = Service(ServeOptions(Wanted(name="^nothing$"), folder=folder, kill_file=folder / "off", **options))
        self.service.start()
        self.socket = bind(Address("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.loop = asyncio.new_event_loop()
        self._guard, self._tls = Guard(Address("127.0.0.1", self.port), token), tls_of(*tls) if tls else None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)

        async def begin() -> None:
            self.server = Server(application(self.service, self._guard), self._tls)
            self.server.add_sockets([self.socket])

        self.loop.run_until_complete(begin())
        self.loop.run_forever()

    async def _close(self) -> None:
        self.server.stop()
        await self.server.close_all_connections()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self.loop).result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        self.service.finish(1)

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, str, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        found = answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}
        connection.close()
        return found

    def send(self, data: bytes) -> bytes:
        """What is answered to anything."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as sock:
            sock.sendall(data)
            found = b""
            try:
                while more := sock.recv(65536):
                    found += more
            except ConnectionResetError:  # it was closed with data unread
                pass
            return found


def put_target(service: Service, name: str, seconds: int = 40) -> Traced:
    """Adds a target of which so many seconds are kept: in each ten waits for a lock, and from the 20th to the 25th long waits for a CPU."""
    identity = identity_of(os.getpid())
    assert identity is not None
    traced = Traced(identity, service.options, Totals(), lambda _traced, _fired: None)
    traced.name, traced.condition, traced.rung = name, Condition.TRACING, "everything"
    traced.recorder = Recorder(traced.ring, lambda _: None)
    traced.target = Target(traced.pid, f"/bin/{name}", name, "go1.27.3", "", "", True, False, False, "amd64")
    traced.recorder.known = Known(traced.target, "exact")
    traced.scheduler.snapshot = Snapshot("", goroutines=Goroutines(50, 1, 2, 46, 1))
    frames = Frame("sync.(*Mutex).Lock"), Frame(f"main.{name}"), Frame("main.main")
    lock = StackStat(frames, State.WAITING, "sync.Mutex.Lock", Distribution(), pid=traced.pid)
    cpu = StackStat((Frame("main.compute"), Frame("main.main")), State.RUNQUEUE, "thread preempted", Distribution(), pid=traced.pid)
    now = time.monotonic_ns()
    for second in range(seconds):
        begin = now - (seconds - second) * S
        waits = [Wait(lock, durations([5 * MS] * 10), (0, 0, 0, 0), 0, None)]
        if 20 <= second < 25:
            waits.append(Wait(cpu, durations([200 * MS]), (0, 0, 0, 0), 0, None))
        latency = durations([20 * MS] * 7)
        calls = [Calls("main.serve", latency, {bucket_of(20 * MS): SpanBucket(7, 140 * MS, 140 * MS)}, traced_ns=S)]
        step = Step(begin, begin + S, now - seconds * S, waits, calls, attached_ns=S, cpu_ns=S // 2)
        traced.ring.add(step)
        traced.hour.add(step, traced.sched)
    service.supervisor.put(traced)
    return traced
