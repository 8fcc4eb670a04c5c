"""Reads the requests of a capture back; the file is untrusted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping

from gotrace.capture.checked import histogram, listed, mapping, squares, text, whole
from gotrace.common.histogram import BUCKETS
from gotrace.common.vocabulary import State
from gotrace.profile.requests import RUNNING, UNKNOWN_STATE, Cause, Exemplar, PathStep, Span, SpanBucket, WaitSum
from gotrace.profile.types import Distribution, Frame, StackStat, Target

TABLES = frozenset(("span", "span_bucket", "span_wait", "span_other", "cause", "span_cause", "exemplar", "exemplar_step"))
_STATES = frozenset((*(state.value for state in State), RUNNING, UNKNOWN_STATE))
_Frames = Callable[[object], tuple[Frame, ...]]
_Buckets = dict[tuple[int, int], SpanBucket]


def read_requests(
    db: sqlite3.Connection, version: int, targets: Mapping[int, Target], stacks: Mapping[int, StackStat], frames: Mapping[int, Frame]
) -> list[Span]:
    """The spans, those with most time first. `version`: of the schema; `targets`, `stacks` and `frames` are by their numbers."""

    def frames_of(value: object) -> tuple[Frame, ...]:
        return tuple(frames[whole(number)] for number in listed(json.loads(text(value))))

    later = "in_progress_before, lasting, lasting_ns, doing, windows, cut, cut_ns" if version > 6 else "0, '{}', 0, '{}', 1, '{}', 0"
    spans: dict[int, Span] = {}
    for number, target, function, count, total, longest, square, counts, in_progress, before, traced, *going in db.execute(
        "SELECT id, target, function, count, total_ns, max_ns, squares, histogram, in_progress, begun_before, traced_ns,"
        f" {later} FROM span ORDER BY total_ns DESC, id"
    ):
        latency = Distribution(whole(count), whole(total), whole(longest), squares(square), histogram(json.loads(counts)))
        going_before, lasting, lasting_ns, doing, windows, cut, cut_ns = going
        spans[number] = Span(
            text(function), targets[target].pid, latency, whole(in_progress), begun_before=whole(before), traced_ns=whole(traced),
            in_progress_before=None if going_before is None else whole(going_before),
            lasting=_lasting(histogram(json.loads(lasting)), whole(lasting_ns)),
            doing={text(what): whole(how_many) for what, how_many in mapping(json.loads(doing)).items()},
            windows=whole(windows), cut=_lasting(histogram(json.loads(cut)), whole(cut_ns)),
        )
    buckets = _buckets(db, spans)
    for span, bucket, stack, count, total in db.execute("SELECT span, bucket, stack, count, total_ns FROM span_wait"):
        wait = buckets[span, bucket].waits.setdefault(stacks[stack].key, WaitSum())
        wait.count, wait.total_ns = wait.count + whole(count), wait.total_ns + whole(total)
    for span, bucket, state, reason, count, total in db.execute("SELECT span, bucket, state, reason, count, total_ns FROM span_other"):
        buckets[span, bucket].other[State(state), text(reason)] = WaitSum(whole(count), whole(total))
    _read_causes(db, buckets, frames_of)
    _read_exemplars(db, version, spans, frames_of)
    return list(spans.values())


def _buckets(db: sqlite3.Connection, spans: Mapping[int, Span]) -> _Buckets:
    found: _Buckets = {}
    for span, bucket, count, total, cpu, followed, followed_ns in db.execute(
        "SELECT span, bucket, count, total_ns, cpu_ns, followed, followed_ns FROM span_bucket"
    ):
        if not 0 <= whole(bucket) < BUCKETS:
            raise ValueError("a bucket that there is not")
        sums = SpanBucket(whole(count), whole(total), whole(cpu), followed=whole(followed), followed_ns=whole(followed_ns))
        if sums.count:
            found[span, bucket] = spans[span].buckets[bucket] = sums
    return found


def _read_causes(db: sqlite3.Connection, buckets: _Buckets, frames_of: _Frames) -> None:
    causes = {
        number: Cause(text(words), frames_of(frames), _state(state), text(reason), text(thing))
        for number, words, frames, state, reason, thing in db.execute("SELECT id, text, frames, state, reason, object FROM cause")
    }
    for span, bucket, cause, total in db.execute("SELECT span, bucket, cause, total_ns FROM span_cause"):
        of_bucket = buckets[span, bucket].causes
        of_bucket[causes[cause]] = of_bucket.get(causes[cause], 0) + whole(total)


def _read_exemplars(db: sqlite3.Connection, version: int, spans: Mapping[int, Span], frames_of: _Frames) -> None:
    paths: dict[int, list[PathStep]] = {}
    for exemplar, goid, start, length, state, reason, frames, thing in db.execute(
        "SELECT exemplar, goid, start_ns, duration_ns, state, reason, frames, object FROM exemplar_step ORDER BY exemplar, number"
    ):
        step = PathStep(whole(goid), whole(start, -(1 << 60)), whole(length), _state(state), text(reason), frames_of(frames), text(thing))
        paths.setdefault(exemplar, []).append(step)
    for number, span, start, length, goid, what, labels, in_progress, before in db.execute(
        f"SELECT id, span, start_ns, duration_ns, goid, what, labels, in_progress, {'begun_before' if version > 6 else '0'} FROM exemplar"
        " ORDER BY duration_ns DESC, id"
    ):
        spans[span].exemplars.append(Exemplar(
            whole(start, -(1 << 60)), whole(length), whole(goid), None if what is None else text(what),
            {text(name): text(value) for name, value in mapping(json.loads(labels)).items()}, tuple(paths.get(number, ())),
            bool(in_progress), bool(before),
        ))


def _lasting(counts: dict[int, int], longest_ns: int) -> Distribution:
    return Distribution(sum(counts.values()), 0, longest_ns, 0, counts)


def _state(value: object) -> str:
    if value not in _STATES:
        raise ValueError("a state that there is not")
    return str(value)
