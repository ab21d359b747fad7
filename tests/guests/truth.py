"""The records of the guest's kernel of every page, process and file, as arrays.

The codes follow from the flags of include/uapi/linux/kernel-page-flags.h, from /proc/iomem and from
all processes' pagemaps; Documentation/admin-guide/mm/pagemap.rst describes the files.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tests.guests.freelists import (
    KernelMemory,
    block_frames,
    blocks_free,
    counted_by_zoneinfo,
    listed_free,
    read_symbols,
)
from tests.guests.kerneltypes import Types, symbols_of_file
from tests.guests.records import timing
from tests.guests.resources import Resources, read_resources

Marks: TypeAlias = NDArray[np.bool_]

MAPPED_ROW = np.dtype([("pid", "<u4"), ("flags", "<u4"), ("virtual", "<u8"), ("pfn", "<u8")])
FILE_ROW = np.dtype([("file", "<u4"), ("page", "<u4"), ("pfn", "<u8")])
_FRAMES_AT_ONCE = 1 << 13
_KTHREADD = 2


class Flag(IntEnum):
    """Bits of /proc/kpageflags; the last bit is only defined in fs/proc/page.c."""

    UPTODATE = 3
    LRU = 5
    SLAB = 7
    BUDDY = 10
    MMAP = 11
    ANON = 12
    SWAPBACKED = 14
    COMPOUND_HEAD = 15
    COMPOUND_TAIL = 16
    HUGE = 17
    NOPAGE = 20
    THP = 22
    ZERO_PAGE = 24
    PGTABLE = 26
    RESERVED = 32


class Says(IntEnum):
    """The kernel's record of a frame: the first member that fits, except the last."""

    NOT_RAM = 0
    NO_STRUCT_PAGE = 1
    ZERO_PAGE = 2
    FREE = 3
    PAGE_TABLE = 4
    SLAB = 5
    HUGE_MAPPED = 6
    HUGE_POOL = 7
    ANONYMOUS = 8
    ANONYMOUS_UNMAPPED = 9
    CACHE_MAPPED = 10
    SHARED_MEMORY = 11
    FILE_CACHE = 12
    IMAGE_MAPPED = 13
    IMAGE = 14
    RESERVED = 15
    COMPOUND = 16
    KERNEL_OTHER = 17
    OTHER_MAPPED = 18
    FREE_ON_PROCESSOR = 19


NAMES = {
    Says.NOT_RAM: "not RAM",
    Says.NO_STRUCT_PAGE: "no struct page",
    Says.ZERO_PAGE: "zero page",
    Says.FREE: "free (buddy)",
    Says.PAGE_TABLE: "page table",
    Says.SLAB: "slab",
    Says.HUGE_MAPPED: "hugetlb mapped",
    Says.HUGE_POOL: "hugetlb pool",
    Says.ANONYMOUS: "anonymous mapped",
    Says.ANONYMOUS_UNMAPPED: "anonymous, in no pagemap",
    Says.CACHE_MAPPED: "cache mapped by user",
    Says.SHARED_MEMORY: "shared memory cache, unmapped",
    Says.FILE_CACHE: "file cache, unmapped",
    Says.IMAGE_MAPPED: "kernel image page mapped by user",
    Says.IMAGE: "kernel image",
    Says.RESERVED: "reserved",
    Says.COMPOUND: "compound kernel",
    Says.KERNEL_OTHER: "kernel other",
    Says.OTHER_MAPPED: "other, mapped by user",
    Says.FREE_ON_PROCESSOR: "free (per-CPU list)",
}


def classify(
    flags: NDArray[np.uint64], mapped: Marks, ram: Marks, image: Marks
) -> NDArray[np.uint8]:
    """The kernel's record of each frame, by its flags and three marks.

    `mapped` are frames in some process's pagemap, `ram` those of /proc/iomem's System RAM, `image`
    those of the kernel's image there. All have one entry for each frame.
    """

    def has(flag: Flag) -> Marks:
        marks: Marks = flags >> np.uint64(flag) & np.uint64(1) != 0
        return marks

    huge, anonymous, lru = has(Flag.HUGE), has(Flag.ANON), has(Flag.LRU)
    # The kernel's bss has pages that were freed to users: these are no longer reserved.
    image = image & has(Flag.RESERVED)
    cache = lru | has(Flag.MMAP) & has(Flag.UPTODATE)
    conditions = [
        (Says.NOT_RAM, ~ram),
        (Says.NO_STRUCT_PAGE, has(Flag.NOPAGE)),
        (Says.ZERO_PAGE, has(Flag.ZERO_PAGE)),
        (Says.FREE, has(Flag.BUDDY)),
        (Says.PAGE_TABLE, has(Flag.PGTABLE)),
        (Says.SLAB, has(Flag.SLAB)),
        (Says.HUGE_MAPPED, huge & mapped),
        (Says.HUGE_POOL, huge),
        (Says.ANONYMOUS, anonymous & mapped),
        (Says.ANONYMOUS_UNMAPPED, anonymous),
        (Says.IMAGE_MAPPED, mapped & image),
        (Says.CACHE_MAPPED, mapped & cache),
        (Says.SHARED_MEMORY, lru & has(Flag.SWAPBACKED)),
        (Says.FILE_CACHE, lru),
        (Says.OTHER_MAPPED, mapped),
        (Says.IMAGE, image),
        (Says.RESERVED, has(Flag.RESERVED)),
        (Says.COMPOUND, has(Flag.COMPOUND_HEAD) | has(Flag.COMPOUND_TAIL) | has(Flag.THP)),
    ]
    says = np.full(len(flags), Says.KERNEL_OTHER, np.uint8)
    for code, marks in reversed(conditions):
        says[marks] = code
    return says


def mark_stretches(stretches: list[tuple[int, int]], first: int, count: int, size: int) -> Marks:
    """Mark the frames of `size` bytes that lie in stretches of addresses as a whole."""
    marks = np.zeros(count, bool)
    for begin, end in stretches:
        marks[max(-(-begin // size) - first, 0) : max(end // size - first, 0)] = True
    return marks


@dataclass(frozen=True)
class Guest:
    """A guest as it was saved."""

    raw: Path
    records: Mapping[str, bytes]
    architecture: str
    processors: int
    begins: int
    """Physical address of the first byte of `raw`."""
    types: Path | None = None
    """A file with the types of a kernel without BTF: see Types.of_file."""


@dataclass(frozen=True)
class Truth:
    """Arrays by their names, as they are written to truth.npz and files.npz."""

    pages: dict[str, NDArray[np.generic]]
    files: dict[str, NDArray[np.generic]]
    remarks: list[str]


def make_truth(guest: Guest) -> Truth:
    """Make the truth from a guest's records and its saved memory."""
    records = guest.records
    size = int(timing(records)["page"])
    first = guest.begins // size
    raw = np.memmap(guest.raw, np.uint8, "r")
    count = len(raw) // size
    resources = read_resources(records["iomem"].decode())

    def of_frames(name: str, missing: int) -> NDArray[np.uint64]:
        told = np.frombuffer(records[name], "<u8")[first : first + count]
        return np.pad(told, (0, count - len(told)), constant_values=missing)

    before, flags = (of_frames(f"kpageflags.{when}", 1 << Flag.NOPAGE) for when in "ab")
    rows = np.frombuffer(records["pagemap.bin"], MAPPED_ROW)
    frames = rows["pfn"].astype(np.int64) - first
    mapped = np.zeros(count, bool)
    mapped[frames[(rows["pfn"] > 0) & (frames >= 0) & (frames < count)]] = True
    ram = resources.ram + (resources.reserved if guest.architecture == "arm64" else [])
    parts = [
        (begin // size * size, -(-end // size) * size) for begin, end in resources.image.values()
    ]
    says = classify(
        flags,
        mapped,
        mark_stretches(ram, first, count, size),
        mark_stretches(parts, first, count, size),
    )
    unsteady = before != flags
    remarks = [*_mark_free(says, unsteady, guest, resources, raw, size)]
    pages: dict[str, NDArray[np.generic]] = {
        "kernel_says": says,
        "kernel_says_names": np.array([NAMES[code] for code in Says]),
        "changed": unsteady,
        "user_mapped": mapped,
        "zero": _zeros(raw, size),
        "owner_pid": rows["pid"],
        "owner_virtual": rows["virtual"],
        "owner_pfn": rows["pfn"],
        "kpageflags": flags,
        "kpagecount": of_frames("kpagecount", 0),
        "page_size": np.array(size),
        "first_frame": np.array(first),
        **read_processes(records),
    }
    return Truth(pages, read_files(records), remarks)


def _zeros(raw: NDArray[np.uint8], size: int) -> Marks:
    """Which frames hold zeros only."""
    words = raw[: len(raw) // size * size].view(np.uint64).reshape(-1, size // 8)
    parts = (words[at : at + _FRAMES_AT_ONCE] for at in range(0, len(words), _FRAMES_AT_ONCE))
    return np.concatenate([~part.any(axis=1) for part in parts])


def _mark_free(
    says: NDArray[np.uint8],
    unsteady: Marks,
    guest: Guest,
    resources: Resources,
    raw: NDArray[np.uint8],
    size: int,
) -> Iterator[str]:
    """Mark free pages that kpageflags does not tell, among frames without another record.

    Frames that were freed or taken after the guest had read itself are marked in `unsteady`. Yields
    sentences on pages that cannot be told apart.
    """
    records = guest.records
    first = guest.begins // size
    symbols = read_symbols(records.get("kallsyms", b"").decode())
    if guest.types:
        symbols = symbols_of_file(guest.types, symbols) | symbols
    memory = KernelMemory(
        raw=raw,
        begins=guest.begins,
        info=read_vmcoreinfo(records["vmcoreinfo"], raw, guest.begins),
        symbols=symbols,
        code=resources.image["Kernel code"][0],
        architecture=guest.architecture,
        page_size=size,
    )

    def mark(frames: NDArray[np.int64], code: Says) -> None:
        inside = frames[(frames >= first) & (frames < first + len(says))] - first
        says[inside[np.isin(says[inside], (Says.COMPOUND, Says.KERNEL_OTHER))]] = code

    if "btf_vmlinux" in records:
        types = Types.of(records["btf_vmlinux"])
    elif guest.types:
        types = Types.of_file(guest.types)
    else:
        types = Types.told_by(memory.info)
    if types.has("page", "_count"):  # before 4.6; later kernels tell all pages of a block
        heads = np.flatnonzero(says == Says.FREE) + first
        mark(block_frames(memory, types, heads), Says.FREE)
    if types.has("per_cpu_pages", "lists"):
        mark(listed_free(memory, types, guest.processors), Says.FREE_ON_PROCESSOR)
        is_free = np.zeros(len(says), bool)
        frames = blocks_free(memory, types) - first
        is_free[frames[(frames >= 0) & (frames < len(says))]] = True
        unsteady |= is_free != (says == Says.FREE)
    else:
        count = counted_by_zoneinfo(records["zoneinfo"].decode())
        yield f"the free pages on processors' own lists, {count} or so, are not told apart"


def read_vmcoreinfo(place: bytes, raw: NDArray[np.uint8], begins: int) -> dict[str, str]:
    """The lines of VMCOREINFO, from the note to which /sys/kernel/vmcoreinfo points."""
    address, length = (int(word, 16) for word in place.split())
    note = raw[address - begins : address - begins + length].tobytes()
    text = note[note.index(b"OSRELEASE=") :].split(b"\0", 1)[0].decode()
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def read_processes(records: Mapping[str, bytes]) -> dict[str, NDArray[np.generic]]:
    """Pid, parent, name, state and threads of each process by /proc, in order of pids.

    A kernel's worker changes its name with its work: `comm_after` is the name after the stop.
    """
    found = []
    for record, status in records.items():
        if match := re.fullmatch(r"pid0/(\d+)\.status", record):
            pid = int(match[1])
            name = records[f"pid0/{pid}.comm"][:-1]
            parent, threads = int(_field(status, b"PPid")), int(_field(status, b"Threads"))
            found.append((pid, parent, name, _field(status, b"State")[:1].decode(), threads))
    found.sort()
    pids, parents, names, states, counts = zip(*found, strict=True)
    return {
        "pids": np.array(pids),
        "comm": np.array([_text(name) for name in names]),
        "comm_bytes": np.array(names),
        "comm_after": np.array([_text(records.get(f"pid/{pid}.comm", b"")[:-1]) for pid in pids]),
        "ppid": np.array(parents),
        "kernel_thread": np.array([_KTHREADD in (pid, parent) for pid, parent, *_ in found]),
        "state": np.array(states),
        "threads": np.array(counts),
    }


def _text(name: bytes) -> str:
    """A name as text for JSON."""
    return name.decode("utf-8", "backslashreplace")


def _field(status: bytes, name: bytes) -> bytes:
    match = re.search(rb"^" + name + rb":\t(.*)$", status, re.MULTILINE)
    if match is None:
        raise ValueError(f"no {name.decode()} in a process's status")
    return match[1]


def read_files(records: Mapping[str, bytes]) -> dict[str, NDArray[np.generic]]:
    """The page of a file in each frame, as far as it was the same before and after the stop."""
    lines = [line.split("\t") for line in records["files.tsv"].decode().splitlines()]
    before, after = (np.frombuffer(records[name], FILE_ROW) for name in ("files.bin", "files2.bin"))
    rows = before[np.isin(before, after)]
    _, devices, inodes, sizes, mapped, _, paths = zip(*lines, strict=True)
    return {
        "file_paths": np.array(paths),
        "file_ino": np.array([int(inode) for inode in inodes]),
        "file_dev": np.array(devices),
        "file_size": np.array([int(size) for size in sizes]),
        "file_mapped": np.array([mark == "+" for mark in mapped]),
        "file_index": rows["file"],
        "page_index": rows["page"],
        "pfn": rows["pfn"],
    }
