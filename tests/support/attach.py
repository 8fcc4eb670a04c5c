"""Runs `gotrace attach` beside a workload, as a user does, and hands back what it printed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading


class Attached:
    """A running `gotrace attach`. Entering waits until its window is open; leaving ends it. Without --max-overhead nothing is given
    up, however fast the workload: what a test says of counts and totals is exact."""

    def __init__(self, *arguments: object, environment: dict[str, str] | None = None) -> None:
        if "--max-overhead" not in arguments:
            arguments = (*arguments, "--max-overhead", 0)
        self._command = [sys.executable, "-m", "gotrace", "attach", *map(str, arguments)]
        self._environment = environment

    def __enter__(self) -> Attached:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self._environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.said = self.process.stderr.readline()
        if not self.said.startswith("Tracing"):
            self.process.kill()
            raise AssertionError(f"gotrace did not start: {self.said}{self.process.stderr.read()}")
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if not stream.closed:
                stream.close()

    def end(self, number: int = signal.SIGINT, timeout: float = 180) -> str:
        """Ends the trace with a signal and returns stdout; the exit code must be 0."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, err
        self.said += err
        return out

    def wait_until_said(self, text: str, timeout: float = 180) -> None:
        """Returns once it has said that on its stderr."""
        limit = threading.Timer(timeout, self.process.kill)
        limit.start()
        try:
            while text not in self.said:
                line = self.process.stderr.readline()
                assert line, f"it ended without a word of {text!r}: {self.said}"
                self.said += line
        finally:
            limit.cancel()

    def result_json(self, timeout: float = 180) -> dict:
        """Waits for a trace that ends by itself; the summary (give --json)."""
        out, err = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, err
        self.said += err
        return json.loads(out)

    def end_json(self) -> dict:
        """`end` with the summary parsed (give --json)."""
        return json.loads(self.end())


def probes_of(pid: int) -> bool:
    """Whether the process's code still holds a breakpoint where gotrace would have put one: reads it back and compares
    it with the executable."""
    from gotrace.common.errors import GotraceError
    from gotrace.watch.probed import ProbedProcess

    try:
        traced = ProbedProcess.prepare(pid)
    except GotraceError as error:
        raise AssertionError(f"{pid} can't be examined: {error}") from None
    try:
        ranges = [(p.site.checked + traced.target.bias, len(p.site.prologue)) for p in traced.plan.probes]
        return any(
            live != probe.site.prologue for probe, live in zip(traced.plan.probes, traced.target.memory.read_many(ranges))
        )
    finally:
        traced.close()

