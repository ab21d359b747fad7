"""Counts of byte values, against counting them one by one."""

import sys
from collections import Counter
from threading import Thread

import numpy as np
import pytest
from numpy.typing import NDArray

from memory_visualizer.picture import bytecount
from memory_visualizer.picture.bytecount import (
    PAGES_AT_ONCE,
    count_with_numpy,
    measure_with_numpy,
    page_measure,
)
from memory_visualizer.units import PAGE_SIZE


@pytest.fixture(scope="module")
def pages() -> NDArray[np.uint8]:
    """Noise, single values, one byte among zeros at each place in a word, and text."""
    rng = np.random.default_rng(0)
    pages = rng.integers(256, size=(PAGES_AT_ONCE, PAGE_SIZE), dtype=np.uint8)
    for page in range(20):
        pages[page] = 13 * page
    pages[20:40] = 0
    for page in range(20, 40):
        pages[page, 5 * page] = page
    pages[40] = np.resize(np.frombuffer(b"It was the best of times. ", np.uint8), PAGE_SIZE)
    return pages


TABLE = np.random.default_rng(1).integers(1 << 20, size=PAGE_SIZE + 1, dtype=np.uint32)


def check_sums(sums: NDArray[np.integer], pages: NDArray[np.uint8]) -> None:
    """Each page's sum adds the table's numbers for its counts, also for values that it lacks."""
    assert sums.shape == (len(pages),)
    for told, page in zip(sums.tolist(), pages, strict=True):
        counted = Counter(page.tobytes())
        assert told == sum(int(TABLE[counted[value]]) for value in range(256))


def check(counts: NDArray[np.integer], pages: NDArray[np.uint8]) -> None:
    """Each page's counts are those of its bytes."""
    assert counts.shape == (len(pages), 256)
    for row, page in zip(counts.tolist(), pages, strict=True):
        counted = Counter(page.tobytes())
        assert row == [counted[value] for value in range(256)]


@pytest.mark.parametrize("many", [1, 3, 8, 9, PAGES_AT_ONCE])
def test_with_numpy(pages: NDArray[np.uint8], many: int) -> None:
    """Whole and half groups of pages are counted."""
    check(count_with_numpy(pages[-many:]), pages[-many:])
    rows = np.arange(len(pages))[-many:]
    check_sums(measure_with_numpy(TABLE)(pages, rows), pages[-many:])


def test_compiled(pages: NDArray[np.uint8]) -> None:
    """WebAssembly gives the same counts at each call, and in each thread."""
    try:
        import wasmtime  # noqa: F401
    except (ImportError, OSError, RuntimeError):  # as on an unknown system (tests.elsewhere)
        pytest.skip("the package wasmtime is not installed, or does not know the system")
    measure = page_measure(TABLE)
    assert measure.__module__ == bytecount.__name__ and measure.__name__ == "measure"
    every = np.arange(len(pages))
    for rows in (every, every[:1], every[5:41:5], every):
        check_sums(measure(pages, rows), pages[rows])
    expected = measure_with_numpy(TABLE)(pages, every)
    differing = []

    def compare() -> None:
        own = page_measure(TABLE)
        for _ in range(50):
            differing.append(not np.array_equal(own(pages, every), expected))

    threads = [Thread(target=compare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(differing) == 150
    assert not any(differing)


def test_without_wasmtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting works without wasmtime."""
    monkeypatch.setitem(sys.modules, "wasmtime", None)
    monkeypatch.setattr(bytecount, "_wasmtime", bytecount._wasmtime.__wrapped__)
    assert page_measure(TABLE).__name__ == "<lambda>"
