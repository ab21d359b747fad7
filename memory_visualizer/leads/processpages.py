"""The pages of single processes, by virtual address: sorted once for all questions."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.paging import is_held
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE


@dataclass(frozen=True, eq=False)
class Pages:
    """Held user-mode pages of a process, as columns by virtual address."""

    virtual: NDArray[np.uint64]
    """Address of the first byte, ascending."""
    frame: NDArray[np.int64]
    access: NDArray[np.uint8]
    """MAY_ bits."""

    def between(self, start: int, end: int) -> "Pages":
        """The pages with addresses from `start` to below `end`."""
        bounds = np.array([start, end], np.uint64)
        return self.take(slice(*np.searchsorted(self.virtual, bounds)))

    def take(self, rows: slice | NDArray[np.bool_] | NDArray[np.intp]) -> "Pages":
        """Some of the rows."""
        return Pages(self.virtual[rows], self.frame[rows], self.access[rows])

    @property
    def frames(self) -> NDArray[np.int64]:
        """The frames, ascending, each once."""
        return distinct(self.frame)

    @property
    def stretches(self) -> list[tuple[int, int]]:
        """First address and end of each run of consecutive pages."""
        if not len(self.virtual):
            return []
        apart = np.flatnonzero(np.diff(self.virtual) != np.uint64(PAGE_SIZE))
        first = self.virtual[np.append(0, apart + 1)].tolist()
        last = self.virtual[np.append(apart, len(self.virtual) - 1)].tolist()
        return [(start, end + PAGE_SIZE) for start, end in zip(first, last, strict=True)]


class ProcessPages:
    """Gives the pages of each process."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._last: tuple[int, Pages] | None = None

    @cached_property
    def _space(self) -> NDArray[np.signedinteger[Any]]:
        """The space of each mapping, in a short type, which is quick to search."""
        space = self._snapshot.mappings.space
        return space.astype(np.min_scalar_type(-len(self._snapshot.processes) - 1))

    def of(self, index: int) -> Pages:
        """The pages of a process, by its index; the last result is cached."""
        if self._last is None or self._last[0] != index:
            self._last = index, self._find(index)
        return self._last[1]

    def _find(self, index: int) -> Pages:
        rows = self._snapshot.mappings.take(np.flatnonzero(self._space == index))
        rows = rows.take(rows.is_user)
        row, part, frame = self._snapshot.pages_of(rows)
        virtual = rows.virtual[row] + part.astype(np.uint64) * np.uint64(PAGE_SIZE)
        held = is_held(self._snapshot.dump, frame)
        by_address = np.argsort(virtual, kind="stable")
        by_address = by_address[held[by_address]]
        return Pages(virtual[by_address], frame[by_address], rows.access[row][by_address])
