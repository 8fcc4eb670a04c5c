"""What is pushed, to receivers that decode it by themselves: nothing is lost but what is counted, and nobody else gets it. Without a
process to trace."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from profiles import MS, S, many_stacks, shop_profile
from receivers import OTLP, PYROSCOPE, Got, Receiver, Reply, Sent, otlp_of, pprof_of, pyroscope_of, summed
from webs import Web, put_target

from gotrace.common.errors import GotraceError, UsageError
from gotrace.export.pprof import render_pprof
from gotrace.proc.pods import Whereabouts
from gotrace.serve.push.bodies import SAMPLE_LABELS, body_of, trimmed
from gotrace.serve.push.options import Endpoint, PushOptions, check_kept, push_options
from gotrace.serve.push.requests import Client, Outcome, judged
from gotrace.serve.push.resource import MOST_DECLARED, Resource, resource_of
from gotrace.serve.tracing import Traced

TOKEN = "s3cret-t0ken-of-this-host"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def pyroscope(url: str, **named: Any) -> Endpoint:
    return Endpoint("pyroscope", url + PYROSCOPE, **named)


def otlp(url: str, **named: Any) -> Endpoint:
    return Endpoint("otlp", url + OTLP, **named)


@contextmanager
def pushing(captures: Path, *endpoints: Endpoint, said: list[str] | None = None, **named: Any) -> Iterator[Web]:
    """A service that traces nothing and pushes what `put_target` gives it."""
    web = Web(captures, push=PushOptions(endpoints, **named))
    if said is not None:
        assert web.service.push is not None
        for place in (*web.service.push.senders, web.service.push.folder, web.service.push):
            if place is not None:
                place._say = said.append  # type: ignore[union-attr]
    try:
        yield web
    finally:
        web.close()


def status(web: Web) -> dict[str, dict[str, Any]]:
    return {place["what"]: place for place in json.loads(web.ask("/targets")[1])["push"]}


def until(what: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def metric(web: Web, text: str) -> float:
    line = next(line for line in web.ask("/metrics")[1].splitlines() if line.startswith(text + " "))
    return float(line.split()[-1])


def test_all_places_get_what_the_endpoint_says(tmp_path: Path) -> None:
    with Receiver() as receiver, pushing(tmp_path, pyroscope(receiver.url), otlp(receiver.url), folder=tmp_path / "profiles") as web:
        put_target(web.service, "api")
        body = web.service.supervisor.find("api")[0].profile(0, time.monotonic_ns())
        assert body is not None
        wanted = pprof_of(render_pprof(body))
        requests = {sent.path: sent for sent in receiver.until(2)}
        got, raw = pyroscope_of(requests[PYROSCOPE])
        also = otlp_of(requests[OTLP])
        until(lambda: status(web)["otlp"]["pushed"] and status(web)["pyroscope"]["pushed"])
        (path,) = (tmp_path / "profiles").iterdir()
        written = pprof_of(path.read_bytes())
        for one in (got, also, written):
            assert one.by("state", "reason") == wanted.by("state", "reason") and one.duration_ns == 40 * S
            assert one.total()[0] == 405 and abs(one.time_ns - wanted.time_ns) < 5 * MS
        assert {tuple(frames) for _, frames, _, _ in got.samples} == {("sync.(*Mutex).Lock", "main.api", "main.main"), ("main.compute", "main.main")}
        assert set(got.samples[0][0]) == SAMPLE_LABELS and pprof_of(raw).total() == wanted.total()
        assert metric(web, 'gotrace_push_profiles_total{outcome="pushed",push="pyroscope"}') == 1
        assert metric(web, 'gotrace_push_queue_bytes{push="otlp"}') == 0
        assert metric(web, 'gotrace_push_queue_bytes{push="directory"}') == path.stat().st_size
        assert web.ask("/healthz")[0] == 200


def test_each_stretch_is_pushed_once(tmp_path: Path) -> None:
    """More steps come; together the profiles have what the endpoint has of all the time, and none lies in another."""
    with Receiver() as receiver, pushing(tmp_path, pyroscope(receiver.url)) as web:
        traced = put_target(web.service, "api", seconds=3)
        receiver.until(1)
        like = traced.ring.latest()
        assert like is not None
        for number in (2, 3):
            begin = traced.ring.span[1]
            traced.ring.add(replace(like, begin_ns=begin, end_ns=begin + S))
            receiver.until(number)
        profiles = [pyroscope_of(sent)[0] for sent in receiver.requests]
        whole = traced.profile(0, traced.ring.span[1])
        assert whole is not None and summed(profiles, "reason") == pprof_of(render_pprof(whole)).by("reason")
        assert [one.duration_ns for one in profiles] == [3 * S, S, S]
        for one, after in zip(profiles, profiles[1:], strict=False):
            assert abs(one.time_ns + one.duration_ns - after.time_ns) <= 20 * MS


def test_what_was_dropped_before_it_was_pushed_is_counted(tmp_path: Path) -> None:
    with Receiver() as receiver, pushing(tmp_path, pyroscope(receiver.url)) as web:
        traced = put_target(web.service, "api", seconds=3)
        receiver.until(1)
        like = traced.ring.latest()
        assert like is not None
        pushed_ns = traced.ring.span[1]
        traced.ring.limit(2 * like.size)
        for _ in range(4):  # before the next look there is room for two
            begin = traced.ring.span[1]
            traced.ring.add(replace(like, begin_ns=begin, end_ns=begin + S))
        until(lambda: sum(pyroscope_of(sent)[0].duration_ns for sent in receiver.requests[1:]) + status(web)["pyroscope"]["missed_ns"] == 4 * S)
        assert traced.ring.span[1] - pushed_ns == 4 * S


def test_nothing_is_lost_while_an_endpoint_is_gone(tmp_path: Path) -> None:
    port, said = free_port(), list[str]()
    with pushing(tmp_path, pyroscope(f"http://127.0.0.1:{port}"), said=said) as web:
        for number in range(3):
            put_target(web.service, "api", seconds=number + 1)
            until(lambda number=number: status(web)["pyroscope"]["waiting"] == number + 1)
            del web.service.supervisor._traced[web.service.supervisor.find("api")[0].identity]
            until(lambda: not web.service.push._stretches)  # type: ignore[union-attr]
        until(lambda: status(web)["pyroscope"]["failed_attempts"] >= 2)
        assert "refused" in status(web)["pyroscope"]["problem"].lower()
        assert metric(web, 'gotrace_push_queue_profiles{push="pyroscope"}') == 3
        assert metric(web, 'gotrace_push_queue_bytes{push="pyroscope"}') > 1000
        failing = [503]

        def reply(_sent: Sent) -> Reply | None:
            return Reply(failing.pop(), {"Retry-After": "0"}) if failing else None

        with Receiver(reply, port) as receiver:
            for number in range(2):
                web.service.push.hurry()  # type: ignore[union-attr]
                until(lambda number=number: len(receiver.others) + len(receiver.requests) > number)
            until(lambda: len(receiver.requests) == 3)
            durations = [pyroscope_of(sent)[0].duration_ns for sent in receiver.requests]
            assert durations == [S, 2 * S, 3 * S] and len(receiver.others) == 1
            # What was sent again is the same, by its id as well.
            assert receiver.others[0].body == receiver.requests[0].body
            until(lambda: status(web)["pyroscope"]["pushed"] == 3)
        found = status(web)["pyroscope"]
        assert (found["dropped"], found["refused"], found["waiting"], found["problem"], found["bytes"]) == (0, 0, 0, "", 0)
    assert said[0].startswith("push pyroscope: ") and "profiles wait, up to 64 MB of them" in said[0]
    assert any("profiles are taken again" in line for line in said)


def test_what_waits_outlives_gotrace(tmp_path: Path) -> None:
    port, said = free_port(), list[str]()
    with pushing(tmp_path, otlp(f"http://127.0.0.1:{port}"), said=said) as web:
        traced = put_target(web.service, "api", seconds=40)
        until(lambda: status(web)["otlp"]["waiting"] == 1)
        like = traced.ring.latest()
        assert like is not None
        traced.ring.add(replace(like, begin_ns=like.end_ns, end_ns=like.end_ns + S))  # is taken as it ends
    assert said[-1] == "push otlp: 2 profiles wait for the next start"
    with Receiver(port=port) as receiver, pushing(tmp_path, otlp(receiver.url)) as web:
        got, last = map(otlp_of, receiver.until(2))
        assert got.total() == (405, 3 * S) and got.labels["process.executable.name"] == "api" and last.total() == (10, 50 * MS)
        until(lambda: status(web)["otlp"]["pushed"] == 2)
    assert not list((tmp_path / "push/otlp").glob("*.push"))


def test_a_full_queue_drops_the_oldest_and_counts(tmp_path: Path) -> None:
    port, said = free_port(), list[str]()
    with pushing(tmp_path, pyroscope(f"http://127.0.0.1:{port}"), said=said, queue_bytes=4000) as web:
        traced = put_target(web.service, "api", seconds=1)
        like = traced.ring.latest()
        assert like is not None
        for _ in range(6):
            before = status(web)["pyroscope"]["waiting"] + status(web)["pyroscope"]["dropped"]
            begin = traced.ring.span[1]
            traced.ring.add(replace(like, begin_ns=begin, end_ns=begin + S))
            until(lambda before=before: status(web)["pyroscope"]["waiting"] + status(web)["pyroscope"]["dropped"] > before)
        found = status(web)["pyroscope"]
        assert found["dropped"] >= 2 and found["bytes"] <= 4000 and found["waiting"] >= 1
        assert metric(web, 'gotrace_push_profiles_total{outcome="dropped",push="pyroscope"}') == found["dropped"]
        with Receiver(port=port) as receiver:
            web.service.push.hurry()  # type: ignore[union-attr]
            until(lambda: len(receiver.requests) == found["waiting"])
            ends = [pyroscope_of(sent)[0].time_ns for sent in receiver.requests]
            assert ends == sorted(ends) or found["waiting"] == 1
    assert any("profiles that waited were dropped: --push-bytes allows more" in line for line in said)


# -- who may ---------------------------------------------------------------------------------------------------------------


def secret(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "secret"
    path.write_text(content)
    path.chmod(0o600)
    return path


def test_a_wrong_token_holds_and_a_right_one_delivers(tmp_path: Path) -> None:
    """The file is read again, the token is told nowhere, even if the other side repeats it."""
    said, file = list[str](), secret(tmp_path, "wrong-" + TOKEN)

    def reply(sent: Sent) -> Reply | None:
        if sent.headers["authorization"] == f"Bearer {TOKEN}":
            return None
        return Reply(401, {"Content-Type": "text/plain"}, f"not {sent.headers['authorization']}".encode())

    with Receiver(reply) as receiver:
        endpoint = pyroscope(receiver.url, bearer=file, tenant="team-a")
        with pushing(tmp_path, endpoint, said=said) as web:
            put_target(web.service, "api")
            until(lambda: status(web)["pyroscope"]["problem"])
            assert status(web)["pyroscope"]["problem"] == "HTTP 401: not Bearer ***" and status(web)["pyroscope"]["waiting"] == 1
            file.write_text(TOKEN + "\n")
            web.service.push.hurry()  # type: ignore[union-attr]
            sent = receiver.until(1)[0]
            assert sent.headers["x-scope-orgid"] == "team-a" and sent.headers["connect-protocol-version"] == "1"
            everything = "".join(said) + web.ask("/targets")[1] + web.ask("/metrics")[1]
        assert TOKEN not in everything and len(receiver.others) == 1


def test_user_and_password(tmp_path: Path) -> None:
    with Receiver() as receiver, pushing(tmp_path, otlp(receiver.url, basic=secret(tmp_path, "user:pass:word\n"))) as web:
        put_target(web.service, "api")
        assert receiver.until(1)[0].headers["authorization"] == "Basic " + base64.b64encode(b"user:pass:word").decode()


def test_redirects_are_not_followed(tmp_path: Path) -> None:
    with Receiver() as other:
        with Receiver(lambda sent: Reply(307, {"Location": other.url + sent.path})) as receiver:
            with pushing(tmp_path, pyroscope(receiver.url, bearer=secret(tmp_path, TOKEN))) as web:
                put_target(web.service, "api")
                until(lambda: "redirects are not followed" in status(web)["pyroscope"]["problem"])
                assert status(web)["pyroscope"]["waiting"] == 1
        assert not other.requests


def test_certificates_are_checked(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1"]
    subprocess.run([*command, "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Receiver(tls=context) as receiver:
        with pushing(tmp_path, pyroscope(receiver.url, bearer=secret(tmp_path, TOKEN))) as web:
            put_target(web.service, "api")
            until(lambda: "certificate" in status(web)["pyroscope"]["problem"].lower())
        assert not receiver.requests and not receiver.others
        with pushing(tmp_path, pyroscope(receiver.url, authority=certificate)) as web:  # what waited is sent
            assert pyroscope_of(receiver.until(1)[0])[0].total()[0] == 405


@pytest.mark.parametrize(("content", "flag", "text"), [
    ("", "bearer", "has no token"), ("two words", "bearer", "has no token"), ("a\nX-Scope-OrgID: b", "bearer", "has no token"),
    ("nobody", "basic", "has no user and password"), ("a:b\nc", "basic", "has no user and password"), ("x" * 5000, "bearer", "more than 4096 bytes"),
])
def test_files_that_have_no_credentials(tmp_path: Path, content: str, flag: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Client(pyroscope("http://127.0.0.1", **{flag: secret(tmp_path, content)}))


def test_files_that_can_t_be_used(tmp_path: Path) -> None:
    with pytest.raises(GotraceError, match="can't be read"):
        Client(pyroscope("http://127.0.0.1", bearer=tmp_path / "none"))
    file = secret(tmp_path, TOKEN)
    file.chmod(0o604)
    with pytest.raises(UsageError, match="may be read by everyone"):
        Client(pyroscope("http://127.0.0.1", bearer=file))
    with pytest.raises(GotraceError, match="--push-ca .* can't be used"):
        Client(pyroscope("https://127.0.0.1", authority=file))


# -- answers -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "code", "outcome"), [
    ("pyroscope", 200, Outcome.TAKEN), ("pyroscope", 400, Outcome.REFUSED), ("pyroscope", 413, Outcome.REFUSED),
    ("pyroscope", 422, Outcome.REFUSED), ("pyroscope", 429, Outcome.AGAIN), ("pyroscope", 500, Outcome.AGAIN),
    ("pyroscope", 503, Outcome.AGAIN), ("pyroscope", 401, Outcome.HELD), ("pyroscope", 302, Outcome.HELD),
    ("otlp", 200, Outcome.TAKEN), ("otlp", 400, Outcome.REFUSED), ("otlp", 500, Outcome.REFUSED), ("otlp", 502, Outcome.AGAIN),
    ("otlp", 504, Outcome.AGAIN), ("otlp", 403, Outcome.HELD), ("otlp", 404, Outcome.REFUSED),
])
def test_what_an_answer_means(kind: str, code: int, outcome: Outcome) -> None:
    assert judged(kind, code, {}, b"").outcome is outcome


def test_what_an_answer_says() -> None:
    headers = {"Content-Type": "application/json", "Retry-After": "7"}
    answer = judged("pyroscope", 429, headers, b'{"code": "resource_exhausted", "message": "too\\nmuch \\u001b[31m"}')
    assert (answer.said, answer.after_s) == (r"HTTP 429: too much \x1b[31m", 7.0)
    for body in (b"[" * 10_000, b"\xff", b"[1]", b'{"message": ' + b"1" * 200 + b"}"):
        assert judged("pyroscope", 503, headers, body).said.startswith("HTTP 503")
    assert len(judged("pyroscope", 400, {"Content-Type": "text/plain"}, b"x" * 10_000).said) == 300
    later = judged("otlp", 503, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, b"").after_s
    assert later == 600 and judged("otlp", 503, {"Retry-After": "soon"}, b"").after_s is None


def test_what_a_collector_rejects_is_counted(tmp_path: Path) -> None:
    from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import ExportProfilesServiceResponse

    answer = ExportProfilesServiceResponse()
    answer.partial_success.rejected_profiles, answer.partial_success.error_message = 2, "no room"
    said = list[str]()
    with Receiver(lambda _: Reply(body=answer.SerializeToString())) as receiver, pushing(tmp_path, otlp(receiver.url), said=said) as web:
        put_target(web.service, "api")
        until(lambda: status(web)["otlp"]["refused"] == 1)
        assert status(web)["otlp"]["pushed"] == 0 and status(web)["otlp"]["waiting"] == 0
    assert "push otlp: a profile was refused for good: no room" in said


def test_refused_for_good_is_counted_and_told_once(tmp_path: Path) -> None:
    said = list[str]()
    with Receiver(lambda _: Reply(400)) as receiver, pushing(tmp_path, pyroscope(receiver.url), said=said) as web:
        traced = put_target(web.service, "api", seconds=1)
        for number in (1, 2):
            until(lambda number=number: status(web)["pyroscope"]["refused"] == number)
            like = traced.ring.latest()
            assert like is not None
            traced.ring.add(replace(like, begin_ns=like.end_ns, end_ns=like.end_ns + S))
        until(lambda: status(web)["pyroscope"]["refused"] == 3)
        assert status(web)["pyroscope"]["waiting"] == 0
    assert [line for line in said if "refused" in line] == ["push pyroscope: a profile was refused for good: HTTP 400"]


def test_it_ends_in_time_beside_one_that_never_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        web = Web(tmp_path, push=PushOptions((pyroscope(f"http://127.0.0.1:{silent.getsockname()[1]}"),)))
        put_target(web.service, "api")
        until(lambda: web.service.push.senders[0].sending)  # type: ignore[union-attr]
        began = time.monotonic()
        web.close()
        assert time.monotonic() - began < 1.6
    assert len(list((tmp_path / "push/pyroscope").glob("*.push"))) == 1


def test_one_that_answers_without_end_is_left(tmp_path: Path) -> None:
    def reply(_sent: Sent) -> Reply:
        return Reply(200, {"X": "y" * 60_000})

    with Receiver(reply) as receiver, pushing(tmp_path, pyroscope(receiver.url)) as web:
        put_target(web.service, "api")
        until(lambda: status(web)["pyroscope"]["failed_attempts"])
        assert status(web)["pyroscope"]["waiting"] == 1


# -- names -----------------------------------------------------------------------------------------------------------------


def traced_at(tmp_path: Path) -> Traced:
    web = Web(tmp_path)
    try:
        traced = put_target(web.service, "api")
    finally:
        web.close()
    traced.container, traced.pod = "c" * 64, "1234-pod"
    (tmp_path / "log/containers").mkdir(parents=True)
    (tmp_path / f"log/containers/api-7f9_shop_web-{traced.container}.log").touch()
    traced.where = Whereabouts(traced.container, traced.pod, str(tmp_path / "log"))
    return traced


def test_what_names_a_process(tmp_path: Path) -> None:
    declared = {
        "service.name": "check\x1bout", "service.version": "1.2", "process.pid": "1", "container.id": "forged", "__name__": "x",
        "k8s.pod.name": "forged",
        "deployment.environment.name": "prod", "host-name": "h", "host.name": "other",
    }
    found = resource_of(traced_at(tmp_path), declared)
    assert found.attributes == {
        "process.pid": os.getpid(), "process.executable.name": "api", "process.executable.path": "/bin/api", "process.runtime.name": "go",
        "process.runtime.version": "go1.27.3", "container.id": "c" * 64, "k8s.pod.uid": "1234-pod", "service.name": r"check\x1bout",
        "k8s.namespace.name": "shop", "k8s.pod.name": "api-7f9", "k8s.container.name": "web",
        "service.version": "1.2", "__name__": "x", "deployment.environment.name": "prod", "host-name": "h", "host.name": "other",
    }
    assert found.labels() == {
        "service_name": r"check\x1bout", "process_executable_name": "api", "process_runtime_name": "go",
        "process_runtime_version": "go1.27.3", "container_id": "c" * 64, "k8s_pod_uid": "1234-pod", "service_version": "1.2",
        "k8s_namespace_name": "shop", "k8s_pod_name": "api-7f9", "k8s_container_name": "web",
        "deployment_environment_name": "prod", "host_name": "h",
    }
    assert Resource("api").labels() == {"service_name": "api"} and Resource("").labels() == {"service_name": "unknown_service"}


def test_names_are_bounded(tmp_path: Path) -> None:
    declared = {f"k{number}": "v" * 5000 for number in range(60)} | {"service.name": "x"}
    found = resource_of(traced_at(tmp_path), declared)
    assert len(found.attributes) == 10 + MOST_DECLARED and found.dropped == 61 - MOST_DECLARED and found.attributes["service.name"] == "x"
    assert max(len(str(value)) for value in found.attributes.values()) == 256
    assert len(found.labels()) <= 26


def sent_of(kind: str, profile: Any) -> Sent:
    path, content = (PYROSCOPE, "application/json") if kind == "pyroscope" else (OTLP, "application/x-protobuf")
    return Sent(path, {"content-type": content, "content-encoding": "gzip"}, body_of(kind, profile, Resource("api")))


def test_a_profile_of_many_stacks_keeps_its_sums() -> None:
    many = many_stacks(500)
    small = trimmed(many, 100)
    assert len(small.stacks) == 101 and small.total().total_ns == many.total().total_ns and "400 stacks" in small.notes[-1]
    assert trimmed(many) is many
    for kind, decoded in (("pyroscope", lambda sent: pyroscope_of(sent)[0]), ("otlp", otlp_of)):
        got: Got = decoded(sent_of(kind, small))  # type: ignore[operator]
        assert got.total() == (many.intervals, many.total().total_ns)
        assert ["[smaller stacks]"] in [frames for _, frames, _, _ in got.samples]


def test_a_whole_profile_of_a_shop() -> None:
    made = shop_profile()
    by_reason = pyroscope_of(sent_of("pyroscope", made))[0].by("state", "reason")
    assert by_reason == otlp_of(sent_of("otlp", made)).by("state", "reason") == pprof_of(render_pprof(made)).by("state", "reason")


# -- the command line --------------------------------------------------------------------------------------------------------


def options(*pushes: str, every: int | None = None, size: int | None = None, **named: list[str]) -> PushOptions | None:
    lists = [named.get(name, []) for name in ("tenants", "bearers", "basics", "authorities")]
    return push_options(pushes, every, size, *lists)


def test_what_the_flags_mean(tmp_path: Path) -> None:
    found = options(
        "pyroscope=https://profiles.example.org/base/", f"directory={tmp_path}", "otlp=http://[::1]:4318/v1development/profiles",
        every=5 * S, tenants=["pyroscope=a|b"], bearers=["pyroscope=/token"], basics=["otlp=/pair"], authorities=["pyroscope=/ca.pem"],
    )
    assert found == PushOptions((
        Endpoint("pyroscope", "https://profiles.example.org/base" + PYROSCOPE, "a|b", Path("/token"), None, Path("/ca.pem")),
        Endpoint("otlp", "http://[::1]:4318" + OTLP, "", None, Path("/pair"), None),
    ), tmp_path, 5 * S, 64 << 20)
    assert options() is None and found is not None
    assert [one.in_the_clear for one in found.endpoints] == [False, False]  # TLS, and this machine
    assert otlp("http://10.0.0.7:4318", basic=Path("/pair")).in_the_clear and not otlp("http://10.0.0.7:4318").in_the_clear
    check_kept(found, 60 * S)
    with pytest.raises(UsageError, match="more than four fifths of --keep"):
        check_kept(found, 6 * S)


@pytest.mark.parametrize(("pushes", "named", "text"), [
    (["pyroscope"], {}, "has not the form WHAT=VALUE"),
    (["jaeger=http://x"], {}, "has not the form"),
    (["pyroscope=http://x", "pyroscope=http://y"], {}, "given twice"),
    (["pyroscope=http://user:hush@x"], {}, "has a password"),
    (["pyroscope=user:hush@x"], {}, "is no address"),
    (["pyroscope=ftp://x"], {}, "is no address"),
    (["pyroscope=http://"], {}, "is no address"),
    (["pyroscope=http://x:99999"], {}, "no address"),
    (["pyroscope=http://x/\r\nHost: y"], {}, "is no address"),
    (["pyroscope=http://x?token=hush"], {}, "has no meaning in an address"),
    (["directory=/x"], {"tenants": ["directory=a"]}, "is for an address"),
    (["pyroscope=http://x"], {"tenants": ["otlp=a"]}, "for nothing that is pushed"),
    (["pyroscope=http://x"], {"tenants": ["pyroscope=a\r\nX: y"]}, "no name of a tenant"),
    (["pyroscope=http://x"], {"bearers": ["hush"]}, "has not the form"),
    (["pyroscope=http://x"], {"bearers": ["pyroscope=/a"], "basics": ["pyroscope=/b"]}, "both given"),
    (["pyroscope=http://x"], {"every": 1000}, "at least 1s"),
    (["pyroscope=http://x"], {"size": 1000}, "at least 1MB"),
    ([], {"every": S}, "nothing is pushed"),
])
def test_flags_that_mean_nothing(pushes: list[str], named: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text) as failed:
        options(*pushes, **named)
    assert "hush" not in f"{failed.value} {failed.value.hint}"


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with pushing(tmp_path, pyroscope("http://127.0.0.1:1")):
        with pytest.raises(UsageError, match="another gotrace pushes"):
            Web(tmp_path, push=PushOptions((pyroscope("http://127.0.0.1:1"),)))
    shutil.rmtree(tmp_path / "push")
