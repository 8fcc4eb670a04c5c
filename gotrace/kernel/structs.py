"""ctypes mirrors of bpf/offcpu.h; tests/unit/test_structs.py compiles the header and compares every offset."""

from __future__ import annotations

import ctypes as ct

from gotrace.histogram import BUCKETS

MAX_FRAMES = 128

PHASE_OFF, PHASE_TRACE, PHASE_DRAIN = 0, 1, 2
STACK_TRUNCATED, STACK_UNREADABLE, STACK_IN_PROLOGUE = 1, 2, 4


class Config(ct.Structure):
    """``struct config``"""

    _fields_ = [(name, ct.c_uint64) for name in ("phase", "window_start_ns", "window_end_ns", "execed")]


class Goroutine(ct.Structure):
    """``struct goroutine``"""

    _fields_ = [("start_ns", ct.c_uint64), ("last_key", ct.c_uint64), ("kind", ct.c_uint32), ("unused", ct.c_uint32)]


class IntervalKey(ct.Structure):
    """``struct interval_key``"""

    _fields_ = [("stack", ct.c_uint64), ("goid", ct.c_uint64), ("reason", ct.c_uint32), ("kind", ct.c_uint32)]


class IntervalValue(ct.Structure):
    """``struct interval_value``"""

    _fields_ = [
        *((name, ct.c_uint64) for name in (
            "count", "total_ns", "max_ns", "squares_low", "squares_high", "goroutines", "in_progress",
        )),
        ("flags", ct.c_uint32),
        ("depth", ct.c_uint32),
        ("prologue_caller", ct.c_uint64),
        ("async_caller", ct.c_uint64),
        ("async_at", ct.c_uint32),
        ("unused", ct.c_uint32),
        ("pcs", ct.c_uint64 * MAX_FRAMES),
        ("histogram", ct.c_uint32 * BUCKETS),
    ]


class MemberKey(ct.Structure):
    """``struct member_key``"""

    _fields_ = [("key", ct.c_uint64), ("goid", ct.c_uint64)]


class Event(ct.Structure):
    """``struct event``"""

    _fields_ = [
        *((name, ct.c_uint64) for name in ("start_ns", "duration_ns", "goid", "stack", "key_goid")),
        ("reason", ct.c_uint32),
        ("kind", ct.c_uint32),
    ]
