"""Dumps of one real Linux guest: in two formats, and with known changes."""

from pathlib import Path

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import MAY_USER, MAY_WRITE, PageClass, Process, Snapshot
from memory_visualizer.difference.changes import Change, ChangeBit
from tests.synth.memory import PAGE_SIZE

pytestmark = pytest.mark.real

_ADDRESS = 0x000F_FFFF_FFFF_F000
_PRESENT, _NO_EXECUTE = 1, 1 << 63


def test_another_format_of_the_same_moment(qemu_core: tuple[Path, Path]) -> None:
    """Each page that both hold is the same; no process came, went, grew or shrank."""
    raw, core = qemu_core
    found = memory_visualizer.diff(raw, core)
    assert found.is_one_machine
    assert found.remarks == ()
    frames = raw.stat().st_size // PAGE_SIZE
    assert set(found.codes[:frames].tolist()) <= {Change.ABSENT, Change.SAME}
    assert set(found.codes[frames:].tolist()) <= {Change.ABSENT, Change.ONLY_LATER}
    assert {one.change for one in found.processes} == {"same"}
    assert found.files == ()
    assert found.leads == ()


class Edited:
    """The guest's memory with known changes."""

    def __init__(self, snapshot: Snapshot, memory: bytearray) -> None:
        self.snapshot, self.memory = snapshot, memory
        self.touched: set[int] = set()
        """Frames that were changed."""

    def write(self, physical: int, contents: bytes) -> None:
        self.memory[physical : physical + len(contents)] = contents
        self.touched.add(physical // PAGE_SIZE)

    def entry_of(self, process: Process, virtual: int) -> int:
        """The physical address of the entry that maps a page, found table by table."""
        table = process.dtb
        for shift in (39, 30, 21, 12):
            place = table + (virtual >> shift & 0x1FF) * 8
            entry = int.from_bytes(self.memory[place : place + 8], "little")
            assert entry & _PRESENT
            table = entry & _ADDRESS
        return place

    def set_entry(self, place: int, *, without: int) -> None:
        entry = int.from_bytes(self.memory[place : place + 8], "little") & ~without
        self.write(place, entry.to_bytes(8, "little"))


def test_known_changes(qemu_core: tuple[Path, Path], tmp_path: Path) -> None:
    raw, _ = qemu_core
    snapshot = memory_visualizer.open(raw)
    edited = Edited(snapshot, bytearray(raw.read_bytes()))
    owners = snapshot.owners
    alone = np.bincount(owners.frame, minlength=snapshot.classes.size)[owners.frame] == 1
    single = snapshot.mapping_count[owners.frame] == 1
    plain = snapshot.access[owners.frame] == MAY_USER | MAY_WRITE
    rows = np.flatnonzero(owners.is_user & alone & single & plain & ~snapshot.zero[owners.frame])
    index = int(np.bincount(owners.process[rows]).argmax())
    process, rows = snapshot.processes[index], rows[owners.process[rows] == index]
    code, gone, cleared, changed = (
        (int(owners.frame[row]), int(owners.virtual[row])) for row in rows[:4].tolist()
    )
    edited.set_entry(edited.entry_of(process, code[1]), without=_NO_EXECUTE)
    edited.set_entry(edited.entry_of(process, gone[1]), without=(1 << 64) - 1)
    edited.write(cleared[0] * PAGE_SIZE, bytes(PAGE_SIZE))
    byte = changed[0] * PAGE_SIZE + 2222
    edited.write(byte, bytes([edited.memory[byte] ^ 1]))
    unused = int(np.flatnonzero(snapshot.classes == PageClass.UNUSED_ZERO)[9])
    edited.write(unused * PAGE_SIZE + 77, b"x")
    task = snapshot.read(process, process.object_address, 0x1400)
    comm = task.index(process.name.encode() + b"\0")
    name = snapshot.translate(process, process.object_address + comm)
    assert name is not None
    edited.write(name, b"other\0")
    (tmp_path / "later.raw").write_bytes(edited.memory)

    found = memory_visualizer.diff(snapshot, tmp_path / "later.raw")
    assert found.is_one_machine
    assert set(np.flatnonzero(found.codes > Change.SAME).tolist()) == (
        edited.touched | {code[0], gone[0]}
    )
    assert found.codes[code[0]] == Change.EXECUTABLE
    assert found.codes[gone[0]] == Change.OWNER
    assert found.codes[cleared[0]] == Change.ZEROED
    assert found.codes[unused] == Change.FILLED
    assert found.codes[changed[0]] == Change.CONTENTS
    assert np.flatnonzero(found.bits & ChangeBit.OWNER).tolist() == [gone[0]]
    ((before, after, frames),) = found.owner_moves()
    assert [found.before.processes[one].pid for one in before] == [process.pid]
    assert (after, frames) == ([], 1)
    (renamed,) = [one for one in found.processes if one.old_name]
    assert (renamed.process.pid, renamed.old_name, renamed.process.name) == (
        process.pid,
        process.name,
        "other",
    )
    (shrank,) = [one for one in found.processes if one.change != "same"]
    assert (shrank.process.pid, shrank.change, shrank.grown) == (process.pid, "shrank", -1)
