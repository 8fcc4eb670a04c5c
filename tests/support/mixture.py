"""Compares what gotrace says of tests/fixtures/mixture with the account that the program keeps of itself.

Each wait of the program is looked for among the intervals that gotrace has of its goroutine: those that ended, one by one,
from the capture, and those in progress at the window's end, whose time ends there.
"""

from __future__ import annotations

import collections
import random
import signal
import sqlite3
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from attach import Attached
from workload import Workload

MS = 1_000_000
SAME_WAIT_NS = MS // 2
LONG_NS = 20 * MS
"""Shorter waits are not looked at one by one: in a computation's account they count all the same."""
DELAYED_NS = 30 * MS
"""For how long a machine that does other things may keep a thread from a CPU where its wait neither begins nor ends."""
STOLEN_NS = 20 * MS
"""What a hypervisor may take from one of the program's threads."""
HANDLER_NS = 20_000
"""What the handler of a signal may run for, with the kernel's part and a probe or two."""

SCHEDULER = frozenset(("runnable", "runqueue", "preempted"))
"""States in which a goroutine that has been answered waits for its turn."""
MUTEX = frozenset(("sync.Mutex.Lock", "semacquire"))
EXPECTED: dict[str, tuple[str, frozenset[str]]] = {
    "sleep": ("waiting", frozenset(("sleep",))),
    "chan receive": ("waiting", frozenset(("chan receive",))),
    "queue": ("waiting", frozenset(("chan send",))),
    "chan send": ("waiting", frozenset(("chan send",))),
    "select": ("waiting", frozenset(("select",))),
    "mutex": ("waiting", MUTEX),
    "rwmutex": ("waiting", frozenset(("sync.RWMutex.RLock", "semacquire"))),
    "cond": ("waiting", frozenset(("sync.Cond.Wait",))),
    "waitgroup": ("waiting", frozenset(("sync.WaitGroup.Wait", "semacquire"))),
    "network": ("waiting", frozenset(("IO wait",))),
    "read": ("syscall", frozenset(("read",))),
    "raw read": ("syscall", frozenset(("read",))),
    # Interrupted before the window, the kernel goes on with it in another call.
    "c sleep": ("syscall", frozenset(("clock_nanosleep", "restart_syscall"))),
    "c poll": ("syscall", frozenset(("poll", "restart_syscall"))),
    "vfork": ("syscall", frozenset(("vfork", "clone"))),
    "exec": ("syscall", frozenset(("clone", "clone3"))),
    "fault": ("syscall", frozenset(("page fault",))),
    "child": ("syscall", frozenset(("waitid", "wait4"))),
}
"""State and reasons of a kind of wait. The other kinds are no single wait: `compute`, `yield`, `collect`."""

UNSEEN = "syscall", "unknown"
"""Of a goroutine whose thread slept as the window opened, for what nobody saw."""
HOLDING = frozenset(("fault", "raw read"))
"""Waits in which the runtime takes the goroutine for running."""
ON_THREADS = frozenset(kind for kind, (state, _) in EXPECTED.items() if state == "syscall")
RESTARTED = frozenset(("read", "raw read", "fault"))
"""Waits that the kernel itself goes on with after a signal's handler: one wait each. After other calls the program calls again."""

RUNTIME_S = frozenset(("futex", "semacquire", "GC assist wait", "GC assist marking", "wait for GC cycle"))
"""Reasons that only the runtime's own waits have, for its locks and its collector, anywhere: the program knows nothing of them."""

HARMLESS = frozenset((
    "stack_truncated", "stack_unreadable", "stack_in_transit", "thread_stack_unreadable", "waker_lost", "object_table_full",
    "kernel_stack_lost", "arrivals_missed", "unknown_function", "pause_table_full", "goroutine_set_full", "stack_torn", "look_late", "switch_unseen",
))
"""Losses that take no time from a goroutine: its frames, a waker, a file."""


@dataclass(frozen=True)
class Interval:
    """Of one goroutine, as gotrace has it; times are of CLOCK_MONOTONIC."""

    start: int
    end: int
    state: str
    reason: str

    def within(self, begin: int, end: int) -> int:
        return max(0, min(self.end, end) - max(self.start, begin))


@dataclass
class Found:
    """What one comparison says. `told` are discrepancies that the losses cover."""

    wrong: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    kinds: collections.Counter[str] = field(default_factory=collections.Counter)
    waits: int = 0
    goroutines: int = 0
    losses: dict[str, int] = field(default_factory=dict)


@dataclass
class Run:
    """One traced program: its account, the summary, the single intervals by goroutine (window's clock) and the stops. `stolen_ns` is what a
    hypervisor took from all CPUs meanwhile, as far as one goroutine may have lost it."""

    ready: str
    own: dict
    summary: dict
    intervals: dict[int, list[Interval]]
    stops: list[tuple[int, int]]
    stolen_ns: int


def stolen() -> int:
    """What a hypervisor has taken from all CPUs since the machine was started, to within 10 ms (proc(5))."""
    return int(Path("/proc/stat").read_text().split()[8]) * 10 * MS


def run(binary: Path, seed: int, capture: Path, mode: str = "exact", seconds: float = 3.0, *arguments: str) -> Run:
    """Starts the program, attaches at a moment that the seed says, stops the program in some windows, and ends both."""
    choice = random.Random(seed)
    stops: list[tuple[int, int]] = []
    before = stolen()
    with Workload(binary, "-seed", str(seed), *arguments) as program:
        time.sleep(choice.uniform(0.05, 2))
        stopped = choice.random() < 0.35
        with Attached(
            program.pid, "-d", f"{seconds}s", "--mode", mode, "--per-goroutine", "--json", "-f", "-o", capture,
        ) as trace:
            if stopped:
                time.sleep(choice.uniform(0.1, seconds / 2))
                begin = time.monotonic_ns()
                program.signal(signal.SIGSTOP)
                time.sleep(choice.uniform(0.03, seconds / 3))
                program.signal(signal.SIGCONT)
                stops.append((begin, time.monotonic_ns()))
            summary = trace.result_json(60)
        program.close()
        own = program.read_json(30)
    return Run(program.ready, own, summary, single_intervals(capture, summary), stops, min(stolen() - before, STOLEN_NS))


def single_intervals(capture: Path, summary: dict) -> dict[int, list[Interval]]:
    """By goroutine, times from the window's start: those that ended, and what is left of each row where one is in progress."""
    found: dict[int, list[Interval]] = collections.defaultdict(list)
    base = sqlite3.connect(f"file:{capture}?mode=ro", uri=True)
    try:
        ended: collections.Counter[int] = collections.Counter()
        words = {
            number: row for number, *row in base.execute("SELECT id, state, reason, goid, total_ns, in_progress FROM stack")
        }
        for goid, start, duration, stack in base.execute("SELECT goid, start_ns, duration_ns, stack FROM interval"):
            found[goid].append(Interval(start, start + duration, words[stack][0], words[stack][1]))
            ended[stack] += duration
    finally:
        base.close()
    end = summary["window"]["duration_ns"]
    for number, (state, reason, goid, total_ns, in_progress) in words.items():
        if (state, reason) == UNSEEN and not ended[number]:
            found[goid or 0].append(Interval(0, total_ns, state, reason))
        elif in_progress and total_ns > ended[number]:
            found[goid or 0].append(Interval(end - (total_ns - ended[number]), end, state, reason))
    # Of one wait that is in progress the parts follow each other: what it has become since ends now, the first part before that.
    for intervals in found.values():
        intervals.sort(key=lambda i: (i.end, i.start))
        last = [i for i in intervals if i.end == end]
        for later in (i for i in last if i.state in ("runnable", "netpoll")):
            for earlier in (i for i in last if i.state == "waiting"):
                if earlier not in intervals:
                    continue  # it was moved before another part already
                intervals.remove(earlier)
                shift = later.end - later.start
                intervals.append(Interval(earlier.start - shift, earlier.end - shift, earlier.state, earlier.reason))
    return found


def window_start(run: Run) -> int:
    """The window's start by CLOCK_MONOTONIC. The summary has it by the wall clock, to about a millisecond; where sleeps of the
    program began or ended says it to the microsecond: most of them agree."""
    offset = time.time_ns() - time.monotonic_ns()
    rough = int(datetime.fromisoformat(run.summary["window"]["start"]).timestamp() * 1e9) - offset
    votes: collections.Counter[int] = collections.Counter()
    values: dict[int, list[int]] = collections.defaultdict(list)
    for account in run.own["accounts"]:
        begins = sorted(begin for kind, begin, *_ in account["phases"] if kind in ("sleep", "chan receive"))
        for interval in run.intervals.get(account["goid"], ()):
            if interval.state == "waiting" and interval.end - interval.start > 5 * MS:
                first = rough - 20 * MS + interval.start
                for begin in begins[bisect_left(begins, first):bisect_left(begins, first + 40 * MS)]:
                    candidate = begin - interval.start
                    if abs(candidate - rough) < 20 * MS:
                        votes[candidate // 200_000] += 1
                        values[candidate // 200_000].append(candidate)
    if not votes:
        return rough
    best = max(votes, key=lambda bucket: votes[bucket] + votes[bucket + 1])
    near = sorted(values[best] + values[best + 1])
    return near[len(near) // 2]


def compare(run: Run) -> Found:
    """All discrepancies. Raises AssertionError where there is nothing to compare."""
    start, duration = window_start(run), run.summary["window"]["duration_ns"]
    end, found = start + duration, Found()
    found.losses = {name: count for name, count in run.summary["losses"].items() if count}
    problems: list[tuple[str, str]] = []
    known = set()
    for account in run.own["accounts"]:
        assert not account["dropped"], "the program's account is full"
        known.add(account["goid"])
        if account["to"] <= start or account["from"] >= end:
            continue
        found.goroutines += 1
        traced = [
            Interval(i.start + start, i.end + start, i.state, i.reason) for i in run.intervals.get(account["goid"], ())
        ]
        traced.sort(key=lambda i: i.end)
        reached = [i.end for i in traced]
        off = wanted = handlers = 0
        for kind, begin, wake, finish, cpu, delay in account["phases"]:
            b, f = max(begin, start), min(finish, end)
            if f <= b:
                continue
            who = f"goroutine {account['goid']} ({account['what']}) {kind} {(begin - start) / 1e9:.3f}..{(finish - start) / 1e9:.3f} s"
            inside = [i for i in traced[bisect_left(reached, b):] if i.start < f and i.within(b, f)]
            if kind == "compute":
                if begin < start or finish > end:
                    continue
                # What a hypervisor takes is in no account.
                theirs, own_ns = sum(i.within(b, f) for i in inside), finish - begin - cpu
                # Nor is the CPU time in which its thread looks for others to run once it was preempted.
                preempted_ns = sum(i.within(b, f) for i in inside if i.state == "preempted")
                own_ns = min(max(theirs, own_ns - run.stolen_ns), own_ns + preempted_ns // 10)
                off, wanted = off + theirs, wanted + own_ns
                if abs(theirs - own_ns) > max(2 * MS, (finish - begin) // 100):
                    problems.append((kind, f"{who}: {own_ns / MS:.1f} ms without its CPU, gotrace has {theirs / MS:.1f}: {described(inside, b, f)}"))
            elif kind in EXPECTED:
                off, wanted = off + sum(i.within(b, f) for i in inside), wanted + f - b
                handlers += HANDLER_NS * len(inside)
                if f - b >= LONG_NS:
                    found.waits += 1
                    used = HANDLER_NS * len(inside) + run.stolen_ns, max(delay, DELAYED_NS)
                    problems += [(kind, f"{who}: {text}") for text in _wait(kind, inside, b, min(max(wake, b), f), f, run.stops, *used)]
        margin = duration // 100 + 2 * MS
        if not -margin - handlers <= off - wanted <= margin:
            problems.append(("balance", f"goroutine {account['goid']} ({account['what']}): off the CPU {wanted / MS:.1f} ms by its own account, {off / MS:.1f} ms by gotrace's"))
        problems += [(kind, f"goroutine {account['goid']} ({account['what']}): {text}") for kind, text in _between(account, traced, start, end)]
    for goid, intervals in run.intervals.items():
        # The runtime's own that are in system calls wait for a signal (os/signal.loop).
        strange = [i for i in intervals if i.state == "syscall" and i.reason not in ("futex", "stopped", UNSEEN[1]) and i.end - i.start >= LONG_NS]
        if goid not in known and strange:
            problems.append(("nobody", f"goroutine {goid}, which keeps no account: {described(strange, 0, duration)}"))
    totals = run.summary["totals"]
    if totals["running_ns"] is not None and totals["running_ns"] > totals["cpu_ns"] * 1.02 + 20 * MS:
        problems.append(("running", f"{totals['running_ns'] / MS:.0f} ms running with {totals['cpu_ns'] / MS:.0f} ms of CPU time"))
    if run.stops and "stopped" not in totals["by_reason"] and not any("stop" in note for note in run.summary.get("notes", ())):
        problems.append(("stop", "nothing tells that the process was stopped"))
    may_lack = sum(count for name, count in found.losses.items() if name not in HARMLESS) + len(run.summary.get("missing", ()))
    for number, (kind, text) in enumerate(problems):
        if number < may_lack and kind not in ("running", "stop"):
            found.told.append(text)
        else:
            found.wrong.append(text)
            found.kinds[kind] += 1
    assert found.goroutines and found.waits, "no goroutine of the program waited in the window"
    return found


def described(intervals: list[Interval], begin: int, end: int) -> str:
    """States, reasons and times of what lies between two moments, the longest first."""
    sums: collections.Counter[str] = collections.Counter()
    for interval in intervals:
        sums[f"{interval.state}: {interval.reason}"] += interval.within(begin, end)
    return ", ".join(f"{name} {ns / MS:.1f} ms" for name, ns in sums.most_common(4)) or "nothing"


def _wait(
    kind: str, inside: list[Interval], begin: int, wake: int, end: int, stops: list[tuple[int, int]], ran_ns: int, delay_ns: int,
) -> list[str]:
    """What is wrong with one wait, from `begin` to `end`, that was answered at `wake`. In it its thread may have had a CPU for `ran_ns`, and
    have waited for one for `delay_ns`."""
    state, reasons = EXPECTED[kind]
    main = [i for i in inside if i.state == state and i.reason in reasons or (i.state, i.reason) == UNSEEN and kind in ON_THREADS]
    after = [i for i in inside if i.state in SCHEDULER or (state == "waiting" and i.state == "netpoll")]
    stopped = [i for i in inside if i.reason == "stopped"]
    taken = {id(i) for i in (*main, *after, *stopped)}
    rest = [i for i in inside if id(i) not in taken]
    margin = max(2 * MS, (end - begin) // 100)
    all_ns = sum(i.within(begin, end) for i in inside)
    out = []
    # Each signal that interrupts the wait takes CPU time: its handler runs.
    if not -margin - ran_ns <= all_ns - (end - begin) <= margin:
        out.append(f"{(end - begin) / MS:.1f} ms, gotrace has {all_ns / MS:.1f}: {described(inside, begin, end)}")
    # What comes after the answer may be more than one call: the read of the new program's exec, the end of a child.
    if sum(i.within(begin, wake if kind in ("exec", "vfork") else end) for i in rest if i.reason not in RUNTIME_S) > margin:
        out.append(f"not {state}: {'/'.join(sorted(reasons))} but {described(rest, begin, end)}")
    # Who has read a socket in vain may have lost its P to that call.
    late = sum(i.within(begin, wake) for i in after if i.reason != "syscall exit") - sum(max(0, min(b, wake) - max(a, begin)) for a, b in stops)
    # Who keeps its P in the wait is preempted by a signal, goes to a queue, and then waits again, in another call or fault.
    preempted = sum(i.state == "preempted" for i in inside)
    if end - wake > MS // 10 and late > margin + delay_ns and not (kind in HOLDING and preempted):
        out.append(f"{late / MS:.1f} ms before it was answered are {described(after, begin, wake)}")
    in_stops = sum(max(0, min(b, end) - max(a, begin)) for a, b in stops)
    stopped_ns = sum(i.within(begin, end) for i in stopped)
    if stopped_ns > in_stops + margin:
        out.append(f"stopped {stopped_ns / MS:.1f} ms where the process was for {in_stops / MS:.1f}")
    longest = max((i.within(begin, wake) for i in main), default=0)
    whole = wake - begin - in_stops
    # What is further apart than a signal's handler takes is parted in the timeline.
    parted = sum(b.start - a.end > SAME_WAIT_NS for a, b in zip(main, main[1:]))
    if kind in RESTARTED and len(main) - parted > 2 + preempted and whole >= LONG_NS and not in_stops and longest < whole / 2:
        out.append(f"one wait in {len(main)} pieces, the longest {longest / MS:.1f} ms")
    return out


def _between(account: dict, traced: list[Interval], start: int, end: int) -> list[tuple[str, str]]:
    """Where gotrace has waits outside the account's phases: there the goroutine runs, or there is none (C's own time)."""
    edges = [start, *(moment for _, begin, _, finish, *_ in account["phases"] for moment in (begin, finish)), end]
    if account["to"] < end:
        edges[-1] = max(edges[-2], min(end, account["to"]))
    out = []
    for a, b in zip(edges[::2], edges[1::2]):
        a, b = max(a, start), min(b, end)
        if b - a <= 5 * MS:
            continue
        strange = [
            i for i in traced
            if i.state not in SCHEDULER and i.reason != "stopped" and i.reason not in RUNTIME_S and i.within(a, b) > 5 * MS
        ]
        if strange and not (account["what"] == "main" and b < end):
            # A worker's partner is asked, and takes what it is to hold, between two phases: that is not in the account.
            calls = [i for i in strange if not (account["what"] in ("mixed", "partner") and i.state == "waiting")]
            if calls:
                out.append(("between", f"{(a - start) / 1e9:.3f}..{(b - start) / 1e9:.3f} s, where it does not wait: {described(calls, a, b)}"))
    return out
