"""The truth about a synthetic image: the owner of each page, noted when the page was allocated."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tests.synth.memory import PAGE_SIZE, Frames

if TYPE_CHECKING:
    from tests.synth.framedatabase import FrameLog, RecordTruth
    from tests.synth.vads import RegionTruth

KERNEL = -1
"""The owner of pages that all processes share."""

INJECTED_PAGES = 4
"""The number of injected pages in a process."""

CLASSES = ("absent", "both", "user", "kernel", "unused-data", "unused-zero")


@dataclass
class Process:
    """A process of the synthetic system."""

    pid: int
    ppid: int
    name: str
    dtb: int = 0
    """Physical address of its top-level table, as in its `_KPROCESS`."""
    shadow_dtb: int = 0
    """Physical address of its second top-level table, for user mode, as in `_KPROCESS`; 0 for
    none."""
    eprocess: int = 0
    """Virtual address of its `_EPROCESS`."""
    session: int | None = None
    listed: bool = True
    """Whether it is in the list of active processes."""
    exited: bool = False
    injected: int = 0
    """Virtual address of INJECTED_PAGES pages that may be written and executed; 0 for none."""


@dataclass(frozen=True)
class ModuleTruth:
    """A driver in the kernel's list of modules."""

    path: str
    start: int
    end: int
    """The address behind its last byte."""
    frames: Frames
    """The frames of its pages that are mapped."""
    entry: int = 0
    """Virtual address of its entry."""

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("\\")[2]


@dataclass
class Ledger:
    """A note of every mapping, made while the image is laid out.

    A note tells that `count` pages from a frame on were mapped from a virtual address on, for which
    owner, and whether user mode should reach them.
    """

    frames: int
    log: "FrameLog | None" = None
    """What the page frame database will say, where there is one."""
    _notes: list[tuple[Frames, npt.NDArray[np.uint64], int, int, bool, bool]] = field(
        default_factory=list
    )

    def note(
        self,
        frames: Frames,
        virtual: int,
        owner: int,
        *,
        size: int,
        user: bool,
        transition: bool = False,
    ) -> None:
        """Note that pages of `size` bytes, the first at `virtual`, lead to these frames."""
        addresses = np.uint64(virtual) + np.arange(len(frames), dtype=np.uint64) * np.uint64(size)
        # Frames beyond the end of memory are not pages of the dump.
        inside = frames < self.frames
        self._notes.append((frames[inside], addresses[inside], size, owner, user, transition))

    def mappings(self) -> npt.NDArray[np.void]:
        """All notes as one table; Truth.mappings tells the columns."""
        kind = np.dtype(
            [
                ("frame", "i8"),
                ("virtual", "u8"),
                ("size", "i8"),
                ("owner", "i4"),
                ("user", "?"),
                ("transition", "?"),
            ]
        )
        table = np.empty(sum(len(note[0]) for note in self._notes), dtype=kind)
        at = 0
        for frames, virtual, *rest in self._notes:
            rows = table[at : at + len(frames)]
            rows["frame"], rows["virtual"] = frames, virtual
            rows["size"], rows["owner"], rows["user"], rows["transition"] = rest
            at += len(frames)
        return table


@dataclass(frozen=True)
class Truth:
    """The truth about a synthetic image, by page and by process."""

    profile: str
    paging: str
    zero: npt.NDArray[np.bool_]
    """For each frame whether it holds only zeros."""
    mappings: npt.NDArray[np.void]
    """frame, virtual, size, owner (index into `processes` or KERNEL), user, transition."""
    processes: tuple[Process, ...]
    records: "RecordTruth | None" = None
    """Of the page frame database, where there is one."""
    modules: tuple[ModuleTruth, ...] = ()
    """The kernel and its drivers in the order of its list, where it tells of drivers."""
    regions: "Mapping[int, tuple[RegionTruth, ...]]" = field(default_factory=dict)
    """The regions of live processes, by the process's index, in the order of their addresses."""

    @property
    def frames(self) -> int:
        """The number of frames of the image."""
        return len(self.zero)

    def classes(self, owners: Iterable[int]) -> npt.NDArray[np.str_]:
        """The class of each frame, by name, by the mappings of these owners only.

        The kernel's own mappings always count.
        """
        seen = self.mappings[np.isin(self.mappings["owner"], [KERNEL, *owners])]
        user, kernel = (self._covered(seen[seen["user"] == mode]) for mode in (True, False))
        return np.select(
            [user & kernel, user, kernel, self.zero],
            ["both", "user", "kernel", "unused-zero"],
            "unused-data",
        )

    @property
    def listed(self) -> list[int]:
        """Indices of the live processes in the list of active processes."""
        return [i for i, p in enumerate(self.processes) if p.listed and not p.exited]

    @property
    def alive(self) -> list[int]:
        """Indices of the live processes, in the list or not."""
        return [i for i, p in enumerate(self.processes) if not p.exited]

    def _covered(self, mappings: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
        covered = np.zeros(self.frames, dtype=bool)
        for size in np.unique(mappings["size"]):
            starts = np.unique(mappings["frame"][mappings["size"] == size])
            frames = (starts[:, None] + np.arange(size // PAGE_SIZE)).ravel()
            covered[frames[frames < self.frames]] = True
        return covered

    def save(self, path: Path) -> None:
        """Write everything as one .npz file."""
        columns = {name: self.mappings[name] for name in self.mappings.dtype.names or ()}
        processes = {
            f"process_{name}": np.array([getattr(p, name) for p in self.processes])
            for name in ("pid", "ppid", "name", "dtb", "eprocess", "listed", "exited", "injected")
        }
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                allow_pickle=False,
                profile=np.array(self.profile),
                paging=np.array(self.paging),
                zero=self.zero,
                class_seen_by_list=self.classes(self.listed),
                class_of_all_live=self.classes(self.alive),
                **{f"mapping_{name}": values for name, values in columns.items()},
                **({} if self.records is None else self.records.columns()),
                **processes,
            )
