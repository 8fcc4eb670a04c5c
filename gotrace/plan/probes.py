"""Where to probe a Go binary: which functions, at which instruction, with which registers, and what was left out.

Probe sets (``--probes``):

``complete``
    One probe for every way off the CPU (park, Gosched, yield, both preemptions, a syscall that lost its P, coroutine
    switch): each start names its kind and costs one trap. The default.
``schedule``
    ``runtime.schedule`` alone: whichever way a goroutine left its thread, the scheduler runs next. One probe for all,
    but a look-up of the thread's last goroutine more per event, and the kind is inferred from the stack.
``gopark``
    ``runtime.gopark`` alone: waits only. Gosched, preemption, lost Ps and coroutines are not seen.
``lean``
    No start probe (``--mode lean``): a goroutine has left its thread when that resumes the next one, or falls asleep without
    one (``sched_switch``). The start is late by the time in which the scheduler looked for work, and the kind is inferred.

All end at ``runtime.execute``. Beside them stand those on what makes a goroutine runnable (``runtime.ready``,
``runtime.netpollready``, the call in ``runtime.newproc.func1``), on its end (``runtime.gdestroy``) and on stop-the-world pauses.
 Coroutines (iter.Pull) are switched past it, by ``runtime.coroswitch_m``: one hit there ends
the interval of the side that goes on and begins that of the side that stops. ``runtime.gogo``, which sees every resume,
is not used: every growth of a stack passes it too, and each hit is a trap. scripts/compare-probes measures completeness and cost of the sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gotrace.common.errors import BadBinary
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.functions import Function
from gotrace.gobin.x86 import ProbeSite, call_site, first_emulated_after, inlined_call_site, probe_site


class ProbeSet(str, Enum):
    """The sets of start probes."""

    COMPLETE = "complete"
    SCHEDULE = "schedule"
    GOPARK = "gopark"
    LEAN = "lean"


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


_SANITIZERS = {"-race": "runtime.racefuncenter", "-asan": "runtime.doasanread", "-msan": "runtime.domsanread"}
"""Functions that only such a build has (runtime/race_amd64.s, asan.go, msan.go)."""


@dataclass(frozen=True)
class LeftOut:
    """A probe that this binary does not get, and why. Where a trace lacks something without it, `stage` says what it would have
    told of, and `lacks` what the figures lack; else both are ""."""

    symbol: str
    reason: str
    stage: str = ""
    lacks: str = ""


@dataclass(frozen=True)
class Range:
    """Link-time addresses [low, high); empty where the binary lacks the function."""

    low: int = 0
    high: int = 0


@dataclass(frozen=True)
class Callback:
    """Where C called back into Go (runtime/asm_amd64.s: cgocallback): the goroutine's stack goes on behind a gap that frame
    pointers do not cross. The sizes are those of the frames around it, cgocallback's in front, asmcgocall's (0 up to Go
    1.20) and cgocall's behind; all 0 without cgo."""

    cgocallback: Range = Range()
    frame: int = 0
    asmcgocall_frame: int = 0
    cgocall_frame: int = 0


@dataclass(frozen=True)
class Plan:
    """All that the kernel side needs to know of a binary. Addresses are link-time.

    `frameless_switch` is runtime.systemstack_switch, the mark that a goroutine leaves when it goes onto g0, where the functions
    by which it does so have no frames (up to Go 1.20), else 0. `assist` is runtime.gcAssistAlloc with the size of its frame: up to Go 1.20 its frame pointer goes stale when the
    collector moves the stack during the assist (systemstack did not restore it), and the walk steps over the frame instead.
    `morestack` are runtime.morestack and morestack_noctxt, by which a function's prologue comes to the scheduler.
    `sanitizer_frame` is the size of the frame from which -race, -asan or -msan call C; None in other builds.
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

    @property
    def execute(self) -> Probe:
        """The probe at which goroutines resume."""
        return next(probe for probe in self.probes if probe.role == "end")

    def has(self, role: str) -> bool:
        """Whether there is a probe of that role."""
        return any(probe.role == role for probe in self.probes)


_STARTS = {
    ProbeSet.COMPLETE: (
        ("runtime.park_m", "start_park"),
        ("runtime.goschedImpl", "start_gosched"),
        ("runtime.goyield_m", "start_yield"),
        ("runtime.preemptPark", "start_preempt_park"),
        ("runtime.exitsyscall0", "start_exit_syscall"),
        ("runtime.exitsyscallNoP", "start_exit_syscall"),
        ("runtime.coroswitch_m", "switch_coroutine"),
    ),
    ProbeSet.SCHEDULE: (("runtime.schedule", "start_schedule"), ("runtime.coroswitch_m", "switch_coroutine")),
    ProbeSet.GOPARK: (("runtime.gopark", "start_gopark"),),
    ProbeSet.LEAN: (("runtime.coroswitch_m", "switch_coroutine"),),
}
_REGISTER = {"runtime.gopark": "r14", "runtime.schedule": "r14"}
_SINGLE = frozenset(("runtime.gopark", "runtime.schedule"))
"""Starts that are all a set has, and whose inlined copies can't be probed: a goroutine that they miss runs on for ever."""
_GIVEN_G = frozenset(("runtime.gosched_m", "runtime.gopreempt_m"))
"""What mcall calls, with the g in AX, and does nothing but to give the CPU up."""
_ON_G0 = (
    "runtime.park_m", "runtime.goyield_m", "runtime.preemptPark", "runtime.exitsyscall0", "runtime.exitsyscallNoP",
    "runtime.coroswitch_m", "runtime.goschedImpl",
)
_NO_WAKERS = "who made goroutines runnable, and for how long they then waited for a P (`ready`, `netpoll`)"
_NO_CREATION = "who created goroutines, and for how long new ones waited for their first turn (`created`)"
_SLEEP = "sleep"
"""The wait reason of time.Sleep (runtime/runtime2.go: waitReasonSleep)."""
_NO_PAUSES = "stop-the-world pauses, and which part of each wait lay in one"
_NO_END = "running time: for how long goroutines ran before they ended"
_OPTIONAL = {
    "runtime.exitsyscall0": "Go 1.26 and later have runtime.exitsyscallNoP instead",
    "runtime.exitsyscallNoP": "Go 1.25 and older have runtime.exitsyscall0 instead",
    "runtime.coroswitch_m": "not linked in: the program does not use iter.Pull",
}


def make_plan(
    binary: GoBinary, probe_set: ProbeSet = ProbeSet.COMPLETE, wakers: bool = True, exits: bool = True,
    syscalls: bool = False,
) -> Plan:
    """The plan for `binary`; with `wakers` also the probes on what makes goroutines runnable, with `exits` that on their
    end, without which their last run can't be timed, with `syscalls` those on system calls as Go sees them: the fallback
    where the kernel's tracepoints may not be used.

    Raises:
        BadBinary: a function that the set needs is missing, ambiguous, or has code that can't be probed cheaply.
    """
    probes, left_out = [], []
    for symbol, program in _STARTS[probe_set]:
        found = binary.function(symbol)
        if found is None:
            if symbol not in _OPTIONAL:
                raise BadBinary(f"{binary.image.name}: function {symbol} was not found", _NEWER)
            left_out.append(LeftOut(symbol, _OPTIONAL[symbol]))
            continue
        function, found_by = found
        register = _REGISTER.get(symbol, "rax")
        if symbol in _SINGLE and (copies := binary.table.inlined_into(symbol)):
            raise BadBinary(
                f"--probes {probe_set.value} probes {symbol} alone, and this build (PGO) has inlined copies of it"
                f" in {', '.join(copy.name for copy in copies[:4])}",
                "leave --probes out",
            )
        site = probe_site(binary.image, function, register)
        probes.append(_probe(binary, "switch" if program == "switch_coroutine" else "start", symbol, program, site, register, found_by))
        more, not_probed = _inlined_starts(binary, symbol, program, site)
        probes += more
        left_out += not_probed
    symbols = {probe.symbol for probe in probes}
    if probe_set is ProbeSet.COMPLETE and not symbols & {"runtime.exitsyscall0", "runtime.exitsyscallNoP"}:
        raise BadBinary(f"{binary.image.name}: neither runtime.exitsyscall0 nor runtime.exitsyscallNoP was found", _NEWER)
    if any(probe.program == "switch_coroutine" for probe in probes) and binary.layout.g_coroarg is None:
        raise BadBinary(f"{binary.image.name}: the program has coroutines and the place of g.coroarg is not known", _NEWER)
    execute, found_by = _needed(binary, "runtime.execute")
    site = probe_site(binary.image, execute, "rax")
    probes.append(_probe(binary, "end", "runtime.execute", "end_execute", site, "rax", found_by))
    if copies := binary.table.inlined_into("runtime.execute"):
        raise BadBinary(
            f"{binary.image.name}: where goroutines resume can't be probed: this build (PGO) has inlined copies of runtime.execute"
            f" in {', '.join(copy.name for copy in copies[:4])}",
            "--mode sample",
        )
    for wanted, find in ((wakers, _ready_probes), (wakers, _creation_probe), (True, _pause_probes), (syscalls, _syscall_probes)):
        more, not_probed = find(binary) if wanted else ([], [])
        probes += more
        left_out += not_probed
    if exits:
        # gdestroy (Go 1.22) ends coroutines too, goexit0 does all before it existed.
        symbol = "runtime.gdestroy" if binary.function("runtime.gdestroy") else "runtime.goexit0"
        if symbol == "runtime.gdestroy" and (copies := binary.table.inlined_into(symbol)):
            # In goexit0 it does not matter, if that is probed instead; in a coroutine's end it does.
            left_out.append(LeftOut(symbol, _inlined_in(copies), "ends of coroutines", _NO_END))
            symbol = "runtime.goexit0"
        function, found_by = _needed(binary, symbol)
        probes.append(_probe(binary, "exit", symbol, "mark_exit", probe_site(binary.image, function, "rax"), "rax", found_by))
    assist = _needed(binary, "runtime.gcAssistAlloc")[0]
    switch = binary.function("runtime.systemstack_switch")
    frameless_switch = 0
    if switch is not None and not binary.table.frame_size(_needed(binary, "runtime.systemstack")[0]):
        frameless_switch = switch[0].entry
    return Plan(
        probe_set=probe_set,
        probes=tuple(probes),
        left_out=tuple(left_out),
        mcall=_needed(binary, "runtime.mcall")[0].entry,
        morestack=(_needed(binary, "runtime.morestack")[0].entry, _needed(binary, "runtime.morestack_noctxt")[0].entry),
        gopark=_range(_needed(binary, "runtime.gopark")[0]),
        async_preempt=_range(_needed(binary, "runtime.asyncPreempt")[0]),
        text=Range(binary.table.text, binary.table.etext),
        callback=_callback(binary),
        assist=_range(assist),
        assist_frame=binary.table.frame_size(assist),
        frameless_switch=frameless_switch,
        sanitizer_frame=_sanitizer_frame(binary),
        has_stop_reasons=bool(binary.stop_reasons),
        sleep_reason=binary.wait_reasons.index(_SLEEP) if _SLEEP in binary.wait_reasons else None,
        thread_local_g=binary.thread_local_g if binary.layout.g_m is not None and binary.layout.m_curg is not None else None,
    )


def _inlined_starts(binary: GoBinary, symbol: str, program: str, site: ProbeSite) -> tuple[list[Probe], list[LeftOut]]:
    """Probes on the copies of a start that the compiler has inlined (PGO). In each, casgstatus(g, ...) is the first that makes
    the g another's to take; its first argument is in AX, as the start's own."""
    probes, left_out = [], []
    for copy in binary.table.inlined_into(symbol) if symbol in _ON_G0 else ():
        found, change = None, binary.function("runtime.casgstatus")
        if change is not None:
            found = inlined_call_site(binary.image, binary.table, copy, change[0], symbol)
        if found is None and copy.name in _GIVEN_G:
            found = probe_site(binary.image, copy, "rax")
        if found is None:
            left_out.append(LeftOut(
                symbol, f"no place for a probe in its inlined copy in {copy.name}", "starts of waits",
                f"waits that begin in {copy.name}: their time counts as running",
            ))
            continue
        probes.append(_probe(binary, "start", f"{copy.name} ({symbol.removeprefix('runtime.')} inlined)", program, found, "rax", "inline tree"))
    return probes, left_out


def _inlined_in(copies: list[Function]) -> str:
    return f"this build (PGO) has inlined copies of it in {', '.join(copy.name for copy in copies[:4])}"


def sanitizer_of(binary: GoBinary) -> str:
    """The flag of ``go build`` with which the program checks its accesses to memory (``-race``), "" if it does not."""
    for flag, function in _SANITIZERS.items():
        if binary.table.functions_named(function):
            return flag
    return ""


def _sanitizer_frame(binary: GoBinary) -> int | None:
    flag = sanitizer_of(binary)
    if not flag:
        return None
    switches = binary.table.functions_named(f"{flag.removeprefix('-')}call")
    return max(map(binary.table.frame_size, switches), default=0)


def _ready_probes(binary: GoBinary) -> tuple[list[Probe], list[LeftOut]]:
    """runtime.ready, and netpollready for network events, which do not pass it (proc.go: injectglist)."""
    layout = binary.layout
    probes, left_out = [], []
    for symbol, program, registers, needed in (
        ("runtime.ready", "mark_ready", ("rax",), (layout.g_m, layout.m_curg)),
        ("runtime.netpollready", "mark_netpoll", ("rbx", "rcx"), (layout.pd_fd, layout.pd_rg, layout.pd_wg)),
    ):
        found = binary.function(symbol)
        if found is None or None in needed:
            what = "the function was not found" if found is None else "the layout of what it is given is not known"
            left_out.append(LeftOut(symbol, what, "wakers", _NO_WAKERS))
            continue
        if copies := binary.table.inlined_into(symbol):
            left_out.append(LeftOut(symbol, _inlined_in(copies), "wakers", _NO_WAKERS))
            continue
        # Of several registers each must still hold its argument: the earliest common site is the same for all.
        sites = {probe_site(binary.image, found[0], register) for register in registers}
        if len(sites) != 1:
            left_out.append(LeftOut(symbol, "no instruction at which all its arguments are in their registers", "wakers", _NO_WAKERS))
            continue
        probes.append(_probe(binary, "ready", symbol, program, sites.pop(), registers[0], found[1]))
    if len(probes) < 2:
        return [], left_out + [LeftOut(probe.symbol, "of no use without the other") for probe in probes]
    return probes, left_out


def _creation_probe(binary: GoBinary) -> tuple[list[Probe], list[LeftOut]]:
    """Where newproc hands a new goroutine to its P: the call of runqput (AX = p, BX = g) in the closure that it runs on g0.
    newproc1 itself would not do: at its entry there is no g yet."""
    symbol = "runtime.newproc.func1"
    caller, callee = binary.function(symbol), binary.function("runtime.runqput")
    if caller is None or callee is None or binary.layout.g_m is None or binary.layout.m_curg is None:
        why = "the function, its call of runqput, or the layout of runtime.m is not known"
        return [], [LeftOut(symbol, why, "creation", _NO_CREATION)]
    register = "rbx"
    try:
        site = call_site(binary.image, caller[0], callee[0])
    except BadBinary as error:
        # Inlined, as in most builds with PGO. The new goroutine is what newproc1 has returned, and nobody else's before runqput.
        made, register = binary.function("runtime.newproc1"), "rax"
        found = first_emulated_after(binary.image, caller[0], made[0], register) if made is not None else None
        if found is None:
            return [], [LeftOut(symbol, str(error), "creation", _NO_CREATION)]
        site = found
    return [_probe(binary, "create", symbol, "mark_created", site, register, caller[1])], []


def _pause_probes(binary: GoBinary) -> tuple[list[Probe], list[LeftOut]]:
    """Where the world is asked to stop, and where it goes again: startTheWorldWithSema calls wakep when it has woken every P
    that has work, right after it has looked at the clock for the runtime's own metrics (/sched/pauses)."""
    stop, start, wakep = (
        binary.function(f"runtime.{name}") for name in ("stopTheWorldWithSema", "startTheWorldWithSema", "wakep")
    )
    if stop is None or start is None or wakep is None:
        return [], [LeftOut("runtime.stopTheWorldWithSema", "not all functions were found", "stop-the-world pauses", _NO_PAUSES)]
    try:
        sites = probe_site(binary.image, stop[0], "rax"), call_site(binary.image, start[0], wakep[0])
    except BadBinary as error:
        return [], [LeftOut("runtime.startTheWorldWithSema", str(error), "stop-the-world pauses", _NO_PAUSES)]
    return [
        _probe(binary, "pause", "runtime.stopTheWorldWithSema", "stop_world", sites[0], "rax", stop[1]),
        _probe(binary, "pause", "runtime.startTheWorldWithSema", "start_world", sites[1], "rax", start[1]),
    ], []


def _syscall_probes(binary: GoBinary) -> tuple[list[Probe], list[LeftOut]]:
    """Both run on the goroutine's own stack. Up to Go 1.20 their first emulated instruction lies behind the prologue."""
    found = []
    for symbol, program in (("runtime.reentersyscall", "enter_syscall"), ("runtime.exitsyscall", "exit_syscall")):
        function, found_by = _needed(binary, symbol)
        site = probe_site(binary.image, function, "r14", frame_allowed=True)
        found.append(_probe(binary, "syscall", symbol, program, site, "r14", found_by))
    return found, []


_NEWER = "gotrace supports Go 1.19 to 1.27; what it learnt of this binary: gotrace probes FILE"


def _needed(binary: GoBinary, symbol: str) -> tuple[Function, str]:
    found = binary.function(symbol)
    if found is None:
        raise BadBinary(f"{binary.image.name}: function {symbol} was not found", _NEWER)
    return found


def _probe(
    binary: GoBinary, role: str, symbol: str, program: str, site: ProbeSite, register: str, found_by: str
) -> Probe:
    offset = binary.image.file_offset(site.address)
    if offset is None:
        raise BadBinary(f"{binary.image.name}: {symbol} lies outside the file")
    return Probe(role, symbol, program, site, offset, register, found_by)


def _callback(binary: GoBinary) -> Callback:
    if not binary.cgo:
        return Callback()
    functions = [_needed(binary, f"runtime.{name}")[0] for name in ("cgocallback", "asmcgocall", "cgocall")]
    return Callback(_range(functions[0]), *(binary.table.frame_size(function) for function in functions))


def _range(function: Function) -> Range:
    return Range(function.entry, function.end)


def bytes_differ(probe: Probe, live: bytes | None) -> str:
    """"" if the process's memory at the probed function is what the file says, else what differs.

    A single int3 (0xCC) at the probed instruction, or at the function's entry, is another tracer's uprobe: the kernel
    lets both live side by side.
    """
    expected = probe.site.prologue
    if live is None or len(live) != len(expected):
        return f"{probe.symbol}: its code can't be read from the process"
    allowed = {0, probe.site.offset}
    for position, (want, have) in enumerate(zip(expected, live, strict=True)):
        if want != have and not (have == 0xCC and position in allowed):
            return f"{probe.symbol}: byte {position} is {have:#04x} in the process, {want:#04x} in the file"
    return ""
