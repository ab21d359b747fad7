"""Build a snapshot from the findings of a system's module: mappings, processes, losses."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import add_runs, mark_runs
from memory_visualizer.formats.base import Dump
from memory_visualizer.paging import SHARED, Losses, Mappings, Paging
from memory_visualizer.printable import counted
from memory_visualizer.scratch import column
from memory_visualizer.snapshot.owners import each_large
from memory_visualizer.snapshot.pagemap import classify
from memory_visualizer.snapshot.process import Process
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.snapshot.system import System

_ROWS_AT_ONCE = 1 << 17
"""Of mappings; a few megabytes."""


def of_mappings(
    dump: Dump,
    zero: NDArray[np.bool_],
    mappings: Mappings,
    *,
    system: System | None = None,
    time: datetime | None = None,
    paging: Paging | None = None,
    processes: Sequence[Process] = (),
    stale_spaces: int = 0,
    kernel_dtb: int | None = None,
    rest: "Rest | None" = None,
    remarks: Sequence[str] = (),
) -> Snapshot:
    """Make a snapshot; the mappings decide which processes own which frame.

    `zero` tells for each frame whether it is all zeros; `rest` is the sum of the mappings beyond
    the limit. The other arguments are as in Snapshot.
    """
    user = reached(dump, mappings, user=True)
    kernel = reached(dump, mappings, user=False)
    if rest and rest.mappings:
        user |= rest.user
        kernel |= rest.kernel
    page_map = classify(user, kernel, zero, ~dump.held, left_out_of(dump))
    del user, kernel  # of a very large dump, each takes gigabytes
    mapping_count = mapping_counts(mappings, dump.frame_count)
    if rest and rest.mappings:
        mapping_count += rest.mapping_count
    return Snapshot(
        classes=page_map.classes,
        zero=zero,
        mapping_count=mapping_count,
        dump=dump,
        system=system,
        time=time,
        paging=paging,
        processes=tuple(processes),
        stale_spaces=stale_spaces,
        mappings=mappings,
        kernel_dtb=kernel_dtb,
        remarks=tuple(remarks),
    )


class Rest:
    """The sum of the mappings beyond the limit."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self._room = dump.budget.limit("mapping")
        self._room_for_each = self._room // 2
        self._of_space = np.zeros(1, np.int64)
        """The number of mappings of each space; the first number is that of SHARED."""
        self.mappings = 0

    @cached_property
    def user(self) -> NDArray[np.bool_]:
        """By PFN: whether one of these mappings is of user mode; most dumps have none."""
        return column(self._dump.frame_count, np.bool_)

    @cached_property
    def kernel(self) -> NDArray[np.bool_]:
        """By PFN: whether one of these mappings is of the kernel."""
        return column(self._dump.frame_count, np.bool_)

    @cached_property
    def mapping_count(self) -> NDArray[np.uint32]:
        """By PFN: the number of these mappings."""
        return column(self._dump.frame_count, np.uint32)

    def without(self, walked: Iterable[Mappings]) -> Mappings:
        """Join the batches of a walk; of mappings beyond the limit, only the sum is kept.

        No sound machine exceeds the limit, but a hostile dump must not exhaust the analyst's
        memory. A space with too many mappings loses its own mappings only.
        """
        joined: list[Mappings] = []
        kept: list[Mappings] = []
        waiting = 0
        for part in walked:
            fits = self._fits(part)
            some = part if fits.all() else part.take(fits)
            self._room -= len(some.pfn)
            if self._room < 0:
                self._add(part)
                continue
            kept.append(some)
            # Many small arrays, freed one by one, would fragment memory.
            waiting += len(some.pfn)
            if waiting > _ROWS_AT_ONCE:
                joined.append(Mappings.join(kept))
                waiting = 0
            if some is not part:
                self._add(part.take(~fits))
        joined.append(Mappings.join(kept))
        return Mappings.join(joined)

    def _fits(self, part: Mappings) -> NDArray[np.bool_]:
        """Which mappings belong to spaces that do not have too many."""
        number = part.space.astype(np.int64) - SHARED
        count = np.bincount(number, minlength=len(self._of_space))
        count[: len(self._of_space)] += self._of_space
        self._of_space = count
        fits = count <= self._room_for_each
        fits[0] = True
        return fits[number]

    def _add(self, part: Mappings) -> None:
        """Add mappings to the sum."""
        self.mappings += len(part.pfn)
        user, kernel, count = self.user, self.kernel, self.mapping_count
        user |= reached(self._dump, part, user=True)
        kernel |= reached(self._dump, part, user=False)
        count += mapping_counts(part, self._dump.frame_count)


def walk_remarks(dump: Dump, mappings: Mappings, losses: Losses, rest: Rest) -> list[str]:
    """Sentences for the user on unusable entries, and on owners that are not listed."""
    remarks = []
    large = mappings.take((mappings.count > 1) & (mappings.space != SHARED))
    pages = int(each_large(large, dump.frame_count)[1].sum())
    if pages > dump.budget.limit("mapping"):
        remarks.append(
            f"the large pages of all processes have {pages:,} pages in all: too many for a complete"
            " list of owners, so some owners are missing from it"
        )
    remarks += loss_remarks(losses)
    if rest.mappings:
        remarks.append(
            f"{counted(rest.mappings, 'mapping')} beyond the limit: their pages have a class, but"
            " some owners of these pages are not listed"
        )
    return remarks


def loss_remarks(losses: Losses) -> list[str]:
    """Sentences for the user on entries and tables that a walk could not use."""
    remarks = []
    if losses.not_tables:
        many = len(losses.not_tables)
        remarks.append(
            "page tables refer to 1 page as a page table, but it is not a page table: its mappings"
            " are unknown"
            if many == 1
            else f"page tables refer to {many:,} pages as page tables, but they are not page"
            " tables: their mappings are unknown"
        )
    if losses.of_user:
        remarks.append(
            f"{counted(losses.of_user, 'page table')} of user mode left out where the kernel's half"
            " of a single process refers to"
            f" {'it' if losses.of_user == 1 else 'them'}: a bit of an entry may have flipped"
        )
    if losses.impossible:
        remarks.append(
            f"{counted(losses.impossible, 'entry', 'entries')} of page tables left out: they break"
            " the rules of the processor or of the system"
        )
    if losses.torn:
        remarks.append(
            f"{counted(losses.torn, 'entry', 'entries')} of page tables left out: most entries from"
            " one before them on break these rules, so that the page is no table there"
        )
    if losses.contradicted:
        remarks.append(
            f"{counted(losses.contradicted, 'large page')} left out: processes map much of the same"
            " memory in single pages"
        )
    if losses.tables:
        remarks.append(
            f"{counted(losses.tables, 'page table')} left out: there are more than any machine has"
        )
    return remarks


def left_out_of(dump: Dump) -> NDArray[np.bool_] | None:
    """The frames that a dump leaves out on purpose; None if there are none, as in most dumps."""
    return dump.left_out if len(dump.left_out_runs) else None


def reached(dump: Dump, mappings: Mappings, *, user: bool) -> NDArray[np.bool_]:
    """For each frame whether a mapping of user mode, or of the kernel, leads to it."""
    reached: NDArray[np.bool_] = column(dump.frame_count, np.bool_)
    rows = mappings.is_user == user
    first, frames = mappings.pfn[rows], mappings.count[rows]
    mark_runs(reached, first, np.minimum(first + frames, dump.frame_count) - first)
    reached &= dump.there
    return reached


def mapping_counts(mappings: Mappings, frame_count: int) -> NDArray[np.uint32]:
    """The number of mappings that lead to each frame, by PFN."""
    count: NDArray[np.uint32] = column(frame_count, np.uint32)
    for at in range(0, len(mappings.pfn), _ROWS_AT_ONCE):
        some = slice(at, at + _ROWS_AT_ONCE)
        # The ones have the same type as the counts: so `at` is twenty times as fast.
        np.add.at(count, mappings.pfn[some][mappings.count[some] == 1], np.uint32(1))
    large = np.flatnonzero(mappings.count > 1)
    if len(large):
        begin = mappings.pfn[large]
        add_runs(count, begin, np.minimum(begin + mappings.count[large], frame_count))
    return count
