"""Tables of mappings: joined, and merged if they are equal."""

import numpy as np

from memory_visualizer.paging.groups import SHARED, common_space, group_starts, one_of_each
from memory_visualizer.paging.mappings import (
    Losses,
    Mappings,
    merge_alike,
    merge_kernel,
    without_contradicted,
)

USER, WRITE, EXECUTE = 1, 2, 4

Row = tuple[int, int, int, int, int]


def mappings(*rows: Row) -> Mappings:
    """Mappings from rows of space, virtual address, frame, number of frames, access."""
    space, virtual, frame, frames, access = np.array(rows, np.int64).reshape(-1, 5).T
    return Mappings(
        space.astype(np.int32),
        virtual.astype(np.uint64),
        frame,
        frames,
        access.astype(np.uint8),
    )


def rows_of(found: Mappings) -> set[Row]:
    rows = list(zip(*(column.tolist() for column in found.columns), strict=True))
    assert len(set(rows)) == len(rows)
    return set(rows)


def test_joined() -> None:
    """Batches are joined in their order, and released."""
    batches = [mappings((0, 1, 2, 1, 0)), mappings(), mappings((1, 3, 4, 512, USER))]
    joined = Mappings.join(batches)
    assert joined.virtual.tolist() == [1, 3]
    assert batches == []
    assert len(Mappings.join([]).pfn) == 0
    assert rows_of(joined.take(joined.is_user)) == {(1, 3, 4, 512, USER)}


def test_alike() -> None:
    """Equal rows become one, with all rights: of one user space, or of the kernel in any spaces."""
    found = mappings(
        (0, 0x1000, 7, 1, USER),
        (0, 0x1000, 7, 1, USER | WRITE),
        (1, 0x1000, 7, 1, USER),
        (0, 0x9000, 8, 1, 0),
        (1, 0x9000, 8, 1, EXECUTE),
        (1, 0x9000, 9, 1, 0),
        (2, 0xA000, 9, 1, 0),
    )
    assert rows_of(merge_alike(found)) == {
        (0, 0x1000, 7, 1, USER | WRITE),
        (1, 0x1000, 7, 1, USER),
        (SHARED, 0x9000, 8, 1, EXECUTE),
        (1, 0x9000, 9, 1, 0),
        (2, 0xA000, 9, 1, 0),
    }


def test_the_kernels_alike() -> None:
    """Rows of user mode stay as they are, and come first."""
    found = mappings(
        (0, 0x9000, 8, 1, 0), (0, 0x1000, 7, 1, USER), (1, 0x9000, 8, 1, 0), (0, 0x1000, 7, 1, USER)
    )
    merged = merge_kernel(found)
    assert merged.is_user.tolist() == [True, True, False]
    assert merged.space.tolist() == [0, 0, SHARED]


def test_a_large_page_over_single_ones() -> None:
    """A large page is refused if processes map more than a quarter of it singly."""
    single = [(0, n << 12, n, 1, USER) for n in range(512, 512 + 129)]
    wrong, right = (1, 0x4000_0000, 512, 512, USER), (1, 0x8000_0000, 0, 512, 0)
    losses = Losses()
    kept = without_contradicted(mappings(*single, wrong, right), 2048, losses)
    assert rows_of(kept) == {*single, right}
    assert losses.contradicted == 1
    few = mappings(*single[:-1], wrong, right)
    assert without_contradicted(few, 2048, losses) is few


def test_groups() -> None:
    first, second = np.array([1, 1, 2, 2, 2]), np.array([5, 5, 5, 6, 6])
    starts = group_starts(first, second)
    assert starts.tolist() == [0, 2, 3]
    assert common_space(np.array([3, 3, 4, 1, 2], np.int32), starts).tolist() == [3, 4, SHARED]
    assert group_starts(first[:0]).tolist() == common_space(first[:0], first[:0]).tolist() == []
    frames = np.array([4, 2, 4, 4], np.int64)
    one = one_of_each(frames, 5)
    assert frames[one].tolist() == frames.tolist()
    assert len(set(one.tolist())) == 2
