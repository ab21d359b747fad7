"""Process objects of a synthetic Windows made odd, as real memory or liars have them.

    python -m tests.oddities [FAMILY ...]

prints a table: for each kind and family, how many *other* processes get another report than before,
and how many frames change class that the odd process does not map. Offsets come from the profiles
(Volatility's) and symbol files, not from the reader.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import memory_visualizer
from tests import simple_walker
from tests.synth import MIB, Truth, builds, forge, profiles
from tests.synth.kernel import IMAGE_TIME
from tests.synth.memory import PAGE_SIZE
from tests.synth.profiles import Profile
from tests.synth.truth import Process

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "XP x86": ("WinXPSP2x86", {}),
    "7 x86 PAE": ("Win7SP1x86", {}),
    "7 x64": ("Win7SP1x64", {}),
    "10 x64": ("Win10x64_17763", {}),
    "11, shadow": ("Win11x64_22000", {"shadow_tables": True}),
}


@dataclass(repr=False)
class Image:
    """A synthetic dump in memory, which is changed by virtual addresses of its kernel."""

    profile: Profile
    truth: Truth
    pages: npt.NDArray[np.uint8]
    """Shape (frames, 4096)."""
    sound: bytes
    """The bytes before any change."""
    touched: set[int] = field(default_factory=set)
    """Changed frames, which may turn from zeros to data."""

    def copy(self) -> "Image":
        """A copy that can be changed independently."""
        return Image(self.profile, self.truth, self.pages.copy(), self.sound)

    def physical(self, virtual: int) -> int:
        """The physical address of a virtual address of the kernel."""
        rows = self.truth.mappings
        page = np.uint64(virtual & ~(PAGE_SIZE - 1))
        hits = rows[(rows["virtual"] == page) & ~rows["user"] & (rows["size"] == PAGE_SIZE)]
        return int(hits["frame"][0]) * PAGE_SIZE + virtual % PAGE_SIZE

    def write(self, virtual: int, data: bytes) -> None:
        """Write within a page."""
        place = self.physical(virtual)
        self.touched.add(place // PAGE_SIZE)
        self.pages.reshape(-1)[place : place + len(data)] = np.frombuffer(data, np.uint8)

    def read(self, virtual: int, size: int) -> bytes:
        """Read within a page."""
        place = self.physical(virtual)
        return self.pages.reshape(-1)[place : place + size].tobytes()

    def place(self, process: Process, member: str) -> int:
        """Virtual address of a member of a process object."""
        structure = "_EPROCESS" if self.profile.has("_EPROCESS", member) else "_KPROCESS"
        return process.eprocess + self.profile.offset(structure, member)

    def set(self, process: Process, member: str, value: int, size: int | None = None) -> None:
        """Write a number into a member; the default size is a pointer's."""
        size = size or self.profile.pointer_size
        self.write(self.place(process, member), (value % (1 << 8 * size)).to_bytes(size, "little"))

    def links(self, process: Process) -> int:
        """Address of a process's links."""
        return self.place(process, "ActiveProcessLinks")

    def set_links(self, process: Process, forward: int | None, back: int | None) -> None:
        """Write one or both links."""
        width = self.profile.pointer_size
        for at, value in ((0, forward), (width, back)):
            if value is not None:
                value %= 1 << 8 * width
                self.write(self.links(process) + at, value.to_bytes(width, "little"))

    def take_out(self, process: Process) -> None:
        """Lead the list past a process, as DKOM does; its own links stay."""
        width = self.profile.pointer_size
        raw = self.read(self.links(process), 2 * width)
        forward, back = (int.from_bytes(raw[i * width : (i + 1) * width], "little") for i in (0, 1))
        self.write(back, raw[:width])
        self.write(forward + width, raw[width:])

    def neighbours(self, process: Process) -> list[Process]:
        """The neighbours of a process in the list."""
        listed = [p for p in self.truth.processes if p.listed]
        at = listed.index(process)
        return [listed[i] for i in (at - 1, at + 1) if 0 <= i < len(listed)]

    def reached_by(self, process: Process) -> npt.NDArray[np.bool_]:
        """By PFN: whether the tables of an ended process still lead there."""
        reached = np.zeros(len(self.pages), bool)
        reached[process.shadow_dtb // PAGE_SIZE] = process.shadow_dtb > 0
        for page in simple_walker.walk(self.sound, self.truth.paging, process.dtb):
            first = page.physical % _TRANSITION_MARK // PAGE_SIZE
            reached[first : first + page.size // PAGE_SIZE] = True
        return reached

    def lose_page(self, virtual: int, byte: bytes) -> None:
        """Fill the page at a virtual address with a pattern."""
        frame = self.physical(virtual) // PAGE_SIZE
        self.touched.add(frame)
        self.pages[frame] = np.frombuffer((byte * PAGE_SIZE)[:PAGE_SIZE], np.uint8)

    def kernel_pages(self) -> list[int]:
        """Virtual addresses of pages of the kernel's own data; the latest comes last."""
        rows = self.truth.mappings
        pool = self.truth.processes[0].eprocess & ~((1 << 28) - 1)
        mine = rows[(rows["owner"] == -1) & ~rows["user"] & (rows["size"] == PAGE_SIZE)]
        mine = mine[~mine["transition"] & ((mine["virtual"] & ~np.uint64((1 << 28) - 1)) != pool)]
        found, count = np.unique(mine["virtual"] >> np.uint64(28), return_counts=True)
        largest = found[np.argmax(count)]  # the paged pool
        return [int(v) for v in mine["virtual"][mine["virtual"] >> np.uint64(28) == largest]]

    def copy_object(self, process: Process, page: int, *, with_header: bool = True) -> "Process":
        """Copy the object's page into another page of the kernel; returns the copy's process."""
        source = self.physical(process.eprocess) // PAGE_SIZE
        target = self.physical(page) // PAGE_SIZE
        self.touched.add(target)
        start = process.eprocess % PAGE_SIZE
        first = 0 if with_header else start
        size = 0x200 if with_header else 0
        begin = max(0, start - size) if with_header else first
        self.pages[target, begin:] = self.pages[source, begin:]
        end = self.object_end(process)
        if end > PAGE_SIZE:
            raise ValueError("the object crosses a page")
        return Process(process.pid, process.ppid, process.name, eprocess=page + start)

    def object_end(self, process: Process) -> int:
        """The end of the object in its page."""
        return process.eprocess % PAGE_SIZE + max(self.profile.size("_EPROCESS"), 0x800)


_TRANSITION_MARK = 1 << 45
"""Since 2018 Windows sets this bit above the address of a page in transition: synth.profiles."""

Kind = Callable[[Image, Process], "set[int] | None"]
"""Changes an image; may return pids of further processes that become odd."""

KINDS: dict[str, Kind] = {}


def _kind(name: str) -> Callable[[Kind], Kind]:
    def add(function: Kind) -> Kind:
        KINDS[name] = function
        return function

    return add


def _member(name: str, member: str, value: int, size: int | None = None) -> None:
    def change(image: Image, process: Process) -> None:
        image.set(process, member, value, size)

    KINDS[name] = change


def _bytes(name: str, at: int, data: bytes) -> None:
    def change(image: Image, process: Process) -> None:
        image.write(process.eprocess + at, data)

    KINDS[name] = change


def _links(name: str, forward: int | None, back: int | None) -> None:
    KINDS[name] = lambda image, process: image.set_links(process, forward, back)


_WILD = 0xFFFF_8A00_DEAD_BEE8
_links("links null", 0, 0)
_links("links wild", _WILD, _WILD + 0x100)
_links("forward link wild", _WILD, None)
_links("back link null", None, 0)
_links("links in user space", 0x10000, 0x10000)
_member("pid null", "UniqueProcessId", 0)
_member("pid odd", "UniqueProcessId", 1235)
_member("pid huge", "UniqueProcessId", 0x7FFF_FFF0)
_member("pid all ones", "UniqueProcessId", -1)
_member("pid of System", "UniqueProcessId", 4)
_bytes("header byte 0", 0, b"\0")
_bytes("header byte of a thread", 0, b"\6")
_bytes("header size 0", 2, b"\0")
_bytes("header all ones", 0, b"\xff" * 4)
_bytes("signalled though it runs", 4, b"\1\0\0\0")
_bytes("signal wild", 4, b"\xde\xad\xbe\xef")
_member("base null", "DirectoryTableBase", 0)
_member("base all ones", "DirectoryTableBase", -1)
_member("base beyond memory", "DirectoryTableBase", 0x7777_7000)
_member("base in its page's middle", "DirectoryTableBase", 0x0123_4560)
_member("created at 0", "CreateTime", 0, 8)
_member("created in 1601", "CreateTime", 12345, 8)
_member("created in the future", "CreateTime", IMAGE_TIME + 864_000_000_000, 8)
_member("creation time wild", "CreateTime", -2, 8)
_member("exit time though it runs", "ExitTime", IMAGE_TIME - 10_000_000, 8)
_member("exit time wild", "ExitTime", 0xDEAD_BEEF, 8)
_member("exit status though it runs", "ExitStatus", 0, 4)
_member("parent wild", "InheritedFromUniqueProcessId", 0x00DE_ADBF)
_member("parent nobody", "InheritedFromUniqueProcessId", 0x9990)
_member("no handles", "ObjectTable", 0)
_member("handles wild", "ObjectTable", _WILD)
_member("no threads", "ActiveThreads", 0, 4)
for _name, _text in {
    "name empty": b"",
    "name of control characters": b"\1\2\3\x1b[31m",
    "name not ASCII": bytes(range(0xF0, 0xFF)),
    "name System": b"System",
    "name Idle": b"Idle",
}.items():
    KINDS[_name] = lambda image, process, text=_text: image.write(  # type: ignore[misc]
        image.place(process, "ImageFileName"), text.ljust(15, b"\0")
    )
for _name, _pattern in {
    "page lost, zeros": b"\0",
    "page lost, ones": b"\xff",
    "page lost, BAD0B0B0": b"\xb0\xb0\xd0\xba",
}.items():

    def _lose(image: Image, process: Process, pattern: bytes = _pattern) -> set[int]:
        image.lose_page(process.eprocess, pattern)
        return on_page_of(image, process)

    KINDS[_name] = _lose


def on_page_of(image: Image, process: Process) -> set[int]:
    """Pids of the processes whose objects lie in the same page."""
    page = process.eprocess // PAGE_SIZE
    return {p.pid for p in image.truth.processes if p.eprocess // PAGE_SIZE == page}


@_kind("parent is itself")
def _(image: Image, process: Process) -> None:
    image.set(process, "InheritedFromUniqueProcessId", process.pid)


@_kind("pid of another")
def _(image: Image, process: Process) -> None:
    image.set(process, "UniqueProcessId", image.neighbours(process)[-1].pid)


@_kind("base of another")
def _(image: Image, process: Process) -> None:
    image.set(process, "DirectoryTableBase", image.neighbours(process)[-1].dtb)


@_kind("links to itself")
def _(image: Image, process: Process) -> None:
    image.set_links(process, image.links(process), image.links(process))


@_kind("links into others' middle")
def _(image: Image, process: Process) -> None:
    other = image.neighbours(process)[-1].eprocess
    image.set_links(process, other + 8, other + 16)


@_kind("forward link to the unlinked one")
def _(image: Image, process: Process) -> None:
    hidden = next(p for p in image.truth.processes if not p.listed)
    image.set_links(process, image.links(hidden), None)


@_kind("unlinked, own links stay")
def _(image: Image, process: Process) -> None:
    image.take_out(process)


@_kind("unlinked, links null")
def _(image: Image, process: Process) -> None:
    image.take_out(process)
    image.set_links(process, 0, 0)


@_kind("unlinked, header altered")
def _(image: Image, process: Process) -> None:
    image.take_out(process)
    image.write(process.eprocess, b"\0")


@_kind("being made")
def _(image: Image, process: Process) -> None:
    image.take_out(process)
    image.set_links(process, 0, 0)
    image.set(process, "ActiveThreads", 0, 4)
    width = image.profile.pointer_size
    for structure in ("_EPROCESS", "_KPROCESS"):
        head = process.eprocess + image.profile.offset(structure, "ThreadListHead")
        image.write(head, head.to_bytes(width, "little") * 2)


@_kind("being made, pid 0")
def _(image: Image, process: Process) -> None:
    KINDS["being made"](image, process)
    image.set(process, "UniqueProcessId", 0)


@_kind("being deleted")
def _(image: Image, process: Process) -> None:
    image.take_out(process)
    image.set_links(process, 0, 0)
    _end(image, process)


@_kind("in the middle of its exit")
def _(image: Image, process: Process) -> None:
    _end(image, process)
    image.write(process.eprocess + 4, bytes(4))


def _end(image: Image, process: Process) -> None:
    KINDS["signal, time and status of an end"](image, process)
    image.set(process, "ActiveThreads", 0, 4)
    image.set(process, "ObjectTable", 0)


@_kind("copy in another page")
def _(image: Image, process: Process) -> None:
    image.copy_object(process, image.kernel_pages()[3])


@_kind("copy without pool header")
def _(image: Image, process: Process) -> None:
    image.copy_object(process, image.kernel_pages()[3], with_header=False)


@_kind("copy, another pid")
def _(image: Image, process: Process) -> None:
    image.set(image.copy_object(process, image.kernel_pages()[3]), "UniqueProcessId", 0x7004)


@_kind("copy, another base")
def _(image: Image, process: Process) -> None:
    other = image.neighbours(process)[0]
    image.set(image.copy_object(process, image.kernel_pages()[3]), "DirectoryTableBase", other.dtb)


@_kind("seven copies")
def _(image: Image, process: Process) -> None:
    for page in image.kernel_pages()[3:24:3]:
        image.copy_object(process, page)


@_kind("copy in free memory")
def _(image: Image, process: Process) -> None:
    free = np.flatnonzero(image.truth.classes(image.truth.alive) == "unused-data")
    source = image.physical(process.eprocess) // PAGE_SIZE
    image.touched.add(int(free[5]))
    image.pages[free[5]] = image.pages[source]


@_kind("top-level table lost")
def _(image: Image, process: Process) -> None:
    for frame in top_frames(image, process):
        image.touched.add(frame)
        image.pages[frame] = np.random.default_rng(frame).integers(0, 256, PAGE_SIZE, np.uint8)


@_kind("top-level table does not name itself")
def _(image: Image, process: Process) -> None:
    frame = top_frames(image, process)[-1]
    names = (image.pages[frame].view("<u4") >> 12) == frame
    image.pages[frame].view("<u4")[names] = 0


@_kind("kernel's half of the top-level table lost")
def _(image: Image, process: Process) -> None:
    frame = top_frames(image, process)[-1]
    image.touched.add(frame)
    begin = 0 if image.truth.paging == "pae" else PAGE_SIZE // 2
    image.pages[frame, begin:] = 0


def top_frames(image: Image, process: Process) -> list[int]:
    """Frames of its top-level table, or under PAE of its four directories."""
    base = process.dtb & ~3
    if image.truth.paging != "pae":
        return [base // PAGE_SIZE]
    raw = image.pages.reshape(-1)[base : base + 32].view("<u8")
    return [int(entry) >> 12 for entry in raw]


@_kind("list broken at two places")
def _(image: Image, process: Process) -> set[int]:
    listed = [p for p in image.truth.processes if p.listed and p.pid > 4 and p is not process]
    other = listed[len(listed) // 2]
    for one in (process, other):
        image.lose_page(one.eprocess, b"\0")
    return on_page_of(image, process) | on_page_of(image, other)


@_kind("a third of all objects lost")
def _(image: Image, process: Process) -> set[int]:
    lost: set[int] = set()
    for one in [p for p in image.truth.processes if p.pid > 4][::3]:
        image.lose_page(one.eprocess, b"\xff")
        lost |= on_page_of(image, one)
    return lost


@_kind("a third of all objects wild")
def _(image: Image, process: Process) -> set[int]:
    rng = np.random.default_rng(process.pid)
    wild = [p for p in image.truth.processes if p.pid > 4][1::3]
    for one in wild:
        for _ in range(4):
            image.write(one.eprocess + 4 * int(rng.integers(0x80)), rng.bytes(4))
        image.set_links(one, _WILD, _WILD)
    return {p.pid for p in wild}


@_kind("half ended and without tables")
def _(image: Image, process: Process) -> set[int]:
    ended = [p for p in image.truth.processes if p.listed and p.pid > 4][::2]
    for one in ended:
        _end(image, one)
        for frame in top_frames(image, one):
            image.touched.add(frame)
            image.pages[frame] = 0
    return {p.pid for p in ended}


@_kind("links of neighbours null at two places")
def _(image: Image, process: Process) -> set[int]:
    listed = [p for p in image.truth.processes if p.listed and p.pid > 4]
    for number in (2, 3, 6, 7):
        image.set_links(listed[number], 0, 0)
    return {listed[number].pid for number in (2, 3, 6, 7)}


@_kind("signal and status altered")
def _(image: Image, process: Process) -> None:
    image.write(process.eprocess + 4, b"\1\0\0\0")
    image.set(process, "ExitStatus", 0, 4)


@_kind("signal, time and status of an end")
def _(image: Image, process: Process) -> None:
    image.write(process.eprocess + 4, b"\1\0\0\0")
    image.set(process, "ExitTime", IMAGE_TIME - 50_000_000, 8)
    image.set(process, "ExitStatus", 0, 4)


@_kind("all headers lost")
def _(image: Image, process: Process) -> set[int]:
    for one in image.truth.processes:
        image.write(one.eprocess, b"\0")
    return {p.pid for p in image.truth.processes}


@_kind("six creation times lost")
def _(image: Image, process: Process) -> set[int]:
    lost = [p for p in image.truth.processes if p.pid > 4][::2]
    for one in lost:
        image.set(one, "CreateTime", 0, 8)
    return {p.pid for p in lost}


@_kind("five parents wild")
def _(image: Image, process: Process) -> set[int]:
    wild = [p for p in image.truth.processes if p.pid > 4][::3][:5]
    for one in wild:
        image.set(one, "InheritedFromUniqueProcessId", 0x00DE_ADBF)
    return {p.pid for p in wild}


@_kind("head of the list lost")
def _(image: Image, process: Process) -> set[int]:
    first = next(p for p in image.truth.processes if p.listed)
    width = image.profile.pointer_size
    raw = image.read(image.links(first) + width, width)
    image.write(int.from_bytes(raw, "little"), b"\0" * 2 * width)
    return set()


@dataclass(frozen=True, repr=False)
class Said:
    """The report on a dump."""

    processes: dict[tuple[int, int], tuple[Any, ...]]
    """The report on each process, by its object's address and its top-level table."""
    classes: npt.NDArray[np.uint8]
    remarks: tuple[str, ...]
    snapshot: Any


def said_of(image: Image, folder: Path) -> Said:
    """Open an image and note the report."""
    path = folder / "dump"
    image.pages.tofile(path)
    snapshot = memory_visualizer.open(path)
    pages = snapshot.pages_of_processes().tolist()
    processes = {
        (p.object_address, p.dtb if not p.object_address else 0): (
            *(p.pid, p.ppid, p.name, p.dtb, p.is_alive, p.is_listed, p.created, p.exited, p.state),
            *(getattr(p, "anomalies", ()), p.has_tables, *counts),
        )
        for p, counts in zip(snapshot.processes, pages, strict=True)
    }
    return Said(processes, snapshot.classes.copy(), snapshot.remarks, snapshot)


@dataclass(frozen=True)
class Harm:
    """The harm that an odd process does to others."""

    others: int
    """Other processes whose report changed, or that are missing or invented."""
    frames: int
    """Frames that change class though the odd process does not map them."""
    is_found: bool
    """Whether the odd process itself is still shown."""


def harm(image: Image, before: Said, after: Said, odd: set[int]) -> Harm:
    """Compare the report on all processes but some odd ones, given by their pids."""
    addresses = {p.eprocess for p in image.truth.processes if p.pid in odd}
    spaces = {p.dtb & ~3 for p in image.truth.processes if p.pid in odd}
    # The odd ones may share other pages now, so counts are summed.
    others = 0
    for key, said in before.processes.items():
        if key[0] not in addresses:
            now = after.processes.get(key)
            others += now is None or now[:-2] != said[:-2] or sum(now[-2:]) != sum(said[-2:])
    for key in after.processes:
        is_odd = key[0] in addresses or (not key[0] and is_of(image, key[1], spaces))
        others += key not in before.processes and not is_odd
    rows = image.truth.mappings
    owners = [n for n, p in enumerate(image.truth.processes) if p.pid in odd]
    mine = np.zeros(len(before.classes), bool)
    for size in np.unique(rows["size"]):
        chosen = rows[np.isin(rows["owner"], owners) & (rows["size"] == size)]
        for part in range(int(size) // PAGE_SIZE):
            frames = chosen["frame"] + part
            mine[frames[frames < len(mine)]] = True
    mine[list(image.touched)] = True
    for process in image.truth.processes:
        if process.pid in odd and process.exited:
            mine |= image.reached_by(process)
    for frame in set(np.flatnonzero(before.classes != after.classes).tolist()):
        mine[frame] |= frame * PAGE_SIZE in spaces
    frames = int(np.count_nonzero((before.classes != after.classes) & ~mine))
    return Harm(others, frames, bool(addresses & {key[0] for key in after.processes}))


def is_of(image: Image, dtb: int, spaces: set[int]) -> bool:
    """Whether one of these processes has a nameless process's first top-level table."""
    if dtb in spaces:
        return True
    odd = [p for p in image.truth.processes if p.dtb & ~3 in spaces]
    return any(dtb // PAGE_SIZE in top_frames(image, p) for p in odd)


def synthetic(family: str, folder: Path) -> Image:
    """A small image of one of FAMILIES, with each object in a page of its own."""
    name, options = FAMILIES[family]
    profile = builds()[name] if name in builds() else profiles()[name]
    path = folder / "sound"
    truth = forge(path, profile, size=16 * MIB, processes=12, seed=3, **options)
    pages = np.fromfile(path, np.uint8).reshape(-1, PAGE_SIZE)
    image = Image(profile, truth, pages, b"")
    _set_parents(image)
    return Image(profile, truth, pages, pages.tobytes())


def _set_parents(image: Image) -> None:
    """Give processes parents as on a real machine.

    If all processes that are left had the same lost parent, nothing would tell where parents stand.
    """
    by_name = {process.name: process.pid for process in image.truth.processes}
    services, gone = by_name["services.exe"], max(by_name.values()) + 4
    parents = {
        "services.exe": by_name["wininit.exe"],
        "lsass.exe": by_name["wininit.exe"],
        "svchost.exe": services,
        "explorer.exe": gone,  # by userinit.exe, which ends
        "notepad.exe": by_name["explorer.exe"],
    }
    for process in image.truth.processes:
        if process.name in parents:
            image.set(process, "InheritedFromUniqueProcessId", parents[process.name])


def victim(image: Image, which: str) -> Process:
    """A process by name; ``svchost.exe`` is in the middle of the list."""
    return next(p for p in image.truth.processes if p.name == which)


def tried(image: Image, before: Said, kind: str, folder: Path, which: str) -> tuple[Harm, Said]:
    """Make one process of an image odd, and return the harm."""
    odd_image = image.copy()
    process = victim(image, which)
    further = KINDS[kind](odd_image, process)
    after = said_of(odd_image, folder)
    odd = further if isinstance(further, set) else {process.pid}
    return harm(odd_image, before, after, odd), after


def main(chosen: list[str]) -> None:
    """Print the table."""
    families = chosen or list(FAMILIES)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").exists() else None) as name:
        folder = Path(name)
        images = {family: synthetic(family, folder) for family in families}
        sound = {family: said_of(image, folder) for family, image in images.items()}
        for which in ("svchost.exe", "System"):
            print(f"\n| {which} | {' | '.join(families)} |\n|{' --- |' * (len(families) + 1)}")
            for kind in KINDS:
                cells = [
                    _cell(partial(tried, images[family], sound[family], kind, folder, which))
                    for family in families
                ]
                print(f"| {kind} | {' | '.join(cells)} |", flush=True)


def _cell(work: Callable[[], tuple[Harm, Said]]) -> str:
    try:
        cost, _ = work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"{cost.others}, {cost.frames}{'' if cost.is_found else ' (not shown)'}"


def all_kinds() -> Iterator[tuple[str, str]]:
    """Each family with each kind."""
    for family in FAMILIES:
        for kind in KINDS:
            yield family, kind


if __name__ == "__main__":
    main(sys.argv[1:])
