"""Open a dump of physical memory, in whatever format its file is; the file's content decides.

    dump = open_dump("memory.lime")
    for result in dump.each_block(look):  # look(frames, words) is called in threads
        ...

`Dump` documents the interface of a dump. Only a format's own module in `formats` knows its layout.
"""

import hashlib
import stat
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from memory_visualizer.errors import BadInputError, reading
from memory_visualizer.formats import magics, notdumps, vmware
from memory_visualizer.formats.base import Dump, Progress
from memory_visualizer.formats.containers import packed, split
from memory_visualizer.formats.files import file_size
from memory_visualizer.formats.inside import Inside, InsidePath
from memory_visualizer.formats.paths import as_path
from memory_visualizer.formats.raw import RawDump
from memory_visualizer.formats.registry import CONTAINERS, FORMATS
from memory_visualizer.units import PAGE_SIZE

_MAX_DEPTH = 4
"""The deepest nesting of containers."""
_FINGERPRINT_PAGES = 16


def open_dump(
    path: str | Path | Sequence[str | Path],
    *,
    lenient: bool = False,
    progress: Progress | None = None,
) -> Dump:
    """Open a dump, or all files of a split dump; a file that no other format claims is raw.

    `progress` is told the bytes of a packed file that has to be unpacked first.

    BadInputError when the file cannot be read or is not a supported dump; DamagedInputError when a
    part of it is missing or broken: `lenient` then reads the rest and says so in `remarks`.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    parts = [as_path(part) for part in paths]
    if len(parts) == 1 or (split.are_parts(parts) and is_split(parts[0])):
        dump = _open(parts[0], lenient, progress)
    else:
        dump = _open_parts(parts, lenient=lenient)
    dump.reopen = partial(open_dump, parts, lenient=lenient)
    return dump


def opens_leniently(
    path: str | Path | Sequence[str | Path], progress: Progress | None = None
) -> bool:
    """Whether `lenient` finds any page of memory in a damaged dump; arguments as for `open_dump`.

    It takes as long as `open_dump` with `lenient`: a packed file is unpacked once more.
    """
    try:
        return open_dump(path, lenient=True, progress=progress).size > 0
    except BadInputError:
        return False


def _open(path: Path, lenient: bool, progress: Progress | None, depth: int = 0) -> Dump:
    if not depth:
        check_file(path)
        if is_split(path):
            whole = split.SplitImage(path, lenient=lenient)
            return _open_inside(path, whole, lenient, progress, depth)
    with reading(path), path.open("rb", buffering=0) as file:
        head = file.read(notdumps.HEAD_SIZE)
        container, format_ = _container(head), _format(file, head)
        what = None if container or format_ else notdumps.what_it_is(file, path, file_size(file))
    if what and not vmware.find_state(path):
        raise BadInputError(f"{path} is {what}")
    if container:
        if depth == _MAX_DEPTH:
            raise BadInputError(f"{path} nests containers too deeply")
        inside: Inside = container(path, lenient=lenient, progress=progress)
        return _open_inside(path, inside, lenient, progress, depth)
    if format_:
        opened: Dump = format_.open(path, lenient=lenient)
        return opened
    if vmware.find_state(path):
        return vmware.VmwareDump.open(path, lenient=lenient)
    dump = RawDump.open(path, lenient=lenient)
    for remark in (vmware.missing_state(path, dump.size), split.parts_unseen(path)):
        if remark:
            dump.remarks = (*dump.remarks, remark)
    return dump


def _open_inside(
    path: Path, inside: Inside, lenient: bool, progress: Progress | None, depth: int
) -> Dump:
    """Open the dump in a container."""
    dump = _open(InsidePath.of(path, inside), lenient, progress, depth + 1)
    dump.format = f"{dump.format} ({inside.name})"
    dump.remarks = (*inside.remarks, *dump.remarks)
    return dump


def is_split(path: Path) -> bool:
    """Whether a file is read as a part of a split image; BadInputError if it cannot be read."""
    return split.is_part(path) and not _is_series(path)


def _is_series(path: Path) -> bool:
    """Whether a file and its neighbour by name begin as dumps of a known format.

    Then they are a series of dumps: only the first part of a split image begins like a dump.
    """
    heads = []
    for part in split.neighbours(path):
        with reading(part), part.open("rb", buffering=0) as file:
            heads.append(file.read(notdumps.HEAD_SIZE))
    return sum(map(is_dump, heads)) > 1


def _open_parts(paths: Sequence[Path], *, lenient: bool) -> Dump:
    """Open all files of a dump that makedumpfile has split; some may be flattened."""
    parts: list[Path] = []
    remarks: list[str] = []
    for path in paths:
        check_file(path)
        with reading(path), path.open("rb", buffering=0) as file:
            head = file.read(notdumps.HEAD_SIZE)
        part = path
        if head.startswith(magics.FLATTENED):
            inside = _load("containers.flattened.Flattened")(path, lenient=lenient)
            part, head = InsidePath.of(path, inside), inside.read(notdumps.HEAD_SIZE, 0)
            remarks += inside.remarks
        if not head.startswith((magics.KDUMP, magics.DISKDUMP)):
            raise BadInputError(
                f"{path} is not part of a split kdump file or image; other dumps are single files"
            )
        parts.append(part)
    dump: Dump = _load("kdump.KdumpDump").open_parts(parts, lenient=lenient)
    dump.remarks = (*remarks, *dump.remarks)
    return dump


def together(paths: Sequence[Path]) -> list[list[Path]]:
    """Group files into dumps: successive parts of a split dump form a group.

    A part of a kdump that has page frames of a part before it begins another dump. BadInputError
    when a file cannot be read.
    """
    dumps: list[list[Path]] = []
    taken: list[tuple[int, int]] = []
    for path in paths:
        part = _part_of_kdump(path)
        if part and taken and all(part[1] <= low or end <= part[0] for low, end in taken):
            dumps[-1].append(path)
            taken.append(part)
        elif dumps and not part and _is_next_part(dumps[-1], path):
            dumps[-1].append(path)
        else:
            dumps.append([path])
            taken = [part] if part else []
    return dumps


def _part_of_kdump(path: Path) -> tuple[int, int] | None:
    """The page frames of a part of a split kdump, which may be flattened; None for other files."""
    check_file(path)
    with reading(path), path.open("rb", buffering=0) as file:
        head = file.read(notdumps.HEAD_SIZE)
    if head.startswith(magics.FLATTENED):
        path = InsidePath.of(path, _load("containers.flattened.Flattened")(path, lenient=True))
    elif not head.startswith((magics.KDUMP, magics.DISKDUMP)):
        return None
    part: tuple[int, int] | None = _load("kdump.part_of_split")(path)
    return part


def _is_next_part(parts: Sequence[Path], path: Path) -> bool:
    """Whether a file is a further part of a split image."""
    return split.are_parts([*parts, path]) and path not in parts and is_split(path)


def _container(head: bytes) -> Any:
    """The class for a file with this beginning, if it is a container."""
    if packed.kind_of(head):
        return packed.Unpacked
    if head.startswith((magics.LIBVIRT, magics.LIBVIRT_PART)) and _load("libvirt.is_packed")(head):
        return _load("libvirt.PackedSave")
    return _known(CONTAINERS, head)


def _format(file: BinaryIO, head: bytes) -> Any:
    """The class for a file with this beginning, if it is a dump in a format other than raw."""
    if head.startswith(magics.ZIP) and _load("aff4.is_container")(file, head):
        return _load("aff4.Aff4Dump")
    if not any(head) and _load("hibernation.is_cleared")(file):
        return _load("hibernation.HibernationDump")
    return _known(FORMATS, head)


def _known(kinds: Mapping[bytes, str], head: bytes) -> Any:
    """The class for a file with this beginning, if there is one."""
    for magic, place in kinds.items():
        if head.startswith(magic):
            return _load(place)
    return None


def _load(place: str) -> Any:
    """Import a module of this folder, or one below, and take a class from it."""
    module, _, name = place.rpartition(".")
    return getattr(import_module(f"memory_visualizer.formats.{module}"), name)


def is_dump(head: bytes) -> bool:
    """Whether a file with this beginning has a supported format other than raw."""
    return head.startswith((*FORMATS, *CONTAINERS)) or packed.kind_of(head) is not None


def check_file(path: Path) -> None:
    """Raise BadInputError if a dump's path does not lead to a readable file.

    Nothing is opened: opening a pipe would wait for its writer.
    """
    with reading(path):
        mode = path.stat().st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        raise BadInputError(
            f"{path} is a pipe; a dump is read more than once, so save it as a file first"
        )
    if stat.S_ISCHR(mode):
        raise BadInputError(f"{path} is a device; save the memory as a file first")


def fingerprint(path: Path) -> str:
    """A hexadecimal number that quickly tells apart dumps with the same name.

    It is computed from the file's size and a few of its pages, so it proves nothing, unlike
    digest.FileHash. BadInputError when the file cannot be read.
    """
    check_file(path)
    digest = hashlib.sha256()
    with reading(path), path.open("rb", buffering=0) as file:
        size = file_size(file)
        digest.update(size.to_bytes(8, "little"))
        for part in range(_FINGERPRINT_PAGES):
            file.seek(size * part // _FINGERPRINT_PAGES // PAGE_SIZE * PAGE_SIZE)
            digest.update(file.read(PAGE_SIZE))
    return digest.hexdigest()[:16]
