"""What was waited for on a terminal."""

from __future__ import annotations

import io

from profiles import MS, layers, profile
from rich.console import Console

from gotrace.common.vocabulary import State
from gotrace.profile.filters import filter_profile
from gotrace.profile.holders import Holder, LockHolders
from gotrace.profile.things import Waited
from gotrace.profile.types import Profile
from gotrace.render.objects import lock_lines, print_objects

MUTEX = Waited("mutex", 0xC000012345)


def made() -> Profile:
    found = profile(layers())
    for stack in found.stacks:
        stack.waited = MUTEX if stack.state is State.WAITING else None
    found.locks = [LockHolders(MUTEX, 4242, 40 * MS, 30 * MS, [Holder(found.stacks[0].frames[-1:], 30 * MS, 30 * MS, 3, False)])]
    return found


def shown(profile: Profile) -> str:
    console = Console(file=io.StringIO(), width=120, highlight=False)
    print_objects(profile, console, 5)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_holders_are_told_to_be_of_all_goroutines_where_only_some_stacks_are_shown() -> None:
    whole = made()
    some = filter_profile(whole, states=(State.WAITING,))
    assert "\n    somebody waited for 40.0 ms;" in shown(whole) and "of all goroutines" not in shown(whole)
    assert "\n    of all goroutines: somebody waited for 40.0 ms;" in shown(some)
    assert lock_lines(whole)[0].startswith("mutex 0xc000012345: somebody waited")
    assert lock_lines(some)[0].startswith("mutex 0xc000012345: of all goroutines: somebody waited")
