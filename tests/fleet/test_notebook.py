"""The example notebook on a fleet's datasets, run as its reader runs it."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from memory_visualizer.fleet.sources import expand
from memory_visualizer.fleet.task import Options, analyse
from memory_visualizer.units import PAGE_SIZE
from tests.synth import MIB, Truth, forge, profiles
from tests.synth.linux import LinuxTruth, forge_linux
from tests.synth.truth import INJECTED_PAGES

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/fleet.ipynb"

Rows = Sequence[tuple[str, ...]]


def rows_of(text: str) -> Rows:
    """The rows of a table that DuckDB printed, without the header."""
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return [tuple(cell.strip() for cell in line.strip("│").split("│")) for line in lines[2:]]


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Truth], LinuxTruth]:
    """Two Windows, which run different programs, and a Linux."""
    folder = tmp_path_factory.mktemp("machines")
    kind = profiles()["Win10x64_17763"]
    windows = {
        "desk.raw": forge(folder / "desk.raw", kind, size=16 * MIB, objects=True, seed=1),
        "server.raw": forge(
            folder / "server.raw",
            kind,
            size=16 * MIB,
            objects=True,
            seed=2,
            processes=9,
            names=["miner.exe"],
            files=3,
        ),
    }
    return folder, windows, forge_linux(folder / "web.raw")


@pytest.mark.peer
def test_the_example(
    dumps: tuple[Path, dict[str, Truth], LinuxTruth],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Every cell runs, and its output is true."""
    folder, windows, linux = dumps
    report = tmp_path / "report's"
    report.mkdir()
    (folder / "broken.lime").write_bytes(b"EMiL" + b"\1" * PAGE_SIZE)
    for source in expand([str(folder)]):
        analyse(source, report, Options(), force=False)
    monkeypatch.setenv("MEMVIZ_EXAMPLE_FLEET", str(report))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(("", str(EXAMPLE.parents[1]))))
    document = nbformat.read(EXAMPLE, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(document, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))
    tables = [
        rows_of(output["data"]["text/plain"])
        for cell in document.cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    machines, hidden, programs, files, writable, classes, shared, leads = tables

    assert [row[0] for row in machines] == ["broken.lime", "desk.raw", "server.raw", "web.raw"]
    assert "broken.lime" in machines[0][1]
    assert [row[1] for row in machines[1:]] == [
        *["Windows 10.0.17763"] * 2,
        f"Linux {linux.era.release}",
    ]
    assert [row[:3] for row in hidden] == hidden_processes(windows, linux)
    assert [row[:2] for row in programs] == programs_on_one(windows, linux)
    assert [row for row in files if "folder" in row[0]] == [
        (rf"\folder{number}\file{number}.dat", "server.raw", "50") for number in range(3)
    ]
    assert {row[0] for row in files if "miner" in row[0]} == {r"\Program Files\miner.exe"}
    assert writable == [
        (name, str(one.pid), one.name, "1", str(INJECTED_PAGES))
        for name, truth in windows.items()
        for one in truth.processes
        if one.injected
    ]
    for row, truth in zip(classes, windows.values(), strict=False):
        counts = Counter(truth.classes(truth.alive).tolist())
        named = ("absent", "both", "kernel", "unused-data", "unused-zero", "user")
        assert [float(cell) for cell in row[1:]] == [
            pytest.approx(counts[name] * PAGE_SIZE / MIB, abs=0.051) for name in named
        ]
    for row, (name, truth) in zip(shared, windows.items(), strict=False):
        [number] = [i for i, one in enumerate(truth.processes) if is_hidden(truth, i)]
        frames = np.unique(truth.mappings["frame"][truth.mappings["owner"] == number])
        assert row[:3] == (name, str(truth.processes[number].pid), str(len(frames)))
    [unlinked] = [row for row in leads if row[0] == "unlinked process"]
    assert unlinked[1:] == ("3", "[desk.raw, server.raw, web.raw]")


def is_hidden(truth: Truth, number: int) -> bool:
    """Whether a process is alive and not in the list."""
    one = truth.processes[number]
    return bool(one.eprocess) and not one.listed and not one.exited


def hidden_processes(windows: dict[str, Truth], linux: LinuxTruth) -> Rows:
    """Dump, pid and name of each."""
    found = [
        (name, str(one.pid), one.name)
        for name, truth in windows.items()
        for number, one in enumerate(truth.processes)
        if is_hidden(truth, number)
    ]
    return found + [
        ("web.raw", str(task.pid), task.comm)
        for task in linux.tasks
        if task.alive and not task.listed and not task.kernel_thread
    ]


def programs_on_one(windows: dict[str, Truth], linux: LinuxTruth) -> Rows:
    """Name and dump of the live programs that only one dump has."""
    names = {
        dump: {one.name for one in truth.processes if one.eprocess and not one.exited}
        for dump, truth in windows.items()
    }
    names["web.raw"] = {one.comm for one in linux.tasks if one.alive and not one.kernel_thread}
    on = Counter(name for found in names.values() for name in found)
    return sorted(
        ((name, dump) for dump, found in names.items() for name in found if on[name] == 1),
        key=lambda row: row[::-1],
    )
