"""Linux dumps made to waste time are read within bounds, and remarks say what was left out.

fuzz/test_fuzz.py shows that all of them end in a picture or a sentence.
"""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import Snapshot, paging
from memory_visualizer.linux import kallsyms, taskjudge
from memory_visualizer.linux import kernel as linux
from memory_visualizer.linux import tasklist as linuxlist
from memory_visualizer.linux.btf import Btf
from memory_visualizer.linux.pagestates import PageArray
from memory_visualizer.linux.tasklist import TaskSlabs, task_limit
from memory_visualizer.linux.vmcoreinfo import VmcoreInfo, VmcoreInfoSearch
from memory_visualizer.paging import X64, as_linux_has_it, frames_behind
from memory_visualizer.paging.tablememory import TableMemory
from tests.fuzz.crafted_linux import CRAFTED_LINUX, Machine, Memory, Words, each
from tests.synth.linux import MIB, LinuxTruth, forge_linux

pytestmark = pytest.mark.fuzz

SIZE = 32 * MIB


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, LinuxTruth]:
    """A sound dump, and the truth about it."""
    path = tmp_path_factory.mktemp("hostile") / "dump"
    truth = forge_linux(path, "6.1", size=SIZE, processes=6)
    return path.read_bytes(), truth


def spoiled(name: str, sound: tuple[bytes, LinuxTruth], folder: Path) -> Path:
    """One of the crafted dumps."""
    contents, truth = sound
    words = np.frombuffer(contents, "<u8").reshape(-1, 512).copy()
    CRAFTED_LINUX[name](np.random.default_rng(0), words, truth)
    assert words.nbytes == SIZE
    return written(words, folder)


def written(words: Words, folder: Path) -> Path:
    """Write this memory as a dump."""
    path = folder / "dump"
    path.write_bytes(words.tobytes())
    return path


def opened(name: str, sound: tuple[bytes, LinuxTruth], folder: Path) -> Snapshot:
    """The result for one of the crafted dumps."""
    return memory_visualizer.open(spoiled(name, sound, folder))


@pytest.mark.parametrize(
    "name",
    ["tasks, dense", "tasks, apart", "tasks, sharing", "tasks, own tables", "workers", "ended"],
)
def test_more_tasks_than_any_machine_has(
    name: str, sound: tuple[bytes, LinuxTruth], tmp_path: Path
) -> None:
    """Tasks are read up to the limit, and a remark tells that there are more."""
    snapshot = opened(name, sound, tmp_path)
    limit = task_limit(snapshot.dump)
    assert limit == SIZE // 4096 // 32 + 1024
    assert any("the list of processes is longer than any" in one for one in snapshot.remarks)
    assert sum(process.is_listed for process in snapshot.processes) <= limit


def test_more_tasks_beside_the_list(sound: tuple[bytes, LinuxTruth], tmp_path: Path) -> None:
    """Relatives are told up to the limit of tasks, and a remark counts the others."""
    snapshot = opened("tasks, in pairs", sound, tmp_path)
    known = sum(process.object_address != 0 for process in snapshot.processes)
    # Owners of address spaces are added.
    assert known <= task_limit(snapshot.dump) + len(sound[1].tasks)
    assert any("found outside the list, but left out" in one for one in snapshot.remarks)


def test_slabs_that_may_hold_more_tasks(
    sound: tuple[bytes, LinuxTruth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remark appears only if the last permitted search of the slabs still found tasks."""
    contents, truth = sound
    words = np.frombuffer(contents, "<u8").reshape(-1, 512).copy()
    machine = Machine(words, truth)
    for task in [task for task in truth.tasks if task.listed][3:8]:
        for links in ("tasks", "children", "sibling"):
            machine.put(task.address + machine.task(links), 0, 0)
    dump = written(words, tmp_path)
    told = "the slabs of tasks were searched"
    assert not any(told in remark for remark in memory_visualizer.open(dump).remarks)
    monkeypatch.setattr(linuxlist, "_SCANS", 1)
    assert any(told in remark for remark in memory_visualizer.open(dump).remarks)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.many
def test_pids_between_others(seed: int) -> None:
    """Breaks of the list are told as by comparing all ends with all beginnings."""
    rng = np.random.default_rng(seed)
    ends, begins = (rng.integers(0, 60, 8).tolist() for _ in range(2))
    # A task without a next one is an end; a task without one before it is a beginning.
    pids = [pid for pair in zip(ends, begins, strict=True) for pid in pair]
    following = [-1 if n % 2 == 0 else (n + 1) % 16 for n in range(16)]
    before = [-1] * 16
    for node, high in enumerate(following):
        if high >= 0:
            before[high] = node
    gaps = linuxlist._gaps(following, before, pids)
    for pid in range(-1, 70):
        expected = any(
            end < pid and not any(end < begin <= pid for begin in begins) for end in ends
        )
        assert linuxlist._is_in(pid, gaps) == expected


def test_more_address_spaces_than_any_machine_has(
    sound: tuple[bytes, LinuxTruth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of address spaces is cut, and its tables are walked together."""
    walks = 0

    def counted(*arguments: object, **options: object) -> object:
        nonlocal walks
        walks += 1
        return paging.walk(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(taskjudge, "walk", counted)
    for name in ("spaces", "spaces, idle"):
        snapshot = opened(name, sound, tmp_path)
        assert any("the list of address spaces is longer" in one for one in snapshot.remarks)
        assert len(snapshot.processes) <= 2 * task_limit(snapshot.dump)
    assert walks == 2


def test_a_process_for_every_sixteen_frames(
    sound: tuple[bytes, LinuxTruth], tmp_path: Path
) -> None:
    """As many processes as a machine may have are all told, also ended ones."""
    contents, truth = sound
    words = np.frombuffer(contents, "<u8").reshape(-1, 512).copy()
    machine = Machine(words, truth)
    count = len(words) // 16
    frames = machine.unused[:count]
    state = np.where(np.arange(count) % 2, 32, 0)
    tasks = machine.make_tasks(frames, exit_state=state)
    snapshot = memory_visualizer.open(written(words, tmp_path))
    listed = [process for process in snapshot.processes if process.is_listed]
    expected = {int(task): ended == 0 for task, ended in zip(tasks, state, strict=True)}
    assert {process.object_address: process.is_alive for process in listed} == expected
    assert snapshot.remarks == ()


def test_threads_are_looked_for_within_bounds(
    sound: tuple[bytes, LinuxTruth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended tasks share a limit for reading lists of threads."""
    asked = 0
    numbers, members = TableMemory.numbers, TableMemory.members

    def counted(self: TableMemory, addresses: Words, size: int = 8) -> object:
        nonlocal asked
        asked += len(addresses)
        return numbers(self, addresses, size)

    def counted_members(
        self: TableMemory, objects: Words, offsets: Sequence[int], size: int = 8
    ) -> object:
        nonlocal asked
        asked += len(objects) * len(offsets)
        return members(self, objects, offsets, size)

    monkeypatch.setattr(TableMemory, "numbers", counted)
    monkeypatch.setattr(TableMemory, "members", counted_members)
    snapshot = opened("ended", sound, tmp_path)
    # Some words of each task, and of as many threads. Owners of address spaces are added.
    assert asked <= 20 * (task_limit(snapshot.dump) + len(sound[1].tasks))


def test_resources_within_bounds(
    sound: tuple[bytes, LinuxTruth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resources that have all others below them do not multiply the reads."""
    reads = 0
    read = TableMemory.read

    def counted(self: TableMemory, address: int, size: int) -> bytes | None:
        nonlocal reads
        reads += 1
        return read(self, address, size)

    path = spoiled("resources", sound, tmp_path)
    monkeypatch.setattr(TableMemory, "read", counted)
    kernel = find(path)
    reads = 0
    assert kernel.resources
    assert 5000 < reads < 6000


def find(path: Path) -> linux.LinuxKernel:
    """The kernel of a dump."""
    dump = memory_visualizer.formats.opening.open_dump(path)
    texts = VmcoreInfoSearch()
    for _ in dump.each_block(texts.scan):
        pass
    kernel = linux.find_kernel(dump, texts.found(dump))
    assert kernel
    return kernel


def test_tables_within_bounds(sound: tuple[bytes, LinuxTruth], tmp_path: Path) -> None:
    """Addresses, each behind a table of its own, are translated up to a limit."""
    path = spoiled("tasks, distant", sound, tmp_path)
    kernel = find(path)
    small = Memory(np.fromfile(path, "<u8").reshape(-1, 512))
    memory = TableMemory(small, kernel.paging, kernel.top)
    first = kernel.symbols["init_task"]
    assert kernel.btf
    link = kernel.btf.offset("task_struct", "tasks")
    assert link is not None
    at, followed = memory.number(first + link), 0
    while at and at != first + link and followed < 5000:
        at = memory.number(at)
        followed += 1
    assert 500 < followed < SIZE // 4096 // 256 + 1024


def test_addresses_one_by_one_and_together(sound: tuple[bytes, LinuxTruth]) -> None:
    """Both ways of translation agree on all kinds of addresses."""
    contents, truth = sound
    words = np.frombuffer(contents, "<u8").reshape(-1, 512).copy()
    machine = Machine(words, truth)
    rng = np.random.default_rng(0)
    roots = [truth.top, *(task.dtb // 4096 for task in truth.tasks if task.dtb)]
    mapped = [virtual for _, virtual, _ in sorted(truth.owners)]
    near = [
        machine.at(np.arange(4000)),
        np.uint64(machine.array) + np.arange(0, 1 << 18, 4096, dtype=np.uint64),
    ]
    addresses = np.concatenate(
        [np.array(mapped, np.uint64), *(np.asarray(one, np.uint64) for one in near)]
    )
    addresses = np.append(addresses, rng.integers(0, 1 << 63, 500).astype(np.uint64) * np.uint64(2))
    way = as_linux_has_it(X64)
    for top in roots:
        memory = TableMemory(Memory(words), way, top)
        together = memory.frames(addresses)
        expected = frames_behind(
            Memory(words), way, np.full(len(addresses), top, np.int64), addresses
        )
        np.testing.assert_array_equal(together, expected)
        assert [memory.frame(int(one)) for one in addresses] == expected.tolist()
        there = [memory.number(int(one)) for one in addresses]
        numbers, known = memory.numbers(addresses)
        assert [value is not None for value in there] == known.tolist()
        assert [value or 0 for value in there] == numbers.tolist()


def test_numbers_across_pages(sound: tuple[bytes, LinuxTruth]) -> None:
    """A number across the border of two pages is read whole, or not at all."""
    contents, truth = sound
    words = np.frombuffer(contents, "<u8").reshape(-1, 512).copy()
    machine = Machine(words, truth)
    last = int(machine.at(len(words) - 1)) + 4096
    at = np.array([int(machine.at(300)) - n for n in range(1, 9)] + [last - 8, last - 7], np.uint64)
    values, known = machine.kernel.read_each(at, 9)
    for address, value, is_known in zip(at.tolist(), values, known.tolist(), strict=True):
        assert machine.kernel.read(address, 9) == (value.tobytes() if is_known else None)
    assert known.tolist() == [True] * 8 + [False] * 2


def test_names_that_are_alike(sound: tuple[bytes, LinuxTruth]) -> None:
    """Among names of equal length and end, the right one is found if it is one of the first."""
    tokens = [bytes([code]) for code in range(256)]
    wrong, right = b"\x05Txame", b"\x05Tname"

    def table(packed: bytes, count: int) -> kallsyms.KernelSymbols:
        names = np.frombuffer(packed + b"\0", np.uint8)
        offsets = np.arange(count, dtype=np.int32)
        return kallsyms.KernelSymbols(tokens, names, offsets, 0, 0, 0)

    assert table(wrong * 1000 + right + wrong * 9, 1010).find(["name"]) == {"name": 1000}
    assert table(wrong * 5000 + right, 5001).find(["name"]) == {}
    long = b"\x80\x02" + b"T" + b"n" * 255
    assert table(long + right, 2).find(["name", "n" * 255]) == {"name": 1, "n" * 255: 0}


def test_texts_that_are_no_ones(sound: tuple[bytes, LinuxTruth], tmp_path: Path) -> None:
    """Lines are searched on demand, and numbers have at most 64 bits."""
    text = b"OSRELEASE=1\nSYMBOL(a)=fff\nNUMBER(b)=-5\nSIZE(c)=-8\nNUMBER(b)=0x10\n"
    info = VmcoreInfo.parse(text + b"SYMBOL(d)=%s\nOFFSET(e)=7" % (b"f" * 17))
    assert info
    assert (info.release, info.symbol("a"), info.number("b")) == ("1", 0xFFF, 16)
    assert (info.size("c"), info.symbol("d"), info.offset("e")) == (None, None, 7)
    assert info.symbol("missing") is None
    assert VmcoreInfo.parse(b"OSRELEASE=1\n") is None
    dump = memory_visualizer.formats.opening.open_dump(spoiled("texts, lines", sound, tmp_path))
    texts = VmcoreInfoSearch()
    for _ in dump.each_block(texts.scan):
        pass
    assert len(texts.found(dump)) <= dump.budget.limit("beginning of VMCOREINFO") < 600
    assert any("beginnings of VMCOREINFO left out" in remark for remark in dump.budget.remarks)


@pytest.mark.parametrize("filler", [b"OSRE", b"OSRELEAS", b"SRELEASE", b"XXXELEAS", b"X=RELEAX"])
def test_words_of_a_text(filler: bytes) -> None:
    """A text among many near matches is found."""
    contents = np.frombuffer(filler * (64 * 4096 // len(filler)), np.uint8).copy()
    places = [0, 4097, 70001, 70014, 131070, 200003, len(contents) - 10]
    for place in places:
        contents[place : place + 10] = np.frombuffer(b"OSRELEASE=", np.uint8)
    search = VmcoreInfoSearch()
    search.scan_everywhere(np.arange(64), contents.view("<u8").reshape(64, 512))
    assert sorted(np.concatenate(search._places).tolist()) == places


@pytest.mark.parametrize("place", [0, 24, 700, 3600, 4080, 4091, 8191, 63 * 4096, 63 * 4096 + 3280])
@pytest.mark.many
def test_a_text_among_other_pages(place: int) -> None:
    """A text is found at any place of its page, whatever other pages hold."""
    contents = np.random.default_rng(0).integers(128, 256, 64 * 4096, np.uint8)
    text = b"OSRELEASE=" + b"SYMBOL(name)=ffff\n" * 45
    contents[place : place + len(text)] = np.frombuffer(text, np.uint8)[: len(contents) - place]
    search = VmcoreInfoSearch()
    search.scan_everywhere(np.arange(64) + 5, contents.view("<u8").reshape(64, 512))
    assert np.concatenate(search._places).tolist() == [5 * 4096 + place]


def test_structures_that_are_not_sound(sound: tuple[bytes, LinuxTruth], tmp_path: Path) -> None:
    """Nested unnamed structures have no members, and are read up to a limit."""
    kernel = find(spoiled("types, nested", sound, tmp_path))
    assert isinstance(kernel.btf, Btf)
    assert kernel.btf.offset("task_struct", "tasks") is None


@pytest.mark.parametrize("value", ["0", "-8", "4096", "1" + "0" * 18, "f" * 16, "9" * 500])
@pytest.mark.many
def test_numbers_that_cannot_be(
    value: str, sound: tuple[bytes, LinuxTruth], tmp_path: Path
) -> None:
    """Any line of VMCOREINFO may be false."""
    contents, truth = sound
    words = np.frombuffer(contents, "<u8").reshape(-1, 512).copy()
    machine = Machine(words, truth)
    for line in machine.lines[1:]:
        name = line.split(b"=")[0].decode()
        machine.tell({name: value})
        snapshot = memory_visualizer.open(written(words, tmp_path))
        assert snapshot.classes.size == len(words)


@pytest.mark.parametrize("member", ["numbers", "nr", "thread_pid", "owner", "pt_mm"])
@pytest.mark.parametrize("offset", [0x7FFFFFFF, 0x00800000, 0xFFFFFFFF])
@pytest.mark.many
def test_an_offset_that_cannot_be(
    member: str, offset: int, sound: tuple[bytes, LinuxTruth], tmp_path: Path
) -> None:
    """With one wrong word in the description of types, the processes are still found."""
    contents, truth = sound
    start = contents.index(b"\x9f\xeb\x01\0\x18")
    size, text = struct.unpack_from("<II", contents, start + 12)
    name = contents.index(b"\0" + member.encode() + b"\0", start + 24 + text) + 1
    words = np.frombuffer(contents, "<u4", size // 4, start + 24).copy()
    [place, *_] = np.flatnonzero(words == name - start - 24 - text)
    words[place + 2] = offset
    path = tmp_path / "dump"
    path.write_bytes(contents[: start + 24] + words.tobytes() + contents[start + 24 + size :])
    told = {(one.pid, one.ppid, one.name) for one in memory_visualizer.open(path).processes}
    assert told == {(task.pid, task.ppid, task.full_name or task.comm) for task in truth.tasks}


def test_one_object_does_not_decide_where_all_lie(
    sound: tuple[bytes, LinuxTruth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most objects tell the slabs; an object inside another, or mapped elsewhere, does no harm."""
    contents, truth = sound
    words = np.frombuffer(contents, "<u8").reshape(-1, 512).copy()
    machine = Machine(words, truth)
    machine.enlarge_image()
    place = machine.task("thread_pid")
    structs = np.array([machine.get(task.address + place) for task in truth.tasks], np.uint64)
    start, frame = machine.info.symbol("_stext"), machine.kernel.frame(int(structs[0]))
    kernel = find(written(words, tmp_path))
    assert start
    image = np.arange(start, start + (64 << 20), 4096, dtype=np.uint64)
    [elsewhere, *_] = image[kernel.kernel.frames(image) == frame]
    pages = PageArray(kernel.memory, kernel.kernel, kernel.info, kernel.btf, kernel.symbols)
    slabs = TaskSlabs(kernel.kernel, pages, pages.survey())
    begins = np.unique(structs // np.uint64(4096) * np.uint64(4096))
    expected = set(each(begins, 128).tolist())
    for wild in (structs[3] + np.uint64(24), structs[0] + np.uint64(4000), elsewhere):
        examples = np.append(structs, wild)
        assert set(slabs.places(examples, 100).tolist()) == expected
    assert slabs.left_out == 0
    monkeypatch.setattr(linuxlist, "_PLACES_OF_SLAB", 8)
    assert len(slabs.places(structs)) == 8 * len(begins)
    [remark] = slabs.remarks
    assert remark.startswith(f"{(32 - 8) * len(begins)} places")
