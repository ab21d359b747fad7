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


@contextlib.contextmanager
def connected(place: Place) -> Iterator[Any]:
    """The connection to a running scheduler, or to one that lives as long as the block."""
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
        # A worker that has just taken another one's place would end with an outcry.
        with contextlib.suppress(TimeoutError):
            client.wait_for_workers(len(cluster.workers), timeout=_START_SECONDS)


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
    """Whether a log of asyncio, on an error that nobody fetched, is not on one of Dask's own.

    Ctrl-C leaves some behind, which are told when Python finds that nobody refers to them.
    """
    error = record.exc_info[1] if record.exc_info else None
    return not type(error).__module__.startswith("distributed.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Dask logs what this module tells in sentences."""
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
