"""Oddities in the terminal's summary, in JSON and in the page."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer.cli import memviz as cli
from memory_visualizer.export import tables as export
from memory_visualizer.snapshot.findings import findings, named, remarks_on_copies
from memory_visualizer.snapshot.process import ANOMALIES, Process, unnamed
from tests.conftest import ROOT
from tests.oddities import KINDS, synthetic, victim


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Windows with some odd processes, a broken list, and a copy of an object."""
    folder = tmp_path_factory.mktemp("odd")
    image = synthetic("10 x64", folder)
    for kind, name in (
        ("list broken at two places", "csrss.exe"),
        ("copy in another page", "explorer.exe"),
        ("name of control characters", "services.exe"),
        ("being made", "notepad.exe"),
    ):
        KINDS[kind](image, victim(image, name))
    image.pages.tofile(folder / "odd.raw")
    return folder / "odd.raw"


def test_in_the_terminal(dump: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(dump), "-o", str(tmp_path / "a.png")]) == 0
    out, err = capsys.readouterr()
    block = out.split("Anomalies of processes\n")[1].split("\n\n")[0]
    lines = [line.split("  ") for line in block.splitlines()]
    told = {line[1]: line[-1].strip() for line in lines}
    assert told["name not printable"] == r"\x01\x02\x03\x1b[31m (892)"
    assert told["starting"] == "notepad.exe (1632)"
    assert told["known by its page tables only"].count("tables at 0x") == 2
    assert (
        "memviz: the list of active processes is broken at 2 places: behind smss.exe (152)" in err
    )
    assert (
        "1 stale copy of a process object was found and is not counted as a process: explorer"
        in err
    )
    assert "\x1b" not in out + err


def test_in_json(dump: Path, tmp_path: Path) -> None:
    cli.main([str(dump), "-o", str(tmp_path / "a.png"), "--json", str(tmp_path / "a.json")])
    told = json.loads((tmp_path / "a.json").read_text())
    by_pid = {row["pid"]: row for row in told["processes"]}
    assert by_pid[1632]["anomalies"] == ["starting"]
    assert by_pid[1632]["phase"] == "starting"
    assert by_pid[892]["anomalies"] == ["name not printable"]
    assert by_pid[1188]["anomalies"] == []
    assert [copy["name"] for copy in told["copies"]] == ["explorer.exe"]
    assert "broken at 2 places" in told["remarks"][0]


def test_in_the_page(dump: Path, tmp_path: Path) -> None:
    memory_visualizer.open(dump).to_html(tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    about = json.loads(text.split('<script type="application/json" id="about">')[1].split("</")[0])
    by_pid = {row["pid"]: row for row in about["processes"]}
    assert by_pid[892]["anomalies"] == ["name not printable"]
    assert by_pid[1632]["anomalies"] == []  # its state tells it
    assert by_pid[1632]["state"] == "starting"
    assert any("broken at 2 places" in remark for remark in about["remarks"])
    assert any("explorer.exe" in remark for remark in about["remarks"])


def test_in_tables(dump: Path, tmp_path: Path) -> None:
    snapshot = memory_visualizer.open(dump)
    export.write_table(tmp_path / "a.csv", snapshot)
    export.write_table(tmp_path / "a.npz", snapshot)
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    odd = {row["pfn"]: row["anomalies"] for row in rows if row["anomalies"]}
    assert set("; ".join(odd.values()).split("; ")) == {"name not printable", "starting"}
    assert {row["pfn"] for row in rows if {"892", "1632"} & set(row["owner_pids"].split())} == set(
        odd
    )
    with np.load(tmp_path / "a.npz") as table:
        pids, words = table["process_pid"].tolist(), table["process_anomalies"].tolist()
        assert words[pids.index(892)] == "name not printable"
        owners = table["process_pid"][table["owner_process"]]
        np.testing.assert_array_equal(owners, table["owner_pid"])


def one(pid: int, *anomalies: str) -> Process:
    return Process(pid, 4, "a.exe", 0, 0x1000, None, None, True, True, anomalies=anomalies)


def test_the_rarest_comes_first() -> None:
    found = findings([one(4, "a", "b 0x12"), one(8, "a"), unnamed(1, 0)])
    assert list(found) == ["b", "known by its page tables only", "a"]
    assert [process.pid for process in found["a"]] == [4, 8]


def test_each_word_is_documented() -> None:
    chapter = (ROOT / "docs/processes.md").read_text("utf-8")
    for word, meaning in ANOMALIES.items():
        assert f"| `{word}` | {meaning} |" in chapter


def test_many_are_counted() -> None:
    assert named([one(pid) for pid in range(4, 44, 4)]).endswith("a.exe (24) and 4 more")
    assert remarks_on_copies(()) == ()
    assert "2 stale copies" in remarks_on_copies((one(4), one(8)))[0]
