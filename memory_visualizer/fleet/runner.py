"""The tasks of a fleet, given to the workers of a cluster by Dask.

If a worker ends, Dask gives its task to another worker. All other failures of a dump are in its
outcome: see task.py.
"""

import contextlib
import queue
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from memory_visualizer.errors import MemoryVisualizerError
from memory_visualizer.fleet.cluster import Place, check_libraries, connected
from memory_visualizer.fleet.outcome import Outcome, write_outcome
from memory_visualizer.fleet.sources import Source
from memory_visualizer.fleet.split import SplitScan, is_large
from memory_visualizer.fleet.task import ClusterError, Options, Result, analyse
from memory_visualizer.formats.base import Progress
from memory_visualizer.printable import counted
from memory_visualizer.version import __version__

_TICK_SECONDS = 0.5
"""The time between two checks of the cluster while no dump gets done."""
_TICKS_WITHOUT_WORKERS = 10
"""The number of checks after which a remark tells that there are no workers."""


def results(
    sources: Sequence[Source],
    folder: Path,
    options: Options,
    place: Place,
    *,
    force: bool = False,
    split: bool = False,
    remark: Callable[[str], None] = lambda _: None,
    shown: Callable[[Source], AbstractContextManager[Progress | None]] = lambda _: nullcontext(),
) -> Iterator[Result]:
    """Analyse all dumps, and yield each result as soon as it is there, in any order.

    The outputs go to `folder`, an absolute path that exists. Large dumps come last, one at a time:
    this process analyses them, and all workers share their scan. With `split` this holds for all
    dumps; `shown` shows the progress of each such scan. While the scheduler has no workers, this
    waits, and tells `remark`. ClusterError if the scheduler cannot be reached, goes away, or its
    workers cannot do the tasks; dumps that were yielded before are complete, and no partial output
    is left. MissingLibraryError if Dask is not installed.
    """
    check_libraries()
    with connected(place) as client:
        run = _Run(client, folder, options, force=force, remark=remark)
        large = [source for source in sources if split or is_large(source.url)]
        try:
            yield from run.results([source for source in sources if source not in large])
            yield from run.shared(large, shown)
        finally:
            run.cancel()


class _Run:
    """The tasks that are under way."""

    def __init__(
        self,
        client: Any,
        folder: Path,
        options: Options,
        *,
        force: bool,
        remark: Callable[[str], None],
    ) -> None:
        self._client = client
        self._remark = remark
        self._folder = folder
        self._options = options
        self._force = force
        self._ended: queue.Queue[Any] = queue.Queue()
        self._sources: dict[Any, Source] = {}
        """By future."""
        self._left = 0

    def results(self, sources: Sequence[Source]) -> Iterator[Result]:
        """Start all tasks, and yield their results."""
        self._left = len(sources)
        for source in sources:
            self._start(source)
        again: list[Source] = []
        while self._sources:
            future = self._next()
            source = self._sources.pop(future)
            if _lost_its_worker(future):
                again.append(source)
            else:
                yield self._result(source, future)
        # Another dump may have ended the worker, so each of these is tried once more, alone.
        for source in again:
            self._start(source)
            future = self._next()
            self._sources.clear()
            yield self._result(source, future)

    def shared(
        self,
        sources: Sequence[Source],
        shown: Callable[[Source], AbstractContextManager[Progress | None]],
    ) -> Iterator[Result]:
        """Analyse dumps here, one after another, while all workers share their scans."""
        self._left = len(sources)
        for source in sources:
            scanner = SplitScan(
                _Executor(self._client, self._gone),
                workers=max(sum(self._client.nthreads().values()), 1),
                say=self._remark,
            )
            with shown(source) as progress:
                result = analyse(
                    source,
                    self._folder,
                    self._options,
                    force=self._force,
                    scanner=scanner,
                    progress=progress,
                )
            self._left -= 1
            yield result

    def cancel(self) -> None:
        """Cancel the tasks that are not done yet."""
        if self._sources and self._client.status == "running":
            self._client.cancel(list(self._sources), force=True)
        self._sources.clear()

    def _start(self, source: Source) -> None:
        future = self._client.submit(
            _task(),
            asdict(source),
            str(self._folder),
            asdict(self._options),
            __version__,
            self._force,
            key=f"memviz-{uuid.uuid4().hex}",
            pure=False,
        )
        self._sources[future] = source
        future.add_done_callback(self._ended.put)

    def _next(self) -> Any:
        """Wait for a task to end."""
        for tick in count(1):
            with contextlib.suppress(queue.Empty):
                future = self._ended.get(timeout=_TICK_SECONDS)
                if future.status in ("finished", "error"):
                    return future
                if future.status != "pending":  # cancelled or lost, with the scheduler
                    raise self._gone()
                future.add_done_callback(self._ended.put)  # its worker ended with the result
            if self._client.status != "running":
                raise self._gone()
            if tick == _TICKS_WITHOUT_WORKERS and not self._client.nthreads():
                self._remark(f"the scheduler at {self._address} has no workers yet")
        raise AssertionError

    def _gone(self) -> ClusterError:
        return ClusterError(
            f"the scheduler at {self._address} went away: {counted(self._left, 'dump')} left; the"
            " same command does the rest"
        )

    @property
    def _address(self) -> str:
        return str(self._client.scheduler.address)

    def _result(self, source: Source, future: Any) -> Result:
        if future.status == "finished":
            try:
                result: Result = future.result()
            except (OSError, CancelledError) as error:
                raise self._gone() from error
            self._left -= 1
            return result
        self._left -= 1
        fault = future.exception()
        if isinstance(fault, ClusterError):
            raise fault
        if isinstance(fault, ImportError):
            raise _lacking(fault)
        sentence = _ENDED if _lost_its_worker(future) else _told(fault)
        failed = Outcome(source.url, source.name, options=asdict(self._options), sentence=sentence)
        with contextlib.suppress(OSError):
            write_outcome(self._folder, failed)
        return Result(failed)


class _Executor:
    """The workers, for a scan that they share."""

    def __init__(self, client: Any, gone: Callable[[], ClusterError]) -> None:
        self._pool = client.get_executor(pure=False)
        self._gone = gone

    def submit(self, _: Callable[..., Any], /, *arguments: Any) -> "_Part":
        """Have a worker scan a range."""
        return _Part(self._pool.submit(_look(), __version__, *arguments), self._gone)


@dataclass(frozen=True)
class _Part:
    """The findings of a range that a worker scans."""

    future: Any
    gone: Callable[[], ClusterError]

    def result(self) -> Any:
        """Wait for the findings; the errors of Dask become ours."""
        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        try:
            return self.future.result()
        except KilledWorker as error:
            raise MemoryVisualizerError(_ENDED) from error
        except ImportError as error:
            raise _lacking(error) from error
        except (CancelledError, CommClosedError) as error:
            raise self.gone() from error

    def cancel(self) -> Any:
        """Try to cancel the work."""
        return self.future.cancel()


def _look() -> Callable[..., Any]:
    """The function that scans a range; it is sent in the same way as the function of `_task`."""

    def look_through_range(version: str, job: bytes, within: range) -> Any:
        from memory_visualizer.fleet import split, task

        task.check_version(version)
        return split.look_through(job, within)

    return look_through_range


_ENDED = (
    "each worker that analysed it ended: it took too much memory, or its file got shorter or its"
    " disk failed while it was read"
)


def _told(fault: BaseException) -> str:
    """What a task failed by, as a sentence."""
    if isinstance(fault, OSError) and fault.filename:
        return f"cannot write {fault.filename}: {fault.strerror or fault}"
    return f"{type(fault).__name__}: {fault}"


def _lacking(error: ImportError) -> ClusterError:
    return ClusterError(f"the workers lack a package that Memory Visualizer needs: {error}")


def _task() -> Callable[..., Any]:
    """The function of a task, for a scheduler and workers that may not have this package.

    A nested function is sent as its code, and the arguments are plain values: the scheduler needs
    no package, and a worker without the package says so. (A worker that cannot unpickle a task
    ends.)
    """

    def analyse_dump(
        source: dict[str, str], folder: str, options: dict[str, Any], version: str, force: bool
    ) -> Any:
        from memory_visualizer.fleet import task

        return task.analyse_plain(source, folder, options, version, force=force)

    return analyse_dump


def _lost_its_worker(future: Any) -> bool:
    from distributed import KilledWorker

    return future.status == "error" and isinstance(future.exception(), KilledWorker)
