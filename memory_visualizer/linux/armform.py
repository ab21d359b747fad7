"""A Linux kernel on 64-bit ARM by the form of its page tables, where its VMCOREINFO is lost.

With pages of 4 KiB and 48 bits of addresses, as most kernels have them.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.formats.base import Dump
from memory_visualizer.linux.machine import Machine, arm64_machine
from memory_visualizer.paging import MAY_EXECUTE, Mappings, Paging, walk
from memory_visualizer.units import PAGE_SIZE

_PAGE_BITS, _ADDRESS_BITS = 12, 48
_FORM, _TABLE = np.uint64(0x07FF_0000_0000_0BFF), np.uint64(0x003)
"""Which bits of an entry that leads to a table have which value, as Linux makes it."""
_MOST_TABLES, _MOST_TRIED = 1 << 10, 4
_IMAGES = 1 << 47
"""From here on in the kernel's half lie modules and the kernel's image; before, all memory."""
_LEAST_IMAGE = 1 << 20
_ALIGNMENT = 0x1FFFFF


def machines_by_form(
    memory: Dump, candidates: Sequence[NDArray[np.int64]]
) -> Iterator[tuple[int, Machine, int]]:
    """Frames of the kernel's own top-level tables, the machine, and where its image begins.

    `candidates` are frames of pages whose last entry leads to a table.
    """
    for top in _tops(memory, np.concatenate([np.empty(0, np.int64), *candidates])):
        machine = arm64_machine(_PAGE_BITS, _ADDRESS_BITS, 0)
        if (image := _image(memory, machine.kernel, top)) is not None:
            start, frame = image
            offset = start - frame * PAGE_SIZE
            yield top, arm64_machine(_PAGE_BITS, _ADDRESS_BITS, offset), start


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
    first = np.uint64(paging.architecture.first or 0) + np.uint64(_IMAGES)
    rows = rows.take((rows.access & MAY_EXECUTE != 0) & (rows.virtual >= first))
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
