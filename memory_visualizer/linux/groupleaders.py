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
_DISTANCES = 8
"""How many offsets of group_leader are tried if it is unknown, the most frequent ones first."""


def leaders(found: LinuxKernel, base: int, offset: int) -> NDArray[np.uint64]:
    """Addresses of objects that hold their own address at this offset.

    `base` is the first address of the direct map.
    """

    def scan(frames: NDArray[np.int64], words: Words) -> NDArray[np.uint64]:
        own, ahead = _ahead(found, base, frames, words)
        tasks = own[ahead == np.uint64(offset)] - np.uint64(offset)
        aligned: NDArray[np.uint64] = tasks[tasks % np.uint64(_ALIGNED) == 0]
        return aligned

    tasks = np.concatenate([np.empty(0, np.uint64), *found.memory.each_block(scan)])
    return found.memory.budget.take(_THING, tasks)


def each_kind(found: LinuxKernel, base: int) -> Iterator[NDArray[np.uint64]]:
    """The same for each offset at which many objects hold their own addresses."""

    def scan(frames: NDArray[np.int64], words: Words) -> NDArray[np.int64]:
        own, ahead = _ahead(found, base, frames, words)
        near = (ahead >= np.uint64(_NEAR)) & (ahead < np.uint64(_TASK_SIZE))
        near &= (own - ahead) % np.uint64(_ALIGNED) == 0
        return np.bincount(ahead[near].astype(np.int64), minlength=_TASK_SIZE)

    count = np.zeros(_TASK_SIZE, np.int64)
    for of_block in found.memory.each_block(scan):
        count += of_block
    likely = np.argsort(-count, kind="stable")[:_DISTANCES]
    for offset in likely[count[likely] > 0].tolist():
        yield leaders(found, base, offset)


def _ahead(
    found: LinuxKernel, base: int, frames: NDArray[np.int64], words: Words
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The address of each word, and how far it lies behind the address that the word holds."""
    size = found.kernel.word
    held = words.view(f"<u{size}").astype(np.uint64, copy=False)
    inside = np.arange(0, PAGE_SIZE, size, dtype=np.uint64)
    own = np.uint64(base) + frames.astype(np.uint64)[:, None] * np.uint64(PAGE_SIZE) + inside
    return own, own - held
