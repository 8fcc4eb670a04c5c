"""Tables for the terminal and for docs/overhead.md. Pure: from figures to renderables and text."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table as RichTable

from benchmarks.paired import Pair, Spread, against, spread
from benchmarks.results import AgentFigures, Measured, Results, Table
from benchmarks.stages import Stage
from gotrace.common.errors import GotraceError
from gotrace.common.units import format_duration

FLOOR, FLOOR_ONE = "floor", "floor-one"
QUIET = 0.05
"""The share of the machine's CPU time that others may take."""


def _rich(title: str, left: Iterable[str], right: Iterable[str]) -> RichTable:
    table = RichTable(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table


# -- scripts/load ------------------------------------------------------------------------------------------------------


def load_table(stages: list[Stage], phases: dict) -> RichTable:
    """The stages' figures; with several phases each stage has one line for each, and ratios to "before"."""
    several = len(phases) > 1
    names = ("requests/s", "p50", "p90", "p99", "p99.9", "max", "errors", "generator late, p99")
    table = _rich("", ("stage", "phase") if several else ("stage",), (*names, "requests/s", "p99") if several else names)
    for number, stage in enumerate(stages):
        base = next(iter(phases.values()))[number]
        for phase, figures in phases.items():
            own = figures[number]
            cells = [f"{own.throughput:,.0f}"]
            cells += [_ns(own.latency.get(key)) for key in ("p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns")]
            cells += [f"{100 * own.error_rate:.2f} %", _ns(own.late.get("p99_ns"))]
            if several:
                cells += [times(own.throughput, base.throughput), times(own.latency.get("p99_ns", 0), base.latency.get("p99_ns", 0))]
            table.add_row(stage.name if figures is next(iter(phases.values())) else "", *([phase] if several else []), *cells)
    return table


def times(value: float, base: float) -> str:
    """``1.05 x``, or a dash where there is nothing to compare."""
    return f"{value / base:.3g} x" if value and base else "-"


def _ns(value: int | None) -> str:
    return format_duration(int(value)) if value else "-"


# -- scripts/bench -----------------------------------------------------------------------------------------------------


def workload_table(table: Table) -> RichTable:
    """All tracers on one workload. Ratios are medians of the pairs with the smallest and the largest."""
    timed = any(pair.traced.latency for each in table.tracers.values() for pair in each.pairs)
    latency = ("p50", "p99", "p99.9", "p50, x", "p99, x", "low-high") if timed else ()
    rich = _rich(
        f"{table.title} ({table.unit}/s)", ("",),
        (f"{table.unit}/s", "x untraced", "low-high", "x floor", "CPU, x", *latency, "agent CPU", "peak MB", "live", "gone", "files", "live*", "files*"),
    )
    pairs = [pair for each in table.tracers.values() for pair in each.pairs]
    if pairs:
        rich.add_row("no tracer", *_untraced(pairs, timed))
    floor = table.tracers.get(FLOOR)
    for each in table.tracers.values():
        if not each.pairs:
            rich.add_row(each.title, each.note)
            continue
        rich.add_row(each.title, *_traced(each, floor.pairs if floor else [], timed))
    return rich


def _untraced(pairs: list[Pair], timed: bool) -> list[str]:
    windows = [window for pair in pairs for window in (pair.before, pair.after)]
    rates = spread([window.rate for window in windows])
    cells = [f"{rates.median:,.0f}", "1", f"{rates.low / rates.median:.2f}-{rates.high / rates.median:.2f}", "", ""]
    if timed:
        cells += [_ns(_median(window.latency.get(key) for window in windows)) for key in ("p50_ns", "p99_ns", "p999_ns")] + ["", "", ""]
    return cells


def _traced(each: Measured, floor: list[Pair], timed: bool) -> list[str]:
    ratio = spread([pair.rate_ratio for pair in each.pairs])
    to_floor = against(each.pairs, floor)
    cells = [
        f"{_median(pair.traced.rate for pair in each.pairs):,.0f}", _ratio(ratio.median), f"{_ratio(ratio.low)}-{_ratio(ratio.high)}",
        _ratio(to_floor.median) if to_floor else "", _ratio(_median(pair.cpu_ratio for pair in each.pairs)),
    ]
    if timed:
        cells += [_ns(_median(pair.traced.latency.get(key) for pair in each.pairs)) for key in ("p50_ns", "p99_ns", "p999_ns")]
        cells.append(_ratio(_median(pair.latency_ratio("p50_ns") for pair in each.pairs)))
        tail = spread([pair.latency_ratio("p99_ns") for pair in each.pairs])
        cells += [_ratio(tail.median), f"{_ratio(tail.low)}-{_ratio(tail.high)}"]
    return cells + _agent(each.agents) + _agent([each.under_load] if each.under_load else [])[2:5:2]


def _agent(agents: list[AgentFigures]) -> list[str]:
    def middle(name: str, scale: float, text: str) -> str:
        value = _median(getattr(agent, name) for agent in agents)
        return "" if value is None else text.format(value * scale)

    return [
        middle("cpu", 100, "{:.1f} %"), middle("peak_bytes", 1e-6, "{:.0f}"), middle("live_s", 1, "{:.2f} s"), middle("gone_s", 1, "{:.2f} s"),
        middle("files_s", 1, "{:.2f} s"),
    ]


def _median(values: Iterable[float | None]) -> float | None:
    known = spread([value for value in values if value is not None])
    return known.median if known else None


def _ratio(value: float | None) -> str:
    """Three digits after the point below a tenth, where they matter."""
    return "" if value is None else f"{value:.3f}" if value < 0.0995 else f"{value:.2f}" if value < 9.95 else f"{value:.0f}"


def disturbance(results: Results) -> str:
    """A warning, or "": whether other processes took so much of the machine that the figures are not to be cited."""
    shares = [window.others for table in results.tables.values() for each in table.tracers.values() for pair in each.pairs
              for window in (pair.before, pair.after) if window.others is not None]
    loud = [share for share in shares if share > QUIET]
    if len(loud) <= len(shares) / 20:
        return ""
    return (f"note: other processes took more than {100 * QUIET:.0f} % of the machine in {len(loud)} of {len(shares)} untraced windows (at most "
            f"{100 * max(loud):.0f} %): run it again when the machine is quiet")


def programs_table(table: Table) -> RichTable | None:
    """Where the nanoseconds of a hit go: the kernel's accounting of gotrace's programs under one workload; None without any."""
    keys = [key for key, each in table.tracers.items() if each.programs]
    if not keys:
        return None
    rich = _rich(f"BPF programs under {table.title}", ("program",), [f"{table.tracers[key].title}: {what}" for key in keys for what in ("runs/s", "ns/run")])
    known = {key: {program.name: program for program in table.tracers[key].programs} for key in keys}
    names = {name: max(own[name].runs_per_s for own in known.values() if name in own) for own in known.values() for name in own}
    for name in sorted(names, key=lambda each: -names[each]):
        cells = []
        for key in keys:
            program = known[key].get(name)
            cells += [f"{program.runs_per_s:,.0f}", f"{program.ns_per_run:.0f}"] if program else ["", ""]
        rich.add_row(name, *cells)
    return rich


# -- docs/overhead.md --------------------------------------------------------------------------------------------------


BEGIN, END = "<!-- bench -->", "<!-- /bench -->"


def placed(document: str, tables: str) -> str:
    """`document` with `tables` (as from `readme`) in place of the text between its marks.

    Raises:
        GotraceError: the document does not have each mark once, in order.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END + "\n")
    if not begin or not end or BEGIN in rest or END in after:
        raise GotraceError(f"the document does not have the marks {BEGIN} and {END} once each", "put them where the tables belong")
    return before + tables + after


def readme(results: Results) -> str:
    """The overhead tables as markdown, with the marks around them."""
    tables = list(results.tables.values())
    titles = {key: each.title for table in tables for key, each in table.tracers.items()}
    lines = [
        BEGIN, f"Throughput of the traced program over that of the untraced, median of {_pairs(tables)} pairs ({_host(results)}):", "",
        *_markdown(["", *(table.title for table in tables)], (
            [title, *(_cell(table.tracers.get(key), lambda each: spread([pair.rate_ratio for pair in each.pairs])) for table in tables)]
            for key, title in titles.items()
        )),
    ]
    timed = [table for table in tables if any(pair.traced.latency for each in table.tracers.values() for pair in each.pairs)]
    for name in ("p50", "p99") if timed else ():
        lines += ["", f"{name} of the latency, traced over untraced:", "", *_markdown(["", *(table.title for table in timed)], (
            [title, *(_cell(table.tracers.get(key), lambda each, name=name: spread([pair.latency_ratio(f"{name}_ns") for pair in each.pairs]))
                      for table in timed)]
            for key, title in titles.items()
        ))]
    floors = [table for table in tables if FLOOR in table.tracers]
    if floors:
        lines += ["", "Throughput over that under the same probes with empty programs, the floor of tracing with two traps:", "", *_markdown(
            ["", *(table.title for table in floors)],
            ([title, *(_cell(table.tracers.get(key), lambda each, t=table: against(each.pairs, t.tracers[FLOOR].pairs)) for table in floors)]
             for key, title in titles.items() if key not in (FLOOR, FLOOR_ONE)),
        )]
    lines += ["", "The agent (medians over all workloads; the largest peak):", "", *_markdown(
        ["", "CPU, of one core", "peak memory", "command to probes live", "signal to probes gone", "signal to files written"], _agent_rows(tables, titles),
    )]
    busy = [table for table in tables if any(agent.cpu is not None for each in table.tracers.values() for agent in each.agents)]
    if busy:
        lines += ["", "The agent's CPU time, % of one core:", "", *_markdown(["", *(table.title for table in busy)], (
            [title, *(_agent(table.tracers[key].agents)[0].removesuffix(" %") if key in table.tracers else "" for table in busy)]
            for key, title in titles.items()
        ))]
    if results.absent:
        lines += ["", "Not measured: " + "; ".join(f"{name}: {reason}" for name, reason in results.absent.items()) + "."]
    return "\n".join([*lines, END, ""])


def _pairs(tables: list[Table]) -> str:
    """How many there were for each tracer of a table: ``2``, or ``2 to 6`` where workloads were measured in runs of their own."""
    numbers = sorted({max((len(each.pairs) for each in table.tracers.values()), default=0) for table in tables})
    return " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1]))) if numbers else "0"


def _host(results: Results) -> str:
    return ", ".join(results.host[key] for key in ("kernel", "cpus", "go") if key in results.host)


def _markdown(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [_line(head), _line(["---"] * len(head)), *(_line(row) for row in rows if any(row[1:]))]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(each: Measured | None, figure) -> str:
    found: Spread | None = figure(each) if each is not None and each.pairs else None
    return _ratio(found.median) if found and found.median else ""


def _agent_rows(tables: list[Table], titles: dict[str, str]) -> Iterable[list[str]]:
    for key, title in titles.items():
        agents = [agent for table in tables if key in table.tracers for agent in table.tracers[key].agents]
        cells = _agent(agents)
        if any(cells):
            peak = max((agent.peak_bytes or 0 for agent in agents), default=0)
            yield [title, cells[0], f"{peak / 1e6:.0f} MB" if peak else "", *cells[2:]]
