"""Writes what a trigger leads to: a capture, its flame graph, a dump, and a line of JSON. Room is made before that."""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from gotrace.capture.writer import CaptureWriter
from gotrace.common.errors import GotraceError
from gotrace.common.files import append, as_invoking_user, make_folder, write
from gotrace.export import render
from gotrace.profile.types import Profile, SingleInterval
from gotrace.serve.jobs import Job
from gotrace.serve.narrowing import narrowed
from gotrace.serve.options import ServeOptions
from gotrace.serve.room import ASKED, free_bytes, make_room

LOG = "triggers.jsonl"
_LOG_BYTES = 8 << 20
_FILE_MODE, _FOLDER_MODE = 0o600, 0o700
"""What is written tells much of the services: stacks, labels of goroutines, paths of requests."""
_OF_CAPTURE, _OF_STACK, _OF_INTERVAL = 100 << 10, 600, 64
"""About how many bytes a capture takes on the disk, and its parts."""
_SPARE_BYTES = 1 << 20
"""So much of a disk is left to others."""
_LATE_NS = 5_000_000_000
"""A capture lacks so much of its beginning before that is told: steps are of about a second."""


class DiskFull(GotraceError):
    """There is no room for a capture, though all that is ours and older was deleted."""


class Writing:
    """Writes into the folder of `options`. `deleted` counts captures that were deleted to make room, `late` those of which the beginning
    was not kept any more."""

    def __init__(self, options: ServeOptions) -> None:
        self.deleted = self.late = 0
        self._options = options

    def files(self, job: Job, line: dict[str, Any], over: bool) -> None:
        """Writes them, and adds to the line what is written. `over`: it is written before its time.

        Raises:
            DiskFull: there is no room.
            GotraceError, OSError: they can't be written.
        """
        begin_ns, until_ns = job.window(over)
        profile = job.traced.profile(begin_ns, until_ns)
        if profile is None and not job.begin_ns:  # so late that nothing of it is kept any more: what there is may show the same
            profile = job.traced.profile(*job.traced.ring.span)
        if profile is None:
            raise GotraceError(f"nothing is recorded of process {job.traced.pid} yet")
        profile.notes += [f"captured by gotrace serve: {reason}" for reason in job.reasons]
        if job.undumped:
            profile.notes.append(f"there is no dump: {job.undumped}")
        self._note_lateness(job, begin_ns, until_ns, profile)
        folder = self._options.folder
        make_folder(folder, _FOLDER_MODE)
        detail = self._options.detail  # the capture has all requests: gotrace report chooses among them
        contents = {".html": render(narrowed(profile, detail.band, detail.slower_than_ns), ".html")}
        if job.dumped:
            contents[".dump.json"] = job.dumped
        needed = _needed(profile, contents)
        self._make_room(needed)
        stem = self._stem(job)
        try:
            self._write(stem, profile, contents, line)
        except (GotraceError, OSError):
            if free_bytes(folder) > _SPARE_BYTES:
                raise
            for file in line["files"]:
                with suppress(OSError), as_invoking_user(folder):
                    os.unlink(file)
            line["files"] = []
            self._make_room(2 * needed)
            self._write(stem, profile, contents, line)

    def _write(self, stem: Path, profile: Profile, contents: dict[str, bytes], line: dict[str, Any]) -> None:
        def named(suffix: str) -> Path:
            return stem.with_name(stem.name + suffix)

        write_capture(named(".gotrace"), profile)
        line |= {
            "window": {"start": profile.window.start, "duration_ns": profile.window.duration_ns}, "files": [str(named(".gotrace"))],
        }
        for suffix, content in contents.items():
            write(named(suffix), content, False, _FILE_MODE)
            line["files"].append(str(named(suffix)))

    def _note_lateness(self, job: Job, begin_ns: int, until_ns: int, profile: Profile) -> None:
        first_ns, last_ns = job.traced.ring.span
        lost_ns = min(first_ns - begin_ns, time.monotonic_ns() - until_ns)
        whole = last_ns - first_ns < job.traced.ring.keep_ns * 0.9 and not job.traced.ring.dropped_ns
        if job.begin_ns or lost_ns < _LATE_NS or whole:
            return
        self.late += 1
        profile.notes.append(
            f"this capture was written late, as others came first: {lost_ns / 1e9:.0f} s of its beginning were not kept any more"
        )

    # -- room --------------------------------------------------------------------------------------------------------------

    def _make_room(self, needed: int) -> None:
        """For so much: below --dir-bytes, and on the disk."""
        folder, most = self._options.folder, self._options.folder_bytes
        self.deleted += make_room(folder, max(0, most - needed))
        lacking = needed + _SPARE_BYTES - free_bytes(folder)
        if lacking > 0:
            self.deleted += make_room(folder, most, lacking)
        free = free_bytes(folder)
        if free < needed + _SPARE_BYTES:
            raise DiskFull(f"{folder} has no room for a capture: {free >> 10:,} kB are free, {(needed + _SPARE_BYTES) >> 10:,} are needed")

    def trim(self, line: dict[str, Any]) -> None:
        """Deletes what is beyond --dir-bytes now; what the line names stays."""
        latest = {Path(file).name for file in line["files"]}
        self.deleted += make_room(self._options.folder, self._options.folder_bytes, latest=latest)

    def _stem(self, job: Job) -> Path:
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", job.traced.name)[:32] or "go"
        at = datetime.now()
        stem, asked = f"gotrace-{safe}-{job.traced.pid}-{at:%Y%m%dT%H%M%S}", f"-{job.kind}" * (job.kind in ASKED)
        path = self._options.folder / f"{stem}{asked}"
        tries = 0
        while os.path.lexists(f"{path}.gotrace") and tries < 9:
            tries += 1
            path = self._options.folder / f"{stem}.{tries}{asked}"
        return path

    def log(self, line: dict[str, Any]) -> None:
        """Adds the line to triggers.jsonl.

        Raises:
            GotraceError, OSError: it can't be written.
        """
        path = self._options.folder / LOG
        make_folder(path.parent, _FOLDER_MODE)
        with as_invoking_user(path.parent), suppress(FileNotFoundError):
            if path.lstat().st_size > _LOG_BYTES:
                path.replace(path.with_name(f"{LOG}.1"))
        append(path, (json.dumps(line) + "\n").encode(), _FILE_MODE)


def _needed(profile: Profile, contents: dict[str, bytes]) -> int:
    """About how many bytes it all takes on the disk."""
    capture = _OF_CAPTURE + _OF_STACK * len(profile.stacks) + _OF_INTERVAL * len(profile.timeline)
    return capture + sum(len(content) + 4096 for content in contents.values())


def write_capture(path: Path, profile: Profile) -> None:
    """Writes a whole profile as a capture.

    Raises:
        GotraceError: it can't be written; what was written of it is removed.
    """
    writer = CaptureWriter(path, False, _FILE_MODE)
    try:
        try:
            for target in profile.targets:
                writer.put_target(target)
            writer.put_stacks(profile.stacks)
            writer.put_intervals(profile.targets[0].pid, (
                SingleInterval(one.goid, one.start_ns, one.duration_ns, one.stack.key, one.waker_goid, one.tid) for one in profile.timeline
            ))
            writer.put_pauses(profile.pauses)
            writer.commit(profile)
        finally:
            writer.close()
    except Exception:
        with suppress(OSError), as_invoking_user(path.parent):
            for old in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                old.unlink(missing_ok=True)
        raise
