"""The walk of page tables, against a recursive reader that reads one entry at a time."""

import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_visualizer.paging import (
    MAY_EXECUTE,
    MAY_USER,
    MAY_WRITE,
    PAE,
    SHARED,
    X64,
    X64_5_LEVELS,
    X86,
    Losses,
    Mappings,
    Paging,
    as_linux_has_it,
    as_processor_has_it,
    as_windows_has_it,
    merge_alike,
    translate,
    walk,
)
from tests.conftest import random_cases
from tests.paging.memory import PAGE, Memory, chain
from tests.simple_walker import end_of_table
from tests.simple_walker import walk as simple_walk

ARCHITECTURES = {"x86": X86, "pae": PAE, "x64": X64, "x64-5": X64_5_LEVELS}
KINDS = {name: as_windows_has_it(each) for name, each in ARCHITECTURES.items()}
MANUAL = {
    name: replace(paging, software=replace(paging.software, table_flags=None, beginning=None))
    for name, paging in KINDS.items()
}
"""Pagings by the manual alone, also for entries that no system makes."""


FRAMES = 12
# fmt: off
FLAGS = st.sampled_from(
    [
        0x67, 0x63, 0x27, 0x65, 0xE7, 0xE3, 0x80, 0x64, 1, 5,  # present or not
        0x867, 0x860, 0x864, 0x884, 0x8A6, 0x8C0, 0xC64, 0x464,  # in transition, or like it
    ]
)
# fmt: on
FRAME = st.one_of(
    st.integers(0, FRAMES + 2),
    st.sampled_from([0x200, 0x400, 0x600, 1 << 18, 1 << 33, 1 << 34, 1 << 39, 0x20 | 1 << 33]),
)
Entry = tuple[int, int, int, bool]
ENTRY: st.SearchStrategy[Entry] = st.tuples(
    st.integers(0, 1023),  # index in the table
    FRAME,  # some are beyond the end
    FLAGS,
    st.booleans(),  # no-execute
)


@st.composite
def side_by_side(draw: st.DrawFn) -> list[Entry]:
    """Entries for distant pages, in a row or not: like a device's pages, or like numbers."""
    index = draw(st.integers(0, 500))
    frame = draw(st.sampled_from([(1 << 22) - 512, 1 << 22, 1 << 23, 1 << 30, (1 << 33) + 512]))
    step = draw(st.sampled_from([1, 1, 3, 512, 1 << 18, (1 << 20) + 1]))
    flags, barred = draw(st.sampled_from([0x67, 0x63, 0xE7, 0xE3, 0x860])), draw(st.booleans())
    count = draw(st.integers(1, 12))
    return [(index + n, frame + n * step, flags, barred) for n in range(count)]


TABLES = st.lists(
    st.lists(st.one_of(ENTRY.map(lambda one: [one]), side_by_side()), max_size=4).map(
        lambda parts: [entry for part in parts for entry in part]
    ),
    min_size=FRAMES,
    max_size=FRAMES,
)
"""A few entries for each of a few frames."""

Tables = list[list[Entry]]


def memory_with(tables: Tables, size: int) -> bytes:
    """Memory with these entries of `size` bytes."""
    memory = bytearray(FRAMES * PAGE)
    for frame, entries in enumerate(tables):
        for index, target, flags, barred in entries:
            entry = target << 12 | flags | barred << 63
            entry &= (1 << 8 * size) - 1
            at = frame * PAGE + index * size % PAGE
            struct.pack_into("<I" if size == 4 else "<Q", memory, at, entry)
    return bytes(memory)


def tops_of(name: str, roots: Sequence[int], memory: bytes) -> npt.NDArray[np.int64]:
    """The top-level frames of some table bases."""
    if name != "pae":
        return np.array([[root] for root in roots])
    return np.array(
        [[e >> 12 for e in struct.unpack_from("<4Q", memory, root * PAGE)] for root in roots]
    )


def found_by_walk(memory: Memory, paging: Paging, roots: npt.NDArray[np.int64]) -> Mappings:
    return merge_alike(Mappings.join(list(walk(memory, paging, roots))))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.many
def test_finds_what_a_simple_reader_finds(name: str) -> None:
    """The simple reader finds the same frames for the same spaces at the same first addresses."""
    paging = MANUAL[name]

    @settings(max_examples=random_cases(100), deadline=None)
    @given(
        tables=TABLES,
        roots=st.lists(st.integers(0, FRAMES - 1), min_size=1, max_size=3, unique=True),
        data=st.data(),
    )
    def check(tables: Tables, roots: list[int], data: st.DataObject) -> None:
        contents = memory_with(tables, paging.entry_bytes)
        if name == "pae":  # all four pointers are present, without upper bits
            pointers = data.draw(st.lists(st.integers(0, FRAMES - 1), min_size=4, max_size=4))
            changed = bytearray(contents)
            for root in roots:
                entries = [frame << 12 | 1 for frame in pointers]
                struct.pack_into("<4Q", changed, root * PAGE, *entries)
            contents = bytes(changed)
        rows = found_by_walk(Memory(contents), paging, tops_of(name, roots, contents))
        found: dict[tuple[int, int, int, bool], int] = {}
        rights = set()
        for space, virtual, frame, frames, access in zip(
            rows.space.tolist(),
            rows.virtual.tolist(),
            rows.pfn.tolist(),
            rows.count.tolist(),
            rows.access.tolist(),
            strict=True,
        ):
            user = bool(access & MAY_USER)
            key = (space if user else SHARED, frame, frames, user)
            found[key] = min(virtual, found.get(key, virtual))
            rights |= {(key, bit) for bit in (MAY_WRITE, MAY_EXECUTE) if access & bit}
        expected: dict[tuple[int, int, int, bool], int] = {}
        expected_rights = set()
        for space, root in enumerate(roots):
            bases = [each * PAGE for each in roots]
            for page in simple_walk(contents, name, root * PAGE, bases=bases):
                frame = page.physical // PAGE
                if frame < FRAMES:
                    key = (space if page.user else SHARED, frame, page.size // PAGE, page.user)
                    expected[key] = min(page.virtual, expected.get(key, page.virtual))
                    if page.write:
                        expected_rights.add((key, MAY_WRITE))
                    if page.execute:
                        expected_rights.add((key, MAY_EXECUTE))
        assert found == expected
        assert rights == expected_rights

    check()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.many
def test_translates_as_a_simple_reader_does(name: str) -> None:
    paging = MANUAL[name]

    @settings(max_examples=random_cases(50), deadline=None)
    @given(tables=TABLES)
    def check(tables: Tables) -> None:
        contents = memory_with(tables, paging.entry_bytes)
        if name == "pae":
            changed = bytearray(contents)
            struct.pack_into("<4Q", changed, 0, *(frame << 12 | 1 for frame in (1, 2, 3, 4)))
            contents = bytes(changed)
        roots = tops_of(name, [0], contents)
        for page in simple_walk(contents, name, 0):
            for inside in (0, page.size - PAGE):
                frame = (page.physical + inside) // PAGE
                expected = frame if frame < FRAMES else -1
                address = page.virtual + inside
                assert translate(Memory(contents), paging, roots, address) == [expected]

    check()


@pytest.mark.parametrize("name", ["x86", "x64", "x64-5"])
def test_all_entries_lead_to_one_table(name: str) -> None:
    """Stars and circles: each table is read once for each level and kind of access."""
    paging = MANUAL[name]
    entry = struct.pack("<I" if name == "x86" else "<Q", 0x67)  # frame 0: the table itself
    memory = Memory(entry * (PAGE // paging.entry_bytes) + bytes(3 * PAGE))
    rows = found_by_walk(memory, paging, np.array([[0]]))
    assert set(rows.pfn.tolist()) == {0}
    assert memory.frames_read == len(paging.levels)


def test_many_spaces_share_all_tables() -> None:
    """Hundreds of top levels that all lead to all others: ways are bounded by the pages."""
    count = 64
    words = np.zeros((count, 512), np.uint64)
    for frame in range(count):
        words[frame, :256] = (np.arange(256, dtype=np.uint64) % count << 12) | 0x67
    memory = Memory(words.tobytes())
    parts = list(walk(memory, KINDS["x64"], np.arange(count)[:, None]))
    # Each top-level table is read once more, for its vote on the width of addresses.
    assert memory.frames_read <= count * (len(X64.levels) + 1)
    assert sum(len(part.pfn) for part in parts) < 40 * count * 512


def test_frames_that_the_dump_lacks_are_left_out() -> None:
    words = np.zeros((6, 512), np.uint64)
    words[0, 0], words[1, 0], words[2, 0] = 0x1067, 0x2067, 0x3067
    words[2, 1] = 0x5067
    words[3, 0], words[3, 1] = 0x4067, 0x5067
    words[5, 0] = 0x4067
    complete = found_by_walk(Memory(words.tobytes()), KINDS["x64"], np.array([[0]]))
    assert complete.pfn.tolist() == [4, 5, 4]
    lacking = Memory(words.tobytes(), frozenset({5}))
    assert found_by_walk(lacking, KINDS["x64"], np.array([[0]])).pfn.tolist() == [4]


def test_two_tops_of_one_space() -> None:
    """A mapping in two tables of one process counts once, with the rights of both."""
    words = np.zeros((6, 512), np.uint64)
    words[0, 0], words[5, 0] = 0x1067 | 1 << 63, 0x1067  # the first forbids execution
    words[1, 0], words[2, 0], words[3, 0] = 0x2067, 0x3067, 0x4067
    spaces = np.zeros(2, np.int32)
    parts = list(walk(Memory(words.tobytes()), KINDS["x64"], np.array([[0], [5]]), spaces))
    rows = merge_alike(Mappings.join(parts))
    assert rows.pfn.tolist() == [4]
    assert rows.space.tolist() == [0]
    assert rows.access[0] & MAY_EXECUTE


# -- impossible entries, and pages that are not tables ------------------------------------------


def frames_of(words: npt.NDArray[np.uint64], paging: Paging, losses: Losses | None = None) -> Any:
    parts = list(walk(Memory(words.tobytes()), paging, np.array([[1]]), losses=losses))
    return sorted(Mappings.join(parts).pfn.tolist())


@pytest.mark.parametrize("bit", [46, 50, 51])
def test_a_flipped_bit_costs_its_entry(bit: int) -> None:
    losses = Losses()
    flags = [0x67] * 20
    flags[7] |= 1 << bit
    assert frames_of(chain(flags), KINDS["x64"], losses) == [n for n in range(5, 25) if n != 12]
    assert (losses.impossible, losses.not_tables) == (1, set())


def test_a_page_is_no_table_behind_a_break() -> None:
    """A page with another use since it was saved is partly sound: from the break on it is cut.

    Neither a flipped bit before the break nor sound entries behind another one move it.
    """
    flags = [0x67] * 40
    for index in (3, *range(22, 40, 2), 23, 39):
        flags[index] |= 1 << 50
    losses = Losses()
    kept = [n for n in range(22) if n != 3]
    assert frames_of(chain(flags), KINDS["x64"], losses) == [5 + n for n in kept]
    assert (losses.impossible, losses.torn, losses.not_tables) == (12, 7, set())


@settings(max_examples=random_cases(200))
@given(broken=st.lists(st.sampled_from([None, None, False, False, True]), min_size=1, max_size=60))
def test_a_break_costs_no_more_than_it_proves(broken: list[bool | None]) -> None:
    """Each broken entry costs at most one sound entry, and the first part is kept."""
    flags = [0 if one is None else 0x67 | one << 50 for one in broken]
    words = chain(flags)
    words[4, : len(flags)] *= np.array(flags, np.uint64) != 0
    losses = Losses()
    found = frames_of(words, KINDS["x64"], losses)
    end = end_of_table(broken)
    sound = [index for index, one in enumerate(broken) if one is False]
    if 2 * broken.count(True) > len(broken) - broken.count(None):
        assert (found, losses.not_tables) == ([], {4})
    else:
        assert found == [5 + index for index in sound if index < end]
        assert losses.torn == len(sound) - len(found) < max(broken.count(True), 1)


@pytest.mark.parametrize("level", [1, 2])
def test_a_page_of_numbers_is_no_table(level: int) -> None:
    """Small numbers would be tables at frame 0, or pages of a gigabyte there."""
    words = chain([0x67] * 20)
    words[1, 1] = 1 << 12 | 0x63  # the top-level table names itself: two levels
    words[level + 1, :] = np.arange(512) % 256
    losses = Losses()
    found = frames_of(words, KINDS["x64"], losses)
    assert not set(found) & set(range(5, 25))
    assert losses.not_tables == {level + 1}
    assert len(found) < 8


def test_what_is_out_of_sight_means_something_to_its_system_only() -> None:
    """Only Windows has pages in transition, and only Linux pages that nobody may use."""
    words = chain([0x67, 0x880, 0x67])
    inverted = ~np.uint64(40 << 12) & np.uint64(0x000F_FFFF_FFFF_F000)
    words[4, 3] = inverted | np.uint64(1 << 8 | 0x20)
    assert frames_of(words, KINDS["x64"]) == [5, 6, 7]
    assert frames_of(words, as_linux_has_it(X64)) == [5, 7, 40]
    assert frames_of(words, as_processor_has_it(X64)) == [5, 7]


def test_a_table_in_transition_is_no_large_page() -> None:
    """Bit 7 of an entry in transition belongs to its protection, and does not tell a large page."""
    words = chain([0x67])
    words[3, 0] = 4 << 12 | 0x880 | 4
    assert frames_of(words, KINDS["x64"]) == [5]


@pytest.mark.parametrize("level", [2, 3])
@pytest.mark.parametrize("low", [0xE7, 0xE5, 0xE1, 0x83, 0x81, 0xFF, 0x67, 0x65, 0x63])
def test_one_byte_in_an_empty_slot_maps_nothing(level: int, low: int) -> None:
    """The entry names frame 0, where no table is, and no large page but the kernel's own."""
    words = np.concatenate([chain([0x67] * 20), np.zeros((1 << 10, 512), np.uint64)])
    words[level, 300] = low
    losses = Losses()
    assert frames_of(words, KINDS["x64"], losses) == list(range(5, 25))
    assert (losses.impossible, losses.not_tables) == (1, set())


@pytest.mark.parametrize(("frames", "kept"), [(255, False), (256, True)])
def test_the_kernels_large_page_at_the_beginning(frames: int, kept: bool) -> None:
    """The loader's page stays, unless most of it would lie beyond the machine's memory."""
    words = np.concatenate([chain([0x67] * 20), np.zeros((frames - 64, 512), np.uint64)])
    words[3, 300] = 0xE3
    losses = Losses()
    assert frames_of(words, KINDS["x64"], losses) == [0] * kept + list(range(5, 25))
    assert losses.impossible == (not kept)
