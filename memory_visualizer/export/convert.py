"""A dump written anew in a plain format: raw, LiME or ELF core.

Pages of zeros become holes of the file if the file system has sparse files. The new file is read
back before it gets its name: the checksums of its pages must equal the checksums from writing. A
conversion can be repeated: a file that already holds this memory is kept. So are the pages that an
interrupted conversion has written, if they equal the pages of the dump.
"""

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.base import Dump, Progress, Words, zero_pages
from memory_visualizer.formats.elf import ElfDump
from memory_visualizer.formats.elfheaders import CLASS_32, CLASS_64, IDENTITY, LAYOUTS, NOTE
from memory_visualizer.formats.lime import LimeDump
from memory_visualizer.formats.limeheaders import BLOCK_SIZE, HEADER
from memory_visualizer.formats.magics import LIME
from memory_visualizer.formats.mapped import Extents
from memory_visualizer.formats.opening import is_dump
from memory_visualizer.formats.raw import RawDump
from memory_visualizer.output import check_target, part_of, resumable_file
from memory_visualizer.printable import binary_size, counted
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE


@dataclass(frozen=True)
class Layout:
    """The places of everything in a file that is to be written."""

    format: str
    headers: Callable[[], Iterable[tuple[int, bytes]]]
    """Returns the bytes that are not memory, each with its place in the file."""
    extents: Extents
    """The places of the frames."""
    size: int
    """Bytes of the file."""
    open: Callable[[Path], Dump]
    """Reads such a file."""


@dataclass(frozen=True)
class Conversion:
    """The result of convert_dump."""

    layout: Layout
    pages: int
    """The number of frames that the dump, and so the file, holds."""
    holes: int
    """The number of frames that are in no run, and not left out."""
    left_out: int
    """Frames of the machine that the dump leaves out, or that could not be read."""
    was_there: bool
    """Whether the file existed and held this memory, so that nothing was written."""
    kept: int
    """The number of pages from an interrupted conversion that equal the dump's and were kept."""
    remarks: tuple[str, ...]
    """Sentences on facts that the format cannot express."""


def layout_of(snapshot: Snapshot, path: Path) -> Layout:
    """Choose the places in a new file; the ending of `path` is one of FORMATS."""
    return FORMATS[path.suffix.lower()](snapshot)


def convert_dump(
    snapshot: Snapshot, path: Path, layout: Layout, progress: Progress | None = None
) -> Conversion:
    """Write the memory of a dump into a file, and read it back.

    `layout` is that of layout_of. `progress` is told bytes of memory, once while they are written
    and once while they are read back. OSError when the file cannot be written, does not fit on the
    disk, or exists and holds something else; BadInputError when the dump cannot be read, or the
    file does not give back what was written.
    """
    dump, kept = snapshot.dump, 0
    if was_there := path.exists():
        sums = Checksums(dump.frame_count)
        if path.stat().st_size == layout.size:
            dump.scan([sums.add], progress)
        if not _holds(path, layout, dump, sums, progress):
            fault = "it exists and does not hold the memory of this dump, so it stays"
            raise FileExistsError(errno.EEXIST, fault, str(path))
    else:
        kept = _write(snapshot, path, layout, progress)
    left_out = int(np.count_nonzero(dump.left_out)) if len(dump.left_out_runs) else 0
    pages = dump.size // PAGE_SIZE
    holes = dump.frame_count - pages - left_out
    remarks = tuple(_remarks(dump, layout, holes, left_out))
    return Conversion(layout, pages, holes, left_out, was_there, kept, remarks)


def _write(snapshot: Snapshot, path: Path, layout: Layout, progress: Progress | None) -> int:
    """Write a new file; returns the number of pages that an unfinished part of it had."""
    check_target(path)
    _check_room(path, layout, snapshot)
    dump, part = snapshot.dump, part_of(path)
    with resumable_file(path) as file:
        is_begun = file.seek(0, os.SEEK_END) > 0
        sums, kept = _fill(file, dump, layout, progress)
        is_whole = _holds(part, layout, dump, sums, progress)
        if is_begun and not is_whole:  # it may have data where the dump has no pages
            file.truncate(0)
            sums, kept = _fill(file, dump, layout, progress)
            is_whole = _holds(part, layout, dump, sums, progress)
        if not is_whole:
            raise BadInputError(
                f"{path} was not written: read back, it does not hold the memory of {dump.path};"
                " the disk may be faulty, or the dump changed meanwhile"
            )
    return kept


def _fill(
    file: IO[bytes], dump: Dump, layout: Layout, progress: Progress | None
) -> tuple["Checksums", int]:
    """Write the missing parts; returns the checksums of the dump, and the number of kept pages."""
    sums = Checksums(dump.frame_count)
    pages = _Pages(file, layout.extents, sums)
    try:
        for place, contents in layout.headers():
            pages.put(place, contents)
        dump.scan([pages.add], progress)
    except _CannotWriteError as error:
        raise error.reason from error
    file.truncate(layout.size)
    file.flush()
    return sums, pages.kept


def _check_room(path: Path, layout: Layout, snapshot: Snapshot) -> None:
    """OSError if a file, or the rest of it, will not fit on the disk."""
    part = part_of(path)
    sparse = _can_have_holes(part.parent)
    data = int(np.count_nonzero(~snapshot.zero & snapshot.dump.held)) * PAGE_SIZE
    need = data if sparse else layout.size
    if part.is_file():
        status = part.stat()
        need -= getattr(status, "st_blocks", status.st_size // 512) * 512
    free = shutil.disk_usage(part.parent).free
    if need <= free:
        return
    fault = f"it needs {binary_size(need)}, and the disk has {binary_size(free)} free"
    if not sparse and layout.format == "raw":
        fault += "; the file system has no sparse files, but .lime and .elf need no room for holes"
    raise OSError(errno.ENOSPC, fault, str(path))


_PROBE = 4 << 20


def _can_have_holes(folder: Path) -> bool:
    """Whether unwritten parts of a file in a folder take no room."""
    try:
        with TemporaryFile(dir=folder) as file:
            file.truncate(_PROBE)
            blocks = getattr(os.fstat(file.fileno()), "st_blocks", None)  # Windows does not tell
    except OSError:
        return True  # writing the file itself will raise the same error
    return blocks is not None and blocks * 512 < _PROBE


def _holds(
    path: Path, layout: Layout, dump: Dump, sums: "Checksums", progress: Progress | None
) -> bool:
    """Whether a file holds the frames of a dump, with the checksums `sums`."""
    try:
        written = layout.open(path)
        if path.stat().st_size != layout.size or not np.array_equal(
            written.runs, layout.extents.runs
        ):
            return False
        found = Checksums(dump.frame_count)
        written.scan([found.add], progress)
    except BadInputError:
        return False
    return np.array_equal(found.sums, sums.sums)


def _remarks(dump: Dump, layout: Layout, holes: int, left_out: int) -> Iterator[str]:
    """Sentences on facts that the format cannot express."""
    is_raw = layout.format == "raw"
    if is_raw and holes:
        yield (
            f"{counted(holes, 'page')} that the dump does not have are zeros in a raw file, which"
            " cannot tell them from memory"
        )
    if left_out:
        became = "zeros" if is_raw else "holes"
        yield (
            f"{counted(left_out, 'page')} that the dump leaves out or that could not be read are"
            f" {became} in the file, as {layout.format} has no mark for such pages"
        )
    if is_raw and is_dump(dump.read_frames(np.zeros(1, np.int64)).tobytes()[:64]):
        yield (
            "the first page of memory begins like the header of another format: readers may not"
            " take the file for raw"
        )


class _CannotWriteError(Exception):
    """An error of the new file, which the scan must not mistake for an error of the dump."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _Pages:
    """Writes pages into their places in a file; blocks may come in any order, and from threads.

    Pages that the file has already are compared, and written only if they differ.
    """

    def __init__(self, file: IO[bytes], extents: Extents, sums: "Checksums") -> None:
        self._file = file
        self._extents = extents
        self._sums = sums
        self._writing = threading.Lock()
        self._end = file.seek(0, os.SEEK_END)
        self.kept = 0
        """The number of pages, except zeros, that the file had."""

    def put(self, place: int, contents: bytes | memoryview) -> None:
        """Write bytes into their place."""
        try:
            with self._writing:
                self._file.seek(place)
                self._file.write(contents)
        except OSError as error:
            raise _CannotWriteError(error) from error

    def add(self, frames: NDArray[np.int64], words: Words) -> None:
        """Write some frames, given with their contents, unless the file has them.

        Beyond its former end, the file has pages of zeros.
        """
        row = np.searchsorted(self._extents.first, frames, side="right") - 1
        place = self._extents.offset[row] + (frames - self._extents.first[row]) * PAGE_SIZE
        filled = ~zero_pages(words)
        self._sums.add_filled(frames, words, np.flatnonzero(filled))
        lacking = np.where(place < self._end, False, filled)
        for rows in _stretches(place, np.flatnonzero(place < self._end)):
            lacking[rows] = self._differ(int(place[rows.start]), words[rows])
        with self._writing:
            self.kept += int(np.count_nonzero(filled & ~lacking))
        for rows in _stretches(place, np.flatnonzero(lacking)):
            pages = np.ascontiguousarray(words[rows])
            self.put(int(place[rows.start]), pages.view(np.uint8).data)

    def _differ(self, place: int, words: Words) -> NDArray[np.bool_]:
        """Which of these pages the file, from a place on, does not have; one bool for each."""
        there = np.zeros(words.shape, np.uint64)
        with self._writing:
            self._file.seek(place)
            self._file.readinto(there.view(np.uint8).data)  # type: ignore[attr-defined]
        differ: NDArray[np.bool_] = (there != words).any(axis=1)
        return differ


def _stretches(place: NDArray[np.int64], rows: NDArray[np.intp]) -> Iterator[slice]:
    """Runs of consecutive rows whose pages are neighbours in the file, too; rows ascend."""
    if len(rows):
        apart = (np.diff(place[rows]) != PAGE_SIZE) | (np.diff(rows) != 1)
        edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(rows)]
        for first, end in pairwise(edges):
            yield slice(int(rows[first]), int(rows[end - 1]) + 1)


_GROUP = 4096
"""Frames that have a checksum together: 16 MiB."""
_PAGES_AT_ONCE = 64
_FACTORS = np.random.default_rng(0).integers(1 << 63, size=PAGE_SIZE // 8, dtype=np.uint64) | 1
"""A factor for each word of a page; odd, so that a change of a word always changes the product."""


class Checksums:
    """Sums of the contents of frames, for each 16 MiB of addresses.

    They do not depend on the order, blocks, and threads in which frames come. Pages of zeros add
    nothing, so they may be left out. The sums detect faults of a disk or a reader, but not
    deliberate changes.
    """

    def __init__(self, frame_count: int) -> None:
        self.sums = np.zeros(-(-frame_count // _GROUP), np.uint64)
        self._adding = threading.Lock()

    def add(self, frames: NDArray[np.int64], words: Words) -> None:
        """Add some frames, given with their contents."""
        self.add_filled(frames, words, np.flatnonzero(~zero_pages(words)))

    def add_filled(self, frames: NDArray[np.int64], words: Words, filled: NDArray[np.intp]) -> None:
        """Add some of these frames, given by their rows."""
        of_page = np.empty(len(filled), np.uint64)
        for start in range(0, len(filled), _PAGES_AT_ONCE):
            some = filled[start : start + _PAGES_AT_ONCE]
            # A copy stays in the processor's cache, and is aligned whatever the pages are.
            of_page[start : start + len(some)] = (words[some] * _FACTORS).sum(axis=1)
        of_page *= frames[filled].astype(np.uint64) * np.uint64(2) + np.uint64(1)
        with self._adding:
            np.add.at(self.sums, frames[filled] // _GROUP, of_page)


def _raw(snapshot: Snapshot) -> Layout:
    """Byte N of the file is byte N of memory."""
    first, count = snapshot.dump.runs.T
    end = int(first[-1] + count[-1])
    every = Extents(np.zeros(1, np.int64), np.array([end]), np.zeros(1, np.int64))
    return Layout("raw", lambda: (), every, end * PAGE_SIZE, RawDump.open)


def _lime(snapshot: Snapshot) -> Layout:
    """Version 1 (LiME, doc/README.md): for each run a header, followed by its pages."""
    first, count = _not_like_avml(snapshot.dump.runs)
    size = count * PAGE_SIZE + HEADER.size
    end = np.cumsum(size)
    offset = end - size + HEADER.size
    extents = Extents(first, count, offset)

    def headers() -> Iterator[tuple[int, bytes]]:
        columns = (first * PAGE_SIZE, (first + count) * PAGE_SIZE - 1, offset - HEADER.size)
        for start, last, place in zip(*(column.tolist() for column in columns), strict=True):
            yield place, HEADER.pack(LIME, 1, start, last, 0)

    return Layout("LiME", headers, extents, int(end[-1]), LimeDump.open)


def _not_like_avml(runs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First frame and number of frames of each range.

    AVML writes blocks of 16 MiB and leaves out blocks of zeros, so readers take a gap behind such a
    block for zeros. A run of exactly this size becomes two ranges.
    """
    first, count = runs.T
    half = BLOCK_SIZE // PAGE_SIZE // 2
    alike = count == 2 * half
    every = np.repeat(first, 1 + alike)
    counts = np.repeat(np.where(alike, half, count), 1 + alike)
    second = np.cumsum(1 + alike)[alike] - 1
    every[second] += half
    return every, counts


_ET_CORE, _PT_LOAD, _PT_NOTE = 4, 1, 4
_PN_XNUM = 0xFFFF
_EM_386, _EM_X86_64, _EM_AARCH64 = 3, 62, 183
_OF_32_BITS = (3, 8, 20, 40)
"""EM_386, EM_MIPS, EM_PPC, EM_ARM (elf.h)."""
_READ, _WRITE, _EXECUTE = 4, 2, 1


def _elf(snapshot: Snapshot) -> Layout:
    """An ELF core (System V ABI, chapters 4 and 5): a PT_LOAD for each run, by physical address.

    Its note VMCOREINFO comes from the dump's notes, or from the memory of a Linux kernel: drgn and
    libkdumpfile need it.
    """
    dump = snapshot.dump
    first, count = dump.runs.T
    note = _note(_vmcoreinfo(snapshot))
    machine = _machine(snapshot)
    memory = count * PAGE_SIZE
    for class_ in (CLASS_32, CLASS_64) if machine in _OF_32_BITS else (CLASS_64,):
        layout = LAYOUTS[class_]
        segments = len(count) + bool(note)
        many = segments >= _PN_XNUM
        segments_at = layout.header.itemsize + many * layout.section.itemsize
        note_at = segments_at + segments * layout.segment.itemsize
        memory_at = -(-(note_at + len(note)) // PAGE_SIZE) * PAGE_SIZE
        offset = memory_at + np.cumsum(memory) - memory
        end = int(offset[-1] + memory[-1])
        if max(end, int(first[-1] + count[-1]) * PAGE_SIZE) < 1 << 32:
            break

    def headers() -> Iterator[tuple[int, bytes]]:
        identity = np.zeros(1, IDENTITY)
        identity["ei_mag"], identity["ei_class"] = b"\x7fELF", class_
        identity["ei_data"] = identity["ei_version"] = 1
        header = np.zeros(1, layout.header)
        header["e_ident"] = identity.view(f"V{IDENTITY.itemsize}")
        for name, value in (
            ("e_type", _ET_CORE),
            ("e_machine", machine),
            ("e_version", 1),
            ("e_phoff", segments_at),
            ("e_shoff", layout.header.itemsize * many),
            ("e_ehsize", layout.header.itemsize),
            ("e_phentsize", layout.segment.itemsize),
            ("e_phnum", _PN_XNUM if many else segments),
            ("e_shentsize", layout.section.itemsize),
            ("e_shnum", int(many)),
        ):
            header[name] = value
        yield 0, header.tobytes()
        if many:
            section = np.zeros(1, layout.section)
            section["sh_info"] = segments
            yield layout.header.itemsize, section.tobytes()
        table = np.zeros(segments, layout.segment)
        if note:
            table["p_type"][0] = _PT_NOTE
            table["p_offset"][0] = note_at
            table["p_filesz"][0] = table["p_memsz"][0] = len(note)
        loads = table[segments - len(count) :]
        loads["p_type"] = _PT_LOAD
        loads["p_flags"] = _READ | _WRITE | _EXECUTE
        loads["p_offset"] = offset
        loads["p_paddr"] = first * PAGE_SIZE
        loads["p_filesz"] = loads["p_memsz"] = memory
        loads["p_align"] = PAGE_SIZE
        yield segments_at, table.tobytes()
        yield note_at, note.ljust(memory_at - note_at, b"\0")

    return Layout("ELF core", headers, Extents(first, count, offset), end, ElfDump.open)


def _vmcoreinfo(snapshot: Snapshot) -> bytes:
    told = snapshot.dump.notes.get("VMCOREINFO")
    return told if isinstance(told, bytes) else snapshot.vmcoreinfo


def _note(text: bytes) -> bytes:
    """The note VMCOREINFO with this text; nothing if there is none."""
    if not text:
        return b""
    name = b"VMCOREINFO\0"
    head = np.array([(len(name), len(text), 0)], NOTE).tobytes()
    return b"".join(part + bytes(-len(part) % 4) for part in (head, name, text))


def _machine(snapshot: Snapshot) -> int:
    """The number of the processor (e_machine); 0 if it is not known."""
    told = snapshot.dump.notes.get("e_machine")
    if isinstance(told, int):
        return told
    if (paging := snapshot.paging) is None:
        return 0
    if paging.address_bits == 32:
        return _EM_386
    return _EM_X86_64 if paging.name.startswith("x86-64") else _EM_AARCH64


FORMATS: Mapping[str, Callable[[Snapshot], Layout]] = {
    ".raw": _raw,
    ".lime": _lime,
    ".elf": _elf,
}
"""By the ending of a file's name."""


def described(conversion: Conversion, name: str) -> str:
    """A line on the file, which is called `name`."""
    layout = conversion.layout
    done = "was there, and holds the same" if conversion.was_there else "written, and read back"
    if conversion.kept:
        done += f" ({counted(conversion.kept, 'page')} kept of an earlier run)"
    ranges = counted(len(layout.extents.first), "run") if layout.format != "raw" else ""
    facts = [
        f"{layout.format}, {binary_size(layout.size)}",
        counted(conversion.pages, "page") + f" in {ranges}" * bool(ranges),
    ]
    if conversion.holes:
        facts.append(f"{counted(conversion.holes, 'page')} of holes")
    if conversion.left_out:
        facts.append(f"{counted(conversion.left_out, 'page')} left out or not readable")
    return f"{name}: {', '.join(facts)}; {done}"
