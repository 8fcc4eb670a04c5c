"""Totals from samples of goroutines, with their margins: the arithmetic of `gotrace attach --mode sample`.

What a total is. A goroutine that is off the CPU in the samples a … b is taken to be off the CPU from the middle between the samples a-1
and a to the middle between b and b+1. So every sample stands for the time around it, and a total is right on average, even that of
waits much shorter than the time between two samples, only some of which are seen. The moments of the samples are random within their
period, so that no rhythm of the program hides between them.

How far off it may be (`StackStat.margin_ns`, half of the 95 % interval). Let x(i) be how many goroutines sample i found at a stack. The
total is the integral of x by its values at those moments; its variance is estimated from the differences of neighbours,
sum((x(i) - x(i-1))² · gap(i)²) / 2, the usual estimator for systematic samples (Wolter, Introduction to Variance Estimation, chapter
on systematic sampling):
- samples are not independent where one wait spans many of them, and are not treated as such: such a wait adds its two ends, and a
  wait that spans the whole window adds nothing;
- goroutines that come and go together (a barrier, a broadcast) count together: k of them add k², not k;
- waits shorter than a period add what independent samples would, p·(1-p)·period² per sample.
If waits came and went but every sample found the same, that sum is 0, which is too optimistic: each time the goroutine might have been
elsewhere for a moment. So the interval is that of a score test (for a Poisson count n: n + z²/2 ± z·sqrt(n + z²/4)), which is never
narrower than z² = 3.84 periods: that much may also have passed at a stack that no sample found. Only a stack at which nothing came or
went has an exact total.

A count is the number of distinct stays that were seen: a lower bound. A stay's length, and so every percentile, is known to within a
period, and only for stays that were seen: long ones are seen more often than short ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gotrace.common.histogram import bucket_of
from gotrace.common.vocabulary import CONTINUED
from gotrace.profile.stays import Ids, Stay, Stays
from gotrace.profile.types import Distribution, SingleInterval, StackKey, StackStat

_Z = 1.96


@dataclass(eq=False)
class Place:
    """A stack, and what the samples say of it. `unread`: most of the stack is not known; `incomplete`: it ends before its root."""

    stat: StackStat
    unread: bool = False
    incomplete: bool = False
    goids: Ids = field(default_factory=Ids)
    change: int = 0
    variance: float = 0.0
    moved: bool = False


class Estimator:
    """Sums up the stays of one process. Moments are of one clock, in ns.

    Leaves out stays shorter than `min_block_ns`, and also lists those of at least `stream_ns` one by one (None: none).
    """

    def __init__(self, min_block_ns: int = 0, stream_ns: int | None = None) -> None:
        self._min_block_ns = min_block_ns
        self._stream_ns = stream_ns
        self.stays = Stays()
        self.running_ns = 0
        self.intervals = 0
        self.goids = Ids()
        self._start_ns: int | None = None
        self._places: dict[StackKey, Place] = {}
        self._moved: dict[int, Place] = {}
        self._changed: dict[int, Place] = {}
        self._single: list[SingleInterval] = []
        self._samples = 0
        self._sampled_ns = 0

    def place(self, stat: StackStat, unread: bool = False, incomplete: bool = False) -> Place:
        """Returns the place of that stack; if it is new, `stat` becomes its figures."""
        return self._places.setdefault(stat.key, Place(stat, unread, incomplete))

    def begin(self, start_ns: int) -> None:
        """Opens the window: a goroutine at a place has been there since before it."""
        self._start_ns = start_ns
        self.stays.begin(start_ns)

    def arrive(self, index: int, key: tuple[object, ...], goid: int, place: Place | None, moment: int) -> None:
        """Goroutine struct `index` is at `place` from `moment` on; its previous stay has ended."""
        self.leave(index, moment)
        self.stays.put(index, key, goid, moment, place)
        self._move(place, 1)

    def leave(self, index: int, moment: int) -> None:
        """It is at no place any more: gone."""
        stay = self.stays.pop(index)
        if stay is not None:
            self._move(stay.place, -1)
            self._end(stay, moment, cut=False)

    def correct(self, index: int, place: Place) -> None:
        """Sets the place of the present stay to `place`: its stack is known only now."""
        stay = self.stays.get(index)
        self._move(stay.place if stay is not None else None, -1)
        self._move(place, 1)
        self.stays.move(index, place)

    def count_sample(self, gap_ns: int) -> None:
        """Counts a sample, `gap_ns` after the previous one."""
        self._samples += 1
        self._sampled_ns += gap_ns
        for place in self._moved.values():
            place.variance += place.change**2 * gap_ns**2 / 2
            place.change = 0
        self._moved.clear()

    def finish(self, end_ns: int) -> None:
        """Closes the window: what is in progress is counted up to here."""
        for stay in self.stays.values():
            self._end(stay, end_ns, cut=True)
        self.stays.clear()

    def take(self) -> tuple[list[StackStat], list[SingleInterval]]:
        """Returns stacks whose figures changed since the last call, and single stays that ended since then."""
        changed = [self._figures(place) for place in self._changed.values()]
        single, self._single = self._single, []
        self._changed.clear()
        return changed, single

    def stacks(self) -> list[StackStat]:
        """All stacks at which something was counted."""
        return [self._figures(place) for place in self._places.values() if place.stat.distribution.count]

    def staying(self, now_ns: int) -> list[StackStat]:
        """The stays at places that have not ended, as stacks of their own: up to `now_ns`, they are in no other figure."""
        found: dict[int, StackStat] = {}
        for stay in self.stays.values():
            length, place = max(0, now_ns - stay.start_ns), stay.place
            if place is not None and length >= self._min_block_ns:
                stat = place.stat
                if id(place) not in found:
                    found[id(place)] = StackStat(
                        stat.frames, stat.state, stat.reason, Distribution(), goid=stat.goid, pid=stat.pid, labels=stat.labels,
                    )
                found[id(place)].distribution.add(Distribution(1, length, length, (length >> 8) ** 2, {bucket_of(length): 1}))
                found[id(place)].in_progress += 1
        return list(found.values())

    def found(self) -> list[tuple[StackStat, set[int]]]:
        """The same, each with the goids that were seen there."""
        return [(self._figures(place), set(place.goids)) for place in self._places.values() if place.stat.distribution.count]

    def _figures(self, place: Place) -> StackStat:
        place.stat.goroutines = len(place.goids)
        place.stat.margin_ns = self._margin_ns(place)
        return place.stat

    def _margin_ns(self, place: Place) -> int:
        if not place.moved or not self._samples:
            return 0
        period = self._sampled_ns / self._samples
        return round(_Z * math.sqrt(place.variance + (_Z * period / 2) ** 2) + _Z**2 / 2 * period)

    def _move(self, place: Place | None, by: int) -> None:
        if place is not None and self._start_ns is not None:
            place.moved = True
            place.change += by
            self._moved[id(place)] = place

    def _end(self, stay: Stay, moment: int, cut: bool) -> None:
        if self._start_ns is None:
            return
        length, place = max(0, moment - stay.start_ns), stay.place
        if place is None:
            self.running_ns += length
            return
        if length < self._min_block_ns:
            return
        bucket = bucket_of(length)
        place.stat.distribution.add(Distribution(1, length, length, (length >> 8) ** 2, {bucket: 1}))
        place.stat.in_progress += stay.begun_before or cut
        place.goids.add(stay.goid)
        self.goids.add(stay.goid)
        self.intervals += place.stat.reason not in CONTINUED
        self._changed[id(place)] = place
        if self._stream_ns is not None and length >= self._stream_ns:
            self._single.append(SingleInterval(stay.goid, stay.start_ns - self._start_ns, length, place.stat.key))
