"""The engine on synthetic dumps: each page, owner and process is as the truth says."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_visualizer
from memory_visualizer import PageClass, Snapshot
from memory_visualizer.formats.mapped import MappedDump
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.limits import Budget
from memory_visualizer.paging import MAY_USER, Mappings
from memory_visualizer.snapshot.build import of_mappings
from memory_visualizer.snapshot.process import unnamed
from memory_visualizer.windows import kernelmemory, processsearch
from memory_visualizer.windows import system as windows_system
from memory_visualizer.windows.toplevels import TopLevels
from tests.conftest import random_cases
from tests.oddities import Image
from tests.synth import GIB, MIB, Truth, builds, forge, profiles
from tests.synth.memory import PAGE_SIZE
from tests.synth.truth import CLASSES

FAMILIES = {profile.family: name for name, profile in sorted(profiles().items(), reverse=True)}
AT_LARGE = sorted(profiles()) if os.environ.get("ALL_SIZES") else sorted(FAMILIES.values())
"""Profiles for tests at 256 MiB: all with ALL_SIZES=1, else one of each family."""


def labels(snapshot: Snapshot) -> npt.NDArray[np.str_]:
    """The class of each frame, by name."""
    return np.array([page_class.label for page_class in PageClass])[snapshot.classes]


NUMBERS = np.array(
    [CLASSES.index(each.label) if each.label in CLASSES else len(CLASSES) for each in PageClass],
    np.uint8,
)
"""The truth's number of each class; for classes unknown to the truth, one more than all."""


def assert_is_truth(snapshot: Snapshot, truth: Truth) -> None:
    """Compare all that is known of each frame and of each process."""
    np.testing.assert_array_equal(NUMBERS[snapshot.classes], truth.class_numbers(truth.alive))
    np.testing.assert_array_equal(snapshot.zero, truth.zero)
    assert {
        (p.pid, p.ppid, p.name, p.dtb, p.object_address, p.is_listed, p.is_alive)
        for p in snapshot.processes
    } == {
        (p.pid, p.ppid, p.name, p.dtb & ~0x1F, p.eprocess, p.listed, not p.exited)
        for p in truth.processes  # CR3's low bits have flags
    }
    notes, frame, virtual = expanded(truth)
    count = np.bincount(frame, minlength=truth.frames)
    np.testing.assert_array_equal(snapshot.mapping_count, count)

    # Owners: process and first virtual address; user mode comes before the kernel.
    pids = np.array([process.pid for process in truth.processes])
    owned = notes["owner"] >= 0
    frame, virtual, notes = frame[owned], virtual[owned], notes[owned]
    order = np.lexsort((virtual, ~notes["user"], pids[notes["owner"]], frame))
    keys = np.stack([frame, pids[notes["owner"]]], axis=1)[order]
    first = np.append(True, (keys[1:] != keys[:-1]).any(axis=1))
    owners = snapshot.owners
    found_pids = np.array([process.pid for process in snapshot.processes])[owners.process]
    found = np.lexsort((found_pids, owners.frame))
    np.testing.assert_array_equal(owners.frame[found], keys[first][:, 0])
    np.testing.assert_array_equal(found_pids[found], keys[first][:, 1])
    np.testing.assert_array_equal(owners.virtual[found], virtual[order][first])
    np.testing.assert_array_equal(owners.is_user[found], notes["user"][order][first])


def expanded(
    truth: Truth,
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """The notes with a row for each frame: note, frame, virtual address."""
    notes = truth.mappings
    pages = notes["size"] // PAGE_SIZE
    row = np.repeat(np.arange(len(notes)), pages)
    part = np.arange(len(row)) - np.repeat(np.cumsum(pages) - pages, pages)
    frame = notes["frame"][row] + part
    virtual = notes["virtual"][row] + (part * PAGE_SIZE).astype(np.uint64)
    inside = frame < truth.frames
    return notes[row[inside]], frame[inside], virtual[inside]


@pytest.mark.parametrize("name", sorted(profiles()))
@pytest.mark.many
def test_every_profile_at_32_mib(name: str, tmp_path: Path) -> None:
    truth = forge(tmp_path / "dump", profiles()[name], size=32 * MIB, seed=1)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert_is_truth(snapshot, truth)
    major, minor = (10, 0) if truth_version(name) == (6, 4) else truth_version(name)
    build = f".{profiles()[name].build}" if major == 10 else ""
    assert str(snapshot.system) == f"Windows {major}.{minor}{build}"
    assert str(snapshot.time) == "2019-04-17 18:40:00+00:00"
    assert snapshot.stale_spaces == 1
    [ended] = [process for process in snapshot.processes if not process.is_alive]
    assert ended.created and ended.exited and ended.created < ended.exited


def truth_version(name: str) -> tuple[int, int]:
    """The NT version of a profile, as in Volatility."""
    return profiles()[name].version


@pytest.mark.parametrize("name", AT_LARGE)
@pytest.mark.many(8)
def test_at_256_mib(name: str, tmp_path: Path) -> None:
    truth = forge(tmp_path / "dump", profiles()[name], size=256 * MIB, processes=25, seed=2)
    assert_is_truth(memory_visualizer.open(tmp_path / "dump"), truth)


@pytest.mark.parametrize(
    ("name", "pae"), [("WinXPSP3x86", True), ("VistaSP1x86", False), ("Win7SP1x86", False)]
)
def test_the_other_32_bit_paging(name: str, pae: bool, tmp_path: Path) -> None:
    truth = forge(tmp_path / "dump", profiles()[name], pae=pae)
    assert_is_truth(memory_visualizer.open(tmp_path / "dump"), truth)


@pytest.mark.parametrize("options", [{}, {"shadow_tables": True}], ids=["plain", "shadow"])
@pytest.mark.parametrize("name", sorted(builds()))
@pytest.mark.many
def test_builds_without_a_profile(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Windows 10, 11 and Server have the offsets of their real kernels, and KVA shadow tables."""
    truth = forge(tmp_path / "dump", builds()[name], seed=4, **options)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert_is_truth(snapshot, truth)
    shadows = sum(process.user_dtb > 0 for process in snapshot.processes)
    assert shadows == (13 if options else 0)


@pytest.mark.parametrize("shadow", [False, True])
def test_five_levels(shadow: bool, tmp_path: Path) -> None:
    build = builds()["Win2022x64_20348"]
    truth = forge(tmp_path / "dump", build, five_levels=True, shadow_tables=shadow)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert_is_truth(snapshot, truth)
    assert snapshot.paging is not None
    assert snapshot.paging.name == "x86-64, 5 levels"


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="no holes of files: 64 GiB are read here")
def test_64_gib_of_addresses_with_holes(tmp_path: Path) -> None:
    """Memory is in three pieces, the last just below 64 GiB; all have tables and pages."""
    frames = 64 * GIB // PAGE_SIZE
    holes = [(3000, 2_000_000), (2_004_000, frames - 2_004_000 - 4000)]
    truth = forge(
        tmp_path / "dump", profiles()["Win10x64_15063"], size=64 * GIB, holes=holes, seed=7
    )
    assert_is_truth(memory_visualizer.open(tmp_path / "dump"), truth)


@pytest.mark.parametrize("name", [*FAMILIES.values(), "Win11x64_22000"])
@pytest.mark.parametrize("what", ["nothing learned", "too many places", "a part is learned"])
@pytest.mark.many
def test_processes_that_the_first_look_misses(
    what: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the kernel's pages are not known during the first scan, they are read afterwards."""
    if what == "nothing learned":
        monkeypatch.setattr(windows_system, "_LEARNING_FRAMES", 0)
    elif what == "too many places":
        monkeypatch.setattr(processsearch, "_ROOM", 0)
    else:
        monkeypatch.setattr(windows_system, "kernel_memory", half_of_the_kernel)
    kind = builds()[name] if name in builds() else profiles()[name]
    truth = forge(tmp_path / "dump", kind)
    assert_is_truth(memory_visualizer.open(tmp_path / "dump"), truth)


def test_the_first_look_finds_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's pages are not read twice."""
    truth = forge(tmp_path / "dump", profiles()["Win10x64_17763"], processes=5)
    kernel = np.count_nonzero(truth.classes(truth.alive) == "kernel")
    read: list[int] = []
    read_frames = MappedDump.read_frames

    def count(self: MappedDump, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        read.append(len(frames))
        return read_frames(self, frames)

    monkeypatch.setattr(MappedDump, "read_frames", count)
    memory_visualizer.open(tmp_path / "dump")
    with_first_look = sum(read)
    read.clear()
    monkeypatch.setattr(processsearch, "_ROOM", 0)
    memory_visualizer.open(tmp_path / "dump")
    assert sum(read) > with_first_look + kernel / 2


def half_of_the_kernel(*given: Any) -> kernelmemory.KernelMemory:
    """The kernel's mappings without every other frame."""
    kernel = kernelmemory.kernel_memory(*given)
    kernel.all_frames = lambda: type(kernel).all_frames(kernel)[::2]  # type: ignore[method-assign]
    return kernel


def test_too_many_mappings_of_the_kernel_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge(tmp_path / "dump", profiles()["Win7SP1x64"])
    whole = memory_visualizer.open(tmp_path / "dump")
    assert whole.remarks == ()
    memory = open_dump(tmp_path / "dump")
    assert whole.paging
    found = TopLevels(whole.paging, np.array([[whole.kernel_dtb or 0]]) // PAGE_SIZE, np.array([]))
    every = len(kernelmemory.kernel_memory(memory, found).mappings.pfn)
    limit = Budget.limit

    def fewer(budget: Budget, thing: str) -> int:
        return every - 3 if thing == "mapping" else limit(budget, thing)

    monkeypatch.setattr(Budget, "limit", fewer)
    kernel = kernelmemory.kernel_memory(memory, found)
    assert len(kernel.mappings.pfn) == every - 3
    (remark,) = kernel.remarks
    assert remark.startswith("3 mappings of the kernel left out")
    cut = memory_visualizer.open(tmp_path / "dump")
    assert any("mappings of the kernel left out" in one for one in cut.remarks)


def test_processes_whose_tables_are_gone(tmp_path: Path) -> None:
    """A process with an overwritten top table is still listed; the others are unchanged."""
    truth = forge(tmp_path / "dump", profiles()["Win7SP1x64"])
    lost = next(p for p in truth.processes if p.name == "explorer.exe")
    with (tmp_path / "dump").open("r+b") as file:
        file.seek(lost.dtb)
        file.write(os.urandom(PAGE_SIZE))
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert {p.pid for p in snapshot.processes} == {p.pid for p in truth.processes}
    [process] = [p for p in snapshot.processes if p.pid == lost.pid]
    assert not process.has_tables
    assert process.is_listed
    alive = [i for i in truth.alive if truth.processes[i] is not lost]
    expected = truth.classes(alive)
    expected[lost.dtb // PAGE_SIZE] = "unused-data"
    np.testing.assert_array_equal(labels(snapshot), expected)


def test_tables_without_process_objects(tmp_path: Path) -> None:
    """Without recognisable processes, address spaces are shown without names."""
    truth = forge(tmp_path / "dump", profiles()["Win7SP1x64"])
    pages = np.fromfile(tmp_path / "dump", np.uint8).reshape(-1, PAGE_SIZE)
    image = Image(profiles()["Win7SP1x64"], truth, pages, b"")
    for process in truth.processes:
        image.lose_page(process.eprocess, b"\0")
    pages.tofile(tmp_path / "dump")
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert {process.name for process in snapshot.processes} == {"(unknown)"}
    user = truth.classes(truth.alive) == "user"
    assert (labels(snapshot)[user] == "user").all()


def test_copies_of_what_looks_like_a_process(tmp_path: Path) -> None:
    """Pages with a table base behind the right byte outnumber the process objects."""
    truth = forge(tmp_path / "dump", profiles()["WinXPSP2x86"])
    notes = truth.mappings
    paged_pool = (notes["owner"] == -1) & (notes["virtual"] >= 0xE1000000) & (notes["size"] == 4096)
    words = np.memmap(tmp_path / "dump", np.uint32, "r+", shape=(truth.frames, 1024))
    for frame in notes["frame"][paged_pool][:60].tolist():
        words[frame, 0x60 // 4] = 0x00550003
        words[frame, (0x60 + 0x18) // 4] = truth.processes[1].dtb
    words.flush()
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert {p.pid for p in snapshot.processes} == {p.pid for p in truth.processes}


@pytest.mark.parametrize("kind", ["noise", "zeros", "text"])
def test_no_windows(kind: str, tmp_path: Path) -> None:
    contents = {
        "noise": np.random.default_rng(0).bytes(4 * MIB),
        "zeros": bytes(4 * MIB),
        "text": b"\0" + b"the quick brown fox " * (4 * MIB // 20 + 1),
    }[kind][: 4 * MIB]
    (tmp_path / "dump").write_bytes(contents)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert snapshot.system is None
    assert snapshot.processes == ()
    expected = "unused-zero" if kind == "zeros" else "unused-data"
    assert set(labels(snapshot)) == {expected}


def test_owners_of_a_frame(tmp_path: Path) -> None:
    truth = forge(tmp_path / "dump", profiles()["WinXPSP2x86"])
    snapshot = memory_visualizer.open(tmp_path / "dump")
    note = truth.mappings[truth.mappings["virtual"] == 0x7FFDF000][0]
    owner = truth.processes[note["owner"]]
    assert [(p.pid, virtual) for p, virtual in snapshot.owners_of(int(note["frame"]))] == [
        (owner.pid, 0x7FFDF000)
    ]
    unused = int(np.flatnonzero(labels(snapshot) == "unused-zero")[0])
    assert snapshot.owners_of(unused) == []


def test_pages_of_processes(tmp_path: Path) -> None:
    truth = forge(tmp_path / "dump", profiles()["Win8SP1x64"])
    snapshot = memory_visualizer.open(tmp_path / "dump")
    notes, frame, _ = expanded(truth)
    mapped = notes["user"] & (notes["owner"] >= 0)
    pairs = np.unique(np.stack([frame[mapped], notes["owner"][mapped]], axis=1), axis=0)
    holders = np.bincount(pairs[:, 0])
    counts = dict(
        zip(
            (process.pid for process in snapshot.processes),
            snapshot.pages_of_processes().tolist(),
            strict=True,
        )
    )
    for owner, process in enumerate(truth.processes):
        own = pairs[pairs[:, 1] == owner, 0]
        private = int((holders[own] == 1).sum())
        assert counts[process.pid] == [private, len(own) - private], process.name


@settings(max_examples=random_cases(60), deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 3),  # the process
            st.one_of(st.integers(0, 40), st.integers(0, 1499)),  # the frame
            st.sampled_from([1, 1, 1, 512, 1024]),  # frames
            st.booleans(),  # whether user mode has it
        ),
        max_size=30,
    ),
    at_once=st.sampled_from([37, 1 << 16]),
)
def test_large_pages(rows: list[tuple[int, int, int, bool]], at_once: int) -> None:
    """Counts and owners by runs equal those page by page."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump"
        path.write_bytes(bytes(1500 * PAGE_SIZE))
        dump = open_dump(path)
    space, frame, frames, user = (
        (np.array(column, np.int64) for column in zip(*rows, strict=True))
        if rows
        else [np.empty(0, np.int64)] * 4
    )
    mappings = Mappings(
        space.astype(np.int32),
        np.arange(len(space), dtype=np.uint64) << np.uint64(40),
        frame // frames * frames if len(frame) else frame,
        frames,
        user.astype(np.uint8) * np.uint8(MAY_USER),
    )
    processes = tuple(unnamed(number, number) for number in range(4))
    with (
        patch("memory_visualizer.arrays._AT_ONCE", at_once),
        patch("memory_visualizer.snapshot.owners.PIECE_FRAMES", at_once),
    ):
        snapshot = of_mappings(dump, np.ones(1500, bool), mappings, processes=processes)
        owners = snapshot.owners
    pages: list[set[int]] = [set() for _ in range(4)]
    mapping_count: Counter[int] = Counter()
    owned: dict[tuple[int, int], tuple[bool, int]] = {}
    for number, (process, first, count, is_user) in enumerate(rows):
        first = first // count * count
        inside = range(first, min(first + count, 1500))
        mapping_count.update(inside)
        if is_user:
            pages[process] |= set(inside)
        for page in inside:
            here = not is_user, (number << 40) + (page - first) * PAGE_SIZE
            owned[page, process] = min(owned.get((page, process), here), here)
    assert snapshot.mapping_count.tolist() == [mapping_count[page] for page in range(1500)]
    columns = owners.frame, owners.process, ~owners.is_user, owners.virtual
    found = list(zip(*(column.tolist() for column in columns), strict=True))
    assert found == [(*key, *owned[key]) for key in sorted(owned)]
    holders = Counter(page for of_one in pages for page in of_one)
    expected = [
        [sum(holders[page] == 1 for page in of_one), sum(holders[page] > 1 for page in of_one)]
        for of_one in pages
    ]
    assert snapshot.pages_of_processes().tolist() == expected


def test_large_pages_beyond_all_bounds_are_not_listed(tmp_path: Path) -> None:
    """Hundreds of processes share one huge page: it is counted, but not listed for each."""
    (tmp_path / "dump").write_bytes(bytes(8192 * PAGE_SIZE))
    count = 200
    number = np.arange(count)
    mappings = Mappings(
        number.astype(np.int32),
        np.zeros(count, np.uint64),
        np.zeros(count, np.int64),
        np.full(count, 1 << 18),
        np.full(count, MAY_USER, np.uint8),
    )
    processes = tuple(unnamed(int(one), int(one)) for one in number)
    dump = open_dump(tmp_path / "dump")
    snapshot = of_mappings(dump, np.ones(8192, bool), mappings, processes=processes)
    assert snapshot.pages_of_processes().tolist() == [[0, 8192]] * count
    assert 0 < len(snapshot.owners.frame) <= 4 * 8192 + (1 << 16)


def test_the_dump_is_only_read(tmp_path: Path) -> None:
    forge(tmp_path / "dump", profiles()["Win7SP1x64"], size=16 * MIB)
    before = (tmp_path / "dump").read_bytes(), (tmp_path / "dump").stat().st_mtime_ns
    (tmp_path / "dump").chmod(0o400)
    memory_visualizer.open(tmp_path / "dump")
    assert before == ((tmp_path / "dump").read_bytes(), (tmp_path / "dump").stat().st_mtime_ns)
    assert [file.name for file in tmp_path.iterdir()] == ["dump"]


def everything_is_a_table(
    path: Path, frames: int, entry: Callable[[int], npt.NDArray[np.uint64]]
) -> None:
    """A dump whose pages are full of entries; some pages name themselves as top tables."""
    words = np.stack([entry(frame) for frame in range(frames)])
    roots = np.arange(16, 16 + 40, dtype=np.uint64)
    words[roots, 0x1ED] = roots << np.uint64(12) | np.uint64(0x63)
    # KUSER_SHARED_DATA, which proves tables, is at the same place for all.
    at = [0xFFFFF780_00000000 >> shift & 511 for shift in (39, 30, 21, 12)]
    words[:, at[0]] = 7 << 12 | 0x63
    for table, index in zip((7, 8, 9), at[1:], strict=True):
        words[table, index] = table + 1 << 12 | 0x63
    words[10, 0x4D:0x4F] = 6 << 32, 1  # NtMajorVersion and NtMinorVersion
    words.tofile(path)


@pytest.mark.parametrize("kind", ["star", "thicket"])
def test_tables_made_to_waste_memory(kind: str, tmp_path: Path) -> None:
    """All entries lead to one table, or each to another: memory and mappings stay bounded."""
    rng = np.random.default_rng(3)
    frames = 8192

    def entry(frame: int) -> npt.NDArray[np.uint64]:
        target = np.full(512, 5) if kind == "star" else rng.integers(frames, size=512)
        return target.astype(np.uint64) << np.uint64(12) | np.uint64(0x67)

    everything_is_a_table(tmp_path / "dump", frames, entry)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert len(snapshot.mappings.pfn) <= 4 * frames + (1 << 20)
    if kind == "thicket":
        assert any("page tables left out" in remark for remark in snapshot.remarks)
        assert any("mappings beyond the limit" in remark for remark in snapshot.remarks)
        assert int(snapshot.mapping_count.sum()) > len(snapshot.mappings.pfn)
        assert np.isin(snapshot.classes, (PageClass.USER, PageClass.BOTH)).mean() > 0.99


def test_a_process_with_too_many_tables_loses_its_own(tmp_path: Path) -> None:
    """One process leads to thousands of tables: others keep all of theirs."""
    truth = forge(tmp_path / "dump", profiles()["Win7SP1x64"], size=32 * MIB, seed=5)
    before = memory_visualizer.open(tmp_path / "dump")
    words = np.fromfile(tmp_path / "dump", "<u8").reshape(-1, 512)
    rng = np.random.default_rng(5)
    unused = np.flatnonzero(np.isin(labels(before), ("unused-data", "unused-zero")))[256:]
    words[unused] = rng.choice(unused, (len(unused), 512)).astype(np.uint64) << np.uint64(12) | 0x67
    spoiled = truth.processes[truth.alive[2]]
    top = spoiled.dtb // PAGE_SIZE
    empty = np.flatnonzero(words[top, :256] == 0)
    words[top, empty] = rng.choice(unused, len(empty)).astype(np.uint64) << np.uint64(12) | 0x67
    words.tofile(tmp_path / "dump")
    after = memory_visualizer.open(tmp_path / "dump")
    assert any("page tables left out" in remark for remark in after.remarks)

    def owned(snapshot: Snapshot) -> set[tuple[int, int, int]]:
        pids = np.array([process.pid for process in snapshot.processes])
        owners = snapshot.owners
        rows = zip(
            pids[owners.process].tolist(),
            owners.frame.tolist(),
            owners.virtual.tolist(),
            strict=True,
        )
        return {row for row in rows if row[0] != spoiled.pid}

    # A page shared with only one other process may seem to be the other's own.
    assert owned(before) <= owned(after)
    assert len(owned(after) - owned(before)) < 10


def test_pages_of_another_moment_in_the_place_of_tables(tmp_path: Path) -> None:
    """Smear: an overwritten table costs its pages, and no others appear instead."""
    truth = forge(tmp_path / "dump", profiles()["Win7SP1x64"], size=64 * MIB, seed=6)
    data = bytearray((tmp_path / "dump").read_bytes())
    notes = truth.mappings
    # The writer notes tables where Windows maps them into themselves; upper-level tables
    # have the same index one level further.
    top, next_ = (notes["virtual"] >> np.uint64(shift) & np.uint64(511) for shift in (39, 30))
    lowest = np.unique(notes["frame"][(top == 0x1ED) & (next_ != 0x1ED)])
    rng = np.random.default_rng(1)
    smeared = rng.choice(lowest, len(lowest) // 10, replace=False)
    before = labels(memory_visualizer.open(tmp_path / "dump"))
    for frame in smeared:
        data[frame * PAGE_SIZE : (frame + 1) * PAGE_SIZE] = rng.bytes(PAGE_SIZE)
    (tmp_path / "dump").write_bytes(data)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    after = labels(snapshot)
    assert snapshot.remarks == (
        f"page tables refer to {len(smeared)} pages as page tables, but they are not page tables:"
        " their mappings are unknown",
    )
    assert len(snapshot.processes) == len(truth.processes)
    changed = before != after
    # No unused page is called used; lost pages are unused.
    assert set(before[changed]) <= {"user", "kernel", "both"}
    used = np.isin(before, ["user", "kernel", "both"])
    assert (~changed & used).sum() > 0.6 * used.sum()
    assert changed.any()
