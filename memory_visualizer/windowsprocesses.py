"""Which processes a Windows dump holds, and whose address space is whose.

A process object (`_EPROCESS`) holds the address of its top-level table; where the objects hold
what else is of interest follows from the objects themselves, so no version's offsets are needed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.dump import PAGE_SIZE
from memory_visualizer.formats.base import ahead
from memory_visualizer.pagemap import mark_runs
from memory_visualizer.paging import (
    PAE,
    PRESENT,
    Mappings,
    Paging,
    PhysicalMemory,
    most_mappings,
    most_spaces,
    walk,
)
from memory_visualizer.process import Process
from memory_visualizer.windows import EARLIEST, LATEST, TopLevels, bits_of, in_parts

_TABLE_BASE = {32: 0x18, 64: 0x28}
"""Offset of DirectoryTableBase in `_KPROCESS`, in every version."""

_OBJECT_BYTES = {32: 0x500, 64: 0xC00}
"""As much of an `_EPROCESS` as is looked at."""

_PROCESS_OBJECT = 3
"""Type in a process's dispatcher header (KOBJECTS, wdm.h)."""

_MAX_PID = 1 << 24
_MAX_PLACES = 1 << 20
"""So many places are kept that may be a process while the table bases are not known."""
_MAX_PLACES_IN_PART = 1 << 10
"""The same in what is looked at at once, a megabyte: no more processes fit into it."""
_PLACES_OF_PROCESS = 16
"""As many copies of a process's object there are at most, of pages that were let go of."""
_MAX_COPIES = 64
"""So many copies of the four pointers of an address space are taken for what they are."""
_UNKNOWN = -1
"""In the place of a table base that stands in another page."""
_BASE_NUMBER = 3
"""From 2018 on the low bits of a 64-bit base may hold a small number (SDM 4.10.1)."""
_READ_AT_ONCE = 1 << 8
_KEPT_PAGES = 1 << 10
_ZEROS = bytes(PAGE_SIZE)


class KernelMemory:
    """Virtual memory of the kernel, to be read by address."""

    def __init__(self, memory: PhysicalMemory, mappings: Mappings) -> None:
        order = np.argsort(mappings.virtual, kind="stable")
        self.memory = memory
        self._mappings = mappings.take(order)
        self._pages: dict[int, bytes] = {}

    def frames(self) -> NDArray[np.int64]:
        """All frames that the kernel maps, each once."""
        rows = self._mappings
        end = np.minimum(rows.frame + rows.frames, self.memory.frame_count)
        mapped = np.zeros(self.memory.frame_count, bool)
        mark_runs(mapped, rows.frame, end - rows.frame)
        return np.flatnonzero(mapped & self.memory.held)

    def virtual(self, frames: NDArray[np.int64]) -> NDArray[np.uint64]:
        """A virtual address of each of these frames; 0 where the kernel does not map it."""
        virtual = np.zeros(len(frames), np.uint64)
        asked = np.zeros(self.memory.frame_count, bool)
        asked[frames] = True
        rows = self._mappings
        single = rows.frames == 1
        near = np.zeros(len(single), bool)
        near[single] = asked[rows.frame[single]]
        # A large page may begin long before the frame, so large and small are looked for apart.
        for size in np.unique(rows.frames):
            of_size = rows.take(near if size == 1 else rows.frames == size)
            if not len(of_size.frame):
                continue
            of_size = of_size.take(np.argsort(of_size.frame, kind="stable"))
            row = np.maximum(np.searchsorted(of_size.frame, frames, "right") - 1, 0)
            inside = (frames >= of_size.frame[row]) & (frames < of_size.frame[row] + size)
            offset = ((frames - of_size.frame[row]) * PAGE_SIZE).astype(np.uint64)
            virtual = np.where(inside, of_size.virtual[row] + offset, virtual)
        return virtual

    def read(self, addresses: NDArray[np.uint64], size: int) -> NDArray[np.uint8]:
        """Read `size` bytes at each address: shape (n, size), zeros where nothing is mapped."""
        read = np.empty((len(addresses), size), np.uint8)
        for at in range(0, len(addresses), _READ_AT_ONCE):
            read[at : at + _READ_AT_ONCE] = self._read(addresses[at : at + _READ_AT_ONCE], size)
        return read

    def _read(self, addresses: NDArray[np.uint64], size: int) -> NDArray[np.uint8]:
        pages = (size + 2 * PAGE_SIZE - 2) // PAGE_SIZE
        first = addresses & ~np.uint64(PAGE_SIZE - 1)
        spread = first[:, None] + np.arange(pages, dtype=np.uint64) * np.uint64(PAGE_SIZE)
        frames = self._frames_behind(spread.ravel())
        contents = self.memory.read_frames(np.where(frames >= 0, frames, 0))
        contents[frames < 0] = 0
        row = contents.reshape(len(addresses), -1)
        offset = (addresses - first).astype(np.int64)[:, None]
        if size % 8 == 0 and not (offset % 8).any():  # as objects are, and much faster
            return np.take_along_axis(row, offset // 8 + np.arange(size // 8), 1).view(np.uint8)
        return np.take_along_axis(row.view(np.uint8), offset + np.arange(size), axis=1)

    def number(self, address: int, size: int) -> int:
        """Read one number as `read` does, where many are read one after the other."""
        start = address % PAGE_SIZE
        raw = self._page(address // PAGE_SIZE)
        if start > PAGE_SIZE - size:
            raw += self._page(address // PAGE_SIZE + 1)
        return int.from_bytes(raw[start : start + size], "little")

    def _page(self, number: int) -> bytes:
        if number not in self._pages:
            if len(self._pages) >= _KEPT_PAGES:
                self._pages.clear()
            frame = self._frames_behind(np.array([number * PAGE_SIZE % 2**64], np.uint64))
            held = frame[0] >= 0
            self._pages[number] = self.memory.read_frames(frame).tobytes() if held else _ZEROS
        return self._pages[number]

    def _frames_behind(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        rows = self._mappings
        if not len(rows.virtual):
            return np.full(len(addresses), -1, np.int64)
        row = np.maximum(np.searchsorted(rows.virtual, addresses, "right") - 1, 0)
        page = ((addresses - rows.virtual[row]) >> np.uint64(12)).astype(np.int64)
        inside = (addresses >= rows.virtual[row]) & (page < rows.frames[row])
        frame = np.where(inside, rows.frame[row] + page, -1)
        frame[frame >= self.memory.frame_count] = -1
        return frame


def kernel_memory(memory: PhysicalMemory, found: TopLevels) -> KernelMemory:
    """What the kernel maps in any of these address spaces."""
    walked = walk(memory, found.paging, found.tops, kernel_only=True)
    return KernelMemory(memory, Mappings.join(list(_up_to(most_mappings(memory), walked))))


def find_processes(
    memory: PhysicalMemory, found: TopLevels, search: "ProcessSearch | None" = None
) -> tuple[Process, ...]:
    """Find the process objects that belong to these address spaces, and those in their list.

    `search` has looked at pages already; it is asked for those, and the others are read.
    """
    paging, tops = found.paging, found.tops
    kernel = kernel_memory(memory, found)
    bases = _table_bases(memory, paging, tops, kernel)
    if search is None or search.paging is not paging:
        search = ProcessSearch(memory, paging)
    candidates = _objects_with_base(memory, kernel, bases, search)
    for objects in _groups(kernel, candidates):
        layout = _Layout.of(kernel, bits_of(paging), objects)
        if layout is not None:
            break
    else:
        return ()
    shadows: dict[int, int] = {}
    if paging.top_frames == 1:
        shadows = {int(top) * PAGE_SIZE: n for n, top in enumerate(found.others[:, 0])}
        layout = layout.with_shadow(kernel, objects, shadows)
    listed = layout.walk_list(kernel, objects)
    return layout.processes(kernel, objects, listed, bases, shadows)


def _up_to(most: int, walked: Iterable[Mappings]) -> Iterator[Mappings]:
    """The first parts of a walk; all of them, but of a dump made to waste memory."""
    for part in walked:
        most -= len(part.frame)
        if most < 0:
            return
        yield part


def _table_bases(
    memory: PhysicalMemory, paging: Paging, tops: NDArray[np.int64], kernel: KernelMemory
) -> dict[int, int]:
    """What DirectoryTableBase holds for each address space: value to index."""
    if paging is not PAE:
        return {int(top) * PAGE_SIZE: index for index, top in enumerate(tops[:, 0])}
    # PAE: it is the address of four pointers, 32 bytes somewhere in the kernel's memory.
    bases: dict[int, int] = {}
    pointers = (tops.astype(np.uint64) << np.uint64(12)) | np.uint64(PRESENT)
    order = np.argsort(pointers[:, 0], kind="stable")
    first = pointers[order, 0]
    room = np.full(len(tops), _MAX_COPIES)
    for frames in in_parts(kernel.frames()):
        groups = memory.read_frames(frames).reshape(-1, 4)
        hits = np.flatnonzero(_is_in(groups[:, 0], first))
        index = order[np.searchsorted(first, groups[hits, 0])]
        hits, index = hits[room[index] > 0], index[room[index] > 0]
        alike = (groups[hits] == pointers[index]).all(axis=1)
        hits, index = hits[alike], index[alike]
        room -= np.bincount(index, minlength=len(room))
        page, place = np.divmod(hits, PAGE_SIZE // 32)
        found = frames[page] * PAGE_SIZE + place * 32
        bases.update(zip(found.tolist(), index.tolist(), strict=True))
    return bases


class ProcessSearch:
    """Finds what begins as a process does while contents pass by, block after block.

    Blocks may come in any order, and from several threads.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        paging: Paging,
        frames: NDArray[np.int64] | None = None,
    ) -> None:
        """Look at these frames only."""
        self.paging = paging
        self.seen = np.zeros(memory.frame_count, bool)
        """Which frames were looked at."""
        self._wanted = np.zeros(memory.frame_count, bool)
        self._wanted[frames if frames is not None else []] = True
        self._end = memory.frame_count * PAGE_SIZE
        self._found: list[NDArray[np.int64]] = []
        self._room = min(_MAX_PLACES, memory.frame_count // 2 + (1 << 16))

    def look_at(self, frames: NDArray[np.int64], words: NDArray[np.uint64]) -> None:
        """Look at those of these frames, with their contents, that are asked for."""
        if self._room < 0:
            return
        for chosen in in_parts(np.flatnonzero(self._wanted[frames])):
            found = self.places(frames[chosen], words[chosen])
            self._room -= len(found)
            if self._room < 0 or len(found) > _MAX_PLACES_IN_PART:
                continue  # a dump made of nothing else: later, when the bases are known
            self._found.append(found)
            self.seen[frames[chosen]] = True

    def places(
        self,
        frames: NDArray[np.int64],
        words: NDArray[np.uint64],
        bases: NDArray[np.uint64] | None = None,
    ) -> NDArray[np.int64]:
        """What begins as a process does and has any table base, or one of some sorted ones.

        Physical addresses and bases, shape (n, 2); _UNKNOWN where the base stands in another page.
        """
        offset, step, align = _object_grid(self.paging)
        # Type is one byte, much quicker to look through than the bases are.
        is_process = words.view(np.uint8)[:, ::align] == _PROCESS_OBJECT
        # No page that holds a process is full of what looks like one.
        is_process[np.count_nonzero(is_process, axis=1) > PAGE_SIZE // align // 4] = False
        place = np.flatnonzero(is_process) * align
        # Where the base stands in the next page, SignalState says whether to look there.
        is_cut = place & (PAGE_SIZE - 1) >= PAGE_SIZE - offset
        cut = place[is_cut]
        cut = cut[words.reshape(-1).view("<u4")[cut // 4 + 1] <= 1]
        place = place[~is_cut]
        base = words.reshape(-1).view(f"<u{step}")[(place + offset) // step].astype(np.int64)
        base &= ~_BASE_NUMBER
        if bases is None:
            possible = (base > 0) & (base < self._end) & (base & 31 == 0)
        else:
            possible = _is_in(base.view(np.uint64), bases)
        place = np.concatenate((place[possible], cut))
        base = np.concatenate((base[possible], np.full(len(cut), _UNKNOWN)))
        return np.stack((frames[place // PAGE_SIZE] * PAGE_SIZE + place % PAGE_SIZE, base), axis=1)

    def found(self, bases: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The places that were found with one of these sorted bases, as from `places`."""
        found = np.concatenate([np.empty((0, 2), np.int64), *self._found])
        base = np.ascontiguousarray(found[:, 1])
        may_be = _is_in(base.view(np.uint64), bases) | (base == _UNKNOWN)
        return np.compress(may_be, found, axis=0)


def _object_grid(paging: Paging) -> tuple[int, int, int]:
    """Of process objects: offset of the table base, its size, what they are aligned to."""
    bits = bits_of(paging)
    return _TABLE_BASE[bits], bits // 8, bits // 4


def _objects_with_base(
    memory: PhysicalMemory, kernel: KernelMemory, bases: dict[int, int], search: ProcessSearch
) -> NDArray[np.uint64]:
    """Virtual addresses of what begins as a process does and has one of the table bases."""
    known = np.sort(np.array(list(bases), np.uint64))
    if not bases:
        return np.empty(0, np.uint64)
    frames = kernel.frames()

    def look(part: NDArray[np.int64]) -> NDArray[np.int64]:
        return search.places(part, memory.read_frames(part), known)[:_MAX_PLACES_IN_PART]

    places = [search.found(known)]
    # A dump may be made of nothing else than what looks like a process.
    most = most_spaces(memory)
    room = _PLACES_OF_PROCESS * most
    for of_part in ahead(look, in_parts(frames[~search.seen[frames]])):
        places.append(of_part)
        room -= len(of_part)
        if room < 0:
            break
    found = np.concatenate(places)
    is_sure = found[:, 1] != _UNKNOWN
    objects = _virtual(kernel, _fairly(found[is_sure], most))
    others = _virtual(kernel, _fairly(found[~is_sure], most))
    offset, step, _ = _object_grid(search.paging)
    base = kernel.read(others, offset + step)[:, offset:].copy().view(f"<u{step}")[:, 0]
    has_base = _is_in(base.astype(np.uint64) & ~np.uint64(_BASE_NUMBER), known)
    return np.union1d(objects, others[has_base])


def _fairly(found: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """So many places, by address: the first of each table base, then the second of each."""
    found = found[np.lexsort(found.T[::-1])]
    by_base = np.argsort(found[:, 1], kind="stable")
    base = found[by_base, 1]
    rank = np.arange(len(base)) - np.searchsorted(base, base)
    return np.sort(found[by_base[np.argsort(rank, kind="stable")[:most]], 0])


def _virtual(kernel: KernelMemory, places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Where the kernel sees these physical addresses; those that it does not see are left out."""
    virtual = kernel.virtual(places // PAGE_SIZE)
    is_seen = virtual != 0
    objects: NDArray[np.uint64] = virtual[is_seen] + (places[is_seen] % PAGE_SIZE).astype(np.uint64)
    return objects


def _groups(kernel: KernelMemory, objects: NDArray[np.uint64]) -> Iterator[NDArray[np.uint64]]:
    """Yield all the objects, then those of each size that their headers tell, most of them first.

    Copies of one page with what looks like a process by chance can outnumber the processes.
    """
    yield objects
    sizes = kernel.read(objects, 4)[:, 2]
    known, count = np.unique(sizes, return_counts=True)
    for size in known[np.argsort(-count, kind="stable")]:
        yield objects[sizes == size]


def _is_in(values: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of the values are among some sorted ones."""
    if not len(known):
        return np.zeros(values.shape, bool)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: NDArray[np.bool_] = known[place] == values
    return found


@dataclass(frozen=True)
class _Layout:
    """Offsets in `_EPROCESS`, found in the objects of one dump."""

    bits: int
    pid: int
    links: int
    """ActiveProcessLinks; in every version it stands right behind the pid."""
    name: int
    parent: int | None = None
    created: int | None = None
    exited: int | None = None
    shadow: int | None = None
    """UserDirectoryTableBase."""

    @classmethod
    def of(cls, kernel: KernelMemory, bits: int, objects: NDArray[np.uint64]) -> "_Layout | None":
        """Find the offsets; None where the objects do not show them."""
        width = bits // 8
        contents = kernel.read(objects, _OBJECT_BYTES[bits])
        words = contents.view(f"<u{width}").astype(np.uint64, copy=False)
        links = cls._find_links(words, objects, width)
        if links is None:
            return None
        pid = links - width
        pids = words[:, pid // width]
        system = contents[pids == 4][0].tobytes()
        name = system.find(b"System\0")
        if name < 0:
            return None
        layout = cls(bits, pid, links, name)
        running = pids > 4
        return replace(
            layout,
            parent=layout._find_parent(words, pids, width),
            created=layout._find_times(contents, pids),
            exited=layout._find_exit(contents, running),
        )

    @staticmethod
    def _find_links(
        words: NDArray[np.uint64], objects: NDArray[np.uint64], width: int
    ) -> int | None:
        """The column behind the pids whose pointers lead to the same column of other objects."""
        kernel_space = np.uint64(1 << 31 if width == 4 else 0xFFFF8000_00000000)
        known = np.sort(objects)
        for column in range(1, words.shape[1] - 1):
            pids, forward, back = (words[:, column + n] for n in (-1, 0, 1))
            if (pids >= _MAX_PID).any() or (pids % 4).any() or np.count_nonzero(pids == 4) != 1:
                continue
            if len(np.unique(pids)) != len(pids):
                continue
            active = pids > 0
            if (forward[active] < kernel_space).any() or (back[active] < kernel_space).any():
                continue
            leads = _is_in(forward - np.uint64(column * width), known)
            if np.count_nonzero(leads) * 2 >= np.count_nonzero(active) - 1:
                return column * width
        return None

    def _find_parent(
        self, words: NDArray[np.uint64], pids: NDArray[np.uint64], width: int
    ) -> int | None:
        """The column that holds others' pids most often: 0 for System, 4 for its child."""
        rest = pids > 4
        known = np.sort(pids[pids > 0])
        best: int | None = None
        best_count = 0
        for column in range(words.shape[1]):
            values = words[:, column]
            if column * width == self.pid or (values >= _MAX_PID).any() or (values % 4).any():
                continue
            if values[pids == 4].any() or not (values[rest] == 4).any():
                continue
            count = int(np.count_nonzero(_is_in(values[rest], known)))
            if count > best_count:
                best, best_count = column * width, count
        return best

    def _find_times(self, contents: NDArray[np.uint8], pids: NDArray[np.uint64]) -> int | None:
        """CreateTime: the timestamp, in all processes but System's, nearest to the pid."""
        times = contents.view("<u8")[pids > 4]
        is_time = ((times > EARLIEST) & (times < LATEST)).all(axis=0)
        columns = np.flatnonzero(is_time) * 8
        if not len(columns) or not len(times):
            return None
        return int(columns[np.argmin(np.abs(columns - self.pid))])

    @staticmethod
    def _find_exit(contents: NDArray[np.uint8], running: NDArray[np.bool_]) -> int | None:
        """ExitTime: a timestamp in all that have ended, 0 in all that live."""
        ended = contents[:, 4:8].any(axis=1) & running
        times = contents.view("<u8")
        is_time = ((times[ended] > EARLIEST) & (times[ended] < LATEST)).all(axis=0)
        columns = np.flatnonzero(is_time & ~times[running & ~ended].any(axis=0))
        return int(columns[0]) * 8 if ended.any() and len(columns) else None

    def with_shadow(
        self, kernel: KernelMemory, objects: NDArray[np.uint64], shadows: dict[int, int]
    ) -> "_Layout":
        """Find where the objects name second tables, if they do."""
        width = self.bits // 8
        contents = kernel.read(objects, _OBJECT_BYTES[self.bits])
        words = contents.view(f"<u{width}").astype(np.uint64, copy=False)
        known = np.sort(np.array(list(shadows), np.uint64))
        hits = np.count_nonzero(_is_in(words & ~np.uint64(0xFFF), known), axis=0)
        if not hits.any():
            return self
        return replace(self, shadow=int(np.argmax(hits)) * width)

    def walk_list(self, kernel: KernelMemory, objects: NDArray[np.uint64]) -> set[int]:
        """Addresses of the objects in the list of active processes, from System both ways."""
        width = self.bits // 8
        pids = self._numbers(kernel, objects, self.pid)
        system = int(objects[pids == 4][0])
        most = 2 * most_spaces(kernel.memory)  # with those that have ended
        seen: set[int] = set()
        for direction in (0, width):
            at = system
            passed: set[int] = set()
            while at > 0 and at not in passed and len(passed) < most:
                passed.add(at)
                at = kernel.number(at + self.links + direction, width) - self.links
            seen |= passed
        candidates = np.array(sorted(seen), np.uint64)
        return set(candidates[self._are_processes(kernel, candidates)].tolist())

    def _are_processes(
        self, kernel: KernelMemory, objects: NDArray[np.uint64]
    ) -> NDArray[np.bool_]:
        """Tell processes from the list's head, and from what a damaged link leads to."""
        pids = self._numbers(kernel, objects, self.pid)
        types = kernel.read(objects, 1)[:, 0]
        believable: NDArray[np.bool_] = (
            (types == _PROCESS_OBJECT) & (pids > 0) & (pids < _MAX_PID) & (pids % 4 == 0)
        )
        return believable

    def processes(
        self,
        kernel: KernelMemory,
        objects: NDArray[np.uint64],
        listed: set[int],
        bases: dict[int, int],
        shadows: dict[int, int],
    ) -> tuple[Process, ...]:
        """All processes, in the order of their pids; Idle, which is none, left out."""
        everything = np.union1d(objects, np.array(sorted(listed), np.uint64))
        everything = everything[self._are_processes(kernel, everything)]
        contents = kernel.read(everything, _OBJECT_BYTES[self.bits])
        found = [
            self._process(int(address), row.tobytes(), int(address) in listed, bases, shadows)
            for address, row in zip(everything, contents, strict=True)
        ]
        return tuple(sorted(found, key=lambda process: (process.pid, process.eprocess)))

    def _process(
        self,
        address: int,
        content: bytes,
        listed: bool,
        bases: dict[int, int],
        shadows: dict[int, int],
    ) -> Process:
        def number(offset: int | None, size: int) -> int:
            if offset is None:
                return 0
            return int.from_bytes(content[offset : offset + size], "little")

        width = self.bits // 8
        dtb = number(_TABLE_BASE[self.bits], width)
        name = content[self.name : self.name + 15].split(b"\0")[0]
        return Process(
            pid=number(self.pid, width),
            ppid=number(self.parent, width),
            name=name.decode("utf-8", "backslashreplace"),
            dtb=dtb,
            eprocess=address,
            created=number(self.created, 8),
            exited=number(self.exited, 8),
            # The object of a process is signalled when it ends (SignalState, wdm.h).
            is_alive=number(4, 4) == 0,
            is_listed=listed,
            space=bases.get(dtb & ~3),
            shadow=shadows.get(number(self.shadow, width) & ~0xFFF),
        )

    def _numbers(
        self, kernel: KernelMemory, objects: NDArray[np.uint64], offset: int
    ) -> NDArray[np.uint64]:
        width = self.bits // 8
        raw = kernel.read(objects + np.uint64(offset), width)
        return raw.copy().view(f"<u{width}").astype(np.uint64)[:, 0]
