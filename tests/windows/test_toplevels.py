"""Votes of top-level tables: samples of tables vote, and all tables are compared."""

from pathlib import Path

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer.paging.architecture import X64
from memory_visualizer.paging.software import as_windows_has_it
from memory_visualizer.windows import toplevels
from tests.synth import MIB, forge, profiles


def test_every_table_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables beyond the first batch, and beyond the voters, are compared, too."""
    truth = forge(tmp_path / "dump", profiles()["Win7SP1x64"], size=16 * MIB, processes=12)
    dump = memory_visualizer.open(tmp_path / "dump").dump
    roots = np.array([[process.dtb // 4096] for process in truth.processes if not process.exited])
    strangers = np.array([[1], [2]])
    everyone = np.concatenate((roots, strangers))
    monkeypatch.setattr(toplevels, "_COMPARED_AT_ONCE", 5)
    monkeypatch.setattr(toplevels, "_SAMPLED_TABLES", 4)
    paging = as_windows_has_it(X64)
    kin = toplevels.share_kernel(dump, paging, everyone, np.ones(len(everyone), bool))
    assert kin.tolist() == [True] * len(roots) + [False] * len(strangers)
