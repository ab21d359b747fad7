"""The interface of every dump, whatever its format."""

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import joined_runs, runs_without
from memory_visualizer.formats.inside import InsidePath
from memory_visualizer.limits import Budget
from memory_visualizer.printable import binary_size, printable
from memory_visualizer.scratch import column
from memory_visualizer.units import PAGE_SIZE

BLOCK_FRAMES = 4096
"""Frames in a block of `Dump.each_block`, at most: 16 MiB."""

_MAX_THREADS = 4  # more threads are not faster, and each needs memory for a block
_is_one_of_several = False
_Item = TypeVar("_Item")
_Part = TypeVar("_Part")
_Result = TypeVar("_Result")

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called from time to time with the bytes done, and the bytes in all (None: unknown)."""

Words: TypeAlias = NDArray[np.uint64]
"""The contents of n frames, shape (n, 512): little-endian words as the processor sees them.

Words in a mapped file may be unaligned."""

BlockWork: TypeAlias = Callable[[NDArray[np.int64], Words], _Result]
"""Called with PFNs, and the contents of these frames."""

Findings: TypeAlias = tuple[int, list[Any]]
"""The last PFN of a block, and the findings of each visitor in the block; None for no findings."""


@dataclass(frozen=True)
class Visitor(Generic[_Part]):
    """A search in two steps, so that threads, or other machines, can look at blocks in any order.

    The findings are taken in the order of the blocks, so a limit always cuts at the same place.
    """

    look: BlockWork[_Part | None]
    """Returns the findings in a block, or None, without any side effect. A bound method, or a
    function of a module, so that it can be pickled."""
    take: Callable[[_Part], None]
    """Takes the findings of a block; called for block after block, by ascending PFN."""


class Search(ABC, Generic[_Part]):
    """A search of a dump's contents in the two steps of a Visitor."""

    @abstractmethod
    def look(self, frames: NDArray[np.int64], words: Words) -> _Part | None:
        """Search frames, given with their contents, and change nothing: see Visitor.look."""

    @abstractmethod
    def take(self, part: _Part) -> None:
        """Take the findings of `look` in a block."""

    @property
    def visitor(self) -> Visitor[_Part]:
        """For Dump.scan."""
        return Visitor(self.look, self.take)

    def scan(self, frames: NDArray[np.int64], words: Words) -> None:
        """Look, and take at once."""
        if (part := self.look(frames, words)) is not None:
            self.take(part)


class Scanner(Protocol):
    """Shows the contents of dumps to visitors, as Dump.scan does; perhaps on many machines."""

    def __call__(
        self,
        dump: "Dump",
        /,
        visitors: Sequence[Visitor[Any]],
        progress: Progress | None = None,
        *,
        until: Callable[[], bool] | None = None,
    ) -> None:
        """As Dump.scan."""


NO_RUNS = np.empty((0, 2), np.int64)


@dataclass(frozen=True, eq=False)
class PlainPages:
    """The places of frames that lie uncompressed in a file: stretches by ascending PFN, in columns.

    Other frames of the dump may be packed, or be zeros that the file does not hold.
    """

    file: Path
    """The file, which may differ from `Dump.path`."""
    first: NDArray[np.int64]
    """PFN of the first frame."""
    count: NDArray[np.int64]
    """Number of frames, at least one."""
    offset: NDArray[np.int64]
    """Byte of the file at which the first frame begins."""

    @classmethod
    def of_pages(
        cls, file: Path, frame: NDArray[np.int64], offset: NDArray[np.int64], pages: int = 1
    ) -> "PlainPages | None":
        """Join stretches of `pages` frames each, by ascending PFN; None if there are none."""
        if not len(frame):
            return None
        apart = (np.diff(frame) != pages) | (np.diff(offset) != pages * PAGE_SIZE)
        starts = np.append(0, np.flatnonzero(apart) + 1)
        count = np.diff(starts, append=len(frame)) * pages
        return cls(file, frame[starts], count, offset[starts])

    def between(self, first: int, end: int) -> "PlainPages":
        """The frames from PFN `first` to below `end`."""
        starts = np.maximum(self.first, first)
        count = np.minimum(self.first + self.count, end) - starts
        offset = self.offset + (starts - self.first) * PAGE_SIZE
        inside = count > 0
        return PlainPages(self.file, starts[inside], count[inside], offset[inside])


class Dump(ABC):
    """Physical memory as a dump file holds it; the file is only ever read."""

    path: Path
    """The path of the file that was opened."""
    format: str
    """The format's usual name, such as ``ELF core``."""
    runs: NDArray[np.int64]
    """Shape (n, 2): first frame and number of frames of each run, a stretch of consecutive frames
    that the dump holds; ascending, and no two runs are adjacent. A frame is held if the dump holds
    all of its bytes."""
    notes: Mapping[str, int | bytes]
    """Values about the machine from the headers, under the format's names for them."""
    left_out_runs: NDArray[np.int64]
    """As `runs`, for frames of the machine that the dump leaves out on purpose, or holds in a form
    that cannot be read."""
    remarks: Sequence[str]
    """Sentences for the user on data that was left out or is unknown."""
    reopen: Callable[[], "Dump"] | None = None
    """Opens the same dump in the same way again, if it was opened from a file."""
    scanner: Scanner | None = None
    """Does `scan`; None for the threads of this machine."""
    _is_closed = False
    sha256: str | None = None
    """SHA-256 of the file that was opened, in hexadecimal, if it was computed."""

    def __init__(
        self,
        path: Path,
        format_: str,
        runs: NDArray[np.int64],
        *,
        left_out: NDArray[np.int64] = NO_RUNS,
        notes: Mapping[str, int | bytes] | None = None,
        remarks: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.format = format_
        self.runs = runs
        self.left_out_runs = left_out
        self.notes = MappingProxyType(dict(notes or {}))
        self.remarks = tuple(remarks)

    def instead_of(self, whole: "Dump") -> Self:
        """Take the frames of `whole` that this dump does not hold as left out, and return it.

        They could not be read, but the machine has them, since the whole dump told their places.
        """
        self.left_out_runs = joined_runs(
            self.left_out_runs, whole.left_out_runs, runs_without(whole.runs, self.runs)
        )
        return self

    @classmethod
    @abstractmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> "Dump":
        """Read the headers of a dump of this format.

        BadInputError when the file cannot be read or is not such a dump; DamagedInputError when a
        part of it is missing or broken: `lenient` then reads the rest and adds to `remarks`.
        """

    def close(self) -> None:
        """Close the file now, rather than with the last reference to this object.

        A later read raises ValueError if the format needs the open file.
        """
        self._is_closed = True

    def release(self) -> None:
        """Give back memory: the file where read_frames has mapped it, and columns by PFN.

        The dump stays open: data that is needed later is read or made again.
        """
        for name in ("held", "left_out", "there"):
            vars(self).pop(name, None)

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the place of the dump, not its contents: the dump is opened again."""
        if self.reopen is None:
            raise TypeError(f"{self.format} was not opened from a file, and cannot be pickled")
        return self.reopen, (), {"sha256": self.sha256}

    def __repr__(self) -> str:
        return f"<{self.format} dump {printable(self.path.name)}: {binary_size(self.size)}>"

    @cached_property
    def budget(self) -> Budget:
        """The budget for its contents, which records each refusal."""
        return Budget(self.frame_count)

    @cached_property
    def frame_count(self) -> int:
        """The number of frames up to the last that is held or left out: all PFNs are below it."""
        return max(int(runs[-1].sum()) for runs in (self.runs, self.left_out_runs) if len(runs))

    @property
    def size(self) -> int:
        """Bytes in the frames that are held."""
        return int(self.runs[:, 1].sum()) * PAGE_SIZE

    @cached_property
    def held(self) -> NDArray[np.bool_]:
        """By PFN: whether the dump holds the frame."""
        return self._frames_in(self.runs)

    @cached_property
    def left_out(self) -> NDArray[np.bool_]:
        """By PFN: whether the frame is in `left_out_runs`, and not held."""
        left_out = self._frames_in(self.left_out_runs) & ~self.held
        left_out.flags.writeable = False
        return left_out

    @cached_property
    def there(self) -> NDArray[np.bool_]:
        """By PFN: whether the machine has the frame, held or left out."""
        if not len(self.left_out_runs):
            return self.held
        there = self.held | self.left_out
        there.flags.writeable = False
        return there

    def _frames_in(self, runs: NDArray[np.int64]) -> NDArray[np.bool_]:
        frames = column(self.frame_count, np.bool_)
        for first, count in runs.tolist():
            frames[first : first + count] = True
        frames.flags.writeable = False
        return frames

    def plain_pages(self) -> PlainPages | None:
        """The frames that lie uncompressed in a file on disk; None if there are none.

        None, too, for a dump in a container.

        OSError.
        """
        return None

    @abstractmethod
    def each_block(
        self, work: BlockWork[_Result], within: range | None = None
    ) -> Iterator[_Result]:
        """Yield the result of `work` for each block of the contents, in ascending order.

        `work` gets the PFNs, ascending and BLOCK_FRAMES at most, and the contents of these frames;
        held frames that are in no block are all zeros. It is called in several threads, some blocks
        ahead of the yielded results. The words are read-only, may lie in the mapped file, and must
        not be used after the call unless they are copied.

        With `within`, only blocks that begin within these PFNs: adjoining ranges together have the
        same blocks as the whole dump, each once.

        BadInputError when the file cannot be read, or ends before the size that it had when it
        was opened; DamagedInputError when it cannot be decoded.
        """

    @abstractmethod
    def read_frames(self, frames: NDArray[np.int64]) -> Words:
        """Copy the contents of the frames with these PFNs, in this order; PFNs may repeat.

        A frame that the dump does not hold is all zeros. Ascending `frames` are fastest. Errors as
        for `each_block`.
        """

    def scan(
        self,
        visitors: Iterable[BlockWork[object] | Visitor[Any]],
        progress: Progress | None = None,
        *,
        until: Callable[[], bool] | None = None,
    ) -> None:
        """Read all contents once, and show each block to each visitor, as `each_block` does.

        A visitor that is a function does all its work in several threads of this process; without
        such visitors, `scanner` does the scan. `progress` is told the bytes of held frames. `until`
        is called after each block, and ends the scan when it returns True. Errors as for
        `each_block`.
        """
        given = list(visitors)
        searches = [one for one in given if isinstance(one, Visitor)]
        if self.scanner and len(searches) == len(given):
            self.scanner(self, searches, progress, until=until)
            return
        both = [one if isinstance(one, Visitor) else Visitor(one, _ignore) for one in given]
        self.take_findings(both, self.look_through(both), progress, until=until)

    def look_through(
        self, visitors: Iterable[Visitor[Any]], within: range | None = None
    ) -> Iterator[Findings]:
        """The first step of a scan: yield the visitors' findings in each block.

        `within` and errors as for `each_block`.
        """
        looks = [one.look for one in visitors]

        def look(frames: NDArray[np.int64], words: Words) -> Findings:
            return int(frames[-1]), [look(frames, words) for look in looks]

        return self.each_block(look, within)

    def take_findings(
        self,
        visitors: Sequence[Visitor[Any]],
        findings: Iterable[Findings],
        progress: Progress | None = None,
        *,
        until: Callable[[], bool] | None = None,
    ) -> None:
        """The second step of a scan: let the visitors take the findings, which must ascend.

        `progress` and `until` as for `scan`.
        """
        starts, counts = self.runs.T
        held_before = np.cumsum(counts) - counts
        for last, parts in findings:
            for visitor, part in zip(visitors, parts, strict=True):
                if part is not None:
                    visitor.take(part)
            if progress:
                run = np.searchsorted(starts, last, side="right") - 1
                done = int(held_before[run] + last - starts[run]) + 1
                progress(done * PAGE_SIZE, self.size)
            if until and until():
                return
        if isinstance(self.path, InsidePath) and self.path.inside:
            self.path.inside.check()

    def zero_frames(self, progress: Progress | None = None) -> NDArray[np.bool_]:
        """Find the frames that hold nothing but zeros; one bool for each frame, by PFN.

        True for frames that are not held. `progress` and errors as for `scan`.
        """
        zeros = ZeroScan(self)
        self.scan([zeros.visitor], progress)
        return zeros.zero


def _ignore(_: object) -> None:
    """Take nothing: a function that is a visitor keeps its findings itself."""


def place_of(frames: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """The place of some ascending frames in a column by PFN; a slice if they are a run."""
    first, end = int(frames[0]), int(frames[-1]) + 1
    return slice(first, end) if end - first == len(frames) else frames


_Zeros: TypeAlias = tuple[slice | NDArray[np.int64], int, NDArray[np.uint8]]
"""The frames of a block, their number, and a bit for each: whether it is all zeros."""


class ZeroScan(Search[_Zeros]):
    """Finds the frames that hold nothing but zeros, during a scan of the dump."""

    def __init__(self, dump: Dump) -> None:
        self.zero: NDArray[np.bool_] = column(dump.frame_count, np.bool_)
        self.zero[:] = True
        """By PFN; True for frames that are not held."""

    # Static, so that the object with its column is not sent to other machines.
    @staticmethod
    def look(frames: NDArray[np.int64], words: Words) -> _Zeros:
        """Test some frames."""
        return place_of(frames), len(frames), np.packbits(zero_pages(words))

    def take(self, part: _Zeros) -> None:
        """Note which of the frames of a block are zeros."""
        place, count, bits = part
        self.zero[place] = np.unpackbits(bits, count=count).view(np.bool_)


def zero_pages(words: Words) -> NDArray[np.bool_]:
    """Find the pages of zeros among these; one bool for each."""
    # A few words rule out nearly all pages; only the remaining pages are read to their end.
    maybe = np.flatnonzero(words[:, 0] == 0)
    for word in _TELLING_WORDS:
        maybe = maybe[words[maybe, word] == 0]
    zero = np.zeros(len(words), np.bool_)
    for start in range(0, len(maybe), _PAGES_AT_ONCE):
        some = maybe[start : start + _PAGES_AT_ONCE]
        # A copy stays in the processor's cache, and is aligned whatever the pages are.
        zero[some] = np.bitwise_or.reduce(words[some], axis=1) == 0
    return zero


_TELLING_WORDS = (511, 256, 64)
"""Words at the end of a page, in its middle, and so on: partly filled pages begin or end there.
More words made most dumps slower, since each costs a memory access for every page of zeros."""
_PAGES_AT_ONCE = 256
"""A megabyte. Fewer pages take longer, since threads wait for each other between numpy's steps."""


def count_threads() -> int:
    """How many threads of this process look at blocks."""
    if _is_one_of_several:
        return 1
    affinity = getattr(os, "sched_getaffinity", None)  # the processors that it may use
    return min(len(affinity(0)) if affinity else os.cpu_count() or 1, _MAX_THREADS)


def use_one_thread() -> None:
    """From now on, look at blocks in one thread: this process is one of several for a scan."""
    global _is_one_of_several
    _is_one_of_several = True


def ahead(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield ``work(item)`` for each item in order, while threads work on the next items.

    A thread that ends an item finds another one waiting, even while the caller is busy. A single
    item needs no thread, whose start would cost more than most small dumps' blocks.
    """
    rest = iter(items)
    first = list(islice(rest, 2))
    if len(first) < 2:
        yield from map(work, first)
        return
    threads = count_threads()
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[_Result]] = deque()
        try:
            for item in chain(first, rest):
                under_way.append(pool.submit(work, item))
                if len(under_way) > 2 * threads:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def block_starts(frames: NDArray[np.int64], within: range | None) -> range:
    """The rows at which blocks of a column of ascending frames begin; see Dump.each_block."""
    starts = range(0, frames.size, BLOCK_FRAMES)
    if within is None:
        return starts
    first, end = np.searchsorted(frames[::BLOCK_FRAMES], [within.start, within.stop]).tolist()
    return starts[first:end]


def numbers_in(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """All frames in some runs (as `Dump.runs`), in their order."""
    first, count = runs.T
    before = np.cumsum(count) - count
    frames: NDArray[np.int64] = np.arange(int(count.sum())) + np.repeat(first - before, count)
    return frames


def runs_of(frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """The runs (as `Dump.runs`) of some ascending frames, at least one."""
    edges = np.flatnonzero(np.diff(frames, prepend=-2) != 1)
    return np.stack((frames[edges], np.diff(edges, append=len(frames))), axis=1)
