"""Processes that are traced again, and pids that are used again."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from profiles import durations

from gotrace.common.errors import TargetGone
from gotrace.common.vocabulary import State
from gotrace.host.choice import Wanted
from gotrace.profile.types import Distribution, Frame, StackStat, Target
from gotrace.serve.options import ServeOptions
from gotrace.serve.recorder import Recorder
from gotrace.serve.slices import Known
from gotrace.serve.steps import Step, Wait
from gotrace.serve.supervisor import Supervisor, _is_gone
from gotrace.serve.totals import Totals
from gotrace.serve.tracing import Condition, Identity, Traced, identity_of

S = 1_000_000_000


def traced(
    folder: Path, totals: Totals, identity: Identity | None = None, before: Traced | None = None, keep_bytes: int = 32 << 20
) -> Traced:
    identity = identity or identity_of(os.getpid())
    assert identity is not None
    options = ServeOptions(Wanted(name="x"), folder=folder, kill_file=folder / "off", keep_bytes=keep_bytes)
    return Traced(identity, options, totals, lambda _traced, _fired: None, before)


def step(number: int) -> Step:
    lock = StackStat((Frame("main.take"),), State.WAITING, "sync.Mutex.Lock", Distribution())
    begin = time.monotonic_ns() - (10 - number) * S
    return Step(begin, begin + S, begin, [Wait(lock, durations([1000]), (0, 0, 0, 0), 0, None)], attached_ns=S)


def test_what_was_dropped_is_counted_once(tmp_path: Path) -> None:
    """Also if the process is traced again after the kill file was there."""
    totals = Totals()
    first = traced(tmp_path, totals, keep_bytes=3000)
    for number in range(5):
        first.ring.add(step(number))
        first._stepped(step(number))
    second = traced(tmp_path, totals, before=first)
    second._stepped(step(5))
    (_, sums), = totals.read()
    assert sums.dropped_ns == first.ring.dropped_ns == second.ring.dropped_ns > 0


def test_what_is_kept_can_be_had_until_the_next_trace_begins(tmp_path: Path) -> None:
    first = traced(tmp_path, Totals())
    first.recorder = Recorder(first.ring, lambda _: None)
    first.recorder.known = Known(Target(first.pid, "/bin/x", "x", "go1.27.3", "", "", True, False, False, "amd64"), "exact")
    first.ring.add(step(5))
    now = time.monotonic_ns()
    assert traced(tmp_path, Totals(), before=first).profile(now - 60 * S, now) is not None
    first._next_recorder(lambda _: None)
    assert first.profile(now - 60 * S, now) is not None


@pytest.mark.parametrize("field", ["started", "executable"])
def test_another_process_with_the_pid_is_not_traced(tmp_path: Path, field: str) -> None:
    identity = identity_of(os.getpid())
    assert identity is not None
    other = replace(identity, **{field: 1 if field == "started" else (1, 1)})
    with pytest.raises(TargetGone, match="runs another program"):
        traced(tmp_path, Totals(), other)._trace()


def test_a_thread_that_can_t_be_begun_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def start(one: Traced) -> None:
        tries.append(one.pid)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Traced, "start", start)
    said: list[str] = []
    options = ServeOptions(Wanted((os.getpid(),)), folder=tmp_path, kill_file=tmp_path / "off")
    supervisor = Supervisor(options, Totals(), lambda _traced, _fired: None, said.append)
    supervisor.start()
    deadline = time.monotonic() + 30
    while len(tries) < 2:
        assert time.monotonic() < deadline and supervisor.working
        time.sleep(0.05)
    supervisor.finish(1)
    assert said == ["targets: RuntimeError: can't start new thread"] and supervisor.problem and not supervisor.targets()


def test_who_was_refused_and_ends_makes_room(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        while identity_of(process.pid) is None:
            time.sleep(0.01)
        one = traced(tmp_path, Totals(), identity_of(process.pid))
        supervisor = Supervisor(one._options, one._totals, one._fired, lambda _: None)
        supervisor.put(one)
        one.start()  # it is no Go program
        deadline = time.monotonic() + 30
        while one.condition is not Condition.REFUSED:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not _is_gone(one)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert identity_of(process.pid) is None and not _is_gone(one)  # a zombie: its pid is not free yet
    while one.alive:
        supervisor.step()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert one.condition is Condition.ENDED


def test_where_memory_is_short_the_rings_of_those_that_have_ended_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    totals = Totals()
    own, other = identity_of(os.getpid()), identity_of(os.getppid())
    assert own is not None and other is not None
    alive, ended = traced(tmp_path, totals, own), traced(tmp_path, totals, other)
    monkeypatch.setattr(Traced, "alive", property(lambda one: one is alive))
    supervisor = Supervisor(alive._options, totals, alive._fired, lambda _: None)
    for one in (alive, ended):
        supervisor.put(one)
        for number in range(20):
            large = step(number)
            large.waits *= 1000
            one.ring.add(large)
    size, used = alive.ring.size, [400 << 20]
    assert size == ended.ring.size > 4 << 20
    monkeypatch.setattr("gotrace.serve.supervisor.resident_bytes", lambda: used[0])
    supervisor._save_memory()
    assert alive.ring.size == size and ended.ring.size < size / 3
    assert sum(sums.dropped_ns for _, sums in totals.read()) == ended.ring.dropped_ns > 0
    supervisor._save_memory()  # it was not enough
    assert alive.ring.size < size and alive.history_bytes == (300 << 20) // 4
