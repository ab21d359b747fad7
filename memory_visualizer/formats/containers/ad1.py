"""AccessData's logical images (AD1, of one or several files), as FTK Imager writes them.

FTK Imager can put the memory that it captures into an AD1, with the page file beside it. An AD1
holds a tree of files, each in chunks of 64 KiB packed by zlib. The layout is that of Petter
Bjelland's description (pyad1, documentation) and of AD1-tools (al3ks1s), which agree. This module
reads the format itself, since the only Python library, dissect.evidence, is under the AGPL, follows
circular lists for ever, and trusts every count.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats import magics, notdumps
from memory_visualizer.formats.base import Progress
from memory_visualizer.formats.files import file_size, read_at
from memory_visualizer.formats.inside import ChunkedInside, is_content, keep_open
from memory_visualizer.formats.registry import is_memory
from memory_visualizer.printable import binary_size, counted, printable
from memory_visualizer.units import MAX_RUNS, PAGE_SIZE

_MARGIN = 512
"""Bytes of the header of each file; addresses do not include it."""
_SEGMENT = struct.Struct("<16s8xIIQ")
"""Magic, number of this file of the image, number of files, bytes of each file except the last."""
_IMAGE_MAGIC = b"ADLOGICALIMAGE\0\0"
_IMAGE = struct.Struct("<16sI4xI8xQ")
"""Magic, version, bytes in a chunk, address of the first entry."""
_VERSIONS = (3, 4)
_ENTRY = struct.Struct("<QQ8xQQII")
"""Next entry of the folder, first entry in it, table of chunks, size, kind, bytes of the name."""
_FOLDER = 5
_MAX_SEGMENTS = 512
_MAX_ENTRIES = 1 << 16
_MAX_NAME = 1 << 12
"""Bytes of a name, and letters of a path: folders in folders must not make paths without an end."""
_MAX_CHUNK = 16 << 20
_LOOKED_AT = 64
"""How many files are examined by their first bytes, the largest first."""
_WORTH_NAMING = 16 << 20
_MAX_NAMED = 5


@dataclass(frozen=True)
class _File:
    """A file in the image."""

    name: str
    """The name with its folders; may contain anything."""
    size: int
    table: int
    """Address of the table of its chunks."""

    def __str__(self) -> str:
        return f"{printable(self.name)} ({binary_size(self.size)})"


class Ad1Image(ChunkedInside):
    """The file of an AD1 image that is a memory dump, by its first bytes and its size."""

    name = "AD1"

    def __init__(
        self, path: Path, *, lenient: bool = False, progress: Progress | None = None
    ) -> None:
        """Find the dump and its chunks; the other files of the image lie beside the first.

        BadInputError when a file cannot be read, `path` is not the first file, or no file in the
        image can be a dump; DamagedInputError, unless `lenient`, when a part is missing or broken.
        `lenient` continues without broken entries, and unpacks all chunks.
        """
        with reading(path):
            self._segments = _Segments(self, path, lenient=lenient)
            self._chunk_size, first = _image(path, self._segments)
            files, remarks = _files(path, self._segments, first, lenient=lenient)
            file = self._chosen(path, files)
            self._places = _chunks(path, self._segments, file, self._chunk_size)
        starts = np.arange(len(self._places) - 1) * self._chunk_size
        super().__init__(path, starts, file.size)
        others = [one for one in files if one != file and one.size >= _WORTH_NAMING]
        self.remarks = (*self._segments.remarks, *remarks, _remark(path, file, others))
        if lenient:
            self.leave_out_broken()

    def unpack(self, number: int, length: int) -> bytes:
        """Unpack a chunk."""
        start, end = self._places[number : number + 2].tolist()
        return self._unpack_at(start, end, length)

    def _unpack_at(self, start: int, end: int, length: int) -> bytes:
        if not 0 < end - start <= 2 * _MAX_CHUNK:
            raise DamagedInputError(f"{self._segments.path}: a chunk of {end - start:,} bytes")
        raw = self._segments.read(end - start, start)
        try:
            return zlib.decompressobj().decompress(raw, length)
        except zlib.error as error:
            fault = f"{self._segments.path}: the chunk at address {start:#x} cannot be unpacked"
            raise DamagedInputError(f"{fault}: {error}") from error

    def _chosen(self, path: Path, files: Sequence[_File]) -> _File:
        """The file that most likely is the dump.

        A page file may be larger than the memory to which it belongs, but has another name. A file
        that begins like a memory dump is more likely than a larger file that does not.
        """
        largest = sorted(files, key=lambda file: -file.size)[:_LOOKED_AT]
        heads = {file: self._head(file) for file in largest}
        said = {
            file: notdumps.by_name(Path(file.name).name.lower()) or notdumps.begins_as(heads[file])
            for file in largest
        }
        likely = [file for file in largest if not said[file]]
        if likely:
            return max(likely, key=lambda file: (is_memory(heads[file]), file.size))
        if largest:
            raise BadInputError(
                f"{path} is an AD1 image without a dump; the largest file in it, {largest[0]}, is"
                f" {said[largest[0]]}"
            )
        raise BadInputError(f"{path} is an AD1 image without a file as large as a page")

    def _head(self, file: _File) -> bytes:
        """The first bytes of a file; empty if they cannot be read."""
        length = min(file.size, self._chunk_size, notdumps.HEAD_SIZE)
        try:
            start, end = struct.unpack("<QQ", self._segments.read(16, file.table + 8))
            return self._unpack_at(start, end, length)
        except DamagedInputError:
            return b""


class _Segments:
    """The files of an image, read by address: their contents behind the headers, in order."""

    def __init__(self, owner: object, path: Path, *, lenient: bool) -> None:
        """Open all files for as long as `owner` lives. Errors as for `Ad1Image`."""
        self.path = path
        self.remarks: tuple[str, ...] = ()
        first = keep_open(owner, path)
        self._files: list[BinaryIO | None] = [first]
        number, count, size = _segment(path, first)
        if number != 1:
            raise BadInputError(f"{path} is file {number:,} of an AD1 image; give the first file")
        if not 0 < count <= _MAX_SEGMENTS or (count > 1 and size <= _MARGIN):
            raise DamagedInputError(f"{path} says that the image has {count:,} files; not possible")
        self._room = max(1, (size if count > 1 else file_size(first)) - _MARGIN)
        if count > 1 and is_content(path):
            raise BadInputError(
                f"{path} is the first of {count:,} files of an AD1 image, in another container;"
                " unpack all of them first"
            )
        for number in range(2, count + 1):
            name = _name(path, number)
            file = keep_open(owner, name) if name.is_file() else None
            if file is None or not _is_number(name, file, number):
                fault = "missing" if file is None else f"not file {number:,} of it"
                sentence = f"{path} is only a part of an image: {name.name} is {fault}"
                if not lenient:
                    raise DamagedInputError(sentence)
                self.remarks = (*self.remarks, sentence)
                self._files.append(None)
                continue
            self._files.append(file)

    def read(self, size: int, address: int) -> bytes:
        """Read bytes that may lie in several files; DamagedInputError if some are missing."""
        pieces = []
        position = address
        while position < address + size:
            number, offset = divmod(position, self._room)
            wanted = min(address + size - position, self._room - offset)
            file = self._files[number] if number < len(self._files) else None
            piece = read_at(file, wanted, _MARGIN + offset) if file else b""
            if len(piece) < wanted:
                raise DamagedInputError(
                    f"{self.path} ends too early: the bytes at address {position:#x} are missing"
                )
            pieces.append(piece)
            position += wanted
        return b"".join(pieces)


def _segment(path: Path, file: BinaryIO) -> tuple[int, int, int]:
    """Number of a file of an image, number of files, and size of each."""
    head = read_at(file, _MARGIN, 0)
    if len(head) < _MARGIN or not head.startswith(magics.AD1):
        raise DamagedInputError(f"{path} is no AD1 image, or ends within its header")
    _, number, count, size = _SEGMENT.unpack_from(head)
    return number, count, size


def _is_number(path: Path, file: BinaryIO, number: int) -> bool:
    """Whether a file is an image's file with this number."""
    try:
        return _segment(path, file)[0] == number
    except DamagedInputError:
        return False


def _name(path: Path, number: int) -> Path:
    """The name of another file of an image: .ad1, .ad2, and so on."""
    return path.with_name(f"{path.name[:-1]}{number}")


def _image(path: Path, segments: _Segments) -> tuple[int, int]:
    """Bytes in a chunk, and the address of the first entry."""
    magic, version, chunk, first = _IMAGE.unpack(segments.read(_IMAGE.size, 0))
    if magic != _IMAGE_MAGIC:
        raise BadInputError(f"{path} is an AD1 image whose header is broken")
    if version not in _VERSIONS:
        raise BadInputError(f"{path} is an AD1 image of the unknown version {version}")
    if not PAGE_SIZE <= chunk <= _MAX_CHUNK:
        raise BadInputError(f"{path} is an AD1 image with chunks of {chunk:,} bytes")
    return chunk, first


def _files(
    path: Path, segments: _Segments, first: int, *, lenient: bool
) -> tuple[list[_File], list[str]]:
    """All files of a page or more in the tree, and remarks."""
    files: list[_File] = []
    remarks: list[str] = []
    seen, lost = {0}, 0
    waiting = [(first, "")]
    while waiting and len(seen) <= _MAX_ENTRIES:
        address, folder = waiting.pop()
        if address in seen:
            continue
        seen.add(address)
        try:
            following, child, kind, file = _entry(segments, address, folder)
        except DamagedInputError as error:
            if not lenient:
                raise
            lost += 1
            if lost <= _MAX_NAMED:
                remarks.append(f"{error}; the entries to which it leads were left out")
            continue
        waiting += [(following, folder), (child, f"{file.name}/")]
        if kind != _FOLDER and file.size >= PAGE_SIZE:
            files.append(file)
    if more := max(lost - _MAX_NAMED, 0):
        entries = counted(more, "more broken entry", "more broken entries")
        remarks.append(f"{path}: {entries} left out")
    if waiting:
        remarks.append(f"{path} has more than {_MAX_ENTRIES:,} entries; the others were not read")
    return files, remarks


def _entry(segments: _Segments, address: int, folder: str) -> tuple[int, int, int, _File]:
    """Read an entry: addresses of the next entry and of the first in it; kind; the entry."""
    raw = segments.read(_ENTRY.size, address)
    following, child, table, size, kind, length = _ENTRY.unpack(raw)
    if length > _MAX_NAME:
        raise DamagedInputError(
            f"{segments.path}: the entry at address {address:#x} has a name of {length:,} bytes"
        )
    name = segments.read(length, address + _ENTRY.size).decode("utf-8", "surrogateescape")
    if len(folder) + len(name) > _MAX_NAME:
        raise DamagedInputError(
            f"{segments.path}: the entry at address {address:#x} has a path of more than"
            f" {_MAX_NAME:,} letters"
        )
    return following, child, kind, _File(folder + name, size, table)


def _chunks(path: Path, segments: _Segments, file: _File, chunk: int) -> NDArray[np.int64]:
    """The addresses at which the chunks of a file begin, and the end of the last chunk."""
    count = -(-file.size // chunk)
    [told] = struct.unpack("<Q", segments.read(8, file.table))
    if told != count or count > MAX_RUNS:
        raise BadInputError(
            f"{path}: {file} has a broken table of chunks: {told:,}, where {count:,} should be"
        )
    told_places = np.frombuffer(segments.read(8 * (count + 1), file.table + 8), "<u8")
    # An address that no file has lies beyond all files.
    places: NDArray[np.int64] = np.minimum(told_places, np.uint64(1 << 62)).astype(np.int64)
    return places


def _remark(path: Path, file: _File, others: Sequence[_File]) -> str:
    """The remark on the file that was read, and on the files that were not."""
    remark = f"{file} in {path} was read"
    if others:
        largest = sorted(others, key=lambda other: -other.size)
        named = ", ".join(map(str, largest[:_MAX_NAMED]))
        more = "" if len(largest) <= _MAX_NAMED else f", and {len(largest) - _MAX_NAMED:,} more"
        remark += f", not {counted(len(others), 'other large file')}: {named}{more}"
    return remark
