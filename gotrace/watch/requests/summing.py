"""From what was recorded of requests to sums and single ones with symbols."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gotrace.common.vocabulary import State
from gotrace.kernel.history import PartRecord
from gotrace.kernel.records import RawStack, RowKey
from gotrace.kernel.rows import row_hash
from gotrace.kernel.spans import UNKNOWN_ROW, DurationRow
from gotrace.profile.requests import RUNNING, Cause, Exemplar, PathStep, Span, SpanBucket, WaitSum
from gotrace.profile.types import Distribution, StackStat
from gotrace.watch.requests.causes import Causes
from gotrace.watch.requests.followed import FollowedBucket, Slow
from gotrace.watch.requests.path import How, Step
from gotrace.watch.tally import Tally


class Summing:
    """For one process. `stack` gives a stack by its number in the kernel's table; `stop_reasons`: of stops of the world, by number."""

    def __init__(self, tally: Tally, stack: Callable[[int], RawStack | None], stop_reasons: Sequence[str]) -> None:
        self._tally = tally
        self._stack = stack
        self._rows: dict[int, RowKey] = {}
        self._rough: dict[int, RowKey] = {}
        self._causes = Causes(self.stack_of, stop_reasons)

    def learn_rows(self) -> None:
        """What happened names rows by their hash."""
        for key in self._tally.rows_from(len(self._rows)):
            self._rows[row_hash(key)] = key
            rough = key._replace(stack=0, kernel_stack=0, waker=0, object=0, goid=0, labels=0)
            self._rough[row_hash(rough)] = rough

    def key_of(self, row: int) -> RowKey | None:
        """The key of a row by its hash; None if it is not known yet."""
        return self._rows.get(row)

    def raw_stack_of(self, row: int) -> RawStack | None:
        """The stack of a row by its hash."""
        key = self._rows.get(row)
        return self._stack(key.stack if key.stack >= 0 else -1 - key.stack) if key is not None else None

    def why_of(self, row: int) -> str:
        """The reason of an interval of which no stack is kept, "" if that is not known."""
        rough = self._rough.get(row)
        return self._tally.why(rough)[1] if rough is not None else ""

    def stack_of(self, row: int) -> StackStat | None:
        """The same with symbols."""
        key = self._rows.get(row)
        return self._tally.stack_of(key) if key is not None else None

    def add_ended(self, span: Span, rows: dict[int, DurationRow], followed: dict[int, FollowedBucket]) -> None:
        """Adds those that have ended to `span`; `rows` and `followed` are by bucket of the duration."""
        for bucket in sorted(rows):
            row = rows[bucket]
            span.latency.add(Distribution(row.count, row.total_ns, row.max_ns, 0, {bucket: row.count}))
            span.buckets[bucket] = self._bucket(row, followed.get(bucket), span.function)

    def _bucket(self, row: DurationRow, followed: FollowedBucket | None, function: str) -> SpanBucket:
        """The requests of about one duration."""
        bucket = SpanBucket(row.count, row.total_ns, row.cpu_ns)
        for number, (count, total_ns) in row.waits.items():
            key = self._rows.get(number)
            stack = self._tally.stack_of(key) if key is not None else None
            if stack is not None:
                wait = bucket.waits.setdefault(stack.key, WaitSum())
            else:
                rough = self._rough.get(number) if number != UNKNOWN_ROW else None
                wait = bucket.other.setdefault(self._tally.why(rough) if rough is not None else (State.WAITING, "unknown"), WaitSum())
            wait.count += count
            wait.total_ns += total_ns
        if followed is not None:
            bucket.followed, bucket.followed_ns = followed.count, followed.total_ns
            by_text: dict[str, Cause] = {}
            for raw, total_ns in sorted(followed.causes.items(), key=lambda item: -item[1]):
                cause = self._causes.of_raw(raw, function)
                cause = by_text.setdefault(cause.text, cause)
                bucket.causes[cause] = bucket.causes.get(cause, 0) + total_ns
        return bucket

    def exemplar(self, slow: Slow, function: str, start_ns: int, what: str | None, labels: dict[str, str]) -> Exemplar:
        """A single request, of a window that began at `start_ns`."""
        path = []
        for step in slow.steps:
            cause = self._causes.of(step, function, step.goid == slow.goid and not step.via)
            begin_ns = step.start_ns - start_ns
            path.append(PathStep(step.goid, begin_ns, step.duration_ns, cause.state, cause.reason, cause.frames, cause.object))
        return Exemplar(
            slow.start_ns - start_ns, slow.duration_ns, slow.goid, what, labels, tuple(path), slow.in_progress, slow.begun_before,
        )

    def doing(self, part: PartRecord | None, function: str) -> str:
        """What the goroutine of a request does now, in words. `part`: what it waits for; None: nothing."""
        if part is None:
            return RUNNING
        step = Step(part.goid, part.start_ns, part.duration_ns, How.WAITED, part.row, 0, part.what)
        return self._causes.of(step, function, own=True).text
