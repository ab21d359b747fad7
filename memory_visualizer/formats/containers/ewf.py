"""EnCase images of memory (E01, one or several files), as FTK Imager and libewf write them.

Joachim Metz, "Expert Witness Compression Format specification" (libewf, documentation): sections,
each behind a descriptor that leads to the next. Tables among them tell the places of chunks of some
32 KiB, packed by zlib or stored unchanged. This module reads the format itself, since libewf
(libewf-python 20260924) silently returns zeros for a chunk with a wrong checksum, and reads one
chunk at a time.
"""

import struct
import zlib
from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path
from string import ascii_uppercase
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import joined_runs
from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats import magics
from memory_visualizer.formats.base import Progress
from memory_visualizer.formats.files import file_size, read_at
from memory_visualizer.formats.inside import ChunkedInside, is_content, keep_open
from memory_visualizer.printable import counted
from memory_visualizer.units import MAX_RUNS

_FILE_HEADER = struct.Struct("<8sBHH")
"""Magic, 1, the number of this file of the image, 0."""
_SECTION = struct.Struct("<16sQQ40xI")
"""Type, place of the next descriptor, bytes of this section, checksum of the fields before."""
_VOLUME = struct.Struct("<4xIIIQ")
"""Chunks, sectors in a chunk, bytes in a sector, sectors."""
_TABLE = struct.Struct("<I4xQ4xI")
"""Number of chunks, base of their places, checksum of the fields before."""
_ERRORS = struct.Struct("<I512xI")
"""Number of stretches of sectors that could not be read, checksum of the fields before."""
_MAX_ERRORS = 1 << 16
_PACKED = 1 << 31
_CHECKSUM = 4
_MAX_CHUNK = 16 << 20
_MAX_SECTIONS = 1 << 16
_MAX_ENTRIES = 1 << 24


class EwfImage(ChunkedInside):
    """The content of an E01 image."""

    name = "E01"

    def __init__(
        self, path: Path, *, lenient: bool = False, progress: Progress | None = None
    ) -> None:
        """Find all chunks in all files of the image; the other files have the name of the first.

        BadInputError when a file cannot be read, or `path` is not the first file;
        DamagedInputError, unless `lenient`, when a file is missing, cut off or broken. `lenient`
        reads the files before the fault, and unpacks all chunks.
        """
        if is_content(path):
            raise BadInputError(
                f"{path} is an E01 image in another container; unpack that container first"
            )
        self._files: list[BinaryIO] = []
        self._volume: tuple[int, int, int, int] | None = None
        self._not_read: NDArray[np.int64] = np.empty((0, 2), np.int64)
        parts: list[NDArray[np.int64]] = []
        with reading(path):
            try:
                self._find_all(path, parts)
            except DamagedInputError as error:
                if not lenient or not parts:
                    raise
                self.remarks = (*self.remarks, f"{error}; the part before it was read")
        if self._volume is None or not parts:
            raise BadInputError(f"{path}, an E01 image, has no chunk of an image")
        self._chunks: NDArray[np.int64] = np.concatenate(parts)
        chunks, per_chunk, sector, sectors = self._volume
        count = min(len(self._chunks), chunks)
        size = min(count * per_chunk * sector, sectors * sector)
        super().__init__(path, np.arange(count) * per_chunk * sector, size)
        if lenient:
            self.leave_out_broken()
        if len(self._not_read):
            stretches = joined_runs(self._not_read) * sector
            stretches[:, 1] += stretches[:, 0]
            self.leave_out(stretches)
            count = int(np.diff(np.minimum(stretches, size)).sum()) // sector
            self.remarks = (
                *self.remarks,
                f"{counted(count, 'sector')} of {path} could not be read when the image was made",
            )

    def _find_all(self, path: Path, parts: list[NDArray[np.int64]]) -> None:
        """Find the chunks of all files, as rows of place, size, is-packed, and file."""
        for number, name in enumerate(_names(path), 1):
            if number > 1 and not name.is_file():
                raise DamagedInputError(
                    f"{path} is only a part of an image: {name.name} is missing"
                )
            file = keep_open(self, name)
            self._files.append(file)
            head = read_at(file, _FILE_HEADER.size, 0).ljust(_FILE_HEADER.size, b"\0")
            magic, _, told, _ = _FILE_HEADER.unpack(head)
            if magic != magics.EWF or told != number:
                if number == 1:
                    raise BadInputError(
                        f"{path} is file {told} of an E01 image; give the first file"
                    )
                raise DamagedInputError(f"{name} is not file {number} of the image of {path}")
            if not self._find_in_file(name, file, number - 1, parts):
                break
        found = sum(map(len, parts))
        if self._volume and found < self._volume[0]:
            raise DamagedInputError(
                f"{path} ends too early: {found:,} of {self._volume[0]:,} chunks are there"
            )

    def _find_in_file(
        self, path: Path, file: BinaryIO, number: int, parts: list[NDArray[np.int64]]
    ) -> bool:
        """Find the chunks of one file; returns whether another file follows."""
        position, sectors_end = _FILE_HEADER.size, 0
        pending = False  # a broken table, of which table2 is a copy
        for _ in range(_MAX_SECTIONS):
            raw = read_at(file, _SECTION.size, position)
            fault = f"{path}: the section at byte {position:,}"
            if len(raw) < _SECTION.size or zlib.adler32(raw[:-4]) != _SECTION.unpack(raw)[3]:
                raise DamagedInputError(f"{fault} is cut off or broken")
            kind, following, size, _ = _SECTION.unpack(raw)
            kind = kind.rstrip(b"\0")
            if kind in (b"done", b"next"):
                if pending:
                    raise DamagedInputError(f"{path} has a broken table of chunks")
                return bool(kind == b"next")
            if not position < following < 1 << 62:
                raise DamagedInputError(f"{fault} leads nowhere")
            data_at = position + _SECTION.size
            if kind in (b"volume", b"disk", b"data") and self._volume is None:
                self._volume = _volume(path, read_at(file, _VOLUME.size, data_at))
            elif kind == b"error2":
                self._add_errors(path, file, data_at)
            elif kind == b"sectors":
                sectors_end = position + size
            elif kind == b"table" or (kind == b"table2" and pending):
                table = _table(file, data_at, sectors_end, number)
                pending = table is None
                if table is not None:
                    parts.append(table)
                if sum(map(len, parts)) > MAX_RUNS:
                    raise BadInputError(f"{path} has more than {MAX_RUNS:,} chunks")
            position = following
        raise DamagedInputError(f"{path} has more than {_MAX_SECTIONS:,} sections")

    def _add_errors(self, path: Path, file: BinaryIO, position: int) -> None:
        """Read which sectors could not be read when the image was made; they are zeros in it."""
        head = read_at(file, _ERRORS.size, position)
        count, checksum = _ERRORS.unpack(head.ljust(_ERRORS.size, b"\0"))
        rows = read_at(file, 8 * min(count, _MAX_ERRORS) + 4, position + _ERRORS.size)
        entries, told = rows[:-4], int.from_bytes(rows[-4:], "little")
        is_sound = zlib.adler32(head[:-4]) == checksum and len(entries) == 8 * count
        if not is_sound or zlib.adler32(entries) != told:
            self.remarks = (
                *self.remarks,
                f"the list of the sectors of {path} that could not be read is broken; they show as"
                " zeros",
            )
            return
        read = np.frombuffer(entries, "<u4").reshape(-1, 2).astype(np.int64)
        self._not_read = np.concatenate((self._not_read, read[read[:, 1] > 0]))

    def unpack(self, number: int, length: int) -> bytes:
        """Unpack a chunk."""
        place, size, is_packed, file = self._chunks[number].tolist()
        raw = read_at(self._files[file], size, place)
        fault = f"{self.path}: the chunk at byte {place:,}"
        if len(raw) < size:
            raise DamagedInputError(f"{fault} is cut off")
        if not is_packed:
            chunk, checksum = raw[:-_CHECKSUM], raw[-_CHECKSUM:]
            if zlib.adler32(chunk) != int.from_bytes(checksum, "little"):
                raise DamagedInputError(f"{fault} has a wrong checksum")
            return chunk[:length]
        try:
            return zlib.decompressobj().decompress(raw, length)
        except zlib.error as error:
            raise DamagedInputError(f"{fault} cannot be unpacked: {error}") from error


def _volume(path: Path, raw: bytes) -> tuple[int, int, int, int]:
    if len(raw) < _VOLUME.size:
        raise DamagedInputError(f"{path} ends within its description of the image")
    chunks, per_chunk, sector, sectors = _VOLUME.unpack(raw)
    if not 0 < per_chunk * sector <= _MAX_CHUNK or not chunks or not sectors:
        raise BadInputError(f"{path}, an E01 image, has chunks of {per_chunk * sector:,} bytes")
    return chunks, per_chunk, sector, sectors


def _table(
    file: BinaryIO, position: int, sectors_end: int, number: int
) -> NDArray[np.int64] | None:
    """A table's chunks, as rows of place, size, is-packed, and file; None if it is broken.

    An entry that makes no sense has the size 0, so that only its own chunk cannot be unpacked.
    """
    raw = read_at(file, _TABLE.size, position)
    if len(raw) < _TABLE.size:
        return None
    count, base, checksum = _TABLE.unpack(raw)
    if zlib.adler32(raw[:-4]) != checksum or not 0 < count <= _MAX_ENTRIES:
        return None
    position += _TABLE.size
    if position + 4 * count > file_size(file):
        return None
    rows = read_at(file, 4 * count, position)
    told = int.from_bytes(read_at(file, 4, position + 4 * count), "little")
    # The first versions wrote no checksum.
    if len(rows) < 4 * count or (told and zlib.adler32(rows) != told):
        return None
    entries = np.frombuffer(rows, "<u4").astype(np.int64)
    readings = [_places(entries, base, sectors_end)]
    # Beyond 2 GiB some versions use the upper bit for the place, and no longer pack chunks.
    beyond = np.flatnonzero(np.diff(entries % _PACKED) < 0)
    if len(beyond):
        readings.append(_places(entries, base, sectors_end, int(beyond[0]) + 1))
    places = max(readings, key=lambda places: np.count_nonzero(places[:, 1]))
    if 2 * np.count_nonzero(places[:, 1]) <= count:
        return None
    return np.column_stack((places, np.full(count, number)))


def _places(
    entries: NDArray[np.int64], base: int, sectors_end: int, packed_end: int | None = None
) -> NDArray[np.int64]:
    """Place, size and is-packed of each chunk; from entry `packed_end` on no chunk is packed."""
    is_packed = entries >= _PACKED
    is_packed[packed_end if packed_end is not None else len(entries) :] = False
    places = entries - _PACKED * is_packed + base
    sizes = np.diff(places, append=sectors_end)
    sound = (places >= 0) & (sizes > _CHECKSUM) & (sizes <= 2 * _MAX_CHUNK)
    rows: NDArray[np.int64] = np.column_stack((places, sizes, is_packed))
    rows[~sound] = 0
    return rows


def _names(path: Path) -> Iterator[Path]:
    """The possible files of an image: .E01 to .E99, .EAA to .EZZ, .FAA and so on."""
    first = path.suffix[1:2]
    yield path
    if not first.isalpha() or path.suffix[2:] != "01":
        return
    letters = ascii_uppercase[ascii_uppercase.index(first.upper()) :]
    numbers = (f"{first.upper()}{number:02}" for number in range(2, 100))
    words = ("".join(word) for word in product(letters, ascii_uppercase, ascii_uppercase))
    for suffix in chain(numbers, words):
        yield path.with_suffix(f".{suffix.lower() if first.islower() else suffix}")
