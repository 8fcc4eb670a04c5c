"""The Perfetto trace as the protocol buffers of PyPI's package ``perfetto`` decode it; test_perfetto_queries.py asks in SQL."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb
from perfettotracks import read
from profiles import GOEXIT, HOSTILE, MS, S, go, profile, shop_profile, stat, target
from timelines import pipeline, stack_of

from gotrace.common.errors import GotraceError
from gotrace.common.vocabulary import READY, FrameKind, Loss, State
from gotrace.export.perfetto import render_perfetto, require_timeline
from gotrace.profile.filters import filter_profile
from gotrace.profile.types import Frame, GovernorReport, GovernorStep, TimelineInterval


def test_golden(golden: Callable[[str, str], None]) -> None:
    trace = pb.Trace.FromString(render_perfetto(pipeline()))
    golden("pipeline.pftrace.txt", text_format.MessageToString(trace))


def test_states_are_slices_of_the_goroutines_track() -> None:
    tracks = read(pipeline())
    track = tracks["goroutine 5 main.consume"]
    assert track.parent == "goroutines" and tracks["goroutines"].parent == "shop"
    assert [(part.name, part.begin, part.end) for part in track.slices] == [
        ("waiting: chan receive", 0, 3 * MS),
        ("runnable: ready", 3 * MS, 4 * MS),
        ("waiting: chan receive", 10 * S - 4 * MS, 10 * S),
    ]
    assert [part.notes.get("in_progress") for part in track.slices] == [None, None, 1]
    assert track.slices[0].notes["function"] == "main.consume" and track.slices[0].notes["woken_by"] == 9
    assert track.slices[0].callstack == ["runtime.goexit", "main.consume", "runtime.chanrecv", "runtime.gopark"]


def test_wakeups_are_arrows_from_the_waker() -> None:
    tracks = read(pipeline())
    (flow, at), = tracks["goroutine 9 main.produce"].arrows_out.items()
    assert at == 3 * MS
    assert [instant.name for instant in tracks["goroutine 9 main.produce"].instants] == ["wakes goroutine 5"]
    assert [part.arrows_in for part in tracks["goroutine 5 main.consume"].slices] == [[], [flow], []]


def test_threads_show_whom_they_run() -> None:
    made = pipeline()
    waits, ready, sleeps = (part.stack for part in made.timeline)
    made.timeline = [
        TimelineInterval(5, 0, 3 * MS, waits, 9, 71),
        TimelineInterval(5, 3 * MS, MS, ready, 9, 71),  # it runs from 4 to 6 ms, on thread 71
        TimelineInterval(5, 6 * MS, MS, waits, 9, 72),  # and from 7 ms on thread 72, until that is seen with another
        TimelineInterval(9, MS, 7 * MS, sleeps, 0, 72),
    ]
    tracks = read(made)
    assert tracks["thread 71"].parent == "threads"
    assert [(run.name, run.begin, run.end) for run in tracks["thread 71"].slices] == [("goroutine 5", 4 * MS, 6 * MS)]
    assert [(run.name, run.begin, run.end) for run in tracks["thread 72"].slices] == [
        ("goroutine 5", 7 * MS, 8 * MS), ("goroutine 9", 8 * MS, 10 * S),
    ]


def test_a_goroutine_that_ran_at_once_has_an_instant_where_it_was_woken() -> None:
    waits = stack_of(5, "consume", [3 * MS])
    made = profile([waits])
    made.timeline = [TimelineInterval(5, 0, 3 * MS, waits, 9)]
    tracks = read(made)
    # The waker was never off the CPU: it has a track all the same.
    (flow, at), = tracks["goroutine 9"].arrows_out.items()
    woken, = tracks["goroutine 5 main.consume"].instants
    assert (woken.name, woken.begin, woken.arrows_in, at) == ("woken by goroutine 9", 3 * MS, [flow], 3 * MS)


def test_an_arrow_for_each_interval_through_the_netpoller() -> None:
    parts = [(State.WAITING, "IO wait"), (State.NETPOLL, "netpoll"), (State.RUNNABLE, READY)]
    stacks = [stack_of(5, "serve", [MS, MS], state, reason) for state, reason in parts]
    made = profile(stacks)
    made.timeline = [
        TimelineInterval(5, (10 * round_ + index) * MS, MS, stack, 9)
        for round_ in range(2) for index, stack in enumerate(stacks)
    ]  # fmt: skip
    tracks = read(made)
    assert list(tracks["goroutine 9"].arrows_out.values()) == [2 * MS, 12 * MS]
    assert [len(part.arrows_in) for part in tracks["goroutine 5 main.serve"].slices] == [0, 0, 1, 0, 0, 1]


def test_pauses_and_losses_have_tracks() -> None:
    made = pipeline()
    made.losses = {Loss.RING_FULL: 1234}
    tracks = read(made)
    pause, = tracks["stop the world"].slices
    assert (pause.name, pause.begin, pause.end) == ("GC mark", 6 * MS, 7 * MS)
    about, = tracks["gotrace: window and losses"].slices
    assert "LOSS ring_full: 1,234 single events" in about.name and (about.begin, about.end) == (0, 10 * S)
    assert "no losses" in read(pipeline())["gotrace: window and losses"].slices[0].name


def test_what_is_open_at_the_end_is_not_made_up_from_losses() -> None:
    """Two intervals of a stack are missing from the timeline: which was the last is not known."""
    waits = stack_of(5, "consume", [3 * MS, 4 * MS, 5 * MS], in_progress=1)
    made = profile([waits])
    made.timeline = [TimelineInterval(5, 0, 3 * MS, waits)]
    assert len(read(made)["goroutine 5 main.consume"].slices) == 1


GIVEN_UP = {"wakers_off_ns", "kernel_off_ns"}
"""What the governor can give up without any interval being left out."""


@pytest.mark.parametrize("stage", ["wakers_off_ns", "kernel_off_ns", "sampled_ns", "lean_ns", "looked_ns", "paused_ns"])
def test_goroutines_that_waited_throughout_when_the_governor_has_acted(stage: str) -> None:
    made = pipeline()
    parked = stack_of(1, "accept", [10 * S], reason="IO wait", in_progress=1)
    made.stacks.append(parked)
    made.governor = GovernorReport(0.01, steps=(GovernorStep(S, 4242, "x", 0.1),), **{stage: 5 * S})
    tracks = read(made)
    about, = tracks["gotrace: window and losses"].slices
    if stage in GIVEN_UP:
        whole, = tracks["goroutine 1 main.accept"].slices
        assert (whole.begin, whole.end, whole.notes["in_progress"]) == (0, 10 * S, 1)
        assert len(tracks["goroutine 5 main.consume"].slices) == 3 and "NOT DRAWN" not in about.name
    else:
        assert "goroutine 1 main.accept" not in tracks and "NOT DRAWN: 2 waits that still went on" in about.name
        assert any("the governor gave up" in str(note) for note in about.notes.values())


def test_waits_of_threads_are_not_put_at_the_end_where_the_governor_cut_them_before() -> None:
    made = pipeline()
    made.stacks.append(stack_of(1, "read", [4 * S], State.SYSCALL, "read", in_progress=1))
    tracks = read(made)
    assert [part.begin for part in tracks["goroutine 1 main.read"].slices] == [6 * S]
    made.governor = GovernorReport(0.01, steps=(GovernorStep(S, 4242, "x", 0.1),), kernel_off_ns=6 * S)
    tracks = read(made)
    assert "goroutine 1 main.read" not in tracks
    about, = tracks["gotrace: window and losses"].slices
    assert "NOT DRAWN: 1 wait that" in about.name and "system calls and waits for a CPU" in about.name


def test_what_went_on_is_told_where_goroutines_were_not_kept_apart() -> None:
    made = pipeline()
    for stack in made.stacks:
        stack.goid = None
    about, = read(made)["gotrace: window and losses"].slices
    assert "NOT DRAWN: 1 wait that" in about.name and "--per-goroutine" in about.name
    assert "NOT DRAWN" not in read(pipeline())["gotrace: window and losses"].slices[0].name


def test_each_process_has_a_mapping_and_the_kernel_another() -> None:
    shared = go("main.consume", "/m.go", 7)  # as captures share frames
    stacks = []
    for pid in (4242, 4300):
        asleep = [Frame("pipe_read", kind=FrameKind.KERNEL), Frame("read(fd 3 → pipe)", kind=FrameKind.SYSCALL), shared, GOEXIT]
        stacks.append(stat(asleep, [MS], State.SYSCALL, "read", pid=pid))
    made = profile(stacks, [target(), target(4300, "cart")])
    made.timeline = [TimelineInterval(5, 0, MS, stack) for stack in stacks]
    trace = pb.Trace.FromString(render_perfetto(made))
    data = next(packet.interned_data for packet in trace.packet if packet.HasField("interned_data"))
    paths = {entry.iid: entry.str.decode() for entry in data.mapping_paths}
    mappings = {entry.iid: [paths[iid] for iid in entry.path_string_ids] for entry in data.mappings}
    functions = {entry.iid: entry.str.decode() for entry in data.function_names}
    where: dict[str, list[str]] = {}
    for frame in data.frames:
        where.setdefault(functions[frame.function_name_id], []).extend(mappings[frame.mapping_id])
    assert where["main.consume"] == ["/srv/shop/bin/shop", "/srv/cart/bin/cart"]
    assert where["pipe_read"] == ["[kernel]"] and len(mappings) == 3


def test_processes_have_their_own_goroutines() -> None:
    stacks = [stack_of(5, "consume", [3 * MS]), stack_of(5, "consume", [3 * MS])]
    stacks[1].pid = 4300
    made = profile(stacks)
    made.timeline = [TimelineInterval(5, 0, 3 * MS, stack) for stack in stacks]
    trace = pb.Trace.FromString(render_perfetto(made))
    names = [packet.track_descriptor.name for packet in trace.packet if packet.HasField("track_descriptor")]
    assert names.count("goroutine 5 main.consume") == 2


def test_filters_apply_to_the_timeline() -> None:
    made = filter_profile(pipeline(), (State.RUNNABLE,), (), "")
    assert [part.name for part in read(made)["goroutine 5 main.consume"].slices] == ["runnable: ready"]


def test_without_single_intervals_the_user_is_told_how_to_record_them() -> None:
    with pytest.raises(GotraceError) as caught:
        require_timeline(shop_profile())
    assert "--per-goroutine" in str(caught.value.hint)
    require_timeline(pipeline())


def test_hostile_names() -> None:
    made = profile([])
    for goid, name in enumerate(HOSTILE.values(), 1):
        stack = stat([Frame(f"read(fd 3 → {name})", kind=FrameKind.SYSCALL), go(name, name), GOEXIT], [MS], reason=name)
        stack.goid = goid
        made.stacks.append(stack)
        made.timeline.append(TimelineInterval(goid, 0, MS, stack, 77))
    for track in read(made).values():
        assert track.name.isprintable()
        for part in (*track.slices, *track.instants):
            assert part.name.isprintable() and len(part.name) <= 600
            assert all(str(value).isprintable() for value in part.notes.values())


spans = st.lists(st.tuples(st.integers(-(2**40), 2**40), st.integers(-5, 2**40), st.integers(0, 3)), max_size=12)


@given(spans)
def test_a_capture_that_contradicts_itself_still_makes_slices_that_nest(found: list[tuple[int, int, int]]) -> None:
    stack = stack_of(2, "f", [MS])
    made = profile([stack])
    made.timeline = [TimelineInterval(2, start, length, stack, waker) for start, length, waker in found]
    read(made)


@given(st.lists(st.tuples(st.integers(0, MS), st.integers(1, MS), st.booleans()), min_size=1, max_size=12))
def test_slices_add_up_to_the_off_cpu_time(rounds: list[tuple[int, int, bool]]) -> None:
    """Gap, wait, and whether a runnable part of the same length follows; the last wait goes on beyond the window."""
    waits, ready = stack_of(2, "f", []), stack_of(2, "f", [], State.RUNNABLE, READY)
    made = profile([waits, ready])
    at = 0
    for gap, wait, then_ready in rounds:
        at += gap
        for stack in (waits, ready) if then_ready else (waits,):
            made.timeline.append(TimelineInterval(2, at, wait, stack, 3))
            stack.distribution.count += 1
            stack.distribution.total_ns += wait
            at += wait
    waits.distribution.count += 1
    waits.distribution.total_ns += made.window.duration_ns - at
    waits.in_progress = 1
    parts = read(made)["goroutine 2 main.f"].slices
    assert sum(part.end - part.begin for part in parts) == made.total().total_ns
