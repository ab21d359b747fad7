"""LiME dumps: for each stretch of memory a header and its bytes.

The format is described in doc/README.md of LiME ("LiME Memory Range Header"). The format is so
simple that this module reads it itself. A range need not consist of whole pages: if the firmware's
tables cut a page in two, only a part of it is in the dump, and the frame counts as not held.

AVML writes the same format without compression, in blocks of 16 MiB, and leaves out blocks of
zeros. Some of its files have blocks of both kinds: avml.py reads these.
"""

from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats.base import Dump
from memory_visualizer.formats.files import file_size, read_at
from memory_visualizer.formats.limeheaders import (
    HEADER,
    Header,
    fault_of,
    find_header,
    is_far,
    parse,
    passed_over,
    zero_blocks,
)
from memory_visualizer.formats.mapped import MappedDump, find_extents
from memory_visualizer.formats.paths import as_path
from memory_visualizer.units import MAX_RUNS


class LimeDump(MappedDump):
    """A LiME dump, or one that AVML wrote without compression."""

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Dump:
        """Read the headers of all ranges; if some are AVML's, the dump is an AvmlDump.

        BadInputError when the file cannot be read or is no LiME dump; DamagedInputError, unless
        `lenient`, when a header is broken, or bytes are missing or occur twice. `lenient` continues
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
    from memory_visualizer.formats.avml import AvmlDump  # few files need it

    return AvmlDump.open(path, lenient=lenient)


def _ranges(path: Path, file: BinaryIO, size: int) -> Iterator[tuple[Header, int]]:
    """Each range, and the place of its bytes; DamagedInputError at a broken header."""
    position = 0
    while position < size:
        header = parse(read_at(file, HEADER.size, position))
        if isinstance(header, str) or is_far(header):
            raise DamagedInputError(f"{path}: {fault_of(header)} at byte {position:,}")
        yield header, position + HEADER.size
        position += HEADER.size + header.length


def _sound_ranges(
    path: Path, file: BinaryIO, size: int, remarks: list[str]
) -> Iterator[tuple[Header, int]]:
    """As `_ranges`, without broken ranges."""
    position = 0
    while position < size:
        header = parse(read_at(file, HEADER.size, position))
        begin = position + HEADER.size
        if isinstance(header, Header):
            end = begin + header.length
            if header.is_packed or end == size or (end < size and not is_far(header)):
                yield header, begin
                position = end
                continue
        following = find_header(file, position, size)
        if isinstance(header, Header) and not is_far(header):
            # The range is cut off, which find_extents reports; or its length is wrong, and a sound
            # range follows.
            cut = header.length if following == size else following - begin
            yield replace(header, length=cut), begin
            fault = "" if following == size else "a range is shorter than it says"
        else:
            fault = fault_of(header)
        if fault:
            words = passed_over(position, following)
            remarks.append(f"{path}: {fault} at byte {position:,}; {words}")
        position = following
