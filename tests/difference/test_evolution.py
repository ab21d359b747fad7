"""The difference of two dumps of one machine: each frame changed as noted."""

from pathlib import Path

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer.difference.changes import Change
from memory_visualizer.difference.difference import Difference
from tests.synth.evolution import EvolvingLinux, EvolvingWindows, Happened, Known
from tests.synth.memory import PhysicalMemory
from tests.synth.profiles import profiles

SYSTEMS = ("WinXPSP3x86", "Win7SP1x64", "Win10x64", "6.1")
EVOLUTIONS = 10


def machine_of(system: str, seed: int) -> EvolvingWindows | EvolvingLinux:
    """A machine that runs this system."""
    if system in profiles():
        return EvolvingWindows(profiles()[system], seed=seed)
    return EvolvingLinux(system, seed=seed)


def assert_is_noted(found: Difference, noted: Happened, memory: PhysicalMemory) -> None:
    """Compare each frame and each process with the notes."""
    words = np.array([change.name for change in Change])[found.codes]
    np.testing.assert_array_equal(words, noted.words(memory))
    bits = np.select(
        [found.bits & 2 != 0, found.bits & 4 != 0, found.bits & 1 != 0],
        ["ZEROED", "FILLED", "CONTENTS"],
        "SAME",
    )
    expected = [noted.of_contents(frame, memory) for frame in range(memory.frames)]
    held = np.array(noted.before.classes) != "absent"
    np.testing.assert_array_equal(bits[held], np.array(expected)[held])
    assert_processes(found, noted.before, noted.after)


def assert_processes(found: Difference, before: Known, after: Known) -> None:
    """Compare the processes that came, went, grew, shrank, and got another name."""
    told = {(one.process.pid, one.change) for one in found.processes if one.change != "same"}
    old, new = before.pages.keys(), after.pages.keys()  # of live processes only
    expected = {(pid, "came") for pid in new - old} | {(pid, "went") for pid in old - new}
    expected |= {(pid, "came and went") for pid in after.names.keys() - before.names.keys() - new}
    for pid in old & new:
        more = after.pages[pid] - before.pages[pid]
        if more:
            expected.add((pid, "grew" if more > 0 else "shrank"))
    assert told == expected
    renamed = {one.process.pid: one.old_name for one in found.processes if one.old_name}
    both = before.names.keys() & after.names.keys()
    assert renamed == {
        pid: before.names[pid] for pid in both if before.names[pid] != after.names[pid]
    }


@pytest.mark.many(8)
@pytest.mark.parametrize("seed", range(EVOLUTIONS))
@pytest.mark.parametrize("system", SYSTEMS)
def test_each_frame_is_as_noted(system: str, seed: int, tmp_path: Path) -> None:
    machine = machine_of(system, seed)
    rng = np.random.default_rng(seed)
    before = machine.write(tmp_path / "before.raw")
    for name in rng.choice(list(machine.can), int(rng.integers(3, 9))).tolist():
        machine.can[name]()
    after = machine.write(tmp_path / "after.raw")
    found = memory_visualizer.diff(tmp_path / "before.raw", tmp_path / "after.raw")
    assert found.is_one_machine
    assert_is_noted(found, machine.happened(before, after), machine.memory)


@pytest.mark.many
@pytest.mark.parametrize("system", ["Win7SP1x64", "6.1"])
@pytest.mark.parametrize(
    "name", ["start", "end", "move", "unlink", "reuse", "make executable", "write", "clear"]
)
def test_one_thing_at_a_time(system: str, name: str, tmp_path: Path) -> None:
    machine = machine_of(system, 99)
    before = machine.write(tmp_path / "before.raw")
    machine.can[name]()
    after = machine.write(tmp_path / "after.raw")
    found = memory_visualizer.diff(tmp_path / "before.raw", tmp_path / "after.raw")
    assert_is_noted(found, machine.happened(before, after), machine.memory)
