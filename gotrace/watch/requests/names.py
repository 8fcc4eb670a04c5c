"""What requests ask for: where it lies in the memory of the process, what is believed of it, and what is known."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import NamedTuple

from gotrace.kernel.spans import ArgumentLayout, SpanTables
from gotrace.kernel.structs import TOLD_METHOD, TOLD_PATH
from gotrace.plan.probes import Plan, SpanSite
from gotrace.proc.memory import Memory


class Argument(NamedTuple):
    """Which argument tells what was requested: bpf/shared.h: SPAN_ARGUMENT_*, with the register that has to be intact for it."""

    number: int
    register: str
    layout: ArgumentLayout


_GRPC = Argument(4, "r8", ArgumentLayout(None, None, 0))
"""grpc.MethodDesc and StreamDesc, both of which begin with the name; in R8, or with a context and a transport before it in R10."""
_ARGUMENTS = {
    # net/http.Request.Method and .URL, net/url.URL.Path: the same in Go 1.19 to 1.27.
    "net/http.serverHandler.ServeHTTP": Argument(3, "rdi", ArgumentLayout(method=0, url=16, path=56)),
    "google.golang.org/grpc.(*Server).processUnaryRPC": _GRPC,
    "google.golang.org/grpc.(*Server).processStreamingRPC": _GRPC,
}
_METHOD = re.compile(rb"[A-Z][A-Z-]{0,15}")
_NAME = re.compile(rb"[A-Z]\w{0,127}")
_MOST_IN_PROGRESS = 256
"""Requests in progress of which it is read what they ask for, the longest."""


def known_arguments(plan: Plan) -> dict[SpanSite, Argument]:
    """Those of the functions that serve requests, by where these begin."""
    return {
        span.begin: argument for span in plan.spans
        for name, argument in _ARGUMENTS.items() if name == span.name and argument.register in span.intact
    }


class RequestNames:
    """What the requests of one process ask for, and their profiler labels. `arguments`: as `known_arguments` has them, empty if that is not
    to be read."""

    def __init__(self, tables: SpanTables, arguments: dict[SpanSite, Argument]) -> None:
        self._tables = tables
        self._arguments = arguments
        self._layouts = {site.function: argument.layout for site, argument in arguments.items()}
        self._known: dict[tuple[int, int], tuple[str | None, dict[str, str]]] = {}
        self._of_open: dict[tuple[int, int], str] = {}

    def argument(self, site: SpanSite) -> int:
        """The number of the argument that the program at `site` reads it from; 0 for none."""
        return self._arguments[site].number if site in self._arguments else 0

    def layout(self, function: int) -> ArgumentLayout | None:
        """How the argument of that function lies; None if it is not known."""
        return self._layouts.get(function)

    def of(self, goid: int, start_ns: int) -> tuple[str | None, dict[str, str]]:
        """What the request asks for that this goroutine began then, None if that is not known; and its labels."""
        return self._known.get((goid, start_ns)) or (self._of_open.get((goid, start_ns)), {})

    def take(self) -> None:
        """Takes what the programs have told of requests that have ended since the last call."""
        for key, told in self._tables.take_told().items():
            labels = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in told.labels.items()}
            self._known[key] = request_name(told.method, told.path), labels

    def keep(self, wanted: set[tuple[int, int]]) -> None:
        """Forgets of requests that have ended all but these, by goroutine and start."""
        self._known = {key: what for key, what in self._known.items() if key in wanted}

    def read_open(self, memory: Memory, open_since: Callable[[int], int]) -> None:
        """Reads what requests in progress ask for, of those whose goroutines do not move meanwhile, as `open_since` tells by their g."""
        self._of_open.clear()
        opened = sorted((request for request in self._tables.read_open() if not request.over_ns), key=lambda request: request.start_ns)
        for request in opened[:_MOST_IN_PROGRESS]:
            layout, since_ns = self._layouts.get(request.function), open_since(request.g)
            what = read_name(memory, request.request, layout) if layout is not None and request.request and since_ns else None
            if what is not None and open_since(request.g) == since_ns:
                self._of_open[request.goid, request.start_ns] = what


def request_name(method: bytes, path: bytes) -> str | None:
    """What was requested. It is checked by what it looks like: a token, and an absolute path or an asterisk (RFC 9110, 9112), or the name
    of a method."""
    if _METHOD.fullmatch(method) and path[:1] in (b"/", b"*"):
        return f"{method.decode()} {path.decode(errors='replace')}"
    return path.decode() if not method and _NAME.fullmatch(path) else None


def read_name(memory: Memory, argument: int, layout: ArgumentLayout) -> str | None:
    """What a request in progress asks for, read as the programs do of one that ends (bpf/requests.c: tell); None if that makes no sense."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        method = _string(memory, argument + layout.method, TOLD_METHOD) if layout.method is not None else b""
        url = memory.u64(argument + layout.url) if layout.url is not None else argument
        return request_name(method, _string(memory, url + layout.path, TOLD_PATH)) if url else None
    return None


def _string(memory: Memory, at: int, room: int) -> bytes:
    header = memory.read(at, 16)
    if header is None:
        return b""
    data, length = int.from_bytes(header[:8], "little"), int.from_bytes(header[8:], "little")
    text = memory.read(data, min(length, room)) if length else b""
    return (text or b"") + (b"..." if length > room else b"")
