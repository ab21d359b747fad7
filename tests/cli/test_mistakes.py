"""Mistakes that people make at the command line: a sentence that names the right thing."""

import json
import os
import sys
from pathlib import Path

import pytest

from memory_visualizer.cli.memviz import main
from tests.synth import forge, profiles
from tests.synth.containers import write_lime
from tests.synth.linux import forge_linux


def failing(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit code of a run that fails, and its sentence."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = int(str(end.code))
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1, said
    return code, said.err.removesuffix("\n")


@pytest.fixture
def noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dump without a known system, in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "noise.raw"
    path.write_bytes(b"\1" * 8192)
    return path


@pytest.mark.posix
def test_a_picture_whose_name_would_be_too_long(
    noise: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dump can be read: the fault is the name that its picture gets by default."""
    path = noise.rename(noise.with_name("a" * 253))
    code, sentence = failing(capsys, path.name)
    assert (code, sentence) == (1, f"memviz: cannot write {path.name}.png: File name too long")


@pytest.mark.parametrize("command", [[], ["extract", "--to", "x"], ["diff", "noise.raw"]])
def test_an_empty_name_is_not_this_folder(
    command: list[str], noise: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, sentence = failing(capsys, *command, "")
    assert code == 2 and "DUMP: must not be empty" in sentence


def test_outputs_that_are_files_only(noise: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is refused, and not offered when an ending is wrong."""
    for command, option, wrong in (("convert", "-o", "x.dmp"), ("diff", "--animate", "x.mp4")):
        for name, expected in (("-", "standard output"), (wrong, f"; not {wrong}")):
            code, sentence = failing(capsys, command, noise, option, name)
            assert code == 2 and expected in sentence
        assert "standard output" not in sentence


def test_a_file_in_the_place_of_a_folder(noise: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = noise.read_bytes()
    for command in (["extract", noise, "--frames", "0-1", "--to"], ["fleet", noise, "--out"]):
        code, sentence = failing(capsys, *command, noise)
        assert (code, sentence) == (1, f"memviz: cannot write {noise}: it is a file, not a folder")
    assert noise.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["doctor", "more"], "doctor stands alone"),
        (["extract", "noise.raw", "--to", "x", "--process", "init"], "--process: must be the id"),
        (["fleet", "noise.raw", "--out", "x", "--scheduler", "host"], "such as tcp://host:8786"),
    ],
)
def test_other_words(
    arguments: list[str], expected: str, noise: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, sentence = failing(capsys, *arguments)
    assert code == 2 and expected in sentence
    assert list(noise.parent.iterdir()) == [noise]


def test_a_table_for_a_closed_standard_output(
    noise: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `>&-`: Python then has no standard output. Only the summary may be lost."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main([str(noise), "--table", "-"]) == 1
    assert "cannot write standard output: it is closed" in capfd.readouterr().err
    assert list(noise.parent.iterdir()) == [noise]
    monkeypatch.setattr(sys, "stdout", None)
    assert main([str(noise), "-o", "x.png"]) == 3
    assert sys.stdout.name == os.devnull


def test_a_process_that_has_ended_has_nothing_to_extract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = forge(tmp_path / "dump", profiles()["WinXPSP2x86"], size=16 << 20, processes=2)
    [ended] = [process for process in truth.processes if process.exited]
    folder = tmp_path / "out"
    arguments = ["extract", tmp_path / "dump", "--process", ended.pid, "--to", folder]
    assert main([str(argument) for argument in arguments]) == 0
    said = capsys.readouterr()
    assert "memviz: nothing of what was asked for is in memory\n" in said.err
    assert "0 files written, 0 pages" in said.out


def test_shares_are_of_pages_with_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The states in the summary: absent frames have no share, the others make a whole."""
    forge_linux(tmp_path / "linux.raw", size=32 << 20)
    memory, far = (tmp_path / "linux.raw").read_bytes(), 128 << 20
    write_lime(tmp_path / "linux.lime", [(0, memory), (far, b"\1" * 4096)])
    arguments = [tmp_path / "linux.lime", "-o", tmp_path / "x.png", "--json", tmp_path / "x.json"]
    assert main([*map(str, arguments), "--color-by", "state"]) == 0
    lines = (
        capsys.readouterr().out.partition("Page states")[2].partition("\n\n")[0].splitlines()[1:]
    )
    states = json.loads((tmp_path / "x.json").read_bytes())["states"]
    held = sum(count for state, count in states.items() if state != "absent")
    assert states["absent"] > held  # else a wrong denominator could not be seen
    told = {" ".join(words[: words.index(number)]): words for words, number in _numbers(lines)}
    assert told.pop("absent")[-1] == "-"
    assert told.keys() == {state for state, count in states.items() if count} - {"absent"}
    for state, words in told.items():
        assert float(words[-2]) == pytest.approx(100 * states[state] / held, abs=0.051)


def _numbers(lines: list[str]) -> list[tuple[list[str], str]]:
    """The words of each line, and the first that is a number."""
    rows = [line.split() for line in lines]
    return [(words, next(word for word in words if word[0].isdecimal())) for words in rows]
