"""A second opinion on the synthetic dumps: MemProcFS, which does not use Volatility.

It accepts 64-bit images of Vista and later that look real, finds processes with its own methods,
and maps their page tables with its own walker.
"""

from pathlib import Path
from types import ModuleType

import pytest

import memory_visualizer
from memory_visualizer import Snapshot
from memory_visualizer.snapshot.framerecords import PageUse, WindowsState
from tests.synth import MIB, Truth, forge, profiles
from tests.synth.memory import PAGE_SIZE

NAMES = [name for name, p in profiles().items() if p.bits == 64 and p.version >= (6, 0)]

OPTIONS = [
    "-disable-python",
    "-disable-symbolserver",
    "-disable-symbols",
    "-disable-infodb",
    "-norefresh",
    "-waitinitialize",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.many
def test_lists_the_processes_and_maps_their_pages(
    name: str, memprocfs: ModuleType, tmp_path: Path
) -> None:
    truth = forge(tmp_path / "dump", profiles()[name], size=16 * MIB)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    vmm = memprocfs.Vmm(["-device", str(tmp_path / "dump"), *OPTIONS])
    try:
        seen = {p.pid: p for p in vmm.process_list()}
        listed = [truth.processes[i] for i in truth.listed]
        assert {pid: p.name for pid, p in seen.items()} == {p.pid: p.name for p in listed}
        for owner in truth.listed:
            process = seen[truth.processes[owner].pid]
            assert process.dtb == truth.processes[owner].dtb & ~0xFFF
            if not process.is_usermode:  # for these it also lists the kernel's half
                continue
            expected = user_pages(truth, owner)
            assert addresses(process) == set(expected)
            assert addresses(process) == engine_addresses(snapshot, process.pid) - trimmed(
                truth, owner
            )
            for virtual, physical in list(expected.items())[::7]:
                assert process.memory.virt2phys(virtual) == physical
    finally:
        vmm.close()


LISTS = {
    "Zero": "zeroed",
    "Free": "free",
    "Standby": "standby",
    "Modifiy": "modified",
    "ModNoWr": "modified no write",
    "Bad": "bad",
    "Active": "active",
    "Transit": "transition",
}
"""MemProcFS's names for the lists of the page frame database."""
USES = {
    "ProcPriv": {"process private", "session", "kernel"},  # all pages in one process's tables
    "PageTable": {"page table", "kernel"},  # also large pages of the kernel
    "DriverLock": {"driver locked", "AWE"},
    "File": {"mapped file", "metafile", "image", "shareable"},  # unchanged pages
    "Shareable": {"mapped file", "metafile", "image", "shareable"},
    "Unused": {"unused", "unknown"},
}
"""For each of MemProcFS's names for uses, this program's possible answers; "-" means unknown."""


# MemProcFS takes layouts from the build: a preview of Windows 10 (9841) gets Windows 8's, and the
# profile Win81U1x64, which names build 17031, gets Windows 10's.
# Windows 8's, and the profile Win81U1x64 names a build (17031) that it takes for Windows 10's.
_OTHER_BUILDS = ("Win10x64", "Win81U1x64")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in _OTHER_BUILDS])
@pytest.mark.many
def test_has_each_frame_on_the_same_list(name: str, memprocfs: ModuleType, tmp_path: Path) -> None:
    """State, kind of use, and the process of each frame's record agree."""
    truth = forge(tmp_path / "dump", profiles()[name], size=16 * MIB, database=True)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    records = snapshot.records
    assert records is not None and records.uses is not None and records.last_owners is not None
    vmm = memprocfs.Vmm(["-device", str(tmp_path / "dump"), *OPTIONS])
    try:
        seen = vmm.maps.pfn(list(range(truth.frames)))
    finally:
        vmm.close()
    rows = list(seen.values()) if isinstance(seen, dict) else seen
    assert len({row["pfn"] for row in rows}) >= truth.frames - 1  # MemProcFS has none for frame 0
    known = {truth.processes[i].pid for i in truth.listed} - {4}
    owned = 0
    for row in rows:
        frame = row["pfn"]
        state, use = WindowsState(records.states[frame]).label, PageUse(records.uses[frame]).label
        # For an empty record this program says unknown.
        assert LISTS[row["tp"]] == state or (row["tp"] == "Zero" and state == "unknown"), row
        assert row["tpex"] == "-" or use in USES[row["tpex"]], (row, use)
        pid = snapshot.processes[records.last_owners[frame]].pid
        if use == "process private" and state == "active":
            owners = {process.pid for process, _ in snapshot.owners_of(frame)}
            assert (row["tpex"] == "ProcPriv" and row["pid"] in owners) or not owners & known
        elif records.last_owners[frame] >= 0 and pid in known:
            assert (row["tpex"], row["pid"]) == ("ProcPriv", pid)
            owned += 1
    assert owned > 10


def user_pages(truth: Truth, owner: int) -> dict[int, int]:
    """Virtual to physical address of each 4 KiB that a process can use in user mode.

    Pages in transition are left out, as the processor cannot use them.
    """
    notes = truth.mappings[(truth.mappings["owner"] == owner) & truth.mappings["user"]]
    pages = {}
    for note in notes[~notes["transition"]]:
        for part in range(0, note["size"], PAGE_SIZE):
            pages[int(note["virtual"]) + part] = int(note["frame"]) * PAGE_SIZE + part
    return pages


def trimmed(truth: Truth, owner: int) -> set[int]:
    """Virtual addresses of a process's pages in transition, which MemProcFS does not count."""
    notes = truth.mappings[(truth.mappings["owner"] == owner) & truth.mappings["transition"]]
    return set(notes["virtual"].tolist())


def engine_addresses(snapshot: Snapshot, pid: int) -> set[int]:
    """Virtual addresses of each 4 KiB that a process can use in user mode, by our own engine."""
    [index] = [i for i, process in enumerate(snapshot.processes) if process.pid == pid]
    rows = snapshot.mappings.take(snapshot.mappings.is_user & (snapshot.mappings.space == index))
    return {
        virtual + part * PAGE_SIZE
        for virtual, frames in zip(rows.virtual.tolist(), rows.count.tolist(), strict=True)
        for part in range(frames)
    }


def addresses(process: ModuleType) -> set[int]:
    """Virtual addresses of all present pages in MemProcFS's map of a process."""
    found = set()
    for run in process.maps.pte(False):
        for number in range(run["pages"]):
            virtual = run["va"] + number * PAGE_SIZE
            if run["pages-sw"]:  # only a part of the run is present: ask page by page
                try:
                    process.memory.virt2phys(virtual)
                except RuntimeError:
                    continue
            found.add(virtual)
    return found
