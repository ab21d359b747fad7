"""What the page holds of a snapshot: columns of whole numbers, packed for the browser to unpack.

A column of numbers is cut into planes: the lowest byte of all numbers, then the next, and so on,
as many as the largest needs. Planes of noise and planes of order are then apart, which deflate
makes the best of. Each column is deflated (zlib's format, which browsers call "deflate").
"""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.dump import PAGE_SIZE
from memory_visualizer.pagemap import count_frames
from memory_visualizer.paging import SHARED
from memory_visualizer.snapshot import Snapshot


@dataclass(frozen=True)
class Column:
    """A column of whole numbers, packed."""

    count: int
    """Numbers in it."""
    width: int
    """Bytes of each: so many planes follow one another."""
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


_LEVEL = 6
"""Of zlib's: 9 makes such columns a tenth smaller, and takes nine times as long."""
_PACKED_AT_ONCE = 1 << 20


def page_columns(snapshot: Snapshot, entropy: NDArray[np.uint8] | None) -> dict[str, Column]:
    """What is known of each frame, by PFN, and who has it.

    ``page``: PageClass in bits 0 to 2, all zeros in bit 3, Snapshot.access from bit 4 on.
    ``further``: mappings beyond the first in each process; ``entropy``, if given. Who has which
    page: the columns of owner_columns.
    """
    page = snapshot.classes | snapshot.zero.view(np.uint8) << 3 | snapshot.access << 4
    owners, further = owner_columns(snapshot)
    np.subtract(snapshot.mapping_count, further, out=further)
    columns = {"page": pack(page), "further": pack(further), **owners}
    if entropy is not None:
        columns["entropy"] = pack(entropy)
    return columns


def owner_columns(snapshot: Snapshot) -> tuple[dict[str, Column], NDArray[np.uint32]]:
    """Who has which page, as stretches of it, and how many have each frame.

    Pages at successive addresses in successive frames, which the same processes have, make one
    stretch: ``run_frame`` and ``run_length``, and ``run_gap`` for the pages of address space
    between it and the stretch before. Stretches are sorted by who has them: ``set_runs`` of the
    first set of processes, and so on. A set is ``set_user``, 1 for pages of user mode, and
    ``set_size`` of the indexes in ``members``; the index after the last process's stands for the
    kernel, which all share.
    """
    rows = _all_owners(snapshot)
    held_by = count_frames(rows.frame, snapshot.classes.size)

    # Rows become groups: a page at an address, and the processes that have it there.
    index: type[np.signedinteger[Any]] = np.int32 if len(rows.frame) < 1 << 31 else np.int64
    starts = np.flatnonzero(_changes(rows.frame, rows.virtual, rows.user)).astype(index)
    sizes = np.diff(starts, append=index(len(rows.frame)))
    user, virtual, frame = rows.user[starts], rows.virtual[starts], rows.frame[starts]
    process = rows.process
    del rows
    group_set = _number_sets(user, starts, sizes, process)

    # Groups become stretches.
    order = _order_of_groups(group_set, virtual)
    virtual, frame, user = virtual[order], frame[order], user[order]
    starts, sizes, group_set = starts[order], sizes[order], group_set[order]
    del order
    is_next = ~_changes(group_set)
    is_next[1:] &= (virtual[1:] == virtual[:-1] + 1) & (frame[1:] - frame[:-1] == 1)
    begins = np.flatnonzero(~is_next)
    length = np.diff(begins, append=len(starts))
    run_set, run_virtual = group_set[begins], virtual[begins]
    end = np.where(_changes(run_set), 0, np.roll(run_virtual + length, 1))

    firsts = np.flatnonzero(_changes(group_set))  # the first group of each set stands for it
    set_size = sizes[firsts]
    row = np.repeat(starts[firsts] - np.cumsum(set_size) + set_size, set_size)
    members = process[row + np.arange(len(row))]
    return {
        "run_frame": pack(frame[begins]),
        "run_length": pack(length),
        # Large pages may begin below where the one before ends: modulo the whole address space.
        "run_gap": pack((run_virtual - end) % _ADDRESS_SPACE),
        "set_runs": pack(np.bincount(run_set)),
        "set_user": pack(user[firsts].view(np.uint8)),
        "set_size": pack(set_size),
        "members": pack(members),
    }, held_by


_ADDRESS_SPACE = 1 << 52
"""Pages of 4 KiB in 64 bits of addresses."""


@dataclass
class _Rows:
    """Who has which page, a row for each page and process."""

    frame: NDArray[np.uint32]
    virtual: NDArray[np.int64]
    """Number of the page of address space."""
    user: NDArray[np.bool_]
    process: NDArray[np.int32]
    """The number after the last process's stands for the kernel, which all share."""

    def sort(self, order: NDArray[np.intp], rows: NDArray[np.intp]) -> None:
        """Put some of the rows in another order."""
        for column in (self.frame, self.virtual, self.user, self.process):
            column[rows] = column[rows][order]


def _all_owners(snapshot: Snapshot) -> _Rows:
    """Snapshot.owners and the kernel's, by frame, virtual page, kernel before user, and process."""
    owners = snapshot.find_owners()
    shared = snapshot.mappings.take(snapshot.mappings.space == SHARED)
    row, part, frame = snapshot.pages_of(shared)
    virtual = shared.virtual[row] + (part * PAGE_SIZE).astype(np.uint64)
    order = np.lexsort((virtual, frame))
    first = order[_changes(frame[order])]
    frame, virtual = frame[first], virtual[first]
    # The kernel's rows go behind those of the same frame: all is in the order of frames already.
    places = np.searchsorted(owners.frame, frame, "right")
    rows = _Rows(
        np.insert(owners.frame.astype(np.uint32), places, frame),
        np.insert(owners.virtual, places, virtual).view(np.int64),
        np.insert(owners.is_user, places, False),
        np.insert(owners.process, places, np.int32(len(snapshot.processes))),
    )
    del owners, shared, row, part, frame, virtual, order, first, places
    rows.virtual >>= PAGE_SIZE.bit_length() - 1
    rows.virtual &= _ADDRESS_SPACE - 1
    # Few pages are at different addresses, or both the kernel's and a user's.
    differs = _changes(rows.virtual, rows.user) & ~_changes(rows.frame)
    mixed = np.zeros(snapshot.classes.size, bool)
    mixed[rows.frame[differs]] = True
    chosen = np.flatnonzero(mixed[rows.frame])
    keys = rows.user[chosen], rows.virtual[chosen], rows.frame[chosen]
    rows.sort(np.lexsort(keys), chosen)
    return rows


def _order_of_groups(
    group_set: NDArray[np.int32], virtual: NDArray[np.int64]
) -> NDArray[np.signedinteger[Any]]:
    """By set and virtual page; those that have both in common stay in their order."""
    # Addresses are canonical: what is above these bits is all ones or all zeros.
    bits = _CANONICAL_BITS
    if int(group_set.max(initial=0)) >= 1 << (63 - bits):
        return np.lexsort((virtual, group_set))
    key = group_set.astype(np.int64) << bits | virtual & ((1 << bits) - 1)
    order = np.argsort(key)  # much faster than a stable sort, and seldom another
    key = key[order]
    return np.lexsort((virtual, group_set)) if (key[1:] == key[:-1]).any() else order


_CANONICAL_BITS = 45
"""Of the number of a page, with five levels of tables (SDM vol. 3A, 4.5)."""


def _number_sets(
    user: NDArray[np.bool_],
    starts: NDArray[np.signedinteger[Any]],
    sizes: NDArray[np.signedinteger[Any]],
    process: NDArray[np.int32],
) -> NDArray[np.int32]:
    """Number the different sets of processes, 0 and up, and give each group that of its set.

    Process by process: groups stay alike as long as their first, second, … are the same.
    """
    numbers = user.astype(np.int64)
    most = int(process.max(initial=0)) + 1
    free = 2
    longer = np.flatnonzero(sizes)
    place = 0
    while longer.size:
        key = numbers[longer] * most + process[starts[longer] + place]
        ranks, count = _ranks(key)
        numbers[longer] = ranks + free
        free += count
        place += 1
        longer = longer[sizes[longer] > place]
    return _ranks(numbers)[0].astype(np.int32)


def _ranks(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """How many different smaller numbers there are for each, and how many different ones."""
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


def _changes(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows differ from the row before; the first one does."""
    changes = np.ones(len(columns[0]), bool)
    np.not_equal(columns[0][1:], columns[0][:-1], out=changes[1:])
    for column in columns[1:]:
        changes[1:] |= column[1:] != column[:-1]
    return changes
