"""Colourings: each frame's colour against the truth of the dump, or against a plain computation."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import memory_visualizer
from memory_visualizer import Snapshot
from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.picture import entropy as contents
from memory_visualizer.picture.colouring import (
    COLOURINGS,
    by_entropy,
    by_mappings,
    by_process,
    by_protection,
    colour_by,
    swatches_of,
)
from memory_visualizer.picture.palette import DEFAULT
from tests.simple_walker import walk
from tests.synth import MIB, Truth, builds, containers, forge, profiles
from tests.synth.linux import forge_linux
from tests.synth.memory import PAGE_SIZE

OF_ALL_SYSTEMS = [name for name in COLOURINGS if name not in ("state", "use", "file")]


@pytest.fixture(scope="module", params=["Win7SP1x86", "Win10x64_17763"])
def synthetic(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Snapshot, Truth, bytes]:
    """A small Windows: its snapshot, its truth and its bytes."""
    path = tmp_path_factory.mktemp("colouring") / "dump"
    truth = forge(path, profiles()[request.param], size=16 * MIB, processes=5)
    return memory_visualizer.open(path), truth, path.read_bytes()


def labels(snapshot: Snapshot, name: str) -> npt.NDArray[np.str_]:
    """The meaning of each frame's colour."""
    colouring = colour_by(name, snapshot, DEFAULT, lambda: contents.entropy(snapshot.dump))
    meaning: npt.NDArray[np.str_] = np.array([swatch.label for swatch in colouring.swatches])
    found: npt.NDArray[np.str_] = meaning[colouring.values]
    return found


def test_by_process(synthetic: tuple[Snapshot, Truth, bytes]) -> None:
    """A process's own page has its colour; a shared page has the colour of pages of several."""
    snapshot, truth, _ = synthetic
    holders: list[set[str]] = [set() for _ in range(truth.frames)]
    for note in truth.mappings[truth.mappings["user"]]:
        if note["owner"] in truth.alive:
            process = truth.processes[note["owner"]]
            first, count = int(note["frame"]), int(note["size"]) // PAGE_SIZE
            for holder in holders[first : first + count]:
                holder.add(f"{process.name} ({process.pid})")
    expected = [
        "several processes" if len(holder) > 1 else min(holder, default=page_class)
        for holder, page_class in zip(holders, truth.classes(truth.alive).tolist(), strict=True)
    ]
    assert labels(snapshot, "process").tolist() == expected
    assert len(set(expected)) > 8


def test_by_protection(synthetic: tuple[Snapshot, Truth, bytes]) -> None:
    """The rights of user mode, or else of the kernel, equal those of a plain reader of entries."""
    snapshot, truth, memory = synthetic
    rights: dict[bool, list[set[str]]] = {
        user: [set() for _ in range(truth.frames)] for user in (True, False)
    }
    for owner in truth.alive:
        for page in walk(memory, truth.paging, truth.processes[owner].dtb):
            first = page.physical // PAGE_SIZE
            for allowed in rights[page.user][first : first + page.size // PAGE_SIZE]:
                allowed.add("r")
                allowed |= {"w"} if page.write else set()
                allowed |= {"x"} if page.execute else set()
    expected = []
    for by_user, by_kernel in zip(rights[True], rights[False], strict=True):
        mode, allowed = ("user", by_user) if by_user else ("kernel", by_kernel)
        text = "".join(right if right in allowed else "-" for right in "rwx")
        expected.append(f"{mode} {text}" if allowed else "unused")
    assert labels(snapshot, "protection").tolist() == expected
    assert {"user rw-", "kernel rw-", "unused"} <= set(expected) or truth.paging == "x86"


def test_by_mappings(synthetic: tuple[Snapshot, Truth, bytes]) -> None:
    """The number of mappings of each frame equals the truth's."""
    snapshot, truth, _ = synthetic
    count = np.zeros(truth.frames, int)
    notes = truth.mappings
    for first, size in zip(notes["frame"].tolist(), notes["size"].tolist(), strict=True):
        count[first : first + size // PAGE_SIZE] += 1
    expected = [
        "not mapped" if n == 0 else "1 mapping" if n == 1 else "2 mappings" if n == 2 else "more"
        for n in count.tolist()
    ]
    found = labels(snapshot, "mappings")
    few = np.isin(found, ["not mapped", "1 mapping", "2 mappings"])
    assert np.where(few, found, "more").tolist() == expected
    for n, label in zip(count[~few].tolist(), found[~few].tolist(), strict=True):
        low, *high = (int(word) for word in label.split() if word.isdigit())
        assert low <= n
        assert not high or n <= high[0]


def test_entropy_as_shannon_has_it(tmp_path: Path) -> None:
    """Constant pages, text, two values, noise and an unheld page have Shannon's entropy."""
    rng = np.random.default_rng(0)
    pages = [
        bytes(PAGE_SIZE),
        b"\x55" * PAGE_SIZE,
        b"ab" * (PAGE_SIZE // 2),
        (b"It was the best of times, it was the worst of times. " * 100)[:PAGE_SIZE],
        rng.bytes(PAGE_SIZE),
        bytes(range(256)) * 16,
        bytes(PAGE_SIZE - 1) + b"x",
    ] * 40
    (tmp_path / "dump").write_bytes(b"".join(pages))
    steps = contents.entropy(open_dump(tmp_path / "dump"))
    for page, step in zip(pages, steps.tolist(), strict=True):
        shares = [count / PAGE_SIZE for count in Counter(page).values()]
        bits = -sum(share * math.log2(share) for share in shares)
        assert step == pytest.approx(bits * 255 / 8, abs=0.51)
    assert (steps[0], steps[1], steps[5]) == (0, 0, 255)


def test_by_entropy(synthetic: tuple[Snapshot, Truth, bytes]) -> None:
    """Bins are half a bit wide; zeros differ from other pages without information."""
    snapshot, truth, _ = synthetic
    steps = np.zeros(truth.frames, np.uint8)
    steps[1:] = np.arange(truth.frames - 1) % 256
    colouring = by_entropy(snapshot, DEFAULT, steps)
    meaning = np.array([swatch.label for swatch in colouring.swatches])[colouring.values]
    assert (meaning[truth.zero] == "zeros").all()
    for step, label in zip(steps[~truth.zero].tolist(), meaning[~truth.zero].tolist(), strict=True):
        low, high = float(label.split()[0]), float(label.split()[2])
        assert low <= step * 8 / 255 < high or (step == 255 and high == 8.0)


def test_kernel_pages_by_no_table(synthetic: tuple[Snapshot, Truth, bytes]) -> None:
    """A kernel page without a table has no protection, but is not called unused."""
    snapshot, *_ = synthetic
    kernel = np.flatnonzero(labels(snapshot, "class") == "kernel")
    snapshot.mapping_count[kernel[0]] = 0
    try:
        assert labels(snapshot, "protection")[kernel[0]] == "kernel, by no table"
    finally:
        snapshot.mapping_count[kernel[0]] = 1


def test_by_state(tmp_path: Path) -> None:
    """Each page has its state in the Linux kernel; Windows dumps tell none."""
    truth = forge_linux(tmp_path / "dump")
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert labels(snapshot, "state").tolist() == truth.states.tolist()
    forge(tmp_path / "windows", profiles()["Win7SP1x86"], size=16 * MIB, processes=2)
    with pytest.raises(BadInputError, match="does not tell the state of its pages"):
        labels(memory_visualizer.open(tmp_path / "windows"), "state")


@pytest.mark.parametrize("name", OF_ALL_SYSTEMS)
@pytest.mark.many
def test_holes_are_absent_in_all(name: str, tmp_path: Path) -> None:
    """Frames that the dump does not hold are absent in each colouring."""
    build = builds()["Win11x64_22000"]
    holes = [(0x1000, 0x400)]
    forge(tmp_path / "dump", build, size=24 * MIB, processes=3, holes=holes)
    memory = (tmp_path / "dump").read_bytes()
    containers.write_lime(
        tmp_path / "lime", [(0, memory[: 16 * MIB]), (20 * MIB, memory[20 * MIB :])]
    )
    snapshot = memory_visualizer.open(tmp_path / "lime")
    assert snapshot.system
    absent = np.zeros(24 * MIB // PAGE_SIZE, bool)
    absent[0x1000:0x1400] = True
    assert np.array_equal(labels(snapshot, name) == "absent", absent)


def test_shared_and_kernel_pages_are_grey(synthetic: tuple[Snapshot, Truth, bytes]) -> None:
    """They are grey, so that colours stand for processes only."""
    for swatch in by_process(synthetic[0], DEFAULT).swatches[1:5]:
        assert max(swatch.colour) - min(swatch.colour) < 20


def test_counts(synthetic: tuple[Snapshot, Truth, bytes]) -> None:
    """Each frame is counted once."""
    snapshot = synthetic[0]
    for colouring in (by_mappings(snapshot, DEFAULT), by_protection(snapshot, DEFAULT)):
        assert sum(colouring.counts()) == snapshot.classes.size
        assert len(colouring.counts()) == len(colouring.swatches)


@pytest.mark.parametrize("name", sorted(set(COLOURINGS) - {"state", "use", "file"}))
def test_swatches_without_frames(synthetic: tuple[Snapshot, Truth, bytes], name: str) -> None:
    """The page gets the same swatches as a picture's legend."""
    snapshot, _, _ = synthetic
    nothing = np.zeros(snapshot.classes.size, np.uint8)
    painted = colour_by(name, snapshot, DEFAULT, lambda: nothing)
    assert swatches_of(name, snapshot, DEFAULT) == painted.swatches
