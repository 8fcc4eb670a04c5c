"""Values of an untrusted capture as the types that they must have; anything else raises ValueError."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

from gotrace.common.histogram import BUCKETS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_MOST = (1 << 63) - 1
"""SQLite's largest integer; 292 years in ns, which a million goroutines wait in a few months."""

T = TypeVar("T", bound="DataclassInstance")


def whole(value: object, least: int = 0) -> int:
    """An integer from `least` to 2**63 - 1."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST:
        raise ValueError(f"{_shown(value)} where a whole number belongs")
    return value


def text(value: object) -> str:
    """Text that can be encoded: a lone surrogate becomes a question mark."""
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} where text belongs")
    return value.encode("utf-8", "replace").decode()


def number(value: object) -> float:
    """A finite number of at least 0."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1e39 or not math.isfinite(value):
        raise ValueError(f"{_shown(value)} where a number belongs")
    return value


def squares(value: object) -> int:
    """A sum of squares, as Distribution has it."""
    found = number(value)
    if found >= 2.0**128:
        raise ValueError(f"a sum of squares of {_shown(value)}")
    return int(found)


def truth(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{_shown(value)} where true or false belongs")
    return value


def listed(value: object) -> list[object]:
    """A list."""
    if not isinstance(value, list):
        raise ValueError(f"{_shown(value)} where a list belongs")
    return value


def mapping(value: object) -> dict[str, object]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{_shown(value)} where an object belongs")
    return value


def histogram(value: object) -> dict[int, int]:
    """Bucket -> count, as in gotrace.common.histogram."""
    found = {int(bucket): whole(count) for bucket, count in mapping(value).items()}
    if not all(0 <= bucket < BUCKETS for bucket in found):
        raise ValueError("a histogram with buckets that there are not")
    return found


def record(kind: type[T], value: object) -> T:
    """An instance of the dataclass `kind`, whose fields have the types above."""
    check: dict[str, Callable[[object], object]] = {"int": whole, "str": text, "float": number, "bool": truth}
    given = mapping(value)
    types = {field.name: str(field.type) for field in fields(kind)}
    return kind(**{name: check[types[name]](item) for name, item in given.items()})


def _shown(value: object) -> str:
    shown = repr(value) if not isinstance(value, str | bytes | list | dict) else type(value).__name__
    return shown if len(shown) <= 40 else type(value).__name__
