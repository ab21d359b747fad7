"""The file behind each page of a Linux kernel's page cache.

The `struct page` of a cached page leads to an address_space (`mapping`), and tells the page's
number in it (`index`); of a large folio only its first page does. The address_space leads to its
inode (`host`), and that to the names that the file has (`i_dentry`): include/linux/fs.h and
mm_types.h of the kernel.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.linux.dentries import Dentries, Path, device_name
from memory_visualizer.linux.filelayout import FileLayout
from memory_visualizer.linux.pagestates import CachedPages
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.inventory import FileObject, FilePages

_AT_ONCE = 1 << 13
_MAX_NAMES = 16
"""The most names of an inode that are read (hard links)."""
_KINDS = {0x4: "directory", 0x6: "block device", 0x8: "file", 0xA: "symbolic link"}
"""By the upper four bits of i_mode (include/uapi/linux/stat.h)."""
_BLOCK_DEVICES, _SHARED = "bdev", ("tmpfs", "hugetlbfs")
"""Names of file systems: the kernel's own for block devices, and for memory that is shared."""


@dataclass(frozen=True, eq=False)
class Inodes:
    """The inodes of some address spaces, a row for each."""

    address: NDArray[np.uint64]
    """Addresses; 0 if no pointer leads to an inode, or the inode does not lead back."""
    words: NDArray[np.uint64]
    """Their contents."""
    layout: FileLayout

    def column(self, place: int | None, size: int = 8) -> NDArray[np.uint64]:
        """A number of `size` bytes in each; zeros if its place is not known."""
        if place is None:
            return np.zeros(len(self.words), np.uint64)
        numbers: NDArray[np.uint64] = self.words.view(f"<u{size}")[:, place // size].astype("<u8")
        return numbers


def files_of(
    kernel: TableMemory, layout: FileLayout, dentries: Dentries, cached: CachedPages
) -> tuple[FilePages, tuple[str, ...]]:
    """The files of cached pages; and sentences on files without a name."""
    spaces, row = np.unique(cached.mapping, return_inverse=True)
    inodes = read_inodes(kernel, layout, spaces)
    paths = _paths(kernel, layout, dentries, inodes)
    files = _files(dentries, inodes, paths)
    order = sorted(
        range(len(files)),
        key=lambda row: (files[row].path, files[row].device, files[row].number or 0, row),
    )
    place = np.empty(len(files), np.int32)
    place[order] = np.arange(len(files), dtype=np.int32)
    by_frame = np.argsort(cached.frame, kind="stable")
    pages = FilePages(
        tuple(files[number] for number in order),
        cached.frame[by_frame],
        place[row[by_frame]],
        cached.offset[by_frame],
    )
    remarks = []
    if lost := int(np.count_nonzero(inodes.address == 0)):
        remarks.append(
            f"{counted(lost, 'file')} of the page cache without an inode that leads back to its"
            " pages: nothing names the file"
        )
    return pages, tuple(remarks)


def read_inodes(kernel: TableMemory, layout: FileLayout, spaces: NDArray[np.uint64]) -> Inodes:
    """The inodes that some address spaces belong to.

    An inode is believed if it leads back to its address space: each is judged by itself.
    """
    words = np.zeros((len(spaces), layout.inode_size // 8), np.uint64)
    hosts = np.zeros(len(spaces), np.uint64)
    for at in range(0, len(spaces), _AT_ONCE):
        part = slice(at, at + _AT_ONCE)
        hosts[part], _ = kernel.numbers(spaces[part] + np.uint64(layout.host))
        raw, known = kernel.read_each(hosts[part], layout.inode_size)
        words[part] = kernel.words(raw)
        is_own = words[part, layout.i_mapping // 8] == spaces[part]
        hosts[part][~(known & is_own)] = 0
    return Inodes(hosts, words, layout)


def _paths(
    kernel: TableMemory, layout: FileLayout, dentries: Dentries, inodes: Inodes
) -> list[Path | None]:
    """The path of each inode; None without a name, as for block devices.

    Of several names, the first in the list that its folder still has counts.
    """
    link = inodes.column(layout.i_dentry)
    link[inodes.address == 0] = 0
    found: list[Path | None] = [None] * len(link)
    rows = np.flatnonzero(link)
    for _ in range(_MAX_NAMES):
        if not len(rows):
            break
        places = link[rows] - np.uint64(layout.d_alias)
        dentries.read(places)
        following, _ = kernel.numbers(link[rows])
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            own = dentries.get(place)
            if own is None or own.inode != int(inodes.address[row]):
                continue
            path = dentries.path(place)
            if path and (found[row] is None or not path.is_deleted):
                found[row] = path
        link[rows] = following
        is_open = np.array([path is None or path.is_deleted for path in found], bool)
        rows = rows[(following != 0) & is_open[rows]]
    kernel.memory.budget.refuse("further name of a file", len(rows))
    return found


def _files(dentries: Dentries, inodes: Inodes, paths: list[Path | None]) -> list[FileObject]:
    """The file of each inode."""
    layout = inodes.layout
    columns = (
        inodes.address,
        inodes.column(layout.i_sb),
        inodes.column(layout.i_ino),
        inodes.column(layout.i_mode, 2),
        inodes.column(layout.i_rdev, 4),
        inodes.column(layout.i_nlink, 4),
        inodes.column(layout.i_size),
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [_file(dentries, layout, row, path) for row, path in zip(rows, paths, strict=True)]


def _file(
    dentries: Dentries, layout: FileLayout, row: tuple[int, ...], path: Path | None
) -> FileObject:
    """A file by its inode's address, super block, number, mode, device, links and size."""
    address, super_block, inode, mode, device, links, size = row
    if not address:
        return FileObject("[file without an inode]", "file")
    system = dentries.file_system(super_block)
    kind = _KINDS.get(mode >> 12, "file")
    if system.name == _BLOCK_DEVICES:
        kind = "block device"
        text = f"[block device {device_name(device)}]"
    elif path is None:
        text = f"[inode {inode} of {system.name or 'a file system'} on {system.device or '?'}]"
    else:
        text = path.text
        kind = "shared memory" if path.is_pseudo and system.name in _SHARED else kind
    is_unlinked = layout.i_nlink is not None and not links
    return FileObject(
        path=text,
        kind=kind,
        is_deleted=path is not None and (path.is_deleted or is_unlinked),
        size=size if layout.i_size is not None else None,
        file_system=system.name,
        device=system.device,
        number=inode if layout.i_ino is not None else None,
        object_address=address,
    )
