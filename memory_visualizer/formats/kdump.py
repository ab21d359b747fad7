"""Compressed kdump files, as makedumpfile and QEMU write them, and Red Hat's diskdump before them.

The format is that of makedumpfile (IMPLEMENTATION, diskdump_mod.h): a header, two bitmaps of which
the first tells the machine's frames and the second the held frames, a descriptor for each held
frame, and their contents, each page compressed by itself. 32-bit machines have narrower fields, and
numbers are in the machine's order of bytes. A dump may be split: each file then holds the pages of
some frames. This module reads the format itself, since no installable package does. The
decompressors are imported when a page needs them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats import base
from memory_visualizer.formats.base import (
    NO_RUNS,
    BlockWork,
    Dump,
    PlainPages,
    Words,
    ahead,
    numbers_in,
    runs_of,
)
from memory_visualizer.formats.bitmap import Bitmap
from memory_visualizer.formats.damage import report_damage
from memory_visualizer.formats.files import ask, file_size, read_at
from memory_visualizer.formats.inside import is_content
from memory_visualizer.formats.kdumpheaders import (
    MAX_VMCOREINFO,
    UTSNAME,
    Header,
    read_header,
)
from memory_visualizer.formats.paths import as_path
from memory_visualizer.formats.reach import near_frames, near_left_out, near_pieces
from memory_visualizer.formats.records import RecordType, read_record
from memory_visualizer.printable import counted
from memory_visualizer.units import PAGE_SIZE

_DESCRIPTORS_AT_ONCE = 1 << 18
_PLAIN, _ZLIB, _LZO, _SNAPPY, _ZSTD = 0, 1, 2, 4, 0x20
_NAMES = {_LZO: "LZO", _SNAPPY: "Snappy", _ZSTD: "Zstandard"}

_GAP = 1 << 16  # larger gaps between pages are not read along
_WINDOW = 1 << 25
_MAX_PARTS = 255
_MAX_NAMED = 9
"""So many missing stretches of frames are named in a remark; the others are counted."""

_Result = TypeVar("_Result")
_Unpack = Callable[[memoryview], bytes]


@dataclass(frozen=True, eq=False)
class _Pages:
    """The places of the held pages, by ascending frame, in columns."""

    offset: NDArray[np.int64]
    size: NDArray[np.uint32]
    kind: NDArray[np.uint8]
    """The way of compression."""
    file: NDArray[np.uint8]
    """The number of the dump's file."""

    def __getitem__(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> "_Pages":
        return _Pages(self.offset[chosen], self.size[chosen], self.kind[chosen], self.file[chosen])


class KdumpDump(Dump):
    """A compressed kdump file; it does not hold pages that makedumpfile left out."""

    def __init__(
        self,
        files: Sequence[Path],
        block: int,
        runs: NDArray[np.int64],
        pages: _Pages,
        *,
        left_out: NDArray[np.int64],
        notes: dict[str, int | bytes],
        remarks: Sequence[str],
    ) -> None:
        """`runs` and `left_out` count pages of `block` bytes; `pages` are the held pages."""
        self._block, self._per_page = block, block // PAGE_SIZE
        super().__init__(
            files[0],
            "kdump",
            runs * self._per_page,
            left_out=left_out * self._per_page,
            notes=notes,
            remarks=remarks,
        )
        self._files = files
        self._pages = pages
        self._page_runs, self._page_left_out = runs, left_out
        self._before = np.cumsum(runs[:, 1]) - runs[:, 1]

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Read the header, the bitmaps and the descriptors of all pages.

        BadInputError when the file cannot be read or is no such dump; DamagedInputError, unless
        `lenient`, when a part of it is missing. `lenient` unpacks all pages and leaves out broken
        ones.
        """
        return cls.open_parts([as_path(path)], lenient=lenient)

    @classmethod
    def open_parts(cls, paths: Sequence[Path], *, lenient: bool = False) -> Self:
        """Read all files of a dump that makedumpfile has split, in any order. As `open`."""
        if len(paths) > _MAX_PARTS:
            raise BadInputError(f"{len(paths):,} files are too many for one dump")
        headers: list[Header] = []
        runs: list[NDArray[np.int64]] = []
        columns: list[_Pages] = []
        left_out = NO_RUNS
        for number, path in enumerate(paths):
            with reading(path), path.open("rb", buffering=0) as file:
                header = read_header(path, file)
                if headers and (header.names, header.block) != (headers[0].names, headers[0].block):
                    raise BadInputError(f"{path} does not belong to the same dump as {paths[0]}")
                held = _held(path, file, header)
                at = header.bitmaps_at + 2 * header.bitmap_size
                count = int(held[:, 1].sum())
                columns.append(_descriptors(path, file, at, count, number, header.descriptor))
                if number == 0:
                    left_out = _left_out(path, file, header)
            headers.append(header)
            runs.append(held)
        remarks = _remarks(paths, headers)
        joined, pages = _joined(paths, runs, columns, remarks, lenient=lenient)
        block = headers[0].block
        near, far = near_pieces(paths[0], *(joined * block).T, lenient=lenient)
        pages, joined = pages[np.repeat(near, joined[:, 1])], joined[near]
        limit = near_frames(len(pages.offset) * block) * PAGE_SIZE // block
        left_out, beyond = near_left_out(paths[0], left_out, limit)
        notes = {"machine": read_record(UTSNAME, headers[0].names)["machine"]}
        if texts := Counter(header.vmcoreinfo for header in headers if header.vmcoreinfo):
            [(notes["VMCOREINFO"], _)] = texts.most_common(1)  # that of most files
        dump = cls(
            paths,
            block,
            joined,
            pages,
            left_out=left_out,
            notes=notes,
            remarks=remarks + far + beyond,
        )
        return dump._checked(lenient=lenient)

    def _checked(self, *, lenient: bool) -> Self:
        """Refuse, or leave out, pages that lie outside of the file or cannot be unpacked."""
        pages = self._pages
        end = pages.offset + pages.size
        sound = (pages.offset > 0) & (end <= self._file_sizes()[pages.file]) & (pages.size > 0)
        sound &= pages.size <= 2 * self._block
        if not sound.all() and not lenient:
            missing = np.count_nonzero(~sound)
            raise DamagedInputError(
                f"{self.path} ends too early, or is broken: {missing:,} pages of memory are not"
                " where it says"
            )
        if lenient:
            with self._open() as files:
                for number in np.flatnonzero(sound).tolist():
                    try:
                        self._unpack(files, np.array([number]), self._room(1))
                    except DamagedInputError:
                        sound[number] = False
        if sound.all():
            return self
        numbers = numbers_in(self._page_runs)[sound]
        if not len(numbers):
            raise BadInputError(f"{self.path} holds no page of memory that can be read")
        lost = f"{counted(int(np.count_nonzero(~sound)), 'broken page')} of {self.path} left out"
        dump = type(self)(
            self._files,
            self._block,
            runs_of(numbers),
            pages[sound],
            left_out=self._page_left_out,
            notes=dict(self.notes),
            remarks=(*self.remarks, lost),
        )
        return dump.instead_of(self)

    def _file_sizes(self) -> NDArray[np.int64]:
        with self._open() as files:
            return np.array([file_size(file) for file in files])

    @contextmanager
    def _open(self) -> Iterator[list[FileIO]]:
        with ExitStack() as stack:
            files = []
            for path in self._files:
                stack.enter_context(reading(path))
                files.append(stack.enter_context(path.open("rb", buffering=0)))
            yield files

    def _room(self, count: int) -> NDArray[np.uint8]:
        return np.empty((count, self._block), np.uint8)

    def plain_pages(self) -> PlainPages | None:
        """The pages that makedumpfile could not, or should not, pack; none of a split dump."""
        if len(self._files) > 1 or is_content(self.path):
            return None
        plain = (self._pages.kind == _PLAIN) & (self._pages.size == self._block)
        frame = numbers_in(self._page_runs)[plain] * self._per_page
        return PlainPages.of_pages(self.path, frame, self._pages.offset[plain], self._per_page)

    def each_block(
        self, work: BlockWork[_Result], within: range | None = None
    ) -> Iterator[_Result]:
        """Unpack the blocks for `work`."""
        at_once = max(1, base.BLOCK_FRAMES // self._per_page)
        wanted = (
            (first + done, before + done, min(count - done, at_once))
            for (first, count), before in zip(
                self._page_runs.tolist(), self._before.tolist(), strict=True
            )
            for done in range(0, count, at_once)
            if within is None or (first + done) * self._per_page in within
        )
        with self._open() as files:

            def scan(block: tuple[int, int, int]) -> _Result:
                page, number, count = block
                pages = self._room(count)
                self._unpack(files, np.arange(number, number + count), pages)
                words = pages.view(np.uint64).reshape(-1, PAGE_SIZE // 8)
                words.flags.writeable = False
                first = page * self._per_page
                return work(np.arange(first, first + len(words)), words)

            yield from ahead(scan, wanted)

    def read_frames(self, frames: NDArray[np.int64]) -> Words:
        """Unpack these frames' pages, repeated pages only once."""
        frames = np.asarray(frames, dtype=np.int64)
        target = np.zeros((frames.size, PAGE_SIZE), np.uint8)
        first, count = self._page_runs.T
        page, part = np.divmod(frames, self._per_page)
        run = np.searchsorted(first, page, side="right") - 1
        inside = page - first[run]
        held = np.flatnonzero((run >= 0) & (inside < count[run]))
        if len(held):
            numbers = self._before[run[held]] + inside[held]
            numbers, row = np.unique(numbers, return_inverse=True)
            unpacked = self._room(len(numbers))
            with self._open() as files:
                self._unpack(files, numbers, unpacked)
            rows = unpacked.reshape(-1, PAGE_SIZE)
            target[held] = rows[row * self._per_page + part[held]]
        return target.view(np.uint64)

    def _unpack(
        self, files: Sequence[FileIO], numbers: NDArray[np.int64], target: NDArray[np.uint8]
    ) -> None:
        """Unpack the pages with these numbers."""
        pages = self._pages[numbers]
        for file in np.unique(pages.file).tolist() if len(files) > 1 else (0,):
            rows = np.flatnonzero(pages.file == file)
            self._unpack_from(self._files[file], files[file], pages, rows, target)

    def _unpack_from(
        self,
        path: Path,
        file: FileIO,
        pages: _Pages,
        rows: NDArray[np.intp],
        target: NDArray[np.uint8],
    ) -> None:
        """Unpack the pages, by row, that are in one file."""
        # All pages of zeros may share one place; other pages follow one another.
        order = rows[np.argsort(pages.offset[rows], kind="stable")].tolist()
        ask(file, pages.offset[rows], pages.size[rows].astype(np.int64))
        unpackers: dict[int, _Unpack] = {}
        window, begin = memoryview(b""), 0
        offsets, kinds = pages.offset.tolist(), pages.kind.tolist()
        ends = (pages.offset + pages.size).tolist()
        for place, row in enumerate(order):
            start, end = offsets[row], ends[row]
            if start < begin or end > begin + len(window):
                last = end
                for following in order[place + 1 :]:
                    if offsets[following] > last + _GAP or ends[following] > start + _WINDOW:
                        break
                    last = max(last, ends[following])
                window, begin = memoryview(read_at(file, last - start, start)), start
                if len(window) < last - start:
                    raise BadInputError(f"{path} got shorter while it was read")
            way = kinds[row]
            if way not in unpackers:
                unpackers[way] = _unpacker(path, way, self._block)
            try:
                page = unpackers[way](window[start - begin : end - begin])
            except Exception as error:  # each library has exceptions of its own
                raise DamagedInputError(
                    f"{path}: the page at byte {start:,} cannot be unpacked: {error}"
                ) from error
            if len(page) != self._block:
                raise DamagedInputError(
                    f"{path}: the page at byte {start:,} has {len(page):,} bytes unpacked"
                )
            target[row] = np.frombuffer(page, np.uint8)


def part_of_split(path: Path) -> tuple[int, int] | None:
    """The page frames of a file that makedumpfile made with ``--split``: the first and the end.

    None for any other file. BadInputError if the file cannot be read.
    """
    with reading(path), path.open("rb", buffering=0) as file:
        try:
            return read_header(path, file).part
        except BadInputError:
            return None


def _held(path: Path, file: FileIO, header: Header) -> NDArray[np.int64]:
    """The runs of pages that this file holds."""
    first, last = header.part or (0, header.frames)
    _, held = _bitmaps(path, file, header)
    runs = held.runs(first, min(last, header.frames))
    if not len(runs) and not header.part:
        raise BadInputError(f"{path} holds no page of memory")
    return runs


def _left_out(path: Path, file: FileIO, header: Header) -> NDArray[np.int64]:
    """The runs of pages of the machine that are in no file of the dump."""
    there, held = _bitmaps(path, file, header)
    return there.runs(without=held)


def _bitmaps(path: Path, file: FileIO, header: Header) -> tuple[Bitmap, Bitmap]:
    """The bitmaps of the machine's pages, and of the pages in any file of the dump."""
    there = Bitmap(path, file, header.bitmaps_at, header.frames)
    return there, replace(there, at=there.at + header.bitmap_size)


def _remarks(paths: Sequence[Path], headers: Sequence[Header]) -> list[str]:
    """Remarks on the files: missing parts, and pages that were not written."""
    remarks = [
        f"{path} says that it is incomplete: the disk was full"
        for path, header in zip(paths, headers, strict=True)
        if header.incomplete
    ]
    remarks += [
        f"{path} says that its VMCOREINFO has {header.lost_text:,} bytes: they are not in the file,"
        f" or more than {MAX_VMCOREINFO:,}, and were not read"
        for path, header in zip(paths, headers, strict=True)
        if header.lost_text
    ]
    parts = sorted(header.part for header in headers if header.part)
    if not parts:
        return remarks
    if len(paths) == 1:
        return [
            f"{paths[0]} is one of several files; the pages in the others are absent: give all"
            " files",
            *remarks,
        ]
    done, missing = 0, []
    for first, last in [*parts, (headers[0].frames, headers[0].frames)]:
        if first > done:
            missing.append(f"{done:#x} to {min(first, headers[0].frames) - 1:#x}")
        done = max(done, last)
    # A missing part may be for no held page, or for frames that the machine does not have.
    if missing:
        more = len(missing) - _MAX_NAMED
        behind = f", and {counted(more, 'more stretch', 'more stretches')}" if more > 0 else ""
        named = ", ".join(missing[:_MAX_NAMED])
        remarks.append(f"no file of the dump covers the page frames {named}{behind}")
    return remarks


def _joined(
    paths: Sequence[Path],
    runs: Sequence[NDArray[np.int64]],
    columns: Sequence[_Pages],
    remarks: list[str],
    *,
    lenient: bool,
) -> tuple[NDArray[np.int64], _Pages]:
    """Put the pages of all files into the order of memory."""
    if len(paths) == 1:
        if not len(runs[0]):
            raise BadInputError(f"{paths[0]} holds no page of memory")
        return runs[0], columns[0]
    numbers = np.concatenate([numbers_in(some) for some in runs])
    order = np.argsort(numbers, kind="stable")
    twice = order[1:][np.diff(numbers[order]) == 0]
    if len(twice):
        sentence = (
            f"{paths[0]} and the other files hold {counted(len(twice), 'page')} twice, the first"
            f" of them page frame {numbers[twice].min():#x}"
        )
        report_damage(sentence, remarks, lenient=lenient, then="one of them was used")
        order = order[np.diff(numbers[order], prepend=-1) != 0]
    if not len(order):
        raise BadInputError(f"{paths[0]} and the other files hold no page of memory")
    names = ("offset", "size", "kind", "file")
    pages = _Pages(*(np.concatenate([getattr(some, name) for some in columns]) for name in names))
    return runs_of(numbers[order]), pages[order]


def _descriptors(
    path: Path, file: FileIO, at: int, count: int, number: int, record: RecordType
) -> _Pages:
    """Place, size and compression of each page."""
    if at + count * record.itemsize > file_size(file):
        raise BadInputError(f"{path} ends within the table of its {count:,} pages")
    offset, size = np.empty(count, np.int64), np.empty(count, np.uint32)
    kind = np.empty(count, np.uint8)
    for start in range(0, count, _DESCRIPTORS_AT_ONCE):
        wanted = min(count - start, _DESCRIPTORS_AT_ONCE)
        place = at + start * record.itemsize
        table = np.frombuffer(read_at(file, wanted * record.itemsize, place), record)
        part = slice(start, start + wanted)
        offset[part], size[part] = np.minimum(table["offset"], 1 << 62), table["size"]
        kind[part] = table["flags"] & 0xFF
    return _Pages(offset, size, kind, np.full(count, number, np.uint8))


def _unpacker(path: Path, kind: int, block: int) -> _Unpack:
    """The function for this compression; BadInputError if its package is not installed."""
    if kind == _PLAIN:
        return bytes
    if kind == _ZLIB:
        import zlib

        return lambda data: zlib.decompressobj().decompress(data, block + 1)
    library = "lzallright" if kind == _LZO else "cramjam"
    try:
        if kind == _LZO:
            import lzallright

            return lambda data: lzallright.LZOCompressor.decompress(data, block)
        import cramjam
    except ImportError as error:
        raise BadInputError(
            f"{path} is compressed with {_NAMES[kind]}; to read it, install the Python package"
            f" {library}"
        ) from error
    if kind == _SNAPPY:
        return lambda data: _limited(cramjam.snappy.decompress_raw_into, data, block)
    if kind == _ZSTD:
        return lambda data: _limited(cramjam.zstd.decompress_into, data, block)
    raise DamagedInputError(f"{path} has pages compressed in an unknown way ({kind:#x})")


def _limited(unpack: Callable[[memoryview, bytearray], int], data: memoryview, block: int) -> bytes:
    """Unpack at most a page, so that a few bytes cannot become gigabytes."""
    page = bytearray(block)
    return bytes(page[: unpack(data, page)])
