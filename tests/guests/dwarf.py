"""The types of kernels older than BTF, from Volatility 2's profiles of them.

A profile is a zip file with dwarfdump's output for a module that was built for the kernel, and the
kernel's System.map. The first unit has all structures that are needed here.
"""

import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_LINE = re.compile(r"<(\d+)><(?:0x[0-9a-f]+\+)?(0x[0-9a-f]+|\d+)><DW_TAG_(\w+)>(.*)")
_ATTRIBUTE = re.compile(r'DW_AT_(\w+)<<?"?([^<>"]*)"?>')
_KINDS = {
    "structure_type": "STRUCT",
    "union_type": "UNION",
    "typedef": "TYPEDEF",
    "const_type": "CONST",
    "volatile_type": "VOLATILE",
    "array_type": "ARRAY",
}
_ANONYMOUS = "(anon)"


def read_profile(path: Path) -> list[dict[str, Any]]:
    """The types of a profile, in the form of bpftool's output for BTF."""
    with zipfile.ZipFile(path) as profile:
        [name] = [name for name in profile.namelist() if name.endswith("module.dwarf")]
        return read_dwarf(profile.read(name).decode("utf-8", "replace").splitlines())


def read_dwarf(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The types of the first unit in dwarfdump's output, in the form of bpftool's."""
    types: list[dict[str, Any]] = []
    owner: dict[str, Any] = {}
    for depth, number, tag, told in _entries(lines):
        if tag == "member" and owner.get("members") is not None:
            owner["members"].append(
                {
                    "name": told.get("name", _ANONYMOUS),
                    "type_id": _number(told["type"]),
                    "bits_offset": 8 * _number(told.get("data_member_location", "0")),
                }
            )
        elif tag == "subrange_type" and owner.get("kind") == "ARRAY":
            owner["nr_elems"] *= _number(told.get("upper_bound", "-1")) + 1
        elif depth == 1:
            owner = {"id": number, "kind": _KINDS.get(tag, "OTHER")}
            owner["name"] = told.get("name", _ANONYMOUS)
            owner["size"] = _number(told.get("byte_size", "0"))
            owner["type_id"] = _number(told.get("type", "0"))
            if owner["kind"] in ("STRUCT", "UNION"):
                owner["members"] = []
            owner["nr_elems"] = 1
            types.append(owner)
    return types


def _entries(lines: Iterable[str]) -> Iterator[tuple[int, int, str, dict[str, str]]]:
    """Depth, number, tag and attributes of each entry of the first unit."""
    units = 0
    for line in lines:
        if not (match := _LINE.match(line)):
            continue
        units += match[3] == "compile_unit"
        if units > 1:
            return
        yield int(match[1]), _number(match[2]), match[3], dict(_ATTRIBUTE.findall(match[4]))


def _number(text: str) -> int:
    """The number in dwarfdump's text, which may have a comment before or behind it."""
    match = re.search(r"0x[0-9a-f]+|\d+", text)
    return int(match[0], 0) if match else 0
