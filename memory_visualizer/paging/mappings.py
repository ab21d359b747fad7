"""Mappings from page tables: page frames, address spaces, virtual addresses, and rights."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import count_marked
from memory_visualizer.paging.architecture import MAY_USER
from memory_visualizer.paging.groups import SHARED, common_space, group_starts
from memory_visualizer.printable import counted
from memory_visualizer.scratch import column

_CONTRADICTED_PART = 4
"""A large page is left out if more than one in so many of its frames are mapped as single pages."""


@dataclass
class Losses:
    """Entries and tables that a walk met and could not use."""

    tables: int = 0
    """Tables left out, because there are more than any machine has."""
    not_tables: set[int] = field(default_factory=set)
    """Frames that entries name as page tables, but that are not, by the majority of their
    entries."""
    of_user: int = 0
    """Tables of user mode to which the kernel's half of a single process leads."""
    impossible: int = 0
    """Entries that break the rules of the processor or the system; only the entry itself is left
    out."""
    torn: int = 0
    """Entries behind one that breaks these rules, where most entries from that one on do."""
    contradicted: int = 0
    """Large pages whose frames user mode maps as single pages."""


@dataclass(frozen=True, eq=False, repr=False)
class Mappings:
    """Mappings found in page tables, a column each, a row for each."""

    space: NDArray[np.int32]
    """Index of the address space, or SHARED."""
    virtual: NDArray[np.uint64]
    """Address of the first byte, canonical."""
    pfn: NDArray[np.int64]
    """First frame; the dump holds at least one frame of the mapping."""
    count: NDArray[np.int64]
    """Number of frames: 1, 512 or 1024, or 262,144."""
    access: NDArray[np.uint8]
    """MAY_USER, MAY_WRITE, MAY_EXECUTE where all levels allow it."""

    @classmethod
    def join(cls, batches: list["Mappings"]) -> "Mappings":
        """Many tables of mappings as one; `batches` is empty afterwards.

        The tables have many megabytes, so each column is freed when it has been joined.
        """
        columns = [batch.columns for batch in batches]
        batches.clear()
        return cls(
            *(
                np.concatenate([empty, *(column.pop(0) for column in columns)])
                for empty in _NO_MAPPINGS
            )
        )

    def __repr__(self) -> str:
        return f"<Mappings: {counted(len(self.pfn), 'row')}>"

    @property
    def columns(self) -> list[NDArray[Any]]:
        """All columns, in their order."""
        return [self.space, self.virtual, self.pfn, self.count, self.access]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Mappings":
        """Some of the rows."""
        return Mappings(
            self.space[rows],
            self.virtual[rows],
            self.pfn[rows],
            self.count[rows],
            self.access[rows],
        )

    @property
    def is_user(self) -> NDArray[np.bool_]:
        """Which mappings user mode may use."""
        user: NDArray[np.bool_] = self.access & MAY_USER != 0
        return user


_NO_MAPPINGS = [
    np.empty(0, np.int32),
    np.empty(0, np.uint64),
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    np.empty(0, np.uint8),
]


def merge_alike(mappings: Mappings) -> Mappings:
    """Merge equal mappings into one row.

    Mappings of user mode are equal if space, addresses and size are; mappings of the kernel also if
    only the space differs. The merged row has the rights of all its mappings.
    """
    # Few addresses occur twice: only these rows need to be compared.
    order = np.argsort(mappings.virtual)
    virtual = mappings.virtual[order]
    again = np.zeros(len(order) + 1, bool)
    again[1:-1] = virtual[1:] == virtual[:-1]
    repeated = again[:-1] | again[1:]
    single = mappings.take(np.sort(order[~repeated]))
    return Mappings.join([single, _merged(mappings.take(order[repeated]))])


def merge_kernel(mappings: Mappings) -> Mappings:
    """Merge equal mappings of the kernel; user mode's mappings come first, unchanged.

    Each process has its own half of the tables once, so only the kernel's half repeats.
    """
    user = mappings.is_user
    kernel = merge_alike(mappings.take(~user))
    columns = mappings.columns
    del mappings  # frees memory for the result if the caller keeps no reference
    return Mappings(
        *(np.concatenate((columns.pop(0)[user], of_kernel)) for of_kernel in kernel.columns)
    )


def _merged(mappings: Mappings) -> Mappings:
    user = mappings.is_user
    by_space = np.where(user, mappings.space, SHARED)
    rows = mappings.take(
        np.lexsort((mappings.space, mappings.count, mappings.pfn, mappings.virtual, user, by_space))
    )
    user = rows.is_user
    starts = group_starts(
        np.where(user, rows.space, SHARED), user, rows.virtual, rows.pfn, rows.count
    )
    merged = rows.take(starts)
    if not len(starts):
        return merged
    return replace(
        merged,
        space=common_space(rows.space, starts),
        access=np.bitwise_or.reduceat(rows.access, starts),
    )


def without_contradicted(mappings: Mappings, frame_count: int, losses: Losses) -> Mappings:
    """Leave out large pages if user mode maps many of their frames as single pages (Windows only).

    Windows allocates a large page as a whole. An entry that maps a large page over frames that
    processes have as single pages was altered, and would give all of them to one process or the
    kernel. Drivers show user mode fewer frames of the kernel's large pages.
    """
    large = np.flatnonzero(mappings.count > 1)
    if not len(large):
        return mappings
    mapped: NDArray[np.bool_] = column(frame_count, np.bool_)
    mapped[mappings.pfn[mappings.is_user & (mappings.count == 1)]] = True
    first = mappings.pfn[large]
    end = np.minimum(first + mappings.count[large], frame_count)
    wrong = large[_CONTRADICTED_PART * count_marked(mapped, first, end) > end - first]
    if not len(wrong):
        return mappings
    losses.contradicted += len(wrong)
    return mappings.take(~np.isin(np.arange(len(mappings.pfn)), wrong))
