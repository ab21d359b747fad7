"""The program on other systems, as far as tests.elsewhere can imitate them."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from memory_visualizer.formats.files import open_pages
from tests.conftest import ROOT
from tests.elsewhere import environment
from tests.prestarted import run_in_bytes
from tests.synth import MIB, containers, forge, profiles

pytestmark = pytest.mark.posix  # they compare both systems

MEMVIZ = ("-m", "memory_visualizer")


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic Windows, in a file whose name has characters that consoles may lack."""
    path = tmp_path_factory.mktemp("portability") / "mémoire Ω 内存.raw"
    forge(path, profiles()["Win10x64_17763"], size=32 * MIB, processes=8)
    return path


def elsewhere(
    *arguments: object, folder: Path, encoding: str = "utf-8"
) -> subprocess.CompletedProcess[bytes]:
    """Run a script, or memviz, with a console of this encoding, as on Windows."""
    changes = environment() | {"PYTHONIOENCODING": encoding}
    return run_in_bytes(arguments, folder, changes=changes)


def here(*arguments: object, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Run memviz as it is."""
    return run_in_bytes(arguments, folder)


def test_nothing_is_left_elsewhere(tmp_path: Path) -> None:
    """The functions are really taken away from the programs that the tests start."""
    program = (
        "import os, mmap, signal, sys\n"
        "print([hasattr(os, 'pread'), hasattr(mmap, 'MADV_SEQUENTIAL'), hasattr(signal, 'SIGBUS'),"
        " sys.platform])"
    )
    told = elsewhere("-c", program, folder=tmp_path)
    assert told.stdout == b"[False, False, False, 'elsewhere']\n", told.stderr
    anew = run_in_bytes(["-c", program], tmp_path, changes=environment(), anew=True)
    assert anew.stdout == told.stdout, anew.stderr
    assert here("-c", program, folder=tmp_path).stdout.startswith(b"[True, True, True, 'linux'")


@pytest.mark.parametrize("kind", ["raw", "lime", "avml", "kdump"])
@pytest.mark.many
def test_all_outputs_are_the_same_elsewhere(tmp_path: Path, kind: str, dump: Path) -> None:
    """Picture, page, tables and summary are the same bytes, for mapped and packed formats."""
    given = tmp_path / f"dump.{kind}"
    pieces = [(0, dump.read_bytes())]
    getattr(containers, f"write_{kind}")(given, pieces)
    outputs = ("a.png", "a.html", "a.csv", "a.npz", "a.json", "a.map")
    results = {}
    for name in ("here", "elsewhere"):
        folder = tmp_path / name
        folder.mkdir()
        options = ["-o", "a.png", "--html", "a.html", "--table", "a.csv", "--json", "a.json"]
        options += ["--map", "a.map", "--legend", "--color-by", "entropy"]
        if name == "here":
            runs = (
                here(*MEMVIZ, given, *options, folder=folder),
                here(*MEMVIZ, given, "--table", "a.npz", folder=folder),
            )
        else:
            runs = (
                elsewhere(*MEMVIZ, given, *options, folder=folder),
                elsewhere(*MEMVIZ, given, "--table", "a.npz", folder=folder),
            )
        assert [run.returncode for run in runs] == [0, 0], [run.stderr for run in runs]
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            [*outputs, f"dump.{kind}.png"]
        )
        results[name] = (
            [run.stdout for run in runs],
            [(folder / output).read_bytes() for output in outputs],
        )
    assert results["here"] == results["elsewhere"]


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii"])
@pytest.mark.parametrize("command", ["memviz", "imagegenerator.py"])
@pytest.mark.many
def test_consoles_without_utf8(tmp_path: Path, dump: Path, encoding: str, command: str) -> None:
    """Characters that the console lacks are escaped; no traceback appears."""
    if command == "memviz":
        arguments: list[object] = [*MEMVIZ, dump, "-o", tmp_path / "a.png"]
    else:
        (tmp_path / "map").write_text("0x0 0x2000 0x1000 True\n", encoding="ascii")
        arguments = [ROOT / command, dump, tmp_path / "map", "-o", tmp_path / "a.png"]
    run = elsewhere(*arguments, folder=tmp_path, encoding=encoding)
    assert (run.returncode, run.stderr) == (0, b"")
    told = run.stdout.decode(encoding)
    assert "\\u5185\\u5b58" in told
    assert ("é" in told) == (encoding != "ascii")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size
    arguments[arguments.index(dump)] = tmp_path / "没有"
    missing = elsewhere(*arguments, folder=tmp_path, encoding=encoding)
    assert missing.returncode == 2
    assert b"Traceback" not in missing.stderr
    assert b"\\u6ca1\\u6709" in missing.stderr


@pytest.mark.parametrize("name", ["con.raw", "what?.raw", "a|b", "memory: today"])
def test_names_that_windows_forbids(tmp_path: Path, dump: Path, name: str) -> None:
    """Such a picture's name is refused, whether given or taken from the dump."""
    given = tmp_path / "dumps" / name
    given.parent.mkdir()
    given.symlink_to(dump)
    asked = elsewhere(*MEMVIZ, given, "-o", f"{name}.png", folder=tmp_path)
    by_dump = elsewhere(*MEMVIZ, given, folder=tmp_path)
    assert b"Traceback" not in asked.stderr + by_dump.stderr
    assert asked.returncode
    made = {path.name for path in tmp_path.iterdir()} - {"dumps"}
    assert f"{name}.png" not in made


def test_errors_of_the_disk_are_sentences_elsewhere(tmp_path: Path) -> None:
    """A file that cannot be mapped safely is read, and an error is a sentence."""
    run = elsewhere(*MEMVIZ, tmp_path, folder=tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith(b"memviz: cannot read ")


def test_this_system_maps(tmp_path: Path) -> None:
    """The other tests compare both ways only if this system, on Linux, maps files."""
    if sys.platform != "linux":
        pytest.skip("only Linux can map a file safely")
    path = tmp_path / "file"
    path.write_bytes(bytes(8192))
    with path.open("rb", buffering=0) as file:
        assert type(open_pages(path, file, 8192)).__name__ == "_MappedFile"
