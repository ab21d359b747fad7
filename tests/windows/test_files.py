"""The files behind the pages of Windows: the costs of damage, and the outputs.

Agreement with the truth on every frame of every version is tested in test_framedatabase.py.
"""

import csv
import hashlib
import json
import re
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import memory_visualizer
from memory_visualizer import Snapshot, limits
from memory_visualizer.export.extract import pieces_of_files, write_pieces
from memory_visualizer.limits import Rate
from memory_visualizer.windows import subsections
from memory_visualizer.windows.controlareas import NO_NAME
from tests.cli.running import run
from tests.synth import Truth, builds, forge, profiles
from tests.synth.framedatabase import RecordTruth, SectionTruth
from tests.synth.memory import PAGE_SIZE
from tests.windows.test_framedatabase import files_of, record_places, true_files

ALL = {**profiles(), **builds()}
VERSIONS = ("WinXPSP2x86", "Win7SP1x86", "Win10x64_17763")


@dataclass(frozen=True)
class Written:
    """A synthetic dump that a test may alter, and its truth."""

    path: Path
    truth: Truth
    contents: bytes

    @property
    def records(self) -> RecordTruth:
        assert self.truth.records
        return self.truth.records

    def section(self, name: str) -> SectionTruth:
        """The section of the file whose path has this end."""
        [found] = [one for one in self.records.sections if one.path.endswith(name)]
        return found

    def place(self, virtual: int) -> int:
        """A kernel address's place in the dump."""
        rows = self.truth.mappings
        [frame] = rows["frame"][
            (rows["owner"] < 0) & (rows["virtual"] == virtual & ~0xFFF) & (rows["size"] == 4096)
        ]
        return int(frame) * PAGE_SIZE + virtual % PAGE_SIZE

    def offset(self, structure: str, member: str) -> int:
        return ALL[self.truth.profile].offset(structure, member)

    def altered(self, *changes: tuple[int, bytes]) -> Snapshot:
        """The dump with other bytes at these addresses of the kernel."""
        contents = bytearray(self.contents)
        for virtual, new in changes:
            at = self.place(virtual)
            contents[at : at + len(new)] = new
        self.path.write_bytes(contents)
        return memory_visualizer.open(self.path)


@pytest.fixture(scope="module", params=VERSIONS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    path = tmp_path_factory.mktemp("files") / "dump"
    truth = forge(path, ALL[request.param], database=True, size=16 << 20)
    return Written(path, truth, path.read_bytes())


def others(dump: Written, section: SectionTruth) -> npt.NDArray[np.bool_]:
    """The frames outside a section."""
    number = dump.records.sections.index(section)
    chosen: npt.NDArray[np.bool_] = dump.records.records["file"] != number
    return chosen


def remarks(snapshot: Snapshot) -> str:
    assert snapshot.inventory
    return "\n".join(snapshot.inventory.remarks)


def broken_type(dump: Written, section: SectionTruth) -> tuple[int, bytes]:
    return section.file_object, b"\x07"


def broken_flags(dump: Written, section: SectionTruth) -> tuple[int, bytes]:
    return section.control_area + dump.offset("_CONTROL_AREA", "u"), bytes(4)


def broken_segment(dump: Written, section: SectionTruth) -> tuple[int, bytes]:
    return section.control_area + dump.offset("_CONTROL_AREA", "Segment"), bytes(4)


def broken_pointers(dump: Written, section: SectionTruth) -> tuple[int, bytes]:
    return section.file_object + dump.offset("_FILE_OBJECT", "SectionObjectPointer"), bytes(4)


@pytest.mark.parametrize("harm", [broken_type, broken_flags, broken_segment, broken_pointers])
@pytest.mark.many
def test_one_wrong_sign_costs_nothing(
    written: Written, harm: Callable[[Written, SectionTruth], tuple[int, bytes]]
) -> None:
    section = written.section("cached.dat")
    snapshot = written.altered(harm(written, section))
    assert files_of(snapshot) == true_files(written.records)


def test_a_lost_file_object_costs_its_name(written: Written) -> None:
    """Subsection and control area still tell kind and offsets."""
    section = written.section("kernel32.dll")
    size = ALL[written.truth.profile].size("_FILE_OBJECT")
    snapshot = written.altered((section.file_object, bytes(size)))
    expected = [
        (NO_NAME if path == section.path else path, kind, offset)
        for path, kind, offset in true_files(written.records)
    ]
    assert files_of(snapshot) == expected
    assert "1 file without a name" in remarks(snapshot)


def test_a_lost_control_area_costs_its_file(written: Written) -> None:
    section = written.section("kernel32.dll")
    size = ALL[written.truth.profile].size("_CONTROL_AREA")
    snapshot = written.altered((section.control_area, bytes(size)))
    kept = others(written, section)
    expected = [
        told if is_kept else ("", "", -1)
        for told, is_kept in zip(true_files(written.records), kept.tolist(), strict=True)
    ]
    assert files_of(snapshot) == expected
    lost = np.count_nonzero(~kept)
    assert f"{lost} pages of files whose control area was not found" in remarks(snapshot)


def test_a_wrong_beginning_costs_the_offsets_of_its_stretch(written: Written) -> None:
    section = written.section("kernel32.dll")
    base = section.subsections[1] + written.offset("_SUBSECTION", "SubsectionBase")
    snapshot = written.altered((base, bytes(4)))
    told, true = files_of(snapshot), true_files(written.records)
    assert [one[:2] for one in told] == [one[:2] for one in true]
    wrong = [place for (*_, place), (*_, is_so) in zip(told, true, strict=True) if place != is_so]
    assert wrong and set(wrong) == {-1}
    assert f"{len(wrong)} pages of files whose subsection does not tell" in remarks(snapshot)


def test_a_circle_of_subsections_ends(written: Written) -> None:
    section = written.section("cached.dat")
    following = section.subsections[-1] + written.offset("_SUBSECTION", "NextSubsection")
    own = struct.pack("<Q", section.subsections[0])[: ALL[written.truth.profile].pointer_size]
    snapshot = written.altered((following, own))
    assert files_of(snapshot) == true_files(written.records)


def test_a_name_that_says_it_is_long(written: Written) -> None:
    """A name whose length goes beyond its memory is ignored."""
    section = written.section("cached.dat")
    name = section.file_object + written.offset("_FILE_OBJECT", "FileName")
    snapshot = written.altered((name, struct.pack("<HH", 0xFFFE, 0xFFFE)))
    expected = [
        (NO_NAME if path == section.path else path, kind, offset)
        for path, kind, offset in true_files(written.records)
    ]
    assert files_of(snapshot) == expected


def test_the_size_of_a_file_of_which_the_end_is_not_in_memory(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The subsections behind the last page tell it."""
    section = written.section("cached.dat")
    rows, stride = written.records.records, written.records.stride
    own = rows["file"] == written.records.sections.index(section)
    behind = own & (rows["offset"] >= rows["offset"][own].max() // 3)
    contents = np.frombuffer(written.contents, np.uint8).copy()
    places = record_places(written.records, np.flatnonzero(behind))
    contents[places] = np.zeros(stride, np.uint8)
    written.path.write_bytes(contents.tobytes())
    snapshot = memory_visualizer.open(written.path)
    [file] = [one for one in snapshot.files if one.path == section.path]
    assert file.size == section.size
    assert not snapshot.dump.budget.remarks
    monkeypatch.setattr(subsections, "_LONGEST_CHAIN", 0)
    snapshot = memory_visualizer.open(written.path)
    [file] = [one for one in snapshot.files if one.path == section.path]
    assert file.size and section.size and file.size < section.size
    assert any(re.search("subsections? left out", one) for one in snapshot.dump.budget.remarks)


def test_a_limit_is_told(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {**limits.RATES, "subsection": Rate(1 << 40, 1, 5), "letter of paths": Rate(1, 0, 40)}
    monkeypatch.setattr(limits, "RATES", few)
    snapshot = written.altered()
    told = files_of(snapshot)
    true = true_files(written.records)
    assert any(one[0] for one in told)
    assert all(one[0] in ("", NO_NAME, is_so[0]) for one, is_so in zip(told, true, strict=True))
    refused = " ".join(snapshot.dump.budget.remarks)
    assert "subsections left out" in refused and "letters of paths left out" in refused


def test_extracted_files(written: Written, tmp_path: Path) -> None:
    """Extracted data and images have the disk's form, cut at the ends of sections."""
    snapshot = written.altered()
    manifest = write_pieces(
        tmp_path / "to", snapshot.dump, pieces_of_files(snapshot, re.compile("cached|kernel32"))
    )
    assert [entry["kind"] for entry in manifest["pieces"]] == ["data", "image"]
    memory = np.frombuffer(written.contents, np.uint8).reshape(-1, PAGE_SIZE)
    for entry in manifest["pieces"]:
        section = written.section(entry["path"])
        rows = written.records.records
        frames = np.flatnonzero(rows["file"] == written.records.sections.index(section))
        frames = frames[np.argsort(rows["offset"][frames])]
        parts = [
            (int(rows["offset"][frame]), memory[frame].tobytes()[: rows["length"][frame]])
            for frame in frames.tolist()
        ]
        contents = (tmp_path / "to" / entry["written"]).read_bytes()
        expected = bytearray(parts[-1][0] + len(parts[-1][1]))
        for offset, part in parts:
            expected[offset : offset + len(part)] = part
        assert contents == expected
        digest = hashlib.sha256(b"".join(part for _, part in parts)).hexdigest()
        assert (entry["sha256"], entry["size"]) == (digest, section.size)
        assert entry["bytes_written"] == sum(size for _, size in entry["runs"])


def test_commands(written: Written, tmp_path: Path) -> None:
    """Tables and pictures have the files of Windows dumps, as those of Linux dumps."""
    written.altered()
    outputs = ["--files", "files.csv", "--table", "pages.csv", "--json", "all.json"]
    result = run([written.path, *outputs, "--color-by", "file", "-q"], tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    true = [told for told in true_files(written.records) if told[0]]
    with (tmp_path / "files.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pages_of = Counter[tuple[str, str]]()
    for row in rows:
        pages_of[row["path"], row["kind"]] += int(row["pages"])
    assert pages_of == Counter(told[:2] for told in true)
    assert {row["path"] for row in rows if row["deleted"] == "1"} == {
        section.path for section in written.records.sections if section.is_deleted
    }
    with (tmp_path / "pages.csv").open(newline="", encoding="utf-8") as file:
        pages = [(row["file"], row["file_offset"]) for row in csv.DictReader(file)]
    assert pages == [
        (path, str(offset) if path else "") for path, _, offset in true_files(written.records)
    ]
    counts = json.loads((tmp_path / "all.json").read_text())["files"]
    deleted = sum(section.is_deleted for section in written.records.sections)
    assert counts == {"count": len(rows), "deleted": deleted, "pages": len(true)}


def test_no_more_is_extracted_than_the_limit(written: Written, tmp_path: Path) -> None:
    """The manifest names files beyond the limit."""
    snapshot = written.altered()
    pieces = pieces_of_files(snapshot, re.compile(""))
    sizes = [piece.written_size for piece in pieces]
    limit = sum(sizes) - 1
    manifest = write_pieces(tmp_path, snapshot.dump, pieces, limit=limit)
    beyond = [entry["path"] for entry in manifest["pieces"] if entry["beyond_limit"]]
    assert beyond == [[piece.about["path"] for piece in pieces if piece.written_size][-1]]
    made = sum(entry.get("written_size", 0) for entry in manifest["pieces"])
    assert made <= limit


def test_the_limit_of_the_command_is_told(written: Written, tmp_path: Path) -> None:
    written.altered()
    options = ["--file", "kernel32|sparse", "--to", "to", "--limit", "1", "-q"]
    result = run(["extract", written.path, *options], tmp_path)
    assert result.returncode == 0
    assert "1 file not written: more than 1 GiB in all" in result.stderr
