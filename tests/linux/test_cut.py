"""Dumps of Linux that end too early: what is left is painted, and what was seen is said."""

from pathlib import Path

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer.snapshot.pagemap import PageClass
from tests.synth.linux import MIB, forge_linux


@pytest.mark.parametrize("quarters", [2, 3])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("era", ["6.1", "4.19"])
def test_what_is_left_of_a_dump(era: str, seed: int, quarters: int, tmp_path: Path) -> None:
    """Wherever the kernel lay, processes of which the tables are left are painted."""
    path = tmp_path / "dump"
    truth = forge_linux(path, era, size=64 * MIB, processes=12, seed=seed)
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) * quarters // 4])
    snapshot = memory_visualizer.open(path)
    assert any("the dump was cut short" in remark for remark in snapshot.remarks)
    left = truth.classes[: len(snapshot.classes)]
    is_user = np.isin(snapshot.classes, (PageClass.USER, PageClass.BOTH))
    assert is_user.any()
    assert set(left[is_user]) <= {"user", "both"}
    roots = [task.dtb for task in truth.tasks if task.dtb and task.dtb < len(left) * 4096]
    if not str(snapshot.system).startswith("Linux"):
        assert max(truth.text_frames) >= len(left) or truth.top >= len(left)
        assert len(snapshot.processes) <= len(roots)
