"""Page tables: what they map, read for all address spaces of a dump at once.

A way of paging is data: levels, and the meaning of an entry's bits (Intel SDM, volume 3A, 4.3 to
4.6). The walk goes level by level: all tables of one level are gathered, their entries decoded
together, and the tables below them made unique before they are read. So a table is read once for
each level at which it serves, however many paths lead to it, and tables that lead in circles
cost no more than others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.units import PAGE_SIZE

PRESENT = 1 << 0
WRITE = 1 << 1
USER = 1 << 2
LARGE = 1 << 7
PROTOTYPE = 1 << 10
TRANSITION = 1 << 11
PROTECTION_NONE = 1 << 8
"""On Linux, in an entry that is not present: the page is there, but nobody may use it."""
NO_EXECUTE = 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
"""Bits 12 to 51 of an entry: where the table or page below it begins."""

ACCESSED = 1 << 5
DIRTY = 1 << 6
_CACHING = 1 << 3 | 1 << 4
"""PWT and PCD: how the processor caches what lies behind the entry."""
_TRANSITION_BITS = 45
"""Bits of the address in an entry of a page in transition. Windows sets one above since 2018, so
that processors with the flaw L1TF do not look there; Volatility 3 reads as many
(layers/intel.py)."""
_MARKS = (1 << 52) - (1 << _TRANSITION_BITS)
_PHYSICAL_BITS = 46
"""Bits of a physical address of most machines, at most: 64 TiB."""

MAY_USER, MAY_WRITE, MAY_EXECUTE = 1, 2, 4
"""What is allowed on all levels of a path together, as bits of Mappings.access."""
_DIRECT = 8
"""Beside those, while tables are walked: no top-level table served on a lower level on the way."""
_KINDS = 16

SHARED = -1
"""In Mappings.space: more than one address space has this mapping."""

_TABLES_AT_ONCE = 256
_WAYS_AT_ONCE = 512
_FAIR_PART = 8
"""The part of all tables of a level that one address space may have."""
_NEAR_FRAMES = 1 << 22
_NEAR_TIMES = 64
"""Memory lies below so many frames, 16 GiB, or so many times those of the dump, which may be cut
short: what is further away is a device, or no address."""
_WAITING_WAYS = 1 << 18
_ALIKE = 4
"""So many times, in the middle, an honest system's ways of user mode come again, at most."""

Entries: TypeAlias = NDArray[np.uint64]


class PhysicalMemory(Protocol):
    """What a walk needs of a dump."""

    @property
    def frame_count(self) -> int:
        """Frames are numbered from 0 to below this."""

    @property
    def held(self) -> NDArray[np.bool_]:
        """For each frame whether the dump holds it."""

    def read_frames(self, frames: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Contents of frames, shape (n, 512)."""


@dataclass(frozen=True)
class Level:
    """One level of page tables."""

    shift: int
    """An entry covers 2**shift bytes."""
    may_map: bool
    """Whether an entry with LARGE set maps such a page; on the last level all entries map one."""
    reserved: int = 0
    """Bits that the processor demands to be zero in an entry that is present (SDM 4.3 to 4.5)."""
    reserved_if_large: int = 0
    """The same where it maps a large page."""

    @property
    def pages(self) -> int:
        """Page frames that an entry covers."""
        return 1 << (self.shift - 12)


@dataclass(frozen=True)
class Unseen:
    """What an operating system means by entries that the processor takes as not present."""

    mask: int
    value: int
    """An entry leads somewhere if these of its bits have this value."""
    is_user: bool = False
    """Whether such entries are user mode's, whatever their U/S bit, and allow nothing else."""
    may_be_large: bool = False
    """Whether LARGE means the same in them."""
    inverted: int = 0
    """A bit that says that all bits of the address are inverted."""
    marks: int = 0
    """Bits above the address, of which one may be set so that the processor looks nowhere."""


NOBODY = Unseen(PRESENT, PRESENT)
"""An entry that is not present means nothing."""
WINDOWS = Unseen(TRANSITION | PROTOTYPE | PRESENT, TRANSITION, marks=_MARKS)
"""Pages in transition are still the process's (Windows Internals, "Page faults"; Volatility 2 takes
them so as well). Bit 7 belongs to their protection, and no large page is in transition."""
LINUX = Unseen(
    PRESENT | PROTECTION_NONE, PROTECTION_NONE, is_user=True, may_be_large=True, inverted=1 << 51
)
"""Pages of PROT_NONE (pgtable_types.h), their addresses inverted since 2018, against a flaw of
processors (pgtable-invert.h); no machine has memory where the top bit is set."""


@dataclass(frozen=True)
class Paging:
    """One way of paging."""

    name: str
    entry_bytes: int
    levels: tuple[Level, ...]
    """From the top, PAE's four pointers left out: its directories count as one top level."""
    top_frames: int
    """Frames of the top level."""
    self_entries: range
    """Where in the top level Windows may put the entry by which the tables map themselves."""
    unseen: Unseen = WINDOWS
    has_habits: bool = True
    """Whether the system makes entries that lead to tables as Windows and Linux do: writable and
    accessed from the beginning, cached, of user mode wherever the levels above are."""
    clears_accessed: bool = False
    """Whether the system clears the accessed bit of entries that lead to tables, so as to learn
    what is in use: Linux, since 6.1 (lru_gen, mm/vmscan.c)."""
    address: int = ADDRESS
    """Bits of an entry that are the address of what is below it."""
    user_entries: range | None = None
    """Entries of the top level that are the process's own, where the system parts them so."""
    physical_bits: int = _PHYSICAL_BITS
    """Bits of a physical address: those above are reserved."""

    @property
    def entries(self) -> int:
        """Entries of one table."""
        return PAGE_SIZE // self.entry_bytes

    @property
    def address_bits(self) -> int:
        """Bits of a virtual address that are translated."""
        return self.levels[0].shift + (self.top_frames * self.entries - 1).bit_length()

    def canonical(self, virtual: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Virtual addresses with the topmost translated bit repeated above (SDM 3.3.7.1)."""
        bits = self.address_bits
        if bits == 32:
            return virtual
        shift = np.uint64(64 - bits)
        return ((virtual << shift).view(np.int64) >> shift.astype(np.int64)).view(np.uint64)

    def decode(self, words: NDArray[np.uint64]) -> Entries:
        """Tables as entries: shape (n, 512) words to (n, entries)."""
        return words if self.entry_bytes == 8 else words.view(np.uint32).astype(np.uint64)

    def is_present(self, entries: Entries) -> NDArray[np.bool_]:
        """Which entries lead somewhere, those out of the processor's sight included."""
        low = entries.view(np.uint16)[..., ::4]  # all of these bits are there
        present: NDArray[np.bool_] = low & np.uint16(self.unseen.mask) == self.unseen.value
        present |= low & np.uint16(PRESENT) != 0
        return present

    def is_large(self, entries: Entries, level: Level) -> NDArray[np.bool_]:
        """Which entries of an upper level map large pages, of those that lead somewhere."""
        mask = np.uint64(LARGE if self.unseen.may_be_large else LARGE | PRESENT)
        large: NDArray[np.bool_] = (entries & mask == mask) & level.may_map
        return large

    def frames(self, entries: Entries, level: Level) -> NDArray[np.int64]:
        """The frame that each entry names: of a table, or of a page's beginning."""
        if self.unseen.inverted:
            marked = np.uint64(self.unseen.inverted | PRESENT)
            entries = np.where(entries & marked == self.unseen.inverted, ~entries, entries)
        frames = ((entries & np.uint64(self.address)) >> np.uint64(12)).view(np.int64)
        if self.unseen.marks and self.entry_bytes == 8:
            away = np.flatnonzero(entries & np.uint64(PRESENT) == 0)
            frames[away] &= ~(self.unseen.marks >> 12)
        if level.may_map and (large := self.is_large(entries, level)).any():
            if self.entry_bytes == 4:  # PSE-36: bits 13 to 20 are bits 32 to 39 of the address
                high = entries >> np.uint64(13) & np.uint64(0xFF)
                frames[large] |= (high[large] << np.uint64(20)).view(np.int64)
            frames[large] &= -level.pages
        return frames

    def is_impossible(
        self, entries: Entries, frames: NDArray[np.int64], level: Level
    ) -> NDArray[np.bool_]:
        """Which entries break the processor's rules, or those of the system.

        All of them lead somewhere, and `frames` is what they name.
        """
        broken: NDArray[np.bool_] = frames >= 1 << (self.physical_bits - 12)
        if level.reserved:
            broken |= entries & np.uint64(level.reserved) != 0
        if level.may_map and (large := self.is_large(entries, level)).any():
            broken |= large & (entries & np.uint64(level.reserved_if_large) != 0)
        away = np.flatnonzero(entries & np.uint64(PRESENT) == 0)
        if len(away):
            broken[away] = frames[away] >= 1 << (self.physical_bits - 12)
            if self.unseen.marks and self.entry_bytes == 8:
                marks = entries[away] & np.uint64(self.unseen.marks)
                broken[away] |= marks & (marks - np.uint64(1)) != 0
        if self.has_habits and level.pages > 1:
            at_zero = np.flatnonzero(frames == 0)
            broken[at_zero] |= self._is_no_beginning(entries[at_zero], level)
        return broken

    def _is_no_beginning(self, entries: Entries, level: Level) -> NDArray[np.bool_]:
        """Which entries of an upper level, of those that name frame 0, no system makes.

        The first megabyte is the firmware's: there is no table, and a large page there is the
        kernel's, who maps it to write there. A slot that was empty names frame 0 as soon as one
        byte of it is altered.
        """
        used = np.uint64(PRESENT | WRITE | USER | ACCESSED | DIRTY)
        odd: NDArray[np.bool_] = entries & used != PRESENT | WRITE | ACCESSED | DIRTY
        return odd | ~self.is_large(entries, level)

    def is_odd(
        self, entries: Entries, frames: NDArray[np.int64], level: Level, near: int
    ) -> NDArray[np.bool_]:
        """Which entries of an upper level are such as the system does not make.

        Each may be: for a table only that counts which most of its entries are. Memory lies below
        the frame `near`.
        """
        usual = PRESENT | WRITE | (0 if self.clears_accessed else ACCESSED)
        flags = entries & np.uint64(usual | _CACHING)
        odd: NDArray[np.bool_] = flags != usual
        odd &= entries & np.uint64(PRESENT) != 0
        odd |= frames >= near
        odd &= ~self.is_large(entries, level)  # these may be read-only, and a device's
        return odd

    def access(self, entries: Entries, *, is_last: bool) -> NDArray[np.uint8]:
        """What the entries of a level allow, as MAY_ bits; a level's part of SDM 4.6."""
        # USER, WRITE and NO_EXECUTE in the lowest and the highest byte are bits 2, 1 and 7.
        low, high = entries.view(np.uint8)[::8], entries.view(np.uint8)[7::8]
        access: NDArray[np.uint8] = low >> np.uint8(2) & np.uint8(MAY_USER)
        access |= low & np.uint8(MAY_WRITE)
        access |= ~high >> np.uint8(5) & np.uint8(MAY_EXECUTE)
        away = np.flatnonzero(low & np.uint8(PRESENT) == 0)
        if len(away):
            access[away] &= MAY_USER
            if self.unseen.is_user:
                access[away] |= MAY_USER
            elif is_last:
                # MMPTE_TRANSITION.Protection, bits 5 to 9: 2, 3, 6 and 7 allow to execute, 4 to 7
                # to write (ntosp.h, MM_EXECUTE and so on).
                access[away] |= (entries[away] >> np.uint64(6) & np.uint64(2)).astype(np.uint8)
                access[away] |= (entries[away] >> np.uint64(4) & np.uint64(4)).astype(np.uint8)
                if self.entry_bytes == 4:
                    access[away] |= MAY_EXECUTE
            else:  # a table's own rights say nothing about the pages below it
                access[away] |= MAY_WRITE | MAY_EXECUTE
        return access


def _bits(first: int, last: int) -> int:
    return (1 << last + 1) - (1 << first)


_PAE_RESERVED = _bits(52, 62)
X86 = Paging("x86", 4, (Level(22, True, 0, 1 << 21), Level(12, False)), 1, range(0x300, 0x301))
PAE = Paging(
    "PAE",
    8,
    (Level(21, True, _PAE_RESERVED, _bits(13, 20)), Level(12, False, _PAE_RESERVED)),
    4,
    range(0x600, 0x601),
)
X64 = Paging(
    "x86-64",
    8,
    (
        Level(39, False, LARGE),
        Level(30, True, 0, _bits(13, 29)),
        Level(21, True, 0, _bits(13, 20)),
        Level(12, False),
    ),
    1,
    range(0x100, 0x200),
)
X64_5_LEVELS = Paging(
    "x86-64, 5 levels", 8, (Level(48, False, LARGE), *X64.levels), 1, range(0x100, 0x200)
)
"""These four are as Windows has them."""

PAE_POINTER_RESERVED = 1 << 1 | 1 << 2 | _bits(5, 8) | _bits(52, 63)
"""Bits that are zero in each of PAE's four pointers, beside those of the physical width (4.4.1)."""


def as_processor_has_it(paging: Paging) -> Paging:
    """The same levels with entries that mean what the processor takes them for, and no more."""
    return replace(paging, unseen=NOBODY, has_habits=False)


def as_linux_has_it(paging: Paging, encryption: int = 0) -> Paging:
    """The same levels with the entries that Linux leaves for itself.

    `encryption` is the bit of an entry by which AMD's processors encrypt the page.
    """
    return replace(
        paging,
        clears_accessed=True,
        unseen=LINUX,
        address=ADDRESS & ~encryption,
        user_entries=range(paging.entries // 2),
    )


@dataclass(frozen=True)
class Mappings:
    """Mappings found in page tables, a column each, a row for each."""

    space: NDArray[np.int32]
    """Index of the address space, or SHARED."""
    virtual: NDArray[np.uint64]
    """Address of the first byte, canonical."""
    frame: NDArray[np.int64]
    """First frame, held by the dump or followed by frames that are."""
    frames: NDArray[np.int64]
    """How many frames: 1, 512 or 1024, or 262,144."""
    access: NDArray[np.uint8]
    """MAY_USER, MAY_WRITE, MAY_EXECUTE where all levels allow it."""

    @classmethod
    def join(cls, parts: list["Mappings"]) -> "Mappings":
        """Many tables of mappings as one; `parts` is empty afterwards.

        There are megabytes of them, so each column is let go of when it has been joined.
        """
        columns = [part.columns for part in parts]
        parts.clear()
        return cls(
            *(
                np.concatenate([empty, *(column.pop(0) for column in columns)])
                for empty in _NO_MAPPINGS
            )
        )

    @property
    def columns(self) -> list[NDArray[Any]]:
        """All columns, in their order."""
        return [self.space, self.virtual, self.frame, self.frames, self.access]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Mappings":
        """Some of the rows."""
        return Mappings(
            self.space[rows],
            self.virtual[rows],
            self.frame[rows],
            self.frames[rows],
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


@dataclass(frozen=True)
class _Reached:
    """Tables of one level and by which way they are reached, a row for each way."""

    space: NDArray[np.int32]
    table: NDArray[np.int64]
    virtual: NDArray[np.uint64]
    """Address of the first byte that the table covers, not yet canonical."""
    access: NDArray[np.uint8]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "_Reached":
        return _Reached(self.space[rows], self.table[rows], self.virtual[rows], self.access[rows])

    @property
    def table_count(self) -> int:
        """How many tables, whatever the ways."""
        return len(distinct(self.table))

    @classmethod
    def join(cls, parts: list["_Reached"]) -> "_Reached":
        return cls(
            np.concatenate([np.empty(0, np.int32), *(part.space for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.table for part in parts)]),
            np.concatenate([np.empty(0, np.uint64), *(part.virtual for part in parts)]),
            np.concatenate([np.empty(0, np.uint8), *(part.access for part in parts)]),
        )

    def unique(self, frame_count: int, most: int) -> "_Reached":
        """Each table once for each access and, for user mode, each address space.

        The kernel's tables count once for all spaces; so do a user's tables, and whatever the
        access, from the moment there are more than `most` ways, as only a dump made to waste time
        has them.
        """
        user = self.access & MAY_USER != 0
        if np.count_nonzero(user) <= _ALIKE * most:
            own = self.take(user)._unique_in_spaces()
            if len(own.table) <= most:
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
        starts = _starts(key[order])
        virtual = np.minimum.reduceat(self.virtual[order], starts)
        return replace(self.take(order[starts]), virtual=virtual)

    def _unique(self, kind: NDArray[np.uint8], frame_count: int) -> "_Reached":
        """Each table once for each kind of way to it; kinds are below _KINDS.

        Nothing is sorted, as these ways may be very many.
        """
        first = _one_of_each(self.table, frame_count)
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

    def __init__(self, memory: PhysicalMemory, most_tables: int, most_ways: int) -> None:
        """Take in so many tables; for `most_ways` see _Reached.unique."""
        self._most_ways = most_ways
        self._room = most_tables
        self._room_for_each = most_tables // _FAIR_PART
        self._of_space = np.zeros(1, np.int64)
        """How many tables each space has led to, those that are SHARED first."""
        self._known = np.zeros(memory.frame_count, bool)
        self._left_out = np.zeros(memory.frame_count, bool)
        self._parts: list[_Reached] = []
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
            one = _one_of_each(tables[rows], len(self._known))
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
        self._parts.append(ways)
        if self._waiting > _WAITING_WAYS:
            self._parts = [self.ways()]
            self._waiting = 0

    def ways(self) -> _Reached:
        """All ways that were added."""
        return _Reached.join(self._parts).unique(len(self._known), self._most_ways)

    @property
    def left_out(self) -> int:
        """How many tables there was no room for."""
        return int(np.count_nonzero(self._left_out))


@dataclass(frozen=True)
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
        way = self.way[rows]
        covered = self.index[rows].astype(np.uint64) << np.uint64(level.shift)
        return _Reached(
            self.ways.space[way], self.frame[rows], self.ways.virtual[way] + covered, access[rows]
        )


@dataclass
class Losses:
    """What a walk met and could not use."""

    tables: int = 0
    """Tables left out, as there were more than any machine has."""
    not_tables: set[int] = field(default_factory=set)
    """Frames reached as tables that are none: most of their entries are such as none has."""
    impossible: int = 0
    """Entries of tables such as no processor or system has; each is left out by itself."""
    contradicted: int = 0
    """Large pages of frames that user mode has as single pages."""


def walk(
    memory: PhysicalMemory,
    paging: Paging,
    tops: NDArray[np.int64],
    spaces: NDArray[np.int32] | None = None,
    *,
    kernel_only: bool = False,
    own_only: bool = False,
    losses: Losses | None = None,
    no_tables: NDArray[np.bool_] | None = None,
) -> Iterator[Mappings]:
    """Walk the page tables of address spaces and yield their mappings, in parts.

    `tops` are the frames of the top levels, shape (n, paging.top_frames); `spaces` what
    Mappings.space shall be for each, by default its number; two tops may share one. With
    `kernel_only` what user mode may reach is left out, with `own_only` what is not below
    paging.user_entries. Frames that the dump does not hold are left out, as tables and as pages.
    The kernel's mappings, which all spaces share, come once; merge_alike finds those that come
    again through each space's own top level. What could not be used is added to `losses`, also
    frames of which `no_tables` says that none is a table.

    However the tables lead to one another, the cost is bound by most_tables and most_entries; on
    each level but the last at most half of what is left of these is spent.
    """
    losses = losses or Losses()
    # Devices may lie higher than that; but what is mapped there is nothing that the dump holds.
    bits = max(paging.physical_bits, memory.frame_count.bit_length() + 12)
    paging = replace(paging, physical_bits=bits)
    count, parts = tops.shape
    if spaces is None:
        spaces = np.arange(count, dtype=np.int32)
    start = np.arange(parts, dtype=np.uint64) << np.uint64(paging.levels[0].shift)
    reached = _Reached(
        np.repeat(spaces, parts),
        tops.astype(np.int64).ravel(),
        np.tile(start * np.uint64(paging.entries), count),
        np.full(count * parts, MAY_USER | MAY_WRITE | MAY_EXECUTE | _DIRECT, np.uint8),
    )
    refused = np.zeros(memory.frame_count, bool)
    is_top = np.zeros(memory.frame_count, bool)
    is_top[reached.table[is_held(memory, reached.table)]] = True
    # Of an honest system each user table has one way to it, or few more.
    most_ways = memory.frame_count // 8 + 1024
    tables_left, entries_left = most_tables(memory), most_entries(memory)
    if kernel_only:  # a kernel maps a page seldom twice
        tables_left, entries_left = tables_left // 4, entries_left // 4
    top_tables = _Below(memory, tables_left // 2, most_ways)
    held = np.flatnonzero(is_held(memory, reached.table))
    shared = np.full(len(held), SHARED, np.int32)
    reached = reached.take(held[top_tables.admit(reached.table[held], shared)])
    losses.tables += top_tables.left_out
    for number, level in enumerate(paging.levels):
        is_last = number == len(paging.levels) - 1
        leads_to_last = number == len(paging.levels) - 2
        tables_left -= reached.table_count
        below = _Below(memory, tables_left if leads_to_last else tables_left // 2, most_ways)
        entries = 0
        for found in _decoded(memory, paging, reached, number, losses, refused):
            if entries > (entries_left if is_last else entries_left // 2):
                later = reached.table[reached.table >= found.ways.table[0]]
                losses.tables += len(distinct(later))
                break
            entries += len(found.entry)
            access = paging.access(found.entry, is_last=is_last)
            if number == 0 and paging.user_entries:
                # Linux' kernel bars itself from its users' code in its own copy of the top level
                # (arch/x86/mm/pti.c); users run on the other one.
                access |= MAY_EXECUTE
            access |= _DIRECT
            if number == 0:
                named = np.flatnonzero(is_held(memory, found.frame))
                access[named[is_top[found.frame[named]]]] &= ~np.uint8(_DIRECT)
            access &= found.ways.access[found.way]
            chosen = access & MAY_USER == 0 if kernel_only else np.ones(len(access), bool)
            if own_only and number == 0 and paging.user_entries:
                index = (found.ways.virtual[found.way] >> np.uint64(level.shift)).view(np.int64)
                index += found.index
                chosen &= (index >= paging.user_entries[0]) & (index <= paging.user_entries[-1])
            maps = chosen
            if not is_last:
                maps = chosen & paging.is_large(found.entry, level)
            yield _mapped(memory, paging, level, found, access, maps)
            if is_last:
                continue
            leads = np.flatnonzero(chosen & ~maps & is_held(memory, found.frame))
            if no_tables is not None:
                is_none = no_tables[found.frame[leads]]
                losses.not_tables |= set(found.frame[leads[is_none]].tolist())
                leads = leads[~is_none]
            leads = leads[below.admit(found.frame[leads], found.ways.space[found.way[leads]])]
            below.add(found.reached(leads, access, level))
        losses.tables += below.left_out
        entries_left -= entries
        reached = below.ways()
    losses.not_tables |= set(np.flatnonzero(refused).tolist())


def tables_of(
    memory: PhysicalMemory,
    paging: Paging,
    tops: NDArray[np.int64],
    *,
    own_only: bool = False,
    no_tables: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For each frame whether it is a table of one of these address spaces, and one of the lowest.

    Those of the lowest level are only named by those above, and not read. `own_only` and
    `no_tables` as in `walk`.
    """
    found = np.zeros(memory.frame_count, bool)
    tables = distinct(tops.ravel())
    tables = tables[is_held(memory, tables)]
    found[tables] = True
    lowest = np.zeros(memory.frame_count, bool)
    for number, level in enumerate(paging.levels[:-1]):
        tables = tables[: most_tables(memory) // 2]
        below = np.zeros(memory.frame_count, bool)
        for start in range(0, len(tables), _TABLES_AT_ONCE):
            entries = paging.decode(memory.read_frames(tables[start : start + _TABLES_AT_ONCE]))
            if own_only and number == 0 and paging.user_entries:
                entries = entries[:, paging.user_entries.start : paging.user_entries.stop]
            entry, targets = _sound(memory, paging, number, np.ascontiguousarray(entries))[1:]
            leads = (entry & np.uint64(PRESENT) != 0) & ~paging.is_large(entry, level)
            leads &= is_held(memory, targets)
            below[targets[leads]] = True
        if no_tables is not None:
            below &= ~no_tables
        tables = np.flatnonzero(below)
        found |= below
        lowest = below
    return found, lowest


def merge_alike(mappings: Mappings) -> Mappings:
    """Make one row of mappings that are the same.

    Those of user mode where space, addresses and size are; the kernel's also where only the
    space differs. What any of them allows is allowed.
    """
    # Few addresses come twice: only these rows need to be compared.
    order = np.argsort(mappings.virtual)
    virtual = mappings.virtual[order]
    again = np.zeros(len(order) + 1, bool)
    again[1:-1] = virtual[1:] == virtual[:-1]
    repeated = again[:-1] | again[1:]
    single = mappings.take(np.sort(order[~repeated]))
    return Mappings.join([single, _merged(mappings.take(order[repeated]))])


def merge_kernel(mappings: Mappings) -> Mappings:
    """Make one row of the kernel's mappings that are the same; user mode's come first, as they are.

    Each process has its own half of the tables once, so only the kernel's half comes again.
    """
    user = mappings.is_user
    kernel = merge_alike(mappings.take(~user))
    columns = mappings.columns
    del mappings  # whoever keeps no reference has room for the result
    return Mappings(
        *(np.concatenate((columns.pop(0)[user], of_kernel)) for of_kernel in kernel.columns)
    )


def without_contradicted(mappings: Mappings, frame_count: int, losses: Losses) -> Mappings:
    """Leave out large pages many of whose frames user mode has as single pages; in Windows only.

    A large page is given out as a whole. An entry that maps one over what processes have page by
    page was altered, and would make all of it one process's, or the kernel's. What drivers show
    to user mode of the kernel's large pages is less.
    """
    large = np.flatnonzero(mappings.frames > 1)
    if not len(large):
        return mappings
    mapped = np.zeros(frame_count, bool)
    mapped[mappings.frame[mappings.is_user & (mappings.frames == 1)]] = True
    before = np.zeros(frame_count + 1, np.int32)
    np.cumsum(mapped, out=before[1:])
    first = mappings.frame[large]
    end = np.minimum(first + mappings.frames[large], frame_count)
    wrong = large[_CONTRADICTED_PART * (before[end] - before[first]).astype(np.int64) > end - first]
    if not len(wrong):
        return mappings
    losses.contradicted += len(wrong)
    return mappings.take(~np.isin(np.arange(len(mappings.frame)), wrong))


_CONTRADICTED_PART = 4


def most_mappings(memory: PhysicalMemory) -> int:
    """How many rows of mappings are kept at most: no honest machine has so many for its frames."""
    return 4 * memory.frame_count + (1 << 16)


def most_tables(memory: PhysicalMemory) -> int:
    """How many tables are read at most; a machine with more has hardly room for anything else."""
    return memory.frame_count // 8 + 2048


def most_entries(memory: PhysicalMemory) -> int:
    """How many entries of tables are read at most, of each for each way to its table."""
    return 8 * memory.frame_count + (1 << 19)


def most_spaces(memory: PhysicalMemory) -> int:
    """How many address spaces, or processes, a machine has at most; each takes some 20 frames."""
    return memory.frame_count // 64 + 512


def _merged(mappings: Mappings) -> Mappings:
    user = mappings.is_user
    by_space = np.where(user, mappings.space, SHARED)
    rows = mappings.take(
        np.lexsort(
            (mappings.space, mappings.frames, mappings.frame, mappings.virtual, user, by_space)
        )
    )
    user = rows.is_user
    starts = _starts(
        np.where(user, rows.space, SHARED), user, rows.virtual, rows.frame, rows.frames
    )
    merged = rows.take(starts)
    if not len(starts):
        return merged
    return replace(
        merged,
        space=_common_space(rows.space, starts),
        access=np.bitwise_or.reduceat(rows.access, starts),
    )


def translate(
    memory: PhysicalMemory, paging: Paging, tops: NDArray[np.int64], virtual: int
) -> NDArray[np.int64]:
    """Frame behind one virtual address in each address space; -1 where the dump holds none."""
    virtual &= (1 << paging.address_bits) - 1
    top = tops[:, (virtual >> paging.levels[0].shift) // paging.entries]
    addresses = np.full(len(tops), virtual, np.uint64)
    parts = [
        frames_behind(
            memory, paging, top[at : at + _TABLES_AT_ONCE], addresses[at:][:_TABLES_AT_ONCE]
        )
        for at in range(0, len(tops), _TABLES_AT_ONCE)
    ]
    frame = np.concatenate([np.empty(0, np.int64), *parts])
    frame[~is_held(memory, frame)] = -1
    return frame


def frames_behind(
    memory: PhysicalMemory,
    paging: Paging,
    top: NDArray[np.int64],
    addresses: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """The frame behind each address, below the top-level table in the frame that stands with it.

    -1 where nothing is mapped; a frame may lie outside of what the dump holds. Of each table only
    the one entry is looked at: see read_tables.
    """
    table = top.astype(np.int64)
    frame = np.full(len(addresses), -1, np.int64)
    alive = np.flatnonzero(is_held(memory, table))
    for number, level in enumerate(paging.levels):
        tables, row = np.unique(table[alive], return_inverse=True)
        index = addresses[alive] >> np.uint64(level.shift) & np.uint64(paging.entries - 1)
        entries = paging.decode(memory.read_frames(tables))[row, index.astype(np.int64)]
        present = paging.is_present(entries)
        alive, entries = alive[present], entries[present]
        target = paging.frames(entries, level)
        possible = ~paging.is_impossible(entries, target, level)
        alive, entries, target = alive[possible], entries[possible], target[possible]
        maps = paging.is_large(entries, level) | (number == len(paging.levels) - 1)
        inside = (addresses[alive] >> np.uint64(12)).astype(np.int64) % level.pages
        frame[alive[maps]] = (target + inside)[maps]
        leads = ~maps & is_held(memory, target)
        alive = alive[leads]
        table[alive] = target[leads]
    return frame


def _odd_leaves(
    table: NDArray[np.intp], entry: Entries, impossible: NDArray[np.bool_], count: int
) -> NDArray[np.int64]:
    """For each table of the last level the entries that are odd: all, or none.

    Pages may be mapped with any flags. But pages side by side are mapped alike: what comes with a
    new mixture of flags every other time is something else.
    """
    # Writable, user, PWT, PCD; PAT and global: what use leaves behind is not looked at.
    flags = (entry >> np.uint64(1) & np.uint64(0xF) | entry >> np.uint64(3) & np.uint64(0x30)).view(
        np.int64
    )
    seen = (entry & np.uint64(PRESENT) != 0) & ~impossible
    mixtures = np.bincount(table[seen] * 64 + flags[seen], minlength=64 * count)
    mixtures = mixtures.reshape(count, 64)
    present = mixtures.sum(axis=1)
    kinds = np.count_nonzero(mixtures, axis=1)
    too_many = kinds > np.minimum(present // 2, _MOST_MIXTURES)
    return np.where((present >= _FEWEST_LEAVES) & too_many, present, 0)


_FEWEST_LEAVES = 8
_MOST_MIXTURES = 16


def read_tables(
    memory: PhysicalMemory, paging: Paging, number: int, frames: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """What the entries of tables of one level lead to, -1 where to nothing, and which map pages.

    Shape (n, paging.entries). What breaks the processor's rules leads to nothing, and so does all
    of a page that is no table.
    """
    level = paging.levels[number]
    tables = paging.decode(memory.read_frames(frames))
    place, entry, frame = _sound(memory, paging, number, tables)
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

    An empty page does not.
    """
    found = np.zeros(len(frames), bool)
    for start in range(0, len(frames), _TABLES_AT_ONCE):
        part = frames[start : start + _TABLES_AT_ONCE]
        tables = paging.decode(memory.read_frames(part))
        present = np.count_nonzero(paging.is_present(tables), axis=1)
        # Entries that are not present may hold anything, but not in most of a table.
        sound = (present > 0) & (2 * present >= np.count_nonzero(tables, axis=1))
        weight = _weighed(memory, paging, number, tables)[-1]
        if weight is not None:
            sound &= weight.is_table(np.zeros(len(part), bool), np.arange(len(part)))
        found[start : start + len(part)] = sound
    return found


def _sound(
    memory: PhysicalMemory, paging: Paging, number: int, tables: Entries
) -> tuple[NDArray[np.intp], Entries, NDArray[np.int64]]:
    """The entries that lead somewhere: where they stand in all of `tables`, they, and the frames.

    Whether user mode came so far is not known: so no entry is odd for barring it.
    """
    table, index, entry, frame, weight = _weighed(memory, paging, number, tables)
    place = table * tables.shape[1] + index
    if weight is None:
        return place, entry, frame
    is_table = weight.is_table(np.zeros(len(tables), bool), np.arange(len(tables)))[table]
    return place[is_table], entry[is_table], frame[is_table]


def _decoded(
    memory: PhysicalMemory,
    paging: Paging,
    reached: _Reached,
    number: int,
    losses: Losses,
    refused: NDArray[np.bool_],
) -> Iterator[_Decoded]:
    """Yield the entries of a level's tables that lead somewhere, many tables at once.

    `refused` marks the frames that are no tables, though reached as such.
    """
    reached = reached.take(np.argsort(reached.table, kind="stable"))
    for start, end in _pieces(reached.table):
        ways = reached.take(slice(start, end))
        first_way = _starts(ways.table)
        tables = paging.decode(memory.read_frames(ways.table[first_way]))
        table, index, entry, frame, weight = _weighed(memory, paging, number, tables)
        table_of_way = _table_of_way(first_way, end - start)
        is_direct = ways.access & _DIRECT != 0
        # Tables that map themselves serve once more a level below, and so do those that are none.
        is_table = is_direct | ~(refused[ways.table] & paging.has_habits)
        if weight is not None:
            is_user = (ways.access & MAY_USER != 0) & (number > 0)
            is_table &= weight.is_table(is_user, table_of_way)
            refused[ways.table[is_direct & ~is_table]] = True
            losses.impossible += int(weight.impossible[distinct(table_of_way[is_table])].sum())
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


def _table_of_way(first_way: NDArray[np.intp], ways: int) -> NDArray[np.intp]:
    """The number of each way's table, where each table's ways stand together."""
    return np.repeat(np.arange(len(first_way)), np.diff(first_way, append=np.intp(ways)))


@dataclass(frozen=True)
class _Weight:
    """What speaks for and against some pages' being tables: how many entries of each."""

    entries: NDArray[np.int64]
    """That lead somewhere, the impossible ones included."""
    impossible: NDArray[np.int64]
    """That break the rules of the processor, or of the system."""
    odd: NDArray[np.int64]
    """That the system does not make, beside the impossible ones."""
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


def _weighed(
    memory: PhysicalMemory, paging: Paging, number: int, tables: Entries
) -> tuple[NDArray[np.intp], NDArray[np.intp], Entries, NDArray[np.int64], "_Weight | None"]:
    """The entries of a level's tables that lead somewhere, without those that cannot be.

    Number of the table, ascending; index; the entry; what it names; and, unless nothing speaks
    against any of the tables, what does.
    """
    level = paging.levels[number]
    found = np.flatnonzero(paging.is_present(tables))
    table = found >> (tables.shape[1] - 1).bit_length()
    index = found & (tables.shape[1] - 1)
    entry = tables.reshape(-1)[found]
    frame = paging.frames(entry, level)
    impossible = paging.is_impossible(entry, frame, level)
    if level.may_map and paging.has_habits and level.pages > 2 * memory.frame_count:
        # No machine with so little memory has most of a page beyond its end, from the beginning.
        impossible |= (frame == 0) & paging.is_large(entry, level)
    count = len(tables)
    odd = supervisor = np.zeros(count, np.int64)
    if paging.has_habits and number == len(paging.levels) - 1:
        odd = _odd_leaves(table, entry, impossible, count)
    elif paging.has_habits:
        near = max(_NEAR_FRAMES, _NEAR_TIMES * memory.frame_count)
        is_odd = paging.is_odd(entry, frame, level, near) & ~impossible
        bars = (entry & np.uint64(USER) == 0) & ~paging.is_large(entry, level)
        bars &= ~(is_odd | impossible)
        if is_odd.any() or bars.any():
            odd = np.bincount(table[is_odd], minlength=count)
            supervisor = np.bincount(table[bars], minlength=count)
    if not (impossible.any() or odd.any() or supervisor.any()):
        return table, index, entry, frame, None
    weight = _Weight(
        np.bincount(table, minlength=count),
        np.bincount(table[impossible], minlength=count),
        odd,
        supervisor,
    )
    possible = ~impossible
    return table[possible], index[possible], entry[possible], frame[possible], weight


def _pieces(table: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Part the sorted tables of ways in pieces of so many tables and ways as are read at once.

    The ways of one table stay together, unless they alone are too many.
    """
    first_way = _starts(table)
    start = 0
    while start < len(table):
        number = int(np.searchsorted(first_way, start, "right")) - 1
        last = number + _TABLES_AT_ONCE
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
    """The mappings among the entries, of frames that the dump holds."""
    pages = level.pages
    rows = np.flatnonzero(maps)
    reached = found.reached(rows, access, level)
    frame = reached.table
    # Of a large page the first frame may be missing where later ones are not.
    inside = is_held(memory, frame) if pages == 1 else frame < memory.frame_count
    mappings = Mappings(
        reached.space,
        paging.canonical(reached.virtual),
        frame,
        np.full(len(frame), pages, np.int64),
        reached.access & np.uint8(_DIRECT - 1),
    )
    return mappings if inside.all() else mappings.take(inside)


def is_held(memory: PhysicalMemory, frame: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these frames, any numbers, the dump holds."""
    held: NDArray[np.bool_] = memory.held.take(frame, mode="clip")
    held &= (frame >= 0) & (frame < memory.frame_count)
    return held


def _one_of_each(frame: NDArray[np.int64], frame_count: int) -> NDArray[np.int32]:
    """For each row the number of one row that stands for all with the same frame."""
    standing = np.empty(frame_count, np.int32)
    standing[frame] = np.arange(len(frame), dtype=np.int32)
    return standing[frame]


def _starts(*columns: NDArray[np.generic]) -> NDArray[np.intp]:
    """Where a new combination of values begins in sorted columns."""
    if not len(columns[0]):
        return np.empty(0, np.intp)
    changes = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return np.concatenate(([0], np.flatnonzero(changes) + 1))


def _common_space(space: NDArray[np.int32], starts: NDArray[np.intp]) -> NDArray[np.int32]:
    """For each group of rows the space that they all have, else SHARED."""
    if not len(starts):
        return np.empty(0, np.int32)
    lowest = np.minimum.reduceat(space, starts)
    highest = np.maximum.reduceat(space, starts)
    return np.where(lowest == highest, lowest, np.int32(SHARED))
