"""Linux dumps: each page, owner and process is as the truth says."""

import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import memory_visualizer
from memory_visualizer import PageClass, Snapshot
from memory_visualizer.linux.doubts import Doubts
from memory_visualizer.snapshot.pagemap import PageState
from tests import prestarted
from tests.conftest import real_dumps
from tests.synth import containers
from tests.synth.containers import write_avml, write_elf, write_kdump, write_lime
from tests.synth.eras import ERAS
from tests.synth.linux import MIB, LinuxTruth, Task, forge_linux


def labels(snapshot: Snapshot) -> npt.NDArray[np.str_]:
    """The class of each frame, by name."""
    return np.array([page_class.label for page_class in PageClass])[snapshot.classes]


def states(snapshot: Snapshot) -> npt.NDArray[np.str_]:
    """The state of each frame, by name."""
    assert snapshot.states is not None
    return np.array([state.label for state in PageState])[snapshot.states]


def owned(snapshot: Snapshot) -> set[tuple[int, int, int]]:
    """Pid, virtual address and frame of all pages of processes."""
    rows = snapshot.mappings
    assert rows.is_user.all()
    found = set()
    for space, virtual, frame, frames in zip(
        rows.space.tolist(),
        rows.virtual.tolist(),
        rows.pfn.tolist(),
        rows.count.tolist(),
        strict=True,
    ):
        pid = snapshot.processes[space].pid
        found |= {(pid, virtual + n * 4096, frame + n) for n in range(frames)}
    return found


def assert_is_truth(snapshot: Snapshot, truth: LinuxTruth) -> None:
    """Compare all that is known of each frame and of each process."""
    np.testing.assert_array_equal(states(snapshot), truth.states)
    np.testing.assert_array_equal(labels(snapshot), truth.classes)
    np.testing.assert_array_equal(snapshot.zero, truth.zero)
    assert str(snapshot.system) == f"Linux {truth.era.release}"
    assert snapshot.kernel_dtb == truth.top * 4096
    tasks = {task.pid: task for task in truth.tasks}
    # Without BTF, the owner of a space whose first thread has ended is unknown.
    unknown = {pid for pid, task in tasks.items() if is_unnamed(task, truth)}
    assert owned(snapshot) == {
        (-1 if pid in unknown else pid, virtual, frame) for pid, virtual, frame in truth.owners
    }
    nameless = [p.dtb for p in snapshot.processes if p.pid == -1]
    assert sorted(nameless) == sorted(tasks[pid].dtb for pid in unknown)
    assert [
        (
            p.pid,
            p.ppid,
            p.name,
            p.dtb,
            p.object_address,
            p.is_alive,
            p.is_listed,
            p.is_kernel_thread,
        )
        for p in snapshot.processes
        if p.pid != -1
    ] == [
        (
            task.pid,
            task.ppid,
            (truth.tells_full_names and task.full_name) or task.comm,
            0 if task.pid in unknown else task.dtb,
            task.address,
            task.alive and task.pid not in unknown,
            task.listed,
            task.kernel_thread,
        )
        for task in truth.tasks
    ]


def is_unnamed(task: Task, truth: LinuxTruth) -> bool:
    """Whether the owner of its memory cannot be known."""
    shows_threads = truth.era.has_btf or truth.era.lists_threads or "thread_group" in truth.places
    return task.leader_has_ended and not shows_threads


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.many
def test_every_era(era: str, tmp_path: Path) -> None:
    truth = forge_linux(tmp_path / "dump", era)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert_is_truth(snapshot, truth)


def test_two_small_descriptions_of_sections(tmp_path: Path) -> None:
    """Descriptions of sections have 16 bytes here; reading 32 would lose every second section."""
    truth = forge_linux(tmp_path / "dump", "4.14-plain", size=256 * MIB)
    assert_is_truth(memory_visualizer.open(tmp_path / "dump"), truth)


@pytest.mark.parametrize("pti", [False, True], ids=["one table", "two tables"])
@pytest.mark.parametrize("five_levels", [False, True], ids=["4 levels", "5 levels"])
@pytest.mark.parametrize("era", ["4.19", "6.12", "7.0"])
@pytest.mark.many
def test_ways_of_paging(era: str, five_levels: bool, pti: bool, tmp_path: Path) -> None:
    """Four and five levels; with page-table isolation, a process has two tables."""
    truth = forge_linux(tmp_path / "dump", era, five_levels=five_levels, pti=pti, seed=5)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert_is_truth(snapshot, truth)
    assert snapshot.paging is not None
    assert snapshot.paging.name == ("x86-64, 5 levels" if five_levels else "x86-64")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.many
def test_a_hole(seed: int, tmp_path: Path) -> None:
    """A hole is absent, though a raw dump has zeros there."""
    truth = forge_linux(tmp_path / "dump", "6.1", size=128 * MIB, hole=True, seed=seed)
    assert_is_truth(memory_visualizer.open(tmp_path / "dump"), truth)


REAL = "linux-6.1-x64-256m"
CLASS_OF = {
    "not RAM": "absent",
    "no struct page": "absent",
    "zero page": "both",
    "hugetlb mapped": "user",
    "anonymous mapped": "user",
    "cache mapped by user": "user",
    "kernel image page mapped by user": "both",
    "other, mapped by user": "both",
}
"""The class by the kernel's record; see also `true_classes`."""


def true_classes(truth: "np.lib.npyio.NpzFile[np.generic]") -> npt.NDArray[np.str_]:
    """The class of each frame of a real dump, by the kernel's records."""
    unused = np.where(truth["zero"], "unused-zero", "unused-data")
    classes = np.full(len(unused), "kernel", dtype="U11")
    for code, name in enumerate(truth["kernel_says_names"].tolist()):
        chosen = truth["kernel_says"] == code
        if name in CLASS_OF:
            classes[chosen] = CLASS_OF[name]
        elif name.startswith("free") or name.endswith("unmapped"):
            classes[chosen] = unused[chosen]
    return classes


def test_a_real_guest(qemu_core: tuple[Path, Path]) -> None:
    """The report agrees with a real kernel's records of a moment before; so does the ELF core's."""
    snapshot, of_core = map(memory_visualizer.open, qemu_core)
    truth = np.load(qemu_truth())
    steady = ~truth["changed"]
    agree = labels(snapshot)[steady] == true_classes(truth)[steady]
    # One frame may differ: the clock's page that processes map ([vvar]), which the kernel's
    # pagemap leaves out.
    assert np.count_nonzero(~agree) <= 1
    kinds = truth["kernel_says_names"][truth["kernel_says"]]
    for says, state in (
        ("free (buddy)", "free"),
        ("free (per-CPU list)", "free"),
        ("slab", "slab"),
        ("page table", "page table"),
        ("anonymous mapped", "anonymous"),
        ("file cache, unmapped", "file cache"),
        ("shared memory cache, unmapped", "shared memory"),
        ("kernel image", "kernel image"),
        ("reserved", "reserved"),
        ("compound kernel", "kernel other"),
    ):
        assert set(states(snapshot)[steady & (kinds == says)]) == {state}, says

    columns = ("owner_pid", "owner_virtual", "owner_pfn")
    listed = set(zip(*(truth[column].tolist() for column in columns), strict=True))
    more = owned(snapshot) - listed
    assert not listed - owned(snapshot)
    assert len(more) == 16 and len({frame for _, _, frame in more}) == 1

    fields = ("pids", "ppid", "comm", "kernel_thread", "pgd")
    assert [
        (p.pid, p.ppid, p.name, p.is_kernel_thread, p.dtb) for p in snapshot.processes
    ] == sorted(zip(*(truth[field].tolist() for field in fields), strict=True))
    assert all(process.is_alive and process.is_listed for process in snapshot.processes)
    assert snapshot.remarks == ()

    frames = snapshot.classes.size
    np.testing.assert_array_equal(of_core.classes[:frames], snapshot.classes)
    assert of_core.states is not None and snapshot.states is not None
    np.testing.assert_array_equal(of_core.states[:frames], snapshot.states)
    # The firmware above is not RAM.
    assert set(labels(of_core)[frames:]) == {"absent"}
    assert of_core.processes == snapshot.processes


def test_a_real_guests_marked_pages(qemu_core: tuple[Path, Path]) -> None:
    """Marked pages have their workers as owners; those of ended workers are free, with data."""
    snapshot = memory_visualizer.open(qemu_core[0])
    truth = np.load(qemu_truth())
    words = np.fromfile(qemu_core[0], "<u8").reshape(-1, 512)
    marked = np.flatnonzero(words[:, 0] == int.from_bytes(b"LINTRUTH", "little"))
    alive = np.isin(words[marked, 1], truth["pids"])
    assert set(labels(snapshot)[marked[~alive]]) == {"unused-data"}
    assert len(marked[~alive]) == 1520
    mapped = marked[alive & truth["user_mapped"][marked]]
    assert len(mapped) > 5000
    assert set(labels(snapshot)[mapped]) == {"user"}
    # Each address is the marked one, in the worker that wrote it or in a child that shares it.
    for frame in mapped.tolist():
        assert int(words[frame, 2]) in {virtual for _, virtual in snapshot.owners_of(frame)}


@pytest.mark.parametrize("format_", ["lime", "avml", "kdump"])
def test_a_real_guest_in_other_formats(
    format_: str, qemu_core: tuple[Path, Path], tmp_path: Path
) -> None:
    """The same page map as from the raw dump."""
    containers.WRITERS[format_](tmp_path / "dump", [(0, qemu_core[0].read_bytes())])
    raw, other = map(memory_visualizer.open, (qemu_core[0], tmp_path / "dump"))
    assert raw.states is not None and other.states is not None
    np.testing.assert_array_equal(raw.classes, other.classes)
    np.testing.assert_array_equal(raw.states, other.states)
    np.testing.assert_array_equal(raw.zero, other.zero)
    assert raw.processes == other.processes
    assert owned(raw) == owned(other)


def qemu_truth() -> Path:
    """The truth about the dump that the fixture `qemu_core` unpacks."""
    return real_dumps() / f"{REAL}.truth.npz"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LinuxTruth]:
    """A synthetic dump, and its truth."""
    path = tmp_path_factory.mktemp("linux") / "dump"
    return path, forge_linux(path, "6.1")


def changed(source: Path, target: Path, places: dict[int, bytes]) -> Path:
    """A copy with other bytes at some addresses."""
    shutil.copyfile(source, target)
    with target.open("r+b") as file:
        for place, contents in places.items():
            file.seek(place)
            file.write(contents)
    return target


def lines_changed(source: Path, truth: LinuxTruth, line: bytes, digit: bytes) -> dict[int, bytes]:
    """Places of some lines' values in both copies of VMCOREINFO, with other digits to write."""
    contents = source.read_bytes()
    return {
        frame * 4096 + match.start(1): digit * len(match[1])
        for frame in truth.text_frames
        for match in re.finditer(line, contents[frame * 4096 :][:4096])
    }


def test_one_text_left(small: tuple[Path, LinuxTruth], tmp_path: Path) -> None:
    """VMCOREINFO is found as plain text, as a note, or elsewhere in memory."""
    source, truth = small
    plain, note = (frame * 4096 for frame in truth.text_frames)
    text = source.read_bytes()[plain : plain + 4096].rstrip(b"\0")
    gone = bytes(4096)
    for places in ({plain: gone}, {note: gone}, {plain: gone + text, note: gone}):
        if len(places) == 2:
            places = {plain: gone, note: b"\0" * 777 + text + bytes(4096 - 777 - len(text))}
        snapshot = memory_visualizer.open(changed(source, tmp_path / "dump", places))
        assert str(snapshot.system) == f"Linux {truth.era.release}"
        assert owned(snapshot) == truth.owners


def test_one_text_left_among_many_words(small: tuple[Path, LinuxTruth], tmp_path: Path) -> None:
    """Texts that resemble its beginning do not hide it."""
    source, truth = small
    plain, note = (frame * 4096 for frame in truth.text_frames)
    text = source.read_bytes()[plain : plain + 4096].rstrip(b"\0")
    dump = changed(source, tmp_path / "dump", {plain: bytes(4096), note: bytes(4096)})
    words = (b"RELEASE OSRE ELEASE= OSRELEAS" * 200)[:4096].ljust(4096)
    with dump.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(words * 100 + (bytes(801) + text).ljust(8192, b"\0"))
    assert str(memory_visualizer.open(dump).system) == f"Linux {truth.era.release}"


@pytest.mark.parametrize("five_levels", [False, True], ids=["4 levels", "5 levels"])
@pytest.mark.parametrize("era", ["4.19", "5.10", "6.1", "6.12", "7.0"])
@pytest.mark.many
def test_without_its_text(era: str, five_levels: bool, tmp_path: Path) -> None:
    """Page tables and banner tell the kernel, and BTF tells the rest."""
    truth = forge_linux(tmp_path / "whole", era, five_levels=five_levels, pti=five_levels)
    places = {frame * 4096: b"?" * 4096 for frame in truth.text_frames}
    snapshot = memory_visualizer.open(changed(tmp_path / "whole", tmp_path / "dump", places))
    assert snapshot.remarks[0].startswith("the kernel's VMCOREINFO was not found")
    if truth.era.has_btf:
        assert_is_truth(snapshot, truth)
        assert len(snapshot.remarks) == 1
    else:
        assert any("the meaning of its page flags" in remark for remark in snapshot.remarks)
        known = {(p.pid, p.name) for p in snapshot.processes if p.pid != -1}
        assert known == {(task.pid, task.comm) for task in truth.tasks}
        # Except for processes that only struct pages lead to, without a listed task.
        unknown = {task.pid for task in truth.tasks if is_unnamed(task, truth)}
        user = {frame for pid, _, frame in truth.owners if pid not in unknown}
        assert set(np.flatnonzero(labels(snapshot) == "user").tolist()) == user


@pytest.mark.parametrize("era", ["2.6.32", "3.16", "4.14"])
@pytest.mark.many
def test_without_symbols(era: str, tmp_path: Path) -> None:
    """Without CONFIG_KALLSYMS, the kernel's first task is found by its form."""
    truth = forge_linux(tmp_path / "dump", era)
    raw = (tmp_path / "dump").read_bytes()
    digits = b"\0".join(b"%d" % digit for digit in range(10))
    assert raw.count(digits) == 1
    (tmp_path / "dump").write_bytes(raw.replace(digits, bytes(len(digits))))
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert "the kernel's symbol table was not found" in snapshot.remarks
    known = {task.pid: task for task in truth.tasks if task.listed and not is_unnamed(task, truth)}
    found = {process.pid: process for process in snapshot.processes}
    for pid, task in known.items():
        assert (found[pid].name, found[pid].ppid) == (task.comm, task.ppid)
        assert found[pid].dtb == task.dtb
    listed = {owner for owner in truth.owners if owner[0] in known}
    assert listed == {owner for owner in owned(snapshot) if owner[0] in known}


@pytest.mark.parametrize("era", ["3.16", "4.14", "6.1"])
@pytest.mark.many
def test_symbols_of_functions_only(era: str, tmp_path: Path) -> None:
    """Without CONFIG_KALLSYMS_ALL the table has no data; the address of _stext still proves it."""
    truth = forge_linux(tmp_path / "dump", era, data_symbols=False)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert not any("table of symbols" in remark for remark in snapshot.remarks)
    known = {task.pid: task for task in truth.tasks if task.listed and not is_unnamed(task, truth)}
    found = {process.pid: process for process in snapshot.processes}
    assert {pid: found[pid].ppid for pid in known} == {
        pid: task.ppid for pid, task in known.items()
    }
    listed = {owner for owner in truth.owners if owner[0] in known}
    assert listed == {owner for owner in owned(snapshot) if owner[0] in known}


def test_a_broken_list(small: tuple[Path, LinuxTruth], tmp_path: Path) -> None:
    """A list of processes with a gap is walked from both sides, and a remark tells it."""
    source, truth = small
    contents = source.read_bytes()
    victim = next(task for task in truth.tasks if task.pid == 107)
    # The task's object is gone, so the lists through it are cut there.
    physical = contents.find(victim.comm.encode().ljust(16, b"\0"))
    start = physical // 8192 * 8192
    snapshot = memory_visualizer.open(changed(source, tmp_path / "dump", {start: bytes(8192)}))
    assert snapshot.remarks == (
        "the list of processes is broken at 2 places (behind pid 99 and 1 more): it was repaired by"
        " following its links backwards; 1 process found in other ways",
        "1 task in the list of processes is empty in this dump: its process is unknown",
    )
    pids = {process.pid for process in snapshot.processes}
    expected = {task.pid for task in truth.tasks} - {107}
    assert expected <= pids | {-1}
    assert owned(snapshot) == {
        (-1 if pid == 107 else pid, virtual, frame) for pid, virtual, frame in truth.owners
    }


def test_without_struct_pages(small: tuple[Path, LinuxTruth], tmp_path: Path) -> None:
    """Owners are known without struct pages; a remark says that other used pages are not."""
    source, truth = small
    changes = lines_changed(source, truth, rb"OFFSET\(page[^)]*\)=(\d+)", b"9")
    changes |= lines_changed(source, truth, rb"SIZE\(page\)=(\d+)", b"9")
    hide_types = {source.read_bytes().find(b"\x9f\xeb\x01\0\x18"): bytes(8)}
    changes |= lines_changed(source, truth, rb"SYMBOL\(mem_section\)=(\w+)", b"1") | hide_types
    changes |= lines_changed(source, truth, rb"NUMBER\(PG_\w+\)=(\w+)", b"x")
    snapshot = memory_visualizer.open(changed(source, tmp_path / "dump", changes))
    assert owned(snapshot) <= truth.owners
    assert {"user", "unused-data", "unused-zero"} == set(labels(snapshot))
    [remark] = [r for r in snapshot.remarks if "records of its pages were not found" in r]
    assert remark.endswith("; its own pages are shown as unused")
    assert snapshot.states is None and snapshot.uses is None  # not "unknown, by the kernel"


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.many
def test_noise_in_it(seed: int, small: tuple[Path, LinuxTruth], tmp_path: Path) -> None:
    """Any overwritten pages end in a result, soon and without an error."""
    source, truth = small
    rng = np.random.default_rng(seed)
    frames = rng.choice(len(truth.zero), int(rng.integers(1, 4000)), replace=False)
    places = {int(frame) * 4096: rng.bytes(int(rng.integers(8, 4096))) for frame in frames}
    if seed % 2:  # also the list of tasks, the kernel's tables and symbols, but not the text
        image = np.arange(truth.top - 320, truth.top + 600)
        for frame in rng.choice(image, 40):
            places[int(frame) * 4096 + int(rng.integers(0, 500)) * 8] = rng.bytes(8)
    snapshot = memory_visualizer.open(changed(source, tmp_path / "dump", places))
    assert snapshot.classes.size == len(truth.zero)
    snapshot.summary()


def test_containers(small: tuple[Path, LinuxTruth], tmp_path: Path) -> None:
    """The same page map from each format that Linux dumps come in."""
    source, truth = small
    contents = source.read_bytes()
    pieces = [(0x1000, contents[0x1000:0x9F000]), (0x100000, contents[0x100000:])]
    expected = truth.classes.copy()
    expected[:256] = np.where(np.isin(np.arange(256), np.arange(1, 0x9F)), expected[:256], "absent")
    for write in (write_lime, write_avml, write_elf, write_kdump):
        write(tmp_path / "dump", pieces)
        snapshot = memory_visualizer.open(tmp_path / "dump")
        np.testing.assert_array_equal(labels(snapshot), expected)
        assert owned(snapshot) == truth.owners


def test_another_system(small: tuple[Path, LinuxTruth], tmp_path: Path) -> None:
    """Without its own text, a system is known by its tables; the direct map is left out."""
    source, truth = small
    places = {frame * 4096: bytes(4096) for frame in truth.text_frames}
    places[source.read_bytes().find(b"Linux version ")] = bytes(64)
    snapshot = memory_visualizer.open(changed(source, tmp_path / "dump", places))
    assert snapshot.system is None and snapshot.states is None
    # Only Linux' own reader recognises the table that starts other processors.
    assert {process.dtb for process in snapshot.processes} - {truth.trampoline * 4096} == {
        task.dtb for task in truth.tasks if task.dtb
    }
    assert {process.name for process in snapshot.processes} == {"(unknown)"}
    # A copy of VMCOREINFO is left, as in a boot image.
    assert [truth.era.release in remark for remark in snapshot.remarks] == [False, False, True]
    # Only Linux' reader finds pages of PROT_NONE; all others are found.
    mapped = np.isin(labels(snapshot), ["user", "both"])
    assert mapped.sum() > 1000
    assert (np.isin(truth.classes, ["user", "both"])[mapped]).all()
    protected = {frame for _, _, frame in truth.owners} - set(np.flatnonzero(mapped).tolist())
    assert len(protected) == 512 + 5 * 6


@pytest.mark.parametrize("bit", [47, 51])
def test_encrypted_memory(bit: int, tmp_path: Path) -> None:
    """The dump was taken inside a machine whose memory AMD's processor encrypts."""
    truth = forge_linux(tmp_path / "dump", "6.1", encryption=1 << bit, seed=3)
    assert_is_truth(memory_visualizer.open(tmp_path / "dump"), truth)


def memviz(*arguments: object, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run memviz as people do."""
    return prestarted.run(["-m", "memory_visualizer", *arguments], folder)


def test_the_command(small: tuple[Path, LinuxTruth], tmp_path: Path) -> None:
    """Picture, summary, tables and JSON of a Linux dump."""
    source, truth = small
    outputs = ["--table", "a.csv", "--json", "a.json", "--map", "a.map", "-o", "a.png"]
    result = memviz(source, *outputs, folder=tmp_path)
    assert result.returncode == 0
    [remark] = result.stderr.splitlines()  # these dumps do not describe inodes
    assert remark.endswith("the files of its pages are unknown")
    lines = result.stdout.splitlines()
    assert lines[1] == f"Linux {truth.era.release}, x86-64 paging"
    counts = dict(zip(*np.unique(truth.states, return_counts=True), strict=True))
    for state, count in counts.items():
        assert any(line.startswith(f"  {state} ") and f" {count:,} " in line for line in lines)
    threads = sum(task.kernel_thread for task in truth.tasks)
    own = len(truth.tasks) - threads
    title = f"Pages of {own} processes, 1 unlinked (not in the list of active processes), 1 exited"
    assert f"{title}; {threads} kernel threads, which have none" in lines
    assert any(
        line.split() == ["99", "1", "0", "0", "0", "MiB", "exited", "gone"] for line in lines
    )
    assert not any("kthreadd" in line for line in lines)

    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [row["state"] for row in rows] == truth.states.tolist()
    assert [row["class"] for row in rows] == truth.classes.tolist()
    summary = json.loads((tmp_path / "a.json").read_text())
    assert {state: count for state, count in summary["states"].items() if count} == counts
    assert summary["dtb"] == hex(truth.top * 4096)
    processes = {process["pid"]: process for process in summary["processes"]}
    for task in truth.tasks:
        assert processes[task.pid]["kernel_thread"] == task.kernel_thread
        assert processes[task.pid]["listed"] == task.listed
        assert int(processes[task.pid]["object_address"], 16) == task.address
    first = (tmp_path / "a.map").read_text().splitlines()[2].split()
    assert first[3] == "False"


def test_a_chosen_kernel_thread(small: tuple[Path, LinuxTruth], tmp_path: Path) -> None:
    """The summary lists the chosen kernel thread, which has no pages, and counts the others."""
    source, truth = small
    result = memviz(source, "--name", "^kthreadd$", folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    title = lines.index("Pages of 0 processes; 1 kernel thread, which have none")
    shown = ["2", "0", "0", "0", "0", "MiB", "kernel", "thread", "kthreadd"]
    assert lines[title + 2].split() == shown
    assert lines[-1].startswith(f"{len(truth.tasks) - 1} other processes not chosen")


def test_hostile_names(small: tuple[Path, LinuxTruth], tmp_path: Path) -> None:
    """The names of processes and of the kernel are escaped on the terminal."""
    source, truth = small
    contents = source.read_bytes()
    name = b"worker \xc3\xa92".ljust(16, b"\0")
    release = truth.era.release.encode()
    evil = release[:-4] + b"\x1b[2J"
    (tmp_path / "dump").write_bytes(
        contents.replace(name, b"\x1b]0;evil\x07\xff\xfe".ljust(16, b"\0")).replace(release, evil)
    )
    result = memviz("dump", folder=tmp_path)
    assert result.returncode == 0
    assert "\x1b" not in result.stdout and "\\x1b[2J" in result.stdout
    assert "\\x1b]0;evil\\x07" in result.stdout


@pytest.mark.parametrize("pti", [False, True], ids=["one table", "two tables"])
def test_no_task_is_recognised(pti: bool, tmp_path: Path) -> None:
    """Address spaces are then known by the kernel's half, and the picture is still right."""
    truth = forge_linux(tmp_path / "whole", "4.19", pti=pti)
    contents = bytearray((tmp_path / "whole").read_bytes())
    first = contents.index(b"swapper/0\0") - truth.places["comm"]
    contents[first : first + 8192] = bytes(8192)
    for task in truth.tasks:  # and not by its name
        name = task.comm.encode()[:15] + b"\0"
        contents = contents.replace(name, bytes(len(name)))
    (tmp_path / "dump").write_bytes(contents)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    np.testing.assert_array_equal(labels(snapshot), truth.classes)
    np.testing.assert_array_equal(states(snapshot), truth.states)
    roots = [task.dtb for task in truth.tasks if task.dtb]
    assert sorted(process.dtb for process in snapshot.processes) == sorted(roots)
    assert any("without their names" in remark for remark in snapshot.remarks)


LINES = [
    rb"OSRELEASE=(\d)",
    rb"(O)SRELEASE",
    rb"SYMBOL\(swapper_pg_dir\)=ffffffff(\w)",
    rb"SYMBOL\(init_uts_ns\)=ffffffff(\w)",
    rb"SYMBOL\(_stext\)=ffffffff(\w)",
    rb"SYMBOL\(mem_section\)=ffffffff(\w)",
    rb"SYMBOL\(kallsyms_names\)=ffffffff(\w)",
    rb"SYMBOL\(kallsyms_offsets\)=ffffffff\w{4}(\w)",
    rb"NUMBER\(phys_base\)=-?(\d)",
    rb"NUMBER\(SECTION_SIZE_BITS\)=(\d)",
    rb"NUMBER\(PAGE_BUDDY_MAPCOUNT_VALUE\)=-?(\d)",
    rb"NUMBER\(PG_lru\)=(\d)",
    rb"SIZE\(page\)=(\d)",
    rb"OFFSET\(page._refcount\)=(\d)",
    rb"OFFSET\(page.mapping\)=(\d)",
]


@pytest.mark.parametrize("byte", [b"3", b"x", b"\0", b"\n"], ids=repr)
@pytest.mark.parametrize("line", LINES, ids=lambda line: line.decode())
@pytest.mark.many
def test_a_damaged_line(
    line: bytes, byte: bytes, small: tuple[Path, LinuxTruth], tmp_path: Path
) -> None:
    """One byte of both copies of VMCOREINFO changed: the report stays, as BTF has the values."""
    source, truth = small
    changes = lines_changed(source, truth, line, byte)
    assert len(changes) == 2
    assert_is_truth(memory_visualizer.open(changed(source, tmp_path / "dump", changes)), truth)


def test_a_table_used_again(small: tuple[Path, LinuxTruth], tmp_path: Path) -> None:
    """A process ended while memory was saved: its top-level table holds small numbers."""
    source, truth = small
    victim = next(task for task in truth.tasks if task.pid == 107)
    numbers = np.arange(512, dtype="<u8") % 200 | 0x85
    snapshot = memory_visualizer.open(
        changed(source, tmp_path / "dump", {victim.dtb: numbers.tobytes()})
    )
    others = {(pid, virtual, frame) for pid, virtual, frame in truth.owners if pid != 107}
    assert owned(snapshot) == others
    [process] = [process for process in snapshot.processes if process.pid == 107]
    assert "base leads to no table" in process.anomalies
    assert any("1 process without a valid top-level page table" in one for one in snapshot.remarks)
    assert np.count_nonzero(labels(snapshot) != truth.classes) <= len(
        {frame for pid, _, frame in truth.owners if pid == 107}
    )


def test_mappings_that_cannot_be(small: tuple[Path, LinuxTruth], tmp_path: Path) -> None:
    """A page that the kernel calls free or slab has no process; a remark counts such mappings."""
    source, truth = small
    words = np.fromfile(source, "<u8").reshape(-1, 512)
    victim = next(task for task in truth.tasks if task.pid == 114)
    # The entries of its lowest tables, which are found down the tree.
    tables = [victim.dtb // 4096]
    for _ in range(3):
        entries = words[tables, :256] if len(tables) == 1 else words[tables]
        entries = entries[(entries & 0x81 == 1) & (entries & 4 != 0)]
        tables = sorted(set((entries >> np.uint64(12) & np.uint64(0xFFFFFFFF)).tolist()))
    table = tables[0]
    free = np.flatnonzero(truth.states == "free")[:3]
    slab = np.flatnonzero(truth.states == "slab")[:2]
    empty = np.flatnonzero(words[table] == 0)[:5]
    changes = {
        int(table) * 4096 + int(place) * 8: (int(frame) << 12 | 0x67).to_bytes(8, "little")
        for place, frame in zip(empty, [*free, *slab], strict=True)
    }
    snapshot = memory_visualizer.open(changed(source, tmp_path / "dump", changes))
    np.testing.assert_array_equal(labels(snapshot), truth.classes)
    assert owned(snapshot) == truth.owners
    assert any(remark.startswith("5 pages mapped") for remark in snapshot.remarks)


def test_a_large_mapping_of_free_memory(small: tuple[Path, LinuxTruth], tmp_path: Path) -> None:
    """Its first frame is in use, but most frames are free, so the mapping is refused."""
    source, truth = small
    words = np.fromfile(source, "<u8").reshape(-1, 512)
    victim = next(task for task in truth.tasks if task.pid == 114)
    table = victim.dtb // 4096
    for _ in range(2):
        [entry, *_] = [entry for entry in words[table, :256].tolist() if entry & 0x85 == 5]
        table = entry >> 12 & 0xFFFFFFFF
    place = int(np.flatnonzero(words[table] == 0)[0])
    against = np.isin(truth.states.reshape(-1, 512), ["free", "slab", "page table"])
    frame = 512 * int(np.flatnonzero((np.mean(against, axis=1) > 1 / 2) & ~against[:, 0])[0])
    change = {table * 4096 + place * 8: (frame << 12 | 0xE7).to_bytes(8, "little")}
    snapshot = memory_visualizer.open(changed(source, tmp_path / "dump", change))
    assert owned(snapshot) == truth.owners
    assert any(remark.startswith("512 pages mapped") for remark in snapshot.remarks)


def test_a_large_mapping_with_a_first_frame_that_is_none(small: tuple[Path, LinuxTruth]) -> None:
    """If the kernel calls only the first frame free, the mapping is believed."""
    snapshot = memory_visualizer.open(small[0])
    assert snapshot.states is not None
    states, mappings = snapshot.states.copy(), snapshot.mappings
    large = mappings.count == 512
    states[mappings.pfn[large]] = PageState.FREE
    assert large.any()
    kept = Doubts(states).believed(mappings)
    assert np.count_nonzero(kept.count == 512) == np.count_nonzero(large)


def test_two_processes_with_one_memory(small: tuple[Path, LinuxTruth], tmp_path: Path) -> None:
    """Both processes have its pages, which are mapped once."""
    source, truth = small
    sound = memory_visualizer.open(source)
    one, other = (next(t for t in truth.tasks if t.pid == pid) for pid in (107, 114))
    place = truth.places["mm"]
    with source.open("rb") as file:
        file.seek(one.address - truth.direct + place)
        memory = file.read(16)
    changes = {other.address - truth.direct + place: memory}
    snapshot = memory_visualizer.open(changed(source, tmp_path / "dump", changes))
    pages = {(virtual, frame) for pid, virtual, frame in owned(snapshot) if pid == 107}
    assert pages == {(virtual, frame) for pid, virtual, frame in owned(snapshot) if pid == 114}
    np.testing.assert_array_equal(snapshot.mapping_count, sound.mapping_count)


@pytest.mark.parametrize("without", [b"", b"\x9f\xeb\x01\0\x18"], ids=["BTF", "no BTF"])
def test_cut_to_three_quarters(without: bytes, tmp_path: Path) -> None:
    """The remaining three quarters are painted as Linux."""
    truth = forge_linux(tmp_path / "whole", "6.1", seed=2)
    contents = bytearray((tmp_path / "whole").read_bytes())
    if without:
        contents[contents.find(without) :][:8] = bytes(8)
    (tmp_path / "dump").write_bytes(contents[: len(contents) // 4 * 3])
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert str(snapshot.system) == f"Linux {truth.era.release}"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.many
def test_cut_anywhere(era: str, tmp_path: Path) -> None:
    """Any remaining part of a dump is painted, and all reported processes were there."""
    truth = forge_linux(tmp_path / "whole", era, size=32 * MIB, processes=12, seed=1)
    contents = (tmp_path / "whole").read_bytes()
    tasks = {(task.pid, task.address) for task in truth.tasks}
    for share in (0.5, 0.75, 0.78, 0.9):
        frames = int(len(truth.classes) * share)
        (tmp_path / "dump").write_bytes(contents[: frames * 4096])
        snapshot = memory_visualizer.open(tmp_path / "dump")
        assert len(snapshot.classes) == frames
        named = {(one.pid, one.object_address) for one in snapshot.processes if one.object_address}
        assert named <= tasks
        if share > 0.7:
            assert str(snapshot.system) == f"Linux {truth.era.release}"


def test_accessed_bits_are_cleared(tmp_path: Path) -> None:
    """Linux clears them in entries that lead to tables, to learn which are in use (lru_gen)."""
    truth = forge_linux(tmp_path / "dump", "6.1")
    words = np.fromfile(tmp_path / "dump", np.uint64).reshape(-1, 512)
    tables = {task.dtb // 4096 for task in truth.tasks if task.dtb and task.alive}
    half = slice(0, 256)
    for _ in range(3):
        below: set[int] = set()
        for table in tables:
            entries = words[table, half]
            leads = (entries & np.uint64(0x81)) == 1
            below |= set((entries[leads] >> np.uint64(12) & np.uint64(0xFF_FFFF_FFFF)).tolist())
            words[table, half][leads] &= ~np.uint64(0x20)
        tables, half = below, slice(0, 512)
    words.tofile(tmp_path / "dump")
    assert_is_truth(memory_visualizer.open(tmp_path / "dump"), truth)
