"""Dumps made to waste time and memory: most of their pages are page tables that lead nowhere.

Each begins as a sound dump, which its cost is compared with, and keeps its size.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.fuzz.crafted_linux import CRAFTED_FILES, CRAFTED_LINUX, many_files
from tests.fuzz.crafted_linux import Spoiler as LinuxSpoiler
from tests.synth import Profile, Truth, forge, profiles
from tests.synth.linux import LinuxTruth, forge_linux
from tests.synth.linux386 import forge_linux_on_i386
from tests.synth.linuxarm import forge_linux_on_arm64

PAGE = 4096
_OWN = 0x1ED
"""The index of the self-map in Windows' top-level tables, until 2016."""
_USER, _KERNEL = 0x67, 0x63
"""Flags of entries: present, writable, accessed and dirty; for user mode, and for the kernel."""
_PROCESSES = 12
_PROFILES = {
    "windows": "Win7SP1x64",
    "pae": "Win7SP1x86",
    "levels": "Win10x64_17763",
    "files": "Win7SP1x64",
}
_TABLES = 200
"""Made-up top-level tables of a Linux kernel that is known by the form of its tables."""

Words = npt.NDArray[np.uint64]
"""All memory, shape (frames, 512)."""


@dataclass(frozen=True)
class Sound:
    """A sound dump, to be altered."""

    contents: bytes
    roots: Sequence[int]
    """Frames of the processes' top-level tables; under PAE, of the pages with four pointers."""
    unused: npt.NDArray[np.int64]
    """Unused frames."""
    bases: Sequence[int] = ()
    """The table bases in the objects of Windows' processes."""
    objects: Sequence[int] = ()
    """Physical addresses of the objects of Windows' processes, System's first."""
    links: int = 0
    """Offset of the list's links in a process object."""
    regions: int = 0
    """Offset of the root of the tree of regions in a process object, of Windows 7."""
    modules: Sequence[int] = ()
    """Physical addresses of the entries of its list of modules, of ``files``."""
    linux: LinuxTruth | None = None
    """The truth about the dump of a Linux."""


Spoiler = Callable[[np.random.Generator, Words, Sound], None]
"""Alters the memory of a dump, in place."""


@cache
def sound(system: str, size: int) -> Sound:
    """A synthetic dump of so many bytes.

    `system` is ``windows``, ``pae``, ``levels`` (five), ``files`` (of Windows, with modules),
    ``linux`` or ``linux, many files``: in the last, each unused page belongs to another file, and
    all files lie in one folder. ``arm``, ``i386`` and ``i386, pae`` are of Linux without
    VMCOREINFO.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump"
        if system in _PROFILES:
            profile = profiles()[_PROFILES[system]]
            return _windows(path, profile, size, system)
        files = system == "linux, many files"
        if system == "arm":
            truth = forge_linux_on_arm64(path, size=size)
        elif system.startswith("i386"):
            truth = forge_linux_on_i386(path, pae=system.endswith("pae"), size=size)
        else:
            truth = forge_linux(path, "6.1", size=size, processes=_PROCESSES, files=files)
        if not system.startswith("linux"):
            _hide(path, truth.text_frames)
        roots = [task.dtb // PAGE for task in truth.tasks if task.dtb and task.alive]
        contents = path.read_bytes()
        if files:
            words = np.frombuffer(contents, "<u8").reshape(-1, PAGE // 8).copy()
            many_files(np.random.default_rng(0), words, truth)
            contents = words.tobytes()
        return Sound(contents, roots, _unused(truth.classes), linux=truth)


def _hide(path: Path, frames: Sequence[int]) -> None:
    """Let some frames be zeros."""
    with path.open("r+b") as file:
        for frame in frames:
            file.seek(frame * PAGE)
            file.write(bytes(PAGE))


def _windows(path: Path, profile: Profile, size: int, system: str) -> Sound:
    # About a fifth of memory is of files, 50 pages each.
    files: dict[str, Any] = (
        {"objects": True, "files": size >> 20, "stretch": 64} if system == "files" else {}
    )
    truth = forge(
        path, profile, size=size, processes=_PROCESSES, five_levels=system == "levels", **files
    )
    processes = sorted((truth.processes[one] for one in truth.alive), key=lambda one: one.pid)
    objects = [_physical(truth, process.eprocess) for process in processes]
    modules = [_physical(truth, module.entry) for module in truth.modules]
    return Sound(
        path.read_bytes(),
        [process.dtb // PAGE for process in processes],
        _unused(truth.classes(range(len(truth.processes)))),
        [process.dtb for process in processes],
        objects,
        int(profile.structures["_EPROCESS"]["members"]["ActiveProcessLinks"]),
        int(profile.structures["_EPROCESS"]["members"]["VadRoot"]) + 2 * profile.pointer_size,
        modules,
    )


def _physical(truth: Truth, virtual: int) -> int:
    notes = truth.mappings
    inside = (notes["virtual"] <= virtual) & (
        virtual < notes["virtual"] + notes["size"].astype(np.uint64)
    )
    note = notes[inside][0]
    return int(note["frame"]) * PAGE + virtual - int(note["virtual"])


def _unused(classes: npt.NDArray[np.str_]) -> npt.NDArray[np.int64]:
    frames = np.flatnonzero(np.char.startswith(classes, "unused"))
    return frames[frames > 256]  # firmware and the kernel have the lower pages


def crafted(name: str, size: int) -> bytes:
    """A dump of so many bytes; `kind` is a key of CRAFTED."""
    system, spoil = CRAFTED[name]
    given = sound(system, size)
    words = np.frombuffer(given.contents, "<u8").reshape(-1, PAGE // 8).copy()
    spoil(np.random.default_rng(0), words, given)
    return words.tobytes()


def _entries(frames: npt.NDArray[np.int64], flags: int) -> Words:
    return frames.astype(np.uint64) << np.uint64(12) | np.uint64(flags)


def _random(rng: np.random.Generator, words: Words, flags: int) -> None:
    words[:] = _entries(rng.integers(len(words), size=words.shape), flags)


def _name_themselves(words: Words, step: int = 1) -> None:
    words[::step, _OWN] = _entries(np.arange(0, len(words), step), _KERNEL)


def _tell_of_windows(words: Words) -> None:
    """Let all tables lead to KUSER_SHARED_DATA, by which Windows is known."""
    words[:, 0x1EF] = words[5] = 5 << 12 | _KERNEL
    words[5, 0x4D:0x4F] = 6 << 32, 1  # NtMajorVersion and NtMinorVersion


def _web(flags: int, step: int, *, is_windows: bool) -> Spoiler:
    """Every page is a table with random entries; all, or some, name themselves."""

    def spoil(rng: np.random.Generator, words: Words, given: Sound) -> None:
        _random(rng, words, flags)
        if step:
            _name_themselves(words, step)
        if is_windows:
            _tell_of_windows(words)

    return spoil


def _circle(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """Every page is a table whose entries all lead to the next page."""
    frames = np.arange(len(words))
    words[:] = _entries(np.roll(frames, -1), _USER)[:, None]
    _name_themselves(words)
    _tell_of_windows(words)


def _star(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """Every page is a table whose entries all lead to the same page."""
    words[:] = 5 << 12 | _USER
    _name_themselves(words)
    _tell_of_windows(words)


def _own_anywhere(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """Every page names itself in four of its entries."""
    _random(rng, words, _USER)
    frames = np.arange(len(words))
    for _ in range(4):
        words[frames, rng.integers(256, 512, size=len(words))] = _entries(frames, _KERNEL)


def _grafted(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """In a sound system, the processes' tables also lead to tables in all unused pages."""
    table = _entries(rng.choice(given.unused, (len(given.unused), 512)), _USER)
    words[given.unused] = table
    for top in given.roots:
        empty = np.flatnonzero(words[top, :256] == 0)
        words[top, empty] = _entries(rng.choice(given.unused, len(empty)), _USER)


def _one_table(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """All empty entries of a sound system's processes lead to one table, which leads to itself."""
    table = int(given.unused[0])
    words[table] = table << 12 | _USER
    for top in given.roots:
        words[top, np.flatnonzero(words[top, :256] == 0)] = table << 12 | _USER


def _layers(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """The same in layers: each table serves on one level only."""
    layers = np.array_split(rng.permutation(given.unused), (1, 64))
    upper, middle = given.unused[:64], given.unused[64:576]
    lower = given.unused[576:]
    del layers
    for frames, below in ((upper, middle), (middle, lower), (lower, lower)):
        words[frames] = _entries(rng.choice(below, (len(frames), 512)), _USER)
    for top in given.roots:
        empty = np.flatnonzero(words[top, :256] == 0)
        words[top, empty] = _entries(rng.choice(upper, len(empty)), _USER)


def _alike(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """Every page is a table whose upper half equals that of all others."""
    _random(rng, words, _USER)
    words[:, 192:256] = 0
    words[:, 256:] = 0
    words[:, 300:320] = words[5, 300:320] = _entries(rng.integers(len(words), size=20), _KERNEL)


def _as_kernel(words: Words, given: Sound) -> tuple[int, npt.NDArray[np.int64]]:
    """Let the kernel map most unused pages in a row; returns its address and the pages."""
    frames = given.unused
    tables = frames[: min(512, len(frames) // 520)]  # as many as one directory maps
    directory, pointers = frames[-1], frames[-2]
    pages = frames[len(tables) : len(tables) * 513].reshape(len(tables), 512)
    words[directory] = words[pointers] = 0
    words[tables] = _entries(pages, _KERNEL)
    words[directory, : len(tables)] = _entries(tables, _KERNEL)
    words[pointers, 0] = int(directory) << 12 | _KERNEL
    free = 256 + int(np.flatnonzero((words[list(given.roots), 256:] == 0).all(axis=0))[0])
    words[list(given.roots), free] = int(pointers) << 12 | _KERNEL
    return 0xFFFF << 48 | free << 39, pages.reshape(-1)


def _objects(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """The kernel has most unused pages, which are full of beginnings of process objects."""
    _, pages = _as_kernel(words, given)
    words[pages, ::8] = 3
    words[pages, 5::8] = given.bases[0]


def _list(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """The list of processes goes on through most unused pages, every sixteen bytes."""
    virtual, pages = _as_kernel(words, given)
    links = virtual + 16 * np.arange(len(pages) * PAGE // 16, dtype=np.uint64)
    words[pages] = np.stack((links + 16, links - 16), axis=1).reshape(-1, 512)
    at = (given.objects[0] + given.links) // 8
    words.reshape(-1)[at : at + 2] = virtual


def _fakes(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """The kernel has most unused pages, which hold copies of a process in a list of their own."""
    virtual, pages = _as_kernel(words, given)
    place = given.objects[1]
    words[pages] = words[place // PAGE]
    at = (place % PAGE + given.links) // 8
    links = virtual + PAGE * np.arange(len(pages), dtype=np.uint64) + np.uint64(at * 8)
    words[pages, at], words[pages, at + 1] = np.roll(links, -1), np.roll(links, 1)
    words[pages, at - 1] = 4 * np.arange(2, len(pages) + 2)
    bases = np.array(given.bases, np.uint64)
    words[pages, place % PAGE // 8 + 5] = bases[np.arange(len(pages)) % len(bases)]


def _homeless(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """Every unused page is a copy of a process's top-level table, without a process."""
    words[given.unused] = words[given.roots[1]]
    words[given.unused, _OWN] = _entries(given.unused, _KERNEL)


def _second_tables(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """Half of the unused pages are such tables, the others second tables that fit none of them."""
    tables, seconds = given.unused[::2], given.unused[1::2]
    words[tables] = words[given.roots[1]]
    words[seconds, 256:] = 0
    words[seconds, :256] = words[given.roots[1], :256]
    words[seconds, :4] = _entries(seconds, _USER)[:, None]
    for some in (tables, seconds):
        words[some, _OWN] = _entries(some, _KERNEL)


def _homeless_objects(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """Half of the unused pages are such tables, and the other half is full of their addresses."""
    _, pages = _as_kernel(words, given)
    tables = np.setdiff1d(given.unused, pages)[:-8]
    pages, tables = pages[::2], np.concatenate((tables, pages[1::2]))
    words[tables] = words[given.roots[1]]
    words[tables, _OWN] = _entries(tables, _KERNEL)
    words[pages] = _entries(rng.choice(tables, (len(pages), 512)), 0)


def _pointers(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """The kernel has most unused pages, which are full of one process's four pointers (PAE)."""
    at = given.bases[1] // 8
    pointers = words.reshape(-1)[at : at + 4].copy()
    directory = int(pointers[3]) >> 12
    places = np.flatnonzero(words[directory] == 0)
    tables = given.unused[: min(len(places), len(given.unused) // 513)]
    pages = given.unused[len(tables) : len(tables) * 513].reshape(len(tables), 512)
    words[directory, places[: len(tables)]] = _entries(tables, _KERNEL)
    words[tables] = _entries(pages, _KERNEL)
    words[pages.reshape(-1)] = np.tile(pointers, 128)


_ENTRIES = 0xFFFFF680_00000000
"""The virtual address of such tables' entries."""


def _entry_of(virtual: int, pages: npt.NDArray[np.int64]) -> Words:
    """The virtual addresses of the entries of pages, by number from an address on."""
    first = _ENTRIES + ((virtual & (1 << 48) - 1) >> 12) * 8
    return np.uint64(first) + np.uint64(8) * pages.astype(np.uint64)


def _witnesses(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """The kernel has most unused pages, which are full of addresses of entries that map others."""
    virtual, pages = _as_kernel(words, given)
    words[pages] = _entry_of(virtual, rng.integers(len(pages), size=(len(pages), 512)))


def _records(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """Page frame databases side by side, each for all frames; all pointers lead in circles.

    Every record is that of a standby page of a file, and the record itself describes the file.
    """
    virtual, pages = _as_kernel(words, given)
    size = -(-len(words) * 48 // PAGE)
    records = np.zeros((len(words), 6), np.uint64)
    number = np.arange(len(pages))
    records[:, 1] = virtual + 48 * rng.permutation(len(words)).astype(np.uint64)
    records[pages, 1] = _entry_of(virtual, number)
    records[:, 2] = records[:, 1] << np.uint64(16) | np.uint64(1 << 10)
    records[:, 4] = (2 << 16) << 0
    records[pages[: len(pages) // 2], 4] = 6 << 16
    tables = given.unused[: min(512, len(given.unused) // 520)]
    records[:, 5] = rng.permutation(len(words))
    records[pages, 5] = np.repeat(tables, 512)[: len(pages)]
    whole = np.zeros(size * 512, np.uint64)
    whole[: records.size] = records.reshape(-1)
    count = len(pages) // size
    words[pages[: count * size]] = np.tile(whole.reshape(-1, 512), (count, 1))


def _regions(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """The kernel has most unused pages, which hold one tree of regions that all processes share."""
    virtual, pages = _as_kernel(words, given)
    depth = (len(pages) * 32).bit_length() - 1
    number = np.arange((1 << depth) - 1)
    level = np.frexp(number + 1)[1].astype(np.int64) - 1
    below = depth - level
    # From left to right, so that each node lies on its side of all upper nodes.
    page = ((number + 1 - (1 << level)) << below) + (1 << (below - 1))
    node = virtual + 16 + 128 * number.astype(np.uint64)
    cells = np.zeros((len(pages) * 32, 16), np.uint64)
    some = cells[: len(number)]
    some[:, 0] = int.from_bytes(b"VadS", "little") << 32
    some[1:, 2] = node[(number[1:] - 1) // 2]
    inner = len(number) // 2
    some[:inner, 3], some[:inner, 4] = node[1 : 2 * inner : 2], node[2 : 2 * inner + 1 : 2]
    some[:, 5] = some[:, 6] = page
    words[pages] = cells.reshape(-1, 512)
    for place in given.objects:
        words.reshape(-1)[(place + given.regions) // 8] = node[0]


_DRIVER_PAGES = 1 << 12
"""Pages of an image, which are 16 MiB."""


def _modules(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """The kernel has most unused pages: images that hold only entries of modules.

    All entries are in one list, each may be its head, and each names the image that holds it.
    """
    virtual, pages = _as_kernel(words, given)
    at = virtual + 128 * np.arange(len(pages) * 32, dtype=np.uint64)
    cells = np.zeros((len(at), 16), np.uint64)
    image = np.arange(len(at), dtype=np.uint64) // np.uint64(_DRIVER_PAGES * 32)
    cells[:, 0], cells[:, 1] = np.roll(at, -1), np.roll(at, 1)
    cells[:, 6] = virtual + image * np.uint64(_DRIVER_PAGES * PAGE)
    cells[:, 8] = _DRIVER_PAGES * PAGE
    cells[:, 9] = cells[:, 11] = 64 | 64 << 16
    cells[:, 10] = cells[:, 12] = at + 104
    cells[:, 13:] = int.from_bytes("name".encode("utf-16-le"), "little")
    words[pages] = cells.reshape(-1, 512)
    header = np.zeros(PAGE, np.uint8)
    header[:2], header[0x3C] = np.frombuffer(b"MZ", np.uint8), 0x80
    header[0x80:0x82], header[0x98:0x9A] = np.frombuffer(b"PE", np.uint8), (0x0B, 0x02)
    header[0xD0:0xD4] = np.array([_DRIVER_PAGES * PAGE], "<u4").view(np.uint8)
    words[pages[::_DRIVER_PAGES]] = header.view(np.uint64)


_TYPED = 0xD8 << 16 | 5
"""The first word of a 64-bit file object: its type, and its size."""
_NAME_PLACE = 0x58 // 8


def _names(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """The names of all files are as long as a name may be, and most unused pages are such names."""
    virtual, pages = _as_kernel(words, given)
    words[pages] = int.from_bytes("name".encode("utf-16-le"), "little")
    flat = words.reshape(-1)
    at = np.flatnonzero(flat & np.uint64(0xFFFF_FFFF) == _TYPED)
    at = at[at % 2 == 0] + _NAME_PLACE
    flat[at] = 0xFFFE_FFFC
    flat[at + 1] = virtual + PAGE * rng.integers(len(pages) - 16, size=len(at)).astype(np.uint64)


def _long_list(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """Most unused pages are the kernel's, and begin as images that hold the list of modules.

    The list goes on through all of them; each entry looks like the head of such a list, and its
    image is as large as an image may be.
    """
    virtual, pages = _as_kernel(words, given)
    entry = virtual + 256 * np.arange(len(pages) * 16, dtype=np.uint64)
    cells = np.zeros((len(entry), 32), np.uint64)
    cells[:, 0], cells[:, 1] = np.roll(entry, -1), np.roll(entry, 1)
    cells[:, 6] = entry // PAGE * PAGE
    cells[:, 8] = 1 << 28
    cells[:, 9] = cells[:, 11] = 1 << 26 | 1 << 10  # 1024 bytes in each name
    cells[:, 10] = cells[:, 12] = entry + np.uint64(128)
    cells[:, 16:] = int.from_bytes("name".encode("utf-16-le"), "little")
    begins = cells[::16]  # an image's header in place of an entry
    begins[:] = 0
    begins[:, 0], begins[:, 7] = 0x5A4D, 0x40 << 32
    begins[:, 8], begins[:, 11] = 0x4550, 0x20B
    begins[:, 18] = 1 << 28
    kept = np.flatnonzero(np.arange(len(entry)) % 16)
    cells[kept, 0], cells[kept, 1] = np.roll(entry[kept], -1), np.roll(entry[kept], 1)
    words[pages] = cells.reshape(-1, 512)
    for place in given.modules:
        words.reshape(-1)[place // 8 : place // 8 + 2] = entry[kept[0]]


def _arm_tables(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """Many fuller copies of the kernel's own top-level table: to each, all memory is its image."""
    assert given.linux
    own = words[given.linux.top]
    upper, lower, *frames = given.unused[: _TABLES + 2].tolist()
    blocks = np.arange(len(words) // 512, dtype=np.uint64) << np.uint64(21)
    words[[upper, lower]] = 0
    words[lower, : len(blocks)] = blocks | np.uint64(1 << 54 | 0x781)  # read-only, the kernel's
    words[upper, 0] = lower << 12 | 3
    empty = np.flatnonzero(own == 0)
    behind = empty[empty > 256]  # where images lie
    words[frames] = own
    words[frames, rng.choice(behind, len(frames))] = upper << 12 | 3


def _directories(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """Many page directories, each of a kind of its own, to which all memory is the image."""
    frames = given.unused[:_TABLES]
    directories = np.zeros((len(frames), 1024), np.uint32)
    large = len(words) // 1024
    directories[:, 768 : 768 + large] = np.arange(large) << 22 | 0x1E1
    directories[:, 768 + large :] = np.arange(1, len(frames) + 1)[:, None] << 12
    words[frames] = directories.view(np.uint64)


def _directories_of_pae(rng: np.random.Generator, words: Words, given: Sound) -> None:
    """The same under PAE: tables of the last gigabyte, each with a page of four pointers."""
    frames = given.unused[: 2 * _TABLES].reshape(-1, 2)
    words[frames] = 0
    large = len(words) // 512
    words[frames[:, 0], :large] = np.arange(large, dtype=np.uint64) << np.uint64(21) | np.uint64(
        0x1E1
    )
    words[frames[:, 0], large:] = np.arange(1, len(frames) + 1)[:, None] << 12
    words[frames[:, 1], 3] = _entries(frames[:, 0], 1)


def _by_its_word(spoil: LinuxSpoiler) -> Spoiler:
    """A Linux kernel's description of itself that does not end."""

    def of_sound(rng: np.random.Generator, words: Words, given: Sound) -> None:
        assert given.linux
        spoil(rng, words, given.linux)

    return of_sound


CRAFTED: dict[str, tuple[str, Spoiler]] = {
    "web": ("windows", _web(_USER, 1, is_windows=True)),
    "web, kernel": ("windows", _web(_KERNEL, 1, is_windows=True)),
    "web, no system": ("windows", _web(_USER, 0, is_windows=False)),
    "web, own entries": ("windows", _web(_USER, 1, is_windows=False)),
    "web, half": ("windows", _web(_USER, 2, is_windows=True)),
    "web, a 64th": ("windows", _web(_USER, 64, is_windows=True)),
    "web, a 64th, kernel": ("windows", _web(_KERNEL, 64, is_windows=True)),
    "circle": ("windows", _circle),
    "star": ("windows", _star),
    "own anywhere": ("windows", _own_anywhere),
    "grafted": ("windows", _grafted),
    "grafted, Linux": ("linux", _grafted),
    "one table": ("windows", _one_table),
    "one table, 5 levels": ("levels", _one_table),
    "grafted, 5 levels": ("levels", _grafted),
    "layers": ("windows", _layers),
    "layers, Linux": ("linux", _layers),
    "alike": ("windows", _alike),
    "objects": ("windows", _objects),
    "list": ("windows", _list),
    "fake processes": ("windows", _fakes),
    "tables of nobody": ("windows", _homeless),
    "second tables of nobody": ("windows", _second_tables),
    "tables of nobody, named": ("windows", _homeless_objects),
    "pointers": ("pae", _pointers),
    "addresses of entries": ("windows", _witnesses),
    "databases of frames": ("windows", _records),
    "trees of regions": ("windows", _regions),
    "lists of modules": ("windows", _modules),
    "names of files": ("files", _names),
    "long list of modules": ("files", _long_list),
    "ARM by form": ("arm", _arm_tables),
    "i386 by form": ("i386", _directories),
    "i386 with PAE by form": ("i386, pae", _directories_of_pae),
    **{f"Linux, {name}": ("linux", _by_its_word(CRAFTED_LINUX[name])) for name in CRAFTED_LINUX},
    **{
        f"Linux, {name}": ("linux, many files", _by_its_word(CRAFTED_FILES[name]))
        for name in CRAFTED_FILES
    },
}
