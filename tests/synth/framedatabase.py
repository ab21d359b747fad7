"""The page frame database of a synthetic Windows: a record for each frame, and sections of files.

What is written into a record is noted when the frame is given to somebody (`FrameLog`), and the
layout of the records is the profile's own (`_MMPFN`). Windows Internals, part 1, "Page frame number
database", tells what the members mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.synth.kernel import ObjectTypes, Pool, Region
from tests.synth.memory import LOW_MEMORY_FRAMES, PAGE_SIZE, Frames, PhysicalMemory
from tests.synth.profiles import Profile

LOCATIONS = (
    "zeroed",
    "free",
    "standby",
    "modified",
    "modified no write",
    "bad",
    "active",
    "transition",
)
"""MMLISTS of the kernel, by their number: what PageLocation says."""

NO_RECORD = "unknown"
"""Of frames that Windows does not manage: their records are zeros."""

RECORD = np.dtype(
    [
        ("state", "U20"),
        ("use", "U20"),
        ("priority", "i1"),  # of standby pages, else -1
        ("last_owner", "i4"),  # index of the process that had a standby or modified page, else -1
        ("pte_address", "u8"),
        ("pte_frame", "u8"),
        ("original", "u8"),
        ("is_prototype", "?"),
        ("is_stack", "?"),
        ("is_awe", "?"),
        ("file", "i4"),  # index in RecordTruth.sections, else -1
        ("offset", "i8"),  # bytes from the file's beginning, else -1
        ("length", "i8"),  # bytes of the page that are the file's, else -1
    ]
)

DRIVER_LOCKED = "driver locked"
_MAGIC_FRAME = (1 << 57) - 1
"""In place of a table's frame: as wide as PteFrame is, all ones."""
_SOFTWARE = 4 << 5
"""An entry for a page that begins as zeros and may be read and written (MMPTE_SOFTWARE)."""
_PROTOTYPE = 1 << 10


@dataclass(frozen=True)
class RecordLayout:
    """Where the members of a record stand: byte, first bit and end; whole words as 0 to 0."""

    size: int
    members: dict[str, tuple[int, int, int]]
    word: int

    @classmethod
    def of(cls, profile: Profile, entry_size: int) -> "RecordLayout":
        """A profile's, with its OriginalPte as large as an entry.

        Profiles of 32-bit Windows are of one of the two kernels, with PAE or without: in the other
        one all that stands behind OriginalPte is 4 bytes further, or nearer.
        """
        size = int(profile.frame_record["size"])
        members = {name: tuple(place) for name, place in profile.frame_record["members"].items()}
        if profile.bits == 32:
            behind = members["OriginalPte"][0]
            shift = (size == 24) * 4 if entry_size == 8 else (size == 28) * -4
            members = {
                name: (at + shift if at > behind else at, first, end)
                for name, (at, first, end) in members.items()
            }
            size += shift
        return cls(size, members, profile.pointer_size)

    def write(
        self, records: npt.NDArray[np.uint8], name: str, values: npt.NDArray[np.uint64]
    ) -> None:
        """Set one member of all records; nothing where this version does not have it."""
        if name not in self.members:
            return
        at, first, end = self.members[name]
        width = end - first if end else 8 * (8 if name == "OriginalPte" else self.word)
        if name == "ReferenceCount":
            width = 16
        if name == "OriginalPte" and self.word == 4 and self.size == 24:
            width = 32
        values = values & np.uint64((1 << width) - 1)
        for byte in range(-(-(first + width) // 8)):
            shift = 8 * byte - first
            part = values >> np.uint64(shift) if shift >= 0 else values << np.uint64(-shift)
            records[:, at + byte] |= (part & np.uint64(0xFF)).astype(np.uint8)


class FrameLog:
    """What each frame is given for, noted when it is given."""

    def __init__(self, frames: int, rng: np.random.Generator) -> None:
        self.records = np.zeros(frames, RECORD)
        self.records["state"] = NO_RECORD
        self.records["use"] = NO_RECORD
        for name in ("priority", "last_owner", "file", "offset", "length"):
            self.records[name] = -1
        self._rng = rng
        self._below_top: list[tuple[int, int, object]] = []

    def note(
        self,
        frames: Frames,
        use: str,
        pte_address: npt.NDArray[np.uint64] | int,
        pte_frame: npt.NDArray[np.int64] | int,
        *,
        state: str = "active",
        owner: int = -1,
        original: npt.NDArray[np.uint64] | int = _SOFTWARE,
        is_prototype: bool = False,
    ) -> None:
        """Note frames that have no record yet; those that have one, and others' memory, stay."""
        frames = np.asarray(frames)
        inside = frames < len(self.records)
        chosen = inside & (self.records["state"][frames * inside] == NO_RECORD)
        some = frames[chosen]
        for name, values in (
            ("use", use),
            ("state", state),
            ("pte_address", pte_address),
            ("pte_frame", pte_frame),
            ("original", original),
            ("is_prototype", is_prototype),
        ):
            array = np.asarray(values)
            self.records[name][some] = array[chosen] if array.ndim else array
        if state == "standby":
            self.records["priority"][some] = self._rng.integers(0, 8, len(some))
        if state in ("standby", "modified", "modified no write") and not is_prototype:
            self.records["last_owner"][some] = owner

    def trimmed_state(self) -> str:
        """The list of some pages that were taken from a process."""
        return "modified" if self._rng.random() < 0.4 else "standby"

    def note_below_top(self, frame: int, index: int, tree: object) -> None:
        """Note a table that a top-level entry names: whose top-level table that is comes later."""
        self._below_top.append((frame, index, tree))

    def settle(self, tree: object, top_of: Callable[[int], int]) -> None:
        """The tables of a tree have found the top level that counts as theirs."""
        for frame, index, of in self._below_top:
            if of is tree and self.records["pte_frame"][frame] == 0:
                self.records["pte_frame"][frame] = top_of(index)

    def finish(
        self, memory: PhysicalMemory, reserved: Sequence[Frames], *, has_priority: bool
    ) -> None:
        """All frames without a record are free, but for those that Windows does not manage."""
        if not has_priority:
            self.records["priority"] = -1
        free = self.records["state"] == NO_RECORD
        free[:LOW_MEMORY_FRAMES] = False
        for frames in reserved:
            free[frames] = False
        zeroed = free & memory.zeros()
        zeroed[np.setdiff1d(np.arange(len(free)), memory.free_frames)] = False
        self.records["state"][free] = "free"
        self.records["state"][zeroed] = "zeroed"
        self.records["use"][free] = "unused"

    def bytes_of(self, layout: RecordLayout) -> npt.NDArray[np.uint8]:
        """The records as Windows has them, shape (frames, size)."""
        records, states = self.records, self.records["state"]
        raw = np.zeros((len(records), layout.size), np.uint8)
        known = np.flatnonzero(states != NO_RECORD)
        some, written = records[known], raw[known]
        location = np.array([LOCATIONS.index(state) for state in some["state"]], np.uint64)
        in_use = location == LOCATIONS.index("active")
        free = location < 2
        numbers = known.astype(np.uint64)
        pte_address = some["pte_address"].copy()
        # The lock and marks that stand in the lowest bit now and then.
        pte_address[(numbers % 97 == 0) & ~free] |= np.uint64(1)
        for name, values in (
            ("PteAddress", pte_address),
            ("PteFrame", some["pte_frame"]),
            ("OriginalPte", some["original"]),
            ("PageLocation", location),
            ("ReferenceCount", in_use.astype(np.uint64)),
            ("ShareCount", np.where(in_use, 1, numbers ^ np.uint64(1)).astype(np.uint64)),
            ("PrototypePte", some["is_prototype"].astype(np.uint64)),
            ("KernelStack", some["is_stack"].astype(np.uint64)),
            ("AweAllocation", some["is_awe"].astype(np.uint64)),
            ("Modified", (some["state"] == "modified").astype(np.uint64)),
            ("Priority", np.where(some["priority"] >= 0, some["priority"], 5).astype(np.uint64)),
        ):
            layout.write(written, name, values)
        raw[known] = written
        return raw


@dataclass(frozen=True)
class SectionTruth:
    """What is true of a section of a file, or of shared memory without one."""

    path: str
    """With the device in front; empty for shared memory."""
    kind: str
    """`data`, `image` or `shared`."""
    control_area: int
    """Virtual address; so for the others."""
    subsections: tuple[int, ...]
    file_object: int = 0
    is_deleted: bool = False
    size: int | None = None
    """Bytes of a file of data."""
    prototypes: int = 0
    """Virtual address of the prototype entry of its first page."""
    parts: tuple[tuple[int, int], ...] = ()
    """Pages of each subsection, and where it begins in the file."""

    def part_of(self, page: int) -> tuple[int, int]:
        """The subsection in which a page lies, and the page's place in the file."""
        for number, (pages, offset) in enumerate(self.parts):
            if page < pages:
                return number, offset + page * PAGE_SIZE
            page -= pages
        raise ValueError("no such page")


@dataclass(frozen=True)
class _Part:
    """What one subsection describes."""

    offset: int
    """Bytes from the file's beginning."""
    entries: int
    """Prototype entries, a page each."""
    size: int
    """Bytes in the file."""


_VOLUMES = ("HarddiskVolume1", "HarddiskVolume2")
_SMALL_PART = 3
"""A larger section of a file as data has two subsections, a larger image four."""
NONPAGED_POOL_END = 0xFFBE_0000
"""Where the nonpaged pool of Windows XP and 2003 ends on x86 (MM_NONPAGED_POOL_END, mi386.h)."""
_NEAR = 128 << 20
"""A subsection so near behind MmSubsectionBase has WhichPool set (MiGetSubsectionAddressForPte)."""


class Sections:
    """Files and shared memory: prototype entries in the paged pool, and what they belong to."""

    def __init__(
        self,
        log: FrameLog,
        profile: Profile,
        entry_size: int,
        pools: Sequence[Pool],
        map_pool: Callable[[int], Region],
        types: ObjectTypes,
    ) -> None:
        """`map_pool` maps so many more pages of the paged pool.

        Objects lie in these nonpaged `pools`, in turn.
        """
        self._log = log
        self._types = types
        self._profile = profile
        self._entry_size = entry_size
        self._pools = pools
        self._map_pool = map_pool
        self._pool = pools[0]
        self._devices = [self._device(name, bool(n)) for n, name in enumerate(_VOLUMES)]
        self.made: list[SectionTruth] = []

    def make(
        self,
        frames: Frames,
        use: str,
        *,
        state: str = "active",
        name: str = "\\file.dat",
        is_deleted: bool = False,
        offset: int = 0,
    ) -> SectionTruth | None:
        """Make a section of these frames: a file as `image` or `mapped file`, or `shareable`.

        The pages of a file as data begin at `offset`; some pages between them are not in memory.
        None if all frames are something else already.
        """
        frames = frames[self._log.records["state"][frames] == NO_RECORD]
        if not len(frames):
            return None
        self._pool = self._pools[len(self.made) % len(self._pools)]
        kind = {"shareable": "shared", "image": "image"}.get(use, "data")
        place, parts = _places(len(frames), kind, offset)
        count = sum(part.entries for part in parts)
        region = self._map_pool(-(-count * self._entry_size // PAGE_SIZE))
        made = self._objects(region.base, kind, name, parts, is_deleted=is_deleted)
        flags = 0x63 if state == "active" else 0x880
        for number, frame in zip(place.tolist(), frames.tolist(), strict=True):
            entry = (frame << 12 | flags) & ((1 << 8 * self._entry_size) - 1)
            at = region.base + number * self._entry_size
            region.write(at, entry.to_bytes(self._entry_size, "little"))
        ends = np.cumsum([part.entries for part in parts])
        part_of = np.searchsorted(ends, place, "right")
        original = np.full(len(frames), _SOFTWARE, np.uint64)
        if kind != "shared":
            told = [self._subsection_entry(at) for at in made.subsections]
            original = np.array(told, np.uint64)[part_of]
        begin = place.astype(np.uint64) * np.uint64(self._entry_size)
        self._log.note(
            frames,
            use,
            np.uint64(region.base) + begin,
            region.frames[(begin // np.uint64(PAGE_SIZE)).astype(np.int64)],
            state=state,
            original=original,
            is_prototype=True,
        )
        if kind != "shared":
            offset_of, size_of = (
                np.array([getattr(part, name) for part in parts])[part_of]
                for name in ("offset", "size")
            )
            inside = (place - (ends - [part.entries for part in parts])[part_of]) * PAGE_SIZE
            self._log.records["file"][frames] = len(self.made)
            self._log.records["offset"][frames] = offset_of + inside
            self._log.records["length"][frames] = np.minimum(size_of - inside, PAGE_SIZE)
        self.made.append(made)
        return made

    def _objects(
        self, prototypes: int, kind: str, name: str, parts: Sequence[_Part], *, is_deleted: bool
    ) -> SectionTruth:
        """A control area with its segment, its subsections and its file object."""
        profile, word = self._profile, self._profile.pointer_size
        area_size = -(-profile.size("_CONTROL_AREA") // word) * word
        part_size = profile.size("_SUBSECTION")
        area = self._pool.allocate(area_size + len(parts) * part_size, b"MmCa")
        subsections = [area + area_size + number * part_size for number in range(len(parts))]
        segment = self._pool.allocate(profile.size("_SEGMENT"), b"MmSm")
        self._set(segment, "_SEGMENT", "ControlArea", area)
        self._set(area, "_CONTROL_AREA", "Segment", segment)
        # File, Image, and for shared memory Commit of _MMSECTION_FLAGS.
        flags = {"data": 1 << 7, "image": 1 << 7 | 1 << 5, "shared": 1 << 13}[kind]
        self._set(area, "_CONTROL_AREA", "u", flags, 4)
        path, file = "", 0
        if kind != "shared":
            number = len(self.made) % len(_VOLUMES)
            path = f"\\Device\\{_VOLUMES[number]}{name}"
            file = self._file_object(area, self._devices[number], kind, name)
            at = file + profile.offset("_FILE_OBJECT", "DeletePending")
            self._pool.region.write(at, bytes([is_deleted]))
            # Since Vista a fast reference: the lowest bits count.
            counted = 3 if profile.version >= (6, 0) else 0
            self._set(area, "_CONTROL_AREA", "FilePointer", file | counted)
        followers, first = [*subsections[1:], 0], prototypes
        for at, following, part in zip(subsections, followers, parts, strict=True):
            self._subsection(at, area, prototypes, part, kind)
            self._set(at, "_SUBSECTION", "NextSubsection", following)
            prototypes += part.entries * self._entry_size
        size = parts[-1].offset + parts[-1].size if kind == "data" else None
        return SectionTruth(
            path,
            kind,
            area,
            tuple(subsections),
            file,
            is_deleted,
            size,
            first,
            tuple((part.entries, part.offset) for part in parts),
        )

    def _subsection(self, at: int, area: int, base: int, part: _Part, kind: str) -> None:
        self._set(at, "_SUBSECTION", "ControlArea", area)
        self._set(at, "_SUBSECTION", "SubsectionBase", base)
        self._set(at, "_SUBSECTION", "PtesInSubsection", part.entries, 4)
        if kind == "shared":
            return
        # Sectors of images have 512 bytes, those of data 4096 (MiStartingOffset, MiEndingOffset).
        shift = 9 if kind == "image" else 12
        start = part.offset >> shift
        self._set(at, "_SUBSECTION", "StartingSector", start & 0xFFFF_FFFF, 4)
        self._set(at, "_SUBSECTION", "NumberOfFullSectors", part.size >> shift, 4)
        bits = self._profile.bit_fields["_MMSUBSECTION_FLAGS"]
        flags = 3 << 1  # a protection
        for name, value in (
            ("StartingSector4132", start >> 32),
            ("SectorEndOffset", part.size & (1 << shift) - 1),
        ):
            byte, first, _ = bits[name]
            flags |= value << 8 * byte + first
        self._set(at, "_SUBSECTION", "u", flags, 4)

    def _file_object(self, area: int, device: int, kind: str, name: str) -> int:
        profile, word, write = self._profile, self._profile.pointer_size, self._pool.region.write
        body = profile.offset("_OBJECT_HEADER", "Body")
        size = profile.size("_FILE_OBJECT")
        # Until Windows 7 the highest bit of the tag said that only its owner may free the block.
        tag = b"File" if profile.version >= (6, 2) else b"Fil\xe5"
        file = self._pool.allocate(body + size, tag) + body
        self._header(file - body, "File")
        text = name.encode("utf-16-le")
        buffer = self._pool.allocate(len(text) + 2, b"IoNm")
        write(buffer, text)
        self._set(file, "_FILE_OBJECT", "Type", 5, 2)
        self._set(file, "_FILE_OBJECT", "Size", size, 2)
        self._set(file, "_FILE_OBJECT", "DeviceObject", device)
        at = file + profile.offset("_FILE_OBJECT", "FileName")
        write(at, len(text).to_bytes(2, "little") + (len(text) + 2).to_bytes(2, "little"))
        write(at + word, buffer.to_bytes(word, "little"))
        pointers = self._pool.allocate(profile.size("_SECTION_OBJECT_POINTERS"), b"MmSo")
        member = "ImageSectionObject" if kind == "image" else "DataSectionObject"
        self._set(pointers, "_SECTION_OBJECT_POINTERS", member, area)
        self._set(file, "_FILE_OBJECT", "SectionObjectPointer", pointers)
        return file

    def _device(self, name: str, has_creator: bool) -> int:
        """A volume's device object, its name in front of its header."""
        profile, word = self._profile, self._profile.pointer_size
        info = profile.size("_OBJECT_HEADER_NAME_INFO")
        creator = profile.size("_OBJECT_HEADER_CREATOR_INFO") if has_creator else 0
        body = profile.offset("_OBJECT_HEADER", "Body")
        size = info + creator + body + profile.size("_DEVICE_OBJECT")
        start = self._pool.allocate(size, b"Devi")
        header = start + info + creator
        self._header(header, "Device")
        if profile.has("_OBJECT_HEADER", "InfoMask"):
            self._set(header, "_OBJECT_HEADER", "InfoMask", 2 | has_creator, 1)
        else:
            self._set(header, "_OBJECT_HEADER", "NameInfoOffset", info + creator, 1)
        text = name.encode("utf-16-le")
        buffer = self._pool.allocate(len(text) + 2, b"ObNm")
        self._pool.region.write(buffer, text)
        at = start + profile.offset("_OBJECT_HEADER_NAME_INFO", "Name")
        lengths = len(text).to_bytes(2, "little") + (len(text) + 2).to_bytes(2, "little")
        self._pool.region.write(at, lengths)
        self._pool.region.write(at + word, buffer.to_bytes(word, "little"))
        self._set(header + body, "_DEVICE_OBJECT", "Type", 3, 2)
        return header + body

    def _header(self, at: int, type_name: str) -> None:
        """The header of an object of this type."""
        self._set(at, "_OBJECT_HEADER", "PointerCount", 1)
        if byte := self._types.byte(at, type_name):
            self._set(at, "_OBJECT_HEADER", "TypeIndex", byte, 1)

    def _set(self, at: int, structure: str, member: str, value: int, size: int = 0) -> None:
        place = at + self._profile.offset(structure, member)
        raw = value.to_bytes(size or self._profile.pointer_size, "little")
        self._pool.region.write(place, raw)

    def _subsection_entry(self, subsection: int) -> int:
        """A page's OriginalPte that names its subsection (_MMPTE_SUBSECTION)."""
        if self._profile.bits == 64:
            return (subsection & (1 << 48) - 1) << 16 | _PROTOTYPE | 3 << 5
        if self._entry_size == 8:
            return subsection << 32 | _PROTOTYPE | 3 << 5
        bits = self._profile.bit_fields["_MMPTE_SUBSECTION"]
        entry = _PROTOTYPE
        if "WhichPool" in bits:
            # MiGetSubsectionAddressForPte: the distance from one of two places (mi386.h).
            base = self._pools[0].region.base
            is_near = subsection < base + _NEAR
            entry |= 3 << 5 | is_near << bits["WhichPool"][1]
            number = subsection - base if is_near else NONPAGED_POOL_END - subsection
            number >>= 3
        else:
            number = subsection >> 2
        _, low, end = bits["SubsectionAddressLow"]
        entry |= (number & (1 << end - low) - 1) << low
        return entry | number >> end - low << bits["SubsectionAddressHigh"][1]


def _places(count: int, kind: str, offset: int) -> tuple[npt.NDArray[np.int64], list[_Part]]:
    """Which of a section's pages are in memory if there are `count`; and its subsections."""
    if kind == "shared":
        return np.arange(count), [_Part(0, count, 0)]
    if kind == "data":
        # Every fifth page is not in memory; the file ends within its last page.
        place = np.arange(count) + np.arange(count) // 4
        pages = int(place[-1]) + 1
        first = pages // 2 if pages > _SMALL_PART else pages
        parts = [_Part(offset, first, first * PAGE_SIZE)]
        if first < pages:
            behind = offset + first * PAGE_SIZE
            parts.append(_Part(behind, pages - first, (pages - first) * PAGE_SIZE))
        last = parts[-1]
        parts[-1] = _Part(last.offset, last.entries, last.size - 0x123)
        return place, parts
    # The headers, and sections as linkers make them: sectors of 512 bytes, not whole pages.
    headers = _Part(0, 1, 0x400)
    if count == 1:
        return np.arange(1), [headers]
    code = max((count - 1) // 2, 1)
    parts = [headers, _Part(0x400, code, code * PAGE_SIZE - 0xC00)]
    behind = parts[-1].offset + parts[-1].size
    if rest := count - 1 - code:
        parts.append(_Part(behind, rest, rest * PAGE_SIZE - 0xE00))
    return np.arange(count), parts


class FrameDatabase:
    """The array of records, mapped by the kernel and written when all is known."""

    def __init__(self, memory: PhysicalMemory, layout: RecordLayout, base: int) -> None:
        self.base = base
        self.layout = layout
        self._memory = memory
        self.frames = memory.allocate(-(-memory.frames * layout.size // PAGE_SIZE))
        """The frames in which it lies, by its pages."""

    def write(self, log: FrameLog) -> None:
        """Write all records."""
        raw = log.bytes_of(self.layout).reshape(-1)
        for number, frame in enumerate(self.frames.tolist()):
            part = raw[number * PAGE_SIZE : (number + 1) * PAGE_SIZE]
            self._memory.page(frame)[: len(part)] = part.tobytes()


@dataclass(frozen=True)
class RecordTruth:
    """What is true of the frames' records."""

    address: int
    """Virtual address of the first one."""
    stride: int
    """Bytes of one."""
    frames: Frames
    """The frames in which they lie."""
    records: npt.NDArray[np.void]
    """Each frame's: RECORD tells the columns."""
    sections: tuple[SectionTruth, ...] = ()
    """All sections; RECORD's `file` is an index in them."""

    def columns(self) -> dict[str, npt.NDArray[np.generic]]:
        """The records as columns of a file of truth."""
        named = ("state", "use", "priority", "last_owner", "file", "offset")
        return {f"record_{name}": self.records[name] for name in named}

    def told_by(self, page: int) -> Frames:
        """The frames whose records lie in one of the database's pages, or partly so."""
        first = page * PAGE_SIZE // self.stride
        end = -(-(page + 1) * PAGE_SIZE // self.stride)
        return np.arange(first, min(end, len(self.records)))


def stack_or_awe(log: FrameLog, frames: Frames, mark: str) -> None:
    """Mark records of kernel stacks (`is_stack`) or of AWE (`is_awe`)."""
    log.records[mark][frames] = True


def driver_locked(log: FrameLog, frames: Frames) -> None:
    """Note frames that a driver took as physical memory: no table is known (MI_MAGIC_…)."""
    log.note(frames, DRIVER_LOCKED, 0xFFFF_FFFF_FFFF_F800, _MAGIC_FRAME)
