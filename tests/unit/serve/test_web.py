"""Who is answered, and what is refused: a real server, without a process to trace."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.web import HTTPError
from webs import Web, put_target

from gotrace.common.errors import GotraceError, UsageError
from gotrace.host.choice import Wanted
from gotrace.serve.alerts import Alert, alerts_of
from gotrace.serve.jobs import Job
from gotrace.serve.listening import Address, address_of, bind, read_token, tls_of
from gotrace.serve.options import ServeOptions
from gotrace.serve.service import Service
from gotrace.serve.web import Handler
from gotrace.serve.work import Work

TOKEN = b"0123456789abcdef0123"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    web = Web(tmp_path_factory.mktemp("web"))
    yield web
    web.close()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    web = Web(tmp_path_factory.mktemp("web"), TOKEN)
    yield web
    web.close()


def test_what_is_answered(web: Web) -> None:
    assert web.ask("/healthz")[:2] == (200, "ok\n")
    found = json.loads(web.ask("/targets")[1])
    assert found["targets"] == [] and found["captures"] == [] and not found["killed"]
    status, text, headers = web.ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert status == 200 and text.endswith("# EOF\n") and headers["content-type"].startswith("application/openmetrics-text")
    assert web.ask("/debug/pprof/")[1].startswith("/debug/pprof/offcpu?target=PID")


@pytest.mark.parametrize(("path", "status", "text"), [
    ("/nope", 404, "there is nothing here"),
    ("/../../etc/passwd", 404, "there is nothing here"),
    ("/debug/pprof/../../etc/passwd", 404, "there is nothing here"),
    ("/debug/pprof/heap?target=1", 404, "known to the process alone"),
    ("/debug/pprof/mutex?target=1", 404, "who unlocked"),
    ("/debug/pprof/offcpu", 400, "target= is missing"),
    ("/debug/pprof/offcpu?target=../../etc", 404, "no such target"),
    ("/flamegraph?target=" + "a" * 300, 400, "target= is missing"),
    ("/debug/pprof/offcpu?target=%ff", 400, ""),
    ("/debug/pprof/offcpu?target=%C2%B2", 404, "no such target"),
])
def test_what_is_not(web: Web, path: str, status: int, text: str) -> None:
    found = web.ask(path)
    assert found[0] == status and text in found[1] and "Traceback" not in found[1] and found[2]["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["localhost:9470", "127.0.0.1", "127.0.0.2:1", "[::1]:9470"])
def test_hosts_of_this_machine(web: Web, host: str) -> None:
    assert web.ask("/targets", Host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9470", "localhost.evil.example", "", "10.0.0.1", "127.0.0.1.evil.example"])
def test_other_hosts_are_refused(web: Web, host: str) -> None:
    """A name that an attacker has pointed to 127.0.0.1."""
    status, text, _ = web.ask("/targets", Host=host)
    assert status in (400, 403) and "targets" not in text


def test_pages_of_other_sites_are_refused(web: Web) -> None:
    assert web.ask("/capture?target=1", "POST", Origin="http://evil.example")[0] == 403
    assert web.ask("/capture?target=1", "POST", Origin=f"http://127.0.0.1:{web.port}")[0] == 404


@pytest.mark.parametrize("origin", ["null", "http://[", "http://127.0.0.1:1", "file://"])
def test_origins_that_are_none_of_ours(web: Web, origin: str) -> None:
    assert web.ask("/targets", Origin=origin)[0] == 403


@pytest.mark.parametrize(("site", "mode", "destination", "status"), [
    ("cross-site", "no-cors", "image", 403), ("same-site", "no-cors", "script", 403), ("cross-site", "navigate", "iframe", 403),
    ("cross-site", "navigate", "document", 200), ("none", "navigate", "document", 200), ("same-origin", "cors", "empty", 200),
])
def test_what_pages_of_other_sites_contain_is_refused(web: Web, site: str, mode: str, destination: str, status: int) -> None:
    """Browsers ask for images and scripts without an Origin. A link to a flame graph may be followed."""
    assert web.ask("/targets", Sec_Fetch_Site=site, Sec_Fetch_Mode=mode, Sec_Fetch_Dest=destination)[0] == status


def test_methods(web: Web) -> None:
    assert web.ask("/targets", "POST")[0] == 405 and web.ask("/capture?target=1")[0] == 405 and web.ask("/metrics", "DELETE")[0] == 405


@pytest.mark.parametrize(("authorization", "status"), [
    ("", 401), ("Bearer", 401), ("Bearer wrong", 401), (f"Basic {TOKEN.decode()}", 401), ("Basic !!!", 401), ("Bearer \xff", 401),
    (f"Digest {TOKEN.decode()}", 401), (f"Bearer {TOKEN.decode()}", 200), (f"bearer {TOKEN.decode()}", 200),
    ("Basic " + base64.b64encode(b"anyone:" + TOKEN).decode(), 200), ("Basic " + base64.b64encode(TOKEN).decode(), 401),
])
def test_the_token(closed: Web, authorization: str, status: int) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    found = closed.ask("/targets", **headers)
    assert found[0] == status and ("www-authenticate" in found[2]) == (status == 401)
    assert closed.ask("/healthz")[0] == 200 and closed.ask("/targets", Host="gotrace.example:9470", **headers)[0] == status


def test_sizes_are_limited(web: Web) -> None:
    assert b"targets" not in web.send(b"GET /targets HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n")
    begun = b"POST /alert HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n"
    assert b"200 OK" not in web.send(begun + b"{" * 100_000)
    assert b"200 OK" not in web.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")
    assert web.ask("/healthz")[0] == 200


def test_connections_are_limited(web: Web) -> None:
    opened = [socket.create_connection(("127.0.0.1", web.port), timeout=30) for _ in range(140)]
    try:
        assert opened[-1].recv(1) == b""  # closed at once
    finally:
        for one in opened:
            one.close()
    for _ in range(100):
        try:
            if web.ask("/healthz")[0] == 200:
                return
        except OSError:
            threading.Event().wait(0.05)
    raise AssertionError("it does not answer again")


def test_tls(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1", "-subj", "/CN=localhost"],
        check=True, capture_output=True,
    )
    web = Web(tmp_path, tls=(certificate, key))
    try:
        context = ssl.create_default_context(cafile=certificate)
        context.check_hostname = False
        connection = http.client.HTTPSConnection("127.0.0.1", web.port, context=context, timeout=30)
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b"ok\n"
        connection.close()
    finally:
        web.close()
    with pytest.raises(GotraceError, match="can't be used"):
        tls_of(key, key)
    with pytest.raises(UsageError, match="belong together"):
        tls_of(key, None)


def test_requests_and_signals_have_numbers_of_their_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever may ask can't use up what triggers may write."""
    web = Web(tmp_path, per_hour=2)
    try:
        traced = put_target(web.service, "shop")
        answers = [web.ask("/capture?target=shop", "POST") for _ in range(3)]
        assert [status for status, _, _ in answers] == [200, 200, 429]
        assert answers[2][1] == "the captures by request of this hour are used up (2): --captures-per-hour allows more\n"
        for _ in range(3):
            web.service.capture_all("SIGUSR1")
        now = time.monotonic_ns()
        assert web.service.evidence.ask(Job(traced, "trigger", now, now, ["losses > 0"])) and web.service.evidence.counts["left_out"] == 2
        assert "SIGUSR1: the captures by signal of this hour are used up (2)" in capfd.readouterr().err
    finally:
        web.close()


# -- addresses, tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "address", "local"), [
    ("127.0.0.1:9470", Address("127.0.0.1", 9470), True),
    ("localhost:0", Address("localhost", 0), True),
    ("[::1]:9470", Address("::1", 9470), True),
    ("unix:/run/x.sock", Address(path="/run/x.sock"), True),
    ("0.0.0.0:9470", Address("0.0.0.0", 9470), False),
    ("host.example:80", Address("host.example", 80), False),
])
def test_addresses(text: str, address: Address, local: bool) -> None:
    assert address_of(text) == address and address.local is local


@pytest.mark.parametrize("text", ["", "9470", ":9470", "localhost", "localhost:x", "localhost:65536", "unix:", "localhost:\u00b2", "http://localhost:1"])
def test_no_addresses(text: str) -> None:
    if text.startswith("http"):
        assert not address_of(text).local
        return
    with pytest.raises(UsageError):
        address_of(text)


def test_a_socket_is_its_owner_s_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the moment on at which it is there; one in use is not taken away, one that was left behind is."""
    path, modes = tmp_path / "x.sock", []
    chmod = os.chmod

    def noted(which: str, mode: int) -> None:
        modes.append(os.stat(which).st_mode & 0o777)
        chmod(which, mode)

    monkeypatch.setattr(os, "chmod", noted)
    first = bind(Address(path=str(path)))
    assert modes == [0o600] and path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(GotraceError, match="in use"):
        bind(Address(path=str(path)))
    first.close()
    bind(Address(path=str(path))).close()
    path.unlink()
    path.write_text("mine")
    with pytest.raises(GotraceError, match="nothing can listen"):
        bind(Address(path=str(path)))
    assert path.read_text() == "mine"


def test_tokens_in_files(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(TOKEN + b"\n")
    path.chmod(0o644)
    with pytest.raises(UsageError, match="may be read by everyone"):
        read_token(path)
    path.chmod(0o600)
    assert read_token(path) == TOKEN
    path.write_bytes(b"short\n")
    with pytest.raises(UsageError, match="has 5 characters"):
        read_token(path)
    path.write_bytes(b"x" * 4096)
    assert len(read_token(path)) == 4096
    for content in (b"x" * 4097, b" " * 5000):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="has more than 4096 bytes"):
            read_token(path)
    with pytest.raises(GotraceError, match="can't be read"):
        read_token(tmp_path / "none")


# -- alerts --------------------------------------------------------------------------------------------------------------


def webhook(*alerts: dict[str, object]) -> bytes:
    return json.dumps({"version": "4", "alerts": list(alerts)}).encode()


def test_alerts_that_fire() -> None:
    body = webhook(
        {"status": "firing", "labels": {"alertname": "Slow", "target": "api"}}, {"status": "resolved", "labels": {"alertname": "Slow"}},
    )
    assert [(alert.name, alert.labels["target"]) for alert in alerts_of(body)] == [("Slow", "api")]


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b'{"alerts": {}}', b'{"alerts": [1]}', b'{"alerts": [{"labels": []}]}', b"[" * 100_000, b"\xff\xfe",
    webhook(*[{"labels": {}}] * 101),
])
def test_other_bodies_are_refused(web: Web, body: bytes) -> None:
    with pytest.raises(ValueError):
        alerts_of(body)
    assert web.ask("/alert", "POST", body)[0] == 400


@pytest.mark.parametrize("debug", ["0.5", "1.9", "-1", "x"])
def test_debug_is_a_number_of_go_s(web: Web, debug: str) -> None:
    put_target(web.service, "debugged", 1)
    try:
        status, text, _ = web.ask(f"/debug/pprof/goroutine?target=debugged&debug={debug}")
        assert status == 400 and "debug=" in text
    finally:
        web.service.supervisor._traced.clear()


def test_files_of_a_process_are_read_only_for_an_alert_of_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file system may answer late, or never."""
    asked: list[int] = []
    monkeypatch.setattr("gotrace.serve.alerts.hostname_of", lambda pid: asked.append(pid) or "api-7d9f")
    traced = put_target(Service(ServeOptions(Wanted(name="x"), folder=tmp_path)), "api", 1)
    assert Alert("a", {"target": "api"}).means(traced) and not Alert("a", {"target": "shop"}).means(traced) and not asked
    assert Alert("a", {"pod": "api-7d9f"}).means(traced) and asked == [traced.pid]
    assert not Alert("a", {"pod": "other", "target": "api"}).means(traced)


def test_work_that_goes_on_is_known(tmp_path: Path) -> None:
    """At the end nobody waits for it."""
    go = threading.Event()

    async def ask() -> tuple[bool, bool, bool]:
        work = Work()
        before = work.busy
        task = asyncio.ensure_future(work.do(lambda: go.wait(30)))
        await asyncio.sleep(0)
        during = work.busy
        go.set()
        await task
        return before, during, work.busy

    assert asyncio.run(ask()) == (False, True, False)


def test_an_alert_of_nothing(web: Web) -> None:
    status, text, _ = web.ask("/alert", "POST", webhook({"labels": {"alertname": "Slow", "pid": "1"}}))
    assert status == 200 and json.loads(text) == {"captures": 0, "quiet": 0, "unmatched": 1}


@pytest.mark.parametrize(("asked", "status", "text"), [
    ("slower-than=1h", 200, ""), ("band=p99", 200, ""), ("slower-than=10ms&band=p50..p90", 200, ""),
    ("slower-than=10", 400, "slower-than= is no duration"), ("slower-than=" + "1" * 400 + "s", 400, "is no duration"),
    ("band=p0", 200, ""), ("band=99", 400, "no band of percentiles"), ("band=p90..p50", 400, "no band of percentiles"),
])
def test_requests_can_be_chosen(web: Web, asked: str, status: int, text: str) -> None:
    put_target(web.service, "choosing", 5)
    for path in ("/flamegraph", "/debug/pprof/block", "/debug/pprof/offcpu"):
        connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
        connection.request("GET", f"{path}?target=choosing&{asked}")
        answer = connection.getresponse()
        assert (answer.status, text.encode() in answer.read()) == (status, True)
        connection.close()


def test_scrapes_do_not_wait_for_renders() -> None:
    """However many of these there are."""
    go = threading.Event()

    async def ask() -> tuple[str, int]:
        work = Work()
        renders = [asyncio.ensure_future(work.do(lambda: go.wait(30))) for _ in range(12)]
        await asyncio.sleep(0)
        scraped = await asyncio.wait_for(work.do(lambda: "figures", scrape=True), 5)
        go.set()
        found = await asyncio.gather(*renders, return_exceptions=True)
        return scraped, sum(isinstance(one, HTTPError) and one.status_code == 503 for one in found)

    assert asyncio.run(ask()) == ("figures", 2)


class Big(Handler):
    """More than the kernel takes for a reader who does not read."""

    def get(self) -> None:
        """Answers with it."""
        self.finish(b"x" * (64 << 20))


def test_who_does_not_read_is_not_kept(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gotrace.serve.web._SEND_S", 1.0)
    shared = {"service": web.service, "guard": web._guard, "work": Work()}
    web.server.request_callback.add_handlers(".*", [("/big", Big, shared)])
    read = 0
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as slow:
        slow.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(2)
        try:
            while more := slow.recv(1 << 20):
                read += len(more)
        except ConnectionResetError:
            pass
    assert 0 < read < 64 << 20
    monkeypatch.setattr("gotrace.serve.web._SEND_S", 30.0)
    status, text, _ = web.ask("/big")
    assert status == 200 and len(text) == 64 << 20
