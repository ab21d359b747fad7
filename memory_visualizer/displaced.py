"""Memory that is misplaced in its file, as in a raw file that leaves out the holes.

A raw file has no addresses. If a tool left out a hole, all memory after it lies too low: in a
renamed .vmem, or in a file that joins the ranges of a machine's memory. On Windows each top-level
page table names its own frame: the difference between this frame and the table's place in the file
is the distance by which it was moved, and many tables agree on it. A Linux kernel tells its own
address. Lower-level tables that are valid at one place only tell where a piece ends and the next
begins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import chosen_rows, count_marks, distinct, merge_runs, places_of_text
from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.base import BlockWork, Dump, PlainPages, Search, Words
from memory_visualizer.limits import Budget
from memory_visualizer.linux.machine import Machine, machines
from memory_visualizer.linux.vmcoreinfo import IMAGE_BASE, VmcoreInfo
from memory_visualizer.paging import (
    ACCESSED,
    ADDRESS,
    LARGE,
    PAE,
    PRESENT,
    WRITE,
    X64,
    X64_5_LEVELS,
    X86,
    Paging,
    are_tables,
    as_windows_has_it,
    is_held,
    read_tables,
)
from memory_visualizer.paging.kernelhalf import MOST_ENTRIES, TOUCHED
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.printable import counted
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.unknown.machine import SYSTEM_NAME
from memory_visualizer.windows.toplevels import share_kernel

_Result = TypeVar("_Result")

_FEWEST_TABLES = 3
"""The fewest tables with the same distance that count as evidence; fewer may be chance."""
_FEWEST_OF_PIECE = 2
_FAR = 1 << 28
"""Frames, a terabyte of addresses: no hole in a machine's memory is larger."""
_SAMPLED_ROOTS = 1 << 9
"""Top-level tables that vote on pieces. A piece has several, and tables below show it as well."""
_SAMPLED_NAMED = 1 << 8
"""An even sample of tables, which tells whether the move makes sense for most of them."""
_SAMPLED_TABLES = 1 << 10
"""An even sample of the tables of one level, which tells the end of a piece closely enough: holes
in memory begin and end at round addresses."""
_SAMPLED_MISSING, _SAMPLED_LIKE = 256, 1 << 11
"""Even samples of the misplaced tables, and of the pages that look like tables: the tables of a
piece agree on its distance."""
_NEAR = 16
"""Pages within which neighbouring tables lie."""
_ROWS_AT_ONCE = 64
"""As many as fit into a processor's cache together with the results."""
_STEP = 37
_FLAGS = PRESENT | WRITE | ACCESSED
_HALF = 256


@dataclass(frozen=True)
class Piece:
    """A stretch of a file's pages that were all moved by the same distance."""

    first: int
    """Its first page in the file."""
    shift: int
    """The PFN of a page minus the page's number in the file."""
    among: tuple[int, int] | None = None
    """The first and the last page that may be the piece's first page, by the evidence of tables."""

    def __str__(self) -> str:
        text = f"by {self.shift:,} from page {self.first:,} on"
        if self.among is None or self.among[0] == self.among[1]:
            return text
        return f"{text} (or from another page between {self.among[0]:,} and {self.among[1]:,} on)"


class MendedDump(Dump):
    """A dump whose pieces have been put where they belong."""

    def __init__(self, dump: Dump, pieces: Sequence[Piece], remark: str = "") -> None:
        """`pieces` ascend, and so do their shifts; the first piece begins where the file begins.

        `remark` replaces the remark that holes were left out.
        """
        self._dump = dump
        self._first = np.array([piece.first for piece in pieces], np.int64)
        self._shift = np.array([piece.shift for piece in pieces], np.int64)
        self._end = end = np.append(self._first[1:], dump.frame_count)
        # Pages that would lie before address 0 are not memory.
        self._start = start = np.maximum(self._first, -self._shift)
        some = end > start
        runs = merge_runs((start + self._shift)[some], (end - start)[some])
        moved = ", ".join(str(piece) for piece in pieces if piece.shift)
        remark = remark or (
            "the file does not hold its memory where it belongs, perhaps since holes were left out;"
            f" the page tables tell by how many pages the memory had to be moved: {moved}"
        )
        super().__init__(
            dump.path, dump.format, runs, notes=dump.notes, remarks=(*dump.remarks, remark)
        )

        self.reopen = partial(MendedDump, dump, pieces)
        self.scanner = dump.scanner

    def close(self) -> None:
        """Close the file."""
        self._dump.close()

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Not possible: a mended dump is made from another dump."""
        raise NotImplementedError

    def plain_pages(self) -> PlainPages | None:
        """As in the file, moved."""
        plain = self._dump.plain_pages()
        if plain is None:
            return None
        edges = zip(self._start.tolist(), self._end.tolist(), strict=True)
        pieces = [plain.between(start, end) for start, end in edges]
        first = [piece.first + shift for piece, shift in zip(pieces, self._shift, strict=True)]
        return PlainPages(
            plain.file,
            np.concatenate(first),
            np.concatenate([piece.count for piece in pieces]),
            np.concatenate([piece.offset for piece in pieces]),
        )

    def each_block(
        self, work: BlockWork[_Result], within: range | None = None
    ) -> Iterator[_Result]:
        """As in Dump; blocks that lie before the first frame are not shown."""

        def moved(pages: NDArray[np.int64], words: Words) -> _Result | None:
            frames = pages + self._shift[np.searchsorted(self._first, pages, "right") - 1]
            inside = frames >= 0
            if inside.all():
                return work(frames, words)
            return work(frames[inside], words[inside]) if inside.any() else None

        pages = within and range(*(self._page_from(frame) for frame in (within.start, within.stop)))
        for result in self._dump.each_block(moved, pages):
            if result is not None:
                yield result

    def _page_from(self, frame: int) -> int:
        """The first page of the file from this frame on; that of frame 0 is its first page."""
        if frame <= 0:
            return 0
        pages = np.maximum(frame - self._shift, self._first)
        return int(pages[pages < self._end].min(initial=self._dump.frame_count))

    def read_frames(self, frames: NDArray[np.int64]) -> Words:
        """As in Dump."""
        start = np.maximum(self._first, -self._shift) + self._shift
        piece = np.maximum(np.searchsorted(start, frames, "right") - 1, 0)
        pages = np.where(is_held(self, frames), frames - self._shift[piece], self._dump.frame_count)
        return self._dump.read_frames(pages)


@dataclass(frozen=True, eq=False)
class _Named:
    """Pages that look like top-level tables, and the frame that one entry of each names."""

    page: NDArray[np.int64]
    index: NDArray[np.int64]
    frame: NDArray[np.int64]

    @property
    def shift(self) -> NDArray[np.int64]:
        """How far each page was moved, if its entry names the table itself."""
        return self.frame - self.page

    def take(self, rows: NDArray[np.bool_]) -> "_Named":
        return _Named(self.page[rows], self.index[rows], self.frame[rows])


@dataclass(eq=False)
class _Found:
    """What DisplacedSearch finds in a block."""

    named: list[tuple[str, _Named]]
    """With the architecture's name."""
    like: list[NDArray[np.int64]]
    """Pages that look like tables with entries of eight bytes."""
    count: int = 0
    """How many pages look like tables."""


class DisplacedSearch(Search[_Found]):
    """Finds tables that would name themselves if they were moved, during a scan of the dump."""

    def __init__(self, dump: Dump) -> None:
        self._limit = self._room = dump.budget.limit("page table")
        """How many more pages may look like tables; a dump with more was made to waste time."""
        self._found: dict[str, list[_Named]] = {"x86": [], "PAE": [], "x86-64": []}
        self._like: list[NDArray[np.int64]] = []
        """Pages that look like tables with entries of eight bytes."""
        self.tables = 0
        """How many top-level tables support the result of `pieces`."""

    def look(self, frames: NDArray[np.int64], words: Words) -> _Found | None:
        """Search pages, given with their contents."""
        found, room = _Found([], []), self._room
        for start in range(0, len(frames), _ROWS_AT_ONCE):
            if found.count > room:
                break
            part = slice(start, start + _ROWS_AT_ONCE)
            self._search(frames[part], words[part], found)
        return found if found.count else None

    def take(self, part: _Found) -> None:
        """Add the tables in a block, as long as there is room."""
        self._room -= part.count
        if self._room >= 0:
            self._like += part.like
            for name, named in part.named:
                self._found[name].append(named)

    @staticmethod
    def _search(pages: NDArray[np.int64], words: Words, found: _Found) -> None:
        # A few words rule out most pages: not a table, or a full table, which proves nothing.
        few = np.ascontiguousarray(words[:, ::_STEP])
        maybe = np.flatnonzero(_are_like_tables(few, some=False) & (few == 0).any(axis=1))
        maybe = maybe[_are_used(chosen_rows(words, maybe))]
        like = maybe[_are_like_tables(chosen_rows(words, maybe))]
        if len(like):
            found.like.append(pages[like])
        found.count += len(like)
        tables = chosen_rows(words, like)
        lower, upper = (count_marks(half != 0) for half in (tables[:, :_HALF], tables[:, _HALF:]))
        chosen = (upper > 0) & (upper <= MOST_ENTRIES) & (lower <= MOST_ENTRIES)
        tables, rows = tables[chosen, _HALF:], like[chosen]
        row, column = np.nonzero(tables & np.uint64(PRESENT | LARGE) == PRESENT)
        _add(found, "x86-64", pages[rows[row]], column + _HALF, tables[row, column])
        # The entry for itself of PAE's fourth directory, and of the 32-bit directory.
        rows = like[words[like, 3] & np.uint64(_FLAGS | LARGE) == _FLAGS]
        _add(found, "PAE", pages[rows], np.zeros(len(rows), np.int64), words[rows, 3])
        few = few.view(np.uint32)
        maybe = np.flatnonzero(_are_like_tables(few, some=False) & (few == 0).any(axis=1))
        rows = maybe[words[maybe, 0x180] & np.uint64(_FLAGS | LARGE) == _FLAGS]
        rows = rows[_are_like_tables(words[rows].view(np.uint32))]
        found.count += len(rows)
        entries = words[rows, 0x180] & np.uint64(0xFFFFFFFF)
        _add(found, "x86", pages[rows], np.zeros(len(rows), np.int64), entries)

    @property
    def like(self) -> NDArray[np.int64]:
        """Pages that look like tables with entries of eight bytes."""
        like = self._like if self._room >= 0 else []
        return distinct(np.concatenate([np.empty(0, np.int64), *like]))

    @property
    def remarks(self) -> list[str]:
        """A sentence for the user if the search was given up."""
        if self._room >= 0:
            return []
        return [
            "the search for misplaced memory in the file was given up: more than"
            f" {counted(self._limit, 'page looks', 'pages look')} like page tables, more"
            " than any machine has"
        ]

    def pieces(self, dump: Dump, known: Paging | None = None) -> list[Piece]:
        """The pieces that most tables support; none if all memory lies where it belongs.

        64-bit tables are read as having four levels, unless they are `known` to have five.
        """
        best: list[Piece] = []
        voters = 0
        if self._room < 0:
            return best
        wide = known.architecture if known and known.architecture is X64_5_LEVELS else X64
        for architecture in (wide, PAE, X86):
            paging = as_windows_has_it(architecture)
            name = "x86-64" if architecture is wide else architecture.name
            tables = _alike(dump, paging, self._found[name])
            if tables is None or len(tables.page) <= voters:
                continue
            shifts = _ascending(dump.budget, tables.page, tables.shift)
            moved = any(shift for _, shift in shifts)
            if moved and not _makes_sense(dump, paging, tables.page, _begun_by(shifts)):
                continue
            pieces = _ends(dump, paging, shifts, self.like)
            if len(pieces) == 1 and not pieces[0].shift:
                continue
            if _makes_sense(dump, paging, tables.page, pieces):
                best, voters = pieces, len(tables.page)
                self.tables = voters
        return best


def _add(
    found: _Found,
    name: str,
    page: NDArray[np.int64],
    index: NDArray[np.int64],
    entry: NDArray[np.uint64],
) -> None:
    """Add tables, given with the entry of each, unless it names a frame too far away."""
    frame = ((entry & np.uint64(ADDRESS)) >> np.uint64(12)).view(np.int64)
    named = _Named(page, index, frame)
    named = named.take(np.abs(named.shift) < _FAR)
    if len(named.page):
        found.named.append((name, named))


def put_where_it_begins(dump: Dump, texts: Sequence[VmcoreInfo]) -> MendedDump | None:
    """Move all of a dump's memory to the address at which, by its kernel's word, memory begins.

    On most 64-bit ARM machines this is not 0. The kernel's own page tables must make sense there.
    None where no such address is found.
    """
    apart = [info for info in texts if not all(one.has_own_half for one in machines(info))]
    for info in apart[:_ASKED_TEXTS]:
        for machine in machines(info):
            table = info.symbol("swapper_pg_dir")
            if machine.has_own_half or not table:
                continue
            for begin in _begins(dump, info, machine):
                remark = (
                    "a raw file has no addresses; the kernel in it says that memory begins at"
                    f" {begin:#x}"
                )
                moved = MendedDump(dump, [Piece(0, begin // PAGE_SIZE)], remark)
                if _is_in_place(moved, machine, table):
                    return moved
    return None


def _begins(dump: Dump, info: VmcoreInfo, machine: Machine) -> Iterator[int]:
    """Physical addresses at which memory may begin: as told, and by the place of the names.

    The kernel may also tell a round address somewhat before the beginning of memory.
    """
    told = info.number("PHYS_OFFSET")
    if told is not None and 0 < (begin := told % (1 << 48)) < _FAR * PAGE_SIZE:
        yield begin // PAGE_SIZE * PAGE_SIZE
    names = info.symbol("init_uts_ns")
    for place in _places_of_names(dump, info.release.encode("latin-1")) if names else ():
        begin = machine.physical(names or 0) + (info.offset("uts_namespace.name") or 0) - place
        if 0 < begin < _FAR * PAGE_SIZE and not begin % PAGE_SIZE:
            yield begin


def pieces_of_linux(dump: Dump, info: VmcoreInfo, search: DisplacedSearch) -> list[Piece]:
    """The pieces by the address that a Linux kernel tells of itself, and by its processes' tables.

    No pieces if all memory is in place. The system's names stand in the kernel's image, which lies
    in one piece. BadInputError if they were moved by a distance that is not a multiple of a page,
    as in joined ranges of memory of which one ended within a page.
    """
    known = machines(info)
    if (info.symbol("swapper_pg_dir") or 0) < IMAGE_BASE or not known[0].has_own_half:
        return []  # the text is of another processor, or damaged
    paging, top = known[0].kernel, _own_top(info)
    shift = 0
    if not is_linux_in_place(dump, info):
        moved = _bytes_moved(dump, info)
        if moved is None:
            return []
        shift, rest = divmod(moved, PAGE_SIZE)
        if rest:
            raise BadInputError(
                f"{dump.path} does not hold its memory where it belongs: the Linux kernel lies"
                f" {moved:,} bytes before its place, so the file joins ranges of memory, and some"
                " ranges are not whole pages"
            )
    own = np.array([top - shift])
    if not is_held(dump, own)[0]:
        return []
    like = search.like
    roots = np.union1d(own, _roots_like(dump, int(own[0]), like))
    pieces = _ends(dump, paging, [(int(own[0]), shift)], like, roots)
    return pieces if len(pieces) > 1 or pieces[0].shift else []


def is_linux_in_place(dump: Dump, info: VmcoreInfo) -> bool:
    """Whether a Linux kernel's own top-level table lies where the kernel says, and maps itself."""
    table = info.symbol("swapper_pg_dir") or 0
    return any(_is_in_place(dump, machine, table) for machine in machines(info))


def _is_in_place(dump: Dump, machine: Machine, table: int) -> bool:
    """Whether the kernel's own top-level table, read as on this machine, maps itself."""
    frame = machine.physical(table) // PAGE_SIZE
    return TableMemory(dump, machine.kernel, frame).frame(table) == frame


def _own_top(info: VmcoreInfo) -> int:
    """The frame of the kernel's own top-level table, as the kernel tells it."""
    return machines(info)[0].physical(info.symbol("swapper_pg_dir") or 0) // PAGE_SIZE


def distances_moved(dump: Dump, info: VmcoreInfo) -> list[int]:
    """How many bytes a Linux kernel may lie too low in the file, by the place of its names.

    The shortest distance first.
    """
    names = info.symbol("init_uts_ns") or 0
    if names < IMAGE_BASE:
        return []
    physical = machines(info)[0].physical(names)
    moved = {
        physical + count - place
        for place in _places_of_names(dump, info.release.encode("latin-1"))
        for count in {*_COUNTS, info.offset("uts_namespace.name") or 0}
    }
    return sorted((shift for shift in moved if abs(shift) < _FAR * PAGE_SIZE), key=abs)


def _bytes_moved(dump: Dump, info: VmcoreInfo) -> int | None:
    """The first distance of `distances_moved` that is possible; None where there is none.

    The names follow a count of 0 or 4 bytes; with the wrong size they would not lie at even places.
    """
    return next((n for n in distances_moved(dump, info) if n % _SMALLEST_END == 0), None)


def _roots_like(dump: Dump, own: int, like: NDArray[np.int64]) -> NDArray[np.int64]:
    """Top-level tables of a Linux kernel's processes: they end like the kernel's own table."""
    last = dump.read_frames(np.array([own]))[0, -1] & ~np.uint64(TOUCHED)
    roots = [
        part[dump.read_frames(part)[:, -1] & ~np.uint64(TOUCHED) == last]
        for part in np.split(like, range(_ROWS_AT_ONCE, len(like), _ROWS_AT_ONCE))
    ]
    return np.concatenate(roots)[:_SAMPLED_ROOTS]


def _places_of_names(dump: Dump, release: bytes) -> list[int]:
    """Places in the file of struct new_utsname with this kernel release."""
    found: list[int] = []

    def scan(pages: NDArray[np.int64], words: Words) -> list[int]:
        contents, names = words.reshape(-1).view(np.uint8), release + b"\0"
        places: list[int] = []
        for place in places_of_text(SYSTEM_NAME, contents, _SAMPLED_NAMES * _OTHER_NAMES):
            at = place + 2 * len(SYSTEM_NAME)
            if contents[at : at + len(names)].tobytes() == names:
                row, inside = divmod(place, PAGE_SIZE)
                places.append(int(pages[row]) * PAGE_SIZE + inside)
        return places

    for places in dump.each_block(scan):
        found += places
    return found[:_SAMPLED_NAMES]


_COUNTS = (0, 4)
"""Bytes before the names in struct uts_namespace, if the kernel does not tell."""
_SMALLEST_END = 0x400
"""The firmware's maps of memory end at multiples of this, if not of a page."""
_SAMPLED_NAMES = 64
"""Places of the system's names: a kernel has them once, and each process of another namespace."""
_OTHER_NAMES = 16
"""So many times as many places in a part of the file may be of other releases."""
_ASKED_TEXTS = 4
"""How many texts of kernels are asked for the beginning of memory: each kernel keeps two."""


def _begun_by(known: list[tuple[int, int]]) -> list[Piece]:
    """Pieces that begin with their first known page; the first piece begins with the file."""
    first: dict[int, int] = {}
    for page, shift in known:
        first.setdefault(shift, page if first else 0)
    return [Piece(page, shift) for shift, page in first.items()]


def _makes_sense(
    dump: Dump, paging: Paging, roots: NDArray[np.int64], pieces: Sequence[Piece]
) -> bool:
    """Whether the pieces turn more of the pages that these roots name as tables into tables.

    Systems allocate a process's tables one after the other, so a table names pages right behind it.
    """
    roots = roots[:: -(-len(roots) // _SAMPLED_NAMED) or 1]
    target, is_page = read_tables(dump, paging, 0, roots)
    named = distinct(target[(target >= 0) & ~is_page])
    named = named[:: -(-len(named) // _SAMPLED_NAMED) or 1]
    mended = MendedDump(dump, pieces)
    there = named[is_held(mended, named)]
    here = named[is_held(dump, named)]
    after = np.count_nonzero(are_tables(mended, paging, 1, there))
    return bool(after > np.count_nonzero(are_tables(dump, paging, 1, here)))


def _are_used(words: Words) -> NDArray[np.bool_]:
    used: NDArray[np.bool_] = np.bitwise_or.reduce(words, axis=1) != 0
    return used


def _are_like_tables(
    tables: NDArray[np.uint64] | NDArray[np.uint32], *, some: bool = True
) -> NDArray[np.bool_]:
    """Which pages hold almost only entries that systems make; with `some`, at least one."""
    used = count_marks(tables != 0)
    entries = count_marks(tables & tables.dtype.type(_FLAGS | LARGE) == _FLAGS)
    like: NDArray[np.bool_] = 8 * entries >= 7 * used - (0 if some else 8)
    return like & (entries > 0) if some else like


def _alike(dump: Dump, paging: Paging, batches: list[_Named]) -> _Named | None:
    """The tables that name themselves by the same entry, if they were moved by common distances.

    A table moved by another distance counts if its kernel half equals that of these tables.
    """
    if not batches:
        return None
    every = _Named(
        np.concatenate([part.page for part in batches]),
        np.concatenate([part.index for part in batches]),
        np.concatenate([part.frame for part in batches]),
    )
    vote = every.index * (2 * _FAR) + every.shift + _FAR
    votes, which, count = np.unique(vote, return_inverse=True, return_counts=True)
    voted = votes // (2 * _FAR)
    several = count >= _FEWEST_OF_PIECE
    if not several.any():
        return None
    index = int(np.argmax(np.bincount(voted[several], weights=count[several])))
    if count[several & (voted == index)].max() < _FEWEST_TABLES:
        return None
    moved_alike = (several & (voted == index))[which]
    chosen = every.index == index
    chosen[np.flatnonzero(chosen)[_SAMPLED_ROOTS:]] = False
    every, moved_alike = every.take(chosen), moved_alike[chosen]
    kin = share_kernel(dump, paging, every.page[:, None], moved_alike)
    return every.take(moved_alike | kin)


def _ascending(
    budget: Budget, page: NDArray[np.int64], shift: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """The longest selection of pages in which the shifts ascend with the pages."""
    order = np.argsort(page, kind="stable")
    values, count = np.unique(shift, return_counts=True)
    values = values[np.argsort(-count, kind="stable")]
    values = np.sort(budget.take("piece of misplaced memory", values))
    # For each shift, the longest ascending selection so far that ends with it.
    rows: list[list[tuple[int, int]]] = [[] for _ in values]
    for one, moved in zip(page[order].tolist(), shift[order].tolist(), strict=True):
        at = int(np.searchsorted(values, moved))
        if at == len(values) or values[at] != moved:
            continue
        longest = max(rows[: at + 1], key=len)
        rows[at] = [*longest, (one, moved)]
    return max(rows, key=len)


@dataclass(frozen=True, eq=False)
class _Labels:
    """Pages, and how far each was moved; a row each."""

    page: NDArray[np.int64]
    shift: NDArray[np.int64]

    @classmethod
    def join(cls, batches: "list[_Labels]") -> "_Labels":
        return cls(
            np.concatenate([part.page for part in batches]),
            np.concatenate([part.shift for part in batches]),
        )


def _ends(
    dump: Dump,
    paging: Paging,
    known: list[tuple[int, int]],
    like: NDArray[np.int64],
    roots: NDArray[np.int64] | None = None,
) -> list[Piece]:
    """The pieces to which the known top-level tables and their shifts belong.

    Pieces without a top-level table are found by tables that entries name, but that lie in no other
    piece. `like` are all pages that look like tables; `roots` are all top-level tables, also those
    with an unknown shift.
    """
    labels = _Labels(*np.array(known, np.int64).T)
    roots = labels.page if roots is None else roots
    for _ in range(dump.budget.limit("piece of misplaced memory")):
        learned, missing = _descend(dump, paging, roots, labels)
        further = _piece_of(missing, like[~np.isin(like, learned.page)], labels.shift)
        every = _Labels.join([labels, further])
        ascending = _Labels(*np.array(_ascending(dump.budget, every.page, every.shift), np.int64).T)
        if not np.isin(further.shift, ascending.shift).any():
            break
        labels = ascending
    else:
        learned, _ = _descend(dump, paging, roots, labels)
    shifts = np.unique(labels.shift)
    pieces = [Piece(0, int(shifts[0]))]
    for before, after in zip(shifts[:-1].tolist(), shifts[1:].tolist(), strict=True):
        low, high = _between(
            learned.page[learned.shift == before], learned.page[learned.shift == after]
        )
        low = max(low, pieces[-1].first)
        high = max(low, high)
        pieces.append(Piece(_roundest(low, high, before, after), after, (low, high)))
    return pieces


def _descend(
    dump: Dump, paging: Paging, tables: NDArray[np.int64], labels: _Labels
) -> tuple[_Labels, NDArray[np.int64]]:
    """Go down from top-level tables, and note each table that makes sense at one place only.

    Returns the shifts of these tables, and the frames that are named as tables but make sense
    nowhere.
    """
    pages, moved, missing = [labels.page], [labels.shift], [np.empty(0, np.int64)]
    # The range in which a piece may begin and end, by the tables known so far.
    shifts = np.unique(labels.shift)
    low = [0, *(int(labels.page[labels.shift == shift].max()) + 1 for shift in shifts[:-1])]
    high = [int(labels.page[labels.shift == shift].min()) for shift in shifts[1:]]
    for number in range(len(paging.levels) - 1):
        target, is_page = read_tables(dump, paging, number, tables)
        named = distinct(target[(target >= 0) & ~is_page])
        named = named[:: -(-len(named) // _SAMPLED_TABLES) or 1]
        places = named - shifts[:, None]
        is_table = places >= np.array(low)[:, None]
        is_table &= places < np.array([*high, dump.frame_count])[:, None]
        for row, place in zip(is_table, places, strict=True):
            row[row] = are_tables(dump, paging, number + 1, place[row])
        count = np.count_nonzero(is_table, axis=0)
        piece = np.argmax(is_table[:, count == 1], axis=0)
        tables = named[count == 1] - shifts[piece]
        pages.append(tables)
        moved.append(shifts[piece])
        missing.append(named[count == 0])
    return _Labels(np.concatenate(pages), np.concatenate(moved)), np.concatenate(missing)


def _piece_of(
    missing: NDArray[np.int64], like: NDArray[np.int64], known: NDArray[np.int64]
) -> _Labels:
    """The place of most missing tables, if all of them were moved by one distance."""
    missing = missing[:: -(-len(missing) // _SAMPLED_MISSING) or 1]
    like = like[:: -(-len(like) // _SAMPLED_LIKE) or 1]
    shift = (missing[:, None] - like).reshape(-1)
    near = (np.abs(shift) < _FAR) & ~np.isin(shift, known)
    values, count = np.unique(shift[near], return_counts=True)
    highest = int(count.max(initial=0))
    # Tables lie side by side, so distances near the right one have many votes, too.
    likely = values[4 * count >= 3 * highest]
    best = likely[np.argmax(_roundness(likely))] if len(likely) else 0
    others = count[np.abs(values - best) > _NEAR].max(initial=0)
    if highest < max(_FEWEST_TABLES, 2 * others):
        return _Labels(np.empty(0, np.int64), np.empty(0, np.int64))
    page = missing[np.isin(missing - best, like)] - best
    return _Labels(page, np.full(len(page), best))


def _between(before: NDArray[np.int64], after: NDArray[np.int64]) -> tuple[int, int]:
    """The first and the last page that may begin a piece, by most of the known pages."""
    pages = np.concatenate((before, after))
    is_after = np.arange(len(pages)) >= len(before)
    order = np.argsort(pages, kind="stable")
    pages, is_after = pages[order], is_after[order]
    # For each possible first page: how many known pages then lie on the wrong side of it.
    wrong = np.append(0, np.cumsum(is_after)) + np.append(np.cumsum(~is_after[::-1])[::-1], 0)
    best = int(np.argmin(wrong))
    low = int(pages[best - 1]) + 1 if best else 0
    return low, int(pages[best]) if best < len(pages) else low


def _roundest(low: int, high: int, before: int, after: int) -> int:
    """The page from `low` to `high` at which a hole in memory most likely was.

    Such holes begin and end at round addresses.
    """
    page = np.arange(low, high + 1)
    return low + int(np.argmax(_roundness(page + before) + _roundness(page + after)))


def _roundness(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """How often each number can be halved; for 0, more often than for any other number."""
    lowest: NDArray[np.float64] = np.log2(np.where(numbers == 0, 2.0**63, numbers & -numbers))
    return lowest
