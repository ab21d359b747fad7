"""The types of pages in kernels of many versions, by their include/linux/page-flags.h.

Reading of whole arrays of struct pages is tested through open(): tests/linux/test_linux.py.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from memory_visualizer.linux.page_types import PageTypes
from memory_visualizer.linux.pagestates import _head_address


@dataclass(frozen=True)
class Kernel:
    """The numbers of some versions, as they stand in the word of struct page."""

    buddy: int
    types: dict[str, int]
    """The whole word in older kernels; in the newest, only the bits of the type matter."""
    counts: tuple[int, ...]
    """Words of pages that processes map, or may map."""


def bit(number: int, base: int = 0xF000_0000) -> int:
    """A word of ones with the type's bit cleared; only bits below `base` (PAGE_TYPE_BASE) count."""
    return 0xFFFF_FFFF & ~number | base


KERNELS = {
    # _mapcount: -1 if the page is not mapped, and fixed negative values for types.
    "4.14": Kernel(
        -128 & 0xFFFF_FFFF,
        {"buddy": -128, "balloon": -256, "kmemcg": -512},
        (-1, 0, 1, 77),
    ),
    # PG_buddy 0x80, PG_balloon 0x100, PG_kmemcg 0x200, PG_table 0x400.
    "4.18": Kernel(
        bit(0x80),
        {"buddy": bit(0x80), "balloon": bit(0x100), "kmemcg": bit(0x200), "table": bit(0x400)},
        (-1, 0, 1, 77, 0x7FFF),
    ),
    # PG_buddy 0x80, PG_offline 0x100, PG_table 0x200, PG_guard 0x400, PG_hugetlb 0x800.
    "6.9": Kernel(
        bit(0x80),
        {
            "buddy": bit(0x80),
            "offline": bit(0x100),
            "table": bit(0x200),
            "guard": bit(0x400),
            "hugetlb": bit(0x800),
        },
        (-1, 0, 1, 77, 0x7FFF),
    ),
    # PG_buddy 0x40000000, PG_offline 0x20000000, PG_table 0x10000000; the base is 0x80000000.
    "6.11": Kernel(
        bit(0x4000_0000, 0x8000_0000),
        {
            "buddy": bit(0x4000_0000, 0x8000_0000),
            "offline": bit(0x2000_0000, 0x8000_0000),
            "table": bit(0x1000_0000, 0x8000_0000),
            "hugetlb": bit(0x0400_0000, 0x8000_0000),
            "slab": bit(0x0200_0000, 0x8000_0000),
        },
        (-1, 0, 1, 77),
    ),
    # PGTY_buddy 0xf0, PGTY_offline 0xf1, PGTY_table 0xf2, ..., in the upper byte; 0xff is none.
    "6.12": Kernel(
        0xF0 << 24,
        {
            "buddy": 0xF0 << 24 | 5,
            "offline": 0xF1 << 24,
            "table": 0xF2 << 24 | 0xFF_FFFF,
            "hugetlb": 0xF4 << 24,
            "slab": 0xF5 << 24 | 0x1234,
            "zsmalloc": 0xF6 << 24,
        },
        (-1, 0, 1, 77, 0x7FFF_FFFF),
    ),
}


@pytest.mark.parametrize("release", KERNELS)
def test_types(release: str) -> None:
    """A page has exactly one type, or is counted."""
    kernel = KERNELS[release]
    kinds = PageTypes(kernel.buddy)
    words = np.array([word & 0xFFFF_FFFF for word in kernel.types.values()], np.uint32)
    counted = np.array([word & 0xFFFF_FFFF for word in kernel.counts], np.uint32)
    assert kinds.any(words).all()
    assert not kinds.any(counted).any()
    for number, (name, word) in enumerate(kernel.types.items()):
        told = word if release != "6.12" else word >> 24 << 24  # as VMCOREINFO has the number
        same = kinds.are(words, told)
        assert same.nonzero()[0].tolist() == [number], name
        # also as VMCOREINFO's signed numbers
        np.testing.assert_array_equal(kinds.are(words, told - (1 << 32)), same)
    assert kinds.are(words, kinds.of_buddy).tolist() == [name == "buddy" for name in kernel.types]


def test_where_the_head_of_a_compound_page_is() -> None:
    """It is a pointer whose lowest bit is set; in the newest kernels a mask for the tail's address.

    (page.compound_head, include/linux/mm_types.h; page.compound_info, 7.0.) 64 bytes a page.
    """
    base = 0xFFFFEA0004000000
    own = np.array([base + 64 * number for number in (9, 15, 700, 5)], np.uint64)
    order_3, order_9 = 2**64 - 64 * 8, 2**64 - 64 * 512
    compound = np.array([base + 64 * 8 + 1, order_3 + 1, order_9 + 1, 0], np.uint64)
    expected = np.array([base + 64 * 8, base + 64 * 8, base + 64 * 512, 0], np.uint64)
    np.testing.assert_array_equal(_head_address(own, compound), expected)
