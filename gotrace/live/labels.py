"""The profiler labels of goroutines (runtime/pprof: Do, SetGoroutineLabels), read from the process's memory."""

from __future__ import annotations

from sys import getsizeof

from gotrace.gobin.buildinfo import GoVersion
from gotrace.proc.memory import Memory

_MOST_LABELS = 128
_MOST_BUCKETS = 64
_LONGEST = 1024
_LONGEST_WANTED = 1 << 20
_MOST_BYTES = 64 << 20
"""Of all different sets: a hundred thousand of usual ones."""
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
    pairs = _checked(_from_list(memory, pointer) if version >= LIST_SINCE else _from_map(memory, pointer))
    if pairs is None:
        return None
    raws = memory.read_many([(address, length) for pair in pairs for address, length in pair])
    texts = [raw.decode("utf-8", "replace") for raw in raws if raw is not None]
    return dict(zip(texts[::2], texts[1::2], strict=True)) if len(texts) == len(raws) else None


class LabelSets:
    """The sets of one process, each read once for all goroutines that have it: as long as one has it, it is the same. Equal ones are kept
    once; what is beyond 64 MB of different ones is not kept."""

    def __init__(self, memory: Memory, version: GoVersion | None) -> None:
        self._memory = memory
        self._version = version
        self._by_pointer: dict[int, dict[str, str] | None] = {}
        self._different: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        self._room = _MOST_BYTES

    def at(self, pointer: int) -> dict[str, str] | None:
        """As `read_labels`; None also where there is no room."""
        if pointer not in self._by_pointer:
            self._by_pointer[pointer] = self._kept(read_labels(self._memory, pointer, self._version))
        return self._by_pointer[pointer]

    def _kept(self, labels: dict[str, str] | None) -> dict[str, str] | None:
        if not labels:
            return labels
        key = tuple(labels.items())
        known = self._different.get(key)
        if known is None:
            size = getsizeof(labels) + getsizeof(key) + sum(getsizeof(pair) + sum(map(getsizeof, pair)) for pair in key)
            if size > self._room:
                return None
            self._room -= size
            known = self._different[key] = labels
        return known


Values = tuple["tuple[bytes, int] | None", ...]
"""Of each wanted label the first bytes of its value, and the value's length; None where it is not in the set."""


def wanted_values(memory: Memory, pointer: int, is_list: bool, keys: tuple[bytes, ...], most: int) -> Values | None:
    """The values of the labels with these keys in the set behind g.labels, each up to `most` bytes; None if it can't be read or makes no
    sense.

    Raises:
        ProcessLookupError: the process is gone.
    """
    pairs = _from_list(memory, pointer) if is_list else _from_map(memory, pointer)
    if pairs is None:
        return None
    lengths = {len(key) for key in keys}
    pairs = [pair for pair in pairs if pair[0][1] in lengths]
    if any(length > _LONGEST_WANTED for _, (_, length) in pairs):
        return None
    raws = memory.read_many([part for key, (at, length) in pairs for part in (key, (at, min(length, most)))])
    if any(raw is None for raw in raws):
        return None
    found = {raws[2 * i]: (raws[2 * i + 1] or b"", pair[1][1]) for i, pair in enumerate(pairs)}
    return tuple(found.get(key) for key in keys)


_Pairs = list[tuple[tuple[int, int], tuple[int, int]]]


def _from_list(memory: Memory, pointer: int) -> _Pairs | None:
    header = memory.read(pointer, 16)
    if header is None:
        return None
    base, count = _word(header, 0), _word(header, 8)
    if count > _MOST_LABELS:
        return None
    raw = memory.read(base, 32 * count) if count else b""
    return None if raw is None else [_pair(raw, 32 * i, 32 * i + 16) for i in range(count)]


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
    return found if len(found) >= count else None


def _pair(raw: bytes, key: int, value: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (_word(raw, key), _word(raw, key + 8)), (_word(raw, value), _word(raw, value + 8))


def _checked(pairs: _Pairs | None) -> _Pairs | None:
    return None if pairs is None or any(length > _LONGEST for pair in pairs for _, length in pair) else pairs


def _word(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 8], "little")
