"""`gotrace serve --push` beside a real process: what receivers decode is what serve itself says of the same time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from gobuild import build, go_command, go_environment
from receivers import OTLP, PYROSCOPE, Got, Receiver, Reply, Sent, otlp_of, pprof_of, pyroscope_of, summed
from serving import Serving
from workload import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.full]

BUSY = (("waiting", "sleep"), ("waiting", "IO wait"), ("waiting", "select"))
"""Some of the waits of program faulty: it serves requests to itself, with pauses of 10 ms."""


def test_what_is_pushed_is_what_serve_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To Pyroscope, OTLP and a folder at once; the first is gone for a while, takes no token at first, and has everything at last."""
    name = f"pushed{os.getpid()}"
    binary = tmp_path / name
    shutil.copy(build("faulty", "1.27.3", "stripped"), binary)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "orders")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    token = tmp_path / "token"
    token.write_text("wrong-token-for-orders")
    token.chmod(0o600)

    def reply(sent: Sent) -> Reply | None:
        return None if sent.headers.get("authorization") == "Bearer right-token-for-orders" else Reply(401)

    with Receiver() as collector, Workload(binary) as workload:
        with Receiver(reply) as first:
            port = first.port
        flags = [
            "--name", f"^{name}$", "--max-overhead", "500", "--push-every", "2s", "--push", f"pyroscope=http://127.0.0.1:{port}",
            "--push-bearer", f"pyroscope={token}", "--push-tenant", "pyroscope=team-a", "--push", f"otlp={collector.url}",
            "--push", f"directory={tmp_path / 'profiles'}",
        ]
        with Serving(tmp_path, *flags) as serving:
            serving.tracing(workload.pid, 2)
            serving.until(lambda: places(serving)["pyroscope"]["waiting"] >= 2 and "refused" in places(serving)["pyroscope"]["problem"].lower())
            with Receiver(reply, port) as pyroscope:
                serving.until(lambda: "HTTP 401" in places(serving)["pyroscope"]["problem"])
                token.write_text("right-token-for-orders\n")
                serving.process.send_signal(1)
                serving.until(lambda: places(serving)["pyroscope"]["pushed"] >= 3 and not places(serving)["pyroscope"]["waiting"])
                decoded = [pyroscope_of(sent)[0] for sent in pyroscope.requests]
                compared = stretch(serving, workload.pid, decoded)
                took_s = serving.end()
            lines = len(serving.said)
        assert took_s < 6, took_s
        print(f"ended after {took_s:.1f} s")
    raw = [pyroscope_of(sent)[1] for sent in pyroscope.requests]
    decoded, others = [pprof_of(one) for one in raw], [otlp_of(sent) for sent in collector.requests]
    written = [pprof_of(path.read_bytes()) for path in sorted((tmp_path / "profiles").iterdir())]
    # Each place has each stretch once, also the last one, and the same of it.
    assert len(decoded) == len(others) == len(written) >= 3
    for one, also, file in zip(decoded, others, written, strict=True):
        assert one.by("state", "reason") == also.by("state", "reason") == file.by("state", "reason") and one.total()[1] > 0
    begins = [one.time_ns for one in decoded]
    assert begins == sorted(begins)
    same(*compared)
    labels = pyroscope_of(pyroscope.requests[0])[0].labels
    assert labels["service_name"] == others[0].labels["service.name"] == "orders" and labels["__name__"] == "off_cpu"
    assert labels["deployment_environment_name"] == others[0].labels["deployment.environment.name"] == "test"
    assert others[0].labels["process.pid"] == workload.pid and others[0].labels["process.executable.name"] == name
    assert {sent.headers["x-scope-orgid"] for sent in pyroscope.requests} == {"team-a"}
    told = "".join(serving.said[:lines])
    assert "push pyroscope: profiles are taken again" in told and "token-for-orders" not in told
    read_by_go(raw, tmp_path)


def places(serving: Serving) -> dict[str, dict[str, object]]:
    return {one["what"]: one for one in serving.json("/targets")["push"]}


def stretch(serving: Serving, pid: int, decoded: list[Got]) -> tuple[list[Got], Got]:
    """Some profiles that were pushed, and what the endpoint says of the same time. Its end is that of a step: of what ended in a step in
    which the time ends, it is not known what was before."""
    chosen = decoded[1:]
    begin, end = chosen[0].time_ns, chosen[-1].time_ns + chosen[-1].duration_ns
    status, body, _ = serving.ask(f"/debug/pprof/offcpu?target={pid}&from={begin / 1e9 + 0.05:.3f}&to={end / 1e9 + 0.003:.3f}")
    assert status == 200
    return chosen, pprof_of(body)


def same(pushed: list[Got], asked: Got) -> None:
    """A wait that reaches over the end of a profile is counted in both, and its parts are known to within a step."""
    found, wanted = summed(pushed, "state", "reason"), asked.by("state", "reason")
    assert abs(sum(one.duration_ns for one in pushed) - asked.duration_ns) < 0.3e9
    for key in BUSY:
        (count, ns), (wanted_count, wanted_ns) = found[key], wanted[key]
        print(key, count, wanted_count, ns, wanted_ns)
        assert wanted_count > 20 and ns == pytest.approx(wanted_ns, rel=0.05)
        assert wanted_count - 5 <= count <= wanted_count + 12 * len(pushed)
    total, wanted_total = sum(ns for _, ns in found.values()), asked.total()[1]
    assert total == pytest.approx(wanted_total, rel=0.05)


def read_by_go(files: list[bytes], tmp_path: Path) -> None:
    """go tool pprof merges all files that were pushed, and has the same sums."""
    paths = []
    for number, content in enumerate(files):
        paths.append(tmp_path / f"{number}.pb.gz")
        paths[-1].write_bytes(content)
    done = subprocess.run(
        [go_command("1.27.3"), "tool", "pprof", "-raw", *paths], capture_output=True, text=True, timeout=120,
        env=go_environment() | {"PPROF_TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\s+(\d+)\s+(\d+):", done.stdout, re.MULTILINE)
    totals = [pprof_of(content).total() for content in files]
    assert (sum(int(count) for count, _ in rows), sum(int(ns) for _, ns in rows)) == tuple(map(sum, zip(*totals, strict=True)))


def test_a_queue_outlives_gotrace_that_is_killed(tmp_path: Path) -> None:
    """What waited is sent by the next one, whatever it traces; and gotrace ends in time while nobody takes anything."""
    name = f"queued{os.getpid()}"
    binary = tmp_path / name
    shutil.copy(build("faulty", "1.27.3", "stripped"), binary)
    with Receiver() as receiver:
        port = receiver.port
    flags = ["--name", f"^{name}$", "--push-every", "1s", "--push", f"otlp=http://127.0.0.1:{port}"]
    with Workload(binary) as workload:
        with Serving(tmp_path, *flags) as serving:
            serving.tracing(workload.pid, 1)
            serving.until(lambda: places(serving)["otlp"]["waiting"] >= 2)
            serving.process.kill()
        queue = tmp_path / "captures" / "push" / "otlp"
        killed = len(list(queue.glob("*.push")))
        with Serving(tmp_path, *flags) as serving:
            assert places(serving)["otlp"]["waiting"] >= killed
            serving.tracing(workload.pid, 1)
            took_s = serving.end()
        ended = len(list(queue.glob("*.push")))
        assert took_s < 6 and ended > killed >= 2
        print(f"ended after {took_s:.1f} s; {killed} waited when it was killed, {ended} when it ended")
    with Receiver(port=port) as receiver, Serving(tmp_path, *flags) as serving:
        sent = [otlp_of(one) for one in receiver.until(ended)]
        serving.until(lambda: places(serving)["otlp"]["pushed"] == ended)
        assert places(serving)["otlp"]["dropped"] == places(serving)["otlp"]["waiting"] == 0
        time.sleep(0.1)
        serving.end()
    assert len(receiver.requests) == len({one.id for one in sent}) == ended and not list(queue.glob("*.push"))
    assert {one.labels["process.pid"] for one in sent} == {workload.pid}
    assert receiver.requests[0].path == OTLP != PYROSCOPE
