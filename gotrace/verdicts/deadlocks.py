"""Deadlocks: goroutines that wait for one another, and those that wait for what can't happen."""

from __future__ import annotations

from gotrace.dump.types import Dump, GoroutineState, Verdict
from gotrace.profile.frames import plain_name
from gotrace.verdicts.waitsfor import Need, components, needs, stuck, waits_for_nothing

DEADLOCK, RECURSIVE_READ = "deadlock", "recursive read lock"
_CERTAIN = frozenset(("mutex", "rwmutex", "waitgroup"))
_LIBRARY = ("runtime.", "sync.", "internal/sync.")
_SHOWN = 4
_DOES = {
    "mutex": "unlock", "rwmutex": "unlock", "waitgroup": "call Done of", "cond": "signal", "chan": "serve",
}


def deadlocks(dump: Dump) -> list[Verdict]:
    """Certain are cycles over locks and WaitGroups of which the objects' own state says that nobody else can end them, and waits for nil
    channels and selects without cases."""
    asked = stuck(needs(dump))
    by_id = {one.id: one for one in dump.goroutines if one.id in asked}
    # A program whose main goroutine has nothing left to do waits with select {}, wherever the command's function is.
    hopeless = {goid for goid in asked if waits_for_nothing(by_id[goid]) and (goid != 1 or by_id[goid].reason != "select (no cases)")}
    found = [verdict for members in components(asked) if (verdict := _cycle(members, asked, by_id, dump)) is not None]
    found += _hopeless([by_id[goid] for goid in sorted(hopeless)])
    return found + _behind_hopeless(hopeless, asked, by_id)


def _cycle(members: list[int], asked: dict[int, list[Need]], by_id: dict[int, GoroutineState], dump: Dump) -> Verdict | None:
    inside = set(members)
    kinds = {need.kind for goid in members for need in asked[goid]}
    if not kinds & _CERTAIN:
        return None  # goroutines that hand things to one another over channels alone: which will be first is not known
    certain = kinds <= _CERTAIN and all(len(asked[goid]) == 1 and asked[goid][0].complete and asked[goid][0].sure for goid in members)
    steps, sentences = [], []
    for goid in _in_order(members, asked):
        need = asked[goid][0]
        enders = sorted(inside & need.enders.keys()) or sorted(need.enders)
        steps.append({
            "goroutine": goid, "waits_for": need.kind, "address": need.address, "op": need.op, "function": _waits_in(by_id[goid]),
            "ended_by": {str(ender): plain_name(need.enders[ender]) for ender in enders},
        })
        sentences.append(_sentence(goid, need, enders))
    recursive = len(members) <= 2 and _is_recursive_read(members, asked)
    text = "; ".join(sentences[:_SHOWN]) + (f"; and {len(sentences) - _SHOWN} more" if len(sentences) > _SHOWN else "")
    if recursive:
        text = f"{text}: a read lock is taken again while a writer waits"
    behind = sorted(goid for goid, all_needs in asked.items() if goid not in inside and any(
        inside & need.enders.keys() for need in all_needs))
    evidence = {"cycle": steps, "behind": behind, "followed": dump.prospects.followed, "of": len(dump.goroutines)}
    return Verdict(RECURSIVE_READ if recursive else DEADLOCK, text, members, evidence, certain)


def _in_order(members: list[int], asked: dict[int, list[Need]]) -> list[int]:
    """Each after one that waits for it, as far as it goes."""
    inside, order, goid = set(members), [], members[0]
    while goid not in order:
        order.append(goid)
        goid = next((ender for need in asked[goid] for ender in sorted(need.enders) if ender in inside and ender not in order), goid)
    return order + [goid for goid in members if goid not in order]


def _is_recursive_read(members: list[int], asked: dict[int, list[Need]]) -> bool:
    all_needs = [need for goid in members for need in asked[goid]]
    return len({need.address for need in all_needs}) == 1 and {(need.kind, need.op) for need in all_needs} == {
        ("rwmutex", "RLock"), ("rwmutex", "Lock"),
    }


def _sentence(goid: int, need: Need, enders: list[int]) -> str:
    who = ", ".join("it itself" if ender == goid else f"goroutine {ender}" for ender in enders[:_SHOWN])
    who += f" and {len(enders) - _SHOWN} more" if len(enders) > _SHOWN else ""
    has = "has" if len(enders) == 1 else "have"
    what = {"receive": "receive from", "send": "send to"}.get(need.op, "get" if need.kind != "waitgroup" else "see the end of")
    does = {"receive": "send to", "send": "receive from"}.get(need.op, _DOES.get(need.kind, "end"))
    pronoun = "which" if does.endswith((" to", " from", " of")) else "which"
    return (
        f"goroutine {goid} waits to {what} {need.kind} {need.address}, {pronoun} {who} {has} to {does}"
        f" (in {plain_name(need.enders[enders[0]])})"
    )


def _waits_in(one: GoroutineState) -> str:
    return next((plain_name(frame.name) for frame in one.frames if not frame.name.startswith(_LIBRARY)), "")


def _hopeless(found: list[GoroutineState]) -> list[Verdict]:
    groups: dict[tuple[str, str], list[GoroutineState]] = {}
    for one in found:
        groups.setdefault((one.reason, _waits_in(one)), []).append(one)
    return [
        Verdict(
            DEADLOCK, f"{_goroutines(members)} in {function} forever: {_why(reason)}", [one.id for one in members],
            {"reason": reason, "function": function}, True,
        )
        for (reason, function), members in groups.items()
    ]


def _goroutines(members: list[GoroutineState]) -> str:
    return f"goroutine {members[0].id} waits" if len(members) == 1 else f"{len(members):,} goroutines wait"


def _why(reason: str) -> str:
    if reason == "select (no cases)":
        return "a select without cases never ends"
    return f"the channel {'to which it sends' if 'send' in reason else 'from which it receives'} is nil"


def _behind_hopeless(hopeless: set[int], asked: dict[int, list[Need]], by_id: dict[int, GoroutineState]) -> list[Verdict]:
    """Those that only a goroutine without hope could wake."""
    found = []
    for goid, all_needs in sorted(asked.items()):
        if len(all_needs) != 1 or goid in hopeless:
            continue
        need = all_needs[0]
        lost = sorted(hopeless & need.enders.keys())
        if lost and set(lost) == need.enders.keys():
            certain = need.kind in _CERTAIN and need.complete and need.sure
            found.append(Verdict(
                DEADLOCK, f"{_sentence(goid, need, lost)} and never will", [goid, *lost],
                {"waits_for": need.kind, "address": need.address, "detail": dict(_detail(by_id[goid])), "ended_by": lost}, certain,
            ))
    return found


def _detail(one: GoroutineState) -> dict[str, object]:
    return one.object.detail if one.object is not None else {}
