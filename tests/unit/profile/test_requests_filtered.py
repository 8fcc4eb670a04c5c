"""Profiles narrowed down to what happened inside some requests, and requests of profiles that were narrowed down otherwise."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
from profiles import MS, S, durations, shop_profile, stat
from requestprofiles import HTTP, QUERY, One, hostile_requests, requests_made, requests_profile, span

from gotrace.common.errors import UsageError
from gotrace.common.vocabulary import State
from gotrace.export import RENDERERS, render
from gotrace.export.folded import render_folded
from gotrace.export.summary_json import summary_dict
from gotrace.profile.filters import filter_profile, filter_requests, parse_band
from gotrace.profile.inrequests import outermost
from gotrace.profile.hotspots import Thresholds, find_hotspots
from gotrace.profile.requests import bands
from gotrace.profile.types import Frame, Hotspot, TimelineInterval


@pytest.mark.parametrize(("text", "band"), [
    ("p99", (0.99, 1.0)), ("p50..p90", (0.5, 0.9)), ("p99.9", (0.999, 1.0)), ("p0..p50", (0.0, 0.5)), ("p99..p100", (0.99, 1.0)),
    ("p99.9..p99.99", (0.999, 0.9999)), (" p50..90 ", (0.5, 0.9)),
])  # fmt: skip
def test_bands_are_parsed(text: str, band: tuple[float, float]) -> None:
    assert parse_band(text) == band


@pytest.mark.parametrize("text", [
    "", "99", "p", "p100", "p101", "p90..p50", "p50..p50", "p50-p90", "p-1", "p50..", "p1e1", "p50..p90..p99", "pNaN",
])  # fmt: skip
def test_what_is_no_band_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no band of percentiles") as caught:
        parse_band(text)
    assert "p50..p90" in str(caught.value.hint)


def slowest(made: list[One], low: float, high: float) -> list[One]:
    return sorted(made, key=lambda one: one.duration_ns)[round(low * len(made)) : round(high * len(made))]


def test_a_band_has_the_time_inside_its_requests() -> None:
    made = requests_made()
    before = deepcopy(made.profile)
    narrowed = filter_requests(made.profile, (0.9, 1.0))
    assert made.profile == before
    chosen = slowest(made.requests, 0.9, 1.0)
    for reason, state in (("chan receive", State.WAITING), ("sync.Mutex.Lock", State.WAITING), ("ready", State.RUNNABLE)):
        stack, = (each for each in narrowed.stacks if (each.reason, each.state) == (reason, state))
        inside = [ns for one in chosen for of, ns in one.waits if of.key == stack.key]
        # The query within, whose slowest tenth it is as well, is the same time.
        assert stack.distribution.count == len(inside) and stack.distribution.total_ns == sum(inside)
        assert stack.distribution.percentile_ns(0.5) == pytest.approx(sum(inside) / len(inside), rel=0.5)
        assert (stack.in_progress, stack.subwindows) == (0, [])
    assert len(narrowed.stacks) == 3 and [s.distribution.total_ns for s in narrowed.stacks] == sorted(
        (s.distribution.total_ns for s in narrowed.stacks), reverse=True
    )
    assert narrowed.filters == ["inside requests between p90 and p100 (percentiles are from means)"]
    assert narrowed.selected == ("--band p90..p100", len(made.profile.stacks))


def test_all_bands_together_are_all_requests() -> None:
    made = requests_profile()
    whole = filter_requests(made, (0.0, 1.0))
    pieces = [filter_requests(made, band) for band in ((0.0, 0.5), (0.5, 0.9), (0.9, 0.99), (0.99, 1.0))]
    for stack in whole.stacks:
        parts = [each.distribution for piece in pieces for each in piece.stacks if each.key == stack.key]
        assert sum(d.total_ns for d in parts) == stack.distribution.total_ns and sum(d.count for d in parts) == stack.distribution.count


def test_slower_than_is_by_duration() -> None:
    made = requests_made()
    narrowed = filter_requests(made.profile, slower_than_ns=15 * MS)
    chosen = [one for one in made.requests if one.duration_ns >= 15 * MS]
    assert len(chosen) == 100
    receive, = (stack for stack in narrowed.stacks if stack.reason == "chan receive")
    assert receive.distribution.total_ns == sum(ns for one in chosen for of, ns in one.waits if of.key == receive.key)
    assert narrowed.requests[0].shown == (0.9, 1.0)
    assert narrowed.filters == ["inside requests of at least 15.0 ms (percentiles are from means)"]


def test_slower_than_divides_the_bucket_that_it_lies_in() -> None:
    for limit_ns in range(21 * MS, 58 * MS, 4 * MS):
        made = requests_made(4000)
        narrowed = filter_requests(made.profile, slower_than_ns=limit_ns)
        low, high = narrowed.requests[0].shown
        expected = sum(one.duration_ns >= limit_ns for one in made.requests) / 4000
        assert high - low == pytest.approx(expected, abs=0.004)


def test_both_take_what_both_have() -> None:
    made = requests_profile()
    narrowed = filter_requests(made, (0.5, 0.95), 15 * MS)
    assert narrowed.requests[0].shown == (0.9, 0.95)
    assert narrowed.requests[0].exemplars == [] == narrowed.requests[1].exemplars


def test_requests_keep_their_figures_and_show_the_band() -> None:
    made = requests_profile()
    narrowed = filter_requests(made, (0.99, 1.0))
    full, found = summary_dict(made)["requests"][0], summary_dict(narrowed)["requests"][0]
    for key in ("count", "p50_ns", "p99_ns", "max_ns", "in_progress"):
        assert found[key] == full[key]
    assert [(band["from"], band["to"]) for band in found["bands"]] == [(0.99, 1.0)]
    for key in ("count", "total_ns", "cpu_ns", "by_state", "causes"):
        assert found["bands"][0][key] == full["bands"][3][key]
    assert found["exemplars"] == full["exemplars"]


def test_exemplars_are_of_the_band() -> None:
    made = requests_profile()
    slow = made.requests[0].exemplars
    limit_ns = slow[4].duration_ns
    assert filter_requests(made, slower_than_ns=limit_ns).requests[0].exemplars == slow[:5]
    assert filter_requests(made, (0.0, 0.5)).requests[0].exemplars == []


def test_hot_spots_and_single_intervals_follow() -> None:
    made = requests_profile()
    receive = next(number for number, stack in enumerate(made.stacks) if stack.reason == "chan receive" and stack.in_progress == 2)
    accept = next(number for number, stack in enumerate(made.stacks) if stack.reason == "IO wait")
    made.hotspots = [Hotspot(accept, "a", 1, 1, 0.1), Hotspot(receive, "b", 1, 1, 0.2)]
    slow = made.requests[0].exemplars[0]
    made.timeline = [
        TimelineInterval(slow.goid, slow.start_ns + 1000, 5, made.stacks[receive]),
        TimelineInterval(slow.goid, slow.start_ns + slow.duration_ns + S, 5, made.stacks[receive]),
        TimelineInterval(17, slow.start_ns + 30 * MS, MS, made.stacks[accept]),
        TimelineInterval(18, slow.start_ns + 30 * MS, MS, made.stacks[accept]),
    ]
    narrowed = filter_requests(made, (0.99, 1.0))
    assert [(narrowed.stacks[spot.stack].reason, spot.why) for spot in narrowed.hotspots] == [("chan receive", "b")]
    assert [(interval.goid, interval.start_ns - slow.start_ns) for interval in narrowed.timeline] == [(slow.goid, 1000), (17, 30 * MS)]


def test_nested_spans_count_their_time_once() -> None:
    made = requests_made()
    owner = outermost(made.profile)
    assert {made.profile.requests[number].function for number in owner.values()} == {HTTP}
    made.profile.requests.reverse()
    owner = outermost(made.profile)
    assert {made.profile.requests[number].function for number in owner.values()} == {HTTP}
    # Without the outer one it is the inner one's.
    made.profile.requests = [each for each in made.profile.requests if each.function == QUERY]
    assert set(outermost(made.profile).values()) == {0}


def test_a_stack_without_its_root_belongs_to_some_span() -> None:
    lost = stat([Frame("main.deep"), Frame("[rest of the stack unreadable]")], [5 * MS])
    made = shop_profile(requests=[span("main.a", [One(6 * MS, [(lost, 5 * MS)])])])
    made.stacks.append(lost)
    assert outermost(made) == {lost.key: 0}
    assert filter_requests(made, (0.0, 1.0)).total() == durations([5 * MS])


@pytest.mark.parametrize("suffix", sorted(set(RENDERERS) - {".pftrace"}))
def test_every_format_honours_it(suffix: str) -> None:
    made = requests_profile()
    narrowed = filter_requests(made, (0.99, 1.0))
    assert render(narrowed, suffix) != render(made, suffix)
    total = sum(int(line.rpartition(" ")[2]) for line in render_folded(narrowed).splitlines())
    stacks = {stack.key: stack for stack in made.stacks}
    assert total == sum(bands(made.requests[0], (0.99, 1.0))[0].by_state(stacks).values())


def test_without_requests_it_is_refused() -> None:
    for arguments, flag in (((None, 5), "--slower-than"), (((0.5, 1.0), 0), "--band")):
        with pytest.raises(UsageError, match=f"{flag}: there are no requests"):
            filter_requests(shop_profile(), *arguments)
    made = shop_profile()
    assert filter_requests(made) is made


def test_a_band_in_which_nothing_waited() -> None:
    made = shop_profile(requests=[span("main.a", [One(6 * MS, [])] * 10)])
    narrowed = filter_requests(made, (0.9, 1.0))
    assert narrowed.stacks == [] and narrowed.hotspots == [] and summary_dict(narrowed)["requests"][0]["bands"][0]["cpu_ns"] == 6 * MS
    for suffix in set(RENDERERS) - {".pftrace"}:
        assert bool(render(narrowed, suffix)) is (suffix != ".folded")


def test_other_filters_leave_the_sums_of_requests() -> None:
    made = requests_profile()
    for chosen in (filter_profile(made, match="sema"), filter_profile(made, (State.SYSCALL,)), filter_profile(made, ignore="main")):
        full, found = summary_dict(made)["requests"], summary_dict(chosen)["requests"]
        for one, other in zip(full, found, strict=True):
            for a, b in zip(one["bands"], other["bands"], strict=True):
                assert (a["total_ns"], a["cpu_ns"], a["causes"]) == (b["total_ns"], b["cpu_ns"], b["causes"])
                assert {k: pytest.approx(v, abs=9) for k, v in a["by_state"].items()} == b["by_state"]
                assert all(0 <= row["stack"] < len(chosen.stacks) for row in b["stacks"])
    assert made.requests == requests_profile().requests


def test_a_band_of_what_a_filter_left() -> None:
    made = filter_profile(requests_profile(), match="sema")
    narrowed = filter_requests(made, (0.5, 1.0))
    assert {stack.reason for stack in narrowed.stacks} == {"sync.Mutex.Lock"}
    assert narrowed.filters == ["stacks matching sema", "inside requests between p50 and p100 (percentiles are from means)"]
    json.dumps(summary_dict(narrowed))


def test_hostile_names_pass() -> None:
    narrowed = filter_requests(hostile_requests(), (0.5, 1.0), MS)
    assert len(narrowed.requests) == len(hostile_requests().requests)


def test_hot_spots_of_a_band_are_of_its_requests() -> None:
    """The lock takes a good part of the fast requests' time, and little of the others'."""
    made = requests_made()
    made.profile.requests = made.profile.requests[:1]

    def large(low: float, high: float) -> dict[str, str]:
        narrowed = filter_requests(made.profile, (low, high))
        return {narrowed.stacks[spot.stack].reason: spot.why for spot in find_hotspots(narrowed, Thresholds(p99_ns=0, jitter_ns=0, share=0.1))}

    def share(reason: str, low: float, high: float) -> float:
        chosen = slowest(made.requests, low, high)
        return sum(ns for one in chosen for of, ns in one.waits if of.reason == reason) / sum(one.duration_ns for one in chosen)

    fast, slow = (0.0, 0.5), (0.9, 1.0)
    assert share("sync.Mutex.Lock", *slow) < 0.05 and share("sync.Mutex.Lock", *fast) > 0.15
    assert large(*slow) == {"chan receive": f"{100 * share('chan receive', *slow):.0f} % of the requests' time"}
    assert large(*fast) == {
        reason: f"{100 * share(reason, *fast):.0f} % of the requests' time" for reason in ("chan receive", "sync.Mutex.Lock")
    }
