"""The law of Linux dumps: damage to one task changes only the report on that task.

For any task p, any member of it and any bytes written there, the report on all other processes
stays the same, and no frame that p does not map changes class. The same holds for tasks whose
pages are lost, up to a third of all. With MEMVIZ_LAW=N in the environment, N examples of each are
tried instead of a few.
"""

import os
import struct
from bisect import bisect
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import memory_visualizer
from memory_visualizer import Snapshot
from memory_visualizer.snapshot.process import ANOMALIES
from tests.synth.linux import MIB, LinuxTruth, Task, forge_linux

pytestmark = pytest.mark.fuzz

EXAMPLES = int(os.environ.get("MEMVIZ_LAW", "25"))
PAGE = 4096
TASK_PAGES = 2
WIDTHS = {"comm": 16, "tasks": 16, "children": 16, "sibling": 16}
WIDTHS |= dict.fromkeys(("pid", "tgid", "flags", "exit_state"), 4)
"""Bytes of members that are not 8 bytes long."""

Said = dict[int, tuple[object, ...]]
"""The report on processes, by the addresses of their objects."""


@dataclass(frozen=True)
class World:
    """A synthetic dump in a file, and the report on it while it is sound."""

    name: str
    path: Path = field(repr=False)
    truth: LinuxTruth = field(repr=False)
    sound: Snapshot = field(repr=False)
    contents: bytes = field(repr=False)

    def physical(self, task: Task) -> int:
        """A task's place in the file."""
        return task.address - self.truth.direct

    @cached_property
    def first(self) -> Task:
        """The first task, which lies in the kernel's image and is not shown as a process."""
        place = self.contents.index(b"swapper/0\0") - self.truth.places["comm"]
        return Task(0, 0, "swapper/0", address=place + self.truth.direct)

    def opened(self, changes: dict[int, bytes]) -> Snapshot:
        """The snapshot with other bytes at some places; the file is sound again afterwards."""
        with self.path.open("r+b") as file:
            for place, octets in changes.items():
                file.seek(place)
                file.write(octets)
            file.flush()
            try:
                return memory_visualizer.open(self.path)
            finally:
                for place, octets in changes.items():
                    file.seek(place)
                    file.write(self.contents[place : place + len(octets)])


@pytest.fixture(scope="module", params=["6.1", "6.12", "6.1 without BTF", "4.19"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A dump with or without the kernel's description of its types."""
    path = tmp_path_factory.mktemp("law") / "dump"
    era, _, without = request.param.partition(" ")
    truth = forge_linux(path, era, size=32 * MIB, processes=12, seed=1)
    if without:
        contents = bytearray(path.read_bytes())
        types = contents.find(b"\x9f\xeb\x01\0\x18")
        contents[types : types + 24] = bytes(24)
        path.write_bytes(contents)
    sound = memory_visualizer.open(path)
    assert {p.pid for p in sound.processes} >= {t.pid for t in truth.tasks if t.listed}
    return World(request.param, path, truth, sound, path.read_bytes())


def said(snapshot: Snapshot, *, apart_from: set[int]) -> Said:
    """The report on all processes but some, by the addresses of their objects."""
    pages = snapshot.pages_of_processes().tolist()
    return {
        process.object_address or -process.dtb: (
            process.pid,
            process.ppid,
            process.name,
            process.dtb,
            process.is_alive,
            process.is_listed,
            process.is_kernel_thread,
            process.anomalies,
            sum(own),
        )
        for process, own in zip(snapshot.processes, pages, strict=True)
        if not {process.object_address, -process.dtb} & apart_from
    }


def frames_of(snapshot: Snapshot, addresses: set[int]) -> set[int]:
    """The frames that some processes map."""
    chosen = [
        number
        for number, process in enumerate(snapshot.processes)
        if {process.object_address, -process.dtb} & addresses
    ]
    rows = snapshot.mappings.take(np.isin(snapshot.mappings.space, chosen))
    return {
        frame + n
        for frame, frames in zip(rows.pfn.tolist(), rows.count.tolist(), strict=True)
        for n in range(frames)
    }


def unreachable(world: World, damaged: list[Task]) -> list[Task]:
    """Tasks in no list of all tasks, both of whose neighbours as siblings are damaged."""
    places, lost = world.truth.places, {task.address for task in damaged}
    found: list[Task] = []
    for task in world.truth.tasks:
        links = struct.unpack_from("<QQ", world.contents, world.physical(task) + places["sibling"])
        # At both ends of the list, the parent leads to the sibling.
        leading = {
            one.address
            for one in (*world.truth.tasks, world.first)
            for link in links
            if link - one.address in (places["sibling"], places["children"])
        }
        if not task.listed and task not in damaged and leading <= lost:
            found.append(task)
    return found


def in_broken_list(world: World, damaged: list[Task]) -> set[int]:
    """Addresses of unlisted tasks whose place in the list, by their pid, is beside a damaged task.

    The report must not accuse a task as `unlinked` if the list is broken at its place.
    """
    lost = {task.address for task in damaged}
    listed = sorted((task.pid, task.address) for task in world.truth.tasks if task.listed)
    found = set()
    for task in world.truth.tasks:
        place = bisect(listed, (task.pid, 0))
        beside = {address for _, address in listed[max(place - 1, 0) : place + 1]}
        if not task.listed and beside & lost:
            found.add(task.address)
    return found


def assert_law(world: World, damaged: Snapshot, tasks: list[Task]) -> None:
    """Compare the report on all tasks but these, and on all frames but theirs.

    An unlisted process is found through its siblings' or parent's links, so it may be lost if these
    are. If the list is broken beside its place, it may count as a part of the list.
    """
    doubtful = in_broken_list(world, tasks)
    addresses = {task.address for task in tasks}
    # Page tables that lost their task are shown on their own.
    addresses |= {-task.dtb for task in tasks if task.dtb}
    if len(tasks) > 1:
        tasks = [*tasks, *unreachable(world, tasks)]
        addresses |= {key for task in tasks for key in (task.address, -task.dtb) if key}
    now, before = (said(one, apart_from=addresses) for one in (damaged, world.sound))
    for address in doubtful & now.keys() & before.keys():
        now[address] = (*now[address][:5], before[address][5], *now[address][6:])
    assert now == before
    for process in damaged.processes:
        assert set(process.anomalies) <= ANOMALIES.keys()
    changed = set(np.flatnonzero(damaged.classes != world.sound.classes).tolist())
    pages = {world.physical(task) // PAGE + n for task in tasks for n in range(TASK_PAGES)}
    assert changed <= frames_of(world.sound, addresses) | pages


def values(world: World, width: int) -> st.SearchStrategy[bytes]:
    """The worst bytes: random ones, addresses of other objects, small numbers, zeros."""
    addresses = [task.address for task in world.truth.tasks]
    places = [0, *world.truth.places.values()]
    words = st.one_of(
        st.builds(
            lambda task, place: task + place, st.sampled_from(addresses), st.sampled_from(places)
        ),
        st.integers(0, len(world.sound.classes) - 1).map(lambda f: world.truth.direct + f * PAGE),
        st.integers(0, 400),
        st.sampled_from([0, 2**64 - 1, 0xDEAD_0000_0000_0122, 2**63, 2**47]),
        st.integers(0, 2**64 - 1),
    )
    made_of_words = st.lists(words, min_size=2, max_size=2).map(
        lambda pair: struct.pack("<QQ", *pair)[:width]
    )
    return st.one_of(made_of_words, st.binary(min_size=width, max_size=width))


@pytest.mark.parametrize("octets", [bytes(16), b"\xff" * 16, b"\5" + bytes(15)], ids=bytes.hex)
@pytest.mark.many
def test_each_member_of_the_first_task(world: World, octets: bytes) -> None:
    """Even without the kernel's types, no decision rests on the first task alone."""
    for member, place in world.truth.places.items():
        change = octets[: WIDTHS.get(member, 8)]
        damaged = world.opened({world.physical(world.first) + place: change})
        assert_law(world, damaged, [world.first])


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"\xb0\xb0\xd0\xba"], ids=bytes.hex)
@pytest.mark.many
def test_the_whole_first_task_lost(world: World, filler: bytes) -> None:
    """No single object is needed: the list is read from another task on."""
    lost = (filler * PAGE)[: TASK_PAGES * PAGE]
    damaged = world.opened({world.physical(world.first): lost})
    assert_law(world, damaged, [world.first])
    assert any("first task" in remark for remark in damaged.remarks)


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"\xb0\xb0\xd0\xba"], ids=bytes.hex)
@pytest.mark.many
def test_all_tasks_beside_the_first_lost(world: World, filler: bytes) -> None:
    """The first task leads to lost tasks only; all known kernel threads are lost, too."""
    names = ("init", "kthreadd", "kworker/0:0", "ksoftirqd/0")
    last = max((task for task in world.truth.tasks if task.listed), key=lambda task: task.pid)
    tasks = [task for task in world.truth.tasks if task.comm in names or task is last]
    lost = (filler * PAGE)[: TASK_PAGES * PAGE]
    damaged = world.opened({world.physical(task): lost for task in tasks})
    assert_law(world, damaged, tasks)


def test_a_name_lost_beside_the_first_task(world: World) -> None:
    """Without types, names tell the list of all tasks; longer names have ends that look alike."""
    task = world.truth.tasks[0]
    place = world.physical(task) + world.truth.places["comm"]
    assert_law(world, world.opened({place: b"\xff" * 16}), [task])


@pytest.mark.parametrize("member", ["pid", "tgid"])
@pytest.mark.many
def test_init_with_a_number_of_kthreadd(world: World, member: str) -> None:
    """Without types, the children of kthreadd tell the flag of kernel threads."""
    task = world.truth.tasks[0]
    place = world.physical(task) + world.truth.places[member]
    assert_law(world, world.opened({place: struct.pack("<I", 2)}), [task])


def test_siblings_of_a_hidden_task(world: World) -> None:
    """A task in no list of all tasks is found from both sides: one of them may be damaged."""
    places, tasks = world.truth.places, world.truth.tasks
    hidden = next(task for task in tasks if not task.listed)
    beside = struct.unpack_from("<QQ", world.contents, world.physical(hidden) + places["sibling"])
    lost = [task for task in tasks if task.address + places["sibling"] in beside]
    assert lost
    for task in lost:
        for octets in (bytes(16), b"LibvirtQemudSave"):
            damaged = world.opened({world.physical(task) + places["sibling"]: octets})
            assert_law(world, damaged, [task])


def test_the_first_task_leads_nowhere(world: World) -> None:
    """Without the first task's links, the search begins at a thread that every kernel has."""
    first = world.physical(world.first)
    links = [world.truth.places[member] for member in ("tasks", "children")]
    damaged = world.opened({first + place: bytes(16) for place in links})
    assert_law(world, damaged, [world.first])
    assert any("leads to no other task" in remark for remark in damaged.remarks)


# A third of all tasks, chosen so that a decision loses its witnesses.


def thirds(world: World) -> dict[str, list[Task]]:
    """Tasks that are witnesses of the same decision, a third of all."""
    everyone = world.truth.tasks
    count = len(everyone) // 3
    listed = [task for task in everyone if task.listed]
    return {
        "oldest": listed[:count],
        "at both ends": listed[: count // 2] + listed[-count // 2 :],
        "neighbours of others": listed[1::2][:count],
        "kernel threads": [task for task in everyone if not task.dtb][:count],
        "at the highest addresses": sorted(everyone, key=lambda task: task.address)[-count:],
    }


THIRDS = ["oldest", "at both ends", "neighbours of others", "kernel threads"]
THIRDS.append("at the highest addresses")


@pytest.mark.many
@pytest.mark.parametrize("which", THIRDS)
def test_a_third_lost_with_the_first_task(world: World, which: str) -> None:
    """No known name of a kernel thread is left, or no parent, or no neighbour of others."""
    tasks = [*thirds(world)[which][:-1], world.first]
    lost = bytes(TASK_PAGES * PAGE)
    assert_law(world, world.opened({world.physical(task): lost for task in tasks}), tasks)


@pytest.mark.many
@pytest.mark.parametrize("which", THIRDS)
def test_a_third_holds_copies_of_one_task(world: World, which: str) -> None:
    """Copies have one vote on offsets, and children keep their parents."""
    tasks = thirds(world)[which]
    one = next(task for task in world.truth.tasks if task.listed and task not in tasks)
    begin, size = world.physical(one), max(world.truth.places.values()) + 64
    copied = world.contents[begin : begin + size]
    damaged = world.opened({world.physical(task): copied for task in tasks})
    assert_law(world, damaged, tasks)


@pytest.mark.many
@pytest.mark.parametrize("which", THIRDS)
def test_a_third_holds_the_bytes_of_each_other(world: World, which: str) -> None:
    """A sound task is found in its slab even if links of damaged tasks lead to it in vain."""
    tasks, size = thirds(world)[which], max(world.truth.places.values()) + 64
    begins = [world.physical(task) for task in tasks]
    moved = [world.contents[begin : begin + size] for begin in begins]
    changes = dict(zip(begins, moved[1:] + moved[:1], strict=True))
    assert_law(world, world.opened(changes), tasks)


@pytest.mark.many
@pytest.mark.parametrize("which", THIRDS)
@pytest.mark.parametrize("member", ["pid", "tgid"])
def test_a_third_has_no_pid(world: World, member: str, which: str) -> None:
    """The others tell where pids stand."""
    tasks, place = thirds(world)[which], world.truth.places[member]
    damaged = world.opened({world.physical(task) + place: bytes(4) for task in tasks})
    assert_law(world, damaged, tasks)


LAW = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),  # a failing example is small anyway
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@LAW
@given(data=st.data())
def test_any_bytes_in_any_member(world: World, data: st.DataObject) -> None:
    """One member of one task has any bytes; the first task of all is tried, too."""
    tasks = (*world.truth.tasks, world.first)
    task = tasks[data.draw(st.integers(0, len(tasks) - 1))]
    member = data.draw(st.sampled_from(sorted(world.truth.places)))
    octets = data.draw(values(world, WIDTHS.get(member, 8)))
    place = world.physical(task) + world.truth.places[member]
    assert_law(world, world.opened({place: octets}), [task])


@LAW
@given(data=st.data())
def test_pages_lost(world: World, data: st.DataObject) -> None:
    """The pages of up to a third of the tasks are zeros, ones, or the mark of unread pages."""
    limit = len(world.truth.tasks) // 3
    numbers = st.sets(st.integers(0, len(world.truth.tasks) - 1), min_size=1, max_size=limit)
    tasks = [world.truth.tasks[number] for number in data.draw(numbers)]
    filler = data.draw(st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xb0\xb0\xd0\xba"]))
    lost = filler * (TASK_PAGES * PAGE // 4)
    assert_law(world, world.opened({world.physical(task): lost for task in tasks}), tasks)


@LAW
@given(data=st.data())
def test_links_lost(world: World, data: st.DataObject) -> None:
    """With zeroed links in up to a third of the tasks, no process is lost, not even these."""
    limit = len(world.truth.tasks) // 3
    numbers = st.sets(st.integers(0, len(world.truth.tasks) - 1), min_size=1, max_size=limit)
    tasks = [world.truth.tasks[number] for number in data.draw(numbers)]
    place = world.truth.places["tasks"]
    damaged = world.opened({world.physical(task) + place: bytes(16) for task in tasks})
    assert_law(world, damaged, tasks)
    names = {(process.pid, process.name) for process in world.sound.processes}
    assert {(process.pid, process.name) for process in damaged.processes} == names
