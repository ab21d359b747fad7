"""The data of a snapshot in the page: columns of whole numbers, compressed for the browser.

A column of numbers is split into planes: the lowest byte of all numbers, then the next byte, and so
on, as many as the largest number needs. This separates noise from regular bytes, which compress
best. Each column is deflated (zlib's format, which browsers call "deflate").
"""

import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import changes, count_values, look_up, mark_runs
from memory_visualizer.snapshot.owners import OwnedPages, Rows, address_in
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.viewer.addresses import further_columns, lead_to


@dataclass(frozen=True)
class Column:
    """A column of whole numbers, packed."""

    count: int
    """The number of values."""
    width: int
    """Bytes of a value, which is the number of planes."""
    packed: bytes


@dataclass(frozen=True, eq=False)
class Scattered:
    """A column of whole numbers that is 0 in most places."""

    count: int
    """The number of all places."""
    place: NDArray[np.int64]
    """The places that are not 0, ascending."""
    number: NDArray[np.int64]
    """The number in each of these places."""

    def part(self, start: int, end: int) -> NDArray[np.int64]:
        """The values from place `start` to below `end`."""
        numbers = np.zeros(min(end, self.count) - start, np.int64)
        here = slice(*np.searchsorted(self.place, (start, end)))
        numbers[self.place[here] - start] = self.number[here]
        return numbers


AnyColumn: TypeAlias = NDArray[Any] | Scattered


def pack(column: AnyColumn) -> Column:
    """Pack non-negative whole numbers; Column tells how."""
    if isinstance(column, Scattered):
        return _pack(column.count, column.number, column.part)
    return _pack(column.size, column, lambda start, end: column[start:end])


def _pack(count: int, numbers: NDArray[Any], part: Callable[[int, int], NDArray[Any]]) -> Column:
    """Pack a column; `part(start, end)` returns the values of a range of places."""
    largest = int(numbers.max()) if numbers.size else 0
    width = -(-largest.bit_length() // 8)
    packer = zlib.compressobj(_LEVEL)
    packed = bytearray()
    for place in range(width):
        for start in range(0, count, _PACKED_AT_ONCE):
            some = part(start, start + _PACKED_AT_ONCE)
            plane = some >> some.dtype.type(8 * place) if place else some
            packed += packer.compress(plane.astype(np.uint8).tobytes())
    return Column(count, width, bytes(packed + packer.flush()))


_LEVEL = 4
"""Of zlib: level 6 makes the columns of 8 GiB 4 % smaller, but takes three times as long."""
_PACKED_AT_ONCE = 1 << 17


class PageColumns:
    """The columns of an HTML page, packed in threads while the rest of the page is made.

    ``page``: PageClass in bits 0 to 2, all zeros in bit 3, Snapshot.access from bit 4 on.
    ``further``: mappings beyond the first in each process. The owners are in the columns of
    owner_columns, and other addresses in those of further_columns. Added columns come after
    ``page``.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._pool = ThreadPoolExecutor(_PACKERS)  # zlib and numpy let other threads run
        self._owners = self._pool.submit(self._pack_owners)  # first, since it takes longest
        self._packing = {"page": self._pool.submit(self._pack_classes)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, columns: Mapping[str, AnyColumn]) -> None:
        """Pack columns; each is freed after packing, unless another reference exists."""
        self._packing |= self._submit(columns)

    def wait_for_owners(self) -> None:
        """Wait until the owners are known: finding them needs the most memory of all steps."""
        self._owners.result()

    def all(self) -> tuple[dict[str, Column], int]:
        """All columns, and the number of pages whose further addresses exceed the limit."""
        owners, has_further = self._owners.result()
        also, untold = further_columns(self._snapshot, has_further)
        packing = self._packing | owners | self._submit(also)
        return {name: column.result() for name, column in packing.items()}, untold

    def _submit(self, columns: Mapping[str, AnyColumn]) -> "dict[str, Future[Column]]":
        return {name: self._pool.submit(pack, column) for name, column in columns.items()}

    def _pack_classes(self) -> Column:
        """The column ``page``."""
        snapshot = self._snapshot
        return pack(snapshot.classes | snapshot.zero.view("u1") << 3 | snapshot.access << 4)

    def _pack_owners(self) -> "tuple[dict[str, Future[Column]], NDArray[np.bool_]]":
        """The columns of owners, and whether a frame has mappings beyond the first in a process."""
        columns, held_by = owner_columns(self._snapshot)
        counts = self._snapshot.mapping_count
        further = counts.astype(np.min_scalar_type(int(counts.max(initial=0))))
        further -= held_by.astype(further.dtype, copy=False)  # no frame has more owners
        has_further = further > 0
        return self._submit({"further": further}) | self._submit(columns), has_further


_PACKERS = 2


def owner_columns(
    snapshot: Snapshot,
) -> tuple[dict[str, NDArray[Any]], NDArray[np.unsignedinteger[Any]]]:
    """The owners of pages, as stretches of pages; and the number of owners of each frame.

    Pages at successive addresses in successive frames with the same owners form a stretch:
    ``run_frame`` and ``run_length``, and ``run_gap`` for the pages of address space
    between it and the stretch before. Stretches are sorted by their sets of owners: the first
    ``set_runs`` belong to the first set, and so on. A set has ``set_user``, 1 for pages of user
    mode, and ``set_size`` of the indexes in ``members``; the index after the last process's stands
    for the kernel, which all share.
    """
    # Arrays are made in pieces and freed as soon as possible, since there are millions of pages.
    alone, groups, held_by = _gather(snapshot)
    sets = _number_sets(groups, alone)
    mappings = snapshot.mappings
    count = np.bincount(sets.of_group, minlength=len(sets.size))
    count += count_values(sets.of_alone, len(count))
    runs = [[*_NO_RUNS]]
    for low, high in _ranges(count):
        chosen = (sets.of_group >= low) & (sets.of_group < high)
        ones = (sets.of_alone >= low) & (sets.of_alone < high)
        pages = _Pages.join(
            _Pages.of_alone(snapshot, alone.mapping[ones], sets.of_alone[ones]),
            _Pages(
                sets.of_group[chosen],
                _page_number(address_in(mappings, groups.mapping[chosen], groups.frame[chosen])),
                groups.frame[chosen],
                np.ones(np.count_nonzero(chosen), np.uint32),
            ),
        )
        pages.sort()
        runs.append(_runs(pages))
        del pages
    del alone, groups
    run_frame, run_length, run_gap, set_runs = (
        np.concatenate([part.pop(0) for part in runs]) for _ in range(len(_NO_RUNS))
    )
    return {
        "run_frame": run_frame,
        "run_length": run_length,
        "run_gap": run_gap,
        "set_runs": set_runs,
        "set_user": sets.user.view(np.uint8),
        "set_size": sets.size,
        "members": sets.members,
    }, held_by


_ADDRESS_SPACE = 1 << 52
"""Pages of 4 KiB in 64 bits of addresses."""


def _page_number(virtual: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The number of the page of address space at each address."""
    number = (virtual >> np.uint64(PAGE_SIZE.bit_length() - 1)).view(np.int64)
    number &= _ADDRESS_SPACE - 1
    return number


@dataclass(eq=False)
class _Alone:
    """Mappings of pages to which no other mapping leads: most pages of most dumps."""

    mapping: Rows
    """Numbers of mappings."""
    owner: NDArray[np.unsignedinteger[Any]]
    """The process of each, or the number after the last process for the kernel, which all share;
    plus `limit` in user mode."""
    limit: int


@dataclass(eq=False)
class _Groups:
    """Pages at an address with several mappings, and the processes that have them; a row for each.

    The address would take eight bytes, and is not kept, since the mapping has it.
    """

    mapping: Rows
    """Number of one of the group's mappings."""
    frame: NDArray[np.uint32]
    user: NDArray[np.bool_]
    size: NDArray[np.unsignedinteger[Any]]
    """The number of processes."""
    process: NDArray[np.unsignedinteger[Any]]
    """The processes of all groups in a row; the number after the last process's stands for the
    kernel, which all share."""


def _gather(snapshot: Snapshot) -> tuple[_Alone, _Groups, NDArray[np.unsignedinteger[Any]]]:
    """The pages with owners, and each frame's owner count.

    Groups are sorted by frame, virtual page, kernel before user.
    """
    everyone = len(snapshot.processes)
    small = np.min_scalar_type(everyone + 1)
    mappings = snapshot.mappings
    several = (snapshot.mapping_count != 1) | (snapshot.classes == PageClass.ABSENT)
    is_alone = ~lead_to(several, mappings)
    limit = snapshot.dump.budget.limit("mapping")
    own, shared = (
        OwnedPages(mappings, snapshot.classes, limit, shared=kind, alone=is_alone)
        for kind in (False, True)
    )
    del several, is_alone
    alone = _alone(own, shared, everyone)
    held_by = _held(snapshot, alone).astype(small)
    batches = []
    for mine, common in zip(own.pieces(), shared.pieces(), strict=True):
        frames, mapping, frame = mine
        rows = _Rows(
            mapping,
            frame,
            _page_number(own.virtual(mapping, frame)),
            own.is_user(mapping),
            own.process(mapping),
        )
        _, mapping, frame = common
        rows.insert(mapping, frame, _page_number(shared.virtual(mapping, frame)), everyone)
        rows.sort(frames)
        counts = np.bincount(rows.frame - frames.start, minlength=len(frames))
        held_by[frames.start : frames.stop] += counts.astype(small)
        starts = np.flatnonzero(changes(rows.frame, rows.virtual, rows.user))
        size = np.diff(starts, append=len(rows.frame)).astype(small)
        batches.append(
            [
                rows.mapping[starts],
                rows.frame[starts].astype(np.uint32),
                rows.user[starts],
                size,
                rows.process.astype(small),
            ]
        )
    columns = [np.concatenate([part.pop(0) for part in batches]) for _ in range(5)]
    return alone, _Groups(*columns), held_by


def _alone(own: OwnedPages, shared: OwnedPages, everyone: int) -> _Alone:
    """The mappings that the pieces do not have; `everyone` is the number of processes."""
    owners: NDArray[np.unsignedinteger[Any]] = np.full(
        len(own.alone) + len(shared.alone), everyone, np.min_scalar_type(2 * everyone + 2)
    )
    mine = owners[: len(own.alone)]
    mine[:] = own.process(own.alone)
    mine[own.is_user(own.alone)] += mine.dtype.type(everyone + 1)
    mapping = np.concatenate((own.alone, shared.alone))
    own.alone = shared.alone = mapping[:0]  # several megabytes
    return _Alone(mapping, owners, everyone + 1)


def _held(snapshot: Snapshot, alone: _Alone) -> NDArray[np.bool_]:
    """The frames to which these mappings lead."""
    mappings = snapshot.mappings
    held = np.zeros(snapshot.classes.size, bool)
    for start in range(0, len(alone.mapping), _GROUPS_AT_ONCE):
        some = alone.mapping[start : start + _GROUPS_AT_ONCE]
        first = mappings.pfn[some]
        mark_runs(held, first, np.minimum(mappings.count[some], held.size - first))
    return held


@dataclass(eq=False)
class _Rows:
    """The owners of some frames, a row for each page and process."""

    mapping: NDArray[np.unsignedinteger[Any]]
    frame: NDArray[np.int64]
    """Ascending."""
    virtual: NDArray[np.int64]
    """Number of the page of address space."""
    user: NDArray[np.bool_]
    process: NDArray[np.int32]

    def insert(
        self,
        mapping: NDArray[np.unsignedinteger[Any]],
        frame: NDArray[np.int64],
        virtual: NDArray[np.int64],
        process: int,
    ) -> None:
        """Insert the kernel's pages, numbered `process`, behind other rows of their frames."""
        places = np.searchsorted(self.frame, frame, "right")
        self.mapping = np.insert(self.mapping, places, mapping)
        self.frame = np.insert(self.frame, places, frame)
        self.virtual = np.insert(self.virtual, places, virtual)
        self.user = np.insert(self.user, places, False)
        self.process = np.insert(self.process, places, np.int32(process))

    def sort(self, frames: range) -> None:
        """Sort by frame, virtual page, kernel before user, and process.

        The rows are sorted by frame and process before, and few pages have several addresses, or
        belong to both kernel and user mode.
        """
        differs = changes(self.virtual, self.user) & ~changes(self.frame)
        mixed = np.zeros(len(frames), bool)
        mixed[self.frame[differs] - frames.start] = True
        rows = np.flatnonzero(mixed[self.frame - frames.start])
        order = rows[np.lexsort((self.user[rows], self.virtual[rows], self.frame[rows]))]
        for column in (self.mapping, self.frame, self.virtual, self.user, self.process):
            column[rows] = column[order]


def _ranges(count: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Split sets, given by their numbers of groups, so that no part has too many groups."""
    at_once = max(_GROUPS_AT_ONCE, int(count.sum()) // _RANGES)
    edges = np.flatnonzero(changes((np.cumsum(count) - count) // at_once)).tolist()
    return list(pairwise([*edges, len(count)]))


_NO_RUNS = tuple(np.empty(0, kind) for kind in (np.uint32, np.uint8, np.int64, np.int64))
_GROUPS_AT_ONCE = 1 << 17
_RANGES = 16
"""All groups are searched for each range."""


@dataclass(eq=False)
class _Pages:
    """Pages at addresses, each with its set of owners.

    A set may have a third of all pages, so that each column counts.
    """

    of_set: NDArray[np.int32]
    virtual: NDArray[np.int64]
    """Number of the page of address space."""
    frame: NDArray[np.uint32]
    length: NDArray[np.uint32]
    """Frames: a page may be a large one."""

    @classmethod
    def of_alone(
        cls, snapshot: Snapshot, rows: Rows, of_set: NDArray[np.unsignedinteger[Any]]
    ) -> "_Pages":
        """The pages of some mappings."""
        mappings = snapshot.mappings
        length = np.minimum(mappings.count[rows], snapshot.classes.size - mappings.pfn[rows])
        return cls(
            of_set.astype(np.int32),
            _page_number(mappings.virtual[rows]),
            mappings.pfn[rows].astype(np.uint32),
            length.astype(np.uint32),
        )

    @classmethod
    def join(cls, first: "_Pages", second: "_Pages") -> "_Pages":
        """The pages of both."""
        return cls(
            np.concatenate((first.of_set, second.of_set)),
            np.concatenate((first.virtual, second.virtual)),
            np.concatenate((first.frame, second.frame)),
            np.concatenate((first.length, second.length)),
        )

    def sort(self) -> None:
        """Sort by set, virtual page, and frame."""
        order = self._order()
        self.of_set = self.of_set[order]
        self.virtual = self.virtual[order]
        self.frame = self.frame[order]
        self.length = self.length[order]

    def _order(self) -> NDArray[np.signedinteger[Any]]:
        # Addresses are canonical: the bits above these are all ones or all zeros.
        bits = _CANONICAL_BITS
        if int(self.of_set.max(initial=0)) >= 1 << (63 - bits):
            return np.lexsort((self.frame, self.virtual, self.of_set))
        key = self.virtual & ((1 << bits) - 1)
        key |= self.of_set.astype(np.int64) << bits
        order = np.argsort(key)  # much faster than a stable sort, and rarely different
        key.sort()
        if (key[1:] == key[:-1]).any():
            return np.lexsort((self.frame, self.virtual, self.of_set))
        return order


def _runs(pages: _Pages) -> list[NDArray[Any]]:
    """Make stretches from the pages of some sets, in the order of set and virtual page.

    Returns frame, length and gap of each stretch, and the number of stretches of each set. `pages`
    must not be used afterwards.
    """
    is_next = ~changes(pages.of_set)
    is_next[1:] &= pages.virtual[1:] == pages.virtual[:-1] + pages.length[:-1]
    is_next[1:] &= pages.frame[1:] - pages.frame[:-1] == pages.length[:-1]
    begins = np.flatnonzero(~is_next)
    pages.length = np.add.reduceat(pages.length, begins, dtype=np.uint32)
    pages.of_set, pages.frame = pages.of_set[begins], pages.frame[begins]
    pages.virtual = pages.virtual[begins]
    del begins
    is_first = changes(pages.of_set)
    first = pages.virtual[is_first]
    pages.virtual = gap = np.diff(pages.virtual, prepend=0)
    gap[1:] -= pages.length[:-1]
    gap[is_first] = first
    # A large page may begin below the end of the page before: gaps are modulo the address space.
    gap %= _ADDRESS_SPACE
    # Nearly all stretches of some dumps are short.
    length = pages.length.astype(np.min_scalar_type(int(pages.length.max())))
    return [pages.frame, length, gap, np.bincount(pages.of_set - pages.of_set[0])]


_CANONICAL_BITS = 45
"""Bits of a page number, with five levels of tables (SDM vol. 3A, 4.5)."""


@dataclass(eq=False)
class _Sets:
    """Sets of owners; sets with a single owner come first."""

    of_group: NDArray[np.int32]
    """The number of each group's set."""
    of_alone: NDArray[np.unsignedinteger[Any]]
    """The number of the set of each mapping in _Alone."""
    user: NDArray[np.bool_]
    size: NDArray[np.int64]
    members: NDArray[np.unsignedinteger[Any]]
    """The processes of all sets in a row, as in _Groups."""


def _number_sets(groups: _Groups, alone: _Alone) -> _Sets:
    """Number the distinct sets of processes from 0 on.

    Sets are equal in size, user, and processes. Sets of one process are numbered directly, others
    process by process: groups stay together while their first, second, … processes are equal.
    """
    limit = alone.limit
    starts = np.cumsum(groups.size, dtype=np.int64)
    starts -= groups.size
    owner = groups.process[starts].astype(np.int32)
    owner[groups.user] += np.int32(limit)
    is_single = groups.size == 1
    there = count_values(alone.owner, 2 * limit) > 0
    there[owner[is_single]] = True
    number = np.cumsum(there, dtype=np.int32) - np.int32(1)
    found = number[owner]
    several = np.flatnonzero(~is_single)
    ranks, more = _ranks_of_several(groups, starts, several, limit)
    singles = np.flatnonzero(there)
    found[several] = ranks + len(singles)
    one = np.zeros(more, np.intp)  # for each set of several owners, a group that has it
    one[ranks] = several
    size = groups.size[one].astype(np.int64)
    row = np.repeat(starts[one] - np.cumsum(size) + size, size)
    members = groups.process[row + np.arange(len(row))]
    return _Sets(
        found,
        look_up(np.maximum(number, 0).astype(alone.owner.dtype), alone.owner),
        np.append(singles >= limit, groups.user[one]),
        np.append(np.ones(len(singles), np.int64), size),
        np.append((singles % limit).astype(members.dtype), members),
    )


def _ranks_of_several(
    groups: _Groups, starts: NDArray[np.int64], several: NDArray[np.intp], limit: int
) -> tuple[NDArray[np.int64], int]:
    """Number the sets of some groups, whose processes are below `limit`; and the count of sets."""
    numbers = groups.user[several].astype(np.int64)
    starts, sizes = starts[several], groups.size[several]
    free = 2
    longer = np.arange(len(several))
    place = 0
    while longer.size:
        key = numbers[longer] * limit + groups.process[starts[longer] + place]
        ranks, count = _ranks(key)
        numbers[longer] = ranks + free
        free += count
        place += 1
        longer = longer[sizes[longer] > place]
    return _ranks(numbers)


def _ranks(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """For each number, the count of distinct smaller numbers; and the count of distinct numbers."""
    if not numbers.size:
        return numbers, 0
    least = int(numbers.min())
    span = int(numbers.max()) - least + 1
    if span > 4 * numbers.size + _SHORT_SPAN:
        found, inverse = np.unique(numbers, return_inverse=True)
        return inverse.astype(np.int64), len(found)
    numbers = numbers - least
    there = np.zeros(span, np.int64)
    there[numbers] = 1
    before = np.cumsum(there)
    before -= there
    return before[numbers], int(before[-1]) + 1


_SHORT_SPAN = 1 << 16
