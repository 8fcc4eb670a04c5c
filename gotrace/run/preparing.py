"""From options to processes that are ready to be traced: opened, planned for, with the programs loaded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from gotrace.common.errors import Refused, UsageError
from gotrace.common.vocabulary import CONTINUED, Mode
from gotrace.kernel.calibrate import trap_cost_ns
from gotrace.kernel.compilation import Compilation
from gotrace.kernel.host import SyscallSource, choose_syscall_source
from gotrace.kernel.stats import close as close_stats
from gotrace.kernel.stats import enable_stats
from gotrace.model.stacks import OTHER_REASONS
from gotrace.model.syscalls import syscall_names
from gotrace.plan.probes import ProbeSet
from gotrace.run.options import AttachOptions
from gotrace.watch.probed import ProbedProcess
from gotrace.watch.protocol import Watched
from gotrace.watch.sampled import SampledProcess


@dataclass
class Prepared:
    """Processes that are ready. `syscalls` is where system calls are seen, `obstacle` why not by tracepoints, `by_uprobes` whether at least
    one process uses uprobes for them. `trap_ns` is the cost of a hit on this host, None if not measured. `timed`: the kernel times
    programs during the whole trace."""

    processes: list[Watched] = field(default_factory=list)
    syscalls: SyscallSource = SyscallSource.NONE
    obstacle: str = ""
    by_uprobes: bool = False
    trap_ns: int | None = None
    timed: bool = False


def prepare(options: AttachOptions, prepared: Prepared, cleanup: ExitStack) -> None:
    """Fills `prepared`, up to a failure; `cleanup` gets what must be undone.

    Raises:
        GotraceError: the host, an option or a process does not allow the trace.
    """
    if options.mode is Mode.SAMPLE:
        for pid in options.pids:
            _add(SampledProcess.prepare(pid, options.for_samples()), prepared, cleanup)
        _check_reasons(options, prepared.processes)
    else:
        _prepare_probes(options, prepared, cleanup)


def _add(process: Watched, prepared: Prepared, cleanup: ExitStack) -> None:
    cleanup.callback(process.close)
    prepared.processes.append(process)


def _prepare_probes(options: AttachOptions, prepared: Prepared, cleanup: ExitStack) -> None:
    compilation = Compilation()  # runs in parallel with what follows
    cleanup.callback(compilation.close)
    prepared.syscalls, offsets, prepared.obstacle = choose_syscall_source(options.syscalls)
    lean = options.mode is Mode.LEAN
    if lean and prepared.syscalls is not SyscallSource.TRACEPOINTS:
        raise Refused(f"--mode lean needs the kernel's tracepoints: {prepared.obstacle}", "--mode exact, or --mode sample")
    probed = []
    for pid in options.pids:
        probe_set = ProbeSet.LEAN if lean else options.probe_set
        process = ProbedProcess.prepare(
            pid, probe_set, options.wakers and not lean, prepared.syscalls, requests=options.requests, spans=options.spans,
        )
        probed.append(process)
        _add(process, prepared, cleanup)
        prepared.obstacle = prepared.obstacle or process.obstacle
        prepared.by_uprobes = prepared.by_uprobes or bool(process.obstacle)
    _check_reasons(options, prepared.processes)
    if options.governed:
        # During the whole trace: the cost is known from it. Enabled before a hit is measured, because it makes hits cost more.
        timing = enable_stats()
        cleanup.callback(close_stats, timing)
        prepared.timed = timing is not None
    with ThreadPoolExecutor(1) as pool:
        cost = pool.submit(trap_cost_ns)
        for process in probed:
            process.load(options.for_kernel(process.binary.wait_reasons), compilation.result(), offsets)
        prepared.trap_ns = cost.result()


def _check_reasons(options: AttachOptions, processes: list[Watched]) -> None:
    for reason in options.reasons:
        known = {text for process in processes for text in process.binary.wait_reasons if text}
        known |= OTHER_REASONS | CONTINUED
        if reason not in known | syscall_names():
            raise UsageError(f"no wait reason is called {reason!r}", "one of: " + ", ".join(sorted(known)))
