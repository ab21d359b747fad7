"""Synthetic dumps are like real ones, and their truth agrees with their tables."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import prestarted
from tests.simple_walker import ADDRESS, LARGE, PRESENT, PROTOTYPE, TRANSITION, USER, Page, walk
from tests.synth import GIB, KERNEL, MIB, Truth, forge, profiles
from tests.synth.memory import PAGE_SIZE

# One profile for each way of paging, and profiles that differ in properties tested here.
KINDS = [
    pytest.param("WinXPSP2x86", {}, id="x86"),
    pytest.param("WinXPSP3x86", {"pae": True}, id="pae-xp"),
    pytest.param("Win7SP1x86", {}, id="pae-7"),
    pytest.param("Win7SP0x86", {"pae": False}, id="x86-7"),
    pytest.param("Win2003SP2x64", {}, id="x64-2003"),
    pytest.param("Win7SP1x64", {}, id="x64-7"),
    pytest.param("Win10x64_17763", {}, id="x64-10"),
]

# So many pages of everything that overlaps would show.
MUCH = {"size": 256 * MIB, "processes": 3, "kernel_pages": 43_000, "user_pages": 2_000}
LARGE_KINDS = [
    pytest.param("WinXPSP2x86", MUCH, id="x86-large"),
    pytest.param("Win7SP1x86", MUCH, id="pae-large"),
    pytest.param("Win7SP1x64", MUCH, id="x64-large"),
]


def pages_of(memory: bytes, truth: Truth, owner: int) -> list[Page]:
    end = truth.frames * PAGE_SIZE
    found = walk(memory, truth.paging, truth.processes[owner].dtb)
    return [page for page in found if page.physical < end]


@pytest.mark.parametrize(("name", "options"), [*KINDS, *LARGE_KINDS])
@pytest.mark.many
def test_truth_is_what_the_tables_say(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """The records of given pages equal the pages that a plain walk of the tables finds."""
    truth = forge(tmp_path / "dump", profiles()[name], seed=3, **options)
    memory = (tmp_path / "dump").read_bytes()
    notes = truth.mappings
    for owner, process in enumerate(truth.processes):
        if process.exited:
            continue
        found = {
            (p.virtual, p.physical // PAGE_SIZE, p.size, p.user)
            for p in pages_of(memory, truth, owner)
        }
        own = notes[notes["owner"] == owner]
        noted = set(
            zip(*(own[c].tolist() for c in ("virtual", "frame", "size", "user")), strict=True)
        )
        common = notes[notes["owner"] == KERNEL]
        shared = set(
            zip(*(common[c].tolist() for c in ("virtual", "frame", "size", "user")), strict=True)
        )
        assert noted <= found
        assert found <= noted | shared
        assert noted, process.name


@pytest.mark.parametrize(("name", "options"), KINDS)
@pytest.mark.many
def test_zero_flags_are_the_contents(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    truth = forge(tmp_path / "dump", profiles()[name], **options)
    memory = (tmp_path / "dump").read_bytes()
    frames = np.frombuffer(memory, dtype=np.uint8).reshape(-1, PAGE_SIZE)
    np.testing.assert_array_equal(truth.zero, ~frames.any(axis=1))


@pytest.mark.parametrize(("name", "options"), KINDS)
@pytest.mark.many
def test_holds_all_that_real_memory_holds(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """Each kind of page and entry that can mislead a reader is there."""
    truth = forge(tmp_path / "dump", profiles()[name], **options)
    memory = (tmp_path / "dump").read_bytes()
    pages = [pages_of(memory, truth, owner) for owner in truth.listed]
    everything = [page for of_one in pages for page in of_one]
    large = 4 * MIB if truth.paging == "x86" else 2 * MIB
    seen = truth.classes(truth.listed)

    assert {page.size for page in everything} >= {PAGE_SIZE, large}
    assert {page.user for page in everything if page.size == large} == {True, False}
    assert any(page.transition and page.user for page in everything)
    assert any(page.transition and not page.user for page in everything)
    assert set(seen) == {"both", "user", "kernel", "unused-data", "unused-zero"}
    if truth.paging != "x86":
        assert {page.execute for page in everything} == {True, False}

    # Pages that several processes share, and the page that kernel and all processes map.
    owners = [{page.physical for page in of_one if page.user} for of_one in pages]
    assert sum(len(set.intersection(owners[i], owners[-1])) for i in range(len(owners) - 1)) > 0
    shared_data = {p.physical for p in everything if p.virtual == 0x7FFE0000 and p.user}
    assert len(shared_data) == 1
    assert seen[shared_data.pop() // PAGE_SIZE] == "both"

    # Session pages: supervisor pages that some processes map and others do not.
    session = 0xFFFFF900_C0000000 if truth.paging == "x64" else 0xBF800000
    mapped = [{p.physical for p in of_one if p.virtual == session} for of_one in pages]
    assert len(set.union(*mapped)) == 2
    assert any(not frames for frames in mapped)

    # Used pages with zeros; old data in free pages; data only in a page's last byte.
    assert (truth.zero & (seen == "user")).any()
    assert (truth.zero & (seen == "kernel")).any()
    frames = np.frombuffer(memory, dtype=np.uint8).reshape(-1, PAGE_SIZE)
    lonely = ~frames[:, :-1].any(axis=1) & (frames[:, -1] != 0)
    assert seen[lonely].tolist() == ["unused-data"]
    assert (seen[1:256] == "unused-data").any()
    assert seen[0] == "kernel"

    # Entries without a page, and entries that name a page beyond memory.
    kinds = leaf_kinds(memory, truth)
    assert kinds >= {"demand-zero", "paged-out", "prototype", "prototype+transition"}
    top = truth.processes[0].dtb
    beyond = [p for p in walk(memory, truth.paging, top) if p.physical >= len(memory)]
    assert len(memory) in {page.physical for page in beyond}

    # The hidden process and the exited one.
    assert [p.name for p in truth.processes if not p.listed] == ["rootkit.exe"]
    assert [p.name for p in truth.processes if p.exited] == ["setup.exe"]
    hidden = truth.classes(truth.alive) != seen
    assert hidden.any()
    assert set(seen[hidden]) <= {"unused-data", "unused-zero"}

    # Pages are scattered: neighbours in virtual memory are rarely neighbours in physical memory.
    heap = [p.physical for p in pages[-1] if p.user and p.size == PAGE_SIZE]
    assert np.mean(np.diff(heap) == PAGE_SIZE) < 0.05


def leaf_kinds(memory: bytes, truth: Truth) -> set[str]:
    """The kinds of not-present entries in the last-level tables of user space."""
    size = 4 if truth.paging == "x86" else 8
    tables = truth.mappings["frame"][
        (truth.mappings["owner"] >= 0) & ~truth.mappings["user"] & (truth.mappings["size"] == 4096)
    ]
    kinds = set()
    for frame in tables.tolist():
        page = memory[frame * PAGE_SIZE : (frame + 1) * PAGE_SIZE]
        entries = np.frombuffer(page, dtype=f"<u{size}").astype(np.uint64)
        for entry in entries[(entries != 0) & (entries & np.uint64(PRESENT) == 0)].tolist():
            match entry & (PROTOTYPE | TRANSITION), entry & ADDRESS:
                case 0, 0 if entry & USER:
                    kinds.add("demand-zero")
                case 0, _ if entry & LARGE:
                    kinds.add("paged-out")
                case 0x400, _:
                    kinds.add("prototype")
                case 0xC00, _:
                    kinds.add("prototype+transition")
    return kinds


def test_huge_pages_in_large_memory(tmp_path: Path) -> None:
    truth = forge(
        tmp_path / "dump", profiles()["Win10x64_17134"], size=4 * GIB, user_pages=50, free_data=0
    )
    huge = truth.mappings[truth.mappings["size"] == GIB]
    assert len(huge) == 1
    frame = int(huge["frame"][0])
    seen = truth.classes(truth.listed)[frame : frame + GIB // PAGE_SIZE]
    # By the self-map, the first 2 MiB of it belong to the kernel as well.
    assert set(seen[:512]) == {"both"}
    assert set(seen[512:]) == {"user"}


@pytest.mark.parametrize("size", [16 * MIB, 16 * MIB + 3 * PAGE_SIZE, 33 * MIB])
@pytest.mark.parametrize("name", ["WinXPSP2x86", "Win8SP0x86", "Win7SP1x64"])
@pytest.mark.many
def test_any_size(name: str, size: int, tmp_path: Path) -> None:
    truth = forge(tmp_path / "dump", profiles()[name], size=size)
    assert (tmp_path / "dump").stat().st_size == size == truth.frames * PAGE_SIZE


@pytest.mark.parametrize("processes", [3, 12, 200])
def test_any_number_of_processes(processes: int, tmp_path: Path) -> None:
    truth = forge(tmp_path / "dump", profiles()["Win7SP1x64"], size=64 * MIB, processes=processes)
    assert len(truth.listed) == processes
    assert len({p.pid for p in truth.processes}) == processes + 2


def test_same_seed_same_dump(tmp_path: Path) -> None:
    for file, seed in (("a", 5), ("b", 5), ("c", 6)):
        forge(tmp_path / file, profiles()["Win7SP1x86"], size=16 * MIB, seed=seed)
    a, b, c = ((tmp_path / file).read_bytes() for file in "abc")
    assert a == b
    assert a != c


def test_names_are_as_given(tmp_path: Path) -> None:
    names = ["<script>", "\x1b[31mred", "a b"]
    truth = forge(tmp_path / "dump", profiles()["Win7SP1x64"], names=names)
    assert {p.name for p in truth.processes} >= set(names)


@pytest.mark.parametrize(
    ("name", "options"),
    [("Win7SP1x64", {"size": 1 * MIB}), ("Win8SP0x86", {"pae": False})],
)
def test_refuses_what_cannot_be(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"16 MiB or more|always has PAE"):
        forge(tmp_path / "dump", profiles()[name], **options)


def test_from_the_command_line(tmp_path: Path) -> None:
    dump = tmp_path / "a dump.raw"
    done = prestarted.run(["-m", "tests.synth", "Win10x64_15063", dump, "--size", "16M"])
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "a dump.raw.truth.npz") as truth:
        assert truth["zero"].size * PAGE_SIZE == dump.stat().st_size == 16 * MIB
        assert set(truth["class_seen_by_list"]) > {"user", "kernel"}


def test_a_large_image_needs_little_memory(tmp_path: Path) -> None:
    """16 GiB are written as a stream: mostly holes on disk, and far less memory than that."""
    program = (
        "import re, sys; from pathlib import Path; from tests.synth import *;"
        "forge(Path(sys.argv[1]), profiles()['Win7SP1x64'], size=16 * GIB, free_data=0.0,"
        " kernel_pages=1000, user_pages=100);"
        # the process's own, unlike ru_maxrss, which begins with the parent's
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "dump")]
    done = subprocess.run(
        command, check=True, cwd=Path(__file__).parent.parent, capture_output=True, text=True
    )
    assert int(done.stdout) < 600 * 1024
    assert (tmp_path / "dump").stat().st_size == 16 * GIB


def test_no_dump_of_another_is_replaced(tmp_path: Path) -> None:
    """A dump without its truth beside it stays, also with the command line."""
    command = ["-m", "tests.synth", "WinXPSP2x86", tmp_path / "a.raw", "--size", "16M"]
    (tmp_path / "a.raw").write_bytes(b"evidence")
    result = prestarted.run(command)
    assert result.returncode == 2
    assert "a.raw is there, and not from here, since it has no a.raw.truth.npz" in result.stderr
    assert (tmp_path / "a.raw").read_bytes() == b"evidence"
    assert prestarted.run([*command, "--force"]).returncode == 0
    first = (tmp_path / "a.raw").read_bytes()
    assert prestarted.run([*command, "--seed", "1"]).returncode == 0
    assert (tmp_path / "a.raw").read_bytes() != first
    assert {path.name for path in tmp_path.iterdir()} == {"a.raw", "a.raw.truth.npz"}


@pytest.mark.parametrize(
    ("size", "folder", "sentence"),
    [
        ("1M", "", "the size must be a whole number of pages, 16 MiB or more"),
        ("x", "", "argument --size: must be a size such as 32M or 4G"),
        ("16M", "none", "cannot write none/a.raw: No such file or directory"),
    ],
)
def test_what_cannot_be_written_is_told(
    size: str, folder: str, sentence: str, tmp_path: Path
) -> None:
    path = Path(folder, "a.raw")
    done = prestarted.run(["-m", "tests.synth", "WinXPSP2x86", path, "--size", size], tmp_path)
    assert done.returncode in (1, 2) and done.stderr.endswith(f"{sentence}\n")
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())
