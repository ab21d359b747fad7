"""Streams of Snappy and S2, as WinPmem and Velociraptor write them around a raw dump.

Snappy's framing format (google/snappy, framing_format.txt): independent chunks of at most 64 KiB,
so that any place can be read. S2 (klauspost/compress, s2/README.md) has another name at its
beginning and chunks of up to 4 MiB. cramjam checks Snappy's checksums; S2's (CRC-32C) are not
checked, since no Python package computes them fast enough.
"""

from array import array
from pathlib import Path
from typing import BinaryIO

import cramjam
import numpy as np

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats import magics
from memory_visualizer.formats.base import Progress
from memory_visualizer.formats.containers import s2
from memory_visualizer.formats.files import file_size, read_at
from memory_visualizer.formats.inside import ChunkedInside
from memory_visualizer.units import MAX_RUNS

_COMPRESSED, _STORED, _FIRST_SKIPPED = 0, 1, 0x80
_CHECKSUM = 4
# A chunk's type and size, its checksum, and a block's length, of at most 4 bytes.
_CHUNK_HEAD = 4 + _CHECKSUM + 4
_MAX_CHUNK = 1 << 16


class SnappyStream(ChunkedInside):
    """The content of a Snappy or S2 stream."""

    def __init__(
        self, path: Path, *, lenient: bool = False, progress: Progress | None = None
    ) -> None:
        """Find all chunks.

        BadInputError when the file cannot be read; DamagedInputError, unless `lenient`, when it is
        cut off or a chunk is broken. `lenient` unpacks all chunks.
        """
        self._offset, self._packed_size, lengths = (array("q") for _ in range(3))
        with reading(path), path.open("rb", buffering=0) as file:
            self._is_s2 = read_at(file, len(magics.S2), 0) == magics.S2
            self.name = "S2" if self._is_s2 else "Snappy"
            try:
                self._find_chunks(path, file, lengths)
            except DamagedInputError as error:
                if not lenient or not lengths:
                    raise
                self.remarks = (f"{error}; the rest was ignored",)
        if self._is_s2 and not s2.is_fast():
            sentence = f"{path}: S2 is unpacked slowly without the Python package wasmtime"
            self.remarks = (*self.remarks, sentence)
        ends = np.cumsum(np.frombuffer(lengths, np.int64)) if lengths else np.zeros(0, np.int64)
        if not len(ends):
            raise BadInputError(f"{path} is packed, but holds nothing")
        super().__init__(path, ends - np.frombuffer(lengths, np.int64), int(ends[-1]))
        if lenient:
            self.leave_out_broken()

    def _find_chunks(self, path: Path, file: BinaryIO, lengths: "array[int]") -> None:
        """Walk the stream; DamagedInputError at the first fault."""
        size = file_size(file)
        limit = s2.MAX_BLOCK if self._is_s2 else _MAX_CHUNK
        position = 0
        while position < size:
            head = read_at(file, _CHUNK_HEAD, position)
            kind, stored = head[0], int.from_bytes(head[1:4], "little")
            fault = f"{path}: the {self.name} chunk at byte {position:,}"
            position += 4 + stored
            if len(head) < 4 or position > size:
                raise DamagedInputError(f"{fault} is cut off")
            if kind >= _FIRST_SKIPPED:
                continue
            length = _length(head[8:]) if kind == _COMPRESSED else stored - _CHECKSUM
            if kind > _STORED or not 0 < length <= limit or stored <= _CHECKSUM:
                raise DamagedInputError(f"{fault} is broken")
            if len(lengths) == MAX_RUNS:
                raise BadInputError(f"{path} has more than {MAX_RUNS:,} chunks")
            self._offset.append(position - 4 - stored)
            self._packed_size.append(4 + stored)
            lengths.append(length)

    def unpack(self, number: int, length: int) -> bytes:
        """Unpack a chunk."""
        place, size = self._offset[number], self._packed_size[number]
        chunk = read_at(self._file, size, place)
        if len(chunk) < size:
            raise BadInputError(f"{self.path} got shorter while it was read")
        try:
            return self._unpack_chunk(chunk, length)
        except Exception as error:  # cramjam's own exception has no useful base class
            raise DamagedInputError(
                f"{self.path}: the chunk at byte {place:,} cannot be unpacked: {error}"
            ) from error

    def _unpack_chunk(self, chunk: bytes, length: int) -> bytes:
        if not self._is_s2:
            target = bytearray(length)
            end = cramjam.snappy.decompress_into(magics.SNAPPY + chunk, target)
            return bytes(target[:end])
        block = chunk[4 + _CHECKSUM :]
        if chunk[0] == _STORED:
            return block
        return s2.unpack(block[_length_size(block) :], length)


def _length(data: bytes) -> int:
    """Read the length at the beginning of a block; 0 if it is broken."""
    value = 0
    for place, byte in enumerate(data):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value
    return 0


def _length_size(data: bytes) -> int:
    return next(place for place, byte in enumerate(data, 1) if byte < 0x80)
