"""Deferred calls that are pending in a function on a stack: those that the compiler has put into its frame (open-coded defers).

The function's data says where the frame has a bit for each (runtime/panic.go: initOpenCodedDefers; before Go 1.22 runOpenDeferFrame).
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
