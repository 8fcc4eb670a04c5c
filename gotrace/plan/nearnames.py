"""Names of functions that are near one that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from gotrace.gobin.pclntab import Pclntab

_MOST = 4
_MOST_COMPARED = 20_000
_LONGEST = 200


def near_names(table: Pclntab, wanted: str) -> list[str]:
    """At most four functions that `wanted` may mean, the likeliest first: those whose names end with it, hold it, or are similar."""
    text = wanted.lower()
    ends: list[str] = []
    holds: list[str] = []
    rest: list[str] = []
    for name in table.all_names():
        if name == wanted or len(name) > _LONGEST or name.startswith(("type:", "go:", "type..")):
            continue
        lower = name.lower()
        if lower.endswith(text) and (len(lower) == len(text) or lower[-len(text) - 1] in "./"):
            ends.append(name)
        elif text in lower:
            holds.append(name)
        else:
            rest.append(name)
    found = _existing(table, (*sorted(ends, key=_own_first), *sorted(holds, key=_own_first)))
    if found:
        return found
    # Names of the same package are compared first: no other has so many letters in common.
    package = wanted.rpartition("/")[0] + "/" + wanted.rpartition("/")[2].split(".")[0] + "."
    own = [name for name in rest if name.startswith(package.lstrip("/"))]
    last = wanted.rpartition(".")[2].lower()
    same = [name for name in rest if name.lower().rpartition(".")[2] == last]
    similar = get_close_matches(wanted, own[:_MOST_COMPARED], _MOST, 0.6) + sorted(same, key=_own_first)
    return _existing(table, similar or get_close_matches(wanted, rest[:_MOST_COMPARED], _MOST, 0.7))


def _own_first(name: str) -> tuple[bool, bool, int, str]:
    """The program's own functions before those of libraries, methods before closures in them, short ones before long ones."""
    return not name.startswith("main."), ".func" in name, len(name), name


def _existing(table: Pclntab, names: Iterable[str]) -> list[str]:
    """Those of which there is more than inlined copies."""
    found: list[str] = []
    for name in dict.fromkeys(names):
        if len(found) >= _MOST:
            break
        if len(table.functions_named(name)) == 1:
            found.append(name)
    return found
