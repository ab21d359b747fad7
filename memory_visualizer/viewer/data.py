"""The data of a snapshot in the page: columns of whole numbers, compressed for the browser.

A column of numbers is split into planes: the lowest byte of all numbers, then the next byte, and so
on, as many as the largest number needs. This separates noise from regular bytes, which deflate
packs best. Each column is deflated (zlib's format, which browsers call "deflate").
"""

import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import changes
from memory_visualizer.snapshot.owners import OwnedPages, address_in
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.viewer.addresses import further_columns


@dataclass(frozen=True)
class Column:
    """A column of whole numbers, packed."""

    count: int
    """The number of values."""
    width: int
    """Bytes of a value: so many planes follow one another."""
    packed: bytes


def pack(numbers: NDArray[Any]) -> Column:
    """Pack non-negative whole numbers; Column tells how."""
    largest = int(numbers.max()) if numbers.size else 0
    width = -(-largest.bit_length() // 8)
    packer = zlib.compressobj(_LEVEL)
    packed = bytearray()
    for place in range(width):
        for start in range(0, numbers.size, _PACKED_AT_ONCE):
            some = numbers[start : start + _PACKED_AT_ONCE]
            plane = (some >> some.dtype.type(8 * place)).astype(np.uint8) if place else some
            packed += packer.compress(plane.astype(np.uint8).tobytes())
    return Column(numbers.size, width, bytes(packed + packer.flush()))


_LEVEL = 4
"""Of zlib: level 6 makes the columns of 8 GiB 4 % smaller, but takes three times as long."""
_PACKED_AT_ONCE = 1 << 17


def page_columns(
    snapshot: Snapshot, others: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, Column], int]:
    """The facts on each frame, by PFN, and its owners; `others` are packed beside these.

    The number is that of pages whose further addresses are too many to be told.

    ``page``: PageClass in bits 0 to 2, all zeros in bit 3, Snapshot.access from bit 4 on.
    ``further``: mappings beyond the first in each process. The owners are in the columns of
    owner_columns, and other addresses in those of further_columns.
    """
    page = snapshot.classes | snapshot.zero.view(np.uint8) << 3 | snapshot.access << 4
    with ThreadPoolExecutor(_PACKERS) as pool:  # zlib lets other threads run
        packing = {name: pool.submit(pack, it) for name, it in {"page": page, **others}.items()}
        owners, held_by = owner_columns(snapshot)
        further = snapshot.mapping_count - held_by
        del held_by
        packing["further"] = pool.submit(pack, further)
        for name in [*owners]:  # each column is freed when it has been packed
            packing[name] = pool.submit(pack, owners.pop(name))
        also, untold = further_columns(snapshot, further)
        for name in [*also]:
            packing[name] = pool.submit(pack, also.pop(name))
    return {name: column.result() for name, column in packing.items()}, untold


_PACKERS = 2


def owner_columns(
    snapshot: Snapshot,
) -> tuple[dict[str, NDArray[Any]], NDArray[np.unsignedinteger[Any]]]:
    """The owners of pages, as stretches of pages; and the number of owners of each frame.

    Pages at successive addresses in successive frames, which the same processes have, make one
    stretch: ``run_frame`` and ``run_length``, and ``run_gap`` for the pages of address space
    between it and the stretch before. Stretches are sorted by their sets of owners: the first
    ``set_runs`` belong to the first set, and so on. A set has ``set_user``, 1 for pages of user
    mode, and ``set_size`` of the indexes in ``members``; the index after the last process's stands
    for the kernel, which all share.
    """
    # Arrays are made in pieces and freed as soon as possible, since there are millions of groups.
    groups, held_by = _gather(snapshot)
    starts = np.cumsum(groups.size, dtype=_index_type(groups.process))
    starts -= groups.size
    group_set = _number_sets(groups.user, starts, groups.size, groups.process)
    one = np.zeros(
        int(group_set.max(initial=-1)) + 1, np.intp
    )  # the group that represents each set
    one[group_set] = np.arange(len(group_set), dtype=starts.dtype)
    set_user, set_size = groups.user[one], groups.size[one].astype(np.int64)
    row = np.repeat(starts[one] - np.cumsum(set_size) + set_size, set_size)
    members = groups.process[row + np.arange(len(row))]
    mapping, frame = groups.mapping, groups.frame
    del groups, starts, one, row

    runs = [_NO_RUNS]
    count = np.bincount(group_set, minlength=len(set_size))
    for low, high in _ranges(count):
        chosen = (group_set >= low) & (group_set < high)
        some = frame[chosen]
        virtual = _page_number(address_in(snapshot.mappings, mapping[chosen], some))
        order = _order_of_groups(group_set[chosen], virtual)
        runs.append(_runs(group_set[chosen][order], virtual[order], some[order]))
        del some, virtual, order
    del mapping, frame, group_set
    run_frame, run_length, run_gap, set_runs = (
        np.concatenate(column) for column in zip(*runs, strict=True)
    )
    return {
        "run_frame": run_frame,
        "run_length": run_length,
        "run_gap": run_gap,
        "set_runs": set_runs,
        "set_user": set_user.view(np.uint8),
        "set_size": set_size,
        "members": members,
    }, held_by


_ADDRESS_SPACE = 1 << 52
"""Pages of 4 KiB in 64 bits of addresses."""


def _page_number(virtual: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The number of the page of address space at each address."""
    number = (virtual >> np.uint64(PAGE_SIZE.bit_length() - 1)).view(np.int64)
    number &= _ADDRESS_SPACE - 1
    return number


def _index_type(rows: NDArray[Any]) -> type[np.signedinteger[Any]]:
    return np.int32 if len(rows) < 1 << 31 else np.int64


@dataclass(eq=False)
class _Groups:
    """Pages at an address, and the processes that have the page there; a row for each.

    The address, which would take eight bytes, is not kept: the mapping tells it.
    """

    mapping: NDArray[np.unsignedinteger[Any]]
    """Number of one of the group's mappings."""
    frame: NDArray[np.uint32]
    user: NDArray[np.bool_]
    size: NDArray[np.unsignedinteger[Any]]
    """The number of processes."""
    process: NDArray[np.unsignedinteger[Any]]
    """The processes of all groups in a row; the number after the last process's stands for the
    kernel, which all share."""


def _gather(snapshot: Snapshot) -> tuple[_Groups, NDArray[np.unsignedinteger[Any]]]:
    """All groups, by frame, virtual page, kernel before user; and each frame's owner count."""
    everyone = len(snapshot.processes)
    small = np.min_scalar_type(everyone + 1)
    held_by = np.zeros(snapshot.classes.size, small)
    own, shared = (
        OwnedPages(
            snapshot.mappings, snapshot.classes, snapshot.dump.budget.limit("mapping"), shared=kind
        )
        for kind in (False, True)
    )
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
        held_by[frames.start : frames.stop] = np.bincount(
            rows.frame - frames.start, minlength=len(frames)
        )
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
    return _Groups(*columns), held_by


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


_NO_RUNS = tuple(np.empty(0, kind) for kind in (np.uint32, np.uint32, np.int64, np.int64))
_GROUPS_AT_ONCE = 1 << 17
_RANGES = 16
"""All groups are searched for each range."""


def _runs(
    group_set: NDArray[np.int32], virtual: NDArray[np.int64], frame: NDArray[np.uint32]
) -> tuple[NDArray[Any], ...]:
    """Make stretches from the groups of some sets, in the order of set and virtual page.

    Returns frame, length and gap of each stretch, and the number of stretches of each set.
    """
    is_next = ~changes(group_set)
    is_next[1:] &= (virtual[1:] == virtual[:-1] + 1) & (frame[1:] - frame[:-1] == 1)
    begins = np.flatnonzero(~is_next)
    length = np.diff(begins, append=len(frame)).astype(np.uint32)
    run_set, gap = group_set[begins], virtual[begins]
    end = gap[:-1] + length[:-1]
    end[changes(run_set)[1:]] = 0
    gap[1:] -= end
    # A large page may begin below the end of the page before: gaps are modulo the address space.
    gap %= _ADDRESS_SPACE
    return frame[begins], length, gap, np.bincount(run_set - run_set[0])


def _order_of_groups(
    group_set: NDArray[np.int32], virtual: NDArray[np.int64]
) -> NDArray[np.signedinteger[Any]]:
    """The order by set and virtual page; groups with equal values keep their order."""
    # Addresses are canonical: the bits above these are all ones or all zeros.
    bits = _CANONICAL_BITS
    if int(group_set.max(initial=0)) >= 1 << (63 - bits):
        return np.lexsort((virtual, group_set))
    key = group_set.astype(np.int64) << bits | virtual & ((1 << bits) - 1)
    order = np.argsort(key)  # much faster than a stable sort, and rarely different
    key = key[order]
    return np.lexsort((virtual, group_set)) if (key[1:] == key[:-1]).any() else order


_CANONICAL_BITS = 45
"""Bits of a page number, with five levels of tables (SDM vol. 3A, 4.5)."""


def _number_sets(
    user: NDArray[np.bool_],
    starts: NDArray[np.signedinteger[Any]],
    sizes: NDArray[np.unsignedinteger[Any]],
    process: NDArray[np.unsignedinteger[Any]],
) -> NDArray[np.int32]:
    """Number the distinct sets of processes from 0 on; returns the number of each group's set.

    Sets are equal in size, user, and processes. Sets of one process are numbered directly, others
    process by process: groups stay together while their first, second, … processes are equal.
    """
    limit = int(process.max(initial=0)) + 1
    found, ones = _number_singles(user, starts, sizes, process, limit)
    several = np.flatnonzero(sizes != 1)
    numbers = user[several].astype(np.int64)
    starts, sizes = starts[several], sizes[several]
    free = 2
    longer = np.arange(len(several))
    place = 0
    while longer.size:
        key = numbers[longer] * limit + process[starts[longer] + place]
        ranks, count = _ranks(key)
        numbers[longer] = ranks + free
        free += count
        place += 1
        longer = longer[sizes[longer] > place]
    found[several] = _ranks(numbers)[0] + ones
    return found


def _number_singles(
    user: NDArray[np.bool_],
    starts: NDArray[np.signedinteger[Any]],
    sizes: NDArray[np.unsignedinteger[Any]],
    process: NDArray[np.unsignedinteger[Any]],
    limit: int,
) -> tuple[NDArray[np.int32], int]:
    """The numbers of sets of a single process below `limit`, for their groups; and their count."""
    key = np.empty(len(sizes), np.int32)
    there = np.zeros(2 * limit + 1, bool)  # the last number stands for all other groups
    for at in range(0, len(sizes), _GROUPS_AT_ONCE):
        some = slice(at, at + _GROUPS_AT_ONCE)
        first = process[starts[some]] + np.where(user[some], limit, 0)
        key[some] = np.where(sizes[some] == 1, first, 2 * limit)
        there[key[some]] = True
    rank = np.cumsum(there[:-1], dtype=np.int32)
    found = np.append(rank - 1, np.int32(0))
    for at in range(0, len(sizes), _GROUPS_AT_ONCE):
        key[at : at + _GROUPS_AT_ONCE] = found[key[at : at + _GROUPS_AT_ONCE]]
    return key, int(rank[-1])


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
