"""The regions of processes, against the truth of their VADs."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import Snapshot, limits
from memory_visualizer.cli import extract
from memory_visualizer.cli.memviz import main
from memory_visualizer.paging import MAY_EXECUTE, MAY_USER, MAY_WRITE
from memory_visualizer.snapshot.inventory import Region
from memory_visualizer.windows.regions import _without_ignored
from tests.synth import Truth
from tests.synth.memory import PAGE_SIZE
from tests.synth.truth import INJECTED_PAGES
from tests.synth.vads import RegionTruth, VadWriter
from tests.windows.dumps import ALL, FAMILIES, Originals, Patch, dump_with_objects, remarks_of

PROTECTIONS = {
    0x01: "r--",
    0x03: "r-x",
    0x04: "rw-",
    0x06: "rwx",
    0x07: "rcx",
    0x14: "rw-",  # a guard page
    0x18: "---",
}
KINDS = {0: "", 2: "image", 5: "large pages"}


def row(truth: RegionTruth) -> Region:
    path = truth.section.path if truth.section else ""
    return Region(
        truth.start,
        truth.end,
        PROTECTIONS[truth.protection],
        is_private=truth.is_private,
        name="[shared data]" if truth.start == 0x7FFE0000 else truth.name,
        file=path,
        offset=truth.offset,
        kind=KINDS[truth.kind],
        commit=truth.commit,
    )


def rows_of(truth: Truth) -> dict[int, list[Region]]:
    """The true regions by pid."""
    return {
        truth.processes[index].pid: [row(region) for region in regions]
        for index, regions in truth.regions.items()
    }


def found_in(snapshot: Snapshot) -> dict[int, list[Region]]:
    """The regions that are found, by pid."""
    found = {process.pid: snapshot.regions(process) for process in snapshot.processes}
    return {pid: list(regions) for pid, regions in found.items() if regions}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.many
def test_families(family: str, tmp_path: Path) -> None:
    name, options = FAMILIES[family]
    truth = dump_with_objects(tmp_path / "dump", name, **options)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert found_in(snapshot) == rows_of(truth)
    assert remarks_of(snapshot) == ""


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.many(16)
def test_profiles(name: str, tmp_path: Path) -> None:
    truth = dump_with_objects(tmp_path / "dump", name)
    assert found_in(memory_visualizer.open(tmp_path / "dump")) == rows_of(truth)


def test_all_pages_of_processes_lie_in_their_regions(tmp_path: Path, originals: Originals) -> None:
    """The page tables, which are not a source of regions, agree."""
    originals.copy("Win10x64_19041", tmp_path / "dump")
    snapshot = memory_visualizer.open(tmp_path / "dump")
    rows = snapshot.mappings
    for index, process in enumerate(snapshot.processes):
        regions = snapshot.regions(process) or ()
        pages = rows.virtual[(rows.space == index) & rows.is_user].tolist()
        assert all(any(one.start <= page < one.end for one in regions) for page in pages)


def test_findings(tmp_path: Path, originals: Originals) -> None:
    truth = originals.copy("Win7SP1x86", tmp_path / "dump")
    snapshot = memory_visualizer.open(tmp_path / "dump")
    found = {
        (process.name, region.start): (region.size, region.findings)
        for process in snapshot.processes
        for region in snapshot.regions(process) or ()
        if region.findings
    }
    [notepad] = [process for process in truth.processes if process.injected]
    both = ("private, writable, executable", "executable without a file")
    [shared] = [
        region.start
        for index, regions in truth.regions.items()
        for region in regions
        if truth.processes[index].name == "explorer.exe"
        and region.section
        and (region.protection, region.section.path) == (3, "")
    ]
    assert found == {
        (notepad.name, notepad.injected): (INJECTED_PAGES * PAGE_SIZE, both),
        ("explorer.exe", shared): (6 * PAGE_SIZE, both[1:]),
    }


class Damaged:
    """A dump with regions that tests damage; the victim is a process in the middle."""

    def __init__(self, path: Path, name: str, truth: Truth) -> None:
        self.path = path
        self.truth = truth
        self.patch = Patch(self.path, self.truth)
        self.profile = ALL[name]
        chosen, another = list(self.truth.regions)[4:6]
        self.victim = self.truth.processes[chosen]
        self.regions = self.truth.regions[chosen]
        self.others = self.truth.regions[another]
        no_pool: Any = None
        writer = VadWriter(self.profile, no_pool, 0, self.patch.write)
        self.parent, self.left, self.right = writer._links

    @property
    def root(self) -> RegionTruth:
        """The region at the root of the victim's tree."""
        return self.regions[len(self.regions) // 2]

    def below(self, node: int, place: int) -> list[RegionTruth]:
        """The regions below one of a node's links."""
        child = self.number(node + place)
        found = [region for region in self.regions if region.node == child]
        for region in list(found):
            for side in (self.left, self.right):
                found += self.below(region.node, side)
        return found

    def number(self, at: int) -> int:
        return int.from_bytes(self.patch.read(at, self.profile.pointer_size), "little")

    def set(self, at: int, value: int, size: int = 0) -> None:
        self.patch.write(at, value.to_bytes(size or self.profile.pointer_size, "little"))

    def bound(self, region: RegionTruth, member: str, value: int) -> None:
        """Write the number of a region's first or last page."""
        self.set(region.node + self.profile.offset("_MMVAD_SHORT", member), value, 4)

    def lost(self) -> tuple[list[Region], str]:
        """The victim's missing regions, and the remarks; all others must be found."""
        snapshot = memory_visualizer.open(self.path)
        found, true = found_in(snapshot), rows_of(self.truth)
        kept = found.pop(self.victim.pid, [])
        own = true.pop(self.victim.pid)
        assert found == true
        assert [region for region in kept if region not in own] == []
        return [region for region in own if region not in kept], remarks_of(snapshot)


@pytest.fixture(params=["WinXPSP2x86", "Win7SP1x64", "Win10x64_19041"])
def damaged(request: pytest.FixtureRequest, originals: Originals, tmp_path: Path) -> Damaged:
    """A dump with each form of trees."""
    path = tmp_path / "dump"
    return Damaged(path, request.param, originals.copy(request.param, path))


@pytest.mark.parametrize(
    ("member", "value"),
    [("StartingVpn", 0x7FFF_FFFF), ("EndingVpn", 0), ("EndingVpn", 0xFFFF_FFFF)],
)
@pytest.mark.many
def test_bounds_that_lie_cost_their_region(damaged: Damaged, member: str, value: int) -> None:
    damaged.bound(damaged.root, member, value)
    lost, remarks = damaged.lost()
    assert lost == [row(damaged.root)]
    assert f"1 region of {damaged.victim.name} ({damaged.victim.pid}) left out" in remarks


def test_a_region_that_swallows_others_is_left_out(damaged: Damaged) -> None:
    """The left-out region overlaps many that do not overlap each other."""
    region = damaged.regions[1]
    damaged.bound(region, "EndingVpn", damaged.regions[8].end // PAGE_SIZE)
    lost, remarks = damaged.lost()
    assert lost == [row(region)]
    assert "1 region of" in remarks


def test_a_link_that_leads_nowhere_costs_what_hangs_under_it(damaged: Damaged) -> None:
    under = damaged.below(damaged.root.node, damaged.left)
    assert len(under) > 3
    damaged.set(damaged.root.node + damaged.left, 0x1234)
    lost, remarks = damaged.lost()
    assert lost == sorted(map(row, under), key=lambda region: region.start)
    who = f"{damaged.victim.name} ({damaged.victim.pid})"
    assert f"the regions of {who} are not complete: 1 link lost" in remarks


def test_a_link_to_the_tree_s_own_root(damaged: Damaged) -> None:
    under = damaged.below(damaged.root.node, damaged.right)
    damaged.set(damaged.root.node + damaged.right, damaged.root.node)
    lost, remarks = damaged.lost()
    assert lost == sorted(map(row, under), key=lambda region: region.start)
    assert "1 link lost" in remarks


def test_a_link_into_the_tree_of_another_process(damaged: Damaged) -> None:
    """The nodes there lead back to their own process."""
    under = damaged.below(damaged.root.node, damaged.left)
    foreign = damaged.others[len(damaged.others) // 2].node
    damaged.set(damaged.root.node + damaged.left, damaged.number(foreign + damaged.left))
    lost, remarks = damaged.lost()
    assert lost == sorted(map(row, under), key=lambda region: region.start)
    assert f"of {damaged.victim.name} ({damaged.victim.pid}) left out" in remarks


def test_a_parent_that_lies_costs_nothing(damaged: Damaged) -> None:
    child = damaged.number(damaged.root.node + damaged.left)
    damaged.set(child + damaged.parent, 0x41414140)
    assert damaged.lost() == ([], "")


def test_tags_that_are_gone_cost_nothing(damaged: Damaged) -> None:
    before = {4: 4, 8: 12}[damaged.profile.pointer_size]
    for regions in damaged.truth.regions.values():
        for region in regions:
            damaged.patch.write(region.node - before, b"XXXX")
    assert damaged.lost() == ([], "")


def test_a_section_that_is_lost_is_told(damaged: Damaged) -> None:
    [view] = [
        region
        for region in damaged.regions
        if region.section and region.section.path.endswith("dat")
    ]
    assert view.section
    for other in damaged.truth.regions.values():
        assert any(one.section is view.section for one in other)
    size = damaged.profile.size("_CONTROL_AREA")
    damaged.patch.write(view.section.control_area, bytes(size))
    snapshot = memory_visualizer.open(damaged.path)
    for pid, regions in found_in(snapshot).items():
        true = rows_of(damaged.truth)[pid]
        assert len(regions) == len(true)
        for region, expected in zip(regions, true, strict=True):
            lost = expected.file == view.section.path
            assert region.file == ("[lost]" if lost else expected.file)
            assert region.offset == (None if lost else expected.offset)


def test_pages_of_a_region_that_was_taken_out(
    damaged: Damaged, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The summary counts the pages, which have no region any more."""
    snapshot = memory_visualizer.open(damaged.path)
    [index] = [n for n, one in enumerate(snapshot.processes) if one.pid == damaged.victim.pid]
    rows = snapshot.mappings
    own = rows.virtual[(rows.space == index) & rows.is_user]
    leaves = [
        region
        for region in damaged.regions
        if not (damaged.number(region.node + damaged.left))
        and not damaged.number(region.node + damaged.right)
    ]
    pages = {one.start: int(((own >= one.start) & (own < one.end)).sum()) for one in leaves}
    hidden = max(leaves, key=lambda one: pages[one.start])
    assert pages[hidden.start] > 0
    for region in damaged.regions:
        for side in (damaged.left, damaged.right):
            if damaged.number(region.node + side) == hidden.node:
                damaged.set(region.node + side, 0)
    assert damaged.lost() == ([row(hidden)], "")
    outputs = ["--regions", str(tmp_path / "r.csv"), "-o", str(tmp_path / "dump.png")]
    assert main([str(damaged.path), *outputs]) == 0
    who = f"{damaged.victim.name} ({damaged.victim.pid})"
    line = f"pages in no region: {pages[hidden.start]} in {who}"
    assert line in capsys.readouterr().out


def test_a_root_that_is_gone(damaged: Damaged) -> None:
    at = damaged.victim.eprocess + damaged.profile.offset("_EPROCESS", "VadRoot")
    if damaged.profile.vad_root == "_MM_AVL_TABLE":
        at += damaged.right
    damaged.set(at, 0x8888_0000)
    lost, remarks = damaged.lost()
    assert len(lost) == len(damaged.regions)
    assert "are not complete: 1 link lost" in remarks


def test_more_charged_pages_than_a_region_has(tmp_path: Path, originals: Originals) -> None:
    """The largest number means none (MM_MAX_COMMIT), so the charge is not told."""
    path = tmp_path / "dump"
    damaged = Damaged(path, "Win7SP1x64", originals.copy("Win7SP1x64", path))
    at = damaged.root.node + damaged.profile.offset("_MMVAD_SHORT", "u")
    damaged.set(at, damaged.number(at) | (1 << 51) - 1)
    found = found_in(memory_visualizer.open(path))
    true = rows_of(damaged.truth)
    place = true[damaged.victim.pid].index(row(damaged.root))
    true[damaged.victim.pid][place] = replace(row(damaged.root), commit=None)
    assert found == true


def test_too_many_are_told(
    tmp_path: Path, originals: Originals, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = dict(limits.RATES)
    rates["region"] = limits.Rate(1 << 30, 1, 100)
    monkeypatch.setattr(limits, "RATES", rates)
    truth = originals.copy("Win7SP1x64", tmp_path / "dump")
    snapshot = memory_visualizer.open(tmp_path / "dump")
    found = sum(map(len, found_in(snapshot).values()))
    assert 0 < found <= 100 < sum(map(len, truth.regions.values()))
    assert "regions left out: more than any machine has" in remarks_of(snapshot)


def test_as_a_table(
    tmp_path: Path, originals: Originals, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = originals.copy("Win7SP1x64", tmp_path / "dump")
    table = tmp_path / "regions.csv"
    picture = str(tmp_path / "dump.png")
    assert main([str(tmp_path / "dump"), "--regions", str(table), "-o", picture]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    [notepad] = [process for process in truth.processes if process.injected]
    line = f"private, writable, executable: 1 in {notepad.name} ({notepad.pid})"
    assert line in told.out
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    true = [(pid, region) for pid, regions in rows_of(truth).items() for region in regions]
    expected = [
        {
            "pid": str(pid),
            "start": hex(region.start),
            "protection": region.protection.replace("---", "'---"),  # not a formula
            "sharing": "private" if region.is_private else "shared",
            "file": region.file,
            "type": region.kind,
            "commit": str(region.commit),
        }
        for pid, region in sorted(true, key=lambda one: (one[0], one[1].start))
    ]
    assert [{name: row[name] for name in expected[0]} for row in rows] == expected


def test_extract_writes_them(tmp_path: Path, originals: Originals) -> None:
    truth = originals.copy("Win10x86_17763", tmp_path / "dump")
    [notepad] = [process for process in truth.processes if process.injected]
    arguments = [
        str(tmp_path / "dump"),
        "--process",
        str(notepad.pid),
        "--to",
        str(tmp_path / "to"),
    ]
    assert (
        extract.main("memviz extract", extract.parser("memviz extract").parse_args(arguments)) == 0
    )
    manifest = json.loads((tmp_path / "to/manifest.json").read_text())
    pieces = {int(entry["start"], 16): entry for entry in manifest["pieces"]}
    [index] = [number for number, one in enumerate(truth.processes) if one is notepad]
    assert sorted(pieces) == [region.start for region in truth.regions[index]]
    assert pieces[notepad.injected]["pages_written"] == INJECTED_PAGES


class Blocks:
    """A dump in which tests damage one process's blocks."""

    def __init__(self, name: str, path: Path, originals: Originals) -> None:
        self.path = path
        self.truth = originals.copy(name, path)
        self.profile = ALL[name]
        self.owner = next(n for n, one in enumerate(self.truth.processes) if one.injected)
        self.patch = Patch(path, self.truth, self.owner)
        self.kernel = Patch(path, self.truth)
        snapshot = memory_visualizer.open(path)
        [row] = [one for one in snapshot.processes if one.pid == self.pid]
        at = row.object_address + self.profile.offset("_EPROCESS", "Peb")
        word = self.profile.pointer_size
        self.process_block = int.from_bytes(self.kernel.read(at, word), "little")
        self.in_object = at

    @property
    def pid(self) -> int:
        return self.truth.processes[self.owner].pid

    def member(self, block: int, structure: str, name: str) -> int:
        return block + self.profile.offset(structure, name)

    def thread_block(self, number: int) -> int:
        size = 0x2000 if self.profile.bits == 64 else 0x1000
        return self.process_block - number * size

    def set(self, at: int, value: int, size: int = 0) -> None:
        self.patch.write(at, value.to_bytes(size or self.profile.pointer_size, "little"))

    def lost(self) -> list[int]:
        """Begins of the process's regions that lost their names; all other regions must agree."""
        found, true = found_in(memory_visualizer.open(self.path)), rows_of(self.truth)
        assert all(found[pid] == rows for pid, rows in true.items() if pid != self.pid)
        lost = []
        for own, expected in zip(found[self.pid], true[self.pid], strict=True):
            assert replace(own, name=expected.name) == expected
            if own != expected:
                assert own.name == ""
                lost.append(own.start)
        return lost

    def named(self, name: str) -> list[int]:
        """The begins of regions with a name, ascending."""
        return [one.start for one in self.truth.regions[self.owner] if one.name == name]


@pytest.fixture(params=["WinXPSP2x86", "Win7SP1x64", "Win10x86_17763", "Win10x64_19041"])
def blocks(request: pytest.FixtureRequest, tmp_path: Path, originals: Originals) -> Blocks:
    return Blocks(request.param, tmp_path / "dump", originals)


@pytest.mark.many
def test_heaps_and_stacks_are_there(blocks: Blocks) -> None:
    assert (len(blocks.named("[heap]")), len(blocks.named("[stack]"))) == (4, 2)
    assert blocks.lost() == []


@pytest.mark.parametrize("member", ["Self", "StackLimit"])
@pytest.mark.many
def test_a_block_of_a_thread_that_lies(blocks: Blocks, member: str) -> None:
    """A wrong word does no harm, but a wrong bound of the stack costs the stack's name."""
    at = blocks.member(blocks.thread_block(1), "_NT_TIB", member)
    blocks.set(at, 0x1234)
    assert blocks.lost() == ([] if member == "Self" else blocks.named("[stack]")[:1])


@pytest.mark.parametrize("place", ["thread", "object"])
@pytest.mark.many
def test_a_wrong_address_of_the_process_s_block(blocks: Blocks, place: str) -> None:
    """Threads and the process object outvote each other's damage."""
    if place == "thread":
        at = blocks.member(blocks.thread_block(2), "_TEB", "ProcessEnvironmentBlock")
        blocks.set(at, blocks.named("[heap]")[0])
    else:
        word = blocks.profile.pointer_size
        blocks.kernel.write(blocks.in_object, blocks.thread_block(1).to_bytes(word, "little"))
    assert blocks.lost() == []


@pytest.mark.many
def test_a_list_of_heaps_that_is_lost(blocks: Blocks) -> None:
    """Since Vista, heaps are found by their mark and their own address."""
    blocks.set(blocks.member(blocks.process_block, "_PEB", "ProcessHeaps"), 0)
    second, third = blocks.named("[heap]")[:2]
    without_marks = blocks.profile.version < (6, 0)
    assert blocks.lost() == ([second, third] if without_marks else [third])


@pytest.mark.many
def test_more_heaps_than_a_process_can_have(blocks: Blocks) -> None:
    """Their number is cut, and a remark tells it."""
    blocks.set(blocks.member(blocks.process_block, "_PEB", "NumberOfHeaps"), 0xFFFF_FFFF, 4)
    assert blocks.lost() == []
    snapshot = memory_visualizer.open(blocks.path)
    found_in(snapshot)
    assert "heaps left out: more than any machine has" in remarks_of(snapshot)


def test_one_altered_entry_and_the_right_to_execute() -> None:
    """If the right is unknown on the machine, a region without it makes no difference."""
    all_rights = MAY_USER | MAY_WRITE | MAY_EXECUTE
    rights = np.full(40, all_rights, np.uint8)
    rights[3], rights[5] = MAY_USER | MAY_WRITE, 0
    told = _without_ignored(rights)
    assert told.tolist() == [0 if n == 5 else MAY_USER | MAY_WRITE for n in range(40)]
    rights[:20] = MAY_USER | MAY_WRITE
    assert _without_ignored(rights).tolist() == rights.tolist()
