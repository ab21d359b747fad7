"""Dumps of Linux that end too early: the rest is painted, and a remark says what was seen."""

from pathlib import Path

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer.snapshot.pagemap import PageClass
from tests.synth.linux import MIB, forge_linux


@pytest.mark.parametrize("quarters", [2, 3])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("era", ["6.1", "4.19"])
@pytest.mark.many
def test_what_is_left_of_a_dump(era: str, seed: int, quarters: int, tmp_path: Path) -> None:
    """Processes with remaining tables are painted, wherever the kernel was."""
    path = tmp_path / "dump"
    truth = forge_linux(path, era, size=64 * MIB, processes=12, seed=seed)
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) * quarters // 4])
    snapshot = memory_visualizer.open(path)
    assert any("the dump was cut short" in remark for remark in snapshot.remarks)
    left = truth.classes[: len(snapshot.classes)]
    is_user = np.isin(snapshot.classes, (PageClass.USER, PageClass.BOTH))
    assert is_user.any()
    assert set(left[is_user]) <= {"user", "both"}
    roots = [task.dtb for task in truth.tasks if task.dtb and task.dtb < len(left) * 4096]
    if not str(snapshot.system).startswith("Linux"):
        assert max(truth.text_frames) >= len(left) or truth.top >= len(left)
        assert len(snapshot.processes) <= len(roots)


@pytest.mark.parametrize("release", ["5.10.0-46-amd64", "6.1.192-rt"])
@pytest.mark.parametrize("place", [0x40, 0x1FF8])
def test_what_is_left_has_a_banner_only(release: str, place: int, tmp_path: Path) -> None:
    """The first quarter of a real guest has a banner, but neither tables nor VMCOREINFO."""
    contents = bytearray(np.random.default_rng(1).bytes(64 * 4096))
    banner = f"Linux version {release} (builder@host) (gcc 12) #1 SMP".encode()
    for at in (place, 40 * 4096):
        contents[at : at + len(banner) + 1] = banner + b"\0"
    contents[9 * 4096 : 9 * 4096 + 40] = b"Linux version %s (builder)".ljust(40, b"\0")
    other = b"Linux version 2.6.18 (another kernel's)"
    contents[50 * 4096 : 50 * 4096 + len(other)] = other
    (tmp_path / "dump").write_bytes(contents)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert snapshot.system is None
    (remark,) = snapshot.remarks
    assert f"the banner of a Linux kernel, {release}, but" in remark
    assert "cut short" in remark


def test_no_banner_no_kernel(tmp_path: Path) -> None:
    text = b"Linux version unknown, as in a text. ".ljust(4096) * 64
    (tmp_path / "dump").write_bytes(np.random.default_rng(1).bytes(4096) + text)
    assert not memory_visualizer.open(tmp_path / "dump").remarks


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.many
def test_a_quarter_is_not_passed_over_in_silence(seed: int, tmp_path: Path) -> None:
    """If a banner, a text or tables are left, the system is named, or a remark tells them."""
    path = tmp_path / "dump"
    forge_linux(path, "6.1", size=64 * MIB, processes=12, seed=seed)
    contents = path.read_bytes()
    left = contents[: len(contents) // 4]
    path.write_bytes(left)
    snapshot = memory_visualizer.open(path)
    if b"Linux version 6" in left or b"OSRELEASE=6" in left:
        assert snapshot.remarks
        said = "Linux" in " ".join(snapshot.remarks)
        assert said or str(snapshot.system).startswith("Linux")
