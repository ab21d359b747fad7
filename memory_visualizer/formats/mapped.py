"""Dumps whose pages lie uncompressed in the file, so that it can be mapped instead of read."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memory_visualizer.arrays import joined_runs, merge_runs, runs_without
from memory_visualizer.errors import BadInputError, reading
from memory_visualizer.formats import base
from memory_visualizer.formats.base import (
    NO_RUNS,
    BlockWork,
    Dump,
    PlainPages,
    Words,
    ahead,
)
from memory_visualizer.formats.damage import report_damage
from memory_visualizer.formats.files import PagesFile, file_size, open_pages
from memory_visualizer.formats.inside import InsidePath, is_content
from memory_visualizer.formats.reach import near_pieces
from memory_visualizer.units import MAX_FRAMES, MAX_RUNS, PAGE_SIZE

__all__ = ["Extents", "MappedDump", "file_size", "find_extents"]

_Result = TypeVar("_Result")
_GATHER_FRAMES = 1024
"""Frames that are copied at once: this bounds the memory for intermediate arrays."""


@dataclass(frozen=True, eq=False)
class Extents:
    """The places of frames in a file: disjoint stretches in ascending order, in columns."""

    first: NDArray[np.int64]
    """PFN of the first frame."""
    count: NDArray[np.int64]
    """Number of frames, at least one."""
    offset: NDArray[np.int64]
    """Byte of the file at which the first frame begins."""
    lost: NDArray[np.int64] = field(default_factory=lambda: NO_RUNS)
    """As `Dump.runs`: frames whose bytes the container around the file cannot give."""

    def __getitem__(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> "Extents":
        return Extents(self.first[chosen], self.count[chosen], self.offset[chosen], self.lost)

    @property
    def runs(self) -> NDArray[np.int64]:
        """As `Dump.runs`."""
        return merge_runs(self.first, self.count)


@dataclass(frozen=True, eq=False)
class _Window:
    """Pages that lie one after another in the file."""

    frames: NDArray[np.int64]
    """PFN of each."""
    offset: int
    """Byte of the file at which the first begins."""


def find_extents(
    path: Path,
    start: ArrayLike,
    length: ArrayLike,
    offset: ArrayLike,
    *,
    file_size: int,
    lenient: bool = False,
    aliases: bool = False,
) -> tuple[Extents, list[str]]:
    """Check the stretches that a header tells, and find their whole frames; returns remarks, too.

    The three columns are in bytes: physical address, size and place in the file of `file_size`
    bytes. Rows may have any order, and any numbers below 2**64. Stretches that agree on the place
    of a frame are joined. Frames in several places of the file are an error unless the format has
    `aliases`, equal copies of which any one serves.

    BadInputError if this cannot be a dump of a machine; DamagedInputError, unless `lenient`, for
    frames beyond the file's end, in several places, or beyond 16 TiB if others are nearer. Errors
    name the file by `path`.
    """
    columns = (np.asarray(column, dtype=np.uint64) for column in (start, length, offset))
    stretches = _Stretches(*columns)
    remarks: list[str] = []
    if stretches.start.size > MAX_RUNS:
        raise BadInputError(
            f"{path} says that it holds {stretches.start.size:,} pieces of memory; too many"
        )
    stretches = _within_memory(path, stretches, remarks, lenient=lenient)
    stretches = _within_file(path, stretches, file_size, remarks, lenient=lenient)
    extents = _join(stretches.whole_frames())
    if extents.first.size == 0:
        raise BadInputError(f"{path} holds no page of memory")
    extents = _once(path, extents, remarks, lenient=lenient, aliases=aliases)
    if int(extents.count.sum()) * PAGE_SIZE > file_size:
        raise BadInputError(f"{path} says that it holds more memory than the file has bytes")
    near, left_out = near_pieces(
        path, extents.first * PAGE_SIZE, extents.count * PAGE_SIZE, lenient=lenient
    )
    return _readable(path, extents[near]), remarks + left_out


@dataclass(frozen=True, eq=False)
class _Stretches:
    """Stretches of memory as a header tells them: columns in bytes, any numbers."""

    start: NDArray[np.uint64]
    """Physical addresses."""
    length: NDArray[np.uint64]
    offset: NDArray[np.uint64]
    """Places in the file."""

    def __getitem__(self, chosen: NDArray[np.bool_]) -> "_Stretches":
        return _Stretches(self.start[chosen], self.length[chosen], self.offset[chosen])

    def whole_frames(self) -> Extents:
        """The frames of which no byte is missing, of stretches within memory and file."""
        page = np.uint64(PAGE_SIZE)
        first = (self.start + page - np.uint64(1)) // page
        end = (self.start + self.length) // page
        count = end.astype(np.int64) - first.astype(np.int64)
        some = count > 0
        place = self.offset[some] + (first * page - self.start)[some]
        return Extents(first[some].astype(np.int64), count[some], place.astype(np.int64))


def _within_memory(
    path: Path, stretches: _Stretches, remarks: list[str], *, lenient: bool
) -> _Stretches:
    """Leave out stretches that end beyond the largest memory that this program shows."""
    limit = np.uint64(MAX_FRAMES * PAGE_SIZE)
    length = stretches.length
    far = (length > limit) | (stretches.start > limit - np.minimum(length, limit))
    if not far.any():
        return stretches
    sentence = (
        f"{path} says that it holds memory at physical address {stretches.start[far][0]:#x} and"
        f" beyond {int(limit):#x} (16 TiB), where this program stops"
    )
    if far.all():
        raise BadInputError(sentence)
    left_out = _pieces(int(far.sum()))
    report_damage(sentence, remarks, lenient=lenient, then=f"{left_out} left out")
    return stretches[~far]


def _within_file(
    path: Path, stretches: _Stretches, file_size: int, remarks: list[str], *, lenient: bool
) -> _Stretches:
    """Cut stretches at the end of the file."""
    end_of_file = np.uint64(file_size)
    available = end_of_file - np.minimum(stretches.offset, end_of_file)
    cut = stretches.length > available
    if not cut.any():
        return stretches
    length = np.minimum(stretches.length, available)
    missing = int((stretches.length - length).sum())
    first = (stretches.start + available)[cut].min()
    report_damage(
        f"{path} ends too early: {missing:,} bytes of memory are missing, the first of them at"
        f" physical address {first:#x}",
        remarks,
        lenient=lenient,
    )
    return replace(stretches, length=length)


def _once(
    path: Path, extents: Extents, remarks: list[str], *, lenient: bool, aliases: bool
) -> Extents:
    """Keep one place of each frame: that of the extent that begins at the lowest frame."""
    end_before = np.maximum.accumulate(extents.first + extents.count)[:-1]
    overlap = np.concatenate(([0], np.maximum(end_before - extents.first[1:], 0)))
    if overlap.any() and not aliases:
        twice = int(extents.first[overlap > 0][0])
        report_damage(
            f"{path} holds page frame {twice:#x} in more than one place",
            remarks,
            lenient=lenient,
            then="the place listed for the lower address was used",
        )
    first, offset = extents.first + overlap, extents.offset + overlap * PAGE_SIZE
    return Extents(first, extents.count - overlap, offset)[overlap < extents.count]


def _readable(path: Path, extents: Extents) -> Extents:
    """Leave out the frames whose bytes the container around the file cannot give."""
    if not isinstance(path, InsidePath) or not path.inside or not len(path.inside.missing):
        return extents
    rest = _without(extents, path.inside.missing)
    if not len(rest.first):
        raise BadInputError(f"{path} holds no page of memory that can be read")
    return replace(rest, lost=runs_without(extents.runs, rest.runs))


def _without(extents: Extents, missing: NDArray[np.int64]) -> Extents:
    """Leave out the frames with a byte in one of the missing stretches of the file."""
    columns: list[list[int]] = [[], [], []]
    starts, ends = missing.T
    for first, count, offset in zip(
        *(column.tolist() for column in (extents.first, extents.count, extents.offset)), strict=True
    ):
        done = 0
        low = int(np.searchsorted(ends, offset, side="right"))
        high = int(np.searchsorted(starts, offset + count * PAGE_SIZE))
        for start, end in missing[low:high].tolist():
            before = max(0, start - offset) // PAGE_SIZE
            if before > done:
                for column, value in zip(
                    columns, (first + done, before - done, offset + done * PAGE_SIZE), strict=True
                ):
                    column.append(value)
            done = max(done, -(-(end - offset) // PAGE_SIZE))
        if done < count:
            for column, value in zip(
                columns, (first + done, count - done, offset + done * PAGE_SIZE), strict=True
            ):
                column.append(value)
    return Extents(*(np.array(column, np.int64) for column in columns))


def _pieces(count: int) -> str:
    return "one piece was" if count == 1 else f"{count:,} pieces were"


def _join(extents: Extents) -> Extents:
    """Sort by frame, and join stretches that overlap or adjoin both in memory and in the file."""
    if extents.first.size == 0:
        return extents
    # Stretches that imply the same place of frame 0 in the file can be joined.
    origin = extents.offset - extents.first * PAGE_SIZE
    order = np.lexsort((extents.first, origin))
    extents, origin = extents[order], origin[order]
    group = np.cumsum(np.concatenate(([0], origin[1:] != origin[:-1])))
    base_of_group = group * (MAX_FRAMES + 1)
    end = np.maximum.accumulate(base_of_group + extents.first + extents.count) - base_of_group
    begins = np.concatenate(
        ([True], (extents.first[1:] > end[:-1]) | (group[1:] != group[:-1])),
    )
    starts = np.flatnonzero(begins)
    first, offset = extents.first[starts], extents.offset[starts]
    count = end[np.concatenate((starts[1:] - 1, [end.size - 1]))] - first
    return Extents(first, count, offset)[np.argsort(first, kind="stable")]


def _in_blocks(stretches: Iterable[tuple[int, int]], at_once: int) -> Iterator[tuple[int, int]]:
    """Cut stretches of pages, each given by its first page and its length, where blocks end.

    Pieces are not longer than `at_once`.
    """
    for first, count in stretches:
        end = first + count
        while first < end:
            block_end = (first // base.BLOCK_FRAMES + 1) * base.BLOCK_FRAMES
            pages = min(block_end, first + at_once, end) - first
            yield first, pages
            first += pages


class MappedDump(Dump):
    """A dump whose frames have given places in a file."""

    def __init__(
        self,
        path: Path,
        format_: str,
        extents: Extents,
        *,
        source: Path | None = None,
        left_out: NDArray[np.int64] = NO_RUNS,
        notes: Mapping[str, int | bytes] | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        """`source` is the file that holds the pages, if it is not `path` itself."""
        left_out = joined_runs(left_out, extents.lost)
        super().__init__(
            path, format_, extents.runs, left_out=left_out, notes=notes, remarks=remarks
        )
        self._extents = extents
        self._source = source or path

    def each_block(
        self, work: BlockWork[_Result], within: range | None = None
    ) -> Iterator[_Result]:
        """Pass views of the file to `work`, without the holes of a sparse file."""
        with self._open() as file:

            def scan(window: _Window) -> _Result:
                count = window.frames.size
                result = work(window.frames, file.view(window.offset, count))
                file.drop(window.offset, count)
                return result

            yield from ahead(scan, self._windows(file, within))

    @contextmanager
    def _open(self) -> Iterator[PagesFile]:
        if self._is_closed:
            raise ValueError(f"{self.path} is closed")
        with reading(self._source), self._source.open("rb", buffering=0) as file:
            yield open_pages(self._source, file, self._end)

    def _windows(self, file: PagesFile, within: range | None) -> Iterator[_Window]:
        """Go through the file's pages, not the runs: a bitmap's many short runs adjoin there.

        Windows end at multiples of a block in the file, wherever its holes are: so all machines
        that share a file cut it in the same places, even if only some of them see the holes.
        """
        extents = self._extents
        end = extents.offset + extents.count * PAGE_SIZE
        edges = np.flatnonzero(extents.offset[1:] != end[:-1]) + 1
        edges = np.concatenate(([0], edges, [end.size]))
        if within is not None:  # a dump has many ranges, so the search begins at the range
            first = np.searchsorted(extents.first[edges[:-1]], within.start, side="right") - 1
            stop = np.searchsorted(extents.first[edges[:-1]], within.stop)
            edges = edges[max(first, 0) : stop + 1]
        for low, high in pairwise(edges.tolist()):
            offset = int(extents.offset[low])
            count = (int(end[high - 1]) - offset) // PAGE_SIZE
            blocks = range(0, count, base.BLOCK_FRAMES)
            if within is not None:
                blocks = self._blocks_within(blocks, within, low, high)
            if blocks:
                offset += blocks.start * PAGE_SIZE
                count = min(blocks.stop, count) - blocks.start
                for page, pages in _in_blocks(file.data(offset, count), file.block_frames):
                    place = offset + page * PAGE_SIZE
                    yield _Window(self._frames_from(place, pages, low, high), place)

    def _blocks_within(self, blocks: range, within: range, low: int, high: int) -> range:
        """The blocks, given by their first pages, that begin within some frames."""

        def frame(page: int) -> int:
            return self._frame_at(int(self._extents.offset[low]) + page * PAGE_SIZE, low, high)

        first = bisect_left(blocks, within.start, key=frame)
        return blocks[first : bisect_left(blocks, within.stop, key=frame)]

    def _frame_at(self, place: int, low: int, high: int) -> int:
        """The frame at a byte of the file, which lies in an extent from `low` to below `high`."""
        extents = self._extents
        number = bisect_right(extents.offset, place, low, high) - 1
        return int(extents.first[number]) + (place - int(extents.offset[number])) // PAGE_SIZE

    def _frames_from(self, place: int, pages: int, low: int, high: int) -> NDArray[np.int64]:
        """The frames of some pages that begin at a byte of the file; as _frame_at."""
        if high - low == 1:
            first = self._frame_at(place, low, high)
            return np.arange(first, first + pages)
        extents = self._extents
        places = place + np.arange(pages) * PAGE_SIZE
        run = np.searchsorted(extents.offset[low:high], places, side="right") + low - 1
        frames: NDArray[np.int64] = extents.first[run] + (places - extents.offset[run]) // PAGE_SIZE
        return frames

    def plain_pages(self) -> PlainPages | None:
        """All frames."""
        if is_content(self._source):
            return None
        extents = self._extents
        return PlainPages(self._source, extents.first, extents.count, extents.offset)

    def read_frames(self, frames: NDArray[np.int64]) -> Words:
        """Gather frames from the file."""
        frames = np.asarray(frames, dtype=np.int64)
        pages = np.empty((frames.size, PAGE_SIZE // 8), dtype=np.uint64)
        with reading(self._source):
            file = self._file
            file.check_size()
            if frames.size == 1:  # searches that follow lists read page by page
                self._read_one(file, int(frames[0]), pages)
                return pages
            for start in range(0, frames.size, _GATHER_FRAMES):
                part = slice(start, start + _GATHER_FRAMES)
                self._gather(file, frames[part], pages[part])
        return pages

    def _read_one(self, file: PagesFile, frame: int, pages: Words) -> None:
        """As _gather, but much faster for a single frame."""
        extents = self._extents
        index = bisect_right(extents.first, frame) - 1
        inside = frame - int(extents.first[index])
        if index < 0 or inside >= extents.count[index]:
            pages[:] = 0
            return
        file.gather(extents.offset[index : index + 1] + inside * PAGE_SIZE, pages)

    def _gather(self, file: PagesFile, frames: NDArray[np.int64], pages: Words) -> None:
        extents = self._extents
        index = extents.first.searchsorted(frames, side="right") - 1
        inside = frames - extents.first[index]
        is_held = (index >= 0) & (inside < extents.count[index])
        place = extents.offset[index] + inside * PAGE_SIZE
        if is_held.all():  # as in most dumps
            file.gather(place, pages)
            return
        pages[~is_held] = 0
        if is_held.any():
            held = np.empty((np.count_nonzero(is_held), pages.shape[1]), pages.dtype)
            file.gather(place[is_held], held)
            pages[is_held] = held

    @cached_property
    def _file(self) -> PagesFile:
        with self._open() as file:
            return file

    def release(self) -> None:
        """As in Dump; the next read maps the file again."""
        super().release()
        if "_file" in vars(self):
            self._file.drop(0, self._end // PAGE_SIZE)

    def close(self) -> None:
        """Close the file."""
        super().close()
        self.__dict__.pop("_file", None)

    @property
    def _end(self) -> int:
        return int((self._extents.offset + self._extents.count * PAGE_SIZE).max())
