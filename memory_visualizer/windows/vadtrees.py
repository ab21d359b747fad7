"""The trees of virtual address descriptors (VADs), found by their form in the process objects.

A node names its parent and two children, and the first and the last page of a region. Nodes below
it on the left have lower addresses, nodes on the right higher addresses. So each edge of a tree
proves itself. The majority of processes decides on the offset of the tree's root in a process
object, and on the form of nodes. The known forms come from Volatility 2's profiles and from later
symbol files.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.processlayout import OBJECT_BYTES
from memory_visualizer.windows.ranges import Ranges

_VOTERS = 128
"""Processes that decide on the form of trees."""
_BALANCE = np.uint64(3)
"""Bits of the link to the parent that hold the balance of the node."""
_DEEPEST = 64
"""Levels of a tree that are read; a balanced tree of a million nodes has 28."""
_TAG_BEFORE = {4: 4, 8: 12}
"""Distance from a pool block's tag to its contents, by the bytes of a pointer."""
_NODE_WORDS = 6
_SIGNS = 2
"""The number of a node's three signs that must be right: it leads back to its parent, it lies on
its side of the parent, and its pool block has a VAD's tag."""
SHORT_TAGS = (b"VadS", b"VadF")
"""Tags of nodes without a section: of private memory."""
_LONG_TAGS = (b"Vad ", b"Vadl", b"Vadm")


@dataclass(frozen=True)
class TreeForm:
    """Offsets of links and bounds in a node, in bytes from its beginning."""

    parent: int
    left: int
    right: int
    start: int
    end: int
    number: int
    """Bytes of a page's number."""
    high: int | None = None
    """Offset of bits 32 to 39 of the first page's number; those of the last page's follow."""


def tree_forms(word: int) -> tuple[TreeForm, ...]:
    """The forms of all versions, by the bytes of a pointer."""
    later = 3 * word
    forms = [
        # Since Windows 8.1 (_RTL_BALANCED_NODE in _MMVAD_SHORT).
        TreeForm(2 * word, 0, word, later, later + 4, 4, None if word == 4 else later + 8),
        # From Windows 2003 on (_MMADDRESS_NODE).
        TreeForm(0, word, 2 * word, later, 4 * word, word),
    ]
    if word == 8:  # Windows 8 (_MM_AVL_NODE in _MMVAD_SHORT)
        forms.append(TreeForm(0, word, 2 * word, later, later + 4, 4))
    else:  # Windows XP (_MMVAD_SHORT)
        forms.append(TreeForm(8, 12, 16, 0, 4, 4))
    return tuple(forms)


@dataclass(frozen=True, eq=False)
class Nodes:
    """The members of nodes at some addresses, a row for each."""

    known: NDArray[np.bool_]
    """Whether all of a node is readable."""
    parent: NDArray[np.uint64]
    left: NDArray[np.uint64]
    right: NDArray[np.uint64]
    start: NDArray[np.uint64]
    end: NDArray[np.uint64]
    """Number of the last page."""


def read_nodes(kernel: KernelMemory, form: TreeForm, addresses: NDArray[np.uint64]) -> Nodes:
    """Read nodes of this form."""
    raw, known = kernel.read_each(addresses, _NODE_WORDS * kernel.word)

    def number(place: int, size: int) -> NDArray[np.uint64]:
        column = np.ascontiguousarray(raw[:, place : place + size]).view(f"<u{size}")[:, 0]
        return column.astype(np.uint64)

    start, end = number(form.start, form.number), number(form.end, form.number)
    if form.high is not None:
        start |= number(form.high, 1) << np.uint64(32)
        end |= number(form.high + 1, 1) << np.uint64(32)
    links = (number(place, kernel.word) for place in (form.parent, form.left, form.right))
    parent, left, right = links
    return Nodes(known, parent & ~_BALANCE, left, right, start, end)


@dataclass(frozen=True)
class Root:
    """The place of the pointers to roots, and the form of nodes."""

    place: int
    """Offset of the pointer to the root in a process object."""
    form: TreeForm
    votes: int
    """The number of edges at the roots that prove it."""


def find_root(
    kernel: KernelMemory, objects: NDArray[np.uint64], lowest: int, pages: int
) -> Root | None:
    """The place of roots in these process objects; None if no process proves any place.

    `lowest` is the first address of the kernel's half, `pages` the number of pages of user mode's.
    """
    word = kernel.word
    objects = objects[:: -(-len(objects) // _VOTERS) or 1]
    if not len(objects):
        return None
    contents = kernel.read_partly(objects, OBJECT_BYTES[8 * word])
    words = kernel.words(contents)
    row, column = np.nonzero(_are_pointers(words, lowest, word))
    pointers = words[row, column]
    best: Root | None = None
    for form in tree_forms(word):
        edges = _proven_edges(kernel, form, objects[row], pointers, lowest, pages)
        proven = np.flatnonzero(edges)
        pairs = np.stack((column[proven].astype(np.uint64), pointers[proven]))
        _, some = np.unique(pairs, axis=1, return_index=True)
        proven = proven[some]
        # Read in a wrong form, a cached node (hint) may look like a root, but with a single edge.
        votes = np.bincount(column[proven], edges[proven], minlength=words.shape[1])
        if (most := int(votes.max())) > (best.votes if best else 0):
            best = Root(int(np.argmax(votes)) * word, form, most)
    return best


def _are_pointers(words: NDArray[np.uint64], lowest: int, word: int) -> NDArray[np.bool_]:
    """Which words may lead to blocks of the kernel's pool."""
    likely: NDArray[np.bool_] = np.asarray(words >= np.uint64(lowest))
    likely &= words % np.uint64(2 * word) == 0
    return likely


def _proven_edges(
    kernel: KernelMemory,
    form: TreeForm,
    objects: NDArray[np.uint64],
    pointers: NDArray[np.uint64],
    lowest: int,
    pages: int,
) -> NDArray[np.int64]:
    """The number of edges that prove each pointer from an object to a root; 0 for other pointers.

    The parent of a root is 0, or a node within the process object (_MM_AVL_TABLE), which is not a
    region itself.
    """
    nodes = read_nodes(kernel, form, pointers)
    is_own = pointers - objects < np.uint64(OBJECT_BYTES[8 * kernel.word])
    inside = nodes.parent - objects < np.uint64(OBJECT_BYTES[8 * kernel.word])
    proven = np.asarray(nodes.known & _are_bounds(nodes, pages) & ~is_own)
    proven &= (nodes.parent == 0) | inside
    edges = np.zeros(len(pointers), np.int64)
    for children, is_left in ((nodes.left, True), (nodes.right, False)):
        rows = np.flatnonzero(proven & (children >= np.uint64(lowest)))
        below = read_nodes(kernel, form, children[rows])
        holds = below.known & _are_bounds(below, pages) & (below.parent == pointers[rows])
        holds &= _are_ordered(below, nodes.start[rows], nodes.end[rows], is_left=is_left)
        edges[rows[holds]] += 1
    return edges


def _are_bounds(nodes: Nodes, pages: int) -> NDArray[np.bool_]:
    """Which nodes describe a region in user mode's half."""
    sound: NDArray[np.bool_] = (nodes.start <= nodes.end) & (nodes.end < np.uint64(pages))
    return sound


def _are_ordered(
    nodes: Nodes,
    start: NDArray[np.uint64],
    end: NDArray[np.uint64],
    *,
    is_left: bool | NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Which nodes lie on their side of a parent with these bounds."""
    ordered: NDArray[np.bool_] = np.where(is_left, nodes.end < start, nodes.start > end)
    return ordered


@dataclass(frozen=True, eq=False)
class Trees:
    """The nodes of all trees that are believed, in columns, by process and address."""

    tree: NDArray[np.int64]
    """Index of the process object in which the tree begins."""
    node: NDArray[np.uint64]
    start: NDArray[np.uint64]
    """Number of the first page, and of the last one."""
    end: NDArray[np.uint64]
    has_root: NDArray[np.bool_]
    """By process object: whether the pointer to the root is readable."""
    lost: NDArray[np.int64]
    """By process object: the number of links that lead to no node."""
    doubtful: NDArray[np.int64]
    """By process object: the number of nodes that are not believed."""

    def of(self, tree: int) -> slice:
        """The rows of one tree."""
        return slice(*np.searchsorted(self.tree, [tree, tree + 1]))


@dataclass(frozen=True, eq=False)
class _Level:
    """Links to the nodes of a level, in columns, and facts on their parents."""

    tree: NDArray[np.int64]
    node: NDArray[np.uint64]
    parent: NDArray[np.uint64]
    """0 for the root."""
    start: NDArray[np.uint64]
    """The parent's bounds."""
    end: NDArray[np.uint64]
    has_bounds: NDArray[np.bool_]
    """Whether these are believed."""
    is_left: NDArray[np.bool_]
    trusted: NDArray[np.bool_]
    """Whether all nodes above lead back."""

    def take(self, rows: NDArray[np.bool_]) -> "_Level":
        """Some of the links."""
        return _Level(*(column[rows] for column in vars(self).values()))

    @classmethod
    def of_roots(cls, tree: NDArray[np.int64], roots: NDArray[np.uint64]) -> "_Level":
        """The links in the process objects."""
        none, no = np.zeros(len(tree), np.uint64), np.zeros(len(tree), bool)
        return cls(tree, roots, none, none, none, no, no, ~no)

    @classmethod
    def below(
        cls,
        level: "_Level",
        nodes: Nodes,
        followed: NDArray[np.bool_],
        believed: NDArray[np.bool_],
        trusted: NDArray[np.bool_],
    ) -> "_Level":
        """The links in nodes of a level."""
        parts = []
        for children, is_left in ((nodes.left, True), (nodes.right, False)):
            rows = np.flatnonzero(followed & (children != 0))
            parts.append(
                (
                    level.tree[rows],
                    children[rows],
                    level.node[rows],
                    nodes.start[rows],
                    nodes.end[rows],
                    believed[rows],
                    np.full(len(rows), is_left),
                    trusted[rows],
                )
            )
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@dataclass(frozen=True, eq=False)
class _Found:
    """Nodes that are believed: columns as in Trees, and whether all nodes above lead back."""

    tree: NDArray[np.int64]
    node: NDArray[np.uint64]
    start: NDArray[np.uint64]
    end: NDArray[np.uint64]
    signs: NDArray[np.int64]
    trusted: NDArray[np.bool_]

    def take(self, rows: NDArray[Any]) -> "_Found":
        """Some of the nodes."""
        return _Found(*(column[rows] for column in vars(self).values()))


class _Reader:
    """Reads all trees level by level, all at once."""

    def __init__(
        self, kernel: KernelMemory, root: Root, objects: NDArray[np.uint64], lowest: int, pages: int
    ) -> None:
        self._kernel = kernel
        self._root = root
        self._objects = objects
        self._lowest = np.uint64(lowest)
        self._pages = pages
        self._left = kernel.memory.budget.limit("region")
        self._room_for_each = self._left // 2
        self._size = np.zeros(len(objects), np.int64)
        self._lost = np.zeros(len(objects), np.int64)
        self._doubtful = np.zeros(len(objects), np.int64)
        self._met = np.empty(0, np.uint64)
        """Trees and nodes that were met, as _keys has them."""

    def read(self) -> Trees:
        """Read everything."""
        roots, has_root = self._kernel.numbers(self._objects + np.uint64(self._root.place))
        tree = np.flatnonzero(roots != 0)
        level = _Level.of_roots(tree, roots[tree])
        found: list[_Found] = []
        while len(level.tree) and len(found) < _DEEPEST:
            some, level = self._read_level(self._new(level))
            found.append(some)
        self._count(self._lost, level.tree)
        all_of_them = zip(*(vars(some).values() for some in found), strict=True)
        columns = [np.concatenate(column) for column in all_of_them]
        nodes = _Found(*columns) if columns else None
        return self._believed(nodes, has_root) if nodes else _no_trees(has_root)

    def _count(self, counts: NDArray[np.int64], trees: NDArray[np.int64]) -> None:
        counts += np.bincount(trees, minlength=len(counts))

    def _new(self, level: _Level) -> _Level:
        """A level without links that lead nowhere, or to a node of the same tree that was met."""
        keys = _keys(level.tree, level.node)
        good = (level.node >= self._lowest) & (level.node % np.uint64(self._kernel.word) == 0)
        once = np.zeros(len(good), bool)
        once[np.unique(keys, return_index=True)[1]] = True
        good &= once & ~np.isin(keys, self._met)
        self._count(self._lost, level.tree[~good])
        level = level.take(good)
        self._count(self._size, level.tree)
        fits = self._size[level.tree] <= self._room_for_each
        fits &= np.cumsum(fits) <= self._left
        self._left -= int(np.count_nonzero(fits))
        self._kernel.memory.budget.refuse("region", int(np.count_nonzero(~fits)))
        self._met = np.concatenate((self._met, keys[good][fits]))
        return level.take(fits)

    def _read_level(self, level: _Level) -> tuple[_Found, _Level]:
        """The nodes of a level, and the level below."""
        kernel = self._kernel
        nodes = read_nodes(kernel, self._root.form, level.node)
        inside = nodes.parent - self._objects[level.tree] < np.uint64(OBJECT_BYTES[8 * kernel.word])
        at_root = (nodes.parent == 0) | inside
        leads_back = np.where(level.parent == 0, at_root, nodes.parent == level.parent)
        ordered = _are_ordered(nodes, level.start, level.end, is_left=level.is_left)
        ordered |= ~level.has_bounds
        signs = leads_back.astype(np.int64) + ordered + (tags_of(kernel, level.node) > 0)
        believed = nodes.known & _are_bounds(nodes, self._pages) & (signs >= _SIGNS)
        self._count(self._lost, level.tree[~nodes.known])
        self._count(self._doubtful, level.tree[nodes.known & ~believed])
        trusted = level.trusted & leads_back
        found = _Found(level.tree, level.node, nodes.start, nodes.end, signs, trusted)
        followed = nodes.known & (believed | leads_back)
        return found.take(believed), _Level.below(level, nodes, followed, believed, trusted)

    def _believed(self, found: _Found, has_root: NDArray[np.bool_]) -> Trees:
        """All nodes but nodes of other processes, and nodes that overlap better ones."""
        # A damaged link may lead into the tree of another process, whose own links lead back.
        foreign = ~found.trusted & np.isin(found.node, found.node[found.trusted])
        self._count(self._doubtful, found.tree[foreign])
        found = found.take(~foreign)
        kept = _without_overlaps(found)
        self._count(self._doubtful, found.tree[~kept])
        found = found.take(kept)
        found = found.take(np.lexsort((found.start, found.tree)))
        columns = (found.tree, found.node, found.start, found.end)
        return Trees(*columns, has_root, self._lost, self._doubtful)


def _keys(trees: NDArray[np.int64], nodes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Pairs as single numbers; if two pairs collide, at most a node is lost."""
    keys: NDArray[np.uint64] = nodes * np.uint64(0x9E3779B97F4A7C15)
    keys += trees.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    return keys


def _without_overlaps(found: _Found) -> NDArray[np.bool_]:
    """Which nodes of each tree to keep, so that no two regions overlap.

    Of two overlapping regions, the region with fewer right signs is left out. If both have as many,
    the region that overlaps more others is left out, and then the region farther from the root.
    """
    kept = np.ones(len(found.tree), bool)
    order = np.lexsort((found.start, found.tree))
    tree, start, end = found.tree[order], found.start[order], found.end[order]
    same = tree[1:] == tree[:-1]
    highest = _highest_before(tree, end)
    clash = np.append(False, same & (start[1:] <= highest[1:]))
    for one in np.unique(tree[clash]).tolist():
        rows = np.sort(order[slice(*np.searchsorted(tree, [one, one + 1]))])
        starts, ends = np.sort(found.start[rows]), np.sort(found.end[rows])
        others = np.searchsorted(starts, found.end[rows], "right")
        others -= np.searchsorted(ends, found.start[rows], "left")
        ranges = Ranges()
        for row in rows[np.lexsort((rows, others, -found.signs[rows]))].tolist():
            kept[row] = ranges.add(int(found.start[row]), int(found.end[row]) + 1)
    return kept


def _highest_before(tree: NDArray[np.int64], end: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The highest end among the rows of the same tree before each row; 0 for the first."""
    highest = np.zeros(len(end), np.uint64)
    if not len(end):
        return highest
    begins = np.flatnonzero(np.append(True, tree[1:] != tree[:-1]))
    for first, last in zip(begins, np.append(begins[1:], len(end)), strict=True):
        highest[first + 1 : last] = np.maximum.accumulate(end[first:last])[:-1]
    return highest


def _no_trees(has_root: NDArray[np.bool_]) -> Trees:
    none, numbers = np.zeros(len(has_root), np.int64), np.empty(0, np.uint64)
    return Trees(np.empty(0, np.int64), numbers, numbers, numbers, has_root, none, none)


def read_trees(
    kernel: KernelMemory, root: Root, objects: NDArray[np.uint64], lowest: int, pages: int
) -> Trees:
    """The trees of all process objects; arguments as for find_root.

    A node is believed if two of its three signs are right (_SIGNS). Damage to a node loses that
    node, and damage to a link loses the nodes below it.
    """
    return _Reader(kernel, root, objects, lowest, pages).read()


def tags_of(kernel: KernelMemory, nodes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """By the pool tag of each node: 1 for private memory, 2 for others, 0 without a VAD's tag."""
    raw = kernel.read_partly(nodes - np.uint64(_TAG_BEFORE[kernel.word]), 4)
    tags = raw.view("<u4")[:, 0]
    short, long = (
        [np.frombuffer(tag, "<u4")[0] for tag in some] for some in (SHORT_TAGS, _LONG_TAGS)
    )
    return np.isin(tags, short).astype(np.uint8) + 2 * np.isin(tags, long).astype(np.uint8)
