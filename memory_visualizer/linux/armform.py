"""A Linux kernel on 64-bit ARM, found by the form of its page tables if its VMCOREINFO is lost.

Kernels with pages of 4 KiB and addresses of 48 bits are found, as most are, and kernels whose top
level does not fill a page: the number of its entries tells the sizes of pages and addresses.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.formats.base import Dump, Words
from memory_visualizer.linux.machine import Machine, arm64_machine
from memory_visualizer.paging import MAY_EXECUTE, Mappings, Paging, walk
from memory_visualizer.units import PAGE_SIZE

_PAGE_BITS, _ADDRESS_BITS = 12, 48
_SMALL = {16: (12, 52), 2: (14, 48), 32: (14, 52)}
"""Bits of pages and of addresses by the entries of a top level that does not fill a page."""
_NO_PRIVILEGED_EXECUTION = np.uint64(1 << 59)
"""PXNTable, which newer kernels set in the top levels of processes, not in their own."""
_FORM, _TABLE = np.uint64(0x07FF_0000_0000_0BFF), np.uint64(0x003)
"""Mask and value of the bits that Linux always writes into an entry that leads to a table."""
_SAMPLED_TABLES, _TRIED_TABLES = 1 << 10, 4
"""How many candidates are read, from the lowest on, and how many of them are tried, the fullest
first. The kernel's own table is in its image, near the beginning of memory, and the fullest of
all."""
_IMAGES = 2**64 - (1 << 47)
"""The address from which on modules and the kernel's image lie; all memory is mapped below."""
_LEAST_IMAGE = 1 << 20
_ALIGNMENT = 0x1FFFFF


class SmallTopSearch:
    """Finds top levels that do not fill a page, while the dump's contents pass by.

    Of the kernel's, the first entry leads to all memory, the last one to its image. Blocks may come
    in any order, and from several threads.
    """

    def __init__(self) -> None:
        self._found: list[NDArray[np.int64]] = []
        """Rows of whether a table is a process's, its frame, and its number of entries."""

    def scan(self, frames: NDArray[np.int64], words: Words) -> None:
        """Look at the first entries of each page."""
        rows = np.flatnonzero(words[:, 0] & _FORM == _TABLE)
        tables = words[rows, : max(_SMALL)]
        is_used = tables != 0
        sound = (~is_used | (tables & _FORM == _TABLE)).all(axis=1)
        entries = max(_SMALL) - np.argmax(is_used[:, ::-1], axis=1)
        sound &= np.isin(entries, list(_SMALL)) & ~words[rows, max(_SMALL) :].any(axis=1)
        is_users = tables[:, 0] & _NO_PRIVILEGED_EXECUTION != 0
        self._found.append(np.column_stack((is_users, frames[rows], entries))[sound])

    @property
    def tops(self) -> list[tuple[int, int]]:
        """Frames and numbers of entries: a few of each number, the likeliest first."""
        found = sorted(np.concatenate(self._found).tolist()) if self._found else []
        tops: list[tuple[int, int]] = []
        for size in _SMALL:
            alike = [(frame, entries) for _, frame, entries in found if entries == size]
            tops += alike[:_TRIED_TABLES]
        return tops


def machines_by_form(
    memory: Dump, candidates: Sequence[NDArray[np.int64]], small: SmallTopSearch
) -> Iterator[tuple[int, Machine, int]]:
    """Possible kernels: frame of the own top-level table, machine, and address of the image.

    `candidates` are frames of pages whose last entry leads to a table.
    """
    full = _own_tables(memory, np.concatenate([np.empty(0, np.int64), *candidates]))
    tops = [(top, (_PAGE_BITS, _ADDRESS_BITS)) for top in full]
    for top, bits in [*tops, *((top, _SMALL[entries]) for top, entries in small.tops)]:
        if (image := _image(memory, arm64_machine(*bits, 0).kernel, top)) is not None:
            start, frame = image
            yield top, arm64_machine(*bits, start - frame * PAGE_SIZE), start


def _own_tables(memory: Dump, frames: NDArray[np.int64]) -> list[int]:
    """Pages with only entries that lead to tables, some of them to images; the fullest first."""
    frames = np.sort(frames)[:_SAMPLED_TABLES]  # so that their order does not matter
    tables = memory.read_frames(frames)
    is_used = tables != 0
    sound = (~is_used | (tables & _FORM == _TABLE)).all(axis=1)
    half = tables.shape[1] // 2
    # The direct map of all memory comes first in the kernel's half.
    sound &= is_used[:, half:].any(axis=1) & is_used[:, :half].any(axis=1)
    count = np.count_nonzero(is_used, axis=1)
    chosen = np.flatnonzero(sound)
    order = np.argsort(-count[chosen], kind="stable")[:_TRIED_TABLES]
    tops: list[int] = frames[chosen[order]].tolist()
    return tops


def _image(memory: Dump, paging: Paging, top: int) -> tuple[int, int] | None:
    """The first address of the longest executable stretch, and its frame."""
    roots = paging.architecture.roots_at(np.array([top * PAGE_SIZE]))
    rows = Mappings.join(list(walk(memory, paging, roots)))
    rows = rows.take((rows.access & MAY_EXECUTE != 0) & (rows.virtual >= np.uint64(_IMAGES)))
    found = longest_stretch(rows)
    return found[:2] if found and found[2] >= _LEAST_IMAGE else None


def longest_stretch(rows: Mappings) -> tuple[int, int, int] | None:
    """The longest stretch of addresses in these mappings: its first address, frame, and bytes."""
    rows = rows.take(np.argsort(rows.virtual, kind="stable"))
    if not len(rows.virtual):
        return None
    end = rows.virtual + rows.count.astype(np.uint64) * np.uint64(PAGE_SIZE)
    begins = np.append(0, np.flatnonzero(rows.virtual[1:] != end[:-1]) + 1)
    last = np.append(begins[1:], len(end)) - 1
    size = (end[last] - rows.virtual[begins]).astype(np.int64)
    best = int(np.argmax(size))
    return int(rows.virtual[begins[best]]), int(rows.pfn[begins[best]]), int(size[best])
