"""The free pages on each processor's own lists, which no flag in /proc/kpageflags tells.

They are read from the saved memory with the types of the kernel (kerneltypes.py) and its own
symbols (/proc/kallsyms): include/linux/mmzone.h has the structures. The tested reader takes no
part. If the types are not known, such pages cannot be told apart; /proc/zoneinfo tells their
number.

The allocator's own lists of free blocks are read likewise: they tell which frames were freed or
taken after the guest had read itself.

Before 3.4 /proc/kpageflags marks only the first page of a free block; the others are found here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tests.guests.errors import GuestError
from tests.guests.kerneltypes import Types

_IMAGE_ALIGNED = 1 << 21
_LARGE, _PRESENT = 1 << 7, 1
_TABLE = 3
"""On arm64: an entry that leads to a table, or on the lowest level to a page."""
_ADDRESS = 0x0000_FFFF_FFFF_F000
_I386_LEVELS = [(22, 1 << 10), (12, 1 << 10)]
_PAE_LEVELS = [(30, 4), (21, 1 << 9), (12, 1 << 9)]
_COSTLY_ORDER = 3
"""PAGE_ALLOC_COSTLY_ORDER: there are lists of blocks of 1, 2, 4 and 8 pages, each for three
kinds."""
_KINDS, _LARGEST_ORDER = 3, 10
_MAX_NODES = 4
_LONGEST = 1 << 17
_PAGE_ARRAY = 0xFFFF_EA00_0000_0000
_ARRAY_SIZE = 1 << 40
"""The largest size of all struct pages in bytes."""


def read_symbols(kallsyms: str) -> dict[str, int]:
    """The kernel's own symbols, without modules'; if several have one name, the first."""
    symbols: dict[str, int] = {}
    for words in map(str.split, kallsyms.splitlines()):
        if len(words) == 3:
            symbols.setdefault(words[2], int(words[0], 16))
    return symbols


@dataclass(frozen=True)
class KernelMemory:
    """The kernel's memory by virtual addresses, in the saved physical memory."""

    raw: NDArray[np.uint8]
    begins: int
    """Physical address of the memory's first byte."""
    info: Mapping[str, str]
    """Lines of VMCOREINFO: the texts before and behind ``=``."""
    symbols: Mapping[str, int]
    code: int
    """Physical address of the kernel's code, by /proc/iomem."""
    architecture: str
    page_size: int

    @property
    def word(self) -> int:
        """Bytes of an address."""
        return 4 if self.architecture == "i386" else 8

    def is_address(self, number: int) -> bool:
        """Whether a number is one of the kernel's addresses."""
        return number >> (8 * self.word - 1) == 1

    def symbol(self, name: str) -> int:
        """Address of a symbol, even if only VMCOREINFO tells it."""
        told = self.info.get(f"SYMBOL({name})")
        return self.symbols[name] if told is None else int(told, 16)

    @cached_property
    def _image_distance(self) -> int:
        """Virtual minus physical addresses of the kernel's image."""
        if self.architecture == "arm64":
            return int(self.info["NUMBER(kimage_voffset)"], 16)
        if "_text" in self.symbols:
            return self.symbols["_text"] - self.code
        return (self.symbol("_stext") & -_IMAGE_ALIGNED) - self.code

    def _physical(self, address: int, size: int) -> bytes:
        at = address - self.begins
        if not 0 <= at <= len(self.raw) - size:
            raise GuestError(f"physical address {address:#x} is not in the saved memory")
        return self.raw[at : at + size].tobytes()

    @property
    def huge_order(self) -> int:
        """The order of a huge page, which has as many pages as a table has entries."""
        return self.page_size.bit_length() - 4

    @property
    def _has_pae(self) -> bool:
        return self.info.get("CONFIG_X86_PAE") == "y"

    @property
    def _entry_size(self) -> int:
        """Bytes of an entry of a page table."""
        return 4 if self.architecture == "i386" and not self._has_pae else 8

    @cached_property
    def _levels(self) -> list[tuple[int, int]]:
        """For each level from the top: the shift of an address, and the number of entries."""
        if self.architecture == "i386":
            return _PAE_LEVELS if self._has_pae else _I386_LEVELS
        shift = self.page_size.bit_length() - 1
        width = shift - 3
        if self.architecture == "arm64":
            # The tables for pages of 64 KiB are as for the largest supported addresses.
            is_large = self.page_size == 1 << 16
            unused = int(self.info["NUMBER(TCR_EL1_T1SZ)"], 16)
            bits = int(self.info["NUMBER(VA_BITS)"]) if is_large else 64 - unused
        else:
            bits = 57 if self.info.get("NUMBER(pgtable_l5_enabled)") == "1" else 48
        shifts = range(shift, bits, width)
        return [(at, 1 << min(width, bits - at)) for at in reversed(shifts)]

    def _is_leaf(self, entry: int, shift: int) -> bool:
        if shift < self.page_size.bit_length():
            return True
        return entry & _TABLE != _TABLE if self.architecture == "arm64" else bool(entry & _LARGE)

    def translate(self, address: int) -> int:
        """The physical address, by the kernel's own page tables."""
        table = self.symbol("swapper_pg_dir") - self._image_distance
        for shift, entries in self._levels:
            place = table + (address >> shift) % entries * self._entry_size
            entry = int.from_bytes(self._physical(place, self._entry_size), "little")
            if not entry & _PRESENT:
                break
            table = entry & _ADDRESS & -self.page_size
            if self._is_leaf(entry, shift):
                inside = (1 << shift) - 1
                return table & ~inside | address & inside
        raise GuestError(f"the kernel's address {address:#x} leads nowhere")

    def number(self, address: int, size: int = 0) -> int:
        """Read a number, as large as an address by default."""
        raw = self._physical(self.translate(address), size or self.word)
        return int.from_bytes(raw, "little")

    @cached_property
    def page_array(self) -> int:
        """Virtual address of the struct page of frame 0."""
        if self.architecture == "arm64":
            return self.symbol("vmemmap")
        if "mem_map" in self.symbols:  # all memory has one array (CONFIG_FLATMEM)
            return self.number(self.symbol("mem_map"))
        if "vmemmap_base" not in self.symbols:  # before 4.8 its address was fixed
            return _PAGE_ARRAY
        return self.number(self.symbol("vmemmap_base"))


def listed_free(memory: KernelMemory, types: Types, processors: int) -> NDArray[np.int64]:
    """Frames on the processors' own lists of free pages, each once, in order."""
    frames = set[int]()
    counted = 0
    for zone in _zones(memory, types):
        for processor in range(processors):
            if lists := _lists_of(memory, types, zone, processor):
                counted += memory.number(lists + types.offset("per_cpu_pages", "count"), 4)
                frames.update(_on_lists(memory, types, lists))
    if len(frames) != counted:
        raise GuestError(f"processors' lists: {len(frames)} pages found, {counted} counted")
    return np.array(sorted(frames), np.int64)


def blocks_free(memory: KernelMemory, types: Types) -> NDArray[np.int64]:
    """Frames of the free blocks on the allocator's lists, each once, in order."""
    frames = set[int]()
    counted = 0
    size, count = types.size("free_area"), types.length("free_area", "free_list")
    for zone in _zones(memory, types):
        for order in range(types.length("zone", "free_area")):
            area = zone + types.offset("zone", "free_area") + order * size
            counted += memory.number(area + types.offset("free_area", "nr_free")) << order
            first = area + types.offset("free_area", "free_list")
            for number in range(count):
                for frame in _on_list(memory, types, first + 2 * memory.word * number):
                    frames.update(range(frame, frame + (1 << order)))
    if len(frames) != counted:
        raise GuestError(f"lists of free blocks: {len(frames)} pages found, {counted} counted")
    return np.array(sorted(frames), np.int64)


def block_frames(memory: KernelMemory, types: Types, heads: NDArray[np.int64]) -> NDArray[np.int64]:
    """Frames of the free blocks that begin with these pages, which have the block's order."""
    frames = []
    for head in heads.tolist():
        page = memory.page_array + head * types.size("page")
        order = memory.number(page + types.offset("page", "private"))
        if order > _LARGEST_ORDER:
            raise GuestError(f"frame {head:#x}: a free block of order {order}")
        frames.append(np.arange(head, head + (1 << order)))
    return np.concatenate([np.empty(0, np.int64), *frames])


def _zones(memory: KernelMemory, types: Types) -> Iterator[int]:
    """The address of each struct zone."""
    for place in _nodes(memory):
        first = place + types.offset("pglist_data", "node_zones")
        for number in range(types.length("pglist_data", "node_zones")):
            yield first + number * types.size("zone")


def _nodes(memory: KernelMemory) -> Iterator[int]:
    """Addresses of each struct pglist_data."""
    if "node_data" not in memory.symbols:  # without CONFIG_NUMA
        yield memory.symbol("contig_page_data")
        return
    for node in range(_MAX_NODES):
        place = memory.number(memory.symbol("node_data") + memory.word * node)
        if not memory.is_address(place):
            return
        yield place


def _lists_of(memory: KernelMemory, types: Types, zone: int, processor: int) -> int:
    """A processor's per_cpu_pages for a zone; 0 if there is none."""
    if types.has("zone", "per_cpu_pageset"):  # since 5.14
        place, inner = memory.number(zone + types.offset("zone", "per_cpu_pageset")), 0
    else:
        place, inner = (
            zone + types.offset("zone", "pageset"),
            types.offset("per_cpu_pageset", "pcp"),
        )
        if types.is_array("zone", "pageset"):  # before 2.6.34
            lists = memory.number(place + memory.word * processor)
            return lists + inner if lists else 0
        place = memory.number(place)
    offset = memory.number(memory.symbol("__per_cpu_offset") + memory.word * processor)
    return (place + offset + inner) % 2 ** (8 * memory.word) if place else 0


def _on_lists(memory: KernelMemory, types: Types, lists: int) -> Iterator[int]:
    """The frames on one processor's lists for one zone."""
    count = types.length("per_cpu_pages", "lists")
    for number in range(count):
        head = lists + types.offset("per_cpu_pages", "lists") + 2 * memory.word * number
        for frame in _on_list(memory, types, head):
            yield from range(frame, frame + (1 << _order(number, count, memory.huge_order)))


def _on_list(memory: KernelMemory, types: Types, head: int) -> Iterator[int]:
    """The first frames of the blocks on one list."""
    links, size = types.offset("page", "lru"), types.size("page")
    entry = memory.number(head)
    for _ in range(_LONGEST):
        # A zone without memory has empty lists that are shared.
        if entry == head or not 0 <= entry - memory.page_array < _ARRAY_SIZE:
            return
        yield (entry - links - memory.page_array) // size
        entry = memory.number(entry)
    raise GuestError("a list of free pages has no end")


def _order(number: int, count: int, huge: int) -> int:
    """The order of the blocks on a list; before 5.14 there were only single pages."""
    if count <= _KINDS + 1:
        return 0
    ordinary = _KINDS * (_COSTLY_ORDER + 1)
    return number // _KINDS if number < ordinary else huge


def counted_by_zoneinfo(zoneinfo: str) -> int:
    """The number of pages on such lists, by /proc/zoneinfo."""
    return sum(map(int, re.findall(r"^\s+count:\s+(\d+)", zoneinfo, re.MULTILINE)))
