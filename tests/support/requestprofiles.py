"""Profiles with requests, summed up from single ones so that every figure can be checked."""

from __future__ import annotations

from dataclasses import dataclass, field

from profiles import GOEXIT, GOPARK, HOSTILE, MS, US, S, durations, go, profile, runtime, stat

from gotrace.common.histogram import bucket_of
from gotrace.common.vocabulary import FrameKind, State
from gotrace.profile.requests import RUNNING, Cause, Exemplar, PathStep, Span, SpanBucket, WaitSum
from gotrace.profile.types import Frame, Profile, StackStat

HTTP = "net/http.serverHandler.ServeHTTP"
QUERY = "main.(*Store).query"
OTHER = (State.WAITING, "select")
"""What waits beyond those that are kept of a request are summed up by."""


@dataclass
class One:
    """A request: `waits` are (stack, ns), the rest of its time that is not `other_ns` it ran."""

    duration_ns: int
    waits: list[tuple[StackStat, int]]
    other_ns: int = 0
    causes: dict[Cause, int] = field(default_factory=dict)
    """Of a request whose path was followed."""

    @property
    def cpu_ns(self) -> int:
        return self.duration_ns - self.other_ns - sum(ns for _, ns in self.waits)


def span(function: str, requests: list[One], exemplars: list[Exemplar] | None = None, in_progress: int = 0, pid: int = 4242) -> Span:
    """The sums over `requests`."""
    made = Span(function, pid, durations([one.duration_ns for one in requests]), in_progress, exemplars=exemplars or [])
    for one in requests:
        bucket = made.buckets.setdefault(bucket_of(one.duration_ns), SpanBucket())
        bucket.count += 1
        bucket.total_ns += one.duration_ns
        bucket.cpu_ns += one.cpu_ns
        for stack, ns in one.waits:
            wait = bucket.waits.setdefault(stack.key, WaitSum())
            wait.count += 1
            wait.total_ns += ns
        if one.other_ns:
            wait = bucket.other.setdefault(OTHER, WaitSum())
            wait.count += 1
            wait.total_ns += one.other_ns
        if one.causes:
            bucket.followed += 1
            bucket.followed_ns += one.duration_ns
            for cause, ns in one.causes.items():
                bucket.causes[cause] = bucket.causes.get(cause, 0) + ns
    return made


SERVE = (
    go(HTTP, "/usr/lib/go/src/net/http/server.go", 3301), go("net/http.(*conn).serve", "/usr/lib/go/src/net/http/server.go", 2102), GOEXIT,
)
HANDLER = (go("main.(*Server).put", "/srv/kv/put.go", 31), *SERVE)
STORE = (go(QUERY, "/srv/kv/store.go", 12), *HANDLER)
RAFT = (go("main.(*wal).sync", "/srv/kv/wal.go", 77), go("main.(*raftNode).start.func1", "/srv/kv/raft.go", 19), GOEXIT)
FSYNC = Frame("fdatasync(fd 8 → /var/kv/0.wal)", kind=FrameKind.SYSCALL)

FSYNC_CAUSE = Cause(
    "fdatasync of fd 8 → /var/kv/0.wal, in goroutine main.(*raftNode).start.func1, waited for by chan receive", (FSYNC, *RAFT),
    State.SYSCALL.value, "fdatasync", "fd 8 → /var/kv/0.wal",
)
LOCK_CAUSE = Cause("sync.Mutex.Lock in main.(*Cache).Get, held by requests that waited themselves", HANDLER, State.WAITING.value,
                   "sync.Mutex.Lock", "mutex 0xc000123456")
CPU_CAUSE = Cause("running main.(*Server).put", HANDLER, RUNNING, "")
CPU_QUOTA = Cause("no CPU: the cgroup's quota was used up", HANDLER, State.RUNQUEUE.value, "CPU quota")




@dataclass
class Made:
    """A profile with what it was made from."""

    profile: Profile
    requests: list[One]
    queries: list[One]


def requests_made(count: int = 1000, **more: object) -> Made:
    """A key-value server with `count` requests, a tenth of them slow: those wait for a goroutine that syncs a file. Each of them makes a
    query. Beside them: that goroutine, an accept loop, and workers that wait all the time."""
    begun = {
        "lock": stat([GOPARK, runtime("semacquire1", "sema.go", 188), go("sync.(*Mutex).Lock"), *HANDLER], [MS], reason="sync.Mutex.Lock"),
        "receive": stat([GOPARK, runtime("chanrecv", "chan.go", 664), *STORE], [MS], reason="chan receive", goroutines=8),
        "ready": stat([GOPARK, runtime("chanrecv", "chan.go", 664), *STORE], [MS], State.RUNNABLE, "ready"),
    }
    served, asked = [], []
    waits: dict[str, list[int]] = {name: [] for name in begun}
    for number in range(count):
        slow = number % 10 == 9
        lock_ns = (number * 37 % 400) * US
        receive_ns = (20 * MS + number * 29 % 997 * 40 * US) if slow else 300 * US + number % 50 * 10 * US
        ready_ns = 40 * US
        cpu_ns, other_ns = 150 * US + number % 7 * US, 20 * US if number % 4 == 0 else 0
        duration_ns = lock_ns + receive_ns + ready_ns + cpu_ns + other_ns
        one = One(duration_ns, [(begun["receive"], receive_ns), (begun["ready"], ready_ns)], other_ns)
        if lock_ns:
            one.waits.append((begun["lock"], lock_ns))
            waits["lock"].append(lock_ns)
        waits["receive"].append(receive_ns)
        waits["ready"].append(ready_ns)
        if slow or number % 5 == 0:
            one.causes = {FSYNC_CAUSE: receive_ns * 9 // 10, LOCK_CAUSE: lock_ns, CPU_CAUSE: cpu_ns, CPU_QUOTA: ready_ns}
        served.append(one)
        asked.append(One(receive_ns + ready_ns + 10 * US, [(begun["receive"], receive_ns), (begun["ready"], ready_ns)]))
    kept = []
    for name, stack in begun.items():
        # The waits of requests that had not ended, too.
        in_progress = 2 if name == "receive" else 0
        values = waits[name] + [7 * MS] * in_progress
        stack.distribution, stack.in_progress = durations(values), in_progress
        kept.append(stack)
    others = [
        stat([FSYNC, *RAFT], [18 * MS] * 60, State.SYSCALL, "fdatasync"),
        stat([GOPARK, runtime("netpollblock"), go("net.(*netFD).accept"), go("net/http.(*Server).Serve"), go("main.main"), GOEXIT],
             [40 * MS] * 240, reason="IO wait"),
        stat([GOPARK, runtime("chanrecv"), go("main.(*Pool).worker", "/srv/kv/pool.go", 9), GOEXIT], [10 * S] * 6, reason="chan receive",
             goroutines=6, in_progress=6),
    ]
    slowest = sorted(range(count), key=lambda number: -served[number].duration_ns)[:10]
    exemplars = [exemplar(served[number], rank, 100 + rank) for rank, number in enumerate(slowest)]
    spans = [span(HTTP, served, exemplars, in_progress=2), span(QUERY, asked)]
    return Made(profile([*kept, *others], requests=spans, **more), served, asked)


def exemplar(one: One, rank: int, goid: int) -> Exemplar:
    """With the path of a request that waited for a lock, then for the goroutine that syncs a file, then ran."""
    start_ns = rank * 500 * MS + 1_000
    at_ns, steps = start_ns, []
    lengths = [ns for _, ns in one.waits]
    for goroutine, ns, state, reason, frames, thing in (
        (goid, one.cpu_ns // 2, RUNNING, "", HANDLER, ""),
        (goid, lengths[2] if len(lengths) > 2 else 0, State.WAITING.value, "sync.Mutex.Lock", HANDLER, "mutex 0xc000123456"),
        (17, lengths[0], State.SYSCALL.value, "fdatasync", (FSYNC, *RAFT), "fd 8 → /var/kv/0.wal"),
        (goid, lengths[1], State.RUNNABLE.value, "ready", STORE, ""),
        (goid, one.duration_ns - sum(lengths) - one.cpu_ns // 2, RUNNING, "", HANDLER, ""),
    ):
        if ns:
            steps.append(PathStep(goroutine, at_ns, ns, state, reason, frames, thing))
            at_ns += ns
    what = f"PUT /kv/{rank}" if rank % 3 else None
    return Exemplar(start_ns, one.duration_ns, goid, what, {"trace_id": f"4bf92f{rank}"}, tuple(steps[::-1]))


def requests_profile(count: int = 1000, **more: object) -> Profile:
    """That of `requests_made`."""
    return requests_made(count, **more).profile


def with_in_progress(made: Profile, ages_ns: list[int], before: int = 0) -> Profile:
    """The same with so many more requests in progress, `before` of them begun before the window, the longest two of them exemplars."""
    first = made.requests[0]
    first.in_progress, first.in_progress_before = len(ages_ns), before
    first.lasting = durations(ages_ns)
    first.lasting.total_ns = first.lasting.squares = 0
    first.doing = {"chan receive in main.(*Store).query": len(ages_ns) - 1, RUNNING: 1} if len(ages_ns) > 1 else {RUNNING: 1}
    longest = sorted(ages_ns, reverse=True)[:2]
    steps = [(PathStep(700 + rank, 10 * S - ns, ns, State.WAITING.value, "chan receive", STORE),) for rank, ns in enumerate(longest)]
    hanging = [
        Exemplar(10 * S - ns, ns, 700 + rank, None, {}, steps[rank], in_progress=True, begun_before=rank < before)
        for rank, ns in enumerate(longest)
    ]
    first.exemplars = [*hanging, *first.exemplars[: 10 - len(hanging)]]
    return made


def hostile_requests() -> Profile:
    """Every name is hostile."""
    made = requests_profile(50)
    names = list(HOSTILE.values())
    spans = []
    for index, name in enumerate(names):
        old = made.requests[0]
        bad = Cause(name, (go(name, name, 3),), RUNNING, name, name)
        step = PathStep(1, 5, 40 * MS, State.WAITING.value, name, (go(name),), name)
        slow = Exemplar(5, 40 * MS, 1, name, {name: name}, (step,))
        buckets = {
            number: SpanBucket(b.count, b.total_ns, b.cpu_ns, b.waits, {(State.WAITING, name): WaitSum(1, 1)}, 1, 100, {bad: 90})
            for number, b in old.buckets.items()
        }
        spans.append(Span(name, 4242, old.latency, index, buckets, [slow], lasting=durations([MS] * index), doing={name: index}))
        spans[-1].lasting.total_ns = spans[-1].lasting.squares = 0
    made.requests = spans
    return made


def strict(part: object) -> object:
    """A JSON schema in which no key is allowed that is not described."""
    if isinstance(part, list):
        return [strict(item) for item in part]
    if not isinstance(part, dict):
        return part
    closed = {key: strict(value) for key, value in part.items()}
    return closed | {"additionalProperties": False} if "properties" in part and "required" in part else closed
