"""Synthetic machines that go on running: dumps of the same machine, and what happened between them.

Each step is done by the writer of the machine itself. What it changes is noted by frame: the
contents of a frame are known before the dump is written, its owners by the notes of its mappings.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.synth.eras import ERAS
from tests.synth.kernel import IMAGE_TIME, INTERRUPT_TIME, RUNNING_TIME
from tests.synth.linux import _FREED, _NO_EXECUTE, _ZOMBIE, Task, _Machine, _Page, _Tables
from tests.synth.linuxclock import LinuxClock
from tests.synth.memory import PAGE_SIZE, Frames, PhysicalMemory
from tests.synth.profiles import Profile
from tests.synth.tables import NO_EXECUTE, TableTree
from tests.synth.truth import KERNEL, Ledger, Process, Truth
from tests.synth.windows import MIB, _Builder

_STEP_TIME = 6_000_000_000
"""Ten minutes between two dumps, in 100 ns."""
_LINUX_TIME = 1_555_526_400_250_000_000
"""The time of the first dump of a Linux, in ns since 1970."""
_ADDRESS = 0x000F_FFFF_FFFF_F000


@dataclass(frozen=True)
class Known:
    """What is true of each frame, and of the processes, when a dump is taken."""

    given: dict[int, bytes]
    noise: npt.NDArray[np.bool_]
    classes: npt.NDArray[np.str_]
    owners: dict[int, frozenset[int]]
    """By frame: the pids of the live processes that have it; frames without any have no entry."""
    pages: dict[int, int]
    """Pages of user mode of each live process, by pid."""
    names: dict[int, str]
    """Of all processes, by pid; also of those that have ended."""

    def contents(self, frame: int) -> bytes | bool:
        """What a frame holds: bytes, or whether it holds the noise that belongs to this frame."""
        return self.given.get(frame, bool(self.noise[frame]))


@dataclass(frozen=True)
class Happened:
    """The truth about what changed from one dump to the next."""

    before: Known
    after: Known
    made_executable: frozenset[int]
    """Frames that a process may execute now, and had before without that right."""

    def words(self, memory: PhysicalMemory) -> npt.NDArray[np.str_]:
        """The change of each frame, by the names of Change's members."""
        return np.array([self._word(frame, memory) for frame in range(memory.frames)])

    def _word(self, frame: int, memory: PhysicalMemory) -> str:
        before, after = self.before, self.after
        if (before.classes[frame] == "absent") != (after.classes[frame] == "absent"):
            raise ValueError("memory neither comes nor goes")
        if before.classes[frame] == "absent":
            return "ABSENT"
        if before.owners.get(frame) != after.owners.get(frame):
            return "OWNER"
        if frame in self.made_executable:
            return "EXECUTABLE"
        kinds = before.classes[frame], after.classes[frame]
        if kinds[0] != kinds[1] and not all(kind.startswith("unused") for kind in kinds):
            return "CLASS"
        return self.of_contents(frame, memory)

    def of_contents(self, frame: int, memory: PhysicalMemory) -> str:
        """What became of a frame's contents."""
        old, new = self.before.contents(frame), self.after.contents(frame)
        if old == new:
            return "SAME"
        # The noise of a frame is always the same, so it is as it would be now.
        told = [_plain(contents, frame, memory) for contents in (old, new)]
        if told[0] == told[1]:
            return "SAME"
        if not any(told[1]):
            return "ZEROED"
        return "CONTENTS" if any(told[0]) else "FILLED"


def _plain(contents: bytes | bool, frame: int, memory: PhysicalMemory) -> bytes:
    if isinstance(contents, bytes):
        return contents
    return memory.noise(frame) if contents else bytes(PAGE_SIZE)


class EvolvingWindows:
    """A synthetic Windows that can be dumped again and again."""

    def __init__(
        self,
        profile: Profile,
        *,
        size: int = 16 * MIB,
        seed: int = 0,
        processes: int = 10,
        kernel_pages: int | None = None,
        user_pages: int | None = None,
        free_data: float = 0.5,
        stretch: int = 1,
    ) -> None:
        """The arguments are as for windows.forge."""
        self._machine = _Growing(profile, size, seed, None, False, False, (), stretch)
        self._machine.build(processes, kernel_pages, user_pages, free_data, ())
        self.memory = self._machine.memory
        self._rng = np.random.default_rng(seed + 1000)
        self._rows = Ledger(0).mappings()
        self._dumps = 0
        self._executable: set[int] = set()
        self._freed: Frames = np.empty(0, np.int64)
        self._next_pid = 4000
        self._mapped = 0
        self.profile = profile

    # -- dumps ------------------------------------------------------------------------

    def write(self, path: Path) -> Known:
        """Write a dump of the machine as it is now, and return the truth about it."""
        self.dump(path)
        return self.known()

    def dump(self, path: Path) -> None:
        """Write a dump; ten minutes go by before each but the first."""
        running = RUNNING_TIME + self._dumps * _STEP_TIME
        now = IMAGE_TIME + self._dumps * _STEP_TIME
        page = self.memory.page(int(self._machine._shared_frame[0]))
        at = self.profile.offset("_KUSER_SHARED_DATA", "SystemTime")
        page[INTERRUPT_TIME : INTERRUPT_TIME + 8] = struct.pack("<Q", running)
        page[at : at + 12] = struct.pack("<QI", now, now >> 32)
        self._dumps += 1
        self.memory.write(path)

    def known(self) -> Known:
        """The truth at this moment."""
        self._sync()
        alive = [n for n, one in enumerate(self._processes) if not one.exited]
        truth = Truth("", "", self.memory.zeros(), self._rows, tuple(self._processes))
        owners: dict[int, set[int]] = {}
        pages: dict[int, set[int]] = {self._processes[n].pid: set() for n in alive}
        for frame, owner, size, user in zip(
            *(self._rows[name].tolist() for name in ("frame", "owner", "size", "user")), strict=True
        ):
            if owner == KERNEL:
                continue
            pid = self._processes[owner].pid
            for one in range(frame, min(frame + size // PAGE_SIZE, self.memory.frames)):
                owners.setdefault(one, set()).add(pid)
                if user:
                    pages[pid].add(one)
        return Known(
            self.memory.given(),
            self.memory.noisy(),
            truth.classes(alive),
            {frame: frozenset(pids) for frame, pids in owners.items()},
            {pid: len(frames) for pid, frames in pages.items()},
            {one.pid: one.name for one in self._processes},
        )

    def happened(self, before: Known, after: Known) -> Happened:
        """What changed from one dump to the next; the notes on rights begin anew."""
        made, self._executable = frozenset(self._executable), set()
        return Happened(before, after, made)

    # -- what may happen ----------------------------------------------------------------

    @property
    def can(self) -> dict[str, Callable[[], None]]:
        """All that can happen, by name."""
        everything = {
            "start": self.start,
            "end": self.end,
            "move": self.move,
            "unlink": self.unlink,
            "reuse": self.reuse,
            "make executable": self.make_executable,
            "write": self.write_data,
            "clear": self.clear,
        }
        if not self._machine.paging.has_no_execute:
            del everything["make executable"]
        return everything

    def start(self) -> None:
        """Start a process, in frames that are free, some of them just freed."""
        machine = self._machine
        self._next_pid += 4
        process = Process(self._next_pid, self._processes[1].pid, f"new{self._next_pid}.exe")
        machine.processes.append(process)
        machine._process(len(machine.processes) - 1, process, 24, machine._take(2), [], 0)
        machine.kernel.chain_processes()
        machine._spaces[-1].finish()

    def end(self) -> None:
        """End a process: its object stays, its frames are free, some of them cleared."""
        owner = self._one_of(1)
        process = self._processes[owner]
        process.exited = True
        self._machine.kernel.end_process(process)
        self._sync()
        own = self._rows["owner"] == owner
        frames = np.unique(self._rows["frame"][own & (self._rows["size"] == PAGE_SIZE)])
        self._rows = self._rows[~own]
        freed = np.setdiff1d(frames, self._rows["frame"])
        self.memory.free(freed)
        for frame in freed[self._rng.random(len(freed)) < 0.3].tolist():
            self.memory.put(frame, bytes(PAGE_SIZE))
        self._freed = freed
        self._executable -= set(freed.tolist())

    def move(self) -> None:
        """Move pages of a process to other frames: the old ones are free, with their contents."""
        for row in self._own_pages(5):
            old, virtual, owner = (
                int(self._rows[row][name]) for name in ("frame", "virtual", "owner")
            )
            [new] = self.memory.allocate().tolist()
            self.memory.put(new, self.memory.contents(old))
            self._entry(owner, virtual, without=_ADDRESS, with_=new << 12)
            self._rows["frame"][row] = new
            self.memory.free(np.array([old]))
            self._executable.discard(old)

    def unlink(self) -> None:
        """Take a process out of the list."""
        self._processes[self._one_of(1)].listed = False
        self._machine.kernel.chain_processes()

    def reuse(self) -> None:
        """Give frames that a process had to another one; where none ended, any free ones."""
        free = self._freed[:6] if len(self._freed) else self.memory.free_frames[:6]
        self._freed = self._freed[6:]
        self.memory.reserve(free)
        self.memory.fill_with_noise(free)
        tree = self._tree(self._one_of(0))
        at = self._machine.places.stack + MIB + (0x60 + self._mapped) * PAGE_SIZE
        self._mapped += len(free)
        tree.map(at, free, user=True)

    def make_executable(self) -> None:
        """Let a process execute pages that it could write before."""
        for row in self._own_pages(3):
            owner, virtual = int(self._rows["owner"][row]), int(self._rows["virtual"][row])
            if self._entry(owner, virtual) & NO_EXECUTE:
                self._entry(owner, virtual, without=NO_EXECUTE)
                self._executable.add(int(self._rows["frame"][row]))

    def write_data(self) -> None:
        """Write into pages of a process."""
        for row in self._own_pages(7):
            self.memory.put(int(self._rows["frame"][row]), self._rng.bytes(PAGE_SIZE))

    def clear(self) -> None:
        """Fill pages of a process with zeros."""
        for row in self._own_pages(7):
            self.memory.put(int(self._rows["frame"][row]), bytes(PAGE_SIZE))

    # -- the parts ------------------------------------------------------------------------

    @property
    def _processes(self) -> list[Process]:
        return self._machine.processes

    def _sync(self) -> None:
        """Take over the notes of mappings that were made since the last time."""
        ledger = self._machine.ledger
        self._rows = np.concatenate([self._rows, ledger.mappings()])
        ledger._notes.clear()

    def _one_of(self, session: int) -> int:
        """A live process of the second session, whose memory others share, or of none."""
        chosen = [
            n
            for n, one in enumerate(self._processes)
            if n > 3 and not one.exited and one.listed and (one.session == 1 or not session)
        ]
        return int(self._rng.choice(chosen))

    def _own_pages(self, count: int) -> list[int]:
        """Rows of pages that a live process has for itself, in user mode."""
        self._sync()
        rows = self._rows
        alone = np.bincount(rows["frame"], minlength=self.memory.frames)[rows["frame"]] == 1
        alive = np.array([not one.exited for one in self._processes])
        own = (rows["owner"] > 0) & alive[rows["owner"]]
        small = rows["user"] & ~rows["transition"] & (rows["size"] == PAGE_SIZE)
        # The block by which the version is told stays as it is.
        block = rows["virtual"] != self._machine.places.process_block
        rows_of = np.flatnonzero(alone & own & small & block)
        chosen: list[int] = self._rng.choice(rows_of, count, replace=False).tolist()
        return chosen

    def _tree(self, owner: int) -> TableTree:
        """The tables of a live process."""
        [tree] = [
            tree
            for space in self._machine._spaces
            for tree in space.trees
            if tree._owner == owner and tree._ledger is self._machine.ledger
        ]
        return tree

    def _entry(self, owner: int, virtual: int, *, without: int = 0, with_: int = 0) -> int:
        """Change the entry that maps a page; its value before is returned."""
        paging = self._machine.paging
        shift = paging.shifts[-2]
        at = virtual & (1 << paging.address_bits) - 1
        table, _ = self._tree(owner)._tables[at >> shift << shift, shift]
        index = (at >> 12) % paging.entries
        before = int(table[index])
        table[index] = before & ~without | with_
        return before


class _Growing(_Builder):
    """With room in the pool for more processes than it begins with."""

    def _kernel_image_and_pool(self, processes: int) -> None:
        super()._kernel_image_and_pool(processes + 8)


class EvolvingLinux:
    """A synthetic Linux that can be dumped again and again; ten minutes go by between two dumps."""

    def __init__(self, era: str = "6.1", *, size: int = 32 * MIB, seed: int = 0) -> None:
        self._machine = _Machine(ERAS[era], size, False, False, False, 6, seed)
        self._clock = self._machine.clock = LinuxClock(self._machine, _LINUX_TIME)
        self.memory = self._machine.memory
        self._rng = np.random.default_rng(seed + 1000)
        self._executable: set[int] = set()
        self._freed: Frames = np.empty(0, np.int64)
        self._next_pid = 500
        self._mapped = 0
        self._dumps = 0

    def write(self, path: Path) -> Known:
        """Write a dump of the machine as it is now."""
        machine = self._machine
        if self._dumps:
            self._clock.now += _STEP_TIME * 100
            self._clock.running += _STEP_TIME * 100
            self._clock.write()
            machine._list_spaces()
            machine._share_kernel_half()
            machine._describe_free(np.union1d(self.memory.free_frames, machine.image[-_FREED:]))
            machine._write_array()
            self.memory.write(path)
        else:
            machine.write(path)
        self._dumps += 1
        return self.known()

    def known(self) -> Known:
        """The truth at this moment."""
        owners: dict[int, set[int]] = {}
        pages: dict[int, set[int]] = {task.pid: set() for task in self._machine.tasks if task.alive}
        for pid, _, frame in self._machine.user:
            owners.setdefault(frame, set()).add(pid)
            pages[pid].add(frame)
        return Known(
            self.memory.given(),
            self.memory.noisy(),
            self._machine._classes(self.memory.zeros()),
            {frame: frozenset(pids) for frame, pids in owners.items()},
            {pid: len(frames) for pid, frames in pages.items()},
            {task.pid: task.comm for task in self._machine.tasks},
        )

    def happened(self, before: Known, after: Known) -> Happened:
        """What changed from one dump to the next; the notes on rights begin anew."""
        made, self._executable = frozenset(self._executable), set()
        return Happened(before, after, made)

    @property
    def can(self) -> dict[str, Callable[[], None]]:
        """All that can happen, by name."""
        return {
            "start": self.start,
            "end": self.end,
            "move": self.move,
            "unlink": self.unlink,
            "reuse": self.reuse,
            "make executable": self.make_executable,
            "write": self.write_data,
            "clear": self.clear,
            "rename": self.rename,
        }

    def start(self) -> None:
        """Start a process, in frames that are free, some of them just freed."""
        machine = self._machine
        self._next_pid += 1
        task = Task(self._next_pid, 1, f"new {self._next_pid}")
        tables, mm = machine.new_space()
        task.dtb = tables.base
        frames = self.memory.allocate(30)
        machine.give_anonymous(frames)
        for number, frame in enumerate(frames.tolist()):
            machine.map_user(tables, task, machine.heap + number * PAGE_SIZE, frame)
        machine.add_task(task, mm)
        machine._chain_tasks()
        machine._list_children()

    def end(self) -> None:
        """End a process, which waits for its parent: its frames are free, some of them cleared."""
        machine, task = self._machine, self._one()
        tables = self._tables(task)
        own = {frame for pid, _, frame in machine.user if pid == task.pid}
        machine.user = {row for row in machine.user if row[0] != task.pid}
        place = [tables for tables, _ in machine.user_tables].index(tables)
        del machine.user_tables[place], machine.spaces[place]
        task.alive = False
        machine.put(task.address + machine.task["exit_state"], struct.pack("<I", _ZOMBIE))
        machine.word(task.address + machine.task["mm"], 0, 0)
        kept = {frame for _, _, frame in machine.user}
        private = {
            frame
            for frame in own - kept
            if machine.states[frame] == "anonymous" and not self._huge(frame)
        }
        freed = np.array(sorted(private | {one for level in tables.frames for one in level}))
        self._free(freed)
        for frame in freed[self._rng.random(len(freed)) < 0.3].tolist():
            self.memory.put(frame, bytes(PAGE_SIZE))
        self._freed = freed
        self._executable -= set(freed.tolist())

    def move(self) -> None:
        """Move pages of a process to other frames: the old ones are free, with their contents."""
        machine = self._machine
        for pid, virtual, old in self._own_pages(5):
            [new] = self.memory.allocate().tolist()
            self.memory.put(new, self.memory.contents(old))
            machine.states[new], machine.pages[new] = "anonymous", machine.pages[old]
            self._entry(pid, virtual, without=_ADDRESS, with_=new << 12)
            machine.user.remove((pid, virtual, old))
            machine.user.add((pid, virtual, new))
            self._free(np.array([old]))
            self._executable.discard(old)

    def unlink(self) -> None:
        """Take a process out of the list."""
        task = self._one()
        task.listed = False
        self._machine.listed.remove(task.address)
        self._machine._chain_tasks()

    def reuse(self) -> None:
        """Give frames that a process had to another one; where none ended, any free ones."""
        free = self._freed if len(self._freed) else self.memory.allocate(6)
        free = free[np.isin(free, self.memory.free_frames)][:6] if len(self._freed) else free
        self._freed = np.empty(0, np.int64)
        self.memory.reserve(free)
        self._machine.give_anonymous(free)
        task = self._one()
        for frame in free.tolist():
            at = self._machine.heap - (1 + self._mapped) * PAGE_SIZE
            self._mapped += 1
            self._machine.map_user(self._tables(task), task, at, frame)

    def make_executable(self) -> None:
        """Let a process execute pages that it could write before."""
        for pid, virtual, frame in self._own_pages(3):
            if self._entry(pid, virtual) & _NO_EXECUTE:
                self._entry(pid, virtual, without=_NO_EXECUTE)
                self._executable.add(frame)

    def write_data(self) -> None:
        """Write into pages of a process."""
        for _, _, frame in self._own_pages(7):
            self.memory.put(frame, self._rng.bytes(PAGE_SIZE))

    def clear(self) -> None:
        """Fill pages of a process with zeros."""
        for _, _, frame in self._own_pages(7):
            self.memory.put(frame, bytes(PAGE_SIZE))

    def rename(self) -> None:
        """Give a process another name, as one that starts another program has."""
        task = self._one()
        task.comm = f"other {task.pid}"
        at = task.address + self._machine.task["comm"]
        self._machine.put(at, task.comm.encode().ljust(16, b"\0"))

    # -- the parts ------------------------------------------------------------------------

    def _free(self, frames: Frames) -> None:
        machine = self._machine
        machine.states[frames] = "free"
        for frame in frames.tolist():
            machine.pages[frame] = _Page(count=0)
        self.memory.free(frames)

    def _huge(self, frame: int) -> bool:
        """Whether a frame is part of a compound page."""
        page = self._machine.pages[frame]
        return page.head is not None or bool(page.flags & self._machine.flag("head"))

    def _one(self) -> Task:
        """A live process of which nothing is special."""
        chosen = [
            task
            for task in self._machine.tasks
            if task.pid > 1
            and task.dtb
            and task.alive
            and task.listed
            and not task.leader_has_ended
        ]
        return chosen[int(self._rng.integers(len(chosen)))]

    def _tables(self, task: Task) -> _Tables:
        return next(one for one, _ in self._machine.user_tables if one.base == task.dtb)

    def _own_pages(self, count: int) -> list[tuple[int, int, int]]:
        """Pages that one process has for itself: pid, address and frame."""
        machine = self._machine
        frames = [frame for _, _, frame in machine.user]
        times = np.bincount(frames, minlength=machine.frames)
        known = {task.pid for task in machine.tasks if task.alive and task.dtb}
        rows = sorted(
            row
            for row in machine.user
            if times[row[2]] == 1
            and row[0] in known
            and machine.states[row[2]] == "anonymous"
            and not self._huge(row[2])
            and self._entry(row[0], row[1]) & 1
        )
        return [rows[n] for n in self._rng.choice(len(rows), count, replace=False).tolist()]

    def _entry(self, pid: int, virtual: int, *, without: int = 0, with_: int = 0) -> int:
        """Change the entry that maps a page; its value before is returned."""
        machine = self._machine
        task = next(one for one in machine.tasks if one.pid == pid)
        table = task.dtb
        for shift in machine.shifts:
            place = table + (virtual >> shift) % 512 * 8
            before = int.from_bytes(machine.peek(place, 8), "little")
            table = before & _ADDRESS
        machine.poke(place, (before & ~without | with_).to_bytes(8, "little"))
        return before
