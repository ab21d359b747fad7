"""Output files that appear whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that has no name yet, and put it in its place when the block ends well.

    Whatever ends the process before, nothing is left. OSError, with the path that was asked for,
    when it cannot be written.
    """
    target = check_target(path)
    part = target.with_name(f".memory-visualizer-{os.urandom(8).hex()}.part")
    try:
        with _unnamed_file(part) as file:
            yield file
            file.flush()
            if not part.exists():
                _give_name(file.fileno(), part)
        part.replace(target)
    except OSError as error:  # name the file that was asked for, not the one beside it
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def _unnamed_file(part: Path) -> IO[bytes]:
    """A file without a name in the folder of `part`; `part` itself where that is not possible.

    (O_TMPFILE, open(2): not all file systems have it.)
    """
    try:
        descriptor = os.open(part.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except OSError:
        return part.open("xb")
    return os.fdopen(descriptor, "wb")


def _give_name(descriptor: int, path: Path) -> None:
    """Link a file that has no name yet into a folder (linkat(2), AT_SYMLINK_FOLLOW)."""
    descriptors = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)
    try:
        os.link(str(descriptor), path, src_dir_fd=descriptors, follow_symlinks=True)
    finally:
        os.close(descriptors)


def check_target(path: Path) -> Path:
    """Raise OSError when a file at `path` could surely not be written.

    For whoever wants to know before the work is done. A renamed file would take the place of a
    device or a pipe, so these are refused. Returns where the file really goes: a symbolic link
    stays one.
    """
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "its folder does not exist", str(path))
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "it is there and is not a plain file", str(path))
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "its folder cannot be written to", str(path))
    return target
