"""From a pid to a process that can be traced by probes: opens it, plans, and checks the plan against its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gotrace.common.errors import Refused, TargetGone
from gotrace.gobin.binary import GoBinary
from gotrace.kernel.host import SyscallSource
from gotrace.plan.makeplan import make_plan, sanitizer_of
from gotrace.plan.probes import Plan, ProbeSet, bytes_differ
from gotrace.profile.types import Missing
from gotrace.watch.target import OpenTarget, forked_copy, missing_fields, open_target, plugins_loaded

_NO_KERNEL_STAGE = (
    "names of system calls, page faults, waits for a CPU (run queue), kernel stacks, files and sockets, long runs and running time;"
    " system calls are those of 20 us or more as Go sees them"
)


@dataclass(frozen=True)
class Planned:
    """`obstacle`: why uprobes trace system calls in this process although the host would allow tracepoints."""

    target: OpenTarget
    plan: Plan
    obstacle: str
    missing: list[Missing]
    notes: list[str]


def plan_process(
    pid: int, probe_set: ProbeSet, wakers: bool, syscalls: SyscallSource, verb: str, requests: bool = False, spans: Sequence[str] = (),
) -> Planned:
    """Opens the process, reads its binary, plans, and checks plan and layout against the live process. `verb`: the command in hints;
    `requests`, `spans`: as for `make_plan`.

    Raises:
        Refused, TargetGone, BadBinary: it can't be traced; everything is closed again.
        UsageError: one of `spans` can't be one.
    """
    target = open_target(pid, f"sudo gotrace {verb} {pid}")
    try:
        missing, obstacle = missing_fields(target.binary, pid), _no_threads(target.binary) if syscalls is SyscallSource.TRACEPOINTS else ""
        if obstacle:
            if probe_set is ProbeSet.LEAN:
                raise Refused(f"--mode lean needs to know which goroutine a thread runs, but {obstacle}", "--mode exact, or --mode sample")
            missing.append(Missing("kernel", obstacle, _NO_KERNEL_STAGE, pid))
            syscalls = SyscallSource.UPROBES
        exits = syscalls is SyscallSource.TRACEPOINTS and probe_set is not ProbeSet.LEAN
        plan = make_plan(target.binary, probe_set, wakers, exits, syscalls is SyscallSource.UPROBES, requests, spans)
        missing += [Missing(left.stage, f"{left.symbol}: {left.reason}", left.lacks, pid) for left in plan.left_out if left.stage]
        try:
            _verify(target, plan)
            missing += plugins_loaded(target, probes=True)
        except ProcessLookupError:
            raise TargetGone(f"process {pid} ended while it was being examined") from None
        return Planned(target, plan, obstacle, missing, list(filter(None, [forked_copy(target), _checks(target.binary)])))
    except BaseException:
        target.close()
        raise


def _verify(target: OpenTarget, plan: Plan) -> None:
    ranges = [(probe.site.checked + target.bias, len(probe.site.prologue)) for probe in plan.probes]
    for probe, live in zip(plan.probes, target.memory.read_many(ranges), strict=True):
        difference = bytes_differ(probe, live)
        if difference:
            raise Refused(
                f"the code of process {target.process.pid} is not that of {target.process.exe}: {difference}",
                "another tool may have patched it; gotrace attaches only where it knows the bytes",
            )


def _checks(binary: GoBinary) -> str:
    """A note if the program checks its memory accesses, else ""."""
    sanitizer = sanitizer_of(binary)
    return f"built with {sanitizer}: where threads wait for a CPU in its checks, the check is the innermost frame" if sanitizer else ""


def _no_threads(binary: GoBinary) -> str:
    """Why the goroutine of a thread can't be determined, "" if it can."""
    if binary.thread_local_g is None:
        return "where threads keep their g was not found in the machine code"
    if None in (binary.layout.g_m, binary.layout.m_curg):
        return f"the layout of runtime.m is not known for {binary.version or 'this Go version'}"
    return ""
