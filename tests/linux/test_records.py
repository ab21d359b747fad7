"""The law of a Linux kernel's own records: a wrong word costs what it describes, and no more.

The records are the map of resources (`/proc/iomem`), the table of sections that leads to the struct
pages, and the struct pages of free blocks.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import memory_visualizer
from memory_visualizer import Snapshot
from memory_visualizer.linux.kallsyms import KernelSymbols
from memory_visualizer.linux.resources import without_memory
from memory_visualizer.snapshot.pagemap import PageState
from tests.synth.linux import MIB, LinuxTruth, forge_linux

PAGE = 4096
SIZE = 48 * MIB
RAM = (PAGE, 0x9FBFF), (0x10_0000, SIZE - 1)
"""First and last byte of the two stretches of RAM, in the kernel's map of resources."""
NAMES = {"comm": "comm", "tasks": "tasks", "tgid": "pid", "real_parent": "parent", "flags": "flags"}
"""The members of a task, as remarks name them."""


@dataclass(frozen=True)
class World:
    """A synthetic dump, and the report on it while it is sound."""

    path: Path = field(repr=False)
    truth: LinuxTruth = field(repr=False)
    sound: Snapshot = field(repr=False)
    contents: bytes = field(repr=False)

    def changed(self, place: int, octets: bytes) -> tuple[Snapshot, npt.NDArray[np.intp]]:
        """The snapshot with other bytes at a place, and the frames that change class."""
        with self.path.open("r+b") as file:
            file.seek(place)
            file.write(octets)
            file.flush()
            try:
                damaged = memory_visualizer.open(self.path)
            finally:
                file.seek(place)
                file.write(self.contents[place : place + len(octets)])
        names = [{(one.pid, one.name) for one in each.processes} for each in (damaged, self.sound)]
        assert names[0] == names[1]
        return damaged, np.flatnonzero(damaged.classes != self.sound.classes)

    def resource(self, bounds: tuple[int, int]) -> int:
        """The place of the resource with these bounds."""
        packed = struct.pack("<QQ", *bounds)
        assert self.contents.count(packed) == 1
        return self.contents.index(packed)

    @property
    def sections(self) -> list[int]:
        """The places of the words that lead to the struct pages of each section."""
        words = np.frombuffer(self.contents, "<u8")
        told = np.flatnonzero((words >> np.uint64(63) == 1) & (words & np.uint64(0xFFF) == 0xF))
        stride = self.truth.era.section_size // 8
        runs = [place for place in told if words[place + stride] == words[place]]
        assert len(runs) == SIZE // (16 * MIB) - 1
        return [8 * int(runs[0] + number * stride) for number in range(len(runs) + 1)]

    def described(self, member: str) -> int:
        """The place of a member's offset in the kernel's description of task_struct (BTF)."""
        begin = self.contents.index(b"\x9f\xeb\x01\0\x18")
        header = struct.unpack_from("<HBBIIIII", self.contents, begin)
        types, text = begin + header[3] + header[4], begin + header[3] + header[6]
        name = self.contents.index(b"\0" + member.encode() + b"\0", text) + 1 - text
        words = np.frombuffer(self.contents, "<u4", header[5] // 4, types)
        offset = 8 * self.truth.places[member]
        [row] = np.flatnonzero((words[:-2] == name) & (words[2:] == offset))
        found: int = types + 4 * int(row + 2)
        return found

    @property
    def free_blocks(self) -> list[tuple[int, int]]:
        """The place of `private`, and the order, in the first struct page of each free block."""
        pages = np.frombuffer(self.contents, "<u4").reshape(-1, 16)
        places = self.truth.era.places
        private, kind = places["private"] // 4, places["_mapcount"] // 4
        rows = np.flatnonzero(
            (pages[:, kind] == self.truth.era.buddy % 2**32)
            & (pages[:, places["_refcount"] // 4] == 0)
            & (pages[:, private] <= 10)
            & (pages[:, private + 1] == 0)
        )
        return [(64 * row + 4 * private, int(pages[row, private])) for row in rows.tolist()]


@pytest.fixture(scope="module", params=["6.1"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A dump of three sections."""
    path = tmp_path_factory.mktemp("records") / "dump"
    truth = forge_linux(path, request.param, size=SIZE, seed=3)
    sound = memory_visualizer.open(path)
    return World(path, truth, sound, path.read_bytes())


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("octet", [3, 6])
@pytest.mark.many
def test_a_wrong_section(world: World, number: int, octet: int) -> None:
    """The sections share one array, so the others tell the place of the wrong one's pages."""
    _, changed = world.changed(world.sections[number] + octet, b"\x12")
    assert not len(changed)


def _far(place: int) -> bytes:
    return struct.pack("<Q", place)


DAMAGES: dict[str, tuple[int, Callable[[World], bytes]]] = {
    "first byte": (0, lambda _: _far(SIZE - 2 * PAGE)),
    "last byte": (8, lambda _: _far(8 * MIB - 1)),
    "name": (16, lambda world: _far(world.truth.direct)),
    "name lost": (16, lambda _: _far(0)),
    "sibling of the first": (48, lambda _: _far(1 << 40)),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.many
def test_a_wrong_resource(world: World, damage: str) -> None:
    """Memory in use by its own records does not vanish; a remark tells of the damage."""
    distance, octets = DAMAGES[damage]
    bounds = RAM[0] if damage == "sibling of the first" else RAM[1]
    snapshot, changed = world.changed(world.resource(bounds) + distance, octets(world))
    # At most frames that are no memory, and as reserved as the kernel's image.
    assert set(world.truth.states[changed].tolist()) <= {"absent"}
    assert any("map of resources" in remark for remark in snapshot.remarks)
    assert not any("map of resources" in remark for remark in world.sound.remarks)


# Eight bytes behind real_parent stands parent, which is nearly always equal.
def test_records_of_ones(world: World) -> None:
    """Such records tell nothing: their frames' state is unknown, and no other frame changes."""
    place, order = next(one for one in world.free_blocks if one[1] == 3)
    begin = place - world.truth.era.places["private"]
    snapshot, changed = world.changed(begin, b"\xff" * (64 << order))
    assert len(changed) <= 1 << order
    states = np.asarray(snapshot.states)
    assert np.count_nonzero(states == PageState.UNKNOWN) == 1 << order
    assert np.count_nonzero(states != np.asarray(world.sound.states)) == 1 << order


def test_records_of_holes() -> None:
    """Frames outside of RAM that are reserved, or have a record without a use, are no memory."""
    is_ram = np.ones(400, bool)
    is_ram[100:200] = is_ram[250:350] = is_ram[399] = False
    states = np.full(400, PageState.ANONYMOUS, np.uint8)
    states[100:200] = PageState.KERNEL_OTHER
    states[150:160] = PageState.RESERVED
    states[170] = PageState.SLAB
    states[250:350:4] = PageState.RESERVED
    found = np.flatnonzero(without_memory(states, is_ram)).tolist()
    assert found == [frame for frame in range(100, 200) if frame != 170]


@pytest.mark.parametrize(
    ("member", "distance"),
    [*((name, 8) for name in NAMES if name != "real_parent"), *((name, 64) for name in NAMES)],
)
@pytest.mark.many
def test_a_wrong_word_in_the_description_of_types(world: World, member: str, distance: int) -> None:
    """The tasks outvote BTF: the report on each process stays as it is."""
    place = world.described(member)
    own = world.truth.places[member]
    assert world.contents[place : place + 4] == struct.pack("<I", 8 * own)
    snapshot, changed = world.changed(place, struct.pack("<I", 8 * (own + distance)))
    assert not len(changed)
    assert snapshot.processes == world.sound.processes
    assert any(
        f"(BTF) is damaged: most tasks have {NAMES[member]} " in one for one in snapshot.remarks
    )


def test_a_wrong_address_of_the_description_of_types(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the symbol is wrong, the description is found by its beginning."""
    find = KernelSymbols.find

    def wrong(self: KernelSymbols, names: Sequence[str]) -> dict[str, int]:
        found = find(self, names)
        return {name: at + 64 * (name == "__start_BTF") for name, at in found.items()}

    monkeypatch.setattr(KernelSymbols, "find", wrong)
    snapshot = memory_visualizer.open(world.path)
    assert snapshot.processes == world.sound.processes
    assert snapshot.remarks == world.sound.remarks


@pytest.mark.parametrize("order", [1, 5, 10, 19])
@pytest.mark.many
def test_a_wrong_order_of_a_free_block(world: World, order: int) -> None:
    """A block that claims to be larger takes no page in use; at most its own pages change."""
    blocks = [(place, own) for place, own in world.free_blocks if own < 4]
    for place, own in blocks[:: len(blocks) // 3]:
        _, changed = world.changed(place, bytes([order]))
        assert len(changed) <= 1 << own
