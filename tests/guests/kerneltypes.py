"""The types of a guest's kernel: sizes of structures, and offsets of their members.

Most kernels describe them (BTF). Other sources are the kernel in Debian's debug package, which has
all symbols, and whose debugging information pahole turns into BTF; a profile of Volatility 2; and
VMCOREINFO, which tells a little.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.guests.dwarf import read_profile
from tests.guests.errors import GuestError
from tests.guests.packages import run

_BPFTOOL = ("bpftool", "/usr/sbin/bpftool")
_FIRST = "_text"
_BTF, _ELF, _ZIP = b"\x9f\xeb", b"\x7fELF", b"PK"


class Types:
    """Structures by their names, from bpftool's JSON."""

    _ALIASES = ("TYPEDEF", "CONST", "VOLATILE", "RESTRICT", "TYPE_TAG")

    def __init__(self, types: list[dict[str, Any]]) -> None:
        self._by_number = {each["id"]: each for each in types}
        self._named: dict[str, dict[str, Any]] = {}
        for each in types:
            # A declaration has no size; the definition is another entry.
            if each["kind"] in ("STRUCT", "UNION") and each["size"]:
                self._named.setdefault(each["name"], each)

    @classmethod
    def of(cls, btf: bytes) -> "Types":
        """Translate BTF with bpftool; GuestError where there is none."""
        program = next(filter(shutil.which, _BPFTOOL), None)
        if program is None:
            raise GuestError("needs bpftool, for the free pages on processors' own lists")
        with tempfile.NamedTemporaryFile(suffix=".btf") as file:
            file.write(btf)
            file.flush()
            text = run([program, "-j", "btf", "dump", "file", file.name], what="bpftool")
        return cls(json.loads(text)["types"])

    @classmethod
    def of_file(cls, path: Path) -> "Types":
        """Read a file of BTF, a kernel with debugging information, or a profile of Volatility 2.

        GuestError for any other file, and if a program is missing.
        """
        with path.open("rb") as file:
            begin = file.read(4)
        if begin.startswith(_ZIP):
            return cls(read_profile(path))
        if begin.startswith(_BTF):
            return cls.of(path.read_bytes())
        if begin != _ELF:
            raise GuestError(f"{path.name} is neither BTF nor a kernel in ELF nor a profile")
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "btf"
            run(["pahole", f"--btf_encode_detached={made}", path.resolve()], what=path.name)
            return cls.of(made.read_bytes())

    @classmethod
    def told_by(cls, info: Mapping[str, str]) -> "Types":
        """The structures of which VMCOREINFO tells a little: sizes, and offsets of members."""
        structures: dict[str, dict[str, Any]] = {}
        for line, value in info.items():
            if not (match := re.fullmatch(r"(SIZE|OFFSET)\((\w+)(?:\.(\w+))?\)", line)):
                continue
            empty: dict[str, Any] = {
                "id": match[2],
                "kind": "STRUCT",
                "name": match[2],
                "size": 0,
                "members": [],
            }
            structure = structures.setdefault(match[2], empty)
            if match[1] == "SIZE":
                structure["size"] = int(value)
            else:
                member = {"name": match[3], "bits_offset": 8 * int(value), "type_id": None}
                structure["members"].append(member)
        return cls(list(structures.values()))

    def knows(self, structure: str) -> bool:
        """Whether there is such a structure."""
        return structure in self._named

    def size(self, structure: str) -> int:
        """Bytes of a structure."""
        return int(self._named[structure]["size"])

    def has(self, structure: str, member: str) -> bool:
        """Whether a structure has a member, itself or in a part without a name."""
        return structure in self._named and self._find(self._named[structure], member) is not None

    def offset(self, structure: str, member: str) -> int:
        """Bytes in front of a member; KeyError if there is none."""
        return self._member(structure, member)[0]

    def length(self, structure: str, member: str) -> int:
        """The number of elements of an array."""
        return int(self._bare(self._member(structure, member)[1])["nr_elems"])

    def is_array(self, structure: str, member: str) -> bool:
        """Whether a member is an array."""
        return str(self._bare(self._member(structure, member)[1])["kind"]) == "ARRAY"

    def _member(self, structure: str, member: str) -> tuple[int, int]:
        found = self._find(self._named[structure], member)
        if found is None:
            raise KeyError(f"{structure}.{member}")
        return found

    def _find(self, structure: dict[str, Any], name: str) -> tuple[int, int] | None:
        for member in structure["members"]:
            if member["name"] == name:
                return member["bits_offset"] // 8, member["type_id"]
        for member in structure["members"]:
            if member["name"] != "(anon)":
                continue
            inner = self._bare(member["type_id"])
            found = self._find(inner, name) if "members" in inner else None
            if found:
                return member["bits_offset"] // 8 + found[0], found[1]
        return None

    def _bare(self, number: int) -> dict[str, Any]:
        each = self._by_number[number]
        return self._bare(each["type_id"]) if each["kind"] in self._ALIASES else each


def symbols_of_file(path: Path, running: Mapping[str, int]) -> dict[str, int]:
    """All symbols of a kernel in ELF, at the running kernel's addresses; empty for another file.

    `running` are the symbols that the guest tells: a kernel without CONFIG_KALLSYMS_ALL tells only
    its functions. It runs at other addresses than it was linked to.
    """
    with path.open("rb") as file:
        if file.read(4) != _ELF:
            return {}
    lines = map(str.split, run(["nm", path.resolve()], what=path.name).splitlines())
    linked = {words[2]: int(words[0], 16) for words in lines if len(words) == 3}
    moved = running[_FIRST] - linked[_FIRST]
    return {name: address + moved for name, address in linked.items()}
