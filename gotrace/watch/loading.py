"""From a plan to what traces a process: its programs in the kernel, its window, and what reads its rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gotrace.common.errors import TargetGone
from gotrace.common.vocabulary import Loss
from gotrace.kernel.compilation import CompiledPrograms
from gotrace.kernel.kallsyms import KernelSymbols
from gotrace.kernel.program import Options
from gotrace.kernel.tracer import Subject, Tracer
from gotrace.model.stacks import StackModel
from gotrace.plan.probes import Plan, ProbeSet
from gotrace.proc.descriptors import Descriptors
from gotrace.profile.symbolize import Symbolizer
from gotrace.watch.requests.watcher import Requests
from gotrace.watch.rows import Rows
from gotrace.watch.tally import Tally
from gotrace.watch.target import OpenTarget
from gotrace.watch.window import Window

_SPARE_GOROUTINES = 1 << 16


@dataclass(frozen=True)
class Loaded:
    """What traces one process. `options` are those that it was loaded with; `requests` is None without any."""

    options: Options
    tracer: Tracer
    window: Window
    rows: Rows
    requests: Requests | None


def load_process(
    target: OpenTarget, plan: Plan, options: Options, compiled: CompiledPrograms, kernel: dict[str, int], losses: dict[Loss, int],
) -> Loaded:
    """Loads the programs, verified for this process. `kernel` are the offsets in the kernel's structs that the tracepoints need, empty
    without them; `losses` are the process's.

    Raises:
        Refused, TargetGone: the kernel does not take a map or a program, or the process has ended.
    """
    pid = target.process.pid
    try:
        goroutines = target.reader.count()
    except ProcessLookupError:
        raise TargetGone(f"process {pid} ended while it was being examined") from None
    wanted = max(options.max_goroutines, 2 * goroutines + _SPARE_GOROUTINES)
    options = replace(options, max_goroutines=wanted, spans=len(plan.spans))
    subject = Subject(pid, target.process.exe_path, target.binary.layout, target.bias, kernel)
    symbols = KernelSymbols()
    # Reads the names now: while the window is open there is other work. The verifier runs without the GIL.
    tracer = Tracer.load(subject, plan, options, compiled, symbols.load if kernel else None)
    model = StackModel(target.binary, target.bias, symbols)
    symbolizer = Symbolizer(model, symbols, Descriptors(pid))
    tally = Tally(pid, model, symbolizer, plan.probe_set is ProbeSet.LEAN, bool(options.sample_period_ns))
    requests = None
    if plan.spans:
        requests = Requests(tracer.tables, tally, plan, target.bias, pid, options.exemplars, target.binary.stop_reasons)
    window = Window(target, plan, tracer, symbols, options, losses)
    return Loaded(options, tracer, window, Rows(tracer, model, tally, losses), requests)
