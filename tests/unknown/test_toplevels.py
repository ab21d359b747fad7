"""Address spaces of an unknown system, by the common part of their page tables."""

from pathlib import Path

import numpy as np
import pytest

from memory_visualizer.formats.opening import open_dump
from memory_visualizer.unknown.toplevels import Spaces, SpaceSearch
from tests.synth import MIB, containers
from tests.synth.linux import LinuxTruth, forge_linux

PAGE = 4096


def spaces(path: Path) -> Spaces:
    dump = open_dump(path)
    search = SpaceSearch(dump)
    for _ in dump.each_block(search.scan):
        pass
    return search.found(dump)


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, LinuxTruth]:
    path = tmp_path_factory.mktemp("linux") / "dump"
    truth = forge_linux(path, "6.1", size=32 * MIB, processes=20)
    return path.read_bytes(), truth


def tops_of(truth: LinuxTruth) -> set[int]:
    return {task.dtb // PAGE for task in truth.tasks if task.dtb and task.alive}


def test_raw_and_elf_of_one_moment(linux: tuple[bytes, LinuxTruth], tmp_path: Path) -> None:
    """A range of firmware far above memory changes nothing."""
    contents, truth = linux
    raw, core = tmp_path / "raw", tmp_path / "core"
    raw.write_bytes(contents)
    containers.WRITERS["elf"](core, [(0, contents), (0xFFFC0000, bytes(0x40000))])
    found = spaces(raw)
    assert tops_of(truth) <= set(found.roots[:, 0].tolist())
    np.testing.assert_array_equal(spaces(core).roots, found.roots)


def test_a_flipped_bit_in_a_top_level_table(
    linux: tuple[bytes, LinuxTruth], tmp_path: Path
) -> None:
    contents, truth = linux
    words = np.frombuffer(contents, "<u8").reshape(-1, 512).copy()
    top = min(tops_of(truth))
    entry = int(np.flatnonzero(words[top, 256:])[0]) + 256
    words[top, entry] ^= 1 << 51
    words.tofile(tmp_path / "dump")
    assert top in spaces(tmp_path / "dump").roots


def test_more_than_any_machine_has(linux: tuple[bytes, LinuxTruth], tmp_path: Path) -> None:
    """Most pages are copies of a top-level table: some are believed, and a remark counts them."""
    contents, truth = linux
    words = np.frombuffer(contents, "<u8").reshape(-1, 512).copy()
    top = max(tops_of(truth))
    unused = np.flatnonzero(np.char.startswith(truth.classes, "unused"))
    words[unused[unused > 256]] = words[top]
    words.tofile(tmp_path / "dump")
    found = spaces(tmp_path / "dump")
    assert len(found.roots) <= len(words) // 64 + 512
    (remark,) = found.remarks
    assert "look like top-level page tables" in remark
