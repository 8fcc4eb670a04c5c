"""The shapes of tests/fixtures/deadlocks."""

from __future__ import annotations

CYCLES = {
    # shape: (kind, how many goroutines, certain, what the text has)
    "opposite": ("deadlock", 2, True, "has to unlock (in main.transfer)"),
    "ring": ("deadlock", 3, True, "has to unlock (in main.move)"),
    "recursive-read": ("recursive read lock", 2, True, "a read lock is taken again while a writer waits"),
    "read-and-lock": ("deadlock", 2, True, "waits to get rwmutex"),
    "channel-with-lock": ("deadlock", 2, False, "has to receive from (in main.(*queue).consume)"),
    "waitgroup-then-receive": ("deadlock", 4, False, "have to call Done of (in main.work)"),
    "group-itself": ("deadlock", 1, True, "which it itself has to call Done of (in main.(*taskGroup).Go.func1)"),
    "once-again": ("deadlock", 1, True, "which it itself has to unlock (in sync.(*Once).doSlow)"),
    "lock-again": ("deadlock", 1, True, "which it itself has to unlock (in main.(*registry).add)"),
    "nil-channel": ("deadlock", 1, True, "the channel from which it receives is nil"),
    "select-nothing": ("deadlock", 1, True, "a select without cases never ends"),
}
LEAKS = {
    "reader-left": ("main.answer", "chan send"), "never-cancelled": ("main.untilDone", "chan receive"),
    "timer-stopped": ("main.tick", "chan receive"), "semaphore-leak": ("main.acquire", "chan send"),
    "no-signal": ("main.await", "sync.Cond.Wait"),
}
