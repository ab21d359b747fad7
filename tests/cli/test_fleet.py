"""The command memviz fleet; tests/fleet tests its tasks and clusters."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from memory_visualizer.cli import fleet as command
from memory_visualizer.cli.memviz import main
from memory_visualizer.fleet.cluster import Place
from memory_visualizer.fleet.outcome import read_outcome
from memory_visualizer.fleet.sources import Source
from memory_visualizer.fleet.task import ClusterError, Options, Result, analyse
from memory_visualizer.output import is_own


@pytest.fixture
def serial(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the tasks one after another in this process; returns the arguments of the run."""
    asked: dict[str, Any] = {}

    def results(
        sources: Sequence[Source], folder: Path, options: Options, place: Place, **more: Any
    ) -> Iterator[Result]:
        asked.update(options=options, place=place)
        for source in sources:
            yield analyse(source, folder, options, force=more["force"])

    monkeypatch.setattr(command, "results", results)
    return asked


@pytest.fixture
def dumps(tmp_path: Path) -> Path:
    """A folder with a dump, and a broken one."""
    folder = tmp_path / "dumps"
    folder.mkdir()
    (folder / "one").write_bytes(b"\1" * 8192)
    (folder / "two").write_bytes(b"\1" * 8193)
    return folder


def test_a_run(
    serial: dict[str, Any], dumps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each dump and the run get a line, failures on standard error; a second run does the rest."""
    out = tmp_path / "out"
    assert main(["fleet", str(dumps), "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "1 of 2: one: neither Windows nor Linux found, 0 processes",
        f"2 dumps: 1 analysed, 1 failed; see {out}",
    ]
    assert said.err.startswith("memviz: 2 of 2: two: failed: ")
    assert serial["place"] == Place(None, None)
    assert is_own(out / "index.html")
    (dumps / "two").write_bytes(b"\1" * 4096)
    assert main(["fleet", str(dumps), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2 of 2: two: neither Windows nor Linux found, 0 processes",
        f"2 dumps: 2 analysed (1 of them before); see {out}",
    ]
    assert main(["fleet", str(dumps), "--out", str(out), "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_an_index_of_another_program_stays(
    serial: dict[str, Any], dumps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An index of another program is an error before any work."""
    index = tmp_path / "out/index.html"
    index.parent.mkdir()
    index.write_text("my site")
    assert main(["fleet", str(dumps), "--out", str(index.parent)]) == 1
    said = f"memviz: cannot write {index}: it exists, and this program did not write it"
    assert capsys.readouterr().err.startswith(said)
    assert not serial
    assert main(["fleet", str(dumps), "--out", str(index.parent), "--force"]) == 2
    assert is_own(index)


def test_options_reach_the_tasks(serial: dict[str, Any], dumps: Path, tmp_path: Path) -> None:
    """The tasks get the options that change outputs, and the options of the cluster."""
    arguments = ["--layout", "hilbert", "--scale", "2", "--palette", "colour-blind", "--legend"]
    arguments += ["--holes", "draw", "--color-by", "entropy", "--leads", "--lenient"]
    arguments += ["--scheduler", "tcp://there:1", "-q"]
    assert main(["fleet", str(dumps / "two"), "--out", str(tmp_path / "out"), *arguments]) == 0
    expected = Options(
        layout="hilbert",
        scale=2,
        palette="colour-blind",
        legend=True,
        holes="draw",
        color_by="entropy",
        leads=True,
        lenient=True,
    )
    assert serial == {"options": expected, "place": Place("tcp://there:1")}
    outcome = read_outcome(tmp_path / "out", "two")
    assert outcome and outcome.is_done and outcome.remarks


def test_a_cluster_that_fails(
    dumps: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A fault of the cluster ends with one sentence, exit code 1, and an index of done dumps."""

    def fail(*_: object, **__: object) -> Iterator[Result]:
        raise ClusterError("the scheduler went away")
        yield

    monkeypatch.setattr(command, "results", fail)
    assert main(["fleet", str(dumps), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr() == ("", "memviz: the scheduler went away\n")
    assert (tmp_path / "out/index.html").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--scheduler", "tcp://there:1", "--workers", "2"], "--workers is for this machine"),
        (["--layout", "hilbert", "--width", "9"], "--width is for rows"),
        (["--workers", "0"], "must be a whole number above 0"),
    ],
)
def test_options_that_contradict(
    arguments: list[str],
    sentence: str,
    dumps: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Contradicting options are an error before any work."""
    try:
        code = main(["fleet", str(dumps), "--out", str(tmp_path / "out"), *arguments])
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        code = ended.code
    assert code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_of_the_extra_is_loaded_without_need() -> None:
    """Neither memviz nor the help of the fleet loads a library of the extra."""
    program = """
import sys
from memory_visualizer.cli.memviz import main
try:
    main(["fleet", "--help"])
except SystemExit as ended:
    assert ended.code == 0
print({"dask", "distributed", "cryptography", "fsspec", "pyarrow"} & sys.modules.keys())
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.endswith("set()\n")
