"""Simulated targets of the governor."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from gotrace.governor.policy import Load, Rung

TICK = 50_000_000
SECOND = 1_000_000_000


class Target:
    """Steps of `own_ns` CPU each, as fast as one CPU lets it, at most `rate` a second; a step costs the rest on each rung."""

    def __init__(
        self, own_ns: int = 1000, trap: int = 1000, program: int = 1000, wakers: int = 2000, kernel: int = 500, rate: float = 1e9
    ) -> None:
        self.own_ns, self.rate = own_ns, rate
        self.step = Load(0, 0, trap, program, wakers, kernel, trap // 2)

    def cost(self, rung: Rung) -> Load:
        step = self.step
        if rung >= Rung.WAKERS:  # and not REQUESTS
            step = replace(step, wakers_ns=0)
        if rung >= Rung.KERNEL:
            step = replace(step, kernel_ns=0)
        if rung >= Rung.SINGLE:
            step = replace(step, core_program_ns=step.core_program_ns // 5)
        if rung is Rung.STARTS:
            step = replace(step, core_trap_ns=step.core_trap_ns - step.starts_ns, starts_ns=0)
        return step

    def run(self, rung: Rung | None, elapsed_ns: int) -> Load:
        """The load of so long on that rung; None: without probes."""
        cost = self.cost(rung) if rung is not None else Load()
        steps = min(elapsed_ns / (self.own_ns + cost.cost_ns), self.rate * elapsed_ns / SECOND)
        names = ("core_trap_ns", "core_program_ns", "wakers_ns", "kernel_ns", "starts_ns")
        parts = (round(steps * getattr(cost, name)) for name in names)
        return Load(elapsed_ns, round(steps * (self.own_ns + cost.cost_ns)), *parts)


costs = st.integers(0, 5000)
targets = st.builds(
    Target, own_ns=st.integers(50, 1_000_000), trap=st.integers(100, 5000), program=costs, wakers=costs, kernel=costs,
    rate=st.floats(1, 1e6),
)
