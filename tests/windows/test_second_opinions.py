"""Modules and regions by other programs: Volatility 2 and 3, and MemProcFS."""

import json
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import pytest

import memory_visualizer
from memory_visualizer import Snapshot
from tests.conftest import ROOT
from tests.synth import profiles
from tests.test_memprocfs import OPTIONS
from tests.volatility2program import volatility
from tests.volatility3.program import Volatility
from tests.windows.dumps import dump_with_objects

PROTECTIONS = ("---", "r--", "--x", "r-x", "rw-", "rc-", "rwx", "rcx")
"""By the lowest three bits of the protection, which the others print as a number."""

Row = tuple[int, int, str, bool]


def regions_of(snapshot: Snapshot) -> dict[int, list[Row]]:
    """Start, end, protection and privacy of each listed process's regions."""
    return {
        process.pid: [
            (one.start, one.end, one.protection, one.is_private)
            for one in snapshot.regions(process) or ()
        ]
        for process in snapshot.processes
        if process.is_listed
    }


VOLATILITY_2 = (
    *("WinXPSP2x86", "Win2003SP0x86", "Win2003SP2x86", "Win2003SP2x64", "VistaSP2x86"),
    *("Win7SP1x86", "Win7SP1x64", "Win8SP0x86", "Win8SP0x64", "Win8SP1x64", "Win10x86_17763"),
    "Win10x64_15063",
)


def test_volatility_2(volatility2: Path, tmp_path: Path) -> None:
    """`modules` and `vadinfo` agree, for a system with each form of VADs."""
    for name in VOLATILITY_2:
        dump_with_objects(tmp_path / name, name)
    dumps = tmp_path / "dumps"
    dumps.write_text("".join(f"{name} {tmp_path / name}\n" for name in VOLATILITY_2))
    plugins = str(ROOT / "tests/volatility2")
    done = volatility(
        volatility2, dumps, "WinXPSP2x86", "secondobjects", f"--dumps={dumps}", plugins=plugins
    )
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    for name, theirs in zip(VOLATILITY_2, seen, strict=True):
        snapshot = memory_visualizer.open(tmp_path / name)
        assert snapshot.modules and theirs["modules"] == [
            [one.name, one.path, one.ranges[0][0], one.size] for one in snapshot.modules
        ]
        ours = regions_of(snapshot)
        assert {int(pid) for pid in theirs["regions"]} == set(ours)
        by_pid = {process.pid: process for process in snapshot.processes}
        for pid, rows in theirs["regions"].items():
            assert ours[int(pid)] == [
                (start, end, PROTECTIONS[protection & 7], bool(is_private))
                for start, end, protection, is_private, _, _ in rows
            ], name
            regions = snapshot.regions(by_pid[int(pid)]) or ()
            assert [one.commit for one in regions] == [row[4] for row in rows]
            for one, row in zip(regions, rows, strict=True):
                assert one.file.endswith(row[5]) and bool(one.file) == bool(row[5])
        assert sum(map(len, ours.values())) > 100


REFUSED = ("Win10x64_10240_17770", "Win2016x64_14393")
"""MemProcFS does not open these small synthetic dumps."""
MEMPROCFS = [
    name
    for name, profile in profiles().items()
    if profile.bits == 64 and profile.version >= (6, 0) and name not in REFUSED
]


RIGHTS = {
    "----": "---",
    "r---": "r--",
    "rw--": "rw-",
    "r-x-": "r-x",
    "rwx-": "rwx",
    "-wxc": "rcx",
}
"""MemProcFS's letters for rights, after marks of private memory and guard pages."""


@pytest.mark.parametrize("name", MEMPROCFS)
@pytest.mark.many
def test_memprocfs(name: str, memprocfs: ModuleType, tmp_path: Path) -> None:
    """The VAD map of each process and the modules of System agree."""
    dump_with_objects(tmp_path / "dump", name)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    vmm = memprocfs.Vmm(["-device", str(tmp_path / "dump"), *OPTIONS])
    try:
        theirs = {process.pid: list(process.maps.vad()) for process in vmm.process_list()}
        modules = {one.name: one.base for one in vmm.process(4).module_list()}
    finally:
        vmm.close()
    ours = regions_of(snapshot)
    assert len(theirs) > 10
    for pid, rows in theirs.items():
        seen = [
            (
                row["start"],
                row["end"] + 1,
                RIGHTS[row["protection"][2:]],
                row["protection"][0] == "p",
            )
            for row in rows
        ]
        assert seen == ours[pid]
    assert snapshot.modules
    assert modules == {one.name: one.ranges[0][0] for one in snapshot.modules}


PAGES = {
    "PAGE_READONLY": "r--",
    "PAGE_READWRITE": "rw-",
    "PAGE_EXECUTE_READ": "r-x",
    "PAGE_EXECUTE_READWRITE": "rwx",
    "PAGE_EXECUTE_WRITECOPY": "rcx",
    "PAGE_NOACCESS": "---",
    "": "",
}
"""Volatility 3's words for protections; guard pages and reserved memory have none."""


def test_volatility_3(volatility3: Path, symbol_files: Path, tmp_path: Path) -> None:
    """`windows.modules` and `windows.vadinfo` agree, with the symbols of a real kernel."""
    program = Volatility(volatility3, tmp_path, symbol_files)
    dump_with_objects(program.dump, "Win10x64_19041")
    snapshot = memory_visualizer.open(program.dump)
    assert snapshot.modules
    assert [
        (row["Name"], row["Path"], int(row["Base"], 16), int(row["Size"], 16))
        for row in program.rows("windows.modules")
    ] == [
        # Its addresses have 48 bits.
        (one.name, one.path, one.ranges[0][0] % (1 << 48), one.size)
        for one in snapshot.modules
    ]
    theirs: dict[int, list[tuple[int, int, str, bool, int, str]]] = defaultdict(list)
    for row in program.rows("windows.vadinfo"):
        theirs[int(row["PID"])].append(
            (
                int(row["Start VPN"], 16),
                int(row["End VPN"], 16) + 1,
                PAGES[row["Protection"]],
                row["PrivateMemory"] == "1",
                int(row["CommitCharge"]),
                row["File"].replace("N/A", ""),
            )
        )
    for process in snapshot.processes:
        if process.is_listed and process.is_alive:
            ours = [
                (one.start, one.end, one.protection, one.is_private, one.commit, one.file)
                for one in snapshot.regions(process) or ()
            ]
            rows = sorted(theirs[process.pid])
            assert len(rows) == len(ours) > 8
            for their, mine in zip(rows, ours, strict=True):
                assert (their[:2], their[3:5]) == (mine[:2], mine[3:5])
                assert their[2] in ("", mine[2])
            assert all(one[5].endswith(their[5]) for one, their in zip(ours, rows, strict=True))
            assert [bool(one[5]) for one in ours] == [bool(their[5]) for their in rows]
