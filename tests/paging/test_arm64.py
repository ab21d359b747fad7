"""Page tables of 64-bit ARM: the walk, against a reader that reads one descriptor at a time."""

import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memory_visualizer.paging import (
    MAY_EXECUTE,
    MAY_USER,
    MAY_WRITE,
    Mappings,
    Paging,
    arm64,
    as_linux_on_arm64_has_it,
    as_processor_has_it,
    translate,
    walk,
)
from memory_visualizer.paging.tablememory import TableMemory
from tests.conftest import random_cases
from tests.paging.memory import PAGE, Memory
from tests.simple_walker import ArmPage, ArmRegime, walk_arm

REGIMES = {
    "4 KiB, 39 bits": ArmRegime(12, 39),
    "4 KiB, 48 bits": ArmRegime(12, 48),
    "4 KiB, 48 bits, upper": ArmRegime(12, 48, upper=True),
    "4 KiB, 52 bits": ArmRegime(12, 52, ds=True),
    "16 KiB, 36 bits": ArmRegime(14, 36),
    "16 KiB, 47 bits": ArmRegime(14, 47),
    "16 KiB, 48 bits": ArmRegime(14, 48),
    "16 KiB, 52 bits, upper": ArmRegime(14, 52, upper=True, ds=True),
    "64 KiB, 42 bits": ArmRegime(16, 42),
    "64 KiB, 48 bits": ArmRegime(16, 48),
    "64 KiB, 52 bits": ArmRegime(16, 52),
}
PAGES = 12
"""Pages of the regime's size."""
FLAGS = st.sampled_from(
    [
        *[0x703, 0x743, 0x7C3, 0x783, 0xF43, 0x003],  # pages or tables, and their rights
        *[0x403] * 8,
        *[0x701, 0x741, 0x7C1, 0x001],  # blocks, or reserved
        *[0x000, 0xF00, 0x842, 0x002],  # not valid
    ]
)
UPPER_BITS = st.one_of(
    st.just(set[int]()),
    st.sets(st.sampled_from([50, 51, 52, 53, 54, 55, 58, 59, 60, 61, 62, 63]), max_size=4),
)
INDEX = st.one_of(st.integers(0, 3), st.integers(0, 8191))
PLACE = st.one_of(
    st.integers(0, PAGES + 1),
    st.integers(0, PAGES - 1),
    st.sampled_from([0x200, 0x800, 0x2000, 1 << 18, 1 << 30, 1 << 34]),
)
TABLES = st.lists(
    st.lists(
        st.tuples(INDEX, PLACE, FLAGS, UPPER_BITS, st.integers(0, 3)),
        min_size=1,
        max_size=6,
    ),
    min_size=PAGES,
    max_size=PAGES,
)

Tables = list[list[tuple[int, int, int, set[int], int]]]


def paging_of(regime: ArmRegime) -> Paging:
    """The paging by the manual alone, also for descriptors that no system makes."""
    architecture = arm64(regime.page_bits, regime.address_bits, upper=regime.upper, large=regime.ds)
    return as_processor_has_it(architecture)


def memory_with(tables: Tables, regime: ArmRegime) -> bytes:
    """Memory with these descriptors; some have a bit of a high address."""
    size = 1 << regime.page_bits
    memory = bytearray(PAGES * size)
    for page, descriptors in enumerate(tables):
        for index, target, flags, upper, high in descriptors:
            if regime.ds and not high:
                flags &= ~0x300  # shareability is elsewhere: these bits belong to the address
            entry = target << regime.page_bits | flags | sum(1 << bit for bit in upper)
            struct.pack_into("<Q", memory, page * size + index * 8 % size, entry & (1 << 64) - 1)
    return bytes(memory)


_TORN: Tables = [[(0, 0, 0x703, set(), 0)] for _ in range(PAGES)]
_TORN[0] += [(1, 1, 0x701, set(), 0), (2, 1 << 30, 0x703, set(), 0), (3, 1, 0x701, set(), 0)]
"""Two broken entries of four, and one between them that names no memory: together most."""


@pytest.mark.parametrize("name", REGIMES)
@pytest.mark.many
def test_finds_what_a_simple_reader_finds(name: str) -> None:
    """The simple reader finds the same frames, with the same first addresses and rights."""
    regime = REGIMES[name]
    paging = paging_of(regime)
    root_bytes = paging.architecture.root_bytes

    @settings(max_examples=random_cases(40), deadline=None)
    @given(tables=TABLES, slot=st.sampled_from([0, 0, 0, 1]))
    @example(tables=_TORN, slot=0)
    def check(tables: Tables, slot: int) -> None:
        contents = memory_with(tables, regime)
        # Small top tables lie anywhere in a page; others begin with a page.
        base = slot << regime.page_bits if paging.architecture.is_whole else slot * root_bytes
        roots = paging.architecture.roots_at(np.array([base]))
        found = found_by_walk(Memory(contents), paging, roots)
        expected: dict[tuple[int, bool], tuple[int, bool, bool]] = {}
        rights = set()
        pages = list(walk_arm(contents, regime, base))
        for page in pages:
            for frame, virtual in frames_of(page, len(contents)):
                key = frame, page.el0
                place = expected.get(key, (2**64, False, False))[0]
                rights.add((frame, page.el0, page.write, page.execute))
                expected[key] = min(place, virtual), False, False
        assert {key: place for key, (place, _) in found.items()} == {
            key: place for key, (place, _, _) in expected.items()
        }
        assert {(*key, *right) for key, (_, some) in found.items() for right in some} == rights
        check_single_addresses(contents, paging, roots, pages)

    check()


def frames_of(page: ArmPage, size: int) -> list[tuple[int, int]]:
    """The frames of 4 KiB that memory of this size has, with their addresses."""
    first, count = page.physical // PAGE, page.size // PAGE
    inside = max(0, min(count, size // PAGE - first))
    return [(first + number, page.virtual + number * PAGE) for number in range(inside)]


def found_by_walk(
    memory: Memory, paging: Paging, roots: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> dict[tuple[int, bool], tuple[int, set[tuple[bool, bool]]]]:
    """The first address of each frame for user mode and for the kernel, and its rights."""
    rows = Mappings.join(list(walk(memory, paging, roots)))
    found: dict[tuple[int, bool], tuple[int, set[tuple[bool, bool]]]] = {}
    columns = (rows.virtual, rows.pfn, rows.count, rows.access)
    for virtual, first, count, access in zip(*(one.tolist() for one in columns), strict=True):
        for number in range(min(count, memory.frame_count - first)):
            key = first + number, bool(access & MAY_USER)
            place, rights = found.get(key, (2**64, set()))
            rights = rights | {(bool(access & MAY_WRITE), bool(access & MAY_EXECUTE))}
            found[key] = min(place, virtual + number * PAGE), rights
    return found


def check_single_addresses(
    contents: bytes,
    paging: Paging,
    roots: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    pages: list[ArmPage],
) -> None:
    """Both ways of translation agree with the pages, at their ends and in unmapped places."""
    frames = len(contents) // PAGE
    space = TableMemory(Memory(contents), paging, roots[0].tolist())
    for page in pages[:20]:
        for inside in (0, page.size - PAGE):
            frame, address = (page.physical + inside) // PAGE, page.virtual + inside
            expected = frame if frame < frames else -1
            assert translate(Memory(contents), paging, roots, address) == [expected]
            assert space.frame(address) == frame
            assert space.frames(np.array([address], np.uint64)).tolist() == [frame]


def test_levels_and_top_tables() -> None:
    """Number of levels and size of the top table are as in table D8-5 and the tables after it."""
    sizes = {
        (12, 39): (3, 4096),
        (12, 48): (4, 4096),
        (12, 52): (5, 128),
        (14, 47): (3, 16384),
        (14, 48): (4, 16),
        (14, 52): (4, 256),
        (16, 42): (2, 65536),
        (16, 48): (3, 512),
        (16, 52): (3, 8192),
    }
    for (page_bits, bits), (levels, size) in sizes.items():
        architecture = arm64(page_bits, bits, large=bits == 52 and page_bits < 16)
        assert len(architecture.levels) == levels
        assert architecture.address_bits == bits
        assert architecture.root_bytes * architecture.top_frames == size
        assert architecture.levels[-1].pages == architecture.page_frames == 1 << page_bits - 12
        # A smaller one is an object in a slab (arch/arm64/mm/pgd.c).
        assert architecture.has_page_for_root == (size == 1 << page_bits)


def test_addresses_of_the_upper_half() -> None:
    """They begin with ones, whatever the topmost translated bit is."""
    upper = arm64(12, 48, upper=True)
    some = np.array([0, 0x8000_0000_0000], np.uint64)
    assert upper.canonical(some).tolist() == [0xFFFF_0000_0000_0000, 0xFFFF_8000_0000_0000]
    assert arm64(12, 48).canonical(some).tolist() == some.tolist()


def test_tops_of_several_processes_in_one_frame() -> None:
    """Each process has only the mappings below its own entries."""
    architecture = arm64(14, 48)
    words = np.zeros((4 * 16, 512), np.uint64)
    for slot in range(3):
        words[0, 2 * slot] = (16 + 16 * slot) << 12 | 0x403  # page 4, 8, 12: level 1
        words[16 + 16 * slot, 0] = (20 + 16 * slot) << 12 | 0x403
        words[20 + 16 * slot, 0] = (24 + 16 * slot) << 12 | 0x403
        words[24 + 16 * slot, 1] = (4 * slot) << 12 | 0xF43
    memory = Memory(words.tobytes())
    paging = as_linux_on_arm64_has_it(architecture)
    roots = architecture.roots_at(np.array([0, 16, 32]))
    rows = Mappings.join(list(walk(memory, paging, roots)))
    owned = sorted(zip(rows.space.tolist(), rows.pfn.tolist(), rows.virtual.tolist(), strict=True))
    assert owned == [
        (slot, 4 * slot + part, 0x4000 + part * PAGE) for slot in range(3) for part in range(4)
    ]
    assert (rows.count == 1).all()


@pytest.mark.parametrize(
    ("before", "entry", "seen"),
    [
        (False, 0x5F42 | 1 << 11, True),
        (False, 0x5742 & ~0x800 | 1 << 58, False),
        (True, 0x5742 & ~0x800 | 1 << 58, True),
        (True, 0x5000 | 1 << 11, False),  # an offset in swap
    ],
)
def test_pages_that_nobody_may_use(before: bool, entry: int, seen: bool) -> None:
    """Bit 58 marks them up to 6.9, the bit nG later; they belong to user mode, without rights."""
    paging = as_linux_on_arm64_has_it(arm64(12, 48), is_before_6_10=before)
    entries = np.array([entry], np.uint64)
    assert paging.is_present(entries).tolist() == [seen]
    if seen:
        assert paging.frames(entries, paging.levels[-1]).tolist() == [5]
        assert paging.access(entries, np.ones(1, bool)).tolist() == [MAY_USER]
        impossible = paging.is_impossible(entries, np.array([5]), paging.levels[-1])
        assert impossible.tolist() == [False]
