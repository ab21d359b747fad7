"""makedumpfile's flattened form of a file, which can go through a pipe.

It consists of pieces of the file, each behind its place and its size; later pieces overwrite
earlier ones (makedumpfile's IMPLEMENTATION, diskdump_mod.h). The content is a kdump file or an ELF
core. makedumpfile writes this form with -F, QEMU for all its kdump files.
"""

import struct
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats.base import Progress
from memory_visualizer.formats.files import file_size, read_at, read_into
from memory_visualizer.formats.inside import Inside, keep_open

_HOLDS = (b"KDUMP   ", b"DISKDUMP", b"\x7fELF")
_LONGEST = 8
_HEADER_SIZE = 4096
_PIECE = struct.Struct(">qq")
_MAX_PIECES = 1 << 24
_MAX_CUTS = 1 << 28

_Columns: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""For each piece: place in the resulting file, size, and place in this file."""


class Flattened(Inside):
    """The file that the pieces form. Bytes outside of all pieces are zeros."""

    name = "flattened"

    def __init__(
        self, path: Path, *, lenient: bool = False, progress: Progress | None = None
    ) -> None:
        """Find all pieces.

        BadInputError when the file cannot be read; DamagedInputError, unless `lenient`, when it
        ends too early or a piece is broken.
        """
        self._path = path
        with reading(path):
            self._file = keep_open(self, path)
            columns, fault = _find_pieces(path, self._file)
        if fault and not lenient:
            raise DamagedInputError(fault)
        if fault:
            self.remarks = (f"{fault}; the rest was ignored",)
        cut = _without_overlaps(*columns)
        if cut is None:
            raise BadInputError(
                f"{path} has pieces that overlap in more than {_MAX_CUTS:,} parts; too many"
            )
        self._start, self._length, self._place = cut
        self.size = int((self._start + self._length).max(initial=0))
        with reading(path):
            if not self.read(_LONGEST, 0).startswith(_HOLDS):
                raise BadInputError(f"{path}, a flattened file, holds no kdump file or ELF core")

    def read_into(self, target: memoryview, offset: int) -> None:
        """Read these bytes from their pieces."""
        end = offset + len(target)
        low = max(int(np.searchsorted(self._start, offset, side="right")) - 1, 0)
        high = int(np.searchsorted(self._start, end))
        done = offset
        for piece in range(low, high):
            start = int(self._start[piece])
            begin, stop = max(start, done), min(start + int(self._length[piece]), end)
            if begin >= stop:
                continue
            target[done - offset : begin - offset] = bytes(begin - done)
            room = target[begin - offset : stop - offset]
            if read_into(self._file, room, int(self._place[piece]) + begin - start) < len(room):
                raise BadInputError(f"{self._path} got shorter while it was read")
            done = stop
        target[done - offset :] = bytes(end - done)


def _find_pieces(path: Path, file: BinaryIO) -> tuple[_Columns, str]:
    """Find the pieces in the order of the file; and the fault of the first broken piece."""
    columns: Sequence[array[int]] = [array("q") for _ in range(3)]
    size = file_size(file)
    position = _HEADER_SIZE
    fault = ""
    while not fault:
        head = read_at(file, _PIECE.size, position)
        if len(head) < _PIECE.size:
            fault = f"{path}, a flattened file, ends too early"
            break
        start, length = _PIECE.unpack(head)
        if start == -1:
            break
        position += _PIECE.size
        if start < 0 or length < 0 or start + length >= 1 << 62:
            fault = f"{path}, a flattened file, has a broken piece at byte {position:,}"
            break
        if position + length > size:
            fault = f"{path}, a flattened file, ends too early"
            length = size - position
        if len(columns[0]) == _MAX_PIECES:
            raise BadInputError(f"{path} has more than {_MAX_PIECES:,} pieces")
        if length > 0:
            for column, value in zip(columns, (start, length, position), strict=True):
                column.append(value)
        position += length
    starts, lengths, places = (np.frombuffer(column, np.int64) for column in columns)
    return (starts, lengths, places), fault


def _without_overlaps(
    start: NDArray[np.int64], length: NDArray[np.int64], place: NDArray[np.int64]
) -> _Columns | None:
    """Cut pieces that later ones overlap, and sort them; None if there are too many overlaps."""
    order = np.argsort(start, kind="stable")
    end = (start + length)[order]
    if not (end[:-1] > start[order][1:]).any():
        return start[order], length[order], place[order]
    # Every piece is cut at all edges; of parts with the same beginning, the last counts.
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
