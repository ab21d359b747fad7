"""The width of addresses by vote: the size of a dump, its other tables, and the devices in them."""

import numpy as np
import numpy.typing as npt
import pytest

from memory_visualizer.paging import (
    X64,
    Losses,
    Mappings,
    Paging,
    as_linux_has_it,
    as_processor_has_it,
    as_windows_has_it,
    walk,
)
from tests.paging.memory import PAGE, Memory, chain
from tests.simple_walker import walk as simple_walk

Words = npt.NDArray[np.uint64]
PAGINGS = {
    "Windows": as_windows_has_it(X64),
    "Linux": as_linux_has_it(X64),
    "unknown": as_processor_has_it(X64),
}
TABLE = 4
"""The frame of the lowest table in `chain`, which maps MEMORY."""
MEMORY = range(5, 25)
DEVICE = 0x3_8000_0000
"""The first page of a device of a virtual machine, at 56 TiB."""


def found(words: Words, paging: Paging, roots: list[int], losses: Losses | None = None) -> set[int]:
    """The frames that the walk finds below some roots, which the simple reader finds, too."""
    memory = Memory(words.tobytes())
    tops = np.array(roots)[:, None]
    frames = set(Mappings.join(list(walk(memory, paging, tops, losses=losses))).pfn.tolist())
    bases = [root * PAGE for root in roots]
    read = {
        page.physical // PAGE
        for base in bases
        for page in simple_walk(
            memory.contents, "x64", base, is_windows=paging.software.name == "Windows", bases=bases
        )
    }
    assert frames == read & set(range(len(words)))
    return frames


def text() -> Words:
    """Strings of four bytes a letter (wchar_t of Linux): two letters make an entry, or a last one.

    The last one names frame 0, or a frame that the letter before it gives.
    """
    strings = ["visualize", "memory", "pages", "and", "windows", "linux", "kernels", "processes"]
    letters = "".join(one + "\0" * (2 - len(one) % 2) for one in strings).encode("utf-32-le")
    return np.frombuffer((letters * PAGE)[:PAGE], "<u8")


def numbers() -> Words:
    """Pairs of numbers: the first is odd, the second counts up."""
    return np.arange(512, dtype=np.uint64) << np.uint64(32) | np.uint64(1)


@pytest.mark.parametrize("paging", PAGINGS.values(), ids=list(PAGINGS))
@pytest.mark.parametrize("data", [text, numbers])
def test_a_page_of_ordinary_data_is_no_table(data: object, paging: Paging) -> None:
    """The processor allows its words as entries, but they name pages that no machine has."""
    assert callable(data)
    words = chain([0x67] * len(MEMORY))
    words[3, 1] = 40 << 12 | 0x67
    words[40] = data()
    seen = words[40][words[40] & np.uint64(1) != 0]
    assert np.all(seen < 1 << 46)
    assert np.any(seen < PAGE)
    losses = Losses()
    assert found(words, paging, [1], losses) == set(MEMORY)
    assert losses.not_tables == {40}


@pytest.mark.parametrize("paging", PAGINGS.values(), ids=list(PAGINGS))
@pytest.mark.parametrize(
    "pages",
    [
        range(DEVICE, DEVICE + 256),
        [*range(DEVICE, DEVICE + 4096, 16), DEVICE + 8, DEVICE + 9],
        [DEVICE + (number << 20) for number in range(7)],
    ],
    ids=["in a row", "scattered", "few"],
)
def test_a_table_of_a_device_is_one(pages: list[int], paging: Paging) -> None:
    """Its pages are not in the dump, but the table also maps memory beside them."""
    count = 0 if len(pages) == 7 else len(MEMORY)
    words = chain([0x67] * count)
    words[TABLE, 100 : 100 + len(pages)] = np.array(pages, np.uint64) << np.uint64(12) | np.uint64(
        0x7B
    )
    losses = Losses()
    assert found(words, paging, [1], losses) == set(MEMORY[:count])
    assert (losses.not_tables, losses.impossible) == (set(), 0)


@pytest.mark.parametrize("paging", PAGINGS.values(), ids=list(PAGINGS))
def test_pages_far_apart_are_no_devices(paging: Paging) -> None:
    words = chain([0x67] * 8)
    words[TABLE, 100:109] = np.arange(DEVICE, DEVICE + 900, 100, dtype=np.uint64) << np.uint64(
        12
    ) | (np.uint64(0x7B))
    losses = Losses()
    assert not found(words, paging, [1], losses)
    assert losses.not_tables == {TABLE}


@pytest.mark.parametrize("paging", PAGINGS.values(), ids=list(PAGINGS))
@pytest.mark.parametrize("far", [2, 3])
def test_top_level_tables_vote(far: int, paging: Paging) -> None:
    """The dump has a large machine's first pages: most named tables lie far beyond them.

    If half of the top-level tables agree, they are believed; otherwise only they are refused.
    """
    words = chain([0x67] * len(MEMORY))
    words[1, 0] = 0
    roots = [1, 41, 42, 43, 44]
    for number, root in enumerate(roots):
        words[root, 10] = 2 << 12 | 0x67
        if number < far:
            beyond = np.arange(1 << 30, (1 << 30) + 9, dtype=np.uint64)
            words[root, 20:29] = beyond << np.uint64(12) | np.uint64(0x67)
    words[2, 1:9] = words[41, 20:28]
    is_believed = 2 * far > len(roots)
    assert found(words, paging, roots) == (set(MEMORY) if is_believed else set())


@pytest.mark.parametrize("paging", PAGINGS.values(), ids=list(PAGINGS))
def test_one_table_does_not_vote_alone(paging: Paging) -> None:
    """A single page must not decide on itself."""
    words = chain([0x67] * len(MEMORY))
    beyond = np.arange(1 << 30, (1 << 30) + 9, dtype=np.uint64)
    words[1, 20:29] = beyond << np.uint64(12) | np.uint64(0x67)
    losses = Losses()
    assert not found(words, paging, [1], losses)
    assert losses.not_tables == {1}
