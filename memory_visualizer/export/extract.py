"""Files, regions and frames of a dump, written into a folder, with a manifest.

Pages that are not in memory become holes: zeros that take no room if the file system has sparse
files. The manifest tells holes from zeros. Each file appears whole or not at all.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import EEXIST, ELOOP, ENOTDIR
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError
from memory_visualizer.export.safenames import SafeNames
from memory_visualizer.formats.base import Dump
from memory_visualizer.output import GENERATOR, check_target, make_folder
from memory_visualizer.paging import is_held
from memory_visualizer.snapshot.inventory import Region
from memory_visualizer.snapshot.process import Process
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE

MANIFEST = "manifest.json"
LARGEST = 1 << 36
"""Bytes of the largest file, holes included: offsets in a dump may be any numbers."""
IN_ALL = 1 << 38
"""Default limit for the bytes of all files, holes included: sizes of files that a dump claims must
not fill a disk whose file system has no sparse files."""
_PAGES_AT_ONCE = 1 << 10


@dataclass(frozen=True, eq=False)
class Piece:
    """The pages for one file, and its facts."""

    parts: tuple[str, ...]
    """The path below the folder; safe."""
    offset: NDArray[np.int64]
    """The offset of each page in the file; ascending, each once."""
    frame: NDArray[np.int64]
    """The frames with these pages; all of them held."""
    length: NDArray[np.int64]
    """Bytes of each page that belong to the file, from its first one on."""
    size: int | None
    """The file's size in bytes; None for as many as its pages need."""
    about: dict[str, Any] = field(default_factory=dict)
    """Facts for the manifest."""

    @property
    def written_size(self) -> int:
        """Bytes of the file, holes included; 0 if no file is written."""
        if not len(self.frame):
            return 0
        return self.size or int(np.max(self.offset + self.length))


@dataclass(frozen=True, eq=False)
class _Place:
    """Where pages belong in a file: offset, frame and length as in Piece, in any order."""

    offset: NDArray[np.int64]
    frame: NDArray[np.int64]
    length: NDArray[np.int64]

    @classmethod
    def of_pages(cls, offset: NDArray[np.int64], frame: NDArray[np.int64]) -> "_Place":
        """Of whole pages."""
        return cls(offset, frame, np.full(len(frame), PAGE_SIZE))


def pieces_of_files(snapshot: Snapshot, pattern: re.Pattern[str]) -> list[Piece]:
    """The pages in memory of the files whose paths match."""
    names, pages = SafeNames(), snapshot.file_pages
    order = np.argsort(pages.file, kind="stable")
    edges = np.searchsorted(pages.file[order], np.arange(len(pages.files) + 1))
    pieces = []
    for number, file in enumerate(pages.files):
        if not pattern.search(file.path):
            continue
        rows = order[edges[number] : edges[number + 1]]
        about = {
            "path": file.path,
            "kind": file.kind,
            "deleted": file.is_deleted,
            "size": file.size,
            "file_system": file.file_system,
            "device": file.device,
            "inode": file.number,
        }
        parts = ("files", *names.path(file.path))
        length = np.full(len(rows), PAGE_SIZE) if pages.length is None else pages.length[rows]
        place = _Place(pages.offset[rows], pages.frame[rows], length)
        pieces.append(_piece(snapshot.dump, parts, place, file.size, about))
    return pieces


def pieces_of_process(snapshot: Snapshot, process: Process, number: int = 0) -> list[Piece]:
    """The pages of each region of a process, and of each run of pages outside of all regions.

    `number` tells processes with the same pid apart.
    """
    index = next(n for n, other in enumerate(snapshot.processes) if other is process)
    rows = snapshot.mappings.take((snapshot.mappings.space == index) & snapshot.mappings.is_user)
    row, part, frame = snapshot.pages_of(rows)
    virtual = rows.virtual[row] + part.astype(np.uint64) * np.uint64(PAGE_SIZE)
    order = np.argsort(virtual, kind="stable")
    virtual, frame = virtual[order], frame[order]
    regions = snapshot.regions(process)
    known = {(one.start, one.end): _of_region(one) for one in regions or ()}
    bounds = sorted([*known, *_stretches(_outside(virtual, [*known]))])
    folder = f"{process.pid}-{number + 1}" if number else str(process.pid)
    pieces = []
    for start, end in bounds:
        inside = slice(*np.searchsorted(virtual, np.array([start, end], np.uint64)))
        about = {"pid": process.pid, "start": hex(start), "end": hex(end)}
        about |= known.get((start, end), {})
        parts = ("regions", folder, f"{start:x}-{end:x}.bin")
        offset = (virtual[inside] - np.uint64(start)).astype(np.int64)
        place = _Place.of_pages(offset, frame[inside])
        pieces.append(_piece(snapshot.dump, parts, place, None, about))
    return pieces


def _outside(virtual: NDArray[np.uint64], bounds: Sequence[tuple[int, int]]) -> NDArray[np.uint64]:
    """The pages outside of some ranges; pages are given by their ascending addresses."""
    outside = np.ones(len(virtual), bool)
    for first, last in np.searchsorted(virtual, np.array(bounds, np.uint64).reshape(-1, 2)):
        outside[first:last] = False
    return virtual[outside]


def _of_region(region: Region) -> dict[str, Any]:
    return {
        "protection": region.protection,
        "sharing": "private" if region.is_private else "shared",
        "type": region.kind,
        "name": region.name,
        "file": region.file,
        "offset": region.offset if region.file else None,
    }


def _stretches(virtual: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """First address and end of each run of consecutive pages."""
    if not len(virtual):
        return []
    begins = np.append(0, np.flatnonzero(np.diff(virtual) > np.uint64(PAGE_SIZE)) + 1)
    last = np.append(begins[1:], len(virtual)) - 1
    ends = [end + PAGE_SIZE for end in virtual[last].tolist()]
    return list(zip(virtual[begins].tolist(), ends, strict=True))


def piece_of_frames(dump: Dump, first: int, last: int) -> Piece:
    """Some successive page frames; BadInputError if the dump has none of them."""
    if not 0 <= first <= last < dump.frame_count:
        raise BadInputError(
            f"the dump has frames {0:#x}-{dump.frame_count - 1:#x}, not {first:#x}-{last:#x}"
        )
    frame = np.arange(first, last + 1)
    about = {"first_frame": hex(first), "last_frame": hex(last)}
    parts = ("frames", f"{first:x}-{last:x}.raw")
    place = _Place.of_pages((frame - first) * PAGE_SIZE, frame)
    return _piece(dump, parts, place, len(frame) * PAGE_SIZE, about)


def _piece(
    dump: Dump,
    parts: tuple[str, ...],
    place: _Place,
    size: int | None,
    about: dict[str, Any],
) -> Piece:
    """The pages that can be written: each offset once, in a file that is not too large."""
    order = np.lexsort((place.frame, place.offset))
    offset, frame, length = place.offset[order], place.frame[order], place.length[order]
    end = LARGEST if size is None else min(size, LARGEST)
    known = is_held(dump, frame)
    fits = (offset >= 0) & (offset < end) & (length > 0)
    is_first = np.append(True, np.diff(offset) != 0) if len(offset) else known
    chosen = known & fits & is_first
    about = about | {
        "pages_in_memory": len(frame),
        "pages_left_out": int(np.count_nonzero(known & ~chosen)),
        "pages_not_in_dump": int(np.count_nonzero(~known)),
    }
    size = size if size is None or size <= LARGEST else None
    return Piece(parts, offset[chosen], frame[chosen], length[chosen], size, about)


def write_pieces(
    folder: Path,
    dump: Dump,
    pieces: Sequence[Piece],
    *,
    force: bool = False,
    limit: int | None = IN_ALL,
) -> dict[str, Any]:
    """Write pieces below a folder, which is made if it is missing, and then the manifest.

    Returns the manifest. A piece without pages is only listed there; so is a piece that exceeds
    `limit`, the bytes of all files, holes included. Existing files are replaced only with `force`,
    and only if an earlier manifest in this folder lists them, or output.check_target allows it.
    OSError if a file cannot be written; if a name is taken, nothing is written.
    """
    make_folder(folder, parents=True)
    root = folder.resolve()
    own = _listed(root) if force else set()
    targets = [root.joinpath(*piece.parts) for piece in pieces]
    for target in [*targets, root / MANIFEST]:
        _check(target, root, dump, force=force, own=own)
    entries: list[dict[str, Any]] = []
    made = 0
    for piece, target in zip(pieces, targets, strict=True):
        is_beyond = limit is not None and made + piece.written_size > limit
        if is_beyond or not len(piece.frame):
            entries.append({"written": None, "beyond_limit": is_beyond, **piece.about})
            continue
        made += piece.written_size
        _make_folders(target.parent, root)
        with _part_of(target) as (file, part):
            entry = _write(file, dump, piece)
            file.close()
            _check(target, root, dump, force=force, own=own)
            part.replace(target)
        written = {"written": "/".join(piece.parts), "beyond_limit": False}
        entries.append({**written, **piece.about, **entry})
    manifest = {
        "generator": GENERATOR,
        "dump": os.fsencode(dump.path.name).decode("utf-8", "backslashreplace"),
        "dump_sha256": dump.sha256,
        "pieces": entries,
    }
    with _part_of(root / MANIFEST) as (file, part):
        file.write(json.dumps(manifest, indent=2).encode("ascii") + b"\n")
        file.close()
        part.replace(root / MANIFEST)
    return manifest


def _listed(root: Path) -> set[Path]:
    """The files that an earlier manifest lists, and this manifest."""
    path = root / MANIFEST
    try:
        told = json.loads(path.read_text("ascii"))
        if not str(told["generator"]).startswith(GENERATOR.split()[0]):
            return set()
        names = [entry["written"].split("/") for entry in told["pieces"] if entry["written"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    return {path, *(root.joinpath(*parts) for parts in names if ".." not in parts)}


def _check(target: Path, root: Path, dump: Dump, *, force: bool, own: set[Path]) -> None:
    """OSError if a file must not be written: it is taken, or a link leads out of the folder."""
    for above in [*target.parents][: len(target.parts) - len(root.parts) - 1]:
        if above.is_symlink():
            raise OSError(ELOOP, "it is a link, which extracted files do not follow", str(above))
        if above.exists() and not above.is_dir():
            raise OSError(ENOTDIR, os.strerror(ENOTDIR), str(above))
    if not os.path.lexists(target):
        return
    if not force:
        raise FileExistsError(EEXIST, "it exists; --force replaces it", str(target))
    if target.is_symlink() or not target.is_file():
        raise FileExistsError(EEXIST, "it exists and is not a plain file", str(target))
    if dump.path.exists() and target.samefile(dump.path):
        raise FileExistsError(EEXIST, "it is the dump and must not be replaced", str(target))
    if target not in own:
        check_target(target, force=True)


def _make_folders(folder: Path, root: Path) -> None:
    """Make a folder and all above it, one by one, below the root."""
    at = root
    for part in folder.relative_to(root).parts:
        at = at / part
        at.mkdir(exist_ok=True)


@contextmanager
def _part_of(target: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A new file beside the target, and its path; removed at the end, unless it was renamed."""
    path = target.with_name(f".memory-visualizer-{os.urandom(8).hex()}.part")
    try:
        with path.open("xb") as file:
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def _write(file: IO[bytes], dump: Dump, piece: Piece) -> dict[str, Any]:
    """Write a piece's pages, each in its place; returns the facts for the manifest.

    The hash covers all pages that are in memory, one after another, cut at the file's size.
    """
    digest, end, written = hashlib.sha256(), 0, 0
    for offset, contents in _pages(dump, piece):
        if piece.size is not None:
            contents = contents[: max(piece.size - offset, 0)]
        digest.update(contents)
        written += len(contents)
        is_beyond, end = offset >= end, max(end, offset + len(contents))
        if is_beyond and contents.count(0) == len(contents):
            continue  # zeros become a hole, too
        file.seek(offset)
        file.write(contents)
    file.truncate(end if piece.size is None else piece.size)
    return {
        "written_size": end if piece.size is None else piece.size,
        "pages_written": len(piece.frame),
        "bytes_written": written,
        "is_complete": piece.size is not None and written == piece.size,
        "sha256": digest.hexdigest(),
        "runs": _runs(piece.offset, piece.length),
    }


def _pages(dump: Dump, piece: Piece) -> Iterator[tuple[int, bytes]]:
    """Offset in the file and contents of each page; several pages are read at once."""
    for at in range(0, len(piece.frame), _PAGES_AT_ONCE):
        some = slice(at, at + _PAGES_AT_ONCE)
        offset, length = piece.offset[some].tolist(), piece.length[some].tolist()
        for number, page in enumerate(dump.read_frames(piece.frame[some])):
            yield offset[number], page.tobytes()[: length[number]]


def _runs(offset: NDArray[np.int64], length: NDArray[np.int64]) -> list[list[int]]:
    """First byte and number of bytes of each run of pages that is in memory."""
    if not len(offset):
        return []
    begins = np.append(0, np.flatnonzero(offset[1:] != (offset + length)[:-1]) + 1)
    count = np.add.reduceat(length, begins)
    runs: list[list[int]] = np.stack((offset[begins], count), axis=1).tolist()
    return runs
