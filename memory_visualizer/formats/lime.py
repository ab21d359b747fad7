"""LiME dumps: for each stretch of memory a header and its bytes.

The format is described in doc/README.md of LiME ("LiME Memory Range Header"). Read here, since
there is nothing to it but headers. A range need not be whole pages: where firmware's tables
cut a page in two, only a part of it is in the dump, and the frame counts as not held.
"""

import struct
from pathlib import Path
from typing import Self

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats.base import MAX_RUNS
from memory_visualizer.formats.inside import as_path
from memory_visualizer.formats.mapped import MappedDump, file_size, find_extents

MAGIC = b"EMiL"
HEADER = struct.Struct("<4sIQQQ")
"""Magic, version, first and last byte's physical address, reserved."""

_VERSION = 1


class LimeDump(MappedDump):
    """A LiME dump, or one that AVML wrote without compression."""

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Read the headers of all ranges.

        BadInputError when the file cannot be read or is no LiME dump; DamagedInputError, unless
        `lenient`, when a header is broken, or bytes are missing or there twice.
        """
        path = as_path(path)
        starts: list[int] = []
        lengths: list[int] = []
        offsets: list[int] = []
        remarks: list[str] = []
        with reading(path), path.open("rb") as file:
            size = file_size(file)
            position = 0
            while position < size:
                file.seek(position)
                fault, start, length = _parse(file.read(HEADER.size))
                if fault:
                    sentence = f"{path}: {fault} at byte {position:,}"
                    if not lenient:
                        raise DamagedInputError(sentence)
                    remarks.append(f"{sentence}; what follows was ignored")
                    break
                if len(starts) == MAX_RUNS:
                    raise BadInputError(f"{path} has more than {MAX_RUNS:,} ranges")
                position += HEADER.size
                starts.append(start)
                lengths.append(length)
                offsets.append(position)
                position += length
        extents, more = find_extents(
            path, starts, lengths, offsets, file_size=size, lenient=lenient
        )
        return cls(path, "LiME", extents, remarks=remarks + more)


def _parse(header: bytes) -> tuple[str, int, int]:
    """Read a header: what is wrong with it or nothing, physical address, bytes."""
    if len(header) < HEADER.size:
        return "a range's header is cut off", 0, 0
    magic, version, first, last, _ = HEADER.unpack(header)
    if magic != MAGIC:
        return "there is no range's header", 0, 0
    if version != _VERSION:
        return f"a range has the unknown version {version}", 0, 0
    if last < first:
        return f"a range ends before it begins ({first:#x} to {last:#x})", 0, 0
    return "", first, min(last - first, 2**64 - 2) + 1  # all of 64 bits would be one too many
