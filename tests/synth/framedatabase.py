"""The page frame database of a synthetic Windows: a record for each frame, and sections of files.

What is written into a record is noted when the frame is given to somebody (`FrameLog`), and the
layout of the records is the profile's own (`_MMPFN`). Windows Internals, part 1, "Page frame number
database", tells what the members mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.synth.kernel import Pool, Region
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
        self.records["priority"] = self.records["last_owner"] = -1
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
            array = np.broadcast_to(np.asarray(values), frames.shape)
            self.records[name][some] = array[chosen]
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


class Sections:
    """Files and shared memory: prototype entries in the paged pool, and what they belong to."""

    def __init__(
        self,
        log: FrameLog,
        profile: Profile,
        entry_size: int,
        pool: Pool,
        map_pool: Callable[[int], Region],
    ) -> None:
        """`map_pool` maps so many more pages of the paged pool."""
        self._log = log
        self._profile = profile
        self._entry_size = entry_size
        self._pool = pool
        self._map_pool = map_pool

    def make(
        self, frames: Frames, use: str, *, state: str = "active", name: str = "\\file.dat"
    ) -> None:
        """Make a section of these frames: a file as `image` or `mapped file`, or `shareable`."""
        frames = frames[self._log.records["state"][frames] == NO_RECORD]
        if not len(frames):
            return
        pages = -(-len(frames) * self._entry_size // PAGE_SIZE)
        region = self._map_pool(pages)
        flags = 0x63 if state == "active" else 0x880
        original = _SOFTWARE
        if use != "shareable":
            original = self._subsection_entry(self._subsection(region.base, len(frames), use, name))
        for number, frame in enumerate(frames.tolist()):
            entry = (frame << 12 | flags) & ((1 << 8 * self._entry_size) - 1)
            at = region.base + number * self._entry_size
            region.write(at, entry.to_bytes(self._entry_size, "little"))
        place = np.arange(len(frames), dtype=np.uint64) * np.uint64(self._entry_size)
        self._log.note(
            frames,
            use,
            np.uint64(region.base) + place,
            region.frames[(place // np.uint64(PAGE_SIZE)).astype(np.int64)],
            state=state,
            original=original,
            is_prototype=True,
        )

    def _subsection(self, prototypes: int, count: int, use: str, name: str) -> int:
        """A control area, with its subsection behind it and its file object beside it."""
        profile, word = self._profile, self._profile.pointer_size
        area_size = -(-profile.size("_CONTROL_AREA") // word) * word
        area = self._pool.allocate(area_size + profile.size("_SUBSECTION"), b"MmCa")
        subsection = area + area_size
        file = self._pool.allocate(profile.size("_FILE_OBJECT"), b"File")
        text = name.encode("utf-16-le")
        buffer = self._pool.allocate(len(text), b"IoNm")
        write = self._pool.region.write
        write(buffer, text)
        write(file, (5).to_bytes(2, "little"))
        write(file + 2, profile.size("_FILE_OBJECT").to_bytes(2, "little"))
        at = file + profile.offset("_FILE_OBJECT", "FileName")
        write(at, len(text).to_bytes(2, "little") * 2)
        write(at + word, buffer.to_bytes(word, "little"))
        flags = 1 << 7 | (1 << 5 if use == "image" else 0)  # File, Image of _MMSECTION_FLAGS
        write(area + profile.offset("_CONTROL_AREA", "u"), flags.to_bytes(4, "little"))
        # A fast reference: the lowest bits count.
        pointer = file | 3
        write(
            area + profile.offset("_CONTROL_AREA", "FilePointer"), pointer.to_bytes(word, "little")
        )
        write(subsection, area.to_bytes(word, "little"))
        base = subsection + profile.offset("_SUBSECTION", "SubsectionBase")
        write(base, prototypes.to_bytes(word, "little"))
        entries = subsection + profile.offset("_SUBSECTION", "PtesInSubsection")
        write(entries, count.to_bytes(4, "little"))
        return subsection

    def _subsection_entry(self, subsection: int) -> int:
        """A page's OriginalPte that names its subsection (_MMPTE_SUBSECTION)."""
        if self._profile.bits == 64:
            return (subsection & (1 << 48) - 1) << 16 | _PROTOTYPE | 3 << 5
        if self._entry_size == 8:
            return subsection << 32 | _PROTOTYPE | 3 << 5
        # Without PAE only a distance from an address that is not told fits.
        distance = subsection & 0x07FF_FFF8
        return (distance >> 7) << 11 | _PROTOTYPE | (distance >> 3 & 0xF) << 1


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

    def columns(self) -> dict[str, npt.NDArray[np.generic]]:
        """The records as columns of a file of truth."""
        named = ("state", "use", "priority", "last_owner")
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
