"""Test plumbing: what needs root and BPF says how to get it, and may not be skipped in CI."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
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
    if EXTENT == "quick":
        left = [item for item in items if not _is_quick(item)]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if _is_quick(item)]


def _is_quick(item: pytest.Item) -> bool:
    """Marked as `full`, it is run quickly as well with the parameters that the mark names."""
    mark = item.get_closest_marker("full")
    return mark is None or any(parameters in item.name for parameters in mark.args)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("bpf") is None:
        return
    try:
        preflight()
    except Refused as error:
        unavailable(f"needs root and BPF: {error} (remedy: {error.hint or 'sudo ./scripts/test'})")


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
