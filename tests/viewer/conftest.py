"""Dumps and pages for all tests of the page."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import viewer
from memory_visualizer.picture.entropy import entropy
from tests.synth.containers import write_kdump
from tests.synth.memory import PAGE_SIZE
from tests.viewer.page import DATA, HOLE, USER, WINDOW, ZEROS, Dump, Filtered, make, settle

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


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


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """Opens a page's file in a new window, with options of Playwright's.

    At the end, the page must not have requested anything, thrown an error or violated a policy.
    """
    contexts = []
    troubles: list[str] = []

    def open_(path: Path, fragment: str = "", **options: Any) -> "Page":
        context = browser.new_context(**({"viewport": WINDOW} | options))
        contexts.append(context)
        page = context.new_page()
        wanted = path.as_uri()

        def requested(url: str) -> None:
            if url.split("#")[0] != wanted and not url.startswith(("data:", "blob:")):
                troubles.append(f"requested {url}")

        def said(text: str) -> None:
            if "willReadFrequently" not in text:  # only the tests read the canvas
                troubles.append(f"said {text}")

        page.on("request", lambda request: requested(request.url))
        page.on("pageerror", lambda error: troubles.append(f"threw {error}"))
        page.on("console", lambda message: said(message.text))
        page.on("dialog", lambda dialog: troubles.append(f"asked {dialog.message}"))
        page.on("popup", lambda _: troubles.append("opened a window"))
        page.bring_to_front()
        page.goto(wanted + fragment)
        settle(page)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def page(open_page: Callable[..., "Page"], dump: Dump) -> "Page":
    """The page of `dump`, freshly opened."""
    return open_page(dump.page)
