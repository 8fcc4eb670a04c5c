"""Picks stacks out of the summary that `gotrace attach --json` prints."""

from __future__ import annotations

# Losses that any trace of threads may have, however quiet: a thread is stopped anywhere, also where its goroutine's stack can't be
# read, and a sandbox may hide from us which of its own tasks hands a CPU over. All are counted; the time is there.
OF_THREADS = frozenset(("stack_in_transit", "thread_stack_unreadable", "switch_unseen"))


def names(stack: dict, *kinds: str) -> list[str]:
    """The functions of a stack, leaf first: all, or those of these frame kinds."""
    return [frame["name"] for frame in stack["frames"] if not kinds or frame["kind"] in kinds]


def at(summary: dict, *functions: str, state: str = "") -> list[dict]:
    """The stacks that have all of `functions` among the goroutine's own frames."""
    return [
        stack for stack in summary["stacks"]
        if set(functions) <= set(names(stack, "go", "runtime")) and (not state or stack["state"] == state)
    ]


def total_ns(stacks: list[dict]) -> int:
    return sum(stack["total_ns"] for stack in stacks)


def count(stacks: list[dict]) -> int:
    return sum(stack["count"] for stack in stacks)
