"""The index of all dumps, against outcomes and tables that the tests write."""

import json
import re
import zlib
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from memory_visualizer.fleet.gallery import FILE, data, write_gallery
from memory_visualizer.fleet.outcome import DONE, FAILED, Outcome, write_outcome

WINDOWS = Outcome(
    "/evidence/ws-1.raw",
    "ws-1.raw",
    size=1 << 25,
    status=DONE,
    exit_code=0,
    system="Windows 10.0.19041",
    family="Windows",
    time="2026-11-20T10:00:00+00:00",
    frames=8192,
    bytes=1 << 25,
    classes={"user": 3000, "kernel": 2000, "unused-zero": 3192},
    processes=14,
    unlinked=1,
    leads={"unlinked process": 1, "writable code": 2},
    remarks=1,
    outputs={"dumps/ws-1.raw/ws-1.raw.html": 1, "dumps/ws-1.raw/thumbnail.png": 1},
)
RUN = (
    WINDOWS,
    replace(WINDOWS, source="/evidence/ws-2.raw", name="ws-2.raw", unlinked=0, outputs={}),
    replace(
        WINDOWS, source="/evidence/srv.lime", name="srv.lime", family="Linux", system="Linux 6.1"
    ),
    Outcome("/evidence/note.raw", "note.raw", status=FAILED, sentence="it is a text file <b>"),
)
PROCESSES: dict[str, list[tuple[str | None, str]]] = {
    "ws-1.raw": [("System", ""), ("rootkit.exe", "unlinked"), ("evil\u202e</script>", "")],
    "ws-2.raw": [("System", ""), ("rootkit.exe", ""), ("rootkit.exe", ""), (None, "unknown")],
    "srv.lime": [("sshd", ""), ("kworker/0:1", "kernel thread")],
}
FILES = {"ws-1.raw": ["C:\\one.dll", "C:\\two.dll"], "ws-2.raw": ["C:\\two.dll"]}
MODULES: dict[str, list[str | None]] = {"srv.lime": ["ext4"], "ws-1.raw": [None]}


def write_part(folder: Path, dataset: str, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
    path = folder / dataset / f"dump={name}" / "part-0.parquet"
    path.parent.mkdir(parents=True)
    table = pa.table({title: pa.array(values, pa.string()) for title, values in columns.items()})
    pyarrow.parquet.write_table(table, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder with four dumps; one of them failed."""
    for outcome in RUN:
        write_outcome(tmp_path, outcome)
    for name, rows in PROCESSES.items():
        names, states = zip(*rows, strict=True)
        write_part(tmp_path, "processes", name, {"name": names, "state": states})
    for name, paths in FILES.items():
        write_part(tmp_path, "files", name, {"path": paths})
    for name, modules in MODULES.items():
        write_part(tmp_path, "modules", name, {"name": modules})
    return tmp_path


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The facts and the names in an index."""
    text = (folder / FILE).read_text("utf-8")
    about = re.search(r'id="about">(.*?)</script>', text, re.DOTALL)
    names = re.search(r'id="column-names">(.*?)</script>', text, re.DOTALL)
    assert about
    assert names
    return json.loads(about[1]), json.loads(zlib.decompress(b64decode(names[1])))


def occurrences(kind: Mapping[str, Any]) -> dict[str, tuple[list[int], list[int]]]:
    """For each name, the dumps that have it, and the dumps in which it is unlinked."""
    return {
        name: (kind["dumps"][group], kind["unlinked"][group])
        for name, group in zip(kind["names"], kind["group"], strict=True)
    }


def test_the_facts_of_each_dump(folder: Path) -> None:
    write_gallery(folder)
    about, _ = read(folder)
    assert [dump["name"] for dump in about["dumps"]] == [
        "note.raw", "srv.lime", "ws-1.raw", "ws-2.raw",
    ]  # fmt: skip
    note, server, first, second = about["dumps"]
    assert (note["done"], note["sentence"]) == (False, "it is a text file <b>")
    assert (server["family"], server["system"]) == ("Linux", "Linux 6.1")
    assert (first["unlinked"], first["leads"]) == (1, WINDOWS.leads)
    assert (first["time"], first["bytes"], first["processes"]) == (WINDOWS.time, 1 << 25, 14)
    assert first["links"] == {
        "page": "dumps/ws-1.raw/ws-1.raw.html",
        "thumbnail": "dumps/ws-1.raw/thumbnail.png",
    }
    assert second["links"] == {}
    assert set(about["leadKinds"]) >= set(WINDOWS.leads)
    assert set(about["colours"]["light"]) >= set(WINDOWS.classes)


def test_which_names_occur_where(folder: Path) -> None:
    """Each name has its dumps by number: 0 note, 1 srv, 2 ws-1, 3 ws-2."""
    write_gallery(folder)
    _, names = read(folder)
    assert occurrences(names["process"]) == {
        "rootkit.exe": ([2, 3], [2]),
        "evil\\u202e</script>": ([2], []),
        "sshd": ([1], []),
        "System": ([2, 3], []),
    }
    assert names["process"]["names"][0] == "rootkit.exe"
    assert occurrences(names["file"]) == {"C:\\one.dll": ([2], []), "C:\\two.dll": ([2, 3], [])}
    assert occurrences(names["module"]) == {"ext4": ([1], [])}


def test_names_beyond_the_limit_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlinked processes stay first, then the names in the fewest dumps."""
    monkeypatch.setattr(data, "MAX_NAMES", 2)
    write_gallery(folder)
    about, names = read(folder)
    assert names["process"]["names"] == ["rootkit.exe", "evil\\u202e</script>"]
    assert about["leftOut"] == {"process": 2}


def test_an_index_is_written_anew(folder: Path) -> None:
    """Bytes depend on the folder alone; another run's index is replaced, a foreign file never."""
    write_gallery(folder)
    before = (folder / FILE).read_bytes()
    write_gallery(folder)
    assert (folder / FILE).read_bytes() == before
    write_outcome(folder, replace(WINDOWS, name="ws-3.raw"))
    write_gallery(folder)
    assert len(read(folder)[0]["dumps"]) == 5
    (folder / FILE).write_text("my own page")
    with pytest.raises(OSError, match="did not write it"):
        write_gallery(folder)
    assert (folder / FILE).read_text() == "my own page"


def test_nothing_in_a_dump_becomes_markup(folder: Path) -> None:
    write_gallery(folder)
    text = (folder / FILE).read_text("utf-8")
    assert "a text file <b>" not in text
    assert "evil" not in text  # it is packed
    assert text.count("</script>") == 3
