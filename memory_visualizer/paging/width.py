"""The width of physical addresses, by a vote of the dump's size and its top-level tables."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.paging.beyond import width_by_size
from memory_visualizer.paging.memory import PhysicalMemory, is_held
from memory_visualizer.paging.software import Paging
from memory_visualizer.paging.tables import read_roots

_FEWEST_VOTES, _SAMPLED_ROOTS = 3, 128
"""The tables that vote are an even sample of all: the vote in the middle stays the same."""


def with_voted_width(memory: PhysicalMemory, paging: Paging, roots: NDArray[np.int64]) -> Paging:
    """The paging with the width that the dump's size and most top-level tables support.

    `roots` as for walk. A table votes for the width that three quarters of its target tables need,
    and the median vote counts: so a dump that was cut short keeps its tables, and no single table
    enlarges the width. Fewer than three votes do not count.
    """
    voters = distinct(roots.ravel())
    voters = voters[is_held(memory, paging.architecture.frames_of_roots(voters))]
    if len(voters) < _FEWEST_VOTES or paging.entry_bytes == 4:
        return paging
    tables = read_roots(memory, paging, voters[:: -(-len(voters) // _SAMPLED_ROOTS) or 1])
    table, index = np.nonzero(paging.is_present(tables))
    entry, level = tables[table, index], paging.levels[0]
    frame = paging.frames(entry, level)
    leads = ~(paging.is_large(entry, level) | paging.is_impossible(entry, frame, level))
    named = np.split(frame[leads], np.cumsum(np.bincount(table[leads])))
    votes = sorted(int(np.sort(some)[3 * (len(some) - 1) // 4]) for some in named if len(some))
    if len(votes) < _FEWEST_VOTES:
        return paging
    needed = votes[(len(votes) - 1) // 2].bit_length() + 12
    return replace(paging, used_bits=max(width_by_size(memory), needed))
