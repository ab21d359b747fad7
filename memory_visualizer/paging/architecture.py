"""Paging modes as data: the levels of page tables, and the meaning of the bits in their entries.

All of it follows the processors' manuals (Intel SDM, volume 3A, 4.3 to 4.6; Arm Architecture
Reference Manual, D8.2 to D8.4). The meaning that an operating system gives to bits that the
processor ignores is in `software`.

Frames are of 4 KiB, whatever a processor's pages are. So a page of 16 or 64 KiB is several frames,
and a table that fills such a page is several consecutive tables of 512 entries each, as all tables
with entries of 8 bytes.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.units import PAGE_SIZE

PRESENT = 1 << 0
WRITE = 1 << 1
USER = 1 << 2
CACHING = 1 << 3 | 1 << 4
"""PWT and PCD: how the processor caches the table or page behind the entry."""
ACCESSED = 1 << 5
DIRTY = 1 << 6
LARGE = 1 << 7
NO_EXECUTE = 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
"""Bits 12 to 51 of an entry: where the table or page below it begins."""

MAY_USER = 1
"""Bit of Mappings.access: all levels of a path let user mode through."""
MAY_WRITE = 2
"""Bit of Mappings.access: all levels of a path let writes through."""
MAY_EXECUTE = 4
"""Bit of Mappings.access: no level of a path forbids execution."""

Entries: TypeAlias = NDArray[np.uint64]


@dataclass(frozen=True)
class Level:
    """One level of page tables."""

    shift: int
    """An entry covers ``2**shift`` bytes."""
    may_map: bool
    """Whether an entry may map a page of this size; on the last level all entries map pages."""
    reserved: int = 0
    """Reserved bits, which must be zero in a present entry (SDM 4.3 to 4.5)."""
    reserved_if_large: int = 0
    """The same for an entry that maps a large page."""
    required: int = 0
    """Bits that must be set in a present entry."""

    @property
    def pages(self) -> int:
        """Page frames that an entry covers."""
        return 1 << (self.shift - 12)


@dataclass(frozen=True)
class Architecture:
    """One paging mode of a processor."""

    name: str
    entry_bytes: int
    levels: tuple[Level, ...]
    """From the top, without PAE's four pointers: its four directories count as one top level."""
    top_frames: int = 1
    """Frames of the top level."""
    root_entries: int = 512
    """Entries of the top level's only frame; if there are fewer than fill it, they may begin within
    it."""
    page_frames: int = 1
    """Frames of the smallest page, and of each table below the top level."""
    first: int | None = None
    """The address that the first entry covers; None: addresses have two halves (SDM 3.3.7.1).
    """
    physical_bits: int = 46
    """The largest number of physical address bits on most machines: higher bits are reserved."""
    leaf_flags: tuple[tuple[int, int], ...] = ((1, 0x0F), (3, 0x30))
    """Shifts and masks of the six bits of an entry that are equal for neighbouring pages.

    Writable, user, PWT, PCD; PAT and global. The bits that use sets are not among them."""

    @property
    def entries(self) -> int:
        """Entries of one table."""
        return PAGE_SIZE // self.entry_bytes

    @property
    def address_bits(self) -> int:
        """Bits of a virtual address that are translated."""
        entries = self.top_frames * self.entries if self.is_whole else self.root_entries
        return self.levels[0].shift + (entries - 1).bit_length()

    @property
    def is_whole(self) -> bool:
        """Whether the top level fills its frames."""
        return self.root_entries * 8 >= PAGE_SIZE

    def base_address(self, register: int) -> int:
        """The physical address in a value of CR3, or in its copy in a process object: no flag bits.

        PAE's four pointers lie at any multiple of 32 (SDM 4.4.1).
        """
        return register & ~0x1F if self.top_frames > 1 else register & ~(PAGE_SIZE - 1)

    @property
    def has_page_for_root(self) -> bool:
        """Whether a top level fills a page, or several, of the processor's."""
        return self.is_whole and self.top_frames % self.page_frames == 0

    @property
    def root_bytes(self) -> int:
        """The alignment of top levels: a root's number is its address divided by this."""
        return PAGE_SIZE if self.is_whole else self.root_entries * 8

    def roots_at(self, addresses: NDArray[np.int64]) -> NDArray[np.int64]:
        """The roots at physical addresses, shape (n, top_frames): the frames of each top level."""
        roots: NDArray[np.int64] = addresses[:, None] // self.root_bytes
        return roots if self.top_frames == 1 else roots + np.arange(self.top_frames)

    def frames_of_roots(self, roots: NDArray[np.int64]) -> NDArray[np.int64]:
        """The frame in which each root lies, or begins; -1 where there is none."""
        if self.is_whole:
            return roots
        return roots // (PAGE_SIZE // self.root_bytes)

    def index_of_roots(self, roots: NDArray[np.int64]) -> NDArray[np.int64]:
        """The entry of its frame with which each root begins."""
        if self.is_whole:
            return np.zeros_like(roots)
        return roots % (PAGE_SIZE // self.root_bytes) * self.root_entries

    def part(self, addresses: NDArray[np.uint64], level: Level) -> NDArray[np.int64]:
        """Which frame of a table, on a level, has the entry for each address."""
        entry = (addresses >> np.uint64(level.shift)).view(np.int64)
        return entry // self.entries % self.page_frames

    def canonical(self, virtual: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Virtual addresses in canonical form, from the bits that are translated."""
        bits = self.address_bits
        if self.first is not None:
            return virtual + np.uint64(self.first)
        if bits == 32:
            return virtual
        shift = np.uint64(64 - bits)
        return ((virtual << shift).view(np.int64) >> shift.astype(np.int64)).view(np.uint64)

    def decode(self, words: NDArray[np.uint64]) -> Entries:
        """Tables as entries: shape (n, 512) words to (n, entries)."""
        return words if self.entry_bytes == 8 else words.view(np.uint32).astype(np.uint64)

    def is_present(self, entries: Entries) -> NDArray[np.bool_]:
        """Which entries the processor follows."""
        present: NDArray[np.bool_] = entries.view(np.uint8)[..., ::8] & np.uint8(PRESENT) != 0
        return present

    def are_large(self, entries: Entries) -> NDArray[np.bool_]:
        """Which entries map pages on an upper level where entries may."""
        large: NDArray[np.bool_] = entries & np.uint64(LARGE) != 0
        return large

    def bar_user(self, entries: Entries) -> NDArray[np.bool_]:
        """Which entries that lead to tables bar user mode."""
        bar: NDArray[np.bool_] = entries & np.uint64(USER) == 0
        return bar

    def let_user(self, entries: Entries) -> NDArray[np.bool_]:
        """Which entries that the processor follows let user mode through by themselves."""
        let: NDArray[np.bool_] = entries & np.uint64(USER) != 0
        return let & self.is_present(entries)

    def frames(self, entries: Entries) -> NDArray[np.int64]:
        """The frame that each entry names: of a table, or of a small page."""
        return ((entries & np.uint64(ADDRESS)) >> np.uint64(12)).view(np.int64)

    def large_frames(self, entries: Entries, level: Level) -> NDArray[np.int64]:
        """The first frame of the large page that each of these entries maps."""
        frames = self.frames(entries)
        if self.entry_bytes == 4:  # PSE-36: bits 13 to 20 are bits 32 to 39 of the address
            high = entries >> np.uint64(13) & np.uint64(0xFF)
            frames |= (high << np.uint64(20)).view(np.int64)
        return frames & -level.pages

    def access(self, entries: Entries, maps: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """The access that the entries of a level allow, as MAY_ bits (SDM 4.6).

        `maps` tells which entries map pages and do not lead to tables.
        """
        del maps  # the bits are the same
        # USER, WRITE and NO_EXECUTE in the lowest and the highest byte are bits 2, 1 and 7.
        low, high = entries.view(np.uint8)[::8], entries.view(np.uint8)[7::8]
        access: NDArray[np.uint8] = low >> np.uint8(2) & np.uint8(MAY_USER)
        access |= low & np.uint8(MAY_WRITE)
        access |= ~high >> np.uint8(5) & np.uint8(MAY_EXECUTE)
        return access

    def mixtures(self, entries: Entries) -> NDArray[np.int64]:
        """For each entry, its leaf_flags as a number below 64."""
        mixture = np.zeros(len(entries), np.uint64)
        for shift, mask in self.leaf_flags:
            mixture |= entries >> np.uint64(shift) & np.uint64(mask)
        return mixture.view(np.int64)


def bits(first: int, last: int) -> int:
    """A number with the bits from `first` to `last` set."""
    return (1 << last + 1) - (1 << first)


_PAE_RESERVED = bits(52, 62)
X86 = Architecture("x86", 4, (Level(22, True, 0, 1 << 21), Level(12, False)))
PAE = Architecture(
    "PAE",
    8,
    (Level(21, True, _PAE_RESERVED, bits(13, 20)), Level(12, False, _PAE_RESERVED)),
    top_frames=4,
)
X64 = Architecture(
    "x86-64",
    8,
    (
        Level(39, False, LARGE),
        Level(30, True, 0, bits(13, 29)),
        Level(21, True, 0, bits(13, 20)),
        Level(12, False),
    ),
)
X64_5_LEVELS = Architecture("x86-64, 5 levels", 8, (Level(48, False, LARGE), *X64.levels))

PAE_POINTER_RESERVED = 1 << 1 | 1 << 2 | bits(5, 8) | bits(52, 63)
"""Bits that are zero in each of PAE's four pointers, besides those above the physical width (SDM
4.4.1)."""


_AP_USER, _AP_READ_ONLY = 1 << 6, 1 << 7
_DIRTY_MANAGED = 1 << 51
"""The page is read-only until the first write, which the processor or the system records."""
_PRIVILEGED_NO_EXECUTE, _USER_NO_EXECUTE = 1 << 53, 1 << 54
_TABLE_PRIVILEGED_NO_EXECUTE, _TABLE_USER_NO_EXECUTE = 1 << 59, 1 << 60
_TABLE_BARS_USER, _TABLE_BARS_WRITE = 1 << 61, 1 << 62
_LEADS = 1 << 1
"""On an upper level: the entry leads to a table. On the last level it must be set."""


@dataclass(frozen=True)
class Arm64(Architecture):
    """One half of the addresses of 64-bit ARM, with one page size (VMSAv8-64, stage 1)."""

    moved: tuple[int, int, int] | None = None
    """Address bits above bit 47 or 49 that stand elsewhere in the entry: their first bit there,
    their number, and their first bit in the address (FEAT_LPA and FEAT_LPA2)."""
    writable: int = _DIRTY_MANAGED
    """Each of these bits tells that a read-only page may be written: it is only clean so far."""

    @property
    def is_upper(self) -> bool:
        """Whether it is the kernel's half."""
        return bool(self.first)

    def are_large(self, entries: Entries) -> NDArray[np.bool_]:
        """Which entries map pages on an upper level where entries may: blocks."""
        large: NDArray[np.bool_] = entries & np.uint64(_LEADS) == 0
        return large

    def bar_user(self, entries: Entries) -> NDArray[np.bool_]:
        """Which entries that lead to tables bar user mode."""
        bar: NDArray[np.bool_] = entries & np.uint64(_TABLE_BARS_USER) != 0
        return bar

    def let_user(self, entries: Entries) -> NDArray[np.bool_]:
        """Which entries let user mode through by themselves; those that lead to tables need not."""
        let: NDArray[np.bool_] = entries & np.uint64(_AP_USER) != 0
        return let & self.is_present(entries)

    def frames(self, entries: Entries) -> NDArray[np.int64]:
        """The frame that each entry names: of a table, or of a small page."""
        top = 49 if self.moved and self.moved[0] < 12 else 47
        address = entries & np.uint64(bits(11 + self.page_frames.bit_length(), top))
        if self.moved:
            first, count, place = self.moved
            high = entries >> np.uint64(first) & np.uint64((1 << count) - 1)
            address |= high << np.uint64(place)
        return (address >> np.uint64(12)).view(np.int64)

    def large_frames(self, entries: Entries, level: Level) -> NDArray[np.int64]:
        """The first frame of the block that each of these entries maps."""
        return self.frames(entries) & -level.pages

    def access(self, entries: Entries, maps: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """The access that the entries of a level allow, as MAY_ bits (D8.4).

        In the user's half, pages that user mode may only execute belong to user mode, too.
        """

        def is_set(mask: int) -> NDArray[np.bool_]:
            marks: NDArray[np.bool_] = entries & np.uint64(mask) != 0
            return marks

        of_user = is_set(_AP_USER)
        if not self.is_upper:
            of_user |= ~is_set(_USER_NO_EXECUTE)
        may_write = ~is_set(_AP_READ_ONLY) | is_set(self.writable)
        may_execute = ~np.where(of_user, is_set(_USER_NO_EXECUTE), is_set(_PRIVILEGED_NO_EXECUTE))
        barred = _TABLE_PRIVILEGED_NO_EXECUTE if self.is_upper else _TABLE_USER_NO_EXECUTE
        access = np.where(maps, of_user, ~is_set(_TABLE_BARS_USER)) * np.uint8(MAY_USER)
        access |= np.where(maps, may_write, ~is_set(_TABLE_BARS_WRITE)) * np.uint8(MAY_WRITE)
        access |= np.where(maps, may_execute, ~is_set(barred)) * np.uint8(MAY_EXECUTE)
        return access


ARM64_BOTH_HALVES = Arm64(
    "ARM64",
    8,
    (
        Level(39, False, bits(48, 49), 0, _LEADS),
        Level(30, True, bits(48, 49), bits(12, 15) | bits(17, 29)),
        Level(21, True, bits(48, 49), bits(12, 15) | bits(17, 20)),
        Level(12, False, bits(48, 49), 0, _LEADS),
    ),
    leaf_flags=((2, 0x07), (3, 0x38)),
    physical_bits=48,
    writable=_DIRTY_MANAGED | 1 << 55,
)
"""Windows' layout: pages of 4 KiB, and the top levels of both halves, of 47 bits each, in one
page."""


def arm64(page_bits: int, address_bits: int, *, upper: bool = False, large: bool = False) -> Arm64:
    """64-bit ARM with pages of 2**page_bits bytes and virtual addresses of `address_bits` bits.

    `upper` chooses the half whose addresses begin with ones, the kernel's (TTBR1), instead of the
    processes' half (TTBR0). `large`: physical addresses have 52 bits with pages of 4 or 16 KiB, too
    (FEAT_LPA2).
    """
    index_bits = page_bits - 3
    count = -(-(address_bits - page_bits) // index_bits)
    shifts = [page_bits + index_bits * number for number in range(count)][::-1]
    top_entries = 1 << (address_bits - shifts[0])
    unused = 0 if large or page_bits == 16 else bits(48, 49)
    highest_block = 2 if page_bits == 12 or large or page_bits == 16 else 1
    levels = []
    for shift in shifts[:-1]:
        height = (shift - page_bits) // index_bits
        may_map = height <= highest_block + (large and page_bits == 12)
        inner = bits(17, shift - 1) | (bits(12, 15) if page_bits < 16 else 0)
        levels.append(
            Level(shift, may_map, unused, inner if may_map else 0, 0 if may_map else _LEADS)
        )
    levels.append(Level(page_bits, False, unused, 0, _LEADS))
    moved = (12, 4, 48) if page_bits == 16 else (8, 2, 50) if large else None
    return Arm64(
        f"ARM64, {1 << page_bits - 10} KiB pages",
        8,
        tuple(levels),
        top_frames=max(1, top_entries // 512),
        # The attribute index; access permissions and one more bit.
        leaf_flags=((2, 0x07), (3, 0x38)),
        root_entries=min(512, top_entries),
        page_frames=1 << page_bits - 12,
        first=(1 << 64) - (1 << address_bits) if upper else 0,
        physical_bits=52 if moved else 48,
        moved=moved,
    )
