"""memviz and its streams: pipes, terminals, streams that are closed or full."""

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.synth import forge, profiles
from tests.terminal import on_a_terminal

with suppress(ImportError):  # Windows does not have it
    pass
from tests.cli.running import ENDINGS, MEMVIZ, classes_in, environment, run
from tests.prestarted import run_in_bytes


@pytest.mark.parametrize("name", ["-", pytest.param("/dev/stdout", marks=pytest.mark.posix)])
@pytest.mark.parametrize("option", ENDINGS)
@pytest.mark.many
def test_standard_output(option: str, name: str, dump: Path, tmp_path: Path) -> None:
    """Standard output gets just the file's bytes; the summary goes to standard error."""
    others = [] if option == "-o" else ["-o", "b.png"]
    assert not run([dump, option, f"a{ENDINGS[option]}", *others], tmp_path).returncode
    expected = (tmp_path / f"a{ENDINGS[option]}").read_bytes()
    command = [*MEMVIZ, dump, option, name, *others]
    result = run_in_bytes(command, tmp_path)
    assert result.returncode == 0
    assert result.stdout == expected
    said = result.stderr.decode()
    assert said.startswith("win7.raw: raw, 32 MiB")
    assert "standard output: " in said
    assert "lsass.exe" in said
    with (tmp_path / "redirected").open("wb") as file:
        assert not run_in_bytes([*command, "-q"], tmp_path, stdout=file.fileno()).returncode
    assert (tmp_path / "redirected").read_bytes() == expected


def test_nobody_reads_standard_output(dump: Path, tmp_path: Path) -> None:
    """If nobody reads standard output, the other outputs are still written."""
    reader, writer = os.pipe()
    os.close(reader)
    result = run([dump, "--map", "-", "--json", "a.json"], tmp_path, stdout=writer)
    os.close(writer)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    json.loads((tmp_path / "a.json").read_text())


@pytest.mark.posix
def test_no_picture_on_a_terminal(dump: Path, tmp_path: Path) -> None:
    output = on_a_terminal(
        lambda slave: run([dump, "-o", "-"], tmp_path, stdout=slave, stderr=slave)
    )
    assert output == (
        "memviz: a picture is not written to a terminal; name a file, or redirect it\r\n"
    )


def test_a_file_called_minus(noise: Path, tmp_path: Path) -> None:
    """`-` is refused at once, without waiting for input; a file of that name needs a path."""
    (tmp_path / "-").write_bytes(noise.read_bytes())
    result = run(["-"], tmp_path, stdin=subprocess.PIPE)
    assert (result.returncode, result.stdout) == (2, "")
    assert "it cannot come from standard input" in result.stderr


@pytest.mark.posix
def test_a_pipe_as_dump(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = run(["pipe", "--json", "a.json"], tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("memviz: pipe is a pipe; ")
    assert list(tmp_path.iterdir()) == [tmp_path / "pipe"]


def test_consoles_without_utf_8(tmp_path: Path) -> None:
    """Consoles with cp1252 and cp437 get escapes for other characters, and no traceback."""
    forge(tmp_path / "dump", profiles()["Win7SP1x64"], size=16 << 20, names=["日本ß.exe"])
    for encoding, name in (("cp1252", r"\u65e5\u672cß.exe"), ("cp437", r"\u65e5\u672cß.exe")):
        result = run(
            ["dump", "--name", "exe", "-v"],
            tmp_path,
            env=environment(PYTHONIOENCODING=encoding),
            encoding=encoding,
        )
        assert result.returncode == 0
        assert name in result.stdout


def test_nobody_reads_the_summary(dump: Path, tmp_path: Path) -> None:
    """If nobody reads the summary, all files are written, and there is no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    result = run([dump, "--json", "a.json", "--map", "a.map"], tmp_path, stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.posix
@pytest.mark.parametrize("stream", [1, 2])
def test_a_closed_stream(stream: int, noise: Path, tmp_path: Path) -> None:
    """Messages for a closed stream are dropped, and get into no file."""
    result = run([noise, "--json", "a.json"], tmp_path, preexec_fn=lambda: os.close(stream))
    assert result.returncode == 3
    said = (result.stdout, result.stderr)
    assert said[stream - 1] == ""
    assert ("Neither Windows nor Linux found" in said[0], "neither Windows nor" in said[1]) == (
        stream != 1,
        stream != 2,
    )
    json.loads((tmp_path / "a.json").read_text())
    assert classes_in(tmp_path / "noise.raw.png", 8)[0] == "unused-data"


@pytest.mark.posix
def test_the_screen_is_full(dump: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        result = run([dump, "--json", "a.json"], tmp_path, stdout=full)
    assert result.returncode == 1
    assert result.stderr == "memviz: cannot write standard output: No space left on device\n"
    json.loads((tmp_path / "a.json").read_text())


@pytest.mark.posix
def test_on_a_terminal(dump: Path, tmp_path: Path) -> None:
    """A terminal gets swatches, and no progress in the first two seconds."""
    output = on_a_terminal(lambda slave: run([dump], tmp_path, stdout=slave, stderr=slave))
    assert "\x1b[48;2;95;194;205m" in output
    assert "reading" not in output
    assert "lsass.exe" in output


@pytest.mark.posix
def test_progress_on_a_terminal(dump: Path, tmp_path: Path) -> None:
    """Progress appears on standard error (here at once), and is gone at the end of the work."""
    program = """
import sys
from memory_visualizer.cli import memviz as cli
from memory_visualizer.cli import progress
progress._SILENT_SECONDS = 0
sys.exit(cli.main())
"""
    output = on_a_terminal(
        lambda slave: run([dump], tmp_path, program=["-c", program], stderr=slave)
    )
    assert output.startswith("\rreading the dump: ")
    assert output.split("\r")[-2].strip() == ""
    assert "System" not in output
