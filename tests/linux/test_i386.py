"""Linux on 32 bits: synthetic memory with high memory, with and without PAE."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import memory_visualizer
from tests.linux.test_linux import assert_is_truth, changed, labels, lines_changed, owned
from tests.synth.linux import MIB, LinuxTruth
from tests.synth.linux386 import forge_linux_on_i386

WITH_PAE = pytest.mark.parametrize("pae", [True, False], ids=["PAE", "two levels"])
NO_TYPES = (
    "the kernel does not describe its types (BTF); its processes were found by their structure"
)


@WITH_PAE
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.many
def test_every_frame_and_process(pae: bool, seed: int, tmp_path: Path) -> None:
    """A quarter of memory is high; the kernel maps only one page of it."""
    truth = forge_linux_on_i386(tmp_path / "dump", pae=pae, seed=seed)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert_is_truth(snapshot, truth)
    assert snapshot.paging is not None
    assert snapshot.paging.name == ("PAE" if pae else "x86")
    assert snapshot.remarks == (NO_TYPES,)
    high = 48 * MIB // 4096
    assert {"user", "kernel", "unused-data"} <= set(labels(snapshot)[high:])


@WITH_PAE
def test_no_high_memory(pae: bool, tmp_path: Path) -> None:
    truth = forge_linux_on_i386(tmp_path / "dump", pae=pae, low=64 * MIB)
    assert_is_truth(memory_visualizer.open(tmp_path / "dump"), truth)


@WITH_PAE
def test_a_hole(pae: bool, tmp_path: Path) -> None:
    """The hole is absent, though the array of struct pages covers it."""
    size, low = 128 * MIB, 112 * MIB
    truth = forge_linux_on_i386(tmp_path / "dump", pae=pae, size=size, low=low, hole=True, seed=1)
    assert (truth.states[64 * MIB // 4096 : 96 * MIB // 4096] == "absent").all()
    assert_is_truth(memory_visualizer.open(tmp_path / "dump"), truth)


@WITH_PAE
def test_a_line_that_is_damaged(pae: bool, tmp_path: Path) -> None:
    """The kind of tables that translates is taken, despite the damaged line."""
    truth = forge_linux_on_i386(tmp_path / "whole", pae=pae)
    line = rb"CONFIG_X86_PAE=(y)" if pae else rb"NUMBER\(PG_lru\)=(4)"
    places = lines_changed(tmp_path / "whole", truth, line, b"n" if pae else b"x")
    assert places
    dump = changed(tmp_path / "whole", tmp_path / "dump", places)
    snapshot = memory_visualizer.open(dump)
    assert str(snapshot.system) == f"Linux {truth.era.release}"
    assert owned(snapshot) == truth.owners


@WITH_PAE
def test_without_its_text(pae: bool, tmp_path: Path) -> None:
    """Page tables and banner tell the kernel; states of pages are unknown."""
    truth = forge_linux_on_i386(tmp_path / "whole", pae=pae)
    places = {frame * 4096: b"?" * 4096 for frame in truth.text_frames}
    snapshot = memory_visualizer.open(changed(tmp_path / "whole", tmp_path / "dump", places))
    assert str(snapshot.system) == f"Linux {truth.era.release}"
    assert snapshot.remarks[0].startswith("the kernel's VMCOREINFO was not found")
    assert any("does not tell the size of its struct page" in said for said in snapshot.remarks)
    told = [(p.pid, p.ppid, p.name, p.dtb, p.object_address) for p in snapshot.processes]
    assert told == [
        (task.pid, task.ppid, task.full_name or task.comm, task.dtb, task.address)
        for task in truth.tasks
    ]
    assert owned(snapshot) == truth.owners
    mapped = np.isin(truth.classes, ("user", "both"))
    np.testing.assert_array_equal(labels(snapshot) == "user", mapped)


def with_directories(
    whole: Path, truth: LinuxTruth, dump: Path, others: NDArray[np.uint32]
) -> Path:
    """Copy a dump without the kernel's text, with page directories in the lowest free pages."""
    frames = np.flatnonzero(truth.states == "free")[: len(others)]
    assert len(frames) == len(others)
    places = {int(frame) * 4096: one.tobytes() for frame, one in zip(frames, others, strict=True)}
    places |= {frame * 4096: b"?" * 4096 for frame in truth.text_frames}
    return changed(whole, dump, places)


def of_another_machine(count: int) -> NDArray[np.uint32]:
    """Page directories that map low memory in a row, writable, and so no kernel's image."""
    directories = np.zeros((count, 1024), np.uint32)
    directories[:, 768:784] = np.arange(16) << 22 | 0x1E3
    return directories


def test_many_page_directories_of_another_machine(tmp_path: Path) -> None:
    """A guest inside the machine may leave so many directories; all of them are of one kind."""
    truth = forge_linux_on_i386(tmp_path / "whole", pae=False)
    others = of_another_machine(1100)
    dump = with_directories(tmp_path / "whole", truth, tmp_path / "dump", others)
    snapshot = memory_visualizer.open(dump)
    assert str(snapshot.system) == f"Linux {truth.era.release}"
    assert owned(snapshot) == truth.owners


def test_page_directories_that_are_not_tried(tmp_path: Path) -> None:
    """Each directory is of its own kind, fuller than the kernel's; a remark counts the untried."""
    truth = forge_linux_on_i386(tmp_path / "whole", pae=False)
    others = of_another_machine(100)
    others[:, 784:] = np.arange(1, 101)[:, None] << 12
    dump = with_directories(tmp_path / "whole", truth, tmp_path / "dump", others)
    snapshot = memory_visualizer.open(dump)
    assert snapshot.system is None
    [told] = [said for said in snapshot.remarks if "kinds of page directory left out" in said]
    # The kernel's own kind, which its processes' directories share, counts, too.
    tried = snapshot.dump.budget.limit("kind of page directory")
    assert told.startswith(f"{len(others) + 1 - tried} ")
