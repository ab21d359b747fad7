"""A Linux kernel on 64-bit ARM by the form of its page tables, where its VMCOREINFO is lost.

With pages of 4 KiB and 48 bits of addresses, as most kernels have them, or with pages and addresses
for which the top level is smaller than a page: then what it covers tells which these are.
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
_MOST_SMALL = 1 << 14
_FORM, _TABLE = np.uint64(0x07FF_0000_0000_0BFF), np.uint64(0x003)
"""Which bits of an entry that leads to a table have which value, as Linux makes it."""
_MOST_TABLES, _MOST_TRIED = 1 << 10, 4
_IMAGES = 2**64 - (1 << 47)
"""From this address on lie modules and the kernel's image; all memory comes before."""
_LEAST_IMAGE = 1 << 20
_ALIGNMENT = 0x1FFFFF


class SmallTopSearch:
    """Finds top levels that do not fill a page, while the dump's contents pass by.

    Of the kernel's, the first entry leads to all memory, the last one to its image. Blocks may come
    in any order, and from several threads.
    """

    def __init__(self) -> None:
        self._found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._room = _MOST_SMALL

    def scan(self, frames: NDArray[np.int64], words: Words) -> None:
        """Look at the first entries of each page."""
        rows = np.flatnonzero(words[:, 0] & _FORM == _TABLE)
        tables = words[rows, : max(_SMALL)]
        is_used = tables != 0
        sound = (~is_used | (tables & _FORM == _TABLE)).all(axis=1)
        entries = max(_SMALL) - np.argmax(is_used[:, ::-1], axis=1)
        sound &= np.isin(entries, list(_SMALL))
        rows, entries = rows[sound], entries[sound]
        alone = ~words[rows, max(_SMALL) :].any(axis=1)
        if self._room > 0 and alone.any():
            self._room -= int(np.count_nonzero(alone))
            self._found.append((frames[rows[alone]], entries[alone].astype(np.int64)))

    @property
    def tops(self) -> list[tuple[int, int]]:
        """Frames, and how many entries each has: the first ones in memory."""
        found = [
            zip(frames.tolist(), entries.tolist(), strict=True) for frames, entries in self._found
        ]
        tops = sorted(one for part in found for one in part)
        return [
            one
            for size in _SMALL
            for one in [(frame, entries) for frame, entries in tops if entries == size][
                :_MOST_TRIED
            ]
        ]


def machines_by_form(
    memory: Dump, candidates: Sequence[NDArray[np.int64]], small: SmallTopSearch
) -> Iterator[tuple[int, Machine, int]]:
    """Frames of the kernel's own top-level tables, the machine, and where its image begins.

    `candidates` are frames of pages whose last entry leads to a table.
    """
    full = _tops(memory, np.concatenate([np.empty(0, np.int64), *candidates]))
    tops = [(top, (_PAGE_BITS, _ADDRESS_BITS)) for top in full]
    for top, bits in [*tops, *((top, _SMALL[entries]) for top, entries in small.tops)]:
        if (image := _image(memory, arm64_machine(*bits, 0).kernel, top)) is not None:
            start, frame = image
            yield top, arm64_machine(*bits, start - frame * PAGE_SIZE), start


def _tops(memory: Dump, frames: NDArray[np.int64]) -> list[int]:
    """Pages of nothing but entries that lead to tables, some of them to images: fullest first."""
    frames = np.sort(frames)[:_MOST_TABLES]  # whatever the order in which they came
    tables = memory.read_frames(frames)
    is_used = tables != 0
    sound = (~is_used | (tables & _FORM == _TABLE)).all(axis=1)
    half = tables.shape[1] // 2
    # All memory comes first in the kernel's half.
    sound &= is_used[:, half:].any(axis=1) & is_used[:, :half].any(axis=1)
    count = np.count_nonzero(is_used, axis=1)
    chosen = np.flatnonzero(sound)
    order = np.argsort(-count[chosen], kind="stable")[:_MOST_TRIED]
    tops: list[int] = frames[chosen[order]].tolist()
    return tops


def _image(memory: Dump, paging: Paging, top: int) -> tuple[int, int] | None:
    """The first address of the longest stretch that may be executed, and its frame."""
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
