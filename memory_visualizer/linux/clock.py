"""The clock of a Linux kernel: when the dump was taken, and when the machine was started.

The kernel keeps the time in a `struct timekeeper`, in a copy of it, and in the page from which user
mode reads it (vDSO): kernel/time/timekeeping.c, kernel/time/vsyscall.c,
include/linux/timekeeper_internal.h, include/vdso/datapage.h. A timekeeper holds the time in three
forms: in seconds, as the time since the start, and in nanoseconds. A kernel that crashed adds the
time to its VMCOREINFO. The majority of these witnesses decides.

The clock is as old as the last tick of a processor: in an idle machine, up to a few seconds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.limits import Budget
from memory_visualizer.linux.btf import Btf
from memory_visualizer.linux.kernel import LinuxKernel

_TIMEKEEPERS = ("tk_core", "timekeeper_data", "shadow_timekeeper")
"""Symbols: `tk_core` is a counter and the timekeeper; since 6.17 it is the first of an array,
`timekeeper_data`. The copy has a symbol up to 6.12, and stands behind the timekeeper later."""
_HAS_DATA = "init_task"
"""A symbol that exists if the kernel's symbol table includes data."""
_SHARED, _POINTERS_TO_SHARED = "_vdso_data", ("vdso_data", "vdso_k_time_data")
"""Symbols of struct vdso_data (x86), and of pointers to it (ARM, and all since 6.15)."""
_SECOND = 10**9
"""Nanoseconds."""
_TOGETHER = 2
"""Seconds by which agreeing witnesses may differ: the copies are renewed one after another."""
_END = 9_000_000_000
"""In seconds since 1970: the kernel's nanoseconds of 64 bits end in 2262."""
_BEGIN = 900_000_000
"""The earliest time (1998) for the search by form, since smaller numbers are too common. Machines
without a clock start in 1970."""
_SEARCHED_AT_ONCE = 1 << 19
"""Bytes that are searched: in a crafted dump, each word of them may look like a time."""
_BEHIND_SYMBOL = 768
"""Bytes behind a symbol that are searched: a timekeeper and its copy."""
_BASETIME, _EACH, _SINCE_START = 32, 16, 7
"""Offset of the times in struct vdso_data, bytes of each, and the number of CLOCK_BOOTTIME."""
_OWN = ("xtime_sec", "ktime_sec", "wall_to_monotonic", "offs_real", "offs_boot")
_OF_READER = ("base", "xtime_nsec", "shift")
"""Members of struct timekeeper, and of its struct tk_read_base."""
_THING = "possible clock of Linux"


@dataclass(frozen=True)
class Clock:
    """The times of a kernel's clock."""

    time: datetime | None = None
    """UTC."""
    booted: datetime | None = None
    """When the machine was started, UTC."""
    remarks: tuple[str, ...] = ()


@dataclass
class _Witnesses:
    """Nanoseconds since 1970, as each witness tells them."""

    now: list[int] = field(default_factory=list)
    start: list[int] = field(default_factory=list)


def read_clock(found: LinuxKernel) -> Clock:
    """Ask all witnesses; a time with a single witness does not count."""
    told = _Witnesses()
    for contents in _behind_symbols(found):
        _add_timekeepers(told, contents, found.btf, found)
    if not _elected(told.now):
        for candidate in _in_image(found):
            candidate.add(told)
    _add_shared(told, found)
    told.now += [seconds * _SECOND for seconds in found.info.votes("CRASHTIME")]
    now, start = _elected(told.now), _elected(told.start)
    remarks = []
    if now and len(now) < len(told.now):
        against = len(told.now) - len(now)
        remarks.append(
            f"{against:,} of {len(told.now):,} witnesses of the kernel's clock tell another time"
        )
    return Clock(_date(now), _date(start), tuple(remarks))


def _in_image(found: LinuxKernel) -> "list[_Candidate]":
    """The timekeepers in the kernel's image, by their form.

    There is no search if the kernel's data have symbols, but none for a timekeeper: such a kernel
    is older than 3.17.
    """
    if _HAS_DATA in found.symbols and not any(name in found.symbols for name in _TIMEKEEPERS):
        return []
    # A copy of the object, so that the image is kept no longer than it is needed here.
    image = replace(found).image
    return _by_form(image[1], found.kernel.word, found.memory.budget) if image else []


def _elected(told: list[int]) -> list[int]:
    """The largest group of times that are close together; empty if it has a single member.

    Of groups of the same size, the group with the first witness wins.
    """
    plausible = [time for time in told if 0 < time < _END * _SECOND]
    groups = [
        [other for other in plausible if abs(other - time) <= _TOGETHER * _SECOND]
        for time in plausible
    ]
    largest = max(groups, key=len, default=[])
    return largest if len(largest) > 1 else []


def _date(told: list[int]) -> datetime | None:
    """The date of the first time; it has as many fractions of a second as the first witness."""
    if not told:
        return None
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=told[0] // 1000)


def _behind_symbols(found: LinuxKernel) -> Iterator[NDArray[np.uint8]]:
    """The bytes of the timekeepers that have a symbol, and the bytes behind them."""
    before = _before_timekeeper(found.btf, found.kernel.word)
    for name in _TIMEKEEPERS:
        place = found.symbols.get(name)
        contents = found.kernel.read(place, _BEHIND_SYMBOL) if place else None
        if contents:
            yield np.frombuffer(contents, np.uint8)[0 if name.startswith("shadow") else before :]


def _before_timekeeper(types: Btf | None, word: int) -> int:
    """Bytes of the counter before the timekeeper; kernels that check their locks keep more there.

    The structure has had a name since 6.13.
    """
    known = types.offset("tk_data", "timekeeper") if types else None
    if known is not None:
        return known
    counter = (types.size("seqcount_raw_spinlock") or types.size("seqcount")) if types else None
    return -(-(counter or word) // word) * word


def _add_timekeepers(
    told: _Witnesses, contents: NDArray[np.uint8], types: Btf | None, kernel: LinuxKernel
) -> None:
    """Add the timekeeper at the beginning of these bytes, and timekeepers found by form."""
    word = kernel.kernel.word
    layout = _Layout.of(types, word) if types else None
    found = _by_form(contents, word, kernel.memory.budget)
    if layout is None or types is None:
        for candidate in found:
            candidate.add(told)
        return
    places = {0}
    both = types.offset("tk_data", "timekeeper"), types.offset("tk_data", "shadow_timekeeper")
    if both[0] is not None and both[1] is not None:
        places.add(both[1] - both[0])
    places |= {
        one.place - layout.places["xtime_sec"]
        for one in found
        if one.place >= layout.places["xtime_sec"]
    }
    for place in sorted(places):
        layout.add(told, contents[place:].tobytes())


@dataclass(frozen=True)
class _Layout:
    """Offsets in struct timekeeper, and in its struct tk_read_base tkr_mono."""

    places: Mapping[str, int]
    """By the names of members."""
    word: int
    """Bytes of a long."""

    @classmethod
    def of(cls, types: Btf, word: int) -> "_Layout | None":
        """The layout, as the kernel describes it; None if it does not describe the structure."""
        reader = types.offset("timekeeper", "tkr_mono")
        if reader is None:
            return None
        places = {name: types.offset("timekeeper", name) for name in _OWN}
        for name in _OF_READER:
            at = types.offset("tk_read_base", name)
            places[name] = None if at is None else reader + at
        known = {name: place for name, place in places.items() if place is not None}
        return cls(known, word) if len(known) == len(places) else None

    def add(self, told: _Witnesses, contents: bytes) -> None:
        """Add the times of a timekeeper; its contents may be cut."""
        if len(contents) < max(self.places.values()) + 8 + self.word:
            return

        def number(name: str, size: int = 8, behind: int = 0) -> int:
            place = self.places[name] + behind
            return int.from_bytes(contents[place : place + size], "little", signed=True)

        real, boot = number("offs_real"), number("offs_boot")
        away = number("wall_to_monotonic") * _SECOND
        away += number("wall_to_monotonic", self.word, behind=8)
        fraction = number("xtime_nsec") >> (number("shift", 4) & 63)
        told.now += [
            number("xtime_sec") * _SECOND + (fraction if 0 <= fraction < _SECOND else 0),
            number("ktime_sec", self.word) * _SECOND - away,
            number("base") + real,
        ]
        told.start += [real - boot, -away - boot]


@dataclass(frozen=True)
class _Candidate:
    """A timekeeper that was found by its form."""

    place: int
    """Offset of its `xtime_sec`."""
    seconds: int
    since_start: int
    real: int
    boot: int

    def add(self, told: _Witnesses) -> None:
        """Add its times: the start counts twice, since two members agree on it."""
        told.now += [self.seconds * _SECOND, self.since_start * _SECOND + self.real]
        told.start += [self.real - self.boot] * 2


def _by_form(contents: NDArray[np.uint8], word: int, budget: Budget) -> list[_Candidate]:
    """The timekeepers in some memory, by their form: six members have had one order since 3.19.

    `offs_real` is `wall_to_monotonic` with the opposite sign, in nanoseconds; `ktime_sec` is the
    sum of `xtime_sec` and `wall_to_monotonic` in seconds, except for the fractions. The budget
    limits their number, and notes the rest.
    """
    size, limit, left_out = 32 + 2 * word, budget.limit(_THING), 0
    found: list[_Candidate] = []
    for start in range(0, len(contents), _SEARCHED_AT_ONCE):
        part = contents[start : start + _SEARCHED_AT_ONCE + size - word]
        for shift in range(0, 8, word):
            words = part[shift : shift + (len(part) - shift) // 8 * 8].view("<i8")
            places = np.flatnonzero((words > _BEGIN) & (words < _END)) * 8 + shift
            places = places[places <= min(len(part) - size, _SEARCHED_AT_ONCE - word)]
            rows = _fitting(part, places, word)
            taken = rows[: limit - len(found)]
            left_out += len(rows) - len(taken)
            found += [_Candidate(start + place, *row) for place, *row in taken.tolist()]
    budget.note(_THING, left_out)
    return found


def _fitting(
    contents: NDArray[np.uint8], places: NDArray[np.int64], word: int
) -> NDArray[np.int64]:
    """The timekeepers whose `xtime_sec` is at one of these places: a row of _Candidate for each."""
    seconds, since, away, part, real, boot = _members(contents, places, word)
    carry = since - seconds - away
    fits = (away < 0) & (away > -_END) & (part >= 0) & (part < _SECOND)
    fits &= (real == -(away * _SECOND + part)) & ((carry == 0) | (carry == 1))
    return np.stack([places, seconds, since, real, boot], axis=1)[fits]


def _members(
    contents: NDArray[np.uint8], places: NDArray[np.int64], word: int
) -> list[NDArray[np.int64]]:
    """xtime_sec, ktime_sec, wall_to_monotonic in seconds and the rest, offs_real, offs_boot."""
    low = contents[: len(contents) // 4 * 4].view("<u4")
    high = low.view("<i4")
    found, at = [], places // 4
    for size in (8, word, 8, word, 8, 8):
        number = high[at + size // 4 - 1].astype(np.int64)
        found.append(number if size == 4 else number << 32 | low[at])
        at = at + size // 4
    return found


def _add_shared(told: _Witnesses, found: LinuxKernel) -> None:
    """Add the time in the page that user mode reads: seconds, of the date and since the start."""
    kernel, types = found.kernel, found.btf
    places = [
        found.symbols.get(_SHARED),
        *(
            kernel.number(found.symbols[name])
            for name in _POINTERS_TO_SHARED
            if name in found.symbols
        ),
    ]
    at = None
    if types:
        at = types.offset("vdso_data", "basetime")
        at = types.offset("vdso_clock", "basetime") if at is None else at
    at = _BASETIME if at is None else at
    for place in filter(None, places):
        contents = kernel.read(place + at, (_SINCE_START + 1) * _EACH)
        if not contents:
            continue
        seconds = np.frombuffer(contents, "<i8")[:: _EACH // 8].tolist()
        told.now.append(seconds[0] * _SECOND)
        told.start.append((seconds[0] - seconds[_SINCE_START]) * _SECOND)
