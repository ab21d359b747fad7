"""Windows' structures made to waste time, to break the program, or to cost others something."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import memory_visualizer
from memory_visualizer import limits
from memory_visualizer.limits import Rate
from memory_visualizer.paging import MAY_EXECUTE, Mappings
from memory_visualizer.windows import framedatabase, processlayout
from memory_visualizer.windows.framedatabase import Witnesses
from memory_visualizer.windows.kernelimages import Images, unlisted_images
from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.processlist import Links, find_list
from tests.fuzz.crafted import crafted
from tests.synth import MIB
from tests.synth.memory import PAGE_SIZE
from tests.windows.test_files import VERSIONS, Written
from tests.windows.test_files import written as written  # a fixture
from tests.windows.test_framedatabase import files_of, true_files

KERNEL = 0xFFFFF880_00000000


@dataclass
class Memory:
    """Memory of so many frames, all of zeros, all held."""

    frame_count: int
    budget: limits.Budget = field(init=False)
    held: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.held = np.ones(self.frame_count, bool)
        self.budget = limits.Budget(self.frame_count)

    def read_frames(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        return np.zeros((len(frames), 512), np.uint64)


def kernel_with(virtual: npt.NDArray[np.uint64], access: int) -> KernelMemory:
    """Kernel memory in which frame n is mapped at the nth address."""
    count = len(virtual)
    pages = np.arange(count), np.ones(count, np.int64), np.full(count, access, np.uint8)
    memory: Any = Memory(count)
    return KernelMemory(memory, Mappings(np.full(count, -1, np.int32), virtual, *pages))


def test_a_list_with_links_in_one_direction_only() -> None:
    """The parts of a long list are joined one by one; each costs no more than itself."""
    count, apart = 20_000, 0x500
    links = Links(kernel_with(np.empty(0, np.uint64), 0), 8, 1 << 20)
    at = [KERNEL + number * apart for number in range(count)]
    links.of = {one: (following, 8) for one, following in zip(at, [*at[1:], at[0]], strict=True)}
    assert find_list(links, lambda _: True, ()).main == set(at)


def test_times_in_the_last_word_of_process_objects() -> None:
    """Nothing follows the creation times, so there is no exit time."""
    contents = np.zeros((8, processlayout.OBJECT_BYTES[64]), np.uint8)
    contents.view("<u8")[:, -1] = 131_000_000_000_000_000 + np.arange(8)
    created = processlayout._find_created(contents, 0x180)
    assert created == processlayout.OBJECT_BYTES[64] - 8
    assert processlayout._find_exited(contents, created, np.zeros(8, bool)) is None


def test_records_with_no_room_for_a_location() -> None:
    """An array of addresses of entries, each with its table's frame, is no page frame database."""
    table = 7
    records = np.zeros((64, 16), np.uint8)
    records.view("<u8")[:, 1] = table

    class Kernel:
        word = 8

        def frames(self, addresses: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
            return np.full(len(addresses), table)

        def read_each(self, addresses: npt.NDArray[np.uint64], size: int) -> tuple[Any, Any]:
            return records[: len(addresses)], np.ones(len(addresses), bool)

    kernel: Any = Kernel()
    numbers = np.arange(64, dtype=np.uint64)
    witnesses = Witnesses(numbers, numbers, np.arange(64))
    found = framedatabase._layout(kernel, KERNEL, 16, 0, witnesses, np.arange(64, 128))
    assert found is None


def test_false_sizes_of_unlisted_images() -> None:
    """Many images that say they hold all of memory tell each frame a few times at most."""
    count = 4_000
    virtual = np.uint64(KERNEL) + np.arange(count, dtype=np.uint64) * np.uint64(2 * PAGE_SIZE)
    kernel = kernel_with(virtual, 0)
    kernel.mappings.access[::2] = MAY_EXECUTE
    listed = [(KERNEL + (n << 29), KERNEL + (n << 29) + PAGE_SIZE) for n in range(1, count + 2)]
    start, end = np.array(listed, np.uint64).T
    images = Images(np.append(virtual, start), np.append(virtual + np.uint64(1 << 28), end))
    found = unlisted_images(kernel, images, listed)
    assert len(found) > count // 4
    assert sum(len(frames) for *_, frames in found) <= 4 * count


def test_frames_of_an_unlisted_image() -> None:
    """Small and large pages, only those between its addresses."""
    kernel = kernel_with(KERNEL + PAGE_SIZE * np.arange(8, dtype=np.uint64), 0)
    kernel.mappings.access[2:6] = MAY_EXECUTE
    start = np.array([KERNEL + 2 * PAGE_SIZE, KERNEL + (1 << 20)], np.uint64)
    images = Images(start, start + np.uint64(3 * PAGE_SIZE))
    [(begin, end, frames)] = unlisted_images(
        kernel, images, [(KERNEL + (1 << 20), KERNEL + (1 << 30))]
    )
    assert (begin, end) == (KERNEL + 2 * PAGE_SIZE, KERNEL + 5 * PAGE_SIZE)
    assert frames.tolist() == [2, 3, 4]


def test_second_tables_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing all address spaces with all second tables reads each table once."""
    path = tmp_path / "dump"
    path.write_bytes(crafted("second tables of nobody", 16 * MIB))
    dump = memory_visualizer.open(path).dump
    read: list[int] = []
    own = type(dump).read_frames

    def counted(self: Any, frames: npt.NDArray[np.int64]) -> Any:
        read.append(len(frames))
        return own(self, frames)

    monkeypatch.setattr(type(dump), "read_frames", counted)
    snapshot = memory_visualizer.open(path)
    assert sum(not one.object_address for one in snapshot.processes) > 100
    assert sum(read) < 10 * dump.frame_count


def _device(dump: Written) -> tuple[int, bytes]:
    """The address of a file's pointer to its device, and an address below that of all devices."""
    section = dump.section("cached.dat")
    at = section.file_object + dump.offset("_FILE_OBJECT", "DeviceObject")
    size = 8 if dump.truth.profile.endswith(("x64", "17763")) else 4
    return at, struct.pack("<Q", 8)[:size]


def _name(dump: Written) -> tuple[int, bytes]:
    """The address of a file's name, and a name of the greatest length."""
    section = dump.section("cached.dat")
    at = section.file_object + dump.offset("_FILE_OBJECT", "FileName")
    return at, struct.pack("<HH", 0xFFFE, 0xFFFE)


@pytest.mark.parametrize(
    ("thing", "room", "lie"), [("device", 2, _device), ("letter of paths", 2000, _name)]
)
@pytest.mark.many
def test_a_false_value_takes_no_room_from_others(
    written: Written,
    monkeypatch: pytest.MonkeyPatch,
    thing: str,
    room: int,
    lie: Callable[[Written], tuple[int, bytes]],
) -> None:
    """With room for the sound values only, the false one is left out, and all others are told."""
    monkeypatch.setattr(limits, "RATES", {**limits.RATES, thing: Rate(1 << 40, 1, room)})
    assert written.truth.profile in VERSIONS
    path = written.section("cached.dat").path
    told, true = files_of(written.altered(lie(written))), true_files(written.records)
    assert [one for one, is_so in zip(told, true, strict=True) if is_so[0] != path] == [
        one for one in true if one[0] != path
    ]
