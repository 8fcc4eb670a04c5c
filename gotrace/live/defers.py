"""Deferred calls that are pending in a function on a stack.

Most are in its frame, where the function's data says that there is a bit for each (open-coded defers; runtime/panic.go:
initOpenCodedDefers, before Go 1.22 runOpenDeferFrame). Those of loops, and all in programs with the race detector or without
optimisation, are in the goroutine's list (runtime2.go: _defer).
"""

from __future__ import annotations

from collections.abc import Callable

from gotrace.gobin.binary import GoBinary
from gotrace.gobin.buildinfo import GoVersion
from gotrace.gobin.functions import Function

_OPEN_CODED = 4
"""FUNCDATA_OpenCodedDeferInfo."""
_MOST = 8
_SLOTS_TOGETHER = GoVersion(22)
_FARTHEST = 1 << 20
_G_DEFER, _SP, _FN, _LINK, _LINK_BEFORE_22 = 40, 8, 24, 32, 40
"""g._defer, and the fields of _defer: the same from Go 1.19 to 1.27, except link."""
_MOST_LISTED = 1 << 10


def pending_defers(binary: GoBinary, function: Function, frame: int, read: Callable[[int], int | None]) -> list[int]:
    """The addresses of the closures that are to be called when the function returns; `frame` is its frame pointer."""
    data = binary.table.function_data(function, _OPEN_CODED)
    raw = binary.image.read_up_to(data, 64) if data is not None else b""
    numbers = _varints(raw)
    if len(numbers) < 2 or max(numbers[:2]) > _FARTHEST:
        return []
    at = frame - numbers[0]
    word = read(at & ~7)
    if word is None:
        return []
    bits = word >> 8 * (at & 7) & 0xFF
    if binary.version is not None and binary.version < _SLOTS_TOGETHER:
        slots = [frame - offset for offset in reversed(numbers[2 : 2 + min(numbers[1], _MOST)])]  # the last defer comes first
    else:
        slots = [frame - numbers[1] + 8 * number for number in range(_MOST)]
    return [closure for number, slot in enumerate(slots) if bits >> number & 1 and (closure := read(slot))]


def listed_defers(binary: GoBinary, g: int, read: Callable[[int], int | None]) -> dict[int, list[int]]:
    """The closures of the goroutine's list of deferred calls, by the stack pointer of the function that has deferred them."""
    link = _LINK if binary.version is None or binary.version >= _SLOTS_TOGETHER else _LINK_BEFORE_22
    found: dict[int, list[int]] = {}
    record, seen = read(g + _G_DEFER) or 0, set[int]()
    while record and record not in seen and len(seen) < _MOST_LISTED:
        seen.add(record)
        sp, closure = read(record + _SP), read(record + _FN)
        if sp and closure:
            found.setdefault(sp, []).append(closure)
        record = read(record + link) or 0
    return found


def _varints(raw: bytes) -> list[int]:
    found, value, shift = [], 0, 0
    for byte in raw:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            found.append(value)
            value = shift = 0
        elif shift > 28:
            break
    return found
