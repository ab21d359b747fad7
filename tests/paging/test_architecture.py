"""Architectures, against the figures of Intel's manual (volume 3A, 4.3 to 4.6)."""

import numpy as np
import pytest

from memory_visualizer.paging.architecture import (
    MAY_EXECUTE,
    MAY_USER,
    MAY_WRITE,
    PAE,
    X64,
    X64_5_LEVELS,
    X86,
    Architecture,
    bits,
)


@pytest.mark.parametrize(
    ("architecture", "address_bits", "entries", "pages"),
    [
        (X86, 32, 1024, [1024, 1]),
        (PAE, 32, 512, [512, 1]),
        (X64, 48, 512, [1 << 27, 1 << 18, 512, 1]),
        (X64_5_LEVELS, 57, 512, [1 << 36, 1 << 27, 1 << 18, 512, 1]),
    ],
)
def test_levels(
    architecture: Architecture, address_bits: int, entries: int, pages: list[int]
) -> None:
    """The translated bits, and the size that an entry of each level covers (table 4-2)."""
    assert architecture.address_bits == address_bits
    assert architecture.entries == entries
    assert [level.pages for level in architecture.levels] == pages


@pytest.mark.parametrize(
    ("architecture", "virtual", "written"),
    [
        (X86, 0xC030_0000, 0xC030_0000),
        (PAE, 0xC060_0000, 0xC060_0000),
        (X64, 0x7FFF_FFFF_F000, 0x7FFF_FFFF_F000),
        (X64, 0x8000_0000_0000, 0xFFFF_8000_0000_0000),
        (X64_5_LEVELS, 0x8000_0000_0000, 0x8000_0000_0000),
        (X64_5_LEVELS, 1 << 56, 0xFF00_0000_0000_0000),
    ],
)
def test_canonical_addresses(architecture: Architecture, virtual: int, written: int) -> None:
    """Bits above the topmost translated bit repeat it."""
    assert architecture.canonical(np.array([virtual], np.uint64)).tolist() == [written]


def test_entries_of_32_bits() -> None:
    """A word holds two entries, the lower one first."""
    words = np.full((1, 512), 0x2222_2063_1111_1067, np.uint64)
    entries = X86.decode(words)
    assert entries.shape == (1, 1024)
    assert entries[0, :2].tolist() == [0x1111_1067, 0x2222_2063]
    assert X64.decode(words) is words


def test_frames() -> None:
    """The address has bits 12 to 51; a large page's address has only the upper ones."""
    entry = np.array([0x8000_1234_5678_9067 | bits(52, 58)], np.uint64)
    assert X64.frames(entry).tolist() == [0x1_2345_6789]
    assert X64.large_frames(entry, X64.levels[2]).tolist() == [0x1_2345_6600]
    assert X64.large_frames(entry, X64.levels[1]).tolist() == [0x1_2344_0000]


def test_high_large_pages_of_32_bits() -> None:
    """PSE-36: bits 32 to 39 of the address are bits 13 to 20 of the entry (table 4-4)."""
    entry = np.array([0x0040_00E7 | 0xA5 << 13], np.uint64)
    assert X86.large_frames(entry, X86.levels[0]).tolist() == [0xA5_0040_0000 >> 12]


@pytest.mark.parametrize("architecture", [X86, PAE, X64, X64_5_LEVELS])
def test_access(architecture: Architecture) -> None:
    """U/S and R/W grant, XD takes away; entries without XD allow execution (4.6.1)."""
    entries = np.array([0x1, 0x3, 0x5, 0x7, 0x7 | 1 << 63], np.uint64)
    may_execute = [MAY_EXECUTE] * 5
    if architecture.entry_bytes == 8:
        may_execute[-1] = 0
    else:
        entries = entries & np.uint64(0xFFFF_FFFF)
    granted = [0, MAY_WRITE, MAY_USER, MAY_USER | MAY_WRITE, MAY_USER | MAY_WRITE]
    assert architecture.access(entries, np.ones(5, bool)).tolist() == [
        given | executed for given, executed in zip(granted, may_execute, strict=True)
    ]


def test_mixtures_leave_out_what_use_leaves_behind() -> None:
    """Accessed, dirty and the address make no difference; all other flags do."""
    used = np.array([0x1, 0x21, 0x61, 0xABC_D001], np.uint64)
    assert len(set(X64.mixtures(used).tolist())) == 1
    flags = np.array([0x1, 0x3, 0x5, 0x9, 0x11, 0x81, 0x101], np.uint64)
    assert len(set(X64.mixtures(flags).tolist())) == len(flags)
    assert X64.mixtures(np.array([bits(0, 63)], np.uint64)).max() < 64
