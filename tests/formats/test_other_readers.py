"""Other programs read the synthetic dumps of several formats as this program does."""

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from memory_visualizer.formats.opening import open_dump
from memory_visualizer.units import PAGE_SIZE
from tests.formats.checks import GIB, WRITERS, elf, frames_of, kdump, vmware
from tests.synth.containers import Pieces
from tests.synth.linux import forge_linux


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"no second opinion here: {error}")


def volatility_layer(path: Path, layer: str) -> Any:
    """The physical memory that Volatility 3 reads from a file with this layer."""
    contexts = _import("volatility3.framework.contexts")
    physical = _import("volatility3.framework.layers.physical")
    module, class_ = layer.split(".")
    context = contexts.Context()
    names = {"base": path, "meta": path.with_suffix(".vmss")}
    for name, file in names.items():
        if file.exists():
            context.config[f"{name}.location"] = file.as_uri()
            context.add_layer(physical.FileLayer(context, name, name))
            context.config[f"top.{name}_layer"] = name
    reader = getattr(_import(f"volatility3.framework.layers.{module}"), class_)
    return reader(context, "top", "top")


@pytest.mark.peer
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("lime", "lime.LimeLayer"),
        ("elf", "elf.Elf64Layer"),
        ("elf-virtualbox", "elf.Elf64Layer"),
        ("crash-complete", "crash.WindowsCrashDump64Layer"),
        ("crash-complete-32", "crash.WindowsCrashDump32Layer"),
        ("crash-bitmap", "crash.WindowsCrashDump64Layer"),
        ("crash-bitmap-32", "crash.WindowsCrashDump32Layer"),
        ("xen", "xen.XenCoreDumpLayer"),
        ("vmware", "vmware.VmwareLayer"),
    ],
)
@pytest.mark.many(3)
def test_volatility3_reads_the_same(path: Path, name: str, layer: str) -> None:
    """Volatility 3 reads the same pages from files of these tests."""
    _, pieces, write = WRITERS[name]
    pieces = sorted(pieces)  # it looks in no other places
    if name == "vmware":
        write = functools.partial(vmware, padding=0)  # Volatility 3 takes only this version
    write(path, pieces)
    seen = volatility_layer(path, layer)
    for pfn, page in frames_of(pieces).items():
        assert seen.read(pfn * PAGE_SIZE, PAGE_SIZE) == page
    absent = [0, 0x14, 0x50, 0xFF, 0x101, 5 * GIB // PAGE_SIZE - 1]
    assert not any(seen.is_valid(pfn * PAGE_SIZE, 1) for pfn in absent)


@pytest.mark.peer
@pytest.mark.parametrize("name", ["crash-complete", "crash-bitmap", "crash-live", "crash-ranges"])
def test_kdmp_parser_reads_the_same(path: Path, name: str) -> None:
    """kdmp-parser reads the same pages from files of these tests."""
    kdmp = _import("kdmp_parser")
    _, pieces, write = WRITERS[name]
    write(path, pieces)
    dump = kdmp.KernelDumpParser(path)
    frames = frames_of(pieces)
    assert sorted(dump.pages) == [pfn * PAGE_SIZE for pfn in sorted(frames)]
    assert all(bytes(dump.read_physical_page(pfn * PAGE_SIZE)) == frames[pfn] for pfn in frames)


DRGN_WRITERS: dict[str, Callable[[Path, Pieces, bytes], None]] = {
    "elf": lambda path, pieces, text: elf(path, pieces, notes=[(b"VMCOREINFO", text)]),
    "kdump": lambda path, pieces, text: kdump(path, pieces, vmcoreinfo=text),
    "kdump-zstd": lambda path, pieces, text: kdump(
        path, pieces, vmcoreinfo=text, compression="zstd", left_out=range(2, 8000, 3)
    ),
    "kdump-flattened": lambda path, pieces, text: kdump(
        path, pieces, vmcoreinfo=text, flattened=True
    ),
}


@pytest.mark.parametrize("name", DRGN_WRITERS)
def test_drgn_reads_the_same(path: Path, name: str, drgn: ModuleType) -> None:
    """The same pages of a Linux machine are read by drgn from files of these tests."""
    forge_linux(path, "6.1", size=32 << 20, processes=3)
    contents = path.read_bytes()
    at = contents.find(b"OSRELEASE=")
    DRGN_WRITERS[name](path, [(0, contents)], contents[at : contents.index(b"\0", at)])
    program = drgn.Program()
    program.set_core_dump(path)
    dump = open_dump(path)
    held = np.flatnonzero(dump.held)
    for pfn, page in zip(held.tolist(), dump.read_frames(held), strict=True):
        assert program.read(pfn * PAGE_SIZE, PAGE_SIZE, physical=True) == page.tobytes()
        assert page.tobytes() == contents[pfn * PAGE_SIZE : (pfn + 1) * PAGE_SIZE]
    for pfn in np.flatnonzero(dump.left_out).tolist():
        with pytest.raises(drgn.FaultError):
            program.read(pfn * PAGE_SIZE, PAGE_SIZE, physical=True)
