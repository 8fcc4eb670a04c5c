"""Where to probe a Go binary: which functions, at which instruction, with which registers, and what was left out.

Probe sets (``--probes``):

``complete``
    One probe for every way off the CPU (park, Gosched, yield, both preemptions, a syscall that lost its P, coroutine
    switch): each start names its kind and costs one trap. The default.
``schedule``
    ``runtime.schedule`` alone: in whatever way a goroutine left its thread, the scheduler runs next. One probe for all ways,
    but each event needs a look-up of the thread's last goroutine, and the kind is inferred from the stack.
``gopark``
    ``runtime.gopark`` alone: waits only. Gosched, preemption, lost Ps and coroutines are not seen.
``lean``
    No start probe (``--mode lean``): a goroutine has left its thread when the thread resumes the next one, or falls asleep without
    one (``sched_switch``). The start is late by the time that the scheduler searched for work, and the kind is inferred.
``ready``
    Not where goroutines leave the CPU, but where they become runnable (``gotrace sched --latency``): on what wakes them, on creation,
    and where they give up their P or come back without one. How long they then wait for a P is all that is known of them.

All end at ``runtime.execute``. Further probes are on what makes a goroutine runnable (``runtime.ready``,
``runtime.netpollready``, the call in ``runtime.newproc.func1``), on its end (``runtime.gdestroy``) and on stop-the-world pauses.
Coroutines (iter.Pull) are switched by ``runtime.coroswitch_m``, which bypasses ``runtime.execute``: one hit there ends the interval
of the side that resumes and begins that of the side that stops. ``runtime.gogo``, which sees every resume, is not used: every growth
of a stack passes through it too, and each hit is a trap. scripts/compare-probes measures completeness and cost of the sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from gotrace.gobin.x86 import ProbeSite


class ProbeSet(str, Enum):
    """The sets of start probes."""

    COMPLETE = "complete"
    SCHEDULE = "schedule"
    GOPARK = "gopark"
    LEAN = "lean"
    READY = "ready"


@dataclass(frozen=True)
class Probe:
    """One planned uprobe. `program` is the BPF function that it runs; `file_offset` is where the kernel puts it."""

    role: str
    symbol: str
    program: str
    site: ProbeSite
    file_offset: int
    register: str
    found_by: str
    traps_per_hit: int = 1


@dataclass(frozen=True)
class LeftOut:
    """A probe that this binary does not get, and why. If a trace lacks something without it, `stage` is what it would have covered, and
    `lacks` is what the figures lack; otherwise both are ""."""

    symbol: str
    reason: str
    stage: str = ""
    lacks: str = ""


class SpanKind(IntEnum):
    """What a hit of a span's probe means: a call of its function begins, or ends; or calls of all span functions end: those of the whole
    goroutine, or those in whose frames the stack ends below where a recovered panic goes on."""

    BEGIN = 1
    END = 2
    GOEXIT = 3
    RECOVERY = 4


@dataclass(frozen=True)
class SpanSite:
    """A probe of a span. `function` is the number of its function (0 for the last two kinds). At BEGIN and END the return address of the
    function's call lies `sp_above` bytes above the stack pointer; below it where negative: the call has returned."""

    probe: Probe
    function: int
    kind: SpanKind
    sp_above: int


@dataclass(frozen=True)
class SpanFunction:
    """A function whose calls are spans. `how` says where they are seen to end. `intact`: the registers of integer arguments that at `begin`
    still hold what they held at its entry."""

    name: str
    number: int
    entry: int
    begin: SpanSite
    ends: tuple[SpanSite, ...]
    how: str
    intact: tuple[str, ...]

    @property
    def traps(self) -> tuple[int, int]:
        """How many a call costs, at least and at most."""
        ends = [end.probe.traps_per_hit for end in self.ends]
        return self.begin.probe.traps_per_hit + min(ends), self.begin.probe.traps_per_hit + max(ends)


@dataclass(frozen=True)
class Range:
    """Link-time addresses [low, high); empty if the binary lacks the function."""

    low: int = 0
    high: int = 0


@dataclass(frozen=True)
class Callback:
    """Where C called back into Go (runtime/asm_amd64.s: cgocallback): the goroutine's stack continues after a gap that frame pointers do
    not cross. The sizes are those of the frames around it: cgocallback's before it, asmcgocall's (0 up to Go 1.20) and cgocall's after
    it; all 0 without cgo."""

    cgocallback: Range = Range()
    frame: int = 0
    asmcgocall_frame: int = 0
    cgocall_frame: int = 0


@dataclass(frozen=True)
class Plan:
    """All that the kernel side needs to know of a binary. Addresses are link-time.

    `frameless_switch` is runtime.systemstack_switch, the mark that a goroutine leaves when it switches to g0, if the functions that do so
    have no frames (up to Go 1.20), else 0. `assist` is runtime.gcAssistAlloc with the size of its frame: up to Go 1.20 its frame pointer
    goes stale when the collector moves the stack during the assist (systemstack did not restore it), and the walk steps over the frame.
    `morestack` are runtime.morestack and morestack_noctxt, through which a function's prologue reaches the scheduler. `sanitizer_frame`
    is the size of the frame from which -race, -asan or -msan call C; None in other builds.
    `spans` are the functions whose calls are followed, by number, and `unwinds` where several of those calls end at once.
    """

    probe_set: ProbeSet
    probes: tuple[Probe, ...]
    left_out: tuple[LeftOut, ...]
    mcall: int
    morestack: tuple[int, int]
    gopark: Range
    async_preempt: Range
    text: Range
    callback: Callback
    assist: Range
    assist_frame: int
    thread_local_g: int | None = None
    has_stop_reasons: bool = False
    sleep_reason: int | None = None
    frameless_switch: int = 0
    sanitizer_frame: int | None = None
    spans: tuple[SpanFunction, ...] = ()
    unwinds: tuple[SpanSite, ...] = ()

    @property
    def span_sites(self) -> list[SpanSite]:
        """All places at which calls of span functions begin or end; no two have the same address."""
        return [site for span in self.spans for site in (span.begin, *span.ends)] + list(self.unwinds)

    @property
    def execute(self) -> Probe:
        """The probe at which goroutines resume."""
        return next(probe for probe in self.probes if probe.role == "end")

    def has(self, role: str) -> bool:
        """Whether there is a probe of that role."""
        return any(probe.role == role for probe in self.probes)


def bytes_differ(probe: Probe, live: bytes | None) -> str:
    """Returns "" if the process's memory at the probed function is what the file says, else what differs.

    A single int3 (0xCC) at the probed instruction, or at the function's entry, is another tracer's uprobe: the kernel lets both live
    side by side.
    """
    site, expected = probe.site, probe.site.prologue
    if live is None or len(live) != len(expected):
        return f"{probe.symbol}: its code can't be read from the process"
    allowed = {len(expected) - site.length} | ({0} if site.checked == site.entry else set())
    for position, (want, have) in enumerate(zip(expected, live, strict=True)):
        if want != have and not (have == 0xCC and position in allowed):
            return f"{probe.symbol}: byte {position} is {have:#04x} in the process, {want:#04x} in the file"
    return ""
