"""Check that page tables lie in the right place, and refer to memory that the dump holds.

Both fail if a dump was cut short, or if its memory is misplaced in the file.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.paging import Paging, PhysicalMemory, are_tables, is_held, read_tables
from memory_visualizer.printable import counted

_SAMPLED = 128
"""How many tables of each level are sampled: enough for the shares that decide. Nothing found is
lost, since this only raises a doubt."""
_DOUBT = 1 / 16
"""The largest share of frames named as tables that may be no tables: a dump may be taken while its
machine runs."""
_FEWEST_TABLES, _FEWEST_PAGES = 2, 4
"""Fewer tables or pages right behind the end are explained by flipped bits or devices."""
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

    @property
    def is_serious(self) -> bool:
        """Whether a search for the right place of the memory is worthwhile."""
        return self.tables_missing > 0 or self.are_wrong

    @property
    def remarks(self) -> tuple[str, ...]:
        """A sentence if more pages lie beyond the end than chance and devices explain."""
        tables, pages = self.tables_missing, self.pages_missing
        if tables < _FEWEST_TABLES and pages < _FEWEST_PAGES and not (tables and pages):
            return ()
        return (
            f"page tables refer to {counted(tables, 'page table')} and {counted(pages, 'page')} of"
            " user mode just beyond the dump's end: the dump was cut short, or the file leaves out"
            " holes in the machine's memory, and all memory after such a hole is painted in the"
            " wrong place",
        )


def doubt_about(memory: PhysicalMemory, paging: Paging, roots: NDArray[np.int64]) -> Doubt:
    """Sample the tables below `roots` (as for walk); of Linux, only user mode's."""
    users = _Descent(memory, paging, roots, of_users=True)
    pages, _ = read_tables(memory, paging, len(paging.levels) - 1, users.tables)
    end = memory.frame_count
    # Devices lie at higher addresses.
    beyond = distinct(pages[(pages >= end) & (pages < end + max(end, _MORE_FRAMES))])
    others = (
        users if paging.software.user_entries else _Descent(memory, paging, roots, of_users=False)
    )
    missing = others.missing if others is users else others.missing + users.missing
    return Doubt(missing, users.are_wrong or others.are_wrong, len(beyond))


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
