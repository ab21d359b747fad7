"""Dumps of architectures that are not read: their headers, or Linux' own names, tell them."""

import struct
from pathlib import Path

import pytest

from memory_visualizer import open as open_snapshot
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.unknown.contents import looks_like
from memory_visualizer.unknown.machine import is_read, machine_of

PAGE = 4096
CONTENTS = bytes(range(1, 17)) * 256 + bytes(PAGE)


def elf(order: str, bits: int, machine: int) -> bytes:
    """An ELF core (System V ABI, chapter 4) with two pages of memory at 0x1000."""
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]) + bytes(9)
    if bits == 64:
        rest = struct.pack(f"{order}HHIQQQIHHHHHH", 4, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        segment = struct.pack(f"{order}IIQQQQQQ", 1, 7, PAGE, 0, PAGE, 2 * PAGE, 2 * PAGE, PAGE)
    else:
        rest = struct.pack(f"{order}HHIIIIIHHHHHH", 4, machine, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        segment = struct.pack(f"{order}IIIIIIII", 1, PAGE, 0, PAGE, 2 * PAGE, 2 * PAGE, 7, PAGE)
    return (ident + rest + segment).ljust(PAGE, b"\0") + CONTENTS


@pytest.mark.parametrize(
    ("order", "bits", "number", "name"),
    [
        (">", 64, 21, "64-bit PowerPC"),
        ("<", 64, 21, "64-bit PowerPC"),
        (">", 32, 20, "PowerPC"),
        (">", 64, 22, "IBM Z"),
        ("<", 64, 243, "RISC-V"),
        ("<", 32, 40, "32-bit ARM"),
        ("<", 64, 0x1234, "an architecture with the number 4660 in ELF files"),
    ],
)
def test_by_the_header(order: str, bits: int, number: int, name: str, tmp_path: Path) -> None:
    """The header names the machine in either byte order; zeros and data are distinguished."""
    (tmp_path / "core").write_bytes(elf(order, bits, number))
    snapshot = open_snapshot(tmp_path / "core")
    assert snapshot.system is None
    assert snapshot.dump.runs.tolist() == [[1, 2]]
    assert snapshot.zero.tolist() == [True, False, True]
    assert looks_like(snapshot.dump, snapshot.zero) == (
        f"the dump is of {name}, which this program does not read"
    )


@pytest.mark.parametrize("number", [3, 62, 183])
def test_architectures_that_are_read(number: int, tmp_path: Path) -> None:
    """The architecture is named, and the sentence says that the system is unknown."""
    (tmp_path / "core").write_bytes(elf("<", 64, number))
    dump = open_dump(tmp_path / "core")
    machine = machine_of(dump)
    assert is_read(machine)
    told = looks_like(dump, open_snapshot(tmp_path / "core").zero)
    assert told.startswith(f"the dump is of another system on {machine}, or damaged")


@pytest.mark.parametrize(
    ("told", "name"),
    [("ppc64le", "64-bit PowerPC"), ("s390x", "IBM Z"), ("armv7l", "32-bit ARM"), ("toaster", "")],
)
def test_by_the_names_of_a_system(told: str, name: str, tmp_path: Path) -> None:
    """A raw dump has no header: most copies of struct new_utsname name the machine."""

    def names(machine: str) -> bytes:
        texts = ("Linux", "host", "6.1.0", "#1 SMP", machine, "(none)")
        return b"".join(text.encode().ljust(65, b"\0") for text in texts)

    page = (names(told) * 3 + names("riscv64")).ljust(PAGE, b"\1")
    (tmp_path / "raw").write_bytes(page + CONTENTS)
    dump = open_dump(tmp_path / "raw")
    assert machine_of(dump) == (name or "RISC-V")
