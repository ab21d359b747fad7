"""Which pages are page tables, and where tables lead."""

import numpy as np
import pytest

from memory_visualizer.paging.architecture import X64
from memory_visualizer.paging.memory import is_held
from memory_visualizer.paging.software import as_linux_has_it, as_windows_has_it
from memory_visualizer.paging.tables import are_tables, read_tables, tables_of
from memory_visualizer.paging.translate import frames_behind, translate
from tests.paging.memory import Memory, chain

WINDOWS = as_windows_has_it(X64)
LAST = len(X64.levels) - 1


def test_what_is_a_table() -> None:
    """Most entries decide: an odd entry does not matter; text and empty pages are not tables."""
    words = np.zeros((16, 512), np.uint64)
    words[1, :20] = np.arange(2, 22, dtype=np.uint64) << np.uint64(12) | np.uint64(0x67)
    words[2] = words[1]
    words[2, 3] |= np.uint64(1 << 50)  # beyond all memory
    words[3] = np.frombuffer(b"any text " * 456, "<u8", 512)
    words[4, :20] = words[1, :20] | np.uint64(1 << 50)
    words[5, 0] = 0x2067
    words[5, 1:9] = 0x1234_5678_0000  # most words are not present
    found = are_tables(Memory(words.tobytes()), WINDOWS, 1, np.arange(6))
    assert found.tolist() == [False, True, True, False, False, False]


def test_what_a_table_leads_to() -> None:
    """Targets by index; impossible entries lead nowhere, and large pages are told from tables."""
    words = chain([0x67, 0, 0x63])
    words[3, 5] = 0x40_00E7
    words[3, 6] = 0x40_20E7  # bit 13 of a large page is reserved
    memory = Memory(words.tobytes())
    target, is_page = read_tables(memory, WINDOWS, LAST, np.array([4]))
    assert target.shape == is_page.shape == (1, 512)
    assert target[0, :4].tolist() == [5, -1, 7, -1]
    assert is_page.all()
    target, is_page = read_tables(memory, WINDOWS, LAST - 1, np.array([3]))
    assert target[0, :7].tolist() == [4, -1, -1, -1, -1, 0x400, -1]
    assert np.flatnonzero(is_page).tolist() == [5]


@pytest.mark.parametrize("entry", [0, 300])
def test_tables_of_a_space(entry: int) -> None:
    """All tables on the way, the lowest apart; with `own_only` only the process's own half."""
    words = chain([0x67] * 20)
    words[1, [0, entry]] = words[1, [entry, 0]]
    memory, paging = Memory(words.tobytes()), as_linux_has_it(X64)
    tables, lowest = tables_of(memory, paging, np.array([[1]]))
    assert np.flatnonzero(tables).tolist() == [1, 2, 3, 4]
    assert np.flatnonzero(lowest).tolist() == [4]
    own, _ = tables_of(memory, paging, np.array([[1]]), own_only=True)
    assert np.flatnonzero(own).tolist() == ([1, 2, 3, 4] if entry == 0 else [1])
    none = np.arange(64) == 3
    tables, _ = tables_of(memory, paging, np.array([[1]]), no_tables=none)
    assert np.flatnonzero(tables).tolist() == [1, 2]


def test_behind_an_address() -> None:
    """frames_behind tells a frame beyond the dump, translate does not."""
    words = chain([0x67, 0x67, 0])
    words[4, 1] = 0x123_4067
    memory = Memory(words.tobytes())
    addresses = np.array([0x0FFF, 0x1000, 0x2000, 0x20_0000], np.uint64)
    top = np.ones(4, np.int64)
    assert frames_behind(memory, WINDOWS, top, addresses).tolist() == [5, 0x1234, -1, -1]
    found = [translate(memory, WINDOWS, np.array([[1]]), int(each))[0] for each in addresses]
    assert found == [5, -1, -1, -1]
    assert translate(memory, WINDOWS, np.array([[1], [2]]), 0).tolist() == [5, -1]
    lacking = Memory(words.tobytes(), frozenset({3}))
    assert translate(lacking, WINDOWS, np.array([[1]]), 0).tolist() == [-1]


def test_held() -> None:
    memory = Memory(bytes(4 << 12), frozenset({2}))
    frames = np.array([-1, 0, 2, 3, 4, 1 << 60])
    assert is_held(memory, frames).tolist() == [False, True, False, True, False, False]
