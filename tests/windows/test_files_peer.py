"""Files of Windows by Volatility 2 and 3: names, kinds, and the place of each page."""

import json
from pathlib import Path

import numpy as np

import memory_visualizer
from tests.conftest import ROOT
from tests.synth import MIB, Truth, builds, forge, profiles
from tests.synth.memory import PAGE_SIZE
from tests.test_volatility2 import families
from tests.volatility2program import volatility
from tests.volatility3.program import Volatility

SYSTEMS = (*families(), "Win7SP0x64", "Win2003SP0x86")


def test_volatility_2(volatility2: Path, tmp_path: Path) -> None:
    """Its structures at the control areas, of a system of each version; and `filescan` of 7.

    It looks for file objects by their pool's tag and their type's number, for control areas not at
    all: their addresses are the writer's word.
    """
    truths: dict[str, Truth] = {}
    for name in SYSTEMS:
        profile, path = profiles()[name], tmp_path / name
        truth = truths[name] = forge(path, profile, size=16 * MIB, database=True)
        assert truth.records
        areas = [one.control_area for one in truth.records.sections if one.path]
        (tmp_path / f"{name}.areas").write_text(json.dumps(areas))
    dumps = tmp_path / "dumps"
    dumps.write_text("".join(f"{name} {tmp_path / name}\n" for name in SYSTEMS))
    plugins = str(ROOT / "tests/volatility2")
    done = volatility(
        volatility2, dumps, "WinXPSP2x86", "secondfiles", f"--dumps={dumps}", plugins=plugins
    )
    assert done.returncode == 0, done.stderr
    for name, line in zip(SYSTEMS, done.stdout.splitlines(), strict=True):
        seen = json.loads(line)
        snapshot = memory_visualizer.open(tmp_path / name)
        pages = snapshot.file_pages
        told = [(one["path"], one["is_image"], one["is_deleted"]) for one in seen["sections"]]
        ours = [(one.path, one.kind == "image", one.is_deleted) for one in pages.files]
        assert sorted(told) == ours
        records = truths[name].records
        assert records
        if "Win7" in name:
            assert sorted(seen["scanned"]) == [one.path for one in pages.files]
        # A page's place by Volatility's subsections, and by the noted PteAddress.
        entry = 8 if truths[name].paging != "x86" else 4
        places: dict[int, int] = {}
        for section in seen["sections"]:
            shift = 9 if section["is_image"] else 12
            for base, count, start, high in section["parts"]:
                for number in range(count):
                    place = ((high << 32 | start) << shift) + number * PAGE_SIZE
                    places[base + number * entry] = place
        rows = records.records["pte_address"][pages.frame].tolist()
        np.testing.assert_array_equal(pages.offset, [places[row] for row in rows])


def test_volatility_3(volatility3: Path, symbol_files: Path, tmp_path: Path) -> None:
    """`windows.filescan` with the symbols of the real kernel: all file objects of these files.

    It knows them by their pool's tag, and by the number of their type in the kernel's table. The
    other builds with symbols agree in the same way, but each takes ten seconds.
    """
    program = Volatility(volatility3, tmp_path, symbol_files)
    forge(program.dump, builds()["Win10x64_19041"], size=16 * MIB, database=True)
    theirs = [(int(row["Offset"], 16), row["Name"]) for row in program.rows("windows.filescan")]
    snapshot = memory_visualizer.open(program.dump)
    ours = [
        # Its addresses have 48 bits, its names no device.
        (one.object_address % (1 << 48), one.path.removeprefix(one.device))
        for one in snapshot.files
    ]
    assert len(ours) > 20 and all(address for address, _ in ours)
    assert sorted(theirs) == sorted(ours)
