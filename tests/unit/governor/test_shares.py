"""The cap of a host: what all processes cost together stays below it, against simulated targets."""

from __future__ import annotations

import pytest
from governed import TICK, Target, targets
from hypothesis import given, settings
from hypothesis import strategies as st

from gotrace.governor.policy import Governor, Load, Rung
from gotrace.governor.shares import HostCap, Need, divide

S = 1_000_000_000
RUNGS = (Rung.NOTHING, Rung.WAKERS, Rung.KERNEL, Rung.SINGLE, Rung.STARTS, Rung.PROBES)
"""Those of gotrace serve."""
needs = st.lists(st.builds(lambda wanted, more: Need(wanted, wanted + more), st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=20)


@given(cpus=st.floats(0.001, 50), wants=needs)
def test_what_is_divided(cpus: float, wants: list[Need]) -> None:
    parts = divide(cpus, wants)
    assert sum(parts) <= cpus * (1 + 1e-9)
    assert all(0 <= part <= need.most * (1 + 1e-9) for part, need in zip(parts, wants, strict=True))
    if sum(need.wanted for need in wants) <= cpus:
        assert all(part >= need.wanted for part, need in zip(parts, wants, strict=True))
        assert sum(parts) == pytest.approx(min(cpus, sum(need.most for need in wants)))
    else:
        assert sum(parts) == pytest.approx(cpus)


class Host:
    """Processes with governors of their own, and a clock."""

    def __init__(self, cpus: float, most: float, targets: list[Target]) -> None:
        self.now_ns = 0
        self.cap = HostCap(cpus, lambda: self.now_ns)
        self.most = most
        self.everyone = [(target, Governor(most, RUNGS), self.cap.join(most), [Load()]) for target in targets]

    def run(self, seconds: int) -> list[Load]:
        """What each has cost in that time."""
        before = [sums[0] for *_, sums in self.everyone]
        for _ in range(seconds * S // TICK):
            self.now_ns += TICK
            for target, governor, share, sums in self.everyone:
                load = target.run(governor.rung if governor.rung is not Rung.PROBES else None, TICK)
                sums[0] += load
                governor.cap = share.observe(sums[0], governor.rung is Rung.NOTHING)
                assert governor.cap <= self.most
                governor.observe(load)
        return [sums[0] - old for (*_, sums), old in zip(self.everyone, before, strict=True)]


@settings(max_examples=15, deadline=None)
@given(everyone=st.lists(targets, min_size=2, max_size=4), cpus=st.sampled_from([0.01, 0.05, 0.3]))
def test_all_together_stay_below_it(everyone: list[Target], cpus: float) -> None:
    host = Host(cpus, 0.05, everyone)
    host.run(20)
    loads = host.run(60)
    # Each may try what it has given up: for a tick, after 3, 6, 12 and 24 s. What that costs is saved afterwards.
    tried_ns = sum(target.run(Rung.NOTHING, TICK).cost_ns for target in everyone)
    assert sum(load.cost_ns for load in loads) <= 1.1 * cpus * 60 * S + 2 * tried_ns
    for load in loads:
        assert load.cost_ns <= 1.3 * 0.05 * load.own_ns + 6 * TICK


def test_ten_busy_ones_share_it() -> None:
    """Each alone would stay below its own cap; together they would cost three times the host's."""
    alone = Target(own_ns=100_000, trap=500, program=300, wakers=500, kernel=500)
    assert 0.01 < alone.run(Rung.NOTHING, S).share < 0.03
    host = Host(0.06, 0.03, [Target(own_ns=100_000, trap=500, program=300, wakers=500, kernel=500) for _ in range(10)])
    unlimited = Host(10, 0.03, [alone for _ in range(10)])
    unlimited.run(20)
    assert sum(load.cost_ns for load in unlimited.run(20)) > 0.15 * 20 * S
    host.run(20)
    loads = host.run(60)
    assert 0.01 * 60 * S < sum(load.cost_ns for load in loads) < 0.06 * 60 * S
    assert host.cap.cost_cpus < 0.06


def test_who_needs_little_is_traced_whole_and_leaves_the_rest_to_others() -> None:
    calm, busy = Target(own_ns=1_000_000, rate=50), Target(own_ns=1_000_000, trap=20_000, program=10_000)
    host = Host(0.05, 0.05, [*[calm] * 9, busy])
    host.run(30)
    assert all(governor.rung is Rung.NOTHING for _, governor, _, _ in host.everyone[:-1])
    assert host.everyone[-1][1].rung is not Rung.PROBES and host.everyone[-1][2].cap > 0.04


def test_who_leaves_makes_room_and_who_is_silent_as_well() -> None:
    now_ns = [0]
    cap = HostCap(0.02, lambda: now_ns[0])
    first, second, third = (cap.join(0.02) for _ in range(3))
    assert first.cap == second.cap == third.cap == pytest.approx(0.02 / 3)
    second.leave()
    for _ in range(140):
        now_ns[0] += TICK
        first.observe(Load(now_ns[0], now_ns[0] // 2, core_trap_ns=now_ns[0] // 200), False)  # the third says nothing
        if now_ns[0] < 2 * S:
            third.observe(Load(now_ns[0], now_ns[0] // 2), False)
    assert first.cap == pytest.approx(0.02) and cap.cost_cpus == pytest.approx(0.005, rel=0.1)
    second.leave()  # twice is no harm
