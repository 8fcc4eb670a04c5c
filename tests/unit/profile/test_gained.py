"""What a governor's report has gained, of which the oldest changes may be gone."""

from __future__ import annotations

import pytest

from gotrace.profile.gained import governor_gained
from gotrace.profile.types import GovernorReport, GovernorStep


def report(first: int, last: int, **more: int) -> GovernorReport:
    return GovernorReport(0.02, steps=tuple(GovernorStep(at, 7, "wakers", 0.1) for at in range(first, last)), **more)


@pytest.mark.parametrize("old, new, gained, dropped", [
    (report(0, 3), report(0, 5), [3, 4], 0),
    (report(0, 3), report(2, 5, steps_dropped=2), [3, 4], 0),
    (report(0, 3), report(8, 11, steps_dropped=8), [8, 9, 10], 5),
    (report(2, 5, steps_dropped=2), report(2, 5, steps_dropped=2), [], 0),
])
def test_changes_that_are_new(old: GovernorReport, new: GovernorReport, gained: list[int], dropped: int) -> None:
    found = governor_gained(new, old)
    assert found is not None and [step.at_ns for step in found.steps] == gained and found.steps_dropped == dropped
