"""Output files that appear whole or not at all, and never replace evidence.

An existing file is replaced only if this program wrote it, as its marks show: each kind of output
has a beginning (Parquet: an end) that no other program writes. `force` allows replacing other
files, but never a possible dump.
"""

import errno
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from memory_visualizer.formats import notdumps
from memory_visualizer.formats.opening import is_dump
from memory_visualizer.printable import binary_size
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.version import __version__

try:
    import fcntl as _fcntl
except ImportError:  # Windows
    _fcntl = None  # type: ignore[assignment]

NAME = "Memory Visualizer"
GENERATOR = f"{NAME} {__version__}"
"""The mark that each kind of output carries. CSV tables and text page maps are known by their
titles instead, since an additional line would disturb other programs."""

STANDARD_OUTPUT = Path("/dev/stdout")
"""The name of this program's standard output, wherever an output is named."""
_STANDARD_OUTPUTS = (STANDARD_OUTPUT, Path("/dev/fd/1"), Path("/proc/self/fd/1"))

CSV_TITLES = ("pfn", "physical", "class", "zero", "mappings", "owner_pids", "owner_virtuals")
"""Columns with which each table in CSV begins."""

FILE_TITLES = (
    *("path", "kind", "deleted", "size", "file_system", "device", "inode"),
    *("pages", "bytes", "mapped_pages", "pids"),
)
"""Columns with which each table of files begins."""
CHANGE_TITLES = (
    *("step", "pfn", "physical", "change", "contents", "class_before", "class_after"),
    *("pids_before", "pids_after", "protection_before", "protection_after"),
)
"""Columns of each table of changes."""
REGION_TITLES = (
    *("pid", "start", "end", "size", "protection", "sharing", "type", "commit", "name"),
    *("file", "offset", "deleted", "pages", "findings"),
)
"""Columns of each table of regions."""
HIT_TITLES = (
    *("rule", "rules", "pattern", "physical", "pfn", "offset", "length"),
    *("pid", "process", "virtual", "owners", "file", "file_offset", "data"),
)
"""Columns of each table of hits of YARA rules."""

_MARKS = (
    rb"\x89PNG\r\n\x1a\n(?s:.{,2000})tEXtSoftware\0Memory Visualizer ",
    rb'<!DOCTYPE html>\n(?s:.{,200})<meta name="generator" content="Memory Visualizer ',
    rb'\{\n  "generator": "Memory Visualizer ',
    *(re.escape(",".join(titles).encode()) + rb"[\n,]" for titles in (CSV_TITLES, FILE_TITLES)),
    *(
        re.escape(",".join(titles).encode()) + rb"\n"
        for titles in (REGION_TITLES, CHANGE_TITLES, HIT_TITLES)
    ),
    rb"GIF89a(?s:.{,2000})!\xfe.Memory Visualizer ",
    rb"PK\x03\x04(?s:.{26})generator\.npy(?s:.{,200})" + re.escape(f"{NAME} ".encode("utf-32-le")),
    rb"\(Virtual\) +\(Physical\) +\(Size\) +\(Kernel\)\n-+\n(0x|\Z)",
)
_HEAD_SIZE = 1 << 16
_PARQUET = b"PAR1"
_LONGEST_FOOTER = 1 << 24  # bytes; a Parquet file's description of itself

LARGEST_REPLACED = 64 << 20
"""The largest file, in bytes, that `force` lets this program replace though another one wrote it:
larger than pictures and pages, smaller than most machines' memory."""
_SMALLEST_DUMP = 1 << 20

PARTS = ".memory-visualizer-*.part"
"""The names of files that are not whole yet, where they need a name; a process that is killed
leaves them behind."""
_DESCRIPTORS = Path("/proc/self/fd")
_is_windows = os.name == "nt"
_FORBIDDEN = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?"
    r'|.*[<>:"|?*\x00-\x1f].*|.*[. ]',
    re.IGNORECASE,
)
"""File names that Windows forbids or reserves for devices (learn.microsoft.com, "Naming Files,
Paths, and Namespaces")."""


def is_standard_output(path: Path) -> bool:
    """Whether a path is a name of this program's standard output."""
    return path in _STANDARD_OUTPUTS


def make_folder(folder: Path, *, parents: bool = False) -> None:
    """Make a folder, with `parents` those above it, too, unless it is there; OSError."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is a file, not a folder", str(folder))
    folder.mkdir(parents=parents, exist_ok=True)


@contextmanager
def whole_file(path: Path, *, force: bool = False) -> Iterator[IO[bytes]]:
    """Write a file without a name, and give it its name when the block ends without an error.

    If the process ends before, nothing is left. OSError, with the path that was asked for, when the
    file cannot be written, or when an existing file must not be replaced (see check_target).
    Standard output receives the bytes at once.
    """
    if is_standard_output(path):
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = check_target(path, force=force)
    part = target.with_name(PARTS.replace("*", os.urandom(8).hex()))
    try:
        with _unnamed_file(part) as file:
            yield file
            file.flush()
            if not part.exists():
                _give_name(file.fileno(), part)
        check_target(path, force=force)  # the target may have changed meanwhile
        part.replace(target)
    except OSError as error:  # name the file that was asked for, not the one beside it
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def resumable_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a new file under the name of its part, and give it its name when the block ends.

    If the process ends before, or with OSError, the part stays, and the next call yields the same
    file again, open for reading and writing; its contents must not be trusted. Any other error
    removes the part. OSError, with the path that was asked for, when the file cannot be written,
    when `path` exists, when the part is a link, or when another process writes it.
    """
    target, part = check_target(path), part_of(path)
    try:
        with _own_part(part) as file:
            yield file
            file.flush()
            if target.exists():
                raise FileExistsError(errno.EEXIST, "it exists")
            if _fcntl:
                part.replace(target)  # while the lock keeps others away
        if not _fcntl:
            part.replace(target)  # Windows renames no open file
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except Exception:
        part.unlink(missing_ok=True)
        raise


def part_of(path: Path) -> Path:
    """The place of an unfinished file, with which resumable_file goes on."""
    target = Path(os.path.realpath(path))
    return target.with_name(f"{target.name}.memviz-part")


def _own_part(part: Path) -> IO[bytes]:
    """Open a part for reading and writing, made if there is none; OSError if it is not its own.

    A link by the part's name could lead to evidence, and two processes would disturb each other.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    is_link = part.is_symlink()
    file = None if is_link else os.fdopen(os.open(part, flags, 0o666), "r+b")
    try:
        if file is None or not _is_alone(file):
            fault = f"{part.name} beside it is no plain file of its own; move it away"
            raise FileExistsError(errno.EEXIST, fault)
        if not _is_locked(file, part):
            fault = f"another process is writing {part.name}"
            raise BlockingIOError(errno.EWOULDBLOCK, fault)
    except OSError:
        if file:
            file.close()
        raise
    return file


def _is_alone(file: IO[bytes]) -> bool:
    """Whether a file is a plain one that has a single name."""
    status = os.fstat(file.fileno())
    return stat.S_ISREG(status.st_mode) and status.st_nlink <= 1


def _is_locked(file: IO[bytes], part: Path) -> bool:
    """Lock a part while it is open; False if another process has it, or has just finished it.

    Windows has no such lock, and file systems may lack it.
    """
    if not _fcntl:
        return True
    try:
        _fcntl.flock(file, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return part.exists() and os.path.samestat(part.stat(), os.fstat(file.fileno()))


def _unnamed_file(part: Path) -> IO[bytes]:
    """A file without a name in the folder of `part`; `part` itself where that is not possible.

    (O_TMPFILE, open(2): only Linux has it, and not for all file systems. The name is given through
    /proc.)
    """
    flag = getattr(os, "O_TMPFILE", None)
    if flag is not None and _DESCRIPTORS.is_dir():
        try:
            return os.fdopen(os.open(part.parent, flag | os.O_WRONLY, 0o666), "wb")
        except OSError:
            pass
    return part.open("xb")


def _give_name(descriptor: int, path: Path) -> None:
    """Link a file that has no name yet into a folder (linkat(2), AT_SYMLINK_FOLLOW)."""
    descriptors = os.open(_DESCRIPTORS, os.O_RDONLY)
    try:
        os.link(str(descriptor), path, src_dir_fd=descriptors, follow_symlinks=True)
    finally:
        os.close(descriptors)


def check_target(path: Path, *, force: bool = False) -> Path:
    """Raise OSError when a file at `path` could not, or must not, be written.

    Callers ask before the work is done. Devices and pipes are refused, since a renamed file would
    take their place. A file that this program did not write is refused unless `force` is given, and
    a possible dump always. Returns the path that is really written: a symbolic link stays a
    symbolic link.
    """
    if is_standard_output(path):
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if _is_windows and _FORBIDDEN.fullmatch(path.name):
        raise OSError(errno.EINVAL, "Windows does not allow this file name", str(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "its folder does not exist", str(path))
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "it exists and is not a plain file", str(path))
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "its folder cannot be written to", str(path))
    if target.exists() and (fault := _why_not_replaced(target, force=force)):
        raise FileExistsError(errno.EEXIST, fault, str(path))
    return target


def _why_not_replaced(target: Path, *, force: bool) -> str:
    """The reason why an existing file must stay; empty if it may be replaced."""
    size = target.stat().st_size
    if not size or is_own(target):
        return ""
    if not force:
        return "it exists, and this program did not write it; --force replaces it"
    with target.open("rb") as file:
        head = file.read(notdumps.HEAD_SIZE)
    is_archive = target.suffix.lower() == ".npz" and head.startswith(b"PK\x03\x04")
    if is_dump(head) or (notdumps.begins_as(head) and not is_archive):
        return "it exists and begins like a dump or an archive, which --force never replaces"
    if size > LARGEST_REPLACED:
        return (
            f"it exists and has {binary_size(size)}: --force replaces only files of up to"
            f" {binary_size(LARGEST_REPLACED)}, since larger files may be dumps"
        )
    if size >= _SMALLEST_DUMP and size % PAGE_SIZE == 0:
        return (
            "it exists and consists of whole pages, like a raw dump, which --force never replaces"
        )
    return ""


def is_own(path: Path) -> bool:
    """Whether this program wrote a file, by the marks that it puts into each kind; or OSError."""
    with path.open("rb") as file:
        head = file.read(_HEAD_SIZE)
        if head.startswith(_PARQUET):
            return _is_own_parquet(file)
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            return _is_own_webp(file)
    return any(re.match(mark, head) for mark in _MARKS)


def _is_own_parquet(file: IO[bytes]) -> bool:
    """By the description at the file's end (Apache Parquet, "File Format")."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    length, magic = int.from_bytes(file.read(4), "little"), file.read(4)
    if magic != _PARQUET or not 0 < length <= min(_LONGEST_FOOTER, size - 8):
        return False
    file.seek(size - 8 - length)
    return re.search(rb"generator(?s:.{1,8})Memory Visualizer ", file.read(length)) is not None


def _is_own_webp(file: IO[bytes]) -> bool:
    """By the XMP at the file's end (WebP container specification)."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_XMP))
    return re.search(rb"XMP (?s:.{4})<x:xmpmeta [^>]*Memory Visualizer ", file.read()) is not None


_LONGEST_XMP = 1024
"""Bytes of this program's XMP, and more."""
