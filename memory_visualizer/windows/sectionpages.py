"""The files behind pages: their uses, names and offsets, by control areas and file objects."""

import re

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.limits import Budget
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.framerecords import PageUse, SectionPages
from memory_visualizer.snapshot.inventory import FileObject, FilePages
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.windows.controlareas import (
    NO_NAME,
    ControlAreas,
    SectionKind,
    read_control_areas,
)
from memory_visualizer.windows.kernelmemory import KernelMemory

_LONGEST = 24
_METAFILE = re.compile(
    r"\\\$(Mft|MftMirr|LogFile|Volume|AttrDef|BitMap|Boot|BadClus|Secure|UpCase|Extend|Directory"
    r"|MapAttributeValue)([:\\]|$)",
    re.IGNORECASE,
)
"""Names of NTFS' own files, and of the streams through which it reads directories and attributes.
They are compared as a whole, since names such as ``$Recycle.Bin`` begin in the same way."""
_USES = {SectionKind.DATA: PageUse.MAPPED_FILE, SectionKind.IMAGE: PageUse.IMAGE}


def uses_of_areas(areas: ControlAreas) -> NDArray[np.uint8]:
    """For each control area the use of its file's pages: FILE where the kind is unknown."""
    uses = np.full(len(areas.kinds), PageUse.FILE, np.uint8)
    for kind, use in _USES.items():
        uses[areas.kinds == kind] = use
    data = np.flatnonzero(areas.kinds == SectionKind.DATA)
    names = areas.described.beginnings(data, _LONGEST)
    is_metafile = [_METAFILE.match(name) is not None for name in names]
    uses[data[np.array(is_metafile, bool)]] = PageUse.METAFILE
    return uses


def file_pages(
    budget: Budget, kernel: KernelMemory, pages: SectionPages
) -> tuple[FilePages, tuple[str, ...]]:
    """The files of these pages by their paths; and sentences on missing data."""
    areas, row = np.unique(pages.area, return_inverse=True)
    size = np.full(len(areas), -1)
    np.maximum.at(size, row, pages.size)
    sizes = [None if bytes_ < 0 else bytes_ for bytes_ in size.tolist()]
    files = read_control_areas(kernel, areas).files(budget, sizes)
    known = [number for number, file in enumerate(files) if file]
    order = sorted(known, key=lambda number: (_key(files[number]), number))
    place = np.full(len(areas), -1, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    of_page = place[row][pages.stretch]
    chosen = np.flatnonzero(of_page >= 0)
    chosen = chosen[np.argsort(pages.frame[chosen], kind="stable")]
    stretch, page = pages.stretch[chosen], pages.page[chosen]
    offset = pages.offset[stretch] + page.astype(np.int64) * PAGE_SIZE
    offset[(page < 0) | (pages.offset[stretch] < 0)] = -1
    found = FilePages(
        tuple(file for number in order if (file := files[number])),
        pages.frame[chosen].astype(np.int64),
        of_page[chosen],
        offset,
        np.clip(pages.end[stretch] - offset, 0, PAGE_SIZE),
    )
    return found, _remarks(found, len(pages.frame) - len(chosen))


def _key(file: FileObject | None) -> tuple[str, str]:
    return (file.path, file.kind) if file else ("", "")


def _remarks(found: FilePages, lost: int) -> tuple[str, ...]:
    remarks = []
    if lost:
        remarks.append(
            f"{counted(lost, 'page')} of files whose control area was not found: the file is"
            " unknown"
        )
    if unknown := int(np.count_nonzero(found.offset < 0)):
        remarks.append(
            f"{counted(unknown, 'page')} of files whose subsection does not tell their place: the"
            " offset in the file is unknown"
        )
    if unnamed := sum(file.path == NO_NAME for file in found.files):
        remarks.append(
            f"{counted(unnamed, 'file')} without a name: the file object, or its name, is not in"
            " memory"
        )
    return tuple(remarks)
