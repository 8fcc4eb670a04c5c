"""Stacks that are kept apart by profiler labels: sums by value, filters, and what each output makes of them."""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from captures import capture
from profiles import shop_profile

from gotrace.capture.reader import read_capture
from gotrace.common.errors import UsageError
from gotrace.export.folded import render_folded
from gotrace.export.pprof import render_pprof
from gotrace.export.summary_json import render_json
from gotrace.profile.filters import filter_profile
from gotrace.profile.types import Profile
from gotrace.render.pagedata import KINDS, page_data
from gotrace.run.options import AttachOptions, check_labels

HOSTILE = "a;\x1b[31m<b>%2e.c"


def labelled() -> Profile:
    """The first stack three times: with two values of a label, and without it."""
    profile = shop_profile()
    first, *rest = profile.stacks
    made = [replace(first, labels=labels) for labels in ((("tenant", HOSTILE), ("zone", "z1")), (("tenant", "b"),), ())]
    return replace(profile, stacks=[*made, *rest])


def test_stacks_with_different_labels_are_different() -> None:
    profile = labelled()
    assert len({stack.key for stack in profile.stacks}) == len(profile.stacks)
    sums = profile.by_label()
    own = profile.stacks[0].distribution.total_ns
    assert list(sums) == ["tenant", "zone"] and sums["tenant"]["b"].total_ns == sums["zone"]["z1"].total_ns == own
    assert sum(figures.total_ns for figures in sums["tenant"].values()) == profile.total().total_ns
    assert sum(figures.total_ns for value, figures in sums["zone"].items() if value is None) == profile.total().total_ns - own


def test_a_label_with_a_name_of_ours_is_in_pprof_beside_it() -> None:
    profile = labelled()
    profile.stacks[0].labels = (("state", "gold"),)
    text = gzip.decompress(render_pprof(profile))
    assert b"label state" in text and b"gold" in text and b"waiting" in text


def test_filters_choose_by_label() -> None:
    profile = labelled()
    assert len(filter_profile(profile, labels=("tenant",)).stacks) == 2
    chosen = filter_profile(profile, labels=("tenant=b",))
    assert [stack.labels for stack in chosen.stacks] == [(("tenant", "b"),)] and chosen.selected == ("--label tenant=b", len(profile.stacks))
    assert len(filter_profile(profile, labels=("tenant", "zone=z1")).stacks) == 1
    assert filter_profile(profile, labels=("zone=z2",)).stacks == []


def test_outputs_have_them() -> None:
    profile = labelled()
    roots = [line.split(";")[0] for line in render_folded(profile).splitlines()]
    assert roots.count("tenant=b_[l]") == 1 and roots.count(r"tenant=a:\x1b[31m<b>%2e.c_[l]") == 1
    summary = json.loads(render_json(profile))
    assert [stack.get("labels") for stack in summary["stacks"][:3]] == [{"tenant": HOSTILE, "zone": "z1"}, {"tenant": "b"}, None]
    assert summary["totals"]["by_label"]["zone"].keys() == {"z1"}
    data = page_data(profile)
    texts = data["texts"]
    assert [[texts[label] for label in labels] for labels in data["stacks"]["labels"][:3]] == [
        ["tenant=a;\\x1b[31m<b>%2e.c", "zone=z1"], ["tenant=b"], [],
    ]
    names = {texts[name] for name, kind in zip(data["functions"]["name"], data["functions"]["kind"], strict=True) if KINDS[kind] == "label"}
    assert names == {"tenant=a;\\x1b[31m<b>%2e.c", "tenant=b", "zone=z1"}
    assert "labels" not in page_data(shop_profile())["stacks"] and "by_label" not in json.loads(render_json(shop_profile()))["totals"]


def test_captures_keep_them_and_older_ones_have_none(tmp_path: Path) -> None:
    profile = labelled()
    path = capture(tmp_path / "x.gotrace", profile)
    again = read_capture(path)
    assert sorted(stack.labels for stack in again.stacks) == sorted(stack.labels for stack in profile.stacks)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE stack SET labels = '[1]' WHERE labels NOTNULL")
    with pytest.raises(Exception, match="damaged"):
        read_capture(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE stack SET labels = NULL")
        db.execute("PRAGMA user_version = 6")
    assert {stack.labels for stack in read_capture(path).stacks} == {()}


@pytest.mark.parametrize("labels, hint", [(("a=b",), "report"), (("",), "--label"), (("\udcff",), "--label"), (("a\x1b",), "--label"), (("x" * 65,), "--label"), (tuple("abcde"), "at most 4")])
def test_keys_that_cannot_be_told_are_refused(labels: tuple[str, ...], hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        check_labels(AttachOptions((1,), labels=labels))
    assert hint in str(raised.value.hint)
    with pytest.raises(UsageError):
        check_labels(AttachOptions((1,), labels=("tenant",), no_labels=True))
