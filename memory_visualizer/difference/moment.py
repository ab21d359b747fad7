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


@dataclass(frozen=True, eq=False)
class FrameColumns:
    """What is known of each frame, by PFN: 7 bytes for each."""

    classes: NDArray[np.uint8]
    """PageClass."""
    zero: NDArray[np.bool_]
    """Whether it is all zeros."""
    access: NDArray[np.uint8]
    """As Snapshot.access."""
    owners: NDArray[np.uint32]
    """Number of its set of owners in OwnerSets."""

    def grown(self, count: int) -> "FrameColumns":
        """The same for `count` frames; the added frames are absent."""
        more = count - len(self.classes)
        if not more:
            return self
        return FrameColumns(
            np.pad(self.classes, (0, more), constant_values=PageClass.ABSENT),
            np.pad(self.zero, (0, more), constant_values=True),
            np.pad(self.access, (0, more)),
            np.pad(self.owners, (0, more)),
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
    _columns: FrameColumns | tuple[bytes, ...]

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """Take the compared data from a snapshot, which is not needed afterwards."""
        # Steps that need much memory for a while come one after another.
        files = _files_of(snapshot)
        told = snapshot.inventory.remarks if snapshot.inventory else ()
        leads = _leads_of(snapshot)
        pages = snapshot.pages_of_processes()
        snapshot = replace(snapshot, frame_records=None, inventory=None)
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
            _columns=FrameColumns(snapshot.classes, snapshot.zero, snapshot.access, owners),
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
        kinds = (np.uint8, np.bool_, np.uint8, np.uint32)
        parts: list[NDArray[Any]] = [
            np.frombuffer(zlib.decompress(part), kind)
            for part, kind in zip(self._columns, kinds, strict=True)
        ]
        return FrameColumns(*parts)

    def packed(self) -> Self:
        """The same in less memory: `columns` then takes some time."""
        told = self.columns
        parts: list[NDArray[Any]] = [told.classes, told.zero, told.access, told.owners]
        return replace(
            self, _columns=tuple(zlib.compress(part.data.cast("B"), _LEVEL) for part in parts)
        )

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
