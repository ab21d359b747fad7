"""A notebook's questions to a snapshot: a process's pages, addresses, bytes; pickles; `with`."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import BadInputError, NotMappedError, Process, Snapshot
from memory_visualizer.errors import OtherProcessError
from tests.synth import MIB, Truth, builds, forge, profiles
from tests.synth.linux import forge_linux

PAGE = 4096
NAMES = ("WinXPSP2x86", "WinXPSP3x86", "Win7SP1x86_23418", "Win10x64_17763")


@pytest.fixture(scope="module", params=NAMES)
def asked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Snapshot, Truth, Path]:
    """A snapshot, the truth about it, and the dump."""
    path = tmp_path_factory.mktemp("queries") / "dump"
    truth = forge(path, profiles()[request.param], size=32 * MIB, processes=5)
    return memory_visualizer.open(path), truth, path


def of(snapshot: Snapshot, truth: Truth, index: int) -> Process:
    """The process at this index of the truth."""
    address = truth.processes[index].eprocess
    return next(one for one in snapshot.processes if one.object_address == address)


@pytest.mark.many
def test_pages_addresses_and_bytes(asked: tuple[Snapshot, Truth, Path]) -> None:
    """A process's pages, addresses and bytes are as it got them."""
    snapshot, truth, path = asked
    contents = np.fromfile(path, np.uint8).reshape(-1, PAGE)
    notes = truth.mappings
    for owner in truth.alive:
        process = of(snapshot, truth, owner)
        rows = notes[(notes["owner"] == owner) & notes["user"]]
        expected = {
            int(row["frame"]) + inside for row in rows for inside in range(row["size"] // PAGE)
        }
        assert set(snapshot.pages(process).tolist()) == expected
        assert (np.diff(snapshot.pages(process)) > 0).all()
        for row in rows[:: max(1, len(rows) // 20)]:
            virtual, frame = int(row["virtual"]), int(row["frame"])
            assert snapshot.translate(process, virtual + 0x123) == frame * PAGE + 0x123
            found = snapshot.read(process, virtual + 0xF00, 0x100)
            assert found == contents[frame, 0xF00:].tobytes()


def test_bytes_over_a_page_s_end(asked: tuple[Snapshot, Truth, Path]) -> None:
    """Two successive pages of a process may lie anywhere in memory."""
    snapshot, truth, path = asked
    contents = np.fromfile(path, np.uint8).reshape(-1, PAGE)
    tried = 0
    for owner in truth.alive:
        rows = truth.mappings
        rows = rows[(rows["owner"] == owner) & rows["user"] & (rows["size"] == PAGE)]
        at = {int(row["virtual"]): int(row["frame"]) for row in rows}
        for virtual in [one for one in at if one + PAGE in at][:8]:
            both = np.concatenate([contents[at[virtual]], contents[at[virtual + PAGE]]])
            found = snapshot.read(of(snapshot, truth, owner), virtual + 0xFF0, 0x20)
            assert found == both[0xFF0:0x1010].tobytes()
            tried += 1
    assert tried


def test_where_nothing_is(asked: tuple[Snapshot, Truth, Path]) -> None:
    """An unmapped address is a clear error that names it first, or None."""
    snapshot, truth, _ = asked
    process = of(snapshot, truth, truth.alive[-1])
    assert snapshot.translate(process, 0x10) is None
    with pytest.raises(NotMappedError, match=r"has no memory at 0x10 "):
        snapshot.read(process, 0x10, 4)
    assert snapshot.read(process, 0x10, 0) == b""


def test_a_kernel_address_of_linux(tmp_path: Path) -> None:
    """The kernel's own tables translate it, though the mappings do not have them."""
    forge_linux(tmp_path / "dump", "6.1", size=64 * MIB)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    for process in snapshot.processes:
        place = snapshot.translate(process, process.object_address)
        assert place is not None
        with (tmp_path / "dump").open("rb") as file:
            file.seek(place)
            assert file.read(64) == snapshot.read(process, process.object_address, 64)
            file.seek(place // PAGE * PAGE)
        task = snapshot.read(process, process.object_address, 3 * PAGE)
        assert process.name.encode()[:11] in task  # the next page is elsewhere


def test_questions_that_cannot_be_answered(asked: tuple[Snapshot, Truth, Path]) -> None:
    """Each is an error of this package with a sentence, or None."""
    snapshot, *_ = asked
    process = snapshot.processes[0]
    other = replace(process, pid=99_999, name="")
    assert snapshot.translate(process, -1) is None
    with pytest.raises(NotMappedError, match="negative"):
        snapshot.read(process, -1, 4)
    for ask in (snapshot.pages, lambda one: snapshot.translate(one, 4096)):
        with pytest.raises(
            OtherProcessError, match=r"\(no name\) \(99999\) is a process of another"
        ):
            ask(other)
    with pytest.raises(BadInputError, match="width must be a whole number above 0; not 0"):
        snapshot.image(width=0)


def test_pickles_and_with(asked: tuple[Snapshot, Truth, Path]) -> None:
    """A pickle has the results and the dump's path."""
    snapshot, *_ = asked
    again = pickle.loads(pickle.dumps(snapshot))
    assert isinstance(again, Snapshot)
    np.testing.assert_array_equal(again.classes, snapshot.classes)
    assert again.processes == snapshot.processes
    assert again.system == snapshot.system
    frames = np.arange(8)
    np.testing.assert_array_equal(again.dump.read_frames(frames), snapshot.dump.read_frames(frames))
    with again as entered:
        assert entered is again
    with pytest.raises(ValueError, match="is closed"):
        again.dump.read_frames(frames)


def test_short_words(asked: tuple[Snapshot, Truth, Path]) -> None:
    """The repr of each object is a short line."""
    snapshot, truth, _ = asked
    text = repr(snapshot)
    assert text == (
        f"<Snapshot of dump: {snapshot.system}, {truth.frames:,} page frames,"
        f" {len(snapshot.processes)} processes>"
    )
    for thing in (snapshot.dump, snapshot.mappings, snapshot.owners):
        assert len(repr(thing)) < 100
    assert snapshot != again_of(snapshot)
    assert snapshot == snapshot


def again_of(snapshot: Snapshot) -> Snapshot:
    """Open the same dump again."""
    return memory_visualizer.open(snapshot.dump.path)


def test_bases_are_addresses(tmp_path: Path) -> None:
    """Bases are addresses although Windows with shadow tables has flags in CR3's low bits."""
    truth = forge(tmp_path / "dump", builds()[sorted(builds())[-1]], shadow_tables=True)
    assert any(process.dtb % PAGE for process in truth.processes)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    known = {process.object_address: process for process in snapshot.processes}
    for process in truth.processes:
        found = known[process.eprocess]
        assert found.dtb == process.dtb // PAGE * PAGE
        assert found.user_dtb == process.shadow_dtb // PAGE * PAGE
