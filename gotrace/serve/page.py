"""The page of gotrace serve: one document with its style and its scripts, which asks its own server and nobody else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from importlib.resources import files

SCRIPTS = (("gotrace.render", "words.js"), ("gotrace.serve", "elements.js"), ("gotrace.serve", "axis.js"), ("gotrace.serve", "page.js"))
"""By package, in the order in which they run."""


@lru_cache(1)
def page() -> tuple[bytes, str]:
    """The document, and its Content-Security-Policy, which names the one style sheet and the one script by their hashes."""
    def asset(name: str, package: str = "gotrace.serve") -> str:
        return (files(package) / "assets" / name).read_text(encoding="utf-8")

    style, script = asset("page.css"), "".join(asset(name, package) for package, name in SCRIPTS)
    policy = (
        f"default-src 'none'; script-src 'sha256-{_digest(script)}'; style-src 'sha256-{_digest(style)}'; connect-src 'self'; "
        "frame-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    parts = {"STYLE": style, "SCRIPT": script}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], asset("page.html")).encode(), policy


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
