"""The page of a comparison in a real browser: what grew, what shrank, what is new and what has gone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from flamepage import CONTRAST, NODE, card_of, fragment, hover
from profiles import MS, layers, profile

from gotrace.render.html import render_page
from gotrace.render.pagedata import page_data


def comparison() -> dict[str, Any]:
    """`reads` doubled, `waits` unchanged, `locks` vanished, the preemption new."""
    stacks = layers()
    before_ns = [60 * MS, 60 * MS, 90 * MS, 33 * MS, 10 * MS, 0, 25 * MS]
    vanished = replace(stacks[4], distribution=type(stacks[4].distribution)())
    made = profile([*stacks[:4], vanished, *stacks[5:]])
    place = {id(stack): at for at, stack in enumerate([*stacks[:4], vanished, *stacks[5:]])}
    data = page_data(made)
    data["stacks"]["before"] = [before_ns[place[id(stack)]] for stack in made.stacks]
    data["stacks"]["before_count"] = [2 if before_ns[place[id(stack)]] else 0 for stack in made.stacks]
    side = data["meta"]
    data["meta"] = {
        **side,
        "diff": {
            "before": {**side, "total": 300 * MS, "start": "2026-01-01T00:00:00Z"},
            "after": side,
            "notes": ["before is scaled by 1.00"],
            "tables": [
                {
                    "title": "by state",
                    "columns": ["state", "before"],
                    "rows": [["<b>syscall", "1"], ["x", "2"]],
                    "marked": [0],
                }
            ],
        },
    }
    return data


@pytest.fixture
def compare(browser: Browser, tmp_path: Path) -> Callable[..., Browser]:
    def open_page(data: dict[str, Any], fragment: str = "") -> Browser:
        page = tmp_path / "diff.html"
        page.write_bytes(render_page(data))
        browser.open(page.as_uri() + fragment)
        return browser

    return open_page


def test_comparison_colours_growth_and_marks_what_is_new(compare: Callable[..., Browser]) -> None:
    page = compare(comparison(), "#fd=1")
    assert page.problems() == [] and page.run(CONTRAST) == {}
    labels = page.run("flame.rows.map(row => flame.labelOf(row.tree, row.node))")
    assert "NEW [preempted]" in labels and "GONE [waiting: sleep]" in labels
    fill = {
        name: page.run(f"(() => {{ const r = {NODE}({json.dumps(name)}); return colours.of(r.tree, r.node).fill; }})()")
        for name in (
            "read(fd 7 → /var/lib/db)",
            "read(fd 8 → /var/lib/index)",
            "net.(*conn).Read",
            "[preempted]",
            "[waiting: sleep]",
        )
    }
    hue = {name: re.match(r"hsl\((\d+)", colour) for name, colour in fill.items()}
    assert hue["read(fd 7 → /var/lib/db)"][1] == hue["[preempted]"][1] == "8"
    assert hue["net.(*conn).Read"][1] == hue["[waiting: sleep]"][1] == "214"
    assert hue["read(fd 8 → /var/lib/index)"] is None
    assert page.text("#legend") == "only after (new)moreunchangedlessonly before (vanished)"
    assert "before: 300 ms" in page.text("#facts") and "2026-01-01" in page.text("#facts")
    assert page.run("document.querySelectorAll('.barline .bar').length") == 2


def test_comparison_shows_both_values(compare: Callable[..., Browser]) -> None:
    page = compare(comparison(), "#fd=1&show=both&rg=1")
    hover(page, "read(fd 7 → /var/lib/db)")
    card = card_of(page)
    assert card["before"] == "60.0 ms in 2 intervals, normalised"
    assert card["after"] == "120 ms in 4 intervals"
    assert card["change"] == "+60.0 ms, +100.0 %"
    page.key("t", "t")
    rows = page.run(
        "[...document.querySelectorAll('#table tbody tr')]"
        "  .map(row => [...row.cells].slice(0, 4).map(cell => cell.textContent))"
    )
    assert rows[0] == ["60.0 ms", "120 ms", "+60.0 ms", "+100.0 %"]
    assert ["0 ns", "2.00 ms", "+2.00 ms", "new"] in rows and ["10.0 ms", "0 ns", "−10.0 ms", "vanished"] in rows
    assert page.text("#details h2") == "by state"
    assert page.run("document.querySelector('#details .marked').textContent") == "<b>syscall1"


def test_comparison_widths(compare: Callable[..., Browser]) -> None:
    data = comparison()
    before, after = data["stacks"]["before"], data["stacks"]["total"]
    page = compare(data, "#rg=1")
    assert page.run("flame.trees[0].weight[0]") == sum(map(max, before, after))
    page.run("page.change({width: 'before'})")
    assert page.run("flame.trees[0].weight[0]") == sum(before) and fragment(page)["width"] == "before"
    assert page.run("flame.trees[0].total[0]") == sum(after)
