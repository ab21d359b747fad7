"""A system's records beyond its pages: files, regions of processes, modules.

They are read on demand, since most runs do not need them. A system's module subclasses Inventory;
Snapshot uses it, and adds facts from the page map.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.snapshot.framerecords import FrameRecords
from memory_visualizer.snapshot.process import Process
from memory_visualizer.units import PAGE_SIZE


@dataclass(frozen=True)
class FileObject:
    """A file as the system's kernel describes it."""

    path: str
    """As processes see it. A file without a name has one such as ``[inode 8 of ext4 on 254:0]``."""
    kind: str
    """``file``, ``directory``, ``symbolic link``, ``block device`` or ``shared memory``; on
    Windows ``data`` or ``image``."""
    is_deleted: bool = False
    """Whether its name was removed from its folder; the path is then its former path."""
    size: int | None = None
    """Bytes of the whole file; None if not known."""
    file_system: str = ""
    """Such as ``ext4`` or ``tmpfs``; empty if not known."""
    device: str = ""
    """Major and minor number of its file system, such as ``254:0``; empty if not known."""
    number: int | None = None
    """Number of its inode; None if not known."""
    object_address: int = 0
    """Virtual address of its inode or file object in the kernel."""


@dataclass(frozen=True)
class File(FileObject):
    """A file, and its pages in memory."""

    pages: int = 0
    """The number of page frames that hold a part of it."""
    states: Mapping[str, int] = field(default_factory=dict)
    """The number of these frames by state, in words; states without frames are left out."""
    mapped: int = 0
    """The number of these frames that a process has mapped."""
    processes: tuple[Process, ...] = ()
    """The processes that have any of these frames."""

    @property
    def bytes(self) -> int:
        """Bytes of these frames."""
        return self.pages * PAGE_SIZE


@dataclass(frozen=True, eq=False)
class FilePages:
    """Which frames hold parts of files: columns with a row for each such frame, by PFN."""

    files: tuple[FileObject, ...]
    """In the order of their paths."""
    frame: NDArray[np.int64]
    """Ascending; each frame once."""
    file: NDArray[np.int32]
    """Index in `files`."""
    offset: NDArray[np.int64]
    """Bytes from the file's beginning to the frame's first byte; -1 if unknown."""
    length: NDArray[np.int64] | None = None
    """Bytes of each frame that belong to the file (the rest is zeros); None if all bytes do."""

    @classmethod
    def none(cls) -> "FilePages":
        """The value for a dump whose files are unknown."""
        return cls((), np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int64))

    def of_frames(self, first: int, end: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Index in `files` (-1 for none) and offset of each frame from `first` to below `end`."""
        rows = slice(*np.searchsorted(self.frame, [first, end]))
        file, offset = np.full(end - first, -1, np.int32), np.zeros(end - first, np.int64)
        file[self.frame[rows] - first] = self.file[rows]
        offset[self.frame[rows] - first] = self.offset[rows]
        return file, offset

    def row(self, frame: int) -> int | None:
        """The row of a frame; None for a frame without a file."""
        at = int(np.searchsorted(self.frame, frame))
        return at if at < len(self.frame) and self.frame[at] == frame else None


@dataclass(frozen=True)
class Region:
    """A range of addresses that a process has reserved, whether or not pages are there."""

    start: int
    end: int
    """The address behind the last byte."""
    protection: str
    """The rights of the process, such as ``r-x``. On Windows the rights when the region was made;
    ``c`` instead of ``w`` means copy-on-write."""
    is_private: bool
    """On Linux whether the mapping is private (copy-on-write); on Windows whether the memory
    belongs to the process, and not to a section."""
    name: str = ""
    """Such as ``[heap]``, ``[stack]``, ``[vdso]``; empty for most."""
    file: str = ""
    """Path of the file behind it; empty without a file."""
    offset: int | None = 0
    """Offset in this file in bytes; None if not known."""
    is_deleted: bool = False
    """Whether the file's name was removed."""
    is_special: bool = False
    """Whether the system itself made it and named it, as it does with ``[vdso]``."""
    kind: str = ""
    """The kind of an unusual region on Windows: ``image``, ``device memory``, ``AWE``, ``write
    watch``, ``large pages``, …"""
    commit: int | None = None
    """The number of its pages that Windows charges to the process."""
    file_object: int = field(default=0, compare=False)
    """As FileObject.object_address; 0 if not known. Two files may have the same path: in two
    containers, or if one replaced the other."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @property
    def findings(self) -> tuple[str, ...]:
        """Its oddities, in words of REGION_FINDINGS."""
        if "x" not in self.protection or self.is_special:
            return ()
        odd = {
            "private, writable, executable": self.is_private and "w" in self.protection,
            "executable without a file": not self.file,
        }
        return tuple(word for word, is_so in odd.items() if is_so)


REGION_FINDINGS = {
    "private, writable, executable": "the process can write code there and run it",
    "executable without a file": "no file has the code that may run there",
}
"""The findings about regions, and their meanings. They are leads: programs that generate code at
run time have such regions, too."""


@dataclass(frozen=True)
class Module:
    """A loaded part of the kernel: a driver, or a module of Linux."""

    name: str
    ranges: tuple[tuple[int, int], ...]
    """Its virtual addresses: first address and end of each part."""
    frames: tuple[int, ...]
    """The page frames behind them that the dump holds, ascending."""
    path: str = ""
    """Path of its file, if the system tells it."""
    object_address: int = 0
    """Virtual address of the object that describes it."""

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(end - start for start, end in self.ranges)


class Inventory(ABC):
    """A system's records, read on demand. Each may be None if it could not be found."""

    modules_cost_little: ClassVar[bool] = False
    """Whether `modules` follows a known list, without a search of all memory."""

    @property
    @abstractmethod
    def remarks(self) -> Sequence[str]:
        """Sentences on missing or doubtful data in the records read so far."""

    @abstractmethod
    def file_pages(self, records: FrameRecords | None) -> FilePages | None:
        """Which frames hold parts of files; `records` are those of the same snapshot."""

    @abstractmethod
    def regions(self, process: Process) -> tuple[Region, ...] | None:
        """The regions of a process by their addresses; None if nothing leads to them."""

    @abstractmethod
    def modules(self) -> tuple[Module, ...] | None:
        """The modules in the order of the system's list."""

    def unlisted_modules(self) -> tuple[Module, ...]:
        """Images in the kernel's memory that look like modules, but are in no list of modules.

        They have no names. Empty if the system's modules cannot be recognised in this way.
        """
        return ()
