"""What one object claims takes no room from others, and what is left out is told."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import limits
from memory_visualizer.linux import mapletree, regions, system
from memory_visualizer.linux.dentries import Dentries
from memory_visualizer.linux.mapletree import Entries
from memory_visualizer.paging import Mappings
from memory_visualizer.paging.tablememory import TableMemory
from tests.synth.linux import forge_linux
from tests.synth.memory import PAGE_SIZE


def mappings_of(pages: dict[int, int]) -> Mappings:
    """So many mappings for each space."""
    space = np.repeat(np.array([*pages], np.int32), [*pages.values()])
    count = len(space)
    numbers = np.arange(count)
    return Mappings(
        space,
        numbers.astype(np.uint64) * np.uint64(PAGE_SIZE),
        numbers,
        np.ones(count, np.int64),
        np.full(count, 7, np.uint8),
    )


def test_processes_that_share_much_memory() -> None:
    """A second process beside a large one takes the room; small processes keep their pages."""
    large, small = 100_000, 10
    own = mappings_of({0: large, 3: small})
    found, lacking = system._with_sharers(own, {0: [1, 2], 3: [4, 5]})
    count = np.bincount(found.space, minlength=6)
    assert count.tolist() == [large, large, 0, small, small, small]
    assert lacking == 1
    nothing_shared, none = system._with_sharers(own, {})
    assert nothing_shared is own and none == 0


def test_a_process_with_as_many_regions_as_there_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two such processes leave room for the regions of all others."""
    truth = forge_linux(tmp_path / "dump", files=True)
    assert truth.files
    snapshot = memory_visualizer.open(tmp_path / "dump")
    greedy: list[int] = []
    read_tree = mapletree.read_tree

    def read(kernel: TableMemory, root: int, limit: int) -> Entries:
        if len(greedy) < 2:
            greedy.append(limit)
            return Entries([(number, number, root) for number in range(limit)], 0, 0)
        return read_tree(kernel, root, limit)

    monkeypatch.setattr(regions, "read_tree", read)
    told = [
        (process.pid, found)
        for process in snapshot.processes
        if (found := snapshot.regions(process)) is not None
    ]
    assert len(greedy) == 2 and min(greedy) > 1000
    for pid, found in told[2:]:
        bounds = [(one.start, one.end) for one in found]
        assert bounds == [(one.start, one.end) for one in truth.files.regions[pid]]
    assert len(told) > 3


def test_many_file_systems_with_the_same_mounts() -> None:
    """The lists of all file systems share a limit, and a remark counts the rest."""
    ring = 1_000
    budget = limits.Budget(1)
    asked: list[int] = []

    def number(address: int, _: int = 8) -> int:
        asked.append(address)
        return 0xFFFF_8000_0000_0000 + (address + 1) % ring

    kernel: Any = SimpleNamespace(
        number=number, upper=1 << 63, memory=SimpleNamespace(budget=budget)
    )
    mount = SimpleNamespace(link=0, is_list=False)
    layout: Any = SimpleNamespace(mount=mount, s_mounts=8)
    dentries = Dentries(kernel, layout, 0)
    lists = [len(list(dentries._listed((1 << 62) + ring * n))) for n in range(1, 101)]
    assert lists[0] == ring
    assert len(asked) < 8 * budget.limit("mount")
    assert any("left out" in remark for remark in budget.remarks)
