"""Classes of page frames, against a loop over the frames."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_visualizer import arrays
from memory_visualizer.arrays import mark_runs
from memory_visualizer.snapshot.pagemap import PageClass, classify


def test_labels() -> None:
    """The names are those of pictures and legends."""
    labels = ["absent", "both", "user", "kernel", "unused-data", "unused-zero", "left-out"]
    assert [page_class.label for page_class in PageClass] == labels


def expected_class(user: bool, kernel: bool, zero: bool, absent: bool) -> str:
    """The class as the specification words it."""
    if absent:
        return "absent"
    if user and kernel:
        return "both"
    if user:
        return "user"
    if kernel:
        return "kernel"
    return "unused-zero" if zero else "unused-data"


def test_every_combination_has_its_class() -> None:
    """Each of the sixteen combinations of a frame's properties has its class."""
    frames = [tuple(bool(n >> bit & 1) for bit in range(4)) for n in range(16)]
    user, kernel, zero, absent = (np.array(column) for column in zip(*frames, strict=True))
    page_map = classify(user, kernel, zero, absent)
    labels = [PageClass(value).label for value in page_map.classes]
    assert labels == [expected_class(*frame) for frame in frames]
    assert page_map.classes.dtype == np.uint8
    assert page_map.zero.tolist() == zero.tolist()
    assert page_map.counts() == {
        page_class: labels.count(page_class.label) for page_class in PageClass
    }


def test_a_raw_dump_has_all_frames() -> None:
    """No frame of it is absent, and classes without frames are counted as 0."""
    nothing = np.zeros(3, dtype=np.bool_)
    counts = classify(nothing, nothing, nothing).counts()
    assert counts[PageClass.UNUSED_DATA] == 3
    assert sum(counts.values()) == 3 and len(counts) == 7


@given(st.data(), st.integers(1, 60))
def test_mark_runs(data: st.DataObject, frame_count: int) -> None:
    """Runs of any length may overlap, adjoin, and cover earlier marks."""
    run = st.integers(0, frame_count - 1).flatmap(
        lambda first: st.tuples(st.just(first), st.integers(1, frame_count - first))
    )
    runs = data.draw(st.lists(run, max_size=20))
    earlier = data.draw(st.lists(st.booleans(), min_size=frame_count, max_size=frame_count))

    expected = list(earlier)
    for first, count in runs:
        expected[first : first + count] = [True] * count

    columns = np.array(runs, dtype=np.int64).reshape(-1, 2)
    for few in (0, len(runs)):  # many runs are marked in another way than few
        marks = np.array(earlier)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(arrays, "_FEW_RUNS", few)
            mark_runs(marks, columns[:, 0], columns[:, 1])
        assert marks.tolist() == expected
