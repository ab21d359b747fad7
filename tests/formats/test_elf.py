"""ELF cores, also of Xen: notes, tables of pages, and files that are no dumps."""

import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.units import PAGE_SIZE
from tests.formats.checks import HIGH_FIRST, LOW, PIECES, check, copied_blocks, frames_of, memory
from tests.synth import containers


def test_elf_notes(path: Path) -> None:
    """Notes are as written; notes of one name follow one another."""
    text = b"OSRELEASE=6.1\nPAGESIZE=4096\n"
    notes = [(b"QEMU", b"first CPU"), (b"QEMU", b"second"), (b"VMCOREINFO", text)]
    containers.write_elf(path, PIECES, notes=notes)
    found = dict(open_dump(path).notes)
    assert found.pop("e_machine") == 62  # EM_X86_64, of the header
    assert found == {"QEMU": b"first CPUsecond", "VMCOREINFO": text}


def test_elf_notes_that_are_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes beyond the limit, or behind a broken note, are told with their size and place."""
    notes = [(b"QEMU", b"first CPU"), (b"QEMU", bytes(100)), (b"VMCOREINFO", b"OSRELEASE=6.1\n")]
    containers.write_elf(path, PIECES, notes=notes)
    [segment] = [row for row in program_headers(path) if row[0] == 4]
    at, size = segment[2], segment[5]
    with monkeypatch.context() as patch:
        patch.setattr("memory_visualizer.formats.elf._MAX_NOTES", size - 8)
        dump = open_dump(path)
    check(dump, frames_of(PIECES))
    assert "VMCOREINFO" not in dump.notes
    assert [remark.split(" of ")[0] for remark in dump.remarks] == ["8 bytes", "notes"]
    data = bytearray(path.read_bytes())
    second = at + 12 + 8 + 12
    data[second + 4 : second + 8] = (1 << 20).to_bytes(4, "little")
    path.write_bytes(data)
    dump = open_dump(path)
    assert dump.notes["QEMU"] == b"first CPU" and "VMCOREINFO" not in dump.notes
    assert dump.remarks == (f"notes of {path} are broken, and end, at byte {second:,}",)


def program_headers(path: Path) -> list[tuple[int, ...]]:
    """The program headers of a 64-bit ELF file."""
    data = path.read_bytes()
    at, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    return [struct.unpack_from("<IIQQQQQQ", data, at + 56 * number) for number in range(count)]


def test_elf_with_the_same_memory_twice(path: Path) -> None:
    """A core that holds the same bytes twice, as /proc/vmcore does, is read."""
    contents = memory(8, 1)
    containers.write_elf(path, [(0, contents), (0x2000, contents[0x2000:0x5000])])
    check(open_dump(path), frames_of([(0, contents)]))


def test_a_paravirtual_guest_of_xen(path: Path) -> None:
    """Pages are at the guest's own frames; a remark tells that page tables have the host's."""
    containers.write_xen(path, HIGH_FIRST, paravirtual=True)
    dump = open_dump(path)
    check(dump, frames_of(HIGH_FIRST))
    assert len(dump.remarks) == 1 and "paravirtual" in dump.remarks[0]
    assert struct.unpack_from("<Q", dump.notes["Xen"])[0] == 0xF00FEBED  # type: ignore[arg-type]


def test_a_core_of_xen_with_many_names(path: Path) -> None:
    """The place of the names of sections does not matter."""
    containers.write_xen(path, HIGH_FIRST, more_names=1 << 18)
    dump = open_dump(path)
    check(dump, frames_of(HIGH_FIRST))
    assert dump.remarks == () and "Xen" in dump.notes


def test_a_core_of_xen_without_its_table(path: Path) -> None:
    """Without the table, which comes last in the file, the places of pages are unknown."""
    containers.write_xen(path, LOW)
    size = path.stat().st_size
    os.truncate(path, size - 8 * 20)
    with pytest.raises(DamagedInputError, match="gives addresses for 51 pages, but holds 71"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    check(dump, dict(list(frames_of(LOW).items())[:51]))
    os.truncate(path, size - 8 * 71)
    for lenient in (False, True):
        with pytest.raises(BadInputError, match="gives addresses for 0 pages, but holds 71"):
            open_dump(path, lenient=lenient)


def test_a_core_of_xen_with_too_few_pages(path: Path) -> None:
    """Addresses for pages that the section of pages does not have are told."""
    containers.write_xen(path, LOW)
    data = bytearray(path.read_bytes())
    # The fifth header of the sections is that of the pages; its size stands at byte 32.
    struct.pack_into(
        "<Q", data, struct.unpack_from("<Q", data, 40)[0] + 4 * 64 + 32, 51 * PAGE_SIZE
    )
    path.write_bytes(data)
    dump = open_dump(path)
    check(dump, dict(list(frames_of(LOW).items())[:51]))
    assert dump.remarks == (
        f"{path} gives addresses for 71 pages, but holds 51; the other addresses are ignored",
    )


def test_elf_files_that_are_no_dumps(path: Path) -> None:
    """Programs, and cores of processes, are refused."""
    with pytest.raises(BadInputError, match="is an ELF file, but not a core"):
        open_dump(sys.executable)
    containers.write_elf(path, [(0, memory(1, 1)), (0, memory(2, 2))])
    with pytest.raises(BadInputError, match="is the core of a process, not of a machine"):
        open_dump(path)


def test_qemu_core(qemu_core: tuple[Path, Path]) -> None:
    """QEMU's ELF core gives the raw dump's frames, and the BIOS below 4 GiB."""
    raw, core = (open_dump(path) for path in qemu_core)
    assert core.runs.tolist() == [[0, 0x10000], [0xFFFC0, 0x40]]
    assert np.array_equal(core.zero_frames()[:0x10000], raw.zero_frames())
    some = np.arange(0, 0x10000, 97)
    assert np.array_equal(core.read_frames(some), raw.read_frames(some))
    for block, words in copied_blocks(raw):
        assert np.array_equal(words, core.read_frames(block))
    assert sorted(core.notes) == ["CORE", "QEMU", "e_machine"]
