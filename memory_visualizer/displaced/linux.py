"""Misplaced memory of a Linux kernel, which tells its own address."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import places_of_text
from memory_visualizer.displaced.ends import ends
from memory_visualizer.displaced.mended import FAR, MendedDump, Piece
from memory_visualizer.displaced.search import ROWS_AT_ONCE, SAMPLED_ROOTS, DisplacedSearch
from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.base import Dump, Words
from memory_visualizer.linux.machine import Machine, machines
from memory_visualizer.linux.vmcoreinfo import IMAGE_BASE, VmcoreInfo
from memory_visualizer.paging import (
    is_held,
)
from memory_visualizer.paging.kernelhalf import TOUCHED
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.unknown.machine import SYSTEM_NAME

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
    if told is not None and 0 < (begin := told % (1 << 48)) < FAR * PAGE_SIZE:
        yield begin // PAGE_SIZE * PAGE_SIZE
    names = info.symbol("init_uts_ns")
    for place in _places_of_names(dump, info.release.encode("latin-1")) if names else ():
        begin = machine.physical(names or 0) + (info.offset("uts_namespace.name") or 0) - place
        if 0 < begin < FAR * PAGE_SIZE and not begin % PAGE_SIZE:
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
    pieces = ends(dump, paging, [(int(own[0]), shift)], like, roots)
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
    return sorted((shift for shift in moved if abs(shift) < FAR * PAGE_SIZE), key=abs)


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
        for part in np.split(like, range(ROWS_AT_ONCE, len(like), ROWS_AT_ONCE))
    ]
    return np.concatenate(roots)[:SAMPLED_ROOTS]


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
