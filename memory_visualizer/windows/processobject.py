"""The members of a process object, each read by itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.processlayout import (
    NAME_BYTES,
    OBJECT_BYTES,
    STILL_ACTIVE,
    Layout,
    are_names,
    have_pool_tag,
    is_pid,
    lead_to_handles,
    numbers_at,
)
from memory_visualizer.windows.processsearch import (
    BASE_NUMBER,
    PROCESS_OBJECT,
    TABLE_BASE,
    TableBases,
)
from memory_visualizer.windows.toplevels import EARLIEST, LATEST

_READ_AT_ONCE = 256
_Columns = dict[str, list[Any]]
"""Members of Object by name, with a value for each of several objects."""


@dataclass(frozen=True)
class Object:
    """The members of one object, each judged by itself."""

    address: int
    physical: int
    pid: int
    ppid: int
    name: bytes
    dtb: int
    created: int | None
    exited: int | None
    """ExitTime; None if the objects do not show its offset."""
    is_signalled: bool
    has_ended_by_status: bool | None
    space: int | None
    shadow: int | None
    is_header_sound: bool
    has_tag: bool
    is_name_sound: bool
    is_whole: bool
    thread_pid: int | None
    """The pid that its first thread tells; None if it has no thread, or the offset is unknown."""
    has_threads: bool | None
    has_handles: bool | None
    """Whether it has a table of handles; None if unknown or lost."""
    is_in_use: bool | None
    """Whether its page tables are in use; None if they are unknown."""
    lacks_signs: bool
    """Whether it lacks members that nearly all processes have."""

    @property
    def is_pid_sound(self) -> bool:
        """Whether Windows gives such pids."""
        return is_pid(self.pid)

    @cached_property
    def clues(self) -> int:
        """How many of four clues tell that it is a process: header, base, tag, pid with name."""
        fields = self.is_pid_sound and self.is_name_sound
        return self.is_header_sound + (self.space is not None) + self.has_tag + fields

    @cached_property
    def has_exit_time(self) -> bool | None:
        """Whether it has an exit time; None if the offset is unknown."""
        if self.exited is None:
            return None
        return is_time(self.exited) and self.exited >= (self.created or 0)

    @cached_property
    def told(self) -> tuple[bool, ...]:
        """Its own witnesses of its end, as far as their offsets are known.

        Signal, time, status, and its handles, which Windows closes when a process ends.
        """
        has_none = None if self.has_handles is None else not self.has_handles
        told = (self.is_signalled, self.has_exit_time, self.has_ended_by_status, has_none)
        return tuple(vote for vote in told if vote is not None)

    @cached_property
    def has_ended(self) -> bool:
        """The majority of witnesses: its own, its threads, and the use of its tables."""
        votes = list(self.told)
        if self.has_threads is not None:
            votes.append(not self.has_threads)
        if self.is_in_use is not None:
            votes.append(not self.is_in_use)
        return 2 * sum(votes) > len(votes)


def is_time(number: int) -> bool:
    """Whether the number is a plausible timestamp of Windows."""
    return EARLIEST < number < LATEST


@dataclass(frozen=True)
class ObjectReader:
    """Reads objects whose layout is known."""

    kernel: KernelMemory
    layout: Layout
    bases: TableBases
    shadows: dict[int, int]
    """Second tables: their physical addresses, and their indices in TopLevels.others."""
    in_use: set[int]
    """The address spaces in use, by index."""

    def read(self, objects: NDArray[np.uint64]) -> Iterator[Object]:
        """Read each of these objects."""
        for start in range(0, len(objects), _READ_AT_ONCE):
            part = objects[start : start + _READ_AT_ONCE]
            contents = _Contents.read(self.kernel, self.layout, part)
            columns = {
                **self._numbers(contents),
                **self._spaces(contents),
                **self._signs(contents),
                **self._led_to(contents),
            }
            for members in zip(*columns.values(), strict=True):
                yield Object(**dict(zip(columns, members, strict=True)))

    def _numbers(self, contents: "_Contents") -> _Columns:
        """Addresses, and the numbers and names that objects hold."""
        layout, objects = self.layout, contents.objects
        signal, status = contents.column(4, 4), contents.column(layout.status, 4)
        return {
            "address": objects.tolist(),
            "physical": self.kernel.physical(objects).tolist(),
            "pid": contents.column(layout.pid).tolist(),
            "ppid": contents.column(layout.parent).tolist(),
            "name": [row.tobytes()[:NAME_BYTES].split(b"\0")[0] for row in contents.names],
            "created": contents.known(layout.created, contents.column(layout.created, 8)),
            "exited": contents.known(layout.exited, contents.column(layout.exited, 8)),
            "is_signalled": (signal != 0).tolist(),
            "has_ended_by_status": contents.known(layout.status, status != STILL_ACTIVE),
        }

    def _spaces(self, contents: "_Contents") -> _Columns:
        """Address spaces, by the addresses of top-level tables."""
        bases = contents.column(TABLE_BASE[self.layout.bits]).tolist()
        seconds = contents.column(self.layout.shadow).tolist()
        spaces = [self.bases.get(base & ~BASE_NUMBER) for base in bases]
        return {
            "dtb": bases,
            "space": spaces,
            "shadow": [self.shadows.get(second & ~0xFFF) for second in seconds],
            "is_in_use": [None if space is None else space in self.in_use for space in spaces],
        }

    def _signs(self, contents: "_Contents") -> _Columns:
        """The signs in objects that they are processes."""
        kernel, layout, objects = self.kernel, self.layout, contents.objects
        read = contents.read_bytes
        is_process = (read[:, 0] == PROCESS_OBJECT) & (read[:, 2] == layout.size_byte)
        places = (
            layout.links + 2 * layout.width,
            layout.name,
            layout.exited,
            layout.created,
            layout.parent,
        )
        last = max(place for place in places if place is not None)
        signs = np.array(layout.signs, np.int64) // 4
        return {
            "is_header_sound": (is_process & (contents.column(4, 4) <= 1)).tolist(),
            "has_tag": have_pool_tag(kernel, objects, layout.tags).tolist(),
            "is_name_sound": (are_names(contents.names) | (layout.name is None)).tolist(),
            "is_whole": (kernel.physical(objects + np.uint64(last)) >= 0).tolist(),
            "lacks_signs": (read.view("<u4")[:, signs] == 0).any(axis=1).tolist(),
        }

    def _led_to(self, contents: "_Contents") -> _Columns:
        """What objects lead to: threads and tables of handles."""
        kernel, layout = self.kernel, self.layout
        has_threads, pids = _first_threads(kernel, layout, contents.objects)
        return {
            "has_threads": has_threads,
            "thread_pid": pids,
            "has_handles": _have_handles(kernel, layout, contents.column(layout.handles)),
        }


@dataclass(frozen=True, eq=False)
class _Contents:
    """The bytes of objects."""

    layout: Layout
    objects: NDArray[np.uint64]
    """Their addresses."""
    read_bytes: NDArray[np.uint8]
    """Shape (objects, bytes of an object); zeros where a page is missing."""

    @classmethod
    def read(cls, kernel: KernelMemory, layout: Layout, objects: NDArray[np.uint64]) -> "_Contents":
        """Read objects whole, as far as their pages are there."""
        return cls(layout, objects, kernel.read_partly(objects, OBJECT_BYTES[layout.bits]))

    def column(self, offset: int | None, size: int = 0) -> NDArray[np.uint64]:
        """A number of each object, of `size` bytes or as long as a pointer; zeros if unknown."""
        if offset is None:
            return np.zeros(len(self.objects), np.uint64)
        size = size or self.layout.width
        column = self.read_bytes[:, offset : offset + size].copy()
        return column.view(f"<u{size}").astype(np.uint64)[:, 0]

    @property
    def names(self) -> NDArray[np.uint8]:
        """The names, shape (objects, 16); zeros if their offset is unknown."""
        start = self.layout.name
        if start is None:
            return np.zeros((len(self.objects), 16), np.uint8)
        return self.read_bytes[:, start : start + 16]

    def known(self, offset: int | None, values: NDArray[np.generic]) -> list[Any]:
        """The values of a member; None for all objects if its offset is unknown."""
        return [None] * len(self.objects) if offset is None else values.tolist()


def _have_handles(
    kernel: KernelMemory, layout: Layout, tables: NDArray[np.uint64]
) -> list[bool | None]:
    """For each object, whether it has a table of handles; None if the pointer leads elsewhere."""
    if layout.handles is None:
        return [None] * len(tables)
    are_there = lead_to_handles(kernel, layout.bits, tables)
    return [
        False if not table else True if is_there else None
        for table, is_there in zip(tables.tolist(), are_there.tolist(), strict=True)
    ]


def _first_threads(
    kernel: KernelMemory, layout: Layout, objects: NDArray[np.uint64]
) -> tuple[list[bool | None], list[int | None]]:
    """For each object, whether its list leads to a thread, and the pid that this thread tells."""
    threads, width = layout.threads, layout.width
    unknown = [None] * len(objects)
    if threads is None:
        return [*unknown], [*unknown]
    head = objects + np.uint64(threads.head)
    link = numbers_at(kernel, objects, threads.head, width)
    leads_back = numbers_at(kernel, link, width, width) == head
    has_threads = (leads_back & (link != head)).tolist()
    if threads.pid is None:
        return has_threads, [*unknown]
    pids = numbers_at(kernel, link, threads.pid, width).tolist()
    return has_threads, [
        pid if there else None for there, pid in zip(has_threads, pids, strict=True)
    ]
