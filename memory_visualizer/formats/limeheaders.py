"""The headers of LiME's and AVML's files: their fields, faults, and the search for them.

The format is described in doc/README.md of LiME ("LiME Memory Range Header"); AVML's blocks have
the same header with another magic and version.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memory_visualizer.formats import magics
from memory_visualizer.formats.base import NO_RUNS
from memory_visualizer.formats.files import read_at
from memory_visualizer.units import MAX_FRAMES, PAGE_SIZE

HEADER = struct.Struct("<4sIQQQ")
"""Magic, version, first and last byte's physical address, reserved."""

_VERSIONS = {magics.LIME: 1, magics.AVML: 2}
_STREAM_BEGIN = b"\xff\x06\x00\x00sNaPpY"
"""The beginning of the stream that follows a header of AVML's."""
BLOCK_SIZE = 16 << 20
"""Bytes of AVML's blocks; the last block of a stretch of memory is shorter."""
_SEARCH = 1 << 20


@dataclass(frozen=True)
class Header:
    """The header of a stretch of memory."""

    is_packed: bool
    """Whether the header is AVML's, and a compressed stream follows."""
    start: int
    """Physical address."""
    length: int
    """Bytes of memory."""


def fault_of(header: Header | str) -> str:
    """The fault of a header, or an empty text."""
    if isinstance(header, str):
        return header
    if not is_far(header):
        return ""
    limit = MAX_FRAMES * PAGE_SIZE
    return f"a range reaches beyond {limit:#x} (16 TiB), where this program stops,"


def is_far(header: Header) -> bool:
    """Whether a range extends beyond the largest address that this program reads."""
    return header.start + header.length > MAX_FRAMES * PAGE_SIZE


def _is_range(file: BinaryIO, position: int) -> bool:
    return isinstance(parse(read_at(file, HEADER.size, position)), Header)


def parse(header: bytes) -> Header | str:
    """Read a header, or tell its fault."""
    if len(header) < HEADER.size:
        return "a range's header is cut off"
    magic, version, first, last, _ = HEADER.unpack(header)
    if magic not in _VERSIONS:
        return "a range's header is missing"
    if version != _VERSIONS[magic]:
        return f"a range has the unknown version {version}"
    if last < first:
        return f"a range ends before it begins ({first:#x} to {last:#x})"
    # The whole range of 64 bits would have a length of 65 bits.
    return Header(magic == magics.AVML, first, min(last - first, 2**64 - 2) + 1)


def find_header(file: BinaryIO, position: int, size: int) -> int:
    """Find the next header behind a broken one at `position`; `size` if there is none.

    Memory may hold copies of headers, such as the dump's own file in the page cache. So the header
    must be followed by another header, the end of the file, or the beginning of a stream.
    """
    for place in _each_magic(file, position + 1, size):
        header = parse(read_at(file, HEADER.size, place))
        if isinstance(header, str) or is_far(header):
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
        piece = read_at(file, _SEARCH + 3, position)  # a word may span two pieces
        if not piece:
            return
        found = re.finditer(b"|".join(_VERSIONS), piece)
        yield from (position + match.start() for match in found if match.start() < _SEARCH)
        position += _SEARCH


def passed_over(start: int, end: int) -> str:
    """The words of a remark on bytes of a file that were not read."""
    return f"the {end - start:,} bytes from there on were left out"


def zero_blocks(starts: ArrayLike, lengths: ArrayLike, frames: int) -> NDArray[np.int64]:
    """The frames that AVML left out because of zeros, as `Dump.runs`, by the blocks that it wrote.

    A gap between two blocks was left out if it has the size of whole blocks, and the block before
    it is a whole block: otherwise that block ends its stretch of memory, and a hole of the machine
    follows. Blocks that are missing at the end of a stretch cannot be told from a hole.
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
