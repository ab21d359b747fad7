"""The meaning of page-table entries to an operating system, in addition to the processor's rules.

An entry that the processor takes as not present may still lead to a page; Windows maps its tables
into themselves; a system always writes certain bits into entries that lead to tables. A `Software`
describes this. A `Paging` is an architecture as one system uses it, and all that the walk knows of
entries.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging.architecture import (
    ACCESSED,
    ARM64_BOTH_HALVES,
    CACHING,
    DIRTY,
    MAY_EXECUTE,
    MAY_USER,
    MAY_WRITE,
    PAE,
    PRESENT,
    USER,
    WRITE,
    X64,
    X64_5_LEVELS,
    X86,
    Architecture,
    Arm64,
    Entries,
    Level,
)

PROTOTYPE = 1 << 10
TRANSITION = 1 << 11
"""Windows: the page of an entry that is not present is in transition."""
PROTECTION_NONE = 1 << 8
"""Linux: the page of an entry that is not present exists, but nobody may use it."""
_TRANSITION_BITS = 45
"""Bits of the address in an entry of a page in transition. Since 2018 Windows sets a bit above
these, so that processors with the flaw L1TF do not read there; Volatility 3 reads the same bits
(layers/intel.py)."""
_MARKS = (1 << 52) - (1 << _TRANSITION_BITS)
_NOT_GLOBAL, _PROTECTION_NONE_BEFORE = 1 << 11, 1 << 58
"""Linux on 64-bit ARM: the page of an entry that is not present exists. Since 6.10 the bit nG means
this; before, bit 58 did (arch/arm64/include/asm/pgtable-prot.h)."""


@dataclass(frozen=True)
class Unseen:
    """The meaning to an operating system of entries that are not present to the processor."""

    mask: int
    value: int
    """An entry leads somewhere if the bits of the mask have this value."""
    is_user: bool = False
    """Whether such entries belong to user mode, whatever their U/S bit, and give no other right."""
    may_be_large: bool = False
    """Whether the bit for large pages has its meaning in such entries, too."""
    inverted: int = 0
    """The bit that tells that all bits of the address are inverted."""
    marks: int = 0
    """Bits above the address; one of them may be set so that the processor reads nothing."""


@dataclass(frozen=True)
class Software:
    """The meaning of the bits that the processor leaves to the operating system."""

    name: str
    unseen: Unseen | None = None
    """None: an entry that is not present means nothing."""
    table_flags: tuple[int, int] | None = None
    """Mask and value of the bits that this system always writes into entries that lead to tables:
    on x86 writable, accessed and cached. None: no such bits are known."""
    beginning: tuple[int, int] | None = None
    """The same for a large page at frame 0; the first megabyte belongs to the firmware."""
    parts_code: bool = False
    """Whether the kernel's copy of the top level forbids the kernel to execute user code, since
    users run on the other copy: Linux (arch/x86/mm/pti.c)."""
    encryption: int = 0
    """The bit of the address by which AMD's processors encrypt the page."""
    self_entries: range = range(0)
    """Indexes in the top level at which the entry may stand that maps the tables into
    themselves."""
    user_entries: range | None = None
    """Entries of the top level that belong to the process, if the system divides them so."""
    bars_other_half: bool = False
    """Whether user mode reaches nothing through the other entries, whatever they say, because the
    processor reads them from another table."""

    @property
    def has_habits(self) -> bool:
        """Whether the bits that the system always writes are known."""
        return self.table_flags is not None


@dataclass(frozen=True)
class Paging:
    """An architecture's page tables as one operating system uses them."""

    architecture: Architecture
    software: Software
    physical_bits: int = 0
    """Bits of a physical address; higher bits are reserved. 0: as in the architecture."""
    used_bits: int = 0
    """Bits of a physical address that this machine uses, if known: see with_voted_width. 0: as the
    size of the dump tells."""

    def __post_init__(self) -> None:
        """Take the architecture's number of bits if none is given."""
        if not self.physical_bits:
            object.__setattr__(self, "physical_bits", self.architecture.physical_bits)

    @property
    def name(self) -> str:
        """The architecture's name."""
        return self.architecture.name

    @property
    def title(self) -> str:
        """The way of paging for a reader: ``x86-64 paging``, ``ARM64 paging, 4 KiB pages``."""
        architecture, comma, pages = self.name.partition(",")
        return f"{architecture} paging{comma}{pages}"

    @property
    def levels(self) -> tuple[Level, ...]:
        """The architecture's levels, from the top."""
        return self.architecture.levels

    @property
    def top_frames(self) -> int:
        """Frames of the top level."""
        return self.architecture.top_frames

    @property
    def entry_bytes(self) -> int:
        """Bytes of an entry."""
        return self.architecture.entry_bytes

    @property
    def entries(self) -> int:
        """Entries of one table."""
        return self.architecture.entries

    @property
    def address_bits(self) -> int:
        """Bits of a virtual address that are translated."""
        return self.architecture.address_bits

    def canonical(self, virtual: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Virtual addresses as they are written: see Architecture.canonical."""
        return self.architecture.canonical(virtual)

    def decode(self, words: NDArray[np.uint64]) -> Entries:
        """Tables as entries: shape (n, 512) words to (n, entries)."""
        return self.architecture.decode(words)

    def is_present(self, entries: Entries) -> NDArray[np.bool_]:
        """Which entries lead somewhere, with entries that the processor takes as not present."""
        present = self.architecture.is_present(entries)
        if (unseen := self.software.unseen) is not None:
            if unseen.mask < 1 << 16:
                low = entries.view(np.uint16)[..., ::4]
                present |= low & np.uint16(unseen.mask) == unseen.value
            else:
                present |= entries & np.uint64(unseen.mask) == np.uint64(unseen.value)
        return present

    def is_large(self, entries: Entries, level: Level) -> NDArray[np.bool_]:
        """Which entries of an upper level map large pages; all entries lead somewhere."""
        if not level.may_map:
            return np.zeros(entries.shape, bool)
        large = self.architecture.are_large(entries)
        if not (self.software.unseen and self.software.unseen.may_be_large):
            large &= self.architecture.is_present(entries)
        return large

    def frames(self, entries: Entries, level: Level) -> NDArray[np.int64]:
        """The frame that each entry names: of a table, or the first frame of a page."""
        unseen = self.software.unseen
        if unseen and unseen.inverted:
            marked = np.uint64(unseen.inverted | PRESENT)
            entries = np.where(entries & marked == unseen.inverted, ~entries, entries)
        if self.software.encryption:
            entries = entries & ~np.uint64(self.software.encryption)
        frames = self.architecture.frames(entries)
        if unseen and unseen.marks and self.entry_bytes == 8:
            away = np.flatnonzero(entries & np.uint64(PRESENT) == 0)
            frames[away] &= ~(unseen.marks >> 12)
        if level.may_map and (large := self.is_large(entries, level)).any():
            frames[large] = self.architecture.large_frames(entries[large], level)
        return frames

    def is_impossible(
        self, entries: Entries, frames: NDArray[np.int64], level: Level
    ) -> NDArray[np.bool_]:
        """Which entries break the rules of the processor or the system.

        All entries lead somewhere, to `frames`.
        """
        limit = 1 << (self.physical_bits - 12)
        broken: NDArray[np.bool_] = frames >= limit
        if fixed := level.reserved | level.required:
            broken |= entries & np.uint64(fixed) != np.uint64(level.required)
        if level.may_map and (large := self.is_large(entries, level)).any():
            broken |= large & (entries & np.uint64(level.reserved_if_large) != 0)
        away = np.flatnonzero(entries & np.uint64(PRESENT) == 0)
        if len(away):
            broken[away] = (frames[away] >= limit) | self._has_many_marks(entries[away])
        if self.software.beginning and level.pages > 1:
            at_zero = np.flatnonzero(frames == 0)
            broken[at_zero] |= self._is_no_beginning(entries[at_zero], level)
        return broken

    def _has_many_marks(self, entries: Entries) -> NDArray[np.bool_]:
        """Which entries that are not present have several marks, of which only one may be set.

        The marks stand above the address, so x86 has none.
        """
        if not self.software.unseen or self.entry_bytes == 4:
            return np.zeros(len(entries), bool)
        marks = entries & np.uint64(self.software.unseen.marks)
        many: NDArray[np.bool_] = marks & (marks - np.uint64(1)) != 0
        return many

    def _is_no_beginning(self, entries: Entries, level: Level) -> NDArray[np.bool_]:
        """Which entries of an upper level name frame 0 in a way in which no system does.

        The first megabyte belongs to the firmware: it holds no table, and only the kernel maps a
        large page there, to write to it. An empty entry names frame 0 as soon as one byte of it is
        altered.
        """
        mask, value = self.software.beginning or (0, 0)
        odd: NDArray[np.bool_] = entries & np.uint64(mask) != value
        return odd | ~self.is_large(entries, level)

    def is_odd(self, entries: Entries, level: Level) -> NDArray[np.bool_]:
        """Which entries of an upper level the system would not make.

        A single entry may be odd: a table is judged by the majority of its entries.
        """
        mask, value = self.software.table_flags or (0, 0)
        odd: NDArray[np.bool_] = entries & np.uint64(mask) != value
        odd &= entries & np.uint64(PRESENT) != 0
        odd &= ~self.is_large(entries, level)  # large pages may be read-only, and may be a device's
        return odd

    def access(self, entries: Entries, maps: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """What the entries of a level allow, as MAY_ bits; `maps` tells which of them map pages."""
        access = self.architecture.access(entries, maps)
        away = np.flatnonzero(~self.architecture.is_present(entries))
        if len(away) and self.software.unseen:
            access[away] &= MAY_USER
            if self.software.unseen.is_user:
                access[away] |= MAY_USER
                return access
            # MMPTE_TRANSITION.Protection, bits 5 to 9: 2, 3, 6 and 7 allow execution, 4 to 7 writes
            # (ntosp.h, MM_EXECUTE and so on).
            allowed = (entries[away] >> np.uint64(6) & np.uint64(2)).astype(np.uint8)
            allowed |= (entries[away] >> np.uint64(4) & np.uint64(4)).astype(np.uint8)
            if self.entry_bytes == 4:
                allowed |= MAY_EXECUTE
            # A table's own rights say nothing about the pages below it.
            allowed[~maps[away]] = MAY_WRITE | MAY_EXECUTE
            access[away] |= allowed
        return access


_PROCESSOR = Software("processor")
_BEGINNING = PRESENT | WRITE | USER | ACCESSED | DIRTY, PRESENT | WRITE | ACCESSED | DIRTY
_WINDOWS = Software(
    "Windows",
    # Pages in transition still belong to the process (Windows Internals, "Page faults"; Volatility
    # 2 agrees). Bit 7 is a part of their protection, and no large page is in transition.
    Unseen(TRANSITION | PROTOTYPE | PRESENT, TRANSITION, marks=_MARKS),
    table_flags=(PRESENT | WRITE | ACCESSED | CACHING, PRESENT | WRITE | ACCESSED),
    beginning=_BEGINNING,
)
_LINUX = Software(
    "Linux",
    # Pages of PROT_NONE (pgtable_types.h). Since 2018 their addresses are inverted, against a flaw
    # of processors (pgtable-invert.h); no machine has memory at addresses with the top bit set.
    Unseen(
        PRESENT | PROTECTION_NONE,
        PROTECTION_NONE,
        is_user=True,
        may_be_large=True,
        inverted=1 << 51,
    ),
    # Since 6.1 the kernel clears the accessed bit of entries that lead to tables, to learn which
    # are in use (lru_gen, mm/vmscan.c).
    table_flags=(PRESENT | WRITE | CACHING, PRESENT | WRITE),
    beginning=_BEGINNING,
    parts_code=True,
)
_WINDOWS_ON_ARM64 = Software(
    "Windows",
    # As in MemProcFS (vmm/mm/mm_arm64.c), which was tried on dumps of real machines.
    Unseen(TRANSITION | PROTOTYPE | PRESENT, TRANSITION),
    table_flags=(0x073, 0x003),
    self_entries=range(0x100, 0x200),
    user_entries=range(0x100),
    bars_other_half=True,
)
_LINUX_ON_ARM64 = Software(
    "Linux",
    Unseen(PRESENT | _NOT_GLOBAL, _NOT_GLOBAL, is_user=True, may_be_large=True),
    # The access flag, bit 10, may be set in these entries (FEAT_HAFT).
    table_flags=(0xBFF, 0x003),
)
_SELF_ENTRIES = {
    X86: range(0x300, 0x301),
    PAE: range(0x600, 0x601),
    X64: range(0x100, 0x200),
    X64_5_LEVELS: range(0x100, 0x200),
}


def as_processor_has_it(architecture: Architecture) -> Paging:
    """Entries have only the processor's meaning."""
    return Paging(architecture, _PROCESSOR)


def as_windows_has_it(architecture: Architecture) -> Paging:
    """Pages in transition count as present, and the tables map themselves."""
    return Paging(architecture, replace(_WINDOWS, self_entries=_SELF_ENTRIES[architecture]))


WINDOWS_ON_ARM64 = Paging(ARM64_BOTH_HALVES, _WINDOWS_ON_ARM64)
"""One page is the top level of both halves of the addresses, and maps the tables into
themselves."""


def as_linux_on_arm64_has_it(architecture: Arm64, *, is_before_6_10: bool = False) -> Paging:
    """Pages that nobody may use count as present; processes and kernel have separate tables."""
    software = _LINUX_ON_ARM64
    if is_before_6_10:
        bit = _PROTECTION_NONE_BEFORE
        unseen = Unseen(PRESENT | bit, bit, is_user=True, may_be_large=True)
        software = replace(software, unseen=unseen)
    return Paging(architecture, software)


def as_linux_has_it(architecture: Architecture, encryption: int = 0) -> Paging:
    """Pages that nobody may use count as present; half of the top level belongs to the process.

    `encryption` is the bit of an entry by which AMD's processors encrypt the page.
    """
    entries = architecture.top_frames * architecture.entries
    # The kernel has the last of 4 GiB, as usual (CONFIG_PAGE_OFFSET).
    own = range(entries // 4 * 3 if architecture.address_bits == 32 else entries // 2)
    return Paging(architecture, replace(_LINUX, encryption=encryption, user_entries=own))
