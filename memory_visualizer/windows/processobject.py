"""The members of a process object, each read by itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

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
            yield from self._some(objects[start : start + _READ_AT_ONCE])

    def _some(self, objects: NDArray[np.uint64]) -> Iterator[Object]:
        """Read as many objects as are read at once."""
        kernel, layout = self.kernel, self.layout
        contents = kernel.read_partly(objects, OBJECT_BYTES[layout.bits])
        width = layout.width

        def column(offset: int | None, size: int = width) -> NDArray[np.uint64]:
            if offset is None:
                return np.zeros(len(objects), np.uint64)
            return (
                contents[:, offset : offset + size].copy().view(f"<u{size}").astype(np.uint64)[:, 0]
            )

        names = np.zeros((len(objects), 16), np.uint8)
        if layout.name is not None:
            names = contents[:, layout.name : layout.name + 16]
        signal, status = column(4, 4), column(layout.status, 4)
        is_sound = (contents[:, 0] == PROCESS_OBJECT) & (contents[:, 2] == layout.size_byte)
        places = (
            layout.links + 2 * width,
            layout.name,
            layout.exited,
            layout.created,
            layout.parent,
        )
        last = max(place for place in places if place is not None)
        signs = np.array(layout.signs, np.int64) // 4
        bytes_of = [row.tobytes()[:NAME_BYTES].split(b"\0")[0] for row in names]
        dtb = column(TABLE_BASE[layout.bits]).tolist()
        for (
            *numbers,
            name,
            base,
            second,
            is_header,
            has_tag,
            is_name,
            is_whole,
            lacks,
            threads,
            handles,
        ) in zip(
            objects.tolist(),
            kernel.physical(objects).tolist(),
            column(layout.pid).tolist(),
            column(layout.parent).tolist(),
            column(layout.created, 8).tolist(),
            column(layout.exited, 8).tolist(),
            signal.tolist(),
            status.tolist(),
            bytes_of,
            dtb,
            column(layout.shadow).tolist(),
            (is_sound & (signal <= 1)).tolist(),
            have_pool_tag(kernel, objects, layout.tags).tolist(),
            (are_names(names) | (layout.name is None)).tolist(),
            (kernel.physical(objects + np.uint64(last)) >= 0).tolist(),
            (contents.view("<u4")[:, signs] == 0).any(axis=1).tolist(),
            _first_threads(kernel, layout, objects),
            _have_handles(kernel, layout, column(layout.handles)),
            strict=True,
        ):
            address, physical, pid, ppid, created, exited, is_signalled, code = numbers
            space = self.bases.get(base & ~BASE_NUMBER)
            yield Object(
                address=address,
                physical=physical,
                pid=pid,
                ppid=ppid,
                name=name,
                dtb=base,
                created=created if layout.created is not None else None,
                exited=exited if layout.exited is not None else None,
                is_signalled=is_signalled != 0,
                has_ended_by_status=None if layout.status is None else code != STILL_ACTIVE,
                space=space,
                shadow=self.shadows.get(second & ~0xFFF),
                is_header_sound=is_header,
                has_tag=has_tag,
                is_name_sound=is_name,
                is_whole=is_whole,
                thread_pid=threads[1],
                has_threads=threads[0],
                has_handles=handles,
                is_in_use=None if space is None else space in self.in_use,
                lacks_signs=lacks,
            )


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
) -> list[tuple[bool | None, int | None]]:
    """For each object, whether its list leads to a thread, and the pid that this thread tells."""
    threads, width = layout.threads, layout.width
    if threads is None:
        return [(None, None)] * len(objects)
    head = objects + np.uint64(threads.head)
    link = numbers_at(kernel, objects, threads.head, width)
    leads_back = numbers_at(kernel, link, width, width) == head
    has_threads = leads_back & (link != head)
    pids = np.zeros(len(objects), np.uint64)
    if threads.pid is not None:
        pids = numbers_at(kernel, link, threads.pid, width)
    return [
        (bool(there), int(pid) if there and threads.pid is not None else None)
        for there, pid in zip(has_threads, pids, strict=True)
    ]
