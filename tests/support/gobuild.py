"""Builds the Go fixture programs with every toolchain, in every variant, once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
CACHE = ROOT / ".cache"
GO_CACHE = Path(os.environ.get("GOTRACE_GO_CACHE") or CACHE)
"""With Go's toolchains and what they have compiled (scripts/lib.sh)."""
GO_VERSIONS = (ROOT / "scripts" / "go-versions").read_text().split()
EXTENT = os.environ.get("GOTRACE_TESTS", "full")
"""How much is tested: ``quick``, ``full``, or ``every`` (scripts/test)."""
_FOUR = [GO_VERSIONS[0], GO_VERSIONS[2], GO_VERSIONS[5], GO_VERSIONS[-1]]
SOME_VERSIONS = {"quick": GO_VERSIONS[-1:], "every": GO_VERSIONS}.get(EXTENT, _FOUR)
"""For what a whole trace shows: the oldest, two in the middle and the newest; the newest alone where it has to be quick."""
TWO_VERSIONS = GO_VERSIONS if EXTENT == "every" else [GO_VERSIONS[0], GO_VERSIONS[-1]]
"""For what many programs show, each in its own way: the oldest and the newest."""
PARSED_VERSIONS = [GO_VERSIONS[0], GO_VERSIONS[-1]] if EXTENT == "quick" else GO_VERSIONS
"""For parsers and layouts: all."""
VARIANTS = ("plain", "stripped", "pie", "cgo")
_LIKE_PLAIN = ("plain", "stripped")
"""Linked from the same objects. For the others Go compiles its library anew."""

SOME_BUILDS = {
    "quick": [(GO_VERSIONS[-1], VARIANTS[-1])],
    "every": [(version, variant) for version in GO_VERSIONS for variant in VARIANTS],
}.get(EXTENT, [*zip(_FOUR, ("cgo", "pie", "plain", "stripped"))])
"""`SOME_VERSIONS`, each of another variant; in the complete matrix each in all."""


def parsed_builds(*variants: str) -> list[tuple[str, str]]:
    """`PARSED_VERSIONS` in these variants; `pie` and `cgo` of the oldest and the newest, or in a quick run of the newest alone."""
    seldom = {"quick": GO_VERSIONS[-1:], "every": GO_VERSIONS}.get(EXTENT, [GO_VERSIONS[0], GO_VERSIONS[-1]])
    return [(version, variant) for version in PARSED_VERSIONS for variant in variants if variant in _LIKE_PLAIN or version in seldom]


_FLAGS = {
    "plain": ("0", []),
    "stripped": ("0", ["-ldflags=-s -w"]),
    "pie": ("0", ["-buildmode=pie", "-trimpath", "-ldflags=-s -w"]),
    "cgo": ("1", ["-ldflags=-linkmode=external"]),
    "race": ("1", ["-race"]),
    "asan": ("1", ["-asan"]),
}


def go_command(version: str) -> str:
    """Path of the `go` of that version, installed if it is missing. Where it can't be had a test is skipped.

    Raises:
        RuntimeError: the same outside a test.
    """
    done = subprocess.run([ROOT / "scripts" / "go-toolchain", version], capture_output=True, text=True)
    if done.returncode:
        reason = f"needs Go {version}: {' '.join(done.stderr.split())[-300:]}"
        if "pytest" in sys.modules:  # scripts build these programs as well, where there is none
            from prerequisites import unavailable

            unavailable(reason)
        raise RuntimeError(reason)
    return done.stdout.strip()


def go_environment() -> dict[str, str]:
    """Keeps Go to the toolchain it is told and to the checkout's cache."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("GO", "CGO"))} | {
        "GOTOOLCHAIN": "local", "GOENV": "off", "GOWORK": "off", "GO111MODULE": "on", "GOPROXY": "off",
        "GOFLAGS": "-buildvcs=false", "GOCACHE": str(GO_CACHE / "go-build"), "GOPATH": str(GO_CACHE / "gopath"),
        "XDG_CONFIG_HOME": str(CACHE / "config"), "HOME": str(CACHE),
    }


def build(program: str, version: str, variant: str) -> Path:
    """The executable of tests/fixtures/`program`; a repeat with the same sources costs nothing.

    Raises:
        RuntimeError: the compiler's text.
    """
    return _build(program, FIXTURES / program, version, variant)


def build_text(program: str, module: str, text: str, version: str, variant: str) -> Path:
    """The executable of a program whose one file, main.go, was made up; as `build`, in a module of that name."""
    source = CACHE / "fixtures" / program / "source"
    source.mkdir(parents=True, exist_ok=True)
    for name, content in (("main.go", text), ("go.mod", f"module {module}\n\ngo 1.19\n")):
        if not (source / name).exists() or (source / name).read_text() != content:
            new = source.parent / f"{name}.{os.getpid()}"  # whole at any time: another test may build it now
            new.write_text(content)
            new.replace(source / name)
    return _build(program, source, version, variant)


def _build(program: str, source: Path, version: str, variant: str) -> Path:
    cgo, flags = _FLAGS[variant]
    digest = hashlib.sha256(" ".join([cgo, *flags]).encode())
    for path in sorted(source.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    binary = CACHE / "fixtures" / program / f"{version}-{variant}-{digest.hexdigest()[:12]}" / program
    binary.parent.mkdir(parents=True, exist_ok=True)
    with open(binary.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            temporary = binary.with_suffix(".new")
            result = subprocess.run(
                [go_command(version), "build", *flags, "-o", temporary, "."], cwd=source, capture_output=True, text=True,
                env=go_environment() | {"CGO_ENABLED": cgo},
            )
            if result.returncode:
                raise RuntimeError(f"go {version} build of {program} ({variant}):\n{result.stdout}{result.stderr}")
            temporary.rename(binary)
    return binary


if __name__ == "__main__":
    # What scripts/vm has made beforehand: a compiler is slow under emulation.
    for made in sorted(FIXTURES.iterdir()):
        needs_cgo = (made / "main.go").exists() and 'import "C"' in (made / "main.go").read_text()
        build(made.name, GO_VERSIONS[-1], "cgo" if needs_cgo else "stripped")
