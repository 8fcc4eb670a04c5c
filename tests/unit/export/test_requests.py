"""Requests in pprof files and Perfetto traces."""

from __future__ import annotations

import gzip
from dataclasses import replace

import pytest
from perfettotracks import read
from profiles import MS, S, shop_profile
from requestprofiles import HTTP, QUERY, One, hostile_requests, requests_profile, span
from wire import each, packed

from gotrace.common.errors import GotraceError
from gotrace.export.about import comments
from gotrace.export.perfetto import render_perfetto, require_timeline
from gotrace.export.pprof import render_pprof
from gotrace.export.speedscope import render_speedscope
from gotrace.profile.filters import filter_requests
from gotrace.profile.inrequests import by_band
from gotrace.profile.requests import bands
from gotrace.profile.types import Profile, TimelineInterval


def samples(made: Profile) -> list[tuple[dict[str, str], int, int]]:
    """Labels, count and ns of each sample."""
    data = gzip.decompress(render_pprof(made))
    strings = [bytes(string).decode() for string in each(data, 6)]
    found = []
    for sample in each(data, 2):
        count, ns = packed(each(sample, 2)[0])
        labels = {}
        for label in each(sample, 3):
            key, value = each(label, 1), each(label, 2)
            labels[strings[key[0]]] = strings[value[0]] if value else ""
        found.append((labels, count, ns))
    return found


def test_time_in_requests_has_span_and_band() -> None:
    made = requests_profile()
    found = samples(made)
    by_label: dict[tuple[str, str], int] = {}
    for labels, _, ns in found:
        if "span" in labels:
            by_label[labels["span"], labels["band"]] = by_label.get((labels["span"], labels["band"]), 0) + ns
    stacks = {stack.key: stack for stack in made.stacks}
    expected = {
        (HTTP, band.name): sum(wait.total_ns for wait in band.waits.values()) for band in bands(made.requests[0]) if band.by_state(stacks)
    }
    # The queries lie in the requests: their time is not counted again.
    assert by_label == expected and set(name for _, name in expected) == {"p0-50", "p50-90", "p90-99", "p99-100"}


def test_the_totals_are_not_doubled() -> None:
    for made in (requests_profile(), filter_requests(requests_profile(), (0.99, 1.0)), filter_requests(requests_profile(), None, 15 * MS)):
        found = samples(made)
        assert sum(ns for _, _, ns in found) == made.total().total_ns
        assert sum(count for _, count, _ in found) == made.intervals
        assert all(ns >= 0 and count >= 0 for _, count, ns in found)
    assert {labels["band"] for labels, *_ in samples(filter_requests(requests_profile(), (0.99, 1.0)))} == {"p99-100"}


def test_never_more_than_the_stack_has() -> None:
    made = requests_profile()
    receive = next(stack for stack in made.stacks if stack.reason == "chan receive" and stack.in_progress == 2)
    receive.distribution.total_ns, receive.distribution.count = 3 * S, 700
    parts = by_band(made)[receive.key]
    assert sum(part.total_ns for *_, part in parts) == 3 * S and sum(part.count for *_, part in parts) == 700
    assert sum(ns for _, _, ns in samples(made)) == made.total().total_ns


def test_without_requests_there_are_no_such_labels() -> None:
    assert not any("span" in labels or "band" in labels for labels, *_ in samples(shop_profile()))
    assert not any("requests" in line for line in comments(shop_profile()))


def test_comments_tell_of_them() -> None:
    assert f"requests: 1,000 of {HTTP}, 2 in progress, p50 950 \u00b5s, p99 56.6 ms, max 59.8 ms" in comments(requests_profile())


def test_stacks_of_sibling_spans_have_their_own() -> None:
    made = requests_profile()
    made.requests = [each for each in made.requests if each.function == QUERY]
    assert {labels["span"] for labels, *_ in samples(made) if "span" in labels} == {QUERY}


# ---- Perfetto


def test_each_exemplar_has_a_track_with_its_path_below() -> None:
    made = requests_profile()
    require_timeline(made)
    slow = made.requests[0].exemplars[1]
    tracks = read(made, by_parent=True)
    parent = tracks["slowest requests / 2. 59.7 ms PUT /kv/1"]
    request, = parent.slices
    assert parent.parent == "slowest requests"
    assert (request.name, request.begin, request.end - request.begin) == ("PUT /kv/1", slow.start_ns, slow.duration_ns)
    assert request.notes == {"span": HTTP, "goroutine": 101, "label trace_id": "4bf92f1"}
    assert f"slowest requests / 1. 59.8 ms {HTTP}" in tracks


def test_the_steps_are_slices_and_arrows_lead_between_goroutines() -> None:
    made = requests_profile()
    made.requests = [replace(made.requests[0], exemplars=made.requests[0].exemplars[1:2])]
    slow, = made.requests[0].exemplars
    tracks = read(made)
    own, other = tracks["goroutine 101 (the request)"], tracks["goroutine 17"]
    assert own.parent == other.parent == "1. 59.7 ms PUT /kv/1"
    steps = [(each.begin, each.end) for track in (own, other) for each in track.slices]
    assert sorted(steps) == sorted((step.start_ns, step.start_ns + step.duration_ns) for step in slow.path)
    sync, = other.slices
    assert sync.name == "syscall: fdatasync" and sync.notes["object"] == "fd 8 \u2192 /var/kv/0.wal"
    assert sync.notes["function"] == "main.(*wal).sync"
    assert sync.callstack[-2:] == ["main.(*wal).sync", "fdatasync(fd 8 \u2192 /var/kv/0.wal)"]
    assert [each.name for each in own.slices] == [
        "running: main.(*Server).put", "waiting: sync.Mutex.Lock", "runnable: ready", "running: main.(*Server).put"
    ]
    assert sync.arrows_in == list(own.arrows_out) and own.slices[2].arrows_in == list(other.arrows_out)
    assert len(own.arrows_out) == len(other.arrows_out) == 1


def test_beside_single_intervals() -> None:
    made = requests_profile()
    made.timeline = [TimelineInterval(17, 5 * MS, MS, made.stacks[0])]
    tracks = read(made, by_parent=True)
    assert tracks[f"goroutines / goroutine 17 {made.stacks[0].frames[-2].name}"].slices
    assert tracks["2. 59.7 ms PUT /kv/1 / goroutine 17"].slices


def test_steps_that_overlap_are_cut() -> None:
    made = requests_profile()
    slow = made.requests[0].exemplars[0]
    broken = replace(slow, path=tuple(replace(step, duration_ns=3 * slow.duration_ns) for step in slow.path))
    made.requests = [replace(made.requests[0], exemplars=[broken, replace(slow, start_ns=-5, path=())])]
    read(made, by_parent=True)


def test_without_paths_there_is_nothing_to_show() -> None:
    made = shop_profile(requests=[span("main.a", [One(5, [])])])
    with pytest.raises(GotraceError, match="no single intervals"):
        require_timeline(made)
    assert "slowest requests" not in read(made)


def test_only_exemplars_of_the_band_are_drawn() -> None:
    made = requests_profile()
    limit_ns = made.requests[0].exemplars[3].duration_ns
    tracks = read(filter_requests(made, slower_than_ns=limit_ns), by_parent=True)
    assert len([name for name, track in tracks.items() if track.parent == "slowest requests"]) == 4


def test_hostile_names_are_only_text() -> None:
    made = hostile_requests()
    assert read(made, by_parent=True) and render_pprof(made) and render_speedscope(made) and render_perfetto(made)
