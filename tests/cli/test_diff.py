"""The command memviz diff, run as people run it."""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

import memory_visualizer
from memory_visualizer.cli.memviz import main
from memory_visualizer.difference.changes import Change, ChangeBit
from memory_visualizer.export.changesummary import SCHEMA
from memory_visualizer.output import CHANGE_TITLES, is_own
from memory_visualizer.picture.changes import CHANGE_PALETTES, DARK_CHANGES
from memory_visualizer.picture.palette import Colour, hex_colour
from tests.conftest import ROOT
from tests.difference.conftest import Series, linux_series, windows_series
from tests.picture.test_painting import VISION, cielab
from tests.synth import forge, kernel, profiles
from tests.synth.containers import write_kdump, write_lime

__all__ = ["linux_series", "windows_series"]  # fixtures


def diff(*arguments: object) -> int:
    return main(["diff", *map(str, arguments)])


def test_split_dumps(
    windows_series: Series, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two split kdumps, file after file, are two dumps; the files of a single dump are refused."""
    files, half = [], 2048
    for number, path in enumerate(windows_series.paths[:2]):
        memory = path.read_bytes()
        for part in ((0, half), (half, len(memory) // 4096)):
            files.append(tmp_path / f"{number}.{part[0]}")
            write_kdump(files[-1], [(0, memory)], part=part)
    assert diff(*files, "--json", tmp_path / "out.json") == 0
    told = json.loads((tmp_path / "out.json").read_bytes())
    assert [one["dump"] for one in told["dumps"]] == ["0.0", "1.0"]
    plain = memory_visualizer.diff(*windows_series.paths[:2])
    assert told["steps"][0]["changes"] == {
        change.label: count for change, count in plain.counts().items()
    }
    assert diff(*files[:2]) == 2
    assert "two dumps or more; these files are parts of one" in capsys.readouterr().err


def test_all_outputs(
    windows_series: Series, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, _ = windows_series.paths
    outputs = {
        option: tmp_path / name
        for option, name in {
            "-o": "changes.png",
            "--table": "changes.csv",
            "--json": "changes.json",
            "--animate": "changes.webp",
        }.items()
    }
    options = [word for pair in outputs.items() for word in pair]
    for _ in range(2):  # the second run replaces this program's own files
        assert diff(second, first, *options) == 0
    found = memory_visualizer.diff(first, second)
    printed = capsys.readouterr()
    assert "in the order of their clocks: 1.raw, 2.raw" in printed.err
    for change, count in found.counts().items():
        row = rf"^  #[0-9a-f]{{6}}  {change.label} +{count:,} +[0-9.,]+ MiB +"
        assert re.search(row, printed.out, re.MULTILINE)
    for word in ("came ", "went ", "owners", "became executable"):
        assert word in printed.out
    assert_picture(outputs["-o"], found.codes)
    assert_rows(outputs["--table"], windows_series)
    assert_json(outputs["--json"], windows_series)
    with Image.open(outputs["--animate"]) as moving:
        assert getattr(moving, "n_frames", 1) == 2
    assert all(map(is_own, outputs.values()))


def assert_picture(path: Path, codes: Any) -> None:
    """Each page has the colour of its change."""
    with Image.open(path) as read:
        left, top, right, bottom = map(int, str(read.info["Box"]).split())
        pixels = np.asarray(read.convert("RGB"))[top:bottom, left:right].reshape(-1, 3)
    colours = np.array([CHANGE_PALETTES["default"][change] for change in Change])
    np.testing.assert_array_equal(pixels[: len(codes)], colours[codes])


def assert_rows(path: Path, series: Series) -> None:
    """The table has a row for each changed page, with the noted change."""
    noted = series.steps[0]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CHANGE_TITLES
    words = noted.words(series.memory)
    told = {int(row["pfn"]): row for row in rows}
    for frame, word in enumerate(words.tolist()):
        if word == "SAME":
            assert frame not in told
            continue
        row = told[frame]
        assert row["change"] == Change[word].label
        assert int(row["physical"], 16) == frame * 4096
        assert row["class_before"] == noted.before.classes[frame]
        assert row["class_after"] == noted.after.classes[frame]
        of_contents = noted.of_contents(frame, series.memory).lower()
        assert row["contents"] == of_contents.replace("contents", "changed")
        for known, column in ((noted.before, "pids_before"), (noted.after, "pids_after")):
            pids = {int(pid) for pid in row[column].split()}
            assert pids == known.owners.get(frame, frozenset())
        if word == "EXECUTABLE":
            assert (row["protection_before"], row["protection_after"]) == ("rw-", "rwx")


def assert_json(path: Path, series: Series) -> None:
    values = json.loads(path.read_text())
    jsonschema.validate(values, SCHEMA)
    assert [one["dump"] for one in values["dumps"]] == ["1.raw", "2.raw"]
    (step,) = values["steps"]
    noted = series.steps[0]
    words = noted.words(series.memory).tolist()
    assert step["changes"] == {change.label: words.count(change.name) for change in Change}
    assert step["one_machine"] is True
    came = {one["pid"] for one in step["processes"] if one["change"] == "came"}
    assert came == noted.after.pages.keys() - noted.before.pages.keys()
    assert sum(move["frames"] for move in step["owner_moves"]) == step["bits"]["owner"]


def test_a_series(
    windows_series: Series, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each dump is compared with the one before; the picture has the strongest change of all."""
    table, picture, moving = (tmp_path / name for name in ("s.npz", "s.png", "s.gif"))
    assert diff(*windows_series.paths, "--table", table, "-o", picture, "--animate", moving) == 0
    steps = [memory_visualizer.diff(*windows_series.paths[at : at + 2]) for at in (0, 1)]
    arrays = np.load(table)
    for number, found in enumerate(steps, 1):
        np.testing.assert_array_equal(arrays[f"change_{number}"], found.codes)
        np.testing.assert_array_equal(arrays[f"bits_{number}"], found.bits)
        words = arrays["change_names"][found.codes]
        assert words.tolist()[:1] == [Change(int(found.codes[0])).label]
    assert arrays["bit_names"].tolist() == [str(bit.name).lower() for bit in ChangeBit]
    assert_picture(picture, np.maximum(steps[0].codes, steps[1].codes))
    with Image.open(moving) as read:
        assert getattr(read, "n_frames", 1) == 3
    assert all(map(is_own, (table, picture, moving)))
    assert "Pages that changed from each dump to the next" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["png", "parquet"])
def test_other_formats(ending: str, linux_series: Series, tmp_path: Path) -> None:
    path = tmp_path / f"changes.{ending}"
    option = "--animate" if ending == "png" else "--table"
    assert diff(*linux_series.paths[:2], option, path, "-q") == 0
    assert is_own(path)
    if ending == "png":
        with Image.open(path) as read:
            assert getattr(read, "n_frames", 1) == 2
        return
    pyarrow = pytest.importorskip("pyarrow.parquet")
    rows = pyarrow.read_table(path).to_pydict()
    assert tuple(rows) == CHANGE_TITLES
    words = linux_series.steps[0].words(linux_series.memory)
    assert rows["pfn"] == np.flatnonzero((words != "SAME") & (words != "ABSENT")).tolist()
    assert rows["change"] == [Change[words[frame]].label for frame in rows["pfn"]]


def test_the_last_picture_of_an_animation(windows_series: Series, tmp_path: Path) -> None:
    """Changed pages are bright; all others have the pale colours of their classes."""
    assert diff(*windows_series.paths[:2], "--animate", tmp_path / "a.png", "-q") == 0
    found = memory_visualizer.diff(*windows_series.paths[:2])
    with Image.open(tmp_path / "a.png") as read:
        read.seek(1)
        pixels = np.asarray(read.convert("RGB"))
    side = 64
    left = (pixels.shape[1] - side) // 2
    seen = pixels[:side, left : left + side].reshape(-1, 3)
    changed = found.codes > Change.SAME
    colours = np.array([CHANGE_PALETTES["default"][change] for change in Change])
    np.testing.assert_array_equal(seen[changed], colours[found.codes[changed]])
    assert seen[~changed].min() > 150


def test_long_holes_are_folded(windows_series: Series, tmp_path: Path) -> None:
    """The picture and the animation fold a hole that all dumps have."""
    far = (1 << 32) + (1 << 20)  # AVML could have left out zeros in a gap of whole 16 MiB
    for path in windows_series.paths[:2]:
        memory = path.read_bytes()
        write_lime(tmp_path / path.name, [(0, memory), (far, bytes(1 << 20))])
    dumps = [tmp_path / path.name for path in windows_series.paths[:2]]
    picture, moving = tmp_path / "p.png", tmp_path / "a.gif"
    assert diff(*dumps, "-o", picture, "--animate", moving, "-q") == 0
    drawn = tmp_path / "d.png"
    assert diff(*dumps, "-o", drawn, "--no-legend", "--holes", "draw", "-q") == 0
    with Image.open(picture) as read:
        assert str(read.info["Layout"]).startswith("rows; fold 0x1000000 0xff100000 ")
    with Image.open(moving) as read:
        assert read.size[1] < 400
    with Image.open(drawn) as read:
        assert read.size[0] * read.size[1] >= far >> 12


def test_other_machines(
    windows_series: Series,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A sentence and the exit code tell it; only figures that still make sense are compared."""
    monkeypatch.setattr(kernel, "IMAGE_TIME", kernel.IMAGE_TIME + 864_000_000_000)
    other = tmp_path / "other.raw"
    forge(other, profiles()["Win10x64"], size=16 << 20, seed=123)
    assert diff(windows_series.paths[0], other, "--json", tmp_path / "o.json") == 3
    printed = capsys.readouterr()
    assert "1.raw and other.raw are not of one machine: " in printed.err
    assert "matched by their names" in printed.out
    values = json.loads((tmp_path / "o.json").read_text())
    jsonschema.validate(values, SCHEMA)
    assert values["steps"][0]["changes"] is None


def test_given_order(windows_series: Series, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, _ = windows_series.paths
    assert diff(second, first, "--in-order") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["2.raw", "1.raw"]


def test_bad_usage(
    windows_series: Series, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, _ = windows_series.paths
    assert diff(first) == 2
    assert diff(first, tmp_path / "missing.raw") == 2
    assert diff(first, second, "-o", "x.png", "--width", "9", "--layout", "hilbert") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("memviz: ") for line in errors)


def test_evidence_is_never_replaced(
    windows_series: Series, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, _ = windows_series.paths
    foreign = tmp_path / "foreign.gif"
    Image.new("L", (9, 9)).save(foreign)
    before = foreign.read_bytes()
    assert diff(first, second, "--animate", foreign) == 1
    assert foreign.read_bytes() == before
    assert "--force replaces it" in capsys.readouterr().err
    dump = tmp_path / "dump.png"
    dump.write_bytes(first.read_bytes())
    assert diff(dump, second, "-o", dump) == 2
    assert diff(first, second, "-o", dump, "--force") == 1
    assert dump.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("name", CHANGE_PALETTES)
@pytest.mark.parametrize("palettes", [CHANGE_PALETTES, DARK_CHANGES], ids=["light", "dark"])
def test_changes_are_apart_for_all_eyes(
    palettes: Mapping[str, Mapping[Change, Colour]], name: str, vision: str
) -> None:
    """The CIE 1976 colour differences are large enough, as for classes."""
    seen = [cielab(colour, vision) for colour in palettes[name].values()]
    apart = min(_distance(one, other) for at, one in enumerate(seen) for other in seen[:at])
    assert apart > (15 if name == "default" else 20)


def _distance(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return float(np.linalg.norm(np.subtract(one, other)))


def test_the_documentation_has_each_change_with_its_colours() -> None:
    text = (ROOT / "docs/diff.md").read_text()
    default, blind = CHANGE_PALETTES.values()
    for change in Change:
        row = next(line for line in text.splitlines() if line.startswith(f"| {change.label} |"))
        colours = [f"`{hex_colour(palette[change])}`" for palette in (default, blind)]
        assert row.endswith(f" | {colours[0]} | {colours[1]} |")


def test_the_palettes_do_not_share_a_colour_twice() -> None:
    for palette in CHANGE_PALETTES.values():
        colours: list[Colour] = list(palette.values())
        assert len(set(colours)) == len(Change)
