"""Captures in files, made of profiles, and the command line that reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gotrace.capture.writer import CaptureWriter
from gotrace.profile.types import Profile

Cli = Callable[..., tuple[int, str, str]]
"""The fixture `cli`: from arguments to exit code, standard output and standard error."""


def capture(path: Path, made: Profile) -> Path:
    """Writes the profile to `path`, over whatever is there."""
    writer = CaptureWriter(path, force=True)
    for item in made.targets:
        writer.put_target(item)
    writer.put_stacks(made.stacks)
    writer.commit(made)
    writer.close()
    return path
