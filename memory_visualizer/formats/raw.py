"""Raw dumps: byte N of the file is byte N of physical memory."""

from functools import partial
from pathlib import Path
from typing import Self

from memory_visualizer.errors import BadInputError, NotWholePagesError, reading
from memory_visualizer.formats.files import file_size
from memory_visualizer.formats.mapped import MappedDump, find_extents
from memory_visualizer.formats.paths import as_path
from memory_visualizer.units import PAGE_SIZE


class RawDump(MappedDump):
    """A raw dump. The filling of its holes cannot be distinguished from memory."""

    trailing_bytes: int
    """Bytes after the last whole page; they are ignored."""

    @classmethod
    def open(cls, path: str | Path, *, lenient: bool = False) -> Self:
        """Check the file's size.

        BadInputError when the file cannot be read or holds no page; DamagedInputError, unless
        `lenient`, when its size is not a multiple of a page: NotWholePagesError.
        """
        path = as_path(path)
        with reading(path), path.open("rb", buffering=0) as file:
            if not file.seekable():
                raise BadInputError(f"{path} is a pipe; a dump must be a file")
            size = file_size(file)
        return cls._of_file(path, size, 0, lenient=lenient)

    @classmethod
    def behind(cls, path: str | Path, header: int) -> Self:
        """The memory behind a header of so many bytes; an incomplete page at the end is ignored."""
        path = as_path(path)
        with reading(path), path.open("rb", buffering=0) as file:
            size = file_size(file)
        dump = cls._of_file(path, size, header, lenient=True)
        remark = (
            f"the first {header:,} bytes of {path} are an unknown header: memory was assumed to"
            " begin after it, where its contents fit together"
        )
        dump.remarks = (remark, *dump.remarks)
        dump.reopen = partial(cls.behind, path, header)
        return dump

    @classmethod
    def _of_file(cls, path: Path, size: int, header: int, *, lenient: bool) -> Self:
        frame_count, trailing_bytes = divmod(size - header, PAGE_SIZE)
        if frame_count == 0:
            raise BadInputError(f"{path} holds {trailing_bytes:,} bytes, less than one page")
        remarks = []
        if trailing_bytes:
            if not lenient:
                raise NotWholePagesError(
                    path,
                    f"{path} is not a whole number of {PAGE_SIZE:,}-byte pages:"
                    f" {trailing_bytes:,} bytes follow page {frame_count:,}",
                )
            remarks.append(
                f"ignored the last {trailing_bytes:,} bytes of {path}, less than a whole page"
            )
        extents, _ = find_extents(path, [0], [size - header], [header], file_size=size)
        dump = cls(path, "raw", extents, remarks=remarks)
        dump.trailing_bytes = trailing_bytes
        return dump
