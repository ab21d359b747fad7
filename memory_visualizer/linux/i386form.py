"""A Linux kernel of 32 bits by the form of its page tables, where its VMCOREINFO is lost.

The kernel has the last gigabyte of addresses, as usual, and maps low memory there in a row, for the
most part by large pages. Under PAE four pointers lead to its tables, of which the kernel's own have
the last one only.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.formats.base import Dump, Words
from memory_visualizer.linux.armform import longest_stretch
from memory_visualizer.linux.machine import Machine, i386_machine
from memory_visualizer.paging import (
    ACCESSED,
    ADDRESS,
    LARGE,
    MAY_WRITE,
    PAE,
    PRESENT,
    X86,
    Mappings,
    walk,
)
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.units import PAGE_SIZE

_BEGIN = 0xC000_0000
_NARROW_ADDRESS = 0xFFFF_F000
_PAE_COLUMNS = np.array([2, 3, 4, 6, 8, 12, 16, 32], np.uint64)
"""Entries of the kernel's gigabyte under PAE that are looked at, each of 2 MiB."""
_PAIRS = np.array([1, 2, 3, 4, 5, 8], np.uint64)
"""Pairs of entries of 4 MiB without PAE; two entries stand in each word of 64 bits."""
_FIRST_PAIR = 384
_FEW = 2
"""So many of them at least must map low memory in a row."""
_LAST_POINTER = 3
_SAMPLED_TABLES, _TRIED_TABLES = 1 << 10, 4
"""How many page directories are read, from the lowest on, and how many of them are tried: those
first that have nothing for user mode, as the kernel's own."""
_LEAST_IMAGE = 1 << 20


class LowMemorySearch:
    """Finds tables that map low memory in a row, while the dump's contents pass by.

    Blocks may come in any order, and from several threads.
    """

    def __init__(self) -> None:
        self._directories: list[NDArray[np.int64]] = []
        self._tables: list[NDArray[np.int64]] = []
        self._pointers: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def scan(self, frames: NDArray[np.int64], words: Words) -> None:
        """Look at some entries of each page."""
        flags = np.uint64(PRESENT | LARGE)
        mask = np.uint64(ADDRESS) | flags
        expected = _PAE_COLUMNS << np.uint64(21) | flags
        rows = _agree(words[:, _PAE_COLUMNS.astype(np.intp)] & mask, expected)
        self._tables.append(frames[rows])
        mask = np.uint64(_NARROW_ADDRESS) | flags
        lower = _PAIRS << np.uint64(23) | flags
        expected = lower | (lower + np.uint64(1 << 22)) << np.uint64(32)
        pairs = words[:, _PAIRS.astype(np.intp) + _FIRST_PAIR]
        rows = _agree(pairs & (mask | mask << np.uint64(32)), expected)
        self._directories.append(frames[rows])
        last = words[:, _LAST_POINTER]
        rows = np.flatnonzero(last & np.uint64(~(ADDRESS | ACCESSED) % 2**64) == np.uint64(PRESENT))
        rows = rows[np.count_nonzero(words[rows], axis=1) == 1]
        self._pointers.append((frames[rows], (last[rows] & np.uint64(ADDRESS)).astype(np.int64)))

    def directories(self, memory: Dump) -> list[int]:
        """Frames of page directories without PAE: those first that have nothing for user mode."""
        frames = np.sort(np.concatenate([np.empty(0, np.int64), *self._directories]))
        frames = frames[:_SAMPLED_TABLES]
        is_used = memory.read_frames(frames)[:, :_FIRST_PAIR] != 0
        order = np.argsort(np.count_nonzero(is_used, axis=1), kind="stable")[:_TRIED_TABLES]
        chosen: list[int] = frames[order].tolist()
        return chosen

    def pointers(self) -> list[int]:
        """Frames of the kernel's own four pointers under PAE."""
        tables = np.concatenate([np.empty(0, np.int64), *self._tables])
        frames = np.concatenate([np.empty(0, np.int64), *(one for one, _ in self._pointers)])
        below = np.concatenate([np.empty(0, np.int64), *(one for _, one in self._pointers)])
        chosen: list[int] = np.sort(frames[np.isin(below // PAGE_SIZE, tables)]).tolist()
        return chosen[:_TRIED_TABLES]


def _agree(entries: NDArray[np.uint64], expected: NDArray[np.uint64]) -> NDArray[np.intp]:
    """The rows that have enough of these entries."""
    return np.flatnonzero(np.count_nonzero(entries == expected, axis=1) >= _FEW)


def machines_by_form(
    memory: Dump, search: LowMemorySearch
) -> Iterator[tuple[int, Machine, TableMemory, int]]:
    """Frames of the kernel's own top level, the machine, its memory, and where its image begins."""
    with_pae, narrow = i386_machine(PAE), i386_machine(X86)
    for machine, frames in ((with_pae, search.pointers()), (narrow, search.directories(memory))):
        for top in frames:
            roots = machine.roots_at(memory, np.array([top * PAGE_SIZE]))
            if (start := _image(memory, machine, roots)) is not None:
                kernel = TableMemory(memory, machine.kernel, roots[0].tolist())
                yield top, machine, kernel, start


def _image(memory: Dump, machine: Machine, roots: NDArray[np.int64]) -> int | None:
    """The first address of the longest stretch of low memory that cannot be written to.

    That is the kernel's code, and what is constant.
    """
    rows = Mappings.join(list(walk(memory, machine.kernel, roots)))
    begin = rows.pfn.astype(np.uint64) * np.uint64(PAGE_SIZE) + np.uint64(_BEGIN)
    rows = rows.take((rows.access & MAY_WRITE == 0) & (rows.virtual == begin))
    found = longest_stretch(rows)
    return found[0] if found and found[2] >= _LEAST_IMAGE else None
