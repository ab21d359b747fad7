"""The cluster of a fleet: processes of this machine, or a scheduler that runs already.

Dask is imported when a cluster is needed, and not before.
"""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import resource_tracker
from typing import Any

from memory_visualizer.errors import MissingLibraryError
from memory_visualizer.fleet.task import ClusterError
from memory_visualizer.packages import how_to_get

_LIBRARIES = ("dask", "distributed", "cryptography", "pyarrow")
_CONNECT_SECONDS = 10
_START_SECONDS = 10

_LOCAL_CONFIG: Mapping[str, Any] = {
    # A worker has one dump at a time, so the end of a worker costs one dump.
    "distributed.scheduler.worker-saturation": 1.0,
    # A dump that ended two workers, and two more while it was analysed alone, is to blame.
    "distributed.scheduler.allowed-failures": 1,
    # No web pages: they would tell other users of the machine which dumps are analysed.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


@dataclass(frozen=True)
class Place:
    """Where the tasks are done."""

    scheduler: str | None = None
    """The address of a running scheduler, such as ``tcp://host:8786``; None for this machine."""
    workers: int | None = None
    """The number of processes on this machine; None for one per core."""


def check_libraries() -> None:
    """Raise MissingLibraryError if a library that a fleet needs is missing."""
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise MissingLibraryError(
            f"a fleet needs {', '.join(missing)}, which {_are(missing)} not installed"
            f" ({how_to_get(' '.join(missing))})"
        )


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


@contextlib.contextmanager
def connected(place: Place) -> Iterator[Any]:
    """The connection to a running scheduler, or to a new one that ends with the block."""
    with _quiet():
        if place.scheduler:
            with _reached(place.scheduler) as client:
                yield client
        else:
            with _local(place.workers) as client:
                yield client


@contextlib.contextmanager
def _reached(address: str) -> Iterator[Any]:
    from distributed import Client, Security

    is_encrypted = address.startswith("tls://")
    if is_encrypted and Security().get_connection_args("client").get("ssl_context") is None:
        raise ClusterError(
            f"{address} asks for a certificate, but Dask's configuration names none"
            " (distributed.comm.tls)"
        )
    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ClusterError(f"no scheduler answers at {address}: {error}") from error
    with contextlib.closing(client):
        yield client


@contextlib.contextmanager
def _local(workers: int | None) -> Iterator[Any]:
    """A cluster on this machine: a process for each core, each with a share of the memory.

    It listens on the loopback address only. Anyone who reaches a scheduler can run code as its
    user, and every user of a machine reaches the loopback address, so the cluster speaks TLS with
    keys that only its processes have.
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
        # A worker that has just taken another one's place would end with an outcry.
        with contextlib.suppress(TimeoutError):
            client.wait_for_workers(len(cluster.workers), timeout=_START_SECONDS)


def _close(opened: Any) -> None:
    with _undisturbed():
        opened.close()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold signals back until the end of the block, since Dask must not stop halfway.

    Ctrl-C in a terminal reaches all its processes. Threads and processes that begin in the block
    never see it: this process ends the workers. (A thread inherits the signal mask of its parent
    thread, and so does a process: pthread_sigmask(3), execve(2).)
    """
    if not hasattr(signal, "pthread_sigmask") or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    resource_tracker.ensure_running()  # its first start would let Ctrl-C through to workers
    came: list[int] = []
    ends = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers = [(number, signal.getsignal(number)) for number in ends]
    for number in ends:
        signal.signal(number, lambda number, _: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for one in came:
            signal.raise_signal(one)


def _is_not_of_dask(record: logging.LogRecord) -> bool:
    """Whether a log record of asyncio is not about an unretrieved error of Dask's own.

    Ctrl-C leaves such errors behind, and asyncio logs them when Python frees them.
    """
    error = record.exc_info[1] if record.exc_info else None
    return not type(error).__module__.startswith("distributed.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the logs of Dask that repeat this module's own sentences."""
    import distributed  # noqa: F401 - it sets the levels when it is imported

    logging.getLogger("asyncio").addFilter(_is_not_of_dask)
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
