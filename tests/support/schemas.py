"""The JSON Schemas of docs/schema."""

from __future__ import annotations

import json

from documents import ROOT

SCHEMA = ROOT / "docs/schema"


def schema(name: str) -> dict:
    return json.loads((SCHEMA / f"{name}.json").read_text())


def strict(part: object) -> object:
    """The schema with no key allowed that it does not describe: users are to expect new ones, we are to describe them."""
    if isinstance(part, list):
        return [strict(each) for each in part]
    if not isinstance(part, dict):
        return part
    closed = {key: strict(value) for key, value in part.items()}
    return closed | {"additionalProperties": False} if "properties" in part and "required" in part else closed
