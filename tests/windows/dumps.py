"""Synthetic dumps of each generation of kernels, with all objects that an inventory reads."""

import shutil
from pathlib import Path
from typing import Any

from memory_visualizer import Snapshot
from tests.synth import KERNEL, MIB, Profile, Truth, builds, forge, profiles
from tests.synth.memory import PAGE_SIZE

ALL: dict[str, Profile] = {**profiles(), **builds()}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "XP": ("WinXPSP2x86", {}),
    "XP PAE": ("WinXPSP3x86", {"pae": True}),
    "2003": ("Win2003SP0x86", {}),
    "2003 PAE": ("Win2003SP2x86", {"pae": True}),
    "XP x64": ("WinXPSP2x64", {}),
    "Vista": ("VistaSP2x86", {"pae": False}),
    "Vista PAE": ("VistaSP0x86", {}),
    "Vista x64": ("VistaSP0x64", {}),
    "7": ("Win7SP1x86", {"pae": False}),
    "7 PAE": ("Win7SP1x86_24000", {}),
    "7 x64": ("Win7SP1x64", {}),
    "8": ("Win8SP0x86", {}),
    "8 x64": ("Win8SP0x64", {}),
    "8.1": ("Win8SP1x86", {}),
    "8.1 x64": ("Win8SP1x64", {}),
    "10": ("Win10x86_17763", {}),
    "10 x64 first": ("Win10x64_10240_17770", {}),
    "10 x64 1607": ("Win2016x64_14393", {}),
    "10 x64 1809, 5 levels": ("Win10x64_17763", {"five_levels": True}),
    "10 x64 2004, shadows": ("Win10x64_19041", {"shadow_tables": True}),
    "Server 2022": ("Win2022x64_20348", {}),
    "11": ("Win11x64_22000", {}),
}
"""Each generation of lists and trees, in each way of paging."""


def remarks_of(snapshot: Snapshot) -> str:
    """The remarks on files, regions and modules."""
    assert snapshot.inventory is not None
    return "\n".join(snapshot.inventory.remarks)


def dump_with_objects(path: Path, name: str, **options: Any) -> Truth:
    """A small dump whose kernel has modules, and whose processes have regions."""
    return forge(path, ALL[name], **{"size": 16 * MIB, "objects": True, **options})


class Originals:
    """Dumps that several tests copy and damage."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._truths: dict[str, Truth] = {}

    def copy(self, name: str, path: Path) -> Truth:
        """Copy a version's dump to `path`."""
        original = self._folder / name
        if name not in self._truths:
            self._truths[name] = dump_with_objects(original, name)
        shutil.copyfile(original, path)
        return self._truths[name]


class Patch:
    """Writes to a dump by virtual addresses of the kernel, or of one process."""

    def __init__(self, path: Path, truth: Truth, owner: int = KERNEL) -> None:
        """`owner` is the index of the process."""
        rows = truth.mappings
        chosen = (rows["owner"] == owner) & (rows["size"] == PAGE_SIZE)
        pages = rows["virtual"][chosen].tolist()
        self._frames = dict(zip(pages, rows["frame"][chosen].tolist(), strict=True))
        self._path = path

    def place(self, virtual: int) -> int:
        """A kernel address's place in the raw dump."""
        return int(self._frames[virtual & -PAGE_SIZE]) * PAGE_SIZE + virtual % PAGE_SIZE

    def write(self, virtual: int, data: bytes) -> None:
        """Replace bytes within a page."""
        with self._path.open("r+b") as file:
            file.seek(self.place(virtual))
            file.write(data)

    def read(self, virtual: int, size: int) -> bytes:
        """Bytes within a page."""
        with self._path.open("rb") as file:
            file.seek(self.place(virtual))
            return file.read(size)
