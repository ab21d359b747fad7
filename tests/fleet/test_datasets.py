"""Questions over all dumps of a fleet."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest

import memory_visualizer
from memory_visualizer.export.inventorytables import write_files, write_regions
from memory_visualizer.export.tables import write_table
from memory_visualizer.fleet.datasets import COLUMNS, DATASETS, part_of
from tests.fleet.conftest import Analysed


def rows_of(analysed: Analysed, dataset: str, name: str | None = None) -> list[dict[str, Any]]:
    """The rows of a dataset, of one dump or of all."""
    table = pyarrow.dataset.dataset(analysed.folder / dataset, partitioning="hive").to_table()
    rows: list[dict[str, Any]] = table.to_pylist()
    return [row for row in rows if name in (None, row["dump"])]


def parts(analysed: Analysed, dataset: str) -> list[Path]:
    return [part_of(analysed.folder, dataset, name) for name in analysed.expected]


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.many
def test_one_schema_for_all_systems(dataset: str, analysed: Analysed) -> None:
    """The schema is the same without rows, since readers take the schema of any file."""
    schemas = [pyarrow.parquet.read_schema(path) for path in parts(analysed, dataset)]
    assert all(schema == schemas[0] for schema in schemas)
    assert "dump" not in schemas[0].names  # the folder tells it
    if dataset in COLUMNS:
        assert schemas[0].names == list(COLUMNS[dataset])
    table = pyarrow.dataset.dataset(analysed.folder / dataset, partitioning="hive").to_table()
    sizes = [pyarrow.parquet.read_metadata(path).num_rows for path in parts(analysed, dataset)]
    assert table.num_rows == sum(sizes)
    assert table.schema.field("dump").type == pa.string()


def test_page_maps_are_those_of_tables(analysed: Analysed, tmp_path: Path) -> None:
    """Columns equal those of the tables; values that a dump does not tell are null."""
    for name, expected in analysed.expected.items():
        snapshot = memory_visualizer.open(analysed.dumps / name)
        write_table(tmp_path / f"{name}.parquet", snapshot)
        own = pyarrow.parquet.read_table(tmp_path / f"{name}.parquet")
        found = pyarrow.parquet.ParquetFile(part_of(analysed.folder, "pages", name)).read()
        assert found.num_rows == expected.frames
        for column in found.column_names:
            if column in own.column_names:
                assert found[column].to_pylist() == own[column].to_pylist(), (name, column)
            else:
                assert found[column].null_count == found.num_rows
        assert set(own.column_names) <= set(found.column_names)


def test_processes(analysed: Analysed) -> None:
    """Each live process that the writers made is in the rows of its dump."""
    for name, expected in analysed.expected.items():
        rows = rows_of(analysed, "processes", name)
        summary = json.loads((analysed.folder / f"dumps/{name}/{name}.json").read_bytes())
        assert expected.processes <= {row["name"] for row in rows}
        for row, told in zip(rows, summary["processes"], strict=True):
            same = row.keys() & told.keys() - {"dtb", "user_dtb", "object_address"}
            for word in same - {"created", "exit_time"}:
                assert row[word] == told[word]
            for word in ("dtb", "user_dtb", "object_address"):
                assert hex(row[word]) == told[word]
            for word in ("created", "exit_time"):
                assert (row[word].isoformat() if row[word] else None) == told[word]
    hidden = {row["dump"] for row in rows_of(analysed, "processes") if row["state"] == "unlinked"}
    assert hidden == {"xp.raw", "win7.raw", "win10.raw"}  # the Linux writer hides no process


def test_files_and_regions(analysed: Analysed, tmp_path: Path) -> None:
    """The rows equal the output of `--files` and `--regions`."""
    count = 0
    for name in analysed.expected:
        snapshot = memory_visualizer.open(analysed.dumps / name)
        for dataset, write in (("files", write_files), ("regions", write_regions)):
            path = tmp_path / f"{name}-{dataset}.json"
            write(path, snapshot)
            told = json.loads(path.read_bytes())[dataset]
            rows = rows_of(analysed, dataset, name)
            assert len(rows) == len(told)
            for row, other in zip(rows, told, strict=True):
                for word in row.keys() & other.keys() - {"start", "end", "findings"}:
                    assert row[word] == other[word]
                if dataset == "regions":
                    assert (hex(row["start"]), hex(row["end"])) == (other["start"], other["end"])
                    assert "; ".join(row["findings"]) == other["findings"]
                else:
                    states = {
                        f"pages_{word.replace(' ', '_')}": n for word, n in row["pages_by_state"]
                    }
                    words = [word for word in other if word.startswith("pages_")]
                    assert states == {word: other[word] for word in words if other[word]}
            count += len(rows)
    assert count


def test_modules_and_leads(analysed: Analysed) -> None:
    """The rows equal the library's answers; leads are complete, unlike those in the summary."""
    for name in analysed.expected:
        snapshot = memory_visualizer.open(analysed.dumps / name)
        modules = rows_of(analysed, "modules", name)
        assert [row["name"] for row in modules] == [one.name for one in snapshot.modules or ()]
        for row, module in zip(modules, snapshot.modules or (), strict=True):
            ranges = [(part["first"], part["last"] + 1) for part in row["ranges"]]
            assert ranges == list(module.ranges)
            assert row["pages"] == len(module.frames)
        leads = rows_of(analysed, "leads", name)
        assert snapshot.leads.is_complete
        assert [row["reason"] for row in leads] == [lead.reason for lead in snapshot.leads.found]
        for row, lead in zip(leads, snapshot.leads.found, strict=True):
            frames = [f for run in row["runs"] for f in range(run["first"], run["last"] + 1)]
            assert frames == lead.frames.tolist()
    assert {row["dump"] for row in rows_of(analysed, "modules")} >= {"win10.raw", "linux.raw"}


def test_a_question_over_all_dumps(analysed: Analysed) -> None:
    """The datasets name the machines on which rootkit.exe is unlinked."""
    machines = {
        row["dump"]
        for row in rows_of(analysed, "processes")
        if row["name"] == "rootkit.exe" and row["state"] == "unlinked"
    }
    assert machines == {
        name for name, one in analysed.expected.items() if "rootkit.exe" in one.processes
    }
    assert machines
