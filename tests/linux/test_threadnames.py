"""Full names of kernel threads without a description of the kernel's types."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer.linux import tasks, threadnames
from memory_visualizer.linux.btf import Btf
from memory_visualizer.linux.offsets import Offsets, offsets_by_btf
from memory_visualizer.paging.tablememory import TableMemory
from tests.linux.test_linux import changed, qemu_truth
from tests.synth.linux386 import forge_linux_on_i386

_PLACES = ("kthread", "full_name", "data", "work", "description", "pool")
_WITHOUT: dict[str, Any] = dict.fromkeys((*_PLACES, "rescued", "queue_name"))


def test_a_real_guests_names(qemu_core: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets follow from the threads themselves and equal BTF's; names are the kernel's."""
    by_btf, by_form = list[Offsets](), list[Offsets]()
    real_btf, real_form = offsets_by_btf, threadnames.with_thread_names

    def without_names(types: Btf) -> Offsets | None:
        offsets = real_btf(types)
        assert offsets
        by_btf.append(offsets)
        return replace(offsets, **_WITHOUT)

    def with_names(kernel: TableMemory, offsets: Offsets, listed: Sequence[int]) -> Offsets:
        by_form.append(real_form(kernel, offsets, listed))
        return by_form[-1]

    monkeypatch.setattr(tasks, "offsets_by_btf", without_names)
    monkeypatch.setattr(tasks, "with_thread_names", with_names)
    snapshot = memory_visualizer.open(qemu_core[0])
    assert {field.name for field in fields(Offsets)} > set(_WITHOUT)
    for place in _PLACES:
        assert getattr(by_form[0], place) == getattr(by_btf[0], place) is not None, place
    truth = np.load(qemu_truth())
    told = dict(zip(truth["pids"].tolist(), truth["comm"].tolist(), strict=True))
    assert {process.pid: process.name for process in snapshot.processes} == told


@pytest.mark.parametrize("lost", [1, 2])
def test_some_names_are_lost(lost: int, tmp_path: Path) -> None:
    """A damaged link costs its own thread's name; the names of others stay."""
    truth = forge_linux_on_i386(tmp_path / "whole", seed=3)
    chosen = [task for task in truth.tasks if task.full_name]
    place = truth.places["worker_private"]
    places = {task.address - truth.direct + place: b"\xff" * 4 for task in chosen[:lost]}
    snapshot = memory_visualizer.open(changed(tmp_path / "whole", tmp_path / "dump", places))
    told = {process.pid: process.name for process in snapshot.processes}
    for task in truth.tasks:
        full = (task.full_name or task.comm) if task not in chosen[:lost] else task.comm
        assert told[task.pid] == full
