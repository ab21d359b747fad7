"""The offsets of the members in the kernel's structures that lead from a page to its file.

The kernel's description of its types (BTF) tells them.
"""

from dataclasses import dataclass

from memory_visualizer.linux.btf import Btf

_LARGEST = 1 << 13
"""The largest offset of a member in these structures."""
_WORD = 8


@dataclass(frozen=True)
class MountLayout:
    """Offsets in struct mount."""

    root: int
    super_block: int
    point: int
    parent: int
    space: int | None
    """Offset of the name space; None if not known."""
    link: int | None
    """Offset of the link to the next mount of the same file system; None if not known."""
    vfsmount: int
    """Offset of the part that an open file leads to."""
    is_list: bool
    """Whether that link is a list_head (before 6.18); later it leads to the mount itself."""


@dataclass(frozen=True)
class FileLayout:
    """Offsets in address_space, inode, dentry and super_block, by the kernel's own names."""

    host: int
    i_mapping: int
    i_sb: int | None
    i_dentry: int
    i_ino: int | None
    i_nlink: int | None
    i_rdev: int | None
    i_size: int | None
    i_mode: int | None
    inode_size: int
    """Bytes of an inode that are read."""
    d_alias: int
    """In a dentry: the target of i_dentry, which links the names of an inode."""
    d_parent: int
    d_name: int
    """The pointer to the text of the name."""
    d_length: int
    """The length of the name in bytes, a number of 32 bits."""
    d_hash: int
    d_inode: int
    d_sb: int | None
    dentry_size: int
    s_dev: int
    s_type: int | None
    s_root: int
    s_mounts: int | None
    mount: MountLayout | None


def by_btf(types: Btf) -> FileLayout | None:
    """Offsets by the kernel's description of its types; None if it lacks a needed member."""

    def place(structure: str, *names: str) -> int | None:
        offset = types.offset(structure, *names)
        return None if offset is None or offset > _LARGEST else offset

    needed = {
        "host": place("address_space", "host"),
        "i_mapping": place("inode", "i_mapping"),
        "i_dentry": place("inode", "i_dentry"),
        "d_alias": place("dentry", "d_alias", "d_u"),
        "d_parent": place("dentry", "d_parent"),
        "d_hash": place("dentry", "d_hash"),
        "d_inode": place("dentry", "d_inode"),
        "s_dev": place("super_block", "s_dev"),
        "s_root": place("super_block", "s_root"),
    }
    name, text = place("dentry", "d_name"), place("qstr", "name")
    length = place("qstr", "len")
    if name is None or text is None or length is None:
        return None
    known = {key: value for key, value in needed.items() if value is not None}
    if len(known) < len(needed):
        return None
    members = ("i_sb", "i_ino", "i_nlink", "i_rdev", "i_size", "i_mode")
    i_sb, i_ino, i_nlink, i_rdev, i_size, i_mode = (place("inode", name) for name in members)
    others = [offset for offset in (i_sb, i_ino, i_nlink, i_rdev, i_size, i_mode) if offset]
    in_inode = [known["i_mapping"], known["i_dentry"], *others]
    super_block = place("dentry", "d_sb")
    in_dentry = [known["d_alias"], known["d_parent"], known["d_hash"] + _WORD, known["d_inode"]]
    in_dentry += [name + text, name + length, super_block or 0]
    return FileLayout(
        **known,
        i_sb=i_sb,
        i_ino=i_ino,
        i_nlink=i_nlink,
        i_rdev=i_rdev,
        i_size=i_size,
        i_mode=i_mode,
        d_name=name + text,
        d_length=name + length,
        d_sb=super_block,
        inode_size=max(in_inode) // _WORD * _WORD + _WORD,
        dentry_size=max(in_dentry) // _WORD * _WORD + _WORD,
        s_type=place("super_block", "s_type"),
        s_mounts=place("super_block", "s_mounts"),
        mount=_mount_by_btf(types),
    )


def _mount_by_btf(types: Btf) -> MountLayout | None:
    inner = types.offset("mount", "mnt")
    root, block = types.offset("vfsmount", "mnt_root"), types.offset("vfsmount", "mnt_sb")
    point, parent = types.offset("mount", "mnt_mountpoint"), types.offset("mount", "mnt_parent")
    space = types.offset("mount", "mnt_ns")
    listed, chained = (
        types.offset("mount", "mnt_instance"),
        types.offset("mount", "mnt_next_for_sb"),
    )
    link = chained if listed is None else listed
    if None in (inner, root, block, point, parent, space, link):
        return None
    return MountLayout(
        root=(inner or 0) + (root or 0),
        super_block=(inner or 0) + (block or 0),
        point=point or 0,
        parent=parent or 0,
        space=space or 0,
        link=link or 0,
        vfsmount=inner or 0,
        is_list=listed is not None,
    )
