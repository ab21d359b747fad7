"""Evidence that a page is or is not a page table, and the targets of its entries.

Most entries decide: see Weight.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.paging.architecture import PRESENT, Entries
from memory_visualizer.paging.beyond import Leading, are_beyond, width_by_size
from memory_visualizer.paging.memory import TABLES_AT_ONCE, PhysicalMemory, is_held
from memory_visualizer.paging.software import Paging


@dataclass(frozen=True, eq=False)
class Weight:
    """Evidence that pages are or are not page tables: numbers of entries for each page."""

    entries: NDArray[np.int64]
    """That lead somewhere, the impossible ones included."""
    impossible: NDArray[np.int64]
    """That break the rules of the processor, or of the system."""
    odd: NDArray[np.int64]
    """That the system does not make, or that name neither memory nor a device, beside the
    impossible ones."""
    supervisor: NDArray[np.int64]
    """That lead to tables and bar user mode, beside all those: odd where user mode came so far."""

    def is_table(self, is_user: NDArray[np.bool_], page: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether each page, by its number, is a table for those who come by user mode, or not.

        Most entries decide. So a real table in which a bit was flipped costs that entry, and
        what is no table leads nowhere, whatever a few of its words look like.
        """
        against = self.impossible[page] + self.odd[page]
        against += np.where(is_user, self.supervisor[page], 0)
        sound: NDArray[np.bool_] = 2 * against <= self.entries[page]
        return sound


def weighed(
    memory: PhysicalMemory, paging: Paging, number: int, tables: Entries
) -> tuple[NDArray[np.intp], NDArray[np.intp], Entries, NDArray[np.int64], "Weight | None"]:
    """The entries of a level's tables that lead somewhere, without those that cannot be.

    Number of the table, ascending; index; the entry; what it names; and, unless nothing speaks
    against any of the tables, what does.
    """
    level, count = paging.levels[number], len(tables)
    found = np.flatnonzero(paging.is_present(tables))
    table = found >> (tables.shape[1] - 1).bit_length()
    entry = tables.reshape(-1)[found]
    rows = Leading(table, found & (tables.shape[1] - 1), entry, paging.frames(entry, level))
    impossible = paging.is_impossible(entry, rows.frame, level)
    if level.may_map and paging.software.has_habits and level.pages > 2 * memory.frame_count:
        # No machine with so little memory has most of a page beyond its end, from the beginning.
        impossible |= (rows.frame == 0) & paging.is_large(entry, level)
    broken = absent = np.zeros(count, np.int64)
    if impossible.any():
        # To the processor these are as those that are not present: they speak against a table, but
        # nothing is damaged. Where tables map themselves, an entry of a large page is seen so.
        reserved = impossible & (entry & np.uint64(PRESENT) != 0)
        reserved &= entry & np.uint64(level.required) != np.uint64(level.required)
        absent = np.bincount(table[reserved], minlength=count)
        broken = np.bincount(table[impossible & ~reserved], minlength=count)
        rows = rows.take(~impossible)
    odd, supervisor = _oddities(memory, paging, number, rows, count)
    weight = None
    if impossible.any() or odd.any() or supervisor.any():
        entries = np.bincount(table, minlength=count)
        weight = Weight(entries, broken, odd + absent, supervisor)
    return *rows, weight


def _oddities(
    memory: PhysicalMemory, paging: Paging, number: int, rows: Leading, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Weight.odd and Weight.supervisor for each of `count` tables, by entries that are possible."""
    width = paging.used_bits or width_by_size(memory)
    is_odd = are_beyond(paging, number, rows, width)
    odd = supervisor = np.zeros(count, np.int64)
    is_last = number == len(paging.levels) - 1
    if paging.software.has_habits and not is_last:
        level = paging.levels[number]
        is_odd |= paging.is_odd(rows.entry, level)
        bars = paging.architecture.bar_user(rows.entry)
        bars &= ~(is_odd | paging.is_large(rows.entry, level))
        supervisor = np.bincount(rows.table[bars], minlength=count)
    if is_odd.any():
        odd = np.bincount(rows.table[is_odd], minlength=count)
    if paging.software.has_habits and is_last:
        odd = np.maximum(odd, _odd_leaves(paging, rows, count))
    return odd, supervisor


def _odd_leaves(paging: Paging, rows: Leading, count: int) -> NDArray[np.int64]:
    """For each table of the last level the entries that are odd: all, or none.

    Pages may be mapped with any flags. But pages side by side are mapped alike: what comes with a
    new mixture of flags (Architecture.mixtures) every other time is something else.
    """
    seen = rows.entry & np.uint64(PRESENT) != 0
    flags = paging.architecture.mixtures(rows.entry)
    mixtures = np.bincount(rows.table[seen] * 64 + flags[seen], minlength=64 * count)
    mixtures = mixtures.reshape(count, 64)
    present = mixtures.sum(axis=1)
    kinds = np.count_nonzero(mixtures, axis=1)
    too_many = kinds > np.minimum(present // 2, _MOST_MIXTURES)
    return np.where((present >= _FEWEST_LEAVES) & too_many, present, 0)


_FEWEST_LEAVES = 8


_MOST_MIXTURES = 16


def sound_entries(
    memory: PhysicalMemory, paging: Paging, number: int, tables: Entries
) -> tuple[NDArray[np.intp], Entries, NDArray[np.int64]]:
    """The entries that lead somewhere: where they stand in all of `tables`, they, and the frames.

    Whether user mode came so far is not known: so no entry is odd for barring it.
    """
    table, index, entry, frame, weight = weighed(memory, paging, number, tables)
    place = table * tables.shape[1] + index
    if weight is None or (number == 0 and not paging.architecture.is_whole):
        return place, entry, frame  # beside a small top level other things may lie in its frame
    is_table = weight.is_table(np.zeros(len(tables), bool), np.arange(len(tables)))[table]
    return place[is_table], entry[is_table], frame[is_table]


def read_tables(
    memory: PhysicalMemory, paging: Paging, number: int, frames: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """What the entries of tables of one level lead to, -1 where to nothing, and which map pages.

    Shape (n, paging.entries). What breaks the processor's rules leads to nothing, and so does all
    of a page that is no table.
    """
    level = paging.levels[number]
    tables = paging.decode(memory.read_frames(frames))
    place, entry, frame = sound_entries(memory, paging, number, tables)
    target = np.full(tables.shape, -1, np.int64)
    target.reshape(-1)[place] = frame
    is_page = np.full(tables.shape, number == len(paging.levels) - 1)
    if level.may_map:
        is_page.reshape(-1)[place] |= paging.is_large(entry, level)
    return target, is_page


def are_tables(
    memory: PhysicalMemory, paging: Paging, number: int, frames: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which of these pages look like tables of one level: most of them entries that lead somewhere.

    An empty page does not. Those of the top level are numbered as roots.
    """
    found = np.zeros(len(frames), bool)
    for start in range(0, len(frames), TABLES_AT_ONCE):
        part = frames[start : start + TABLES_AT_ONCE]
        tables = read_roots(memory, paging, part) if number == 0 else None
        if tables is None:
            tables = paging.decode(memory.read_frames(part))
        present = np.count_nonzero(paging.is_present(tables), axis=1)
        # Entries that are not present may hold anything, but not in most of a table.
        sound = (present > 0) & (2 * present >= np.count_nonzero(tables, axis=1))
        weight = weighed(memory, paging, number, tables)[-1]
        if weight is not None:
            sound &= weight.is_table(np.zeros(len(part), bool), np.arange(len(part)))
        found[start : start + len(part)] = sound
    return found


def tables_of(
    memory: PhysicalMemory,
    paging: Paging,
    roots: NDArray[np.int64],
    *,
    own_only: bool = False,
    no_tables: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For each frame whether it is a table of one of these address spaces, and one of the lowest.

    Those of the lowest level are only named by those above, and not read. `own_only` and
    `no_tables` as in `walk`.
    """
    found = np.zeros(memory.frame_count, bool)
    tables = distinct(roots.ravel())
    tables = tables[is_held(memory, paging.architecture.frames_of_roots(tables))]
    found[paging.architecture.frames_of_roots(tables)] = True
    lowest = np.zeros(memory.frame_count, bool)
    for number in range(len(paging.levels) - 1):
        tables = memory.budget.take("page table", tables, memory.budget.share("page table", 2))
        below = np.zeros(memory.frame_count, bool)
        for start in range(0, len(tables), TABLES_AT_ONCE):
            part = tables[start : start + TABLES_AT_ONCE]
            own = paging.software.user_entries if own_only and number == 0 else None
            below[_named(memory, paging, number, part, own)] = True
        if no_tables is not None:
            below &= ~no_tables
        tables = np.flatnonzero(below)
        found |= below
        lowest = below
    return found, lowest


def _named(
    memory: PhysicalMemory,
    paging: Paging,
    number: int,
    tables: NDArray[np.int64],
    own: range | None,
) -> NDArray[np.int64]:
    """The frames that are held of tables which these name, on one level; `own` are its entries."""
    entries = read_roots(memory, paging, tables) if number == 0 else None
    if entries is None:
        entries = paging.decode(memory.read_frames(tables))
    if own:
        entries = np.ascontiguousarray(entries[:, own.start : own.stop])
    _, entry, targets = sound_entries(memory, paging, number, entries)
    leads = entry & np.uint64(PRESENT) != 0
    leads &= ~paging.is_large(entry, paging.levels[number])
    parts = targets[leads][:, None] + np.arange(paging.architecture.page_frames)
    named: NDArray[np.int64] = parts.ravel()
    return named[is_held(memory, named)]


def read_roots(memory: PhysicalMemory, paging: Paging, roots: NDArray[np.int64]) -> Entries:
    """The entries of top levels, or of frames of these, shape (n, entries)."""
    architecture = paging.architecture
    tables = paging.decode(memory.read_frames(architecture.frames_of_roots(roots)))
    if architecture.is_whole:
        return tables
    index = architecture.index_of_roots(roots)[:, None] + np.arange(architecture.root_entries)
    entries: Entries = np.take_along_axis(tables, index, axis=1)
    return entries
