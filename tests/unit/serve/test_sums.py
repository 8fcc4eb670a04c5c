"""The sums for /metrics."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from kept import options, stack, step
from prerequisites import unavailable
from profiles import durations

from gotrace.common.histogram import bucket_of
from gotrace.common.vocabulary import State
from gotrace.profile.types import Distribution, Pause
from gotrace.sched.types import Snapshot
from gotrace.serve.evidence import Evidence
from gotrace.serve.metrics import Metrics
from gotrace.serve.scheduler import SchedWatch
from gotrace.serve.steps import Calls, Wait
from gotrace.serve.supervisor import Supervisor
from gotrace.serve.totals import MOST_REASONS, MOST_TARGETS, OTHER, Labels, Totals

S = 1_000_000_000
MS = 1_000_000



def metrics_of(totals: Totals, folder: Path) -> str:
    evidence = Evidence(options(folder), lambda _: None)
    supervisor = Supervisor(options(folder), totals, lambda _traced, _fired: None, lambda _: None)
    return Metrics(totals, supervisor, evidence).text("")[0].decode()


def test_sums_go_on_when_a_process_is_started_again(tmp_path: Path) -> None:
    totals = Totals()
    for _ in range(2):
        totals.add(Labels("api", "0123456789ab"), step((stack(), [S, 2 * S]), (stack("ready", State.RUNNABLE), [1000, 3_000_000])))
    text = metrics_of(totals, tmp_path)
    labels = 'container="0123456789ab",reason="sync.Mutex.Lock",state="waiting",target="api"'
    assert f"gotrace_offcpu_seconds_total{{{labels}}} 6.0" in text and f"gotrace_waits_total{{{labels}}} 4.0" in text
    assert 'gotrace_runnable_latency_seconds_bucket{container="0123456789ab",le="4e-06",target="api"} 2.0' in text
    assert 'gotrace_runnable_latency_seconds_count{container="0123456789ab",target="api"} 4.0' in text


def test_a_control_group_is_counted_once(tmp_path: Path) -> None:
    """Its processes, which are not read at once, have the same name; one that is started again goes on."""
    totals = Totals()
    watches = [SchedWatch(pid, totals, Labels("api", "")) for pid in (7, 8)]
    for one, group, throttled_ns in ((0, 1, 100), (1, 1, 101), (0, 1, 100), (1, 1, 4 * S), (0, 1, 5 * S), (0, 2, 9 * S), (0, 2, 11 * S)):
        watches[one]._take(Snapshot("", throttled_ns=throttled_ns), (0, group))
    SchedWatch(9, totals, Labels("api", ""))._take(Snapshot("", throttled_ns=6 * S), (0, 1))
    assert dict(totals.read())[Labels("api", "")].throttled_ns == 6 * S - 100 + 2 * S
    assert 'gotrace_throttled_seconds_total{container="",target="api"} 7.9999999' in metrics_of(totals, tmp_path)
    for group in range(1000):
        totals.note_throttled(Labels("api", ""), (1, group), 5)
    assert len(totals._sums[Labels("api", "")].throttled) < 100


def test_values_of_labels_are_limited(tmp_path: Path) -> None:
    totals = Totals()
    for number in range(MOST_TARGETS + 10):
        totals.add(Labels(f"t{number}", ""), step((stack(), [1000])))
    totals.add(Labels("t0", ""), step(*[(stack(f"reason {number}"), [1000]) for number in range(MOST_REASONS + 5)]))
    assert len(totals.read()) == MOST_TARGETS + 1 and totals.capped == {"target": 10, "reason": 6, "span": 0}
    assert 'gotrace_labels_capped_total{label="target"} 10.0' in metrics_of(totals, tmp_path)
    assert dict(totals.read())[Labels(OTHER, "")].waits[State.WAITING, "sync.Mutex.Lock"] == (10, 10_000)


def test_counters_never_go_down(tmp_path: Path) -> None:
    """A wait of 1 ms that went on is moved to where 100 ms are; an estimate becomes less."""
    totals = Totals()
    evidence = Evidence(options(tmp_path), lambda _: None)
    metrics = Metrics(totals, Supervisor(options(tmp_path), totals, lambda _traced, _fired: None, lambda _: None), evidence)

    def buckets() -> list[float]:
        lines = metrics.text("")[0].decode().splitlines()
        return [float(line.split()[-1]) for line in lines if line.startswith("gotrace_runnable_latency_seconds")]

    ready = stack("ready", State.RUNNABLE)
    totals.add(Labels("api", ""), step((ready, [MS, MS])))
    found = [buckets()]
    long = durations([100 * MS])
    moved = Distribution(0, long.total_ns - MS, long.max_ns, 0, {**long.histogram, bucket_of(MS): -1})
    for gained in (moved, Distribution(-1, -50 * MS, 0, 0, {bucket_of(MS): -1}), durations([MS, MS])):
        more = step((ready, []))
        more.waits = [Wait(ready, gained, (0, 0, 0, 0), 0, None)]
        totals.add(Labels("api", ""), more)
        found.append(buckets())
    assert len(found[0]) == 17  # with +Inf, the count and the sum
    for before, after in itertools.pairwise(found):
        assert all(one <= other for one, other in zip(before, after, strict=True))
    assert found[-1][:15] == sorted(found[-1][:15]) and found[-1][14] == 3


def test_an_estimate_that_goes_down_and_up_is_counted_once(tmp_path: Path) -> None:
    totals = Totals()
    supervisor = Supervisor(options(tmp_path), totals, lambda _traced, _fired: None, lambda _: None)
    metrics, found = Metrics(totals, supervisor, Evidence(options(tmp_path), lambda _: None)), []
    for count, seconds in ((4, 10), (-3, -6), (2, 5), (2, 3)):
        more = step((stack(), []))
        more.waits = [Wait(stack(), Distribution(count, seconds * S), (0, 0, 0, 0), 0, 1)]
        totals.add(Labels("api", ""), more)
        lines = metrics.text("")[0].decode().splitlines()
        found.append([float(one.split()[-1]) for one in lines if one.startswith(("gotrace_offcpu_seconds_total", "gotrace_waits_total"))])
    assert found == [[10, 4], [10, 4], [10, 4], [12, 5]]


def test_targets_that_are_long_gone_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that is started again has another id."""
    totals, now = Totals(), time.monotonic()
    for number in range(MOST_TARGETS):
        totals.add(Labels("api", f"{number:012x}"), step((stack("ready", State.RUNNABLE), [1000])))
    monkeypatch.setattr("gotrace.serve.totals.time.monotonic", lambda: now + 4000)
    totals.add(Labels("api", "f" * 12), step((stack(), [1000])))
    totals.add(Labels("api", "0" * 12), step((stack("ready", State.RUNNABLE), [1000])))  # the first was forgotten: it begins again
    assert len(totals.read()) == MOST_TARGETS and not totals.capped["target"] and Labels(OTHER, "") not in dict(totals.read())
    assert f'gotrace_runnable_latency_seconds_count{{container="{"0" * 12}",target="api"}} 1.0' in metrics_of(totals, tmp_path)


@pytest.mark.parametrize("name", ["a\udcff", "a" * 100_000])
def test_a_name_is_short_text(tmp_path: Path, name: str) -> None:
    """A file's name may have any bytes, a symbol may be megabytes: neither keeps the others from being scraped."""
    totals = Totals()
    one = step((stack(name), [1000]))
    one.calls, one.pauses = [Calls(f"main.{name}", durations([5000]), {})], [Pause(name, 0, 1000, 7)]
    totals.add(Labels(name, ""), one)
    totals.note(Labels(name, ""), traces=1)
    text = metrics_of(totals, tmp_path)
    assert max(map(len, text.splitlines())) < 1000 and len(totals.read()) == 1


def test_promtool_takes_hostile_names(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        unavailable("needs promtool (remedy: apt-get install prometheus)")
    totals = Totals()
    one = step((stack('a"b\\c\nd} 1\n# EOF'), [1000]))
    one.calls = [Calls('main.\x1b[2J"\n{}', durations([5000]), {})]
    one.pauses = [Pause("GC", 0, 1000, 7)]
    totals.add(Labels('x"\n', ""), one)
    totals.note(Labels('x"\n', ""), 1, 6, 7)
    done = subprocess.run([promtool, "check", "metrics"], input=metrics_of(totals, tmp_path), text=True, capture_output=True, timeout=180)
    assert done.returncode == 0 and not done.stderr + done.stdout, done.stderr + done.stdout
