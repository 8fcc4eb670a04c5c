"""The function table reader against Go itself: go tool nm, objdump, addr2line and a program's own CallersFrames."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from gobuild import PARSED_VERSIONS, VARIANTS, build, go_command, go_environment, parsed_builds

from gotrace.gobin.binary import GoBinary
from gotrace.gobin.image import Image
from gotrace.profile.symbolize import shown_name as shown

_SIZED = re.compile(r"^\s*([0-9a-f]+)\s+\d+\s+[tT] (.*)$")


def open_binary(program: str, version: str, variant: str) -> GoBinary:
    path = build(program, version, variant)
    return GoBinary(Image(path.read_bytes(), str(path)))


def go_tool(version: str, *arguments: object, **options: object) -> str:
    return subprocess.run(
        [go_command(version), "tool", *map(str, arguments)], check=True, capture_output=True, text=True,
        env=go_environment(), **options,
    ).stdout


@pytest.mark.parametrize(("version", "variant"), parsed_builds(*VARIANTS))
def test_inlined_calls_equal_the_program_s_own_frames(version: str, variant: str) -> None:
    binary = open_binary("symbols", version, variant)
    lines = subprocess.run(
        [binary.image.name], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    ).stdout.splitlines()
    assert lines[0] == "ready"
    function, _ = binary.function("main.anchor")
    bias = json.loads(lines[1])["anchor"] - function.entry
    records = [json.loads(line) for line in lines[2:]]
    assert len(records) > 500
    deepest = 0
    for record in records:
        own = [(shown(frame["function"]), frame["file"], frame["line"]) for frame in record["frames"]]
        assert len(own) == len(record["pcs"])
        for index, pc in enumerate(record["pcs"]):
            # runtime.Callers gives each inlined call a program counter of its own; what one stands for is that call and
            # all those around it, so the frames from there on. Of a single program counter it names the innermost.
            calls = [call for call in binary.table.expand(pc - bias) if call.func_id != binary.table.wrapper_id]
            mine = [(shown(call.function), call.file or "?", call.line) for call in calls]
            if len(own) > 1:
                assert mine == own[index : index + len(mine)]
            elif mine and binary.table.function_at(pc - bias).entry != pc - bias:
                # (CallersFrames takes a function's first address for that of a new goroutine, not for a return address.)
                assert mine[0] == own[0]
            deepest = max(deepest, len(calls))
    assert deepest >= 4


@pytest.mark.parametrize("version", PARSED_VERSIONS)
def test_functions_equal_go_tool_nm(version: str) -> None:
    binary = open_binary("symbols", version, "plain")
    checked = 0
    for line in go_tool(version, "nm", "-size", binary.image.name).splitlines():
        match = _SIZED.match(line)
        if not match:
            continue
        address, name = int(match.group(1), 16), match.group(2).removesuffix(".abi0")
        if not name.startswith(("runtime.", "main.", "fmt.", "os.", "sort.")) or "etext" in name or name == "runtime.text":
            continue
        function = binary.table.function_at(address)
        assert function is not None and function.entry == address, name
        assert shown(function.name) == shown(name)
        checked += 1
    assert checked > 1000


@pytest.mark.parametrize("version", PARSED_VERSIONS)
def test_lines_equal_go_tool_addr2line(version: str) -> None:
    binary = open_binary("symbols", version, "plain")
    addresses = []
    for name in ("runtime.gopark", "runtime.schedule", "fmt.Fprintf", "main.main", "runtime.mallocgc"):
        function, _ = binary.function(name)
        addresses += range(function.entry, function.end, 9)
    answers = go_tool(
        version, "addr2line", binary.image.name, input="".join(f"{address:#x}\n" for address in addresses)
    ).splitlines()
    for address, name, place in zip(addresses, answers[0::2], answers[1::2]):
        # addr2line names the physical function, with the file and line of the innermost call.
        calls = binary.table.expand(address, is_return_address=False)
        assert calls[-1].function == name
        if calls[0].file:
            assert f"{calls[0].file}:{calls[0].line}" == place, hex(address)
        else:  # padding behind the last instruction
            assert place.endswith((":0", ":-1")), hex(address)


@pytest.mark.parametrize(("version", "variant"), parsed_builds("plain", "cgo"))
def test_a_probe_sits_where_go_tool_objdump_has_an_instruction(version: str, variant: str) -> None:
    from gotrace.plan.makeplan import make_plan

    binary = open_binary("selftimed", version, variant)
    for probe in make_plan(binary).probes:
        text = go_tool(version, "objdump", "-s", f"^{re.escape(probe.symbol)}(.abi0)?$", binary.image.name)
        found = re.search(rf"{probe.site.address:#x}\s+([0-9a-f]+)\s+(\S+)", text)
        assert found, f"{probe.symbol}: no instruction at {probe.site.address:#x}"
        assert probe.site.prologue.endswith(bytes.fromhex(found.group(1))), found.group(0)
        # The arguments of a call are in their registers where it is made.
        assert probe.site.kind in (("call", "jcc", "jmp", "push") if probe.role in ("create", "pause") else ("jcc", "jmp", "push"))


@pytest.mark.parametrize(("version", "variant"), parsed_builds(*VARIANTS))
def test_stack_deltas_grow_with_pushes(version: str, variant: str) -> None:
    binary = open_binary("symbols", version, variant)
    function, _ = binary.function("main.deep")
    assert binary.table.stack_delta(function.entry) == 0
    assert max(binary.table.stack_delta(pc) or 0 for pc in range(function.entry, function.end)) > 0
