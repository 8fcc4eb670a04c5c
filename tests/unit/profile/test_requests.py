"""Requests: the bands that are cut from their sums, and what the summary's JSON says of them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from profiles import MS, S, shop_profile, target
from requestprofiles import CPU_CAUSE, FSYNC_CAUSE, HTTP, QUERY, hostile_requests, requests_made, requests_profile, strict

from gotrace.export.summary_json import render_json, summary_dict
from gotrace.profile.requests import EDGES, bands, parts, shown_bands

SCHEMA = json.loads((Path(__file__).parents[3] / "docs/schema/summary.json").read_text())


def test_bands_are_cut_by_rank() -> None:
    made = requests_made()
    by_length = sorted(one.duration_ns for one in made.requests)
    for band in bands(made.profile.requests[0]):
        chosen = by_length[round(1000 * band.low) : round(1000 * band.high)]
        assert band.count == len(chosen)
        assert band.total_ns == pytest.approx(sum(chosen), rel=0.02)
    whole = bands(made.profile.requests[0], (0.0, 1.0))[0]
    assert whole.total_ns == sum(by_length) and whole.cpu_ns == sum(one.cpu_ns for one in made.requests)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.99, 1.0), (0.5, 0.9), (0.2537, 0.2541)])
def test_the_parts_of_a_band_are_the_band(low: float, high: float) -> None:
    span = requests_profile().requests[0]
    band, pieces = bands(span, (low, high))[0], parts(span, low, high)
    assert sum(part.count for part in pieces.values()) == band.count == round(1000 * high) - round(1000 * low)
    assert sum(part.total_ns for part in pieces.values()) == band.total_ns
    assert all(part.count <= span.buckets[number].count for number, part in pieces.items())
    for key, wait in band.waits.items():
        assert sum(part.waits[key].total_ns for part in pieces.values() if key in part.waits) == wait.total_ns


def test_only_bands_that_are_to_be_shown() -> None:
    span = requests_profile().requests[0]
    assert [(band.low, band.high) for band in shown_bands(span)] == list(zip(EDGES, EDGES[1:], strict=False))
    span.shown = (0.75, 1.0)
    assert [(band.low, band.high) for band in shown_bands(span)] == [(0.75, 0.9), (0.9, 0.99), (0.99, 1.0)]
    span.shown = (0.99, 1.0)
    assert [(band.low, band.high) for band in shown_bands(span)] == [(0.99, 1.0)]


def test_the_json_has_what_the_contract_says() -> None:
    made = requests_made()
    found = json.loads(render_json(made.profile))
    assert found == summary_dict(made.profile)
    jsonschema.validate(found, strict(SCHEMA))
    http, query = found["requests"]
    assert (http["span"], query["span"]) == (HTTP, QUERY)
    assert (http["count"], http["in_progress"], http["rate_per_s"]) == (1000, 2, 100.0)
    assert http["max_ns"] == max(one.duration_ns for one in made.requests)
    assert [(band["from"], band["to"], band["count"]) for band in http["bands"]] == [
        (0.0, 0.5, 500), (0.5, 0.9, 400), (0.9, 0.99, 90), (0.99, 1.0, 10)
    ]
    for band in http["bands"]:
        for sums in (band["by_state"], band["by_reason"]):
            assert band["cpu_ns"] + sum(sums.values()) == pytest.approx(band["total_ns"], rel=1e-6)
        for row in band["stacks"]:
            stack = found["stacks"][row["stack"]]
            assert HTTP in [frame["name"] for frame in stack["frames"]] and 0 < row["total_ns"] <= stack["total_ns"]
        assert band["explained_ns"] == sum(cause["total_ns"] for cause in band["causes"])
    last = http["bands"][-1]
    cause = last["causes"][0]
    assert (cause["cause"], cause["state"], cause["reason"], cause["object"]) == (
        FSYNC_CAUSE.text, "syscall", "fdatasync", "fd 8 \u2192 /var/kv/0.wal"
    )
    assert cause["share"] == pytest.approx(0.9, abs=0.02) and cause["frames"][1]["name"] == "main.(*wal).sync"
    assert {cause["state"] for cause in last["causes"]} >= {"running", "waiting", "syscall"} and last["followed"] == 10
    assert CPU_CAUSE.text in [cause["cause"] for cause in last["causes"]]


def test_the_path_of_an_exemplar_covers_it() -> None:
    made = requests_made()
    http = summary_dict(made.profile)["requests"][0]
    assert len(http["exemplars"]) == 10
    assert [each["duration_ns"] for each in http["exemplars"]] == sorted((o.duration_ns for o in made.requests), reverse=True)[:10]
    for exemplar in http["exemplars"]:
        end_ns = exemplar["start_ns"] + exemplar["duration_ns"]
        for step in exemplar["path"]:
            assert step["to_ns"] == end_ns and step["from_ns"] < step["to_ns"]
            end_ns = step["from_ns"]
        assert end_ns == exemplar["start_ns"]
    assert http["exemplars"][1]["what"] == "PUT /kv/1" and http["exemplars"][0]["what"] is None
    assert http["exemplars"][1]["labels"] == {"trace_id": "4bf92f1"}


def test_without_requests_there_is_no_key() -> None:
    assert "requests" not in summary_dict(shop_profile())
    jsonschema.validate(summary_dict(shop_profile()), SCHEMA)


def test_several_targets_name_the_process() -> None:
    made = requests_profile()
    made.targets.append(target(4300, "cart"))
    assert summary_dict(made)["requests"][0]["pid"] == 4242
    jsonschema.validate(summary_dict(made), SCHEMA)


def test_hostile_names_stay_ascii() -> None:
    text = render_json(hostile_requests())
    assert text.isascii()
    jsonschema.validate(json.loads(text), SCHEMA)


def test_the_figures_are_of_durations_in_ns() -> None:
    http = summary_dict(requests_profile())["requests"][0]
    assert 0.5 * MS < http["p50_ns"] < 1.5 * MS and 20 * MS < http["p99_ns"] < 70 * MS < S
    assert http["p50_ns"] <= http["p90_ns"] <= http["p99_ns"] <= http["p999_ns"] <= http["max_ns"]
