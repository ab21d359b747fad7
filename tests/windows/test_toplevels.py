"""Votes of top-level tables: samples of tables vote, and all tables are compared."""

import pickle
from pathlib import Path

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer.paging.architecture import X64
from memory_visualizer.paging.software import as_windows_has_it
from memory_visualizer.windows import toplevels
from memory_visualizer.windows.system import learn
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


def test_an_answer_is_kept_for_the_same_tables(tmp_path: Path) -> None:
    """More tables are judged anew; and a search that is sent to a worker does not take it along."""
    truth = forge(tmp_path / "dump", profiles()["Win7SP1x64"], size=16 * MIB, processes=12)
    dump = memory_visualizer.open(tmp_path / "dump").dump
    roots = sorted(process.dtb // 4096 for process in truth.processes if not process.exited)
    search = toplevels.TopLevelSearch()
    for met in (roots[:6], roots):
        frames = np.array(met)
        search.scan(frames, dump.read_frames(frames))
        found = search.found(dump)
        assert found is not None and found is search.found(dump)
        assert sorted(found.roots[:, 0].tolist()) == met
    assert pickle.loads(pickle.dumps(search)).found(dump) is not search.found(dump)
    learned = learn(dump, toplevels.TopLevelSearch())
    assert learned and learned.known and pickle.loads(pickle.dumps(learned)).known is None
