"""Test plumbing: what needs root and BPF says how to get it, and may not be skipped in CI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS / "support"), str(TESTS)]  # helpers by their own names, and the fuzzer's targets as fuzz.targets

from browser import Browser  # noqa: E402
from captures import Cli  # noqa: E402
from gobuild import EXTENT  # noqa: E402
from prerequisites import unavailable  # noqa: E402

from gotrace.cli import run as run_here  # noqa: E402
from gotrace.common.errors import Refused  # noqa: E402
from gotrace.kernel.host import preflight  # noqa: E402
from gotrace.proc.machine import stolen_ns  # noqa: E402
from gotrace.profile.types import Profile  # noqa: E402
from gotrace.render.html import render_html  # noqa: E402

# On a busy machine any example may take long: that is no failure.
settings.register_profile("gotrace", deadline=None)
settings.load_profile("gotrace")

GOLDEN = TESTS / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="Write tests/golden anew from what the tests make now.")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with the file of that name in tests/golden; ``pytest --bless`` writes the file instead."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--bless"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"there is no {path}: look at what `pytest --bless {request.node.nodeid}` writes and commit it"
        assert text == path.read_text(encoding="utf-8"), f"if the change is meant: pytest --bless {request.node.nodeid}"

    return check


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(TESTS / "unit"):
            item.add_marker(pytest.mark.beside)
    if os.environ.get("GOTRACE_TESTS", "every") != "every":  # what is named on the command line always runs
        last = {_function(item): item for item in items}
        kept = [item for item in items if _is_asked(item, "complete")]
        if EXTENT == "quick":
            kept = [item for item in kept if _is_quick(item, last[_function(item)] is item)]
        chosen = set(kept)
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = kept


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """A file's tests run in one process, which may make something for all of them, but for files marked `apart`."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return nodeid if _is_apart(config.rootpath / file) else file

    return Files(config, log)


@cache
def _is_apart(path: Path) -> bool:
    marks = re.search(r"^pytestmark = .*", path.read_text(encoding="utf-8"), re.MULTILINE)
    return marks is not None and "pytest.mark.apart" in marks[0]


def _function(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


def _is_quick(item: pytest.Item, last: bool) -> bool:
    """Of integration tests that are not marked `full`, with the last parameters only: those of the newest Go version."""
    if item.get_closest_marker("full") is None:
        return last or not item.path.is_relative_to(TESTS / "integration")
    return _is_asked(item, "full")


def _is_asked(item: pytest.Item, name: str) -> bool:
    """A test with that mark runs with the parameters that the mark names."""
    mark = item.get_closest_marker(name)
    return mark is None or any(parameters in item.name for parameters in mark.args)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("bpf") is None:
        return
    try:
        preflight()
    except Refused as error:
        unavailable(f"needs root and BPF: {error} (remedy: {error.hint or 'sudo ./scripts/test'})")


_BEGAN_NS, _STOLEN_BEFORE_NS = time.monotonic_ns(), stolen_ns()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A machine that was not ours alone explains much."""
    possible = (time.monotonic_ns() - _BEGAN_NS) * os.cpu_count()
    stolen = (stolen_ns() - _STOLEN_BEFORE_NS) / possible
    terminalreporter.write_line(f"the hypervisor took {stolen:.1%} of the CPUs; load {os.getloadavg()[2]:.1f}")


@pytest.fixture(scope="session")
def gotrace() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the real command line in a process of its own."""

    def run(*arguments: object, timeout: float = 120, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gotrace", *map(str, arguments)], capture_output=True, text=True, timeout=timeout,
            **options,
        )

    return run


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs the command line in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run_here([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium with one page open."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        unavailable("needs a browser (remedy: apt-get install chromium)")
    started = Browser(str(program), tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Callable[..., Browser]:
    """`show(profile, fragment="")` opens the flame graph of a profile in the browser."""

    def open_page(profile: Profile, fragment: str = "") -> Browser:
        page = tmp_path / "page.html"
        page.write_bytes(render_html(profile))
        browser.open(page.as_uri() + fragment)
        assert browser.run("document.documentElement.dataset.ready") == str(len(profile.stacks))
        return browser

    return open_page
