"""Memory read by virtual address."""

from unittest.mock import patch

import numpy as np

from memory_visualizer.paging import tablememory
from memory_visualizer.paging.architecture import X64
from memory_visualizer.paging.software import as_linux_has_it
from memory_visualizer.paging.tablememory import TableMemory
from tests.paging.memory import PAGE, Memory, chain

LOST = 0x5000


def space(missing: frozenset[int] = frozenset()) -> TableMemory:
    """Five pages in a row, frames 5 to 9, each full of its frame's number."""
    words = chain([0x67] * 5)
    for frame in range(5, 10):
        words.view(np.uint8)[frame] = frame
    return TableMemory(Memory(words.tobytes(), missing), as_linux_has_it(X64), 1)


def test_reads_over_the_ends_of_pages() -> None:
    """A read across pages gives all bytes or None."""
    memory = space()
    assert memory.read(0xFFE, 4) == bytes([5, 5, 6, 6])
    assert memory.read(0x4FFE, 4) is None
    assert memory.number(0x1000, 2) == 0x0606
    assert memory.frame(0x2123) == 7
    assert memory.frame(LOST) == -1


def test_reads_many_at_once() -> None:
    """Results equal single reads; a range with a missing byte gives zeros."""
    memory = space(frozenset({8}))
    addresses = np.array([0x0, 0xFFC, 0x2FFC, 0x3000, LOST, 0x4FF8], np.uint64)
    numbers, known = memory.numbers(addresses)
    assert known.tolist() == [True, True, False, False, False, True]
    for address, number, is_known in zip(addresses.tolist(), numbers, known, strict=True):
        assert space(frozenset({8})).number(address) == (int(number) if is_known else None)
        assert is_known or number == 0
    assert memory.read_far(0x2FFC, 8).tolist() == [7, 7, 7, 7, 0, 0, 0, 0]
    assert memory.frames(addresses).tolist() == [5, 5, 7, 8, -1, 9]


def test_small_batches_are_translated_as_large_ones() -> None:
    """Pages of earlier batches are known; the answers stay the same while these are forgotten."""
    memory = space(frozenset({8}))
    places = np.arange(8, dtype=np.uint64) * np.uint64(PAGE) + np.uint64(0x18)
    expected = [5, 6, 7, 8, 9, -1, -1, -1]
    with patch.object(tablememory, "_FEW_PAGES", 0):
        assert memory.frames(places).tolist() == expected
    order = np.random.default_rng(1).integers(0, 8, (50, 3))
    with patch.object(tablememory, "_KEPT_PAGES", 4):
        found = [memory.frames(places[rows]).tolist() for rows in order]
    assert found == [[expected[row] for row in rows] for rows in order.tolist()]


def test_members_of_objects() -> None:
    """Results equal single reads, also for more objects than a batch, and for negative offsets."""
    memory, lost = space(frozenset({8})), frozenset({8})
    objects = np.array([0x1010, 0x2FF8, LOST, 0x4000] * 400, np.uint64)
    offsets = (0, 4, -8, 0xFFC)
    numbers, known = memory.members(objects, offsets, 4)
    alone = space(lost)
    expected = [[alone.number(at + offset, 4) for at in objects.tolist()] for offset in offsets]
    told = [
        [number if there else None for number, there in zip(*row, strict=True)]
        for row in zip(numbers.tolist(), known.tolist(), strict=True)
    ]
    assert told == expected
    assert not numbers[~known].any()
    assert memory.members(objects[:0], offsets)[0].shape == (4, 0)


def test_stretches_that_stand_in_for_lost_tables() -> None:
    """Stand-in ranges are used only if the tables tell nothing."""
    memory = space().with_regular((0x4000, 0x7000, 6))
    assert [memory.frame(place << 12) for place in range(8)] == [5, 6, 7, 8, 9, 7, 8, -1]
    assert memory.frames(np.arange(8, dtype=np.uint64) * np.uint64(PAGE)).tolist() == [
        *[5, 6, 7, 8, 9],
        *[7, 8, -1],
    ]
    assert memory.read(LOST, 1) == bytes([7])
