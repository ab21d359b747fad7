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
from memory_visualizer.dump import PAGE_SIZE
from memory_visualizer.kallsyms import image_frames, kernel_image, read_kallsyms
from memory_visualizer.paging import (
    X64,
    X64_5_LEVELS,
    Paging,
    PhysicalMemory,
    as_linux_has_it,
)
from memory_visualizer.printable import printable
from memory_visualizer.virtualmemory import VirtualMemory
from memory_visualizer.vmcoreinfo import VmcoreInfo

_IMAGE_BASE = 0xFFFF_FFFF_8000_0000
"""__START_KERNEL_map: from here on the kernel's image is mapped."""
_UTS_RELEASE = 2 * 65
"""Offset of the release in struct new_utsname: behind two names of 65 bytes."""

_KERNEL_THREAD = 0x0020_0000
"""In task_struct.flags: PF_KTHREAD."""
_ENDED = 0x30
"""In task_struct.exit_state: EXIT_DEAD, EXIT_ZOMBIE."""
_MAX_TASKS = 1 << 22
"""More than Linux allows (PID_MAX_LIMIT)."""
_MAX_TASK_SIZE = 1 << 16
_MAX_PID = 1 << 22
_COMM_SIZE = 16

_RAM, _IMAGE = b"System RAM", b"Kernel "
_MAX_RESOURCES = 1 << 16


@dataclass(frozen=True)
class LinuxKernel:
    """A Linux kernel whose own word of itself holds good in the dump."""

    info: VmcoreInfo
    paging: Paging
    memory: PhysicalMemory
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


def find_kernel(memory: PhysicalMemory, texts: Sequence[VmcoreInfo]) -> LinuxKernel | None:
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


def _with_tables(memory: PhysicalMemory, info: VmcoreInfo, paging: Paging) -> LinuxKernel | None:
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
    at = names + (info.offset("uts_namespace.name") or 0) + _UTS_RELEASE
    release = kernel.read(at, 65)
    if release is None or release.split(b"\0")[0].decode("latin-1") != info.release:
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
    start, stop = symbols.get("__start_BTF"), symbols.get("__stop_BTF")
    if start and stop and 0 < stop - start <= btf_format.MAX_SIZE:
        return Btf.parse(found.kernel.read_far(start, stop - start).tobytes())
    if symbols:  # a kernel with symbols, but not these, has none
        return None
    image = kernel_image(found.kernel, found.info)
    if image is None:
        return None
    contents = image[1].tobytes()
    place = contents.find(btf_format.MAGIC)
    while place >= 0:
        if types := Btf.parse(contents[place : place + btf_format.MAX_SIZE]):
            return types
        place = contents.find(btf_format.MAGIC, place + 1)
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
    is_ram = np.zeros(found.memory.frame_count, bool)
    image = np.zeros(found.memory.frame_count, bool)
    for name, start, end, below in _resources(found, root):
        if not name.startswith(_RAM):
            continue
        # A frame of which only a part is RAM is no page to the kernel.
        is_ram[-(-start // PAGE_SIZE) : (end + 1) // PAGE_SIZE] = True
        for inner, first, last, _ in _resources(found, below):
            if inner.startswith(_IMAGE):
                image[first // PAGE_SIZE : last // PAGE_SIZE + 1] = True
    return Resources(is_ram, np.flatnonzero(image)) if is_ram.any() else None


def _resources(found: LinuxKernel, parent: int) -> Iterator[tuple[bytes, int, int, int]]:
    """The resources below one: how the name begins, first and last byte, address of its own."""

    def offset(name: str, usual: int) -> int:
        place = found.btf.offset("resource", name) if found.btf else None
        return usual if place is None else place

    # As it stands in struct resource since 4.6.
    start_at, end_at, name_at = offset("start", 0), offset("end", 8), offset("name", 16)
    sibling_at, child_at = offset("sibling", 48), offset("child", 56)
    read = found.kernel.number
    at, seen = read(parent + child_at), set[int]()
    while at and at not in seen and len(seen) < _MAX_RESOURCES:
        seen.add(at)
        start, end, name = read(at + start_at), read(at + end_at), read(at + name_at)
        if start is None or end is None or name is None:
            return
        yield found.kernel.read(name, len(_RAM)) or b"", start, end, at
        at = read(at + sibling_at)


def frames_of_image(found: LinuxKernel) -> NDArray[np.int64]:
    """The frames that are mapped where the kernel's image is, some gaps in it included."""
    frames = image_frames(found.kernel, found.info)
    return frames[frames >= 0]
