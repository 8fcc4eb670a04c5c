"""Turns a plan and the user's options into the definitions that bpf/offcpu.c is compiled with, and compiles it."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

from gotrace.errors import Refused
from gotrace.gobin.layout import Layout
from gotrace.histogram import BUCKETS, MAX_BITS, SUBBITS, SUBBUCKETS
from gotrace.kernel.structs import MAX_FRAMES
from gotrace.plan.probes import Plan, ProbeSet
from gotrace.vocabulary import Stat, StartKind

if TYPE_CHECKING:
    from bcc import BPF

MAX_REASONS = 64
PROGRAMS = ("end_execute", "end_gogo")
"""Those of the C source that not every plan uses and that cost the compiler time."""


@dataclass(frozen=True)
class Options:
    """What the kernel side filters and keeps. Durations are ns; 0 switches the option off.

    `kinds` and `reasons` are the start kinds and wait reason numbers to keep, None for all. `stream_ns` streams single
    intervals of at least that length, None streams none.
    """

    min_block_ns: int = 0
    sample_period_ns: int = 0
    only_goid: int = 0
    per_goroutine: bool = False
    kinds: frozenset[StartKind] | None = None
    reasons: frozenset[int] | None = None
    stream_ns: int | None = None
    max_goroutines: int = 1 << 16
    max_stacks: int = 1 << 14
    ring_pages: int = 1 << 10


def source_folder() -> Path:
    """The folder with our C: inside an installed package, else beside it in a checkout.

    Raises:
        Refused: the installation is incomplete.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_bpf", package.parent / "bpf"):
        if (folder / "offcpu.c").is_file():
            return folder
    raise Refused("gotrace's BPF sources are missing from the installation", "pipx install --system-site-packages .")


def definitions(pid: int, plan: Plan, layout: Layout, bias: int, options: Options) -> dict[str, int]:
    """The -D definitions of bpf/offcpu.c, by name. `pid` is the target's in our own PID namespace."""
    namespace = os.stat("/proc/self/ns/pid")
    kinds = options.kinds
    reasons = options.reasons
    defined = {
        "TARGET_PID": pid,
        "PID_NAMESPACE_DEV": namespace.st_dev,
        "PID_NAMESPACE_INO": namespace.st_ino,
        "G_STACK_LO": layout.g_stack_lo,
        "G_STACK_HI": layout.g_stack_hi,
        "G_SCHED_SP": layout.g_sched_sp,
        "G_SCHED_PC": layout.g_sched_pc,
        "G_SCHED_BP": layout.g_sched_bp,
        "G_GOID": layout.g_goid,
        "G_WAITREASON": layout.g_waitreason,
        "CGOCALLBACK_FRAME": plan.callback.frame,
        "ASMCGOCALL_FRAME": plan.callback.asmcgocall_frame,
        "CGOCALL_FRAME": plan.callback.cgocall_frame,
        "ASSIST_FRAME": plan.assist_frame,
        "MCALL": plan.mcall + bias,
        "MAX_FRAMES": MAX_FRAMES,
        "BUCKETS": BUCKETS,
        "SUBBITS": SUBBITS,
        "SUBBUCKETS": SUBBUCKETS,
        "MAX_BITS": MAX_BITS,
        "MAX_GOROUTINES": options.max_goroutines,
        "MAX_STACKS": options.max_stacks,
        "MAX_MEMBERS": max(options.max_goroutines, 4 * options.max_stacks),
        "MAX_THREADS": 32768,
        "STAT_COUNT": len(Stat),
        "BY_THREAD": int(plan.probe_set is ProbeSet.SCHEDULE),
        "MIN_BLOCK_NS": options.min_block_ns,
        "SAMPLE_NS": options.sample_period_ns,
        "ONLY_GOID": options.only_goid,
        "PER_GOROUTINE": int(options.per_goroutine),
        "KIND_FILTER": int(kinds is not None or reasons is not None),
        "KIND_MASK": sum(1 << kind for kind in (StartKind if kinds is None else kinds)),
        "REASON_MASK": sum(1 << reason for reason in (range(MAX_REASONS) if reasons is None else reasons)),
        "STREAM": int(options.stream_ns is not None),
        "STREAM_NS": options.stream_ns or 0,
        "RING_PAGES": options.ring_pages,
    }
    for name, where in (
        ("GOPARK", plan.gopark),
        ("EXECUTE", plan.execute),
        ("COROSWITCH", plan.coroswitch),
        ("ASYNC", plan.async_preempt),
        ("TEXT", plan.text),
        ("CGOCALLBACK", plan.callback.cgocallback),
        ("ASSIST", plan.assist),
    ):
        shift = bias if where.high else 0
        defined[f"{name}_LO"], defined[f"{name}_HI"] = where.low + shift, where.high + shift
    programs = {probe.program for probe in plan.probes}
    defined |= {f"WITH_{name.upper()}": int(name in programs or not programs) for name in PROGRAMS}
    defined |= {f"STAT_{stat.name}": stat.value for stat in Stat}
    defined |= {f"KIND_{kind.name}": kind.value for kind in StartKind}
    return defined


def compile_program(defined: dict[str, int]) -> BPF:
    """Compiles bpf/offcpu.c through bcc, against our own header tree.

    Raises:
        Refused: bcc is missing, is PyPI's unrelated package of that name, or rejects the program.
    """
    folder = source_folder()
    os.environ["BCC_KERNEL_SOURCE"] = str(folder / "include")
    bpf_class = import_bcc()
    flags = [f"-I{folder}", "-Wno-everything"]
    flags += [f"-D{name}={value}{'ULL' if value > 0x7FFFFFFF else ''}" for name, value in sorted(defined.items())]
    source = (folder / "offcpu.c").read_bytes()
    with _captured_stderr() as said:
        try:
            return bpf_class(text=source, cflags=flags)
        except Exception as error:  # bcc raises bare Exception
            message = str(error)
    raise Refused(
        f"the BPF program was not accepted: {_first_error(said.text) or message}",
        f"the whole report is in {_keep_log(said.text)}; gotrace doctor lists what this kernel allows",
    )


def import_bcc() -> type[BPF]:
    """bcc's BPF class; raises Refused if bcc is missing or is the PyPI package that only shares its name."""
    try:
        from bcc import BPF
    except ModuleNotFoundError:
        raise Refused(
            f"Python's bcc module is not installed for {sys.executable}",
            "sudo apt-get install python3-bpfcc, and a Python that sees the system's packages (./scripts/install)",
        ) from None
    except ImportError as error:
        raise Refused(
            f"the installed bcc module is not the BPF Compiler Collection: {error}",
            "pip uninstall bcc; sudo apt-get install python3-bpfcc (PyPI's bcc is an unrelated package)",
        ) from None
    return BPF


class _Said:
    text = ""


@contextmanager
def _captured_stderr() -> Iterator[_Said]:
    # The compiler and the verifier write to file descriptor 2 from C.
    import tempfile

    said = _Said()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            said.text = file.read(1 << 20).decode("utf-8", "replace")


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[-1] if lines else "")[:200]


def _keep_log(text: str) -> str:
    import tempfile

    with tempfile.NamedTemporaryFile("w", prefix="gotrace-bpf-", suffix=".log", delete=False) as file:
        file.write(text)
        return file.name
