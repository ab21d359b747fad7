"""Processes of one machine find in a dump what its threads find, even if some of them are lost."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer.cli import processscan
from memory_visualizer.cli.memviz import main
from memory_visualizer.cli.processscan import ProcessScan, is_plain
from memory_visualizer.errors import BadInputError
from memory_visualizer.formats import base
from memory_visualizer.formats.base import Dump, Visitor, Words
from memory_visualizer.formats.opening import open_dump
from tests.fleet.test_split import told
from tests.fuzz.seeds import seed
from tests.snapshot.test_snapshot import assert_is_truth
from tests.synth import MIB, forge, profiles

pytestmark = pytest.mark.posix

RANGE, BLOCK = 700, 256
"""Frames; a range is not a multiple of a block."""
SCAN = ProcessScan(smallest=1, range_frames=RANGE)
MAIN = os.getpid()


@pytest.fixture(autouse=True)
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes on any machine, and small blocks, which forked processes have as well."""
    monkeypatch.setattr(base, "BLOCK_FRAMES", BLOCK)
    monkeypatch.setattr(processscan, "count_threads", lambda: 2)


@pytest.fixture
def dump(tmp_path: Path) -> Dump:
    """Eight megabytes without a system; each page holds its number."""
    words = np.zeros((2048, 512), np.uint64)
    words[:, 7] = np.arange(2048)
    (tmp_path / "dump").write_bytes(words.tobytes())
    return open_dump(tmp_path / "dump")


class Seen(base.Search[tuple[int, int, int]]):
    """Keeps the process that looked at each block, and the first and the last page number."""

    def __init__(self) -> None:
        self.blocks: list[tuple[int, int, int]] = []

    def look(self, frames: Any, words: Words) -> tuple[int, int, int]:
        assert (words[:, 7] == frames).all()
        return os.getpid(), int(frames[0]), int(frames[-1])

    def take(self, part: tuple[int, int, int]) -> None:
        self.blocks.append(part)

    @property
    def pages(self) -> list[int]:
        return [page for _, first, last in self.blocks for page in range(first, last + 1)]


@pytest.mark.parametrize(
    ("system", "container"), [("xp", "raw"), ("win7", "elf"), ("linux", "lime"), ("linux", "raw")]
)
def test_the_same_as_threads(system: str, container: str, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(seed(system, container).contents)
    assert is_plain(open_dump(path))
    for (name, whole), (_, joined) in zip(told(path), told(path, SCAN), strict=True):
        assert joined == whole, name


@pytest.mark.parametrize("profile", ["WinXPSP2x86", "Win10x64_17763"])
def test_the_truth_of_the_allocation(profile: str, tmp_path: Path) -> None:
    """The pages that the synthetic machine allocated have its classes and owners."""
    truth = forge(tmp_path / "dump", profiles()[profile])
    assert_is_truth(memory_visualizer.open(tmp_path / "dump", scanner=SCAN), truth)


def test_other_processes_look(dump: Dump) -> None:
    """Each page is seen once, in order, by other processes; their progress is told."""
    seen, done = Seen(), list[int]()
    SCAN(dump, [seen.visitor], lambda now, _: done.append(now))
    assert seen.pages == [*range(2048)]
    assert MAIN not in {process for process, _, _ in seen.blocks}
    assert done == [(last + 1) * 4096 for _, _, last in seen.blocks]


class Lost(Seen):
    """Some process is killed when it looks at a page."""

    def look(self, frames: Any, words: Words) -> tuple[int, int, int]:
        if 1000 in frames and os.getpid() != MAIN:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().look(frames, words)


def test_lost_processes(dump: Dump) -> None:
    """The main process looks at what lost processes did not; nothing is seen twice."""
    seen = Lost()
    SCAN(dump, [seen.visitor])
    assert seen.pages == [*range(2048)]
    assert MAIN in {process for process, _, _ in seen.blocks}


@pytest.mark.parametrize("missing", ["semaphores", "start"])
def test_no_processes(missing: str, dump: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without semaphores, or if no process may be started, this process scans."""

    def refuse(*_: Any) -> Any:
        raise OSError

    if missing == "start":
        monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor.submit", refuse)
    else:
        monkeypatch.setattr("multiprocessing.context.ForkContext.Event", refuse)
    assert without_processes(dump, SCAN)


def test_errors_of_processes(dump: Dump) -> None:
    """They are raised as a thread's errors are."""
    os.truncate(dump.path, 5 * MIB)
    with pytest.raises(BadInputError, match="got shorter while it was read"):
        SCAN(dump, [Seen().visitor])


def test_an_error_while_taking(dump: Dump) -> None:
    """All processes end."""

    def take(part: tuple[int, int, int]) -> None:
        raise BadInputError(str(part[0]))

    with pytest.raises(BadInputError) as raised:
        SCAN(dump, [Visitor(Seen().look, take)])
    with pytest.raises(ProcessLookupError):
        os.kill(int(str(raised.value)), 0)


def without_processes(dump: Dump, scan: ProcessScan, **options: Any) -> bool:
    """Whether only this process looks."""
    seen = Seen()
    scan(dump, [seen.visitor], **options)
    return {process for process, _, _ in seen.blocks} == {MAIN}


def test_where_threads_scan(dump: Dump, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small dumps, scans that may end soon, and a single processor need no other processes."""
    assert without_processes(dump, ProcessScan(smallest=2049))
    assert not without_processes(dump, ProcessScan(smallest=2048))
    assert without_processes(dump, SCAN, until=lambda: False)
    monkeypatch.setattr(processscan, "count_threads", lambda: 1)
    assert without_processes(dump, SCAN)


@pytest.mark.parametrize("container", ["kdump", "avml", "e01", "qemu"])
def test_packed_dumps(container: str, tmp_path: Path) -> None:
    """Threads scan them: each process would have to read the places of all pages again."""
    (tmp_path / "dump").write_bytes(seed("xp", container).contents)
    assert not is_plain(open_dump(tmp_path / "dump", lenient=True))


def test_a_process_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_is_one_of_several", False)
    monkeypatch.setattr(base, "_MAX_THREADS", 1)
    assert base.count_threads() == 1
    monkeypatch.setattr(base, "_MAX_THREADS", 99)
    many = base.count_threads()
    base.use_one_thread()
    assert base.count_threads() == 1 <= many


def pictures(folder: Path) -> Iterator[bytes]:
    """The picture by threads, and the picture by processes."""
    path = folder / "dump"
    path.write_bytes(seed("win7", "raw").contents)
    for name in ("threads", "processes"):
        assert main([str(path), "-q", "-o", str(folder / f"{name}.png")]) == 0
        yield (folder / f"{name}.png").read_bytes()


def test_memviz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command scans large dumps so."""
    scans = list[Dump]()
    in_order = ProcessScan._in_order

    def spy(scan: ProcessScan, dump: Dump, *arguments: Any) -> Iterator[base.Findings]:
        scans.append(dump)
        return in_order(scan, dump, *arguments)

    monkeypatch.setattr(ProcessScan, "_in_order", spy)
    made = pictures(tmp_path)
    by_threads = next(made)
    assert not scans
    monkeypatch.setattr("memory_visualizer.cli.memviz.ProcessScan", lambda: SCAN)
    assert next(made) == by_threads
    assert scans
