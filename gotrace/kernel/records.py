"""What the kernel side hands on: plain records with addresses, no symbols."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class KernelStack:
    """Sums of all closed intervals with one stack, kind and reason number (and goroutine, where kept apart).

    `pcs` is leaf first. `prologue_caller` is the caller of ``pcs[0]`` where the goroutine stopped in a prologue;
    `async_caller` is the caller of ``pcs[async_at]`` if that function has no frame there. 0 where there is none.
    """

    stack_id: int
    goid: int
    reason: int
    kind: int
    pcs: tuple[int, ...]
    prologue_caller: int = 0
    async_caller: int = 0
    async_at: int = 0
    truncated: bool = False
    unreadable: bool = False
    count: int = 0
    total_ns: int = 0
    max_ns: int = 0
    squares: int = 0
    goroutines: int = 0
    in_progress: int = 0
    histogram: dict[int, int] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int, int, int]:
        """What makes it distinct in the kernel's table."""
        return (self.stack_id, self.goid, self.reason, self.kind)


@dataclass(frozen=True)
class KernelEvent:
    """One closed interval, streamed. `key` is that of its KernelStack."""

    start_ns: int
    duration_ns: int
    goid: int
    key: tuple[int, int, int, int]


@dataclass(frozen=True)
class OpenInterval:
    """An interval that was still open when the probes went: the goroutine struct, since when, and how it began."""

    g: int
    start_ns: int
    kind: int
