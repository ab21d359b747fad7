"""A Linux kernel on 64-bit ARM, found by the form of its page tables if its VMCOREINFO is lost.

The number of entries in its top level determines the sizes of pages and addresses, or leaves few
candidates.
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.formats.base import Dump, Search, Words
from memory_visualizer.linux.machine import Machine, arm64_machine
from memory_visualizer.paging import MAY_EXECUTE, Mappings, Paging, arm64, walk
from memory_visualizer.units import PAGE_SIZE

_SIZES = tuple(
    (bits, arm64(*bits))
    for bits in ((12, 48), (16, 52), (16, 42), (16, 48), (14, 48), (14, 52), (14, 47), (12, 52))
)
"""Bits of pages and of addresses, and the architecture; the most frequent ones first."""
_MAX_SMALL = 64
"""Entries in the largest top level that does not fill a page of 4 KiB."""
_NO_PRIVILEGED_EXECUTION = np.uint64(1 << 59)
"""PXNTable: newer kernels set it in top levels of processes, but not in the kernel's own."""
_FORM, _TABLE = np.uint64(0x07FF_0000_0000_0BFF), np.uint64(0x003)
"""Mask and value of the bits that Linux always writes into an entry that leads to a table."""
_IMAGES = 2**64 - (1 << 47)
"""The address from which on modules and the kernel's image lie; all memory is mapped below."""
_LEAST_IMAGE = 1 << 20
_ODD_SHARE = 4
"""At most one in this many used entries of a table may have another form (an altered entry)."""
_NO_ROWS = np.empty((0, 3), np.int64)


_Tops: TypeAlias = list[tuple[tuple[int, int], NDArray[np.int64]]]
"""Bits as in _SIZES, and rows as in TopLevelSearch."""


class TopLevelSearch(Search[_Tops]):
    """Finds possible top levels of a kernel's own half, while the dump's contents pass by.

    In a top level that does not fill a page, the first entry leads to all memory, and the last
    entry to the image. Of a larger top level, the last page of 4 KiB is examined: its last entry
    leads to single pages that the kernel maps (fixmap). Most entries lead to tables.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[int, int], list[NDArray[np.int64]]] = {
            bits: [] for bits, _ in _SIZES
        }
        """Rows: whether a table is a process's, the number of unused entries, and its frame."""

    @staticmethod
    def look(frames: NDArray[np.int64], words: Words) -> _Tops | None:
        """Look at the first and last entries of each page."""
        found: _Tops = []
        rows = np.flatnonzero(words[:, 0] & _FORM == _TABLE)
        tables = words[rows, :_MAX_SMALL]
        nothing_behind = ~words[rows, _MAX_SMALL:].any(axis=1)
        count = _MAX_SMALL - np.argmax(tables[:, ::-1] != 0, axis=1)
        for bits, architecture in _SIZES:
            if not architecture.is_whole:
                some = nothing_behind & (count == architecture.root_entries)
                some[some] = _lead_to_tables(tables[some], bits[0])
                found.append((bits, _weighed(frames[rows[some]], tables[some])))
        rows = np.flatnonzero(words[:, -1] & _FORM == _TABLE)
        # A kernel needs few of its entries.
        rows = rows[np.count_nonzero(words[rows], axis=1) < words.shape[1] // 2]
        for bits, architecture in _SIZES:
            if architecture.is_whole:
                top = frames[rows] - architecture.top_frames + 1
                some = (top >= 0) & (top % architecture.page_frames == 0)
                some[some] = _lead_to_tables(words[rows[some]], bits[0])
                if architecture.top_frames == 1:
                    # The direct map of all memory comes first in the kernel's half, then its image.
                    some &= words[rows, : words.shape[1] // 2].any(axis=1)
                found.append((bits, _weighed(top[some], words[rows[some]])))
        found = [(bits, tops) for bits, tops in found if len(tops)]
        return found or None

    def take(self, part: _Tops) -> None:
        """Add the rows of a block."""
        for bits, rows in part:
            self._found[bits].append(rows)

    @property
    def tops(self) -> list[tuple[int, tuple[int, int]]]:
        """Frames and bits as in _SIZES, by likelihood: the best of each size, then the second best.

        The kernel's own table is not a process's, and has the most entries.
        """
        ranked = []
        for order, (bits, parts) in enumerate(self._found.items()):
            found = np.concatenate([_NO_ROWS, *parts])
            tops = found[np.lexsort(found.T[::-1]), 2].tolist()
            ranked += [(rank, order, top, bits) for rank, top in enumerate(tops)]
        return [(top, bits) for _, _, top, bits in sorted(ranked)]


def _weighed(tops: NDArray[np.int64], tables: Words) -> NDArray[np.int64]:
    """The rows for tables with these contents."""
    unused = np.count_nonzero(tables == 0, axis=1)
    barred = np.count_nonzero(tables & _NO_PRIVILEGED_EXECUTION, axis=1)
    is_users = 2 * barred > tables.shape[1] - unused  # a single altered entry decides nothing
    return np.column_stack((is_users, unused, tops))


def _lead_to_tables(words: Words, bits: int) -> NDArray[np.bool_]:
    """Whether most used entries of each row lead to tables of 2**bits bytes.

    Tables begin at multiples of their size. A single altered entry does not rule out a table.
    """
    inside = np.uint64((1 << bits) - PAGE_SIZE)
    used = np.count_nonzero(words, axis=1)
    odd = used - np.count_nonzero(words & (_FORM | inside) == _TABLE, axis=1)
    lead: NDArray[np.bool_] = odd * _ODD_SHARE <= used
    return lead


def machines_by_form(memory: Dump, search: TopLevelSearch) -> Iterator[tuple[int, Machine, int]]:
    """Possible kernels: frame of the own top-level table, machine, and address of the image."""
    for top, bits in memory.budget.in_turn("possible top-level table of ARM", search.tops):
        if (image := _image(memory, arm64_machine(*bits, 0).kernel, top)) is not None:
            start, frame = image
            yield top, arm64_machine(*bits, start - frame * PAGE_SIZE), start


def _image(memory: Dump, paging: Paging, top: int) -> tuple[int, int] | None:
    """The first address of the longest executable stretch, and its frame."""
    roots = paging.architecture.roots_at(np.array([top * PAGE_SIZE]))
    rows = Mappings.join(list(walk(memory, paging, roots)))
    rows = rows.take((rows.access & MAY_EXECUTE != 0) & (rows.virtual >= np.uint64(_IMAGES)))
    found = longest_stretch(rows)
    return found[:2] if found and found[2] >= _LEAST_IMAGE else None


def longest_stretch(rows: Mappings) -> tuple[int, int, int] | None:
    """The longest stretch of addresses in these mappings: its first address, frame, and bytes."""
    rows = rows.take(np.argsort(rows.virtual, kind="stable"))
    if not len(rows.virtual):
        return None
    end = rows.virtual + rows.count.astype(np.uint64) * np.uint64(PAGE_SIZE)
    begins = np.append(0, np.flatnonzero(rows.virtual[1:] != end[:-1]) + 1)
    last = np.append(begins[1:], len(end)) - 1
    size = (end[last] - rows.virtual[begins]).astype(np.int64)
    best = int(np.argmax(size))
    return int(rows.virtual[begins[best]]), int(rows.pfn[begins[best]]), int(size[best])
