"""The offsets of members in structures of Linux kernels that have no BTF.

    python -m tests.synth.oldlayouts 2.6.32=RedHat66.zip 3.10=Centos7-3.10.0-862.el7.x86_64.zip \
        3.16=Debian8.zip 6.1-686=vmlinux-6.1.0-50-686 6.1-686-pae=vmlinux-6.1.0-50-686-pae

writes them into `linuxlayouts.json`, beside those of other kernels there. They are from another
witness than the reader and its author: from Volatility 2's profiles, which lie in the public
repository volatilityfoundation/profiles, and from the debugging information in Debian's packages
linux-image-6.1.0-50-686-dbg and linux-image-6.1.0-50-686-pae-dbg.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.guests.kerneltypes import Types

LAYOUTS = Path(__file__).with_name("linuxlayouts.json")
_MEMBERS = {
    "task_struct": "tasks mm active_mm exit_state pid tgid real_parent parent children sibling"
    " group_leader pids thread_group comm flags"
    " thread_pid pid_links worker_private thread_node signal",
    "mm_struct": "pgd owner",
    "page": "flags _count _mapcount mapping private first_page lru slab_cache"
    " _refcount compound_head compound_dtor",
    "resource": "start end name flags parent sibling child",
    "mem_section": "section_mem_map",
    "pid": "tasks numbers",
    "upid": "nr",
    "pid_link": "node pid",
    "uts_namespace": "name",
    "new_utsname": "release",
    "pglist_data": "node_start_pfn node_spanned_pages",
    "kthread": "data full_name",
    "worker": "current_work task pool desc rescue_wq",
}

Layout = Mapping[str, Mapping[str, int]]
"""By structure and member; a structure's own size has the name ``size``."""


def layout_of(types: Types) -> dict[str, dict[str, int]]:
    """The needed members, as far as the types have them."""
    return {
        structure: {"size": types.size(structure)}
        | {
            member: types.offset(structure, member)
            for member in members.split()
            if types.has(structure, member)
        }
        for structure, members in _MEMBERS.items()
        if types.knows(structure)
    }


def read_layouts() -> dict[str, Layout]:
    """The layouts by the beginning of the kernel's release."""
    layouts: dict[str, Layout] = json.loads(LAYOUTS.read_text())
    return layouts


def main(arguments: list[str]) -> None:
    """Write the layouts of profiles, each given as a name and a file."""
    files = dict(argument.split("=", 1) for argument in arguments)
    new = {name: layout_of(Types.of_file(Path(file))) for name, file in files.items()}
    layouts = {**read_layouts(), **new}
    lines = (f"{json.dumps(name)}: {json.dumps(each)}" for name, each in layouts.items())
    LAYOUTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
