"""Runs a trace behind the full screen of `gotrace top`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from gotrace.capture.writer import CaptureWriter
from gotrace.common.errors import GotraceError, Refused
from gotrace.common.files import write
from gotrace.dump.reading import dump
from gotrace.export import format_of, render
from gotrace.profile.frames import plain_name
from gotrace.profile.types import Profile
from gotrace.render.terminal import HUNG_UP, lasting
from gotrace.run.session import Session, default_outputs
from gotrace.sched.reading import SchedReader
from gotrace.sched.types import Snapshot
from gotrace.top.display import Group
from gotrace.top.guard import guarded
from gotrace.top.history import Window
from gotrace.top.view import LiveView, frame_in


def run_on_screen(session: Session, view: LiveView, window: Window, idle: bool) -> None:
    """Shows the trace of a prepared session until the user ends it, or it ends.

    Raises:
        Refused: there is no Textual.
        GotraceError: as `Session.run`.
    """
    try:
        from gotrace.top.app import TopApp, groups_of
    except ImportError:
        raise Refused("the full screen needs the Python package textual", "pip install textual, or --batch") from None
    process = session.processes[0]
    pid = process.process.pid
    reader: SchedReader | None = None
    with suppress(GotraceError):
        reader = SchedReader(pid)

    def read_sched() -> Snapshot | None:
        return reader.read() if reader is not None else None

    def read_groups() -> Sequence[Group]:
        found = []
        for one in dump(pid, labels=False).goroutines:
            at = frame_in(one.frames)
            found.append((one.state, one.reason, plain_name(at.name) if at is not None else one.start_function))
        return groups_of(found)

    def save(shown: Window, tell: Callable[[str], None]) -> None:
        view.save(shown, lambda profile: _save(profile, default_outputs(process, datetime.now()), tell))

    app = TopApp(view, read_sched, read_groups, save, session.stop)
    app.display_state.window, app.display_state.idle = window, idle
    view.on_change(app.changed)
    failures: list[BaseException] = []
    trace = threading.Thread(target=_trace, args=(session, app.over, failures), name="trace")
    trace.start()
    for name in ("COLUMNS", "LINES"):  # where a shell has exported them they do not follow the terminal
        os.environ.pop(name, None)
    own = sys.__stderr__
    try:
        # Textual writes there, from a thread whose end it does not notice: a terminal that goes away must not end that thread.
        sys.__stderr__ = lasting(own, HUNG_UP)  # type: ignore[misc, assignment]
        with guarded(sys.stdin.fileno()):
            app.run()
    finally:
        sys.__stderr__ = own  # type: ignore[misc]
        if not session.stopping:
            session.stop()
        trace.join()
        if reader is not None:
            reader.close()
    if failures:
        raise failures[0]


def _trace(session: Session, over: Callable[[], None], failures: list[BaseException]) -> None:
    try:
        session.run()
    except BaseException as error:  # it is raised where the screen was
        failures.append(error)
    finally:
        over()


def _save(profile: Profile, names: Sequence[str], tell: Callable[[str], None]) -> None:
    """Writes a capture and a flame graph of the profile."""
    try:
        writer = CaptureWriter(Path(names[0]), force=False)
        try:
            for target in profile.targets:
                writer.put_target(target)
            writer.put_stacks(profile.stacks)
            writer.put_pauses(profile.pauses)
            writer.commit(profile)
        finally:
            writer.close()
        for name in names[1:]:
            write(Path(name), render(profile, format_of(name), False), False)
        tell(f"wrote {' and '.join(names)}")
    except GotraceError as error:
        tell(str(error))
