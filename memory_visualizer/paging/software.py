"""The meaning of page-table entries to an operating system, in addition to the processor's rules.

Entries that the processor takes as not present may lead to pages all the same; Windows maps its
tables into themselves; entries that lead to tables are written by habit. A `Software` says so, and
a `Paging` is an architecture as one system has it: by that alone the walk reads entries.
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
"""Of Windows, in entries that are not present."""
PROTECTION_NONE = 1 << 8
"""On Linux, in an entry that is not present: the page is there, but nobody may use it."""
_TRANSITION_BITS = 45
"""Bits of the address in an entry of a page in transition. Windows sets one above since 2018, so
that processors with the flaw L1TF do not look there; Volatility 3 reads as many
(layers/intel.py)."""
_MARKS = (1 << 52) - (1 << _TRANSITION_BITS)
_NOT_GLOBAL, _PROTECTION_NONE_BEFORE = 1 << 11, 1 << 58
"""On Linux on 64-bit ARM, in an entry that is not present: the page is there. The bit nG stands for
that since 6.10; before, bit 58 did (arch/arm64/include/asm/pgtable-prot.h)."""


@dataclass(frozen=True)
class Unseen:
    """The meaning to an operating system of entries that are not present to the processor."""

    mask: int
    value: int
    """An entry leads somewhere if these of its bits have this value."""
    is_user: bool = False
    """Whether such entries are user mode's, whatever their U/S bit, and allow nothing else."""
    may_be_large: bool = False
    """Whether what makes an entry map a large page does the same in them."""
    inverted: int = 0
    """A bit that says that all bits of the address are inverted."""
    marks: int = 0
    """Bits above the address, of which one may be set so that the processor looks nowhere."""


@dataclass(frozen=True)
class Software:
    """The meaning of the bits that are free for the operating system."""

    name: str
    unseen: Unseen | None = None
    """None: an entry that is not present means nothing."""
    table_flags: tuple[int, int] | None = None
    """Which bits of entries that lead to tables have which value, as this system makes them: on x86
    writable and accessed from the beginning, and cached. None: it has no habits that are known."""
    beginning: tuple[int, int] | None = None
    """The same for a large page with frame 0, where the first megabyte is the firmware's."""
    parts_code: bool = False
    """Whether the system bars itself from its users' code in its own copy of the top level, as
    users run on the other one: Linux (arch/x86/mm/pti.c)."""
    encryption: int = 0
    """The bit of an entry by which AMD's processors encrypt the page: it is in the address."""
    self_entries: range = range(0)
    """Where in the top level the entry may stand by which the tables map themselves."""
    user_entries: range | None = None
    """Entries of the top level that are the process's own, where the system parts them so."""
    bars_other_half: bool = False
    """Whether user mode has nothing behind the others, whatever entries say: to the processor they
    are another table's."""

    @property
    def has_habits(self) -> bool:
        """Whether it is known which entries the system makes."""
        return self.table_flags is not None


@dataclass(frozen=True)
class Paging:
    """An architecture's page tables as one operating system has them."""

    architecture: Architecture
    software: Software
    physical_bits: int = 0
    """Bits of a physical address: those above are reserved. 0: as the architecture has it."""
    used_bits: int = 0
    """So many of them does this machine use, as far as is known: see with_voted_width. 0: as the
    size of the dump tells."""

    def __post_init__(self) -> None:
        """Take the architecture's word where no other is known."""
        if not self.physical_bits:
            object.__setattr__(self, "physical_bits", self.architecture.physical_bits)

    @property
    def name(self) -> str:
        """The architecture's name."""
        return self.architecture.name

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
        """Which entries lead somewhere, those out of the processor's sight included."""
        present = self.architecture.is_present(entries)
        if (unseen := self.software.unseen) is not None:
            if unseen.mask < 1 << 16:
                low = entries.view(np.uint16)[..., ::4]
                present |= low & np.uint16(unseen.mask) == unseen.value
            else:
                present |= entries & np.uint64(unseen.mask) == np.uint64(unseen.value)
        return present

    def is_large(self, entries: Entries, level: Level) -> NDArray[np.bool_]:
        """Which entries of an upper level map large pages, of those that lead somewhere."""
        if not level.may_map:
            return np.zeros(entries.shape, bool)
        large = self.architecture.are_large(entries)
        if not (self.software.unseen and self.software.unseen.may_be_large):
            large &= self.architecture.is_present(entries)
        return large

    def frames(self, entries: Entries, level: Level) -> NDArray[np.int64]:
        """The frame that each entry names: of a table, or of a page's beginning."""
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
        """Which entries break the processor's rules, or those of the system.

        All of them lead somewhere, and `frames` is what they name.
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
        """Which entries that are not present have more than one of the marks of which one is set.

        These bits are above the address, so they are none of x86's.
        """
        if not self.software.unseen or self.entry_bytes == 4:
            return np.zeros(len(entries), bool)
        marks = entries & np.uint64(self.software.unseen.marks)
        many: NDArray[np.bool_] = marks & (marks - np.uint64(1)) != 0
        return many

    def _is_no_beginning(self, entries: Entries, level: Level) -> NDArray[np.bool_]:
        """Which entries of an upper level, of those that name frame 0, no system makes.

        The first megabyte is the firmware's: there is no table, and a large page there is the
        kernel's, who maps it to write there. A slot that was empty names frame 0 as soon as one
        byte of it is altered.
        """
        mask, value = self.software.beginning or (0, 0)
        odd: NDArray[np.bool_] = entries & np.uint64(mask) != value
        return odd | ~self.is_large(entries, level)

    def is_odd(self, entries: Entries, level: Level) -> NDArray[np.bool_]:
        """Which entries of an upper level are such as the system does not make.

        Each may be: for a table only that counts which most of its entries are.
        """
        mask, value = self.software.table_flags or (0, 0)
        odd: NDArray[np.bool_] = entries & np.uint64(mask) != value
        odd &= entries & np.uint64(PRESENT) != 0
        odd &= ~self.is_large(entries, level)  # these may be read-only, and a device's
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
            # MMPTE_TRANSITION.Protection, bits 5 to 9: 2, 3, 6 and 7 allow to execute, 4 to 7
            # to write (ntosp.h, MM_EXECUTE and so on).
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
    # Pages in transition are still the process's (Windows Internals, "Page faults"; Volatility 2
    # takes them so as well). Bit 7 belongs to their protection, and no large page is in transition.
    Unseen(TRANSITION | PROTOTYPE | PRESENT, TRANSITION, marks=_MARKS),
    table_flags=(PRESENT | WRITE | ACCESSED | CACHING, PRESENT | WRITE | ACCESSED),
    beginning=_BEGINNING,
)
_LINUX = Software(
    "Linux",
    # Pages of PROT_NONE (pgtable_types.h), their addresses inverted since 2018, against a flaw of
    # processors (pgtable-invert.h); no machine has memory where the top bit is set.
    Unseen(
        PRESENT | PROTECTION_NONE,
        PROTECTION_NONE,
        is_user=True,
        may_be_large=True,
        inverted=1 << 51,
    ),
    # The accessed bit of entries that lead to tables is cleared, to learn what is in use, since 6.1
    # (lru_gen, mm/vmscan.c).
    table_flags=(PRESENT | WRITE | CACHING, PRESENT | WRITE),
    beginning=_BEGINNING,
    parts_code=True,
)
_WINDOWS_ON_ARM64 = Software(
    "Windows",
    # As MemProcFS reads them (vmm/mm/mm_arm64.c), which was tried on dumps of real machines.
    Unseen(TRANSITION | PROTOTYPE | PRESENT, TRANSITION),
    table_flags=(0x073, 0x003),
    self_entries=range(0x100, 0x200),
    user_entries=range(0x100),
    bars_other_half=True,
)
_LINUX_ON_ARM64 = Software(
    "Linux",
    Unseen(PRESENT | _NOT_GLOBAL, _NOT_GLOBAL, is_user=True, may_be_large=True),
    # The access flag, bit 10, may be set in them (FEAT_HAFT).
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
    """Pages in transition are there, and the tables map themselves."""
    return Paging(architecture, replace(_WINDOWS, self_entries=_SELF_ENTRIES[architecture]))


WINDOWS_ON_ARM64 = Paging(ARM64_BOTH_HALVES, _WINDOWS_ON_ARM64)
"""One page is the top of both halves of the addresses, and maps the tables into themselves."""


def as_linux_on_arm64_has_it(architecture: Arm64, *, is_before_6_10: bool = False) -> Paging:
    """Pages that nobody may use are there; the processes' tables and the kernel's are apart."""
    software = _LINUX_ON_ARM64
    if is_before_6_10:
        bit = _PROTECTION_NONE_BEFORE
        unseen = Unseen(PRESENT | bit, bit, is_user=True, may_be_large=True)
        software = replace(software, unseen=unseen)
    return Paging(architecture, software)


def as_linux_has_it(architecture: Architecture, encryption: int = 0) -> Paging:
    """Pages that nobody may use are there, and half of the top level is a process's own.

    `encryption` is the bit of an entry by which AMD's processors encrypt the page.
    """
    entries = architecture.top_frames * architecture.entries
    # Of 4 GiB the kernel has the last one, as usual (CONFIG_PAGE_OFFSET).
    own = range(entries // 4 * 3 if architecture.address_bits == 32 else entries // 2)
    return Paging(architecture, replace(_LINUX, encryption=encryption, user_entries=own))
