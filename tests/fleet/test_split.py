"""A scan in ranges gives the result of one machine's scan, also where limits cut."""

import gzip
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer.displaced.search import DisplacedSearch
from memory_visualizer.errors import BadInputError
from memory_visualizer.fileheader import FileHeaderSearch
from memory_visualizer.fleet.split import SplitScan, ranges_of, why_whole
from memory_visualizer.formats import base
from memory_visualizer.formats.base import Dump, Search, Visitor
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.linux.banner import BANNER, BannerSearch
from memory_visualizer.linux.kernel import TopTableSearch
from memory_visualizer.linux.vmcoreinfo import VmcoreInfoSearch
from memory_visualizer.paging import X64, as_windows_has_it
from memory_visualizer.picture.entropy import entropy
from memory_visualizer.unknown.toplevels import SpaceSearch
from memory_visualizer.windows.processsearch import ProcessSearch
from memory_visualizer.windows.toplevels import TopLevelSearch
from tests.fuzz.crafted import crafted
from tests.fuzz.seeds import SYSTEMS, seed
from tests.synth import MIB

RANGE, BLOCK = 700, 256
"""Frames; a range is not a multiple of a block."""


class Late:
    """An executor like a cluster: tasks and results are pickled; the last task is done first."""

    def __init__(self) -> None:
        self.waiting: list[LateFuture] = []
        self.submitted = self.done = self.cancelled = 0

    def submit(self, work: Callable[..., Any], /, *arguments: Any) -> "LateFuture":
        future = LateFuture(self, pickle.dumps((work, arguments)))
        self.waiting.append(future)
        self.submitted += 1
        return future


class LateFuture:
    """A task of Late."""

    def __init__(self, executor: Late, task: bytes) -> None:
        self._executor, self._task = executor, task
        self._found = b""

    def result(self) -> Any:
        while not self._found:
            self._executor.waiting.pop().run()
        return pickle.loads(self._found)

    def run(self) -> None:
        work, arguments = pickle.loads(self._task)
        self._found = pickle.dumps(work(*arguments))
        self._executor.done += 1

    def cancel(self) -> None:
        self._executor.cancelled += 1


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "BLOCK_FRAMES", BLOCK)


def told(path: Path, scanner: base.Scanner | None = None) -> Iterator[tuple[str, Any]]:
    """All that a snapshot tells of a dump."""
    snapshot = memory_visualizer.open(path, lenient=True, scanner=scanner)
    yield "summary", snapshot.summary()
    yield "remarks", (snapshot.dump.remarks, snapshot.remarks)
    yield "processes", (snapshot.processes, snapshot.copies)
    for name in ("classes", "zero", "mapping_count", "contradicted"):
        yield name, getattr(snapshot, name).tolist()
    yield "mappings", [column.tolist() for column in snapshot.mappings.columns]
    yield "files", snapshot.files


def check_alike(path: Path) -> Late:
    """Compare a split scan with a whole one; returns the executor."""
    executor = Late()
    split = told(path, SplitScan(executor, workers=3, range_frames=RANGE))
    for (name, whole), (_, joined) in zip(told(path), split, strict=True):
        assert joined == whole, name
    assert executor.done > 1
    return executor


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.many
def test_each_system(system: str, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(seed(system, "raw").contents)
    check_alike(path)


@pytest.mark.parametrize("container", ["lime", "elf", "kdump", "avml", "e01", "qemu"])
@pytest.mark.many
def test_some_containers(container: str, tmp_path: Path) -> None:
    """A split scan of each format agrees (test_formats tests the ranges)."""
    path = tmp_path / "dump"
    path.write_bytes(seed("xp", container).contents)
    check_alike(path)


@pytest.mark.parametrize("change", ["a hole left out", "an unknown header", "cut"])
def test_memory_that_is_not_where_it_belongs(change: str, tmp_path: Path) -> None:
    """Several scans are split, also of a dump whose frames were put in place."""
    memory = seed("win7", "raw").contents
    path = tmp_path / "dump"
    hole = 3 * MIB
    path.write_bytes(
        {
            "a hole left out": memory[:hole] + memory[hole + 300 * 4096 :],
            "an unknown header": bytes(24) + memory,
            "cut": memory[: len(memory) * 3 // 4 + 5],
        }[change]
    )
    check_alike(path)


@pytest.mark.parametrize(
    "name",
    ["web", "web, no system", "own anywhere", "objects", "fake processes", "tables of nobody"],
)
@pytest.mark.many
def test_dumps_made_to_hit_limits(name: str, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(crafted(name, 16 * MIB))
    check_alike(path)


# -- each search, beyond its limit ----------------------------------------------------------


def objects(words: Any) -> None:
    """Three places in each page begin like a process; in some batches of pages sixty do."""
    words[:, 0:24:8], words[:, 5:29:8] = 3, 0x1000
    many = words.reshape(-1, 256, 512)[1::3]
    many[:, :, 0:480:8], many[:, :, 5:485:8] = 3, 0x1000


def tables(words: Any) -> None:
    """Pages that look like tables, some of whose entries name them at a distance."""
    frames = np.arange(len(words))[:, None] + np.arange(44)
    words[:, 256:300] = frames << 12 | 0x63


def last_entries(words: Any) -> None:
    """Pages whose last entry leads to a table, as Linux' tables have it."""
    words[::5, -1] = np.arange(len(words))[::5] << 12 | 0x63


def near_entries(words: Any) -> None:
    """Entries that name an address shortly before them, as behind a header."""
    places = np.arange(words.size, dtype=np.uint64).reshape(words.shape) * np.uint64(8)
    words[:] = (places - np.uint64(5000)) & np.uint64(0xFFFFF000) | np.uint64(0x63)


def banners(words: Any) -> None:
    """More banners in a block than the limit."""
    words[:, 0:8:2], words[:, 1:9:2] = np.frombuffer(BANNER.ljust(16), "<u8")


def texts(words: Any) -> None:
    """More texts in a part than the limit."""
    words[:, ::4] = np.frombuffer(b"OSRELEAS", "<u8")[0]
    words[:, 1::4] = np.frombuffer(b"E=6.1.0\n", "<u8")[0]


def own_entries(words: Any) -> None:
    """Tables that name themselves at one of three indices."""
    frames = np.arange(len(words)) << 12 | 0x63
    words[::3, 0x1ED], words[1::3, 3], words[2::3, 0x180] = frames[::3], frames[1::3], frames[2::3]


SEARCHES: dict[str, tuple[Callable[[Any], None], Callable[[Dump], Search[Any]]]] = {
    "process": (
        objects,
        lambda dump: ProcessSearch(
            dump, as_windows_has_it(X64), np.flatnonzero(np.arange(dump.frame_count) % 7)
        ),
    ),
    "displaced": (tables, DisplacedSearch),
    "header": (near_entries, FileHeaderSearch),
    "banner": (banners, lambda _: BannerSearch()),
    "text": (texts, lambda _: VmcoreInfoSearch()),
    "top level": (own_entries, lambda _: TopLevelSearch()),
    "space": (tables, SpaceSearch),
    "Linux": (last_entries, lambda _: TopTableSearch()),
}


@pytest.fixture(params=SEARCHES)
def search(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Dump, Callable[[], Any]]:
    """A dump full of matches for a search, and the search."""
    fill, make = SEARCHES[request.param]
    words = np.zeros((4096, 512), np.uint64)
    fill(words)
    path = tmp_path / "dump"
    path.write_bytes(words.tobytes())
    dump = open_dump(path)
    return dump, lambda: make(dump)


def visitors_of(search: Any) -> list[Visitor[Any]]:
    return [search.visitor, *([search.everywhere] if hasattr(search, "everywhere") else [])]


def test_each_search_beyond_its_limit(search: tuple[Dump, Callable[[], Any]]) -> None:
    """Only the order of the blocks decides which matches are kept."""
    dump, make = search
    one, split = make(), make()
    # The reference takes one block after the other, in one thread.
    frames = np.arange(dump.frame_count)
    for start in range(0, len(frames), BLOCK):
        part = frames[start : start + BLOCK]
        words = dump.read_frames(part)
        for visitor in visitors_of(one):
            if (found := visitor.look(part, words)) is not None:
                visitor.take(found)
    SplitScan(Late(), workers=2, range_frames=RANGE)(dump, visitors_of(split))
    assert state(split) == state(one) != state(make())
    for name in ("_room", "_left_out"):
        if hasattr(one, name):
            assert getattr(one, name) * {"_room": -1, "_left_out": 1}[name] > 0, "beyond the limit"


def state(search: Any) -> Any:
    """All results of a search."""
    if isinstance(search, np.ndarray):
        return search.tolist()
    if isinstance(search, dict):
        return {key: state(value) for key, value in search.items()}
    if isinstance(search, list | tuple):
        return [state(one) for one in search]
    if hasattr(search, "__dict__") and type(search).__module__.startswith("memory_visualizer"):
        values = {key: state(value) for key, value in vars(search).items()}
        if values.get("_room", 0) < 0:  # the excess does not matter
            values["_room"] = -1
        return values
    return search


# -- the cluster ----------------------------------------------------------------------------


def test_processes(tmp_path: Path) -> None:
    """Real workers import the program anew, and open the dump themselves."""
    path = tmp_path / "dump"
    path.write_bytes(seed("linux", "lime").contents)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        scan = SplitScan(pool, workers=2, range_frames=3000)
        for (name, whole), (_, joined) in zip(told(path), told(path, scan), strict=True):
            assert joined == whole, name
        dump = open_dump(path)
        whole_entropy = entropy(dump)
        dump.scanner = scan
        assert np.array_equal(entropy(dump), whole_entropy)


def test_ranges(tmp_path: Path) -> None:
    """Ranges adjoin, and each holds the same number of frames of the dump."""
    path = tmp_path / "dump"
    path.write_bytes(seed("xp", "lime").contents)
    dump = open_dump(path)
    ranges = ranges_of(dump, RANGE)
    held = [int(np.count_nonzero(dump.held[one.start : one.stop])) for one in ranges]
    assert set(held[:-1]) == {RANGE} and 0 < held[-1] <= RANGE
    assert [one.start for one in ranges] == [0, *(one.stop for one in ranges[:-1])]
    assert ranges[-1].stop == dump.frame_count


def test_a_scan_that_ends_early(tmp_path: Path) -> None:
    """Tasks that are no longer needed are not submitted, or cancelled."""
    path = tmp_path / "dump"
    path.write_bytes(bytes(range(256)) * 4096 * 8)
    executor, seen = Late(), list[int]()
    visitor: Visitor[int] = Visitor(first_of, seen.append)
    scan = SplitScan(executor, workers=1, range_frames=BLOCK)
    scan(open_dump(path), [visitor], until=lambda: len(seen) == 2)
    assert seen == [0, BLOCK]
    assert executor.cancelled and executor.submitted <= 6


def first_of(frames: Any, words: Any) -> int:
    return int(frames[0])


def test_another_file_on_a_worker(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(bytes(MIB))
    dump = open_dump(path)

    class Elsewhere(Late):
        def submit(self, work: Callable[..., Any], /, *arguments: Any) -> LateFuture:
            path.write_bytes(b"\1" * MIB)
            return super().submit(work, *arguments)

    with pytest.raises(BadInputError, match="not the same file on all machines"):
        SplitScan(Elsewhere(), workers=1)(dump, [BannerSearch().visitor])


def test_a_packed_file_is_scanned_by_one_machine(tmp_path: Path) -> None:
    """Each worker would have to unpack the whole file."""
    path = tmp_path / "dump.gz"
    path.write_bytes(gzip.compress(seed("xp", "raw").contents, 1))
    dump = open_dump(path)
    assert "unpacked first" in why_whole(dump)
    executor, search = Late(), TopLevelSearch()
    SplitScan(executor, workers=2, range_frames=RANGE)(dump, [search.visitor])
    assert executor.done == 0 and search.found(dump)
    assert why_whole(open_dump(tmp_path / "dump.gz")) == why_whole(dump)
