"""The modules of a Linux kernel, in the order of its own list.

A `struct module` has its links and its name at the same place in all versions. `core_layout` (4.5
to 6.3) or `mem`, an array with a part of each kind, tells where its parts lie (include/linux/
module.h of the kernel).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.linux.btf import Btf
from memory_visualizer.paging import is_held
from memory_visualizer.paging.linkedlist import joined_links
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.snapshot.inventory import Module
from memory_visualizer.units import PAGE_SIZE

_NAME_SIZE = 56
"""MODULE_NAME_LEN on 64 bits."""
_LARGEST_PART = 1 << 28
_PARTS = 7
"""MOD_MEM_NUM_TYPES."""


@dataclass(frozen=True)
class ModuleLayout:
    """Offsets in struct module."""

    list: int
    name: int
    parts: tuple[tuple[int, int], ...]
    """The offsets of address and size of each part; sizes are numbers of 32 bits."""


def layout_by_btf(types: Btf) -> ModuleLayout | None:
    """Offsets by the kernel's description of its types; None if it lacks a needed member."""
    place = types.offset
    link, name = place("module", "list"), place("module", "name")
    core, parts = place("module", "core_layout"), place("module", "mem")
    kind = "module_layout" if parts is None else "module_memory"
    base, size, step = place(kind, "base"), place(kind, "size"), types.size(kind)
    first = core if parts is None else parts
    if link is None or name is None or base is None or size is None or first is None or not step:
        return None
    count = 1 if parts is None else _PARTS
    starts = range(first, first + count * step, step)
    return ModuleLayout(link, name, tuple((start + base, start + size) for start in starts))


@dataclass(frozen=True)
class FoundModules:
    """The modules, and whether their list was walked completely."""

    modules: tuple[Module, ...]
    is_whole: bool


def read_modules(kernel: TableMemory, layout: ModuleLayout, head: int) -> FoundModules:
    """Walk the list that begins at `head`, forwards, and backwards where it is broken."""
    limit = kernel.memory.budget.limit("module")
    found, is_whole = joined_links(kernel, head, lowest=kernel.upper, limit=limit)
    kernel.memory.budget.refuse("module", len(found) - limit)
    modules: list[Module | None] = []
    left = kernel.frame_count  # modules cannot have more pages than the machine
    for link in found[:limit]:
        modules.append(_module(kernel, layout, link - layout.list, left))
        left -= sum(-(-one.size // PAGE_SIZE) for one in modules[-1:] if one)
    return FoundModules(tuple(filter(None, modules)), is_whole and None not in modules)


def _module(kernel: TableMemory, layout: ModuleLayout, address: int, left: int) -> Module | None:
    """The module at an address; None if it has no name, or no part in memory.

    A part with more than `left` pages does not count.
    """
    name = (kernel.read(address + layout.name, _NAME_SIZE) or b"").split(b"\0")[0]
    ranges = []
    for base_at, size_at in layout.parts:
        base, size = kernel.number(address + base_at), kernel.number(address + size_at, 4)
        if not base or not size or base < kernel.upper or size > _LARGEST_PART:
            continue
        left -= -(-size // PAGE_SIZE)
        if left < 0 or base + size >= 2**64:
            kernel.memory.budget.refuse("part of a module", 1)
            continue
        ranges.append((base, base + size))
    if not name or not ranges:
        return None
    return Module(
        name=name.decode("utf-8", "backslashreplace"),
        ranges=tuple(sorted(ranges)),
        frames=tuple(_frames(kernel, ranges).tolist()),
        object_address=address,
    )


def _frames(kernel: TableMemory, ranges: list[tuple[int, int]]) -> NDArray[np.int64]:
    """The frames behind some addresses that the dump holds, each once, ascending."""
    first = [np.arange(start // PAGE_SIZE, -(-end // PAGE_SIZE)) for start, end in ranges]
    frames = kernel.frames(np.concatenate(first).astype(np.uint64) * np.uint64(PAGE_SIZE))
    return distinct(frames[is_held(kernel.memory, frames)])
