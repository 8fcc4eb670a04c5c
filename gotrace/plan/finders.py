"""Where the probes of a plan go, kind by kind: each finder returns the probes, and what was left out."""

from __future__ import annotations

from typing import TypeAlias

from gotrace.common.errors import BadBinary
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.functions import Function
from gotrace.gobin.x86 import ProbeSite, call_site, first_emulated_after, inlined_call_site, probe_site
from gotrace.plan.probes import LeftOut, Probe, ProbeSet

Found: TypeAlias = tuple[list[Probe], list[LeftOut]]

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
    ProbeSet.READY: (
        ("runtime.goschedImpl", "start_gosched"),
        ("runtime.goyield_m", "start_yield"),
        ("runtime.exitsyscall0", "start_exit_syscall"),
        ("runtime.exitsyscallNoP", "start_exit_syscall"),
    ),
}
_REGISTER = {"runtime.gopark": "r14", "runtime.schedule": "r14"}
_SINGLE = frozenset(("runtime.gopark", "runtime.schedule"))
"""Starts that are the only probe of their set, and whose inlined copies can't be probed: a goroutine that they miss runs on forever."""
_GIVEN_G = frozenset(("runtime.gosched_m", "runtime.gopreempt_m"))
"""Called by mcall, with the g in AX; they do nothing but give up the CPU."""
_ON_G0 = (
    "runtime.park_m", "runtime.goyield_m", "runtime.preemptPark", "runtime.exitsyscall0", "runtime.exitsyscallNoP",
    "runtime.coroswitch_m", "runtime.goschedImpl",
)
_NO_WAKERS = "who made goroutines runnable, and for how long they then waited for a P (`ready`, `netpoll`)"
_NO_CREATION = "who created goroutines, and for how long new ones waited for their first turn (`created`)"
_NO_PAUSES = "stop-the-world pauses, and which part of each wait lay in one"
_NO_END = "running time: for how long goroutines ran before they ended"
_OPTIONAL = {
    "runtime.exitsyscall0": "Go 1.26 and later have runtime.exitsyscallNoP instead",
    "runtime.exitsyscallNoP": "Go 1.25 and older have runtime.exitsyscall0 instead",
    "runtime.coroswitch_m": "not linked in: the program does not use iter.Pull",
}
_NEWER = "gotrace supports Go 1.19 to 1.27; what it learnt of this binary: gotrace probes FILE"


def start_probes(binary: GoBinary, probe_set: ProbeSet) -> Found:
    """The probes where goroutines leave their threads.

    Raises:
        BadBinary: a function that the set needs is missing, ambiguous, or has code that can't be probed cheaply.
    """
    probes: list[Probe] = []
    left_out: list[LeftOut] = []
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
        role = "switch" if program == "switch_coroutine" else "start"
        probes.append(_probe(binary, role, symbol, program, site, register, found_by))
        more, not_probed = _inlined_starts(binary, symbol, program, site)
        probes += more
        left_out += not_probed
    symbols = {probe.symbol for probe in probes}
    if probe_set in (ProbeSet.COMPLETE, ProbeSet.READY) and not symbols & {"runtime.exitsyscall0", "runtime.exitsyscallNoP"}:
        raise BadBinary(f"{binary.image.name}: neither runtime.exitsyscall0 nor runtime.exitsyscallNoP was found", _NEWER)
    if any(probe.program == "switch_coroutine" for probe in probes) and binary.layout.g_coroarg is None:
        raise BadBinary(f"{binary.image.name}: the program has coroutines and the place of g.coroarg is not known", _NEWER)
    return probes, left_out


def _inlined_starts(binary: GoBinary, symbol: str, program: str, site: ProbeSite) -> Found:
    """Probes on the copies of a start that the compiler has inlined (PGO). In each copy, casgstatus(g, ...) is the first call that lets
    others take the g; its first argument is in AX, like the start's own."""
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
        name = f"{copy.name} ({symbol.removeprefix('runtime.')} inlined)"
        probes.append(_probe(binary, "start", name, program, found, "rax", "inline tree"))
    return probes, left_out


def _inlined_in(copies: list[Function]) -> str:
    return f"this build (PGO) has inlined copies of it in {', '.join(copy.name for copy in copies[:4])}"


def end_probe(binary: GoBinary) -> Probe:
    """The probe where goroutines resume.

    Raises:
        BadBinary: it can't be probed.
    """
    execute, found_by = needed(binary, "runtime.execute")
    site = probe_site(binary.image, execute, "rax")
    probe = _probe(binary, "end", "runtime.execute", "end_execute", site, "rax", found_by)
    if copies := binary.table.inlined_into("runtime.execute"):
        raise BadBinary(
            f"{binary.image.name}: where goroutines resume can't be probed: this build (PGO) has inlined copies of runtime.execute"
            f" in {', '.join(copy.name for copy in copies[:4])}",
            "--mode sample",
        )
    return probe


def exit_probe(binary: GoBinary) -> Found:
    """The probe where goroutines end: gdestroy (Go 1.22) also ends coroutines; before it existed, goexit0 does everything."""
    left_out: list[LeftOut] = []
    symbol = "runtime.gdestroy" if binary.function("runtime.gdestroy") else "runtime.goexit0"
    if symbol == "runtime.gdestroy" and (copies := binary.table.inlined_into(symbol)):
        # If goexit0 is probed instead, it does not matter; for a coroutine's end it does.
        left_out.append(LeftOut(symbol, _inlined_in(copies), "ends of coroutines", _NO_END))
        symbol = "runtime.goexit0"
    function, found_by = needed(binary, symbol)
    return [_probe(binary, "exit", symbol, "mark_exit", probe_site(binary.image, function, "rax"), "rax", found_by)], left_out


def ready_probes(binary: GoBinary) -> Found:
    """runtime.ready, and netpollready for network events, which do not pass through it (proc.go: injectglist)."""
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
        # Each of several registers must still hold its argument: the earliest common site is the same for all.
        sites = {probe_site(binary.image, found[0], register) for register in registers}
        if len(sites) != 1:
            left_out.append(LeftOut(symbol, "no instruction at which all its arguments are in their registers", "wakers", _NO_WAKERS))
            continue
        probes.append(_probe(binary, "ready", symbol, program, sites.pop(), registers[0], found[1]))
    if len(probes) < 2:
        return [], left_out + [LeftOut(probe.symbol, "of no use without the other") for probe in probes]
    return probes, left_out


def creation_probe(binary: GoBinary) -> Found:
    """The probe where newproc hands a new goroutine to its P: the call of runqput (AX = p, BX = g) in the closure that it runs on g0.
    newproc1 itself does not serve: at its entry there is no g yet."""
    symbol = "runtime.newproc.func1"
    caller, callee = binary.function(symbol), binary.function("runtime.runqput")
    if caller is None or callee is None or binary.layout.g_m is None or binary.layout.m_curg is None:
        why = "the function, its call of runqput, or the layout of runtime.m is not known"
        return [], [LeftOut(symbol, why, "creation", _NO_CREATION)]
    register = "rbx"
    try:
        site = call_site(binary.image, caller[0], callee[0])
    except BadBinary as error:
        # Inlined, as in most builds with PGO. The new goroutine is what newproc1 returned, and belongs to nobody else before runqput.
        made, register = binary.function("runtime.newproc1"), "rax"
        found = first_emulated_after(binary.image, caller[0], made[0], register) if made is not None else None
        if found is None:
            return [], [LeftOut(symbol, str(error), "creation", _NO_CREATION)]
        site = found
    return [_probe(binary, "create", symbol, "mark_created", site, register, caller[1])], []


def pause_probes(binary: GoBinary) -> Found:
    """Where the world is asked to stop, and where it starts again: startTheWorldWithSema calls wakep after waking every P that has work,
    right after it has read the clock for the runtime's own metrics (/sched/pauses)."""
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


def syscall_probes(binary: GoBinary) -> Found:
    """Both run on the goroutine's own stack. Up to Go 1.20 their first emulated instruction is after the prologue."""
    found = []
    for symbol, program in (("runtime.reentersyscall", "enter_syscall"), ("runtime.exitsyscall", "exit_syscall")):
        function, found_by = needed(binary, symbol)
        site = probe_site(binary.image, function, "r14", frame_allowed=True)
        found.append(_probe(binary, "syscall", symbol, program, site, "r14", found_by))
    return found, []


def needed(binary: GoBinary, symbol: str) -> tuple[Function, str]:
    """The function and how it was found.

    Raises:
        BadBinary: it was not found.
    """
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
