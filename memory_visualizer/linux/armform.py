"""A Linux kernel on 64-bit ARM, found by the form of its page tables if its VMCOREINFO is lost.

Only kernels with pages of 4 KiB and addresses of 48 bits are found; most kernels are so.
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
"""Mask and value of the bits that Linux always writes into an entry that leads to a table."""
_SAMPLED_TABLES, _TRIED_TABLES = 1 << 10, 4
"""How many candidates are read, from the lowest on, and how many of them are tried, the fullest
first. The kernel's own table is in its image, near the beginning of memory, and the fullest of
all."""
_IMAGES = 1 << 47
"""The offset in the kernel's half of modules and the kernel's image; the direct map lies below."""
_LEAST_IMAGE = 1 << 20
_ALIGNMENT = 0x1FFFFF


def machines_by_form(
    memory: Dump, candidates: Sequence[NDArray[np.int64]]
) -> Iterator[tuple[int, Machine, int]]:
    """Possible kernels: frame of the own top-level table, machine, and address of the image.

    `candidates` are frames of pages whose last entry leads to a table.
    """
    for top in _own_tables(memory, np.concatenate([np.empty(0, np.int64), *candidates])):
        machine = arm64_machine(_PAGE_BITS, _ADDRESS_BITS, 0)
        if (image := _image(memory, machine.kernel, top)) is not None:
            start, frame = image
            offset = start - frame * PAGE_SIZE
            yield top, arm64_machine(_PAGE_BITS, _ADDRESS_BITS, offset), start


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
    first = np.uint64(paging.architecture.first or 0) + np.uint64(_IMAGES)
    rows = rows.take((rows.access & MAY_EXECUTE != 0) & (rows.virtual >= first))
    rows = rows.take(np.argsort(rows.virtual, kind="stable"))
    if not len(rows.virtual):
        return None
    end = rows.virtual + rows.count.astype(np.uint64) * np.uint64(PAGE_SIZE)
    begins = np.append(0, np.flatnonzero(rows.virtual[1:] != end[:-1]) + 1)
    last = np.append(begins[1:], len(end)) - 1
    size = (end[last] - rows.virtual[begins]).astype(np.int64)
    best = int(np.argmax(size))
    if size[best] < _LEAST_IMAGE:
        return None
    return int(rows.virtual[begins[best]]), int(rows.pfn[begins[best]])
