"""Frames that a dump leaves out on purpose keep their owners and states."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import PageClass, PageState
from memory_visualizer.api import Snapshot
from memory_visualizer.cli.memviz import main
from memory_visualizer.picture.colouring import COLOURINGS, colour_by
from memory_visualizer.picture.entropy import entropy
from memory_visualizer.picture.palette import DEFAULT
from tests.synth import MIB, builds, forge
from tests.synth.containers import PAGE, write_avml, write_kdump
from tests.synth.linux import forge_linux

_FILTERED = (PageState.FREE, PageState.ANONYMOUS, PageState.FILE_CACHE, PageState.SHARED_MEMORY)
"""The states that makedumpfile -d 31 leaves out, besides zeros."""


def _owners(snapshot: Snapshot) -> set[tuple[int, int, int]]:
    """Frame, pid and address of each page that a process has."""
    owners = snapshot.owners
    pids = np.array([process.pid for process in snapshot.processes])
    rows = owners.frame, pids[owners.process], owners.virtual
    return set(zip(*(column.tolist() for column in rows), strict=True))


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A raw dump, and the same dump as makedumpfile filters it."""
    raw, kdump = (tmp_path_factory.mktemp("linux") / name for name in ("raw", "kdump"))
    forge_linux(raw, "6.1", size=32 * MIB, processes=3)
    states = memory_visualizer.open(raw).states
    assert states is not None
    left_out = np.flatnonzero(np.isin(states, _FILTERED)).tolist()
    contents = raw.read_bytes()
    at = contents.find(b"OSRELEASE=")
    text = contents[at : contents.index(b"\0", at)]
    write_kdump(kdump, [(0, contents)], left_out=left_out, vmcoreinfo=text)
    return raw, kdump


def test_linux_keeps_states_and_owners(linux: tuple[Path, Path]) -> None:
    """The kernel's array and the page tables are in the dump, so only the contents are unknown."""
    raw, kdump = map(memory_visualizer.open, linux)
    assert raw.states is not None and kdump.states is not None
    assert kdump.dump.left_out.mean() > 0.3
    assert np.array_equal(raw.states, kdump.states)
    assert _owners(raw) == _owners(kdump)
    assert np.array_equal(raw.mapping_count, kdump.mapping_count)
    assert np.array_equal(raw.access, kdump.access)
    left_out = kdump.classes == PageClass.LEFT_OUT
    assert np.array_equal(left_out, kdump.dump.left_out)
    assert np.array_equal(raw.classes[~left_out], kdump.classes[~left_out])
    assert raw.pages_of_processes().tolist() == kdump.pages_of_processes().tolist()
    # Frames that are not RAM for the kernel.
    assert kdump.counts()[PageClass.ABSENT] == raw.counts()[PageClass.ABSENT]


def test_windows_keeps_owners(tmp_path: Path) -> None:
    """Owners of left-out frames are known by page tables, which this dump does not leave out."""
    raw, kdump = tmp_path / "raw", tmp_path / "kdump"
    forge(raw, builds()["Win10x64_19041"], size=32 * MIB, processes=3)
    whole = memory_visualizer.open(raw)
    users = np.flatnonzero(whole.classes == PageClass.USER)
    write_kdump(kdump, [(0, raw.read_bytes())], left_out=users[::2].tolist())
    filtered = memory_visualizer.open(kdump)
    assert _owners(whole) == _owners(filtered)
    assert (filtered.classes[users[::2]] == PageClass.LEFT_OUT).all()
    assert np.array_equal(whole.classes[users[1::2]], filtered.classes[users[1::2]])


def test_colourings(linux: tuple[Path, Path]) -> None:
    """Colours that do not need the contents stay; all others are `left-out`."""
    raw, kdump = map(memory_visualizer.open, linux)
    left_out = kdump.dump.left_out
    for name in set(COLOURINGS) - {"file"}:  # these dumps do not describe inodes
        whole, filtered = (
            colour_by(name, one, DEFAULT, partial(entropy, one.dump)) for one in (raw, kdump)
        )
        labels = [swatch.label for swatch in filtered.swatches]
        assert labels == [swatch.label for swatch in whole.swatches]
        assert sum(filtered.counts()) == left_out.size
        assert np.array_equal(whole.values[~left_out], filtered.values[~left_out])
        if name in ("mappings", "state", "use"):
            assert np.array_equal(whole.values, filtered.values)
        elif name in ("class", "entropy", "protection"):
            assert {labels[value] for value in np.unique(filtered.values[left_out])} == {"left-out"}
        else:  # by process: one process's own pages keep its colour
            alone = whole.values >= whole.general
            assert np.array_equal(whole.values[alone], filtered.values[alone])
            others = left_out & ~alone
            assert {labels[value] for value in np.unique(filtered.values[others])} == {"left-out"}


def test_all_outputs(
    linux: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Summary, JSON, tables, text page map and page are written, and tell these frames."""
    outputs = {name: str(tmp_path / f"a.{name}") for name in ("png", "json", "csv", "html", "map")}
    arguments = ["-o", outputs["png"], "--json", outputs["json"], "--table", outputs["csv"]]
    arguments += ["--html", outputs["html"], "--map", outputs["map"]]
    assert main([str(linux[1]), *arguments]) == 0
    count = int(np.count_nonzero(memory_visualizer.open(linux[1]).dump.left_out))
    printed = capsys.readouterr().out
    assert f"{count:,} pages left out" in printed
    assert "hole" not in printed
    assert json.loads(Path(outputs["json"]).read_text())["classes"]["left-out"] == count
    rows = Path(outputs["csv"]).read_text().splitlines()
    assert sum(",left-out," in row for row in rows) == count


def test_avml_blocks_of_zeros(tmp_path: Path) -> None:
    """AVML leaves out blocks of zeros between other blocks."""
    path = tmp_path / "dump"
    block = np.random.default_rng(1).bytes(16 * MIB)
    write_avml(path, [(0, block + bytes(32 * MIB) + block)], without_zeros=True)
    snapshot = memory_visualizer.open(path)
    counts = snapshot.counts()
    assert counts[PageClass.LEFT_OUT] == 32 * MIB // PAGE
    assert counts[PageClass.ABSENT] == 0
