"""The page frame database: each frame's state, use, priority and former owner equal the truth.

The synthetic dumps have layouts of the profiles and of later kernels. Their records were noted when
each frame was given to its owner (tests/synth/framedatabase.py).
"""

import csv
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import memory_visualizer
from memory_visualizer import Snapshot
from memory_visualizer.cli.memviz import main
from memory_visualizer.picture.colouring import colour_by
from memory_visualizer.picture.palette import PALETTES
from memory_visualizer.snapshot.framerecords import (
    NO_PRIORITY,
    NOBODY,
    FrameRecords,
    PageUse,
    RecordFinding,
    WindowsState,
)
from memory_visualizer.windows import framedatabase, framestates
from tests.synth import MIB, Profile, Truth, builds, forge, profiles
from tests.synth.containers import write_lime
from tests.synth.framedatabase import RecordTruth
from tests.synth.memory import PAGE_SIZE

ALL = {**profiles(), **builds()}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "XP": ("WinXPSP2x86", {}),
    "XP PAE": ("WinXPSP3x86", {"pae": True}),
    "2003": ("Win2003SP0x86", {}),
    "2003 PAE": ("Win2003SP2x86", {"pae": True}),
    "XP x64": ("WinXPSP2x64", {}),
    "2003 x64": ("Win2003SP2x64", {}),
    "Vista": ("VistaSP2x86", {"pae": False}),
    "Vista PAE": ("VistaSP0x86", {}),
    "Vista x64 without service pack": ("VistaSP0x64", {}),
    "Vista x64": ("VistaSP2x64", {}),
    "7": ("Win7SP1x86", {"pae": False}),
    "7 PAE": ("Win7SP1x86", {}),
    "7 x64": ("Win7SP1x64", {}),
    "7 x64 with holes": ("Win7SP1x64", {"holes": [(2000, 3000)]}),
    "8": ("Win8SP0x86", {}),
    "8 x64": ("Win8SP0x64", {}),
    "8.1 x64": ("Win8SP1x64", {}),
    "10": ("Win10x86_17763", {}),
    "10 x64 first": ("Win10x64_10240_17770", {}),
    "10 x64 1607": ("Win2016x64_14393", {}),
    "10 x64 1809": ("Win10x64_17763", {}),
    "10 x64 1809, 5 levels": ("Win10x64_17763", {"five_levels": True}),
    "10 x64 2004, shadows": ("Win10x64_19041", {"shadow_tables": True}),
    "Server 2022": ("Win2022x64_20348", {}),
    "11": ("Win11x64_22000", {}),
}
"""Each generation of kernels, in each of its ways of paging."""


def told_uses(profile: Profile, *, five_levels: bool) -> dict[str, str]:
    """Uses that a version's records do not distinguish, as in docs/windows.md."""
    untold: dict[str, str] = {}
    wide, version = profile.bits == 64, profile.version
    tells_types = profile.tells_system_types and not five_levels
    if not (tells_types or (wide and version in ((6, 0), (6, 1)))):
        regions = ("paged pool", "nonpaged pool", "session", "system PTE")
        untold |= dict.fromkeys(regions, "kernel")
    if version >= (6, 2):
        untold |= {"kernel stack": "kernel", "AWE": "driver locked"}
    if "KernelStack" not in profile.frame_record["members"]:
        untold |= {"kernel stack": "kernel"}
    if tells_types:
        # Before build 16299, stacks share a part of the kernel's addresses.
        untold["kernel stack"] = "kernel stack" if profile.build >= 16299 else "system PTE"
    return untold


def synthetic_dump(path: Path, name: str, **options: Any) -> tuple[Truth, RecordTruth]:
    """A dump with a page frame database, and the truth about it."""
    truth = forge(path, ALL[name], database=True, **{"size": 32 * MIB, **options})
    assert truth.records is not None
    return truth, truth.records


def records_of(snapshot: Snapshot) -> FrameRecords:
    """The records of a dump's database, which must be found."""
    assert snapshot.records is not None, snapshot.record_remarks
    return snapshot.records


def states_of(records: FrameRecords) -> npt.NDArray[np.str_]:
    return np.array([state.label for state in WindowsState])[records.states]


def uses_of(records: FrameRecords) -> npt.NDArray[np.str_]:
    assert records.uses is not None
    return np.array([use.label for use in PageUse])[records.uses]


def pids_of(snapshot: Snapshot) -> npt.NDArray[np.int64]:
    """The pid of each frame's former owner; -1 without one."""
    owners = records_of(snapshot).last_owners
    assert owners is not None
    pids = np.array([process.pid for process in snapshot.processes])
    return np.where(owners == NOBODY, -1, pids[owners])


def true_pids(truth: Truth, records: RecordTruth) -> npt.NDArray[np.int64]:
    pids = np.array([process.pid for process in truth.processes])
    owners = records.records["last_owner"]
    return np.where(owners < 0, -1, pids[owners])


def files_of(snapshot: Snapshot) -> list[tuple[str, str, int]]:
    """Path and kind of each frame's file, and the offset in it."""
    pages = snapshot.file_pages
    told = [(file.path, file.kind) for file in pages.files] + [("", "")]
    file, offset = pages.of_frames(0, snapshot.classes.size)
    both = zip(file.tolist(), offset.tolist(), strict=True)
    return [(*told[number], place if number >= 0 else -1) for number, place in both]


def true_files(records: RecordTruth) -> list[tuple[str, str, int]]:
    told = [(section.path, section.kind) for section in records.sections] + [("", "")]
    both = zip(records.records["file"].tolist(), records.records["offset"].tolist(), strict=True)
    return [(*told[number], place) for number, place in both]


def check(path: Path, name: str, **options: Any) -> None:
    """All records of the database are true for every frame."""
    truth, expected = synthetic_dump(path, name, **options)
    snapshot = memory_visualizer.open(path)
    records = records_of(snapshot)
    assert records.database is not None and records.priorities is not None
    assert (records.database.address, records.database.stride) == (
        expected.address,
        expected.stride,
    )
    assert records.database.agreement > 0.99
    np.testing.assert_array_equal(states_of(records), expected.records["state"])
    uses = expected.records["use"].copy()
    five_levels = options.get("five_levels", False)
    for use, told in told_uses(ALL[name], five_levels=five_levels).items():
        uses[uses == use] = told
    np.testing.assert_array_equal(uses_of(records), uses)
    np.testing.assert_array_equal(pids_of(snapshot), true_pids(truth, expected))
    priorities = records.priorities.astype(np.int16)
    priorities[priorities == NO_PRIORITY] = -1
    np.testing.assert_array_equal(priorities, expected.records["priority"])
    assert not any(snapshot.finding_counts().values())
    assert files_of(snapshot) == true_files(expected)
    assert [(one.path, one.size, one.is_deleted) for one in snapshot.file_pages.files] == sorted(
        (one.path, one.size, one.is_deleted) for one in expected.sections if one.path
    )
    assert snapshot.record_remarks == ()
    assert snapshot.inventory is not None and not snapshot.inventory.remarks


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.many
def test_families(family: str, tmp_path: Path) -> None:
    name, options = FAMILIES[family]
    check(tmp_path / "dump", name, **options)


def test_truth_has_all_kinds(tmp_path: Path) -> None:
    """Every state and use occurs, so the tests above cover all of them."""
    truth, records = synthetic_dump(tmp_path / "dump", "Win7SP1x64")
    states = {state.label for state in WindowsState if state}
    assert set(records.records["state"]) == states
    untold = {"absent", "file"}
    assert set(records.records["use"]) == {use.label for use in PageUse} - untold
    assert np.count_nonzero(true_pids(truth, records) > 0) > 100


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.many(16)
def test_profiles(name: str, tmp_path: Path) -> None:
    check(tmp_path / "dump", name, size=16 * MIB)


@pytest.mark.parametrize(("name", "size"), [("Win2003SP0x86", 36), ("Win2003SP1x64", 72)])
def test_a_layout_that_nobody_knows(name: str, size: int, tmp_path: Path) -> None:
    """Records of unknown size are found; values that depend on the layout are left out."""
    record = {**ALL[name].frame_record, "size": size}
    profile = replace(ALL[name], frame_record=record)
    truth = forge(tmp_path / "dump", profile, size=32 * MIB, database=True)
    assert truth.records is not None
    records = records_of(memory_visualizer.open(tmp_path / "dump"))
    assert records.database is not None and records.priorities is not None
    assert (records.database.address, records.database.stride) == (truth.records.address, size)
    np.testing.assert_array_equal(states_of(records), truth.records.records["state"])
    uses = truth.records.records["use"].copy()
    for use in ("mapped file", "metafile", "image", "shareable"):
        uses[uses == use] = "unknown"
    for use in ("paged pool", "nonpaged pool", "session", "system PTE", "kernel stack"):
        uses[uses == use] = "kernel"
    uses[uses == "AWE"] = "driver locked"
    np.testing.assert_array_equal(uses_of(records), uses)
    assert np.all(records.priorities == NO_PRIORITY)


def test_no_database_behind_the_last_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """False witnesses do not lead to an array beyond the last address."""
    synthetic_dump(tmp_path / "dump", "Win7SP1x64")
    honest, tried = framedatabase._witnesses, list[int]()

    def lying(*arguments: Any) -> framedatabase.Witnesses:
        found = honest(*arguments)
        return replace(found, address=found.address - np.uint64(tried[0] + PAGE_SIZE))

    def layout(_: Any, base: int, *__: Any) -> None:
        tried.append(base)

    monkeypatch.setattr(framedatabase, "_layout", layout)
    memory_visualizer.open(tmp_path / "dump").records  # noqa: B018
    assert tried
    monkeypatch.setattr(framedatabase, "_witnesses", lying)
    memory_visualizer.open(tmp_path / "dump").records  # noqa: B018
    assert max(tried) + 32 * MIB // PAGE_SIZE * 48 <= 1 << 64


def changed(path: Path, change: Callable[[npt.NDArray[np.uint8]], None]) -> Snapshot:
    """The snapshot of a dump after a change of its bytes."""
    contents = np.memmap(path, np.uint8, "r+")
    change(contents)
    contents.flush()
    del contents
    return memory_visualizer.open(path)


def record_places(truth: RecordTruth, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The places of each byte of some frames' records, shape (n, size)."""
    place = frames[:, None] * truth.stride + np.arange(truth.stride)
    found: npt.NDArray[np.int64] = truth.frames[place // PAGE_SIZE] * PAGE_SIZE + place % PAGE_SIZE
    return found


@pytest.mark.parametrize("is_hole", [False, True])
@pytest.mark.parametrize("name", ["WinXPSP2x86", "Win7SP1x86", "Win10x64_17763"])
@pytest.mark.many
def test_lost_pages_cost_their_frames(name: str, is_hole: bool, tmp_path: Path) -> None:
    """Pages of zeros, and pages that the dump lacks, cost their own frames."""
    path = tmp_path / "dump"
    _, expected = synthetic_dump(path, name, size=64 * MIB)
    before = records_of(memory_visualizer.open(path))
    lost = np.random.default_rng(4).choice(len(expected.frames), 2, replace=False)
    told = np.unique(np.concatenate([expected.told_by(page) for page in lost.tolist()]))
    frames = expected.frames[lost]
    if is_hole:
        contents = path.read_bytes()
        kept = np.delete(np.arange(len(contents) // PAGE_SIZE), frames)
        edges = np.split(kept, np.flatnonzero(np.diff(kept) != 1) + 1)
        runs = [(int(run[0]), int(run[-1]) + 1) for run in edges]
        write_lime(
            path,
            [(a * PAGE_SIZE, contents[a * PAGE_SIZE : b * PAGE_SIZE]) for a, b in runs],
        )
        after = records_of(memory_visualizer.open(path))
        assert np.all(after.states[frames] == WindowsState.ABSENT)
    else:
        after = records_of(
            changed(path, lambda dump: dump.reshape(-1, PAGE_SIZE).__setitem__(frames, 0))
        )
    others = np.setdiff1d(np.arange(len(before.states)), [*told, *frames * is_hole])
    left = np.setdiff1d(told, frames)
    assert np.all(after.states[left] == WindowsState.UNKNOWN)
    assert before.uses is not None and after.uses is not None
    np.testing.assert_array_equal(after.states[others], before.states[others])
    np.testing.assert_array_equal(after.uses[others], before.uses[others])
    assert before.priorities is not None and after.priorities is not None
    np.testing.assert_array_equal(after.priorities[others], before.priorities[others])
    assert after.sections is not None
    assert not np.isin(told, after.sections.frame).any()
    expected_frames = np.setdiff1d(np.flatnonzero(expected.records["file"] >= 0), told)
    np.testing.assert_array_equal(np.sort(after.sections.frame), expected_frames)


@pytest.mark.parametrize("name", ["WinXPSP2x86", "Win7SP1x86", "Win10x64_17763"])
def test_a_wrong_record_costs_its_frame(name: str, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    _, expected = synthetic_dump(path, name)
    before = records_of(memory_visualizer.open(path))
    rng = np.random.default_rng(5)
    active = np.flatnonzero(expected.records["state"] == "active")
    chosen = rng.choice(active[active > 256], 40, replace=False)
    places = record_places(expected, chosen)
    noise = rng.integers(0, 256, places.shape, np.uint8)
    after = records_of(changed(path, lambda dump: dump.__setitem__(places, noise)))
    others = np.setdiff1d(np.arange(len(before.states)), chosen)
    assert after.database is not None and before.database is not None
    assert after.database.address == before.database.address
    assert before.uses is not None and after.uses is not None
    assert before.last_owners is not None and after.last_owners is not None
    np.testing.assert_array_equal(after.states[others], before.states[others])
    np.testing.assert_array_equal(after.uses[others], before.uses[others])
    np.testing.assert_array_equal(after.last_owners[others], before.last_owners[others])


def hostile_random(dump: npt.NDArray[np.uint8], truth: RecordTruth) -> None:
    """Noise replaces the database."""
    noise = np.random.default_rng(6).integers(0, 256, (len(truth.frames), PAGE_SIZE), np.uint8)
    dump.reshape(-1, PAGE_SIZE)[truth.frames] = noise


def hostile_circular(dump: npt.NDArray[np.uint8], truth: RecordTruth) -> None:
    """Each frame's record names the frame itself as its table."""
    layout = 40 if truth.stride == 48 else truth.stride - 4
    frames = np.arange(len(truth.records))
    places = record_places(truth, frames)[:, layout : layout + 4]
    dump[places] = frames.astype("<u4")[:, None].view(np.uint8)


def hostile_stride(dump: npt.NDArray[np.uint8], truth: RecordTruth) -> None:
    """The records of each page are shifted as if records were larger."""
    for number, frame in enumerate(truth.frames.tolist()):
        page = dump.reshape(-1, PAGE_SIZE)[frame]
        page[:] = np.roll(page, 4 * number)


@pytest.mark.parametrize("name", ["WinXPSP2x86", "Win7SP1x86", "Win10x64_17763"])
@pytest.mark.parametrize("harm", [hostile_random, hostile_circular, hostile_stride])
@pytest.mark.many
def test_hostile_databases(
    name: str, harm: Callable[[npt.NDArray[np.uint8], RecordTruth], None], tmp_path: Path
) -> None:
    path = tmp_path / "dump"
    _, expected = synthetic_dump(path, name)
    snapshot = changed(path, lambda dump: harm(dump, expected))
    assert snapshot.records is None
    assert snapshot.states is None and snapshot.uses is None
    assert snapshot.summary()["pfn_database"] is None


@pytest.mark.parametrize(("share", "is_believed"), [(0.35, True), (0.65, False)])
def test_most_records_decide(share: float, is_believed: bool, tmp_path: Path) -> None:
    """Up to half of the records may lead nowhere, with a remark; beyond that, none is believed."""
    path = tmp_path / "dump"
    truth, expected = synthetic_dump(path, "Win10x64_17763", kernel_pages=150, user_pages=300)
    rows = expected.records
    single = truth.mappings["frame"][truth.mappings["size"] == PAGE_SIZE]
    mapped = (rows["state"] == "active") & np.isin(np.arange(len(rows)), single)
    of_users = mapped & np.isin(rows["use"], ["process private", "image", "shareable"])
    wrong = np.random.default_rng(7).permutation(np.flatnonzero(of_users))
    wrong = wrong[: int(share * np.count_nonzero(mapped))]
    places = record_places(expected, wrong)[:, 40:44]
    snapshot = changed(path, lambda dump: dump.__setitem__(places, 1))
    if is_believed:
        records = records_of(snapshot)
        assert records.database is not None
        assert records.database.agreement == pytest.approx(1 - share, abs=0.01)
    else:
        assert snapshot.records is None
        [remark] = snapshot.record_remarks
        assert f"page frame database at {expected.address:#x} is not believed" in remark
        assert remark in snapshot.summary()["remarks"]


_TYPES = 59 * PAGE_SIZE - 0x80
"""Offset of the array of types in the synthetic kernel's image: it crosses two pages."""


@pytest.mark.parametrize("harm", ["lost", "another", "altered", "a sign"])
@pytest.mark.many
def test_array_of_types(harm: str, tmp_path: Path) -> None:
    """A lost array costs its parts; a wrong byte, also in a copy, costs its own part.

    This holds for one of the three parts by which the array is known.
    """
    path = tmp_path / "dump"
    truth, expected = synthetic_dump(path, "Win10x64_19041")
    before = uses_of(records_of(memory_visualizer.open(path)))
    image = int.from_bytes(ALL["Win10x64_19041"].kdbg_header[:4], "little") << 32 | 0x02A0_0000
    notes = truth.mappings[truth.mappings["size"] == PAGE_SIZE]

    def place(virtual: int) -> int:
        [frame] = notes["frame"][notes["virtual"] == virtual // PAGE_SIZE * PAGE_SIZE]
        return int(frame) * PAGE_SIZE + virtual % PAGE_SIZE

    starts = [place(image + _TYPES), place(image + _TYPES + 0x80)]
    pool = np.flatnonzero(expected.records["use"] == "paged pool")
    part = int(expected.records["pte_address"][pool[0]] >> 30) & 0xFF  # its part of the window

    def change(dump: npt.NDArray[np.uint8]) -> None:
        array = np.concatenate([dump[start : start + 0x80] for start in starts])
        [session] = np.flatnonzero(array == 1)
        assert array[part] == 6
        if harm == "lost":
            for start in starts:
                dump[start : start + 0x80] = 0
        elif harm in ("altered", "a sign"):
            array[session if harm == "altered" else part] = 9
            dump[starts[0] : starts[0] + 0x80] = array[:0x80]
            dump[starts[1] : starts[1] + 0x80] = array[0x80:]
        else:
            other = place(image + 61 * PAGE_SIZE)
            array[session] = 9
            dump[other : other + 0x100] = array

    after = uses_of(records_of(changed(path, change)))
    told = {"paged pool", "nonpaged pool", "session", "system PTE", "kernel stack"}
    expected_uses = before.copy()
    if harm == "altered":
        expected_uses[before == "session"] = "system PTE"
    elif harm == "a sign":
        expected_uses[before == "paged pool"] = "system PTE"
    elif harm == "another":
        expected_uses[before == "session"] = "kernel"
    else:
        expected_uses[np.isin(before, [*told])] = "kernel"
    np.testing.assert_array_equal(after, expected_uses)


@pytest.fixture(scope="module")
def contradicted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, int]:
    """A dump with an altered entry of a process, a free frame, and the frame that lost the entry.

    The entry led to the last one, and leads to the free one now.
    """
    path = tmp_path_factory.mktemp("contradicted") / "dump"
    _, expected = synthetic_dump(path, "Win10x64_17763")
    rows = expected.records
    free = int(np.flatnonzero(rows["state"] == "free")[7])
    private = (rows["state"] == "active") & (rows["use"] == "process private")
    hidden = int(np.flatnonzero(private)[100])
    entry = (
        int(rows["pte_frame"][hidden]) * PAGE_SIZE + int(rows["pte_address"][hidden]) % PAGE_SIZE
    )

    def alter(dump: npt.NDArray[np.uint8]) -> None:
        value = int.from_bytes(dump[entry : entry + 8].tobytes(), "little")
        assert value >> 12 & (1 << 36) - 1 == hidden
        value ^= (hidden ^ free) << 12
        dump[entry : entry + 8] = np.frombuffer(value.to_bytes(8, "little"), np.uint8)

    changed(path, alter)
    return path, free, hidden


def test_contradictions(contradicted: tuple[Path, int, int]) -> None:
    path, free, hidden = contradicted
    records = records_of(memory_visualizer.open(path))
    assert records.findings is not None
    assert {frame: RecordFinding(records.findings[frame]) for frame in (free, hidden)} == {
        free: RecordFinding.FREE_BUT_MAPPED,
        hidden: RecordFinding.PRIVATE_BUT_NOT_MAPPED,
    }
    assert np.count_nonzero(records.findings) == 2


def test_outputs(
    contradicted: tuple[Path, int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tables, JSON and summary agree with the snapshot."""
    path, free, hidden = contradicted
    outputs = [str(tmp_path / name) for name in ("a.png", "a.npz", "a.json")]
    arguments = [str(path), "-o", outputs[0], "--table", outputs[1], "--json", outputs[2]]
    assert main([*arguments, "--uses", "--color-by", "use", "-v"]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"Page frame database at 0x[0-9a-f]{16}, 48 bytes a frame; 100\.0 % of", printed
    ), printed
    assert f"free but mapped: 1 page ({free * PAGE_SIZE:#x})" in printed
    assert f"private but not mapped: 1 page ({hidden * PAGE_SIZE:#x})" in printed
    snapshot = memory_visualizer.open(path)
    records = records_of(snapshot)
    with np.load(outputs[1]) as table:
        np.testing.assert_array_equal(table["state_names"][table["state"]], states_of(records))
        np.testing.assert_array_equal(table["use_names"][table["use"]], uses_of(records))
        np.testing.assert_array_equal(table["last_owner_pid"], pids_of(snapshot))
        np.testing.assert_array_equal(table["priority"], records.priorities)
        findings = table["finding_names"][table["finding"]]
        assert (findings[free], findings[hidden]) == ("free but mapped", "private but not mapped")
    summary = json.loads(Path(outputs[2]).read_text())
    assert records.database is not None
    assert summary["pfn_database"] == {
        "address": hex(records.database.address),
        "stride": 48,
        "agreement": round(records.database.agreement, 4),
    }
    frames = snapshot.classes.size
    assert sum(summary["states"].values()) == sum(summary["uses"].values()) == frames
    assert summary["frame_findings"] == {"free but mapped": 1, "private but not mapped": 1}
    pids, counts = np.unique(pids_of(snapshot), return_counts=True)
    assert summary["last_owners"] == {
        str(pid): count for pid, count in zip(pids, counts, strict=True) if pid >= 0
    }


def test_chosen_processes_only(contradicted: tuple[Path, int, int], tmp_path: Path) -> None:
    """Table and JSON do not name other processes as former owners."""
    snapshot = memory_visualizer.open(contradicted[0])
    pids = pids_of(snapshot)
    pid = int(np.bincount(pids[pids >= 0]).argmax())
    arguments = [str(contradicted[0]), "-q", "-o", str(tmp_path / "a.png"), "--pid", str(pid)]
    arguments += ["--table", str(tmp_path / "a.npz"), "--json", str(tmp_path / "a.json")]
    assert main(arguments) == 0
    with np.load(tmp_path / "a.npz") as table:
        np.testing.assert_array_equal(table["last_owner_pid"], np.where(pids == pid, pid, -1))
    summary = json.loads((tmp_path / "a.json").read_text())
    assert summary["last_owners"] == {str(pid): np.count_nonzero(pids == pid)}


def test_uses_as_a_table(
    contradicted: tuple[Path, int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Uses are rows, states are columns; the sums are the frames of the dump."""
    assert main([str(contradicted[0]), "-o", str(tmp_path / "a.png"), "--uses"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("Pages by use and state")
    titles = lines[start + 1]
    rows = lines[start + 2 : lines.index("", start)]
    records = records_of(memory_visualizer.open(contradicted[0]))
    states, uses = states_of(records), uses_of(records)
    assert [row.split("  ")[1] for row in rows] == [
        *(use.label for use in PageUse if use.label in uses),
        "total",
    ]
    for state in WindowsState:
        if state.label not in states:
            assert f" {state.label} " not in titles
            continue
        end = titles.index(f"  {state.label}  ") + len(state.label) + 2
        for row in rows:
            use = row.split("  ")[1]
            chosen = (states == state.label) & ((uses == use) | (use == "total"))
            cell = row[:end].rpartition("  ")[2].strip().replace(",", "")
            assert cell == (str(chosen.sum()) if chosen.any() else ""), (use, state)
    assert f" {len(states):,} " in rows[-1] and rows[-1].endswith("32 MiB")


def test_csv_and_parquet(contradicted: tuple[Path, int, int], tmp_path: Path) -> None:
    path, free, _ = contradicted
    snapshot = memory_visualizer.open(path)
    records = records_of(snapshot)
    assert records.priorities is not None
    arguments = [str(path), "-q", "-o", str(tmp_path / "a.png"), "--table"]
    for name in ("a.csv", "a.parquet"):
        assert main([*arguments, str(tmp_path / name), "--force"]) == 0
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == states_of(records).tolist()
    assert [row["use"] for row in rows] == uses_of(records).tolist()
    owners = [str(pid) if pid >= 0 else "" for pid in pids_of(snapshot).tolist()]
    assert [row["last_owner_pid"] for row in rows] == owners
    priorities = [None if one == NO_PRIORITY else one for one in records.priorities.tolist()]
    assert [int(row["priority"]) if row["priority"] else None for row in rows] == priorities
    assert rows[free]["finding"] == "free but mapped"
    pyarrow = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.read_table(tmp_path / "a.parquet")
    assert table["state"].to_pylist() == states_of(records).tolist()
    assert table["use"].to_pylist() == uses_of(records).tolist()
    assert table["priority"].to_pylist() == priorities
    owned = [pid if pid >= 0 else None for pid in pids_of(snapshot).tolist()]
    assert table["last_owner_pid"].to_pylist() == owned
    assert table["finding"].to_pylist()[free] == "free but mapped"


@pytest.mark.parametrize("color_by", ["state", "use"])
@pytest.mark.parametrize("palette", PALETTES)
def test_colours(color_by: str, palette: str, contradicted: tuple[Path, int, int]) -> None:
    snapshot = memory_visualizer.open(contradicted[0])
    records = records_of(snapshot)
    colouring = colour_by(color_by, snapshot, PALETTES[palette], lambda: records.states)
    labels = np.array([swatch.label for swatch in colouring.swatches])
    expected = states_of(records) if color_by == "state" else uses_of(records)
    np.testing.assert_array_equal(labels[colouring.values], expected)
    colours = [swatch.colour for swatch in colouring.swatches]
    assert len(set(colours)) == len(colours)


def test_read_only_where_asked_for(
    contradicted: tuple[Path, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture by class does not read the records."""

    def refuse(*_: object) -> FrameRecords:
        raise AssertionError("the records were read")

    monkeypatch.setattr(framestates, "read_records", refuse)
    assert main([str(contradicted[0]), "-o", str(tmp_path / "a.png")]) == 0
    with pytest.raises(AssertionError, match="were read"):
        main([str(contradicted[0]), "-o", str(tmp_path / "b.png"), "--uses"])


def test_pickled_before_it_was_asked(contradicted: tuple[Path, int, int]) -> None:
    snapshot = memory_visualizer.open(contradicted[0])
    again: Snapshot = pickle.loads(pickle.dumps(snapshot))
    np.testing.assert_array_equal(records_of(again).states, records_of(snapshot).states)
