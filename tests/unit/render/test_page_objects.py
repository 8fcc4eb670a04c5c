"""What was waited for on the page: boxes, an order by object, the table, and who held the locks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from browser import Browser
from flamepage import ROOTS
from profiles import MS, layers, profile

from gotrace.profile.holders import Holder, HolderWait, LockHolders
from gotrace.profile.things import Waited
from gotrace.profile.types import Profile

Show = Callable[..., Browser]
MUTEX = Waited("mutex", 0xC000012345)


def made() -> Profile:
    """All waits for one mutex, that a hostile function held."""
    stacks = [replace(stack, waited=MUTEX if stack.state.value == "waiting" else None) for stack in layers()]
    frames = (stacks[0].frames[-1]._replace(name="main.<b>hold</b>"),)
    holder = Holder(frames, 30 * MS, 30 * MS, 3, False, [HolderWait("fsync of <i>wal</i>", 20 * MS)])
    return replace(profile(stacks), locks=[LockHolders(MUTEX, 4242, 40 * MS, 30 * MS, [holder])])


def test_the_order_by_object(show: Show) -> None:
    page = show(made(), "#part=all&rg=1")
    page.run("$('from').value = 'object'; $('from').dispatchEvent(new Event('change'))")
    assert "mutex 0xc000012345" in page.run(ROOTS)
    assert page.run("$('from').value") == "object"
    waiting = sum(stack.distribution.total_ns for stack in made().stacks if stack.waited is not None)
    assert page.run("(() => { const [tree] = flame.trees; const node = [...tree.children(0)].find(n => profile.nameOf(tree.fn[n])"
                    ".startsWith('mutex')); return tree.total[node]; })()") == waiting
    page.run("$('from').value = 'leaf'; $('from').dispatchEvent(new Event('change'))")
    assert not any(name.startswith("mutex") for name in page.run(ROOTS))


def test_the_table_tells_objects_from_wakers(show: Show) -> None:
    page = show(made(), "#show=table")
    cells = page.run("[...document.querySelectorAll('#table td.stack')].map(cell => [...cell.children].map(child => child.textContent))")
    assert any("on mutex 0xc000012345" in lines for lines in cells)
    assert not any(line.startswith("woken by mutex") for lines in cells for line in lines)


def test_who_held_the_locks(show: Show) -> None:
    page = show(made())
    text = page.run("$('details-body').textContent")
    assert "mutex 0xc000012345: somebody waited for 40.0 ms; who held the lock is known of 75.0 % of that: held 75.0 %" in text
    assert "by main.<b>hold</b>, which spent 66.7 % of it in fsync of <i>wal</i>" in text
    assert page.run("$('details-body').querySelectorAll('b, i').length") == 0


def test_without_objects_there_is_no_such_order(show: Show) -> None:
    page = show(profile(layers()))
    assert page.run("$('from').querySelector('[value=\"object\"]').hidden") is True
    assert "Who held" not in page.run("$('details-body').textContent")
