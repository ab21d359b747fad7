"""Linux dumps made to waste time and memory: the kernel's description of itself does not end.

Each begins as a sound dump, which its cost is compared with, and keeps its size.
"""

import struct
from collections.abc import Callable
from typing import cast

import numpy as np
import numpy.typing as npt

from memory_visualizer.formats.base import Dump
from memory_visualizer.limits import Budget
from memory_visualizer.linux.kernel import find_kernel
from memory_visualizer.linux.vmcoreinfo import VmcoreInfo
from tests.synth.linux import LinuxTruth

PAGE = 4096
_USER, _KERNEL, _LARGE = 0x67, 0x63, 1 << 7
_KERNEL_THREAD, _WORKER, _ZOMBIE = 0x200000, 0x20, 32
_CLOCK = (1_795_353_943, 57, -1_795_353_887, 455_343_377, 1_795_353_886_544_656_623, 0)
"""Six members of a timekeeper that agree: see linux/clock.py."""
_IMAGE_BASE = 0xFFFF_FFFF_8000_0000

Words = npt.NDArray[np.uint64]
"""All memory, shape (frames, 512)."""
Frames = npt.NDArray[np.int64]
Spoiler = Callable[[np.random.Generator, Words, LinuxTruth], None]


class Memory:
    """Frames as the engine reads them."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.frame_count = len(words)
        self.held = np.ones(len(words), bool)
        self.budget = Budget(len(words))

    def read_frames(self, frames: Frames) -> Words:
        """As Dump.read_frames."""
        known = (frames >= 0) & (frames < self.frame_count)
        contents: Words = self.words[np.where(known, frames, 0)]
        contents[~known] = 0
        return contents


class Machine:
    """A sound dump, to be altered."""

    def __init__(self, words: Words, truth: LinuxTruth) -> None:
        self.words, self.truth = words, truth
        self.lines = self._page(truth.text_frames[0]).split(b"\0")[0].splitlines()
        info = VmcoreInfo.parse(b"\n".join(self.lines))
        assert info
        found = find_kernel(cast(Dump, Memory(words)), [info])
        assert found and found.btf
        self.info, self.kernel, self.symbols, self.btf = (
            info,
            found.kernel,
            found.symbols,
            found.btf,
        )
        task = next(task for task in truth.tasks if task.pid == 1)
        self.direct = task.address - self.kernel.frame(task.address) * PAGE
        unused = np.flatnonzero(np.char.startswith(truth.classes, "unused"))
        self.unused: Frames = unused[unused > 256]
        runs = np.split(self.unused, np.flatnonzero(np.diff(self.unused) != 1) + 1)
        self.run: Frames = max(runs, key=len)
        """The longest run of unused frames."""

    def _page(self, frame: int) -> bytes:
        return bytes(self.words[frame].data)

    def at(self, frames: "int | Frames") -> Words:
        """Addresses of frames in the direct map."""
        return np.uint64(self.direct) + np.asarray(frames, np.uint64) * np.uint64(PAGE)

    def put(self, address: int, *values: int) -> None:
        """Write words at an address that is mapped."""
        for number, value in enumerate(values):
            frame, inside = self.kernel.frame(address + 8 * number), (address + 8 * number) % PAGE
            self.words[frame, inside // 8] = value % 2**64

    def get(self, address: int) -> int:
        """Read a word at an address that is mapped."""
        return int(self.words[self.kernel.frame(address), address % PAGE // 8])

    def offset(self, structure: str, member: str) -> int:
        """Offset of a member in a structure."""
        place = self.btf.offset(structure, member)
        assert place is not None
        return place

    def task(self, member: str) -> int:
        """Offset of a member in a task."""
        return self.offset("task_struct", member)

    def fill(self, frames: Frames, text: bytes) -> None:
        """Fill frames with repetitions of a text, as one run."""
        raw = np.resize(np.frombuffer(text, np.uint8), len(frames) * PAGE)
        self.words[frames] = raw.view("<u8").reshape(-1, 512)

    def tell(self, values: dict[str, str | None]) -> None:
        """Write other values into VMCOREINFO; None leaves a line out."""
        kept = []
        for line in self.lines:
            name = line.split(b"=")[0].decode()
            if name not in values:
                kept.append(line)
        kept += [f"{name}={value}".encode() for name, value in values.items() if value is not None]
        text = b"\n".join(kept) + b"\n"
        note = struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text
        for frame, contents in zip(self.truth.text_frames, (text, note), strict=True):
            self.words[frame] = np.frombuffer(contents.ljust(PAGE, b"\0")[:PAGE], "<u8")

    def hide_symbols(self) -> None:
        """Hide the table of symbols, which then can neither be looked up nor be found."""
        self.tell(
            {line.split(b"=")[0].decode(): None for line in self.lines if b"kallsyms" in line}
        )
        table = self.info.symbol("kallsyms_token_table")
        assert table
        self.put(table, *[0] * 64)

    def hide_types(self) -> None:
        """Damage the header of the description of types."""
        self.put(self.symbols["__start_BTF"] // 8 * 8, 0, 0)

    def enlarge_image(self) -> None:
        """Extend the kernel's image over all memory by large pages, the longest run first."""
        start = self.info.symbol("_stext")
        assert start
        table = self.truth.top
        for shift in (39, 30):
            table = int(self.words[table, (start >> shift) % 512] >> np.uint64(12)) & 0xFFFFFFFF
        for number in range(2, 128):
            frame = (int(self.run[0]) // 512 + number - 2) * 512 % len(self.words)
            entry = frame << 12 | _KERNEL | _LARGE
            self.words[table, (start >> 21) % 512 + number] = entry

    def write(self, addresses: Words, values: "Words | Frames | int", size: int = 8) -> None:
        """Write numbers at addresses in the direct map."""
        place = (addresses - np.uint64(self.direct)).astype(np.int64)
        octets = self.words.reshape(-1).view(f"<u{size}")
        octets[place // size] = values

    def link_tasks(self, tasks: Words) -> None:
        """Make a list of these tasks."""
        first = self.symbols["init_task"]
        links = np.append(tasks, np.uint64(first)) + np.uint64(self.task("tasks"))
        self.write(links[:-1], links[1:])
        self.write(links[1:-1] + np.uint64(8), links[:-2])
        self.put(int(links[-1]), int(links[0]), int(links[-2]))
        self.write(links[:1] + np.uint64(8), int(links[-1]))

    def make_tasks(self, frames: Frames, **members: "Words | int") -> Words:
        """Make a task in each of these frames, and list all of them."""
        tasks = self.at(frames)
        self.words[frames] = 0
        for member, value in members.items():
            size = 4 if member in ("flags", "exit_state", "tgid", "pid") else 8
            self.write(tasks + np.uint64(self.task(member)), value, size)
        self.write(tasks + np.uint64(self.task("tgid")), np.arange(len(tasks)) % 30000 + 1000, 4)
        self.write(tasks + np.uint64(self.task("comm")), int.from_bytes(b"made up", "little"))
        self.link_tasks(tasks)
        return tasks

    @property
    def pgd(self) -> int:
        """Offset of the top-level table's address in an mm_struct."""
        return self.offset("mm_struct", "pgd")

    @property
    def memory(self) -> int:
        """A sound mm_struct."""
        task = next(task for task in self.truth.tasks if task.dtb and task.alive)
        return self.get(task.address + self.task("mm"))

    @property
    def array(self) -> int:
        """Address of the array of struct page."""
        place = self.info.symbol("mem_section")
        assert place
        return self.get(self.get(place)) & ~0xFFF

    def link_spaces(self, frames: Frames) -> None:
        """Make a list of address spaces with these top-level tables."""
        links = np.uint64(self.array + 8) + frames.astype(np.uint64) * np.uint64(64)
        head = self.symbols["pgd_list"]
        self.put(head, int(links[0]), int(links[-1]))
        following = np.append(links[1:], np.uint64(head))
        for link, value in zip(links.tolist(), following.tolist(), strict=True):
            self.put(link, value)


def _entries(frames: Frames, flags: int) -> Words:
    return frames.astype(np.uint64) << np.uint64(12) | np.uint64(flags)


def each(pages: Words, step: int) -> Words:
    """All addresses in pages at this distance."""
    addresses: Words = np.add.outer(pages, np.arange(0, PAGE, step, dtype=np.uint64))
    return addresses.ravel()


def _dense_tasks(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """A task begins every 16 bytes of all unused memory."""
    machine = Machine(words, truth)
    links = each(machine.at(machine.unused), 16)
    machine.words[machine.unused] = 0
    machine.link_tasks(links - np.uint64(machine.task("tasks")))


def _apart_tasks(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """A task without memory in each unused frame, in random order."""
    machine = Machine(words, truth)
    machine.make_tasks(rng.permutation(machine.unused))


def _sharing_tasks(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """The same, with one address space for all."""
    machine = Machine(words, truth)
    machine.make_tasks(rng.permutation(machine.unused), mm=machine.memory)


def _own_tables(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """Tasks with tables of their own, each of which leads to many of the others."""
    machine = Machine(words, truth)
    frames = rng.permutation(machine.unused)
    half = len(frames) // 2
    tasks, roots = frames[:half], frames[half : 2 * half]
    words[roots, :256] = _entries(rng.choice(roots, (half, 256)), _USER)
    words[roots, 256:] = words[truth.top, 256:]
    machine.make_tasks(tasks, mm=machine.at(tasks) + np.uint64(3072 - machine.pgd))
    machine.write(machine.at(tasks) + np.uint64(3072), machine.at(roots))


def _workers(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """Each task is a worker of the kernel with a long name."""
    machine = Machine(words, truth)
    frames = rng.permutation(machine.unused)
    flags = _KERNEL_THREAD | _WORKER
    others = machine.at(np.roll(frames, 7))
    tasks = machine.make_tasks(frames, flags=flags, worker_private=others + np.uint64(3072))
    machine.write(tasks + np.uint64(3072 + machine.offset("kthread", "data")), tasks)
    machine.write(tasks + np.uint64(3072 + machine.offset("kthread", "full_name")), tasks)
    for member in ("pool", "desc"):
        machine.write(tasks + np.uint64(machine.offset("worker", member)), int(tasks[0]))


def _ended(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """All tasks have ended, and share one list of threads with all of them."""
    machine = Machine(words, truth)
    frames = rng.permutation(machine.unused)
    signal = machine.at(frames)[0] + np.uint64(3072)
    tasks = machine.make_tasks(frames, exit_state=_ZOMBIE, signal=int(signal))
    nodes = tasks + np.uint64(machine.task("thread_node"))
    machine.write(nodes, np.roll(nodes, -1))
    head = signal + np.uint64(machine.offset("signal_struct", "thread_head"))
    machine.write(head[None], int(nodes[0]))


def _distant_tasks(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """Each task lies behind a page table of its own."""
    machine = Machine(words, truth)
    third = len(machine.unused) // 3
    tasks, tables, directories = rng.permutation(machine.unused)[: 3 * third].reshape(3, -1)
    slot = 256 + int(np.flatnonzero(words[truth.top, 256:] == 0)[40])
    pointers, directories = directories[0], directories[1 : 2 + third // 512]
    words[truth.top, slot] = pointers << 12 | _KERNEL
    words[tables] = words[directories] = words[pointers] = 0
    words[pointers, : len(directories)] = _entries(directories, _KERNEL)[:512]
    number = np.arange(third)
    words[directories[number // 512], number % 512] = _entries(tables, _KERNEL)
    words[tables, 0] = _entries(tasks, _KERNEL)
    # The top level's highest bit is repeated above.
    virtual = (0xFFFF << 48) + (slot << 39) + (number.astype(np.uint64) << np.uint64(21))
    words[tasks] = 0
    link = machine.task("tasks")
    words[tasks, link // 8] = np.roll(virtual, -1) + np.uint64(link)
    machine.put(machine.symbols["init_task"] + link, int(virtual[0]) + link)


def _spaces(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """The list of address spaces leads to all unused frames, each a table of user mode."""
    machine = Machine(words, truth)
    frames = rng.permutation(machine.unused)
    words[frames] = _entries(rng.choice(frames, (len(frames), 512)), _USER)
    machine.link_spaces(frames)


def _idle_spaces(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """The same, with tables that lead nowhere."""
    machine = Machine(words, truth)
    frames = rng.permutation(machine.unused)
    words[frames] = 0
    machine.link_spaces(frames)


def _sections(bits: int) -> Spoiler:
    """Each section is small and has its own array of struct pages; the list of spaces is long."""

    def spoil(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
        machine = Machine(words, truth)
        machine.tell({"NUMBER(SECTION_SIZE_BITS)": str(bits), "SIZE(mem_section)": "8"})
        place = machine.info.symbol("mem_section")
        assert place
        array, root = machine.array, machine.get(place)
        words[machine.unused] = 0
        machine.link_spaces(machine.unused)
        for number in range(min(512, len(words) * PAGE >> bits)):
            machine.put(root + 8 * number, array + PAGE * (number % 8) | 0xF)

    return spoil


def _large_struct_pages(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """Each struct page fills a whole page."""
    machine = Machine(words, truth)
    machine.tell({"SIZE(page)": "4096", "NUMBER(SECTION_SIZE_BITS)": "40"})


def _large_sections(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """All memory is one section."""
    machine = Machine(words, truth)
    machine.tell({"SIZE(page)": "256", "NUMBER(SECTION_SIZE_BITS)": "40"})


def _relatives(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """The list of tasks is broken; each unused frame is a task that only its sibling names."""
    machine = Machine(words, truth)
    frames = rng.permutation(machine.unused)
    tasks = machine.make_tasks(frames)
    machine.write(tasks + np.uint64(machine.task("pid")), np.arange(len(tasks)) % 30000 + 1000, 4)
    machine.write(tasks + np.uint64(machine.task("tasks")), 0)
    machine.write(tasks + np.uint64(machine.task("tasks") + 8), 0)
    links = tasks + np.uint64(machine.task("sibling"))
    machine.write(links[:-1], links[1:])
    machine.write(links[1:] + np.uint64(8), links[:-1])
    head = machine.symbols["init_task"] + machine.task("children")
    machine.put(head, int(links[0]), int(links[-1]))
    machine.write(links[:1] + np.uint64(8), head)


def _pairs(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """A tree of tasks, each with two children; every second task of the list leads on and back.

    Pids ascend, so other tasks could lie behind each pair by their pids.
    """
    machine = Machine(words, truth)
    tasks = machine.make_tasks(rng.permutation(machine.unused))
    number = np.arange(len(tasks))
    machine.write(tasks + np.uint64(machine.task("pid")), number % 30000 + 1000, 4)
    links, back = tasks + np.uint64(machine.task("tasks")), np.uint64(8)
    even, odd = links[:-1:2], links[1::2]
    machine.write(links, 0)
    machine.write(links + back, 0)
    machine.write(even, odd)
    machine.write(odd + back, even)
    children = tasks + np.uint64(machine.task("children"))
    siblings = tasks + np.uint64(machine.task("sibling"))
    half = (len(tasks) - 1) // 2
    left, right = siblings[1 : 2 * half : 2], siblings[2 : 2 * half + 1 : 2]
    machine.write(children[:half], left)
    machine.write(left + back, children[:half])
    machine.write(left, right)
    machine.write(right + back, left)
    head = machine.symbols["init_task"] + machine.task("children")
    machine.put(head, int(siblings[0]), int(siblings[0]))
    machine.write(siblings[:1] + back, head)


def _linked(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """All frames are free and in lists, each of which has its head in another page."""
    machine = Machine(words, truth)
    frames = np.arange(len(words))
    rows = np.zeros((len(words), 8), np.uint64)
    heads = machine.at(rng.permutation(machine.unused)) + np.uint64(128)
    rows[:, 1] = np.resize(heads, len(words))
    rows[:, 6] = 0xFFFFFFFF
    links = np.uint64(machine.array + 8) + frames.astype(np.uint64) * np.uint64(64)
    machine.write(heads + np.uint64(8), links[: len(heads)])
    for number in range(len(words) * 64 // PAGE):
        frame = machine.kernel.frame(machine.array + number * PAGE)
        words[frame] = rows[number * 64 : number * 64 + 64].reshape(-1)


def _symbols(packed: bytes) -> Spoiler:
    """The table of symbols is a single packed name, repeated."""

    def spoil(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
        machine = Machine(words, truth)
        size = min(len(machine.run) * PAGE - PAGE * 16, 1 << 26)
        start = int(machine.at(machine.run[0]))
        machine.fill(machine.run, packed)
        table, index = start + size, start + size + (1 << 15)
        tokens = b"".join(bytes([max(code, 1)]) + b"\0" for code in range(256)).ljust(1 << 15)
        raw = tokens + struct.pack("<256H", *range(0, 512, 2))
        words[machine.run[0] + size // PAGE :][:9] = np.frombuffer(
            raw.ljust(9 * PAGE, b"\0"), "<u8"
        ).reshape(9, -1)
        count = index + 1024
        machine.put(count, size // len(packed))
        places = {"names": start, "token_table": table, "token_index": index}
        places |= {"num_syms": count, "offsets": start}
        machine.tell({f"SYMBOL(kallsyms_{part})": f"{at:x}" for part, at in places.items()})

    return spoil


def _image(text: bytes, *, types: bool = True) -> Spoiler:
    """The kernel's image is all memory, and its unused part repeats one text."""

    def spoil(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
        machine = Machine(words, truth)
        machine.fill(machine.unused, text)
        machine.enlarge_image()
        machine.hide_symbols()
        if not types:
            machine.hide_types()

    return spoil


def _bases(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """Many places may be the beginning of the table of symbols, and many the index of tokens."""
    machine = Machine(words, truth)
    start = machine.info.symbol("_stext")
    assert start
    digits = b"\0".join(b"%d" % digit for digit in range(10)) + b"\0"
    index = struct.pack("<256H", *range(0, 512, 2))
    base = struct.pack("<QQ", start & ~0x1FFFFF, 0xFFFFF)
    machine.fill(machine.unused, (digits.ljust(32, b"\0") + index * 7 + base * 30))
    machine.enlarge_image()
    machine.hide_symbols()


def _types(kind: str) -> Spoiler:
    """The description of types is large, and repeats one kind of trick."""

    def spoil(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
        machine = Machine(words, truth)
        size = min(len(machine.run) * PAGE, 1 << 25, len(words) * PAGE // 8) - 2 * PAGE
        names = [b"task_struct", b"tasks", b"tgid", b"real_parent", b"comm", b"mm", b"page"]
        names += [b"mm_struct", b"pgd", b"flags", b"resource", b"PG_slab"]
        text = b"\0" + b"\0".join(names) + b"\0"
        types = np.zeros(size // 4 if kind != "text" else 64, "<u4")
        place = text.find(b"\0task_struct\0") + 1
        if kind == "small":
            types[1::3] = 2 << 24
        elif kind == "named":
            types[:] = place
        elif kind == "nested":  # structures that contain only structures without a name
            each = 3 + 3 * 0xFFFF
            number = len(types) // each
            table = types[: number * each].reshape(number, each)
            table[:, 0], table[:, 1] = place, 4 << 24 | 0xFFFF
            table[:, 4::3] = rng.integers(1, number + 1, (number, 0xFFFF))
            types = table.reshape(-1)
        if kind == "text":
            text = (text + b"\0task_struc\0tgi\0pag\0mm_struc\0resourc" * (size // 40))[:size]
        header = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, types.nbytes, types.nbytes, len(text)
        )
        blob = header + types.tobytes() + text
        pages = -(-len(blob) // PAGE)
        words[machine.run[:pages]] = np.frombuffer(blob.ljust(pages * PAGE, b"\0"), "<u8").reshape(
            -1, 512
        )
        machine.hide_types()
        machine.enlarge_image()
        machine.hide_symbols()

    return spoil


def _texts(kind: str) -> Spoiler:
    """All unused frames begin as VMCOREINFO does."""

    def spoil(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
        machine = Machine(words, truth)
        if kind == "lines":
            lines = b"OSRELEASE=6.1\nSYMBOL(a)=1\n" + b"A=1\n" * 1017
            machine.fill(machine.unused, lines.ljust(PAGE, b"B"))
        elif kind == "alike":  # everything but the release is right
            text = b"\n".join(machine.lines).replace(b"OSRELEASE=6", b"OSRELEASE=7")
            machine.fill(machine.unused, text.ljust(PAGE, b"\n"))
        else:
            machine.fill(machine.unused, b"OSRELEAS")
        if kind != "alike":
            numbers = machine.unused.astype("S8").view(np.uint64)
            words[machine.unused, 500] = numbers[: len(machine.unused)]
        if kind == "anywhere":
            words[list(truth.text_frames)] = 0

    return spoil


def _resources(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """All unused memory is resources, each of which has all the others below it."""
    machine = Machine(words, truth)
    name = machine.at(machine.unused[-1:])
    machine.write(name, int.from_bytes(b"System R", "little"))
    machine.write(name + np.uint64(8), int.from_bytes(b"AM\0", "little"))
    at = each(machine.at(machine.unused[:-1]), 64)
    rows = np.zeros((len(at), 8), np.uint64)
    rows[:, 1] = len(words) * PAGE - 1
    rows[:, 2], rows[:-1, 6], rows[:, 7] = name[0], at[1:], at[0]
    words[machine.unused[:-1]] = rows.reshape(-1, 512)
    machine.put(machine.symbols["iomem_resource"] + 56, int(at[0]))


def _formless(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """Without types: a long list of tasks, whose words may all be pointers."""
    machine = Machine(words, truth)
    frames = rng.permutation(machine.unused)
    tasks = machine.at(frames)
    words[frames] = np.repeat(np.roll(tasks, 1), 512).reshape(-1, 512)
    machine.write(tasks + np.uint64(machine.task("comm")), int.from_bytes(b"made up", "little"))
    first, link = machine.symbols["init_task"], machine.task("tasks")
    for place in range(0, machine.task("comm") - 7, 8):
        if place not in (link, link + 8):
            machine.put(first + place, 0)
    machine.link_tasks(tasks)
    machine.hide_types()


def _nameless(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
    """Without tasks and types: each unused page looks like the kernel's top-level table."""
    machine = Machine(words, truth)
    own = words[truth.top]
    words[machine.unused] = own
    words[machine.unused, :8] = _entries(
        rng.choice(machine.unused, (len(machine.unused), 8)), _USER
    )
    counts = np.uint64(machine.array) + machine.unused.astype(np.uint64) * np.uint64(64)
    for address in counts.tolist():
        machine.put(address + 48, 1 << 32 | 0xFFFFFFFF)
    machine.put(machine.symbols["init_task"], *[0] * 1024)
    machine.hide_types()


CRAFTED_LINUX: dict[str, Spoiler] = {
    "tasks, dense": _dense_tasks,
    "tasks, apart": _apart_tasks,
    "tasks, sharing": _sharing_tasks,
    "tasks, own tables": _own_tables,
    "tasks, distant": _distant_tasks,
    "tasks, brothers": _relatives,
    "tasks, in pairs": _pairs,
    "workers": _workers,
    "ended": _ended,
    "spaces": _spaces,
    "spaces, idle": _idle_spaces,
    "sections, too small": _sections(20),
    "sections, apart": _sections(24),
    "sections, large": _large_sections,
    "struct pages, large": _large_struct_pages,
    "struct pages, linked": _linked,
    "symbols, empty": _symbols(b"\0"),
    "symbols, alike": _symbols(b"\x0cDinit_uts_nx"),
    "symbols, alike from the end": _symbols(b"\x0cDxnit_uts_ns"),
    "image of digits": _image(b"\0".join(b"%d" % digit for digit in range(10)) + b"\0"),
    "image of zeros and digits": _image(b"0\0"),
    "image of first tasks": _image(b"swapper/0\0"),
    "image of types": _image(b"\x9f\xeb\x01\0\x18\0\0\0", types=False),
    "image of bases": _bases,
    "image of clocks": _image(struct.pack("<6q", *_CLOCK)),
    "types, small": _types("small"),
    "types, named": _types("named"),
    "types, nested": _types("nested"),
    "types, text": _types("text"),
    "texts, lines": _texts("lines"),
    "texts, alike": _texts("alike"),
    "texts, anywhere": _texts("anywhere"),
    "resources": _resources,
    "formless": _formless,
    "nameless": _nameless,
}
"""Makers; each alters a dump's words in place, by its truth (era 6.1)."""


def _cached(folders: Callable[[Words], Words]) -> Spoiler:
    """Each unused frame is a page of a file of its own, and holds its inode and directory entry.

    `folders` gives each one's parent directory entry; an entry that is its own parent is a root.
    """

    def spoil(rng: np.random.Generator, words: Words, truth: LinuxTruth) -> None:
        machine = Machine(words, truth)
        assert truth.files
        frames = rng.permutation(machine.unused)
        inodes = machine.at(frames)
        entries, names = inodes + np.uint64(2048), inodes + np.uint64(3072)
        words[frames] = 0
        name = machine.offset("dentry", "d_name")
        spaces = inodes + np.uint64(machine.offset("inode", "i_data"))
        for at, structure, member, values in (
            (spaces, "address_space", "host", inodes),
            (inodes, "inode", "i_mapping", spaces),
            (inodes, "inode", "i_dentry", entries + np.uint64(machine.offset("dentry", "d_u"))),
            (entries, "dentry", "d_parent", folders(entries)),
            (entries, "dentry", "d_inode", inodes),
        ):
            machine.write(at + np.uint64(machine.offset(structure, member)), values)
        machine.write(entries + np.uint64(name + machine.offset("qstr", "len")), 1, 4)
        machine.write(entries + np.uint64(name + machine.offset("qstr", "name")), names)
        machine.write(names, ord("n"))
        _cache(machine, frames, spaces, next(iter(truth.files.pages)))

    return spoil


def _cache(machine: Machine, frames: Frames, spaces: Words, like: int) -> None:
    """Make the struct pages of frames like that of a cached page, each with a file of its own."""
    place = machine.info.offset("page.mapping")
    assert place
    array = machine.array
    own = [machine.get(array + 64 * like + 8 * number) for number in range(8)]
    rows = np.tile(np.array(own, np.uint64), (len(frames), 1))
    rows[:, place // 8], rows[:, place // 8 + 1] = spaces, 0
    for first in range(0, len(machine.words), 64):
        chosen = np.flatnonzero((frames >= first) & (frames < first + 64))
        table = machine.words[machine.kernel.frame(array + 64 * first)].reshape(64, 8)
        table[frames[chosen] - first] = rows[chosen]


def _in_one(entries: Words) -> Words:
    return np.full_like(entries, entries[0])


def _in_a_circle(entries: Words) -> Words:
    return np.roll(entries, 1)


def _deep(entries: Words) -> Words:
    """Folders in chains of 2,000."""
    return np.where(np.arange(len(entries)) % 2000, np.roll(entries, 1), entries)


many_files: Spoiler = _cached(_in_one)
"""As many files as a sound dump can have, all in one folder."""

CRAFTED_FILES: dict[str, Spoiler] = {
    "files, in a circle": _cached(_in_a_circle),
    "files, deep": _cached(_deep),
}
"""Makers for dumps with as many files."""
