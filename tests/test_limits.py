"""The limits on a dump's costs; each refusal is told."""

import re
from pathlib import Path

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer.limits import RATES, Budget, plural
from memory_visualizer.linux.kallsyms import places_of
from tests.fuzz.crafted import CRAFTED, crafted
from tests.synth import MIB


@pytest.mark.parametrize("thing", sorted(RATES))
def test_limits_grow_with_memory(thing: str) -> None:
    """Limits grow with memory, and even a small memory has some of each."""
    limits = [Budget(frames).limit(thing) for frames in (1, 1 << 16, 1 << 20, 1 << 28)]
    assert limits == sorted(set(limits))
    assert limits[0] > 0
    assert Budget(1 << 20).share(thing, 4) * 4 <= limits[2]


def test_nothing_is_refused_in_silence() -> None:
    """Each kind of refused thing has one sentence, which counts a repeated request once."""
    budget = Budget(16)
    assert not budget.remarks
    values = np.arange(10)
    for _ in range(3):
        assert budget.take("page table", values, 7).tolist() == list(range(7))
    assert budget.take("address space", list("abc"), 3) == list("abc")
    budget.refuse("table of the kernel", 1)
    budget.refuse("table of the kernel", 1)
    budget.refuse("mapping", 0)
    assert budget.remarks == (
        "3 page tables left out: more than any machine has",
        "2 tables of the kernel left out: more than any machine has",
    )


def test_all_of_a_kind_are_noted_once() -> None:
    """For refusals of whole kinds, the largest number counts, not the sum."""
    budget = Budget(16)
    for count in (0, 3, 2):
        budget.note("address space", count)
    limit = budget.limit("banner of Linux")
    assert len(budget.take("banner of Linux", list(range(limit + 5)))) == limit
    assert budget.remarks == (
        "3 address spaces left out: more than any machine has",
        "5 banners of Linux left out: more than any machine has",
    )


def test_owners_share_a_limit() -> None:
    """An owner with more things than anybody else does not cost others theirs."""
    budget = Budget(0)
    limit = budget.limit("heap")
    assert budget.shares("heap", np.array([3, limit - 6, 3])).tolist() == [3, limit - 6, 3]
    assert not budget.remarks
    assert budget.shares("heap", np.array([5, 1 << 32, 0, 7])).tolist() == [5, limit - 12, 0, 7]
    assert budget.remarks == (
        f"{(1 << 32) - limit + 12:,} heaps left out: more than any machine has",
    )
    assert budget.shares("heap", np.full(3, limit)).sum() <= limit
    assert budget.shares("heap", np.empty(0, np.int64)).tolist() == []


def test_places_of_a_text() -> None:
    """As many places as the budget allows are kept, across batches; the others are counted."""
    rng = np.random.default_rng(5)
    contents = rng.integers(0, 3, (1 << 21) + 77, dtype=np.uint8)
    text = bytes([1, 2, 0, 1, 1, 2, 0, 2, 2])
    every = [match.start() for match in re.finditer(re.escape(text), contents.tobytes())]
    budget = Budget(16)
    limit = budget.limit("possible beginning of BTF")
    assert len(every) < limit
    assert places_of(text, contents, budget, "possible beginning of BTF") == every
    assert not budget.remarks
    every = [match.start() for match in re.finditer(re.escape(text[:4]), contents.tobytes())]
    found = places_of(text[:4], contents, budget, "possible beginning of BTF")
    assert found == every[:limit]
    assert budget.remarks == (
        f"{len(every) - limit:,} possible beginnings of BTF left out: more than any machine has",
    )


def test_too_many_resources_are_told(tmp_path: Path) -> None:
    (tmp_path / "dump").write_bytes(crafted("Linux, resources", 32 * MIB))
    remarks = memory_visualizer.open(tmp_path / "dump").remarks
    assert any("rest of the list of resources left out" in remark for remark in remarks)


@pytest.mark.parametrize("thing", sorted(RATES))
def test_plurals(thing: str) -> None:
    assert plural(thing) != thing
    assert "ys" not in plural(thing)


@pytest.mark.parametrize("name", [name for name in CRAFTED if "own anywhere" in name])
def test_too_many_are_told(name: str, tmp_path: Path) -> None:
    """A dump of pages that name themselves gets a remark with the number left out."""
    (tmp_path / "dump").write_bytes(crafted(name, 16 * MIB))
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert any(
        "left out" in remark or "more than any machine" in remark for remark in snapshot.remarks
    )
