"""From a plan to what traces a process: its programs in the kernel, its window, and what reads its rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gotrace.common.errors import TargetGone
from gotrace.common.vocabulary import Loss
from gotrace.kernel.compilation import CompiledPrograms
from gotrace.kernel.kallsyms import KernelSymbols, kernel_symbols
from gotrace.kernel.program import LABELS_AS_LIST, LABELS_AS_MAP, Options
from gotrace.kernel.tracer import Subject, Tracer
from gotrace.kernel.waited import ObjectLayout, reasons_of
from gotrace.live.labels import LIST_SINCE
from gotrace.model.stacks import StackModel
from gotrace.plan.probes import Plan, ProbeSet
from gotrace.proc.descriptors import Descriptors
from gotrace.profile.symbolize import Symbolizer
from gotrace.profile.waited import ObjectNames
from gotrace.watch.requests.serving import Serving
from gotrace.watch.requests.watcher import RequestOptions, Requests
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
    symbols: KernelSymbols


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
    labels = _labels(target) if options.request_labels or options.label_keys else ""
    objects = _objects(target) if options.objects_asked else None
    options = replace(options, max_goroutines=wanted, spans=len(plan.spans), labels=labels, objects=objects)
    subject = Subject(pid, target.process.exe_path, target.binary.layout, target.bias, kernel)
    symbols = kernel_symbols()
    # Reads the names now: while the window is open there is other work. The verifier runs without the GIL.
    tracer = Tracer.load(subject, plan, options, compiled, symbols.load if kernel else None)
    model = StackModel(target.binary, target.bias, symbols)
    symbolizer = Symbolizer(model, symbols, Descriptors(pid), options.fold_ports)
    names = ObjectNames(options.objects.reasons, target.binary.wait_reasons) if options.objects is not None else None
    keys = tuple(key.decode() for key in options.label_keys)
    tally = Tally(pid, model, symbolizer, plan.probe_set is ProbeSet.LEAN, bool(options.sample_period_ns), names, keys)
    requests = None
    if plan.spans or options.objects is not None:
        reasons = target.binary.stop_reasons
        requests = Requests(
            tracer.tables, tally, plan, Serving(plan, target.binary, target.bias), target.bias, pid,
            RequestOptions(options.exemplars, options.request_names), reasons,
        )
        if options.objects is not None and options.wakers:
            requests.tell_holders(options.objects.reasons, tracer.sees_threads)
    window = Window(target, plan, tracer, symbols, options, losses)
    return Loaded(options, tracer, window, Rows(tracer, model, tally, losses), requests, symbols)


def _objects(target: OpenTarget) -> ObjectLayout:
    """How it is known what its goroutines wait for."""
    binary = target.binary
    semtable = binary.semtable
    at = semtable + target.bias if semtable is not None else 0
    return ObjectLayout(reasons_of(binary.wait_reasons), binary.wait_layout, at)


def _labels(target: OpenTarget) -> str:
    """How profiler labels lie in the process: `Options.labels`."""
    version = target.binary.version
    if version is None or target.binary.layout.g_labels is None:
        return ""
    return LABELS_AS_LIST if version >= LIST_SINCE else LABELS_AS_MAP
