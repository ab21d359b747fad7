"""Hits of YARA rules: each hit comes once, with the owner of its page."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import Snapshot, viewer, yara
from memory_visualizer.errors import BadInputError, MissingLibraryError
from memory_visualizer.export.inventorytables import write_hits
from memory_visualizer.export.summary import SCHEMA, summary
from memory_visualizer.output import check_target
from memory_visualizer.yara import Hits, Rules, RulesError, find_hits
from tests.cli.running import indexes, run
from tests.synth import Truth, forge, profiles
from tests.synth.containers import write_lime
from tests.synth.linux import forge_linux
from tests.synth.memory import PAGE_SIZE
from tests.viewer.conftest import kept_windows, open_page
from tests.viewer.page import lit_frames

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["kept_windows", "open_page"]  # fixtures

pytest.importorskip("yara_x")
NEEDLE = b"<needle in memory>"
RULE = 'rule needle { strings: $a = "<needle in memory>" condition: $a }'


def rules(folder: Path, text: str = RULE, name: str = "rules.yar") -> Rules:
    (folder / name).write_text(text)
    return Rules([folder / name])


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Truth, bytes]:
    path = tmp_path_factory.mktemp("windows") / "dump"
    return forge(path, profiles()["Win7SP1x64"]), path.read_bytes()


def opened(contents: bytes | bytearray, folder: Path) -> Snapshot:
    (folder / "dump").write_bytes(contents)
    return memory_visualizer.open(folder / "dump")


def neighbours(truth: Truth, name: str) -> tuple[int, int, int]:
    """Successive pages of a process that are not successive in memory: address, frames."""
    index = next(n for n, one in enumerate(truth.processes) if one.name == name)
    rows = truth.mappings
    mine = rows[(rows["owner"] == index) & rows["user"] & ~rows["transition"]]
    frame_at = dict(zip(mine["virtual"].tolist(), mine["frame"].tolist(), strict=True))
    frames = [int(frame) for frame in rows["frame"]]
    for virtual, frame in frame_at.items():
        after = frame_at.get(virtual + PAGE_SIZE, frame + 1)
        if after != frame + 1 and frames.count(frame) == frames.count(after) == 1:
            return virtual, frame, after
    raise AssertionError("none")


@pytest.mark.parametrize("piece", [4096, 2, 1], ids=["one piece", "pairs", "single pages"])
def test_the_whole_dump(tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place is found once, across the ends of pages and pieces, but not across holes."""
    monkeypatch.setattr(yara, "PIECE_FRAMES", piece)
    monkeypatch.setattr(yara, "TAIL_FRAMES", 1)
    memory = bytearray(np.random.default_rng(5).bytes(9 * PAGE_SIZE))
    places = [0, 100, PAGE_SIZE - 5, 2 * PAGE_SIZE, 3 * PAGE_SIZE - 1, 9 * PAGE_SIZE - len(NEEDLE)]
    for place in places:
        memory[place : place + len(NEEDLE)] = NEEDLE
    edge = 4 * PAGE_SIZE
    memory[edge - 7 : edge - 7 + len(NEEDLE)] = NEEDLE  # cut by a hole
    write_lime(
        tmp_path / "dump",
        [(0x5000, bytes(memory[:edge])), (0x10000, bytes(memory[edge:]))],
    )
    snapshot = memory_visualizer.open(tmp_path / "dump")
    hits = find_hits(snapshot, rules(tmp_path))
    where = [0x5000 + place if place < edge else 0x10000 + place - edge for place in places]
    assert [hit.physical for hit in hits.found] == where
    assert {hit.length for hit in hits.found} == {len(NEEDLE)}
    [rule] = hits.rules
    assert (rule.name, rule.file, rule.count, rule.is_exact) == ("needle", "rules.yar", 6, True)
    pages = {at // PAGE_SIZE for at in where} | {(at + 17) // PAGE_SIZE for at in where}
    assert rule.frames.tolist() == hits.frames.tolist() == sorted(pages)
    assert not hits.remarks


def test_a_process_in_the_order_of_its_addresses(
    windows: tuple[Truth, bytes], tmp_path: Path
) -> None:
    """A pattern across a page's end is found in virtual order, and not in physical order."""
    truth, contents = windows
    virtual, first, second = neighbours(truth, "notepad.exe")
    memory = bytearray(contents)
    memory[(first + 1) * PAGE_SIZE - 7 : (first + 1) * PAGE_SIZE] = NEEDLE[:7]
    memory[second * PAGE_SIZE : second * PAGE_SIZE + 11] = NEEDLE[7:]
    snapshot = opened(memory, tmp_path)
    assert not find_hits(snapshot, rules(tmp_path)).found
    index = next(n for n, one in enumerate(snapshot.processes) if one.name == "notepad.exe")
    hits = find_hits(snapshot, rules(tmp_path), [index])
    [hit] = hits.found
    assert (hit.frame, hit.offset, hit.process) == (first, PAGE_SIZE - 7, index)
    assert hit.virtual == virtual + PAGE_SIZE - 7 and hit.owners == 1
    assert hits.frames.tolist() == sorted((first, second))
    others = [n for n in range(len(snapshot.processes)) if n != index]
    assert not find_hits(snapshot, rules(tmp_path), others).found


def test_owners(windows: tuple[Truth, bytes], tmp_path: Path) -> None:
    """A shared page has its first owner and their number; an unused page has no owner."""
    truth, contents = windows
    rows = truth.mappings[truth.mappings["user"] & ~truth.mappings["transition"]]
    rows = rows[[not truth.processes[owner].exited for owner in rows["owner"].tolist()]]
    shared = next(
        frame
        for frame in rows["frame"].tolist()
        if len(set(rows["owner"][rows["frame"] == frame].tolist())) > 3
    )
    unused = int(np.flatnonzero(memory_visualizer_classes(contents, tmp_path) == 4)[0])
    memory = bytearray(contents)
    for frame in (shared, unused):
        memory[frame * PAGE_SIZE + 50 : frame * PAGE_SIZE + 50 + len(NEEDLE)] = NEEDLE
    snapshot = opened(memory, tmp_path)
    found = {hit.frame: hit for hit in find_hits(snapshot, rules(tmp_path)).found}
    owners = {truth.processes[owner].pid for owner in rows["owner"][rows["frame"] == shared]}
    assert found[shared].owners == len(owners)
    assert snapshot.processes[found[shared].process].pid in owners
    process = snapshot.processes[found[shared].process]
    virtual = found[shared].virtual
    assert virtual is not None and snapshot.read(process, virtual, len(NEEDLE)) == NEEDLE
    assert (found[unused].process, found[unused].virtual, found[unused].owners) == (-1, None, 0)


def memory_visualizer_classes(contents: bytes, folder: Path) -> np.ndarray:
    return opened(contents, folder).classes


def test_too_many_hits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first hits of each rule are kept, the others are counted, and a remark says so."""
    monkeypatch.setattr(yara, "MAX_OF_RULE", 5)
    monkeypatch.setattr(yara, "_MAX_IN_PIECE", 40)
    memory = bytearray(np.random.default_rng(5).bytes(4 * PAGE_SIZE))
    for place in range(0, 30 * 64, 64):
        memory[place : place + len(NEEDLE)] = NEEDLE
    memory[-4:] = b"rare"
    text = RULE + ' rule rare { strings: $r = "rare" condition: $r }'
    write_lime(tmp_path / "dump", [(0, bytes(memory))])
    hits = find_hits(memory_visualizer.open(tmp_path / "dump"), rules(tmp_path, text))
    assert [(rule.name, rule.count, rule.is_exact) for rule in hits.rules] == [
        ("needle", 30, True),
        ("rare", 1, True),
    ]
    assert [hit.offset for hit in hits.found if hit.rule == 0] == list(range(0, 320, 64))
    assert [hit.physical for hit in hits.found if hit.rule == 1] == [4 * PAGE_SIZE - 4]
    assert hits.remarks == ("YARA: of 31 hits, the first 6 are listed, at most 5 of each rule",)
    for place in range(2048, 4096, 32):
        memory[place : place + len(NEEDLE)] = NEEDLE
    write_lime(tmp_path / "dump", [(0, bytes(memory))])
    hits = find_hits(memory_visualizer.open(tmp_path / "dump"), rules(tmp_path, text))
    assert (hits.rules[0].count, hits.rules[0].is_exact) == (40, False)
    assert hits.remarks[0].startswith("YARA: of more than 41 hits, the first 6")


def test_rules_that_take_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yara, "_SECONDS", 1)
    monkeypatch.setattr(yara, "_MAX_TIMEOUTS", 1)
    monkeypatch.setattr(yara, "PIECE_FRAMES", 64)
    slow = (
        "rule slow { condition: for all i in (0..filesize) :"
        " ( for all j in (0..filesize) : ( uint8(i) >= 0 ) ) }"
    )
    write_lime(tmp_path / "dump", [(0, np.random.default_rng(5).bytes(128 * PAGE_SIZE))])
    hits = find_hits(memory_visualizer.open(tmp_path / "dump"), rules(tmp_path, slow))
    assert not hits.found
    [remark] = hits.remarks
    assert remark == (
        "YARA: 1 piece of up to 16 MiB took longer than 1 s and was left out; the scan ended after"
        " 262,144 bytes of 524,288"
    )


def test_rules_without_patterns_and_of_several_files(tmp_path: Path) -> None:
    (tmp_path / "one.yar").write_text(RULE)
    (tmp_path / "two.yar").write_text(RULE + " rule begins { condition: uint8(0) == 0x61 }")
    write_lime(tmp_path / "dump", [(0x3000, b"a" * PAGE_SIZE + NEEDLE.ljust(PAGE_SIZE))])
    both = Rules([tmp_path / "one.yar", tmp_path / "two.yar"])
    hits = find_hits(memory_visualizer.open(tmp_path / "dump"), both)
    found = [
        (hits.rules[hit.rule].file, hits.rules[hit.rule].name, hit.pattern, hit.physical)
        for hit in hits.found
    ]
    assert sorted(found) == [
        ("one.yar", "needle", "$a", 0x4000),
        ("two.yar", "begins", "", 0x3000),
        ("two.yar", "needle", "$a", 0x4000),
    ]


def test_rules_that_do_not_compile(tmp_path: Path) -> None:
    """The compiler's messages appear line by line, with exit code 2, before the dump is read."""
    (tmp_path / "bad.yar").write_text("rule bad { condition: nothing }")
    with pytest.raises(RulesError, match=r"bad\.yar does not compile$"):
        Rules([tmp_path / "bad.yar"])
    (tmp_path / "dump").write_bytes(bytes(PAGE_SIZE))
    result = run(["dump", "--yara", "bad.yar"], tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "memviz: bad.yar does not compile:",
        "error[E009]: unknown identifier `nothing`",
        " --> bad.yar:1:23",
        "  |",
        "1 | rule bad { condition: nothing }",
        "  |                       ^^^^^^^ this identifier has not been declared",
    ]
    assert not (tmp_path / "dump.png").exists()
    (tmp_path / "binary.yar").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInputError, match="is not UTF-8 text"):
        Rules([tmp_path / "binary.yar"])
    with pytest.raises(BadInputError, match="cannot read"):
        Rules([tmp_path / "nowhere.yar"])


def test_without_yara_x(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence tells how to install it."""
    monkeypatch.setitem(__import__("sys").modules, "yara_x", None)
    with pytest.raises(
        MissingLibraryError, match=r"need yara-x, which is not installed: .*yara-x$"
    ):
        rules(tmp_path)


# Outputs


@pytest.fixture(scope="module")
def linux_hits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, Hits, Path]:
    """Three needles: in a page of a file, in private memory, and in a page of the kernel."""
    folder = tmp_path_factory.mktemp("hits")
    truth = forge_linux(folder / "dump", files=True)
    assert truth.files
    of_file = next(
        frame for frame, (file, _) in sorted(truth.files.pages.items()) if file and file.size > 4096
    )
    private = next(
        frame
        for _, _, frame in sorted(truth.owners)
        if truth.states[frame] == "anonymous" and not truth.zero[frame]
    )
    memory = bytearray((folder / "dump").read_bytes())
    for frame in (of_file, private):
        memory[frame * PAGE_SIZE + 64 : frame * PAGE_SIZE + 64 + len(NEEDLE)] = NEEDLE
    (folder / "dump").write_bytes(memory)
    snapshot = memory_visualizer.open(folder / "dump")
    hits = find_hits(snapshot, rules(folder))
    assert [hit.frame for hit in hits.found] == sorted((of_file, private))
    return snapshot, hits, folder


@pytest.mark.parametrize("ending", [".csv", ".json", ".parquet"])
def test_tables(linux_hits: tuple[Snapshot, Hits, Path], tmp_path: Path, ending: str) -> None:
    snapshot, hits, _ = linux_hits
    path = tmp_path / f"hits{ending}"
    for _ in range(2):  # the file may be replaced
        write_hits(path, snapshot, hits)
    check_target(path)
    if ending == ".csv":
        rows: list[dict[str, object]] = list(csv.DictReader(path.open(encoding="utf-8")))
    elif ending == ".json":
        rows = json.loads(path.read_text())["hits"]
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    for row, hit in zip(rows, hits.found, strict=True):
        file = snapshot.file_of(hit.frame)
        assert (row["rule"], row["rules"], row["pattern"]) == ("needle", "rules.yar", "$a")
        assert int(str(row["physical"]), 16) == hit.frame * PAGE_SIZE + 64
        assert bytes.fromhex(str(row["data"])) == NEEDLE
        assert int(str(row["owners"])) == len(snapshot.owners_of(hit.frame))
        assert (row["file"] or "") == (file[0].path if file else "")
        if file and file[1] is not None:
            assert int(str(row["file_offset"])) == file[1] + 64
        if hit.process >= 0:
            assert int(str(row["pid"])) == snapshot.processes[hit.process].pid


def test_json(linux_hits: tuple[Snapshot, Hits, Path]) -> None:
    snapshot, hits, _ = linux_hits
    document = summary(snapshot, hits=hits)
    jsonschema.validate(json.loads(json.dumps(document)), SCHEMA)
    [rule] = document["yara"]["rules"]
    assert (rule["rule"], rule["hits"], rule["exact"], rule["pages"]) == ("needle", 2, True, 2)
    assert [hit["pfn"] for hit in document["yara"]["hits"]] == [hit.frame for hit in hits.found]
    assert summary(snapshot)["yara"] is None


def test_command(linux_hits: tuple[Snapshot, Hits, Path]) -> None:
    """Summary, picture and table have the hits; of chosen processes only theirs."""
    _, hits, folder = linux_hits
    arguments = ["dump", "--yara", "rules.yar", "--hits", "hits.csv", "-o", "out.png"]
    result = run(arguments, folder)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "YARA: 1 rule with hits in 32 MiB" in lines
    [line] = [line for line in lines if line.startswith("  needle: ")]
    assert line.startswith(f"  needle: 2 hits in 2 pages, first at {hits.found[0].physical:#x}")
    assert "2 pages with hits of YARA rules shown, others pale" in lines
    pale = indexes(folder / "out.png")[: 32 << 8] >= 6
    assert not pale[hits.frames].any() and np.count_nonzero(~pale) <= len(hits.frames) + 1
    assert len((folder / "hits.csv").read_text().splitlines()) == 3
    nobody = run(["dump", "--yara", "rules.yar", "-o", "out.png", "--pid", "1"], folder)
    found = hits.found[0].process, hits.found[1].process
    assert ("needle" in nobody.stdout) == (0 in found)
    missing = run(["dump", "--hits", "hits.csv", "-o", "out.png"], folder)
    assert (missing.returncode, missing.stderr) == (
        2,
        "memviz: --hits writes the hits of --yara, which is missing\n",
    )


def test_page(
    open_page: Callable[..., "Page"], linux_hits: tuple[Snapshot, Hits, Path], tmp_path: Path
) -> None:
    """A click on a hit pins its page, and lights up all pages of the rule."""
    snapshot, hits, _ = linux_hits
    viewer.write_page(tmp_path / "page.html", snapshot, hits=hits)
    page = open_page(tmp_path / "page.html")
    page.get_by_role("tab", name="YARA").click()
    assert page.locator("#yara-count").inner_text() == "2"
    rows = page.locator("#yara-list tbody tr")
    for number, hit in enumerate(hits.found):
        row = rows.nth(number)
        title = row.get_attribute("title") or ""
        assert title.startswith(
            f"needle $a · rules.yar · {hit.physical:#x} · offset 0x40, 18 bytes"
        )
        if file := snapshot.file_of(hit.frame):
            assert file[0].path in title
        owner = snapshot.processes[hit.process].name if hit.process >= 0 else "no process"
        assert owner in title
        row.click()
        assert page.evaluate("memviz.state.pin") == hit.frame
        assert lit_frames(page) == set(hits.frames.tolist())
