"""Linux dumps: each page, each owner and each process as the truth says."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import memory_visualizer
from memory_visualizer import PageClass, Snapshot
from memory_visualizer.pagemap import PageState
from tests.forge.linux import ERAS, MIB, LinuxTruth, Task, forge_linux


def labels(snapshot: Snapshot) -> npt.NDArray[np.str_]:
    """The class of each frame, by name."""
    return np.array([page_class.label for page_class in PageClass])[snapshot.classes]


def states(snapshot: Snapshot) -> npt.NDArray[np.str_]:
    """The state of each frame, by name."""
    assert snapshot.states is not None
    return np.array([state.label for state in PageState])[snapshot.states]


def owned(snapshot: Snapshot) -> set[tuple[int, int, int]]:
    """Pid, virtual address and frame of all that processes have."""
    rows = snapshot.mappings
    assert rows.is_user.all()
    found = set()
    for space, virtual, frame, frames in zip(
        rows.space.tolist(),
        rows.virtual.tolist(),
        rows.frame.tolist(),
        rows.frames.tolist(),
        strict=True,
    ):
        pid = snapshot.processes[space].pid
        found |= {(pid, virtual + n * 4096, frame + n) for n in range(frames)}
    return found


def assert_is_truth(snapshot: Snapshot, truth: LinuxTruth) -> None:
    """Compare all that is known of each frame and of each process."""
    np.testing.assert_array_equal(states(snapshot), truth.states)
    np.testing.assert_array_equal(labels(snapshot), truth.classes)
    np.testing.assert_array_equal(snapshot.zero, truth.zero)
    assert snapshot.system == f"Linux {truth.era.release}"
    assert snapshot.kernel_dtb == truth.top * 4096
    tasks = {task.pid: task for task in truth.tasks}
    # Without BTF nobody knows whose a space is that no task in the list has.
    unknown = {pid for pid, task in tasks.items() if is_unnamed(task, truth)}
    assert owned(snapshot) == {
        (-1 if pid in unknown else pid, virtual, frame) for pid, virtual, frame in truth.owners
    }
    nameless = [p.dtb for p in snapshot.processes if p.pid == -1]
    assert sorted(nameless) == sorted(tasks[pid].dtb for pid in unknown)
    assert [
        (p.pid, p.ppid, p.name, p.dtb, p.eprocess, p.is_alive, p.is_listed, p.is_kernel_thread)
        for p in snapshot.processes
        if p.pid != -1
    ] == [
        (
            task.pid,
            task.ppid,
            (truth.era.has_btf and task.full_name) or task.comm,
            0 if task.pid in unknown else task.dtb,
            task.address,
            task.alive and task.pid not in unknown,
            task.listed,
            task.kernel_thread,
        )
        for task in truth.tasks
        if task.listed or truth.era.has_btf
    ]


def is_unnamed(task: Task, truth: LinuxTruth) -> bool:
    """Whether its memory cannot be known for its own."""
    return not truth.era.has_btf and (not task.listed or task.leader_has_ended)


@pytest.mark.parametrize("era", ERAS)
def test_every_era(era: str, tmp_path: Path) -> None:
    truth = forge_linux(tmp_path / "dump", era)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert_is_truth(snapshot, truth)


@pytest.mark.parametrize("pti", [False, True], ids=["one table", "two tables"])
@pytest.mark.parametrize("five_levels", [False, True], ids=["4 levels", "5 levels"])
@pytest.mark.parametrize("era", ["4.19", "6.12"])
def test_ways_of_paging(era: str, five_levels: bool, pti: bool, tmp_path: Path) -> None:
    """Four levels and five; page-table isolation, under which a process has two tables."""
    truth = forge_linux(tmp_path / "dump", era, five_levels=five_levels, pti=pti, seed=5)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert_is_truth(snapshot, truth)
    assert snapshot.paging is not None
    assert snapshot.paging.name == ("x86-64, 5 levels" if five_levels else "x86-64")


@pytest.mark.parametrize("seed", range(4))
def test_a_hole(seed: int, tmp_path: Path) -> None:
    """What is no RAM is absent, though a raw dump has zeros there."""
    truth = forge_linux(tmp_path / "dump", "6.1", size=96 * MIB, hole=True, seed=seed)
    assert_is_truth(memory_visualizer.open(tmp_path / "dump"), truth)
