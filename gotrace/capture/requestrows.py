"""The rows of requests in a capture: sums that are replaced as the trace goes on, and the slowest ones."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gotrace.profile.requests import Cause, Exemplar, Span, SpanBucket, key_parts
from gotrace.profile.types import Frame

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_WEIGHT = (1 << 40) - 1
"""As `gotrace.capture.schema.REQUEST_SUMS` has it."""
_BY_BUCKET = ("span_bucket", "span_wait", "span_other", "span_cause")
_Bucket = tuple[int, int]
"""Numbers of the span and of its bucket."""


@dataclass
class _Written:
    """What the capture holds of one bucket: `figures` tell whether it has changed since."""

    figures: tuple[int, ...]
    weight: int
    waits_weight: int


class RequestRows:
    """Of one open capture, `db`. `frames` gives the number of a frame; `stacks` and `targets` are those of the capture's rows. As with
    those, `write` is called within a transaction, and `roll_back` where that fails."""

    def __init__(
        self, db: sqlite3.Connection, frames: Callable[[Frame], int], stacks: Mapping[tuple[object, ...], int],
        targets: Mapping[int, int],
    ) -> None:
        self._db = db
        self._frame = frames
        self._stacks = stacks
        self._targets = targets
        self._spans: dict[tuple[int, str], int] = {}
        self._causes: dict[Cause, int] = {}
        self._buckets: dict[_Bucket, _Written] = {}
        self._exemplars: dict[int, list[Exemplar]] = {}
        self._stale = False

    def write(self, spans: Iterable[Span]) -> None:
        """Writes what has changed of these. Waits of stacks that were not put are among those by state and reason."""
        if self._stale:
            for table in ("exemplar_step", "exemplar", "cause", *_BY_BUCKET, "span"):
                self._db.execute(f"DELETE FROM {table}")
            self._stale = False
        for span in spans:
            number = self._put_span(span)
            for bucket, sums in span.buckets.items():
                self._put_bucket((number, bucket), sums)
            if self._exemplars.get(number) != span.exemplars:
                self._put_exemplars(number, span.exemplars)

    def sums(self) -> dict[str, int]:
        """What the tables hold, as `gotrace.capture.schema` says."""
        return {
            "span": len(self._spans), "cause": len(self._causes),
            "exemplar_step": sum(len(exemplar.path) for some in self._exemplars.values() for exemplar in some),
            "span_bucket": sum(written.weight for written in self._buckets.values()),
            "span_wait": sum(written.waits_weight for written in self._buckets.values()),
        }

    def roll_back(self) -> None:
        """Forgets what was written, also before: the next `write` replaces it all. Whoever has requests has all of them."""
        for known in (self._spans, self._causes, self._buckets, self._exemplars):
            known.clear()
        self._stale = True

    def _put_span(self, span: Span) -> int:
        key = span.pid, span.function
        d = span.latency
        doing: dict[str, int] = {}
        for what, count in span.doing.items():
            doing[plain_text(what)] = doing.get(plain_text(what), 0) + count
        figures = {
            "count": d.count, "total_ns": d.total_ns, "max_ns": d.max_ns, "squares": float(d.squares), "histogram": _ENCODE(d.histogram),
            "in_progress": span.in_progress, "begun_before": span.begun_before, "traced_ns": span.traced_ns,
            "in_progress_before": span.in_progress_before, "lasting": _ENCODE(span.lasting.histogram), "lasting_ns": span.lasting.max_ns,
            "doing": _ENCODE(doing), "windows": span.windows, "cut": _ENCODE(span.cut.histogram), "cut_ns": span.cut.max_ns,
        }
        number = self._spans.get(key)
        if number is None:
            names = ", ".join(("target", "function", *figures))
            values = (self._targets[span.pid], plain_text(span.function), *figures.values())
            cursor = self._db.execute(f"INSERT INTO span({names}) VALUES ({','.join('?' * len(values))})", values)
            number = self._spans[key] = cursor.lastrowid or 0
        else:
            changes = ", ".join(f"{name}=?" for name in figures)
            self._db.execute(f"UPDATE span SET {changes} WHERE id=?", (*figures.values(), number))
        return number

    def _put_bucket(self, key: _Bucket, sums: SpanBucket) -> None:
        # A wait that was known by state and reason alone may have its stack by now: the sums of the bucket stay the same.
        known = len(sums.waits), sum(wait.count for wait in sums.waits.values()), sum(wait.total_ns for wait in sums.waits.values())
        figures = sums.count, sums.total_ns, sums.cpu_ns, sums.followed, sums.followed_ns, *known
        written = self._buckets.get(key)
        if written is not None and written.figures == figures:
            return
        if written is not None:
            for table in _BY_BUCKET:
                self._db.execute(f"DELETE FROM {table} WHERE span=? AND bucket=?", key)
        waits = [(self._stacks[stack], wait) for stack, wait in sums.waits.items() if stack in self._stacks]
        rest = [*sums.other.items(), *((key_parts(stack), wait) for stack, wait in sums.waits.items() if stack not in self._stacks)]
        other: dict[tuple[str, str], tuple[int, int]] = {}
        for (state, reason), wait in rest:
            both = state.value, plain_text(reason)
            count, total_ns = other.get(both, (0, 0))
            other[both] = count + wait.count, total_ns + wait.total_ns
        unknown = len(sums.waits) - len(waits)
        self._db.execute("INSERT INTO span_bucket VALUES (?,?,?,?,?,?,?)", (
            *key, sums.count, sums.total_ns, sums.cpu_ns, sums.followed, sums.followed_ns
        ))
        self._db.executemany("INSERT INTO span_wait VALUES (?,?,?,?,?)", ((*key, stack, w.count, w.total_ns) for stack, w in waits))
        self._db.executemany("INSERT INTO span_other VALUES (?,?,?,?,?,?)", ((*key, *both, *pair) for both, pair in other.items()))
        self._db.executemany(
            "INSERT INTO span_cause VALUES (?,?,?,?)", ((*key, self._cause(cause), ns) for cause, ns in sums.causes.items())
        )
        self._buckets[key] = _Written(
            () if unknown else figures,  # when those stacks are put it is written again
            sums.count + sums.total_ns & _WEIGHT, sum(wait.count + wait.total_ns & _WEIGHT for _, wait in waits)
        )

    def _cause(self, cause: Cause) -> int:
        known = self._causes.get(cause)
        if known is None:
            cursor = self._db.execute(
                "INSERT INTO cause(text, frames, state, reason, object) VALUES (?,?,?,?,?)",
                (plain_text(cause.text), self._frames(cause.frames), cause.state, plain_text(cause.reason), plain_text(cause.object)),
            )
            known = self._causes[cause] = cursor.lastrowid or 0
        return known

    def _frames(self, frames: tuple[Frame, ...]) -> str:
        return _ENCODE([self._frame(frame) for frame in frames])

    def _put_exemplars(self, span: int, exemplars: list[Exemplar]) -> None:
        self._db.execute("DELETE FROM exemplar_step WHERE exemplar IN (SELECT id FROM exemplar WHERE span=?)", (span,))
        self._db.execute("DELETE FROM exemplar WHERE span=?", (span,))
        for e in exemplars:
            labels = _ENCODE({plain_text(name): plain_text(value) for name, value in e.labels.items()})
            cursor = self._db.execute(
                "INSERT INTO exemplar(span, start_ns, duration_ns, goid, what, labels, in_progress, begun_before) VALUES (?,?,?,?,?,?,?,?)",
                (span, e.start_ns, e.duration_ns, e.goid, None if e.what is None else plain_text(e.what), labels, e.in_progress,
                 e.begun_before),
            )
            self._db.executemany("INSERT INTO exemplar_step VALUES (?,?,?,?,?,?,?,?,?)", (
                (cursor.lastrowid, at, step.goid, step.start_ns, step.duration_ns, step.state, plain_text(step.reason),
                 self._frames(step.frames), plain_text(step.object))
                for at, step in enumerate(e.path)
            ))
        self._exemplars[span] = list(exemplars)


def plain_text(text: str) -> str:
    """SQLite's TEXT is UTF-8: a lone surrogate from the target's names would raise."""
    return text.encode("utf-8", "replace").decode()
