"""The pure parts of scripts/load and scripts/bench: profiles of load, pairs, tables, results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())
sys.path.insert(0, str(ROOT / "scripts"))

from benchmarks.generator import loopback_url  # noqa: E402
from benchmarks.paired import Pair, Window, against, order_of, spread  # noqa: E402
from benchmarks.results import AgentFigures, Measured, ProgramFigures, Results, Table, dump, load  # noqa: E402
from benchmarks.stages import Stage, parse_stages, unmeasured, with_ramps  # noqa: E402
from benchmarks.tables import disturbance, placed, programs_table, readme, workload_table  # noqa: E402
from benchmarks.tracers import gotrace_sets  # noqa: E402

from gotrace.common.errors import GotraceError, UsageError  # noqa: E402

S = 1_000_000_000


def pair(number: int, traced: float, before: float, after: float, p99: int = 0) -> Pair:
    def latency(ns: int) -> dict[str, int]:
        return {"p50_ns": ns // 2, "p99_ns": ns, "p999_ns": 2 * ns} if p99 else {}

    return Pair(number, Window(traced, 20.0, latency(p99)), Window(before, 10.0, latency(1000), 0.01), Window(after, 10.0, latency(1000), 0.01))


def results() -> Results:
    tracers = {
        "floor": Measured("the floor", [pair(0, 50, 100, 100, 2000), pair(1, 25, 50, 50, 2000)]),
        "default": Measured(
            "gotrace", [pair(0, 40, 100, 100, 3000), pair(1, 22, 50, 50, 5000)],
            [AgentFigures(0.02, 0.5, 0.1, 0.9, 70_000_000), AgentFigures(0.04, 0.7, 0.3, 1.1, 80_000_000)],
            AgentFigures(live_s=2.5, files_s=3.5), [ProgramFigures("end_execute", 1000.0, 250.0)],
        ),
        "bpftrace": Measured("bpftrace", note="failed: it said nothing"),
    }
    return Results({"kernel": "Linux 6.1", "cpus": "2 CPUs", "go": "Go 1.27.3"}, {"pairs": 2}, {"offcputime": "no kprobes"},
                   {"http": Table("http", "HTTP", "requests", tracers)})


def printed(renderable: object) -> str:
    console = Console(width=220, record=True, file=open("/dev/null", "w"))
    console.print(renderable)
    return console.export_text()


# -- profiles of load --------------------------------------------------------------------------------------------------


def test_stages_are_read_from_a_line_and_from_a_file() -> None:
    expected = [Stage(10 * S, 2000.0), Stage(S // 2, 0.0)]
    assert parse_stages("10s@2000,500ms@max") == expected
    assert parse_stages("# a profile\n10s@2000   # steady\n\n500ms@max\n") == expected


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 1_000_000)), min_size=1, max_size=100))
def test_a_stage_s_name_reads_back_as_the_stage(stages: list[tuple[int, int]]) -> None:
    made = [Stage(seconds * S, float(rate)) for seconds, rate in stages]
    exact = [stage for stage in made if float(stage.name.partition("@")[2].replace("max", "0")) == stage.rate]
    assert not exact or parse_stages(",".join(stage.name for stage in exact)) == exact


@pytest.mark.parametrize("text", ["", "10s", "10s@", "@5", "10s@0", "10s@-1", "10s@nan", "10s@inf", "x@5", "0s@5", "5s@2000000", "2h@1", "1s@1," * 101])
def test_what_is_no_profile_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_stages(text)


def test_ramps_stand_before_stages_that_have_a_rate() -> None:
    assert [stage.ramp_ns for stage in with_ramps(parse_stages("1s@5,1s@max"), 7)] == [7, 0]
    assert unmeasured(Stage(S, 9.0, 7), 3) == Stage(3, 9.0, counted=False)


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "https://127.0.0.1/", "ftp://127.0.0.1/", "http:///x", "127.0.0.1", "http://127.0.0.1:99999/"])
def test_load_is_sent_to_the_loopback_alone(url: str) -> None:
    with pytest.raises(UsageError):
        loopback_url(url)


def test_loopback_addresses_are_taken() -> None:
    assert loopback_url("http://127.0.0.1:8080/x?y") == "http://127.0.0.1:8080/x?y"
    assert loopback_url("http://[::1]:8080/") == "http://[::1]:8080/"


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_a_window_is_compared_with_those_around_it() -> None:
    one = pair(0, 30, 50, 70, 4000)
    assert (one.rate_ratio, one.cpu_ratio, one.latency_ratio("p99_ns"), one.latency_ratio("p90_ns")) == (0.5, 2.0, 4.0, 0.0)
    assert pair(0, 30, 0, 0).rate_ratio == 0.0


def test_a_machine_that_slows_down_does_not_change_ratios() -> None:
    floor = [pair(0, 50, 100, 100), pair(1, 25, 50, 50)]
    traced = [pair(0, 40, 100, 100), pair(1, 20, 50, 50), pair(2, 1, 1, 1)]
    found = against(traced, floor)
    assert found is not None and (found.median, found.low, found.high) == (0.8, 0.8, 0.8)
    assert against(traced[2:], floor) is None


def test_spread_is_the_median_between_the_extremes() -> None:
    found = spread([3.0, 1.0, 10.0])
    assert found is not None and (found.low, found.median, found.high) == (1.0, 3.0, 10.0)
    assert spread([]) is None


def test_each_second_round_goes_backwards() -> None:
    assert [order_of(3, number) for number in range(3)] == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]


# -- tables and results ------------------------------------------------------------------------------------------------


def test_results_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    dump(results(), path)
    assert load(path) == results()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "tables": {"x": {}}}', '{"schema": 1, "tables": 3}'])
def test_a_file_that_holds_no_results_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(GotraceError):
        load(path)


def test_the_table_of_a_workload() -> None:
    lines = {line.split("  ")[0]: line.split() for line in printed(workload_table(results().tables["http"])).splitlines()}
    assert lines["no tracer"][2:5] == ["75", "1", "0.67-1.33"]
    #                                     rate   ratio    spread       floor   CPU
    assert lines["gotrace"][1:6] == ["31", "0.42", "0.40-0.44", "0.84", "2.00"]
    assert " ".join(lines["gotrace"]).endswith("3.0 % 75 0.60 s 0.20 s 1.00 s 2.50 s 3.50 s")
    assert "failed: it said nothing" in printed(workload_table(results().tables["http"]))


def test_the_accounts_of_programs() -> None:
    table = programs_table(results().tables["http"])
    assert table is not None and printed(table).splitlines()[-1].split() == ["end_execute", "1,000", "250"]
    assert programs_table(Table("x", "x", "x")) is None


def test_the_documents_tables_hold_the_medians() -> None:
    text = readme(results())
    assert text.startswith("<!-- bench -->\n") and text.endswith("<!-- /bench -->\n")
    rows = [line for line in text.splitlines() if line.startswith("| gotrace ")]
    assert rows == [
        "| gotrace | 0.42 |", "| gotrace | 4.00 |", "| gotrace | 4.00 |", "| gotrace | 0.84 |", "| gotrace | 3.0 % | 80 MB | 0.60 s | 0.20 s | 1.00 s |",
        "| gotrace | 3.0 |",
    ]
    assert "| bpftrace" not in text and "offcputime: no kprobes" in text


def test_the_documents_tables_tell_how_many_pairs_there_were() -> None:
    found = results()
    assert "median of 2 pairs" in readme(found)
    longer = results().tables["http"]
    longer.tracers["floor"].pairs += longer.tracers["floor"].pairs
    found.tables["http-fixed"] = longer
    assert "median of 2 to 4 pairs" in readme(found)


def test_tables_are_placed_between_their_marks() -> None:
    text = readme(results())
    assert placed("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n", text) == f"before\n{text}after\n"


@pytest.mark.parametrize("document", ["", "<!-- bench -->\n", "<!-- /bench -->\n<!-- bench -->\n", 2 * "<!-- bench -->\n<!-- /bench -->\n"])
def test_a_document_without_marks_is_refused(document: str) -> None:
    with pytest.raises(GotraceError):
        placed(document, readme(results()))


def test_the_document_has_the_tables_of_the_stored_results() -> None:
    document = (ROOT / "docs/overhead.md").read_text()
    assert placed(document, readme(load(ROOT / "scripts/bench-results.json"))) == document, "scripts/bench --readme"


def test_a_busy_machine_is_told() -> None:
    quiet = results()
    assert disturbance(quiet) == ""
    table = quiet.tables["http"].tracers["floor"]
    table.pairs = [Pair(0, Window(1, 1), Window(1, 1, others=0.4), Window(1, 1, others=0.3))]
    assert "in 2 of 6 untraced windows (at most 40 %)" in disturbance(quiet)


def test_only_flags_that_gotrace_has_are_compared() -> None:
    now = gotrace_sets("--mode [exact] exact: every interval.")
    assert [key for key, _, _ in now] == ["default", "exact"]
    later = gotrace_sets("--max-overhead PCT The governor. --mode [exact|lean|sample] two, one or no traps")
    assert [key for key, _, _ in later] == ["default", "every", "exact", "governed", "lean", "sample"]
    assert dict((key, flags) for key, _, flags in later)["lean"] == ["--mode", "lean", "--max-overhead", "0"]
