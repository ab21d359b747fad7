"""Names that a user gives become paths: of files on this machine, or of files behind URLs."""

import errno
import fnmatch
import os
import stat
from collections.abc import Generator
from functools import cached_property
from pathlib import Path
from typing import Any

from memory_visualizer.errors import MemoryVisualizerError
from memory_visualizer.formats.inside import Inside, InsidePath
from memory_visualizer.formats.remote import RemoteFile, beside, size_of
from memory_visualizer.formats.urls import (
    bare_url,
    folder_of,
    is_url,
    local_name,
    printable_url,
    sibling_of,
)


def as_path(name: str | Path) -> Path:
    """Make a path of a name, which may be a URL; a path stays unchanged. Nothing is opened."""
    if isinstance(name, Path):
        return name
    return RemotePath.at(name) if is_url(name) else Path(local_name(name))


class RemotePath(InsidePath):
    """The path of a file behind a URL; the server is asked only when something must be known.

    It shows the URL without credentials, and a pickle of it has none either. `parent`, `with_name`
    and `with_suffix` lead to URLs; other paths derived from it are of no use.
    """

    is_whole_file = True
    url = ""
    _size: int | None = None

    @classmethod
    def at(cls, url: str, size: int | None = None) -> "RemotePath":
        """The path of a URL; `size` is its size in bytes if a list of its folder has told it."""
        self = cls(bare_url(url))
        self.url, self._size, self._shown = url, size, printable_url(url)
        return self

    @property
    def inside(self) -> Inside | None:  # type: ignore[override]
        """The file's bytes; errors as for `RemoteFile`."""
        return self._file if self.url else None

    @cached_property
    def _file(self) -> RemoteFile:
        return RemoteFile(self.url)

    def __reduce__(self) -> str | tuple[Any, ...]:
        """A pickle opens the URL without credentials; the environment has to provide them."""
        return as_path, (printable_url(self.url) if self.url else str(self),)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """The size of a plain file; BadInputError, also if it is not the file that was opened."""
        size = self._size
        if size is None:
            if "_file" in vars(self):
                self._file.check()
            size = self._file.size
        return os.stat_result((stat.S_IFREG | 0o400, 0, 0, 1, 0, 0, size, 0, 0, 0))

    def is_file(self, **_: Any) -> bool:
        """Whether the server knows a file at this URL, and tells its size."""
        if self._size is not None or "_file" in vars(self):
            return True
        try:
            size_of(self.url)
        except (OSError, MemoryVisualizerError):
            return False
        return True

    def exists(self, **_: Any) -> bool:
        """As `is_file`."""
        return self.is_file()

    @property
    def parent(self) -> "RemotePath":
        """The folder, which `iterdir` and `glob` can list on most kinds of servers."""
        return RemotePath.at(folder_of(self.url))

    def with_name(self, name: str) -> "RemotePath":
        """Another file in the same folder."""
        return RemotePath.at(sibling_of(self.url, name))

    def with_suffix(self, suffix: str) -> "RemotePath":
        """A file of the same name with another ending."""
        return self.with_name(f"{self.stem}{suffix}")

    def iterdir(self) -> Generator["RemotePath", None, None]:
        """The files of a folder; OSError if it cannot be listed."""
        try:
            found = beside(self.url)
        except MemoryVisualizerError as error:
            raise OSError(errno.EIO, str(error)) from None
        for url, size in found:
            yield RemotePath.at(url, size)

    def glob(self, pattern: str, **_: Any) -> Generator["RemotePath", None, None]:
        """The files of a folder whose names match; OSError if it cannot be listed."""
        return (one for one in self.iterdir() if fnmatch.fnmatchcase(one.name, pattern))
