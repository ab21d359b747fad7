"""The task of one dump in a fleet."""

import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memory_visualizer.cli.memviz import main as memviz
from memory_visualizer.fleet import task
from memory_visualizer.fleet.outcome import Outcome, outcomes_in, read_outcome
from memory_visualizer.fleet.sources import Source
from memory_visualizer.fleet.task import ClusterError, Options, analyse, analyse_plain
from memory_visualizer.fleet.thumbnail import LARGEST, small
from memory_visualizer.output import is_own
from memory_visualizer.picture.folding import plan
from memory_visualizer.picture.painting import Painting
from memory_visualizer.version import __version__
from tests.conftest import ROOT
from tests.fleet.conftest import Analysed


def files_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones included."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("more", [[], ["--leads", "--color-by", "process", "--legend"]])
def test_outputs_are_those_of_memviz(more: list[str], analysed: Analysed, tmp_path: Path) -> None:
    """The outputs are memviz's to the byte, for each system, in any order of reading."""
    folder, made = analysed.folder, Options()
    if more:
        folder, made = tmp_path / "fleet", Options(leads=True, color_by="process", legend=True)
        folder.mkdir()
    for name in analysed.expected:
        dump = analysed.dumps / name
        analyse(Source(str(dump), name), folder, made)
        paths = {ending: tmp_path / f"{name}.{ending}" for ending in ("png", "html", "json")}
        outputs = ["-o", paths["png"], "--html", paths["html"], "--json", paths["json"]]
        code = memviz([str(dump), *map(str, outputs), *more, "-q"])
        outcome = read_outcome(folder, name)
        assert outcome and outcome.exit_code == code
        for path in paths.values():
            assert (folder / "dumps" / name / path.name).read_bytes() == path.read_bytes(), path


def test_the_outcome_tells_the_dump(analysed: Analysed) -> None:
    """System, frames and processes are the writers'; every output is listed with its size."""
    outcomes = {outcome.name: outcome for outcome in outcomes_in(analysed.folder)}
    assert outcomes.keys() == analysed.expected.keys()
    for name, expected in analysed.expected.items():
        outcome = outcomes[name]
        assert outcome.system == expected.system
        assert outcome.frames == expected.frames
        assert outcome.processes >= len(expected.processes)
        assert sum(outcome.classes.values()) == expected.frames
        sizes = {
            path: len(contents)
            for path, contents in files_of(analysed.folder).items()
            if f"/{name}/" in path or f"dump={name}/" in path
        }
        assert sizes.pop(f"dumps/{name}/outcome.json")
        assert outcome.outputs == sizes
    assert outcomes["win7.raw"].unlinked == 1
    assert outcomes["win7.raw"].leads["unlinked process"] == 1
    assert all(map(is_own, analysed.folder.glob("dumps/*/*")))
    assert all(map(is_own, analysed.folder.glob("*/dump=*/*")))


def test_what_is_done_is_kept(analysed: Analysed, tmp_path: Path) -> None:
    """A finished analysis stays until the file, the options or an output change."""
    dump, folder = tmp_path / "dump.raw", tmp_path / "fleet"
    shutil.copy(analysed.dumps / "nothing", dump)
    folder.mkdir()
    source = Source(str(dump), "dump.raw")
    first = analyse(source, folder, Options())
    before = files_of(folder)
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert analyse(source, folder, Options()).is_kept
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (folder / "leads/dump=dump.raw/part-0.parquet").write_bytes(b"PAR1")
    (folder / "dumps/dump.raw/.memory-visualizer-0123.part").touch()
    refused = analyse(source, folder, Options()).outcome.sentence
    assert refused and "it exists, and this program did not write it" in refused
    (folder / "leads/dump=dump.raw/part-0.parquet").unlink()
    again = analyse(source, folder, Options())
    assert (again.outcome, again.is_kept) == (first.outcome, False)
    assert files_of(folder) == before
    other = analyse(source, folder, Options(scale=2))
    assert not other.is_kept
    assert other.outcome.options["scale"] == 2
    dump.write_bytes(bytes(4096))
    assert analyse(source, folder, Options(scale=2)).outcome.frames == 1
    for garbage in (b"", b"{}", b'{"schema": 1, "name": 5}', b"\xff", b"[]"):
        (folder / "dumps/dump.raw/outcome.json").write_bytes(garbage)
        assert read_outcome(folder, "dump.raw") is None


def test_a_dump_that_fails_costs_itself(
    analysed: Analysed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any error removes the earlier analysis, and its sentence is in the outcome."""
    dump = tmp_path / "dump.raw"
    source = Source(str(dump), "dump.raw")
    folder = tmp_path / "fleet"
    folder.mkdir()
    for error, sentence, code in (
        (MemoryError(), "out of memory", 1),
        (OSError(28, "No space left on device", "a.png"), "cannot write a.png: No space left", 1),
        (ZeroDivisionError("by zero"), "internal error: ZeroDivisionError: by zero", 1),
    ):
        shutil.copy(analysed.dumps / "nothing", dump)
        assert analyse(source, folder, Options()).outcome.is_done

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(task, "write_datasets", fail)
            outcome = analyse(source, folder, Options(scale=2)).outcome
        assert outcome.status == "failed"
        assert outcome.sentence and outcome.sentence.startswith(sentence)
        assert outcome.exit_code == code
        assert list(files_of(folder)) == ["dumps/dump.raw/outcome.json"]
        assert read_outcome(folder, "dump.raw") == outcome
        assert not list(folder.glob("*/dump=*"))


def test_a_file_that_is_away(analysed: Analysed, tmp_path: Path) -> None:
    """A missing file fails, but the outputs of the earlier analysis stay."""
    dump, folder = tmp_path / "dump.raw", tmp_path / "fleet"
    folder.mkdir()
    source = Source(str(dump), "dump.raw")
    missing = analyse(source, folder, Options()).outcome
    assert missing.sentence == f"cannot read {dump}: No such file or directory"
    assert missing.exit_code == 2
    shutil.copy(analysed.dumps / "nothing", dump)
    done = analyse(source, folder, Options()).outcome
    assert done.is_done
    dump.unlink()
    assert analyse(source, folder, Options()).outcome == missing
    assert read_outcome(folder, "dump.raw") == done


def test_files_of_others_stay(analysed: Analysed, tmp_path: Path) -> None:
    """Another program's file in the place of an output stays, and a sentence fails the dump."""
    own = tmp_path / "dumps/nothing/nothing.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"a holiday")
    source = Source(str(analysed.dumps / "nothing"), "nothing")
    outcome = analyse(source, tmp_path, Options()).outcome
    assert outcome.sentence and outcome.sentence.startswith(f"cannot write {own}: it exists, and")
    assert own.read_bytes() == b"a holiday"
    assert analyse(source, tmp_path, Options(), force=True).outcome.is_done


def test_machines_that_cannot_do_the_tasks(analysed: Analysed, tmp_path: Path) -> None:
    """Another version, or a missing folder, is a fault of the cluster and not of the dump."""
    source = {"url": str(analysed.dumps / "nothing"), "name": "nothing"}
    with pytest.raises(ClusterError, match=f"Memory Visualizer {__version__}, but this is 0.0.1"):
        analyse_plain(source, str(tmp_path), {}, "0.0.1", force=False)
    with pytest.raises(ClusterError, match="does not see the folder"):
        analyse_plain(source, str(tmp_path / "away"), {}, __version__, force=False)
    assert analyse_plain(source, str(tmp_path), {}, __version__, force=False).outcome.is_done


@pytest.mark.posix
@pytest.mark.parametrize("output", ["nothing.html", "part-0.parquet"])
def test_a_worker_that_is_killed_while_it_writes(
    output: str, analysed: Analysed, tmp_path: Path
) -> None:
    """Only whole outputs and no outcome are left; the next task removes the rest."""
    program = f"""
import os, signal
from pathlib import Path
from memory_visualizer import output
from memory_visualizer.fleet.task import analyse_plain
give = Path.replace
output._unnamed_file = lambda part: part.open("xb")  # as where files cannot be without a name
def replace(part, target):
    if Path(target).name == {output!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    return give(part, target)
Path.replace = replace
source = {{"url": {str(analysed.dumps / "nothing")!r}, "name": "nothing"}}
analyse_plain(source, {str(tmp_path)!r}, {{}}, {__version__!r}, force=False)
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = files_of(tmp_path)
    assert any(path.endswith(".part") for path in left)
    assert "dumps/nothing/outcome.json" not in left
    source = Source(str(analysed.dumps / "nothing"), "nothing")
    assert analyse(source, tmp_path, Options()).outcome.is_done
    assert files_of(tmp_path) == {
        path: contents
        for path, contents in files_of(analysed.folder).items()
        if "/nothing/" in path or "dump=nothing/" in path
    }


def test_the_outcome_is_the_same_elsewhere(analysed: Analysed, tmp_path: Path) -> None:
    """Another run at another time writes the same bytes: the outcome has no time and no machine."""
    time.sleep(0.01)
    analyse(Source(str(analysed.dumps / "xp.raw"), "xp.raw"), tmp_path, Options())
    path = Path("dumps/xp.raw/outcome.json")
    contents = (tmp_path / path).read_bytes()
    assert contents == (analysed.folder / path).read_bytes()
    assert list(json.loads(contents))[:2] == ["generator", "schema"]
    assert platform.node().encode() not in contents


@pytest.mark.parametrize("shape", [(1, 1), (256, 256), (257, 3), (1000, 700)])
def test_a_thumbnail_has_the_colour_of_most(shape: tuple[int, int]) -> None:
    """Each pixel has the most frequent colour of its square, counted pixel by pixel here."""
    pixels = np.random.default_rng(shape[0]).choice(
        np.arange(4, dtype=np.uint8), shape, p=[0.4, 0.3, 0.2, 0.1]
    )
    colours = ((0, 0, 0), (9, 9, 9), (99, 0, 0), (255, 255, 255))
    whole = Painting(pixels, colours, (0, 0, shape[1], shape[0]), plan(pixels.size, "rows"))
    found = small(whole).pixels
    side = -(-max(shape) // LARGEST)
    assert max(found.shape) <= LARGEST
    for row in range(0, found.shape[0], 7):
        for column in range(0, found.shape[1], 5):
            square = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
            counts = [int((square == colour).sum()) for colour in range(4)]
            assert counts[int(found[row, column])] == max(counts)
    assert small(whole).image().size == (found.shape[1], found.shape[0])


def test_thumbnails_are_pictures(analysed: Analysed) -> None:
    """Thumbnails are small, and have only colours of the picture."""
    for name in analysed.expected:
        own = analysed.folder / "dumps" / name
        with Image.open(own / "thumbnail.png") as thumbnail:
            assert max(thumbnail.size) <= LARGEST
        shown, whole = (colours(own / path) for path in ("thumbnail.png", f"{name}.png"))
        assert shown <= whole


def colours(path: Path) -> set[tuple[int, ...]]:
    """All colours in a picture."""
    with Image.open(path) as picture:
        return {*map(tuple, np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist())}


def test_an_outcome_of_another_name_is_none(tmp_path: Path) -> None:
    """An outcome under another dump's name, as in a copied folder, does not count."""
    assert Outcome("a", "b").name == "b"
    assert read_outcome(tmp_path, "b") is None
