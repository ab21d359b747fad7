"""Columns of very large dumps are in scratch files, with the same results."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import memory_visualizer
from memory_visualizer import scratch
from memory_visualizer.scratch import column
from tests.fuzz.seeds import seed


def lies_in_a_file(values: NDArray[Any]) -> bool:
    """Whether values are in a mapped file that has no name."""
    address = values.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(text, 16) for text in line.split()[0].split("-"))
        if start <= address < end:
            return "(deleted)" in line
    return False


@pytest.mark.posix
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no room can be taken in advance")
@pytest.mark.parametrize("system", ["win7", "linux"])
def test_the_same_results(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dump"
    path.write_bytes(seed(system, "raw").contents)
    before = memory_visualizer.open(path)
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(scratch, "LARGEST_COLUMN", 1000)
    after = memory_visualizer.open(path)
    for name in ("classes", "zero", "mapping_count"):
        assert np.array_equal(getattr(before, name), getattr(after, name))
        if Path("/proc/self/maps").exists():
            assert lies_in_a_file(getattr(after, name)) and not lies_in_a_file(
                getattr(before, name)
            )
    assert after.summary() == before.summary()
    assert list(folder.iterdir()) == []


def test_a_disk_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room on the disk, the column is in memory, if there is room."""

    def fail(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(scratch, "LARGEST_COLUMN", 1000)
    monkeypatch.setattr(os, "posix_fallocate", fail, raising=False)
    values = column(2000, np.uint32)
    assert values.dtype == np.uint32 and values.shape == (2000,) and not values.any()
    values[:] = 1
