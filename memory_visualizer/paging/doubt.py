"""Check that page tables lie in the right place, and refer to memory that the dump holds.

Both fail if a dump was cut short, or if its memory is misplaced in the file.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.paging import (
    CACHING,
    PRESENT,
    Arm64,
    Paging,
    PhysicalMemory,
    are_tables,
    is_held,
    read_tables,
)
from memory_visualizer.paging.tables import sound_entries
from memory_visualizer.printable import counted

_SAMPLED = 128
"""How many tables of each level are sampled: enough for the shares that decide. Nothing found is
lost, since this only raises a doubt."""
_DOUBT = 1 / 16
"""The largest share of frames named as tables that may be no tables: a dump may be taken while its
machine runs."""
_FEWEST_TABLES, _FEWEST_PAGES = 2, 4
"""Fewer tables or pages right behind the end are explained by flipped bits or devices."""
_LIES_BEHIND = (
    "the dump was cut short, or the file leaves out holes in the machine's memory, and all memory"
    " after such a hole is painted in the wrong place"
)
_MORE_FRAMES = 1 << 18
"""A gigabyte. Pages farther behind the end than this and than the dump's own size are devices'."""


@dataclass(frozen=True)
class Doubt:
    """The evidence that some memory of a dump is misplaced."""

    tables_missing: int
    """Tables that would lie behind the end."""
    are_wrong: bool
    """Whether many pages right below the top-level tables are not tables."""
    pages_missing: int
    """Pages of user mode that would lie right behind the end."""
    kernel_pages_missing: int = 0
    """The same of the kernel, without pages that may be a device's or the firmware's."""

    @property
    def is_serious(self) -> bool:
        """Whether a search for the right place of the memory is worthwhile."""
        return self.tables_missing > 0 or self.are_wrong

    @property
    def remarks(self) -> tuple[str, ...]:
        """A sentence if more pages lie beyond the end than chance and devices explain."""
        tables, pages = self.tables_missing, self.pages_missing
        if tables >= _FEWEST_TABLES or pages >= _FEWEST_PAGES or (tables and pages):
            return (
                f"page tables refer to {counted(tables, 'page table')} and"
                f" {counted(pages, 'page')} of user mode just beyond the dump's end:"
                f" {_LIES_BEHIND}",
            )
        if self.kernel_pages_missing >= _FEWEST_PAGES:
            return (
                f"the kernel's page tables refer to {counted(self.kernel_pages_missing, 'page')}"
                " just beyond the dump's end, cached and each by itself, as memory is mapped and"
                f" devices are not: {_LIES_BEHIND}",
            )
        return ()


def doubt_about(memory: PhysicalMemory, paging: Paging, roots: NDArray[np.int64]) -> Doubt:
    """Sample the tables below `roots` (as for walk); of Linux, only user mode's."""
    users = _Descent(memory, paging, roots, of_users=True)
    pages, _ = read_tables(memory, paging, len(paging.levels) - 1, users.tables)
    beyond = len(distinct(pages[_is_behind(memory, pages)]))
    if paging.software.user_entries:
        return Doubt(users.missing, users.are_wrong, beyond)
    kernel = _Descent(memory, paging, roots, of_users=False)
    return Doubt(
        users.missing + kernel.missing,
        users.are_wrong or kernel.are_wrong,
        beyond,
        _single_pages_behind(memory, paging, kernel.tables),
    )


def _is_behind(memory: PhysicalMemory, frames: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these frames lie right behind the end; devices lie farther away."""
    end = memory.frame_count
    behind: NDArray[np.bool_] = (frames >= end) & (frames < end + max(end, _MORE_FRAMES))
    return behind


def _single_pages_behind(memory: PhysicalMemory, paging: Paging, tables: NDArray[np.int64]) -> int:
    """How many pages right behind the end these tables of the last level map as memory is mapped.

    Devices and tables of the firmware are mapped side by side, and devices are not cached. Of ARM
    it is not known which pages are.
    """
    if isinstance(paging.architecture, Arm64):
        return 0
    entries = paging.decode(memory.read_frames(tables))
    place, entry, frame = sound_entries(memory, paging, len(paging.levels) - 1, entries)
    follows = (np.diff(place) == 1) & (np.diff(frame) == 1)
    single = _is_behind(memory, frame) & (entry & np.uint64(CACHING | PRESENT) == PRESENT)
    single[:-1] &= ~follows
    single[1:] &= ~follows
    return len(distinct(frame[single]))


class _Descent:
    """The descent from top-level tables, in user mode's half or in the kernel's."""

    def __init__(
        self, memory: PhysicalMemory, paging: Paging, roots: NDArray[np.int64], *, of_users: bool
    ) -> None:
        self.missing = 0
        """Tables that would lie behind the end."""
        self.are_wrong = False
        """Whether many pages right below the top-level tables are not tables."""
        half = paging.entries // 2
        if paging.top_frames > 1:  # PAE: the lower directories belong to user mode
            parts = paging.top_frames // 2
            roots = roots[:, :parts] if of_users else roots[:, parts:]
        tables = _some(distinct(roots[is_held(memory, roots)]))
        for number in range(len(paging.levels) - 1):
            target, is_page = read_tables(memory, paging, number, tables)
            if not number and paging.top_frames == 1:
                target = target[:, :half] if of_users else target[:, half:]
                is_page = is_page[:, :half] if of_users else is_page[:, half:]
            tables = distinct(target[(target >= 0) & ~is_page])
            tables = tables[~np.isin(tables, roots)]  # they map themselves
            # A frame too far away for memory is not a table, but a flipped bit.
            tables = _some(tables[tables < 2 * memory.frame_count])
            held = tables[is_held(memory, tables)]
            self.missing += len(tables) - len(held)
            if not number:
                sound = np.count_nonzero(are_tables(memory, paging, 1, held))
                self.are_wrong = bool(sound < (1 - _DOUBT) * len(held))
            tables = held
        self.tables = tables
        """The tables of the last level."""


def _some(frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """An even sample of the frames."""
    return frames[:: -(-len(frames) // _SAMPLED) or 1]
