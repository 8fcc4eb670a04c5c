"""From the bytes of the kernel's tables to records, and back. Layouts: gotrace/kernel/structs.py."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence

from gotrace.common.histogram import BUCKETS, bucket_of, bucket_range
from gotrace.kernel.records import NO_STACK, IntervalRow, KernelEvent, KernelObject, LabelValues, RawStack, RowKey
from gotrace.kernel.structs import (
    EVENT_GOES_ON,
    EVENT_MAY_GO_ON,
    LABEL_ABSENT,
    LABEL_VALUE,
    MAX_FRAMES,
    STACK_EXACT,
    STACK_IN_PROLOGUE,
    STACK_IN_TRANSIT,
    STACK_KERNEL,
    STACK_TRUNCATED,
    STACK_UNREADABLE,
    WANTED_KEY,
    WANTED_LABELS,
    IntervalValue,
    Object,
    Stack,
    WantedLabels,
)

_EVENT = struct.Struct("<8x4Q 6Q4I II")
"""A record of the ring buffer: its header, then `struct event`."""
_KEY = struct.Struct("<6Q4I")
_FIGURES = struct.Struct("<13Q")
_HISTOGRAM = slice(IntervalValue.histogram.offset, IntervalValue.histogram.offset + 4 * BUCKETS)
_MASK = (1 << 64) - 1


def parse_events(raw: bytes) -> list[KernelEvent]:
    """Parses records of the ring buffer, in a row, as `RingBuffer.take` returns them."""
    return [
        KernelEvent(
            start, duration, goid, waker_goid, RowKey(*key), tid, bool(flags & EVENT_MAY_GO_ON), bool(flags & EVENT_GOES_ON)
        )
        for start, duration, goid, waker_goid, *key, tid, flags in _EVENT.iter_unpack(raw)
    ]


def parse_row(raw_key: bytes, raw: memoryview, before: IntervalRow | None = None) -> IntervalRow:
    """Parses an element of the map of intervals. What its key names in other maps is that of the same row `before`; else it is not filled
    in."""
    count, total, maximum, low, high, in_progress, stopped, halted, late, *rest = _FIGURES.unpack_from(raw)
    long_runs, long_run_max, margin, variance = rest
    # A row fills a few adjacent buckets: the zeros before and after them are not checked one by one.
    buckets = bytes(raw[_HISTOGRAM])
    first, end = (len(buckets) - len(buckets.lstrip(b"\0"))) // 4, (len(buckets.rstrip(b"\0")) + 3) // 4
    filled = memoryview(buckets)[4 * first : 4 * end].cast("I")
    top = max(0, end - 1)
    # A program from an older compiler, or for an older kernel, can lose the largest value in a race (compare_and_swap in bpf/record.c).
    if bucket_of(maximum) < top:
        maximum = bucket_range(top)[0]
    if before is None:
        before = IntervalRow(RowKey(*_KEY.unpack(raw_key)), NO_STACK)
    return IntervalRow(
        before.key, before.stack, before.kernel_stack, before.waker, before.object, before.cases,
        count, total, maximum, low + (high << 32), in_progress, stopped, halted, late, long_runs, long_run_max, margin, variance,
        {bucket: number for bucket, number in enumerate(filled, first) if number}, before.labels,
    )


def parse_stack(raw: bytes) -> RawStack:
    """Parses a `struct stack`."""
    flags, depth, span, first, leaf_caller, async_caller = struct.unpack_from("<IIIIQQ", raw)
    depth = min(depth, Stack.pcs.size // 8)
    pcs = struct.unpack_from(f"<{depth}Q", raw, Stack.pcs.offset)
    return RawStack(
        pcs, leaf_caller, bool(flags & STACK_IN_PROLOGUE), async_caller, bool(flags & STACK_EXACT),
        bool(flags & STACK_TRUNCATED), bool(flags & STACK_UNREADABLE), bool(flags & STACK_IN_TRANSIT),
        bool(flags & STACK_KERNEL), span, first,
    )


def pack_stack(pcs: tuple[int, ...], exact: bool = False, unreadable: bool = False) -> Stack:
    """The reverse, for program counters that were read from memory."""
    value = Stack(depth=min(len(pcs), MAX_FRAMES), flags=(STACK_EXACT if exact else 0) | (STACK_UNREADABLE if unreadable else 0))
    value.pcs[: value.depth] = pcs[: value.depth]
    return value


def parse_object(raw: Object, path_of: Callable[[int], bytes | None]) -> KernelObject:
    """Parses a `struct object`; `path_of` returns the path of a unix socket by its number."""
    path, peer = "", bytes(raw.peer)
    if raw.family == socket.AF_UNIX:
        kept = path_of(int.from_bytes(peer[:8], "little"))
        if kept is not None:
            # An abstract name begins with a zero byte and has no terminator; it is shown as in ss(8).
            text = b"@" + kept[1:].rstrip(b"\0") if kept[:1] == b"\0" else kept.partition(b"\0")[0]
            path = text.decode("utf-8", "replace")
    return KernelObject(
        raw.fd, raw.mode, raw.ino, raw.dev, raw.family, raw.type, raw.state, bytes(raw.local), raw.local_port, peer,
        int.from_bytes(raw.peer_port.to_bytes(2, "little"), "big"), path,
    )


def pack_object(thing: KernelObject) -> Object:
    """The reverse, for a file that was found in /proc."""
    raw = Object(
        fd=thing.fd, mode=thing.mode, ino=thing.ino, dev=thing.dev, family=thing.family, type=thing.type,
        state=thing.state, local_port=thing.local_port,
        peer_port=int.from_bytes(thing.peer_port.to_bytes(2, "big"), "little"),
    )
    raw.local[: len(thing.local)] = thing.local
    raw.peer[: len(thing.peer)] = thing.peer
    return raw


def parse_labels(raw: WantedLabels) -> LabelValues:
    """Parses a `struct label_values`. What is longer than the kernel side keeps ends in three dots."""
    return tuple(
        None if length == LABEL_ABSENT else decode_label(bytes(value)[: min(length, LABEL_VALUE)], length)
        for value, length in zip(raw.value, raw.bytes, strict=True)
    )


def decode_label(kept: bytes, length: int) -> str:
    """The value of a label of that many bytes, of which the first are `kept`."""
    return kept.decode("utf-8", "replace") + ("..." if length > len(kept) else "")


def pack_labels(values: Sequence[tuple[bytes, int] | None]) -> WantedLabels:
    """The reverse, for values that were read from memory: of each the first `LABEL_VALUE` bytes, and the length."""
    raw = WantedLabels()
    for index in range(WANTED_LABELS):
        value = values[index] if index < len(values) else None
        kept, raw.bytes[index] = value or (b"", LABEL_ABSENT)
        raw.value[index][: len(kept)] = kept
    return raw


def labels_hash(raw: WantedLabels) -> int:
    """Their number in the kernel's table (bpf/labels.c: read_wanted)."""
    value = 0
    for length in raw.bytes:
        value = _mix(value, length)
    for word, in struct.iter_unpack("<Q", bytes(raw)[WantedLabels.value.offset :]):
        value = _mix(value, word)
    return value | 4


def label_key_hash(key: bytes) -> int:
    """What bpf/labels.c: take_wanted knows a label's key by."""
    value = _mix(0, len(key))
    for word, in struct.iter_unpack("<Q", key.ljust(WANTED_KEY, b"\0")):
        value = _mix(value, word)
    return value


def _mix(value: int, word: int) -> int:
    value = ((value ^ word) * 0x9E3779B97F4A7C15) & _MASK
    return value ^ (value >> 29)


def mixed(value: int, word: int) -> int:
    """What bpf/stack.c makes of a hash and one more word."""
    return _mix(value, word)


def stack_hash(pcs: tuple[int, ...]) -> int:
    """The hash that bpf/stack.c gives a whole stack of these program counters: a stack read from memory gets the same number."""
    value = 0
    for pc in pcs:
        value = _mix(value, pc)
    return _mix(value, 0)


def member_hash(key: RowKey, objects: bool = False) -> int:
    """The first half of `struct member_key` for a row; `objects`: goroutines are counted by what they wait for."""
    number = _mix(_mix(_mix(key.stack, key.reason), key.kind), key.labels)
    return _mix(number, key.object) if objects else number


def row_hash(key: RowKey) -> int:
    """What bpf/spans.c calls a row of the map of intervals."""
    value = 0
    for word in (key.stack, key.kernel_stack, key.waker, key.object, key.goid, key.labels, key.reason | key.kind << 32):
        value = _mix(value, word)
    return _mix(value, key.part | key.syscall << 32)
