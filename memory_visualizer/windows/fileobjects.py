"""File objects (`_FILE_OBJECT`): the names of files, their devices, and their control areas.

For each size of pointers, the members that are read here have the same offsets in every version, by
Volatility 2's profiles and symbols of later kernels.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.limits import Budget
from memory_visualizer.windows.kernelmemory import KernelMemory

_FILE, _DEVICE = 5, 3
"""Types of objects (IO_TYPE_FILE, IO_TYPE_DEVICE)."""
_SHORT = 512
"""Bytes of names that are read together; the few longer names are read singly."""
_ROOT = "\\Device\\"
"""The folder of the object manager in which drivers name their devices."""


@dataclass(frozen=True)
class _Layout:
    """Offsets in a file object."""

    device: int
    sections: int
    """SectionObjectPointer."""
    delete_pending: int
    name: int
    size: int
    """Bytes of a file object that are read."""
    header: int
    """Bytes of an object's header, in front of the object."""
    name_info: int
    """Bytes of _OBJECT_HEADER_NAME_INFO, and of _OBJECT_HEADER_CREATOR_INFO."""


_LAYOUTS = {
    8: _Layout(0x08, 0x28, 0x49, 0x58, 0x68, 0x30, 0x20),
    4: _Layout(0x04, 0x14, 0x25, 0x30, 0x38, 0x18, 0x10),
}
"""By the bytes of a pointer."""


@dataclass(frozen=True, eq=False)
class FileObjects:
    """The objects at some addresses, a row for each."""

    kernel: KernelMemory
    is_typed: NDArray[np.bool_]
    """Whether the object says that it is a file object."""
    data: NDArray[np.uint64]
    """The control area of the file's contents; 0 if there is none."""
    image: NDArray[np.uint64]
    """The control area of the file as a program; 0 if there is none."""
    device: NDArray[np.uint64]
    is_deleted: NDArray[np.bool_]
    """Whether the file is deleted when the last handle is closed."""
    length: NDArray[np.int64]
    """Bytes of the name; 0 for a name that is not plausible, or not in memory."""
    buffer: NDArray[np.uint64]
    """The address of the name."""

    def only(self, chosen: NDArray[np.bool_]) -> "FileObjects":
        """The same, with names, devices and marks removed from the other rows."""
        return replace(
            self,
            device=np.where(chosen, self.device, np.uint64(0)),
            is_deleted=self.is_deleted & chosen,
            length=np.where(chosen, self.length, 0),
        )

    def names(self, budget: Budget) -> list[str]:
        """The names, without their devices; empty where unknown."""
        length = self.length.copy()
        limit = budget.limit("letter of paths")
        # The longest names are left out first: a false length costs no other name.
        order = np.argsort(length, kind="stable")
        total = np.cumsum(length[order] // 2)
        budget.note("letter of paths", int(total[-1]) - limit if len(total) else 0)
        length[order[total > limit]] = 0
        found = [""] * len(length)
        rows = np.flatnonzero((length > 0) & (length <= _SHORT))
        raw = self.kernel.read_partly(self.buffer[rows], _SHORT)
        for number, row in enumerate(rows.tolist()):
            found[row] = _text(raw[number, : length[row]])
        for row in np.flatnonzero(length > _SHORT).tolist():
            found[row] = _text(self.kernel.read_far(int(self.buffer[row]), int(length[row])))
        return found

    def beginnings(self, rows: NDArray[np.intp], letters: int) -> list[str]:
        """The first `letters` letters of some names."""
        raw = self.kernel.read_partly(self.buffer[rows], 2 * letters)
        length = np.minimum(self.length[rows], 2 * letters).tolist()
        return [_text(raw[row, :size]) for row, size in enumerate(length)]

    def devices(self, budget: Budget) -> list[str]:
        r"""Such as ``\Device\HarddiskVolume1``; empty where unknown."""
        distinct, row, count = np.unique(self.device, return_inverse=True, return_counts=True)
        # A device of many files comes before addresses in damaged objects.
        order = np.argsort(-count, kind="stable")
        some = budget.take("device", order[distinct[order] != 0])
        names = [""] * len(distinct)
        for number in some.tolist():
            names[number] = _device(self.kernel, int(distinct[number]))
        return [names[number] for number in row.tolist()]


def read_file_objects(kernel: KernelMemory, addresses: NDArray[np.uint64]) -> FileObjects:
    """Read the objects at some addresses; address 0 stands for no object."""
    layout, word = _LAYOUTS[kernel.word], kernel.word
    contents, _ = kernel.read_each(addresses, layout.size)

    def pointer(place: int) -> NDArray[np.uint64]:
        return kernel.words(np.ascontiguousarray(contents[:, place : place + word]))[:, 0]

    def number(place: int) -> NDArray[np.int64]:
        part = np.ascontiguousarray(contents[:, place : place + 2]).view("<u2")
        return part[:, 0].astype(np.int64)

    pointers = kernel.members(pointer(layout.sections), (0, 2 * word))[0]
    buffer, length = pointer(layout.name + word), number(layout.name)
    first, _ = kernel.numbers(buffer, 2)
    is_name = (length % 2 == 0) & (length <= number(layout.name + 2)) & (first != 0)
    return FileObjects(
        kernel,
        number(0) == _FILE,
        pointers[0],
        pointers[1],
        pointer(layout.device),
        contents[:, layout.delete_pending] != 0,
        np.where(is_name, length, 0),
        buffer,
    )


def _device(kernel: KernelMemory, address: int) -> str:
    """The name of a device; empty if unknown.

    It lies in front of the object's header; a record of the object's creator may come between.
    """
    layout, word = _LAYOUTS[kernel.word], kernel.word
    if kernel.number(address, 2) != _DEVICE:
        return ""
    for distance in (layout.name_info, 2 * layout.name_info):
        at = address - layout.header - distance + word
        length, room = kernel.number(at, 2), kernel.number(at + 2, 2)
        buffer = kernel.number(at + word)
        if not length or not room or not buffer or length % 2 or not length <= room <= _SHORT:
            continue
        raw = kernel.read(buffer, length)
        name = "" if raw is None else _text(np.frombuffer(raw, np.uint8))
        if name and name.isprintable() and "\\" not in name:
            return _ROOT + name
    return ""


def _text(raw: NDArray[np.uint8]) -> str:
    """Decode a text; empty if a part of it is not in memory."""
    text = raw.tobytes().decode("utf-16-le", "replace")
    return "" if "\0" in text else text
