"""What gotrace serve answers, by Tornado: requests are checked, and whatever takes time is done by threads of their own."""

from __future__ import annotations

import asyncio
import json
import math
import ssl
import time
import weakref
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application, HTTPError, RequestHandler

from gotrace.common.errors import GotraceError, UsageError
from gotrace.dump.formats import RENDERERS
from gotrace.dump.reading import dump
from gotrace.export import render
from gotrace.profile.filters import parse_band
from gotrace.profile.types import Profile
from gotrace.serve.alerts import alerts_of
from gotrace.serve.expressions import duration_ns
from gotrace.serve.listening import Guard
from gotrace.serve.narrowing import narrowed
from gotrace.serve.overview import overview
from gotrace.serve.page import page
from gotrace.serve.pprofs import UNKNOWN, block, goroutines_text
from gotrace.serve.service import Service
from gotrace.serve.tracing import Traced
from gotrace.serve.work import Said, Work
from gotrace.verdicts.judge import judge

_MOST_CONNECTIONS = 128
_ANSWER_S = 60.0
_HEADER_BYTES, _BODY_BYTES = 16 << 10, 1 << 20
_IDLE_S, _BODY_S, _SEND_S = 30.0, 10.0, 60.0
_LONGEST_TARGET = 256
_WATCHED = ("offcpu", "block", "goroutine")


class Server(HTTPServer):
    """Closes connections beyond a number of them."""

    def initialize(self, app: Application, tls: ssl.SSLContext | None) -> None:  # type: ignore[override]
        """Answers what `app` has, with limits."""
        self._streams: weakref.WeakSet[IOStream] = weakref.WeakSet()
        super().initialize(
            app, ssl_options=tls, max_header_size=_HEADER_BYTES, max_body_size=_BODY_BYTES, idle_connection_timeout=_IDLE_S,
            body_timeout=_BODY_S, max_buffer_size=_BODY_BYTES + _HEADER_BYTES,
        )

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Takes a connection, or closes it."""
        if sum(not one.closed() for one in self._streams) >= _MOST_CONNECTIONS:
            stream.close()
            return
        self._streams.add(stream)
        super().handle_stream(stream, address)


class Handler(RequestHandler):
    """What all answers share: the checks before, and one sentence as text for errors."""

    service: Service
    guard: Guard
    work: Work
    open_to_all = False

    def initialize(self, service: Service, guard: Guard, work: Work) -> None:
        """See the fields."""
        self.service, self.guard, self.work = service, guard, work

    def set_default_headers(self) -> None:
        """Browsers are to guess nothing, keep nothing, and show it in no other page."""
        self.set_header("Server", "gotrace")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("X-Frame-Options", "SAMEORIGIN")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("Cache-Control", "no-store")

    def prepare(self) -> None:
        """Refuses whom we do not answer."""
        headers = self.request.headers
        host = headers.get("Host", "")
        if not self.guard.host_is_right(host):
            raise Said(403, "the header Host does not name this machine")
        if not self.guard.origin_is_right(headers.get("Origin", ""), host):
            raise Said(403, "the header Origin names another site")
        if not self.guard.site_is_right(*(headers.get(f"Sec-Fetch-{name}", "") for name in ("Site", "Mode", "Dest"))):
            raise Said(403, "the header Sec-Fetch-Site tells of another site")
        if not self.open_to_all and not self.guard.knows(headers.get("Authorization", "")):
            self.set_header("WWW-Authenticate", 'Basic realm="gotrace", charset="UTF-8"')
            raise Said(401, "a token is needed: Authorization: Bearer TOKEN, or TOKEN as the password of any user")

    def finish(self, chunk: Any = None) -> asyncio.Future[None]:
        """As Tornado's; who does not read the answer in a while is not kept any longer, nor is the answer."""
        sent = super().finish(chunk)
        asyncio.get_running_loop().call_later(_SEND_S, _give_up, sent, getattr(self.request.connection, "stream", None))
        return sent

    def write_error(self, status_code: int, **named: Any) -> None:
        """One sentence."""
        error = named.get("exc_info", (None, None, None))[1]
        if named.get("challenge"):  # the headers were cleared
            self.set_header("WWW-Authenticate", named["challenge"])
        sentence = error.sentence if isinstance(error, Said) else str(error) if isinstance(error, GotraceError) else self._reason
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(sentence + "\n")

    def send_error(self, status_code: int = 500, **named: Any) -> None:
        """As Tornado's."""
        error = named.get("exc_info", (None, None, None))[1]
        challenge = self._headers.get("WWW-Authenticate", "")
        super().send_error(503 if isinstance(error, GotraceError) else status_code, challenge=challenge, **named)

    def log_exception(self, kind: Any, value: Any, trace: Any) -> None:
        """One line, where it is our fault."""
        if not isinstance(value, (HTTPError, GotraceError)):
            self.service.say(f"request {self.request.path}: {type(value).__name__}: {value}")

    # -- parameters --------------------------------------------------------------------------------------------------------

    def traced(self) -> Traced:
        """The one process that the parameter target means."""
        wanted = self.get_query_argument("target", "")
        if not wanted or len(wanted) > _LONGEST_TARGET:
            raise Said(400, "target= is missing: a pid, a name or a container's id; /targets lists them")
        found = self.service.supervisor.find(wanted)
        if not found:
            raise Said(404, "no such target is traced: /targets lists them")
        if len(found) > 1:
            named = ", ".join(str(one.pid) for one in found[:16])
            raise Said(409, f"{len(found)} targets are called so: choose one by its pid: {named}")
        return found[0]

    def seconds(self, default: float | None = None) -> tuple[int, int]:
        """From when to when (CLOCK_MONOTONIC, ns): the last seconds=, or from= to to= (since 1970, in seconds), or all that is kept."""
        now_ns = time.monotonic_ns()
        kept_ns = self.service.options.keep_ns
        begin, end = self._number("from"), self._number("to")
        if begin is not None or end is not None:
            offset_ns = time.time_ns() - now_ns
            begin_ns = round(begin * 1e9) - offset_ns if begin is not None else now_ns - kept_ns
            end_ns = round(end * 1e9) - offset_ns if end is not None else now_ns
            if end_ns <= begin_ns:
                raise Said(400, "to= is not after from=")
            return begin_ns, end_ns
        seconds = self._number("seconds")
        seconds = seconds if seconds is not None else default
        if seconds is not None and seconds <= 0:
            raise Said(400, "seconds= is above 0")
        return now_ns - (round(seconds * 1e9) if seconds is not None else kept_ns), now_ns

    def _number(self, name: str) -> float | None:
        text = self.get_query_argument(name, "")
        if not text:
            return None
        try:
            value = float(text) if len(text) < 32 else math.nan
        except ValueError:
            value = math.nan
        if not 0 <= value < 1e11:
            raise Said(400, f"{name}= is no number of seconds")
        return value

    def profile(self, traced: Traced, begin_ns: int, end_ns: int) -> Profile:
        """What is kept of that time."""
        found = traced.profile(begin_ns, end_ns)
        if found is None:
            raise Said(404, "nothing is kept of that time: /targets says what is")
        return found


    def narrow(self, profile: Profile) -> Profile:
        """The same in the requests that band= and slower-than= choose, else those of the options."""
        detail = self.service.options.detail
        band, slower_ns = self.get_query_argument("band", ""), self.get_query_argument("slower-than", "")
        if not band and not slower_ns:
            return narrowed(profile, detail.band, detail.slower_than_ns)
        least_ns = duration_ns(slower_ns) if len(slower_ns) < 32 else None
        if slower_ns and least_ns is None:
            raise Said(400, "slower-than= is no duration (250us, 10ms, 1.5s)")
        try:
            return narrowed(profile, parse_band(band[:64]) if band else None, least_ns or 0)
        except UsageError as error:
            raise Said(400, str(error)) from None


def _give_up(sent: asyncio.Future[None], stream: IOStream | None) -> None:
    if stream is not None and not sent.done():
        stream.close()


class Health(Handler):
    """``/healthz``."""

    open_to_all = True

    def get(self) -> None:
        """Whether it works."""
        problem = self.service.problem()
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_status(503 if problem else 200)
        self.finish((problem or "ok") + "\n")


class Targets(Handler):
    """``/targets``."""

    def get(self) -> None:
        """All of them, as JSON."""
        self.finish(self.service.targets())


class MetricsText(Handler):
    """``/metrics``."""

    async def get(self) -> None:
        """All figures."""
        accept = self.request.headers.get("Accept", "")
        text, kind = await self.work.do(lambda: self.service.metrics.text(accept), scrape=True)
        self.set_header("Content-Type", kind)
        self.finish(text)


class Pprof(Handler):
    """``/debug/pprof/...``."""

    def write_error(self, status_code: int, **named: Any) -> None:
        """As Go's endpoint (net/http/pprof: serveError)."""
        self.set_header("X-Go-Pprof", "1")
        super().write_error(status_code, **named)

    async def get(self, name: str) -> None:
        """A profile, as Go's own endpoint gives it."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        if not name:
            self.finish("".join(f"/debug/pprof/{one}?target=PID&seconds=N\n" for one in _WATCHED))
            return
        if name not in _WATCHED:
            raise Said(404, UNKNOWN.get(name, "there is no such profile: offcpu, block and goroutine are"))
        traced = self.traced()
        debug = self._number("debug") or 0.0
        if not debug.is_integer():
            raise Said(400, "debug= is 0, 1 or 2")
        if debug and name != "goroutine":
            raise Said(400, "debug= is for goroutine; of the others only the binary form can be had")
        if name == "goroutine":
            body = await self.work.do(lambda: _goroutines(traced, int(debug)))
        else:
            begin_ns, end_ns = self.seconds()
            body = await self.work.do(lambda: self._profile(traced, name, begin_ns, end_ns))
        if not debug:
            self.set_header("Content-Type", "application/octet-stream")
            self.set_header("Content-Disposition", f'attachment; filename="{name}"')
        self.finish(body)

    def _profile(self, traced: Traced, name: str, begin_ns: int, end_ns: int) -> bytes:
        found = self.narrow(self.profile(traced, begin_ns, end_ns))
        return render(block(found) if name == "block" else found, ".pb.gz")


def _goroutines(traced: Traced, debug: int) -> bytes:
    found = dump(traced.pid)
    if debug:
        return goroutines_text(found, debug).encode()
    found.verdicts = judge(found)
    return RENDERERS[".pb.gz"](found)


class FlameGraph(Handler):
    """``/flamegraph``."""

    async def get(self) -> None:
        """The page of a stretch of time."""
        traced, (begin_ns, end_ns) = self.traced(), self.seconds()
        body = await self.work.do(lambda: render(self.narrow(self.profile(traced, begin_ns, end_ns)), ".html"))
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(body)


class Timeline(Handler):
    """``/timeline``."""

    def get(self) -> None:
        """The last hour in a few figures a second, or what of it lies after from=."""
        traced = self.traced()
        self.finish({"pid": traced.pid, "seconds": traced.hour.since(self._number("from") or 0.0)})


class Overview(Handler):
    """``/overview``."""

    async def get(self) -> None:
        """A stretch of time in short."""
        traced, (begin_ns, end_ns) = self.traced(), self.seconds()
        self.finish(await self.work.do(lambda: overview(self.profile(traced, begin_ns, end_ns))))


class Page(Handler):
    """``/``."""

    def get(self) -> None:
        """The page, which asks for everything else by itself."""
        body, policy = page()
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", policy)
        self.finish(body)


class Capture(Handler):
    """``/capture``."""

    async def post(self) -> None:
        """Writes a capture; answers when it is there."""
        traced, (begin_ns, end_ns) = self.traced(), self.seconds()
        if not self.service.evidence.permits("request"):
            raise Said(429, self.service.options.too_many("request"))
        asked = self.service.capture(traced, "request", ["POST /capture"], begin_ns, end_ns)
        try:
            line = await asyncio.wait_for(asked, _ANSWER_S)
        except asyncio.TimeoutError:
            raise Said(503, "it took too long") from None
        if line is None:
            raise Said(503, "too many captures are being written: try again")
        self.set_status(500 if line.get("error") else 200)
        self.finish(line)


class Alert(Handler):
    """``/alert``."""

    async def post(self) -> None:
        """Takes what Alertmanager sends."""
        try:
            alerts = alerts_of(self.request.body)
        except ValueError as error:
            raise Said(400, f"this is no webhook of Alertmanager: {error}") from None
        self.finish(json.dumps(await self.work.do(lambda: self.service.alert(alerts))) + "\n")


class Nothing(Handler):
    """Any other path."""

    def prepare(self) -> None:
        """Nothing is there."""
        super().prepare()
        raise Said(404, "there is nothing here; docs/serve.md lists what there is")


def application(service: Service, guard: Guard, work: Work | None = None) -> Application:
    """Everything that is answered."""
    shared = {"service": service, "guard": guard, "work": work or Work()}
    return Application(
        [
            ("/healthz", Health, shared), ("/targets", Targets, shared), ("/metrics", MetricsText, shared),
            ("/debug/pprof/([a-z]{0,16})", Pprof, shared), ("/flamegraph", FlameGraph, shared), ("/capture", Capture, shared),
            ("/alert", Alert, shared), ("/timeline", Timeline, shared), ("/overview", Overview, shared), ("/", Page, shared),
        ],
        default_handler_class=Nothing, default_handler_args=shared, log_function=lambda _handler: None, compress_response=True,
    )
