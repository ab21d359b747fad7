"""The walk of page tables: all mappings of all address spaces of a dump at once.

The walk goes level by level: it gathers all tables of one level, decodes their entries together,
and removes duplicates among the tables below before it reads them. So a table is read once for each
level on which it serves, however many paths lead to it, and tables that lead in circles cost no
more than others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct, union
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
"""A bit beside the MAY_ bits during the walk: the path does not pass through a top-level table on a
lower level."""
_KINDS = 16
_PATHS_AT_ONCE = 512
_FAIR_PART = 8
"""One address space may have at most this fraction of all tables of a level."""
_WAITING_PATHS = 1 << 18
_ALIKE = 4
"""The largest mean number of user-mode paths to each table in a sound system."""


@dataclass(frozen=True, eq=False)
class _Reached:
    """Tables of one level and the paths that lead to them, a row for each path."""

    space: NDArray[np.int32]
    table: NDArray[np.int64]
    virtual: NDArray[np.uint64]
    """Address of the first byte that the table covers, not yet canonical."""
    access: NDArray[np.uint8]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "_Reached":
        return _Reached(self.space[rows], self.table[rows], self.virtual[rows], self.access[rows])

    def parted(self, parts: int, size: int) -> "_Reached":
        """The single frames of tables of `parts` frames each; a frame covers `size` addresses."""
        part = np.tile(np.arange(parts), len(self.table))
        rows = self.take(np.repeat(np.arange(len(self.table)), parts))
        virtual = rows.virtual + part.astype(np.uint64) * np.uint64(size)
        return replace(rows, table=rows.table + part, virtual=virtual)

    @property
    def table_count(self) -> int:
        """The number of distinct tables."""
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

        The kernel's tables count once for all spaces. If there are more than `limit` paths, which
        only a dump made to waste time has, user tables count once, too, whatever the access.
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
        # Sorting by one number is much faster than by several.
        space = self.space.astype(np.int64) - SHARED
        key = (self.table * (space.max() + 1) + space) * _KINDS + self.access
        order = np.argsort(key)
        starts = group_starts(key[order])
        virtual = np.minimum.reduceat(self.virtual[order], starts)
        return replace(self.take(order[starts]), virtual=virtual)

    def _unique(self, kind: NDArray[np.uint8], frame_count: int) -> "_Reached":
        """Each table once for each kind of path to it; kinds are numbers below _KINDS.

        Nothing is sorted, since there may be very many paths.
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
    """The tables of one level, and the paths to them, gathered from the level above."""

    def __init__(self, memory: PhysicalMemory, table_limit: int, path_limit: int) -> None:
        """Accept up to `table_limit` tables; for `path_limit` see _Reached.unique."""
        self._path_limit = path_limit
        self._room = table_limit
        self._room_for_each = table_limit // _FAIR_PART
        self._of_space = np.zeros(1, np.int64)
        """The number of tables that each space led to; the first number is that of SHARED."""
        self._known = np.zeros(memory.frame_count, bool)
        self._left_out = np.zeros(memory.frame_count, bool)
        self._batches: list[_Reached] = []
        self._waiting = 0

    def admit(self, tables: NDArray[np.int64], spaces: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which of these tables there is room for; a table may come any number of times.

        A space that leads to too many tables loses its own tables, and no other space's.
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
        """Which of these tables are within the share of the space that leads to them."""
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

    def add(self, paths: _Reached) -> None:
        """Add paths to tables that were admitted."""
        self._waiting += len(paths.table)
        self._batches.append(paths)
        if self._waiting > _WAITING_PATHS:
            self._batches = [self.paths()]
            self._waiting = 0

    def paths(self) -> _Reached:
        """All paths that were added."""
        return _Reached.join(self._batches).unique(len(self._known), self._path_limit)

    @property
    def left_out(self) -> int:
        """The number of tables that were refused."""
        return int(np.count_nonzero(self._left_out))


@dataclass(frozen=True, eq=False)
class _Decoded:
    """Entries that lead somewhere, a row for each entry and each path to its table."""

    paths: _Reached
    """The paths to the tables."""
    path: NDArray[np.intp]
    """Row in `paths`."""
    index: NDArray[np.intp]
    """Index of the entry in its table."""
    entry: Entries
    frame: NDArray[np.int64]
    """The frame that the entry names."""

    def reached(self, rows: NDArray[np.intp], access: NDArray[np.uint8], level: Level) -> _Reached:
        """The tables that some of the entries lead to; `access` is given for all entries."""
        return _Reached(
            self.paths.space[self.path[rows]],
            self.frame[rows],
            self.address(level, rows),
            access[rows],
        )

    def address(
        self, level: Level, rows: "NDArray[np.intp] | slice" = slice(None)
    ) -> NDArray[np.uint64]:
        """The first address that each entry covers, not yet canonical."""
        covered = self.index[rows].astype(np.uint64) << np.uint64(level.shift)
        return self.paths.virtual[self.path[rows]] + covered


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

    `roots` are the top levels, shape (n, paging.top_frames), numbered as by Architecture.roots_at,
    mostly by their frames. `spaces` gives each root the value of Mappings.space, by default its
    number; two roots may share a value. `kernel_only` leaves out pages that user mode may reach;
    `own_only` leaves out everything that is not below the software's user_entries. Tables that the
    dump does not hold are left out, and so are pages, unless the dump leaves them out on purpose.
    The kernel's mappings, which all spaces share, come once; merge_alike finds mappings that come
    again through each space's own top level. Unusable entries are added to `losses`, also frames
    that cannot be tables by `no_tables`.

    The dump's budget bounds the cost, however the tables lead to one another; each level but the
    last spends at most half of the rest.
    """
    # Devices may lie at higher addresses, but the dump does not hold their pages.
    bits = max(paging.physical_bits, memory.frame_count.bit_length() + 12)
    paging = with_voted_width(memory, replace(paging, physical_bits=bits), roots)
    walker = _Walker(memory, paging, kernel_only, own_only, losses or Losses(), no_tables)
    if spaces is None:
        spaces = np.arange(len(roots), dtype=np.int32)
    yield from walker.mappings(roots, spaces)


class _Walker:
    """One walk, and the rest of its budget."""

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
        """Frames that entries name as tables, but that are not tables."""
        self._is_root = np.zeros(memory.frame_count, bool)
        self._strange = np.empty(0, np.int64)
        """Such tables, and the spaces that have them, as single numbers: see _are_strange."""
        self._are_one = False
        """Whether all roots are of one space, so that nothing is to be compared with others."""
        # In a sound system, one path or a few more lead to each user table.
        self._path_limit = memory.frame_count // 8 + 1024
        part = 4 if kernel_only else 1  # a kernel rarely maps a page twice
        self._tables_left = memory.budget.share("page table", part)
        self._entries_left = memory.budget.share("table entry", part)

    def mappings(self, roots: NDArray[np.int64], spaces: NDArray[np.int32]) -> Iterator[Mappings]:
        """Walk level by level; `roots` and `spaces` as for walk."""
        self._are_one = not (spaces != spaces[:1]).any()
        reached = self._start(roots, spaces)
        last = len(self._paging.levels) - 1
        for number in range(last + 1):
            self._tables_left -= reached.table_count
            # Most tables are on the last level.
            room = self._tables_left if number == last - 1 else self._tables_left // 2
            below = _Below(self._memory, room, self._path_limit)
            yield from self._level(number, reached, below)
            self._losses.tables += below.left_out
            reached = below.paths()
        self._losses.not_tables |= set(np.flatnonzero(self._refused).tolist())
        self._losses.of_user += len(self._strange)

    def _start(self, roots: NDArray[np.int64], spaces: NDArray[np.int32]) -> _Reached:
        """The paths to the tables of the top level."""
        architecture, shift = self._paging.architecture, np.uint64(self._paging.levels[0].shift)
        count, parts = roots.shape
        start = np.arange(parts, dtype=np.uint64) << shift
        # If a root begins within its frame, the table is the whole frame, which begins with the
        # entries before the root: its first address lies lower by these.
        before = architecture.index_of_roots(roots.astype(np.int64).ravel()).view(np.uint64)
        reached = _Reached(
            np.repeat(spaces, parts),
            architecture.frames_of_roots(roots.astype(np.int64).ravel()),
            np.tile(start * np.uint64(self._paging.entries), count) - (before << shift),
            np.full(count * parts, MAY_USER | MAY_WRITE | MAY_EXECUTE | _DIRECT, np.uint8),
        )
        reached = reached.take(is_held(self._memory, reached.table))
        self._is_root[reached.table] = True
        below = _Below(self._memory, self._tables_left // 2, self._path_limit)
        reached = reached.take(
            below.admit(reached.table, np.full(len(reached.table), SHARED, np.int32))
        )
        self._losses.tables += below.left_out
        return reached

    def _level(self, number: int, reached: _Reached, below: _Below) -> Iterator[Mappings]:
        """Yield the mappings in one level's tables, and add their target tables to `below`."""
        paging, level = self._paging, self._paging.levels[number]
        is_last = number == len(paging.levels) - 1
        limit = self._entries_left if is_last else self._entries_left // 2
        entries = 0
        for found in self._decoded(number, reached):
            if entries > limit:
                later = reached.table[reached.table >= found.paths.table[0]]
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
                paths = found.reached(leads, access, level)
                if (parts := paging.architecture.page_frames) > 1:
                    paths = paths.parted(parts, paging.entries << paging.levels[number + 1].shift)
                    paths = paths.take(is_held(self._memory, paths.table))
                below.add(paths.take(below.admit(paths.table, paths.space)))
        self._entries_left -= entries

    def _access(self, number: int, found: _Decoded, maps: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """The access that the path and the entry itself allow; `maps`: which map pages."""
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
        access &= found.paths.access[found.path]
        return access

    def _chosen(self, number: int, found: _Decoded, access: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which entries the walk was asked for."""
        chosen = access & MAY_USER == 0 if self._kernel_only else np.ones(len(access), bool)
        if number == 0 and not self._paging.architecture.is_whole:
            chosen &= found.address(self._paging.levels[0]) < 1 << self._paging.address_bits
        if self._kernel_only and number == 0:
            held = np.flatnonzero(is_held(self._memory, found.frame))
            chosen[held[self._is_root[found.frame[held]]]] = False
        if number == 0 and (own := self._own_entries):
            shift = np.uint64(self._paging.levels[0].shift)
            index = (found.paths.virtual[found.path] >> shift).view(np.int64) + found.index
            chosen &= (index >= own.start) & (index < own.stop)
        return chosen

    def _leads(self, found: _Decoded, chosen: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Which of these entries lead to frames that are held and may be tables."""
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
            paths = reached.take(slice(start, end))
            first_path = group_starts(paths.table)
            tables = paging.decode(memory.read_frames(paths.table[first_path]))
            table, index, entry, frame, weight = weighed(memory, paging, number, tables)
            table_of_path = _table_of_path(first_path, end - start)
            is_table = self._is_table(number, paths, weight, table_of_path)
            is_table &= ~self._are_strange(paths, tables, table_of_path, is_table)
            if is_table.all() and len(paths.table) == len(first_path):
                yield _Decoded(paths, table, index, entry, frame)
                continue
            # For each path, all entries of its table.
            paths, table_of_path = paths.take(is_table), table_of_path[is_table]
            first_entry = np.searchsorted(table, np.arange(len(first_path) + 1))
            count = np.diff(first_entry)[table_of_path]
            path = np.repeat(np.arange(len(table_of_path)), count)
            offset = np.arange(len(path)) - np.repeat(np.cumsum(count) - count, count)
            row = first_entry[table_of_path][path] + offset
            yield _Decoded(paths, path, index[row], entry[row], frame[row])

    def _is_table(
        self, number: int, paths: _Reached, weight: Weight | None, table_of_path: NDArray[np.intp]
    ) -> NDArray[np.bool_]:
        """Whether each path leads to a table; `weight` None: nothing speaks against any."""
        if number == 0 and not self._paging.architecture.is_whole:
            return np.ones(len(paths.table), bool)  # the frame may hold other data, too
        is_direct = paths.access & _DIRECT != 0
        # Tables that map themselves serve once more a level below, and so do pages that are not
        # tables.
        refused = self._refused[paths.table] & self._paging.software.has_habits
        is_table: NDArray[np.bool_] = is_direct | ~refused
        if weight is not None:
            is_user = (paths.access & MAY_USER != 0) & (number > 0)
            is_table &= weight.is_table(is_user, table_of_path)
            self._refused[paths.table[is_direct & ~is_table]] = True
            sound = distinct(table_of_path[is_table])
            self._losses.impossible += int(weight.impossible[sound].sum())
            self._losses.torn += int(weight.torn[sound].sum())
        return is_table

    def _are_strange(
        self,
        paths: _Reached,
        tables: Entries,
        table_of_path: NDArray[np.intp],
        is_table: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Which paths lead in the kernel's half of one process alone to a table of user mode.

        Most entries of a table are open to user mode only where user mode may come. So such a path
        shows an entry with a flipped bit, which leads to a table of another process, or of this
        one. The other processes' tables tell which tables all have in common. Where tables map
        themselves, the walk rightly meets tables of user mode.
        """
        software = self._paging.software
        if self._are_one or not (software.has_habits and software.self_entries):
            return np.zeros(len(is_table), bool)
        key = paths.space * np.int64(len(self._refused)) + paths.table
        known: NDArray[np.bool_] = np.isin(key, self._strange)  # where tables map themselves
        alone: NDArray[np.bool_] = (
            is_table & (paths.access & (_DIRECT | MAY_USER) == _DIRECT) & (paths.space != SHARED)
        )
        if not alone.any():
            return known
        rows = distinct(table_of_path[alone])
        architecture = self._paging.architecture
        of_user = np.count_nonzero(architecture.let_user(tables[rows]), axis=1)
        present = np.count_nonzero(architecture.is_present(tables[rows]), axis=1)
        is_of_user = np.zeros(len(tables), bool)
        is_of_user[rows] = 2 * of_user > present
        alone &= is_of_user[table_of_path]
        self._strange = union(self._strange, key[alone])
        return known | alone


def _table_of_path(first_path: NDArray[np.intp], paths: int) -> NDArray[np.intp]:
    """The number of each path's table; the paths of a table stand together."""
    return np.repeat(np.arange(len(first_path)), np.diff(first_path, append=np.intp(paths)))


def _pieces(table: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Split the sorted tables of paths into pieces of as many tables and paths as are read at once.

    The paths of one table stay together, unless they alone are too many.
    """
    first_path = group_starts(table)
    start = 0
    while start < len(table):
        number = int(np.searchsorted(first_path, start, "right")) - 1
        last = number + TABLES_AT_ONCE
        end = int(first_path[last]) if last < len(first_path) else len(table)
        if end - start > _PATHS_AT_ONCE:
            whole = int(
                first_path[np.searchsorted(first_path, start + _PATHS_AT_ONCE, "right") - 1]
            )
            end = whole if whole > start else start + _PATHS_AT_ONCE
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
    if pages == paging.architecture.page_frames > 1:  # each frame of the smallest pages by itself
        reached, pages = reached.parted(pages, PAGE_SIZE), 1
    frame = reached.table
    # The first frame of a large page may be missing though later frames are held.
    inside = is_there(memory, frame) if pages == 1 else frame < memory.frame_count
    mappings = Mappings(
        reached.space,
        paging.canonical(reached.virtual),
        frame,
        np.full(len(frame), pages, np.int64),
        reached.access & np.uint8(_DIRECT - 1),
    )
    return mappings if inside.all() else mappings.take(inside)
