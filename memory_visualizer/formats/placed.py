"""Dumps in which each frame has a place of its own at any byte of the file, or no place."""

from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import joined_runs
from memory_visualizer.errors import BadInputError, reading
from memory_visualizer.formats import base
from memory_visualizer.formats.base import (
    NO_RUNS,
    BlockWork,
    Dump,
    PlainPages,
    Words,
    ahead,
    block_starts,
    runs_of,
)
from memory_visualizer.formats.files import ask, read_at
from memory_visualizer.formats.inside import is_content, lacks
from memory_visualizer.units import PAGE_SIZE

_GAP = 1 << 16
"""Gaps between pages up to this size in bytes are read along."""
_WINDOW = 1 << 23
"""The most bytes that are read at once."""
_PAGE = np.dtype((np.void, PAGE_SIZE))

FILLED = -1
"""Place of a page of zeros. A page filled with another byte has this place minus the byte."""
SPECIAL = -0x101
"""Place of the first page that has to be made; further such pages count down from it."""

_Result = TypeVar("_Result")


class PlacedDump(Dump):
    """A dump of single pages."""

    def __init__(
        self,
        path: Path,
        format_: str,
        frame: NDArray[np.int64],
        place: NDArray[np.int64],
        *,
        left_out: NDArray[np.int64] = NO_RUNS,
        notes: Mapping[str, int | bytes] | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        """`frame` are ascending PFNs; `place` is the byte at which each begins, FILLED, or SPECIAL.

        BadInputError if the file lies in a container that lacks all of the pages.
        """
        there = (place < 0) | ~lacks(path, place, PAGE_SIZE)
        if not there.any():
            raise BadInputError(f"{path} holds no page of memory that can be read")
        if not there.all():
            left_out = joined_runs(left_out, runs_of(frame[~there]))
        frame, place = frame[there], place[there]
        super().__init__(
            path, format_, runs_of(frame), left_out=left_out, notes=notes, remarks=remarks
        )
        self._frame, self._place = frame, place

    def plain_pages(self) -> PlainPages | None:
        """The frames that have a place; others are made."""
        if is_content(self.path):
            return None
        plain = self._place >= 0
        return PlainPages.of_pages(self.path, self._frame[plain], self._place[plain])

    def _special(self, file: FileIO, number: int) -> bytes:
        """Make the page with the place SPECIAL minus `number`."""
        raise NotImplementedError

    def each_block(
        self, work: BlockWork[_Result], within: range | None = None
    ) -> Iterator[_Result]:
        """Read the pages that are not known to be zeros for `work`."""
        [rows] = np.nonzero(self._place != FILLED)
        with reading(self.path), self.path.open("rb", buffering=0) as file:

            def scan(start: int) -> _Result:
                part = rows[start : start + base.BLOCK_FRAMES]
                words = self._pages(file, self._place[part])
                words.flags.writeable = False
                return work(self._frame[part], words)

            yield from ahead(scan, block_starts(self._frame[rows], within))

    def read_frames(self, frames: NDArray[np.int64]) -> Words:
        """Gather frames from the file."""
        frames = np.asarray(frames, dtype=np.int64)
        row = np.searchsorted(self._frame, frames)
        row[row == self._frame.size] = 0
        place = np.where(self._frame[row] == frames, self._place[row], FILLED)
        with reading(self.path), self.path.open("rb", buffering=0) as file:
            return self._pages(file, place)

    def _pages(self, file: FileIO, place: NDArray[np.int64]) -> Words:
        pages = np.empty((place.size, PAGE_SIZE), np.uint8)
        filled = (place <= FILLED) & (place > SPECIAL)
        pages[filled] = (FILLED - place[filled])[:, None]
        for row in np.flatnonzero(place <= SPECIAL).tolist():
            page = self._special(file, SPECIAL - int(place[row]))
            pages[row] = np.frombuffer(page, np.uint8)
        [plain] = np.nonzero(place >= 0)
        if plain.size:
            plain = plain[np.argsort(place[plain], kind="stable")]
            ask(file, place[plain], PAGE_SIZE)
            self._gather(file, plain, place, pages)
        return pages.view(np.uint64)

    def _gather(
        self,
        file: FileIO,
        rows: NDArray[np.intp],
        place: NDArray[np.int64],
        pages: NDArray[np.uint8],
    ) -> None:
        """Read pages of the file, by ascending place, many at once."""
        target = pages.view(_PAGE)[:, 0]
        places = place[rows]
        near = np.diff(places, prepend=places[0]) <= _GAP + PAGE_SIZE
        start = 0
        while start < rows.size:
            begin = int(places[start])
            end = int(np.searchsorted(places, begin + _WINDOW - PAGE_SIZE, side="right"))
            [gaps] = np.nonzero(~near[start + 1 : end])
            end = start + 1 + int(gaps[0]) if gaps.size else end
            size = int(places[end - 1]) + PAGE_SIZE - begin
            window = self._read(file, size, begin)
            # Rows begin at every byte, since pages may lie at any place.
            every = np.ndarray((size - PAGE_SIZE + 1,), _PAGE, window, strides=(1,))
            target[rows[start:end]] = every[places[start:end] - begin]
            start = end

    def _read(self, file: FileIO, size: int, offset: int) -> bytes:
        data = read_at(file, size, offset)
        if len(data) < size:
            raise BadInputError(f"{self.path} got shorter while it was read")
        return data
