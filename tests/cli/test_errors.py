"""memviz says in a sentence what is wrong, and still writes what it can."""

import json
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

with suppress(ImportError):  # Windows does not have it
    import resource
from tests.cli.running import ENDINGS, classes_in, run


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the following arguments are required: DUMP"),
        (["a", "--pid", "x"], "--pid: must be process ids, separated by commas"),
        (["a", "--pid", "4,"], "--pid: must be process ids, separated by commas"),
        (["a", "--name", "("], "--name: is not a regular expression: missing ), unterminated"),
        (["a", "--table", "a.txt"], "--table: must end in one of .npz, .csv, .parquet"),
        (["a", "--table", "csv"], "--table: must end in one of .npz, .csv, .parquet"),
        (["a", "-o", "x.jpg"], "-o/--output: must end in .png, or be - for standard output"),
        (["a", "-o", ".png"], "-o/--output: must end in .png"),
        (["a", "--json", "x.raw"], "--json: must end in .json"),
        (["a", "--map", "x.raw"], "--map: must end in one of .map, .txt"),
        (["a", "--html", "x.raw"], "--html: must end in one of .html, .htm"),
        (["a", "--width", "0"], "--width: must be a whole number from 1 to 65535"),
        (["a", "--json", "b.json", "c"], "unrecognized arguments: c"),
    ],
)
@pytest.mark.many
def test_usage_errors(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    result = run(arguments, tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert re.fullmatch(r"memviz: .* \(memviz --help lists all options\)\n", result.stderr)


def test_bad_dumps(noise: Path, tmp_path: Path) -> None:
    """A bad dump ends with exit code 2, a sentence and no file; --lenient reads the rest."""
    (tmp_path / "cut").write_bytes(noise.read_bytes()[:-1])
    (tmp_path / "empty").touch()
    (tmp_path / "packed").write_bytes(b"PK\x03\x04 and so on")
    for name, sentence in (
        ("missing", "cannot read missing: No such file or directory"),
        ("empty", "empty holds 0 bytes, less than one page"),
        ("packed", "packed is packed with zip; unpack it first (unzip)"),
        (".", "cannot read .: Is a directory"),
        ("cut", "cut is not a whole number of 4,096-byte pages: 4,095 bytes follow page 7"),
    ):
        result = run([name, "--json", "a.json"], tmp_path)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.startswith(f"memviz: {sentence}")
        assert result.stderr.count("\n") == 1
    assert len(list(tmp_path.iterdir())) == 3
    result = run(["cut", "--lenient"], tmp_path)
    assert result.returncode == 3
    assert result.stderr.startswith(
        "memviz: ignored the last 4,095 bytes of cut, less than a whole page\n"
    )
    assert classes_in(tmp_path / "cut.png", 7)[-1] == "unused-zero"


def test_two_dumps(noise: Path, tmp_path: Path) -> None:
    """Several files are only taken as parts of one kdump dump."""
    result = run([noise, noise], tmp_path)
    assert result.returncode == 2
    assert result.stderr == (
        f"memviz: {noise} is not part of a split kdump file or image; other dumps are single files"
        "\n"
    )
    result = run([noise, noise, "--hash"], tmp_path)
    assert result.stderr == (
        "memviz: --hash covers a single file, but this dump consists of several\n"
    )


@pytest.mark.posix
def test_an_output_for_two(noise: Path, tmp_path: Path) -> None:
    (tmp_path / "b.json").symlink_to("b.map")
    result = run([noise, "--json", "b.json", "--map", "b.map"], tmp_path)
    assert result.returncode == 2
    assert result.stderr == "memviz: b.json is named for more than one output\n"
    result = run([noise, "--json", "-", "--map", "/dev/stdout"], tmp_path)
    assert result.returncode == 2
    assert result.stderr == "memviz: standard output is named for more than one output\n"
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


@pytest.mark.parametrize(("option", "ending"), ENDINGS.items())
def test_folder_is_missing(option: str, ending: str, noise: Path, tmp_path: Path) -> None:
    """A missing folder is an error before any work, so no output is written."""
    result = run([noise, option, f"nowhere/a{ending}"], tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"memviz: cannot write nowhere/a{ending}: its folder does not exist\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.posix
def test_some_outputs_cannot_be_written(dump: Path, tmp_path: Path) -> None:
    """Each failed output is named, the others are written, and no half-written file is left.

    Failures come last, after the summary.
    """
    old = "(Virtual) (Physical) (Size) (Kernel)\n---\n"
    (tmp_path / "a.map").write_text(old)
    options = ["--table", "a.csv", "--json", "a.json", "--map", "a.map"]
    result = run(
        [dump, *options],
        tmp_path,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
    )
    assert result.returncode == 1
    assert result.stdout.endswith(
        "memviz: cannot write a.csv: File too large\nmemviz: cannot write a.map: File too large\n"
    )
    assert "a.json: written" in result.stdout
    assert result.stdout.count("a.csv") == 1
    assert "14 processes" in result.stdout
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.json", "a.map", "win7.raw.png"]
    assert (tmp_path / "a.map").read_text() == old
    json.loads((tmp_path / "a.json").read_text())


@pytest.mark.posix
def test_the_picture_cannot_be_written(dump: Path, tmp_path: Path) -> None:
    """If the picture fails, all other outputs and the summary still appear."""
    result = run(
        [dump, "--map", "a.map"],
        tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )
    assert result.returncode == 1
    assert "memviz: cannot write win7.raw.png: File too large\n" in result.stderr
    assert "win7.raw.png" not in result.stdout
    assert "unused-zero" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_pyarrow_is_missing(dump: Path, tmp_path: Path) -> None:
    """A missing pyarrow is an error before any work, with advice."""
    program = """
import sys
from memory_visualizer.cli import memviz as cli
from memory_visualizer.export import tables as export
export.find_spec = lambda _: None
sys.exit(cli.main())
"""
    result = run([dump, "--table", "a.parquet"], tmp_path, program=["-c", program])
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "memviz: a Parquet table needs pyarrow, which is not installed"
        f" ({sys.executable} -m pip install pyarrow)\n"
    )
    assert list(tmp_path.iterdir()) == []
