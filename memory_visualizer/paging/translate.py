"""Translate single virtual addresses, and follow single tables."""

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging.memory import TABLES_AT_ONCE, PhysicalMemory, is_held
from memory_visualizer.paging.software import Paging


def translate(
    memory: PhysicalMemory, paging: Paging, roots: NDArray[np.int64], virtual: int
) -> NDArray[np.int64]:
    """The frame behind one virtual address in each address space; -1 where the dump holds none."""
    virtual &= (1 << paging.address_bits) - 1
    top = roots[:, (virtual >> paging.levels[0].shift) // paging.entries % paging.top_frames]
    addresses = np.full(len(roots), virtual, np.uint64)
    batches = [
        frames_behind(
            memory, paging, top[at : at + TABLES_AT_ONCE], addresses[at:][:TABLES_AT_ONCE]
        )
        for at in range(0, len(roots), TABLES_AT_ONCE)
    ]
    frame = np.concatenate([np.empty(0, np.int64), *batches])
    frame[~is_held(memory, frame)] = -1
    return frame


def frames_behind(
    memory: PhysicalMemory,
    paging: Paging,
    top: NDArray[np.int64],
    addresses: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """The frame behind each address, below the root in the same row (a frame of its top level).

    -1 where nothing is mapped; the dump may not hold the frame. Only one entry of each table is
    read, so the tables are not judged: see read_tables.
    """
    architecture = paging.architecture
    table = architecture.frames_of_roots(top.astype(np.int64))
    begin, entries_of_table = architecture.index_of_roots(top), architecture.root_entries
    if architecture.is_whole:
        entries_of_table = paging.entries
    frame = np.full(len(addresses), -1, np.int64)
    alive = np.flatnonzero(is_held(memory, table))
    for number, level in enumerate(paging.levels):
        if not len(alive):
            break
        tables, row = np.unique(table[alive], return_inverse=True)
        index = (addresses[alive] >> np.uint64(level.shift)).view(np.int64) % entries_of_table
        if number == 0:
            index += begin[alive]
        entries_of_table = paging.entries
        entries = paging.decode(memory.read_frames(tables))[row, index]
        present = paging.is_present(entries)
        alive, entries = alive[present], entries[present]
        target = paging.frames(entries, level)
        possible = ~paging.is_impossible(entries, target, level)
        alive, entries, target = alive[possible], entries[possible], target[possible]
        maps = paging.is_large(entries, level) | (number == len(paging.levels) - 1)
        inside = (addresses[alive] >> np.uint64(12)).astype(np.int64) % level.pages
        frame[alive[maps]] = (target + inside)[maps]
        if number < len(paging.levels) - 1:
            target += architecture.part(addresses[alive], paging.levels[number + 1])
        leads = ~maps & is_held(memory, target)
        alive = alive[leads]
        table[alive] = target[leads]
    return frame
