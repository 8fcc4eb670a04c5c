"""The probe plan for people and for scripts."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gotrace import __version__
from gotrace.gobin.binary import GoBinary
from gotrace.plan.probes import Plan, SpanFunction, SpanSite
from gotrace.render.text import sanitize


def plan_dict(binary: GoBinary, plan: Plan, verified: bool) -> dict[str, object]:
    """The output of ``gotrace probes --json``. `verified`: checked against a live process."""
    layout = {name: value for name, value in asdict(binary.layout).items() if name != "source" and value is not None}
    return {
        "gotrace": __version__,
        "binary": {
            "path": binary.image.name, "go_version": str(binary.version or "unknown"),
            "go_version_source": binary.version_source, "build_id": binary.image.build_id, "stripped": binary.stripped,
            "pie": binary.pie, "cgo": binary.cgo, "arch": "amd64", "functions": binary.table.function_count,
            "wait_reasons": list(binary.wait_reasons),
        },
        "layout": {"source": binary.layout.source, "offsets": layout, "misfits": binary.misfits},
        "verified_live": verified,
        "probe_set": plan.probe_set.value,
        "probes": [
            {
                "role": probe.role, "symbol": probe.symbol, "address": probe.site.address,
                "offset_in_function": probe.site.offset, "file_offset": probe.file_offset,
                "instruction": probe.site.text, "emulated": probe.site.kind, "register": probe.register,
                "expected_bytes": probe.site.prologue.hex(), "found_by": probe.found_by,
                "traps_per_hit": probe.traps_per_hit,
            }
            for probe in plan.probes
        ],
        "spans": [
            {
                "function": span.name, "number": span.number, "address": span.entry, "how": span.how,
                "traps_per_call": list(span.traps), "intact_arguments": list(span.intact),
                "begin": _site_dict(span.begin), "ends": [_site_dict(site) for site in span.ends],
            }
            for span in plan.spans
        ],
        "left_out": [asdict(left) for left in plan.left_out],
    }


def _span_lines(span: SpanFunction) -> list[str]:
    low, high = span.traps
    cost = f"{low} traps" if low == high else f"{low} to {high} traps"
    lines = [f"span {sanitize(span.name)}: {cost} a call, which is seen to end {sanitize(span.how)}"]
    for what, site in [("begins", span.begin)] + [("ends", end) for end in span.ends]:
        probe = site.probe
        traps = f"{probe.traps_per_hit} trap{'s' if probe.traps_per_hit > 1 else ''}"
        place = f"{sanitize(probe.symbol)}+{probe.site.offset}"
        lines.append(f"  {what:6} {probe.site.address:#x}  {probe.site.text}  ({traps}, {place})")
    return lines


def _site_dict(site: SpanSite) -> dict[str, object]:
    return {
        "symbol": site.probe.symbol, "address": site.probe.site.address, "instruction": site.probe.site.text,
        "sp_above": site.sp_above, "traps_per_hit": site.probe.traps_per_hit,
    }


def print_plan(binary: GoBinary, plan: Plan, verified: bool, console: Console) -> None:
    """Prints the same as tables."""
    kind = ["stripped" if binary.stripped else "with symbols"]
    kind += ["PIE"] if binary.pie else []
    kind += ["cgo"] if binary.cgo else []
    lines = (
        ("binary", sanitize(binary.image.name)),
        ("Go version", f"{sanitize(str(binary.version or 'unknown'))} (by {binary.version_source})"),
        ("kind", f"{', '.join(kind)}, {binary.table.function_count:,} functions"),
        ("layout of g", f"by {sanitize(binary.layout.source)}, agrees with the machine code"
                        + (" and with the live process" if verified else "")),
        ("wait reasons", f"{len(binary.wait_reasons)} read from the binary"),
        ("probe set", plan.probe_set.value),
    )
    for label, text in lines:
        console.print(Text(f"{label + ':':14}{text}"), soft_wrap=True)
    console.print()
    table = Table(box=None, pad_edge=False)
    for heading in ("probe", "at", "instruction", "g in"):
        table.add_column(heading, no_wrap=True)
    table.add_column("traps", justify="right", no_wrap=True)
    of_spans = {id(site.probe) for span in plan.spans for site in (span.begin, *span.ends)}
    for probe in plan.probes:
        if id(probe) in of_spans:  # long names, which leave no room for the rest
            continue
        table.add_row(
            Text(f"{probe.role} {sanitize(probe.symbol)}+{probe.site.offset}"), Text(f"{probe.site.address:#x}"),
            Text(probe.site.text), Text(probe.register), str(probe.traps_per_hit),
        )
    console.print(table)
    if plan.spans:
        console.print()
    for line in [line for span in plan.spans for line in _span_lines(span)]:
        console.print(Text(line), soft_wrap=True)
    for line in binary.misfits:
        console.print(Text(f"dropped {sanitize(line)}"), soft_wrap=True)
    for left in plan.left_out:
        console.print(Text(f"left out {left.symbol}: {left.reason}"), soft_wrap=True)
