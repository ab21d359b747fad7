"""What a system knows beyond its pages: files, regions of processes, modules.

It is read when somebody asks for it, and not before: most runs do not. A system's module subclasses
Inventory; Snapshot asks it and adds what follows from the page map.
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
    """As processes see it. If nothing names the file, such as ``[inode 8 of ext4 on 254:0]``."""
    kind: str
    """``file``, ``directory``, ``symbolic link``, ``block device`` or ``shared memory``; on
    Windows ``data`` or ``image``."""
    is_deleted: bool = False
    """Whether its name was removed from its folder; the path is the one that it had."""
    size: int | None = None
    """Bytes of the whole file; None if not known."""
    file_system: str = ""
    """Such as ``ext4`` or ``tmpfs``; empty if not known."""
    device: str = ""
    """Major and minor number of its file system, such as ``254:0``; empty if not known."""
    number: int | None = None
    """Of its inode; None if not known."""
    object_address: int = 0
    """Virtual address of its inode or file object in the kernel."""


@dataclass(frozen=True)
class File(FileObject):
    """A file, and what is in memory of it."""

    pages: int = 0
    """Page frames that hold a part of it."""
    states: Mapping[str, int] = field(default_factory=dict)
    """These frames by state, in words; states without any are left out."""
    mapped: int = 0
    """How many of these frames are mapped by a process."""
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
    """Bytes of the frame that are the file's, the others are zeros; None where all are."""

    @classmethod
    def none(cls) -> "FilePages":
        """Where nothing is known."""
        return cls((), np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int64))

    def of_frames(self, first: int, end: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Index in `files` (-1 for none) and offset of each frame from `first` to below `end`."""
        rows = slice(*np.searchsorted(self.frame, [first, end]))
        file, offset = np.full(end - first, -1, np.int32), np.zeros(end - first, np.int64)
        file[self.frame[rows] - first] = self.file[rows]
        offset[self.frame[rows] - first] = self.offset[rows]
        return file, offset

    def row(self, frame: int) -> int | None:
        """The row of a frame; None for one without a file."""
        at = int(np.searchsorted(self.frame, frame))
        return at if at < len(self.frame) and self.frame[at] == frame else None


@dataclass(frozen=True)
class Region:
    """A stretch of a process's addresses that it has asked for, whether or not pages are there."""

    start: int
    end: int
    """The address behind the last byte."""
    protection: str
    """What the process may do, such as ``r-x``. On Windows as the region was made; ``c`` in place
    of ``w`` if writing makes a copy of a page."""
    is_private: bool
    """On Linux whether writing makes a copy of a page, as other processes do not see it; on Windows
    whether the memory is the process's own, not that of a section."""
    name: str = ""
    """Such as ``[heap]``, ``[stack]``, ``[vdso]``; empty for most."""
    file: str = ""
    """Path of the file behind it; empty if there is none."""
    offset: int | None = 0
    """Bytes into this file; None if not known."""
    is_deleted: bool = False
    """Whether the file's name was removed."""
    is_special: bool = False
    """Whether the system itself made it and named it, as it does with ``[vdso]``."""
    kind: str = ""
    """On Windows what it is beside usual memory and usual files: ``image``, ``device memory``,
    ``AWE``, ``write watch``, ``large pages``, …"""
    commit: int | None = None
    """On Windows how many of its pages are charged to the process."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @property
    def findings(self) -> tuple[str, ...]:
        """What is odd about it, in words of REGION_FINDINGS."""
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
"""The findings about regions, and their meanings. They are leads: programs that make code while
they run have such regions, too."""


@dataclass(frozen=True)
class Module:
    """A part of the kernel that was loaded later: a driver, or a module of Linux."""

    name: str
    ranges: tuple[tuple[int, int], ...]
    """Its virtual addresses: the first one, and the end, of each part."""
    frames: tuple[int, ...]
    """The page frames behind them that the dump holds, ascending."""
    path: str = ""
    """Of its file, where the system tells it."""
    object_address: int = 0
    """Virtual address of the object that describes it."""

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(end - start for start, end in self.ranges)


class Inventory(ABC):
    """What a system tells if asked. All of it may be None: then nothing could be found."""

    modules_cost_little: ClassVar[bool] = False
    """Whether `modules` follows a list that is known, and need not search all memory for it."""

    @property
    @abstractmethod
    def remarks(self) -> Sequence[str]:
        """Sentences on missing or doubtful data in what was asked for so far."""

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
        """What lies in the kernel's memory as a module does, and is in no list of modules.

        Without names; empty where the system's modules cannot be told in that way.
        """
        return ()
