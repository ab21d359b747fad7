"""One large dump, scanned by processes of this machine.

Threads of one process wait for each other between numpy's steps, for which Python lets only one of
them go on. At 8 GiB and with two processors, processes take three quarters of the threads' time.
They are forked, so that they have the open dump and the searches at once. Only Linux can fork
safely enough; on other systems, and for dumps that are packed or small, threads scan. Only the
commands scan so: a library must not fork its user's program.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from memory_visualizer.fleet.split import each_in_order, ranges_of
from memory_visualizer.formats.base import (
    Dump,
    Findings,
    Progress,
    Visitor,
    count_threads,
    use_one_thread,
)

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

_SMALLEST = 1 << 18
"""Frames (1 GiB): the start of the processes takes some hundredths of a second."""
_RANGE = 1 << 16
"""Frames (256 MiB) that a process scans at once: the findings of shorter ranges took longer."""
_AHEAD = 2
"""Ranges under way or waiting to be taken, for each process."""
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


@dataclass(frozen=True)
class ProcessScan:
    """A scanner (formats.base.Scanner): processes look at the blocks, this process takes them.

    Findings, remarks and errors are those of threads. If a process is lost, as when the system ends
    it for want of memory, threads scan the rest.
    """

    smallest: int = _SMALLEST
    """Dumps of fewer held frames are scanned by threads."""
    range_frames: int = _RANGE

    def __call__(
        self,
        dump: Dump,
        /,
        visitors: Sequence[Visitor[Any]],
        progress: Progress | None = None,
        *,
        until: Callable[[], bool] | None = None,
    ) -> None:
        """As Dump.scan. A scan with `until` may end soon, so it is left to threads."""
        processes = count_threads()
        if until or processes == 1 or not self._suits(dump):
            findings = dump.look_through(visitors)
            dump.take_findings(visitors, findings, progress, until=until)
            return
        with closing(self._in_order(dump, visitors, processes)) as findings:
            dump.take_findings(visitors, findings, progress)

    def _suits(self, dump: Dump) -> bool:
        is_large = int(dump.runs[:, 1].sum()) >= self.smallest
        return is_large and sys.platform == "linux" and hasattr(os, "fork") and is_plain(dump)

    def _in_order(
        self, dump: Dump, visitors: Sequence[Visitor[Any]], processes: int
    ) -> Generator[Findings, None, None]:
        """Yield the findings of each block, one after another."""
        # Imported here, since most dumps are small.
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        context = get_context("fork")
        try:
            stop = context.Event()
            job = (dump, visitors, stop, os.getpid())
            pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=job)
        except (ImportError, NotImplementedError, OSError):  # a system without /dev/shm
            yield from dump.look_through(visitors)
            return
        ranges = ranges_of(dump, self.range_frames)
        try:
            for future, within in each_in_order(partial(_submit, pool), ranges, _AHEAD * processes):
                yield from _found(dump, visitors, future, within)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def is_plain(dump: Dump) -> bool:
    """Whether all frames lie uncompressed in a file on disk, where any process can read them."""
    pages = dump.plain_pages()
    return pages is not None and int(pages.count.sum()) == int(dump.runs[:, 1].sum())


def _submit(pool: Executor, within: range) -> "Future[list[Findings]]":
    try:
        return pool.submit(_look, within)
    except (BrokenExecutor, OSError) as error:  # OSError: no more processes are allowed
        lost: Future[list[Findings]] = Future()
        lost.set_exception(error)
        return lost


def _found(
    dump: Dump, visitors: Sequence[Visitor[Any]], future: "Future[list[Findings]]", within: range
) -> Iterable[Findings]:
    """The findings in a range; this process looks for them if the other one is lost."""
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, BrokenExecutor | OSError):
        return dump.look_through(visitors, within)
    raise error


# What this process scans; set in forked processes only.
_dump: Dump
_visitors: Sequence[Visitor[Any]]
_stop: "Event"


def _begin(dump: Dump, visitors: Sequence[Visitor[Any]], stop: "Event", parent: int) -> None:
    """Prepare a forked process; it looks at no more blocks when `stop` is set."""
    global _dump, _visitors, _stop  # a task brings its range only
    _dump, _visitors, _stop = dump, visitors, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the main process, too
    _end_with(parent)
    use_one_thread()


def _end_with(parent: int) -> None:
    """Let this process end as soon as its parent ends, however that happens (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before
        os._exit(1)


def _look(within: range) -> list[Findings]:
    found = list[Findings]()
    for part in _dump.look_through(_visitors, within):
        found.append(part)
        if _stop.is_set():  # nobody waits for the findings any more
            break
    return found
