"""Where members stand in structures of Linux kernels that are older than BTF.

    python -m tests.synth.oldlayouts 2.6.32=RedHat66.zip 3.10=Centos7-3.10.0-862.el7.x86_64.zip \
        3.16=Debian8.zip

writes `linuxlayouts.json` from Volatility 2's profiles of such kernels, which lie in the public
repository volatilityfoundation/profiles: another witness than the reader and its author.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.guests.dwarf import read_profile
from tests.guests.kerneltypes import Types

LAYOUTS = Path(__file__).with_name("linuxlayouts.json")
_MEMBERS = {
    "task_struct": "tasks mm active_mm exit_state pid tgid real_parent parent children sibling"
    " group_leader pids thread_group comm flags",
    "mm_struct": "pgd owner",
    "page": "flags _count _mapcount mapping private first_page lru slab_cache",
    "resource": "start end name flags parent sibling child",
    "mem_section": "section_mem_map",
    "pid": "tasks numbers",
    "upid": "nr",
    "pid_link": "node pid",
    "uts_namespace": "name",
    "new_utsname": "release",
}

Layout = Mapping[str, Mapping[str, int]]
"""By structure and member; a structure's own size has the name ``size``."""


def layout_of(types: Types) -> dict[str, dict[str, int]]:
    """Those members that are needed, as far as there are any."""
    return {
        structure: {"size": types.size(structure)}
        | {
            member: types.offset(structure, member)
            for member in members.split()
            if types.has(structure, member)
        }
        for structure, members in _MEMBERS.items()
    }


def read_layouts() -> dict[str, Layout]:
    """The layouts by the beginning of the kernel's release."""
    layouts: dict[str, Layout] = json.loads(LAYOUTS.read_text())
    return layouts


def main(arguments: list[str]) -> None:
    """Write the layouts of profiles, each given as a name and a file."""
    files = dict(argument.split("=", 1) for argument in arguments)
    layouts = {name: layout_of(Types(read_profile(Path(file)))) for name, file in files.items()}
    lines = (f"{json.dumps(name)}: {json.dumps(each)}" for name, each in layouts.items())
    LAYOUTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
