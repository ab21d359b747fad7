"""Some dumps, which are analysed once for all tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from memory_visualizer.fleet.sources import Source
from memory_visualizer.fleet.task import Options, analyse
from tests.fleet.dumps import Expected, write_systems


@dataclass(frozen=True)
class Analysed:
    """A run's folder, and the truth about its dumps."""

    folder: Path
    dumps: Path
    """The folder of the dumps."""
    expected: Mapping[str, Expected]
    """The truth by the dump's file name."""


@pytest.fixture(scope="session")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Analysed:
    """Dumps of each system and one without, analysed by the tasks of a fleet; never changed."""
    dumps = tmp_path_factory.mktemp("fleet-dumps")
    folder = tmp_path_factory.mktemp("fleet")
    expected = write_systems(dumps)
    (dumps / "nothing").write_bytes(bytes(4096) + b"\1" * 8192)
    expected["nothing"] = Expected(frames=3)
    for name in expected:
        result = analyse(Source(str(dumps / name), name), folder, Options())
        assert result.outcome.is_done, result.outcome.sentence
        assert not result.is_kept
    return Analysed(folder, dumps, expected)
