"""Tables of files and regions; and the file behind each page in the tables of pages."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import memory_visualizer
from memory_visualizer import PageClass, Snapshot
from memory_visualizer.export.csvtable import text_cell
from memory_visualizer.export.inventorytables import write_files, write_regions
from memory_visualizer.export.summary import SCHEMA, summary
from memory_visualizer.export.tables import to_arrow, write_table
from memory_visualizer.output import is_own
from memory_visualizer.picture.colouring import colour_by, swatches_of
from memory_visualizer.picture.palette import DEFAULT
from memory_visualizer.printable import printable
from tests.cli.running import run
from tests.synth import forge, profiles
from tests.synth.linux import LinuxTruth, forge_linux

LOST = "[file without an inode]"


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, LinuxTruth, Path]:
    path = tmp_path_factory.mktemp("tables") / "dump"
    truth = forge_linux(path, "6.1", files=True)
    return memory_visualizer.open(path), truth, path


def true_paths(truth: LinuxTruth) -> dict[int, tuple[str, int]]:
    """Path and offset by frame."""
    assert truth.files
    return {f: (own.path if own else LOST, at) for f, (own, at) in truth.files.pages.items()}


def test_files_in_csv(dump: tuple[Snapshot, LinuxTruth, Path], tmp_path: Path) -> None:
    snapshot, truth, _ = dump
    write_files(tmp_path / "files.csv", snapshot)
    assert is_own(tmp_path / "files.csv")
    with (tmp_path / "files.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    paths = [path for path, _ in true_paths(truth).values()]
    escaped = {"/mnt/data/deep/two\nlines": r"/mnt/data/deep/two\x0alines"}
    expected = {escaped.get(path, path): paths.count(path) for path in set(paths)}
    assert {row["path"]: int(row["pages"]) for row in rows} == expected
    assert all(int(row["bytes"]) == 4096 * int(row["pages"]) for row in rows)
    states = {title for title in rows[0] if title.startswith("pages_")}
    assert {"pages_file_cache", "pages_shared_memory", "pages_huge_page"} <= states
    assert all(sum(int(row[title]) for title in states) == int(row["pages"]) for row in rows)
    [memfd] = [row for row in rows if row["path"] == "/memfd:name"]
    assert (memfd["kind"], memfd["deleted"], memfd["file_system"]) == (
        "shared memory",
        "1",
        "tmpfs",
    )


def test_files_of_chosen_processes(dump: tuple[Snapshot, LinuxTruth, Path], tmp_path: Path) -> None:
    """The files of which they have pages, by the true file of each page."""
    snapshot, truth, _ = dump
    paths = true_paths(truth)
    tried = 0
    for index, process in enumerate(snapshot.processes):
        theirs = {paths[f][0] for f in snapshot.pages(process).tolist() if f in paths}
        if not theirs or tried == 3:
            continue
        tried += 1
        write_files(tmp_path / "files.json", snapshot, chosen=[index])
        rows = json.loads((tmp_path / "files.json").read_bytes())["files"]
        assert {row["path"] for row in rows} == theirs
        assert all(process.pid in row["pids"] for row in rows)
    assert tried


def test_regions_in_csv(dump: tuple[Snapshot, LinuxTruth, Path], tmp_path: Path) -> None:
    snapshot, truth, _ = dump
    assert truth.files
    write_regions(tmp_path / "regions.csv", snapshot)
    assert is_own(tmp_path / "regions.csv")
    with (tmp_path / "regions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["pid"]), int(row["start"], 0), int(row["end"], 0)) for row in rows] == [
        (pid, region.start, region.end)
        for pid in sorted(truth.files.regions)
        for region in truth.files.regions[pid]
    ]
    present = {(pid, virtual) for pid, virtual, _ in truth.owners}
    for row in rows:
        pid, start, end = int(row["pid"]), int(row["start"], 0), int(row["end"], 0)
        inside = sum(pid == who and start <= virtual < end for who, virtual in present)
        assert int(row["pages"]) == inside
    words = "private, writable, executable; executable without a file"
    assert {row["findings"] for row in rows if row["protection"] == "rwx"} == {words}


def test_pages_with_their_regions(dump: tuple[Snapshot, LinuxTruth, Path], tmp_path: Path) -> None:
    """Each owner has its region's begin, in each format of the table of pages."""
    parquet = pytest.importorskip("pyarrow.parquet")
    snapshot, truth, _ = dump
    assert truth.files
    true = {
        (pid, virtual): region.start
        for pid, virtual, _ in truth.owners
        for region in truth.files.regions.get(pid, ())
        if region.start <= virtual < region.end
    }
    for ending in (".npz", ".csv", ".parquet"):
        write_table(tmp_path / f"pages{ending}", snapshot, regions=True)
    arrays = np.load(tmp_path / "pages.npz")
    columns = (arrays[f"owner_{name}"].tolist() for name in ("pid", "virtual", "region", "pfn"))
    rows = list(zip(*columns, strict=True))
    assert len({region for *_, region, _ in rows}) > 5
    assert all(region == true.get((pid, virtual), 0) for pid, virtual, region, _ in rows)
    regions: dict[int, list[int]] = {}
    for *_, region, frame in rows:
        regions.setdefault(frame, []).append(region)
    table = parquet.read_table(tmp_path / "pages.parquet")["owner_regions"].to_pylist()
    assert {frame: told for frame, told in enumerate(table) if told} == regions
    with (tmp_path / "pages.csv").open(newline="", encoding="utf-8") as file:
        cells = {int(row["pfn"]): row["owner_regions"] for row in csv.DictReader(file)}
    assert {frame: cell.split() for frame, cell in cells.items() if cell} == {
        frame: [hex(region) if region else "-" for region in told]
        for frame, told in regions.items()
    }


def test_parquet_and_json_say_the_same(
    dump: tuple[Snapshot, LinuxTruth, Path], tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    snapshot = dump[0]
    for write, what in ((write_files, "files"), (write_regions, "regions")):
        for ending in (".parquet", ".json"):
            write(tmp_path / f"{what}{ending}", snapshot)
            assert is_own(tmp_path / f"{what}{ending}")
        table = parquet.read_table(tmp_path / f"{what}.parquet").to_pylist()
        told = json.loads((tmp_path / f"{what}.json").read_text())
        assert told[what] == table
        assert len(table) > 5
    rows = parquet.read_table(tmp_path / "files.parquet").to_pylist()
    assert {row["path"] for row in rows} == {path for path, _ in true_paths(dump[1]).values()}


def test_some_processes_only(dump: tuple[Snapshot, LinuxTruth, Path], tmp_path: Path) -> None:
    snapshot = dump[0]
    index = next(n for n, process in enumerate(snapshot.processes) if process.pid == 107)
    write_regions(tmp_path / "regions.json", snapshot, chosen=[index])
    told = json.loads((tmp_path / "regions.json").read_text())["regions"]
    assert {row["pid"] for row in told} == {107}


def test_pages_with_their_files(dump: tuple[Snapshot, LinuxTruth, Path], tmp_path: Path) -> None:
    """Each page has its file, in each format of the table of pages."""
    snapshot, truth, _ = dump
    true = true_paths(truth)
    for ending in (".npz", ".csv"):
        write_table(tmp_path / f"pages{ending}", snapshot)
    arrays = np.load(tmp_path / "pages.npz")
    paths = arrays["file_paths"].tolist()
    assert len(arrays["file"]) == len(arrays["file_offset"]) == len(snapshot.classes)
    for frame, (file, offset) in enumerate(
        zip(arrays["file"].tolist(), arrays["file_offset"].tolist(), strict=True)
    ):
        assert (paths[file], offset) == true[frame] if frame in true else (file, offset) == (-1, 0)
    with (tmp_path / "pages.csv").open(newline="", encoding="utf-8") as file_:
        rows = {int(row["pfn"]): row for row in csv.DictReader(file_)}
    assert {frame for frame, row in rows.items() if row["file"]} == set(true)
    assert all(int(rows[frame]["file_offset"]) == offset for frame, (_, offset) in true.items())
    pytest.importorskip("pyarrow")
    table = to_arrow(snapshot)
    files = zip(table["file"].to_pylist(), table["file_offset"].to_pylist(), strict=True)
    assert {frame: told for frame, told in enumerate(files) if told[0] is not None} == true


def test_files_with_one_path(dump: tuple[Snapshot, LinuxTruth, Path]) -> None:
    """A dictionary column has each text once, as other programs require."""
    pytest.importorskip("pyarrow")
    snapshot = memory_visualizer.open(dump[2])
    pages = snapshot.file_pages
    alike = tuple(replace(file, path="/dev/zero") for file in pages.files)
    vars(snapshot)["file_pages"] = replace(pages, files=alike)
    column = to_arrow(snapshot).to_pandas()["file"]
    assert column.value_counts().to_dict() == {"/dev/zero": len(pages.frame)}


def test_json_counts_files(dump: tuple[Snapshot, LinuxTruth, Path]) -> None:
    snapshot, truth, _ = dump
    told = summary(snapshot)
    jsonschema.validate(told, SCHEMA)
    assert truth.files
    deleted = {own.path for own, _ in truth.files.pages.values() if own and own.is_deleted}
    assert told["files"] == {
        "count": len({path for path, _ in true_paths(truth).values()}),
        "deleted": len(deleted),
        "pages": len(true_paths(truth)),
    }
    assert any("inode" in remark for remark in told["remarks"])


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("/plain", "/plain"),
        ('/a "b", c', '"/a ""b"", c"'),
        ("=cmd()", "'=cmd()"),
        ("-1,2", '"\'-1,2"'),
        ("/two\nlines\x1b[2J", r"/two\x0alines\x1b[2J"),
        ("/é\u202e", r"/é\u202e"),
    ],
)
def test_hostile_text_in_csv(text: str, cell: str) -> None:
    assert text_cell(text) == cell


@given(st.text(st.characters(codec="utf-8", max_codepoint=0x2FFF)))
@example("\n")
@example("a\n")
@example("a;b")
def test_any_text_in_csv(text: str) -> None:
    """Python's own reader gets the escaped text, in one cell that is no formula."""
    [[cell]] = csv.reader([f"{text_cell(text)}\n"]) if text else [[""]]
    shown = printable(text)
    assert cell in (shown, f"'{shown}")
    assert (cell != shown) == shown.startswith(("=", "+", "-", "@"))


def test_on_the_command_line(dump: tuple[Snapshot, LinuxTruth, Path], tmp_path: Path) -> None:
    path = dump[2]
    done = run([path, "-o", "p.png", "--files", "f.csv", "--regions", "r.json", "-q"], tmp_path)
    assert done.returncode == 0
    assert "without an inode" in done.stderr
    assert (tmp_path / "f.csv").read_text("utf-8").startswith("path,kind,")
    done = run([path, "-o", "p.png", "--files", "-", "-q"], tmp_path)
    assert done.stdout == (tmp_path / "f.csv").read_text("utf-8")
    done = run([path, "-o", "p.png", "--files", "f.txt"], tmp_path)
    assert done.returncode == 2
    assert "must end in one of .csv, .parquet, .json" in done.stderr


def test_coloured_by_file(dump: tuple[Snapshot, LinuxTruth, Path], tmp_path: Path) -> None:
    """The largest files have colours of their own, in the picture and in the page."""
    snapshot, truth, path = dump
    coloured = colour_by("file", snapshot, DEFAULT, lambda: snapshot.zero.view(np.uint8))
    labels = [swatch.label for swatch in coloured.swatches]
    true = true_paths(truth)
    for frame, value in enumerate(coloured.values.tolist()):
        expected = true[frame][0] if frame in true else "no file"
        expected = "absent" if snapshot.classes[frame] == PageClass.ABSENT else expected
        assert labels[value] == expected
    assert coloured.swatches == swatches_of("file", snapshot, DEFAULT)
    arguments = ["-o", "p.png", "--html", "p.html", "--color-by", "file"]
    done = run([path, *arguments], tmp_path)
    assert done.returncode == 0
    assert "/mnt/rest.bin" in done.stdout
    assert "/mnt/rest.bin" in (tmp_path / "p.html").read_text("utf-8")
    forge_linux(tmp_path / "other", "6.1")
    done = run(["other", *arguments], tmp_path)
    assert done.returncode == 2
    assert "does not tell the files" in done.stderr


def test_extract_on_the_command_line(
    dump: tuple[Snapshot, LinuxTruth, Path], tmp_path: Path
) -> None:
    path = dump[2]
    arguments = ["extract", path, "--file", "^/run/", "--process", "1", "--frames", "0x10-0x1f"]
    done = run([*arguments, "--to", "out"], tmp_path)
    assert (done.returncode, done.stdout[:4]) == (0, "out:")
    assert (tmp_path / "out/files/run/small").stat().st_size == 999
    assert (tmp_path / "out/frames/10-1f.raw").stat().st_size == 16 * 4096
    again = run([*arguments, "--to", "out"], tmp_path)
    assert again.returncode == 1
    assert "--force" in again.stderr
    assert run([*arguments, "--to", "out", "--force"], tmp_path).returncode == 0
    for wrong, sentence in (
        ([], "nothing to extract"),
        (["--file", "nothing at all"], "no file in the dump matches"),
        (["--process", "77777"], "no process 77777"),
        (["--frames", "0-0xffffffff"], "the dump has frames"),
        (["--frames", "9-3"], "must not end before it begins"),
        (["--file", "("], "is not a regular expression"),
    ):
        done = run(["extract", path, *wrong, "--to", "other"], tmp_path)
        assert done.returncode == 2
        assert sentence in done.stderr
    assert not (tmp_path / "other").exists()


def test_of_windows_a_remark_tells_why_there_is_nothing(tmp_path: Path) -> None:
    forge(tmp_path / "dump", profiles()["WinXPSP3x86"])
    options = ["--files", "files.csv", "--regions", "regions.csv", "-q"]
    result = run([tmp_path / "dump", *options], tmp_path)
    assert result.returncode == 0
    assert result.stderr.splitlines() == [
        "memviz: the regions of the processes are unknown: no tree of their addresses was found",
        "memviz: files.csv has no rows: the files behind the pages of this dump are not known",
    ]
    for table in ("files.csv", "regions.csv"):
        assert len((tmp_path / table).read_text().splitlines()) == 1
