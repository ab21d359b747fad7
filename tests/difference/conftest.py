"""Successive dumps of one machine, shared by all tests of differences."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.synth.evolution import EvolvingLinux, EvolvingWindows, Happened
from tests.synth.memory import PhysicalMemory
from tests.synth.profiles import profiles


@dataclass(frozen=True)
class Series:
    """Successive dumps of one machine, and the events between them."""

    paths: list[Path]
    steps: list[Happened]
    memory: PhysicalMemory


_STEPS = [
    ["start", "end", "move", "make executable", "clear"],
    ["start", "unlink", "write", "reuse"],
]


def series_of(machine: EvolvingWindows | EvolvingLinux, folder: Path) -> Series:
    """Three dumps of a machine."""
    paths = [folder / f"{number}.raw" for number in (1, 2, 3)]
    known = [machine.write(paths[0])]
    steps = []
    for names, path in zip(_STEPS, paths[1:], strict=True):
        for name in names:
            machine.can[name]()
        known.append(machine.write(path))
        steps.append(machine.happened(known[-2], known[-1]))
    return Series(paths, steps, machine.memory)


@pytest.fixture(scope="session")
def windows_series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """Three dumps of a Windows 10."""
    machine = EvolvingWindows(profiles()["Win10x64"], seed=7)
    return series_of(machine, tmp_path_factory.mktemp("windows"))


@pytest.fixture(scope="session")
def linux_series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """Three dumps of a Linux."""
    return series_of(EvolvingLinux("6.1", seed=7), tmp_path_factory.mktemp("linux"))
