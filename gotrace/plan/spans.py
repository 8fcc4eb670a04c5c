"""Spans: functions of which each call is followed from its beginning to its end, and the servers that are known to have such.

No return probes: they would change return addresses on the stack. A call ends where its function returns (each RET, which the kernel has
to step), or, where all that calls it is known, at the next instruction of the caller that the kernel emulates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gotrace.common.errors import BadBinary, UsageError
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.functions import Function
from gotrace.gobin.passages import Passage, beginning, behind_call, returns, returns_of_caller
from gotrace.gobin.references import References, references
from gotrace.gobin.x86 import probe_site
from gotrace.plan.nearnames import near_names
from gotrace.plan.probes import LeftOut, Probe, SpanFunction, SpanKind, SpanSite
from gotrace.plan.servers import SERVERS, Server

MOST_SPANS = 8
"""How many functions of a process can be spans at once."""
_MOST_ENDS = 16
"""Places at which one function's calls are seen to end."""
_PROGRAM = "at_span"
_SHOWN = 4
_NO_UNWINDS = "ends of requests by it: they last until their function's next call at the same depth, or until their goroutine ends"


@dataclass(frozen=True)
class Spans:
    """Those of a plan. `unwinds` are where several calls end at once, those of all functions: runtime.Goexit and a recovered panic."""

    functions: tuple[SpanFunction, ...] = ()
    unwinds: tuple[SpanSite, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def probes(self) -> list[Probe]:
        """All their probes."""
        sites = [site for function in self.functions for site in (function.begin, *function.ends)]
        return [site.probe for site in (*sites, *self.unwinds)]


class _Unusable(Exception):
    """Why a function can't be a span, and what could be instead, as texts."""

    def __init__(self, why: str, instead: str = "") -> None:
        super().__init__(why)
        self.instead = instead


def find_spans(binary: GoBinary, servers: bool, named: Iterable[str] = ()) -> Spans:
    """With `servers`, those of the known servers that the binary has; and the functions that are `named` in full.

    Raises:
        UsageError: one that is named is not there, exists several times, has inlined copies, or can't be followed; or there are too many.
    """
    found: dict[str, SpanFunction] = {}
    left_out: list[LeftOut] = []
    taken: set[int] = set()
    for name in dict.fromkeys(named):
        try:
            found[name] = _span(binary, name, len(found), None, taken)
        except _Unusable as error:
            raise UsageError(f"--span {name}: {error}", error.instead or None) from None
    for server in SERVERS if servers else ():
        _add_server(binary, server, found, left_out, taken)
    if len(found) > MOST_SPANS:
        raise UsageError(f"{len(found)} functions are to be spans: at most {MOST_SPANS} can be", "fewer --span, or --requests off")
    if not found:
        return Spans(left_out=tuple(left_out))
    unwinds = []
    for symbol, kind, register in (("runtime.Goexit", SpanKind.GOEXIT, "r14"), ("runtime.recovery", SpanKind.RECOVERY, "rax")):
        if not binary.table.functions_named(symbol):
            left_out.append(LeftOut(symbol, "not linked in: nothing calls it"))
            continue
        try:
            unwinds.append(_unwind(binary, symbol, kind, register))
        except _Unusable as error:
            left_out.append(LeftOut(symbol, str(error), "ends of requests", _NO_UNWINDS))
    return Spans(tuple(found.values()), tuple(unwinds), tuple(left_out))


def _add_server(
    binary: GoBinary, server: Server, found: dict[str, SpanFunction], left_out: list[LeftOut], taken: set[int]
) -> None:
    """Adds the first choice of the server's functions of which all can be spans, to `found`, or why there is none, to `left_out`."""
    wanted = server.only_with or server.choices[0][0]
    if not binary.table.functions_named(wanted):
        left_out.append(LeftOut(server.choices[0][0], f"not linked in: the program has no {server.what} server"))
        return
    reasons = []
    for choice in server.choices:
        own: dict[str, SpanFunction] = {}
        used = set(taken)
        try:
            for name in choice:
                if name not in found:
                    own[name] = _span(binary, name, len(found) + len(own), server, used)
        except _Unusable as error:
            reasons.append(LeftOut(name, str(error), "requests", f"requests of its {server.what} server"))
            continue
        found.update(own)
        taken |= used
        return
    left_out += reasons


def _span(binary: GoBinary, name: str, number: int, server: Server | None, taken: set[int]) -> SpanFunction:
    """The span function `name`, with the addresses of its sites added to `taken`; raises _Unusable."""
    function, found_by = _only(binary, name)
    known = server is not None and server.knows(binary.version)
    try:
        begin = beginning(binary.image, binary.table, function)
        found = references(binary.image, binary.table, function, by_methods=not known)
    except BadBinary as error:
        raise _Unusable(_plain(binary, error)) from None
    ends, how = _ends(binary, function, found, server if known else None)
    sites = [_site(binary, number, name, SpanKind.BEGIN, "span begin", begin, found_by)]
    for owner, passage in ends:
        sites.append(_site(binary, number, owner.name, SpanKind.END, "span end", passage, found_by))
    addresses = {site.probe.site.address for site in sites}
    if len(addresses) < len(sites) or addresses & taken:
        raise _Unusable("it begins or ends at the very instruction at which another span does")
    taken |= addresses
    return SpanFunction(name, number, function.entry, sites[0], tuple(sites[1:]), how, begin.intact)


def _only(binary: GoBinary, name: str) -> tuple[Function, str]:
    """The one function of that name, of which there are no inlined copies."""
    table = binary.table
    try:
        found = binary.function(name)
    except BadBinary as error:
        places = [function for function in table.functions_named(name) if function.func_id != table.wrapper_id]
        if len(places) < 2:
            raise _Unusable(_plain(binary, error)) from None
        at = ", ".join(f"{function.entry:#x}" for function in places[:_SHOWN])
        raise _Unusable(
            f"there are {len(places)} functions of that name (at {at}): instances of a generic function, for example", _near(binary, name)
        ) from None
    copies = table.inlined_anywhere(name, _SHOWN)
    if copies:
        where = ", ".join(copy.name for copy in copies)
        what = "it is inlined wherever it is called" if found is None else "some of its calls are inlined, and would be missing"
        raise _Unusable(f"{what} (in {where})", f"--span {copies[0].name}, or build it with //go:noinline before the function")
    if found is None:
        raise _Unusable("no function of the program has that name", _near(binary, name))
    if any(call.file.endswith(".s") for call in table.expand(found[0].entry, is_return_address=False)):
        raise _Unusable("it is written in assembly, which does not keep the goroutine where Go code has it", _near(binary, name))
    return found


def _near(binary: GoBinary, name: str) -> str:
    near = near_names(binary.table, name)
    return "near: " + ", ".join(near) if near else "gotrace attach PID, then the flame graph, shows the names of the program's functions"


def _ends(binary: GoBinary, function: Function, found: References, server: Server | None) -> tuple[list[tuple[Function, Passage]], str]:
    """Where its calls end, each with the function that the place is in, and that in words: behind the calls, where that is possible and not
    dearer than at each RET."""
    own, why_not = [], ""
    try:
        own = [(function, passage) for passage in returns(binary.image, binary.table, function)]
        why_not = "" if 0 < len(own) <= _MOST_ENDS else f"it has {len(own)} returns" if own else "it never returns"
    except BadBinary as error:
        why_not = _plain(binary, error)
    try:
        behind, not_behind = _behind(binary, found, server), ""
    except BadBinary as error:
        behind, not_behind = [], _plain(binary, error)
    cheaper = any(passage.traps == 1 for _, passage in behind) or 0 < len(behind) <= len(own)
    if behind and (cheaper or why_not):
        callers = list(dict.fromkeys(owner.name for owner, _ in behind))
        return behind, f"behind its {_counted(len(behind), 'call')} in {_listed(callers)}"
    if why_not:
        raise _Unusable(f"where its calls end can't be seen: {why_not}, and {not_behind or 'nothing calls it by name'}")
    how = f"at its {_counted(len(own), 'return')}"
    return own, how + (f": {not_behind}" if not_behind else "")


def _behind(binary: GoBinary, found: References, server: Server | None) -> list[tuple[Function, Passage]]:
    """The places behind all its calls; [] if nothing calls it.

    Raises:
        BadBinary: not all that calls it is known, there are too many calls, or no place behind one.
    """
    image, table = binary.image, binary.table
    ends: list[tuple[Function, Passage]] = []
    other = list(found.other)
    for name in server.by_interface if server is not None and other == ["by its address in data"] else ():
        for function in table.functions_named(name)[:1]:
            ends += [(function, passage) for passage in returns_of_caller(image, table, function)]
            other = []
    if other:
        raise BadBinary(f"it is also reached {_listed(other)}")
    if len(found.calls) > _MOST_ENDS:
        raise BadBinary(f"it is called in {len(found.calls)} places")
    for caller, call in found.calls:
        past = binary.function(server.followed_by[caller.name]) if server is not None and caller.name in server.followed_by else None
        passage = behind_call(image, table, caller, call, past[0] if past is not None else None)
        if passage is None:
            raise BadBinary(f"what follows its call in {caller.name} runs at other times as well")
        ends.append((caller, passage))
    return ends


def _unwind(binary: GoBinary, symbol: str, kind: SpanKind, register: str) -> SpanSite:
    function, found_by = _only(binary, symbol)
    try:
        # Being asked for more stack, they come by here twice, which changes nothing.
        site = probe_site(binary.image, function, register, frame_allowed=True)
    except BadBinary as error:
        raise _Unusable(_plain(binary, error)) from None
    return _site(binary, 0, symbol, kind, "span end", Passage(site, 0), found_by, register)


def _site(
    binary: GoBinary, number: int, symbol: str, kind: SpanKind, role: str, passage: Passage, found_by: str, register: str = "r14"
) -> SpanSite:
    offset = binary.image.file_offset(passage.site.address)
    if offset is None:
        raise _Unusable("it lies outside the file")
    probe = Probe(role, symbol, _PROGRAM, passage.site, offset, register, found_by, passage.traps)
    return SpanSite(probe, number, kind, passage.sp_above)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _listed(texts: list[str]) -> str:
    return ", ".join(texts[:_SHOWN]) + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")


def _plain(binary: GoBinary, error: BadBinary) -> str:
    """Its text, without the name of the file, which the user knows."""
    return str(error).removeprefix(f"{binary.image.name}: ")
