"""The places of a QEMU machine's memory: which page frames the blocks of a stream hold."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.files import file_size, read_at
from memory_visualizer.formats.qemustream import Contents
from memory_visualizer.units import PAGE_SIZE

_TAIL = 1 << 20
"""Bytes at the end of the file in which the names of devices tell the machine's type."""
_MAIN = re.compile(rb"(?:/objects/)?(?:pc\.ram|microvm\.ram|mach-virt\.ram|ram-node(\d+))")
_HOTPLUGGED = re.compile(rb"(?:/objects/)?(?:mem)?dimm\d+|.*virtio-mem.*")
_HOLE_END = 1 << 32
_ARM_START = 1 << 30


@dataclass(frozen=True)
class Part:
    """Pages of a block that are contiguous in physical memory."""

    block: bytes
    page: int
    count: int
    frame: int


def layout_of(path: Path, file: FileIO, contents: Contents, remarks: list[str]) -> list[Part]:
    """The places of the machine's RAM: below a hole for devices, and from 4 GiB on.

    QEMU's hw/i386/pc_piix.c, pc_q35.c and microvm.c tell the beginning of the hole of their
    machines; the option max-ram-below-4g may change it.
    """
    blocks = contents.blocks
    if not blocks:
        raise BadInputError(f"{path} describes no memory")
    main = [name for name in blocks if _MAIN.fullmatch(name)]
    if not main:
        main = [max(blocks, key=lambda name: int(blocks[name].size))]
        shown = main[0].decode("latin-1")
        remarks.append(f"{path}: the largest block of memory, {shown!r}, was assumed to be the RAM")
    main.sort(key=_node)
    if others := [name for name in blocks if _HOTPLUGGED.fullmatch(name)]:
        size = sum(blocks[name].size for name in others) // PAGE_SIZE
        remarks.append(
            f"{path} does not tell the addresses of {size:,} pages of memory that were plugged in"
        )
    total = sum(blocks[name].size for name in main)
    start, hole = _hole(path, file, contents.machine, total, remarks)
    parts = []
    address = start
    for name in main:
        done, size = 0, blocks[name].size
        while done < size:
            upto = min(size - done, hole - address) if address < hole else size - done
            parts.append(Part(name, done // PAGE_SIZE, upto // PAGE_SIZE, address // PAGE_SIZE))
            done += upto
            address += upto
            if address == hole:
                address = _HOLE_END
    return parts


def _node(name: bytes) -> int:
    """The number of a NUMA node's block."""
    found = _MAIN.fullmatch(name)
    return int(found[1] or 0) if found else 0


def _hole(
    path: Path, file: FileIO, machine: bytes, total: int, remarks: list[str]
) -> tuple[int, int]:
    """The beginning of RAM, and the beginning of the hole for devices."""
    none = 1 << 62
    if machine.startswith(b"virt"):
        return _ARM_START, none
    kind = machine
    if not machine:
        tail = read_at(file, _TAIL, max(0, file_size(file) - _TAIL)).lower()
        is_q35 = tail.count(b"ich9") > tail.count(b"piix")
        kind = b"pc-q35" if is_q35 else b"pc-i440fx"
    if kind.startswith(b"pc-q35"):
        return 0, 0x80000000 if total >= 0xB0000000 else none
    if kind.startswith(b"microvm"):
        return 0, 0xC0000000
    if not kind.startswith((b"pc-", b"xenfv")) and total >= 0x80000000:
        shown = machine.decode("latin-1")
        remarks.append(
            f"{path} comes from an unknown machine type ({shown!r}): its memory is placed as in a"
            " PC"
        )
    if re.match(rb"pc-(i440fx-)?[01]\.", kind):
        return 0, 0xE0000000
    return 0, 0xC0000000 if total >= 0xE0000000 else none


def frames_of(
    contents: Contents, parts: Sequence[Part]
) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """PFNs of the pages of RAM in the stream, and the rows of these pages."""
    page = np.frombuffer(contents.page, np.int64)
    block = np.frombuffer(contents.block, np.uint16)
    frame = np.full(page.size, -1, np.int64)
    for part in parts:
        if (number := contents.numbers.get(part.block)) is None:
            continue
        inside = (block == number) & (page >= part.page) & (page < part.page + part.count)
        frame[inside] = page[inside] - part.page + part.frame
    row = np.flatnonzero(frame >= 0)
    return frame[row], row
