"""Makes the plan of a binary: its probes, and what else the kernel side needs to know of the binary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gotrace.gobin.binary import GoBinary
from gotrace.gobin.functions import Function
from gotrace.plan.finders import creation_probe, end_probe, exit_probe, needed, pause_probes, ready_probes, start_probes, syscall_probes
from gotrace.plan.probes import Callback, Plan, ProbeSet, Range
from gotrace.plan.spans import Spans, find_spans

_SLEEP = "sleep"
"""The wait reason of time.Sleep (runtime/runtime2.go: waitReasonSleep)."""
_SANITIZERS = {"-race": "runtime.racefuncenter", "-asan": "runtime.doasanread", "-msan": "runtime.domsanread"}
"""Functions that exist only in such a build (runtime/race_amd64.s, asan.go, msan.go)."""


def make_plan(
    binary: GoBinary, probe_set: ProbeSet = ProbeSet.COMPLETE, wakers: bool = True, exits: bool = True,
    syscalls: bool = False, requests: bool = False, spans: Sequence[str] = (),
) -> Plan:
    """The plan for `binary`; with `wakers` also the probes on what makes goroutines runnable; with `exits` the probe on their end, without
    which their last run can't be timed; with `syscalls` the probes on system calls as Go sees them, the fallback if the kernel's
    tracepoints may not be used; with `requests` the probes on calls of known servers, and those on calls of the functions `spans`,
    which are full names.

    Raises:
        BadBinary: a function that the set needs is missing, ambiguous, or has code that can't be probed cheaply.
        UsageError: one of `spans` is missing, ambiguous, inlined, or can't be followed.
    """
    probes, left_out = start_probes(binary, probe_set)
    probes.append(end_probe(binary))
    whole = probe_set is not ProbeSet.READY
    for wanted, find in (
        (wakers or not whole, ready_probes), (wakers or not whole, creation_probe), (whole, pause_probes),
        (syscalls and whole, syscall_probes), (exits and whole, exit_probe),
    ):
        more, not_probed = find(binary) if wanted else ([], [])
        # In that set they are where intervals begin.
        probes += more if whole else [replace(probe, role="start") for probe in more]
        left_out += not_probed
    followed = find_spans(binary, requests, spans) if requests or spans else Spans()
    probes += followed.probes
    left_out += followed.left_out
    assist = needed(binary, "runtime.gcAssistAlloc")[0]
    switch = binary.function("runtime.systemstack_switch")
    frameless_switch = 0
    if switch is not None and not binary.table.frame_size(needed(binary, "runtime.systemstack")[0]):
        frameless_switch = switch[0].entry
    return Plan(
        probe_set=probe_set,
        probes=tuple(probes),
        left_out=tuple(left_out),
        mcall=needed(binary, "runtime.mcall")[0].entry,
        morestack=(_entry(binary, "runtime.morestack"), _entry(binary, "runtime.morestack_noctxt")),
        gopark=_range(needed(binary, "runtime.gopark")[0]),
        async_preempt=_range(needed(binary, "runtime.asyncPreempt")[0]),
        text=Range(binary.table.text, binary.table.etext),
        callback=_callback(binary),
        assist=_range(assist),
        assist_frame=binary.table.frame_size(assist),
        frameless_switch=frameless_switch,
        sanitizer_frame=_sanitizer_frame(binary),
        has_stop_reasons=bool(binary.stop_reasons),
        sleep_reason=binary.wait_reasons.index(_SLEEP) if _SLEEP in binary.wait_reasons else None,
        spans=followed.functions,
        unwinds=followed.unwinds,
        thread_local_g=binary.thread_local_g if binary.layout.g_m is not None and binary.layout.m_curg is not None else None,
    )


def sanitizer_of(binary: GoBinary) -> str:
    """The flag of ``go build`` with which the program checks its memory accesses (``-race``), "" if it does not."""
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


def _callback(binary: GoBinary) -> Callback:
    if not binary.cgo:
        return Callback()
    functions = [needed(binary, f"runtime.{name}")[0] for name in ("cgocallback", "asmcgocall", "cgocall")]
    return Callback(_range(functions[0]), *(binary.table.frame_size(function) for function in functions))


def _range(function: Function) -> Range:
    return Range(function.entry, function.end)


def _entry(binary: GoBinary, symbol: str) -> int:
    """Where the function begins, 0 if it was not found."""
    found = binary.function(symbol)
    return 0 if found is None else found[0].entry
