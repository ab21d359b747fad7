"""The maple tree in which a Linux kernel since 6.1 keeps the regions of a process.

A node has 256 bytes, and lies at a multiple of 256; a pointer to it has its kind in the lower eight
bits. A node has pivots (the last index that each slot covers) and slots, which lead to nodes, or in
leaves to entries (include/linux/maple_tree.h and lib/maple_tree.c of the kernel).
"""

from dataclasses import dataclass

import numpy as np

from memory_visualizer.paging.tablememory import TableMemory

_NODE_SIZE = 256
_KIND_SHIFT, _KIND_MASK = 3, 0xF
_LEAF, _RANGE, _ARANGE = 1, 2, 3
_PLACES = {_LEAF: (8, 15, 16), _RANGE: (8, 15, 16), _ARANGE: (8, 9, 10)}
"""By kind: offset of the pivots, their number, and the number of slots, which follow them."""
_MAX_DEPTH = 31
_LAST = 2**64 - 1
_IS_NODE, _NODE_BITS = 2, 3
"""The mark of a root that leads to a node (xa_is_node)."""
_SMALLEST_NODE = 4096


@dataclass(frozen=True)
class Entries:
    """The entries of a tree: first index, last index and entry, ascending."""

    rows: list[tuple[int, int, int]]
    lost: int
    """The number of nodes that could not be read, or are not nodes."""
    nodes: int
    """The number of nodes that were read."""


def read_tree(kernel: TableMemory, root: int, limit: int) -> Entries:
    """All entries of a tree by its `ma_root`; at most `limit` entries, and as many nodes."""
    if root & _NODE_BITS != _IS_NODE or root <= _SMALLEST_NODE:
        # A tree with one entry, for index 0, or with none.
        return Entries([(0, 0, root)] if root else [], 0, 0)
    rows: list[tuple[int, int, int]] = []
    lost = 0
    seen = set[int]()
    level = [(0, _LAST, root)]
    for _ in range(_MAX_DEPTH):
        if not level:
            break
        nodes = []
        for first, last, node in level:
            address = node & ~(_NODE_SIZE - 1)
            if address in seen or len(seen) >= limit:
                lost += 1
                continue
            seen.add(address)
            nodes.append((first, last, node))
        addresses = np.array([node & ~(_NODE_SIZE - 1) for _, _, node in nodes], np.uint64)
        raw, known = kernel.read_each(addresses, _NODE_SIZE)
        level = []
        for (first, last, node), words, is_known in zip(
            nodes, kernel.words(raw).tolist(), known.tolist(), strict=True
        ):
            kind = node >> _KIND_SHIFT & _KIND_MASK
            if not is_known or kind not in _PLACES:
                lost += 1
                continue
            target = rows if kind == _LEAF else level
            target += _slots(words, kind, first, last)
    lost += len(level)
    rows.sort()
    return Entries(rows[:limit], lost + max(len(rows) - limit, 0), len(seen))


def _slots(words: list[int], kind: int, first: int, last: int) -> list[tuple[int, int, int]]:
    """First index, last index and content of each used slot of a node."""
    begin, pivots, slots = _PLACES[kind]
    begin //= 8
    found = []
    for number in range(slots):
        pivot = words[begin + number] if number < pivots else last
        # Behind the last slot in use pivots are 0.
        pivot = last if (not pivot and number) or pivot > last else pivot
        if pivot < first:
            break  # no sound node has descending pivots
        if content := words[begin + pivots + number]:
            found.append((first, pivot, content))
        if pivot >= last:
            break
        first = pivot + 1
    return found
