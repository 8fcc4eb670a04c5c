"""Evaluates triggers, once a second, on what is measured anyway."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from gotrace.common.units import format_duration
from gotrace.common.vocabulary import FrameKind, Loss
from gotrace.profile.frames import plain_name
from gotrace.profile.hotspots import idle_by_design
from gotrace.profile.types import Distribution, StackStat
from gotrace.sched.types import Snapshot
from gotrace.serve.expressions import Condition, Filter, Trigger, Unit
from gotrace.serve.slices import cost_share
from gotrace.serve.steps import Step

_MINUTE_NS = 60_000_000_000
_MOST_MINUTES = 24 * 60
_MOST_KNOWN = 8192
"""Pairs of a condition and a stack for which it is known whether they fit: with the stacks that they keep, some 8 MB at most."""
_FRACTIONS = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}


@dataclass(frozen=True)
class Deadlock:
    """How many goroutines are in deadlocks, and what the first of these is."""

    goroutines: int = 0
    text: str = ""


@dataclass
class Now:
    """What triggers are judged by. `steps` reach back for at least `LONGEST_NS`, as far as there are any; `throttled` are pairs of a
    moment and how long the control group had been throttled by then."""

    now_ns: int
    steps: Sequence[Step]
    ongoing: Sequence[StackStat]
    sched: Snapshot | None = None
    growing_ns: int = 0
    throttled: Sequence[tuple[int, int]] = ()
    deadlock: Deadlock = Deadlock()


@dataclass(frozen=True)
class Fired:
    """A trigger that has fired. `values` are those of its conditions, `reason` says all in one line."""

    trigger: Trigger
    at_ns: int
    values: tuple[float, ...]
    reason: str


class Growth:
    """For how long the number of goroutines has been growing: the least number of each minute is above that of the minute before."""

    def __init__(self) -> None:
        self._least: deque[tuple[int, int]] = deque(maxlen=_MOST_MINUTES)

    def add(self, now_ns: int, goroutines: int) -> None:
        """The number now."""
        minute = now_ns // _MINUTE_NS
        if self._least and self._least[-1][0] == minute:
            self._least[-1] = minute, min(self._least[-1][1], goroutines)
        else:
            self._least.append((minute, goroutines))

    @property
    def ns(self) -> int:
        """That time, in whole minutes."""
        whole = list(self._least)[:-1]  # the minute that goes on may still have less
        count = 0
        while count + 1 < len(whole) and whole[-1 - count][1] > whole[-2 - count][1]:
            count += 1
        return count * _MINUTE_NS


@dataclass
class _Held:
    since_ns: int | None = None
    quiet_until_ns: int = 0
    fired: int = field(default=0)


class Judge:
    """The triggers of one process. After one has fired it is quiet for `cooldown_ns`."""

    def __init__(self, triggers: Sequence[Trigger], cooldown_ns: int) -> None:
        self._triggers = triggers
        self._cooldown_ns = cooldown_ns
        self._held = [_Held() for _ in triggers]
        self._known: dict[tuple[int, int], tuple[StackStat, bool]] = {}

    def judge(self, now: Now) -> list[Fired]:
        """Those that fire now."""
        found = []
        for trigger, held in zip(self._triggers, self._held, strict=True):
            values = tuple(self._value(condition, now) for condition in trigger.conditions)
            if not all(v is not None and c.holds(v) for c, v in zip(trigger.conditions, values, strict=True)):
                held.since_ns = None
                continue
            held.since_ns = held.since_ns if held.since_ns is not None else now.now_ns
            if now.now_ns - held.since_ns < trigger.for_ns or now.now_ns < held.quiet_until_ns:
                continue
            held.quiet_until_ns = now.now_ns + self._cooldown_ns
            held.fired += 1
            certain = tuple(value for value in values if value is not None)
            found.append(Fired(trigger, now.now_ns, certain, _reason(trigger, certain, now.deadlock.text)))
        return found

    def forget(self) -> None:
        """Frees what is only there to save time: a new trace has stacks of its own."""
        self._known.clear()

    # -- figures ---------------------------------------------------------------------------------------------------------

    def _value(self, condition: Condition, now: Now) -> float | None:
        """The figure as it is now, None if it is not known."""
        since_ns = now.now_ns - condition.over_ns
        steps = [step for step in now.steps if step.end_ns > since_ns]
        figure = condition.figure
        if figure == "goroutines":
            return self._goroutines(condition, now.sched)
        if figure == "growing":
            return now.growing_ns
        if figure == "deadlock":
            return now.deadlock.goroutines
        if figure == "stalled":
            return max((w.distribution.max_ns for w in self._of(condition, now.ongoing)), default=0)
        if figure == "losses":
            return sum(count for step in steps for loss, count in step.losses.items() if loss is not Loss.GOROUTINE_SET_FULL)
        if figure == "stopped":
            return max((pause.duration_ns for step in steps for pause in step.pauses), default=0)
        if figure == "overhead":
            return cost_share(steps) if steps else None
        if figure == "throttled":
            return _throttled(now.throttled, since_ns)
        return self._of_waits(condition, steps, now)

    def _goroutines(self, condition: Condition, sched: Snapshot | None) -> float | None:
        if sched is None:
            return None
        wanted = next((one for one in condition.filters if one.key == "state"), None)
        if wanted is None:
            return sched.goroutines.total
        counts = (("running", sched.goroutines.running), ("runnable", sched.goroutines.runnable),
                  ("waiting", sched.goroutines.waiting), ("syscall", sched.goroutines.syscall))
        fitting = [count for name, count in counts if wanted.fits(name) and count is not None]
        return sum(fitting) if fitting else None

    def _of_waits(self, condition: Condition, steps: Sequence[Step], now: Now) -> float | None:
        figure, found = condition.figure, Distribution()
        request = next((one for one in condition.filters if one.key == "request"), None)
        if request is not None:
            for step in steps:
                for calls in step.calls:
                    if request.fits(plain_name(calls.function)):
                        found.add(calls.latency)
        else:
            for step in steps:
                for wait in step.waits:
                    if self._fits(condition, wait.stack):
                        found.add(wait.gained)
        if figure == "rate":
            length_ns = now.now_ns - max(now.now_ns - condition.over_ns, steps[0].begin_ns) if steps else 0
            return found.count * 1e9 / length_ns if length_ns else None
        if figure == "max":
            going = () if request is not None else self._of(condition, now.ongoing)
            return max([found.max_ns, *(wait.distribution.max_ns for wait in going)])
        histogram = {bucket: count for bucket, count in found.histogram.items() if count > 0}
        if not histogram:
            return None
        return Distribution(histogram=histogram, max_ns=found.max_ns).percentile_ns(_FRACTIONS[figure])

    def _of(self, condition: Condition, waits: Iterable[StackStat]) -> list[StackStat]:
        return [wait for wait in waits if _matches(condition.filters, wait)]

    def _fits(self, condition: Condition, stack: StackStat) -> bool:
        key = id(condition), id(stack)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            known = self._known[key] = stack, _matches(condition.filters, stack)
        return known[1]


def _matches(filters: Sequence[Filter], stack: StackStat) -> bool:
    values: dict[str, Callable[[], Iterable[str]]] = {
        "state": lambda: (stack.state.value,), "reason": lambda: (stack.reason,),
        "place": lambda: (plain_name(frame.name) for frame in stack.frames if frame.kind is not FrameKind.WAKER),
    }
    if not any(one.key in ("reason", "place") for one in filters) and idle_by_design(stack):
        return False
    return all(any(one.fits(value) for value in values[one.key]()) for one in filters)


def _throttled(known: Sequence[tuple[int, int]], since_ns: int) -> float | None:
    before = [pair for pair in known if pair[0] <= since_ns][-1:] or list(known[:1])
    if not known or not before or known[-1][0] <= before[0][0]:
        return None
    return (known[-1][1] - before[0][1]) / (known[-1][0] - before[0][0])


def shown(value: float, unit: Unit) -> str:
    """A value as text."""
    if unit is Unit.DURATION:
        return format_duration(round(value))
    return f"{100 * value:.3g} %" if unit is Unit.PERCENT else f"{value:,.6g}"


def _reason(trigger: Trigger, values: Sequence[float], deadlock: str) -> str:
    parts = [
        f"{condition.text} (it is {shown(value, condition.unit)}{f': {deadlock}' if condition.figure == 'deadlock' and deadlock else ''})"
        for condition, value in zip(trigger.conditions, values, strict=True)
    ]
    return " and ".join(parts) + (f", for {format_duration(trigger.for_ns)}" if trigger.for_ns else "")
