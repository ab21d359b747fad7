"""Executable images in memory without a file: PE and ELF headers at the start of a page.

A magic number of two letters proves nothing: the fields of the header vote. (Microsoft, "PE
Format"; System V ABI, chapter 4.)
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import are_among, changes
from memory_visualizer.formats.base import Dump, Progress, Search, Words
from memory_visualizer.leads.lead import Lead
from memory_visualizer.leads.processpages import ProcessPages
from memory_visualizer.limits import Budget
from memory_visualizer.paging import MAY_WRITE
from memory_visualizer.printable import binary_size, counted
from memory_visualizer.snapshot.findings import named
from memory_visualizer.snapshot.framerecords import PageUse
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE

_MZ, _ELF = 0x5A4D, 0x464C457F
_LARGEST_IMAGE = 1 << 30
_FEWEST_SECTIONS, _MAX_SECTIONS = 1, 96
_PE_MACHINES = {0x14C: "x86", 0x8664: "x86-64", 0xAA64: "64-bit ARM", 0x1C4: "32-bit ARM"}
_PE_MAGICS = {0x10B: 224, 0x20B: 240}
"""Magic of the optional header, with the header's usual size."""
_ELF_MACHINES = {3: "x86", 62: "x86-64", 183: "64-bit ARM", 40: "32-bit ARM"}
_ELF_TYPES = (2, 3)
"""ET_EXEC and ET_DYN: what can run. Objects (ET_REL) and cores cannot."""
_READ_AT_ONCE = 256
_ENOUGH = 0.8
"""The share of a header's fields that must be sound."""


@dataclass(frozen=True)
class Image:
    """The header of an executable image."""

    format: str
    """``PE`` or ``ELF``."""
    machine: str
    size: int
    """Bytes in memory; one page where the header does not tell."""


def image_in(page: bytes) -> Image | None:
    """The image that begins with a page; None if its header is not credible."""
    if page[:2] == b"MZ":
        return _pe(page)
    return _elf(page) if page[:4] == b"\x7fELF" else None


def _pe(page: bytes) -> Image | None:
    at = int.from_bytes(page[0x3C:0x40], "little")
    if not 0x40 <= at <= PAGE_SIZE - 0x108:
        return None
    signature, machine, sections, _, _, _, optional = struct.unpack_from("<4sHHIIIH", page, at)
    magic = int.from_bytes(page[at + 24 : at + 26], "little")
    alignment, in_file = struct.unpack_from("<II", page, at + 24 + 32)
    size, headers = struct.unpack_from("<II", page, at + 24 + 56)
    votes = [
        signature == b"PE\0\0",
        machine in _PE_MACHINES,
        _FEWEST_SECTIONS <= sections <= _MAX_SECTIONS,
        magic in _PE_MAGICS,
        optional == _PE_MAGICS.get(magic),
        alignment >= in_file > 0 and in_file & in_file - 1 == 0,
        0 < size <= _LARGEST_IMAGE and size % max(alignment, 1) == 0,
        0 < headers < max(size, 1),
    ]
    if sum(votes) < _ENOUGH * len(votes):
        return None
    size = size if 0 < size <= _LARGEST_IMAGE else PAGE_SIZE
    return Image("PE", _PE_MACHINES.get(machine, "an unknown machine"), size)


def _elf(page: bytes) -> Image | None:
    wide = page[4] == 2
    layout, sizes = ("<HHIQQQIHHH", (64, 56)) if wide else ("<HHIIIIIHHH", (52, 32))
    fields = struct.unpack_from(layout, page, 16)
    kind, machine, version, _, place, _, _, header, segment, count = fields
    if kind not in _ELF_TYPES:
        return None  # no executable, whatever the other fields say
    votes = [
        page[4] in (1, 2),
        page[5] == 1,
        page[6] == 1,
        version == 1,
        machine in _ELF_MACHINES,
        header == sizes[0],
        segment == sizes[1],
        0 < count < 64,
        sizes[0] <= place < PAGE_SIZE,
    ]
    if sum(votes) < _ENOUGH * len(votes):
        return None
    size = _elf_size(page, place, count, wide=wide)
    return Image("ELF", _ELF_MACHINES.get(machine, "an unknown machine"), size)


def _elf_size(page: bytes, place: int, count: int, *, wide: bool) -> int:
    """Bytes that the segments take in memory, as far as their headers are in the page."""
    step, layout = (56, "<I4xQQQQQ") if wide else (32, "<IIIIII")
    end = PAGE_SIZE
    for at in range(place, place + min(count, 64) * step, step):
        if at + step > PAGE_SIZE:
            break
        kind, _, virtual, _, _, size = struct.unpack_from(layout, page, at)
        if kind == 1 and virtual + size <= _LARGEST_IMAGE:
            end = max(end, virtual + size)
    return end


class ImageSearch(Search[NDArray[np.int64]]):
    """Finds the beginnings of images among some frames, during a scan of the dump."""

    def __init__(self, wanted: NDArray[np.bool_], budget: Budget) -> None:
        """`wanted` tells for each frame whether it is searched."""
        self._wanted = wanted
        self._budget = budget
        self._room = budget.limit("beginning of an image")
        self._frames: list[NDArray[np.int64]] = []

    # Static, so that the object with its column is not sent to other machines.
    @staticmethod
    def look(frames: NDArray[np.int64], words: Words) -> NDArray[np.int64] | None:
        """Find the frames that begin like an image."""
        first = words[:, 0].copy()
        likely = (first & np.uint64(0xFFFF) == _MZ) | (first & np.uint64(0xFFFFFFFF) == _ELF)
        return frames[likely] if likely.any() else None

    def take(self, part: NDArray[np.int64]) -> None:
        """Add the wanted frames of a block, as long as there is room."""
        wanted = part[self._wanted[part]]
        self._frames.append(wanted[: self._room])
        self._budget.refuse("beginning of an image", len(wanted) - self._room)
        self._room -= len(self._frames[-1])

    def found(self, dump: Dump) -> dict[int, Image]:
        """The images by the frames of their headers, ascending."""
        frames = np.concatenate([np.empty(0, np.int64), *self._frames])
        images: dict[int, Image] = {}
        for part in np.split(frames, range(_READ_AT_ONCE, len(frames), _READ_AT_ONCE)):
            for frame, page in zip(part.tolist(), dump.read_frames(part), strict=True):
                if image := image_in(page.tobytes()):
                    images[frame] = image
        return images


def is_private(snapshot: Snapshot) -> NDArray[np.bool_]:
    """For each frame whether it is private memory of a process, without a file behind it.

    The kernel's records tell. Without records, a page counts if a single process has mapped it and
    may write to it: the first page of an image that is mapped from a file is read-only.
    """
    has_user = are_among(snapshot.classes, (PageClass.USER, PageClass.BOTH))
    if snapshot.uses is not None and np.any(snapshot.uses == PageUse.PROCESS_PRIVATE):
        private: NDArray[np.bool_] = has_user & (snapshot.uses == PageUse.PROCESS_PRIVATE)
    else:
        private = has_user & (snapshot.mapping_count == 1) & (snapshot.access & MAY_WRITE != 0)
    return private


def is_unused(snapshot: Snapshot) -> NDArray[np.bool_]:
    """For each frame whether it has no owner and belongs to no file."""
    unused: NDArray[np.bool_] = snapshot.classes == PageClass.UNUSED_DATA
    if snapshot.uses is not None:
        unused &= are_among(snapshot.uses, (PageUse.UNUSED, PageUse.UNKNOWN))
    unused[snapshot.file_pages.frame] = False
    return unused


def image_leads(
    snapshot: Snapshot, pages: ProcessPages, budget: Budget, progress: Progress | None
) -> Iterator[Lead]:
    """Images in private memory, and one lead for all in unused memory; reads the whole dump."""
    private, unused = is_private(snapshot), is_unused(snapshot)
    private[snapshot.file_pages.frame] = False
    search = ImageSearch(private | unused, budget)
    snapshot.dump.scan([search.visitor], progress)
    found = search.found(snapshot.dump)
    owned = {frame: image for frame, image in found.items() if private[frame]}
    yield from _private_leads(snapshot, pages, owned, budget)
    left = np.array([frame for frame in found if not private[frame]], np.int64)
    if len(left):
        reason = (
            f"{counted(len(left), 'executable image')} "
            + ("begins" if len(left) == 1 else "begin")
            + " in memory without an owner: left over from files and programs, or hidden there"
        )
        yield Lead("image in unused memory", reason, left)


def _private_leads(
    snapshot: Snapshot, pages: ProcessPages, found: dict[int, Image], budget: Budget
) -> Iterator[Lead]:
    """A lead for each image, by the first process that has it."""
    places = sorted(_first_owners(snapshot, found))
    room = budget.limit("page of an image")
    for index, virtual, frame in places:
        image, process = found[frame], snapshot.processes[index]
        frames = pages.of(index).between(virtual, virtual + image.size).frames
        budget.refuse("page of an image", len(frames) - room)
        frames = frames[: max(room, 1)]
        room = max(room - len(frames), 0)
        reason = (
            f"{named([process])} has {'an' if image.format == 'ELF' else 'a'} {image.format}"
            f" image of {image.machine} in private memory at {virtual:#x}"
            f" ({binary_size(image.size)})"
        )
        yield Lead("hidden image", reason, frames, process)


def _first_owners(snapshot: Snapshot, found: dict[int, Image]) -> Iterator[tuple[int, int, int]]:
    """Process, address and frame of each image."""
    of_image = np.zeros(snapshot.classes.size, bool)
    of_image[list(found)] = True
    for _, owners in snapshot.owners_by_frame() if found else ():
        rows = np.flatnonzero(of_image[owners.frame] & owners.is_user)
        rows = rows[changes(owners.frame[rows])] if len(rows) else rows
        yield from zip(
            owners.process[rows].tolist(),
            owners.virtual[rows].tolist(),
            owners.frame[rows].tolist(),
            strict=True,
        )
