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
    packer = zlib.compressobj(9)
    planes = ((numbers >> 8 * place & 0xFF).astype(np.uint8) for place in range(width))
    packed = b"".join(packer.compress(plane.tobytes()) for plane in planes)
    return Column(numbers.size, width, packed + packer.flush())


def page_columns(snapshot: Snapshot, entropy: NDArray[np.uint8] | None) -> dict[str, Column]:
    """What is known of each frame, by PFN, and who has it.

    ``page``: PageClass in bits 0 to 2, all zeros in bit 3, Snapshot.access from bit 4 on.
    ``further``: mappings beyond the first in each process; ``entropy``, if given. Who has which
    page: the columns of owner_columns.
    """
    page = snapshot.classes | snapshot.zero.view(np.uint8) << 3 | snapshot.access << 4
    owners, rows = owner_columns(snapshot)
    columns = {"page": pack(page), "further": pack(snapshot.mapping_count - rows), **owners}
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
    frame, process, virtual, user = _all_owners(snapshot)
    held_by = count_frames(frame, snapshot.classes.size)

    # Rows become groups: a page at an address, and the processes that have it there.
    order = np.lexsort((process, user, frame, virtual))
    frame, process, virtual, user = frame[order], process[order], virtual[order], user[order]
    starts = np.flatnonzero(_changes(frame, virtual, user))
    sizes = np.diff(starts, append=len(frame))
    group_set = _number_sets(user[starts], starts, sizes, process)

    # Groups become stretches.
    order = np.lexsort((frame[starts], virtual[starts], group_set))
    starts, group_set = starts[order], group_set[order]
    frame_of, virtual_of = frame[starts], virtual[starts]
    steps = np.arange(len(starts))
    begins = np.flatnonzero(_changes(group_set, virtual_of - steps, frame_of - steps))
    length = np.diff(begins, append=len(starts))
    run_set, run_virtual = group_set[begins], virtual_of[begins]
    end = np.where(_changes(run_set), 0, np.roll(run_virtual + length, 1))

    firsts = np.flatnonzero(_changes(group_set))  # the first group of each set stands for it
    set_size = sizes[order][firsts]
    row = np.repeat(starts[firsts] - np.cumsum(set_size) + set_size, set_size)
    members = process[row + np.arange(len(row))]
    return {
        "run_frame": pack(frame_of[begins]),
        "run_length": pack(length),
        # Large pages may begin below where the one before ends: modulo the whole address space.
        "run_gap": pack((run_virtual - end) % _ADDRESS_SPACE),
        "set_runs": pack(np.bincount(run_set)),
        "set_user": pack(user[starts[firsts]].view(np.uint8)),
        "set_size": pack(set_size),
        "members": pack(members),
    }, held_by


_ADDRESS_SPACE = 1 << 52
"""Pages of 4 KiB in 64 bits of addresses."""


def _all_owners(
    snapshot: Snapshot,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Snapshot.owners, and after them the kernel's rows: frame, process, virtual page, user."""
    owners = snapshot.owners
    shared = snapshot.mappings.take(snapshot.mappings.space == SHARED)
    row, part, frame = snapshot.pages_of(shared)
    virtual = shared.virtual[row] + (part * PAGE_SIZE).astype(np.uint64)
    order = np.lexsort((virtual, frame))
    first = order[_changes(frame[order])]
    frame, virtual = frame[first], virtual[first]
    return (
        np.concatenate((owners.frame, frame)),
        np.concatenate((owners.process, np.full(len(frame), len(snapshot.processes)))),
        (np.concatenate((owners.virtual, virtual)) // np.uint64(PAGE_SIZE)).astype(np.int64),
        np.concatenate((owners.is_user, np.zeros(len(frame), bool))),
    )


def _number_sets(
    user: NDArray[np.bool_],
    starts: NDArray[np.intp],
    sizes: NDArray[np.intp],
    process: NDArray[np.int64],
) -> NDArray[np.int64]:
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
        found, inverse = np.unique(key, return_inverse=True)
        numbers[longer] = inverse + free
        free += len(found)
        place += 1
        longer = longer[sizes[longer] > place]
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64)


def _changes(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows differ from the row before; the first one does."""
    changes = np.ones(len(columns[0]), bool)
    changes[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return changes
