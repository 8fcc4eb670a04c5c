"""Which places are suspicious, why in words, and that what idles by design stays out of the list."""

from __future__ import annotations

import pytest
from anyprofile import any_profile
from hypothesis import given
from hypothesis import strategies as st
from profiles import GOEXIT, GOPARK, MS, S, durations, go, many_stacks, profile, runtime, shop, stat

from gotrace.common.histogram import bucket_of
from gotrace.common.vocabulary import FrameKind, State
from gotrace.profile.filters import filter_profile
from gotrace.profile.hotspots import MOST, Thresholds, find_hotspots, idle_by_design
from gotrace.profile.requests import Span, SpanBucket, WaitSum
from gotrace.profile.types import Frame, Profile, StackStat, SubWindow

HANDLER = [go("main.(*DB).Query"), go("main.handle"), go("net/http.HandlerFunc.ServeHTTP"), go("net/http.(*conn).serve"), GOEXIT]
LOCK = [GOPARK, runtime("semacquire1"), go("sync.(*Mutex).Lock"), *HANDLER]
FILLER = stat([GOPARK, go("main.work"), go("main.main"), GOEXIT], [MS] * 100_000, reason="chan send")
"""Enough busy time that no share is large."""


def whys(*stacks: StackStat, **thresholds: float) -> list[str]:
    return [spot.why for spot in find_hotspots(profile([FILLER, *stacks]), Thresholds(share=0, **thresholds))]  # type: ignore[arg-type]


def steady(stack: StackStat, seconds: list[list[int]]) -> StackStat:
    for second, values in enumerate(seconds):
        if values:
            d = durations(values)
            stack.subwindows.append(SubWindow(second * S, S, d.count, d.total_ns, d.squares))
    return stack


# ---- p99


def test_a_lock_is_hot_from_the_threshold_on() -> None:
    assert whys(stat(LOCK, [99 * MS] * 50, reason="sync.Mutex.Lock")) == []
    assert whys(stat(LOCK, [150 * MS] * 50, reason="sync.Mutex.Lock")) == ["p99 150 ms exceeds 100 ms"]
    assert whys(stat(LOCK, [99 * MS] * 50, reason="sync.Mutex.Lock"), p99_ns=90 * MS) != []
    assert whys(stat(LOCK, [3 * S], reason="sync.Mutex.Lock")) == ["up to 3.00 s in 1 interval"]


def test_the_ratio_is_said() -> None:
    assert whys(stat(LOCK, [10 * MS] * 980 + [500 * MS] * 20, reason="sync.Mutex.Lock")) == ["p99 487 ms is 48 times its p50"]


def test_a_lock_held_through_the_whole_window_is_hot_and_a_parked_worker_is_not() -> None:
    assert whys(stat(LOCK, [10 * S], reason="sync.Mutex.Lock", in_progress=1)) == ["up to 10.0 s in 1 interval"]
    assert whys(stat([GOPARK, *HANDLER], [10 * S] * 30, reason="select", in_progress=30)) == []


def test_waits_that_may_be_for_work_need_a_tail() -> None:
    assert whys(stat([GOPARK, *HANDLER], [300 * MS] * 100, reason="chan receive")) == []
    tail = [10 * MS] * 95 + [300 * MS] * 5
    assert whys(stat([GOPARK, *HANDLER], tail, reason="chan receive")) == ["p99 285 ms is 28 times its p50"]
    # The same tail, but made by the window's end.
    assert whys(stat([GOPARK, *HANDLER], tail, reason="chan receive", in_progress=5)) == []
    assert whys(stat([GOPARK, *HANDLER], [10 * MS] * 10 + [300 * MS], reason="chan receive")) == []


def test_waits_for_a_p_or_a_cpu_are_hot_from_a_tenth_on() -> None:
    values = [MS] * 90 + [12 * MS] * 10
    assert len(whys(stat(HANDLER, values, State.RUNNABLE, "ready"))) == 1
    assert len(whys(stat(HANDLER, values, State.RUNQUEUE, "thread woken"))) == 1
    assert whys(stat(HANDLER, values, State.SYSCALL, "fsync")) == []
    assert whys(stat(HANDLER, [12 * MS], State.RUNNABLE, "ready")) == []


# ---- idle by design


@pytest.mark.parametrize(("frames", "state", "reason", "idle"), [
    ([GOPARK, runtime("gcBgMarkWorker"), GOEXIT], State.WAITING, "GC worker (idle)", True),
    ([GOPARK, go("main.worker"), GOEXIT], State.WAITING, "chan receive", True),
    ([GOPARK, go("main.worker"), GOEXIT], State.WAITING, "chan send", False),
    ([GOPARK, go("time.Sleep"), go("main.heartbeat"), GOEXIT], State.WAITING, "sleep", True),
    ([GOPARK, go("time.Sleep"), go("main.retry"), *HANDLER], State.WAITING, "sleep", False),
    ([GOPARK, go("internal/poll.(*FD).Read"), go("net.(*conn).Read"), go("bufio.(*Scanner).Scan"), go("main.answer"), GOEXIT],
     State.WAITING, "IO wait", True),
    ([GOPARK, go("internal/poll.(*FD).Read"), go("net.(*conn).Read"), *HANDLER], State.WAITING, "IO wait", False),
    ([GOPARK, go("net/http.(*persistConn).roundTrip"), go("net/http.Get"), go("main.fetch"), GOEXIT], State.WAITING, "select", True),
    ([GOPARK, go("net/http.(*persistConn).readLoop"), GOEXIT], State.WAITING, "IO wait", True),
    ([GOPARK, go("encoding/json.Unmarshal"), go("main.fetch"), GOEXIT], State.WAITING, "chan receive", False),
    ([go("syscall.read"), go("os.(*File).Read"), go("main.tail"), GOEXIT], State.SYSCALL, "read", True),
    ([go("syscall.fsync"), go("os.(*File).Sync"), go("main.tail"), GOEXIT], State.SYSCALL, "fsync", False),
    ([go("main.worker"), GOEXIT], State.RUNNABLE, "ready", False),
    ([Frame("[lost]", kind=FrameKind.LOST)], State.WAITING, "chan receive", False),
])  # fmt: skip
def test_idle_by_design(frames: list[Frame], state: State, reason: str, idle: bool) -> None:
    assert idle_by_design(stat(frames, [S] * 30, state, reason)) is idle


# ---- jitter


def test_jitter_counts_only_in_a_row() -> None:
    def lock() -> StackStat:
        return stat(LOCK, [MS] * 200, reason="sync.Mutex.Lock")

    calm, rough = [20 * MS] * 9, [2 * MS] * 9 + [300 * MS]
    assert whys(steady(lock(), [calm, rough, rough, calm, rough, rough])) == []
    assert whys(steady(lock(), [rough, rough, [], rough])) == []
    assert whys(steady(lock(), [rough, rough, rough[-3:], rough])) == []
    assert whys(steady(lock(), [calm, rough, rough, rough, calm])) == ["jitter 89.4 ms to 89.4 ms in 3 sub-windows of 1 s in a row"]
    assert whys(steady(lock(), [rough] * 4), jitter_ns=90 * MS) == []


def test_jitter_of_work_that_arrives_evenly_is_none() -> None:
    values = [200 * MS] * 5 + [400 * MS] * 5
    assert whys(steady(stat([GOPARK, *HANDLER], values * 4, reason="select"), [values] * 4)) == []
    assert len(whys(steady(stat(LOCK, [MS], reason="sync.Mutex.Lock"), [values] * 4))) == 1


# ---- share


def test_share_is_of_what_is_not_idle() -> None:
    idle = [stat([GOPARK, go(f"main.worker{n}"), GOEXIT], [10 * S], reason="chan receive", in_progress=1) for n in range(50)]
    lock = stat(LOCK, [20 * MS] * 300, reason="sync.Mutex.Lock")
    other = stat([GOPARK, *HANDLER], [20 * MS] * 900, reason="IO wait")
    made = profile([*idle, lock, other])
    assert [(made.stacks[spot.stack], spot.why) for spot in find_hotspots(made)] == [
        (other, "75 % of the off-CPU time that is not idle by design"),
        (lock, "25 % of the off-CPU time that is not idle by design"),
    ]
    assert [round(spot.share, 4) for spot in find_hotspots(made)] == [0.0344, 0.0115]
    assert find_hotspots(made, Thresholds(share=0.8)) == []


def test_a_large_share_of_nothing_is_none() -> None:
    assert find_hotspots(profile([stat([GOPARK, *HANDLER], [90 * MS] * 10, reason="IO wait")])) == []


# ---- the list


def test_places_not_stacks() -> None:
    stacks = [
        stat([Frame(f"main.wake{n}", kind=FrameKind.WAKER), *LOCK], [200 * MS] * (n + 2), reason="sync.Mutex.Lock")
        for n in range(30)
    ]
    made = profile([FILLER, *stacks])
    spot, = find_hotspots(made, Thresholds(share=0))
    assert made.stacks[spot.stack].distribution.count == 31
    assert spot.share == pytest.approx(sum(s.distribution.total_ns for s in stacks) / made.total().total_ns)


def test_most_reasons_first_then_the_largest_and_not_too_many() -> None:
    def lock(n: int, count: int) -> StackStat:
        return stat([go(f"main.f{n}"), *HANDLER], [200 * MS] * count, reason="sync.Mutex.Lock")

    both = steady(stat(LOCK, [2 * MS] * 9 + [300 * MS], reason="sync.Mutex.Lock"), [[2 * MS] * 9 + [300 * MS]] * 3)
    made = profile([FILLER, both, *(lock(n, 20 + n) for n in range(40))])
    found = find_hotspots(made, Thresholds(share=0))
    assert len(found) == MOST
    assert made.stacks[found[0].stack] is both and "; " in found[0].why
    totals = [made.stacks[spot.stack].distribution.total_ns for spot in found[1:]]
    assert totals == sorted(totals, reverse=True)


@given(any_profile, st.integers(0, 10 * S), st.integers(0, 10 * S), st.floats(0, 1))
def test_any_profile_has_sound_hot_spots(made: Profile, p99: int, jitter: int, share: float) -> None:
    for spot in find_hotspots(made, Thresholds(p99, jitter, share)):
        assert 0 <= spot.stack < len(made.stacks) and spot.why.isprintable() and 0 <= spot.share <= 1


def test_no_threshold_no_hot_spot() -> None:
    assert find_hotspots(many_stacks(20), Thresholds(0, 0, 0)) == []
    assert find_hotspots(profile([])) == []


# ---- filters


def test_filters_keep_hot_spots_on_their_stacks_and_the_profile_as_it_was() -> None:
    made = profile([*shop(), stat(LOCK, [3 * S], reason="sync.Mutex.Lock")])
    made.hotspots = find_hotspots(made)
    before = list(made.stacks)
    assert len(made.hotspots) >= 2
    filtered = filter_profile(made, states=(State.WAITING,), match="DB", ignore="netFD")
    assert made.stacks == before
    assert 0 < len(filtered.stacks) < len(before) and filtered.filters == [
        "state waiting", "stacks matching DB", "stacks not matching netFD",
    ]
    wanted = {(made.stacks[spot.stack].key, spot.why) for spot in made.hotspots} & {
        (stack.key, spot.why) for stack in filtered.stacks for spot in made.hotspots
    }
    assert {(filtered.stacks[spot.stack].key, spot.why) for spot in filtered.hotspots} == wanted != set()
    assert filtered.goroutines == sum(stack.goroutines for stack in filtered.stacks)
    assert filter_profile(filtered, match="DB").filters == filtered.filters


# ---- loops that read, and requests

READER = [
    GOPARK, go("internal/poll.(*FD).Read"), go("net.(*conn).Read"), go("io.ReadFull"),
    go("go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp.(*messageDecoder).decode"),
    go("go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp.(*streamReader).decodeLoop"),
    go("go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp.(*streamReader).run"), GOEXIT,
]
WRITER = [
    GOPARK, go("google.golang.org/grpc/internal/transport.(*controlBuffer).get"),
    go("google.golang.org/grpc/internal/transport.(*loopyWriter).run"),
    go("google.golang.org/grpc/internal/transport.newHTTP2Server.func2"), GOEXIT,
]
TAILED = [MS] * 95 + [800 * MS] * 5


def test_a_loop_that_reads_is_idle_however_deep_its_read_function_lies() -> None:
    assert whys(stat(READER, TAILED, reason="IO wait"), stat(WRITER, TAILED, reason="select")) == []


def test_what_a_worker_reads_inside_its_loop_is_none_of_the_loops_waits() -> None:
    reply = [GOPARK, go("net.(*conn).Read"), go("example.com/redis.(*Client).Get"), go("main.worker"), GOEXIT]
    waits = stat([GOPARK, go("main.(*queue).next"), go("main.worker"), GOEXIT], [100 * MS] * 300, reason="chan receive")
    assert whys(stat(reply, TAILED, reason="IO wait"), waits) == ["p99 772 ms is 759 times its p50"]


def in_requests(total_ns: int, *stacks: StackStat) -> Profile:
    """A profile of those stacks and ten requests that take so long in all, of which the first stack has half."""
    found = profile([FILLER, *stacks])
    waits = {stacks[0].key: WaitSum(10, total_ns // 2)}
    found.requests = [Span("main.serve", latency=durations([total_ns // 10] * 10), buckets={
        bucket_of(total_ns // 10): SpanBucket(10, total_ns, total_ns // 2, waits)})]
    return found


def test_where_requests_are_known_their_time_is_what_counts() -> None:
    handler = stat([GOPARK, *HANDLER], TAILED, reason="chan receive")
    consumer = stat([GOPARK, go("main.process"), go("main.consume"), GOEXIT], TAILED, reason="chan receive")
    assert len(find_hotspots(profile([FILLER, handler, consumer]), Thresholds(share=0))) == 2
    found = in_requests(4 * S, handler, consumer)
    assert [found.stacks[spot.stack].key for spot in find_hotspots(found, Thresholds(share=0))] == [handler.key]
    spots = find_hotspots(found, Thresholds(p99_ns=0, jitter_ns=0))
    assert [(found.stacks[spot.stack].key, spot.why) for spot in spots] == [(handler.key, "50 % of the requests' time")]
