"""A second opinion on Linux dumps: drgn, with VMCOREINFO only, since debug symbols are missing.

It walks the tables of processes and unpacks the table of symbols with its own code.
"""

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import memory_visualizer
from memory_visualizer import Snapshot
from memory_visualizer.units import PAGE_SIZE
from tests.conftest import real_dumps
from tests.synth.containers import write_elf
from tests.synth.linux import forge_linux

_PROT_NONE, _PRESENT, _LARGE = 1 << 8, 1, 1 << 7
_ADDRESS = (1 << 51) - PAGE_SIZE


def vmcoreinfo(contents: bytes) -> bytes:
    """The text that the kernel keeps in a page of its own; older copies elsewhere are shorter."""
    at = contents.find(b"\0OSRELEASE=") + 1
    while b"NUMBER(phys_base)=" not in contents[at : at + 4096]:
        at = contents.find(b"OSRELEASE=", at + 1)
        assert at > 0
    return contents[at : contents.index(b"\0", at)]


def opened(drgn: ModuleType, core: Path, text: bytes | None = None) -> Any:
    """A core as drgn opens it."""
    program = drgn.Program(vmcoreinfo=text)
    program.set_core_dump(core)
    return program


def leaf(program: Any, top: int, virtual: int) -> int:
    """The last entry on the way to an address, read through drgn (SDM 4.5), for 4 levels."""
    entry = top
    for shift in (39, 30, 21, 12):
        place = (entry & _ADDRESS) + (virtual >> shift & 511) * 8
        entry = int.from_bytes(program.read(place, 8, physical=True), "little")
        if entry & _LARGE or not entry & _PRESENT:
            break
    return entry


def assert_walks_agree(program: Any, snapshot: Snapshot, direct: int, each: int) -> None:
    """Every `each`th mapping of every process leads to the same frame; drgn finds no others.

    Pages of PROT_NONE are unknown to drgn. `direct` is the address of the direct map.
    """
    walker = importlib.import_module("_drgn")
    rows = snapshot.mappings
    compared = 0
    for index, process in enumerate(snapshot.processes):
        [mine] = np.nonzero(rows.space == index)
        for virtual, frame in zip(
            rows.virtual[mine[::each]].tolist(), rows.pfn[mine[::each]].tolist(), strict=True
        ):
            table = direct + process.dtb
            try:
                found = walker._linux_helper_follow_phys(program, table, virtual)
            except walker.FaultError:
                entry = leaf(program, process.dtb, virtual)
                assert entry & (_PROT_NONE | _PRESENT) == _PROT_NONE
                continue
            assert found // PAGE_SIZE == frame, (process.pid, hex(virtual))
            compared += 1
    assert compared > len(mine) // each


def symbols(program: Any) -> Any:
    """All symbols, by drgn's own code for the kernel's table."""
    kallsyms = importlib.import_module("drgn.helpers.linux.kallsyms")
    program.register_symbol_finder("table", kallsyms.load_vmlinux_kallsyms(program), enable_index=0)
    return program


def test_synthetic_processes_and_symbols(drgn: ModuleType, tmp_path: Path) -> None:
    truth = forge_linux(tmp_path / "raw", "6.1", processes=6)
    contents = (tmp_path / "raw").read_bytes()
    core = tmp_path / "core"
    write_elf(core, [(0, contents)], notes=[(b"VMCOREINFO", vmcoreinfo(contents))])
    program = opened(drgn, core)
    assert program["UTS_RELEASE"].string_().decode() == truth.era.release
    snapshot = memory_visualizer.open(core)
    assert_walks_agree(program, snapshot, truth.direct, 1)
    known = symbols(program)
    for name in ("init_uts_ns", "swapper_pg_dir"):
        told = re.search(rf"SYMBOL\({name}\)=(\w+)", vmcoreinfo(contents).decode())
        assert told
        assert known.symbol(name).address == int(told[1], 16)
    assert truth.era.release.encode() in program.read(known.symbol("linux_banner").address, 200)


def test_a_real_guest(drgn: ModuleType, qemu_core: tuple[Path, Path]) -> None:
    """Every tenth mapping of each process agrees; symbols agree with that kernel's symbol file."""
    raw, core = qemu_core
    text = vmcoreinfo(raw.read_bytes())
    program = opened(drgn, core, text)
    snapshot = memory_visualizer.open(raw)
    truth = np.load(real_dumps() / "linux-6.1-x64-256m.truth.npz")
    with_tables = {process.dtb for process in snapshot.processes if process.dtb}
    assert {int(pgd) for pgd in truth["pgd"] if pgd} <= with_tables
    symbols(program)
    base = int.from_bytes(program.read(program.symbol("page_offset_base").address, 8), "little")
    assert_walks_agree(program, snapshot, base, 10)
