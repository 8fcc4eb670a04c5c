"""The flame graph's file: one page that asks for nothing, runs only its own scripts, and holds the whole profile."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser
from itertools import accumulate
from typing import Any

from profiles import HOSTILE, hostile_profile, shop_profile, two_processes

from gotrace.common.vocabulary import Loss
from gotrace.profile.types import Profile
from gotrace.render.html import render_html
from gotrace.render.pagedata import NAME_LIMIT, page_data


class Page(HTMLParser):
    """Elements with their attributes, and the text of each script and style, as a browser's tokenizer finds them."""

    def __init__(self, made: Profile) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.inside = ""
        self.feed(render_html(made).decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("script", "style", "title"):
            self.texts.append((self.inside, data))

    @property
    def data(self) -> dict[str, Any]:
        return unpacked(next(text for tag, text in self.texts if tag == "script"))


def unpacked(text: str) -> dict[str, Any]:
    """The page data again, as `unpack` in assets/data.js makes it."""
    data = json.loads(zlib.decompress(base64.b64decode(text)))
    nodes, stacks = data["nodes"], data["stacks"]
    parents = [node - step for node, step in enumerate(nodes["parent"])]
    frames: list[int] = []
    behind: dict[int, list[int]] = {}
    fresh = iter(nodes["fresh"])
    for parent, position in zip(parents, nodes["place"], strict=True):
        known = behind.setdefault(frames[parent] if parent >= 0 else -1, [])
        if position == len(known):
            known.append(next(fresh))
        frames.append(known[position])
    data["nodes"] = {"parent": parents, "frame": frames}
    stacks["node"] = list(accumulate(stacks["node"]))
    flat, buckets = iter(stacks["buckets"]), []
    for count in flat:
        bucket, pairs = 0, []
        for _ in range(count):
            bucket += next(flat)
            pairs += [bucket, next(flat)]
        buckets.append(pairs)
    stacks["buckets"] = buckets
    return data


def paths(data: dict[str, Any]) -> list[list[str]]:
    """Each stack's names, root first, its reason last: what the page's script reads."""
    names = [data["texts"][data["functions"]["name"][function]] for function in data["frames"]["function"]]
    result = []
    for node, reason in zip(data["stacks"]["node"], data["stacks"]["reason"], strict=True):
        path = [names[reason]]
        while node >= 0:
            path.append(names[data["nodes"]["frame"][node]])
            node = data["nodes"]["parent"][node]
        result.append(path[::-1])
    return result


def test_policy_allows_the_pages_own_scripts_and_nothing_else() -> None:
    page = Page(hostile_profile())
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; ")
    for tag, text in [item for item in page.texts if item[0] != "title"][:1] + page.texts[-1:]:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src" in policy and f"'sha256-{digest}'" in policy
    assert "unsafe" not in policy and "http" not in policy


def test_page_asks_for_nothing() -> None:
    page = Page(shop_profile())
    for tag, attributes in page.elements:
        assert not {"src", "href", "action", "srcset", "style"} & set(attributes), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    asking = r"@import|url\(|fetch\(|XMLHttp|innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b"
    for tag, text in page.texts:
        assert not re.search(asking, text), tag


def test_hostile_names_stay_inside_the_data() -> None:
    plain, hostile = Page(shop_profile()), Page(hostile_profile())
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    raw = render_html(hostile_profile())
    assert b"<script>alert" not in raw and b"</script><img" not in raw
    block = re.search(rb'<script id="data" type="application/octet-stream">(.*?)</script>', raw, re.S)
    assert block and re.fullmatch(rb"[A-Za-z0-9+/=]+", block[1])
    texts = hostile.data["texts"]
    assert HOSTILE["markup"] in texts and HOSTILE["quote"] in texts and HOSTILE["template"] in texts
    assert all(text.isprintable() and len(text) <= NAME_LIMIT for text in texts)


def test_packing_loses_nothing() -> None:
    for made in (shop_profile(), hostile_profile(), two_processes()):
        assert Page(made).data == json.loads(json.dumps(page_data(made)))


def test_data_holds_every_stack() -> None:
    made = shop_profile(losses={Loss.RING_FULL: 2})
    data = Page(made).data
    assert sum(data["stacks"]["total"]) == made.total().total_ns == data["meta"]["total"]
    assert sum(data["stacks"]["count"]) == made.total().count
    assert [path[:-1] for path in paths(data)] == [[f.name for f in reversed(s.frames)] for s in made.stacks]
    assert paths(data)[0][-1] == "[waiting: sync.Mutex.Lock]"
    assert [loss["name"] for loss in data["meta"]["losses"]] == ["ring_full"]
    assert all(len(column) == len(made.stacks) for column in data["stacks"].values())


def test_shared_text_and_prefixes_are_stored_once() -> None:
    data = Page(two_processes()).data
    assert len(set(data["texts"])) == len(data["texts"])
    pairs = list(zip(data["nodes"]["parent"], data["nodes"]["frame"], strict=True))
    assert len(set(pairs)) == len(pairs)
    assert {path[0] for path in paths(data)} == {"shop (4242)", "cart (4300)"}
