"""Profiles as a real trace leaves them, built from single durations so that every figure can be checked."""

from __future__ import annotations

from collections.abc import Iterable

from gotrace.common.histogram import bucket_of
from gotrace.common.vocabulary import FrameKind, Loss, State
from gotrace.profile.types import Distribution, Frame, Hotspot, Overhead, Profile, StackStat, Target, Window

US = 1_000
MS = 1_000_000
S = 1_000_000_000

HOSTILE = {
    "markup": "main.<script>alert(1)</script>",
    "closing": 'main."></script><img src=x onerror=alert(2)>',
    "rich": "main.[bold red]f[/bold red][link=http://x]",
    "terminal": "main.\x1b[2J\x1b]0;owned\x07f\nroot# \r\x9b31m",
    "bidi": "main.\u202egnirts\u2066\u200fx\u2028y\u2029z",
    "folded": "main.a;b c 17",
    "template": "main.{{SCRIPT}}{{DATA}}",
    "surrogate": "main.\udcff\udc80",
    "long": "main." + "long" * 2500,
    "quote": "main.'\"`${x}&amp;\\",
}


def go(name: str, file: str = "", line: int = 0, inlined: bool = False) -> Frame:
    return Frame(name, file, line, FrameKind.GO, inlined)


def runtime(name: str, file: str = "proc.go", line: int = 1) -> Frame:
    return Frame(f"runtime.{name}", f"/usr/lib/go/src/runtime/{file}", line, FrameKind.RUNTIME)


GOEXIT = runtime("goexit", "asm_amd64.s", 1700)
GOPARK = runtime("gopark", "proc.go", 435)


def durations(values: Iterable[int]) -> Distribution:
    result = Distribution()
    for value in values:
        result.count += 1
        result.total_ns += value
        result.max_ns = max(result.max_ns, value)
        result.squares += (value // 256) ** 2
        bucket = bucket_of(value)
        result.histogram[bucket] = result.histogram.get(bucket, 0) + 1
    return result


def stat(
    frames: Iterable[Frame],
    values: Iterable[int],
    state: State = State.WAITING,
    reason: str = "",
    goroutines: int = 1,
    in_progress: int = 0,
    pid: int = 4242,
) -> StackStat:
    return StackStat(tuple(frames), state, reason, durations(values), goroutines, in_progress, pid=pid)


def target(pid: int = 4242, comm: str = "shop") -> Target:
    return Target(
        pid, f"/srv/{comm}/bin/{comm}", comm, "go1.26.6", "buildinfo", "9f86d081884c7d65", True, False, False, "amd64"
    )


def profile(
    stacks: list[StackStat], targets: list[Target] | None = None, losses: dict[Loss, int] | None = None, **more: object
) -> Profile:
    ordered = sorted(stacks, key=lambda stack: -stack.distribution.total_ns)
    return Profile(
        version="0.1.0",
        targets=targets if targets is not None else [target()],
        window=Window("2026-03-01T03:14:15.926Z", 10 * S, "exact", 10 * S),
        stacks=ordered,
        losses=losses or {},
        goroutines=sum(stack.goroutines for stack in stacks),
        **more,  # type: ignore[arg-type]
    )


def spread(low: int, high: int, count: int) -> list[int]:
    """`count` durations from `low` up to `high`, most of them short, as latencies are."""
    return [low + (high - low) * (index * index) // max(1, (count - 1) ** 2) for index in range(count)]


def shop(pid: int = 4242) -> list[StackStat]:
    """A web shop: handlers behind a mutex, a slow database over TCP, a pipeline, timers, files, the runtime's own."""
    src = "/srv/shop/src"
    serve = [
        go("net/http.HandlerFunc.ServeHTTP", "/usr/lib/go/src/net/http/server.go", 2294),
        go("net/http.(*ServeMux).ServeHTTP", "/usr/lib/go/src/net/http/server.go", 2822),
        go("net/http.serverHandler.ServeHTTP", "/usr/lib/go/src/net/http/server.go", 3301),
        go("net/http.(*conn).serve", "/usr/lib/go/src/net/http/server.go", 2102),
        go("net/http.(*Server).Serve.gowrap3", "/usr/lib/go/src/net/http/server.go", 3454),
        GOEXIT,
    ]
    mutex = [
        GOPARK,
        runtime("goparkunlock", line=441),
        runtime("semacquire1", "sema.go", 188),
        Frame("internal/sync.runtime_SemacquireMutex", "/usr/lib/go/src/runtime/sema.go", 95, FrameKind.RUNTIME),
        go("internal/sync.(*Mutex).lockSlow", "/usr/lib/go/src/internal/sync/mutex.go", 149),
        go("internal/sync.(*Mutex).Lock", "/usr/lib/go/src/internal/sync/mutex.go", 70, inlined=True),
        go("sync.(*Mutex).Lock", "/usr/lib/go/src/sync/mutex.go", 46, inlined=True),
    ]
    poll = [
        GOPARK,
        runtime("netpollblock", "netpoll.go", 575),
        Frame("internal/poll.runtime_pollWait", "/usr/lib/go/src/runtime/netpoll.go", 351, FrameKind.RUNTIME),
        go("internal/poll.(*pollDesc).wait", "/usr/lib/go/src/internal/poll/fd_poll_runtime.go", 84),
        go("internal/poll.(*pollDesc).waitRead", "/usr/lib/go/src/internal/poll/fd_poll_runtime.go", 89, inlined=True),
        go("internal/poll.(*FD).Read", "/usr/lib/go/src/internal/poll/fd_unix.go", 165),
        go("net.(*netFD).Read", "/usr/lib/go/src/net/fd_posix.go", 55),
        go("net.(*conn).Read", "/usr/lib/go/src/net/net.go", 194),
    ]
    query = [
        go("main.(*DB).roundTrip", f"{src}/db.go", 71),
        go("main.(*DB).Query", f"{src}/db.go", 44),
        go("main.(*Server).product", f"{src}/handlers.go", 118),
        *serve,
    ]
    kernel = [
        Frame("schedule", kind=FrameKind.KERNEL),
        Frame("pipe_read", kind=FrameKind.KERNEL),
        Frame("vfs_read", kind=FrameKind.KERNEL),
        Frame("ksys_read", kind=FrameKind.KERNEL),
        Frame("read(fd 7 → pipe:[88123])", kind=FrameKind.SYSCALL),
    ]
    return [
        stat([*poll, *query], spread(900 * US, 48 * MS, 1200), reason="IO wait", goroutines=16, in_progress=9, pid=pid),
        stat([*poll, *query], spread(2 * US, 3 * MS, 900), State.NETPOLL, "IO wait", 16, pid=pid),
        stat(
            [
                *mutex,
                go("main.(*Cache).Get", f"{src}/cache.go", 33),
                go("main.(*Server).product", f"{src}/handlers.go", 112),
                *serve,
            ],
            spread(40 * US, 95 * MS, 700),
            reason="sync.Mutex.Lock",
            goroutines=16,
            in_progress=3,
            pid=pid,
        ),
        stat(
            [
                *mutex,
                go("main.(*Cache).Put", f"{src}/cache.go", 51),
                go("main.(*Server).basket", f"{src}/handlers.go", 160),
                *serve,
            ],
            spread(40 * US, 60 * MS, 210),
            reason="sync.Mutex.Lock",
            goroutines=14,
            pid=pid,
        ),
        stat(
            [
                GOPARK,
                runtime("chanrecv", "chan.go", 664),
                runtime("chanrecv2", "chan.go", 511),
                go("main.stage", f"{src}/pipeline.go", 27),
                go("main.main.gowrap2", f"{src}/main.go", 58),
                GOEXIT,
            ],
            spread(200 * US, 21 * MS, 800),
            reason="chan receive",
            goroutines=4,
            in_progress=4,
            pid=pid,
        ),
        stat(
            [
                GOPARK,
                runtime("selectgo", "select.go", 351),
                go("main.(*Server).sweep", f"{src}/sweep.go", 19),
                go("main.main.func3", f"{src}/main.go", 66),
                GOEXIT,
            ],
            [10 * S - 5 * MS],
            reason="select",
            in_progress=1,
            pid=pid,
        ),
        stat(
            [
                GOPARK,
                runtime("timeSleep", "time.go", 338),
                go("main.main", f"{src}/main.go", 90),
                runtime("main"),
                GOEXIT,
            ],
            [S] * 9 + [999 * MS],
            reason="sleep",
            in_progress=1,
            pid=pid,
        ),
        stat(
            [
                *kernel,
                go("syscall.read", "/usr/lib/go/src/syscall/zsyscall_linux_amd64.go", 736),
                go("os.(*File).Read", "/usr/lib/go/src/os/file.go", 124),
                go("main.tail", f"{src}/tail.go", 22),
                GOEXIT,
            ],
            spread(MS, 90 * MS, 60),
            State.SYSCALL,
            "read",
            pid=pid,
        ),
        stat(
            [
                runtime("gosched_m"),
                runtime("asyncPreempt2"),
                go("main.(*Server).render", f"{src}/render.go", 210),
                go("main.(*Server).product", f"{src}/handlers.go", 131),
                *serve,
            ],
            spread(3 * US, 11 * MS, 150),
            State.PREEMPTED,
            pid=pid,
        ),
        stat(
            [
                GOPARK,
                runtime("gcBgMarkWorker.func2", "mgc.go", 1463),
                runtime("gcBgMarkWorker", "mgc.go", 1463),
                GOEXIT,
            ],
            [9 * S, 900 * MS, 80 * MS],
            reason="GC worker (idle)",
            goroutines=2,
            in_progress=2,
            pid=pid,
        ),
        stat(
            [GOPARK, runtime("bgscavenge", "mgcscavenge.go", 658), GOEXIT],
            [10 * S],
            reason="GC scavenge wait",
            in_progress=1,
            pid=pid,
        ),
        stat([Frame("[lost: unreadable stack]", kind=FrameKind.LOST)], [3 * MS, 4 * MS], reason="chan send", pid=pid),
    ]


def shop_profile(**more: object) -> Profile:
    return profile(
        shop(),
        overhead=Overhead(8100, 810.0, 2.0, 650.0, 0.0005, 0.8, 131 * 1024 * 1024),
        hotspots=[Hotspot(0, "p99 46.1 ms is 4 times its p50", 46 * MS, 13 * MS, 0.2)],
        **more,
    )


def two_processes() -> Profile:
    return profile([*shop(4242), *shop(4300)[:4]], targets=[target(4242), target(4300, "cart")])


def layers() -> list[StackStat]:
    """All that a stack can pass through: Go code, the runtime, the boundary with its socket or file, the kernel, a waker."""
    handler = [go("main.handle", "/src/main.go", 12), go("main.serve", "/src/main.go", 5), GOEXIT]
    kernel = [Frame(name, kind=FrameKind.KERNEL) for name in ("io_schedule", "ext4_file_read_iter", "vfs_read")]
    read = Frame("read(fd 7 → /var/lib/db)", kind=FrameKind.SYSCALL)
    other = Frame("read(fd 8 → /var/lib/index)", kind=FrameKind.SYSCALL)
    socket = Frame("netpoll(fd 9 → tcp 10.0.0.1:5→10.0.0.2:6379)", kind=FrameKind.SYSCALL)
    syscall = [runtime("entersyscall"), go("syscall.read", "/go/syscall.go", 9), go("os.(*File).Read", "/go/file.go", 3)]
    waker = [
        Frame(name, "/src/pool.go", 30, FrameKind.WAKER)
        for name in ("runtime.goexit", "main.producer", "main.(*Pool).Put", "runtime.chansend1", "runtime.send")
    ]
    sleeper = [Frame(name, kind=FrameKind.WAKER) for name in ("runtime.goexit", "runtime.timerproc", "runtime.ready")]
    return [
        stat([*kernel, read, *syscall, *handler], [30 * MS] * 4, State.SYSCALL, "read"),
        stat([*kernel, other, *syscall, *handler], [20 * MS] * 3, State.SYSCALL, "read"),
        stat([socket, GOPARK, runtime("netpollblock"), go("net.(*conn).Read"), *handler], [9 * MS] * 5, reason="IO wait"),
        stat([*waker, GOPARK, runtime("chanrecv"), go("main.(*Pool).Get"), *handler], [11 * MS] * 3, reason="chan receive"),
        stat([*sleeper, GOPARK, runtime("timeSleep"), *handler], [10 * MS], reason="sleep"),
        stat([runtime("gosched_m"), *handler], [2 * MS], State.PREEMPTED),
        stat([*waker, GOPARK, runtime("gcBgMarkWorker"), GOEXIT], [25 * MS], reason="GC worker (idle)"),
    ]


def recursion() -> list[StackStat]:
    """A function that calls itself: 30 ms in it, one time of 20 ms twice; 10 ms beside it."""
    walk, main = go("main.walk", "/src/walk.go", 4), [go("main.main"), GOEXIT]
    wait = [GOPARK, runtime("chanrecv")]
    return [
        stat([*wait, go("main.leaf"), walk, walk, *main], [20 * MS], reason="chan receive"),
        stat([*wait, walk, *main], [10 * MS], reason="chan receive"),
        stat([*wait, go("main.other"), *main], [10 * MS], reason="chan receive"),
    ]


def hostile_profile() -> Profile:
    stacks = [
        stat([GOPARK, go(name, f"/src/{name}.go", 7), go("main.main"), GOEXIT], [(9 + index) * MS], reason=name)
        for index, name in enumerate(HOSTILE.values())
    ]
    return profile(stacks, targets=[target(comm=HOSTILE["terminal"])], filters=[HOSTILE["rich"]])


def many_stacks(count: int, depth: int = 24) -> Profile:
    """`count` distinct stacks that share prefixes as a big server's do."""
    stacks = []
    for index in range(count):
        path = [
            go(f"example.org/big/pkg{(index >> (level // 3)) % (level + 3)}.(*T{level}).Method", "/src/big.go", level)
            for level in range(depth)
        ]
        leaf = go(f"example.org/big/leaf.f{index}", "/src/leaf.go", index)
        stacks.append(
            stat([GOPARK, runtime("chanrecv"), leaf, *path, GOEXIT], [(1 + index % 97) * MS] * 3, reason="chan receive")
        )
    return profile(stacks)
