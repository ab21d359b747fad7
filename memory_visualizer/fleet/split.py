"""One large dump, read by many workers: its scan is cut into ranges of frames.

Each worker opens the dump for itself, from storage that all of them share, scans the blocks of its
range, and sends back its findings, which are small. One machine takes the findings in the order of
the blocks, in the same way as the findings of its own threads. So the result is that of one
machine, even where a limit cuts.

    with ProcessPoolExecutor(4) as pool:
        snapshot = memory_visualizer.open("large.raw", scanner=SplitScan(pool, workers=4))
"""

import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np

from memory_visualizer.errors import BadInputError, reading
from memory_visualizer.formats.base import Dump, Findings, Progress, Visitor
from memory_visualizer.formats.files import file_size
from memory_visualizer.formats.inside import is_unpacked_first
from memory_visualizer.formats.opening import fingerprint
from memory_visualizer.formats.paths import as_path
from memory_visualizer.units import PAGE_SIZE

AUTOMATIC_SIZE = 64 << 30
"""Dumps of this many bytes or more are always split."""
_SMALLEST_RANGE = 1 << 18
"""Frames (1 GiB): about a second of work, so that the overhead of a task does not count."""
_MAX_RANGES = 1 << 10
"""The visitors are sent with each range. They hold the numbers of at most a hundredth of all
frames: with this many ranges, sending them adds a fiftieth to the bytes of the dump."""
_AHEAD = 4
"""Ranges under way or waiting to be taken, for each worker."""


class Future(Protocol):
    """The methods of a future that are used here."""

    def result(self) -> Any:
        """Wait for the result, or raise its error."""

    def cancel(self) -> Any:
        """Try to cancel the work."""


class Executor(Protocol):
    """The used part of concurrent.futures.Executor; Client.get_executor() of Dask fits, too."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any) -> Future:
        """Call a function of a module in a worker."""


@dataclass(frozen=True)
class SplitScan:
    """A scanner (formats.base.Scanner) whose blocks are read by workers.

    The workers must see the dump's files under the same paths.
    """

    executor: Executor
    workers: int
    """How many ranges are worked on at the same time."""
    range_frames: int | None = None
    """Held frames in a range; None for what suits the dump."""
    say: Callable[[str], object] = str
    """Called with a sentence before each scan of a dump that only one machine can scan."""

    def __call__(
        self,
        dump: Dump,
        /,
        visitors: Sequence[Visitor[Any]],
        progress: Progress | None = None,
        *,
        until: Callable[[], bool] | None = None,
    ) -> None:
        """As Dump.scan; a dump that cannot be shared (see why_whole) is scanned here.

        BadInputError also if a worker finds another file under the dump's path. Errors of the
        executor, as when its workers are lost, are raised as they are.
        """
        if reason := why_whole(dump):
            self.say(reason)
            findings = dump.look_through(visitors)
            dump.take_findings(visitors, findings, progress, until=until)
            return
        count = self.range_frames or max(_SMALLEST_RANGE, -(-dump.size // PAGE_SIZE // _MAX_RANGES))
        job = _packed_job(dump, visitors)
        findings = self._in_order(job, ranges_of(dump, count))
        dump.take_findings(visitors, findings, progress, until=until)

    def _in_order(self, job: bytes, ranges: Iterable[range]) -> Iterator[Findings]:
        """Yield the findings of each range, one range after another."""
        submit = partial(self.executor.submit, look_through, job)
        with closing(each_in_order(submit, ranges, _AHEAD * self.workers)) as submitted:
            for future, _ in submitted:
                yield from future.result()


_Future = TypeVar("_Future", bound=Future)


def each_in_order(
    submit: Callable[[range], _Future], ranges: Iterable[range], ahead: int
) -> Generator[tuple[_Future, range], None, None]:
    """Submit ranges, so many ahead, and yield each with its future; at the end, cancel the rest."""
    under_way: deque[tuple[_Future, range]] = deque()
    try:
        for within in ranges:
            under_way.append((submit(within), within))
            if len(under_way) >= ahead:
                yield under_way.popleft()
        while under_way:
            yield under_way.popleft()
    finally:
        for future, _ in under_way:
            future.cancel()


def is_large(url: str) -> bool:
    """Whether a dump's file has AUTOMATIC_SIZE or more; False if it cannot be read here."""
    try:
        path = as_path(url)
        with reading(path), path.open("rb", buffering=0) as file:
            return file_size(file) >= AUTOMATIC_SIZE
    except BadInputError:
        return False


def why_whole(dump: Dump) -> str:
    """A sentence if a dump can only be scanned by one machine; empty otherwise."""
    if is_unpacked_first(dump.path):
        return f"{dump.path} has to be unpacked first, so one machine scans all of it"
    if dump.reopen is None:
        return f"{dump.path} cannot be opened by other machines, so one machine scans all of it"
    return ""


def ranges_of(dump: Dump, count: int) -> list[range]:
    """Adjoining ranges of PFNs that cover a dump, with `count` held frames in each."""
    starts, frames = dump.runs.T
    before = np.cumsum(frames) - frames
    cuts = np.arange(count, int(frames.sum()), count)
    run = np.searchsorted(before, cuts, side="right") - 1
    places = (starts[run] + cuts - before[run]).tolist()
    return [range(first, end) for first, end in pairwise([0, *places, dump.frame_count])]


def look_through(job: bytes, within: range) -> list[Findings]:
    """The work of a worker: the findings of a job's visitors in a range of frames."""
    dump, visitors = _unpacked_job(job)
    return list(dump.look_through(visitors, within))


def _packed_job(dump: Dump, visitors: Sequence[Visitor[Any]]) -> bytes:
    """A pickle of the dump's place, of proof of its identity, and of each visitor's first step."""
    return pickle.dumps((dump, _identity(dump), [visitor.look for visitor in visitors]))


# A worker scans many ranges of a job, and opens the dump once.
@lru_cache(maxsize=1)
def _unpacked_job(job: bytes) -> tuple[Dump, list[Visitor[Any]]]:
    dump, identity, looks = pickle.loads(job)
    if _identity(dump) != identity:
        raise BadInputError(f"{dump.path} is not the same file on all machines")
    return dump, [Visitor(look, _take_nothing) for look in looks]


def _identity(dump: Dump) -> tuple[str, int, int]:
    return fingerprint(dump.path), dump.frame_count, dump.size


def _take_nothing(_: object) -> None:
    """Workers only look: the machine that joins their findings takes them."""
