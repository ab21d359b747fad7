"""Mappings of a Linux dump that contradict the kernel's records of its pages."""

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import mark_runs
from memory_visualizer.paging import Mappings
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.pagemap import PageState

_HUGE_FRAMES = 1 << 18
"""Frames of a page of 1 GiB."""


class Doubts:
    """Mappings of user mode that contradict the kernel's records of the pages.

    If the system ran while the dump was saved, a page table and the records of pages may be from
    different moments. No process maps a page that is free, slab or a page table, and the kernel
    records a page of 1 GiB as a huge page.
    """

    def __init__(self, states: NDArray[np.uint8] | None) -> None:
        """`states` are PageState by PFN, or None if unknown."""
        self._states = states
        self._before: dict[tuple[PageState, ...], NDArray[np.int32]] = {}
        """For each frame, the number of frames before it in some states."""
        self._pages = 0
        self._marks: NDArray[np.bool_] | None = None
        """The frames of these mappings, once there are any."""
        self._huge = 0

    def believed(self, part: Mappings) -> Mappings:
        """The mappings that do not contradict the records."""
        if self._states is None or not len(part.pfn):
            return part
        states = self._states
        against = self._share(states, part, PageState.FREE, PageState.SLAB, PageState.PAGE_TABLE)
        # Drivers map reserved pages, but not in one mapping with other pages.
        reserved = self._share(states, part, PageState.RESERVED)
        wrong = against + np.where(reserved < 1, reserved, 0) > 1 / 2
        huge = part.count == _HUGE_FRAMES
        if huge.any():
            huge &= self._share(states, part, PageState.HUGE_PAGE) <= 1 / 2
        wrong &= ~huge
        if not (wrong | huge).any():
            return part
        self._pages += int(part.count[wrong].sum())
        self._mark(part.take(wrong), len(states))
        self._huge += int(np.count_nonzero(huge))
        return part.take(~(wrong | huge))

    def _mark(self, rows: Mappings, frame_count: int) -> None:
        if self._marks is None:
            self._marks = np.zeros(frame_count, bool)
        if len(rows.pfn):
            mark_runs(self._marks, rows.pfn, np.minimum(rows.count, frame_count - rows.pfn))

    @property
    def frames(self) -> NDArray[np.int64]:
        """The frames, ascending, that these mappings lead to."""
        return np.empty(0, np.int64) if self._marks is None else np.flatnonzero(self._marks)

    def _share(
        self, states: NDArray[np.uint8], part: Mappings, *some: PageState
    ) -> NDArray[np.float64]:
        """The share of each mapping's frames in some states."""
        if some not in self._before:
            among = np.isin(states, some)
            self._before[some] = np.concatenate(([0], np.cumsum(among, dtype=np.int32)))
        before = self._before[some]
        end = np.minimum(part.pfn + part.count, len(before) - 1)
        share: NDArray[np.float64] = (before[end] - before[part.pfn]) / part.count
        return share

    @property
    def remarks(self) -> list[str]:
        """A sentence with the number of these mappings, if any."""
        remarks = []
        if self._pages:
            remarks.append(
                f"{counted(self._pages, 'page')} mapped into processes, but free or the kernel's"
                " own by the kernel's records: these mappings are stale and were left out"
            )
        if self._huge:
            remarks.append(
                f"{counted(self._huge, 'mapping')} of 1 GiB left out: the kernel has no page of"
                " this size there"
            )
        return remarks
