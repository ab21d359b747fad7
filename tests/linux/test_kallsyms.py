"""Symbols read from tables that the kernel's own scripts/kallsyms.c of 6.1 packed."""

import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from memory_visualizer.formats.opening import open_dump
from memory_visualizer.linux.kallsyms import KernelSymbols, read_kallsyms
from memory_visualizer.linux.vmcoreinfo import VmcoreInfo
from memory_visualizer.paging import X64, as_linux_has_it
from memory_visualizer.paging.tablememory import TableMemory

SAMPLE = Path(__file__).with_name("sample")
TEXT, TABLE, SIZE = 0xFFFFFFFF9B400000, 0x603000, 0x620000
"""The kernel's address, the table's distance from it, and the size of both in bytes."""
PARTS = {
    "x86": "offsets 3000 relative_base 47a8 num_syms 47b0 names 47b8 markers 75a8"
    " token_table 8780 token_index 8b10",
    "arm64": "offsets 3000 relative_base 4798 num_syms 47a0 names 47a8 markers 7578"
    " token_table 8748 token_index 8ad8",
}
"""The places of the parts by the linker: the last digits of addresses, as nm prints them."""


def symbols(kind: str) -> dict[str, int]:
    """All symbols in the table by name; per-processor symbols have offsets."""
    text = lzma.decompress((SAMPLE / "kallsyms.map.xz").read_bytes()).decode()
    rows = [line.split() for line in text.splitlines()]
    return {
        name: int(address, 16)
        for address, _, name in rows
        if kind == "x86" or "per_cpu" not in name
    }


def contents(kind: str) -> npt.NDArray[np.uint8]:
    """A kernel's image with the table in it."""
    image = np.random.default_rng(3).integers(0, 256, SIZE, np.uint8)
    table = lzma.decompress((SAMPLE / f"kallsyms-{kind}.bin.xz").read_bytes())
    image[TABLE : TABLE + len(table)] = np.frombuffer(table, np.uint8)
    return image


def info(kind: str, *, parts: bool = True) -> VmcoreInfo:
    """VMCOREINFO, with or without the places of the parts."""
    lines = ["OSRELEASE=6.1.0", "SYMBOL(_stext)=ffffffff9b400000"]
    words = PARTS[kind].split()
    for name, place in zip(words[::2], words[1::2], strict=True):
        if parts:
            address = TEXT + (TABLE & ~0xFFFF) + int(place, 16)
            lines.append(f"SYMBOL(kallsyms_{name})={address:x}")
    found = VmcoreInfo.parse("\n".join([*lines, ""]).encode())
    assert found
    return found


Read = Callable[..., KernelSymbols | None]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read the table of a kernel whose image is mapped in a row from frame 0 on."""

    def reading(
        kind: str, image: npt.NDArray[np.uint8], known: dict[str, int], *, parts: bool
    ) -> KernelSymbols | None:
        # A kernel with so many symbols has more memory behind its image.
        (tmp_path / kind).write_bytes(image.tobytes() + bytes(16 << 20))
        dump = open_dump(tmp_path / kind)
        kernel = TableMemory(
            dump, as_linux_has_it(X64), dump.frame_count - 1, [(TEXT, TEXT + SIZE, 0)]
        )
        places = {name: [place] for name, place in known.items()}
        return read_kallsyms(kernel, info(kind, parts=parts), places, lambda: (TEXT, image))

    return reading


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("parts", [True, False], ids=["by VMCOREINFO", "by form"])
@pytest.mark.many
def test_all_symbols(kind: str, parts: bool, read: Read) -> None:
    """Each symbol is found by its name, also with a length of two bytes; other names are not.

    On x86, the table stores per-processor symbols as they are, others as distances from a base.
    """
    expected = symbols(kind)
    assert max(map(len, expected)) > 0x7F
    table = read(kind, contents(kind), {"init_top_pgt": expected["init_top_pgt"]}, parts=parts)
    assert table
    assert table.find(expected) == expected
    assert table.find(["", "T", "no_such_symbol", "init_top_pg", "init_top_pgtt"]) == {}


@pytest.mark.parametrize("kind", PARTS)
def test_a_table_that_knows_another_address_is_not_believed(kind: str, read: Read) -> None:
    expected = symbols(kind)
    for known in ({"init_top_pgt": expected["init_top_pgt"] + 8}, {"no_such_symbol": TEXT}, {}):
        assert read(kind, contents(kind), known, parts=True) is None
        assert read(kind, contents(kind), known, parts=False) is None


@pytest.mark.parametrize("lost", ["token_table", "token_index", "names"])
def test_parts_lost(lost: str, read: Read) -> None:
    """Without tokens or names the table gives nothing, and no error."""
    words = PARTS["x86"].split()
    place = (TABLE & ~0xFFFF) + int(words[words.index(lost) + 1], 16)
    for filler in (0, 0xFF):
        image = contents("x86")
        image[place : place + 0x200] = filler
        known = {"init_top_pgt": symbols("x86")["init_top_pgt"]}
        for parts in (True, False):
            table = read("x86", image, known, parts=parts)
            assert table is None or lost == "names"


def test_one_name_damaged(read: Read) -> None:
    """One changed byte hides its own name, and most other names are found."""
    expected = symbols("x86")
    words = PARTS["x86"].split()
    names = (TABLE & ~0xFFFF) + int(words[words.index("names") + 1], 16)
    image = contents("x86")
    lengths = image[names:]
    at = 0
    for _ in range(700):  # find the 700th name by the lengths of names
        at += (
            int(lengths[at]) + 1
            if lengths[at] < 0x80
            else (int(lengths[at]) & 0x7F) + 2 + (int(lengths[at + 1]) << 7)
        )
    image[names + at + 2] ^= 1
    known = {"init_top_pgt": expected["init_top_pgt"]}
    table = read("x86", image, known, parts=True)
    assert table
    found = table.find(expected)
    assert len(expected) - len(found) <= 1
    assert all(expected[name] == address for name, address in found.items())
