"""Perfetto's trace_processor, driven by PyPI's package ``perfetto``: it reads a trace as ui.perfetto.dev does and answers SQL."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from perfetto.trace_processor import TraceProcessor, TraceProcessorConfig

VARIABLE = "GOTRACE_TRACE_PROCESSOR"


@contextlib.contextmanager
def queried(trace: Path) -> Iterator[TraceProcessor]:
    """The trace, to be queried. The package would download the program from the network by itself, which a test does not: it is
    to be there, else the test is skipped."""
    program = os.environ.get(VARIABLE) or shutil.which("trace_processor_shell") or shutil.which("trace_processor")
    if program is None:
        pytest.skip(f"needs Perfetto's trace_processor (remedy: {VARIABLE}=FILE, from https://get.perfetto.dev/trace_processor)")
    with TraceProcessor(trace=str(trace), config=TraceProcessorConfig(bin_path=program)) as processor:
        yield processor


def rows(processor: TraceProcessor, sql: str) -> list[tuple]:
    """What the query gives, in the order of its columns."""
    result = processor.query(sql)
    return [tuple(getattr(row, name) for name in result.column_names) for row in result]


def complaints(processor: TraceProcessor) -> list[tuple]:
    """What trace_processor did not understand of the trace, or lost."""
    return rows(processor, "SELECT name, value FROM stats WHERE severity IN ('error', 'data_loss') AND value > 0")
