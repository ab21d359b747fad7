"""LiME dumps: for each stretch of memory a header and its bytes.

The format is described in doc/README.md of LiME ("LiME Memory Range Header"). Read here, since
there is nothing to it but headers. A range need not be whole pages: where firmware's tables
cut a page in two, only a part of it is in the dump, and the frame counts as not held.

AVML writes the same without compression, in blocks of 16 MiB, and then leaves out those of zeros.
Some of its files have blocks of both kinds; these are read in avml.py.
"""

import re
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats.base import MAX_FRAMES, MAX_RUNS, NO_RUNS, PAGE_SIZE, Dump
from memory_visualizer.formats.files import file_size, read_at
from memory_visualizer.formats.inside import as_path
from memory_visualizer.formats.mapped import MappedDump, find_extents

MAGIC, PACKED_MAGIC = b"EMiL", b"AVML"
HEADER = struct.Struct("<4sIQQQ")
"""Magic, version, first and last byte's physical address, reserved."""

_VERSIONS = {MAGIC: 1, PACKED_MAGIC: 2}
_STREAM_BEGIN = b"\xff\x06\x00\x00sNaPpY"
"""With which what follows a header of AVML's begins."""
BLOCK_SIZE = 16 << 20
"""Bytes of AVML's blocks, but for the last one of a stretch of memory."""
_SEARCH = 1 << 20


@dataclass(frozen=True)
class Header:
    """The header of a stretch of memory."""

    is_packed: bool
    """Whether it is AVML's, and a compressed stream follows."""
    start: int
    """Physical address."""
    length: int
    """Bytes of memory."""


class LimeDump(MappedDump):
    """A LiME dump, or one that AVML wrote without compression."""

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Dump:
        """Read the headers of all ranges; where some are AVML's, the dump is an AvmlDump.

        BadInputError when the file cannot be read or is no LiME dump; DamagedInputError, unless
        `lenient`, when a header is broken, or bytes are missing or there twice. `lenient` goes on
        with the next sound header behind a broken one.
        """
        path = as_path(path)
        remarks: list[str] = []
        starts, lengths, offsets = array("Q"), array("Q"), array("q")
        with reading(path), path.open("rb", buffering=0) as file:
            size = file_size(file)
            found = (
                _sound_ranges(path, file, size, remarks) if lenient else _ranges(path, file, size)
            )
            for header, position in found:
                if header.is_packed:
                    return _mixed(path, lenient=lenient)
                if len(starts) == MAX_RUNS:
                    raise BadInputError(f"{path} has more than {MAX_RUNS:,} ranges")
                starts.append(header.start)
                lengths.append(header.length)
                offsets.append(position)
        if not starts and remarks:
            raise BadInputError(remarks[0].split(";")[0])
        extents, more = find_extents(
            path, starts, lengths, offsets, file_size=size, lenient=lenient
        )
        frames = int((extents.first + extents.count).max())
        left_out = zero_blocks(starts, lengths, frames)
        return cls(path, "LiME", extents, left_out=left_out, remarks=remarks + more)


def _mixed(path: Path, *, lenient: bool) -> Dump:
    from memory_visualizer.formats.avml import AvmlDump  # it needs this module

    return AvmlDump.open(path, lenient=lenient)


def _ranges(path: Path, file: BinaryIO, size: int) -> Iterator[tuple[Header, int]]:
    """Each range, and where its bytes begin; DamagedInputError at a broken header."""
    position = 0
    while position < size:
        header = parse(read_at(file, HEADER.size, position))
        if isinstance(header, str) or _is_far(header):
            raise DamagedInputError(f"{path}: {fault_of(header)} at byte {position:,}")
        yield header, position + HEADER.size
        position += HEADER.size + header.length


def _sound_ranges(
    path: Path, file: BinaryIO, size: int, remarks: list[str]
) -> Iterator[tuple[Header, int]]:
    """As `_ranges`, without those that are broken."""
    position = 0
    while position < size:
        header = parse(read_at(file, HEADER.size, position))
        begin = position + HEADER.size
        if isinstance(header, Header):
            end = begin + header.length
            if header.is_packed or end == size or (end < size and not _is_far(header)):
                yield header, begin
                position = end
                continue
        following = find_header(file, position, size)
        if isinstance(header, Header) and not _is_far(header):
            # Cut off, of which find_extents tells; or its length is wrong, and a sound one follows.
            cut = header.length if following == size else following - begin
            yield replace(header, length=cut), begin
            fault = "" if following == size else "a range is shorter than it says"
        else:
            fault = fault_of(header)
        if fault:
            words = passed_over(position, following)
            remarks.append(f"{path}: {fault} at byte {position:,}; {words}")
        position = following


def fault_of(header: Header | str) -> str:
    """What is wrong with a header, or nothing."""
    if isinstance(header, str):
        return header
    if not _is_far(header):
        return ""
    limit = MAX_FRAMES * PAGE_SIZE
    return f"a range reaches beyond {limit:#x} (16 TiB), where this program stops,"


def _is_far(header: Header) -> bool:
    return header.start + header.length > MAX_FRAMES * PAGE_SIZE


def _is_range(file: BinaryIO, position: int) -> bool:
    return isinstance(parse(read_at(file, HEADER.size, position)), Header)


def parse(header: bytes) -> Header | str:
    """Read a header, or tell what is wrong with it."""
    if len(header) < HEADER.size:
        return "a range's header is cut off"
    magic, version, first, last, _ = HEADER.unpack(header)
    if magic not in _VERSIONS:
        return "there is no range's header"
    if version != _VERSIONS[magic]:
        return f"a range has the unknown version {version}"
    if last < first:
        return f"a range ends before it begins ({first:#x} to {last:#x})"
    # All of 64 bits would be one too many.
    return Header(magic == PACKED_MAGIC, first, min(last - first, 2**64 - 2) + 1)


def find_header(file: BinaryIO, position: int, size: int) -> int:
    """Find the next header behind a broken one at `position`; the file's `size` if there is none.

    Memory may hold copies of headers, as of the dump's own file in the page cache. So what follows
    must make sense, too: another header or the file's end, or the beginning of a stream.
    """
    for place in _each_magic(file, position + 1, size):
        header = parse(read_at(file, HEADER.size, place))
        if isinstance(header, str) or _is_far(header):
            continue
        end = place + HEADER.size
        if header.is_packed:
            if read_at(file, len(_STREAM_BEGIN), end) == _STREAM_BEGIN:
                return place
        elif end + header.length == size or _is_range(file, end + header.length):
            return place
    return size


def _each_magic(file: BinaryIO, position: int, size: int) -> Iterator[int]:
    while position < size:
        piece = read_at(file, _SEARCH + 3, position)  # a word may lie across two pieces
        if not piece:
            return
        found = re.finditer(b"|".join(_VERSIONS), piece)
        yield from (position + match.start() for match in found if match.start() < _SEARCH)
        position += _SEARCH


def passed_over(start: int, end: int) -> str:
    """A remark's words on bytes of a file that were not read."""
    return f"the {end - start:,} bytes from there on were left out"


def zero_blocks(starts: ArrayLike, lengths: ArrayLike, frames: int) -> NDArray[np.int64]:
    """Which of these frames AVML has left out for zeros, as `Dump.runs`, by the blocks it wrote.

    Between two blocks a whole number of others is missing, and the first is a whole one: else it
    is the end of its stretch of memory, and a hole of the machine follows. What is missing at the
    end of such a stretch cannot be told from a hole.
    """
    start, length = (np.asarray(column, np.uint64).astype(np.int64) for column in (starts, lengths))
    if not len(start) or length.max() > BLOCK_SIZE or length.min() <= 0:
        return NO_RUNS
    order = np.argsort(start, kind="stable")
    start, length = start[order], length[order]
    distance = np.diff(start)
    missing = (length[:-1] == BLOCK_SIZE) & (distance > BLOCK_SIZE) & (distance % BLOCK_SIZE == 0)
    missing &= start[:-1] % PAGE_SIZE == 0
    before = np.flatnonzero(missing)
    first = (start[before] + BLOCK_SIZE) // PAGE_SIZE
    count = (distance[before] - BLOCK_SIZE) // PAGE_SIZE
    inside = first + count <= frames
    return np.stack((first[inside], count[inside]), axis=1)
