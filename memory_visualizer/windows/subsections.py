"""Subsections and control areas, which describe pages of files.

A page's OriginalPte names its subsection, whose control area tells whether the file is mapped as an
image. The offsets are those of Volatility 2's profiles and of symbols of later kernels.
"""

import re

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.limits import Budget
from memory_visualizer.snapshot.framerecords import PageUse
from memory_visualizer.windows.kernelmemory import KernelMemory

PROTOTYPE = 1 << 10
"""Bit of OriginalPte: it names a subsection (MMPTE_SUBSECTION), not a place in the page file."""
_IMAGE, _FILE = 1 << 5, 1 << 7
"""Bits of _MMSECTION_FLAGS, in every version."""
_FILE_OBJECT = 5
"""Type of a file object (IO_TYPE_FILE)."""
_NAME = {8: 0x58, 4: 0x30}
"""Where in a file object its name stands, in every version."""
_LONGEST = 24
_METAFILE = re.compile(
    r"\\\$(Mft|MftMirr|LogFile|Volume|AttrDef|BitMap|Boot|BadClus|Secure|UpCase|Extend|Directory"
    r"|MapAttributeValue)([:\\]|$)",
    re.IGNORECASE,
)
"""Names of NTFS' own files, and of the streams through which it reads directories and attributes.
Other names may begin so, too, such as that of the recycle bin."""
_PLACES = {
    8: ((56, 64), (40, 48), (44, 48)),  # Vista with a service pack and later; Vista; XP and 2003
    4: ((28, 36), (28, 32), (32, 36)),  # Vista and 7; 8 and later; XP and 2003
}
"""Offsets in a control area of the flags and of FilePointer, by the bytes of a pointer."""


def uses_of_subsections(
    budget: Budget, kernel: KernelMemory, entry_bytes: int, originals: NDArray[np.uint64]
) -> NDArray[np.uint8]:
    """For each OriginalPte of a file's page: IMAGE, MAPPED_FILE, METAFILE, or FILE if unknown."""
    uses = np.full(len(originals), PageUse.FILE, np.uint8)
    addresses = _subsections(entry_bytes, kernel.word, originals)
    if addresses is None or not len(addresses):
        return uses
    distinct, row = np.unique(addresses, return_inverse=True)
    some = budget.take("subsection", distinct, budget.limit("subsection"))
    kinds = np.full(len(distinct), PageUse.FILE, np.uint8)
    kinds[: len(some)] = _kinds(kernel, some)
    return kinds[row]


def _subsections(
    entry_bytes: int, word: int, originals: NDArray[np.uint64]
) -> NDArray[np.uint64] | None:
    """The addresses of subsections that OriginalPte names.

    None on 32 bits without PAE, since an entry there has only the distance from an address that the
    dump does not tell.
    """
    if word == 8:
        return (originals.view(np.int64) >> 16).view(np.uint64)
    return originals >> np.uint64(32) if entry_bytes == 8 else None


def _kinds(kernel: KernelMemory, subsections: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The use of the pages of each subsection."""
    areas, known = kernel.numbers(subsections)
    size = max(max(place) for place in _PLACES[kernel.word]) + kernel.word
    contents, whole = kernel.read_each(areas, size)
    known &= whole & (areas != 0)
    best = np.zeros(len(subsections), bool)
    flags = np.zeros(len(subsections), np.uint32)
    files = np.zeros(len(subsections), np.uint64)
    for place, pointer in _PLACES[kernel.word]:
        these = contents[:, place : place + 4].copy().view("<u4")[:, 0]
        objects = _references(kernel, contents[:, pointer : pointer + kernel.word])
        fits = known & (these & np.uint32(_FILE) != 0)
        fits[fits] = _are_files(kernel, objects[fits])
        if np.count_nonzero(fits) > np.count_nonzero(best):
            best, flags, files = fits, these, objects
    kinds = np.where(flags & np.uint32(_IMAGE) != 0, PageUse.IMAGE, PageUse.MAPPED_FILE)
    data = np.flatnonzero(best & (kinds == PageUse.MAPPED_FILE))
    kinds[data[_are_metafiles(kernel, files[data])]] = PageUse.METAFILE
    return np.where(best, kinds, PageUse.FILE).astype(np.uint8)


def _references(kernel: KernelMemory, pointers: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The addresses in fast references, whose lowest bits count."""
    addresses = np.ascontiguousarray(pointers).view(f"<u{kernel.word}")[:, 0].astype(np.uint64)
    addresses &= ~np.uint64(2 * kernel.word - 1)
    return addresses


def _are_files(kernel: KernelMemory, addresses: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """At which addresses there is a file object."""
    types, known = kernel.numbers(addresses, 2)
    files: NDArray[np.bool_] = known & (types == _FILE_OBJECT)
    return files


def _are_metafiles(kernel: KernelMemory, files: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which file objects are of the file system's own files, by their names."""
    place = np.uint64(_NAME[kernel.word])
    lengths, _ = kernel.numbers(files + place, 2)
    buffers, _ = kernel.numbers(files + place + np.uint64(kernel.word))
    names = kernel.read_partly(buffers, 2 * _LONGEST)
    found = np.zeros(len(files), bool)
    for row in np.flatnonzero(names[:, 2] == ord("$")).tolist():
        size = min(int(lengths[row]), 2 * _LONGEST)
        name = names[row, :size].tobytes().decode("utf-16-le", "replace")
        found[row] = _METAFILE.match(name) is not None
    return found
