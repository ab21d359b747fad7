"""The owners of each page, in batches of successive frames.

All owners at once would take more memory than the mappings that they come from. So only the order
of the mappings is kept, four bytes for each, and the owners are made batch by batch.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import changes, count_values
from memory_visualizer.paging import MAY_USER, SHARED, Mappings
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.units import PAGE_SIZE

Rows: TypeAlias = NDArray[np.unsignedinteger[Any]]
"""Numbers of mappings."""

PIECE_FRAMES = 1 << 16
"""Frames of a batch. 16 TiB then have as many batches as there are 16-bit numbers, which numpy
sorts by counting."""


@dataclass(frozen=True, eq=False, repr=False)
class Owners:
    """The owners of pages in long form: a row for each page and process."""

    frame: NDArray[np.int64]
    """Ascending."""
    process: NDArray[np.int32]
    """Index in Snapshot.processes."""
    virtual: NDArray[np.uint64]
    """The first address at which the process has the page."""
    is_user: NDArray[np.bool_]
    """Whether user mode may use the page there. Otherwise the kernel uses it for this process
    alone, for example as a page table."""

    @classmethod
    def join(cls, batches: list["Owners"]) -> "Owners":
        """Many tables as one; `batches` is empty afterwards, its columns freed one by one."""
        columns = [[part.frame, part.process, part.virtual, part.is_user] for part in batches]
        batches.clear()
        return cls(
            *(np.concatenate([empty, *(column.pop(0) for column in columns)]) for empty in _NOBODY)
        )

    def __repr__(self) -> str:
        return f"<Owners: {counted(len(self.frame), 'row')}>"

    def of(self, processes: Collection[int]) -> "Owners":
        """The rows of some processes, by their index."""
        mine = np.isin(self.process, list(processes))
        return Owners(self.frame[mine], self.process[mine], self.virtual[mine], self.is_user[mine])


_NOBODY: list[NDArray[Any]] = [
    np.empty(0, np.int64),
    np.empty(0, np.int32),
    np.empty(0, np.uint64),
    np.empty(0, bool),
]


class OwnedPages:
    """The pages that single processes have, or that all share, by their frames."""

    def __init__(
        self,
        mappings: Mappings,
        classes: NDArray[np.uint8],
        limit: int,
        *,
        shared: bool = False,
        alone: NDArray[np.bool_] | None = None,
    ) -> None:
        """Take the mappings of processes, or, with `shared`, the mappings whose space is SHARED.

        `classes` is the class of each frame. Large pages are listed until their single pages exceed
        `limit`. Mappings that are marked in `alone` are not among the pieces, but in `alone`.
        """
        self._mappings = mappings
        self._shared = shared
        self._classes = classes
        chosen = (mappings.space == SHARED) == shared
        number = np.min_scalar_type(len(chosen))
        large = np.flatnonzero(chosen & (mappings.count > 1))
        counted, pages = each_large(mappings.take(large), classes.size)
        listed: Rows = large[counted[np.cumsum(pages) <= limit]].astype(number)
        chosen &= mappings.count == 1
        self.alone: Rows = listed[:0]
        """The numbers of the mappings left out of the pieces."""
        if alone is not None:
            small = np.flatnonzero(chosen & alone).astype(number)
            self.alone = np.concatenate((listed[alone[listed]], small))
            listed = listed[~alone[listed]]
            chosen &= ~alone
        self._large = listed[np.argsort(mappings.pfn[listed], kind="stable")]
        self._large_begin = mappings.pfn[self._large]
        self._largest = int(mappings.count[listed].max(initial=0))
        small = np.flatnonzero(chosen).astype(number)
        piece = (mappings.pfn[small] // PIECE_FRAMES).astype(np.uint16)
        self._small = small[np.argsort(piece, kind="stable")]
        count = count_values(piece, -(-classes.size // PIECE_FRAMES))
        self._ends: list[int] = np.cumsum(count).tolist()

    def pieces(self) -> Iterator[tuple[range, Rows, NDArray[np.int64]]]:
        """Yield the frames of each batch, and its rows: number of the mapping, and frame.

        Each process has a page once: a mapping of user mode comes before one of the kernel, then
        the lowest address counts. Rows are sorted by frame and process.
        """
        start = 0
        for number, end in enumerate(self._ends):
            first = number * PIECE_FRAMES
            frames = range(first, min(first + PIECE_FRAMES, self._classes.size))
            row = self._small[start:end]
            frame = self._mappings.pfn[row]
            start = end
            if len(self._large):
                large, inside = self._large_pages(frames)
                row = np.concatenate((row, large))
                frame = np.concatenate((frame, inside))
            firsts = self._first_of_each(row, frame, first)
            yield frames, row[firsts], frame[firsts]

    def virtual(self, row: Rows, frame: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The address of each page, canonical."""
        return address_in(self._mappings, row, frame)

    def process(self, row: Rows) -> NDArray[np.int32]:
        """The index of the page's process, or SHARED."""
        return self._mappings.space[row]

    def is_user(self, row: Rows) -> NDArray[np.bool_]:
        """Whether user mode may use the page; False for pages that all share."""
        if self._shared:
            return np.zeros(len(row), bool)
        user: NDArray[np.bool_] = self._mappings.access[row] & MAY_USER != 0
        return user

    def _large_pages(self, frames: range) -> tuple[Rows, NDArray[np.int64]]:
        """The single pages of large pages among some frames."""
        reach = [frames.start - self._largest + 1, frames.stop]
        near = slice(*np.searchsorted(self._large_begin, reach))
        row, begin = self._large[near], self._large_begin[near]
        end = np.minimum(begin + self._mappings.count[row], frames.stop)
        begin = np.maximum(begin, frames.start)
        count = np.maximum(end - begin, 0)
        frame = np.repeat(begin - np.cumsum(count) + count, count)
        frame += np.arange(len(frame))
        inside = self._classes[frame] != PageClass.ABSENT
        return np.repeat(row, count)[inside], frame[inside]

    def _first_of_each(self, row: Rows, frame: NDArray[np.int64], first: int) -> NDArray[np.intp]:
        """The row that counts for each frame and process; `first` is the batch's first frame."""
        # Sorting by one number is much faster than by three: frame, process, user before kernel.
        key = (frame - first) << 32
        if not self._shared:
            key |= self.process(row).astype(np.int64) << 1
            key |= ~self.is_user(row)
        order = np.argsort(key)
        sorted_key = key[order]
        if (sorted_key[1:] == sorted_key[:-1]).any():
            order = np.lexsort((self.virtual(row, frame), key))
        return order[changes(sorted_key >> 1)]


def address_in(
    mappings: Mappings, row: Rows, frame: NDArray[np.integer[Any]]
) -> NDArray[np.uint64]:
    """The canonical address at which each mapping, by its number, has a frame."""
    inside = (frame - mappings.pfn[row]) * PAGE_SIZE
    return mappings.virtual[row] + inside.view(np.uint64)


def owners_by_frame(
    mappings: Mappings, classes: NDArray[np.uint8], limit: int
) -> Iterator[tuple[range, Owners]]:
    """Yield the frames of each batch and their owners; the arguments are as for OwnedPages."""
    pages = OwnedPages(mappings, classes, limit)
    for frames, row, frame in pages.pieces():
        yield (
            frames,
            Owners(frame, pages.process(row), pages.virtual(row, frame), pages.is_user(row)),
        )


def each_large(rows: Mappings, frame_count: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """The first row of each large page in each process, and the number of its single pages."""
    large = np.flatnonzero(rows.count > 1)
    rows = rows.take(large)
    order = np.lexsort((rows.virtual, ~rows.is_user, rows.count, rows.pfn, rows.space))
    columns = np.stack((rows.space, rows.pfn, rows.count))[:, order]
    new = np.ones(len(order), bool)
    new[1:] = (columns[:, 1:] != columns[:, :-1]).any(axis=0)
    chosen = np.sort(order[new])
    return large[chosen], np.minimum(rows.count, frame_count - rows.pfn)[chosen]
