"""Pointing at boxes of the flame graph's page, and asking what it shows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from browser import Browser

CHILDREN = "[...TREE.children(NODE, view.byName)].map(node => profile.nameOf(TREE.fn[node]))"
ROOTS = CHILDREN.replace("TREE", "flame.trees[0]").replace("NODE", "0")
NODE = "(name => flame.rows.find(row => profile.nameOf(row.tree.fn[row.node]) === name))"
CENTRE = """(name => {
  const row = flame.rows.find(each => profile.nameOf(each.tree.fn[each.node]) === name);
  const box = document.getElementById('canvas').getBoundingClientRect();
  return [box.left + row.x + Math.min(row.w / 2, 40), box.top + row.seen + flame.ROW / 2];
})"""


def hover(page: Browser, name: str) -> None:
    x, y = page.run(f"{CENTRE}({json.dumps(name)})")
    page.mouse("mouseMoved", x, y)


def click(page: Browser, name: str) -> None:
    x, y = page.run(f"{CENTRE}({json.dumps(name)})")
    page.mouse("mousePressed", x, y)
    page.mouse("mouseReleased", x, y)


def fragment(page: Browser) -> dict[str, str]:
    return dict(pair.split("=") for pair in page.run("location.hash.slice(1)").split("&") if pair)


def card_of(page: Browser) -> dict[str, str]:
    """The figures of the card that is shown."""
    return page.run(
        "Object.fromEntries([...document.querySelectorAll('#card tr')]"
        "  .map(row => [...row.cells].map(cell => cell.textContent)))"
    )


def go_to(page: Browser, address: str) -> None:
    page.run(
        "new Promise(done => { addEventListener('hashchange', () => done(), { once: true });"
        f"  location.hash = {json.dumps(address)}; }})"
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# WCAG 2.1, relative luminance: boxes whose ink stands out too little from their fill.
CONTRAST = """(() => {
  const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const light = colour => {
    paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...paint.getImageData(0, 0, 1, 1).data].map(byte => byte / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = {};
  for (const palette of ['kind', 'package', 'state', 'growth']) {
    view.palette = palette; colours.reset();
    for (const faded of [false, true]) for (const row of flame.rows) {
      const { fill, ink } = colours.of(row.tree, row.node, faded);
      const [a, b] = [light(fill), light(ink)].sort((x, y) => y - x);
      const contrast = (a + 0.05) / (b + 0.05);
      if (contrast < 4.5) found[`${palette} ${flame.labelOf(row.tree, row.node)} ${faded}`] = contrast;
    }
  }
  view.palette = ''; colours.reset();
  return found;
})()"""
