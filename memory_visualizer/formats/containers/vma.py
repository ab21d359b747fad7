"""Proxmox' backups (.vma) that contain the machine's memory.

The format is that of pve-qemu's vma_spec.txt and vma.h, all of it big-endian: a header that names
devices, and extents of up to 59 clusters of 64 KiB. Each cluster has 16 blocks; blocks of zeros are
left out. The backup of a machine with its RAM has a device "vmstate", whose clusters contain QEMU's
migration stream; most backups contain disks only.
"""

import struct
from array import array
from pathlib import Path
from typing import BinaryIO

import numpy as np

from memory_visualizer.errors import BadInputError, DamagedInputError, reading
from memory_visualizer.formats.base import Progress
from memory_visualizer.formats.files import file_size, read_at, read_into
from memory_visualizer.formats.inside import Inside, keep_open

_HEADER = struct.Struct(">4sI40xIII")  # magic, version, place and size of the names, header's size
_DEVICE = struct.Struct(">I28x")  # place of its name among the names
_DEVICES_AT, _DEVICES = 4096, 256
_EXTENT = struct.Struct(">4s2xH32x59Q")  # magic, blocks, for each cluster: blocks, device, number
_EXTENT_MAGIC = b"VMAE"
_BLOCK = 4096
_CLUSTER_BLOCKS = 16
_CLUSTER = _BLOCK * _CLUSTER_BLOCKS
_MAX_CLUSTERS = 1 << 22
"""Of the machine's memory: 256 GiB."""
_STATE = b"vmstate"
_LONGEST_NAME = 64
"""Bytes of a device's name that are read: more than the device with the memory has."""


class VmaState(Inside):
    """The stream in the clusters of the device "vmstate"."""

    name = "Proxmox backup"

    def __init__(
        self, path: Path, *, lenient: bool = False, progress: Progress | None = None
    ) -> None:
        """Find the device's clusters.

        BadInputError when the file cannot be read or has no memory in it; DamagedInputError, unless
        `lenient`, when it ends too early or an extent is broken.
        """
        self._path = path
        with reading(path):
            self._file = keep_open(self, path)
            device, start = _find_state(path, self._file)
            clusters, masks, places, fault = _find_clusters(self._file, device, start)
        if fault and not lenient:
            raise DamagedInputError(f"{path}{fault}")
        if fault:
            self.remarks = (f"{path}{fault}; the rest was ignored",)
        if not len(clusters):
            raise BadInputError(f"{path} ends before the machine's memory")
        number = np.frombuffer(clusters, np.int64)
        order = np.argsort(number, kind="stable")
        self._number, self._mask = number[order], np.frombuffer(masks, np.uint16)[order]
        self._place = np.frombuffer(places, np.int64)[order]
        self.size = (int(self._number[-1]) + 1) * _CLUSTER

    def read_into(self, target: memoryview, offset: int) -> None:
        """Read these bytes from their clusters; left-out blocks are zeros."""
        end = offset + len(target)
        target[:] = bytes(len(target))
        low = int(np.searchsorted(self._number, offset // _CLUSTER))
        high = int(np.searchsorted(self._number, -(-end // _CLUSTER)))
        for cluster in range(low, high):
            start = int(self._number[cluster]) * _CLUSTER
            place = int(self._place[cluster])
            for first, count in _stretches(int(self._mask[cluster])):
                begin, stop = start + first * _BLOCK, start + (first + count) * _BLOCK
                low_byte, high_byte = max(begin, offset), min(stop, end)
                if low_byte < high_byte:
                    room = target[low_byte - offset : high_byte - offset]
                    if read_into(self._file, room, place + low_byte - begin) < len(room):
                        raise BadInputError(f"{self._path} got shorter while it was read")
                place += count * _BLOCK


def _stretches(mask: int) -> list[tuple[int, int]]:
    """First block and number of blocks of each stretch that is present."""
    found: list[tuple[int, int]] = []
    for block in range(_CLUSTER_BLOCKS):
        if not mask >> block & 1:
            continue
        if found and sum(found[-1]) == block:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((block, 1))
    return found


def _find_state(path: Path, file: BinaryIO) -> tuple[int, int]:
    """The number of the device with the machine's memory, and the place of the extents."""
    header = read_at(file, _DEVICES_AT + _DEVICES * _DEVICE.size, 0)
    if len(header) < _DEVICES_AT + _DEVICES * _DEVICE.size:
        raise BadInputError(f"{path} ends within its header")
    _, _, names_at, names_size, header_size = _HEADER.unpack_from(header)
    for device in range(1, _DEVICES):
        (at,) = _DEVICE.unpack_from(header, _DEVICES_AT + device * _DEVICE.size)
        name = read_at(file, 2 + _LONGEST_NAME, names_at + at) if 0 < at < names_size else b""
        size = int.from_bytes(name[:2], "little")
        if size <= _LONGEST_NAME and name[2 : 2 + size].rstrip(b"\0") == _STATE:
            return device, header_size
    raise BadInputError(
        f"{path} is a backup of a Proxmox machine without its memory (vma extract unpacks disks)"
    )


def _find_clusters(
    file: BinaryIO, device: int, position: int
) -> "tuple[array[int], array[int], array[int], str]":
    """Number, blocks and place of each of the device's clusters; the fault, or ""."""
    numbers, masks, places = array("q"), array("H"), array("q")
    size = file_size(file)
    while position < size:
        fault = f": the extent at byte {position:,}"
        header = read_at(file, _EXTENT.size, position)
        if len(header) < _EXTENT.size:
            return numbers, masks, places, f"{fault} is cut off"
        magic, blocks, *clusters = _EXTENT.unpack(header)
        if magic != _EXTENT_MAGIC:
            return numbers, masks, places, f"{fault} has no valid header"
        position += _EXTENT.size
        place, end = position, position + blocks * _BLOCK
        for cluster in clusters:
            mask, owner, number = cluster >> 48, cluster >> 32 & 0xFF, cluster & 0xFFFFFFFF
            after = place + mask.bit_count() * _BLOCK
            if after > min(end, size):
                return numbers, masks, places, f"{fault} is cut off"
            if owner == device:
                if len(numbers) == _MAX_CLUSTERS:
                    return numbers, masks, places, f": more than {_MAX_CLUSTERS:,} clusters"
                for column, value in zip(
                    (numbers, masks, places), (number, mask, place), strict=True
                ):
                    column.append(value)
            place = after
        position = end
    return numbers, masks, places, ""
