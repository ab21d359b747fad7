"""Dumps for the tests of memviz; no test changes them."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.synth import Truth, forge, profiles
from tests.synth.containers import write_lime
from tests.synth.memory import PAGE_SIZE

with suppress(ImportError):  # Windows does not have it
    pass


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the dumps."""
    return tmp_path_factory.mktemp("dumps")


@pytest.fixture(scope="session")
def truth(folder: Path) -> Truth:
    """The truth about a Windows 7, whose dump is folder / "win7.raw"."""
    return forge(folder / "win7.raw", profiles()["Win7SP1x64"])


@pytest.fixture(scope="session")
def dump(folder: Path, truth: Truth) -> Path:
    """The dump of `truth`."""
    return folder / "win7.raw"


@pytest.fixture(scope="session")
def holes(truth: Truth) -> list[tuple[int, int]]:
    """First frame and end of three holes: at the beginning, and amid large pages of both kinds."""
    large = truth.mappings[truth.mappings["size"] > PAGE_SIZE]["frame"].tolist()
    return [(0, 16), *((first + 100, first + 300) for first in sorted(set(large))[:2])]


@pytest.fixture(scope="session")
def lime(folder: Path, dump: Path, truth: Truth, holes: list[tuple[int, int]]) -> Path:
    """The same dump as a LiME file with holes."""
    contents = dump.read_bytes()
    edges = [*(edge for hole in holes for edge in hole), truth.frames]
    pieces = [
        (start * PAGE_SIZE, contents[start * PAGE_SIZE : end * PAGE_SIZE])
        for start, end in zip(edges[1::2], edges[2::2], strict=True)
    ]
    write_lime(folder / "win7.lime", pieces)
    return folder / "win7.lime"


@pytest.fixture(scope="session")
def noise(folder: Path) -> Path:
    """A dump without Windows: four pages of noise, then four of zeros."""
    contents = np.random.default_rng(0).bytes(4 * PAGE_SIZE) + bytes(4 * PAGE_SIZE)
    (folder / "noise.raw").write_bytes(contents)
    return folder / "noise.raw"
