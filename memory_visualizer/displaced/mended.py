"""A dump whose memory has been put where it belongs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import merge_runs
from memory_visualizer.formats.base import BlockWork, Dump, PlainPages, Words
from memory_visualizer.paging import (
    is_held,
)

_Result = TypeVar("_Result")
FAR = 1 << 28
"""Frames, a terabyte of addresses: no hole in a machine's memory is larger."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a file's pages that were all moved by the same distance."""

    first: int
    """Its first page in the file."""
    shift: int
    """The PFN of a page minus the page's number in the file."""
    among: tuple[int, int] | None = None
    """The first and the last page that may be the piece's first page, by the evidence of tables."""

    def __str__(self) -> str:
        text = f"by {self.shift:,} from page {self.first:,} on"
        if self.among is None or self.among[0] == self.among[1]:
            return text
        return f"{text} (or from another page between {self.among[0]:,} and {self.among[1]:,} on)"


class MendedDump(Dump):
    """A dump whose pieces have been put where they belong."""

    def __init__(self, dump: Dump, pieces: Sequence[Piece], remark: str = "") -> None:
        """`pieces` ascend, and so do their shifts; the first piece begins where the file begins.

        `remark` replaces the remark that holes were left out.
        """
        self._dump = dump
        self._first = np.array([piece.first for piece in pieces], np.int64)
        self._shift = np.array([piece.shift for piece in pieces], np.int64)
        self._end = end = np.append(self._first[1:], dump.frame_count)
        # Pages that would lie before address 0 are not memory.
        self._start = start = np.maximum(self._first, -self._shift)
        some = end > start
        runs = merge_runs((start + self._shift)[some], (end - start)[some])
        moved = ", ".join(str(piece) for piece in pieces if piece.shift)
        remark = remark or (
            "the file does not hold its memory where it belongs, perhaps since holes were left out;"
            f" the page tables tell by how many pages the memory had to be moved: {moved}"
        )
        super().__init__(
            dump.path, dump.format, runs, notes=dump.notes, remarks=(*dump.remarks, remark)
        )

        self.reopen = partial(MendedDump, dump, pieces)
        self.scanner = dump.scanner

    def close(self) -> None:
        """Close the file."""
        self._dump.close()

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Not possible: a mended dump is made from another dump."""
        raise NotImplementedError

    def plain_pages(self) -> PlainPages | None:
        """As in the file, moved."""
        plain = self._dump.plain_pages()
        if plain is None:
            return None
        edges = zip(self._start.tolist(), self._end.tolist(), strict=True)
        pieces = [plain.between(start, end) for start, end in edges]
        first = [piece.first + shift for piece, shift in zip(pieces, self._shift, strict=True)]
        return PlainPages(
            plain.file,
            np.concatenate(first),
            np.concatenate([piece.count for piece in pieces]),
            np.concatenate([piece.offset for piece in pieces]),
        )

    def each_block(
        self, work: BlockWork[_Result], within: range | None = None
    ) -> Iterator[_Result]:
        """As in Dump; blocks that lie before the first frame are not shown."""

        def moved(pages: NDArray[np.int64], words: Words) -> _Result | None:
            frames = pages + self._shift[np.searchsorted(self._first, pages, "right") - 1]
            inside = frames >= 0
            if inside.all():
                return work(frames, words)
            return work(frames[inside], words[inside]) if inside.any() else None

        pages = within and range(*(self._page_from(frame) for frame in (within.start, within.stop)))
        for result in self._dump.each_block(moved, pages):
            if result is not None:
                yield result

    def _page_from(self, frame: int) -> int:
        """The first page of the file from this frame on; that of frame 0 is its first page."""
        if frame <= 0:
            return 0
        pages = np.maximum(frame - self._shift, self._first)
        return int(pages[pages < self._end].min(initial=self._dump.frame_count))

    def read_frames(self, frames: NDArray[np.int64]) -> Words:
        """As in Dump."""
        start = np.maximum(self._first, -self._shift) + self._shift
        piece = np.maximum(np.searchsorted(start, frames, "right") - 1, 0)
        pages = np.where(is_held(self, frames), frames - self._shift[piece], self._dump.frame_count)
        return self._dump.read_frames(pages)
