"""The plugins for Volatility 3, in the framework itself: newest release and oldest stated.

The rows are compared with Volatility's own `pslist` and `memmap`, and with the truth of the
synthetic dump.
"""

import json
import lzma
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from volatility3 import schemas
from volatility3.framework import contexts
from volatility3.framework.layers import lime, physical

from memory_visualizer import BadInputError, PageClass
from memory_visualizer.volatility3.layers import MappedLayer, ReadLayer, open_layer
from tests.conftest import real_dumps
from tests.synth import KERNEL, MIB, Profile, Truth, builds, forge, profiles
from tests.synth.containers import write_elf, write_lime
from tests.synth.isf import symbols, write_symbols
from tests.synth.memory import PAGE_SIZE
from tests.volatility3.program import Mapping, Row, Volatility, addresses

PLUGIN = "windows.memoryvisualizer"
KINDS = [
    pytest.param("WinXPSP2x86", {}, id="x86"),
    pytest.param("WinXPSP3x86", {"pae": True}, id="pae-xp"),
    pytest.param("Win7SP1x86", {}, id="pae-7"),
    pytest.param("Win7SP1x64", {}, id="x64-7"),
    pytest.param("Win10x64_17763", {}, id="x64-10"),
]
SHADOW = pytest.param("Win10x64_19041", {"shadow_tables": True}, id="x64-10-shadow")
"""Volatility reads only the tables for the kernel's mode, and so do the plugins."""


def joined(rows: Iterable[Mapping]) -> list[Mapping]:
    """Join mappings that follow one another in virtual and physical memory, as `memmap` does."""
    found: list[Mapping] = []
    for virtual, place, size in sorted(rows):
        if found:
            before = found[-1]
            if (before[0] + before[2], before[1] + before[2]) == (virtual, place):
                found[-1] = (before[0], before[1], before[2] + size)
                continue
        found.append((virtual, place, size))
    return found


def made(program: Path, folder: Path, profile: Profile, **options: Any) -> tuple[Volatility, Truth]:
    """Write a synthetic dump, with the symbols of its kernel."""
    write_symbols(profile, folder / "symbols")
    options.setdefault("size", 32 * MIB)
    volatility = Volatility(program, folder, folder / "symbols")
    return volatility, forge(volatility.dump, profile, **options)


def profile_of(name: str) -> Profile:
    return (dict(profiles()) | dict(builds()))[name]


def in_list(truth: Truth) -> dict[int, str]:
    """Pid and name of the processes that `pslist` lists: also ended ones, but not hidden ones."""
    return {process.pid: process.name for process in truth.processes if process.listed}


# -- Volatility accepts the synthetic dumps -------------------------------------------------------


@pytest.mark.parametrize("name", ["WinXPSP2x86", "Win7SP1x64", "Win10x64_17763", "Win10x64_19041"])
@pytest.mark.filterwarnings("ignore:The metaschema specified")
def test_symbols_of_the_forge_obey_the_schema(name: str) -> None:
    assert schemas.validate(symbols(profile_of(name)), use_cache=False)


@pytest.mark.parametrize("name", sorted(builds()))
def test_takes_dumps_with_symbols_of_real_kernels(
    name: str, volatility3: Path, symbol_files: Path, tmp_path: Path
) -> None:
    """Dumps of five real builds are read with the symbols of these builds."""
    build = builds()[name]
    volatility = Volatility(volatility3, tmp_path, symbol_files)
    truth = forge(volatility.dump, build, size=32 * MIB, seed=2)
    told = {row["Variable"]: row["Value"] for row in volatility.rows("windows.info")}
    assert f"{build.pdb}.json.xz" in told["Symbols"]
    assert told["Major/Minor"] == f"15.{build.build}"
    assert told["SystemTime"] == "2019-04-17 18:40:00+00:00"
    assert int(told["DTB"], 16) == truth.processes[0].dtb & ~0xFFF
    assert_rows_agree(volatility, truth)


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_takes_dumps_with_symbols_of_the_forge(
    name: str, options: dict[str, Any], volatility3: Path, tmp_path: Path
) -> None:
    profile = profile_of(name)
    volatility, truth = made(volatility3, tmp_path, profile, seed=1, **options)
    told = {row["Variable"]: row["Value"] for row in volatility.rows("windows.info")}
    assert told["Is64Bit"] == str(profile.bits == 64)
    assert told["IsPAE"] == str(truth.paging.startswith("pae"))
    assert told["NtMajorVersion"] == str(10 if profile.version == (6, 4) else profile.version[0])
    assert_rows_agree(volatility, truth)


def assert_rows_agree(volatility: Volatility, truth: Truth) -> None:
    """Compare the rows with `pslist`, and the numbers of pages with the truth."""
    theirs = [(row["PID"], row["ImageFileName"]) for row in volatility.rows("windows.pslist")]
    kernel, *rows = volatility.rows(PLUGIN)
    assert [(row["PID"], row["Process"]) for row in rows] == theirs
    assert dict(theirs) == {str(pid): name for pid, name in in_list(truth).items()}
    assert (kernel["PID"], kernel["Process"]) == ("N/A", "kernel")
    user, own, common = pages_of(truth)
    holders = np.zeros(truth.frames, np.int64)
    for owned in user.values():
        holders[list(owned)] += 1
    by_pid = {process.pid: owner for owner, process in enumerate(truth.processes)}
    for row in rows:
        owner = by_pid[int(row["PID"])]
        process = truth.processes[owner]
        mask = 0x1F if truth.paging.startswith("pae") else 0xFFF
        assert int(row["DTB"], 16) == process.dtb & ~mask
        held = np.array(sorted(user.get(owner, ())), np.int64)
        shared = int(np.count_nonzero(holders[held] > 1))
        assert int(row["Shared"]) == shared, process.name
        assert int(row["Private"]) == len(held) - shared, process.name
        assert int(row["Kernel"]) == len(own.get(owner, ())), process.name
    assert int(kernel["Kernel"]) == len(common)


def pages_of(truth: Truth) -> tuple[dict[int, set[int]], dict[int, set[int]], set[int]]:
    """Numbers of pages by the truth: user mode's and the kernel's by owner, and common ones."""
    user: dict[int, set[int]] = {}
    own: dict[int, set[int]] = {}
    common: set[int] = set()
    for note in truth.mappings:
        frames = range(int(note["frame"]), int(note["frame"] + note["size"] // PAGE_SIZE))
        owner = int(note["owner"])
        if owner == KERNEL:
            common.update(frames)
        elif owner in truth.listed:
            (user if note["user"] else own).setdefault(owner, set()).update(frames)
    return user, own, common


# -- mapping by mapping --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), [*KINDS, SHADOW])
@pytest.mark.many
def test_lists_just_what_memmap_lists(
    name: str, options: dict[str, Any], volatility3: Path, tmp_path: Path
) -> None:
    """Rows agree for each process and mapping, and user mode is where the truth has it."""
    volatility, truth = made(volatility3, tmp_path, profile_of(name), processes=4, **options)
    rows = volatility.rows(PLUGIN, "--pages", "--every-mapping")
    once = volatility.rows(PLUGIN, "--pages")
    everything: set[Mapping] = set()
    memmap = volatility.memmap()
    for owner in truth.listed:
        process = truth.processes[owner]
        theirs = memmap[process.pid]
        assert len(theirs) > 100
        mine = [row for row in rows if row["PID"] == str(process.pid)]
        assert {row["Process"] for row in mine} == {process.name}
        assert joined(addresses(mine)) == theirs
        assert_modes(mine, truth, owner)
        everything.update(pages(theirs))
    # An ended process's memory is free; its tables are still listed on request.
    [exited] = [process for process in truth.processes if process.exited]
    assert str(exited.pid) not in {row["PID"] for row in rows}
    asked = volatility.rows(PLUGIN, "--pages", "--pid", str(exited.pid))
    assert {row["PID"] for row in asked} == {str(exited.pid)}
    assert joined(addresses(asked)) == memmap[exited.pid]
    # Without --every-mapping, common mappings of the kernel come once, and all mappings are there.
    assert set(pages(addresses(once))) == everything
    assert len(once) < len(rows)
    shared = [row for row in once if row["PID"] == "N/A"]
    assert shared
    assert {(row["Process"], row["Mode"]) for row in shared} == {("kernel", "kernel")}


def pages(rows: Iterable[Mapping]) -> list[Mapping]:
    """Split mappings into pages."""
    return [
        (virtual + part, place + part, PAGE_SIZE)
        for virtual, place, size in rows
        for part in range(0, size, PAGE_SIZE)
    ]


def assert_modes(rows: Sequence[Row], truth: Truth, owner: int) -> None:
    """The mode is user for each page that user mode may use, and for no other."""
    notes = truth.mappings[(truth.mappings["owner"] == owner) & truth.mappings["user"]]
    noted = pages(
        (int(note["virtual"]), int(note["frame"]) * PAGE_SIZE, int(note["size"])) for note in notes
    )
    told = pages(addresses(row for row in rows if row["Mode"] == "user"))
    assert sorted(told) == sorted(noted)
    assert {row["Mode"] for row in rows} == {"user", "kernel"}


def test_differs_from_memmap_in_tables_that_serve_twice_only(
    volatility3: Path, tmp_path: Path
) -> None:
    """Entries that Volatility's layers leave out are missing; repeated tables are listed once.

    The kernel of Windows 8 and later maps long runs to the same tables again and again. `memmap`
    lists them each time, so it can run for days.
    """
    volatility, truth = made(volatility3, tmp_path, profiles()["Win7SP1x64"], processes=3)
    memory = np.memmap(volatility.dump, np.uint64, "r+", shape=(truth.frames, 512))
    free = np.flatnonzero(truth.classes(truth.alive) == "unused-zero")[:5]
    directories, directory, same, table, page = free.tolist()
    for owner in range(len(truth.processes)):
        memory[truth.processes[owner].dtb // PAGE_SIZE, 0x1F3] = entry(directories)
    memory[directories, :3] = entry(directory)
    memory[directory, 0] = entry(same)
    memory[same] = entry(page)
    memory[directory, [1, 2]] = entry(table)
    memory[table, 7] = entry(page)
    # The last half of this large page lies beyond the dump.
    large = np.uint64(1 << 7)
    memory[directory, 3] = entry(truth.frames - 512) | large
    memory[directory, 4] = entry(truth.frames) | large
    memory.flush()
    with volatility.dump.open("r+b") as file:
        file.truncate((truth.frames + 256) * PAGE_SIZE)

    process = truth.processes[0]
    mine = joined(addresses(volatility.rows(PLUGIN, "--pages", "--pid", str(process.pid))))
    theirs = volatility.memmap_of(process.pid)
    start = 0x1F3 << 39
    leaf = page * PAGE_SIZE
    served = [
        (start + (third << 30) + (second << 21) + (7 << 12), leaf, PAGE_SIZE)
        for third in range(3)
        for second in (1, 2)
    ]
    assert set(served) <= set(theirs)
    assert served[0] in mine
    assert set(mine) <= set(theirs)
    whole = start + (3 << 21), (truth.frames - 512) * PAGE_SIZE, 512 * PAGE_SIZE
    assert whole in mine
    for rows in (mine, theirs):
        assert all(size < 1 << 21 for _, at, size in rows if at == truth.frames * PAGE_SIZE)
        assert not any(start <= at < start + (1 << 21) for at, _, _ in rows)  # equal entries
    # All others lie in these tables, seen directly or through the tables' self-map.
    inside = {leaf, *(frame * PAGE_SIZE for frame in (directory, table, same))}
    inside |= {(truth.frames - 512) * PAGE_SIZE, truth.frames * PAGE_SIZE}
    assert {place for _, place, _ in set(theirs) - set(mine)} <= inside
    assert {served[n] for n in range(1, 6)} <= set(theirs) - set(mine)


def entry(frame: int) -> np.uint64:
    """A present entry, writable for the kernel and used before, like all of Windows' entries."""
    return np.uint64(frame * PAGE_SIZE | 0b100011)


# -- options, renderers, files -------------------------------------------------------------------


@pytest.fixture(scope="module")
def windows(
    volatility3: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Volatility, Truth]:
    """A dump for all tests that do not change it."""
    folder = tmp_path_factory.mktemp("windows")
    return made(volatility3, folder, builds()["Win10x64_19041"], seed=5, processes=6)


def test_every_renderer_shows_all_rows(windows: tuple[Volatility, Truth]) -> None:
    volatility, truth = windows
    expected = volatility.rows(PLUGIN)
    assert len(expected) == len(in_list(truth)) + 1
    columns = [list(row.values())[1:] for row in expected]
    for renderer in ("quick", "pretty", "json", "jsonl"):
        done = volatility.run("-r", renderer, PLUGIN)
        assert done.returncode == 0, done.stderr
        if renderer == "json":
            names = [row["Process"] for row in json.loads(done.stdout[done.stdout.index("[") :])]
        elif renderer == "jsonl":
            lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
            names = [json.loads(line)["Process"] for line in lines]
        else:
            lines = done.stdout.splitlines()
            told = [line.replace("|", " ").split() for line in lines if "Disabled" in line]
            assert [[value for value in line if value != "*"] for line in told] == columns
            continue
        assert names == [row["Process"] for row in expected]


def test_pid_chooses_processes(windows: tuple[Volatility, Truth]) -> None:
    volatility, truth = windows
    chosen = [str(truth.processes[owner].pid) for owner in truth.listed[1:3]]
    everything = {row["PID"]: row for row in volatility.rows(PLUGIN)}
    rows = volatility.rows(PLUGIN, "--pid", *chosen)
    assert rows == [everything["N/A"], *(everything[pid] for pid in chosen)]
    mappings = volatility.rows(PLUGIN, "--pages", "--pid", *chosen)
    assert {row["PID"] for row in mappings} == {"N/A", *chosen}
    done = volatility.run(PLUGIN, "--pid", "77777")
    assert "There is no process 77777" in done.stderr


def test_picture_is_written_through_the_file_handler(windows: tuple[Volatility, Truth]) -> None:
    volatility, truth = windows
    output = volatility.folder / "output"
    assert volatility.rows(PLUGIN)[0]["File output"] == "Disabled"
    assert not list(output.glob("*"))
    kernel, *rest = volatility.rows(PLUGIN, "--png")
    assert kernel["File output"] == "dump.raw.png"
    assert {row["File output"] for row in rest} == {"Disabled"}
    picture = Image.open(output / "dump.raw.png")
    labels = np.array([page_class.label for page_class in PageClass])
    painted = labels[np.asarray(picture).ravel()[: truth.frames]]
    np.testing.assert_array_equal(painted, truth.classes(truth.listed))
    assert picture.text["Source"] == "dump.raw"  # type: ignore[attr-defined]

    # The page is memviz's, whose contents other tests cover.
    [kernel] = [row for row in volatility.rows(PLUGIN, "--html") if row["PID"] == "N/A"]
    assert kernel["File output"] == "dump.raw.html"
    text = (output / "dump.raw.html").read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert all(truth.processes[owner].name in text for owner in truth.listed)

    # Volatility renames a second file; pages of other processes are pale in it.
    pid = truth.processes[truth.listed[2]].pid
    kernel = volatility.rows(PLUGIN, "--png", "--pid", str(pid))[0]
    second = np.asarray(Image.open(output / kernel["File output"]))
    assert kernel["File output"] != "dump.raw.png"
    values, first = second.ravel()[: truth.frames], np.asarray(picture).ravel()[: truth.frames]
    notes = truth.mappings[truth.mappings["owner"] == truth.listed[2]]
    shown = np.zeros(truth.frames, bool)
    for note in notes:
        shown[note["frame"] : note["frame"] + note["size"] // PAGE_SIZE] = True
    np.testing.assert_array_equal(values == first, shown)


def test_names_from_the_dump_are_escaped(volatility3: Path, tmp_path: Path) -> None:
    evil = "a\x1b[31mb\x07c"
    volatility, _ = made(volatility3, tmp_path, profiles()["Win7SP1x64"], processes=4, names=[evil])
    names = [row["Process"] for row in volatility.rows(PLUGIN)]
    assert r"a\x1b[31mb\x07c" in names
    assert "\x1b" not in volatility.run(PLUGIN, "--pages").stdout


# -- the layers ----------------------------------------------------------------------------------


def test_unusable_entries_are_told(windows: tuple[Volatility, Truth], tmp_path: Path) -> None:
    """An entry that breaks the processor's rules leads nowhere, and a warning tells of it.

    The table maps itself, so its entries also serve on lower levels.
    """
    volatility, truth = windows
    other = Volatility(volatility.program, tmp_path, volatility.symbols)
    memory = bytearray(volatility.dump.read_bytes())
    top = truth.processes[truth.listed[1]].dtb & ~0xFFF
    index = next(n for n in range(0x20, 0x100) if not any(memory[top + 8 * n : top + 8 * n + 8]))
    large = 1 << 7  # reserved in this table
    struct.pack_into("<Q", memory, top + 8 * index, int(entry(16)) | large)
    other.dump.write_bytes(memory)
    done = other.run(PLUGIN)
    assert done.returncode == 0, done.stderr
    assert "entries of page tables left out: they break the rules" in done.stderr
    assert "left out" not in volatility.run(PLUGIN).stderr


def test_other_formats_give_the_same_rows(windows: tuple[Volatility, Truth]) -> None:
    """A file that holds pages unpacked is mapped in place; others are read through Volatility."""
    volatility, _ = windows
    expected = volatility.rows(PLUGIN, "--pages")
    memory = volatility.dump.read_bytes()
    pieces = [(0, memory[: 8 * MIB]), (8 * MIB, memory[8 * MIB :])]
    other = Volatility(volatility.program, volatility.folder, volatility.symbols)
    write_lime(other.folder / "dump.lime", pieces)
    write_elf(other.folder / "dump.elf", pieces)
    (other.folder / "dump.raw.xz").write_bytes(lzma.compress(memory, preset=0))
    for name in ("dump.lime", "dump.elf", "dump.raw.xz"):
        other.dump = other.folder / name
        if name.endswith(".xz"):
            # In the search Volatility goes back and forth, and unpacks from the start each time.
            other.take(volatility)
        assert other.rows(PLUGIN, "--pages") == expected, name


def file_layer(context: Any, path: Path) -> None:
    context.config["file.location"] = path.as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))


def memory_of(frames: int, seed: int = 0) -> bytes:
    words = np.random.default_rng(seed).integers(0, 1 << 63, (frames, 512), np.uint64)
    words[::3] = 0
    return words.tobytes()


def test_plain_files_are_mapped_not_copied(tmp_path: Path) -> None:
    memory = memory_of(40)
    pieces = [(3 * PAGE_SIZE, memory[: 8 * PAGE_SIZE]), (20 * PAGE_SIZE, memory[8 * PAGE_SIZE :])]
    write_lime(tmp_path / "dump", pieces)
    context = contexts.Context()
    file_layer(context, tmp_path / "dump")
    context.config["lime.base_layer"] = "file"
    context.add_layer(lime.LimeLayer(context, "lime", "lime"))
    dump = open_layer(context.layers, "lime")
    assert isinstance(dump, MappedLayer)
    assert dump.runs.tolist() == [[3, 8], [20, 32]]
    assert dump.path == tmp_path / "dump"
    assert (
        dump.read_frames(np.array([20, 3])).tobytes()
        == memory[8 * PAGE_SIZE :][:PAGE_SIZE] + memory[:PAGE_SIZE]
    )
    raw = open_layer(context.layers, "file")
    assert isinstance(raw, MappedLayer)
    assert raw.runs.tolist() == [[0, (tmp_path / "dump").stat().st_size // PAGE_SIZE]]


@pytest.mark.peer
def test_packed_files_are_read_through_volatility(tmp_path: Path) -> None:
    memory = memory_of(5000, seed=1)
    (tmp_path / "dump.xz").write_bytes(lzma.compress(memory, preset=0))
    context = contexts.Context()
    file_layer(context, tmp_path / "dump.xz")
    dump = open_layer(context.layers, "file")
    assert isinstance(dump, ReadLayer)
    assert dump.runs.tolist() == [[0, 5000]]
    words = np.frombuffer(memory, np.uint64).reshape(-1, 512)
    wanted = np.array([7, 6, 7, 4999, -1, 5000, 8])
    expected = np.where((wanted >= 0) & (wanted < 5000), wanted, 0)
    found = dump.read_frames(wanted)
    np.testing.assert_array_equal(found[[0, 1, 2, 3, 6]], words[expected[[0, 1, 2, 3, 6]]])
    assert not found[4:6].any()
    np.testing.assert_array_equal(dump.zero_frames(), ~words.any(axis=1))


def test_layers_without_a_page_are_refused(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(bytes(4095))
    context = contexts.Context()
    file_layer(context, tmp_path / "short")
    with pytest.raises(BadInputError, match="holds no page of memory"):
        open_layer(context.layers, "file")


# -- the oldest release --------------------------------------------------------------------------


def test_runs_in_the_oldest_release_as_in_the_newest(
    windows: tuple[Volatility, Truth], oldest_volatility3: Path
) -> None:
    volatility, truth = windows
    old = Volatility(oldest_volatility3, volatility.folder, volatility.symbols)
    assert "Framework 2.26.0" in old.run("-r", "quick", PLUGIN).stdout
    for options in ([], ["--pages"], ["--pages", "--every-mapping"]):
        assert old.rows(PLUGIN, *options) == volatility.rows(PLUGIN, *options)
    process = truth.processes[truth.listed[3]]
    rows = old.rows(PLUGIN, "--pages", "--pid", str(process.pid))
    assert joined(addresses(rows)) == old.memmap_of(process.pid)
    kernel = old.rows(PLUGIN, "--png")[0]
    assert (old.folder / "output" / kernel["File output"]).read_bytes()[:4] == b"\x89PNG"


# -- Linux ---------------------------------------------------------------------------------------


def tables_below(memory: bytes, table: int, levels: int, entries: int = 512) -> set[int]:
    """Addresses of a page table and the process's own tables below it, read plainly."""
    found = {table}
    if levels > 1:
        for at in range(0, 8 * entries, 8):
            (entry,) = struct.unpack_from("<Q", memory, table + at)
            below = entry & 0x000F_FFFF_FFFF_F000
            if entry & 0x81 == 1 and below < len(memory):
                found |= tables_below(memory, below, levels - 1)
    return found


def test_real_linux_guest_in_the_oldest_release(
    volatility3: Path,
    oldest_volatility3: Path,
    symbol_files: Path,
    qemu_core: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    """The rows equal those in the newest release."""
    (tmp_path / "old").mkdir()
    new = Volatility(volatility3, tmp_path, symbol_files)
    old = Volatility(oldest_volatility3, tmp_path / "old", symbol_files)
    new.dump = old.dump = qemu_core[0]
    rows = old.rows("linux.memoryvisualizer")
    assert len(rows) == 91
    assert rows == new.rows("linux.memoryvisualizer")


def test_real_linux_guest(
    volatility3: Path,
    symbol_files: Path,
    qemu_core: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    """Tasks, their pages and the picture agree with the records of the guest's kernel."""
    volatility = Volatility(volatility3, tmp_path, symbol_files)
    volatility.dump = qemu_core[0]
    truth = np.load(real_dumps() / "linux-6.1-x64-256m.truth.npz")
    plugin = "linux.memoryvisualizer"
    kernel, *rows = volatility.rows(plugin, "--png")
    names = dict(zip(truth["pids"].tolist(), truth["comm"].tolist(), strict=True))
    assert {int(row["PID"]) for row in rows} == set(names)
    for row in rows:
        if row["DTB"] != "N/A":  # the kernel tells longer names of kernel threads than the task has
            assert row["Process"] == names[int(row["PID"])]
    bases = dict(zip(truth["pids"].tolist(), truth["pgd"].tolist(), strict=True))
    for row in rows:
        base = 0 if row["DTB"] == "N/A" else int(row["DTB"], 16)
        assert base == bases[int(row["PID"])]
    owned: dict[int, set[int]] = {}
    columns = (truth["owner_pid"].tolist(), truth["owner_pfn"].tolist())
    for pid, frame in zip(*columns, strict=True):
        owned.setdefault(pid, set()).add(frame)
    for row in rows:
        found = int(row["Private"]) + int(row["Shared"])
        # A walk of all tables finds one more [vvar] page than the kernel tells.
        assert found - len(owned.get(int(row["PID"]), ())) in (0, 1)
    memory = qemu_core[0].read_bytes()
    for row in rows:  # its own page tables
        base = bases[int(row["PID"])]
        assert int(row["Kernel"]) == (len(tables_below(memory, base, 4, 256)) if base else 0)
    picture = Image.open(tmp_path / "output" / kernel["File output"])
    classes = np.asarray(picture).ravel()[: len(truth["user_mapped"])]
    user = np.isin(classes, (PageClass.USER, PageClass.BOTH))
    same = user == truth["user_mapped"]
    assert np.count_nonzero(~same[~truth["changed"]]) <= 1
    assert int(kernel["Kernel"]) == np.count_nonzero(
        np.isin(classes, (PageClass.KERNEL, PageClass.BOTH))
    )
    pid = int(truth["owner_pid"][0])
    mine = truth["owner_pid"] == pid
    mappings = volatility.rows(plugin, "--pages", "--pid", str(pid))
    told = pages(addresses(row for row in mappings if row["Mode"] == "user"))
    # In the upper half, some entries have the user bit; the kernel does not tell these pages.
    told = [page for page in told if page[0] < 1 << 47]
    noted = {
        (int(virtual), int(frame) * PAGE_SIZE, PAGE_SIZE)
        for virtual, frame in zip(
            truth["owner_virtual"][mine], truth["owner_pfn"][mine], strict=True
        )
    }
    assert noted <= set(told)
    assert len(told) - len(noted) <= 1
