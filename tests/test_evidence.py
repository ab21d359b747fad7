"""A dump is evidence: it is opened only for reading, and stays the same."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.synth import MIB, containers, forge, profiles


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("evidence") / "dump"
    forge(path, profiles()["Win7SP1x64"], size=16 * MIB, processes=3)
    return path.read_bytes()


@pytest.mark.parametrize("format_", containers.WRITERS)
@pytest.mark.many
def test_dump_is_only_read(format_: str, memory: bytes, strace: str, tmp_path: Path) -> None:
    """With all outputs it is only opened for reading; bytes and times stay."""
    dump = tmp_path / "evidence.dump"
    containers.WRITERS[format_](dump, [(0, memory)])
    contents, before = dump.read_bytes(), dump.stat()
    log = tmp_path / "log"
    calls = (
        "trace=open,openat,openat2,creat,truncate,unlink,unlinkat,rename,renameat,renameat2,chmod"
    )
    command = [strace, "-f", "-qq", "-o", str(log), "-e", calls, sys.executable, "-m"]
    command += ["memory_visualizer", str(dump), "--table", "a.npz", "--json", "a.json"]
    command += ["--map", "a.map", "--html", "a.html", "--color-by", "entropy"]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert result.returncode == 0, result.stderr
    touched = [line for line in log.read_text().splitlines() if f'"{dump}"' in line]
    assert len(touched) >= 2
    for line in touched:
        assert re.search(r"open(at2?)?\(.*O_RDONLY", line), line
        assert not re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", line), line
    after = dump.stat()
    assert dump.read_bytes() == contents
    assert (after.st_size, after.st_mtime_ns, after.st_ctime_ns, after.st_mode) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_ctime_ns,
        before.st_mode,
    )


def test_the_renderer_only_reads_it(memory: bytes, strace: str, tmp_path: Path) -> None:
    """imagegenerator.py opens the dump only for reading."""
    dump, map_, log = tmp_path / "evidence.raw", tmp_path / "a.map", tmp_path / "log"
    dump.write_bytes(memory)
    map_.write_text("0x1000 0x2000 0x1000 True\n")
    before = dump.stat()
    command = [strace, "-f", "-qq", "-o", str(log), "-e", "trace=open,openat,creat,truncate"]
    command += [sys.executable, str(ROOT / "imagegenerator.py"), str(dump), str(map_)]
    subprocess.run([*command, "-o", str(tmp_path / "a.png")], capture_output=True, check=True)
    touched = [line for line in log.read_text().splitlines() if f'"{dump}"' in line]
    assert touched
    assert all("O_RDONLY" in line for line in touched)
    assert dump.stat().st_mtime_ns == before.st_mtime_ns
    assert dump.read_bytes() == memory


def test_a_folder_that_is_read_only(memory: bytes, tmp_path: Path) -> None:
    """A read-only folder is told in a sentence before any work."""
    if os.geteuid() == 0:
        folder = Path("/proc/self")  # no user can write there, not even root
    else:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o555)
    dump = tmp_path / "dump.raw"
    dump.write_bytes(memory)
    result = subprocess.run(
        [sys.executable, "-m", "memory_visualizer", str(dump), "-o", str(folder / "a.png")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert result.returncode == 1
    assert re.fullmatch(r"memviz: cannot write .*a\.png: .+\n", result.stderr)
