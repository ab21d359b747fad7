"""The clock of a synthetic Linux: its timekeeper, the copy, and the page that user mode reads.

Written from include/linux/timekeeper_internal.h, kernel/time/timekeeping.c and
include/vdso/datapage.h of the kernel; the order of the members is the one of 4.17 to 6.13, or the
later one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.synth.linuxtypes import BtfWriter

if TYPE_CHECKING:
    from tests.synth.linux import _Machine

_SECOND = 10**9
_SHIFT = 24
_RESERVED = 768
_FULL = (1 << 64) - 1


@dataclass
class LinuxClock:
    """Nanoseconds: the date since 1970, how long the machine ran, and how long it slept."""

    machine: "_Machine"
    now: int
    running: int = 3_725_250_000_000
    slept: int = 90_000_000_000
    timekeepers: list[int] = field(default_factory=list)
    """Addresses of the timekeeper and its copy."""
    shared: int = 0
    """Address of the page that user mode reads."""

    def name(self) -> None:
        """Reserve places and name them."""
        machine, symbols = self.machine, self.machine.symbols
        counter, at = machine.pointer, machine.reserve_image(_RESERVED)
        self.shared = machine.reserve_image(512)
        if self.is_new:
            self.timekeepers = [at + counter, at + counter + 320]
            pointer = machine.reserve_image(64)
            machine.word(pointer, self.shared)
            symbols |= {"timekeeper_data": at, "vdso_k_time_data": pointer}
        else:
            copy = machine.reserve_image(320)
            self.timekeepers = [at + counter, copy]
            symbols |= {"tk_core": at, "shadow_timekeeper": copy, "_vdso_data": self.shared}
        self.write()

    @property
    def is_new(self) -> bool:
        """Whether it is laid out as in 7.x."""
        return self.machine.era.masks

    @property
    def booted(self) -> int:
        """When the machine was started."""
        return self.now - self.running - self.slept

    def write(self) -> None:
        """Write all that tells the time."""
        for place in self.timekeepers:
            self.machine.put(place, self._timekeeper())
        times = [bytes(16)] * 12
        for clock, since in ((0, self.now), (1, self.running), (7, self.running + self.slept)):
            times[clock] = b"".join(
                part.to_bytes(8, "little") for part in (since // _SECOND, since % _SECOND << _SHIFT)
            )
        self.machine.put(self.shared + 32, b"".join(times))

    def describe(self, types: BtfWriter, number: int) -> None:
        """Add the types to the kernel's description of itself."""
        own, reader = self._members(), self._reader()
        types.structure("tk_read_base", [(name, at) for name, at, _ in reader], number, 56)
        types.structure("timekeeper", [(name, at) for name, at, _ in own], number, 320)
        if self.is_new:
            both = [("seq", 0), ("timekeeper", 8), ("shadow_timekeeper", 328)]
            types.structure("tk_data", both, number, 704)
            types.structure("vdso_clock", [("seq", 0), ("basetime", 32)], number, 240)
        else:
            types.structure("vdso_data", [("seq", 0), ("basetime", 32)], number, 240)

    def _placed(self, members: Sequence[tuple[str, int]], at: int) -> list[tuple[str, int, int]]:
        """Name, offset and size of members; long ones are aligned as an address is."""
        found = []
        for name, size in members:
            aligned = min(size, self.machine.pointer)
            at = -(-at // aligned) * aligned
            found.append((name, at, size))
            at += size
        return found

    def _reader(self) -> list[tuple[str, int, int]]:
        names = [("clock", self.machine.pointer), ("mask", 8), ("cycle_last", 8), ("mult", 4)]
        names += [("shift", 4), ("xtime_nsec", 8), ("base", 8), ("base_real", 8)]
        return self._placed(names, 0)

    def _members(self) -> list[tuple[str, int, int]]:
        _, at, size = self._reader()[-1]
        each, long = at + size, self.machine.pointer
        rest = [("xtime_sec", 8), ("ktime_sec", long), ("wall_to_monotonic", 8), ("", long)]
        rest += [("offs_real", 8), ("offs_boot", 8), ("offs_tai", 8)]
        first, second = ("tkr_mono", 0, each), ("tkr_raw", each, each)
        if self.is_new:
            return [first, *self._placed(rest, each), ("tkr_raw", 120, each)]
        return [first, second, *self._placed(rest, 2 * each)]

    def _timekeeper(self) -> bytes:
        away = self.running - self.now
        values = {
            "mask": _FULL,
            "mult": 0x800000,
            "shift": _SHIFT,
            "xtime_nsec": self.now % _SECOND << _SHIFT,
            "base": self.now // _SECOND * _SECOND + away,
            "base_real": self.now // _SECOND * _SECOND,
            "xtime_sec": self.now // _SECOND,
            "ktime_sec": self.running // _SECOND,
            "wall_to_monotonic": away // _SECOND,
            "": away % _SECOND,
            "offs_real": -away,
            "offs_boot": self.slept,
            "offs_tai": 37 * _SECOND - away,
        }
        contents = bytearray(320)
        for name, at, size in [*self._reader(), *self._members()]:
            if name in values:
                number = values[name] & ((1 << 8 * size) - 1)
                contents[at : at + size] = number.to_bytes(size, "little")
        return bytes(contents)
