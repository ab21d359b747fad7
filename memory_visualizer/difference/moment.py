"""The part of a dump that a comparison keeps: a few bytes per frame, so that many dumps fit."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import count_values
from memory_visualizer.difference.ownersets import OwnerSets, owner_sets
from memory_visualizer.formats.base import Dump
from memory_visualizer.leads.search import known_leads
from memory_visualizer.paging import Paging
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.snapshot.process import Process
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.snapshot.system import System

FileKey: TypeAlias = tuple[str, str, int | None]
"""Path, kind and number of a file, as in FileObject."""


@dataclass(frozen=True)
class KnownLead:
    """A lead of a dump, without its page frames."""

    kind: str
    """One of lead.LEADS."""
    reason: str
    """As in Lead; not yet printable."""
    process: int | None
    """Index of its process; None if it is about no single process."""
    pages: int
    """Page frames."""


_LEVEL = 1
"""zlib's level for the columns of dumps that wait for their turn."""


_CLASS, _ZERO, _ACCESS = 0b111, 1 << 3, 4
"""The bits of the class in FrameColumns.facts, the bit of a page of zeros, the place of the rights.
"""


@dataclass(frozen=True, eq=False)
class FrameColumns:
    """What is known of each frame, by PFN: 3 bytes for each, 5 if there are many sets of owners."""

    facts: NDArray[np.uint8]
    """Class, zeros and rights together: 3 bits for the PageClass, a bit that is set if the frame is
    all zeros, and 4 bits as in Snapshot.access."""
    owners: NDArray[np.unsignedinteger[Any]]
    """Number of its set of owners in OwnerSets."""

    @classmethod
    def of(
        cls,
        classes: NDArray[np.uint8],
        zero: NDArray[np.bool_],
        access: NDArray[np.uint8],
        owners: NDArray[np.unsignedinteger[Any]],
    ) -> Self:
        """Columns of the same length; `classes`, `zero` and `access` are as in Snapshot."""
        facts = access << np.uint8(_ACCESS)
        facts |= classes
        facts |= zero.view(np.uint8) * np.uint8(_ZERO)
        return cls(facts, owners)

    def __len__(self) -> int:
        return len(self.facts)

    @property
    def classes(self) -> NDArray[np.uint8]:
        """The PageClass of each frame."""
        return self.facts & np.uint8(_CLASS)

    @property
    def zero(self) -> NDArray[np.bool_]:
        """Whether a frame is all zeros."""
        zero: NDArray[np.bool_] = self.facts & np.uint8(_ZERO) != 0
        return zero

    @property
    def access(self) -> NDArray[np.uint8]:
        """As Snapshot.access."""
        return self.facts >> np.uint8(_ACCESS)

    @property
    def held(self) -> NDArray[np.bool_]:
        """Which frames the dump holds."""
        classes = self.classes
        held: NDArray[np.bool_] = classes != PageClass.ABSENT
        held &= classes != PageClass.LEFT_OUT
        return held

    def take(self, rows: slice | NDArray[np.intp]) -> "FrameColumns":
        """What is known of some frames."""
        return FrameColumns(self.facts[rows], self.owners[rows])

    def grown(self, count: int) -> "FrameColumns":
        """The same for `count` frames; the added frames are absent."""
        more = count - len(self)
        if not more:
            return self
        absent = PageClass.ABSENT | _ZERO
        return FrameColumns(
            np.pad(self.facts, (0, more), constant_values=absent), np.pad(self.owners, (0, more))
        )


@dataclass(frozen=True, eq=False)
class Moment:
    """A dump as it is compared: the columns of its frames, and the processes and files."""

    dump: Dump
    system: System | None
    time: datetime | None
    """As in Snapshot."""
    booted: datetime | None
    """As in Snapshot."""
    paging: Paging | None
    kernel_dtb: int | None
    processes: tuple[Process, ...]
    pages: NDArray[np.int64]
    """As Snapshot.pages_of_processes."""
    sets: OwnerSets
    files: Mapping[FileKey, int] | None
    """How many pages of each file are in memory; None where that is not known."""
    leads: tuple[KnownLead, ...]
    """The leads in what is known of the dump anyway: see leads.search.known_leads."""
    counts: Mapping[PageClass, int]
    """Frames of each class."""
    remarks: tuple[str, ...]
    """Of the dump and of its snapshot."""
    _columns: FrameColumns | tuple[bytes, bytes, np.dtype[Any]]

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """Take the compared data from a snapshot, which is not needed afterwards."""
        # Steps that need much memory for a while come one after another.
        files = _files_of(snapshot)
        told = snapshot.inventory.remarks if snapshot.inventory else ()
        leads = _leads_of(snapshot)
        snapshot = replace(snapshot, frame_records=None, inventory=None)
        pages = snapshot.pages_of_processes()
        owners, sets = owner_sets(
            snapshot.owners_by_frame(), len(snapshot.processes), snapshot.classes.size
        )
        snapshot.dump.release()  # other dumps follow
        return cls(
            dump=snapshot.dump,
            system=snapshot.system,
            time=snapshot.time,
            booted=snapshot.booted,
            paging=snapshot.paging,
            kernel_dtb=snapshot.kernel_dtb,
            processes=snapshot.processes,
            pages=pages,
            sets=sets,
            files=files,
            leads=leads,
            counts=snapshot.counts(),
            remarks=(*snapshot.dump.remarks, *snapshot.remarks, *told),
            _columns=FrameColumns.of(snapshot.classes, snapshot.zero, snapshot.access, owners),
        )

    @property
    def name(self) -> str:
        """The dump's file name; not yet printable."""
        return self.dump.path.name

    @property
    def columns(self) -> FrameColumns:
        """The columns of its frames."""
        if isinstance(self._columns, FrameColumns):
            return self._columns
        facts, owners, kind = self._columns
        return FrameColumns(
            np.frombuffer(zlib.decompress(facts), np.uint8),
            np.frombuffer(zlib.decompress(owners), kind),
        )

    def packed(self) -> Self:
        """The same in less memory: `columns` then takes some time."""
        told = self.columns
        facts, owners = (
            zlib.compress(part.data.cast("B"), _LEVEL) for part in (told.facts, told.owners)
        )
        return replace(self, _columns=(facts, owners, told.owners.dtype))

    def unpacked(self) -> Self:
        """The same with columns that are at hand."""
        return replace(self, _columns=self.columns)


def _files_of(snapshot: Snapshot) -> dict[FileKey, int] | None:
    """How many pages of each file are in memory; None if nothing tells."""
    pages = snapshot.file_pages
    if not len(pages.files):
        return None
    counts = count_values(pages.file.view(np.uint32), len(pages.files)).tolist()
    found: dict[FileKey, int] = {}
    for file, count in zip(pages.files, counts, strict=True):
        key = file.path, file.kind, file.number
        found[key] = found.get(key, 0) + count
    return found


def _leads_of(snapshot: Snapshot) -> tuple[KnownLead, ...]:
    index = {id(process): number for number, process in enumerate(snapshot.processes)}
    return tuple(
        KnownLead(
            lead.kind,
            lead.reason,
            None if lead.process is None else index.get(id(lead.process)),
            len(lead.frames),
        )
        for lead in known_leads(snapshot).found
    )
