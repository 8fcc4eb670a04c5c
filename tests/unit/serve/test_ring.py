"""What is kept, and profiles of stretches of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import durations

from gotrace.capture.reader import read_capture
from gotrace.common.histogram import bucket_of
from gotrace.common.vocabulary import State
from gotrace.profile.gained import bucket_gained
from gotrace.profile.requests import SpanBucket, WaitSum
from gotrace.profile.types import Distribution, Frame, Pause, StackStat, Target
from gotrace.serve.clipping import clipped, sound
from gotrace.serve.ring import Ring
from gotrace.serve.slices import Known, slice_of
from gotrace.serve.steps import Calls, Step, Wait
from gotrace.serve.writing import write_capture

S = 1_000_000_000
TARGET = Target(7, "/bin/api", "api", "go1.27.3", "build info", "", True, False, False, "amd64")
STACK = StackStat((Frame("sync.(*Mutex).Lock"), Frame("main.take")), State.WAITING, "sync.Mutex.Lock", Distribution(), pid=7)


def step(number: int, *lengths: int, stack: StackStat = STACK, calls: list[Calls] | None = None) -> Step:
    """The second that begins at 100 s + `number`."""
    begin = (100 + number) * S
    waits = [Wait(stack, durations(lengths), (0, 0, 0, 0), 0, None)] if lengths else []
    return Step(begin, begin + S, 90 * S, waits, calls or [], attached_ns=S, cpu_ns=S // 10)


def ring_of(*steps: Step, keep_s: int = 60, keep_bytes: int = 1 << 20, ongoing: list[StackStat] = []) -> Ring:  # noqa: B006
    ring = Ring(keep_s * S, keep_bytes)
    for one in steps:
        ring.add(one, ongoing)
    return ring


def test_old_steps_go() -> None:
    ring = ring_of(*(step(number, 1000) for number in range(20)), keep_s=5)
    assert ring.span == (114 * S, 120 * S) and ring.dropped_ns == 0


def test_bytes_are_bounded_and_what_goes_is_counted() -> None:
    ring = ring_of(*(step(number, 1000) for number in range(20)), keep_bytes=10_000)
    begin, end = ring.span
    assert ring.size <= 10_000 and end == 120 * S and ring.dropped_ns == begin - 100 * S > 0
    ring.limit(1)
    assert ring.span == (119 * S, 120 * S)


def test_a_step_that_is_too_large_keeps_what_took_longest() -> None:
    stacks = [StackStat((Frame(f"main.f{n}"),), State.WAITING, "sleep", Distribution(), pid=7) for n in range(100)]
    large = step(0)
    large.waits = [Wait(stack, durations([1000 * (n + 1)]), (0, 0, 0, 0), 0, None) for n, stack in enumerate(stacks)]
    ring = ring_of(large, keep_bytes=20_000)
    latest = ring.latest()
    assert latest is not None and ring.size <= 20_000 and ring.dropped_waits == 100 - len(latest.waits) > 0
    assert latest.waits[0].stack is stacks[-1]


def test_a_slice_has_the_steps_inside() -> None:
    ring = ring_of(*(step(number, 1_000_000, 2_000_000) for number in range(10)))
    profile = slice_of(ring, Known(TARGET, "exact"), 103 * S, 106 * S)
    assert profile is not None and profile.window.duration_ns == 3 * S
    stack, = profile.stacks
    assert (stack.distribution.count, stack.distribution.total_ns, stack.distribution.max_ns) == (6, 9_000_000, 2_000_000)
    assert [row.start_ns for row in stack.subwindows] == [0, S, 2 * S] and profile.cpu_ns == 3 * S // 10
    assert slice_of(ring, Known(TARGET, "exact"), 200 * S, 210 * S) is None


@pytest.mark.parametrize("off_ns, whole", [(1, 3), (400_000, 3), (-400_000, 3), (S * 6 // 10, 3), (S * 14 // 10, 1), (-S // 10, 5)])
def test_edges_within_steps_take_all_of_them(off_ns: int, whole: int) -> None:
    """What is counted in a step can't be divided, at its end as little as at its beginning."""
    ring = ring_of(*(step(number, 1_000_000, 2_000_000) for number in range(10)))
    profile = slice_of(ring, Known(TARGET, "exact"), 103 * S + off_ns, 106 * S - off_ns)
    assert profile is not None and profile.window.duration_ns == whole * S and profile.stacks[0].distribution.count == 2 * whole


def test_waits_are_cut_at_the_window() -> None:
    """One of 5 s that ended in the window's last second, one that ends after it, one that still lasts."""
    ongoing = StackStat(STACK.frames, State.WAITING, "sleep", durations([20 * S]), in_progress=1, pid=7)
    ring = ring_of(*(step(number, *([5 * S] if number in (5, 8) else [])) for number in range(10)), ongoing=[ongoing])
    profile = slice_of(ring, Known(TARGET, "exact"), 103 * S, 106 * S)
    assert profile is not None
    by_reason = {stack.reason: stack for stack in profile.stacks}
    assert by_reason["sleep"].distribution.total_ns == 3 * S and by_reason["sleep"].in_progress == 1
    # The first began before the window and has 2.5 s in it (it ended in the middle of a second); the other one has 2 s.
    lock = by_reason["sync.Mutex.Lock"]
    assert lock.distribution.total_ns == 4_500_000_000 and lock.in_progress == 2
    assert all(stack.distribution.total_ns <= profile.window.duration_ns * stack.distribution.count for stack in profile.stacks)


@given(st.lists(st.integers(0, 100 * S), min_size=1, max_size=30), st.integers(1, 60 * S), st.integers(0, 60 * S), st.integers(0, 60 * S))
def test_what_is_cut_is_about_what_lies_inside(lengths: list[int], end: int, begin: int, length: int) -> None:
    until = begin + length + 1
    found, _ = clipped(durations(lengths), end, begin, until)
    true = sum(max(0, min(end, until) - max(begin, end - one)) for one in lengths)
    longest = max(1, min(end, until) - begin)
    if end <= begin:
        return
    assert abs(found.total_ns - true) <= sum(lengths) / 15 + len(lengths)
    assert found.max_ns <= max(lengths) and (found.max_ns <= longest or found.total_ns == sum(lengths))


def test_a_wait_that_went_on_is_counted_once() -> None:
    found = Distribution()
    found.add(durations([1000]))
    found.add(Distribution(0, 1000, 2000, 0, {bucket_of(1000): -1, bucket_of(2000): 1}))
    assert sound(found).count == 1 and sound(found).total_ns == 2000
    # Its beginning is not in the window.
    assert sound(Distribution(0, 1000, 2000, 0, {bucket_of(1000): -1, bucket_of(2000): 1})).count == 1


def calls(count: int, length: int, wait_ns: int) -> Calls:
    bucket = SpanBucket(count, count * length, count * (length - wait_ns), {STACK.key: WaitSum(count, count * wait_ns)})
    return Calls("main.serve", durations([length] * count), {bucket_of(length): bucket}, traced_ns=S)


def test_requests_of_a_slice() -> None:
    ring = ring_of(*(step(number, *[2_000_000] * 10, calls=[calls(10, 5_000_000, 2_000_000)]) for number in range(10)))
    profile = slice_of(ring, Known(TARGET, "exact"), 104 * S, 106 * S)
    assert profile is not None
    span, = profile.requests
    bucket, = span.buckets.values()
    assert span.latency.count == 20 and bucket.waits[STACK.key] == WaitSum(20, 40_000_000) and span.traced_ns == 2 * S
    assert bucket.cpu_ns + sum(wait.total_ns for wait in bucket.waits.values()) == bucket.total_ns


def test_requests_have_no_more_waits_than_the_window() -> None:
    """They began before it: the rest is told by state and reason alone, and requests that are longer than it are not in it."""
    ring = ring_of(step(0), step(1, *[2_000_000] * 4, calls=[calls(10, 5_000_000, 2_000_000), calls(1, 30 * S, S)]))
    profile = slice_of(ring, Known(TARGET, "exact"), 101 * S, 102 * S)
    assert profile is not None
    span, = profile.requests
    bucket, = span.buckets.values()
    assert bucket.waits[STACK.key] == WaitSum(4, 8_000_000)
    assert bucket.other[State.WAITING, "sync.Mutex.Lock"] == WaitSum(6, 12_000_000) and span.begun_before == 1
    assert span.latency.count == 10


def test_what_a_bucket_has_gained() -> None:
    old = SpanBucket(2, 20, 5, {STACK.key: WaitSum(2, 15)}, followed=1, followed_ns=10)
    new = SpanBucket(5, 50, 11, {STACK.key: WaitSum(5, 39)}, followed=2, followed_ns=20)
    assert bucket_gained(new, old) == SpanBucket(3, 30, 6, {STACK.key: WaitSum(3, 24)}, followed=1, followed_ns=10)
    assert bucket_gained(new, new) is None and bucket_gained(new, None) is new


def test_pauses_are_moved_to_the_window() -> None:
    with_pause = step(3)
    with_pause.pauses = [Pause("GC mark termination", 13 * S + 5, 1000, 7)]
    profile = slice_of(ring_of(step(2), with_pause), Known(TARGET, "exact"), 102 * S, 104 * S)
    assert profile is not None and profile.pauses == [Pause("GC mark termination", S + 5, 1000, 7)]


def test_the_window_s_start_by_the_wall_clock() -> None:
    now = time.monotonic_ns()
    ring = Ring(60 * S, 1 << 20)
    ring.add(Step(now - 2 * S, now - S, now - 2 * S))
    profile = slice_of(ring, Known(TARGET, "exact"), now - 2 * S, now)
    assert profile is not None and profile.window.start[:4] == time.strftime("%Y", time.gmtime(time.time() - 2))
    assert profile.window.duration_ns == pytest.approx(S)


def test_requests_that_were_followed_later(tmp_path: Path) -> None:
    """After they had ended, and after the window's start: such a slice can be written and read."""
    late = Calls("main.serve", Distribution(), {bucket_of(5_000_000): SpanBucket(followed=3, followed_ns=15_000_000)})
    ring = ring_of(step(0), step(1, 2_000_000, calls=[calls(1, 10_000_000, 2_000_000), late]))
    profile = slice_of(ring, Known(TARGET, "exact"), 101 * S, 102 * S)
    assert profile is not None and list(profile.requests[0].buckets) == [bucket_of(10_000_000)]
    write_capture(tmp_path / "x.gotrace", profile)
    assert read_capture(tmp_path / "x.gotrace").requests[0].latency.count == 1
