"""A process that runs cases within limits, and is replaced if a case ends it."""

import contextlib
import multiprocessing
import resource
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from memory_visualizer.formats import base
from tests.fuzz.cases import Case, Outcome, prepare, run, workplace
from tests.fuzz.seeds import Seed

_MEMORY = 300 << 20
_BLOCK_FRAMES = 512
_PATIENCE = 60
"""Seconds after which a case counts as hanging."""


def _limit_memory() -> None:
    """Limit the memory of this process to so much more than now."""
    with open("/proc/self/status") as status:  # noqa: PTH123
        used = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + _MEMORY, resource.RLIM_INFINITY))


def _work(pipe: Connection, folder: Path) -> None:
    """Run cases from the pipe, and send back their ends."""
    _limit_memory()
    base.BLOCK_FRAMES = _BLOCK_FRAMES  # so that small dumps also have many blocks
    while task := pipe.recv():
        given, options = task
        signal.alarm(_PATIENCE)
        outcome = run(given, options, folder)
        signal.alarm(0)
        pipe.send(outcome)


class Worker:
    """Runs cases in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """The folder of a case's files; empty before and after it."""
        self._context = multiprocessing.get_context("fork")
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_work, args=(theirs, self.folder), daemon=True)
        self._process.start()
        theirs.close()

    def outcome(self, case: Case, *, sound: bool = False) -> Outcome:
        """Run a case, or its sound input, and wait for its end."""
        return self.run(prepare(case, self.folder, sound=sound), case.options)

    def run(self, given: Seed, options: Sequence[str] = ()) -> Outcome:
        """Run the files in the folder with the given parameters, and wait for the end."""
        try:
            self._pipe.send((given, options))
            outcome: Outcome = self._pipe.recv()
        except (EOFError, BrokenPipeError):
            self._process.join()
            code = self._process.exitcode
            for path in list(self.folder.iterdir()):
                path.unlink()
            self._start()
            what = "hangs" if code == -signal.SIGALRM else f"ends the process: {code}"
            return Outcome(what, float(_PATIENCE), -1)
        return outcome

    def end(self) -> None:
        """Let the process end, and wait for it."""
        self._pipe.send(None)
        self._process.join()


@contextlib.contextmanager
def worker_of_its_own() -> Iterator[Worker]:
    """A worker in a new folder."""
    with workplace() as folder:
        worker = Worker(folder)
        try:
            yield worker
        finally:
            worker.end()
