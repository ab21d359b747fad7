"""Memory of another moment in the place of page tables costs only the pages below these.

The reference is the synthetic dump's record of each page that it gave out. MEMVIZ_SMEAR=all tries
every kind of page in the place of each table, and larger dumps; the default is one kind for each
table.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import memory_visualizer
from memory_visualizer.formats.raw import RawDump
from memory_visualizer.limits import Budget
from memory_visualizer.paging import Mappings, translate, walk
from memory_visualizer.snapshot.build import of_mappings
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.windows.toplevels import SHARED_DATA, TopLevels, TopLevelSearch, bits_of
from tests.synth import MIB, Truth, forge, profiles

pytestmark = pytest.mark.fuzz

PAGE = 4096
ALL = os.environ.get("MEMVIZ_SMEAR") == "all"
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "XP, x86": ("WinXPSP2x86", {"pae": False}),
    "7, PAE": ("Win7SP1x86", {}),
    "7, x64": ("Win7SP1x64", {}),
    "10, x64": ("Win10x64_17763", {}),
    "11, shadow tables": ("Win10x64_17763", {"shadow_tables": True}),
    "5 levels": ("Win10x64_17763", {"five_levels": True}),
}
LEVELS = {"x86": 2, "pae": 2, "x64": 4, "x64-5": 5}
Words = npt.NDArray[np.uint64]
LABELS = [page_class.label for page_class in PageClass]


# -- pages that are not tables ------------------------------------------------------------------


def heap(rng: np.random.Generator) -> Words:
    """Blocks of a kernel's pool: headers, counters, flags and pointers of both widths."""
    words = np.zeros((64, 8), np.uint64)
    words[:, 0] = 0x656C_6946_0C04_0002
    words[:, 1] = rng.integers(0, 300, 64)
    words[:, 2] = 0xFFFF_E000_0000_0000 | rng.integers(0, 1 << 31, 64, np.uint64)
    words[:, 3] = rng.integers(0, 1 << 20, 64)
    words[:, 4] = rng.integers(0, 1 << 32, 64, np.uint64) | np.uint64(1 << 63)
    words[:32, 5] = 0x7FF8_0000_0000 | rng.integers(0, 1 << 31, 32)
    words[:, 6] = rng.choice([0, 1, 3, 7, 0x81, 0xE7, 0xFF, 0xFFF], 64)
    return words.reshape(-1)


def code(rng: np.random.Generator) -> Words:
    """The processor's instructions, in which some bytes are much more common than others."""
    common = np.frombuffer(bytes.fromhex("488b4c8d894889c7e80f84c30000ff5541544157cc909000"), "u1")
    octets = np.where(
        rng.random(PAGE) < 0.6, rng.choice(common, PAGE), rng.integers(0, 256, PAGE)
    ).astype(np.uint8)
    return octets.view("<u8")


def text(rng: np.random.Generator) -> Words:
    """A page of a text file."""
    raw = Path(__file__).read_bytes()
    start = int(rng.integers(0, len(raw) - PAGE))
    return np.frombuffer(raw[start : start + PAGE], "<u8")


def noise(rng: np.random.Generator) -> Words:
    """Packed or encrypted data."""
    return rng.integers(0, 1 << 64, 512, np.uint64, endpoint=False)


KINDS: list[Callable[[np.random.Generator], Words]] = [heap, code, text, noise]


# -- synthetic dumps, and the targets of their tables --------------------------------------------


@dataclass
class Memory:
    """Physical memory that is held completely."""

    words: Words
    held: npt.NDArray[np.bool_] = field(init=False)
    budget: Budget = field(init=False)

    def __post_init__(self) -> None:
        self.held = np.ones(len(self.words), bool)
        self.budget = Budget(len(self.words))

    @property
    def frame_count(self) -> int:
        return len(self.words)

    def read_frames(self, frames: npt.NDArray[np.int64]) -> Words:
        inside = np.minimum(frames, len(self.words) - 1)
        return np.where((frames < len(self.words))[:, None], self.words[inside], np.uint64(0))


@dataclass(frozen=True)
class Sound:
    """A synthetic dump, its truth, and the content of each of its tables."""

    raw: bytes
    truth: Truth
    classes: npt.NDArray[np.str_]
    roots: tuple[tuple[int, ...], ...]
    """Frames of the live processes' top-level tables, including those for user mode."""
    levels: dict[int, int]
    """The highest level on which each table serves; the lowest level is 1."""
    below: dict[int, set[tuple[int, int]]]
    """The entries of each table: first frame, and number of frames."""

    @property
    def words(self) -> Words:
        return np.frombuffer(self.raw, "<u8").reshape(-1, 512).copy()

    def page(self, frame: int) -> bytes:
        """The contents of a frame."""
        return self.raw[frame * PAGE : (frame + 1) * PAGE]

    @property
    def upper(self) -> list[int]:
        """All tables above the last level."""
        return sorted(frame for frame, level in self.levels.items() if level > 1)

    def led_to(self, table: int) -> npt.NDArray[np.bool_]:
        """By frame: whether the table leads there, also through other tables."""
        found = np.zeros(len(self.raw) // PAGE, bool)
        known = set()
        todo = [(table, LEVELS[self.truth.paging])]
        while todo:
            frame, depth = todo.pop()
            if (frame, depth) in known:
                continue
            known.add((frame, depth))
            found[frame : frame + 1] = True
            for first, count in self.below.get(frame, ()):
                found[first : first + count] = True
                if depth > 1 and count == 1:
                    todo.append((first, depth - 1))
        return found


@cache
def sound(system: str) -> Sound:
    name, options = SYSTEMS[system]
    size = 64 if ALL else 16
    with TemporaryDirectory() as folder:
        path = Path(folder) / "dump"
        truth = forge(path, profiles()[name], size=size * MIB, processes=6, **options)
        raw = path.read_bytes()
    words = np.frombuffer(raw, "<u8")
    roots: list[tuple[int, ...]] = []
    for owner in truth.alive:
        process = truth.processes[owner]
        if truth.paging == "pae":
            pointers = words[process.dtb // 8 : process.dtb // 8 + 4]
            roots.append(tuple((pointers >> np.uint64(12)).tolist()))
        else:
            roots += [(base // PAGE,) for base in (process.dtb, process.shadow_dtb) if base]
    levels: dict[int, int] = {}
    below: dict[int, set[tuple[int, int]]] = {}
    todo = [(frame, LEVELS[truth.paging]) for top in roots for frame in top]
    while todo:
        frame, level = todo.pop()
        if frame >= len(raw) // PAGE or level in (levels.get(frame), 0):
            continue
        levels[frame] = max(level, levels.get(frame, 0))
        for first, count in entries_of(raw, truth.paging, frame, level):
            below.setdefault(frame, set()).add((first, count))
            if count == 1:
                todo.append((first, level - 1))
    return Sound(raw, truth, truth.classes(truth.alive), tuple(roots), levels, below)


def entries_of(raw: bytes, paging: str, frame: int, level: int) -> Iterator[tuple[int, int]]:
    """The targets of a table's entries that are present or in transition."""
    size = 4 if paging == "x86" else 8
    for entry in np.frombuffer(raw, f"<u{size}", PAGE // size, frame * PAGE).tolist():
        if not (entry & 1 or entry & 0xC00 == 0x800):
            continue
        is_large = level in (2, 3) and entry & 0x81 == 0x81
        address = entry & 0x000F_FFFF_FFFF_F000 & (~0 if entry & 1 else (1 << 45) - 1)
        yield address // PAGE, (PAGE // size) ** (level - 1) if is_large else 1


# -- the program's result -----------------------------------------------------------------------


def top_levels(memory: Memory) -> TopLevels | None:
    search = TopLevelSearch()
    frames = np.arange(len(memory.words))
    search.scan_everywhere(frames, memory.words)
    for _ in range(2):  # the second scan searches for indices that the first one found
        search.scan(frames, memory.words)
        search.scan_only()
    return search.found(memory) or search.alike(memory)


def painted(
    words: Words, alive: set[tuple[int, ...]], path: Path
) -> tuple[npt.NDArray[np.str_], set[tuple[int, ...]]]:
    """The classes by those tables of live processes that are found, and these tables."""
    memory = Memory(words)
    found = top_levels(memory)
    assert found
    every = np.concatenate([found.roots, found.others]).tolist()
    roots = [top for top in every if tuple(top) in alive]
    path.write_bytes(words.tobytes())
    mappings = Mappings.join(list(walk(memory, found.paging, np.array(roots))))
    zero = np.count_nonzero(words, axis=1) == 0
    classes = of_mappings(RawDump.open(path), zero, mappings).classes
    return np.array(LABELS)[classes], {tuple(top) for top in roots}


def without_contents(classes: npt.NDArray[np.str_]) -> npt.NDArray[np.str_]:
    """The classes, without the contents of unused pages."""
    return np.where(np.char.startswith(classes, "unused"), "unused", classes)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.many
def test_the_sound_dump_is_painted_as_it_was_made(system: str, tmp_path: Path) -> None:
    """The reference of the other tests here is the truth."""
    given = sound(system)
    classes, _ = painted(given.words, set(given.roots), tmp_path / "dump")
    np.testing.assert_array_equal(classes, given.classes)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.many
def test_a_page_in_the_place_of_an_upper_table(system: str, tmp_path: Path) -> None:
    """At most 0.2 % of the frames that the table did not lead to change their class."""
    given = sound(system)
    rng = np.random.default_rng(7)
    upper = given.upper
    assert len(upper) >= len(given.roots)
    words = given.words
    for number, table in enumerate(upper):
        elsewhere = ~given.led_to(table)
        for top in given.roots:
            if table == top[-1]:  # it names the other directories of PAE, by which it is found
                elsewhere &= ~np.logical_or.reduce([given.led_to(frame) for frame in top])
        for kind in KINDS if ALL else [KINDS[number % len(KINDS)]]:
            kept, words[table] = words[table].copy(), kind(rng)
            classes, found = painted(words, set(given.roots), tmp_path / "dump")
            words[table] = kept
            changed = (without_contents(classes) != without_contents(given.classes)) & elsewhere
            assert np.count_nonzero(changed) <= len(words) // 500, (table, kind.__name__)
            lost = {top for top in given.roots if top not in found}
            assert all(table in top for top in lost), (table, kind.__name__)


def put(path: Path, frame: int, contents: bytes) -> None:
    """Alter one frame of a dump."""
    with path.open("r+b") as file:
        file.seek(frame * PAGE)
        file.write(contents)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.many
def test_by_the_whole_program(system: str, tmp_path: Path) -> None:
    """The same holds for the user's output: all names stay, and no process is invented."""
    given = sound(system)
    rng = np.random.default_rng(11)
    names = {(p.pid, p.name) for p in given.truth.processes}
    (tmp_path / "dump").write_bytes(given.raw)
    expected = without_contents(given.classes)
    for number, table in enumerate(given.upper):
        elsewhere = ~given.led_to(table)
        for kind in KINDS if ALL else [KINDS[number % len(KINDS)]]:
            put(tmp_path / "dump", table, kind(rng).tobytes())
            snapshot = memory_visualizer.open(tmp_path / "dump")
            classes = np.array(LABELS)[snapshot.classes]
            changed = (without_contents(classes) != expected) & elsewhere
            assert np.count_nonzero(changed) <= len(expected) // 500, (table, kind.__name__)
            assert {(p.pid, p.name) for p in snapshot.processes} == names, (table, kind.__name__)
            put(tmp_path / "dump", table, given.page(table))


def with_flips(
    given: Sound, rng: np.random.Generator
) -> Iterator[tuple[str, int, Words, set[int]]]:
    """Each upper table with one altered entry: description, frame, contents, lost frames."""
    size = 4 if given.truth.paging == "x86" else 8
    for number, table in enumerate(given.upper):
        entries = np.frombuffer(given.raw, f"<u{size}", PAGE // size, table * PAGE)
        empty = np.flatnonzero(entries == 0)
        for low in SLOTS if ALL else [SLOTS[number // 2 % len(SLOTS)]][number % 2 :]:
            altered = entries.copy()
            at = int(rng.choice(empty))
            altered[at] = low
            yield f"{low:#x} in entry {at} of {table:#x}", table, altered.view("<u8"), set()
        present = np.flatnonzero(entries & 1)
        for _ in range(16 if ALL else number % 2):
            altered = entries.copy()
            at, bit = int(rng.choice(present)), int(rng.integers(0, 8 * size))
            if entries[at] & 0x80 and 12 < bit < 52:
                bit = int(rng.integers(0, 8))  # the large page's former place is unknown
            altered[at] ^= entries.dtype.type(1 << bit)
            named = given.below[table] if entries[at] & 0x80 else set()
            frames = {first + n for first, count in named if count > 1 for n in range(count)}
            frames.add(int(entries[at]) >> 12 & 0xFF_FFFF_FFFF)
            if [at] == kernels_own(given, table, entries):
                frames.add(table)
            yield f"bit {bit} of entry {at} of {table:#x}", table, altered.view("<u8"), frames


def kernels_own(given: Sound, table: int, entries: npt.NDArray[np.unsignedinteger]) -> list[int]:
    """The kernel's half of a top-level table, without the entry that names the table.

    With five levels this is the only such entry, without which Windows' table is not recognised.
    """
    if given.levels[table] < LEVELS[given.truth.paging]:
        return []
    present = np.flatnonzero(entries & 1)
    own = entries[present].astype(np.uint64) >> 12 & 0xFF_FFFF_FFFF == table
    return [int(at) for at in present[~own] if at >= len(entries) // 2]


SLOTS = [0xE7, 0x67, 0xE5]


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.many
def test_one_entry_of_an_upper_table(system: str, tmp_path: Path) -> None:
    """A byte in an empty slot, or a flipped bit, costs at most the pages below the entry."""
    given = sound(system)
    (tmp_path / "dump").write_bytes(given.raw)
    expected = without_contents(given.classes)
    for what, table, altered, named in with_flips(given, np.random.default_rng(13)):
        elsewhere = np.ones(len(expected), bool)
        for frame in named:
            if frame < len(expected):
                elsewhere &= ~given.led_to(frame)
        put(tmp_path / "dump", table, altered.tobytes())
        classes = np.array(LABELS)[memory_visualizer.open(tmp_path / "dump").classes]
        changed = (without_contents(classes) != expected) & elsewhere
        assert np.count_nonzero(changed) <= len(expected) // 500, what
        put(tmp_path / "dump", table, given.page(table))


@pytest.mark.parametrize("flags", [0xE7, 0xE3])
@pytest.mark.parametrize("name", ["Win7SP1x64", "Win10x64_17763"])
def test_a_large_page_of_what_processes_have(name: str, flags: int, tmp_path: Path) -> None:
    """Many of its frames are single pages of user mode, so the large page is refused."""
    truth = forge(tmp_path / "dump", profiles()[name], size=16 * MIB, processes=24)
    words = np.fromfile(tmp_path / "dump", "<u8").reshape(-1, 512)
    classes = truth.classes(truth.alive)
    users = np.isin(classes, ["user", "both"]).reshape(-1, 512).sum(axis=1)
    assert users.max() > 512 // 4
    process = next(one for one in truth.processes if one.name == "notepad.exe")
    table = process.dtb // PAGE
    for _ in range(2):
        table = int(words[table, np.flatnonzero(words[table] & 0x81 == 1)[0]]) >> 12 & 0xF_FFFF_FFFF
    words[table, np.flatnonzero(words[table] == 0)[-1]] = int(np.argmax(users)) << 21 | flags
    words.tofile(tmp_path / "dump")
    snapshot = memory_visualizer.open(tmp_path / "dump")
    changed = np.flatnonzero(np.array(LABELS)[snapshot.classes] != classes)
    # The self-map shows its first frame, as if the entry were of the last level.
    assert set(changed) <= {int(np.argmax(users)) * 512}
    assert any(one.startswith("1 large page left out") for one in snapshot.remarks)


@pytest.mark.parametrize("share", [0.002, 0.01, 0.03])
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.many
def test_pages_exchanged_with_each_other(system: str, share: float, tmp_path: Path) -> None:
    """All address spaces with a sound top level are found; elsewhere little changes."""
    given = sound(system)
    frames = len(given.raw) // PAGE
    for seed in range(8):
        words = given.words
        moved = np.random.default_rng(seed).choice(frames, int(share * frames), replace=False)
        words[moved] = words[np.roll(moved, 1)]
        classes, found = painted(words, set(given.roots), tmp_path / "dump")
        whole = {top for top in given.roots if not set(top) & set(moved.tolist())}
        assert whole <= found
        elsewhere = np.ones(frames, bool)
        lost = set(moved.tolist()) & set(given.levels)
        for top in given.roots:  # without one of PAE's directories the others are lost, too
            if set(top) & lost:
                lost |= set(top)
        for frame in lost:
            elsewhere &= ~given.led_to(frame)
        changed = (without_contents(classes) != without_contents(given.classes)) & elsewhere
        assert np.count_nonzero(changed) <= frames * 0.01, seed


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.many
def test_the_way_to_the_shared_page_is_lost(system: str, tmp_path: Path) -> None:
    """All processes share the kernel's tables for KUSER_SHARED_DATA, so all lose them.

    Without the page itself, the version is unknown, but the address spaces are found.
    """
    given = sound(system)
    memory = Memory(given.words)
    found = top_levels(memory)
    assert found
    (shared,) = set(
        translate(memory, found.paging, found.roots, SHARED_DATA[bits_of(found.paging)])
    )
    upper = [frame for frame in given.upper if given.led_to(frame)[shared]]
    for lost in (*upper, int(shared)):
        words = given.words
        words[lost] = noise(np.random.default_rng(3))
        _, spaces = painted(words, set(given.roots), tmp_path / "dump")
        assert {top for top in given.roots if lost not in top} <= spaces, lost
        snapshot = memory_visualizer.open(tmp_path / "dump")
        assert str(snapshot.system).startswith("Windows")
        assert {process.pid for process in snapshot.processes} >= {4} or lost in upper
