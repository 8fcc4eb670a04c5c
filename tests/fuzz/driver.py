"""Runs one target under libFuzzer (atheris) within limits of time and memory: the inside of scripts/fuzz."""

from __future__ import annotations

import argparse
import hashlib
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache" / "fuzz"
INPUT_SECONDS = 5
MEMORY_MB = 512
_TELLING = ("  File ", "SUMMARY", "artifact_prefix", "ALARM")
_LARGEST = {"binary": 65536, "capture": 65536}


def main() -> int:
    """Starts libFuzzer, and again after a finding, until the time is over; returns 1 if there was a finding."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz")
    parser.add_argument("target", nargs="?")
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("--seconds", type=int, default=600, help="how long (default 600)")
    parser.add_argument("--inside", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        return inside(options.target, options.inside)
    if options.list or options.target is None:
        from fuzz.targets import TARGETS

        print("\n".join(f"{name:12}{(function.__doc__ or '').splitlines()[0]}" for name, function in TARGETS.items()))
        return 0
    return outside(options.target, options.seconds)


def outside(target: str, seconds: int) -> int:
    """A crash, a hang or too much memory ends libFuzzer: what it left is kept, and it is started again."""
    corpus, findings = WORK / target / "corpus", WORK / target / "findings"
    seeds = ROOT / "tests" / "fuzz" / "corpus" / target
    for folder in (corpus, findings, seeds):
        folder.mkdir(parents=True, exist_ok=True)
    began, found = time.monotonic(), 0
    while (left := int(seconds - (time.monotonic() - began))) > 0:
        result = subprocess.run(
            [
                sys.executable, __file__, target, "--inside", corpus, seeds, f"-max_total_time={left}",
                f"-timeout={12 * INPUT_SECONDS}", f"-rss_limit_mb={MEMORY_MB}", f"-artifact_prefix={findings}/",
                f"-max_len={_LARGEST.get(target, 8192)}", "-print_final_stats=1", "-reload=0", "-verbosity=1",
            ],
            capture_output=True, text=True, errors="replace", cwd=ROOT,
        )
        said = result.stdout + result.stderr
        if result.returncode == 0:
            executed = [line.split()[-1] for line in said.splitlines() if "number_of_executed_units" in line]
            print(f"{target}: {left} s without a finding, {', '.join(executed)} inputs", flush=True)
            break
        found += 1
        report = findings / (hashlib.sha256(said.encode()).hexdigest()[:12] + ".txt")
        report.write_text(said)
        print(f"{target}: a finding after {time.monotonic() - began:.0f} s: {report}", flush=True)
        print("\n".join(line for line in said.splitlines() if line.startswith(_TELLING)), flush=True)
        if found >= 10:
            break
    return 1 if found else 0


def inside(target: str, arguments: list[str]) -> int:
    """libFuzzer itself; the modules under test tell it which of their branches an input took."""
    with atheris.instrument_imports(include=["gotrace", "elftools"]):
        from fuzz.targets import TARGETS
    test = TARGETS[target]
    # Beyond what libFuzzer looks at once a second: one large allocation fails at once.
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_MB << 20, MEMORY_MB << 20))

    signal.signal(signal.SIGPROF, _too_long)

    def one(data: bytes) -> None:
        # libFuzzer's own limit goes by the clock, which on a busy machine says nothing of the input.
        signal.setitimer(signal.ITIMER_PROF, INPUT_SECONDS)
        try:
            test(data)
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()
    return 0


class TooLong(BaseException):
    """No Exception: what is under test may catch those."""


def _too_long(number: int, frame: object) -> None:
    raise TooLong(f"an input took {INPUT_SECONDS} s of CPU time")


if __name__ == "__main__":
    sys.exit(main())
