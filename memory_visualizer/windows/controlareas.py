"""Control areas: each describes a section, which is a file as data, a file as an image, or no file.

A control area proves itself: its segment leads back to it, and its file object leads back to it by
its section object pointers. The offsets come from Volatility 2's profiles and from symbols of later
kernels; the majority of the given control areas decides which offsets apply.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import even_sample
from memory_visualizer.limits import Budget
from memory_visualizer.snapshot.inventory import FileObject
from memory_visualizer.windows.fileobjects import FileObjects, read_file_objects
from memory_visualizer.windows.kernelmemory import KernelMemory

_IMAGE, _FILE = 1 << 5, 1 << 7
"""Bits of _MMSECTION_FLAGS, in every version."""
_PLACES = {
    8: ((56, 64), (40, 48), (44, 48)),  # Vista with a service pack and later; Vista; XP and 2003
    4: ((28, 36), (28, 32), (32, 36)),  # Vista and 7; 8 and later; XP and 2003
}
"""Offsets in a control area of the flags and of FilePointer, by the bytes of a pointer."""


_VOTERS = 1 << 10
"""An even sample of control areas, which vote on their layout."""
_SIGNS = 2
"""The number of signs of a file object, of three, that must be right."""
NO_NAME = "[file without a name]"
"""In place of a path, if the file object or its name is lost."""


class SectionKind(IntEnum):
    """The contents of a section."""

    UNKNOWN = 0
    """No evidence for a control area."""
    DATA = 1
    """A file's contents: a mapped file, or one in the cache."""
    IMAGE = 2
    """An image: a file as a program or library."""
    SHARED = 3
    """Shared memory without a file."""


@dataclass(frozen=True, eq=False)
class ControlAreas:
    """The facts of control areas, a row for each, in the order of the given addresses."""

    kinds: NDArray[np.uint8]
    """SectionKind."""
    objects: NDArray[np.uint64]
    """The address of the file object; 0 if none is believed."""
    described: FileObjects
    """The objects at these addresses."""

    def files(
        self, budget: Budget, sizes: Sequence[int | None] | None = None
    ) -> list[FileObject | None]:
        """The files; None for shared memory, and for addresses without a known control area.

        `sizes` are the sizes of the files in bytes, as far as they are known.
        """
        names, devices = self.described.names(budget), self.described.devices(budget)
        found: list[FileObject | None] = [None] * len(self.kinds)
        of_file = np.isin(self.kinds, (SectionKind.DATA, SectionKind.IMAGE))
        for row in np.flatnonzero(of_file).tolist():
            name, device = names[row], devices[row]
            found[row] = FileObject(
                path=f"{device}{_between(device, name)}{name}" if name else NO_NAME,
                kind=SectionKind(int(self.kinds[row])).name.lower(),
                is_deleted=bool(self.described.is_deleted[row]),
                size=sizes[row] if sizes else None,
                device=device,
                object_address=int(self.objects[row]),
            )
        return found


def _between(device: str, name: str) -> str:
    return "\\" if device and not name.startswith("\\") else ""


def read_control_areas(kernel: KernelMemory, areas: NDArray[np.uint64]) -> ControlAreas:
    """Read and judge the control areas at some virtual addresses, each by itself.

    A control area is believed if its segment leads back to it, or if two of three signs say that it
    has a file object: type, name, and section object pointers that lead back. If these pointers
    lead back, they tell the kind; otherwise the flags do. All control areas of a dump should be
    read at once, since the majority decides on the layout.
    """
    places = _PLACES[kernel.word]
    contents, known = kernel.read_each(areas, max(max(place) for place in places) + kernel.word)
    known &= areas != 0
    segments = kernel.words(np.ascontiguousarray(contents[:, : kernel.word]))[:, 0]
    back, _ = kernel.numbers(segments)
    leads_back = known & (back == areas) & (segments != 0)
    some = even_sample(np.arange(len(areas)), _VOTERS)
    votes = [_read(kernel, areas[some], contents[some], known[some], it).votes for it in places]
    best = _read(kernel, areas, contents, known, places[int(np.argmax(votes))])
    has_file = best.is_file | (leads_back & best.says_file)
    is_shared = leads_back & ~has_file & (best.pointers == 0)
    kinds = np.full(len(areas), SectionKind.UNKNOWN, np.uint8)
    kinds[is_shared] = SectionKind.SHARED
    kinds[has_file & best.is_image] = SectionKind.IMAGE
    kinds[has_file & ~best.is_image] = SectionKind.DATA
    objects = np.where(best.is_file, best.pointers, np.uint64(0))
    return ControlAreas(kinds, objects, best.objects.only(best.is_file))


@dataclass(frozen=True, eq=False)
class _Reading:
    """Control areas, read by a layout."""

    pointers: NDArray[np.uint64]
    objects: FileObjects
    is_file: NDArray[np.bool_]
    """Whether most signs of a file object are right."""
    is_image: NDArray[np.bool_]
    says_file: NDArray[np.bool_]
    """The flag."""
    votes: int


def _read(
    kernel: KernelMemory,
    areas: NDArray[np.uint64],
    contents: NDArray[np.uint8],
    known: NDArray[np.bool_],
    place: tuple[int, int],
) -> _Reading:
    at_flags, at_pointer = place
    flags = np.ascontiguousarray(contents[:, at_flags : at_flags + 4]).view("<u4")[:, 0]
    raw = np.ascontiguousarray(contents[:, at_pointer : at_pointer + kernel.word])
    # Since Vista the lowest bits of the pointer count references (_EX_FAST_REF).
    pointers = kernel.words(raw)[:, 0] & ~np.uint64(2 * kernel.word - 1)
    pointers[~known] = 0
    objects = read_file_objects(kernel, pointers)
    as_image, as_data = objects.image == areas, objects.data == areas
    signs = objects.is_typed.astype(np.uint8) + (objects.length > 0) + (as_image | as_data)
    is_file = (signs >= _SIGNS) & (pointers != 0)
    says_file = known & (flags & np.uint32(_FILE) != 0)
    says_image = known & (flags & np.uint32(_IMAGE) != 0)
    votes = np.count_nonzero(is_file) + np.count_nonzero(is_file & says_file)
    votes += np.count_nonzero(is_file & (says_image == as_image) & (as_image | as_data))
    is_image = np.where(as_image != as_data, as_image, says_image)
    return _Reading(pointers, objects, is_file, is_image, says_file, int(votes))
