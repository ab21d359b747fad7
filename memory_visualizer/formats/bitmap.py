"""Bitmaps with a bit for each page frame, as kdump files, Windows crash dumps and QEMU have them.

The lowest bit of a byte belongs to its first frame. Bitmaps are read and unpacked in batches: the
bitmap of 16 TiB takes 512 MiB packed, and 4 GiB unpacked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.files import read_at
from memory_visualizer.units import MAX_RUNS

_FRAMES_AT_ONCE = 1 << 20
"""Bits that are unpacked at once, to a byte each; a multiple of 8."""


@dataclass(frozen=True)
class Bitmap:
    """A bitmap in an open file; reading raises OSError, or BadInputError if it is cut off."""

    path: Path
    """The file's name in errors."""
    file: BinaryIO
    at: int
    """The byte at which the bitmap begins."""
    frames: int
    """The number of bits."""

    def pieces(self) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Yield the first frame of each piece, and the bits of the piece, in ascending order."""
        for start in range(0, self.frames, _FRAMES_AT_ONCE):
            wanted = min(self.frames - start, _FRAMES_AT_ONCE)
            packed = read_at(self.file, -(-wanted // 8), self.at + start // 8)
            if len(packed) * 8 < wanted:
                raise BadInputError(f"{self.path} ends within the bitmap of its pages")
            bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little", count=wanted)
            yield start, bits.view(np.bool_)

    def count(self) -> int:
        """The number of set bits."""
        return sum(int(np.count_nonzero(bits)) for _, bits in self.pieces())

    def runs(
        self, first: int = 0, end: int | None = None, *, without: "Bitmap | None" = None
    ) -> NDArray[np.int64]:
        """The runs of set bits (as `Dump.runs`), from frame `first` on and before frame `end`.

        Bits that are set in `without`, which has the same length, are left out. BadInputError for
        more than MAX_RUNS runs.
        """
        end = self.frames if end is None else end
        edges = [np.empty(0, np.int64)]
        edge_count, before = 0, False
        for start, bits in self._less(without):
            bits[: max(first - start, 0)] = False
            bits[max(end - start, 0) :] = False
            edges.append(np.flatnonzero(np.diff(bits, prepend=before)) + start)
            before = bool(bits[-1])
            edge_count += edges[-1].size
            if edge_count > 2 * MAX_RUNS:
                raise BadInputError(f"{self.path} has more than {MAX_RUNS:,} runs of pages")
        if before:
            edges.append(np.array([self.frames]))
        runs = np.concatenate(edges).reshape(-1, 2)
        runs[:, 1] -= runs[:, 0]
        return runs

    def _less(self, without: "Bitmap | None") -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """As `pieces`, without the bits that are set in another bitmap."""
        if without is None:
            yield from self.pieces()
            return
        for (start, bits), (_, others) in zip(self.pieces(), without.pieces(), strict=True):
            yield start, bits & ~others
