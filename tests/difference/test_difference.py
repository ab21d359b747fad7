"""The difference of two dumps, part by part."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import memory_visualizer
from memory_visualizer.api import moment
from memory_visualizer.difference import changes, difference
from memory_visualizer.difference.changes import Change, ChangeBit
from memory_visualizer.difference.difference import (
    Difference,
    compare,
    compare_series,
    in_order,
)
from memory_visualizer.difference.moment import FileKey, FrameColumns, KnownLead, Moment
from memory_visualizer.difference.ownersets import owner_sets
from memory_visualizer.difference.processes import ProcessChange, matched
from memory_visualizer.errors import BadInputError
from memory_visualizer.snapshot.owners import Owners
from memory_visualizer.snapshot.process import NAMELESS, Process
from tests.difference.conftest import Series
from tests.synth import forge, kernel, profiles
from tests.synth.containers import write_avml, write_kdump, write_lime
from tests.synth.memory import PAGE_SIZE


@pytest.fixture(scope="module")
def moments(windows_series: Series) -> list[Moment]:
    return [moment(path) for path in windows_series.paths]


# -- contents, whatever the formats ---------------------------------------------------------


def test_other_formats_and_holes(windows_series: Series, tmp_path: Path) -> None:
    """Frames that one dump lacks are told; all others are as in raw dumps, in either direction."""
    first, second, _ = windows_series.paths
    plain = memory_visualizer.diff(first, second)
    memory = second.read_bytes()
    frames = len(memory) // PAGE_SIZE
    # A hole over zeros and unused data, without which the machine is still understood.
    snapshot = memory_visualizer.open(second)
    unused = np.flatnonzero(snapshot.classes >= 4)
    start = int(unused[np.flatnonzero(unused[2:] - unused[:-2] == 2)[0]])
    hole = range(start, start + 3)
    runs = [(0, hole.start), (hole.stop, frames)]
    write_lime(
        tmp_path / "b.lime",
        [(a * PAGE_SIZE, memory[a * PAGE_SIZE : b * PAGE_SIZE]) for a, b in runs],
    )
    found = memory_visualizer.diff(first, tmp_path / "b.lime")
    expected = plain.codes.copy()
    expected[hole.start : hole.stop] = Change.ONLY_EARLIER
    np.testing.assert_array_equal(found.codes, expected)
    turned = memory_visualizer.diff(tmp_path / "b.lime", first, order=False)
    assert (turned.codes[hole.start : hole.stop] == Change.ONLY_LATER).all()
    for bit in (ChangeBit.CONTENTS, ChangeBit.OWNER, ChangeBit.CLASS):
        np.testing.assert_array_equal(turned.bits & bit, found.bits & bit)


def test_a_dump_that_ends_earlier(windows_series: Series, tmp_path: Path) -> None:
    first, second, _ = windows_series.paths
    memory = first.read_bytes()
    (tmp_path / "longer.raw").write_bytes(memory + b"x" * 5 * PAGE_SIZE)
    found = memory_visualizer.diff(tmp_path / "longer.raw", second)
    assert len(found.codes) == len(memory) // PAGE_SIZE + 5
    assert (found.codes[-5:] == Change.ONLY_EARLIER).all()
    plain = memory_visualizer.diff(first, second)
    np.testing.assert_array_equal(found.codes[:-5], plain.codes)


def test_any_byte_counts(windows_series: Series, tmp_path: Path) -> None:
    """A page differs if a single byte differs: the first, the last or one within."""
    memory = bytearray(windows_series.paths[0].read_bytes())
    snapshot = memory_visualizer.open(windows_series.paths[0])
    data = np.flatnonzero(snapshot.classes == 4)[:3].tolist()
    for frame, byte in zip(data, (0, 2077, 4095), strict=True):
        memory[frame * PAGE_SIZE + byte] ^= 0x40
    (tmp_path / "later.raw").write_bytes(memory)
    found = memory_visualizer.diff(snapshot, tmp_path / "later.raw")
    assert np.flatnonzero(found.codes > Change.SAME).tolist() == data
    assert set(found.codes[data].tolist()) <= {Change.CONTENTS, Change.ZEROED}


# -- which dumps are compared, and in which order -------------------------------------------


def test_the_clock_tells_the_order(moments: list[Moment], windows_series: Series) -> None:
    first, second, third = moments
    ordered, remarks = in_order([third, first, second])
    assert ordered == [first, second, third]
    assert remarks == ["the dumps are compared in the order of their clocks: 1.raw, 2.raw, 3.raw"]
    assert in_order(moments) == (moments, [])
    found = memory_visualizer.diff(*windows_series.paths[1::-1])
    assert (found.before.name, found.after.name) == ("1.raw", "2.raw")
    given = memory_visualizer.diff(*windows_series.paths[1::-1], order=False)
    assert (given.before.name, given.after.name) == ("2.raw", "1.raw")


def test_the_clock_of_linux(linux_series: Series) -> None:
    """Two dumps are ten minutes apart; both tell the same start of the machine."""
    found = memory_visualizer.diff(*linux_series.paths[1::-1])
    assert (found.before.name, found.after.name) == ("1.raw", "2.raw")
    assert found.before.time is not None
    assert found.after.time is not None
    assert found.after.time - found.before.time == timedelta(minutes=10)
    (start,) = [one for one in found.kinship.witnesses if one.what == "start of the system"]
    assert start.agrees


def test_equal_clocks_are_told(moments: list[Moment]) -> None:
    """Dumps with the same time keep their order, and a remark names them."""
    first, second, third = moments
    same = replace(third, time=second.time)
    ordered, remarks = in_order([same, second, first])
    assert ordered == [first, same, second]
    assert remarks[0] == (
        "in the order that was given, since their clocks tell the same time: 3.raw, 2.raw"
    )
    assert len(remarks) == 2


def test_a_dump_without_a_clock_keeps_its_place(moments: list[Moment]) -> None:
    first, second, third = moments
    untimed = replace(second, time=None)
    ordered, remarks = in_order([third, untimed, first])
    assert ordered == [first, untimed, third]
    assert remarks[0] == ("in the order that was given, since they do not tell their time: 2.raw")
    assert len(remarks) == 2


def test_a_series_needs_two(moments: list[Moment]) -> None:
    with pytest.raises(BadInputError, match="two dumps"):
        next(compare_series(moments[:1]))


def test_columns_give_back_what_they_were_made_of() -> None:
    """Each combination of class, zeros and rights, in three bytes for a frame."""
    classes, zero, access = (part.ravel() for part in np.mgrid[0:7, 0:2, 0:8].astype(np.uint8))
    owners = np.arange(classes.size, dtype=np.uint16)
    columns = FrameColumns.of(classes, zero.astype(bool), access, owners)
    assert columns.facts.nbytes + columns.owners.nbytes == 3 * len(columns)
    longer = columns.grown(len(columns) + 2)
    for name, told, absent in (
        ("classes", classes, 0),
        ("zero", zero, True),
        ("access", access, 0),
        ("owners", owners, 0),
    ):
        assert getattr(columns, name).tolist() == told.tolist()
        assert getattr(longer, name).tolist() == [*told.tolist(), absent, absent]
    assert columns.held.tolist() == [one not in (0, 6) for one in classes.tolist()]
    assert not longer.held[-2:].any()


def test_packed_columns_are_the_same(moments: list[Moment]) -> None:
    packed = moments[0].packed()
    for name in ("classes", "zero", "access", "owners"):
        np.testing.assert_array_equal(
            getattr(packed.columns, name), getattr(moments[0].columns, name)
        )
    assert isinstance(packed.unpacked()._columns, FrameColumns)
    assert not isinstance(packed._columns, FrameColumns)


# -- one machine or not ------------------------------------------------------------------------


def test_each_witness_alone_decides_nothing(moments: list[Moment]) -> None:
    """A single witness against one machine costs a remark; the frames are still compared."""
    first, second, _ = moments
    assert compare(first, second).remarks == ()
    assert second.booted is not None
    altered = [
        replace(second, booted=second.booted + timedelta(hours=3)),
        replace(second, kernel_dtb=0x1000),
        replace(second, system=None),
        replace(second, processes=tuple(map(_known_by_tables, second.processes))),
    ]
    for other in altered:
        assert compare(first, other).is_one_machine
    (remark,) = compare(first, altered[0]).remarks
    assert "start of the system" in remark


def test_the_first_process_is_one_that_both_have(moments: list[Moment]) -> None:
    """An object that one of the dumps has lost is not compared with that of another process."""
    first, second, _ = moments
    lowest = min(one.pid for one in second.processes if one.object_address)
    poorer = tuple(
        replace(one, object_address=0) if one.pid == lowest else one for one in second.processes
    )
    found = compare(first, replace(second, processes=poorer))
    assert "object of the first process" in {one.what for one in found.kinship.witnesses}
    assert found.kinship.disagreeing == ()


def _known_by_tables(one: Process) -> Process:
    return replace(one, pid=-1, object_address=0, created=None)


def test_another_start_is_another_machine(
    windows_series: Series, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same system a day later is another machine: only classes and names are compared."""
    monkeypatch.setattr(kernel, "IMAGE_TIME", kernel.IMAGE_TIME + 864_000_000_000)
    forge(tmp_path / "other.raw", profiles()["Win10x64"], size=16 << 20, seed=123)
    found = memory_visualizer.diff(windows_series.paths[0], tmp_path / "other.raw", order=False)
    assert not found.is_one_machine
    assert len(found.codes) == len(found.bits) == 0
    assert found.files is None
    by_name = {one.process.name: one for one in found.processes if one.before and one.after}
    assert "lsass.exe" in by_name
    assert "processes" in {one.what for one in found.kinship.disagreeing}


def test_nothing_tells(tmp_path: Path) -> None:
    """Dumps without a system are compared, and a remark says that the machine is not known."""
    (tmp_path / "a.raw").write_bytes(bytes(PAGE_SIZE) + b"a" * 3 * PAGE_SIZE)
    (tmp_path / "b.raw").write_bytes(b"b" * 2 * PAGE_SIZE + bytes(PAGE_SIZE) + b"a" * PAGE_SIZE)
    found = memory_visualizer.diff(tmp_path / "a.raw", tmp_path / "b.raw")
    assert [Change(code) for code in found.codes] == [
        Change.FILLED,
        Change.CONTENTS,
        Change.ZEROED,
        Change.SAME,
    ]
    assert found.remarks == ("nothing tells whether the two dumps are of one machine",)


# -- processes -----------------------------------------------------------------------------------


def process(pid: int, name: str, at: int, *, created: int | None = None, dtb: int = 0) -> Process:
    return Process(
        pid=pid,
        ppid=4,
        name=name,
        dtb=dtb or at & 0xFFFFF000,
        object_address=at,
        created=None if created is None else datetime.fromtimestamp(created, UTC),
        exited=None,
        is_alive=True,
        is_listed=True,
    )


OLD = process(100, "a.exe", 0x8000_1000, created=5)


@pytest.mark.parametrize(
    ("new", "is_same"),
    [
        (OLD, True),
        (replace(OLD, name="b.exe", dtb=0x77000), True),  # the process started another program
        (replace(OLD, pid=104), True),  # a flipped bit
        (replace(OLD, created=None), True),
        (replace(OLD, object_address=0x8000_2000), True),
        (process(100, "a.exe", 0x8000_9000, created=6), False),  # the pid is another process's now
        (process(104, "b.exe", 0x8000_1000, created=6), False),  # its memory was reused, too
        (process(100, "b.exe", 0x8000_9000), False),
    ],
)
def test_one_process_or_two(new: Process, is_same: bool) -> None:
    assert matched([OLD], [new]) == ([(0, 0)] if is_same else [])


def test_the_best_match_wins() -> None:
    copy = replace(OLD, object_address=0x8000_5000, dtb=0x5000)
    assert matched([OLD], [copy, OLD]) == [(0, 1)]
    assert matched([copy, OLD], [OLD, copy]) == [(0, 1), (1, 0)]


def test_tables_alone() -> None:
    """Processes that are known only by page tables are matched by these."""
    nameless = process(-1, "(unknown)", 0, dtb=0x5000)
    assert matched([nameless], [replace(nameless, dtb=0x6000), nameless]) == [(0, 1)]


def test_an_object_that_is_lost() -> None:
    """A process of which the later dump has only the tables is the same, with an unknown name."""
    lost = replace(
        process(-1, NAMELESS, 0, dtb=OLD.dtb), is_listed=False, anomalies=("by its tables only",)
    )
    assert matched([OLD], [lost]) == matched([lost], [OLD]) == [(0, 0)]
    change = ProcessChange(OLD, lost, 3, 3)
    assert (change.change, change.old_name, change.was_unlinked) == ("same", None, False)
    assert change.process is OLD
    assert ProcessChange(None, lost, 0, 3).process is lost
    other = process(104, "b.exe", 0x8000_9000, created=6, dtb=OLD.dtb)  # the frame was reused
    assert matched([OLD], [other]) == []


def test_many_alike_are_not_compared_each_with_each() -> None:
    """In a dump made to waste time, equal processes are not compared each with each."""
    many = [replace(OLD) for _ in range(20_000)]
    assert len(matched(many, many)) == 20_000


def test_a_process_that_came_and_went() -> None:
    ended = replace(OLD, is_alive=False)
    assert ProcessChange(None, ended, 0, 0).change == "came and went"
    assert ProcessChange(OLD, ended, 3, 0).change == "went"
    assert ProcessChange(ended, None, 0, 0).change == "same"
    assert ProcessChange(OLD, replace(OLD, is_listed=False), 3, 3).was_unlinked


def test_anomalies_are_new_whatever_their_addresses() -> None:
    before = replace(OLD, anomalies=("pid also of 0x1000",))
    after = replace(OLD, anomalies=("pid also of 0x2000", "parent unknown"))
    assert ProcessChange(before, after, 0, 0).new_anomalies == ("parent unknown",)


# -- sets of owners --------------------------------------------------------------------------------


def test_owner_sets_are_the_owners() -> None:
    """Random owners of random frames, in pieces: each frame's set has exactly its owners."""
    rng = np.random.default_rng(3)
    frames, processes = 3000, 70
    owned = {
        (int(frame), int(one))
        for frame, one in zip(
            rng.integers(0, frames, 9000), rng.integers(0, processes, 9000), strict=True
        )
    }
    rows = np.array(sorted(owned), np.int64)

    def pieces() -> Iterator[tuple[range, Owners]]:
        for first, end in pairwise([0, 1000, 1001, 2500, frames]):
            some = rows[(rows[:, 0] >= first) & (rows[:, 0] < end)]
            count = len(some)
            yield (
                range(first, end),
                Owners(
                    some[:, 0],
                    some[:, 1].astype(np.int32),
                    np.zeros(count, np.uint64),
                    np.ones(count, bool),
                ),
            )

    of_frame, sets = owner_sets(pieces(), processes, frames)
    expected: dict[int, list[int]] = {}
    for frame, one in sorted(owned):
        expected.setdefault(frame, []).append(one)
    assert len(sets) == len({tuple(some) for some in expected.values()}) + 1
    for frame in range(frames):
        assert sets.members(int(of_frame[frame])) == expected.get(frame, [])
    values = rng.integers(0, 1 << 62, processes).astype(np.uint64)
    sums = sets.sums(values)
    assert sums[0] == 0
    for number in range(len(sets)):
        assert int(sums[number]) == sum(int(values[m]) for m in sets.members(number)) % 2**64


def test_more_sets_of_owners_than_two_bytes_can_number() -> None:
    """Each of 70,000 frames has owners of its own: 17 processes make enough sets."""
    processes, frames = 17, 70_000
    pieces = [
        (range(first, first + 10_000), _by_bits(np.arange(first, first + 10_000), processes))
        for first in range(0, frames, 10_000)
    ]
    of_frame, sets = owner_sets(pieces, processes, frames)
    assert len(sets) == frames
    for frame in (0, 1, 65_534, 65_535, 65_536, 69_999):
        members = [one for one in range(processes) if frame >> one & 1]
        assert sets.members(int(of_frame[frame])) == members


def _by_bits(frames: NDArray[np.int64], processes: int) -> Owners:
    """Owners of frames: the processes whose bits are set in the frame's number."""
    frame, process = np.nonzero(frames[:, None] >> np.arange(processes) & 1)
    return Owners(
        frames[frame],
        process.astype(np.int32),
        np.zeros(len(frame), np.uint64),
        np.ones(len(frame), bool),
    )


def test_who_has_the_frames_now(windows_series: Series) -> None:
    """For each pair of owners, as many frames changed hands as noted."""
    found = memory_visualizer.diff(*windows_series.paths[:2])
    noted = windows_series.steps[0]
    expected: dict[tuple[frozenset[int], frozenset[int]], int] = {}
    nobody: frozenset[int] = frozenset()
    for frame in range(len(found.codes)):
        pair = (noted.before.owners.get(frame, nobody), noted.after.owners.get(frame, nobody))
        if pair[0] != pair[1]:
            expected[pair] = expected.get(pair, 0) + 1

    def pids(indices: Sequence[int], processes: Sequence[Process]) -> frozenset[int]:
        return frozenset(processes[index].pid for index in indices)

    told = {
        (pids(old, found.before.processes), pids(new, found.after.processes)): frames
        for old, new, frames in found.owner_moves()
    }
    assert told == expected
    counts = list(told.values())
    assert counts == sorted(counts, reverse=True)


def test_moves_that_are_left_out_are_counted(
    windows_series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = memory_visualizer.diff(*windows_series.paths[:2])
    moves = whole.owner_moves()
    assert len(moves) > 4
    assert not any("left out" in remark for remark in whole.remarks)
    monkeypatch.setattr(changes, "MAX_MOVES", 2)
    found = memory_visualizer.diff(*windows_series.paths[:2])
    assert found.owner_moves() == moves[:2]
    rest = sum(frames for _, _, frames in moves[2:])
    (remark,) = found.remarks
    assert remark.startswith(f"{len(moves) - 2} kinds of owner moves left out, with {rest:,} pages")


def test_moves_are_counted_in_pieces(
    windows_series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames are compared, and their moves counted, some at a time: that changes nothing."""
    whole = memory_visualizer.diff(*windows_series.paths[:2])
    monkeypatch.setattr(difference, "_FRAMES_AT_ONCE", 100)
    monkeypatch.setattr(changes, "_NUMBERS_AT_ONCE", 3)
    found = memory_visualizer.diff(*windows_series.paths[:2])
    np.testing.assert_array_equal(found.bits, whole.bits)
    np.testing.assert_array_equal(found.codes, whole.codes)
    assert found.owner_moves() == whole.owner_moves()
    assert found.bit_counts() == {
        bit: np.count_nonzero(whole.bits & np.uint8(bit)) for bit in ChangeBit
    }


@pytest.mark.parametrize("write", [write_kdump, write_avml], ids=["kdump", "AVML"])
@pytest.mark.many
def test_packed_formats(write: object, windows_series: Series, tmp_path: Path) -> None:
    assert callable(write)
    first, second, _ = windows_series.paths
    for path in (first, second):
        memory = path.read_bytes()
        write(tmp_path / path.name, [(0, memory)])
    found = memory_visualizer.diff(tmp_path / first.name, tmp_path / second.name)
    plain = memory_visualizer.diff(first, second)
    held = (found.codes != Change.ABSENT) & (found.codes < Change.ONLY_EARLIER)
    assert held.any()
    np.testing.assert_array_equal(found.codes[held], plain.codes[held])
    # AVML leaves out blocks of zeros: such a page is absent from one dump, or from both.
    zero = memory_visualizer.open(first).zero | memory_visualizer.open(second).zero
    assert zero[~held].all()


# -- files and leads -----------------------------------------------------------------------------


def test_files_with_more_or_fewer_pages(moments: list[Moment]) -> None:
    first, second, _ = moments
    before: dict[FileKey, int] = {("/a", "file", 1): 3, ("/b", "file", 2): 5, ("/b", "file", 9): 7}
    after: dict[FileKey, int] = {
        ("/b", "file", 2): 5,
        ("/b", "file", 9): 6,
        ("/c", "file", None): 2,
    }
    found = compare(replace(first, files=before), replace(second, files=after))
    assert found.files is not None
    assert [(one.path, one.number, one.pages_before, one.pages_after) for one in found.files] == [
        ("/a", 1, 3, 0),
        ("/b", 9, 7, 6),
        ("/c", None, 0, 2),
    ]
    assert compare(replace(first, files=None), replace(second, files=after)).files is None


def test_rights_of_pages_that_are_left_out() -> None:
    """Page tables tell that a page became executable, even if both dumps left its contents out."""
    may_write, may_execute = 2, 4
    rights = np.array([may_write, may_write, may_write, 0], np.uint8)
    left_out, zero = np.full(4, 6, np.uint8), np.ones(4, bool)
    owners = np.array([1, 1, 0, 0], np.uint16)
    before = FrameColumns.of(left_out, zero, rights, owners)
    after = FrameColumns.of(
        left_out, zero, rights | np.array([may_execute, 0, 0, 0], np.uint8), owners
    )
    sums = np.array([0, 7], np.uint64)
    bits = changes.changed_bits(before, after, np.zeros(4, bool), (sums, sums), may_execute)
    assert bits.tolist() == [ChangeBit.EXECUTABLE, 0, 0, 0]


def test_a_lead_of_more_pages_is_new(moments: list[Moment]) -> None:
    """Code that a process already had does not hide more of it; that of others stays known."""
    first = moments[0]

    def lead(kind: str, process: int | None, pages: int) -> KnownLead:
        return KnownLead(kind, "", process, pages)

    old = [lead("writable code", 5, 2), lead("unlinked process", 6, 9)]
    same = compare(replace(first, leads=tuple(old)), replace(first, leads=tuple(old)))
    assert same.leads == ()
    new = [
        *(lead("writable code", 5, 300), lead("unlinked process", 6, 10)),
        *(lead("records disagree", None, 1), lead("writable code", 7, 1)),
    ]
    found = compare(replace(first, leads=tuple(old)), replace(first, leads=tuple(new)))
    assert found.leads == (new[0], new[2], new[3])


def test_new_leads(windows_series: Series, moments: list[Moment]) -> None:
    """Code that became writable and a process that left the list are new; known leads are not."""
    assert {lead.kind for lead in moments[0].leads} == {"unlinked process"}  # rootkit.exe
    first, second = (compare(*pair) for pair in pairwise(moments))
    made = windows_series.steps[0].made_executable
    owners = {pid for frame in made for pid in windows_series.steps[0].after.owners[frame]}
    told = {_pid(first, lead) for lead in first.leads if lead.kind == "writable code"}
    assert told == owners
    assert made
    unlinked = {one.process.pid for one in second.processes if one.was_unlinked}
    assert {_pid(second, lead) for lead in second.leads if lead.kind == "unlinked process"} == (
        unlinked
    )
    assert len(unlinked) == 1


def _pid(found: Difference, lead: KnownLead) -> int:
    assert lead.process is not None
    return found.after.processes[lead.process].pid
