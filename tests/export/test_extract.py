"""Extracted files have the pages that the truth gives them, and no name leads out of the folder."""

import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import memory_visualizer
from memory_visualizer import Snapshot
from memory_visualizer.errors import BadInputError
from memory_visualizer.export.extract import (
    LARGEST,
    MANIFEST,
    Piece,
    _piece,
    _Place,
    piece_of_frames,
    pieces_of_files,
    pieces_of_process,
    write_pieces,
)
from memory_visualizer.export.safenames import SafeNames, _marked
from tests.synth import forge, profiles
from tests.synth.linux import forge_linux
from tests.synth.linuxfiles import FilesTruth
from tests.synth.memory import PAGE_SIZE

EVERY = re.compile("")


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, FilesTruth, Path]:
    path = tmp_path_factory.mktemp("extract") / "dump"
    truth = forge_linux(path, "6.1", files=True)
    assert truth.files
    return memory_visualizer.open(path), truth.files, path


def test_files(dump: tuple[Snapshot, FilesTruth, Path], tmp_path: Path) -> None:
    """Each page is at its place, with zeros elsewhere, and the manifest describes each file."""
    snapshot, truth, path = dump
    memory = np.memmap(path, np.uint8, "r").reshape(-1, PAGE_SIZE)
    manifest = write_pieces(tmp_path, snapshot.dump, pieces_of_files(snapshot, EVERY))
    assert manifest == json.loads((tmp_path / MANIFEST).read_text())
    entries = {entry["path"]: entry for entry in manifest["pieces"]}
    files = {file.path: file for file, _ in truth.pages.values() if file}
    assert set(entries) == {*files, "[file without an inode]"}
    for name, file in files.items():
        entry = entries[name]
        pages = {at: frame for frame, (own, at) in truth.pages.items() if own == file}
        inside = {at: frame for at, frame in pages.items() if at < file.size}
        expected = {at: memory[frame].tobytes()[: file.size - at] for at, frame in inside.items()}
        digest = hashlib.sha256(b"".join(expected[at] for at in sorted(expected)))
        assert entry["pages_in_memory"] == len(pages)
        assert entry["pages_left_out"] == len(pages) - len(inside)
        if not inside:
            assert entry["written"] is None
            continue
        assert entry["sha256"] == digest.hexdigest()
        assert entry["bytes_written"] == sum(map(len, expected.values()))
        assert entry["written_size"] == entry["size"] == file.size
        written = tmp_path / entry["written"]
        assert written.stat().st_size == file.size
        with written.open("rb") as opened:
            contents = opened.read(64 << 20)
        for at, page in expected.items():
            assert contents[at : at + len(page)] == page
        hole = bytearray(contents)
        for at, page in expected.items():
            hole[at : at + len(page)] = bytes(len(page))
        assert not any(hole)
        assert entry["is_complete"] == (not file.size - entry["bytes_written"])
    folder = tmp_path / "files"
    assert (folder / "mnt/data/deep/two_lines").exists()


def test_a_hole_takes_no_room(dump: tuple[Snapshot, FilesTruth, Path], tmp_path: Path) -> None:
    snapshot, _, _ = dump
    write_pieces(tmp_path, snapshot.dump, pieces_of_files(snapshot, re.compile("block device")))
    [written] = (tmp_path / "files").iterdir()
    assert written.stat().st_size == 1 << 30
    if hasattr(written.stat(), "st_blocks"):
        assert written.stat().st_blocks * 512 < 1 << 20


def test_a_process(dump: tuple[Snapshot, FilesTruth, Path], tmp_path: Path) -> None:
    """The files of a process's regions have all of its pages."""
    snapshot, truth, path = dump
    memory = np.memmap(path, np.uint8, "r").reshape(-1, PAGE_SIZE)
    [process] = [process for process in snapshot.processes if process.pid == 1]
    manifest = write_pieces(tmp_path, snapshot.dump, pieces_of_process(snapshot, process))
    assert [(int(e["start"], 0), int(e["end"], 0)) for e in manifest["pieces"]] == [
        (region.start, region.end) for region in truth.regions[1]
    ]
    pages = {
        virtual: frame
        for frame in snapshot.pages(process).tolist()
        for owner, virtual in snapshot.owners_of(frame)
        if owner is process
    }
    for entry in manifest["pieces"]:
        start, end = int(entry["start"], 0), int(entry["end"], 0)
        inside = sorted(virtual for virtual in pages if start <= virtual < end)
        assert entry["pages_written"] == len(inside) if entry["written"] else not inside
        for virtual in inside:
            contents = (tmp_path / entry["written"]).read_bytes()[virtual - start :][:PAGE_SIZE]
            assert contents == memory[pages[virtual]].tobytes()


def test_a_process_without_known_regions(tmp_path: Path) -> None:
    """Without regions, a file stands for each run of pages."""
    forge(tmp_path / "dump", profiles()["Win7SP1x64"])
    snapshot = memory_visualizer.open(tmp_path / "dump")
    process = next(one for one in snapshot.processes if one.has_tables and one.is_alive)
    manifest = write_pieces(tmp_path / "to", snapshot.dump, pieces_of_process(snapshot, process))
    assert sum(entry["pages_written"] for entry in manifest["pieces"]) >= len(
        snapshot.pages(process)
    )


def test_frames(dump: tuple[Snapshot, FilesTruth, Path], tmp_path: Path) -> None:
    snapshot, _, path = dump
    write_pieces(tmp_path, snapshot.dump, [piece_of_frames(snapshot.dump, 0x200, 0x2FF)])
    contents = path.read_bytes()[0x200 * PAGE_SIZE : 0x300 * PAGE_SIZE]
    assert (tmp_path / "frames/200-2ff.raw").read_bytes() == contents
    for first, last in ((5, 4), (0, snapshot.dump.frame_count), (-1, 3)):
        with pytest.raises(BadInputError, match="the dump has frames"):
            piece_of_frames(snapshot.dump, first, last)


def test_offsets_that_lie(dump: tuple[Snapshot, FilesTruth, Path], tmp_path: Path) -> None:
    """Two frames for one place, a negative offset, and a huge offset."""
    snapshot, _, _ = dump
    offset = np.array([0, 0, -4096, LARGEST, 1 << 62, 8192])
    frame = np.array([0x301, 0x300, 0x302, 0x303, 0x304, 0x305])
    for size in (None, 1 << 62):
        piece = _piece(snapshot.dump, ("a",), _Place.of_pages(offset, frame), size, {})
        assert piece.frame.tolist() == [0x300, 0x305]
        assert piece.about["pages_left_out"] == 4
        write_pieces(tmp_path / str(size), snapshot.dump, [piece])
        assert (tmp_path / str(size) / "a").stat().st_size == 3 * PAGE_SIZE


def test_nothing_is_replaced_unless_asked_for(
    dump: tuple[Snapshot, FilesTruth, Path], tmp_path: Path
) -> None:
    snapshot, _, _ = dump
    pieces = [piece_of_frames(snapshot.dump, 1, 2), piece_of_frames(snapshot.dump, 3, 4)]
    own = tmp_path / "frames/3-4.raw"
    own.parent.mkdir()
    own.write_text("mine")
    with pytest.raises(FileExistsError, match="--force"):
        write_pieces(tmp_path, snapshot.dump, pieces)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [own]
    write_pieces(tmp_path, snapshot.dump, pieces, force=True)
    assert own.stat().st_size == 2 * PAGE_SIZE
    with pytest.raises(FileExistsError):
        write_pieces(tmp_path, snapshot.dump, pieces)
    # An earlier run's output may be replaced, though it looks like a dump.
    many = [piece_of_frames(snapshot.dump, 0, 511)]
    write_pieces(tmp_path / "many", snapshot.dump, many)
    write_pieces(tmp_path / "many", snapshot.dump, many, force=True)
    (tmp_path / "many" / MANIFEST).unlink()
    with pytest.raises(FileExistsError, match="never replaces"):
        write_pieces(tmp_path / "many", snapshot.dump, many, force=True)


def test_the_dump_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "frames" / "0-1.raw"
    path.parent.mkdir()
    forge_linux(path, "6.1", files=True)
    snapshot = memory_visualizer.open(path)
    before = hashlib.sha256(path.read_bytes()).digest()
    (tmp_path / MANIFEST).write_text(
        json.dumps({"generator": "Memory Visualizer", "pieces": [{"written": "frames/0-1.raw"}]})
    )
    with pytest.raises(FileExistsError, match="the dump"):
        write_pieces(tmp_path, snapshot.dump, [piece_of_frames(snapshot.dump, 0, 1)], force=True)
    assert hashlib.sha256(path.read_bytes()).digest() == before


@pytest.mark.posix
def test_links_are_not_followed(dump: tuple[Snapshot, FilesTruth, Path], tmp_path: Path) -> None:
    """Neither linked folders nor linked files are written to."""
    snapshot, _, _ = dump
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    (folder / "frames").symlink_to(outside)
    for force in (False, True):
        with pytest.raises(OSError, match="link"):
            write_pieces(folder, snapshot.dump, [piece_of_frames(snapshot.dump, 1, 2)], force=force)
    (folder / "frames").unlink()
    (folder / "frames").mkdir()
    (outside / "file").write_text("mine")
    (folder / "frames/1-2.raw").symlink_to(outside / "file")
    for force in (False, True):
        with pytest.raises(FileExistsError):
            write_pieces(folder, snapshot.dump, [piece_of_frames(snapshot.dump, 1, 2)], force=force)
    assert (outside / "file").read_text() == "mine"


def test_a_fault_leaves_nothing_half_written(
    dump: tuple[Snapshot, FilesTruth, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, _, _ = dump

    def broken(*_: object) -> None:
        raise BadInputError("the disk failed")

    monkeypatch.setattr(type(snapshot.dump), "read_frames", broken)
    with pytest.raises(BadInputError):
        write_pieces(tmp_path, snapshot.dump, [piece_of_frames(snapshot.dump, 1, 2)])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


NASTY = st.text(
    st.sampled_from("ab/\\.:. ~é\u202e\x00\n*?<>|\"'COcoNn1ßẞ\U0001f600") | st.characters(),
    max_size=300,
)


@given(st.lists(NASTY, max_size=12))
def test_any_name_stays_in_the_folder(texts: list[str]) -> None:
    """Each path is unique; its parts are short plain names on every system."""
    names = SafeNames()
    paths = [names.path(text) for text in texts]
    assert len({tuple(part.casefold() for part in path) for path in paths}) == len(paths)
    for path in paths:
        assert path
        assert sum(map(len, path)) + len(path) <= 260 - 60
        for part in path:
            assert part.strip() and not part.endswith((".", " "))
            assert part not in (".", "..") and not re.search(r'[<>:"/\\|?*\x00-\x1f\x7f]', part)
            assert len(os.fsencode(part)) <= 100
            assert part.isprintable()
            assert not re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", part, re.I)
    folders = {path[:n] for path in paths for n in range(1, len(path))}
    assert not {tuple(p.casefold() for p in f) for f in folders} & {
        tuple(part.casefold() for part in path) for path in paths
    }


def test_names_that_are_the_same_elsewhere() -> None:
    names = SafeNames()
    assert names.path("/a/B.txt") == ("a", "B.txt")
    assert names.path("/a/b.txt") == ("a", "b~2.txt")
    assert names.path("/A/b") == ("A", "b")
    assert names.path("/a/b.txt/c") == ("a", "b.txt~2", "c") or names.path("/x") == ("x",)
    assert names.path("") == ("_",)
    assert names.path("/LPT1.txt") == ("_LPT1.txt",)
    assert names.path("/trailing. ") == ("trailing_",)


def test_one_name_for_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of tries grows with the files, not with their square."""
    tries = 0

    def counting(name: str, mark: str) -> str:
        nonlocal tries
        tries += 1
        return _marked(name, mark)

    monkeypatch.setattr("memory_visualizer.export.safenames._marked", counting)
    names, count = SafeNames(), 500
    assert len({names.path("/log") for _ in range(count)}) == count
    assert tries < 3 * count


def test_a_piece_without_pages_is_listed_only(
    dump: tuple[Snapshot, FilesTruth, Path], tmp_path: Path
) -> None:
    nothing = np.empty(0, np.int64)
    piece = Piece(("empty",), nothing, nothing, nothing, None, {"path": "x"})
    manifest = write_pieces(tmp_path, dump[0].dump, [piece])
    assert manifest["pieces"] == [{"written": None, "beyond_limit": False, "path": "x"}]
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
