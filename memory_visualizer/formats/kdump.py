"""Compressed kdump files, as makedumpfile and QEMU write them, plain and flattened.

The format is that of makedumpfile (IMPLEMENTATION, diskdump_mod.h): a header, two bitmaps of which
the second tells the frames that are held, a descriptor for each of these, and their contents, each
page compressed by itself. The flattened form is what goes through a pipe: stretches of that file,
each behind its place and size, later ones over earlier ones. Read here, since no library for it
can be installed from a package as it is. The decompressors are imported when a page needs them.
"""

import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats import base
from memory_visualizer.formats.base import BlockWork, Dump, Words, ahead
from memory_visualizer.formats.files import file_size, read_at
from memory_visualizer.units import MAX_FRAMES, MAX_RUNS, PAGE_SIZE

MAGIC = b"KDUMP   "
FLAT_MAGIC = b"makedumpfile"

# Of the header for 64-bit machines: version, status, bytes in a block, blocks of the sub-header,
# blocks of both bitmaps, frames (32 bits of the number).
_HEADER = struct.Struct("<8sI390x22xIIIII")
_SUB_HEADER_SIZE = 104
_SPLIT, _START, _VMCOREINFO, _MAX_FRAME = 12, 80, 32, 96
_WIDE_VERSION, _VMCOREINFO_VERSION, _SPLIT_VERSION = 6, 3, 2
"""Versions of the header since which the sub-header has those."""
_INCOMPLETE = 0x8
"""In the status: the disk was full."""
_DESCRIPTOR = np.dtype([("offset", "<i8"), ("size", "<u4"), ("flags", "<u4"), ("page", "<u8")])
_DESCRIPTORS_AT_ONCE = 1 << 18
_BITMAP_SLICE = 1 << 17  # bytes of a bitmap that are unpacked at once, to a megabyte
_MAX_VMCOREINFO = 1 << 16

_PLAIN, _ZLIB, _LZO, _SNAPPY, _ZSTD = 0, 1, 2, 4, 0x20
_NAMES = {_LZO: "LZO", _SNAPPY: "Snappy", _ZSTD: "Zstandard"}

_FLAT_HEADER_SIZE = 4096
_FLAT_PIECE = struct.Struct(">qq")
_MAX_PIECES = 1 << 24
_MAX_CUTS = 1 << 28
_GAP = 1 << 16  # bytes between pages that are read along
_WINDOW = 1 << 25

_Result = TypeVar("_Result")
_Unpack = Callable[[memoryview], bytes]


class _Source:
    """The file, or what a flattened one would be when put in order."""

    def __init__(self, path: Path, file: FileIO, *, lenient: bool, remarks: list[str]) -> None:
        self._path = path
        size = file_size(file)
        self._pieces: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None = None
        self.size = size
        if read_at(file, len(FLAT_MAGIC), 0) == FLAT_MAGIC:
            self._pieces = _find_pieces(path, file, size, lenient=lenient, remarks=remarks)
            start, length, _ = self._pieces
            self.size = int((start + length).max(initial=0))

    def read(self, file: FileIO, offset: int, size: int) -> bytes:
        """Read bytes, fewer at the end; those that no piece has are zeros."""
        if self._pieces is None:
            return read_at(file, size, offset)
        size = max(min(size, self.size - offset), 0)
        target = bytearray(size)
        start, length, place = self._pieces
        low = int(np.searchsorted(start, offset, side="right")) - 1
        high = int(np.searchsorted(start, offset + size))
        for piece in range(max(low, 0), high):
            begin = max(int(start[piece]), offset)
            end = min(int(start[piece] + length[piece]), offset + size)
            if begin < end:
                at = int(place[piece]) + begin - int(start[piece])
                target[begin - offset : end - offset] = read_at(file, end - begin, at)
        return bytes(target)


def _find_pieces(
    path: Path, file: FileIO, size: int, *, lenient: bool, remarks: list[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Place in the file as it shall be, size, and place in this file of all pieces, by the first.

    Of what is there twice the later one counts.
    """
    columns: Sequence[array[int]] = [array("q") for _ in range(3)]
    position = _FLAT_HEADER_SIZE
    while True:
        head = read_at(file, _FLAT_PIECE.size, position)
        fault = ""
        start = length = 0
        if len(head) < _FLAT_PIECE.size:
            fault = "ends too early"
        else:
            start, length = _FLAT_PIECE.unpack(head)
            if start == -1:
                break
            position += _FLAT_PIECE.size
            if start < 0 or length < 0 or start + length >= 1 << 62:
                fault = f"has a broken piece at byte {position:,}"
            elif position + length > size:
                fault = "ends too early"
        if fault:
            sentence = f"{path}, a flattened kdump file, {fault}"
            if not lenient:
                raise DamagedInputError(sentence)
            remarks.append(f"{sentence}; what follows was ignored")
            length = size - position if fault == "ends too early" and start >= 0 else 0
        if len(columns[0]) == _MAX_PIECES:
            raise BadInputError(f"{path} has more than {_MAX_PIECES:,} pieces")
        if length > 0:
            for column, value in zip(columns, (start, length, position), strict=True):
                column.append(value)
        if fault:
            break
        position += length
    starts, lengths, places = (np.frombuffer(column, np.int64) for column in columns)
    cut = _without_overlaps(starts, lengths, places)
    if cut is None:
        raise BadInputError(f"{path} has too many pieces one over the other")
    return cut


def _without_overlaps(
    start: NDArray[np.int64], length: NDArray[np.int64], place: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None:
    """Cut pieces where a later one covers them, and sort them; None if they are a tangle."""
    order = np.argsort(start, kind="stable")
    end = (start + length)[order]
    if not (end[:-1] > start[order][1:]).any():
        return start[order], length[order], place[order]
    # Every piece is cut at all edges; of the parts that begin at the same place the last counts.
    edges = np.unique(np.concatenate((start, start + length)))
    low, high = np.searchsorted(edges, start), np.searchsorted(edges, start + length)
    if int((high - low).sum()) > _MAX_CUTS:
        return None
    owner = np.full(len(edges), -1, np.int64)
    for number, (first, last) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        owner[first:last] = number
    [part] = np.nonzero(owner[:-1] >= 0)
    piece = owner[part]
    return edges[part], np.diff(edges)[part], place[piece] + edges[part] - start[piece]


class KdumpDump(Dump):
    """A compressed kdump file; pages that makedumpfile left out are not held."""

    def __init__(
        self,
        path: Path,
        format_: str,
        source: _Source,
        runs: NDArray[np.int64],
        offset: NDArray[np.int64],
        size: NDArray[np.uint32],
        kind: NDArray[np.uint8],
        *,
        notes: dict[str, int | bytes],
        remarks: Sequence[str],
    ) -> None:
        """`offset`, `size` and `kind` are of each page that is held, in ascending order."""
        super().__init__(path, format_, runs, notes=notes, remarks=remarks)
        self._source = source
        self._offset, self._size, self._kind = offset, size, kind
        self._before = np.cumsum(runs[:, 1]) - runs[:, 1]

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Read the header, the bitmap and the descriptors of all pages.

        BadInputError when the file cannot be read or is no such dump; DamagedInputError, unless
        `lenient`, when a part of it is missing. `lenient` unpacks all pages and leaves out those
        that cannot be.
        """
        path = Path(path)
        remarks: list[str] = []
        with reading(path), path.open("rb", buffering=0) as file:
            source = _Source(path, file, lenient=lenient, remarks=remarks)
            _, version, status, block, sub, bitmaps, frames = _header(path, source, file)
            raw = source.read(file, block, _SUB_HEADER_SIZE).ljust(_SUB_HEADER_SIZE, b"\0")
            if version >= _WIDE_VERSION:
                frames = int.from_bytes(raw[_MAX_FRAME : _MAX_FRAME + 8], "little")
            if not 0 < frames <= MAX_FRAMES:
                raise BadInputError(
                    f"{path} says that it has {frames:,} page frames; this program stops at"
                    f" {MAX_FRAMES:,} (16 TiB)"
                )
            first, last = 0, frames
            if version >= _SPLIT_VERSION and int.from_bytes(raw[_SPLIT : _SPLIT + 4], "little"):
                at = _START if version >= _WIDE_VERSION else 16
                first, last = struct.unpack_from("<QQ", raw, at)
                remarks.append(f"{path} is one file of several; what the others hold is absent")
            if status & _INCOMPLETE:
                remarks.append(f"{path} is incomplete by its own word: its disk was full")
            bitmap_at = block * (1 + sub) + bitmaps * block // 2
            if bitmaps * block // 2 * 8 < frames:
                raise DamagedInputError(f"{path} has a bitmap too small for its {frames:,} frames")
            runs = _runs(path, source, file, bitmap_at, frames, first, min(last, frames))
            table_at = block * (1 + sub + bitmaps)
            offset, size, kind = _descriptors(path, source, file, table_at, int(runs[:, 1].sum()))
            notes: dict[str, int | bytes] = {}
            if version >= _VMCOREINFO_VERSION:
                at, length = struct.unpack_from("<QQ", raw, _VMCOREINFO)
                if 0 < length <= _MAX_VMCOREINFO and at + length <= source.size:
                    notes["VMCOREINFO"] = source.read(file, at, length)
        flat = source.size != 0 and source._pieces is not None
        format_ = "kdump (flattened)" if flat else "kdump"
        dump = cls(
            path, format_, source, runs, offset, size, kind, notes=notes, remarks=tuple(remarks)
        )
        return dump._checked(lenient=lenient)

    def _checked(self, *, lenient: bool) -> Self:
        """Refuse, or leave out, pages that lie outside of the file, or that cannot be unpacked."""
        end = self._offset + self._size
        sound = (self._offset > 0) & (end <= self._source.size) & (self._size > 0)
        sound &= self._size <= 2 * PAGE_SIZE
        if not sound.all() and not lenient:
            missing = np.count_nonzero(~sound)
            raise DamagedInputError(
                f"{self.path} ends too early, or is broken: {missing:,} pages of memory are not"
                " where it says"
            )
        if not lenient:
            return self
        with reading(self.path), self.path.open("rb", buffering=0) as file:
            for number in np.flatnonzero(sound).tolist():
                try:
                    self._unpack(file, np.array([number]), np.empty((1, PAGE_SIZE), np.uint8))
                except DamagedInputError:
                    sound[number] = False
        if sound.all():
            return self
        frames = self._frames()[sound]
        if not len(frames):
            raise BadInputError(f"{self.path} holds no page of memory that can be read")
        edges = np.flatnonzero(np.diff(frames, prepend=-2) != 1)
        runs = np.stack((frames[edges], np.diff(edges, append=len(frames))), axis=1)
        broken = np.count_nonzero(~sound)
        pages = "page" if broken == 1 else "pages"
        lost = f"{broken:,} broken {pages} of {self.path} left out"
        return type(self)(
            self.path,
            self.format,
            self._source,
            runs,
            self._offset[sound],
            self._size[sound],
            self._kind[sound],
            notes=dict(self.notes),
            remarks=(*self.remarks, lost),
        )

    def _frames(self) -> NDArray[np.int64]:
        """The PFN of each page that is held."""
        first, count = self.runs.T
        inside = np.arange(int(count.sum())) - np.repeat(self._before, count)
        frames: NDArray[np.int64] = np.repeat(first, count) + inside
        return frames

    def each_block(self, work: BlockWork[_Result]) -> Iterator[_Result]:
        """Unpack the blocks, and let `work` look at them."""
        wanted = (
            (first + done, before + done, min(count - done, base.BLOCK_FRAMES))
            for (first, count), before in zip(
                self.runs.tolist(), self._before.tolist(), strict=True
            )
            for done in range(0, count, base.BLOCK_FRAMES)
        )
        with reading(self.path), self.path.open("rb", buffering=0) as file:

            def look(block: tuple[int, int, int]) -> _Result:
                frame, number, count = block
                pages = np.empty((count, PAGE_SIZE), np.uint8)
                self._unpack(file, np.arange(number, number + count), pages)
                words = pages.view(np.uint64)
                words.flags.writeable = False
                return work(np.arange(frame, frame + count), words)

            yield from ahead(look, wanted)

    def read_frames(self, frames: NDArray[np.int64]) -> Words:
        """Unpack these frames, each once where it comes more often."""
        frames = np.asarray(frames, dtype=np.int64)
        pages = np.zeros((frames.size, PAGE_SIZE), np.uint8)
        first, count = self.runs.T
        run = np.searchsorted(first, frames, side="right") - 1
        inside = frames - first[run]
        held = np.flatnonzero((run >= 0) & (inside < count[run]))
        if len(held):
            numbers = self._before[run[held]] + inside[held]
            numbers, row = np.unique(numbers, return_inverse=True)
            unpacked = np.empty((len(numbers), PAGE_SIZE), np.uint8)
            with reading(self.path), self.path.open("rb", buffering=0) as file:
                self._unpack(file, numbers, unpacked)
            pages[held] = unpacked[row]
        return pages.view(np.uint64)

    def _unpack(self, file: FileIO, numbers: NDArray[np.int64], target: NDArray[np.uint8]) -> None:
        """Unpack the pages with these numbers."""
        offset, size, kind = self._offset[numbers], self._size[numbers], self._kind[numbers]
        # Pages of zeros may all be the same one; others lie one behind the other.
        order = np.argsort(offset, kind="stable").tolist()
        unpackers: dict[int, _Unpack] = {}
        window, begin = memoryview(b""), 0
        ends = (offset + size).tolist()
        offsets, kinds = offset.tolist(), kind.tolist()
        for place, row in enumerate(order):
            start, end = offsets[row], ends[row]
            if start < begin or end > begin + len(window):
                last = end
                for following in order[place + 1 :]:
                    if offsets[following] > last + _GAP or ends[following] > start + _WINDOW:
                        break
                    last = max(last, ends[following])
                window, begin = memoryview(self._source.read(file, start, last - start)), start
                if len(window) < last - start:
                    raise BadInputError(f"{self.path} got shorter while it was read")
            way = kinds[row]
            if way not in unpackers:
                unpackers[way] = _unpacker(self.path, way)
            try:
                page = unpackers[way](window[start - begin : end - begin])
            except Exception as error:  # each library has its own
                raise DamagedInputError(
                    f"{self.path}: the page at byte {start:,} cannot be unpacked: {error}"
                ) from error
            if len(page) != PAGE_SIZE:
                raise DamagedInputError(
                    f"{self.path}: the page at byte {start:,} has {len(page):,} bytes unpacked"
                )
            target[row] = np.frombuffer(page, np.uint8)


def _header(
    path: Path, source: _Source, file: FileIO
) -> tuple[bytes, int, int, int, int, int, int]:
    """Magic, version, status, bytes of a block, sub-header's and bitmaps' blocks, frames."""
    head = source.read(file, 0, _HEADER.size)
    if head.startswith(b"\x7fELF"):
        raise BadInputError(f"{path} is a flattened ELF core; put it in order with makedumpfile -R")
    if len(head) < _HEADER.size:
        raise DamagedInputError(f"{path} ends within its header")
    fields: tuple[bytes, int, int, int, int, int, int] = _HEADER.unpack(head)
    magic, _, _, block, sub, bitmaps, _ = fields
    if magic != MAGIC:
        raise DamagedInputError(f"{path} has no header of a kdump file where it should be")
    if block != PAGE_SIZE:
        raise BadInputError(f"{path} has pages of {block:,} bytes; it is of no 64-bit x86 machine")
    if sub < 1 or bitmaps < 2 or block * (1 + sub + bitmaps) > source.size:
        raise DamagedInputError(f"{path} ends within its header, or has a broken one")
    return fields


def _runs(
    path: Path, source: _Source, file: FileIO, at: int, frames: int, first: int, last: int
) -> NDArray[np.int64]:
    """The runs of ones in the bitmap, as Dump.runs, from one frame on and up to another."""
    edges: list[NDArray[np.int64]] = []
    edge_count, before = 0, 0
    for start in range(0, frames, _BITMAP_SLICE * 8):
        wanted = min(frames - start, _BITMAP_SLICE * 8)
        packed = np.frombuffer(source.read(file, at + start // 8, -(-wanted // 8)), np.uint8)
        if packed.size * 8 < wanted:
            raise DamagedInputError(f"{path} ends within the bitmap of its pages")
        ones = np.unpackbits(packed, bitorder="little", count=wanted).view(np.int8)
        ones[: max(first - start, 0)] = 0
        ones[max(last - start, 0) :] = 0
        edges.append(np.flatnonzero(np.diff(ones, prepend=np.int8(before))) + start)
        before = int(ones[-1])
        edge_count += edges[-1].size
        if edge_count > 2 * MAX_RUNS:
            raise BadInputError(f"{path} has more than {MAX_RUNS:,} runs of pages")
    if before:
        edges.append(np.array([frames]))
    runs = np.concatenate(edges).reshape(-1, 2)
    if not len(runs):
        raise BadInputError(f"{path} holds no page of memory")
    runs[:, 1] -= runs[:, 0]
    return runs


def _descriptors(
    path: Path, source: _Source, file: FileIO, at: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint8]]:
    """Place, size and way of compression of each page."""
    if at + count * _DESCRIPTOR.itemsize > source.size:
        raise DamagedInputError(f"{path} ends within the table of its {count:,} pages")
    offset, size = np.empty(count, np.int64), np.empty(count, np.uint32)
    kind = np.empty(count, np.uint8)
    for start in range(0, count, _DESCRIPTORS_AT_ONCE):
        wanted = min(count - start, _DESCRIPTORS_AT_ONCE)
        place = at + start * _DESCRIPTOR.itemsize
        table = np.frombuffer(source.read(file, place, wanted * _DESCRIPTOR.itemsize), _DESCRIPTOR)
        part = slice(start, start + wanted)
        offset[part], size[part] = np.minimum(table["offset"], 1 << 62), table["size"]
        kind[part] = table["flags"] & 0xFF
    return offset, size, kind


def _unpacker(path: Path, kind: int) -> _Unpack:
    """What unpacks a page compressed in this way; BadInputError where that is not installed."""
    if kind == _PLAIN:
        return bytes
    if kind == _ZLIB:
        import zlib

        return lambda data: zlib.decompress(data, bufsize=PAGE_SIZE)
    library = "lzallright" if kind == _LZO else "cramjam"
    try:
        if kind == _LZO:
            import lzallright

            return lambda data: lzallright.LZOCompressor.decompress(data, PAGE_SIZE)
        import cramjam
    except ImportError as error:
        raise BadInputError(
            f"{path} is compressed with {_NAMES[kind]}; to read it, install the Python package"
            f" {library}"
        ) from error
    if kind == _SNAPPY:
        return lambda data: _limited(cramjam.snappy.decompress_raw_into, data)
    if kind == _ZSTD:
        return lambda data: _limited(cramjam.zstd.decompress_into, data)
    raise DamagedInputError(f"{path} has pages compressed in an unknown way ({kind:#x})")


def _limited(unpack: Callable[[memoryview, bytearray], int], data: memoryview) -> bytes:
    """Unpack into a page's room, so that a few bytes cannot become gigabytes."""
    page = bytearray(PAGE_SIZE)
    return bytes(page[: unpack(data, page)])
