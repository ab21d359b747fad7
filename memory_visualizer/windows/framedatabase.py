"""Windows' page frame database (`MmPfnDatabase`): an array with a record (`_MMPFN`) for each frame.

It is found without symbols, since it proves itself. A record holds the address of the page-table
entry that maps its frame (PteAddress), and the frame of this entry's table (PteFrame). So each
address of an entry in the kernel's memory is a witness: the entry tells a frame, and the places of
all records, minus their frame numbers times the record size, are equal. The majority of records
also tells the offsets of the other members, since mapped frames are active.

The known layouts come from the profiles of Volatility 2, and from symbols of later kernels; an
unknown layout is found, too, but tells less.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import even_sample
from memory_visualizer.formats.base import Dump, ahead
from memory_visualizer.paging import PRESENT, is_held
from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.selfmap import SelfMap

_Result = TypeVar("_Result")
_ALL = slice(None)

_SAMPLE = 1 << 12
"""An even sample of the kernel's frames, which is searched for witnesses. The database takes about
a hundredth of memory, so dozens of these frames belong to it."""
_FRAMES_AT_ONCE = 256
_STRIDES = range(16, 132, 4)
"""Possible sizes of a record in bytes; the known sizes are 24, 28 and 48."""
_FEWEST_WITNESSES = 8
_WITNESSES_OF_PAGE = 32
"""How many witnesses of a page count: a page of records has 85 to 170, and a few suffice."""
_TRIED_ORIGINS = 4
"""How many places of the database are tried; the most frequent is nearly always the right one."""
SAMPLED_WITNESSES = 1 << 10
"""An even sample of witnesses, which vote on the other members of a record."""
SAMPLED_RECORDS = 1 << 12
"""An even sample of records that are compared with the entries that they name."""
_RECORDS_AT_ONCE = 1 << 14
"""A multiple of 4096: so many records are a whole number of pages."""
ACTIVE = 6
"""PageLocation of a frame in use (MMLISTS: ActiveAndValid)."""
_LOCATION_BITS = 7


@dataclass(frozen=True)
class Bit:
    """A bit in a record, or the lowest bit of several."""

    byte: int
    shift: int

    def of(
        self, records: NDArray[np.uint8], mask: int, rows: NDArray[np.intp]
    ) -> NDArray[np.uint8]:
        """The value of the bits of `mask` in some rows of the records."""
        value: NDArray[np.uint8] = records[rows, self.byte] >> np.uint8(self.shift) & np.uint8(mask)
        return value


@dataclass(frozen=True)
class Members:
    """Further members of a known layout, beside those that its records prove."""

    original: int
    """OriginalPte, as large as an entry."""
    priority: Bit | None = None
    is_stack: Bit | None = None
    """KernelStack, until Windows 7."""
    is_awe: Bit | None = None
    """AweAllocation, until Windows 7."""


_MEMBERS = {
    # By bytes of a word, size, PteAddress, PteFrame's word, and the byte of PageLocation.
    # XP and 2003 without a service pack; with PAE.
    (4, 24, 4, 20, 13): Members(16, None, Bit(23, 6), Bit(23, 4)),
    (4, 28, 4, 24, 13): Members(16, None, Bit(27, 6), Bit(27, 4)),
    # 2003 with a service pack; with PAE.
    (4, 24, 4, 20, 15): Members(16, Bit(23, 4), None, Bit(23, 3)),
    (4, 28, 4, 24, 15): Members(16, Bit(27, 4), None, Bit(27, 3)),
    # Vista and 7; Vista to 8.1 with PAE.
    (4, 24, 8, 20, 14): Members(16, Bit(15, 0), Bit(15, 5), Bit(23, 2)),
    (4, 28, 8, 24, 14): Members(16, Bit(15, 0), Bit(15, 5), Bit(27, 2)),
    # 10.
    (4, 28, 4, 24, 22): Members(8, Bit(23, 0)),
    # XP and 2003; Vista to 8.1; 10 and 11.
    (8, 48, 8, 40, 27): Members(32, Bit(47, 4), None, Bit(47, 3)),
    (8, 48, 16, 40, 26): Members(32, Bit(27, 0), Bit(27, 5), Bit(47, 0)),
    (8, 48, 8, 40, 34): Members(16, Bit(35, 0)),
}


@dataclass(frozen=True)
class Layout:
    """Offsets of the members in a record, in bytes."""

    word: int
    """Bytes of a pointer."""
    size: int
    pte_address: int
    pte_frame: int
    location: int
    """Offset of the byte whose lowest three bits are PageLocation."""

    @property
    def frame_bits(self) -> int:
        """Bits of PteFrame that every version has: enough for any frame."""
        return 36 if self.word == 8 else 24

    @property
    def members(self) -> Members | None:
        """The further members; None for an unknown layout."""
        return _MEMBERS.get((self.word, self.size, self.pte_address, self.pte_frame, self.location))

    def number(
        self,
        records: NDArray[np.uint8],
        place: int,
        size: int = 0,
        rows: NDArray[np.intp] | slice = _ALL,
    ) -> NDArray[np.uint64]:
        """A member of each record, or of some rows, by default as large as a pointer.

        Records must be contiguous in memory.
        """
        size = size or self.word
        if place % size or self.size % size:
            part = np.ascontiguousarray(records[rows, place : place + size])
            return part.view(f"<u{size}")[:, 0].astype(np.uint64, copy=False)
        numbers = records.view(f"<u{size}")[:, place // size]
        return numbers[rows].astype(np.uint64, copy=False)

    def table_frames(
        self, records: NDArray[np.uint8], rows: NDArray[np.intp] | slice = _ALL
    ) -> NDArray[np.int64]:
        """PteFrame of each record, or of some rows, in the bits that all versions have for it."""
        frames = self.number(records, self.pte_frame, rows=rows)
        return (frames & np.uint64((1 << self.frame_bits) - 1)).view(np.int64)

    def locations(self, records: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """PageLocation of each record."""
        return records[:, self.location] & np.uint8(_LOCATION_BITS)


@dataclass(frozen=True, eq=False)
class Witnesses:
    """Addresses of entries in the kernel's memory, a row for each."""

    address: NDArray[np.uint64]
    """Virtual address of the place that holds the address."""
    entry: NDArray[np.uint64]
    """The address that it holds, of an entry."""
    frame: NDArray[np.int64]
    """The frame that the entry maps."""

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> "Witnesses":
        """Some of the rows."""
        return Witnesses(self.address[rows], self.entry[rows], self.frame[rows])


@dataclass(frozen=True, eq=False)
class Piece:
    """The records of some successive frames."""

    first: int
    """The first frame."""
    records: NDArray[np.uint8]
    """Shape (frames, size)."""
    known: NDArray[np.bool_]
    """Whether the dump has all of a record. A record in a page of zeros counts as lost."""


class PageFrameDatabase:
    """The database of one dump, with known base and layout."""

    def __init__(
        self, dump: Dump, kernel: KernelMemory, self_map: SelfMap, base: int, layout: Layout
    ) -> None:
        self.base = base
        self.layout = layout
        self._dump = dump
        self._kernel = kernel
        self._self_map = self_map

    def records(self, frames: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The records of single frames, shape (n, size); zeros for lost records."""
        return _records(self._kernel, self.base, self.layout.size, frames)

    def entries(self, frames: NDArray[np.int64]) -> NDArray[np.uint64]:
        """PteAddress of some of these frames, from all over them, without marks; 0 where lost."""
        records = self.records(even_sample(frames, SAMPLED_RECORDS))
        return self._self_map.entry(self.layout.number(records, self.layout.pte_address))

    def pieces(
        self, zero: NDArray[np.bool_], work: Callable[[Piece], _Result]
    ) -> Iterator[_Result]:
        """Yield the result of `work` for the records of all frames, piece by piece, in their order.

        `zero` tells which frames are all zeros. `work` is called in several threads.
        """
        at_once = _RECORDS_AT_ONCE // 4096 * self.layout.size  # pages
        pages = -(-self._dump.frame_count * self.layout.size // 4096)

        def read(start: int) -> _Result:
            return work(self._piece(start, min(start + at_once, pages), zero))

        return ahead(read, range(0, pages, at_once))

    def _piece(self, start: int, end: int, zero: NDArray[np.bool_]) -> Piece:
        """The records in some pages of the array."""
        size, count = self.layout.size, self._dump.frame_count
        number = np.arange(start, end, dtype=np.uint64)
        frames = self._kernel.frames(np.uint64(self.base) + number * np.uint64(4096))
        there = is_held(self._dump, frames)
        there[there] = ~zero[frames[there]]
        words = self._dump.read_frames(np.where(there, frames, count))
        first = start * 4096 // size
        some = min(count - first, len(number) * 4096 // size)
        raw = words.reshape(-1).view(np.uint8)[: some * size].reshape(some, size)
        known = np.ones(some, bool)
        if not there.all():
            begin = np.arange(some) * size
            known = there[begin >> 12] & there[(begin + size - 1) >> 12]
        return Piece(first, raw, known)

    def agreement(self, mapped: NDArray[np.int64]) -> float:
        """The share of these mapped frames whose record leads to an entry that maps the frame.

        The entry stands in PteFrame, at the place in the lowest bits of PteAddress, so prototype
        entries can be compared, too. Frames whose record is lost or not active do not count, nor do
        frames whose table lies in a hole of the dump; 0 if too few frames count.
        """
        frames = even_sample(mapped, SAMPLED_RECORDS)
        records = self.records(frames)
        table = self.layout.table_frames(records)
        counts = self.layout.locations(records) == ACTIVE
        counts &= is_held(self._dump, table) | (table >= self._dump.frame_count)
        entry = self._self_map.entry(self.layout.number(records, self.layout.pte_address))
        if np.count_nonzero(counts) < _FEWEST_WITNESSES:
            return 0.0
        return float(np.mean(self._entries_name(table[counts], entry[counts], frames[counts])))

    def _entries_name(
        self, table: NDArray[np.int64], entry: NDArray[np.uint64], frame: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which of these entries, each in its table, name their frame."""
        paging = self._self_map.paging
        index = ((entry & np.uint64(0xFFF)) // np.uint64(paging.entry_bytes)).astype(np.intp)
        named = np.zeros(len(table), bool)
        tables, row = np.unique(table, return_inverse=True)
        order = np.argsort(row, kind="stable")
        for start in range(0, len(tables), _FRAMES_AT_ONCE):
            some = tables[start : start + _FRAMES_AT_ONCE]
            chosen = order[slice(*np.searchsorted(row[order], [start, start + len(some)]))]
            some = np.minimum(some, self._dump.frame_count)  # nothing is there
            contents = paging.decode(self._dump.read_frames(some))
            entries = contents[row[chosen] - start, index[chosen]]
            maps = paging.is_present(entries) | (entries & np.uint64(PRESENT) != 0)
            named[chosen] = maps & (paging.frames(entries, paging.levels[-1]) == frame[chosen])
        return named


def find_databases(
    dump: Dump,
    kernel: KernelMemory,
    self_map: SelfMap,
    zero: NDArray[np.bool_],
    unused: NDArray[np.int64],
) -> Iterator[PageFrameDatabase]:
    """Yield possible databases, first the one that most witnesses support.

    `zero` tells which frames are all zeros, `unused` are frames without a mapping.
    """
    witnesses = _witnesses(dump, kernel, self_map, zero)
    for size, origin in _origins(witnesses):
        word = kernel.word
        frame = witnesses.frame.astype(np.uint64) * np.uint64(size)
        chosen = witnesses.take((witnesses.address - frame) == origin)
        base, pte_address = int(origin) & ~0xFFF, int(origin) & 0xFFF
        if pte_address > size - word or len(chosen.frame) < _FEWEST_WITNESSES:
            continue
        if base + dump.frame_count * size > 1 << 64:
            continue  # no array goes on behind the last address
        layout = _layout(kernel, base, size, pte_address, chosen, unused)
        if layout:
            yield PageFrameDatabase(dump, kernel, self_map, base, layout)


def _witnesses(
    dump: Dump, kernel: KernelMemory, self_map: SelfMap, zero: NDArray[np.bool_]
) -> Witnesses:
    """Addresses of the kernel's own entries, in a sample of its pages."""
    frames = kernel.all_frames()
    frames = even_sample(frames[~zero[frames]], _SAMPLE)
    virtual = kernel.virtual(frames)

    def addresses(start: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The witnesses in a batch of pages, and the addresses that they hold."""
        some = slice(start, start + _FRAMES_AT_ONCE)
        words = kernel.words(dump.read_frames(frames[some]).view(np.uint8))
        row, place = np.divmod(np.flatnonzero(self_map.shows(words)), words.shape[1])
        # Pages full of such addresses, which fill a hostile dump, must not cost more than others.
        before = np.searchsorted(row, np.arange(len(words)))
        few = np.arange(len(row)) - before[row] < _WITNESSES_OF_PAGE
        row, place = row[few], place[few]
        address = virtual[some][row] + place.astype(np.uint64) * np.uint64(kernel.word)
        return address, self_map.entry(words[row, place])

    batches = ahead(addresses, range(0, len(frames), _FRAMES_AT_ONCE))
    columns = zip((_NO_ADDRESSES, _NO_ADDRESSES), *batches, strict=True)
    address, entry = (np.concatenate(column) for column in columns)
    page = self_map.page(entry)
    # Each process has its own entries for the addresses of the user's half.
    chosen = page >= np.uint64(self_map.user_end)
    address, entry, page = address[chosen], entry[chosen], page[chosen]
    frame = kernel.frames(page)
    known = (frame >= 0) & (frame < dump.frame_count)
    return Witnesses(address[known], entry[known], frame[known])


_NO_ADDRESSES = np.empty(0, np.uint64)


def _origins(witnesses: Witnesses) -> Iterator[tuple[int, np.uint64]]:
    """Sizes of records, each with the address of frame 0's PteAddress; the likeliest first.

    Two witnesses in one page are as many records apart as their frame numbers.
    """
    order = np.argsort(witnesses.address, kind="stable")
    address, frame = witnesses.address[order], witnesses.frame[order]
    distance = np.diff(address).astype(np.int64)
    records = np.diff(frame)
    paired = (records > 0) & (distance > 0) & (distance < 4096)
    distance, records = distance[paired], records[paired]
    whole = distance % records == 0
    size = np.where(whole, distance // records, 0)
    size = np.where((size < _STRIDES.stop) & (size % _STRIDES.step == 0), size, 0)
    counts = np.bincount(size, minlength=_STRIDES.stop)
    counts[: _STRIDES.start] = 0
    found = []
    for one in np.argsort(-counts, kind="stable")[:_TRIED_ORIGINS].tolist():
        if not counts[one]:
            break
        origin = address - frame.astype(np.uint64) * np.uint64(one)
        values, count = np.unique(origin, return_counts=True)
        best = int(np.argmax(count))
        found.append((int(count[best]), one, values[best]))
    for _, one, origin in sorted(found, key=lambda row: -row[0]):
        yield one, origin


def _layout(
    kernel: KernelMemory,
    base: int,
    size: int,
    pte_address: int,
    witnesses: Witnesses,
    unused: NDArray[np.int64],
) -> Layout | None:
    """The other offsets, by the majority of the witnesses' records; None if none agree."""
    witnesses = witnesses.take(even_sample(np.arange(len(witnesses.frame)), SAMPLED_WITNESSES))
    word = kernel.word
    records = _records(kernel, base, size, witnesses.frame)
    table = kernel.frames(witnesses.entry)
    best, pte_frame = 0.0, -1
    for place in range(0, size - word + 1, word):
        layout = Layout(word, size, pte_address, place, 0)
        share = float(np.mean(layout.table_frames(records) == table))
        if place != pte_address and share > best:
            best, pte_frame = share, place
    if best <= 1 / 2:
        return None
    others = _records(kernel, base, size, even_sample(unused, SAMPLED_WITNESSES))
    others = others[np.logical_or.reduce(others != 0, axis=1)]
    places = [
        byte
        for byte in range(size)
        if byte not in range(pte_address, pte_address + word)
        and byte not in range(pte_frame, pte_frame + word)
    ]

    def speaks_for(byte: int) -> tuple[bool, float]:
        """Whether the offset is known, and how much more often used frames are active by it."""
        layout = Layout(word, size, pte_address, pte_frame, byte)
        active = float(np.mean(layout.locations(records) == ACTIVE))
        if active <= 1 / 2:
            return False, 0.0
        also = float(np.mean(layout.locations(others) == ACTIVE)) if len(others) else 0.0
        return layout.members is not None, active - also

    location = max(places, key=speaks_for, default=None)
    if location is None or speaks_for(location)[1] <= 0:
        return None
    return Layout(word, size, pte_address, pte_frame, location)


def _records(
    kernel: KernelMemory, base: int, size: int, frames: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """The records of some frames in an array of records; zeros for lost records."""
    addresses = np.uint64(base) + frames.astype(np.uint64) * np.uint64(size)
    return kernel.read_each(addresses, size)[0]
