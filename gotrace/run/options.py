"""What a trace is to do, and what each part needs for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gotrace.common.errors import UsageError
from gotrace.common.vocabulary import CONTINUED, Mode, StartKind, State
from gotrace.export import HAS_SINGLES, NEEDS_TIMELINE
from gotrace.kernel.host import SyscallSource
from gotrace.kernel.program import Options
from gotrace.kernel.structs import WANTED_KEY, WANTED_LABELS
from gotrace.plan.probes import ProbeSet
from gotrace.profile.hotspots import Thresholds
from gotrace.watch.sampled import BUSIEST, BUSIEST_AS_ASKED, DEFAULT_RATE_HZ, SampleOptions

_KINDS_OF_STATE = {
    State.WAITING: {StartKind.PARK, StartKind.COROSWITCH},
    State.PREEMPTED: {StartKind.GOSCHED, StartKind.YIELD, StartKind.PREEMPT_PARK},
    State.SYSCALL: {StartKind.SYSCALL, StartKind.FAULT},
    # The later parts of intervals of any kind.
    State.RUNNABLE: set(StartKind),
    State.RUNQUEUE: {StartKind.SYSCALL, StartKind.FAULT, StartKind.CPU, StartKind.THROTTLED},
    State.NETPOLL: {StartKind.PARK},
}
_INFERRED = {StartKind.BEFORE, StartKind.SCHEDULE}


@dataclass(frozen=True)
class AttachOptions:
    """What a trace is to do. Durations are ns; `duration_ns` 0 means until stopped. An empty filter keeps all. `syscalls` is ``auto`` or
    the value of a SyscallSource; `sample_rate_hz` is for mode ``sample``, None for its default. `max_overhead` is in percent of the CPU
    time that a target uses for itself (gotrace/governor/policy.py); 0: no cap.

    `requests`: record requests of known servers; `spans`: functions whose calls are recorded, too. Outputs have requests of at least
    `slower_than_ns`, in the `band` between two fractions; the `exemplars` slowest are kept one by one, with
    method and path unless `request_names` is false. `objects`: waits are told apart by what they are for. `verdicts`: the processes are
    judged as the trace ends. `labels`: the keys of the profiler labels by which goroutines are kept apart; `no_labels`: no labels are
    read, not those of requests either. `stands_back`: with the lowest niceness, where that leaves it on time; not for one of several
    threads, for which the others would have to wait while it has the interpreter and no CPU. `windows`: to save cost, it may be
    traced in windows with pauses between them, in which nothing is seen."""

    pids: tuple[int, ...]
    duration_ns: int = 30_000_000_000
    outputs: tuple[str, ...] = ()
    force: bool = False
    min_block_ns: int = 0
    sample_period_ns: int = 0
    probe_set: ProbeSet = ProbeSet.COMPLETE
    reasons: tuple[str, ...] = ()
    states: tuple[State, ...] = ()
    goid: int = 0
    match: str = ""
    per_goroutine: bool = False
    events_over_ns: int | None = None
    wakers: bool = True
    syscalls: str = "auto"
    runtime: bool = False
    mode: Mode = Mode.EXACT
    sample_rate_hz: float | None = None
    hot: Thresholds = Thresholds()
    max_overhead: float = 0.0
    requests: bool = True
    spans: tuple[str, ...] = ()
    slower_than_ns: int = 0
    band: tuple[float, float] | None = None
    exemplars: int = 10
    request_names: bool = True
    stands_back: bool = True
    windows: bool = True
    objects: bool = False
    verdicts: bool = False
    labels: tuple[str, ...] = ()
    no_labels: bool = False
    fold_ports: bool = False
    ring_bytes: int = 1 << 23

    @property
    def wants_timeline(self) -> bool:
        """Whether an output has a time axis."""
        return any(output.lower().endswith(NEEDS_TIMELINE) for output in self.outputs)

    @property
    def keeps_singles(self) -> bool:
        """Whether single intervals are kept in memory for an output: one that needs them, or one that has those that are recorded."""
        return self.wants_timeline or self.stream_ns is not None and any(one.lower().endswith(HAS_SINGLES) for one in self.outputs)

    @property
    def governed(self) -> bool:
        """Whether the cost has a cap."""
        return self.max_overhead > 0 and self.mode is not Mode.SAMPLE

    @property
    def stream_ns(self) -> int | None:
        """The minimum length of a single interval; None: none are recorded."""
        wanted = self.per_goroutine or self.wants_timeline
        return 0 if wanted and self.events_over_ns is None else self.events_over_ns

    def for_kernel(self, wait_reasons: Sequence[str]) -> Options:
        """The options of the BPF programs for a process with these wait reasons, by number."""
        kinds = reasons = None
        if self.states:
            kinds = frozenset(k for state in self.states for k in _KINDS_OF_STATE.get(state, ())) | _INFERRED
        if self.reasons and not CONTINUED & set(self.reasons):  # those are parts of intervals of any reason
            reasons = frozenset(n for n, text in enumerate(wait_reasons) if text in self.reasons)
        return Options(
            min_block_ns=self.min_block_ns, sample_period_ns=self.sample_period_ns, only_goid=self.goid,
            per_goroutine=self.per_goroutine, kinds=kinds, reasons=reasons, stream_ns=self.stream_ns,
            wakers=self.wakers and self.mode is not Mode.LEAN, governed=self.governed, exemplars=self.exemplars,
            request_names=self.request_names, request_labels=self.request_names and not self.no_labels,
            label_keys=tuple(key.encode() for key in self.labels), processes=len(self.pids), objects_asked=self.objects,
            fold_ports=self.fold_ports, ring_bytes=self.ring_bytes,
        )

    def for_samples(self) -> SampleOptions:
        """The options of mode ``sample``."""
        return SampleOptions(
            rate_hz=self.sample_rate_hz or DEFAULT_RATE_HZ, busiest=BUSIEST if self.sample_rate_hz is None else BUSIEST_AS_ASKED,
            per_goroutine=self.per_goroutine, only_goid=self.goid, min_block_ns=self.min_block_ns, stream_ns=self.stream_ns,
            syscalls=self.syscalls != "none", label_keys=self.labels, fold_ports=self.fold_ports,
        )

    def filters(self, syscalls: SyscallSource) -> list[str]:
        """The filters in words; `syscalls` is the source that was chosen."""
        texts = [f"state {state.value}" for state in self.states] + [f"reason {reason}" for reason in self.reasons]
        for wanted, text in (
            (self.goid, f"goroutine {self.goid}"),
            (self.match, f"stacks matching {self.match}"),
            (self.min_block_ns, f"intervals of at least {self.min_block_ns} ns"),
            (self.sample_period_ns, f"sampled below {self.sample_period_ns} ns (counts and totals are estimates)"),
            (syscalls is SyscallSource.UPROBES,
             "system calls as Go sees them (uprobes): of 20 us or more, asleep or not"),
            (self.probe_set is not ProbeSet.COMPLETE, f"probe set {self.probe_set.value}"),
        ):
            if wanted:
                texts.append(text)
        return texts


def check_labels(options: AttachOptions) -> None:
    """Raises UsageError if the labels by which goroutines are to be kept apart can't be told."""
    if options.labels and options.no_labels:
        raise UsageError("--label and --no-labels contradict each other", "leave one out")
    if len(options.labels) > WANTED_LABELS:
        raise UsageError(f"--label is given {len(options.labels)} times", f"at most {WANTED_LABELS} labels keep goroutines apart")
    for key in options.labels:
        if not key.isprintable():
            # Also bytes that are no UTF-8, which arrive as surrogates.
            raise UsageError(f"--label {key!r}: a key with unprintable characters can't be told", "--label tenant")
        if not key or "=" in key or len(key.encode()) > WANTED_KEY:
            hint = "gotrace report CAPTURE --label KEY=VALUE chooses by value" if "=" in key else "--label tenant"
            raise UsageError(f"--label {key!r}: a key has 1 to {WANTED_KEY} bytes and no '='", hint)


def check_mode(options: AttachOptions) -> None:
    """Raises UsageError if an option makes no sense in the mode."""
    if options.objects and (options.mode is not Mode.EXACT or options.probe_set is not ProbeSet.COMPLETE):
        raise UsageError(
            "--objects is for --mode exact, with all its probes: what is waited for is read where goroutines park",
            "leave --mode and --probes out",
        )
    if options.mode is Mode.LEAN:
        if options.probe_set is not ProbeSet.COMPLETE:
            raise UsageError("--probes is for --mode exact: lean has a set of its own", "leave --probes out")
        if options.syscalls in ("uprobes", "none"):
            raise UsageError(
                "--mode lean needs the kernel's tracepoints: they tell when a thread has nothing to run",
                "leave --no-kernel and --syscalls out, or use --mode exact",
            )
    if options.mode is not Mode.SAMPLE:
        return
    shortest_ns = round(2e9 / (options.sample_rate_hz or DEFAULT_RATE_HZ))
    for wrong, what, hint in (
        (options.sample_period_ns, "--sample-period is for probes: with --mode sample there are none",
         "--sample-rate HZ sets how often goroutines are sampled"),
        (options.probe_set is not ProbeSet.COMPLETE, "--probes is for probes: with --mode sample there are none",
         "leave --probes out, or use --mode exact"),
        (options.syscalls in ("tracepoints", "uprobes"), "--syscalls is for probes: with --mode sample there are none",
         "leave --syscalls out, or use --mode exact"),
        (options.spans, "--span is for probes: with --mode sample there are none", "leave --span out, or use --mode exact"),
        (0 < options.min_block_ns < shortest_ns,
         f"--min-block {options.min_block_ns / 1e6:g}ms is less than two samples of --mode sample ({shortest_ns / 1e6:g}ms)",
         "a higher --sample-rate, or --mode exact"),
    ):
        if wrong:
            raise UsageError(what, hint)
