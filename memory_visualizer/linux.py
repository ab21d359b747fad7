"""Whose address spaces a Linux dump holds, found in the dump alone.

The kernel's own VMCOREINFO names its top-level table; its symbols (kallsyms) and the description of
its types (BTF), both in its memory, lead to the list of its processes. Where a kernel has no BTF,
the offsets in `task_struct` are found in the tasks themselves, as those of `_EPROCESS` are on
Windows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memory_visualizer import btf as btf_format
from memory_visualizer.btf import Btf
from memory_visualizer.dump import PAGE_SIZE, Dump
from memory_visualizer.kallsyms import image_frames, kernel_image, places_of, read_kallsyms
from memory_visualizer.pagemap import mark_runs
from memory_visualizer.paging import (
    X64,
    X64_5_LEVELS,
    Paging,
    as_linux_has_it,
)
from memory_visualizer.printable import printable
from memory_visualizer.virtualmemory import VirtualMemory
from memory_visualizer.vmcoreinfo import VmcoreInfo

_IMAGE_BASE = 0xFFFF_FFFF_8000_0000
"""__START_KERNEL_map: from here on the kernel's image is mapped."""
_UTS_RELEASE = 2 * 65
"""Offset of the release in struct new_utsname: behind two names of 65 bytes."""

_RAM, _IMAGE = b"System RAM", b"Kernel "
_FRAMES_OF_RESOURCE, _MORE_RESOURCES = 1024, 1024
"""So many resources there may be: each block of memory that can be removed is one."""
_MOST_MAGICS = 256
"""Places in the kernel's image that are looked at, where its types may begin."""
_MAX_SHARE = 8
"""So small a part of the memory at least is the description of types."""


@dataclass(frozen=True)
class LinuxKernel:
    """A Linux kernel whose own word of itself holds good in the dump."""

    info: VmcoreInfo
    paging: Paging
    memory: Dump
    top: int
    """Frame of its own top-level table, swapper_pg_dir."""
    kernel: VirtualMemory
    symbols: dict[str, int] = field(default_factory=dict)
    btf: Btf | None = None
    remarks: tuple[str, ...] = ()

    @property
    def system(self) -> str:
        """Such as ``Linux 6.1.0-18-amd64``."""
        return f"Linux {printable(self.info.release)}"


_SYMBOLS = ("init_task", "iomem_resource", "pgd_list", "__start_BTF", "__stop_BTF")


def find_kernel(memory: Dump, texts: Sequence[VmcoreInfo]) -> LinuxKernel | None:
    """Find the kernel that one of these texts is of: the tables that it names translate."""
    for info in texts:
        for paging in _pagings(info):
            found = _with_tables(memory, info, paging)
            if found:
                return _with_types(found)
    return None


def _pagings(info: VmcoreInfo) -> list[Paging]:
    encryption = info.number("sme_mask") or 0
    pagings = [as_linux_has_it(paging, encryption) for paging in (X64, X64_5_LEVELS)]
    return pagings[::-1] if info.number("pgtable_l5_enabled") else pagings


def _with_tables(memory: Dump, info: VmcoreInfo, paging: Paging) -> LinuxKernel | None:
    """Check that the kernel's image lies where the text says, its release in it."""
    table = info.symbol("swapper_pg_dir")
    names = info.symbol("init_uts_ns")
    if table is None or names is None or table < _IMAGE_BASE:
        return None
    top = (table - _IMAGE_BASE + (info.number("phys_base") or 0)) // PAGE_SIZE
    if not 0 <= top < memory.frame_count or not memory.held[top]:
        return None
    kernel = VirtualMemory(memory, paging, top)
    if kernel.frame(table) != top:
        return None
    told = kernel.read(names, 4 * 65) or b""
    if (info.release.encode("latin-1") + b"\0") not in told:
        return None
    return LinuxKernel(info, paging, memory, top, kernel)


def _with_types(found: LinuxKernel) -> LinuxKernel:
    """Add symbols and types, as far as there are any."""
    remarks = []
    table = read_kallsyms(found.kernel, found.info)
    symbols = table.find(_SYMBOLS) if table else {}
    if table is None:
        remarks.append("the kernel's table of symbols was not found")
    types = _read_btf(found, symbols)
    if types is None:
        remarks.append(
            "the kernel does not describe its types (BTF); its processes were found by their form"
        )
    return LinuxKernel(
        found.info,
        found.paging,
        found.memory,
        found.top,
        found.kernel,
        symbols,
        types,
        tuple(remarks),
    )


def _read_btf(found: LinuxKernel, symbols: dict[str, int]) -> Btf | None:
    most = min(btf_format.MAX_SIZE, found.memory.frame_count * PAGE_SIZE // _MAX_SHARE)
    start, stop = symbols.get("__start_BTF"), symbols.get("__stop_BTF")
    if start and stop and 0 < stop - start <= most:
        return Btf.parse(found.kernel.read_far(start, stop - start))
    if symbols:  # a kernel with symbols, but not these, has none
        return None
    image = kernel_image(found.kernel, found.info)
    if image is None:
        return None
    for place in places_of(btf_format.MAGIC, image[1], _MOST_MAGICS):
        if types := Btf.parse(image[1][place : place + most]):
            return types
    return None


@dataclass(frozen=True)
class Resources:
    """What the kernel takes physical addresses for, as /proc/iomem has it."""

    is_ram: NDArray[np.bool_]
    """For each frame whether all of it is RAM."""
    image: NDArray[np.int64]
    """Frames of the kernel's image."""


def read_resources(found: LinuxKernel) -> Resources | None:
    """Read the kernel's list of resources; None where it is not found."""
    root = found.symbols.get("iomem_resource")
    if root is None:
        return None
    count = found.memory.frame_count
    room = _Room(count // _FRAMES_OF_RESOURCE + _MORE_RESOURCES)
    ram: list[tuple[int, int]] = []
    image: list[tuple[int, int]] = []
    for name, start, end, below in _resources(found, root, room):
        if not name.startswith(_RAM):
            continue
        # A frame of which only a part is RAM is no page to the kernel.
        ram.append((-(-start // PAGE_SIZE), (end + 1) // PAGE_SIZE))
        for inner, first, last, _ in _resources(found, below, room):
            if inner.startswith(_IMAGE):
                image.append((first // PAGE_SIZE, last // PAGE_SIZE + 1))
    is_ram = _marked(ram, count)
    return Resources(is_ram, np.flatnonzero(_marked(image, count))) if is_ram.any() else None


def _marked(stretches: list[tuple[int, int]], count: int) -> NDArray[np.bool_]:
    """Mark stretches of frames, each by its first one and its end."""
    marks = np.zeros(count, bool)
    inside = [(first, min(end, count)) for first, end in stretches if first < min(end, count)]
    if inside:
        first, end = np.array(inside, np.int64).T
        mark_runs(marks, first, end - first)
    return marks


@dataclass
class _Room:
    """How many resources may still be read, in all."""

    left: int


def _resources(
    found: LinuxKernel, parent: int, room: _Room
) -> Iterator[tuple[bytes, int, int, int]]:
    """The resources below one: how the name begins, first and last byte, address of its own."""

    def offset(name: str, usual: int) -> int:
        place = found.btf.offset("resource", name) if found.btf else None
        return usual if place is None else place

    # As it stands in struct resource since 4.6.
    start_at, end_at, name_at = offset("start", 0), offset("end", 8), offset("name", 16)
    sibling_at, child_at = offset("sibling", 48), offset("child", 56)
    read = found.kernel.number
    at, seen = read(parent + child_at), set[int]()
    while at and at not in seen and room.left:
        seen.add(at)
        room.left -= 1
        start, end, name = read(at + start_at), read(at + end_at), read(at + name_at)
        if start is None or end is None or name is None:
            return
        yield found.kernel.read(name, len(_RAM)) or b"", start, end, at
        at = read(at + sibling_at)


def frames_of_image(found: LinuxKernel) -> NDArray[np.int64]:
    """The frames that are mapped where the kernel's image is, some gaps in it included."""
    frames = image_frames(found.kernel, found.info)
    return frames[frames >= 0]
