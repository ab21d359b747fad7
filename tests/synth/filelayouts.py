r"""Where members stand in the structures behind a file, a region and a module, in real kernels.

    python -m tests.synth.filelayouts 5.10=vmlinux-5.10.btf 6.1=vmlinux-6.1.btf \
        6.12=vmlinux-6.12.btf 7.3=vmlinux-7.3.btf

writes `filelayouts.json` from the BTF of real kernels as bpftool translates it: another witness
than the reader and its author. The kernels are Debian's 5.10.262-amd64, 6.1.192-amd64,
6.12.117-cloud-amd64 and 7.3.4-arm64.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.guests.kerneltypes import Types

LAYOUTS = Path(__file__).with_name("filelayouts.json")
_MEMBERS = {
    "address_space": "host",
    "inode": "i_mode i_sb i_mapping i_ino i_nlink i_rdev i_size i_dentry i_data",
    "dentry": "d_flags d_hash d_parent d_name d_inode d_sb d_u d_alias d_iname d_shortname",
    "qstr": "len name",
    "super_block": "s_dev s_type s_root s_mounts",
    "mount": "mnt_parent mnt_mountpoint mnt mnt_instance mnt_next_for_sb mnt_ns",
    "vfsmount": "mnt_root mnt_sb",
    "file": "f_path f_inode",
    "path": "mnt dentry",
    "vm_area_struct": "vm_start vm_end vm_next vm_rb vm_mm vm_flags vm_ops vm_pgoff vm_file"
    " vm_private_data anon_name shared",
    "anon_vma_name": "name",
    "maple_tree": "ma_root",
    "module": "list name core_layout mem",
    "module_layout": "base size",
    "module_memory": "base size",
    "nsproxy": "mnt_ns",
}

Layout = Mapping[str, Mapping[str, int]]
"""By structure and member; a structure's own size has the name ``size of it``."""
SIZE = "size of it"


def layout_of(types: Types) -> dict[str, dict[str, int]]:
    """Those members that are needed, as far as there are any."""
    found: dict[str, dict[str, int]] = {}
    for structure, members in _MEMBERS.items():
        known = [name for name in members.split() if types.has(structure, name)]
        if known:
            found[structure] = {SIZE: types.size(structure)}
            found[structure] |= {name: types.offset(structure, name) for name in known}
    return found


def read_layouts() -> dict[str, dict[str, dict[str, int]]]:
    """The layouts by kernel, as they were written."""
    layouts: dict[str, dict[str, dict[str, int]]] = json.loads(LAYOUTS.read_text("ascii"))
    return layouts


def _main(arguments: list[str]) -> None:
    layouts = {}
    for argument in arguments:
        name, path = argument.split("=", 1)
        layouts[name] = layout_of(Types.of(Path(path).read_bytes()))
    parts = [f'"{name}": {json.dumps(layout)}' for name, layout in layouts.items()]
    LAYOUTS.write_text("{\n" + ",\n".join(parts) + "\n}\n", "ascii")


if __name__ == "__main__":
    _main(sys.argv[1:])
