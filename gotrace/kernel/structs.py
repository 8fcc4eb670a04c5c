"""ctypes mirrors of bpf/shared.h; tests/unit/kernel/test_structs.py compiles the header and compares every offset."""

from __future__ import annotations

import ctypes as ct

from gotrace.common.histogram import BUCKETS

MAX_FRAMES = 128

PHASE_OFF, PHASE_TRACE = 0, 1
STACK_TRUNCATED, STACK_UNREADABLE, STACK_IN_PROLOGUE, STACK_LEAF_CALLER = 1, 2, 4, 8
GOROUTINE_BORN, GOROUTINE_UNSURE, GOROUTINE_ENDED = 1, 2, 4
EVENT_MAY_GO_ON, EVENT_GOES_ON = 1, 2
THREAD_BEFORE, THREAD_CONTINUES, THREAD_OUTSIDE, THREAD_BASE, THREAD_HALTED, THREAD_QUEUED = 1, 2, 4, 8, 16, 32
WAIT_INTERRUPTIBLE, WAIT_INTERRUPTED, WAIT_COUNTED, WAIT_SHORT, WAIT_BEFORE = 1, 2, 4, 8, 16
STACK_KERNEL, STACK_EXACT, STACK_IN_TRANSIT = 16, 32, 64
LEAF_BLOCK_BITS, LEAF_BLOCK, LEAF_PC = 4, 1 << 63, 3 << 62
BY_SIZES, BY_LEAF_SIZES = 1, 2
PARTS = 4
SCRATCH_SLOTS = 4
MAX_PAUSES = 1 << 14
NO_SYSCALL = 0xFFFFFFFF
"""In place of a system call's number that is not known."""
SPAN_FUNCTIONS, SPAN_WAITS, SPAN_LABELS = 8, 32, 4
TOLD_METHOD, TOLD_PATH = 16, 128
WANTED_LABELS, WANTED_KEY, LABEL_VALUE, LABEL_ABSENT = 4, 64, 64, 0xFFFFFFFF
LABELS_OTHER, LABELS_UNREAD = 1, 2
HAPPENED_INTERVAL, HAPPENED_REQUEST = 1, 2
HISTORY_RECORDS = 1024
SPAN_BEGUN_BEFORE = 0xFFFFFFFF
SELECT_CASES = 8
SPAN_LATE = 2
ASYNC_AT = 2
"""The index of the interrupted function in the stack of a goroutine that a signal interrupted."""


def _words(*names: str) -> list[tuple[str, type]]:
    return [(name, ct.c_uint64) for name in names]


def _halves(*names: str) -> list[tuple[str, type]]:
    return [(name, ct.c_uint32) for name in names]


class Config(ct.Structure):
    """``struct config``"""

    _fields_ = _words("phase", "window_start_ns", "window_end_ns", "execed", "tgid")


class Knobs(ct.Structure):
    """``struct knobs``"""

    _fields_ = _words("sample_ns", "creation_unseen", "span_until_ns")


class Halt(ct.Structure):
    """``struct halt``"""

    _fields_ = _words("since", "total_ns")


class World(ct.Structure):
    """``struct world``"""

    _fields_ = _words("stopped_since", "stopped_ns", "reason", "pauses")


class Pause(ct.Structure):
    """``struct pause``"""

    _fields_ = _words("start_ns", "duration_ns", "reason")


class Goroutine(ct.Structure):
    """``struct goroutine``"""

    _fields_ = _words(
        "start_ns", "data_ns", "ready_ns", "waker", "waker_goid", "object", "arrival", "stopped_at_start", "stopped_at_data",
        "stopped_at_ready", "halted_at_start", "halted_at_ready", "slice_base", "long_run_ns", "run_since", "run_ns", "off_ns", "last_key",
        "margin_ns", "last_stack", "last_waker", "last_object", "last_fp",
        "unseen_ns", "unseen_goid",
    ) + [("kind", ct.c_uint32), ("flags", ct.c_uint16), ("spans", ct.c_uint16), *_halves("thread", "last_size")]


class Thread(ct.Structure):
    """``struct thread``"""

    _fields_ = _words(
        "out_ns", "woken_ns", "g", "goid", "stack", "kernel_stack", "object", "stopped_at_out", "stopped_at_woken",
        "long_run_ns", "ran_ns", "halted_at_out", "in_ns", "base_ns", "first_sp",
    ) + _halves("kind", "syscall", "how", "throttled", "flags", "unused")


class Wait(ct.Structure):
    """``struct wait``"""

    _fields_ = _words(
        "ip", "sp", "ns", "first_ns", "part_ns", "last_ns", "stack", "kernel_stack", "object",
    ) + _halves("kind", "syscall", "flags", "unused")


class Stack(ct.Structure):
    """``struct stack``"""

    _fields_ = _halves("flags", "depth", "span", "first") + _words("prologue_caller", "async_caller") + [("pcs", ct.c_uint64 * MAX_FRAMES)]


class Object(ct.Structure):
    """``struct object``"""

    _fields_ = [
        ("ino", ct.c_uint64), *_halves("dev", "mode", "fd"),
        *((name, ct.c_uint16) for name in ("family", "type", "local_port", "peer_port")),
        ("state", ct.c_uint32), ("local", ct.c_uint8 * 16), ("peer", ct.c_uint8 * 16),
    ]


class UnixPath(ct.Structure):
    """``struct unix_path``"""

    _fields_ = [("path", ct.c_uint8 * 128)]


class Arrival(ct.Structure):
    """``struct arrival``"""

    _fields_ = _words("when", "stopped_ns", "stack")


class IntervalKey(ct.Structure):
    """``struct interval_key``"""

    _fields_ = _words("stack", "kernel_stack", "waker", "object", "goid", "labels") + _halves("reason", "kind", "part", "syscall")


class IntervalValue(ct.Structure):
    """``struct interval_value``"""

    _fields_ = _words(
        "count", "total_ns", "max_ns", "squares_low", "squares_high", "in_progress", "stopped_ns", "halted_ns", "late_ns", "long_runs",
        "long_run_max_ns", "margin_ns", "variance",
    ) + [("histogram", ct.c_uint32 * BUCKETS)]


class MemberKey(ct.Structure):
    """``struct member_key``"""

    _fields_ = _words("key", "goid")


class Event(ct.Structure):
    """``struct event``"""

    _fields_ = [*_words("start_ns", "duration_ns", "goid", "waker_goid"), ("key", IntervalKey), *_halves("tid", "flags")]


class SpanSite(ct.Structure):
    """``struct span_site``"""

    _fields_ = [*_halves("function", "kind"), *_words("sp_above", "argument")]


class SpanWait(ct.Structure):
    """``struct span_wait``"""

    _fields_ = _words("row", "ns", "count")


class SpanLabel(ct.Structure):
    """``struct span_label``"""

    _fields_ = [*_halves("key_bytes", "value_bytes"), ("key", ct.c_uint8 * 24), ("value", ct.c_uint8 * LABEL_VALUE)]


class WantedLabels(ct.Structure):
    """``struct label_values``"""

    _fields_ = [("bytes", ct.c_uint32 * WANTED_LABELS), ("value", (ct.c_uint8 * LABEL_VALUE) * WANTED_LABELS)]


class Labelled(ct.Structure):
    """``struct labelled``"""

    _fields_ = _words("at", "labels")


class SpanPlace(ct.Structure):
    """``struct span_key``"""

    _fields_ = _words("g", "function")


class OpenSpan(ct.Structure):
    """``struct span``"""

    _fields_ = [
        *_words("start_ns", "goid", "depth", "off_ns", "over_ns", "off_over_ns", "request", "labels_at"),
        ("labels", SpanLabel * SPAN_LABELS), *_halves("used", "flags"),
        ("waits", SpanWait * SPAN_WAITS),
    ]


class ToldKey(ct.Structure):
    """``struct told_key``"""

    _fields_ = _words("goid", "start_ns")


class Told(ct.Structure):
    """``struct told``"""

    _fields_ = [
        ("method", ct.c_uint8 * TOLD_METHOD), ("path", ct.c_uint8 * TOLD_PATH), *_halves("method_bytes", "path_bytes"),
        ("labels", SpanLabel * SPAN_LABELS),
    ]


class SpanFunction(ct.Structure):
    """``struct span_function``"""

    _fields_ = _words("slow_ns", "method", "url", "path")


class SpanRowKey(ct.Structure):
    """``struct span_row_key``"""

    _fields_ = [*_words("row"), *_halves("function", "bucket")]


class SpanRow(ct.Structure):
    """``struct span_row``"""

    _fields_ = _words("count", "total_ns", "cpu_ns", "max_ns")


class Happening(ct.Structure):
    """``struct happening``"""

    _fields_ = [*_words("start_ns", "duration_ns", "goid", "waker_goid", "row"), *_halves("what", "number")]


class History(ct.Structure):
    """``struct history``"""

    _fields_ = [("of", Happening * HISTORY_RECORDS)]


class HistoryHead(ct.Structure):
    """``struct history_head``"""

    _fields_ = _words("next")
