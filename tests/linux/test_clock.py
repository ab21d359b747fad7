"""The clock of Linux, against a synthetic machine's time and a real kernel's log."""

import lzma
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.limits import Budget
from memory_visualizer.linux.clock import Clock, _by_form, _elected, read_clock
from memory_visualizer.linux.kernel import TopTableSearch
from memory_visualizer.linux.system import find_kernel
from memory_visualizer.linux.vmcoreinfo import VmcoreInfoSearch
from tests.conftest import real_dumps
from tests.synth.eras import ERAS
from tests.synth.linux import MIB, _Machine, forge_linux
from tests.synth.linux386 import forge_linux_on_i386
from tests.synth.linuxclock import LinuxClock

NOW = 1_795_353_943_976_023_456
SECOND = 10**9
MEMBERS = [1_795_353_943, 57, -1_795_353_887, 455_343_377, 1_795_353_886_544_656_623, 0]
"""Members of a real timekeeper, from xtime_sec on."""
BOOTED = NOW - 3_725_250_000_000 - 90_000_000_000


def date(nanoseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)


def clock_of(path: Path) -> Clock:
    """The clock, without the rest of the analysis."""
    dump = open_dump(path)
    texts, tables = VmcoreInfoSearch(), TopTableSearch()
    dump.scan([texts.scan, tables.scan])
    kernel = find_kernel(dump, texts.found(dump), tables)
    assert kernel is not None
    return read_clock(kernel)


@pytest.mark.parametrize("era", ["4.19", "5.10", "6.1", "6.12-plain", "7.0"])
@pytest.mark.many
def test_time_and_start(era: str, tmp_path: Path) -> None:
    """Types are not needed; fractions of a second need the kernel's description."""
    forge_linux(tmp_path / "dump", era, now=NOW)
    found = clock_of(tmp_path / "dump")
    assert found.remarks == ()
    assert found.time == date(NOW if ERAS[era].has_btf else NOW // SECOND * SECOND)
    assert found.booted == date(BOOTED)


@pytest.mark.parametrize("pae", [True, False])
def test_32_bits(pae: bool, tmp_path: Path) -> None:
    forge_linux_on_i386(tmp_path / "dump", pae=pae, now=NOW)
    found = clock_of(tmp_path / "dump")
    assert (found.time, found.booted) == (date(NOW // SECOND * SECOND), date(BOOTED))


def test_a_kernel_without_symbols_of_data(tmp_path: Path) -> None:
    """Without symbols of data, the clock is found in the image by its form."""
    forge_linux(tmp_path / "dump", "6.1", now=NOW, data_symbols=False)
    found = clock_of(tmp_path / "dump")
    assert (found.time, found.booted) == (date(NOW // SECOND * SECOND), date(BOOTED))


def test_a_dump_without_a_clock(tmp_path: Path) -> None:
    forge_linux(tmp_path / "dump", "6.1")
    assert clock_of(tmp_path / "dump") == Clock()


class Clocked:
    """A synthetic machine whose clock can be damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.machine = _Machine(ERAS["6.1"], 32 * MIB, False, False, False, 6, 0)
        self.clock = self.machine.clock = LinuxClock(self.machine, NOW)
        self.machine.write(path)

    def damaged(self, *places: tuple[int, bytes]) -> Clock:
        """The clock with other bytes at some addresses, which are restored afterwards."""
        self.clock.write()
        for address, contents in places:
            self.machine.put(address, contents)
        self.machine.memory.write(self.path)
        return clock_of(self.path)


@pytest.fixture(scope="module")
def clocked(tmp_path_factory: pytest.TempPathFactory) -> Clocked:
    return Clocked(tmp_path_factory.mktemp("clock") / "dump")


@pytest.mark.many
@pytest.mark.parametrize("member", range(112, 160, 8))
def test_one_altered_member_changes_no_second(member: int, clocked: Clocked) -> None:
    """The other witnesses outvote an altered member, and a remark counts the disagreement."""
    place = clocked.clock.timekeepers[0] + member
    found = clocked.damaged((place, (NOW // SECOND - 500_000).to_bytes(8, "little")))
    assert found.time is not None
    assert abs(found.time - date(NOW)) < timedelta(seconds=1)
    assert found.booted == date(BOOTED)
    if member not in (136, 152):  # nanoseconds, and members that tell only the start
        (remark,) = found.remarks
        assert re.fullmatch(r"[1-3] of 7 witnesses of the kernel's clock .*", remark)


def test_lost_pages(clocked: Clocked) -> None:
    """Timekeeper and copy are mostly on one page; if it is lost, the other page tells the time."""
    first, second = clocked.clock.timekeepers
    alone = clocked.damaged((first, bytes(320)))
    assert (alone.time, alone.booted) == (date(NOW), date(BOOTED))
    none = clocked.damaged((first, bytes(320)), (second, bytes(320)))
    assert (none.time, none.booted) == (None, None)  # a single witness is not believed
    shared = clocked.damaged((clocked.clock.shared, bytes(512)))
    assert (shared.time, shared.booted) == (date(NOW), date(BOOTED))


def test_a_copy_with_another_time(clocked: Clocked) -> None:
    """With two pages against one, the page that user mode reads decides."""
    clock, other = clocked.clock, LinuxClock(clocked.machine, NOW + 3600 * SECOND)
    found = clocked.damaged((clock.timekeepers[0], other._timekeeper()))
    assert found.time is not None
    assert abs(found.time - date(NOW)) < timedelta(seconds=1)
    assert found.remarks == ("3 of 7 witnesses of the kernel's clock tell another time",)


def test_the_largest_group_counts() -> None:
    assert _elected([]) == _elected([5 * SECOND]) == _elected([5 * SECOND, 900 * SECOND]) == []
    assert _elected([5 * SECOND, 900 * SECOND, 901 * SECOND]) == [900 * SECOND, 901 * SECOND]
    assert _elected([-1, -1, 0, 0, 1 << 80, 1 << 80]) == []


def test_words_that_look_like_times_cost_little() -> None:
    """A kernel full of such words has no clock, and is searched piece by piece."""
    contents, budget = np.full(1 << 20, 1_795_353_943, "<i8").view(np.uint8), Budget(256)
    assert _by_form(contents, 8, budget) == _by_form(contents, 4, budget) == []
    assert budget.remarks == ()


def test_more_clocks_than_any_machine_has() -> None:
    contents, budget = np.tile(np.array(MEMBERS, "<i8"), 1 << 16).view(np.uint8), Budget(256)
    assert len(_by_form(contents, 8, budget)) == budget.limit("possible clock of Linux") < 1 << 16
    assert "65,520 possible clocks of Linux left out" in budget.remarks[0]


@pytest.mark.parametrize("place", [0, (1 << 19) - 40, (1 << 19) - 8, (1 << 20) + 64])
def test_a_clock_between_two_pieces(place: int) -> None:
    contents = np.zeros((1 << 20) + 2048, np.uint8)
    contents[place : place + 48] = np.array(MEMBERS, "<i8").view(np.uint8)
    assert [one.place for one in _by_form(contents, 8, Budget(256))] == [place]


# -- real kernels -----------------------------------------------------------------------------

_SET = re.compile(rb"setting system clock to ([0-9T:-]{19}) UTC \((\d+)\)")


@pytest.fixture(params=["linux-5.10-x64-136m", "linux-6.1-x64-256m", "linux-7.3-arm64-160m"])
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    packed = real_dumps() / f"{request.param}.raw.xz"
    if not packed.exists():
        pytest.skip(f"no real dump here: MEMVIZ_DUMPS names the folder of {packed.name}")
    path = tmp_path / "dump.raw"
    with lzma.open(packed) as source, path.open("wb") as file:
        while piece := source.read(1 << 24):
            file.write(piece)
    yield path
    path.unlink()


@pytest.mark.real
def test_a_real_kernel(guest: Path) -> None:
    """The log has the time of the hardware clock, a few seconds after the start."""
    found = memory_visualizer.open(guest)
    told = {int(seconds) for _, seconds in _SET.findall(guest.read_bytes())}
    (seconds,) = told
    assert found.time is not None
    assert found.booted is not None
    assert timedelta(0) < date(seconds * SECOND) - found.booted < timedelta(seconds=10)
    assert timedelta(0) < found.time - date(seconds * SECOND) < timedelta(seconds=120)
    assert not any("clock" in remark for remark in found.remarks)
