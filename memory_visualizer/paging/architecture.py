"""Ways of paging as data: the levels of page tables, and what the bits of their entries mean.

All of it is the processor's own word (Intel SDM, volume 3A, 4.3 to 4.6). What an operating system
means by bits that the processor ignores is in `software`.
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
"""PWT and PCD: how the processor caches what lies behind the entry."""
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
class Architecture:
    """One way of paging, as the processor has it."""

    name: str
    entry_bytes: int
    levels: tuple[Level, ...]
    """From the top, PAE's four pointers left out: its directories count as one top level."""
    top_frames: int = 1
    """Frames of the top level."""
    leaf_flags: tuple[tuple[int, int], ...] = ((1, 0x0F), (3, 0x30))
    """Where in an entry stand the six bits that pages side by side have alike: shifts and masks.

    Writable, user, PWT, PCD; PAT and global: what use leaves behind is not among them."""

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
        """Which entries the processor follows."""
        present: NDArray[np.bool_] = entries.view(np.uint8)[..., ::8] & np.uint8(PRESENT) != 0
        return present

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

    def access(self, entries: Entries) -> NDArray[np.uint8]:
        """What the entries of a level allow, as MAY_ bits; a level's part of SDM 4.6."""
        # USER, WRITE and NO_EXECUTE in the lowest and the highest byte are bits 2, 1 and 7.
        low, high = entries.view(np.uint8)[::8], entries.view(np.uint8)[7::8]
        access: NDArray[np.uint8] = low >> np.uint8(2) & np.uint8(MAY_USER)
        access |= low & np.uint8(MAY_WRITE)
        access |= ~high >> np.uint8(5) & np.uint8(MAY_EXECUTE)
        return access

    def mixtures(self, entries: Entries) -> NDArray[np.int64]:
        """For each entry a number below 64 that its leaf_flags make up."""
        mixture = np.zeros(len(entries), np.uint64)
        for shift, mask in self.leaf_flags:
            mixture |= entries >> np.uint64(shift) & np.uint64(mask)
        return mixture.view(np.int64)


def bits(first: int, last: int) -> int:
    """A number of which these bits are set, the last one included."""
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
"""Bits that are zero in each of PAE's four pointers, beside those of the physical width (4.4.1)."""
