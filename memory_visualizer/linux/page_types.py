"""The type of a page in its `struct page`, as the kernel encodes it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_TYPE = 0xFFFF_FFFF
TYPE_BYTE = 0xFF00_0000
Numbers = NDArray[np.uint32]
Marks = NDArray[np.bool_]


@dataclass(frozen=True)
class PageTypes:
    """The encoding, in this kernel, of the types of pages that no user has."""

    of_buddy: int
    """The 32-bit value of pages of the buddy allocator; 0 if these have a flag instead."""

    @property
    def _is_number(self) -> bool:
        return self.of_buddy & ~TYPE_BYTE == 0

    @property
    def _base(self) -> int:
        """Bits that are set in every type made of bits; 0 if types are values."""
        bit = ~self.of_buddy & NO_TYPE
        if self._is_number or bit & (bit - 1):
            return 0
        return 0x8000_0000 if bit >= 1 << 23 else 0xF000_0000

    def any(self, types: Numbers) -> Marks:
        """Which pages have a type."""
        # As signed numbers, types lie below all counts of mappings, and -1 is not a type.
        limit = TYPE_BYTE if self._is_number else NO_TYPE
        typed: Marks = (types >= np.uint32(0x8000_0000)) & (types < np.uint32(limit))
        return typed

    def are(self, types: Numbers, value: int) -> Marks:
        """Which pages have the type that VMCOREINFO names by this value."""
        value &= NO_TYPE
        if self._is_number:
            same: Marks = types & np.uint32(TYPE_BYTE) == value
        elif self._base:
            bits = np.uint32(self._base | (~value & NO_TYPE))
            same = types & bits == self._base
        else:
            same = types == value
        return same
