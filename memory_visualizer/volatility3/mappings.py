"""The mappings of Volatility 3's address spaces, in this package's form and in Volatility's.

Mappings follow the rules of Volatility's own layers (framework/layers/intel.py), so that the rows
agree with `memmap`. Both lack some mappings of the page tables:

- all mappings of a table whose entries are all equal: Windows 10 fills unused space with such
  tables,
- large pages of which the dump lacks a frame,
- pages in a page file; Volatility has them if it was given the page file.

Unlike Volatility, this module lists a table of the kernel that serves at several addresses at the
lowest address only. Listing all addresses makes `memmap` run for days.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import mark_runs
from memory_visualizer.formats.base import Dump, Words
from memory_visualizer.paging import (
    PAE,
    PAE_POINTER_RESERVED,
    PRESENT,
    PROTOTYPE,
    SHARED,
    TRANSITION,
    X64,
    X64_5_LEVELS,
    X86,
    Architecture,
    Losses,
    Mappings,
    Paging,
    PhysicalMemory,
    merge_kernel,
    walk,
)
from memory_visualizer.snapshot.build import loss_remarks
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE

_ROWS_AT_ONCE = 65_536


class _Tables:
    """Physical memory in which Volatility's layers see page tables."""

    def __init__(self, dump: Dump, paging: Paging) -> None:
        self._dump = dump
        self._halves = paging.entry_bytes == 4
        self.frame_count = dump.frame_count
        self.held = dump.held
        self.budget = dump.budget

    def read_frames(self, frames: NDArray[np.int64]) -> Words:
        """Contents of frames; all zeros if a table's entries are all equal."""
        words = self._dump.read_frames(frames)
        same = (words == words[:, :1]).all(axis=1)
        if self._halves:
            same &= words[:, 0] & np.uint64(0xFFFFFFFF) == words[:, 0] >> np.uint64(32)
        words[same] = 0
        return words


def architecture_of(layer: Any) -> Architecture:
    """The paging of a translation layer of Volatility (framework/layers/intel.py)."""
    by_levels = {2: X86, 3: PAE, 4: X64, 5: X64_5_LEVELS}
    return by_levels[len(layer.structure)]


def table_base(layer: Any) -> int:
    """The physical address of a translation layer's top-level table, or of PAE's pointers."""
    return architecture_of(layer).base_address(int(layer.config["page_map_offset"]))


def top_levels(dump: Dump, paging: Paging, bases: Sequence[int]) -> NDArray[np.int64]:
    """Frames of the top levels, as for `paging.walk`, from values of CR3."""
    table = np.array(bases, np.int64).reshape(-1, 1)
    if paging.architecture is not PAE:
        return table // PAGE_SIZE
    pointers = dump.read_frames(table[:, 0] // PAGE_SIZE)
    place = table % PAGE_SIZE // 32 * 4 + np.arange(4)
    entries = np.take_along_axis(pointers, place, axis=1)
    roots = (entries >> np.uint64(12) & np.uint64(0xFFFFFFF)).astype(np.int64)
    leads = entries & np.uint64(PRESENT | PAE_POINTER_RESERVED) == PRESENT
    leads |= entries & np.uint64(TRANSITION | PROTOTYPE) == TRANSITION
    roots[~leads] = -1
    return roots


def read_mappings(
    dump: Dump, paging: Paging, bases: Sequence[int]
) -> tuple[Mappings, Sequence[str]]:
    """All mappings of some address spaces, given by their values of CR3; and remarks.

    `space` is the number of the base, or SHARED. The remarks tell which entries were left out.
    """
    memory: PhysicalMemory = _Tables(dump, paging)
    losses = Losses()
    roots = top_levels(dump, paging, bases)
    found = Mappings.join(list(walk(memory, paging, roots, losses=losses)))
    found = found.take(_wholly_held(dump, found))
    return merge_kernel(found), loss_remarks(losses)


def _wholly_held(dump: Dump, mappings: Mappings) -> NDArray[np.bool_]:
    """Which mappings lead to frames that the dump holds; single frames were checked by the walk."""
    whole: NDArray[np.bool_] = mappings.count == 1
    large = np.flatnonzero(~whole)
    if len(large):
        before = np.concatenate(([0], np.cumsum(dump.held)))
        first = mappings.pfn[large]
        end = np.minimum(first + mappings.count[large], dump.frame_count)
        whole[large] = before[end] - before[first] == mappings.count[large]
    return whole


def shared_kernel_pages(snapshot: Snapshot) -> int:
    """The number of pages that the kernel has for several processes."""
    return _pages(snapshot, ~snapshot.mappings.is_user & (snapshot.mappings.space == SHARED))


def kernel_pages(snapshot: Snapshot) -> list[int]:
    """For each process, the pages that the kernel has for it alone, such as page tables."""
    rows = snapshot.mappings
    own = rows.take(~rows.is_user & (rows.space != SHARED))
    row, _, frame = snapshot.pages_of(own)
    holder = np.unique(own.space[row] * np.int64(snapshot.classes.size) + frame)
    count = np.bincount(holder // snapshot.classes.size, minlength=len(snapshot.processes))
    return [int(number) for number in count]


def _pages(snapshot: Snapshot, chosen: NDArray[np.bool_]) -> int:
    """The number of pages that some mappings lead to."""
    rows = snapshot.mappings.take(chosen)
    marks = np.zeros(snapshot.classes.size, bool)
    mark_runs(marks, rows.pfn, rows.count)
    return int(np.count_nonzero(marks))


def runs(mappings: Mappings, paging: Paging) -> Iterator[tuple[int, int, int, int, bool]]:
    """Mappings in Volatility's form: space, virtual, physical, size in bytes, user mode.

    Neighbours in virtual and physical memory form one row. Like Volatility's, addresses have only
    the bits that are translated. Rows are in the order of the spaces, SHARED first.
    """
    order = np.lexsort((mappings.virtual, mappings.space))
    rows = mappings.take(order)
    user = rows.is_user
    pages = rows.count.astype(np.uint64) * np.uint64(PAGE_SIZE)
    joins = (
        (rows.space[1:] == rows.space[:-1])
        & (rows.virtual[1:] == rows.virtual[:-1] + pages[:-1])
        & (rows.pfn[1:] == rows.pfn[:-1] + rows.count[:-1])
        & (user[1:] == user[:-1])
    )
    starts = np.flatnonzero(np.concatenate((np.ones(min(len(user), 1), bool), ~joins)))
    translated = np.uint64((1 << paging.address_bits) - 1)
    size = np.add.reduceat(pages, starts) if len(starts) else pages
    for first in range(0, len(starts), _ROWS_AT_ONCE):
        part = starts[first : first + _ROWS_AT_ONCE]
        yield from zip(
            rows.space[part].tolist(),
            (rows.virtual[part] & translated).tolist(),
            (rows.pfn[part] * PAGE_SIZE).tolist(),
            size[first : first + _ROWS_AT_ONCE].tolist(),
            user[part].tolist(),
            strict=True,
        )
