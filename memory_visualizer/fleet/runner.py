"""The tasks of a fleet, done by Dask: by processes of this machine, or by a running cluster.

Dask gives a task whose worker ended to another worker. All else that goes wrong with a dump is in
its outcome, see task.py. Dask is imported when a fleet is run, and not before.
"""

import contextlib
import logging
import queue
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import count
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from memory_visualizer.errors import MissingLibraryError
from memory_visualizer.fleet.outcome import Outcome, write_outcome
from memory_visualizer.fleet.sources import Source
from memory_visualizer.fleet.task import ClusterError, Options, Result
from memory_visualizer.packages import how_to_get
from memory_visualizer.printable import counted
from memory_visualizer.version import __version__

_LIBRARIES = ("dask", "distributed", "cryptography", "pyarrow")
_CONNECT_SECONDS = 10
_TICK_SECONDS = 0.5
"""How often the state of the cluster is looked at while no dump gets done."""
_TICKS_WITHOUT_WORKERS = 10
"""After how many of these it is told that there are no workers."""

_LOCAL_CONFIG: Mapping[str, Any] = {
    # A worker gets its next dump when it has done one, so its end costs the running one only.
    "distributed.scheduler.worker-saturation": 1.0,
    # Two ends of a worker, and two more while no other dump is analysed, are enough of a hint.
    "distributed.scheduler.allowed-failures": 1,
    # No pages that tell other users of the machine what is analysed.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


@dataclass(frozen=True)
class Place:
    """Where the tasks are done."""

    scheduler: str | None = None
    """The address of a running scheduler, such as ``tcp://host:8786``; None for this machine."""
    workers: int | None = None
    """How many processes on this machine; None for one a core."""


def check_libraries() -> None:
    """Raise MissingLibraryError where a library is missing that a fleet needs."""
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise MissingLibraryError(
            f"a fleet needs {', '.join(missing)}, which {_are(missing)} not installed"
            f" ({how_to_get(' '.join(missing))})"
        )


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def results(
    sources: Sequence[Source],
    folder: Path,
    options: Options,
    place: Place,
    *,
    force: bool = False,
    remark: Callable[[str], None] = lambda _: None,
) -> Iterator[Result]:
    """Analyse all dumps, and yield each result as soon as it is there, in any order.

    The outputs go to `folder`, an absolute path that exists. `remark` is told if the scheduler has
    no workers, which is waited for. ClusterError if the scheduler cannot
    be reached, goes away, or its workers cannot do the tasks; what was yielded before is done, and
    nothing half is left. MissingLibraryError where Dask is not installed.
    """
    check_libraries()
    with _client(place) as client:
        run = _Run(client, folder, options, force=force, remark=remark)
        try:
            yield from run.results(sources)
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
        # A dump may only have waited for the worker that another one brought to its end.
        for source in again:
            self._start(source)
            future = self._next()
            self._sources.clear()
            yield self._result(source, future)

    def cancel(self) -> None:
        """Take back what is not done yet."""
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
        error = future.exception()
        if isinstance(error, ClusterError):
            raise error
        if isinstance(error, ImportError):
            raise ClusterError(
                f"the workers at {self._address} do not have all that Memory Visualizer needs:"
                f" {error}"
            )
        if _lost_its_worker(future):
            sentence = (
                "each worker that analysed it ended: it took too much memory, or its file got"
                " shorter or its disk failed while it was read"
            )
        else:
            sentence = f"{type(error).__name__}: {error}"
        failed = Outcome(source.url, source.name, options=asdict(self._options), sentence=sentence)
        with contextlib.suppress(OSError):
            write_outcome(self._folder, failed)
        return Result(failed)


def _task() -> Callable[..., Any]:
    """The function of a task, for a scheduler and workers that may not have this package.

    A function within a function is sent as its code, and the arguments are plain: the scheduler
    needs no package, and a worker without it tells so. It would end if it could not read a task.
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


@contextlib.contextmanager
def _client(place: Place) -> Iterator[Any]:
    """The connection to a running scheduler, or to one that lives as long as the block."""
    with _quiet():
        if place.scheduler:
            with _connected(place.scheduler) as client:
                yield client
        else:
            with _local(place.workers) as client:
                yield client


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    from distributed import Client

    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ClusterError(f"no scheduler answers at {address}: {error}") from error
    with contextlib.closing(client):
        yield client


@contextlib.contextmanager
def _local(workers: int | None) -> Iterator[Any]:
    """A cluster of this machine's own: a process for each core, and a share of memory for each.

    It listens on the loopback address only. Whoever reaches a scheduler can run code as its user,
    and each user of a machine reaches loopback addresses, so it speaks TLS with keys that only
    these processes have.
    """
    import dask
    from distributed import Client, LocalCluster, Security

    with dask.config.set(_LOCAL_CONFIG), contextlib.ExitStack() as stack:
        with _undisturbed():
            cluster = LocalCluster(
                n_workers=workers or dask.system.CPU_COUNT,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                security=Security.temporary(),
                dashboard_address=None,
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                silence_logs=logging.CRITICAL,
            )
            stack.callback(_close, cluster)
            client = Client(cluster, set_as_default=False)
            stack.callback(_close, client)
        yield client


def _close(opened: Any) -> None:
    with _undisturbed():
        opened.close()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let signals wait for the end of the block, since Dask starts and stops as a whole or badly.

    Ctrl-C in a terminal reaches all its processes. Threads and processes that begin in the block
    never see it: the workers are ended by this process. (A thread inherits the mask of the one that
    starts it, a process that of its thread: pthread_sigmask(3), execve(2).)
    """
    if not hasattr(signal, "pthread_sigmask") or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    resource_tracker.ensure_running()  # its first start would let Ctrl-C through to workers
    came: list[int] = []
    ends = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number)]
    handlers = {number: signal.getsignal(number) for number in ends}
    for number in ends:
        signal.signal(number, lambda number, _: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in came:
            signal.raise_signal(number)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Dask logs what this module tells in sentences."""
    import distributed  # noqa: F401 - it sets the levels when it is imported

    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
