"""Tables, JSON and the text page map, compared with the truth."""

import csv
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import PageClass, Snapshot
from memory_visualizer.export import tables as export
from memory_visualizer.export.summary import SCHEMA, write_json
from memory_visualizer.export.textmap import read_mapped_frames
from memory_visualizer.output import GENERATOR
from memory_visualizer.snapshot.pagemap import classify
from memory_visualizer.windows.toplevels import time_of
from tests import prestarted
from tests.synth import MIB, Truth, forge, profiles
from tests.synth.containers import write_lime
from tests.synth.memory import PAGE_SIZE

LABELS = np.array([page_class.label for page_class in PageClass])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dumps")


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    """The truth about a Windows 7, whose dump is folder / "win7.raw"."""
    return forge(folder / "win7.raw", profiles()["Win7SP1x64"])


@pytest.fixture(scope="module")
def snapshot(folder: Path, truth: Truth) -> Snapshot:
    return memory_visualizer.open(folder / "win7.raw")


@pytest.fixture(scope="module")
def nothing(folder: Path) -> Snapshot:
    """A dump without Windows: three frames, of which the second is zeros."""
    (folder / "nothing").write_bytes(b"a" * PAGE_SIZE + bytes(PAGE_SIZE) + b"b" * PAGE_SIZE)
    return memory_visualizer.open(folder / "nothing")


def true_owners(truth: Truth) -> set[tuple[int, int]]:
    """Frame and pid of all pages of processes."""
    notes = truth.mappings[truth.mappings["owner"] >= 0]
    return {
        (int(note["frame"]) + part, truth.processes[note["owner"]].pid)
        for note in notes
        for part in range(note["size"] // PAGE_SIZE)
        if note["frame"] + part < truth.frames
    }


# Tables


def test_npz(tmp_path: Path, snapshot: Snapshot, truth: Truth) -> None:
    path = tmp_path / "a.npz"
    export.write_table(path, snapshot)
    with np.load(path) as arrays:
        table = dict(arrays)
    assert table["generator"] == GENERATOR
    assert list(table) == [
        "generator",
        "pfn",
        "class",
        "class_names",
        "zero",
        "mappings",
        "owner_pfn",
        "owner_pid",
        "owner_virtual",
        "owner_user",
        "owner_process",
        "process_pid",
        "process_object",
        "process_anomalies",
    ]
    np.testing.assert_array_equal(table["pfn"], np.arange(truth.frames))
    np.testing.assert_array_equal(table["class_names"][table["class"]], truth.classes(truth.alive))
    np.testing.assert_array_equal(table["zero"], truth.zero)
    mapped = np.zeros(truth.frames, int)
    for note in truth.mappings:
        mapped[note["frame"] : note["frame"] + note["size"] // PAGE_SIZE] += 1
    np.testing.assert_array_equal(table["mappings"], mapped)

    owners = list(zip(table["owner_pfn"].tolist(), table["owner_pid"].tolist(), strict=True))
    assert len(owners) == len(set(owners))
    assert set(owners) == true_owners(truth)
    by_pid = {process.pid: index for index, process in enumerate(truth.processes)}
    notes = set(truth.mappings[["frame", "virtual", "owner", "user"]].tolist())
    small = table["owner_virtual"] % (2 * MIB) != 0  # notes have a large page's first frame
    columns = ("owner_pfn", "owner_virtual", "owner_pid", "owner_user")
    rows = zip(*(table[name][small].tolist() for name in columns), strict=True)
    large = {int(note["frame"]) for note in truth.mappings if note["size"] > PAGE_SIZE}
    large = {frame + part for frame in large for part in range(512)}
    for pfn, virtual, pid, user in rows:
        assert (pfn, virtual, by_pid[pid], user) in notes or pfn in large


def test_npz_holds_no_time(tmp_path: Path, snapshot: Snapshot) -> None:
    """The file has no time, so the same dump always gives the same bytes."""
    export.write_table(tmp_path / "a.npz", snapshot)
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="ascii") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("frames_at_once", [1000, 4096, 1 << 16])
def test_csv(
    frames_at_once: int,
    tmp_path: Path,
    snapshot: Snapshot,
    truth: Truth,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("memory_visualizer.snapshot.owners.PIECE_FRAMES", frames_at_once)
    export.write_table(tmp_path / "a.csv", snapshot)
    rows = csv_rows(tmp_path / "a.csv")
    assert [int(row["pfn"]) for row in rows] == list(range(truth.frames))
    assert all(int(row["physical"], 16) == n * PAGE_SIZE for n, row in enumerate(rows))
    assert [row["class"] for row in rows] == truth.classes(truth.alive).tolist()
    assert [row["zero"] == "1" for row in rows] == truth.zero.tolist()
    assert [int(row["mappings"]) for row in rows] == snapshot.mapping_count.tolist()
    assert {
        (n, int(pid)) for n, row in enumerate(rows) for pid in row["owner_pids"].split()
    } == true_owners(truth)
    for row in rows:
        owners = [(process.pid, at) for process, at in snapshot.owners_of(int(row["pfn"]))]
        pids, addresses = row["owner_pids"].split(), row["owner_virtuals"].split()
        found = [(int(p), int(a, 16)) for p, a in zip(pids, addresses, strict=True)]
        assert found == owners


def test_arrow_and_parquet(tmp_path: Path, snapshot: Snapshot, truth: Truth) -> None:
    pytest.importorskip("pyarrow", exc_type=ImportError)
    import pyarrow.parquet

    export.write_table(tmp_path / "a.parquet", snapshot)
    export.write_table(tmp_path / "b.parquet", snapshot)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    for table in (pyarrow.parquet.read_table(tmp_path / "a.parquet"), snapshot.to_arrow()):
        columns = table.to_pydict()
        assert columns["pfn"] == list(range(truth.frames))
        assert columns["physical"] == list(range(0, truth.frames * PAGE_SIZE, PAGE_SIZE))
        assert columns["class"] == truth.classes(truth.alive).tolist()
        assert columns["zero"] == truth.zero.tolist()
        assert columns["mappings"] == snapshot.mapping_count.tolist()
        for name, mine in (("owner_pids", 0), ("owner_virtuals", 1)):
            for pfn, values in enumerate(columns[name]):
                owners = [(process.pid, at) for process, at in snapshot.owners_of(pfn)]
                assert values == [owner[mine] for owner in owners]


def test_parquet_does_not_load_pandas(tmp_path: Path, nothing: Snapshot) -> None:
    """pandas, which takes 30 MiB and a third of a second, is not loaded."""
    pytest.importorskip("pyarrow", exc_type=ImportError)
    pytest.importorskip("pandas", exc_type=ImportError)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "import memory_visualizer\n"
        "from memory_visualizer.export.tables import write_table\n"
        "write_table(Path('a.parquet'), memory_visualizer.open('dump'))\n"
        "print('pyarrow' in sys.modules, 'pandas' in sys.modules)\n"
    )
    (tmp_path / "dump").write_bytes(bytes(PAGE_SIZE))
    done = prestarted.run(["-c", program], tmp_path, anew=True)
    assert (done.stdout, done.stderr) == ("True False\n", "")


def test_parquet_without_owners(tmp_path: Path, nothing: Snapshot) -> None:
    pytest.importorskip("pyarrow", exc_type=ImportError)
    import pyarrow.parquet

    export.write_table(tmp_path / "a.parquet", nothing)
    columns = pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pydict()
    assert columns["class"] == ["unused-data", "unused-zero", "unused-data"]
    assert columns["owner_pids"] == [[], [], []]


def test_pandas(snapshot: Snapshot, truth: Truth) -> None:
    pytest.importorskip("pandas", exc_type=ImportError)
    frame = snapshot.to_pandas()
    assert frame.index.name == "pfn"
    assert list(frame.columns) == ["physical", "class", "zero", "mappings", "protection", "owners"]
    assert (frame["physical"] == frame.index * PAGE_SIZE).all()
    assert (frame["owners"] == [len(snapshot.owners_of(pfn)) for pfn in frame.index]).all()
    assert set(frame["protection"][frame["class"] == "user"]) <= {"r--", "rw-", "r-x", "rwx"}
    assert set(frame["protection"][frame["class"] == "unused-zero"]) == {""}
    np.testing.assert_array_equal(frame["class"].astype(str), truth.classes(truth.alive))
    np.testing.assert_array_equal(frame["zero"], truth.zero)
    assert frame.groupby("class", observed=False).size()["absent"] == 0


def test_entropy_in_pandas_once_it_is_measured(tmp_path: Path) -> None:
    """Entropy is in bits per byte, and equals the steps of Snapshot.entropy."""
    pytest.importorskip("pandas", exc_type=ImportError)
    rng = np.random.default_rng(0)
    (tmp_path / "dump").write_bytes(bytes(PAGE_SIZE) + rng.bytes(PAGE_SIZE))
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert "entropy" not in snapshot.to_pandas()
    assert snapshot.entropy.shape == (2,)
    zeros, noise = snapshot.to_pandas()["entropy"]
    assert zeros == 0 and 7.9 < noise <= 8


def test_processes_in_pandas(snapshot: Snapshot, truth: Truth) -> None:
    """The frame has a row for each process, by the index that owners use."""
    pytest.importorskip("pandas", exc_type=ImportError)
    frame = snapshot.processes_frame()
    assert len(frame) == len(snapshot.processes)
    by_object = frame.set_index("object_address")
    for process in truth.processes:
        row = by_object.loc[process.eprocess]
        assert (row["pid"], row["ppid"], row["name"]) == (process.pid, process.ppid, process.name)
        assert row["dtb"] == process.dtb
    total = frame["private_pages"] + frame["shared_pages"]
    np.testing.assert_array_equal(total, snapshot.pages_of_processes().sum(axis=1))


def test_a_library_is_missing(
    tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing library is a sentence with advice, and no file."""
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    with pytest.raises(memory_visualizer.MemoryVisualizerError, match="pip install pyarrow"):
        export.write_table(tmp_path / "a.parquet", snapshot)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(memory_visualizer.MemoryVisualizerError, match="pip install pyarrow"):
        snapshot.to_arrow()
    with pytest.raises(memory_visualizer.MemoryVisualizerError, match="pip install pandas"):
        snapshot.to_pandas()


def test_tables_where_nothing_is_known(tmp_path: Path, nothing: Snapshot) -> None:
    export.write_table(tmp_path / "a.npz", nothing)
    with np.load(tmp_path / "a.npz") as table:
        labels = table["class_names"][table["class"]]
        assert labels.tolist() == ["unused-data", "unused-zero", "unused-data"]
        assert table["owner_pid"].size == table["owner_pfn"].size == 0
    export.write_table(tmp_path / "a.csv", nothing)
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        "pfn,physical,class,zero,mappings,owner_pids,owner_virtuals,anomalies",
        "0,0x0,unused-data,0,0,,,",
        "1,0x1000,unused-zero,1,0,,,",
        "2,0x2000,unused-data,0,0,,,",
    ]


# The summary


def test_summary(tmp_path: Path, snapshot: Snapshot, truth: Truth) -> None:
    """The summary and its JSON have all fields with the same values."""
    summary = snapshot.summary()
    classes = truth.classes(truth.alive)
    processes, leads = summary.pop("processes"), summary.pop("leads")
    unlinked = {lead["pid"] for lead in leads if lead["kind"] == "unlinked process"}
    assert unlinked == {p.pid for p in truth.processes if not p.listed and not p.exited}
    assert summary.pop("leads_are_complete") is False
    assert summary == {
        "generator": GENERATOR,
        "dump": "win7.raw",
        "format": "raw",
        "sha256": None,
        "size": 32 * MIB,
        "frames": truth.frames,
        "runs": 1,
        "holes": 0,
        "os": "Windows 6.1",
        "time": "2019-04-17T18:40:00+00:00",
        "paging": "x86-64",
        "dtb": hex(truth.processes[0].dtb),
        "classes": {label: int(np.count_nonzero(classes == label)) for label in LABELS.tolist()},
        "states": None,
        "uses": None,
        "pfn_database": None,
        "frame_findings": None,
        "last_owners": None,
        "files": None,
        "yara": None,
        "stale_spaces": 1,
        "volatility2_profiles": sorted(
            name for name, one in profiles().items() if (one.version, one.bits) == ((6, 1), 64)
        ),
        "processes_left_out": 0,
        "copies": [],
        "remarks": [],
    }
    names = ("pid", "ppid", "name", "dtb", "listed", "exited")
    assert [tuple(process[name] for name in names) for process in processes] == sorted(
        (p.pid, p.ppid, p.name, hex(p.dtb), p.listed, p.exited) for p in truth.processes
    )
    addresses = {p.pid: hex(p.eprocess) for p in truth.processes}
    assert {process["pid"]: process["object_address"] for process in processes} == addresses
    for process, (private, shared) in zip(
        processes, snapshot.pages_of_processes().tolist(), strict=True
    ):
        assert process["pages"] == private + shared
        assert (process["private_pages"], process["shared_pages"]) == (private, shared)

    write_json(tmp_path / "a.json", snapshot)
    assert json.loads((tmp_path / "a.json").read_text("ascii")) == snapshot.summary()
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(snapshot.summary(), SCHEMA)


def test_summary_where_nothing_is_known(nothing: Snapshot) -> None:
    summary = nothing.summary()
    for name in ("os", "time", "paging", "dtb"):
        assert summary[name] is None
    assert summary["processes"] == []
    assert summary["classes"]["unused-zero"] == 1


def changed(snapshot: Snapshot, **values: Any) -> Snapshot:
    """The same snapshot with other values in its second process."""
    first, second, *rest = snapshot.processes
    return replace(snapshot, processes=(first, replace(second, **values), *rest))


@pytest.mark.parametrize("timestamp", [2**64 - 1, 10**18 * 9, 0, 1])
def test_times_that_are_none(timestamp: int) -> None:
    """Numbers outside the calendar give None; 1 is the beginning of 1601."""
    time = time_of(timestamp)
    assert (time.isoformat() if time else None) == (
        "1601-01-01T00:00:00+00:00" if timestamp == 1 else None
    )


@pytest.mark.parametrize(
    "name", ["\x1b[2J\r\n\0", "\u202egpj.exe", '"},{"', "\ud800", "<script>", "\\xff", "日本"]
)
def test_any_name_in_json(name: str, tmp_path: Path, snapshot: Snapshot) -> None:
    """JSON is ASCII without control characters but line ends, and gives the same name back."""
    write_json(tmp_path / "a.json", changed(snapshot, name=name))
    text = (tmp_path / "a.json").read_text("ascii")
    assert all(line.isprintable() for line in text.splitlines())
    assert json.loads(text)["processes"][1]["name"] == name


def test_any_file_name_in_json(folder: Path, nothing: Snapshot) -> None:
    r"""A file name that is not UTF-8 makes no lone surrogates, which strict readers refuse."""
    path = folder / "b\udcff\u202e.raw"
    path.write_bytes(bytes(PAGE_SIZE))
    assert memory_visualizer.open(path).summary()["dump"] == "b\\xff\u202e.raw"


# The text page map


def read_back(snapshot: Snapshot, folder: Path) -> Any:
    """The classes of the written map, as imagegenerator.py reads it."""
    export.write_text_map(folder / "a.map", snapshot)
    dump = snapshot.dump
    text = io.BytesIO((folder / "a.map").read_bytes())
    mapped = read_mapped_frames(text, "map", dump.frame_count)
    return classify(mapped.user, mapped.kernel, snapshot.zero, ~dump.held).classes


def test_text_map(tmp_path: Path, snapshot: Snapshot) -> None:
    np.testing.assert_array_equal(read_back(snapshot, tmp_path), snapshot.classes)
    titles, rule, *lines = (tmp_path / "a.map").read_text().splitlines()
    assert titles == "(Virtual)           (Physical)    (Size)    (Kernel)"  # as the plugin has it
    assert rule == 54 * "-"
    assert "0x7ffe0000          " in {line[:20] for line in lines}


@pytest.mark.parametrize("name", ["WinXPSP2x86", "WinXPSP3x86", "Win81U1x64"])
@pytest.mark.parametrize("size", [32 * MIB, 33 * MIB + PAGE_SIZE])
@pytest.mark.many
def test_text_map_of_others(name: str, size: int, tmp_path: Path) -> None:
    """The map is also right for 32-bit, for PAE, and for memory that ends within a large page."""
    forge(tmp_path / "dump", profiles()[name], size=size)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    np.testing.assert_array_equal(read_back(snapshot, tmp_path), snapshot.classes)
    assert snapshot.paging is not None
    wide = 12 if snapshot.paging.address_bits == 32 else 20
    assert (tmp_path / "a.map").read_text().index("(Physical)") == wide


def test_text_map_with_holes(folder: Path, truth: Truth, tmp_path: Path) -> None:
    """Holes at both ends of large pages, or amid them, have no rows in the map."""
    contents = (folder / "win7.raw").read_bytes()
    large = truth.mappings[truth.mappings["size"] > PAGE_SIZE]["frame"].astype(int)
    assert large.size >= 2
    held = np.ones(truth.frames, bool)
    held[large[0] + 100 : large[0] + 140] = False
    held[large[1] : large[1] + 3] = held[large[1] + 500 : large[1] + 512] = False
    edges = np.flatnonzero(np.diff(held, prepend=False, append=False)).reshape(-1, 2)
    pieces = [(a * PAGE_SIZE, contents[a * PAGE_SIZE : b * PAGE_SIZE]) for a, b in edges.tolist()]
    write_lime(tmp_path / "dump", pieces)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    np.testing.assert_array_equal(read_back(snapshot, tmp_path), snapshot.classes)
    expected = np.where(held, truth.classes(truth.alive), "absent")
    np.testing.assert_array_equal(LABELS[snapshot.classes], expected)
    summary = snapshot.summary()
    assert summary["runs"] == len(edges)
    assert summary["holes"] == len(edges) - int(held[0])
    assert summary["size"] == np.count_nonzero(held) * PAGE_SIZE
    assert summary["classes"]["absent"] == np.count_nonzero(~held)


def test_text_map_of_nothing(nothing: Snapshot, tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_back(nothing, tmp_path), nothing.classes)
    assert len((tmp_path / "a.map").read_text().splitlines()) == 2
