"""Tasks that are found by a pointer of their own: the first thread of a process leads its group.

Such a task holds its own address (task_struct.group_leader). So it is found anywhere in memory,
whatever its name, and however many others are lost.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.formats.base import Words
from memory_visualizer.linux.kernel import LinuxKernel
from memory_visualizer.units import PAGE_SIZE

_THING = "possible first thread"
_ALIGNED = 64
"""Tasks begin at multiples of a cache line."""
_TASK_SIZE = 1 << 12
"""The largest offset of group_leader, in any version."""
_NEAR = 64
"""Heads of empty lists, which hold their own addresses, too, begin many small objects."""
_ROWS_AT_ONCE = 64
"""Pages that fit into a processor's cache with what is made of them."""
_DISTANCES = 8
"""How many offsets of group_leader are tried if it is unknown, the most frequent ones first."""


def leaders(found: LinuxKernel, base: int, offset: int) -> NDArray[np.uint64]:
    """Addresses of objects that hold their own address at this offset, which is at least _NEAR.

    `base` is the first address of the direct map.
    """

    def scan(frames: NDArray[np.int64], words: Words) -> NDArray[np.uint64]:
        own, ahead = _near_themselves(found, base, frames, words)
        tasks: NDArray[np.uint64] = own[ahead == np.uint64(offset)] - np.uint64(offset)
        return tasks

    tasks = np.concatenate([np.empty(0, np.uint64), *found.memory.each_block(scan)])
    return found.memory.budget.take(_THING, tasks)


def each_kind(found: LinuxKernel, base: int) -> Iterator[NDArray[np.uint64]]:
    """The same for each offset at which many objects hold their own addresses."""

    def scan(frames: NDArray[np.int64], words: Words) -> NDArray[np.int64]:
        _, ahead = _near_themselves(found, base, frames, words)
        return np.bincount(ahead.astype(np.int64), minlength=_TASK_SIZE)

    count = np.zeros(_TASK_SIZE, np.int64)
    for of_block in found.memory.each_block(scan):
        count += of_block
    likely = np.argsort(-count, kind="stable")[:_DISTANCES]
    for offset in likely[count[likely] > 0].tolist():
        yield leaders(found, base, offset)


def _near_themselves(
    found: LinuxKernel, base: int, frames: NDArray[np.int64], words: Words
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Addresses of words that hold the beginning of an object around them, and their offsets in it.

    Such an object may be a task.
    """
    size = found.kernel.word
    held = words.view(f"<u{size}")
    inside = np.arange(0, PAGE_SIZE, size, dtype=np.uint64)
    begins = np.uint64(base) + frames.astype(np.uint64) * np.uint64(PAGE_SIZE)
    found_own, found_ahead = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for start in range(0, len(frames), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        # Other words than addresses near their own wrap around, to large numbers.
        ahead = (begins[part, None] + inside) - held[part]
        row, column = np.nonzero(ahead - np.uint64(_NEAR) < np.uint64(_TASK_SIZE - _NEAR))
        own, ahead = begins[part][row] + inside[column], ahead[row, column]
        aligned = (own - ahead) % np.uint64(_ALIGNED) == 0
        found_own.append(own[aligned])
        found_ahead.append(ahead[aligned])
    return np.concatenate(found_own), np.concatenate(found_ahead)
