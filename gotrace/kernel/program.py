"""What bpf/*.c is compiled with, and how it is set up."""

from __future__ import annotations

import ctypes as ct
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gotrace.common.errors import Refused
from gotrace.common.histogram import BUCKETS, MAX_BITS, SUBBITS, SUBBUCKETS
from gotrace.common.vocabulary import OUTSIDE_CODE, SANITIZER_CODE, StartKind, Stat
from gotrace.kernel.bpf import possible_cpus
from gotrace.kernel.structs import MAX_FRAMES, MAX_PAUSES, NO_SYSCALL, SCRATCH_SLOTS, History
from gotrace.kernel.waited import MOST_BEFORE, MOST_OBJECTS, ObjectLayout

MAX_G_READ = 248
MAX_FRAME_SIZES = 1 << 13
"""How many return addresses the kernel side knows the frame of."""
_MORE_ROWS = 3 << 14
"""Rows of stacks, with their wakers and the like, beyond `Options.max_stacks`: in a map that gets memory only for what it contains."""
_MOST_GOROUTINES = 1 << 22
"""How many goroutines can be seen to move, and pairs of goroutine and stack. An empty map of this size takes the kernel 64 MB,
whatever the target claims about itself."""
_MOST_REQUESTS = 1 << 14
"""Goroutines that have served one, of all functions."""
_HISTORY_BYTES = 1 << 26
"""Of the rings of all CPUs, with few of them 3 MB each."""
LOAD_MARK = 0x676F7472
"""The upper half of an immediate that the loader replaces; the lower half is the constant's place in `constant_names`."""
SOURCES = (
    "maps.c", "stack.c", "resuming.c", "kernel_stack.c", "labels.c", "spans.c", "record.c", "objects.c", "waited.c", "starts.c",
    "goroutines.c", "wakers.c", "world.c", "task.c", "waits.c", "off_cpu.c", "threads.c", "syscalls.c", "requests.c", "exec.c",
)
"""One translation unit, in this order."""
PROGRAMS = (
    "start_park", "start_gosched", "start_yield", "start_preempt_park", "start_exit_syscall", "start_gopark",
    "start_schedule", "mark_ready", "mark_netpoll", "mark_exit", "end_interval", "on_switch", "on_waking", "on_signal", "on_data_ready",
    "on_poll_event", "enter_syscall", "exit_syscall", "stop_world", "start_world", "at_span", "target_exec",
)
"""The entry points."""
VARIANTS = {
    "end_execute": ("end_interval", {"COROSWITCH": 0}),
    "switch_coroutine": ("end_interval", {"COROSWITCH": 1}),
    "mark_ready": ("mark_ready", {"AT_CREATION": 0}),
    "mark_created": ("mark_ready", {"AT_CREATION": 1}),
}
"""Programs of a plan that are an entry point with constants of their own; all others have the entry point's name."""


LABELS_AS_LIST, LABELS_AS_MAP = "list", "map"
MOST_LABEL_SETS = 1024
"""How many different combinations of the wanted labels' values are kept."""


@dataclass(frozen=True)
class Options:
    """What the kernel side filters and keeps. Durations are ns; 0 switches the option off.

    `kinds` and `reasons` are the start kinds and wait reason numbers to keep, None for all. `stream_ns` streams single intervals of at
    least that length, None streams none. `wakers`: record what makes goroutines runnable. `governed`:
    `gotrace.watch.probed.ProbedProcess` can leave stages out, sample and pause during the trace. `spans`: how many functions serve
    requests that are recorded, with the `exemplars` slowest of each, and what these asked for, if `request_names`, and their
    profiler labels, if `request_labels`. `labels`: how profiler labels lie in the target (`LABELS_AS_LIST`, `LABELS_AS_MAP`), "" to leave
    them out; `label_keys`: those by which goroutines are kept apart, at most `WANTED_LABELS`. `objects_asked`: what
    goroutines wait for in Go is recorded, `objects`: how it is known. `processes`: how many are traced at once, which
    share the memory for the rings of what happened. `fold_ports`: connections that differ in their client's port alone are one object.
    """

    min_block_ns: int = 0
    sample_period_ns: int = 0
    only_goid: int = 0
    per_goroutine: bool = False
    kinds: frozenset[StartKind] | None = None
    reasons: frozenset[int] | None = None
    stream_ns: int | None = None
    wakers: bool = True
    governed: bool = False
    spans: int = 0
    objects_asked: bool = False
    objects: ObjectLayout | None = None
    exemplars: int = 10
    request_names: bool = True
    request_labels: bool = True
    labels: str = ""
    label_keys: tuple[bytes, ...] = ()
    processes: int = 1
    fold_ports: bool = False
    max_goroutines: int = 1 << 16
    max_stacks: int = 1 << 14
    max_objects: int = 1 << 13
    ring_bytes: int = 1 << 23


def source_folder() -> Path:
    """The folder with our C: inside an installed package, or beside it in a checkout.

    Raises:
        Refused: the installation is incomplete.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_bpf", package.parent / "bpf"):
        if (folder / SOURCES[0]).is_file():
            return folder
    raise Refused("gotrace's BPF sources are missing from the installation", "pipx install --system-site-packages .")


@cache
def constant_names() -> tuple[str, ...]:
    """The constants of bpf/at_load.h, in that order: a constant's number is its index."""
    text = (source_folder() / "at_load.h").read_text()
    return tuple(re.findall(r"^#define (\w+) AT_LOAD\(\1\)", text, re.MULTILINE))


def definitions(swaps: bool) -> dict[str, int]:
    """The -D definitions, by name, which are the same for every target. `swaps`: the kernel lets programs compare and swap."""
    defined = {
        "SWAPS": int(swaps),
        "LOAD_MARK": LOAD_MARK,
        "MAX_FRAMES": MAX_FRAMES,
        "MAX_PAUSES": MAX_PAUSES,
        "NO_SYSCALL": NO_SYSCALL,
        "OUTSIDE_CODE": OUTSIDE_CODE,
        "SANITIZER_CODE": SANITIZER_CODE,
        "MAX_G_READ": MAX_G_READ,
        "SCRATCH_SLOTS": SCRATCH_SLOTS,
        "BUCKETS": BUCKETS,
        "SUBBITS": SUBBITS,
        "SUBBUCKETS": SUBBUCKETS,
        "MAX_BITS": MAX_BITS,
        "STAT_COUNT": len(Stat),
    }
    defined |= {f"LOAD_{name}": number for number, name in enumerate(constant_names())}
    defined |= {f"STAT_{stat.name}": stat.value for stat in Stat}
    defined |= {f"KIND_{kind.name}": kind.value for kind in StartKind}
    return defined


FD_SYSCALLS = frozenset((
    0, 1, 3, 5, 8, 16, 17, 18, 19, 20, 40, 42, 43, 44, 45, 46, 47, 49, 50, 51, 52, 72, 73, 74, 75, 77, 81, 91, 93, 217, 221,
    232, 233, 257, 275, 277, 280, 281, 285, 286, 287, 288, 292, 295, 296, 299, 306, 307, 326, 327, 328, 426, 437, 441,
))
"""x86-64 system calls whose first argument is a file descriptor (arch/x86/entry/syscalls/syscall_64.tbl)."""


def map_entries(options: Options, may_grow: bool) -> dict[str, int]:
    """The number of entries of each map that the C source does not size. `may_grow`: such maps may get their memory on demand."""
    goroutines = min(options.max_goroutines, _MOST_GOROUTINES)
    return {
        "goroutines": goroutines,
        "intervals": options.max_stacks,
        "more_intervals": _MORE_ROWS if may_grow else 1,
        "more_stacks": _MORE_ROWS if may_grow else 1,
        "stacks": options.max_stacks,
        "frame_sizes": MAX_FRAME_SIZES,
        "threads": 32768,
        "waits": 16384,
        "objects": options.max_objects,
        "watched": options.max_objects,
        "unix_paths": options.max_objects,
        "members": min(4 * max(goroutines, options.max_stacks), _MOST_GOROUTINES),
        "labelled": goroutines if options.label_keys else 1,
        "label_values": MOST_LABEL_SETS if options.label_keys else 1,
        "last_g": 32768,
        "events": options.ring_bytes if options.stream_ns is not None else 4096,
        "span_sites": 1024 if options.spans else 1,
        "spans": _MOST_REQUESTS if options.spans else 1,
        "span_rows": 1 << 16 if options.spans else 1,
        "told": 1 << 12 if options.spans else 1,
        "history": possible_cpus() * history_chunks(options.processes) if options.spans or options.objects else 1,
        "waited_channels": MOST_OBJECTS if options.objects else 1,
        "waited_locks": MOST_OBJECTS if options.objects else 1,
        "waited_before": MOST_BEFORE if options.objects else 1,
    }


def history_chunks(processes: int) -> int:
    """Of how many chunks the ring of each CPU is: a power of two."""
    wanted = max(4, min(64, _HISTORY_BYTES // ct.sizeof(History) // possible_cpus() // processes))
    return 1 << wanted.bit_length() - 1
