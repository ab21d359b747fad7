"""AVML dumps: LiME's headers in version 2, each followed by a Snappy stream and its length.

The format is that of microsoft/avml, src/image.rs; the stream is Snappy's framing format (google/
snappy, framing_format.txt): chunks of at most 64 KiB, of which incompressible ones are stored
unchanged. AVML writes 16 MiB behind each header, in its first versions a whole range, and leaves
out blocks of zeros if it reads /proc/kcore: these frames are not held. Volatility 3's reader
(2.28.2) hangs on chunks that are stored unchanged, so this module reads the headers, and cramjam,
which is imported when a dump's contents are asked for, decodes the chunks and checks their
checksums. Blocks without compression, which have LiME's headers (lime.py), may stand among the
others.
"""

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import merge_runs
from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats import base
from memory_visualizer.formats.base import BlockWork, Dump, Words, ahead
from memory_visualizer.formats.damage import report_damage
from memory_visualizer.formats.files import file_size, read_at
from memory_visualizer.formats.limeheaders import (
    HEADER,
    fault_of,
    find_header,
    parse,
    passed_over,
    zero_blocks,
)
from memory_visualizer.formats.paths import as_path
from memory_visualizer.formats.reach import near_pieces
from memory_visualizer.units import MAX_RUNS, PAGE_SIZE

_STREAM_BEGIN = b"\xff\x06\x00\x00sNaPpY"
# A chunk: its type, its size from here (3 bytes), a checksum (4), the data. Compressed data begin
# with their length as a variable-length number, here of at most 3 bytes.
_COMPRESSED, _STORED = 0, 1
_CHUNK_HEAD = 1 + 3 + 4 + 3
_MAX_CHUNK = 1 << 16  # the largest decoded size of a chunk in bytes
_PLAIN_CHUNK = 1 << 20  # bytes of a block without compression that are read at once
_STREAM_SIZE = struct.Struct("<Q")

_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class _Chunks:
    """The chunks of data, by ascending address, a column each."""

    address: NDArray[np.int64]
    """Physical address of the first byte."""
    length: NDArray[np.int64]
    """Bytes when decoded."""
    offset: NDArray[np.int64]
    """Byte of the file at which the chunk begins."""
    size: NDArray[np.int64]
    """Bytes in the file."""
    is_plain: NDArray[np.bool_]
    """Which are not chunks of a stream, but pieces of a block without compression."""

    def __getitem__(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> "_Chunks":
        place = self.address[chosen], self.length[chosen], self.offset[chosen]
        return _Chunks(*place, self.size[chosen], self.is_plain[chosen])


class _Blocks:
    """The content of a file: the chunks, in columns as in _Chunks, and the blocks of memory."""

    def __init__(self) -> None:
        columns: Sequence[array[int]] = [*(array("q") for _ in range(4)), array("b")]
        self.columns = columns
        self.starts, self.lengths = array("Q"), array("Q")

    def add(self, path: Path, *chunk: int) -> None:
        """Add a chunk."""
        if len(self.columns[0]) == MAX_RUNS:
            raise BadInputError(f"{path} has more than {MAX_RUNS:,} compressed pieces")
        for column, value in zip(self.columns, chunk, strict=True):
            column.append(value)

    def chunks(self) -> _Chunks:
        """All chunks, by ascending address."""
        address, length, offset, size = (
            np.frombuffer(column, np.int64) for column in self.columns[:4]
        )
        is_plain = np.frombuffer(self.columns[4], np.bool_)
        order = np.argsort(address, kind="stable")
        return _Chunks(address, length, offset, size, is_plain)[order]


class AvmlDump(Dump):
    """A compressed AVML dump."""

    def __init__(
        self, path: Path, chunks: _Chunks, blocks: _Blocks, remarks: Sequence[str]
    ) -> None:
        self._chunks, self._blocks = chunks, blocks
        if chunks.address.size == 0:
            raise BadInputError(f"{path} holds no page of memory")
        end = chunks.address + chunks.length
        # Chunks with adjoining addresses form one stretch of memory, whatever blocks they are in.
        begins = np.concatenate(([True], chunks.address[1:] != end[:-1]))
        starts = np.flatnonzero(begins)
        first = -(-chunks.address[starts] // PAGE_SIZE)
        last = end[np.concatenate((starts[1:] - 1, [end.size - 1]))] // PAGE_SIZE
        whole = last > first
        if not whole.any():
            raise BadInputError(f"{path} holds no page of memory")
        runs = merge_runs(first[whole], (last - first)[whole])
        left_out = zero_blocks(blocks.starts, blocks.lengths, int(runs[-1].sum()))
        super().__init__(path, "AVML", runs, left_out=left_out, remarks=remarks)

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Find all chunks; only `lenient` decodes them now, to leave out broken ones.

        BadInputError when the file cannot be read or is no AVML dump; DamagedInputError, unless
        `lenient`, when a header is broken, or bytes are missing or occur twice. `lenient` continues
        with the next sound header behind a fault.
        """
        path = as_path(path)
        blocks = _Blocks()
        remarks: list[str] = []
        with reading(path), path.open("rb", buffering=0) as file:
            _find_chunks(path, file, blocks, remarks, lenient=lenient)
        chunks = blocks.chunks()
        if not len(chunks.address) and remarks:
            raise BadInputError(remarks[0].split(";")[0])
        end_before = np.maximum.accumulate(chunks.address + chunks.length)[:-1]
        twice = np.zeros(chunks.address.size, dtype=np.bool_)
        twice[1:] = chunks.address[1:] < end_before
        if twice.any():
            sentence = f"{path} holds memory at {chunks.address[twice][0]:#x} in several places"
            report_damage(sentence, remarks, lenient=lenient, then="one of them was used")
            chunks = chunks[~twice]
        near, left_out = near_pieces(path, chunks.address, chunks.length, lenient=lenient)
        chunks = chunks[near]
        remarks += left_out
        dump = cls(path, chunks, blocks, remarks)
        return dump._without_broken_chunks() if lenient else dump

    def each_block(
        self, work: BlockWork[_Result], within: range | None = None
    ) -> Iterator[_Result]:
        """Decode the blocks for `work`."""
        wanted = (
            (frame, min(first + count - frame, base.BLOCK_FRAMES))
            for first, count in self.runs.tolist()
            for frame in range(first, first + count, base.BLOCK_FRAMES)
            if within is None or frame in within
        )
        with reading(self.path), self.path.open("rb", buffering=0) as file:

            def scan(block: tuple[int, int]) -> _Result:
                first, count = block
                return work(np.arange(first, first + count), self._decode(file, first, count))

            yield from ahead(scan, wanted)

    def read_frames(self, frames: NDArray[np.int64]) -> Words:
        """Decode the chunks with these frames, each once if `frames` ascend."""
        frames = np.asarray(frames, dtype=np.int64)
        pages = np.zeros((frames.size, PAGE_SIZE // 8), dtype=np.uint64)
        starts, counts = self.runs.T
        run = np.searchsorted(starts, frames, side="right") - 1
        held = np.flatnonzero((run >= 0) & (frames - starts[run] < counts[run]))
        chunk = np.searchsorted(self._chunks.address, frames[held] * PAGE_SIZE, side="right")
        with reading(self.path), self.path.open("rb", buffering=0) as file:
            for same in np.split(held, np.flatnonzero(np.diff(chunk)) + 1) if held.size else ():
                first = int(frames[same].min())
                words = self._decode(file, first, int(frames[same].max()) + 1 - first)
                pages[same] = words[frames[same] - first]
        return pages

    def _decode(self, file: FileIO, first: int, count: int) -> Words:
        """Decode consecutive frames, all of them held."""
        start, end = first * PAGE_SIZE, (first + count) * PAGE_SIZE
        chunks = self._chunks
        low = int(np.searchsorted(chunks.address, start, side="right")) - 1
        high = int(np.searchsorted(chunks.address, end, side="left"))
        decoded = np.empty(int(chunks.length[low:high].sum()), dtype=np.uint8)
        # Consecutive chunks in the file can be decoded together.
        end_before = (chunks.offset + chunks.size)[low : high - 1]
        breaks = chunks.offset[low + 1 : high] != end_before
        breaks |= chunks.is_plain[low + 1 : high] != chunks.is_plain[low : high - 1]
        parts = np.flatnonzero(breaks) + low + 1
        done = 0
        for a, b in pairwise([low, *parts.tolist(), high]):
            length = int(chunks.length[a:b].sum())
            self._decode_chunks(file, a, b, decoded[done : done + length])
            done += length
        skipped = start - int(chunks.address[low])
        words = decoded[skipped : skipped + end - start].view(np.uint64).reshape(count, -1)
        words.flags.writeable = False
        return words

    def _decode_chunks(self, file: FileIO, low: int, high: int, target: NDArray[np.uint8]) -> None:
        chunks = self._chunks
        start, end = int(chunks.offset[low]), int(chunks.offset[high - 1] + chunks.size[high - 1])
        stream = read_at(file, end - start, start)
        if len(stream) < end - start:
            raise BadInputError(f"{self.path} got shorter while it was read")
        if chunks.is_plain[low]:
            target[:] = np.frombuffer(stream, np.uint8)
            return
        snappy = _snappy(self.path)
        try:
            snappy.decompress_into(_STREAM_BEGIN + stream, target)
        except Exception as error:  # cramjam's own exception, which has no useful base class
            raise DamagedInputError(
                f"{self.path}: bytes {start:,} to {end:,} cannot be decoded: {error}"
            ) from error

    def _without_broken_chunks(self) -> Self:
        """Decode all chunks; leave out broken ones."""
        sound = np.ones(self._chunks.address.size, dtype=np.bool_)
        target = np.empty(_MAX_CHUNK, dtype=np.uint8)
        with reading(self.path), self.path.open("rb", buffering=0) as file:
            for chunk, length in enumerate(self._chunks.length.tolist()):
                try:
                    if not self._chunks.is_plain[chunk]:
                        self._decode_chunks(file, chunk, chunk + 1, target[:length])
                except DamagedInputError:
                    sound[chunk] = False
        if sound.all():
            return self
        lost = f"{np.count_nonzero(~sound):,} broken pieces of {self.path} were left out"
        dump = type(self)(self.path, self._chunks[sound], self._blocks, [*self.remarks, lost])
        return dump.instead_of(self)


def _snappy(path: Path) -> ModuleType:
    try:
        import cramjam
    except ImportError as error:
        raise BadInputError(
            f"{path} is compressed; to read it, install the Python package cramjam"
        ) from error
    return cramjam.snappy


def _find_chunks(
    path: Path, file: FileIO, blocks: _Blocks, remarks: list[str], *, lenient: bool
) -> None:
    """Find all chunks; DamagedInputError, unless `lenient`, at the first fault."""
    size = file_size(file)
    position = 0
    while position < size:
        try:
            position = _find_block(path, file, blocks, position)
        except DamagedInputError as error:
            if not lenient:
                raise
            following = find_header(file, position, size)
            remarks.append(f"{error}; {passed_over(position, following)}")
            position = following


def _find_block(path: Path, file: FileIO, blocks: _Blocks, position: int) -> int:
    """Find the chunks of one block; returns its end."""
    fault = f"{path}: the block at byte {position:,}"
    header = parse(read_at(file, HEADER.size, position))
    if isinstance(header, str) or fault_of(header):
        raise DamagedInputError(f"{path}: {fault_of(header)} at byte {position:,}")
    blocks.starts.append(header.start)
    blocks.lengths.append(header.length)
    begin = position + HEADER.size
    if not header.is_packed:
        return _find_plain(path, file, blocks, begin, header.start, header.length)
    end = _find_chunks_of_block(path, file, blocks, begin, header.start, header.length)
    if read_at(file, _STREAM_SIZE.size, end) != _STREAM_SIZE.pack(end - begin):
        raise DamagedInputError(f"{fault} does not end as it should")
    return end + _STREAM_SIZE.size


def _find_plain(
    path: Path, file: FileIO, blocks: _Blocks, position: int, address: int, length: int
) -> int:
    """Split a block without compression into pieces; returns its end."""
    there = min(length, file_size(file) - position)
    for start in range(0, there, _PLAIN_CHUNK):
        size = min(_PLAIN_CHUNK, there - start)
        blocks.add(path, address + start, size, position + start, size, 1)
    if there < length:
        raise DamagedInputError(f"{path}: the block before byte {position:,} is cut off")
    return position + length


def _find_chunks_of_block(
    path: Path, file: FileIO, blocks: _Blocks, position: int, address: int, left: int
) -> int:
    """Walk one stream, which decodes to `left` bytes; returns its end."""
    size = file_size(file)
    while left:
        head = read_at(file, _CHUNK_HEAD, position)
        fault = f"{path}: the compressed piece at byte {position:,}"
        stored = int.from_bytes(head[1:4], "little")
        if len(head) < 4 or position + 4 + stored > size:
            raise DamagedInputError(f"{fault} is cut off")
        if head.startswith(_STREAM_BEGIN):
            position += len(_STREAM_BEGIN)
            continue
        length = {_COMPRESSED: _varint(head[8:]), _STORED: stored - 4}.get(head[0], 0)
        if not 0 < length <= min(left, _MAX_CHUNK):
            raise DamagedInputError(f"{fault} is broken")
        blocks.add(path, address, length, position, 4 + stored, 0)
        position += 4 + stored
        address += length
        left -= length
    return position


def _varint(data: bytes) -> int:
    """Read the length at the beginning of compressed data; if broken, the number is too large."""
    value = 0
    for place, byte in enumerate(data):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value
    return _MAX_CHUNK + 1
