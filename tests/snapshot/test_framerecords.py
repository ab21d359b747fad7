"""Uses of frames that follow from Linux' states, and counts of both."""

from pathlib import Path

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer.cli.memviz import main
from memory_visualizer.snapshot.framerecords import PageUse
from memory_visualizer.snapshot.pagemap import PageState
from tests.synth.linux import MIB, forge_linux

USES = {
    "absent": "absent",
    "free": "unused",
    "anonymous": "process private",
    "file cache": "mapped file",
    "shared memory": "shareable",
    "slab": "kernel",
    "page table": "page table",
    "kernel image": "kernel",
    "reserved": "kernel",
    "huge page": "large page",
    "kernel other": "kernel",
    "unknown": "unknown",
}


def test_uses_on_linux(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = forge_linux(tmp_path / "dump", "6.1", size=64 * MIB)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert snapshot.uses is not None
    uses = np.array([use.label for use in PageUse])[snapshot.uses]
    assert uses.tolist() == [USES[state] for state in truth.states.tolist()]
    assert set(USES) == {state.label for state in PageState}
    counts = snapshot.use_counts()
    assert counts.sum() == len(truth.states)
    assert counts[PageUse.MAPPED_FILE, PageState.FILE_CACHE] == np.count_nonzero(
        truth.states == "file cache"
    )
    assert main([str(tmp_path / "dump"), "-o", str(tmp_path / "a.png"), "--uses"]) == 0
    [total] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  total ")]
    assert f" {len(truth.states):,} " in total
    assert main([str(tmp_path / "dump"), "-o", str(tmp_path / "b.png"), "--color-by", "use"]) == 0


def test_labels() -> None:
    assert [PageUse.SYSTEM_PTE.label, PageUse.AWE.label] == ["system PTE", "AWE"]
    assert len({use.label for use in PageUse}) == len(PageUse)
