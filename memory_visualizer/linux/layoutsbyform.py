"""Offsets of members in a kernel that does not describe its types, found in the objects.

Pointers that lead back prove themselves: between an address_space and its inode, a directory entry
and its inode, a region and its mm_struct. Many objects vote on each offset, so a damaged object
does no harm. Members that are neighbours in all kernels from 5.10 to 7.3 (include/linux/fs.h,
dcache.h, mm_types.h and module.h) are taken to be neighbours here, too.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import even_sample
from memory_visualizer.linux.filelayout import FileLayout, MountLayout
from memory_visualizer.linux.mapletree import read_tree
from memory_visualizer.linux.modules import ModuleLayout
from memory_visualizer.linux.regions import RegionLayout
from memory_visualizer.paging.linkedlist import links_of
from memory_visualizer.paging.tablememory import TableMemory
from memory_visualizer.units import PAGE_SIZE

_EXAMPLES = 128
_VOTERS = 1 << 10
"""Regions that vote on the layout of all."""
_INODE, _SUPER_BLOCK, _AREA, _MEMORY, _MODULE = 768, 512, 256, 2048, 2048
"""Bytes of objects that are examined."""
_SMALLEST_INODE = 512
_NEAR = 256
"""The distance in bytes around a pointer's target in which the inode is searched."""
_HASH, _PARENT, _LENGTH, _NAME, _OWN_INODE = 8, 24, 36, 40, 48
"""In a dentry: d_hash, d_parent, d_name.len, d_name.name, d_inode."""
_DEVICE = 16
"""In a super_block: s_dev."""
_FILE_INODES = (32, 40)
"""In a struct file: f_inode; the second in 6.12."""
_FILE_PATHS = (16, 64)
"""In a struct file: f_path."""
_ROOTS = (0x0E, 0x16, 0x1E)
"""Lower bits of the pointer to a maple tree's root: a leaf, or one of two kinds of nodes."""
_MODULE_NAME, _LARGEST_PART = 24, 1 << 28
_MOUNT_PARENT, _MOUNT_POINT, _MOUNT_INSIDE = 16, 24, 32
"""In a struct mount: mnt_parent, mnt_mountpoint, and mnt, with the root and the super_block."""
_TRIED_TREES = 8
_FEW = 4
_MOST = 1 / 2

_Words = NDArray[np.uint64]


def files(kernel: TableMemory, spaces: _Words) -> FileLayout | None:
    """The layout by some address_spaces; None if they do not show it."""
    spaces = _examples(spaces)
    hosts, known = kernel.numbers(spaces)
    spaces, hosts = spaces[known], hosts[known]
    raw, known = kernel.read_each(hosts, _INODE)
    spaces, hosts, words = spaces[known], hosts[known], kernel.words(raw[known])
    mapping = _voted(words == spaces[:, None])
    if mapping is None:
        return None
    sound = words[:, mapping // 8] == spaces
    hosts, words = hosts[sound], words[sound]
    dentry = _find_dentry(kernel, hosts, words)
    if dentry is None:
        return None
    i_dentry, d_alias = dentry
    has_name = words[:, i_dentry // 8] >= np.uint64(kernel.upper)
    dentries = words[has_name, i_dentry // 8] - np.uint64(d_alias)
    blocks = words[has_name, mapping // 8 - 1]
    raw, _ = kernel.read_each(dentries, 2 * _NEAR)
    d_sb = _voted((kernel.words(raw) == blocks[:, None]) & (blocks != 0)[:, None])
    system = _find_system(kernel, blocks)
    mounts = _find_mounts(kernel, blocks, d_sb) if d_sb is not None else None
    # In some builds, the pointer for security modules (or null) comes before the number. No inode
    # has the number 0.
    behind = words[:, mapping // 8 + 1]
    secure = np.count_nonzero((behind >= np.uint64(kernel.upper)) | (behind == 0))
    number = mapping + (16 if secure > _MOST * len(words) else 8)
    return FileLayout(
        host=0,
        i_mapping=mapping,
        i_sb=mapping - 8,
        i_dentry=i_dentry,
        i_ino=number,
        i_nlink=number + 8,
        i_rdev=number + 12,
        i_size=number + 16,
        i_mode=0,
        inode_size=max(i_dentry + 8, number + 24),
        d_alias=d_alias,
        d_parent=_PARENT,
        d_name=_NAME,
        d_length=_LENGTH,
        d_hash=_HASH,
        d_inode=_OWN_INODE,
        d_sb=d_sb,
        dentry_size=max(_OWN_INODE, d_sb or 0) + 8,
        s_dev=_DEVICE,
        s_type=system[0] if system else None,
        s_root=system[1] if system else 0,
        s_mounts=mounts[0] if mounts else None,
        mount=mounts[1] if mounts else None,
    )


def _examples(values: _Words) -> _Words:
    """An even sample of the values."""
    return values[:: max(len(values) // _EXAMPLES, 1)][:_EXAMPLES]


def _voted(fits: NDArray[np.bool_]) -> int | None:
    """The offset in bytes of the first word that fits most rows; None if no word does."""
    if not fits.size:
        return None
    counts = np.count_nonzero(fits, axis=0)
    best = int(np.argmax(counts))
    return best * 8 if counts[best] > _MOST * len(fits) else None


def _find_dentry(kernel: TableMemory, hosts: _Words, words: _Words) -> tuple[int, int] | None:
    """The offset of the list of names in an inode, and of its link in a directory entry."""
    best, found = 0, None
    for column in range(_SMALLEST_INODE // 8):
        led = words[:, column]
        # Another object than the inode itself.
        outside = (led >= np.uint64(kernel.upper)) & (led - hosts >= np.uint64(_SMALLEST_INODE))
        if np.count_nonzero(outside) < max(_FEW, len(hosts) // 8):
            continue
        raw, known = kernel.read_each(led[outside] - np.uint64(_NEAR), 2 * _NEAR)
        back = (kernel.words(raw) == hosts[outside][:, None]) & known[:, None]
        counts = np.count_nonzero(back, axis=0)
        place = int(np.argmax(counts))
        alias = _OWN_INODE + _NEAR - place * 8
        if counts[place] > max(best, _MOST * np.count_nonzero(outside)) and alias > _OWN_INODE:
            names = _names_fit(kernel, led[outside] - np.uint64(alias))
            if names > _MOST * np.count_nonzero(outside):
                best, found = int(counts[place]), (column * 8, alias)
    return found


def _names_fit(kernel: TableMemory, dentries: _Words) -> int:
    """The number of entries whose name has the stated length."""
    raw, known = kernel.read_each(dentries, _OWN_INODE + 8)
    places, lengths = kernel.words(raw)[:, _NAME // 8], raw.view("<u4")[:, _LENGTH // 4]
    texts = kernel.read_partly(places, 256)
    ends = np.argmax(texts == 0, axis=1)
    return int(np.count_nonzero(known & (lengths > 0) & (ends == lengths)))


def _find_system(kernel: TableMemory, blocks: _Words) -> tuple[int, int] | None:
    """The offsets of the file system's type and of its root in a super_block."""
    blocks = np.unique(blocks)
    raw, known = kernel.read_each(blocks[blocks >= np.uint64(kernel.upper)], _SUPER_BLOCK)
    words = kernel.words(raw[known])
    roots, kinds = np.zeros(words.shape, bool), np.zeros(words.shape, bool)
    for column in range(words.shape[1]):
        led = words[:, column]
        valid = led >= np.uint64(kernel.upper)
        parents, _ = kernel.numbers(np.where(valid, led + np.uint64(_PARENT), np.uint64(0)))
        roots[:, column] = valid & (parents == led)
        texts, _ = kernel.numbers(np.where(valid, led, np.uint64(0)))
        valid &= texts >= np.uint64(kernel.upper)
        raw = kernel.read_partly(np.where(valid, texts, np.uint64(0)), 32)
        kinds[:, column] = valid & _are_words(raw)
    root = _voted(roots)
    kind = _voted(kinds[:, : (root or 0) // 8]) if root else None
    return None if root is None or kind is None else (kind, root)


def _find_mounts(kernel: TableMemory, blocks: _Words, d_sb: int) -> tuple[int, MountLayout] | None:
    """The offset of the list of mounts in a super_block, and the layout of mounts.

    A mount leads to a dentry of the file system, and beside it back to the super_block.
    """
    blocks = np.unique(blocks[blocks >= np.uint64(kernel.upper)])
    raw, known = kernel.read_each(blocks, _SUPER_BLOCK)
    blocks, words = blocks[known], kernel.words(raw[known])
    best: tuple[int, int, int] = (0, 0, 0)
    for column in range(words.shape[1]):
        raw, around = kernel.read_each(words[:, column] - np.uint64(_NEAR), 2 * _NEAR)
        near = kernel.words(raw)
        rows, places = np.nonzero((near[:, 1:] == blocks[:, None]) & around[:, None])
        of_root, _ = kernel.numbers(near[rows, places] + np.uint64(d_sb))
        sound = of_root == blocks[rows]
        counts = np.bincount(places[sound], minlength=1)
        place = int(np.argmax(counts))
        best = max(best, (int(counts[place]), -column * 8, place * 8))
    count, column, place = best
    link = _NEAR - place + _MOUNT_INSIDE
    if count <= _MOST * len(blocks) or not 0 <= link <= _NEAR:
        return None
    layout = MountLayout(
        root=_MOUNT_INSIDE,
        super_block=_MOUNT_INSIDE + 8,
        point=_MOUNT_POINT,
        parent=_MOUNT_PARENT,
        space=None,
        # Since 6.18 the list leads to the mount itself: only the first mount is known then.
        link=link or None,
        vfsmount=_MOUNT_INSIDE,
        is_list=link > 0,
    )
    return -column, layout


def _are_words(raw: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which rows begin with two or more small letters, digits or ``_``, and a zero behind them."""
    ends = np.argmax(raw == 0, axis=1)
    letters = (raw >= ord("a")) & (raw <= ord("z")) | (raw >= ord("0")) & (raw <= ord("9"))
    inside = np.arange(raw.shape[1]) < ends[:, None]
    words: NDArray[np.bool_] = (letters | (raw == ord("_")) | ~inside).all(axis=1) & (ends > 1)
    return words


def regions(kernel: TableMemory, pgd: int, memories: _Words) -> RegionLayout | None:
    """The layout by some mm_structs of processes; None if they do not show it."""
    memories = _examples(memories)
    raw = kernel.read_partly(memories, _MEMORY)
    words = kernel.words(raw)
    tree = _find_tree(kernel, words)
    areas = _areas(kernel, memories, words, tree)
    if len(areas) < _FEW:
        return None
    mm, at = even_sample(np.array(areas, np.uint64), _VOTERS).T
    raw, known = kernel.read_each(at, _AREA)
    in_areas = kernel.words(raw)
    vm_mm = _voted((in_areas == mm[:, None]) & known[:, None])
    file = _find_file(kernel, in_areas)
    if vm_mm is None or file is None:
        return None
    vm_file, path = file
    heap = _find_heap(words)
    is_old = tree is None
    return RegionLayout(
        pgd=pgd,
        tree=tree,
        mmap=0 if is_old else None,
        mm_rb=8 if is_old else None,
        start_brk=heap,
        brk=None if heap is None else heap + 8,
        start_stack=None if heap is None else heap + 16,
        vm_start=0,
        vm_end=8,
        vm_flags=vm_mm + 16,
        vm_mm=vm_mm,
        vm_file=vm_file,
        vm_pgoff=vm_file - 8,
        vm_ops=vm_file - 16,
        vm_private_data=vm_file + 8,
        vm_next=16 if is_old else None,
        vm_rb=32 if is_old else None,
        anon_name=None,
        names_shared=False,
        anon_text=0,
        f_mnt=path,
        f_dentry=path + 8,
    )


def _find_tree(kernel: TableMemory, words: _Words) -> int | None:
    """The offset of the maple tree's root in an mm_struct; None if there is none."""
    likely = np.isin(words & np.uint64(0xFF), np.array(_ROOTS, np.uint64))
    likely &= words >= np.uint64(kernel.upper)
    place = _voted(likely)
    if place is None:
        return None
    roots = words[likely[:, place // 8], place // 8]
    some = roots[:: -(-len(roots) // _TRIED_TREES)].tolist()
    trees = sum(bool(read_tree(kernel, root, PAGE_SIZE).rows) for root in some)
    return place if trees > _MOST * len(some) else None


def _areas(
    kernel: TableMemory, memories: _Words, words: _Words, tree: int | None
) -> list[tuple[int, int]]:
    """Some regions' objects, each with its mm_struct: by the tree, else by the list."""
    found: list[tuple[int, int]] = []
    for memory, row in zip(memories.tolist(), words.tolist(), strict=True):
        if tree is not None:
            rows = read_tree(kernel, row[tree // 8], PAGE_SIZE).rows[:_EXAMPLES]
            found += [(memory, area) for _, _, area in rows if area >= kernel.upper]
            continue
        at = row[0]
        for _ in range(_EXAMPLES):
            if not at or at < kernel.upper:
                break
            found.append((memory, at))
            at = kernel.number(at + 16) or 0  # vm_next
    return found


def _find_file(kernel: TableMemory, words: _Words) -> tuple[int, int] | None:
    """The offsets of the file in a region, and of the path in a file: both lead to one inode."""
    best: tuple[int, int, int] = (0, 0, 0)
    for column in range(words.shape[1]):
        led = words[:, column]
        led = led[led >= np.uint64(kernel.upper)]
        if len(led) < _FEW:
            continue
        for inode, path in product(_FILE_INODES, _FILE_PATHS):
            inodes, known = kernel.numbers(led + np.uint64(inode))
            known &= inodes >= np.uint64(kernel.upper)
            entries, _ = kernel.numbers(led + np.uint64(path + 8))
            own, _ = kernel.numbers(entries + np.uint64(_OWN_INODE))
            count = int(np.count_nonzero(known & (own == inodes)))
            best = max(best, (count, -column * 8, path))
    count, column, path = best
    return (-column, path) if count >= _FEW else None


def _find_heap(words: _Words) -> int | None:
    """The offset of start_brk: the fifth of eleven addresses, of which the last ones ascend.

    They are start_code, end_code, start_data, end_data, start_brk, brk, start_stack, arg_start,
    arg_end, env_start, env_end.
    """
    count = words.shape[1] - 11
    fits = np.zeros((len(words), max(count, 0)), bool)
    for at in range(count):
        some = words[:, at : at + 11]
        addresses = ((some >= np.uint64(PAGE_SIZE)) & (some < np.uint64(1 << 63))).all(axis=1)
        heap = some[:, 4] <= some[:, 5]
        code = some[:, 0] <= some[:, 1]
        ascending = (np.diff(some[:, 6:].astype(np.int64), axis=1) >= 0).all(axis=1)
        fits[:, at] = addresses & heap & code & ascending
    first = _voted(fits)
    return None if first is None else first + 4 * 8


def modules(kernel: TableMemory, head: int) -> ModuleLayout | None:
    """The layout by the modules in the list that begins at `head`; None if they do not show it.

    Only the part of a module that holds its description is found: before 6.4 that is all of it.
    """
    link = 8
    links, _ = links_of(kernel, head, backwards=False, lowest=kernel.upper, limit=_EXAMPLES)
    at = np.array(links, np.uint64) - np.uint64(link)
    raw, known = kernel.read_each(at, _MODULE)
    at, raw = at[known], raw[known]
    words, numbers = kernel.words(raw), raw.view("<u4")
    best: tuple[int, int, int] = (0, 0, 0)
    for behind in (8, 12):
        sizes = numbers[:, behind // 4 :: 2].astype(np.uint64)
        bases = words[:, : sizes.shape[1]]
        fits = (bases % np.uint64(PAGE_SIZE) == 0) & (bases >= np.uint64(kernel.upper))
        fits &= (at[:, None] >= bases) & (at[:, None] - bases < sizes)
        fits &= sizes < np.uint64(_LARGEST_PART)
        counts = np.count_nonzero(fits, axis=0)
        place = int(np.argmax(counts))
        best = max(best, (int(counts[place]), -place * 8, behind))
    count, place, behind = best
    if count <= _MOST * len(at):
        return None
    return ModuleLayout(link, _MODULE_NAME, ((-place, -place + behind),))


def memories_of(kernel: TableMemory, tasks: _Words, places: Sequence[int]) -> _Words:
    """The mm_structs that some tasks lead to, each once; `places` are the pointers' offsets."""
    at = np.array(tasks, np.uint64)
    found = [kernel.numbers(at + np.uint64(place))[0] for place in places]
    values = np.unique(np.concatenate([np.empty(0, np.uint64), *found]))
    return values[values >= np.uint64(kernel.upper)]
