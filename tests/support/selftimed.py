"""Finds in a summary what the program tests/fixtures/selftimed says of its own waits."""

from __future__ import annotations

from gotrace.common.vocabulary import CONTINUED

LOSSES_THAT_MUST_BE_ZERO = (
    "goroutine_table_full", "stack_table_full", "goroutine_set_full", "ring_full", "interval_lost", "stack_truncated",
    "stack_unreadable", "start_while_stopped", "end_while_running", "missed_hits", "parked_unread", "unknown_function",
    "waker_lost", "object_table_full", "kernel_stack_lost",
)


def go_frames(stack: dict) -> list[tuple[str, int]]:
    """(function, line), leaf first, of the goroutine's own frames."""
    return [(f["name"], f["line"]) for f in stack["frames"] if f["kind"] in ("go", "runtime", "cgo", "lost")]


def own_frames(scenario: dict) -> list[tuple[str, int]]:
    """The program's stack, without the mark that the runtime puts where a goroutine went into C: nothing runs there."""
    return [(f["function"], f["line"]) for f in scenario["stack"] if f["function"] != "runtime.systemstack_switch"]


def stacks_at(summary: dict, own: dict) -> list[dict]:
    """gotrace's stacks whose end, from the blocking function to the root, is the scenario's own stack."""
    wanted = [name for name, _ in own_frames(own)]
    return [
        stack for stack in summary["stacks"]
        if stack["state"] == own["state"] and stack["reason"] in own["reasons"]
        and [name for name, _ in go_frames(stack)][-len(wanted):] == wanted
    ]


def rest_of(summary: dict, own: dict) -> list[dict]:
    """The later parts of the same intervals: until the netpoller knew, until a P took the goroutine."""
    wanted = [name for name, _ in own_frames(own)]
    return [
        stack for stack in summary["stacks"]
        if stack["reason"] in CONTINUED and [name for name, _ in go_frames(stack)][-len(wanted):] == wanted
    ]
