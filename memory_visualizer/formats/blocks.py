"""Dumps whose frames lie in compressed blocks, a few frames in each."""

from abc import abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats import base
from memory_visualizer.formats.base import (
    NO_RUNS,
    BlockWork,
    Dump,
    Words,
    ahead,
    block_starts,
    runs_of,
)
from memory_visualizer.formats.cache import PieceCache
from memory_visualizer.formats.files import ask, read_at
from memory_visualizer.formats.inside import lacks
from memory_visualizer.formats.reach import last_of_each
from memory_visualizer.units import PAGE_SIZE

_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class Blocks:
    """The places of the blocks in the file, in columns."""

    offset: NDArray[np.int64]
    """Byte of the file at which the packed contents begin."""
    size: NDArray[np.int64]
    """Packed bytes."""
    pages: NDArray[np.int64]
    """Pages unpacked."""
    kind: NDArray[np.int64]
    """The packing, by the format's own numbers."""


@dataclass(frozen=True, eq=False)
class Places:
    """The places of the frames in the blocks, by ascending PFN, in columns."""

    frame: NDArray[np.int64]
    """PFN."""
    block: NDArray[np.int32]
    """Number of the block."""
    row: NDArray[np.uint16]
    """Number of the page in the block."""

    def __getitem__(self, chosen: NDArray[np.intp] | NDArray[np.bool_]) -> "Places":
        return Places(self.frame[chosen], self.block[chosen], self.row[chosen])


class BlockList:
    """Blocks, collected one after another."""

    def __init__(self) -> None:
        columns: Sequence[array[int]] = [array("q") for _ in range(4)]
        self.columns = columns

    def append(self, offset: int, size: int, pages: int, kind: int) -> None:
        """Add a block."""
        for column, value in zip(self.columns, (offset, size, pages, kind), strict=True):
            column.append(value)

    def __len__(self) -> int:
        return len(self.columns[0])

    def blocks(self) -> Blocks:
        """All of them."""
        return Blocks(*(np.frombuffer(column, np.int64) for column in self.columns))


def place_frames(
    path: Path,
    frame: NDArray[np.int64],
    block: NDArray[np.int32],
    row: NDArray[np.uint16],
    *,
    lenient: bool,
    remarks: list[str],
) -> Places:
    """Sort frames that were found in the order of the file; the last place of a frame counts.

    DamagedInputError, unless `lenient`, for frames so far away that no machine has them there;
    BadInputError if no frame is left.
    """
    chosen = last_of_each(path, frame, lenient=lenient, remarks=remarks, tells_copies=True)
    return Places(frame[chosen], block[chosen], row[chosen])


class BlocksDump(Dump):
    """A dump of compressed blocks. Subclasses know how to unpack one."""

    def __init__(
        self,
        path: Path,
        format_: str,
        places: Places,
        blocks: Blocks,
        *,
        notes: Mapping[str, int | bytes] | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        """`places` has at least one frame; `blocks` may have blocks without frames.

        BadInputError if the file lies in a container that lacks all of the blocks.
        """
        lacking = lacks(path, blocks.offset, blocks.size)[places.block]
        if lacking.all():
            raise BadInputError(f"{path} holds no page of memory that can be read")
        left_out = runs_of(places.frame[lacking]) if lacking.any() else NO_RUNS
        places = places[~lacking]
        super().__init__(
            path, format_, runs_of(places.frame), left_out=left_out, notes=notes, remarks=remarks
        )
        self._places, self._blocks = places, blocks
        self._cache = PieceCache[NDArray[np.uint8]](lambda pages: pages.nbytes)
        """Blocks of which a part was read: other parts may follow soon."""

    @abstractmethod
    def _unpack(self, packed: bytes, pages: int, kind: int) -> bytes:
        """Unpack a block; DamagedInputError unless it has exactly so many pages."""

    def each_block(
        self, work: BlockWork[_Result], within: range | None = None
    ) -> Iterator[_Result]:
        """Unpack the frames for `work`."""
        total = self._places.frame.size
        with reading(self.path), self.path.open("rb", buffering=0) as file:

            def scan(start: int) -> _Result:
                part = slice(start, min(start + base.BLOCK_FRAMES, total))
                words = self._pages(file, self._places.block[part], self._places.row[part])
                words.flags.writeable = False
                return work(self._places.frame[part], words)

            yield from ahead(scan, block_starts(self._places.frame, within))

    def read_frames(self, frames: NDArray[np.int64]) -> Words:
        """Unpack the blocks with these frames."""
        frames = np.asarray(frames, dtype=np.int64)
        number = np.searchsorted(self._places.frame, frames)
        number[number == self._places.frame.size] = 0
        [held] = np.nonzero(self._places.frame[number] == frames)
        number = number[held]
        with reading(self.path), self.path.open("rb", buffering=0) as file:
            read = self._pages(file, self._places.block[number], self._places.row[number])
        if held.size == frames.size:
            return read
        words = np.zeros((frames.size, PAGE_SIZE // 8), np.uint64)
        words[held] = read
        return words

    def _pages(self, file: FileIO, block: NDArray[np.int32], row: NDArray[np.uint16]) -> Words:
        """The pages in these places; each block is unpacked once."""
        pages = np.empty((block.size, PAGE_SIZE), np.uint8)
        order = np.argsort(block, kind="stable")
        begins = np.flatnonzero(np.diff(block[order], prepend=-1))
        numbers = block[order[begins]]
        ask(file, self._blocks.offset[numbers], self._blocks.size[numbers])
        for wanted in np.split(order, begins[1:]) if order.size else ():
            number = int(block[wanted[0]])
            whole = wanted.size >= self._blocks.pages[number]
            unpack = partial(self._unpacked, file)
            unpacked = unpack(number) if whole else self._cache.get(number, unpack)
            pages[wanted] = unpacked[row[wanted]]
        return pages.view(np.uint64)

    def _unpacked(self, file: FileIO, number: int) -> NDArray[np.uint8]:
        blocks = self._blocks
        offset, size = int(blocks.offset[number]), int(blocks.size[number])
        pages, kind = int(blocks.pages[number]), int(blocks.kind[number])
        packed = read_at(file, size, offset)
        if len(packed) < size:
            raise BadInputError(f"{self.path} got shorter while it was read")
        try:
            unpacked = self._unpack(packed, pages, kind)
        except BadInputError as error:
            raise type(error)(f"{self.path}, the block at byte {offset:,}: {error}") from error
        return np.frombuffer(unpacked, np.uint8).reshape(pages, PAGE_SIZE)

    def _without_broken_blocks(self) -> Self:
        """Unpack all blocks; leave out broken ones."""
        used = np.unique(self._places.block)
        sound = np.ones(self._blocks.offset.size, np.bool_)
        with reading(self.path), self.path.open("rb", buffering=0) as file:

            def is_sound(number: int) -> bool:
                try:
                    self._unpacked(file, number)
                except DamagedInputError:
                    return False
                return True

            sound[used] = np.fromiter(ahead(is_sound, used.tolist()), np.bool_, used.size)
        if sound.all():
            return self
        kept = sound[self._places.block]
        if not kept.any():
            raise BadInputError(f"{self.path} holds no page of memory that can be read")
        lost = (
            f"{np.count_nonzero(~sound):,} broken blocks of {self.path} were left out, with"
            f" {np.count_nonzero(~kept):,} pages"
        )
        dump = type(self)(
            self.path,
            self.format,
            self._places[kept],
            self._blocks,
            notes=self.notes,
            remarks=[*self.remarks, lost],
        )
        return dump.instead_of(self)
