"""The walk of page tables: all mappings of all address spaces of a dump at once.

The walk goes level by level: all tables of one level are gathered, their entries decoded together,
and the tables below them made unique before they are read. So a table is read once for each level
at which it serves, however many paths lead to it, and tables that lead in circles cost no more than
others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.paging.architecture import (
    MAY_EXECUTE,
    MAY_USER,
    MAY_WRITE,
    Entries,
    Level,
)
from memory_visualizer.paging.groups import SHARED, group_starts, one_of_each
from memory_visualizer.paging.mappings import Losses, Mappings
from memory_visualizer.paging.memory import (
    TABLES_AT_ONCE,
    PhysicalMemory,
    is_held,
    is_there,
)
from memory_visualizer.paging.software import Paging
from memory_visualizer.paging.tables import Weight, weighed
from memory_visualizer.paging.width import with_voted_width
from memory_visualizer.units import PAGE_SIZE

_DIRECT = 8
"""Beside MAY_ bits, while tables are walked: no top-level table served on a lower level on the
way."""
_KINDS = 16
_WAYS_AT_ONCE = 512
_FAIR_PART = 8
"""The part of all tables of a level that one address space may have."""
_WAITING_WAYS = 1 << 18
_ALIKE = 4
"""So many times, in the middle, an honest system's ways of user mode come again, at most."""


@dataclass(frozen=True, eq=False)
class _Reached:
    """Tables of one level and by which way they are reached, a row for each way."""

    space: NDArray[np.int32]
    table: NDArray[np.int64]
    virtual: NDArray[np.uint64]
    """Address of the first byte that the table covers, not yet canonical."""
    access: NDArray[np.uint8]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "_Reached":
        return _Reached(self.space[rows], self.table[rows], self.virtual[rows], self.access[rows])

    def parted(self, parts: int, size: int) -> "_Reached":
        """The frames of tables that have so many each, of which each covers `size` addresses."""
        part = np.tile(np.arange(parts), len(self.table))
        rows = self.take(np.repeat(np.arange(len(self.table)), parts))
        virtual = rows.virtual + part.astype(np.uint64) * np.uint64(size)
        return replace(rows, table=rows.table + part, virtual=virtual)

    @property
    def table_count(self) -> int:
        """How many tables, whatever the ways."""
        return len(distinct(self.table))

    @classmethod
    def join(cls, batches: list["_Reached"]) -> "_Reached":
        return cls(
            np.concatenate([np.empty(0, np.int32), *(batch.space for batch in batches)]),
            np.concatenate([np.empty(0, np.int64), *(batch.table for batch in batches)]),
            np.concatenate([np.empty(0, np.uint64), *(batch.virtual for batch in batches)]),
            np.concatenate([np.empty(0, np.uint8), *(batch.access for batch in batches)]),
        )

    def unique(self, frame_count: int, limit: int) -> "_Reached":
        """Each table once for each access and, for user mode, each address space.

        The kernel's tables count once for all spaces; so do a user's tables, and whatever the
        access, from the moment there are more than `limit` ways, as only a dump made to waste time
        has them.
        """
        user = self.access & MAY_USER != 0
        if np.count_nonzero(user) <= _ALIKE * limit:
            own = self.take(user)._unique_in_spaces()
            if len(own.table) <= limit:
                kernel = self.take(~user)
                return _Reached.join([own, kernel._unique(kernel.access, frame_count)])
        return self._unique(user.view(np.uint8), frame_count)

    def _unique_in_spaces(self) -> "_Reached":
        """Each table once for each access and each address space."""
        if not len(self.table):
            return self
        # One number to sort by is much faster than several.
        space = self.space.astype(np.int64) - SHARED
        key = (self.table * (space.max() + 1) + space) * _KINDS + self.access
        order = np.argsort(key)
        starts = group_starts(key[order])
        virtual = np.minimum.reduceat(self.virtual[order], starts)
        return replace(self.take(order[starts]), virtual=virtual)

    def _unique(self, kind: NDArray[np.uint8], frame_count: int) -> "_Reached":
        """Each table once for each kind of way to it; kinds are below _KINDS.

        Nothing is sorted, as these ways may be very many.
        """
        first = one_of_each(self.table, frame_count)
        is_first = first == np.arange(len(first))
        table = self.table[is_first]
        number = np.cumsum(is_first) - 1
        group = number[first] * _KINDS + kind
        groups = len(table) * _KINDS
        virtual = np.full(groups, np.iinfo(np.uint64).max, np.uint64)
        np.minimum.at(virtual, group, self.virtual)
        lowest = np.full(groups, np.iinfo(np.int32).max, np.int32)
        np.minimum.at(lowest, group, self.space)
        highest = np.full(groups, SHARED, np.int32)
        np.maximum.at(highest, group, self.space)
        access = np.zeros(groups, np.uint8)
        for bit in (MAY_USER, MAY_WRITE, MAY_EXECUTE, _DIRECT):
            access[group[self.access & bit != 0]] |= bit
        there = np.flatnonzero(lowest <= highest)
        space = np.where(lowest == highest, lowest, np.int32(SHARED))[there]
        return _Reached(space, table[there // _KINDS], virtual[there], access[there])


class _Below:
    """The tables of one level, and the ways to them, as they are gathered from the level above."""

    def __init__(self, memory: PhysicalMemory, table_limit: int, way_limit: int) -> None:
        """Take in so many tables; for `way_limit` see _Reached.unique."""
        self._way_limit = way_limit
        self._room = table_limit
        self._room_for_each = table_limit // _FAIR_PART
        self._of_space = np.zeros(1, np.int64)
        """How many tables each space has led to, those that are SHARED first."""
        self._known = np.zeros(memory.frame_count, bool)
        self._left_out = np.zeros(memory.frame_count, bool)
        self._batches: list[_Reached] = []
        self._waiting = 0

    def admit(self, tables: NDArray[np.int64], spaces: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which of these tables, any of them any number of times, there is room for.

        A space that leads to too many of them has its own left out, not those of others.
        """
        admitted = self._known[tables]
        if admitted.all():
            return admitted
        if self._room:
            rows = np.flatnonzero(~admitted)
            one = one_of_each(tables[rows], len(self._known))
            rows = rows[one == np.arange(len(one))]
            rows = rows[self._is_fair(spaces[rows])][: self._room]
            self._room -= len(rows)
            self._of_space += np.bincount(spaces[rows] - SHARED, minlength=len(self._of_space))
            self._known[tables[rows]] = True
            admitted = self._known[tables]
        self._left_out[tables[~admitted]] = True
        return admitted

    def _is_fair(self, spaces: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which of these tables, by the spaces that lead to them, are not beyond their share."""
        number = spaces.astype(np.int64) - SHARED
        count = np.bincount(number, minlength=len(self._of_space))
        self._of_space = np.pad(self._of_space, (0, len(count) - len(self._of_space)))
        if (self._of_space + count)[1:].max(initial=0) <= self._room_for_each:
            return np.ones(len(number), bool)
        order = np.argsort(number, kind="stable")
        rank = np.empty(len(number), np.int64)
        rank[order] = np.arange(len(number)) - (np.cumsum(count) - count)[number[order]]
        fair: NDArray[np.bool_] = (self._of_space[number] + rank < self._room_for_each) | (
            number == 0
        )
        return fair

    def add(self, ways: _Reached) -> None:
        """Add ways to tables that were admitted."""
        self._waiting += len(ways.table)
        self._batches.append(ways)
        if self._waiting > _WAITING_WAYS:
            self._batches = [self.ways()]
            self._waiting = 0

    def ways(self) -> _Reached:
        """All ways that were added."""
        return _Reached.join(self._batches).unique(len(self._known), self._way_limit)

    @property
    def left_out(self) -> int:
        """How many tables there was no room for."""
        return int(np.count_nonzero(self._left_out))


@dataclass(frozen=True, eq=False)
class _Decoded:
    """Entries of tables that lead somewhere, a row for each, for each way to their table."""

    ways: _Reached
    """The ways to the tables."""
    way: NDArray[np.intp]
    """Row in `ways`."""
    index: NDArray[np.intp]
    """Where in its table the entry is."""
    entry: Entries
    frame: NDArray[np.int64]
    """What the entry names."""

    def reached(self, rows: NDArray[np.intp], access: NDArray[np.uint8], level: Level) -> _Reached:
        """What some of the entries lead to, with the access that is given for all of them."""
        return _Reached(
            self.ways.space[self.way[rows]],
            self.frame[rows],
            self.address(level, rows),
            access[rows],
        )

    def address(
        self, level: Level, rows: "NDArray[np.intp] | slice" = slice(None)
    ) -> NDArray[np.uint64]:
        """The first address that each entry stands for, not yet canonical."""
        covered = self.index[rows].astype(np.uint64) << np.uint64(level.shift)
        return self.ways.virtual[self.way[rows]] + covered


def walk(
    memory: PhysicalMemory,
    paging: Paging,
    roots: NDArray[np.int64],
    spaces: NDArray[np.int32] | None = None,
    *,
    kernel_only: bool = False,
    own_only: bool = False,
    losses: Losses | None = None,
    no_tables: NDArray[np.bool_] | None = None,
) -> Iterator[Mappings]:
    """Walk the page tables of address spaces and yield their mappings, in batches.

    `roots` are the top levels, shape (n, paging.top_frames), as Architecture.roots_at numbers them,
    most often by their frames; `spaces` what
    Mappings.space shall be for each, by default its number; two roots may share one. With
    `kernel_only` what user mode may reach is left out, with `own_only` what is not below the
    software's user_entries. Frames that the dump does not hold are left out as tables, and as pages
    unless the dump leaves them out on purpose. The kernel's mappings, which all spaces share, come
    once; merge_alike finds those that come again through each space's own top level. What could not
    be used is added to `losses`, also frames of which `no_tables` says that none is a table.

    However the tables lead to one another, the cost is bound by the dump's budget; on
    each level but the last at most half of what is left of these is spent.
    """
    # Devices may lie higher than that; but what is mapped there is nothing that the dump holds.
    bits = max(paging.physical_bits, memory.frame_count.bit_length() + 12)
    paging = with_voted_width(memory, replace(paging, physical_bits=bits), roots)
    walker = _Walker(memory, paging, kernel_only, own_only, losses or Losses(), no_tables)
    if spaces is None:
        spaces = np.arange(len(roots), dtype=np.int32)
    yield from walker.mappings(roots, spaces)


class _Walker:
    """One walk, and what is left of what it may cost."""

    def __init__(
        self,
        memory: PhysicalMemory,
        paging: Paging,
        kernel_only: bool,
        own_only: bool,
        losses: Losses,
        no_tables: NDArray[np.bool_] | None,
    ) -> None:
        self._memory = memory
        self._paging = paging
        self._kernel_only = kernel_only
        self._own_entries = paging.software.user_entries if own_only else None
        self._losses = losses
        self._no_tables = no_tables
        self._refused = np.zeros(memory.frame_count, bool)
        """Frames that are no tables, though reached as such."""
        self._is_root = np.zeros(memory.frame_count, bool)
        # Of an honest system each user table has one way to it, or few more.
        self._way_limit = memory.frame_count // 8 + 1024
        part = 4 if kernel_only else 1  # a kernel maps a page seldom twice
        self._tables_left = memory.budget.share("page table", part)
        self._entries_left = memory.budget.share("table entry", part)

    def mappings(self, roots: NDArray[np.int64], spaces: NDArray[np.int32]) -> Iterator[Mappings]:
        """Walk level by level; `roots` and `spaces` as for walk."""
        reached = self._start(roots, spaces)
        last = len(self._paging.levels) - 1
        for number in range(last + 1):
            self._tables_left -= reached.table_count
            # Those of the last level are most of all tables.
            room = self._tables_left if number == last - 1 else self._tables_left // 2
            below = _Below(self._memory, room, self._way_limit)
            yield from self._level(number, reached, below)
            self._losses.tables += below.left_out
            reached = below.ways()
        self._losses.not_tables |= set(np.flatnonzero(self._refused).tolist())

    def _start(self, roots: NDArray[np.int64], spaces: NDArray[np.int32]) -> _Reached:
        """The ways to the tables of the top level."""
        architecture, shift = self._paging.architecture, np.uint64(self._paging.levels[0].shift)
        count, parts = roots.shape
        start = np.arange(parts, dtype=np.uint64) << shift
        # Of a root that begins within its frame, that frame is the table, with entries before.
        before = architecture.index_of_roots(roots.astype(np.int64).ravel()).view(np.uint64)
        reached = _Reached(
            np.repeat(spaces, parts),
            architecture.frames_of_roots(roots.astype(np.int64).ravel()),
            np.tile(start * np.uint64(self._paging.entries), count) - (before << shift),
            np.full(count * parts, MAY_USER | MAY_WRITE | MAY_EXECUTE | _DIRECT, np.uint8),
        )
        reached = reached.take(is_held(self._memory, reached.table))
        self._is_root[reached.table] = True
        below = _Below(self._memory, self._tables_left // 2, self._way_limit)
        reached = reached.take(
            below.admit(reached.table, np.full(len(reached.table), SHARED, np.int32))
        )
        self._losses.tables += below.left_out
        return reached

    def _level(self, number: int, reached: _Reached, below: _Below) -> Iterator[Mappings]:
        """Yield the mappings in one level's tables, and add to `below` what they lead to."""
        paging, level = self._paging, self._paging.levels[number]
        is_last = number == len(paging.levels) - 1
        limit = self._entries_left if is_last else self._entries_left // 2
        entries = 0
        for found in self._decoded(number, reached):
            if entries > limit:
                later = reached.table[reached.table >= found.ways.table[0]]
                self._losses.tables += len(distinct(later))
                break
            entries += len(found.entry)
            maps = np.ones(len(found.entry), bool)
            if not is_last:
                maps = paging.is_large(found.entry, level)
            access = self._access(number, found, maps)
            chosen = self._chosen(number, found, access)
            maps &= chosen
            yield _mapped(self._memory, paging, level, found, access, maps)
            if not is_last:
                leads = self._leads(found, chosen & ~maps)
                ways = found.reached(leads, access, level)
                if (parts := paging.architecture.page_frames) > 1:
                    ways = ways.parted(parts, paging.entries << paging.levels[number + 1].shift)
                    ways = ways.take(is_held(self._memory, ways.table))
                below.add(ways.take(below.admit(ways.table, ways.space)))
        self._entries_left -= entries

    def _access(self, number: int, found: _Decoded, maps: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """What is allowed on the way to each entry and by itself; `maps`: those that map pages."""
        access = self._paging.access(found.entry, maps)
        if number == 0 and self._paging.software.parts_code:
            access |= MAY_EXECUTE
        access |= _DIRECT
        if number == 0 and self._paging.software.bars_other_half:
            own = self._paging.software.user_entries or range(0)
            access[found.index >= own.stop] &= ~np.uint8(MAY_USER)
        if number == 0:
            named = np.flatnonzero(is_held(self._memory, found.frame))
            access[named[self._is_root[found.frame[named]]]] &= ~np.uint8(_DIRECT)
        access &= found.ways.access[found.way]
        return access

    def _chosen(self, number: int, found: _Decoded, access: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which entries are wanted."""
        chosen = access & MAY_USER == 0 if self._kernel_only else np.ones(len(access), bool)
        if number == 0 and not self._paging.architecture.is_whole:
            chosen &= found.address(self._paging.levels[0]) < 1 << self._paging.address_bits
        if self._kernel_only and number == 0:
            held = np.flatnonzero(is_held(self._memory, found.frame))
            chosen[held[self._is_root[found.frame[held]]]] = False
        if number == 0 and (own := self._own_entries):
            shift = np.uint64(self._paging.levels[0].shift)
            index = (found.ways.virtual[found.way] >> shift).view(np.int64) + found.index
            chosen &= (index >= own.start) & (index < own.stop)
        return chosen

    def _leads(self, found: _Decoded, chosen: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Which of these entries lead to frames that are held, and that may be tables."""
        leads = np.flatnonzero(chosen & is_held(self._memory, found.frame))
        if self._no_tables is not None:
            is_none = self._no_tables[found.frame[leads]]
            self._losses.not_tables |= set(found.frame[leads[is_none]].tolist())
            leads = leads[~is_none]
        return leads

    def _decoded(self, number: int, reached: _Reached) -> Iterator[_Decoded]:
        """Yield the entries of a level's tables that lead somewhere, many tables at once."""
        memory, paging = self._memory, self._paging
        reached = reached.take(np.argsort(reached.table, kind="stable"))
        for start, end in _pieces(reached.table):
            ways = reached.take(slice(start, end))
            first_way = group_starts(ways.table)
            tables = paging.decode(memory.read_frames(ways.table[first_way]))
            table, index, entry, frame, weight = weighed(memory, paging, number, tables)
            table_of_way = _table_of_way(first_way, end - start)
            is_table = self._is_table(number, ways, weight, table_of_way)
            if is_table.all() and len(ways.table) == len(first_way):
                yield _Decoded(ways, table, index, entry, frame)
                continue
            # All entries of a way's table, for each way.
            ways, table_of_way = ways.take(is_table), table_of_way[is_table]
            first_entry = np.searchsorted(table, np.arange(len(first_way) + 1))
            count = np.diff(first_entry)[table_of_way]
            way = np.repeat(np.arange(len(table_of_way)), count)
            offset = np.arange(len(way)) - np.repeat(np.cumsum(count) - count, count)
            row = first_entry[table_of_way][way] + offset
            yield _Decoded(ways, way, index[row], entry[row], frame[row])

    def _is_table(
        self, number: int, ways: _Reached, weight: Weight | None, table_of_way: NDArray[np.intp]
    ) -> NDArray[np.bool_]:
        """Whether each way leads to a table; `weight` is None where nothing speaks against any."""
        if number == 0 and not self._paging.architecture.is_whole:
            return np.ones(len(ways.table), bool)  # other things may lie in the same frame
        is_direct = ways.access & _DIRECT != 0
        # Tables that map themselves serve once more a level below, and so do those that are none.
        refused = self._refused[ways.table] & self._paging.software.has_habits
        is_table: NDArray[np.bool_] = is_direct | ~refused
        if weight is not None:
            is_user = (ways.access & MAY_USER != 0) & (number > 0)
            is_table &= weight.is_table(is_user, table_of_way)
            self._refused[ways.table[is_direct & ~is_table]] = True
            sound = distinct(table_of_way[is_table])
            self._losses.impossible += int(weight.impossible[sound].sum())
        return is_table


def _table_of_way(first_way: NDArray[np.intp], ways: int) -> NDArray[np.intp]:
    """The number of each way's table, where each table's ways stand together."""
    return np.repeat(np.arange(len(first_way)), np.diff(first_way, append=np.intp(ways)))


def _pieces(table: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Part the sorted tables of ways in pieces of so many tables and ways as are read at once.

    The ways of one table stay together, unless they alone are too many.
    """
    first_way = group_starts(table)
    start = 0
    while start < len(table):
        number = int(np.searchsorted(first_way, start, "right")) - 1
        last = number + TABLES_AT_ONCE
        end = int(first_way[last]) if last < len(first_way) else len(table)
        if end - start > _WAYS_AT_ONCE:
            whole = int(first_way[np.searchsorted(first_way, start + _WAYS_AT_ONCE, "right") - 1])
            end = whole if whole > start else start + _WAYS_AT_ONCE
        yield start, end
        start = end


def _mapped(
    memory: PhysicalMemory,
    paging: Paging,
    level: Level,
    found: _Decoded,
    access: NDArray[np.uint8],
    maps: NDArray[np.bool_],
) -> Mappings:
    """The mappings among the entries, of frames that the dump holds or leaves out on purpose."""
    pages = level.pages
    rows = np.flatnonzero(maps)
    reached = found.reached(rows, access, level)
    if pages == paging.architecture.page_frames > 1:  # the smallest pages are told by their frames
        reached, pages = reached.parted(pages, PAGE_SIZE), 1
    frame = reached.table
    # Of a large page the first frame may be missing where later ones are not.
    inside = is_there(memory, frame) if pages == 1 else frame < memory.frame_count
    mappings = Mappings(
        reached.space,
        paging.canonical(reached.virtual),
        frame,
        np.full(len(frame), pages, np.int64),
        reached.access & np.uint8(_DIRECT - 1),
    )
    return mappings if inside.all() else mappings.take(inside)
