"""Windows on 64-bit ARM: synthetic memory in its publicly known form."""

from pathlib import Path

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import PageClass
from memory_visualizer.paging import ARM64_BOTH_HALVES
from tests.snapshot.test_snapshot import assert_is_truth
from tests.synth import MIB, forge, profiles
from tests.synth.windowsarm import forge_windows_on_arm64
from tests.windows.test_modules import row
from tests.windows.test_regions import found_in, rows_of


@pytest.mark.parametrize(
    ("profile", "seed"), [("Win10x64_17763", 0), ("Win10x64_17763", 1), ("Win10x64_10586", 2)]
)
def test_every_frame_and_process(profile: str, seed: int, tmp_path: Path) -> None:
    """Tables that name themselves, KUSER_SHARED_DATA and the objects' form are found as on x64."""
    truth = forge_windows_on_arm64(tmp_path / "dump", profile, size=32 * MIB, seed=seed)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert snapshot.paging is not None
    assert snapshot.paging.architecture is ARM64_BOTH_HALVES
    assert str(snapshot.system).startswith("Windows 10.0")
    assert_is_truth(snapshot, truth)


def test_access(tmp_path: Path) -> None:
    """Clean pages have Windows' own bit if they may be written."""
    truth = forge_windows_on_arm64(tmp_path / "dump", size=32 * MIB)
    forge(tmp_path / "x64", profiles()[truth.profile], size=32 * MIB)
    arm = memory_visualizer.open(tmp_path / "dump")
    x64 = memory_visualizer.open(tmp_path / "x64")
    user = arm.classes == PageClass.USER
    np.testing.assert_array_equal(arm.access[user], x64.access[user])
    assert arm.remarks == x64.remarks == ()


def test_modules_and_regions(tmp_path: Path) -> None:
    """Their forms tell them, whatever the page tables look like."""
    truth = forge_windows_on_arm64(tmp_path / "dump", size=16 * MIB, objects=True)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert snapshot.modules == tuple(row(module) for module in truth.modules)
    assert found_in(snapshot) == rows_of(truth)
