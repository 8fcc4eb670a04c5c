"""Whether gotrace's programs can be compiled, and are accepted by this kernel."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from time import monotonic

from gotrace.kernel.bpf import ProgramType, attach_raw_tracepoint
from gotrace.kernel.host.check import Check, tried


def bcc_installed() -> Check:
    """Searches for the module without importing it: that takes a tenth of a second, and the compiler's process does it anyway."""
    spec = importlib.util.find_spec("bcc")
    if spec is None:
        return Check(
            "bcc", True, False, f"Python's bcc module is not installed for {sys.executable}",
            "sudo apt-get install python3-bpfcc, and a Python that sees the system's packages (./scripts/install)",
        )
    if not spec.origin or not Path(spec.origin).with_name("libbcc.py").exists():
        where = os.path.dirname(spec.origin or "") or "a namespace"
        return Check(
            "bcc", True, False, f"the bcc module in {where} is not the BPF Compiler Collection",
            "pip uninstall bcc; sudo apt-get install python3-bpfcc (PyPI's bcc is an unrelated package)",
        )
    return Check("bcc", True, True, "Python's bcc module is installed")


def costly() -> list[Check]:
    """Compiles and loads gotrace's own programs, and places a probe on a few bytes of our own code."""
    return [
        tried("BPF programs", True, _compiles, "see the log that the message names"),
        tried("uprobe self-test", True, _self_test, "a kernel with CONFIG_BPF_EVENTS; in a container: --cap-add PERFMON"),
    ]


def _compiles() -> str:
    from gotrace.kernel.compilation import Compilation
    from gotrace.kernel.loader import load
    from gotrace.kernel.program import Options, constant_names, map_entries

    start = monotonic()
    compilation = Compilation()
    try:
        compiled = compilation.result()
    finally:
        compilation.close()
    # Loaded, not attached: the verifier accepts any constants.
    programs = dict.fromkeys(("start_park", "end_execute", "switch_coroutine"), ProgramType.KPROBE)
    programs["target_exec"] = ProgramType.RAW_TRACEPOINT
    options = Options(max_goroutines=64, max_stacks=64)
    loaded = load(compiled, programs, dict.fromkeys(constant_names(), 64), map_entries(options, False))
    try:
        os.close(attach_raw_tracepoint("sched_process_exec", loaded.programs["target_exec"]))
    finally:
        loaded.close()
    return f"compiled by bcc {compiled.bcc_version} without kernel headers and verified in {monotonic() - start:.1f} s"


def _self_test() -> str:
    from gotrace.kernel.calibrate import measure_trap_ns

    return f"one hit costs {measure_trap_ns()} ns here"
