"""The free pages on each processor's own lists, which no flag in /proc/kpageflags tells.

They are read from the saved memory with the guest's own description of its types (BTF, which
bpftool translates; for older kernels a profile of Volatility 2) and its own symbols
(/proc/kallsyms): include/linux/mmzone.h has the structures. Nothing here uses the reader that is
tested. If neither is available, as for Debian's i386, such pages cannot be told apart;
/proc/zoneinfo tells their number.

Before 3.4 /proc/kpageflags marks only the first page of a free block; the others are found here.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.guests.errors import GuestError
from tests.guests.packages import run

_IMAGE_ALIGNED = 1 << 21
_LARGE, _PRESENT = 1 << 7, 1
_TABLE = 3
"""On arm64: an entry that leads to a table, or on the lowest level to a page."""
_ADDRESS = 0x0000_FFFF_FFFF_F000
_COSTLY_ORDER = 3
"""PAGE_ALLOC_COSTLY_ORDER: there are lists of blocks of 1, 2, 4 and 8 pages, each for three
kinds."""
_KINDS, _HUGE_ORDER, _LARGEST_ORDER = 3, 9, 10
_MOST_NODES = 4
_LONGEST = 1 << 17
_PAGE_ARRAY = 0xFFFF_EA00_0000_0000
_ARRAY_SIZE = 1 << 40
"""The largest size of all struct pages in bytes."""
_BPFTOOL = ("bpftool", "/usr/sbin/bpftool")


class Types:
    """Structures by their names, from bpftool's JSON."""

    _ALIASES = ("TYPEDEF", "CONST", "VOLATILE", "RESTRICT", "TYPE_TAG")

    def __init__(self, types: list[dict[str, Any]]) -> None:
        self._by_number = {each["id"]: each for each in types}
        self._named: dict[str, dict[str, Any]] = {}
        for each in types:
            # A declared type has no size; its definition stands elsewhere.
            if each["kind"] in ("STRUCT", "UNION") and each["size"]:
                self._named.setdefault(each["name"], each)

    @classmethod
    def of(cls, btf: bytes) -> "Types":
        """Translate BTF with bpftool; GuestError if bpftool is missing."""
        program = next(filter(shutil.which, _BPFTOOL), None)
        if program is None:
            raise GuestError("needs bpftool, for the free pages on processors' own lists")
        with tempfile.NamedTemporaryFile(suffix=".btf") as file:
            file.write(btf)
            file.flush()
            text = run([program, "-j", "btf", "dump", "file", file.name], what="bpftool")
        return cls(json.loads(text)["types"])

    @classmethod
    def told_by(cls, info: Mapping[str, str]) -> "Types":
        """The structures for which VMCOREINFO tells sizes and offsets."""
        structures: dict[str, dict[str, Any]] = {}
        for line, value in info.items():
            if not (match := re.fullmatch(r"(SIZE|OFFSET)\((\w+)(?:\.(\w+))?\)", line)):
                continue
            empty: dict[str, Any] = {
                "id": match[2],
                "kind": "STRUCT",
                "name": match[2],
                "size": 0,
                "members": [],
            }
            structure = structures.setdefault(match[2], empty)
            if match[1] == "SIZE":
                structure["size"] = int(value)
            else:
                member = {"name": match[3], "bits_offset": 8 * int(value), "type_id": None}
                structure["members"].append(member)
        return cls(list(structures.values()))

    def size(self, structure: str) -> int:
        """Bytes of a structure."""
        return int(self._named[structure]["size"])

    def has(self, structure: str, member: str) -> bool:
        """Whether a structure has a member, itself or in an unnamed inner structure."""
        return structure in self._named and self._find(self._named[structure], member) is not None

    def offset(self, structure: str, member: str) -> int:
        """The offset of a member; KeyError if there is none."""
        return self._member(structure, member)[0]

    def length(self, structure: str, member: str) -> int:
        """The number of elements in an array."""
        return int(self._bare(self._member(structure, member)[1])["nr_elems"])

    def is_array(self, structure: str, member: str) -> bool:
        """Whether a member is an array."""
        return str(self._bare(self._member(structure, member)[1])["kind"]) == "ARRAY"

    def _member(self, structure: str, member: str) -> tuple[int, int]:
        found = self._find(self._named[structure], member)
        if found is None:
            raise KeyError(f"{structure}.{member}")
        return found

    def _find(self, structure: dict[str, Any], name: str) -> tuple[int, int] | None:
        for member in structure["members"]:
            if member["name"] == name:
                return member["bits_offset"] // 8, member["type_id"]
        for member in structure["members"]:
            if member["name"] != "(anon)":
                continue
            inner = self._bare(member["type_id"])
            found = self._find(inner, name) if "members" in inner else None
            if found:
                return member["bits_offset"] // 8 + found[0], found[1]
        return None

    def _bare(self, number: int) -> dict[str, Any]:
        each = self._by_number[number]
        return self._bare(each["type_id"]) if each["kind"] in self._ALIASES else each


def read_symbols(kallsyms: str) -> dict[str, int]:
    """The kernel's own symbols, without those of modules; of several with one name, the first."""
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

    @cached_property
    def _levels(self) -> list[tuple[int, int]]:
        """For each level from the top: the shift of an address, and the number of entries."""
        shift = self.page_size.bit_length() - 1
        width = shift - 3
        if self.architecture == "arm64":
            bits = 64 - int(self.info["NUMBER(TCR_EL1_T1SZ)"], 16)
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
            place = table + (address >> shift) % entries * 8
            entry = int.from_bytes(self._physical(place, 8), "little")
            if not entry & _PRESENT:
                break
            table = entry & _ADDRESS & -self.page_size
            if self._is_leaf(entry, shift):
                inside = (1 << shift) - 1
                return table & ~inside | address & inside
        raise GuestError(f"the kernel's address {address:#x} leads nowhere")

    def number(self, address: int, size: int = 8) -> int:
        """Read a number."""
        return int.from_bytes(self._physical(self.translate(address), size), "little")

    @cached_property
    def page_array(self) -> int:
        """Virtual address of the struct page of frame 0."""
        if self.architecture == "arm64":
            return self.symbol("vmemmap")
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
    for node in range(_MOST_NODES):
        place = memory.number(memory.symbol("node_data") + 8 * node)
        if not place >> 63:
            break
        first = place + types.offset("pglist_data", "node_zones")
        for number in range(types.length("pglist_data", "node_zones")):
            yield first + number * types.size("zone")


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
            lists = memory.number(place + 8 * processor)
            return lists + inner if lists else 0
        place = memory.number(place)
    offset = memory.number(memory.symbol("__per_cpu_offset") + 8 * processor)
    return (place + offset + inner) % 2**64 if place else 0


def _on_lists(memory: KernelMemory, types: Types, lists: int) -> Iterator[int]:
    """The frames on one processor's lists for one zone."""
    links, size = types.offset("page", "lru"), types.size("page")
    count = types.length("per_cpu_pages", "lists")
    for number in range(count):
        head = lists + types.offset("per_cpu_pages", "lists") + 16 * number
        order = _order(number, count)
        entry = memory.number(head)
        for _ in range(_LONGEST):
            # A zone without memory has empty lists that are shared.
            if entry == head or not 0 <= entry - memory.page_array < _ARRAY_SIZE:
                break
            frame = (entry - links - memory.page_array) // size
            yield from range(frame, frame + (1 << order))
            entry = memory.number(entry)
        else:
            raise GuestError("a processor's list of free pages has no end")


def _order(number: int, count: int) -> int:
    """The order of the blocks on a list; before 5.14 there were only single pages."""
    if count <= _KINDS + 1:
        return 0
    ordinary = _KINDS * (_COSTLY_ORDER + 1)
    return number // _KINDS if number < ordinary else _HUGE_ORDER


def counted_by_zoneinfo(zoneinfo: str) -> int:
    """The number of pages on such lists, by /proc/zoneinfo."""
    return sum(map(int, re.findall(r"^\s+count:\s+(\d+)", zoneinfo, re.MULTILINE)))
