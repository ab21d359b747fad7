"""Evidence that a page is or is not a page table, and the targets of its entries.

The majority of entries decides: see Weight.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.paging.architecture import PRESENT, Entries
from memory_visualizer.paging.beyond import Leading, are_beyond, width_by_size
from memory_visualizer.paging.groups import group_starts
from memory_visualizer.paging.memory import TABLES_AT_ONCE, PhysicalMemory, is_held
from memory_visualizer.paging.software import Paging

_FEWEST_LEAVES = 8
"""Fewer entries say nothing about the mixtures of their flags."""
_MIXTURES_OF_TABLE = 16
"""A real table has no more mixtures of flags: writable or not, executable or not, cached or not."""


@dataclass(frozen=True, eq=False)
class Weight:
    """Evidence for and against pages being page tables: numbers of entries for each page."""

    entries: NDArray[np.int64]
    """Entries that lead somewhere, impossible entries included."""
    impossible: NDArray[np.int64]
    """Entries that break the rules of the processor or the system."""
    torn: NDArray[np.int64]
    """Possible entries that are left out, since most entries from a broken one on are broken."""
    odd: NDArray[np.int64]
    """Possible entries that the system does not make, or that name neither memory nor a device."""
    supervisor: NDArray[np.int64]
    """Other entries that lead to tables and bar user mode: odd if user mode reaches the table."""

    def is_table(self, is_user: NDArray[np.bool_], page: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether each page, by its number, is a table on a path of user mode, or of the kernel.

        The majority of entries decides. So a flipped bit in a real table costs only its entry, and
        a page that is not a table leads nowhere, whatever a few of its words look like.
        """
        against = self.impossible[page] + self.odd[page]
        against += np.where(is_user, self.supervisor[page], 0)
        sound: NDArray[np.bool_] = 2 * against <= self.entries[page]
        return sound


def weighed(
    memory: PhysicalMemory, paging: Paging, number: int, tables: Entries
) -> tuple[NDArray[np.intp], NDArray[np.intp], Entries, NDArray[np.int64], "Weight | None"]:
    """The entries of a level's tables that lead somewhere, without the impossible ones.

    A page whose entries break the processor's rules is no table from the first of them on: it may
    be one in its first part only, as where a page was reused while it was saved. Entries behind
    the break are believed all the same if they outnumber the broken ones, as a flipped bit breaks
    an entry, too. So the break costs at most as many sound entries as there are broken ones.

    Returns for each entry: number of the table, ascending; index; the entry; the frame that it
    names. Then the weight of the tables, or None if nothing speaks against any of them.
    """
    level, count = paging.levels[number], len(tables)
    found = np.flatnonzero(paging.is_present(tables))
    table = found >> (tables.shape[1] - 1).bit_length()
    entry = tables.reshape(-1)[found]
    rows = Leading(table, found & (tables.shape[1] - 1), entry, paging.frames(entry, level))
    impossible = paging.is_impossible(entry, rows.frame, level)
    if level.may_map and paging.software.has_habits and level.pages > 2 * memory.frame_count:
        # No machine maps a large page at address 0 of which more than half lies beyond its memory.
        impossible |= (rows.frame == 0) & paging.is_large(entry, level)
    broken = absent = torn = np.zeros(count, np.int64)
    believed = None
    if impossible.any():
        # The processor treats these entries as not present: they speak against a table, but are not
        # damage. If tables map themselves, an entry of a large page looks like this.
        reserved = impossible & (entry & np.uint64(PRESENT) != 0)
        reserved &= entry & np.uint64(level.required) != np.uint64(level.required)
        absent = np.bincount(table[reserved], minlength=count)
        broken = np.bincount(table[impossible & ~reserved], minlength=count)
        behind = np.zeros(len(table), bool)
        if number or paging.architecture.is_whole:  # else the frame may hold other data, too
            behind = _behind_break(table, impossible & ~reserved) & ~impossible
            torn = np.bincount(table[behind], minlength=count)
        rows, believed = rows.take(~impossible), ~behind[~impossible]
    odd, supervisor = _oddities(memory, paging, number, rows, count)
    if believed is not None:
        rows = rows.take(believed)  # after all entries have been asked what speaks against a table
    weight = None
    if impossible.any() or odd.any() or supervisor.any():
        entries = np.bincount(table, minlength=count)
        weight = Weight(entries, broken, torn, odd + absent, supervisor)
    return *rows, weight


def _behind_break(table: NDArray[np.intp], is_broken: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which entries follow a broken one from which on most entries of their table are broken.

    `table` ascends, and the entries of a table do so by their index.
    """
    behind = np.zeros(len(table), bool)
    rows = np.flatnonzero(np.isin(table, table[is_broken]))
    is_broken = is_broken[rows]
    starts = group_starts(table[rows])
    sizes = np.diff(starts, append=len(rows))
    votes = np.where(is_broken, 1, -1)
    upto = np.cumsum(votes)
    from_there_on = np.repeat(upto[starts + sizes - 1], sizes) - upto + votes
    breaks = np.where(is_broken & (from_there_on > 0), np.arange(len(rows)), len(rows))
    first_break = np.repeat(np.minimum.reduceat(breaks, starts), sizes)
    behind[rows] = np.arange(len(rows)) > first_break
    return behind


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
    """The number of odd entries of each table of the last level: all of them, or 0.

    Pages may be mapped with any flags, but neighbouring pages are mapped alike. A page in which
    every other entry has a new mixture of flags (Architecture.mixtures) is not a table.
    """
    seen = rows.entry & np.uint64(PRESENT) != 0
    flags = paging.architecture.mixtures(rows.entry)
    mixtures = np.bincount(rows.table[seen] * 64 + flags[seen], minlength=64 * count)
    mixtures = mixtures.reshape(count, 64)
    present = mixtures.sum(axis=1)
    kinds = np.count_nonzero(mixtures, axis=1)
    too_many = kinds > np.minimum(present // 2, _MIXTURES_OF_TABLE)
    return np.where((present >= _FEWEST_LEAVES) & too_many, present, 0)


def sound_entries(
    memory: PhysicalMemory, paging: Paging, number: int, tables: Entries
) -> tuple[NDArray[np.intp], Entries, NDArray[np.int64]]:
    """The entries that lead somewhere: their places in all of `tables`, the entries, their frames.

    Whether user mode reaches these tables is unknown, so an entry that bars it is not odd.
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
    """The frames that entries of one level's tables lead to, -1 for none, and which map pages.

    Shape (n, paging.entries). Entries that break the processor's rules lead to nothing, and so do
    all entries of a page that is not a table.
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
    """Which of these pages look like tables of one level: most of their entries lead somewhere.

    An empty page does not. Pages of the top level are numbered as roots.
    """
    found = np.zeros(len(frames), bool)
    for start in range(0, len(frames), TABLES_AT_ONCE):
        part = frames[start : start + TABLES_AT_ONCE]
        tables = read_roots(memory, paging, part) if number == 0 else None
        if tables is None:
            tables = paging.decode(memory.read_frames(part))
        present = np.count_nonzero(paging.is_present(tables), axis=1)
        # Entries that are not present may hold anything, but they are not most of a table.
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
    """For each frame, whether it is a table of these spaces, and whether of the lowest level.

    Tables of the lowest level are not read: entries above name them. `own_only` and `no_tables` as
    in `walk`.
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
    """The held frames of tables that these tables name on one level; `own` are its entries."""
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
    """The entries of top levels, or of single frames of them, shape (n, entries)."""
    architecture = paging.architecture
    tables = paging.decode(memory.read_frames(architecture.frames_of_roots(roots)))
    if architecture.is_whole:
        return tables
    index = architecture.index_of_roots(roots)[:, None] + np.arange(architecture.root_entries)
    entries: Entries = np.take_along_axis(tables, index, axis=1)
    return entries
