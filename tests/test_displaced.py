"""Memory that lies elsewhere in its file than it belongs, and memory of two boots."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import memory_visualizer
from memory_visualizer.displaced.ends import ascending
from memory_visualizer.displaced.mended import MendedDump, Piece
from memory_visualizer.displaced.search import DisplacedSearch
from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.limits import Budget
from memory_visualizer.snapshot.pagemap import PageClass
from tests.synth import MIB, Truth, forge, profiles
from tests.synth.linux import forge_linux

PAGE = 4096
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "XP, x86": ("WinXPSP2x86", {"pae": False}),
    "7, PAE": ("Win7SP1x86", {}),
    "7, x64": ("Win7SP1x64", {}),
    "10, x64": ("Win10x64_17763", {}),
    "11, shadow tables": ("Win10x64_17763", {"shadow_tables": True}),
    "5 levels": ("Win10x64_17763", {"five_levels": True}),
}
LABELS = np.array([page_class.label for page_class in PageClass])
Words = npt.NDArray[np.uint64]


def moved(
    folder: Path, system: str, holes: Sequence[tuple[int, int]], first: int = 0
) -> tuple[Path, npt.NDArray[np.str_]]:
    """A raw file that begins with the frame `first`, without holes; and the classes by PFN."""
    name, options = SYSTEMS[system]
    whole, path = folder / "whole", folder / "moved"
    truth = forge(
        whole, profiles()[name], size=32 * MIB, processes=10, seed=3, holes=holes, **options
    )
    words = np.fromfile(whole, "<u8").reshape(-1, 512)
    keep = np.ones(len(words), bool)
    keep[:first] = False
    for start, count in holes:
        keep[start : start + count] = False
    words[keep].tofile(path)
    return path, np.where(keep, truth.classes(truth.alive), "absent")


@pytest.mark.parametrize(
    ("holes", "first"),
    [([(4096, 1024)], 0), ([], 16), ([(3072, 1024), (6144, 640)], 0), ([(3840, 256)], 1)],
    ids=["a hole", "begins later", "two holes", "both"],
)
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.many
def test_memory_is_put_where_it_belongs(
    system: str, holes: Sequence[tuple[int, int]], first: int, tmp_path: Path
) -> None:
    path, classes = moved(tmp_path, system, holes, first)
    snapshot = memory_visualizer.open(path)
    np.testing.assert_array_equal(LABELS[snapshot.classes], classes)
    (remark,) = [one for one in snapshot.dump.remarks if "does not hold its memory" in one]
    shift = first
    for start, count in holes:
        begin, shift = start - shift, shift + count
        assert f"by {shift:,} from page {begin:,} on" in remark


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.many
def test_a_sound_dump_is_not_looked_at_for_that(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a sound dump pays for it")

    monkeypatch.setattr(DisplacedSearch, "look", fail)
    path, classes = moved(tmp_path, system, [])
    snapshot = memory_visualizer.open(path)
    np.testing.assert_array_equal(LABELS[snapshot.classes], classes)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.many
def test_nothing_is_moved_of_a_sound_dump(system: str, tmp_path: Path) -> None:
    """A sound dump has no displaced pieces, even if the search is run on it."""
    path, _ = moved(tmp_path, system, [])
    dump = open_dump(path)
    search = DisplacedSearch(dump)
    for _ in dump.each_block(search.scan):
        pass
    assert search.pieces(dump) == []


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.many
def test_a_tail_of_which_no_table_tells_is_remarked_on(system: str, tmp_path: Path) -> None:
    """With so few pages there is no vote, but a remark tells the pages missing behind the end.

    If a table happens to lie in the tail, its pages are put in place.
    """
    path, _ = moved(tmp_path, system, [(7900, 200)])
    snapshot = memory_visualizer.open(path)
    said = [*snapshot.remarks, *snapshot.dump.remarks]
    assert [one for one in said if "the file leaves out holes" in one or "moved: by 200" in one]


def elsewhere(path: Path, system: str, flags: int, *, in_a_row: bool) -> int:
    """Point kernel entries, with these extra flags, to frames behind a hole; returns how many.

    Each frame was mapped once, by the kernel. The pages end the file, without the hole.
    """
    name, options = SYSTEMS[system]
    truth = forge(path, profiles()[name], size=32 * MIB, processes=10, seed=3, **options)
    rows = truth.mappings
    frame, count = np.unique(rows["frame"], return_counts=True)
    once = np.isin(rows["frame"], frame[count == 1]) & (rows["owner"] == -1) & ~rows["user"]
    # Page tables are also mapped where they map themselves.
    shift = {"x64": 39, "x64-5": 48}.get(truth.paging, 23)
    region = rows["virtual"] >> np.uint64(shift)
    tops = [process.dtb // PAGE for process in truth.processes]
    once &= ~np.isin(region, region[np.isin(rows["frame"], tops)])
    rows = np.sort(rows[once & (rows["size"] == PAGE)], order="virtual")
    follows = np.diff(rows["virtual"].astype(np.int64)) == PAGE
    if in_a_row:
        first = next(n for n in range(len(follows)) if follows[n : n + 7].sum() == 7)
        chosen = rows[first : first + 8]["frame"]
    else:
        chosen = rows[::5][:8]["frame"]
    words = np.fromfile(path, "<u8").reshape(-1, 512)
    entries = words.view("<u4" if truth.paging == "x86" else "<u8")
    address = 0xF_FFFF_F000 if truth.paging != "x86" else 0xFFFF_F000
    for number, one in enumerate(chosen.tolist()):
        names = entries & (address | 1) == (one << 12 | 1)
        new = (len(words) + 64 + number) << 12 | flags
        entries[names] = entries[names] - (one << 12) + new
    np.concatenate([words, words[chosen]]).tofile(path)
    return len(chosen)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.many
def test_a_tail_that_the_kernel_alone_names_is_remarked_on(system: str, tmp_path: Path) -> None:
    """The tail has neither a page of user mode nor a table."""
    count = elsewhere(tmp_path / "dump", system, 0, in_a_row=False)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    (remark,) = [one for one in snapshot.remarks if "the file leaves out holes" in one]
    told = re.match("the kernel's page tables refer to ([0-9]+) pages just beyond the", remark)
    assert told
    assert int(told[1]) in (count, count + 1)  # one page of the synthetic devices may look like it


@pytest.mark.parametrize(
    ("flags", "in_a_row"), [(0x18, False), (0x10, True), (0, True)], ids=["", "row", "firmware"]
)
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.many
def test_devices_behind_memory_are_not(
    system: str, flags: int, *, in_a_row: bool, tmp_path: Path
) -> None:
    """Devices are not cached, or mapped in a row, as tables of the firmware are, too."""
    elsewhere(tmp_path / "dump", system, flags, in_a_row=in_a_row)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    said = [*snapshot.remarks, *snapshot.dump.remarks]
    assert not [one for one in said if "the file leaves out holes" in one or "moved" in one]


HEADERS = [64, 512, 1024, 4096 + 8]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.many(8)
def test_a_header_in_front(system: str, header: int, *, is_whole: bool, tmp_path: Path) -> None:
    """A header of no known format, with or without padding to whole pages at the end."""
    path, classes = moved(tmp_path, system, [])
    rng = np.random.default_rng(header)
    behind = -header % PAGE if is_whole else 0
    path.write_bytes(rng.bytes(header) + path.read_bytes() + bytes(behind))
    snapshot = memory_visualizer.open(path)
    np.testing.assert_array_equal(LABELS[snapshot.classes], classes)
    assert f"the first {header:,} bytes" in snapshot.dump.remarks[0]


def test_a_file_with_neither_header_nor_whole_pages(tmp_path: Path) -> None:
    """Memory that was cut within a page is refused, and read with lenient."""
    path, classes = moved(tmp_path, "7, x64", [])
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(DamagedInputError, match="not a whole number"):
        memory_visualizer.open(path)
    snapshot = memory_visualizer.open(path, lenient=True)
    np.testing.assert_array_equal(LABELS[snapshot.classes], classes[:-1])


def test_a_dump_that_was_cut_short_is_not_mended(tmp_path: Path) -> None:
    path, classes = moved(tmp_path, "7, x64", [])
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) * 3 // 4])
    snapshot = memory_visualizer.open(path)
    assert snapshot.dump.remarks == ()
    assert snapshot.classes.size == len(classes) * 3 // 4


def test_pages_that_look_like_displaced_tables_cost_nothing_else(tmp_path: Path) -> None:
    """A Windows that was found stays; a remark tells the tables that name distant frames."""
    path = tmp_path / "dump"
    truth = forge(path, profiles()["Win7SP1x64"], size=32 * MIB, processes=8, seed=3)
    words = np.fromfile(path, "<u8").reshape(-1, 512)
    classes = truth.classes(truth.alive)
    shift, flags = 100, 0x67
    users = np.flatnonzero(classes == "user")[: 120 + 220]
    roots, tables = users[:120], users[120:]
    words[users] = 0
    words[tables, :16] = (tables[:16].astype(np.uint64) + shift) << 12 | flags
    words[roots, 0x1F0] = (roots.astype(np.uint64) + shift) << 12 | flags
    words[roots, 0] = (tables[:120].astype(np.uint64) + shift) << 12 | flags
    words[roots, 1] = (tables[100:].astype(np.uint64) + shift) << 12 | flags
    top = truth.processes[3].dtb // PAGE
    free = np.flatnonzero(words[top, 1:256] == 0)[0] + 1
    words[top, free] = len(words) + 50 << 12 | flags  # just beyond memory, so the dump is in doubt
    words.tofile(path)
    snapshot = memory_visualizer.open(path)
    np.testing.assert_array_equal(LABELS[snapshot.classes], classes)
    assert len(snapshot.processes) == len(truth.processes)
    (remark,) = [one for one in snapshot.remarks if "moving the memory there did not help" in one]
    assert remark.startswith("120 pages look like top-level page tables")
    assert "100 pages from where they belong" in remark


def test_a_cut_dump_is_painted_where_tables_name_their_neighbours(tmp_path: Path) -> None:
    """Tables that were made one after the other name pages beside them, as if they were moved.

    The half that is left has neither the processes' objects nor KUSER_SHARED_DATA.
    """
    path = tmp_path / "dump"
    truth = forge(path, profiles()["Win7SP1x64"], size=32 * MIB, stretch=256, seed=1)
    path.write_bytes(path.read_bytes()[: 16 * MIB])
    snapshot = memory_visualizer.open(path)
    assert snapshot.system is None
    assert any("moving the memory there did not help" in one for one in snapshot.remarks)
    np.testing.assert_array_equal(snapshot.zero, truth.zero[: 16 * MIB // PAGE])


@pytest.mark.parametrize("more", [0, 1])
def test_too_many_pages_that_look_like_tables_are_remarked_on(more: int, tmp_path: Path) -> None:
    """Without a system, a remark says that memory may have been moved."""
    words = np.zeros((4096, 512), np.uint64)
    tables = 4096 // 8 + 2048 + more
    words[:tables, :100] = np.arange(1, 101) * 0x40_0000 + 0x63
    (tmp_path / "dump").write_bytes(words.tobytes())
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert snapshot.system is None
    assert [one for one in snapshot.remarks if "was given up" in one] == more * [
        "the search for misplaced memory in the file was given up: more than"
        f" {tables - more:,} pages look like page tables, more than any machine has"
    ]


def test_a_mended_dump_reads_as_one_with_holes(tmp_path: Path) -> None:
    words = np.arange(20 * 512, dtype=np.uint64).reshape(20, 512)
    path = tmp_path / "dump"
    words.tofile(path)
    pieces = [Piece(0, -2), Piece(5, 3), Piece(12, 100)]
    frames = np.array([*range(3), *range(8, 15), *range(112, 120)])
    pages = np.array([*range(2, 5), *range(5, 12), *range(12, 20)])
    mended = MendedDump(open_dump(path), pieces)
    assert np.flatnonzero(mended.held).tolist() == frames.tolist()
    np.testing.assert_array_equal(mended.read_frames(frames), words[pages])
    assert not mended.read_frames(np.array([3, 7, 15, 111, 120])).any()
    seen = list(mended.each_block(lambda part, contents: (part.copy(), contents.copy())))
    np.testing.assert_array_equal(np.concatenate([part for part, _ in seen]), frames)
    np.testing.assert_array_equal(np.concatenate([part for _, part in seen]), words[pages])
    for cuts in ([8], [112, 116], [1, 4, 60, 119]):
        ranges = [range(*edge) for edge in pairwise([0, *cuts, mended.frame_count])]
        parts = [part for one in ranges for part in mended.each_block(lambda some, _: some, one)]
        np.testing.assert_array_equal(np.concatenate(parts), frames)
    plain = mended.plain_pages()
    assert plain is not None
    assert [column.tolist() for column in (plain.first, plain.count)] == [[0, 8, 112], [3, 7, 8]]
    assert plain.offset.tolist() == [2 << 12, 5 << 12, 12 << 12]


# -- two boots ------------------------------------------------------------------------------


def shared_page(truth: Truth) -> int:
    """The frame of KUSER_SHARED_DATA."""
    rows = truth.mappings[truth.mappings["virtual"] == 0xFFFFF780_00000000]
    return int(rows["frame"][0])


def way(words: Words, top: int, virtual: int) -> list[int]:
    """The frames on a processor's way to an address; the page's frame comes last."""
    frames = [top]
    for shift in (39, 30, 21, 12):
        entry = int(words[frames[-1], virtual >> shift & 511])
        frames.append(entry >> 12 & 0xF_FFFF_FFFF)
    return frames


def survives(old: Truth, words: Words, begin: int) -> bool:
    """Whether enough is left of a boot if only frames from `begin` on remain.

    Enough is its KUSER_SHARED_DATA with a way there from two address spaces in the kernel's half,
    or from three in the user's; the processes may have ended.
    """
    roots = [process.dtb // PAGE for process in old.processes if process.dtb >= begin * PAGE]
    kernel, user = (
        [top for top in roots if min(way(words, top, virtual)) >= begin]
        for virtual in (0xFFFFF780_00000000, 0x7FFE_0000)
    )
    return len(kernel) >= 2 or len(user) >= 3


def test_a_boot_whose_clock_is_damaged(tmp_path: Path) -> None:
    """Remains of an older boot are not painted in its place."""
    profile, path = profiles()["Win7SP1x64"], tmp_path / "dump"
    begin, end = 0x400, 4096
    new = forge(path, profile, size=32 * MIB, processes=8, seed=1, holes=[(begin, end - begin)])
    words = np.fromfile(path, "<u8").reshape(-1, 512)
    words[shared_page(new)].view("u1")[0x14:0x1C] = 0
    for seed in range(2, 14):
        old = forge(path, profile, size=end * PAGE, processes=8, seed=seed)
        remains = np.fromfile(path, "<u8").reshape(-1, 512)
        if survives(old, remains, begin):
            break
    words[begin:end] = remains[begin:]
    words.tofile(path)
    snapshot = memory_visualizer.open(path)
    assert snapshot.time is None
    assert any("of another boot" in one for one in snapshot.remarks)
    alive = {new.processes[index].pid for index in new.alive}
    assert alive <= {one.pid for one in snapshot.processes}


@pytest.mark.parametrize("name", ["Win7SP1x64", "Win10x64_17763"])
@pytest.mark.parametrize("later", ["new", "old"])
@pytest.mark.many
def test_the_later_of_two_boots_is_painted(name: str, later: str, tmp_path: Path) -> None:
    """The tables of both boots name themselves and lead to KUSER_SHARED_DATA; the later counts."""
    profile, path = profiles()[name], tmp_path / "dump"
    begin, end = 0x400, 4096  # the old boot's frames stay there
    hole = [(begin, end - begin)]
    new = forge(path, profile, size=32 * MIB, processes=8, seed=1, holes=hole)
    words = np.fromfile(path, "<u8").reshape(-1, 512)
    words[shared_page(new)].view("u1")[0x14:0x1C] = time(2020 if later == "new" else 2010)
    outcomes = set()
    for seed in range(2, 14):
        old = forge(path, profile, size=end * PAGE, processes=8, seed=seed)
        remains = np.fromfile(path, "<u8").reshape(-1, 512)
        remains[shared_page(old)].view("u1")[0x14:0x1C] = time(2015)
        words[begin:end] = remains[begin:]
        words.tofile(path)
        snapshot = memory_visualizer.open(path)
        boots = [one for one in snapshot.remarks if "of another boot" in one]
        two = survives(old, remains, begin)
        outcomes.add(two)
        assert len(boots) == two, seed
        assert snapshot.time
        assert snapshot.time.year == (2020 if later == "new" else 2015 if two else 2010), seed
        if two:
            assert ("2015" if later == "new" else "2010") in boots[0]
        if later == "new":
            np.testing.assert_array_equal(
                np.isin(LABELS[snapshot.classes], ["user", "kernel", "both"]),
                np.isin(new.classes(new.alive), ["user", "kernel", "both"]),
            )
    assert outcomes == {False, True}


def time(year: int) -> npt.NDArray[np.uint8]:
    """The beginning of a year, nearly, in Windows' time: 100 ns since 1601."""
    ticks = np.array([(year - 1601) * 365.2425 * 86400 * 10**7]).astype("<u8")
    return ticks.view("u1")


# -- Linux ----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 100])
def test_a_linux_kernel_says_where_it_lies(first: int, tmp_path: Path) -> None:
    """The kernel tells its address, as after the first ranges of memory were left out."""
    path = tmp_path / "dump"
    truth = forge_linux(path, "6.1", size=32 * MIB, processes=8)
    contents = path.read_bytes()
    path.write_bytes(contents[first * PAGE :])
    snapshot = memory_visualizer.open(path)
    assert str(snapshot.system).startswith("Linux")
    classes = truth.classes.copy()
    classes[:first] = "absent"
    np.testing.assert_array_equal(LABELS[snapshot.classes], classes)
    assert any("does not hold its memory where it belongs" in r for r in snapshot.dump.remarks)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.many
def test_a_header_in_front_of_linux(header: int, *, is_whole: bool, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    truth = forge_linux(path, "6.1", size=32 * MIB, processes=8)
    behind = -header % PAGE if is_whole else 0
    path.write_bytes(b"\1" * header + path.read_bytes() + bytes(behind))
    snapshot = memory_visualizer.open(path)
    np.testing.assert_array_equal(LABELS[snapshot.classes], truth.classes)
    assert f"the first {header:,} bytes" in snapshot.dump.remarks[0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("era", ["6.1", "5.10", "4.19"])
@pytest.mark.many
def test_a_hole_left_out_of_linux(era: str, seed: int, tmp_path: Path) -> None:
    """The hole may lie behind the kernel or before it."""
    path = tmp_path / "dump"
    truth = forge_linux(
        path, era, size=64 * MIB, processes=12, hole=True, five_levels=seed % 2 == 1, seed=seed
    )
    words = np.fromfile(path, "<u8").reshape(-1, 512)
    quarter = len(words) // 4
    np.delete(words, slice(2 * quarter, 3 * quarter), axis=0).tofile(path)
    snapshot = memory_visualizer.open(path)
    np.testing.assert_array_equal(LABELS[snapshot.classes], truth.classes)
    (remark,) = snapshot.dump.remarks
    assert f"by {quarter:,} from page {2 * quarter:,} on" in remark
    pids = {process.pid for process in snapshot.processes}
    assert {task.pid for task in truth.tasks if task.listed} <= pids


def test_how_far_memory_reached_where_linux_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    for seed in range(20):
        truth = forge_linux(path, "6.1", size=32 * MIB, processes=8, seed=seed)
        if max(truth.top, *truth.text_frames) < len(truth.classes) // 2:
            break
    path.write_bytes(path.read_bytes()[: 24 * MIB])
    snapshot = memory_visualizer.open(path)
    assert str(snapshot.system).startswith("Linux")
    end = f"up to page {len(truth.classes) - 1:,}"
    assert [one for one in snapshot.remarks if end in one and "ends with page 6,143" in one]


def test_ranges_that_end_within_a_page_are_refused(tmp_path: Path) -> None:
    """LiME's ranges without their headers: the first ends at 0x9fbff on many machines."""
    path = tmp_path / "dump"
    forge_linux(path, "6.1", size=32 * MIB, processes=8)
    contents = path.read_bytes()
    joined = contents[0x1000:0x9FC00] + contents[0x100000:]
    path.write_bytes(joined[: len(joined) // PAGE * PAGE])
    with pytest.raises(BadInputError, match="does not hold its memory where it belongs"):
        memory_visualizer.open(path)


def test_more_pieces_than_any_memory_has() -> None:
    """The pieces with the fewest tables are left out, and a remark counts them."""
    budget = Budget(16)
    limit = budget.limit("piece of misplaced memory")
    shift = np.repeat(np.arange(limit + 3) * 256, np.arange(limit + 3) + 2)
    page = np.arange(len(shift))
    found = ascending(budget, page, shift)
    assert found == [(n, moved) for n, moved in enumerate(shift.tolist()) if moved >= 3 * 256]
    assert budget.remarks == ("3 pieces of misplaced memory left out: more than any machine has",)
