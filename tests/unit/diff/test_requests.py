"""Requests of two captures compared: p50 and p99 before and after, and which cause grew."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from profiles import MS, S, durations, shop_profile, target
from requestprofiles import CPU_CAUSE, FSYNC_CAUSE, HTTP, QUERY, hostile_requests, requests_made, requests_profile, span, strict, with_in_progress
from rich.console import Console

from gotrace.diff.compare import Diff, compare
from gotrace.export.diff import diff_dict, diff_page_data, render_diff
from gotrace.profile.types import Frame, GovernorReport, GovernorStep, Profile
from gotrace.render.diff import print_diff

SCHEMA = json.loads((Path(__file__).parents[3] / "docs/schema/diff.json").read_text())


def printed(diff: Diff, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_diff(diff, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def slower() -> Profile:
    """As `requests_profile`, but the file takes twice as long to sync."""
    made = requests_made()
    for one in made.requests:
        stack, ns = one.waits[0]
        if ns > 10 * MS:
            one.waits[0] = stack, 2 * ns
            one.duration_ns += ns
            one.causes = {cause: 2 * took if cause == FSYNC_CAUSE else took for cause, took in one.causes.items()}
    made.profile.requests[0] = span(HTTP, made.requests)
    return made.profile


def test_percentiles_before_and_after() -> None:
    change, query = compare(requests_profile(), slower()).requests
    assert (change.function, query.function) == (HTTP, QUERY)
    p50, p99 = change.percentiles["p50"], change.percentiles["p99"]
    assert p50.before == p50.after and not p50.exceeds
    assert p99.after / p99.before == pytest.approx(2, rel=0.07) and p99.exceeds and change.exceeds
    assert change.rate.before == change.rate.after == 100 and not change.rate.exceeds
    assert not query.changed


def test_the_rate_is_of_the_time_in_which_requests_were_traced() -> None:
    half = requests_made()
    window = half.profile.window.duration_ns
    for each in half.profile.requests:
        each.traced_ns = window // 4
    report = GovernorReport(0.05, 0.05, steps=(GovernorStep(window // 4, 4242, "kernel", 0.2),), wakers_off_ns=window - window // 8)
    diff = compare(requests_profile(), replace(half.profile, governor=report))
    assert diff.requests[0].rate.after == 4 * diff.requests[0].rate.before
    text = " ".join(printed(diff, 200).split())
    assert "! after: requests were traced for only" in text and "--max-overhead 25 gives up less" in text and "! before: requests" not in text


def test_the_cause_that_grew_comes_first() -> None:
    change = compare(requests_profile(), slower()).requests[0]
    for band in change.bands:
        grew = band.causes[0]
        assert (grew.text, grew.state, grew.reason) == (FSYNC_CAUSE.text, "syscall", "fdatasync")
        assert grew.after_ns > 1.8 * grew.before_ns
        cpu = next(cause for cause in band.causes if cause.text == CPU_CAUSE.text)
        assert cpu.change_ns == pytest.approx(0, abs=0.1 * cpu.before_ns)
        assert band.times[0].reason == "chan receive" and band.times[0].change_ns > 0
    whole = change.bands[0]
    for side in (0, 1):
        mean = whole.mean_ns[side]
        assert mean == pytest.approx(sum((part.before_ns, part.after_ns)[side] for part in whole.times), rel=1e-6)


def test_causes_match_without_descriptors() -> None:
    after = requests_profile()
    moved = replace(
        FSYNC_CAUSE, text=FSYNC_CAUSE.text.replace("fd 8", "fd 19"), object="fd 19",
        frames=(Frame("fdatasync(fd 19 → /var/kv/0.wal)", kind=FSYNC_CAUSE.frames[0].kind), *FSYNC_CAUSE.frames[1:]),
    )
    for bucket in after.requests[0].buckets.values():
        bucket.causes = {moved if cause == FSYNC_CAUSE else cause: ns for cause, ns in bucket.causes.items()}
    whole = compare(requests_profile(), after).requests[0].bands[0]
    assert len(whole.causes) == 4
    cause = next(cause for cause in whole.causes if cause.reason == "fdatasync")
    assert cause.before_ns == cause.after_ns > 0 and "fd 19" in cause.text


def test_closures_match_across_builds() -> None:
    after = requests_profile()
    after.targets = [replace(item, build_id="another") for item in after.targets]
    renamed = replace(FSYNC_CAUSE, frames=tuple(f._replace(name=f.name.replace("func1", "func2")) for f in FSYNC_CAUSE.frames))
    for bucket in after.requests[0].buckets.values():
        bucket.causes = {renamed if cause == FSYNC_CAUSE else cause: ns for cause, ns in bucket.causes.items()}
    assert len(compare(requests_profile(), after).requests[0].bands[0].causes) == 4
    after.targets = requests_profile().targets
    assert len(compare(requests_profile(), after).requests[0].bands[0].causes) == 5


def test_the_text_says_both() -> None:
    lines = printed(compare(requests_profile(), slower())).splitlines()
    at = lines.index(f"Requests: {HTTP}")
    assert at < next(number for number, line in enumerate(lines) if line.startswith("off the CPU per"))
    part = lines[at : lines.index(f"Requests: {QUERY}")]
    assert part[1:6] == [
        "  rate   100/s → 100/s  =", "  p50    950 µs → 950 µs  =", "  p90    1.38 ms → 1.38 ms  =", "  p99    56.6 ms → 113 ms  ×2 *",
        "  p99.9  59.8 ms → 119 ms  +99 %",
    ]
    assert part[6] == "  a request: 4.84 ms → 8.79 ms" and part[7] == "    causes (90 % → 90 % explained)"
    assert part[8].startswith("      +3.56 ms  fdatasync of fd 8") and part[8].endswith("  3.98 ms → 7.54 ms")
    assert part[10] == "      +3.95 ms  waiting: chan receive  4.44 ms → 8.39 ms"
    assert "  a request of p99-100: 57.5 ms → 115 ms" in part
    assert max(map(len, lines)) <= 80


def test_the_json_says_it_too() -> None:
    diff = compare(requests_profile(), slower())
    found = json.loads(render_diff(diff, ".json"))
    jsonschema.validate(found, strict(SCHEMA))
    http = found["requests"][0]
    assert http["span"] == HTTP and http["before"]["count"] == http["after"]["count"] == 1000
    assert http["change"]["p99_ns"]["exceeds_noise"] and not http["change"]["p50_ns"]["exceeds_noise"]
    assert [(band["from"], band["to"], band["grew"]) for band in http["bands"]] == [(0, 1, FSYNC_CAUSE.text), (0.99, 1, FSYNC_CAUSE.text)]
    assert http["bands"][0]["causes"][0]["after_ns"] > http["bands"][0]["causes"][0]["before_ns"]
    assert not found["empty"]


def test_a_side_without_requests() -> None:
    for before, after, word in ((shop_profile(), requests_profile(), "new"), (requests_profile(), shop_profile(), "gone")):
        diff = compare(before, after)
        found = diff_dict(diff)
        jsonschema.validate(found, strict(SCHEMA))
        assert [request["span"] for request in found["requests"]] == [HTTP, QUERY]
        assert (found["requests"][0]["before"] is None) is (word == "new") and found["requests"][0]["bands"][0]["grew"] is None
        assert f"  {word}" in printed(diff).splitlines()[next(
            number for number, line in enumerate(printed(diff).splitlines()) if line.startswith("  rate")
        )]


def test_without_requests_nothing_is_said() -> None:
    diff = compare(shop_profile(), shop_profile())
    assert diff.empty and "requests" not in diff_dict(diff) and "Requests" not in printed(diff)
    assert [table["title"] for table in diff_page_data(diff)["meta"]["diff"]["tables"]] == ["Change by state", "Change by reason"]


def test_requests_alone_make_a_difference() -> None:
    before, after = requests_profile(), requests_profile()
    assert compare(before, after).empty and printed(compare(before, after)).rstrip().endswith("No difference.")
    after.requests[0].latency.count += 300
    diff = compare(before, after)
    assert not diff.empty and diff.requests[0].rate.exceeds


def test_rates_are_per_second_of_the_window() -> None:
    after = requests_profile()
    after.window = replace(after.window, duration_ns=20 * S, attached_ns=20 * S)
    rate = compare(requests_profile(), after).requests[0].rate
    assert (rate.before, rate.after, rate.exceeds) == (100, 50, True)


def test_what_the_percentiles_lack_is_told_of_either_side() -> None:
    """Before with hanging requests; after in windows, at the ends of which a fifth had not ended."""
    before, after = with_in_progress(requests_profile(), [9 * S] * 100), requests_profile()
    first = after.requests[0]
    first.windows, first.traced_ns, first.cut = 4, 5 * S, durations([S] * 200)
    first.in_progress_before = None
    diff = compare(before, after)
    change, rate = diff.requests[0], (first.latency.count + 200) / 5
    assert change.rate.after == rate == first.rate(10 * S)
    text = printed(diff, 200)
    assert "! before: the percentiles are of requests that ended; with those in progress p90 is at least" in text
    assert "! after: requests were traced in 4 windows, 5.00 s of 10.0 s in all: the figures are estimates for the rest; 200 had not" in text
    assert "! after: how many requests are in progress that began before the window is not known" in text
    document = json.loads(render_diff(diff, ".json"))
    jsonschema.validate(document, SCHEMA)
    found = document["requests"][0]
    assert found["notes"] == {"before": change.gaps[0], "after": change.gaps[1]} and all(found["notes"].values())
    assert (found["after"]["windows"], found["after"]["cut_off"], found["after"]["traced_ns"]) == (4, 200, 5 * S)
    assert found["before"]["at_least"]["p99_ns"] > 8 * S
    notes = diff_page_data(diff)["meta"]["diff"]["notes"]
    assert sum(note.startswith(f"{HTTP}, after: ") for note in notes) == 2


def test_the_page_of_a_comparison_has_tables_of_them() -> None:
    data = diff_page_data(compare(requests_profile(), slower()))
    requests, parts = data["meta"]["diff"]["tables"][:2]
    assert requests["title"] == "Requests" and requests["rows"][0][:4] == [HTTP, "100", "100", "="] and requests["marked"] == [0]
    assert all(len(row) == len(requests["columns"]) for row in requests["rows"])
    assert parts["rows"][0][0] == f"{HTTP}, p0-100, cause: {FSYNC_CAUSE.text}" and parts["rows"][0][3] == "+3.56 ms"
    assert "requests" not in data


def test_processes_are_told_apart() -> None:
    before, after = requests_profile(), requests_profile()
    for made in (before, after):
        made.targets.append(target(4300, "cart"))
        made.requests.append(replace(made.requests[1], pid=4300))
    found = compare(before, after).requests
    assert sorted((change.function, change.process) for change in found) == [(QUERY, "cart"), (QUERY, "shop"), (HTTP, "shop")]


def test_hostile_names_do_nothing() -> None:
    diff = compare(hostile_requests(), requests_profile())
    assert all(line.isprintable() for line in printed(diff).split("\n"))
    for suffix in (".json", ".html", ".folded"):
        assert render_diff(diff, suffix)
