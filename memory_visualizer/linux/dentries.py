"""Names of files in a Linux kernel: directory entries (dentry) and mounts.

A dentry has a name and leads to the dentry of its folder; the root of a file system leads to
itself. Mounts tell where a file system's root lies in the tree of all files: each mount leads to
its parent mount, and to the dentry on which it is mounted (include/linux/dcache.h, fs/mount.h of
the kernel; fs/d_path.c shows how the kernel itself names a file).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.linux.filelayout import FileLayout
from memory_visualizer.paging.tablememory import TableMemory

_MAX_NAME = 256
"""Bytes of a name and the zero behind it (NAME_MAX)."""
_MAX_ROUNDS = 2048
"""Folders within folders: a path has at most 4096 bytes (PATH_MAX)."""
_MAX_PATH = 4096
_MAX_MOUNTED = 128
"""Mounts within mounts that are followed."""
_LISTS_OF_MOUNT = 4
"""So many times as many links as there may be mounts are followed."""
_TYPE_NAME = 32
_AT_ONCE = 1 << 13
_NUMBERED = {"sockfs": "socket", "pipefs": "pipe"}
_ANONYMOUS = "anon_inodefs"
_INTERNAL = 2**64 - 4096
"""From here on a pointer is an error number, such as the name space of the kernel's own mounts."""


@dataclass(frozen=True)
class Dentry:
    """A directory entry."""

    parent: int
    name: str
    """Empty if it is lost."""
    is_hashed: bool
    """Whether its folder still has it; False if the file was deleted."""
    super_block: int
    inode: int


@dataclass(frozen=True)
class _Mount:
    root: int
    """Its own uppermost dentry."""
    point: int
    """The dentry on which it is mounted."""
    parent: int
    """Its parent mount, to which this dentry belongs; itself if it has no parent."""
    space: int
    """Its name space."""
    super_block: int


@dataclass(frozen=True)
class FileSystem:
    """A super block's own description."""

    name: str
    device: str
    root: int


@dataclass(frozen=True)
class Path:
    """A path, and what is known of it."""

    text: str
    is_deleted: bool = False
    is_pseudo: bool = False
    """Whether the dentry has no folder, as for memfd, SYSV and shared anonymous memory."""


@dataclass
class Dentries:
    """Reads directory entries and mounts as they are asked for, and makes paths of them."""

    kernel: TableMemory
    layout: FileLayout
    own_space: int
    """Name space of the first process: the files as it sees them; 0 if not known."""
    lost: int = 0
    """Directory entries without a readable name."""
    without_mount: set[str] = field(default_factory=set)
    """File systems without a known mount: their paths begin at their own root."""
    _known: dict[int, Dentry] = field(default_factory=dict)
    _relative: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Path from the uppermost dentry on, and the uppermost dentry."""
    _systems: dict[int, FileSystem] = field(default_factory=dict)
    _covering: dict[int, dict[str, tuple[bool, int, str]]] = field(default_factory=dict)
    """Mounts of each file system: see _mounts_by_root."""
    _mounts: dict[int, _Mount | None] = field(default_factory=dict)
    _prefixes: dict[int, str | None] = field(default_factory=dict)
    _followed: int = 0
    """The number of links between mounts that were followed, in all lists."""
    _letters: int = 0
    """The number of letters of all paths that are kept."""

    def read(self, dentries: NDArray[np.uint64]) -> None:
        """Read some directory entries with all folders above them, many at once."""
        budget = self.kernel.memory.budget
        new = distinct(dentries)
        for _ in range(_MAX_ROUNDS):
            wanted = [each for each in new.tolist() if each not in self._known]
            new = np.array([each for each in wanted if each >= self.kernel.upper], np.uint64)
            room = max(budget.limit("directory entry") - len(self._known), 0)
            budget.refuse("directory entry", len(new) - room)
            new = new[:room]
            if not len(new):
                return
            parents = [self._read(new[at : at + _AT_ONCE]) for at in range(0, len(new), _AT_ONCE)]
            new = distinct(np.concatenate(parents))
        budget.refuse("directory entry", len(new))

    def _read(self, dentries: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Read these directory entries; return their parents."""
        kernel, layout = self.kernel, self.layout
        raw, known = kernel.read_each(dentries, layout.dentry_size)
        dentries, raw = dentries[known], raw[known]
        words = kernel.words(raw)

        def column(place: int) -> NDArray[np.uint64]:
            return words[:, place // kernel.word]

        parents = column(layout.d_parent)
        texts = kernel.read_partly(column(layout.d_name), _MAX_NAME)
        lengths = raw.view("<u4")[:, layout.d_length // 4]
        # Its predecessor in the hash chain: without it, the dentry is in no chain (deleted).
        hashed = column(layout.d_hash + kernel.word) != 0
        super_blocks = column(layout.d_sb) if layout.d_sb is not None else np.zeros_like(parents)
        for row, (dentry, parent, length, is_hashed, block, inode) in enumerate(
            zip(
                dentries.tolist(),
                parents.tolist(),
                lengths.tolist(),
                hashed.tolist(),
                super_blocks.tolist(),
                column(layout.d_inode).tolist(),
                strict=True,
            )
        ):
            name = _name(texts[row].tobytes(), length)
            self.lost += length > 0 and not name
            self._known[dentry] = Dentry(parent, name, is_hashed, block, inode)
        return parents

    def get(self, dentry: int) -> Dentry | None:
        """A directory entry that was read."""
        return self._known.get(dentry)

    def path(self, dentry: int, mount: int = 0) -> Path | None:
        """The path of a directory entry that was read, as the first process sees it; None if lost.

        `mount` is the mount by which it was opened, where that is known.
        """
        own = self._known.get(dentry)
        if own is None:
            return None
        inside, root = self._from_root(dentry)
        if root == 0:
            return None
        system = self.file_system(own.super_block)
        top = self._known.get(root)
        if top is not None and top.parent == root and system.root not in (0, root):
            return self._pseudo(own, system.name, f"{top.name}{inside}")
        prefix = self._prefix(own.super_block, inside, mount)
        is_deleted = not own.is_hashed and dentry != root
        if prefix is None:
            self.without_mount.add(system.name)
            return Path(inside or "/", is_deleted)
        before, cut = prefix
        return Path(f"{before}{inside[cut:]}" or "/", is_deleted)

    def _pseudo(self, dentry: Dentry, system: str, name: str) -> Path:
        """The path of a dentry without a folder, as the kernel names it (d_dname)."""
        if system in _NUMBERED:
            place = self.layout.i_ino
            number = self.kernel.number(dentry.inode + place) if place is not None else None
            return Path(f"{_NUMBERED[system]}:[{number or 0}]", is_pseudo=True)
        if system == _ANONYMOUS:
            return Path(f"anon_inode:{name}", is_pseudo=True)
        return Path(f"/{name}", not dentry.is_hashed, is_pseudo=True)

    def _from_root(self, dentry: int) -> tuple[str, int]:
        """The names below the uppermost dentry; and this dentry, 0 if names are lost."""
        waiting: list[int] = []
        at, seen = dentry, set[int]()
        while at not in self._relative:
            own = self._known.get(at)
            if own is None or at in seen:
                self._relative[at] = "", 0
            elif own.parent == at:
                self._relative[at] = "", at
            else:
                seen.add(at)
                waiting.append(at)
                at = own.parent
        inside, root = self._relative[at]
        for at in reversed(waiting):
            name = self._known[at].name
            is_sound = name and root and self._has_room(len(inside) + len(name) + 1)
            inside, root = (f"{inside}/{name}", root) if is_sound else ("", 0)
            self._relative[at] = inside, root
        return inside, root

    def _has_room(self, length: int) -> bool:
        """Whether a path of this length is possible, and fits into the budget for all paths."""
        budget = self.kernel.memory.budget
        if length >= _MAX_PATH or self._letters + length > budget.limit("letter of paths"):
            budget.refuse("path", 1)
            return False
        self._letters += length
        return True

    def _prefix(self, super_block: int, inside: str, mount: int) -> tuple[str, int] | None:
        """The text before a path within its file system, and how much of the path is left out.

        The given mount decides, or else a mount in the first process's name space.
        """
        if mount and (asked := self._covered(mount)):
            covered, prefix = asked
            if _is_below(inside, covered):
                return prefix, len(covered)
        if super_block not in self._covering:
            self._covering[super_block] = self._mounts_by_root(super_block)
        known = self._covering[super_block]
        folders = _folders_of(inside, known)
        found = [(*known[folder], len(folder)) for folder in folders]
        return min(found)[2:] if found else None

    def _mounts_by_root(self, super_block: int) -> dict[str, tuple[bool, int, str]]:
        """The best mount for each folder of a file system that is mounted.

        Each value tells whether the mount is outside of the first process's name space, its place
        in the list of mounts, and its path in the tree of all files.
        """
        found: dict[str, tuple[bool, int, str]] = {}
        for number, mount in enumerate(self._listed(super_block)):
            own, known = self._mount(mount), self._covered(mount)
            if own is None or known is None:
                continue
            covered, prefix = known
            is_other = bool(self.own_space) and own.space != self.own_space
            each = is_other, number, prefix
            found[covered] = min(found.get(covered, each), each)
        return found

    def _covered(self, mount: int) -> tuple[str, str] | None:
        """The folder of its file system that a mount shows, and its path; None for the kernel's."""
        own, prefix = self._mount(mount), self._prefix_of(mount)
        if own is None or prefix is None or own.space >= _INTERNAL:
            return None
        covered, top = self._from_root(own.root)
        return (covered, prefix) if top else None

    def _prefix_of(self, mount: int) -> str | None:
        """The path of a mount in the tree of all files; None if it is lost."""
        waiting: list[tuple[int, str]] = []
        at = mount
        for _ in range(_MAX_MOUNTED):
            if at in self._prefixes:
                break
            own = self._mount(at)
            inside = self._point_of(at, own) if own else None
            if own is None or inside is None:
                self._prefixes[at] = None
            elif own.parent == at:
                self._prefixes[at] = ""
            else:
                waiting.append((at, inside))
                at = own.parent
        prefix = self._prefixes.get(at)
        for at, inside in reversed(waiting):
            prefix = None if prefix is None else prefix + inside
            self._prefixes[at] = prefix
        return prefix

    def _point_of(self, mount: int, own: _Mount) -> str | None:
        """The path of a mount within its parent mount; None if it is lost."""
        if own.parent == mount:
            return ""
        above = self._mount(own.parent)
        if above is None:
            return None
        self.read(np.array([own.point, above.root], np.uint64))
        inside, root = self._from_root(own.point)
        covered, top = self._from_root(above.root)
        return inside[len(covered) :] if root and top and _is_below(inside, covered) else None

    def _mount(self, mount: int) -> _Mount | None:
        """Read a mount; None if it cannot be."""
        if mount not in self._mounts:
            budget = self.kernel.memory.budget
            if len(self._mounts) >= budget.limit("mount"):
                budget.refuse("mount", 1)
                return None
            self._mounts[mount] = self._read_mount(mount)
        return self._mounts[mount]

    def _read_mount(self, mount: int) -> _Mount | None:
        layout = self.layout.mount
        if layout is None or mount < self.kernel.upper:
            return None
        places = (layout.root, layout.point, layout.parent, layout.super_block)
        told = [self.kernel.number(mount + place) for place in places]
        if any(word is None for word in told):
            return None
        root, point, parent, block = (word or 0 for word in told)
        space = 0 if layout.space is None else self.kernel.number(mount + layout.space) or 0
        self.read(np.array([root], np.uint64))
        return _Mount(root, point, parent, space, block) if root in self._known else None

    def _listed(self, super_block: int) -> Iterator[int]:
        layout, kernel = self.layout.mount, self.kernel
        if layout is None or self.layout.s_mounts is None or not super_block:
            return
        head = super_block + self.layout.s_mounts
        at, seen = kernel.number(head), {head}
        # Each mount is in the list of a single file system.
        limit = kernel.memory.budget.limit("mount")
        while at and at not in seen:
            if len(seen) > limit or self._followed >= _LISTS_OF_MOUNT * limit:
                kernel.memory.budget.refuse("mount", 1)
                return
            self._followed += 1
            seen.add(at)
            # Before 6.18 they are linked by list_heads, which lead into each other.
            mount = at - (layout.link or 0) if layout.is_list else at
            yield mount
            at = None if layout.link is None else kernel.number(mount + layout.link)

    def file_system(self, super_block: int) -> FileSystem:
        """A super block's own description; empty if it cannot be read."""
        if super_block not in self._systems:
            self._systems[super_block] = self._read_system(super_block)
        return self._systems[super_block]

    def _read_system(self, super_block: int) -> FileSystem:
        kernel, layout = self.kernel, self.layout
        if super_block < kernel.upper or layout.s_type is None:
            return FileSystem("", "", 0)
        device = kernel.number(super_block + layout.s_dev, 4)
        root = kernel.number(super_block + layout.s_root) or 0
        kind = kernel.number(super_block + layout.s_type)
        place = kernel.number(kind) if kind else None
        text = b""
        if place and place >= kernel.upper:
            text = kernel.read_partly(np.array([place], np.uint64), _TYPE_NAME)[0].tobytes()
        return FileSystem(_text(text), device_name(device), root)


def device_name(number: int | None) -> str:
    """Major and minor number of a device (include/linux/kdev_t.h); empty for none."""
    return "" if number is None else f"{number >> 20}:{number & 0xFFFFF}"


def _folders_of(path: str, known: Collection[str]) -> Iterator[str]:
    """The known folders that contain a path or equal it."""
    if len(known) < path.count("/"):
        yield from (folder for folder in known if _is_below(path, folder))
        return
    end = len(path)
    while end >= 0:
        if path[:end] in known:
            yield path[:end]
        end = path.rfind("/", 0, end)


def _is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies in it; both without an end of ``/``."""
    return path == folder or path.startswith(f"{folder}/")


def _name(text: bytes, length: int) -> str:
    """A name by its bytes and its stated length; empty if it is not a name."""
    if 0 < length < _MAX_NAME and text[length] == 0 and 0 not in text[:length]:
        return _decoded(text[:length])
    return _text(text)


def _text(text: bytes) -> str:
    """The text before the first zero byte; empty without a zero byte."""
    return _decoded(text[: text.find(b"\0")]) if b"\0" in text else ""


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")
