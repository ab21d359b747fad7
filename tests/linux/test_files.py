"""Files behind pages, regions of processes and modules agree with the truth, despite damage."""

import mmap
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import Snapshot, limits
from memory_visualizer.linux.btf import Btf
from memory_visualizer.linux.filelayout import by_btf
from memory_visualizer.linux.mapletree import read_tree
from memory_visualizer.linux.regions import gate_of, layout_by_btf
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.snapshot.inventory import Region
from tests.conftest import real_dumps
from tests.fuzz.crafted_linux import Machine
from tests.synth.linux import LinuxTruth, forge_linux
from tests.synth.linuxfiles import LAYOUT_OF_ERA, FilesTruth, RegionTruth
from tests.synth.memory import PAGE_SIZE

pytestmark = pytest.mark.many

ERAS = tuple(LAYOUT_OF_ERA)
LOST = "[file without an inode]"


@pytest.fixture(scope="module", params=ERAS)
def sound(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, LinuxTruth, FilesTruth]:
    """A dump with the files of an era, and the truth about it."""
    path = tmp_path_factory.mktemp("files") / "dump"
    truth = forge_linux(path, request.param, files=True)
    assert truth.files
    return path, truth, truth.files


def files_of_pages(snapshot: Snapshot) -> dict[int, tuple[str, int]]:
    """Path and offset by frame."""
    pages = snapshot.file_pages
    rows = zip(pages.frame.tolist(), pages.file.tolist(), pages.offset.tolist(), strict=True)
    return {frame: (pages.files[file].path, offset) for frame, file, offset in rows}


def true_files(truth: FilesTruth) -> dict[int, tuple[str, int]]:
    """The same by the truth, without pages whose file's name is lost."""
    return {
        frame: (file.path if file else LOST, offset)
        for frame, (file, offset) in truth.pages.items()
    }


def regions_of(snapshot: Snapshot) -> dict[int, list[RegionTruth]]:
    """The regions by pid, in the truth's form."""
    return {
        process.pid: [as_truth(region) for region in regions]
        for process in snapshot.processes
        if (regions := snapshot.regions(process)) is not None
    }


def as_truth(region: Region) -> RegionTruth:
    """A region in the truth's form."""
    return RegionTruth(
        region.start,
        region.end,
        region.protection,
        region.is_private,
        region.name,
        region.file,
        region.offset,
        region.is_deleted,
    )


def test_a_file_of_huge_pages(sound: tuple[Path, LinuxTruth, FilesTruth]) -> None:
    """All frames of a page of hugetlbfs have the file, in both units of `index`, also with HVO."""
    path, truth, _ = sound
    snapshot = memory_visualizer.open(path)
    [file] = [one for one in snapshot.files if one.file_system == "hugetlbfs"]
    assert (file.path, file.kind, file.is_deleted) == ("/memfd:huge", "shared memory", True)
    assert dict(file.states) == {"huge page": 512}
    pages = snapshot.file_pages
    rows = pages.file == [one.path for one in pages.files].index(file.path)
    assert pages.offset[rows].tolist() == list(range(3 << 21, 4 << 21, PAGE_SIZE))
    assert (truth.states[pages.frame[rows]] == "huge page").all()


def test_more_names_than_are_looked_at(
    sound: tuple[Path, LinuxTruth, FilesTruth], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a file's three names is read: the others are counted."""
    monkeypatch.setattr("memory_visualizer.linux.filecache._MAX_NAMES", 1)
    snapshot = memory_visualizer.open(sound[0])
    assert snapshot.files and snapshot.inventory
    assert any("further name of a file left out" in one for one in snapshot.inventory.remarks)


def test_types_that_are_too_large(
    sound: tuple[Path, LinuxTruth, FilesTruth], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not read, and a remark tells the excess."""
    rates = {**limits.RATES, "byte of kernel types": limits.Rate(1 << 30, 1, 1000)}
    monkeypatch.setattr(limits, "RATES", rates)
    snapshot = memory_visualizer.open(sound[0])
    assert any("bytes of kernel types left out" in remark for remark in snapshot.remarks)


def test_the_file_of_each_page(sound: tuple[Path, LinuxTruth, FilesTruth]) -> None:
    path, _, truth = sound
    snapshot = memory_visualizer.open(path)
    assert files_of_pages(snapshot) == true_files(truth)
    for frame, (file, offset) in truth.pages.items():
        found = snapshot.file_of(frame)
        assert found
        if file:
            told = found[0]
            assert (told.kind, told.is_deleted, told.size) == (
                file.kind,
                file.is_deleted,
                file.size,
            )
            assert (told.file_system, told.device, told.number) == (
                file.file_system,
                file.device,
                file.number,
            )
        assert found[1] == offset
    others = set(range(len(snapshot.classes))) - set(truth.pages)
    assert not any(snapshot.file_of(frame) for frame in others)
    assert [file.path for file in snapshot.files] == sorted(file.path for file in snapshot.files)


def test_pages_and_processes_of_files(sound: tuple[Path, LinuxTruth, FilesTruth]) -> None:
    path, truth, files = sound
    snapshot = memory_visualizer.open(path)
    for file in snapshot.files:
        frames = [
            f for f, (own, _) in files.pages.items() if (own.path if own else LOST) == file.path
        ]
        assert file.pages == len(frames)
        assert file.bytes == 4096 * len(frames)
        words, counts = np.unique(truth.states[frames], return_counts=True)
        assert file.states == dict(zip(words.tolist(), counts.tolist(), strict=True))
        owners = {pid for pid, _, frame in truth.owners if frame in set(frames)}
        assert {process.pid for process in file.processes} == owners
        assert file.mapped == len({f for _, _, f in truth.owners} & set(frames))


def test_the_regions_of_each_process(sound: tuple[Path, LinuxTruth, FilesTruth]) -> None:
    path, _, truth = sound
    snapshot = memory_visualizer.open(path)
    assert regions_of(snapshot) == truth.regions
    odd = {
        (process.pid, region.start, region.findings)
        for process in snapshot.processes
        for region in snapshot.regions(process) or ()
        if region.findings
    }
    words = ("private, writable, executable", "executable without a file")
    assert odd == {(pid, 0x6500_0000_0000, words) for pid in truth.regions}


def test_the_modules(sound: tuple[Path, LinuxTruth, FilesTruth]) -> None:
    path, _, truth = sound
    snapshot = memory_visualizer.open(path)
    assert snapshot.modules is not None
    assert [(m.name, m.ranges, m.frames) for m in snapshot.modules] == truth.modules


def test_a_pickle_asks_again(sound: tuple[Path, LinuxTruth, FilesTruth]) -> None:
    """A pickle asks the kernel again, whether or not it was asked before."""
    path, _, truth = sound
    snapshot = memory_visualizer.open(path)
    for _ in range(2):
        again = pickle.loads(pickle.dumps(snapshot))
        assert files_of_pages(again) == true_files(truth)
        assert regions_of(again) == truth.regions
        assert len(snapshot.modules or ()) == len(truth.modules)


def test_a_lost_head_of_the_list_without_types(
    sound: tuple[Path, LinuxTruth, FilesTruth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks that the first task no longer leads to show the form of regions as well."""
    path, linux, _ = sound
    words = np.fromfile(path, "<u8").reshape(-1, 512)
    machine = Machine(words, linux)
    monkeypatch.setattr("memory_visualizer.linux.kernel.Btf.parse", lambda *_: None)
    whole = regions_of(memory_visualizer.open(path))
    machine.put(machine.symbols["init_task"] + machine.task("tasks"), 0, 0)
    words.tofile(tmp_path / "dump")
    assert whole
    assert regions_of(memory_visualizer.open(tmp_path / "dump")) == whole


def test_without_types(
    sound: tuple[Path, LinuxTruth, FilesTruth], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without types, offsets are proved by links that lead back; a remark says what is missing."""
    path, linux, truth = sound
    monkeypatch.setattr("memory_visualizer.linux.kernel.Btf.parse", lambda *_: None)
    snapshot = memory_visualizer.open(path)
    assert snapshot.inventory
    is_old = linux.era.release.startswith(("5.10", "6.1.", "6.12."))
    # The name space of a mount is unknown then, and since 6.18 some mounts are unknown, too.
    elsewhere = {"/mnt/data/deep/two\nlines": "/mnt/two\nlines"}
    elsewhere |= {} if is_old else {"/mnt/data/large": "/large"}
    assert files_of_pages(snapshot) == {
        frame: (elsewhere.get(file, file), offset)
        for frame, (file, offset) in true_files(truth).items()
    }
    found = regions_of(snapshot)
    # A process whose first thread has ended has no task that leads to its memory.
    known = {pid: regions for pid, regions in truth.regions.items() if pid != 121}
    named = {
        pid: [replace(r, name="" if r.name.startswith("[anon:") else r.name) for r in regions]
        for pid, regions in known.items()
    }
    assert {pid: regions for pid, regions in found.items() if pid in known} == named
    assert snapshot.modules is not None
    assert [module.name for module in snapshot.modules] == [name for name, _, _ in truth.modules]
    if linux.era.release.startswith(("5.10", "6.1.")):
        assert [m.frames for m in snapshot.modules] == [frames for _, _, frames in truth.modules]
    assert sum("BTF" in remark for remark in snapshot.inventory.remarks) == 3


class Dump:
    """A dump that takes one damage at a time, and is restored after each test."""

    def __init__(self, path: Path, truth: LinuxTruth) -> None:
        self.truth = truth
        self._path = path
        self._undo: list[tuple[int, bytes]] = []
        with path.open("r+b") as file:
            self.contents = mmap.mmap(file.fileno(), 0)

    def put(self, address: int, contents: bytes) -> None:
        """Write at an address in the direct map."""
        self.put_at(address - self.truth.direct, contents)

    def put_at(self, place: int, contents: bytes) -> None:
        """Write at a place in the file."""
        part = slice(place, place + len(contents))
        self._undo.append((place, self.contents[part]))
        self.contents[part] = contents

    def mend(self) -> None:
        """Undo all writes."""
        while self._undo:
            place, contents = self._undo.pop()
            self.contents[place : place + len(contents)] = contents

    def places_of(self, number: int) -> list[int]:
        """Places in the file that hold this 64-bit number."""
        words = np.frombuffer(self.contents, "<u8")
        return [row * 8 for row in np.flatnonzero(words == np.uint64(number)).tolist()]

    def open(self) -> Snapshot:
        self.contents.flush()
        return memory_visualizer.open(self._path)


@pytest.fixture(scope="module")
def damaged(
    sound: tuple[Path, LinuxTruth, FilesTruth], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dump]:
    """A copy of the sound dump that the tests use in turn."""
    path = tmp_path_factory.mktemp("damaged") / "dump"
    shutil.copyfile(sound[0], path)
    dump = Dump(path, sound[1])
    yield dump
    dump.contents.close()
    path.unlink()


@pytest.fixture
def dump(damaged: Dump) -> Iterator[Dump]:
    yield damaged
    damaged.mend()


DAMAGE: dict[str, Callable[[int], bytes]] = {
    "zeros": lambda size: bytes(size),
    "ones": lambda size: b"\xff" * size,
    "noise": lambda size: np.random.default_rng(3).bytes(size),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_inode_costs_its_file(
    damage: str, dump: Dump, sound: tuple[Path, LinuxTruth, FilesTruth]
) -> None:
    truth = sound[2]
    path = "/mnt/rest.bin"
    dump.put(truth.inodes[path], DAMAGE[damage](560))
    found, true = files_of_pages(dump.open()), true_files(truth)
    others = {frame: file for frame, file in true.items() if file[0] != path}
    assert {frame: file for frame, file in found.items() if frame in others} == others
    assert {file[0] for frame, file in found.items() if frame not in others} == {LOST}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_name_costs_its_file(
    damage: str, dump: Dump, sound: tuple[Path, LinuxTruth, FilesTruth]
) -> None:
    truth = sound[2]
    path = "/run/small"
    dump.put(truth.dentries[path], DAMAGE[damage](192))
    found, true = files_of_pages(dump.open()), true_files(truth)
    others = {frame: file for frame, file in true.items() if file[0] != path}
    assert {frame: file for frame, file in found.items() if frame in others} == others
    assert {file[0] for frame, file in found.items() if frame not in others} == {
        "[inode 11 of tmpfs on 0:22]"
    }


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_area_costs_its_region(
    damage: str, dump: Dump, sound: tuple[Path, LinuxTruth, FilesTruth]
) -> None:
    """The region's addresses remain if a tree tells them."""
    truth = sound[2]
    start = truth.regions[1][5].start
    dump.put(truth.areas[1, start], DAMAGE[damage](120))
    snapshot = dump.open()
    found = regions_of(snapshot)
    for pid, regions in truth.regions.items():
        others = [region for region in regions if (pid, region.start) != (1, start)]
        assert [r for r in found[pid] if (pid, r.start) != (1, start)] == others
    told = [(r.end, r.protection) for r in found[1] if r.start == start]
    assert told == (
        [] if sound[1].era.release.startswith("5.10") else [(truth.regions[1][5].end, "")]
    )
    assert snapshot.inventory and any("(1)" in remark for remark in snapshot.inventory.remarks)


def test_folders_in_a_circle(dump: Dump, sound: tuple[Path, LinuxTruth, FilesTruth]) -> None:
    """A folder lies in a folder of its own: paths end."""
    truth = sound[2]
    dump.put(truth.dentries["/lib"] + 24, truth.dentries["/mnt/rest.bin"].to_bytes(8, "little"))
    dump.put(truth.dentries["/mnt/rest.bin"] + 24, truth.dentries["/lib"].to_bytes(8, "little"))
    found, true = files_of_pages(dump.open()), true_files(truth)
    lost = [frame for frame, file in true.items() if file[0].startswith(("/lib/", "/mnt/rest"))]
    assert all(found[frame][0].startswith("[inode") for frame in lost)
    assert all(found[frame] == file for frame, file in true.items() if frame not in lost)


def test_mounts_in_a_circle(dump: Dump, sound: tuple[Path, LinuxTruth, FilesTruth]) -> None:
    """Mounts lie in each other: paths lose their beginnings."""
    mounts = sound[2].mounted
    for mount, other in zip(mounts, [*mounts[1:], mounts[0]], strict=True):
        dump.put(mount + 16, other.to_bytes(8, "little"))
    found = files_of_pages(dump.open())
    assert len(found) == len(sound[2].pages)
    assert {file[0] for file in found.values()} >= {"/mnt/rest.bin", "/large", "/small"}


def test_a_tree_in_a_circle(dump: Dump, sound: tuple[Path, LinuxTruth, FilesTruth]) -> None:
    """A node that leads to itself, or an endless list, costs at most this process."""
    truth = sound[2]
    areas = [truth.areas[1, region.start] for region in truth.regions[1]]
    if sound[1].era.release.startswith("5.10"):
        dump.put(areas[-1] + 16, areas[3].to_bytes(8, "little"))
    else:
        node = dump.truth.direct + dump.places_of(areas[3])[0] & ~255
        above = dump.places_of(node | 0xC)[0]
        upper = dump.truth.direct + above & ~255
        dump.put_at(above, (upper | 0x1C).to_bytes(8, "little"))
    snapshot = dump.open()
    found = regions_of(snapshot)
    assert {pid: found[pid] for pid in found if pid != 1} == {
        pid: regions for pid, regions in truth.regions.items() if pid != 1
    }
    assert set(found[1]) <= set(truth.regions[1])
    assert snapshot.inventory and any("complete" in remark for remark in snapshot.inventory.remarks)


def test_folders_without_an_end(dump: Dump, sound: tuple[Path, LinuxTruth, FilesTruth]) -> None:
    """Thousands of folders, each in the next, give no path, as a kernel limits its length."""
    truth = sound[2]
    frames = [frame for frame, file in true_files(truth).items() if file[0].endswith("two\nlines")]
    places = [
        dump.truth.direct + frame * 4096 + at for frame in frames for at in range(0, 3841, 256)
    ]
    at = truth.dentries["/lib"] - dump.truth.direct
    template = dump.contents[at : at + 192]
    for place, above in zip(places, [*places[1:], truth.dentries["/lib"]], strict=True):
        dump.put(place, template)
        dump.put(place + 24, above.to_bytes(8, "little"))
        dump.put(place + 40, (place + 56).to_bytes(8, "little"))
    dump.put(truth.dentries["/run/small"] + 24, places[0].to_bytes(8, "little"))
    snapshot = dump.open()
    found, true = files_of_pages(snapshot), true_files(truth)
    others = {frame: file for frame, file in true.items() if file[0] != "/run/small"}
    assert {frame: file for frame, file in found.items() if frame in others} == others
    assert {file[0] for frame, file in found.items() if frame not in others} == {
        "[inode 11 of tmpfs on 0:22]"
    }
    assert snapshot.inventory and any("path" in remark for remark in snapshot.inventory.remarks)


def test_modules_that_are_too_large(dump: Dump, sound: tuple[Path, LinuxTruth, FilesTruth]) -> None:
    """A part with more pages than the dump is ignored; the other modules stay."""
    truth = sound[2]
    for place in dump.places_of(truth.modules[1][1][0][0]):
        # Its size follows 8 or 12 bytes later.
        dump.put_at(place + 8, struct.pack("<II", 0x0FFF_FFFF, 0x0FFF_FFFF))
    snapshot = dump.open()
    assert snapshot.modules is not None and snapshot.inventory
    names = [module.name for module in snapshot.modules]
    assert names[0] == truth.modules[0][0] and names[-1] == truth.modules[2][0]
    assert any("module" in remark for remark in snapshot.inventory.remarks)


@pytest.mark.parametrize("direction", [0, 8], ids=["forwards", "backwards"])
def test_a_broken_list_of_modules(
    direction: int, dump: Dump, sound: tuple[Path, LinuxTruth, FilesTruth]
) -> None:
    """If one link is broken, or leads in a circle, the other direction finds the rest."""
    snapshot = memory_visualizer.open(sound[0])
    assert snapshot.modules
    link, place = sound[2].module_links[1]
    dump.put(place + direction, bytes(8))
    again = dump.open()
    assert again.modules == snapshot.modules
    dump.put(place + direction, link.to_bytes(8, "little"))
    assert dump.open().modules == snapshot.modules


REAL = ("linux-5.10-x64-136m", "linux-7.3-arm64-160m")


@pytest.fixture(scope="module", params=REAL)
def real(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A real guest's dump, whose pages files.npz describes."""
    import subprocess

    packed = real_dumps() / f"{request.param}.raw.xz"
    if not packed.exists():
        pytest.skip(f"no real dump here: MEMVIZ_DUMPS names the folder of {packed.name}")
    path = tmp_path_factory.mktemp("real") / "dump.raw"
    with path.open("wb") as file:
        subprocess.run(["xz", "-dc", packed], stdout=file, check=True)
    return request.param, path


@pytest.mark.real
def test_real_files(real: tuple[str, Path]) -> None:
    """Path and offset of cached pages agree with the kernel's records."""
    name, path = real
    told = np.load(real_dumps() / f"{name}.files.npz")
    found = files_of_pages(memory_visualizer.open(path))
    paths = told["file_paths"].tolist()
    rows = zip(
        told["pfn"].tolist(), told["file_index"].tolist(), told["page_index"].tolist(), strict=True
    )
    right = [found.get(pfn) == (paths[file], page * 4096) for pfn, file, page in rows]
    assert len(right) > 3000
    assert np.mean(right) >= 0.999


@pytest.mark.real
def test_real_regions(real: tuple[str, Path]) -> None:
    """Each page of a process lies in one of its regions, and names agree with the kernel's."""
    name, path = real
    told = np.load(real_dumps() / f"{name}.truth.npz")
    snapshot = memory_visualizer.open(path)
    known = {process.pid: snapshot.regions(process) for process in snapshot.processes}
    for pid in np.unique(told["owner_pid"]).tolist():
        regions = known[pid]
        assert regions
        starts, ends = (
            np.array([getattr(r, edge) for r in regions], np.uint64) for edge in ("start", "end")
        )
        virtual = told["owner_virtual"][told["owner_pid"] == pid].astype(np.uint64)
        row = np.searchsorted(starts, virtual, "right").astype(np.int64) - 1
        assert (row >= 0).all() and (virtual < ends[row]).all()
        names = [region.name for region in regions]
        assert names.count("[stack]") == names.count("[vdso]") == 1


class _Memory:
    """A memory with words at some addresses."""

    upper = 1 << 63
    word = 8

    def __init__(self, nodes: dict[int, list[int]]) -> None:
        self._nodes = nodes

    def read_each(self, addresses: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        rows = [self._nodes.get(at, [0] * 32) for at in addresses.tolist()]
        known = [at in self._nodes for at in addresses.tolist()]
        return np.array(rows, np.uint64).reshape(-1, 32).view(np.uint8), np.array(known, bool)

    def words(self, raw: np.ndarray) -> np.ndarray:
        return raw.view(np.uint64)


def test_a_tree_of_one_entry_and_of_none() -> None:
    memory = _Memory({})
    assert read_tree(memory, 0, 9).rows == []  # type: ignore[arg-type]
    assert read_tree(memory, 0xFFFF_8000_0000_1000, 9).rows == [(0, 0, 0xFFFF_8000_0000_1000)]  # type: ignore[arg-type]


def test_a_tree_whose_nodes_are_all_alike() -> None:
    """Sixteen slots lead to the node itself: each node is read once."""
    node = 0xFFFF_8000_0000_1000
    words = [0, *range(10, 160, 10), *[node | 0x14] * 16]
    found = read_tree(_Memory({node: words}), node | 0x16, 1000)  # type: ignore[arg-type]
    assert found.rows == []
    assert found.lost == 16


class LyingTypes:
    """The types of a kernel, with a wrong offset for one member."""

    def __init__(self, lie: tuple[str, str], offset: int) -> None:
        self._lie = lie
        self._offset = offset

    def offset(self, structure: str, *members: str) -> int | None:
        return self._offset if (structure, members[0]) == self._lie else 8


@pytest.mark.parametrize("offset", [3, 8191, 8193, 1 << 29])
@pytest.mark.parametrize(
    "lie",
    [
        *(("vm_area_struct", f"vm_{name}") for name in ("start", "flags", "file", "next", "rb")),
        ("vm_area_struct", "anon_name"),
        ("file", "f_path"),
        ("dentry", "d_parent"),
        ("dentry", "d_name"),
        ("qstr", "len"),
        ("inode", "i_ino"),
    ],
)
def test_types_that_lie(lie: tuple[str, str], offset: int) -> None:
    """No read goes beyond the end of a structure, and structures are of limited size."""
    types = cast(Btf, LyingTypes(lie, offset))
    if area := layout_by_btf(types):
        assert area.vma_size % 8 == 0
        assert max(area.vm_start, area.vm_flags, area.vm_file) < area.vma_size < 1 << 15
        assert (area.anon_name or 0) < area.vma_size
    if files := by_btf(types):
        assert files.dentry_size % 8 == 0
        inside = max(files.d_parent, files.d_name, files.d_length, files.d_hash + 8)
        assert inside < files.dentry_size < 1 << 15
        assert files.inode_size % 8 == 0
        assert (files.i_ino or 0) < files.inode_size < 1 << 15
    assert layout_by_btf(cast(Btf, LyingTypes(("no", "lie"), 0)))
    assert by_btf(cast(Btf, LyingTypes(("no", "lie"), 0)))


class _Numbers:
    """A kernel's memory with numbers at some addresses."""

    def __init__(self, numbers: dict[int, int]) -> None:
        self._numbers = numbers

    def number(self, address: int, size: int = 8) -> int | None:
        return self._numbers.get(address)


_AREA, _MODE = 0xFFFF_FFFF_8100_0000, 0xFFFF_FFFF_8200_0000


@pytest.mark.parametrize(
    ("mode", "start", "flags", "protection"),
    [
        (0, 0xFFFF_FFFF_FF60_0000, 5, "r-x"),  # vsyscall=emulate
        (1, 0xFFFF_FFFF_FF60_0000, 4, "--x"),  # vsyscall=xonly
        (2, 0xFFFF_FFFF_FF60_0000, 4, None),  # vsyscall=none
        (1, 0xFFFF_FFFF_FF50_0000, 4, None),
        (None, 0xFFFF_FFFF_FF60_0000, 4, None),
    ],
)
def test_the_page_of_old_system_calls(
    mode: int | None, start: int, flags: int, protection: str | None
) -> None:
    """A region as in arch/x86/entry/vsyscall/vsyscall_64.c; a lost or odd object gives None."""
    layout = layout_by_btf(cast(Btf, _AreaTypes()))
    assert layout
    numbers = {_AREA + layout.vm_start: start, _AREA + layout.vm_end: 0xFFFF_FFFF_FF60_1000}
    numbers |= {_AREA + layout.vm_flags: flags}
    numbers |= {} if mode is None else {_MODE: mode}
    symbols = {"gate_vma": _AREA, "vsyscall_mode": _MODE}
    found = gate_of(cast(TableMemory, _Numbers(numbers)), layout, symbols)
    assert gate_of(cast(TableMemory, _Numbers(numbers)), layout, {}) is None
    if protection is None:
        assert found is None
    else:
        assert found
        assert (found.name, found.protection, found.findings) == ("[vsyscall]", protection, ())


class _AreaTypes:
    """Types whose members follow one another."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def offset(self, structure: str, *members: str) -> int | None:
        return self._places.setdefault(members[0], 8 * len(self._places))
