"""Dumps and pages for all tests of the page."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import viewer
from memory_visualizer.picture.entropy import entropy
from tests.synth.containers import write_kdump
from tests.synth.memory import PAGE_SIZE
from tests.viewer.page import DATA, HOLE, USER, ZEROS, Dump, Filtered, make
from tests.viewer.window import Window

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Dump:
    """A synthetic Windows with a hole, and its page."""
    return make(tmp_path_factory.mktemp("page"), stretch=16)


@pytest.fixture(scope="session")
def filtered(dump: Dump, tmp_path_factory: pytest.TempPathFactory) -> Filtered:
    """The same memory after makedumpfile's filter: a third of the pages is left out.

    These are processes' pages, free pages and zeros. Pages that describe the machine stay.
    """
    folder = tmp_path_factory.mktemp("filtered")
    memory = dump.path.with_suffix(".raw").read_bytes()
    end = sum(HOLE) * PAGE_SIZE
    candidates = np.flatnonzero(np.isin(dump.classes, [USER, DATA, ZEROS]))
    number = dump.truth.frames // 3
    left = np.sort(np.random.default_rng(3).choice(candidates, number, replace=False))
    path = folder / "dump.kdump"
    pieces = [(0, memory[: HOLE[0] * PAGE_SIZE]), (end, memory[end:])]
    write_kdump(path, pieces, left_out=left.tolist())
    snapshot = memory_visualizer.open(path)
    page = folder / "page.html"
    viewer.write_page(page, snapshot, entropy=entropy(snapshot.dump))
    return Filtered(path, dump.truth, snapshot, page, left)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note which tests failed, for `open_page`."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


@pytest.fixture(scope="session")
def kept_windows() -> dict[str, Window]:
    """An empty window for the next test, by the browser's name."""
    return {}


@pytest.fixture
def open_page(
    browser: "Browser", kept_windows: dict[str, Window], request: pytest.FixtureRequest
) -> Iterator[Callable[..., "Page"]]:
    """Opens a page's file in a window, with options of Playwright's.

    At the end, the page must not have requested anything, thrown an error or violated a policy.

    A new window costs more than most tests do in it: it starts a process, which compiles the page's
    scripts anew. So tests use one window in turn, until one of them fails; only for options that
    cannot be changed later a test gets a window of its own.
    """
    name = browser.browser_type.name
    changeable = {"viewport", "color_scheme"} if name == "chromium" else set()
    plain: list[Window] = []
    special: list[Window] = []

    def open_(path: Path, fragment: str = "", **options: Any) -> "Page":
        if options.keys() <= changeable:
            window = kept_windows.pop(name) if name in kept_windows else Window(browser)
            plain.append(window)
            window.change(**options)
        else:
            window = Window(browser, **options)
            special.append(window)
        window.open(path, fragment)
        return window.page

    yield open_
    if plain and not request.node.stash.get(_FAILED, False):
        plain[0].empty()
        if not plain[0].troubles:
            kept_windows[name] = plain[0]
    for window in (*plain, *special):
        if window is not kept_windows.get(name):
            window.close()
    assert [trouble for window in (*plain, *special) for trouble in window.troubles] == []


@pytest.fixture
def page(open_page: Callable[..., "Page"], dump: Dump) -> "Page":
    """The page of `dump`, freshly opened."""
    return open_page(dump.page)
