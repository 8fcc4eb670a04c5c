"""The speedscope file against the schema that speedscope publishes, and its figures against the profile's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from anyprofile import any_profile
from hypothesis import given
from profiles import GOEXIT, MS, go, hostile_profile, profile, shop_profile, stat, two_processes

from gotrace.common.vocabulary import FrameKind, Loss, State
from gotrace.export.speedscope import render_speedscope
from gotrace.profile.types import Frame, GovernorReport, Missing, Profile

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "speedscope.json").read_text())


def read(made: Profile) -> dict[str, Any]:
    """The document, valid and with every index in its range."""
    document = json.loads(render_speedscope(made))
    jsonschema.validate(document, SCHEMA)
    count = len(document["shared"]["frames"])
    for part in document["profiles"]:
        assert len(part["samples"]) == len(part["weights"])
        assert all(0 <= index < count for sample in part["samples"] for index in sample)
        assert part["endValue"] == sum(part["weights"]) and part["startValue"] == 0
    return document


def test_the_schema_refuses_what_speedscope_would() -> None:
    document = read(shop_profile())
    document["profiles"][0]["unit"] = "fortnights"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


def names(document: dict[str, Any], sample: list[int]) -> list[str]:
    return [document["shared"]["frames"][index]["name"] for index in sample]


def test_golden(golden: Callable[[str, str], None]) -> None:
    golden("shop.speedscope.json", json.dumps(read(shop_profile(losses={Loss.MISSED_HITS: 3})), indent=1) + "\n")


def test_a_profile_per_state_with_the_states_total() -> None:
    made = shop_profile()
    totals = {part["name"].partition(" · ")[0]: part["endValue"] for part in read(made)["profiles"]}
    assert totals == {state.value: distribution.total_ns for state, distribution in made.by_state().items()}
    assert {part["unit"] for part in read(made)["profiles"]} == {"nanoseconds"}


def test_stack_root_first_then_why_then_the_waker() -> None:
    frames = [
        Frame("main.root", kind=FrameKind.WAKER), Frame("main.feed", kind=FrameKind.WAKER),
        Frame("anon_pipe_read", kind=FrameKind.KERNEL), Frame("read(fd 7 → pipe)", kind=FrameKind.SYSCALL),
        go("main.main", "/m.go", 3), GOEXIT,
    ]  # fmt: skip
    document = read(profile([stat(frames, [MS], State.SYSCALL, "read")]))
    assert names(document, document["profiles"][0]["samples"][0]) == [
        "runtime.goexit", "main.main", "read", "anon_pipe_read", "[syscall: read]", "woken by main.feed",
    ]  # fmt: skip
    files = {frame["name"]: frame.get("file") for frame in document["shared"]["frames"]}
    assert files["read"] == files["anon_pipe_read"] == "[kernel]" and files["main.main"] == "/m.go"


def test_a_function_is_one_frame_whatever_its_line() -> None:
    paths = [[go("main.f", "/f.go", line), go("main.g", "/f.go", 9)] for line in (3, 4)]
    made = profile([stat(path, [MS], reason="sleep") for path in paths])
    frames = {frame["name"]: frame for frame in read(made)["shared"]["frames"]}
    assert len(frames) == len(read(made)["shared"]["frames"])
    assert "line" not in frames["main.f"] and frames["main.g"]["line"] == 9


def test_processes_are_roots() -> None:
    document = read(two_processes())
    assert {names(document, sample)[0] for part in document["profiles"] for sample in part["samples"]} == {
        "shop (4242)", "cart (4300)",
    }  # fmt: skip


def test_losses_are_in_the_title() -> None:
    assert read(shop_profile(losses={Loss.RING_FULL: 1234}))["name"].endswith("LOSSES: 1,234 ring_full")
    assert "LOSSES" not in read(shop_profile())["name"]
    assert read(shop_profile(complete=False))["name"].endswith("INCOMPLETE")


def test_what_to_know_stands_behind_each_profiles_name() -> None:
    made = shop_profile()
    assert {part["name"].partition(" · ")[2] for part in read(made)["profiles"]} == {"10.0 s"}
    made = shop_profile(
        losses={Loss.STACK_IN_TRANSIT: 8, Loss.RING_FULL: 1234}, filters=["stacks matching main", "state waiting"], complete=False,
        missing=[Missing("wakers", "no room", "who woke", 1), Missing("wakers", "no room", "who woke", 2), Missing("pauses", "x", "y")],
        notes=["the process is a copy"], governor=GovernorReport(0.01, wakers_off_ns=9_770 * MS, paused_ns=7_280 * MS),
    )
    made.window = replace(made.window, attached_ns=2_560 * MS)
    for part in read(made)["profiles"]:
        assert part["name"].split(" · ")[1:] == [
            "10.0 s, probes 2.56 s", "INCOMPLETE", "LOSSES 1,234 ring_full, 8 stack_in_transit", "only stacks matching main",
            "only state waiting", "MISSING wakers, pauses", "governor: no wakers 97.7 %, nothing watched 72.8 %",
            "note: the process is a copy",
        ]  # fmt: skip
    made.window = replace(made.window, mode="sample", attached_ns=made.window.duration_ns)
    assert " · 10.0 s · mode sample · " in read(made)["profiles"][0]["name"]


def test_a_profile_of_nothing_says_what_it_is_of() -> None:
    part, = read(profile([], filters=["stacks matching main"]))["profiles"]
    assert part["name"] == "nothing recorded · 10.0 s · only stacks matching main"


def test_names_stay_names_whatever_is_in_them() -> None:
    made = shop_profile(filters=["stacks matching \x1b[2J" + "x" * 5000], notes=["\u202egnirts"])
    for part in read(made)["profiles"]:
        assert part["name"].isprintable() and len(part["name"]) < 600


@pytest.mark.parametrize("make", [hostile_profile, lambda: profile([]), lambda: profile([], [])])
def test_hostile_and_empty_profiles_are_valid(make: Callable[[], Profile]) -> None:
    document = read(make())
    assert document["profiles"]
    assert all(frame["name"].isprintable() for frame in document["shared"]["frames"])
    assert render_speedscope(make()).decode("ascii")


@given(any_profile)
def test_weights_add_up(made: Profile) -> None:
    document = read(made)
    assert sum(part["endValue"] for part in document["profiles"]) == made.total().total_ns
