"""Requests of a server that times them itself, and each of their waits: which there were, how long they took, and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from attach import Attached
from gobuild import EXTENT, VARIANTS, build
from quota import fifth_of_a_cpu
from requestload import HTTP, Account, Traced, at_most, cause_ns, check_path, off_ns, total, traced_load, waits_in
from workload import Workload

pytestmark = pytest.mark.bpf

VERSIONS = ["1.21.13", "1.24.11", "1.27.3"]
BUILDS = {
    "quick": [("1.27.3", "stripped")],
    "full": [("1.21.13", "plain"), ("1.24.11", "pie"), ("1.27.3", "stripped"), ("1.27.3", "cgo")],
    "every": [(version, variant) for version in VERSIONS for variant in VARIANTS],
}[EXTENT]

MIX = (
    "worker:5:80,peer:6:60,cond:7:60,"  # up to the median
    "group:22:40,chain:25:40,sleep:28:40,recovered:24:40,"  # up to the p90
    "mutex:40:16,pool:45:12,panic:50:4,goexit:55:4,"  # up to the p99
    "nested:300:4,hang:0:2"
)
HANDLERS = {kind: f"main.serve{kind.title()}" for kind in ("mutex", "pool", "group", "chain", "cond", "panic", "goexit")}
LOSSES = ("span_table_full", "span_end_unseen", "span_waits_full", "history_lost")
SLACK_NS = 1_000_000
"""Where there are few requests: for how long one may lose its CPU between our clock's look and the program's."""
SWITCH_NS = 20_000
"""A switch of threads takes some time itself, with our program in it: the kernel has that for the thread's CPU time, or not."""


@pytest.fixture(scope="module", params=BUILDS, ids=lambda p: f"go{p[0]}-{p[1]}")
def traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    spans = [word for handler in HANDLERS.values() for word in ("--span", handler)]
    return traced_load(build("requests", *request.param), tmp_path_factory.mktemp("requests"), MIX, *spans)


def test_each_request_counts_once(traced: Traced) -> None:
    account = traced.account
    assert traced.span()["count"] == len(account.requests) == 400
    assert {kind: traced.span(handler)["count"] for kind, handler in HANDLERS.items()} == {
        kind: len(account.of(kind)) for kind in HANDLERS
    }
    assert (traced.span()["in_progress"], traced.span()["begun_before"]) == (account.in_progress, 0) == (2, 0)
    assert all(traced.span(handler)["in_progress"] == 0 for handler in HANDLERS.values())
    assert {name: traced.summary["losses"][name] for name in LOSSES} == dict.fromkeys(LOSSES, 0)


def test_durations(traced: Traced) -> None:
    check_durations(traced.span(), traced.account.by_length())
    for kind, handler in HANDLERS.items():
        check_durations(traced.span(handler), sorted(traced.account.of(kind), key=lambda request: request["duration_ns"]))


def check_durations(span: dict, mine: list[dict]) -> None:
    """Sums and the maximum agree within 2 %. Percentiles come from a histogram, which has them within 1/16."""
    for name, fraction in (("p50_ns", 0.5), ("p90_ns", 0.9), ("p99_ns", 0.99)):
        # With few requests any value between two neighbours is right.
        rank = fraction * len(mine)
        low, high = mine[max(0, int(rank) - 1)]["duration_ns"], at_most(mine[min(len(mine) - 1, int(rank))])
        assert low * (1 - 1 / 16) - SLACK_NS <= span[name] <= high * (1 + 1 / 16) + SLACK_NS, (span["span"], name)
    assert mine[-1]["duration_ns"] * 0.98 - SLACK_NS <= span["max_ns"] <= max(map(at_most, mine)) * 1.02 + SLACK_NS, span["span"]
    assert total(mine) * 0.98 <= span["total_ns"] <= sum(map(at_most, mine)) * 1.02, span["span"]
    assert sum(band["count"] for band in span["bands"]) == len(mine)
    for band in span["bands"]:
        chosen = mine[round(band["from"] * len(mine)) : round(band["to"] * len(mine))]
        assert band["count"] == len(chosen)
        # A band that ends among requests of one bucket gets their mean.
        margin = 0.02 if len(chosen) > 20 else 1 / 16
        low, high = total(chosen) * (1 - margin), sum(map(at_most, chosen)) * (1 + margin)
        assert low - SLACK_NS <= band["total_ns"] <= high + SLACK_NS, span["span"]


def test_time_divides_into_running_and_states(traced: Traced) -> None:
    for span in traced.summary["requests"]:
        for band in span["bands"]:
            assert band["cpu_ns"] + sum(band["by_state"].values()) == pytest.approx(band["total_ns"], rel=0.01, abs=10)
            assert sum(band["by_reason"].values()) == sum(band["by_state"].values())
            assert sum(stack["total_ns"] for stack in band["stacks"]) == pytest.approx(sum(band["by_state"].values()), rel=0.01, abs=1000)


def test_states_are_those_of_the_account(traced: Traced) -> None:
    """Of all requests of each handler, and of each band of all: what the program says it has waited is off the CPU, 2 % of the whole
    aside; and the threads' waits for a CPU while a goroutine ran, of which it does not know."""
    wrong = []
    for kind, handler in HANDLERS.items():
        span = traced.span(handler)
        wrong += unlike_account(kind, span["bands"], traced.account.of(kind))
    mine = traced.account.by_length()
    for band in traced.span()["bands"]:
        wrong += unlike_account("all", [band], mine[round(band["from"] * len(mine)) : round(band["to"] * len(mine))])
    assert not wrong


def unlike_account(kind: str, bands: list[dict], mine: list[dict]) -> list[tuple]:
    off = off_ns(bands)
    waiting = sum(band["by_state"].get("waiting", 0) for band in bands)
    queued = sum(band["by_state"].get("runqueue", 0) for band in bands)
    own, margin = total(mine, *{wait for request in mine for wait in request["waits"]}), 0.02 * total(mine) + SLACK_NS
    right = own - margin <= off <= own + queued + margin and waiting <= own + margin
    # All they do is wait, and be ready or without a CPU for a moment.
    return [] if right and waiting + queued > 0.9 * own else [(kind, own, off, waiting, queued)]


def truth(account: Account) -> dict[tuple[str, ...], int]:
    """What must be the cause of how much time: fragments of its text, and ns."""
    return {
        ("sleep in main.worker, in goroutine main.worker, waited for by chan receive",): total(account.of("worker"), "receive"),
        ("IO wait of ", "→ tcp 127.0.0.1:", " in main.servePeer"): total(account.of("peer"), "read"),
        ("sleep in main.signaller, in goroutine main.signaller, waited for by sync.Cond.Wait",): total(account.of("cond"), "cond"),
        ("sleep in main.member, in goroutine main.member, waited for by s",): total(account.of("group"), "group"),
        ("sleep in main.lastOfChain, in goroutine main.lastOfChain, waited for by chan receive",): total(account.of("chain"), "receive"),
        ("sleep in main.serveMutex, in goroutine net/http.", ", waited for by sync.Mutex.Lock"): total(account.of("mutex"), "lock"),
        ("sleep in main.poolWorker, in goroutine main.poolWorker, waited for by chan send",): total(account.of("pool"), "send"),
        ("sleep in main.poolWorker, in goroutine main.poolWorker, waited for by chan receive",): total(account.of("pool"), "receive"),
    }


def test_causes_are_what_was_waited_for_in_the_end(traced: Traced) -> None:
    account, whole = traced.account, total(traced.account.requests)
    for fragments, own_ns in truth(account).items():
        assert own_ns and cause_ns(traced.span(), *fragments) / whole == pytest.approx(own_ns / whole, abs=0.05), fragments
    slept = total((request for request in account.requests if request["kind"] != "mutex"), "sleep")
    by_itself = sum(
        cause["total_ns"] for band in traced.span()["bands"] for cause in band["causes"] if cause["cause"] == "sleep in main.serveSleep"
    )
    assert by_itself / whole == pytest.approx(slept / whole, abs=0.05)


@pytest.mark.parametrize("kind", ["mutex", "pool", "group", "chain", "cond"])
def test_causes_of_each_kind(traced: Traced, kind: str) -> None:
    mine, span = traced.account.of(kind), traced.span(HANDLERS[kind])
    of_kind = truth(Account(mine, 0))
    for fragments, own_ns in of_kind.items():
        assert cause_ns(span, *fragments) / total(mine) == pytest.approx(own_ns / total(mine), abs=0.05), fragments
    assert sum(of_kind.values()) > 0.4 * total(mine)


def test_causes_explain_the_time(traced: Traced) -> None:
    for band in traced.span()["bands"]:
        assert 0.95 * band["total_ns"] <= sum(cause["total_ns"] for cause in band["causes"]) <= 1.05 * band["total_ns"]
        for cause in band["causes"]:
            assert cause["share"] == pytest.approx(cause["total_ns"] / band["total_ns"])


def test_exemplars_are_the_slowest_with_their_whole_path(traced: Traced) -> None:
    for span in traced.summary["requests"]:
        mine = traced.account.by_length() if span["span"] == HTTP else None
        exemplars = span["exemplars"]
        assert len(exemplars) == min(10, span["count"] + span["in_progress"])
        assert exemplars == sorted(exemplars, key=lambda exemplar: -exemplar["duration_ns"])
        for exemplar in exemplars:
            check_path(exemplar)
        if mine is None:
            continue
        ended = [exemplar for exemplar in exemplars if not exemplar["in_progress"]]
        assert len(ended) == 8
        assert ended[-1]["duration_ns"] >= 0.98 * mine[-8]["duration_ns"]
        for exemplar in ended:
            method, path = exemplar["what"].split()
            assert method == "GET"
            own = [request for request in mine if (request["goid"], f"/{request['kind']}") == (exemplar["goid"], path)]
            assert any(0.98 * each["duration_ns"] <= exemplar["duration_ns"] <= 1.02 * at_most(each) + SLACK_NS for each in own), exemplar


def test_requests_in_progress_are_shown_with_what_they_wait_for(traced: Traced) -> None:
    hanging = [exemplar for exemplar in traced.span()["exemplars"] if exemplar["in_progress"]]
    assert len(hanging) == 2
    for exemplar in hanging:
        last = exemplar["path"][0]
        assert (last["goid"], last["state"], last["reason"]) == (exemplar["goid"], "waiting", "chan receive")
        assert last["to_ns"] - last["from_ns"] > 0.9 * exemplar["duration_ns"]
        assert "main.serveHang" in [frame["name"] for frame in last["frames"]]


@pytest.mark.full("1.27.3")
@pytest.mark.parametrize("version", sorted({version for version, _ in BUILDS}))
def test_work_and_files(version: str, tmp_path: Path) -> None:
    """What a thread does: it computes, writes to a disk, collects garbage; and calls of a function within another of itself are one."""
    spans = [word for name in ("serveCPU", "serveFile", "serveGC", "nested") for word in ("--span", f"main.{name}")]
    traced = traced_load(build("requests", version, "plain"), tmp_path, "nested:30:10,cpu:8:40,file:20:15,gc:5:10", *spans)
    account = traced.account
    assert [traced.span(f"main.{name}")["count"] for name in ("serveCPU", "serveFile", "serveGC", "nested")] == [40, 15, 10, 10]
    assert traced.span()["count"] == 75
    # The outermost call: three sleeps in one.
    assert traced.span("main.nested")["total_ns"] == pytest.approx(total(account.of("nested")), rel=0.02)
    for kind, name in (("cpu", "main.serveCPU"), ("file", "main.serveFile")):
        bands, mine = traced.span(name)["bands"], account.of(kind)
        # The program's figure is by its thread's CPU time, which is not as exact where others want the CPUs as well.
        margin = 0.04 * total(mine) + SLACK_NS + SWITCH_NS * waits_in(bands)
        assert off_ns(bands) == pytest.approx(total(mine, kind), abs=margin), name
    cpu, file = traced.span("main.serveCPU"), traced.span("main.serveFile")
    running = sum(band["cpu_ns"] for band in cpu["bands"])
    assert cause_ns(cpu, "running") == pytest.approx(running, abs=0.05 * cpu["total_ns"])
    # What was not running was in the one function that writes, most of it in its system call.
    in_files = cause_ns(file, "in main.writeFile") - cause_ns(file, "running", "in main.writeFile")
    assert in_files == pytest.approx(off_ns(file["bands"]), abs=0.05 * file["total_ns"])
    synced = sum(band["by_state"].get("syscall", 0) for band in file["bands"])
    assert cause_ns(file, "fsync of fd ", "/requests") == pytest.approx(synced, abs=0.05 * file["total_ns"])
    for span in traced.summary["requests"]:
        for band in span["bands"]:
            assert band["cpu_ns"] + sum(band["by_state"].values()) == pytest.approx(band["total_ns"], rel=0.01, abs=10)
        for exemplar in span["exemplars"]:
            check_path(exemplar)


@pytest.fixture
def quota() -> Iterator[Path]:
    with fifth_of_a_cpu() as folder:
        yield folder


def test_a_cpu_quota_is_the_cause_of_what_it_takes(quota: Path, tmp_path: Path) -> None:
    traced = traced_load(build("requests", "1.27.3", "plain"), tmp_path, "cpu:10:25", "--span", "main.serveCPU", cgroup=quota)
    span, mine = traced.span("main.serveCPU"), traced.account.of("cpu")
    assert span["count"] == 25
    throttled = sum(ns for band in span["bands"] for reason, ns in band["by_reason"].items() if "CPU quota" in reason)
    assert throttled > 0.5 * total(mine, "cpu") > 0.3 * total(mine)
    assert cause_ns(span, "out of CPU quota", "main.") == pytest.approx(throttled, abs=0.05 * total(mine))
    margin = 0.02 * total(mine) + SLACK_NS + SWITCH_NS * waits_in(span["bands"])
    assert off_ns(span["bands"]) == pytest.approx(total(mine, "cpu"), abs=margin)


def test_requests_from_before_the_window(tmp_path: Path) -> None:
    """Those that end in it are in no band, and among the slowest from its start on, with their path."""
    with Workload(build("requests", "1.27.3", "stripped"), undisturbed=True) as workload:
        workload.send("go 1 hang:0:2,hangread:0:1,hangcpu:0:1")
        assert workload.read_json(20)["in_progress"] == 4
        with Attached(workload.pid, "-d", "0", "--json", "-o", tmp_path / "x.gotrace") as trace:
            workload.send("go 2 sleep:5:20")
            workload.read_json(20)
            workload.send("release")
            assert workload.read_line(20) == "released"
            workload.send("go 2 sleep:5:20")
            # Those that were released are in the account: it knows when they have begun.
            account = Account(**workload.read_json(20))
            summary = trace.end_json()
        assert workload.finish()[0] == 0
    (span,) = summary["requests"]
    assert sum(len(account.of(kind)) for kind in ("hang", "hangread", "hangcpu")) == 4
    assert (span["count"], span["in_progress"], span["begun_before"]) == (40, 0, 4)
    earlier = [exemplar for exemplar in span["exemplars"] if exemplar["begun_before"]]
    assert len(earlier) == 4 and not any(exemplar["in_progress"] for exemplar in span["exemplars"])
    assert {exemplar["goid"] for exemplar in earlier} == {request["goid"] for request in account.requests if request["kind"].startswith("hang")}
    for exemplar in earlier:
        check_path(exemplar)
        assert exemplar["start_ns"] == 0 and exemplar["duration_ns"] > 0.1e9
    assert {step["reason"] for exemplar in earlier for step in exemplar["path"]} >= {"read", "running"}
    # Who waited for the channel waited for the goroutine that closed it.
    assert "main.releaseHanging" in [frame["name"] for exemplar in earlier for step in exemplar["path"] for frame in step["frames"]]


@pytest.mark.full("1.27.3")
@pytest.mark.parametrize("version", ["1.21.13", "1.27.3"])
def test_requests_in_progress_throughout_the_window(version: str, tmp_path: Path) -> None:
    """The server hung before anyone came: parked, computing, or in the kernel. And others hang later, among some that do not."""
    hanging = {"hang": "chan receive", "hangread": "read", "hangcpu": ""}
    with Workload(build("requests", version, "stripped"), undisturbed=True) as workload:
        workload.send("go 1 hang:0:3,hangread:0:1,hangcpu:0:1")
        assert workload.read_json(20)["in_progress"] == 5
        with Attached(workload.pid, "-d", "0", "--json", "-o", tmp_path / "x.gotrace") as trace:
            workload.send("go 2 sleep:5:20,hang:0:2")
            assert Account(**workload.read_json(20)).in_progress == 7
            summary = trace.end_json()
        workload.send("release")
        assert workload.read_line(20) == "released"
        workload.send("go 0 sleep:5:0")
        account = Account(**workload.read_json(20))
        assert workload.finish()[0] == 0
    (span,) = summary["requests"]
    assert (span["count"], span["in_progress"], span["in_progress_before"], span["begun_before"]) == (20, 7, 5, 0)
    assert sum(each["count"] for each in span["doing"]) == 7
    assert {"what": "chan receive in main.serveHang", "count": 5} in span["doing"]
    window_ns = summary["window"]["duration_ns"]
    assert span["in_progress_max_ns"] == window_ns == span["at_least"]["max_ns"] > span["max_ns"]
    goids = {request["goid"]: request["kind"] for request in account.requests}
    shown = [exemplar for exemplar in span["exemplars"] if exemplar["in_progress"]]
    assert len(shown) == 5 < len(span["exemplars"]) == 10
    for exemplar in shown:
        check_path(exemplar)
        if exemplar["begun_before"]:
            assert (exemplar["start_ns"], exemplar["duration_ns"]) == (0, window_ns)
        else:
            assert exemplar["what"] == "GET /hang"
        longest = max(exemplar["path"], key=lambda step: step["to_ns"] - step["from_ns"])
        reason = hanging[goids[exemplar["goid"]]]
        assert longest["goid"] == exemplar["goid"] and (longest["reason"] == reason or not reason), exemplar
        handler = {"hang": "main.serveHang", "hangread": "main.serveHangRead", "hangcpu": "main.serveHangCPU"}[goids[exemplar["goid"]]]
        assert any(handler in [frame["name"] for frame in step["frames"]] for step in exemplar["path"]), exemplar
    assert {goids[exemplar["goid"]] for exemplar in shown if exemplar["begun_before"]} == set(hanging)


def test_without_requests_nothing_is_said_of_them(tmp_path: Path) -> None:
    traced = traced_load(build("requests", "1.27.3", "plain"), tmp_path, "sleep:5:20", "--requests", "off")
    assert not traced.summary.get("requests")


@pytest.mark.full
def test_the_time_of_requests_ends_where_a_cap_gives_them_up(tmp_path: Path) -> None:
    traced = traced_load(build("requests", "1.27.3", "plain"), tmp_path, "sleep:1:6000", "--max-overhead", "0.05")
    report, span, duration = traced.summary["overhead"]["governor"], traced.span(), traced.summary["window"]["duration_ns"]
    assert [step["rung"] for step in report["steps"]] == ["requests"]
    assert report["paused_ns"] > 0.5 * duration and 0 < span["count"] < 3000
    assert span["traced_ns"] + report["paused_ns"] == pytest.approx(duration, abs=0.1 * duration)
    assert span["rate_per_s"] == (span["count"] + span["cut_off"]) * 1e9 / span["traced_ns"]


LENGTHS = {"worker": 2, "mutex": 10, "sleep": 40, "group": 90, "chain": 150}


@pytest.mark.full
def test_requests_are_seen_whole_in_windows_the_long_as_often_as_the_short(tmp_path: Path) -> None:
    """Under a cap: a window takes those that begin in it, and follows them to their ends. So of each kind it sees as many as come, with
    their causes."""
    spans = [word for kind in LENGTHS for word in ("--span", f"main.serve{kind.title()}")]
    mix = ",".join(f"{kind}:{ms}" for kind, ms in LENGTHS.items())
    with Workload(build("requests", "1.27.3", "stripped"), undisturbed=True) as workload:
        with Attached(workload.pid, "-d", "0", "--json", "--max-overhead", 2, "-o", tmp_path / "x.gotrace", *spans) as trace:
            workload.send(f"go 12 {mix}")
            account = Account(**workload.read_json(60))
            summary = trace.end_json()
        assert workload.finish()[0] == 0
    report, window = summary["overhead"]["governor"], summary["window"]
    assert {step["rung"] for step in report["steps"]} <= {"requests", "nothing"} and report["windows"] >= 3
    assert window["attached_ns"] < 0.8 * window["duration_ns"] and report["share"] < 2 * report["max_overhead"]
    traced = Traced(account, summary)
    seconds = (max(each["start_ns"] for each in account.requests) - min(each["start_ns"] for each in account.requests)) / 1e9
    for kind, ms in LENGTHS.items():
        span, mine = traced.span(f"main.serve{kind.title()}"), account.of(kind)
        seen = span["count"] + span["cut_off"]
        # One more or less at each end of each window, as they come one after the other, and more slowly while they are traced.
        assert seen == pytest.approx(len(mine) / seconds * span["traced_ns"] / 1e9, rel=0.3, abs=2 * span["windows"]), kind
        assert span["cut_off"] <= 0.1 * seen, kind
        by_length = sorted(request["duration_ns"] for request in mine)
        assert span["p50_ns"] == pytest.approx(by_length[len(mine) // 2], rel=0.15), kind
        for band in span["bands"]:
            assert sum(cause["total_ns"] for cause in band["causes"]) >= 0.9 * band["total_ns"], kind
        for exemplar in span["exemplars"]:
            check_path(exemplar)
    assert cause_ns(traced.span("main.serveChain"), "sleep in main.lastOfChain") > 0.8 * traced.span("main.serveChain")["total_ns"]
    assert traced.summary["losses"]["span_end_unseen"] == 0
