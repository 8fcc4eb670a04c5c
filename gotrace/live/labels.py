"""The profiler labels of goroutines (runtime/pprof: Do, SetGoroutineLabels), read from the process's memory."""

from __future__ import annotations

from gotrace.gobin.buildinfo import GoVersion
from gotrace.proc.memory import Memory

_MOST_LABELS = 128
_MOST_BUCKETS = 64
_LONGEST = 1024
LIST_SINCE = GoVersion(24)
"""From this version on labels are a slice, before that a map."""
_SLOTS = 8
_MIN_TOP_HASH = 5
_BUCKET = _SLOTS + _SLOTS * 16 + _SLOTS * 16 + 8


def read_labels(memory: Memory, pointer: int, version: GoVersion | None) -> dict[str, str] | None:
    """The labels behind g.labels, {} if there are none, None if they can't be read or make no sense.

    From Go 1.24 on they are a slice of pairs of strings, before that a map (runtime/pprof/label.go: labelMap).

    Raises:
        ProcessLookupError: the process is gone.
    """
    if not pointer:
        return {}
    if version is None:
        return None
    pairs = _from_list(memory, pointer) if version >= LIST_SINCE else _from_map(memory, pointer)
    if pairs is None:
        return None
    raws = memory.read_many([(address, length) for pair in pairs for address, length in pair])
    texts = [raw.decode("utf-8", "replace") for raw in raws if raw is not None]
    return dict(zip(texts[::2], texts[1::2], strict=True)) if len(texts) == len(raws) else None


_Pairs = list[tuple[tuple[int, int], tuple[int, int]]]


def _from_list(memory: Memory, pointer: int) -> _Pairs | None:
    header = memory.read(pointer, 16)
    if header is None:
        return None
    base, count = _word(header, 0), _word(header, 8)
    if count > _MOST_LABELS:
        return None
    raw = memory.read(base, 32 * count) if count else b""
    return None if raw is None else _checked([_pair(raw, 32 * i, 32 * i + 16) for i in range(count)])


def _from_map(memory: Memory, pointer: int) -> _Pairs | None:
    """Reads a map[string]string (runtime/map.go: hmap, bmap); label maps do not change once they are in a g."""
    table = memory.u64(pointer)
    if not table:
        return [] if table == 0 else None
    header = memory.read(table, 32)
    if header is None:
        return None
    count, size, buckets, old = _word(header, 0), 1 << min(header[9], 16), _word(header, 16), _word(header, 24)
    if count > _MOST_LABELS or size > _MOST_BUCKETS:
        return None
    pending = [buckets + _BUCKET * i for i in range(size)] if buckets else []
    if old:
        pending += [old + _BUCKET * i for i in range(max(1, size // 2))]
    found: _Pairs = []
    for _ in range(4 * _MOST_BUCKETS):
        if not pending or len(found) > 2 * _MOST_LABELS:
            break
        raw = memory.read(pending.pop(), _BUCKET)
        if raw is None:
            return None
        found += [
            _pair(raw, _SLOTS + 16 * slot, _SLOTS + 16 * _SLOTS + 16 * slot)
            for slot in range(_SLOTS) if raw[slot] >= _MIN_TOP_HASH
        ]
        if overflow := _word(raw, _BUCKET - 8):
            pending.append(overflow)
    return _checked(found) if len(found) >= count else None


def _pair(raw: bytes, key: int, value: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (_word(raw, key), _word(raw, key + 8)), (_word(raw, value), _word(raw, value + 8))


def _checked(pairs: _Pairs) -> _Pairs | None:
    return None if any(length > _LONGEST for pair in pairs for _, length in pair) else pairs


def _word(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 8], "little")
