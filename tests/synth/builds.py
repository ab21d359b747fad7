"""Write builds.json: structure layouts of Windows builds that no Volatility 2 profile covers.

    python -m tests.synth.builds NAME=SYMBOLS.json.xz ... > tests/synth/builds.json

SYMBOLS are symbol files of Volatility 3 for the kernel; NAME ends in the build number, as in
Win11x64_22000. Only offsets and sizes, the addresses of a few symbols, and the identity of the
symbols are written.
"""

import json
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.synth.profiles import profiles

_LIKE = "Win10x64_17763"

SYMBOLS = (
    "KdDebuggerDataBlock",
    "KdVersionBlock",
    "KeNumberProcessors",
    "ObHeaderCookie",
    "ObTypeIndexTable",
    "PsActiveProcessHead",
    "PsInitialSystemProcess",
    "PsLoadedModuleList",
)
"""Symbols that a synthetic dump has at the real kernel's addresses."""


_FURTHER = {"_OBJECT_TYPE": {"Index", "Key", "Name", "TotalNumberOfObjects"}}
"""Members that the layouts of Volatility 2's profiles do not have."""

_NOT_LOOKED_INTO = ("_MMPTE", "_LIST", "_RTL", "_SINGLE")
FRAME_RECORD = {
    "PteAddress": ["PteAddress"],
    "OriginalPte": ["OriginalPte"],
    "ShareCount": ["u2.ShareCount"],
    "ReferenceCount": ["u3.ReferenceCount"],
    "PageLocation": ["u3.e1.PageLocation"],
    "Modified": ["u3.e1.Modified"],
    "Priority": ["u3.e3.Priority"],
    "PteFrame": ["u4.PteFrame"],
    "PrototypePte": ["u4.PrototypePte"],
}
"""Members of a page frame's record, as in tests/volatility2/profilelayouts.py."""


def layout(name: str, symbols: dict[str, Any]) -> dict[str, Any]:
    """A profile's entry as in profiles.json, from a symbol file."""
    wanted = {
        structure: {
            member
            for profile in profiles().values()
            if structure in profile.structures
            for member in profile.structures[structure]["members"]
        }
        for structure in profiles()[_LIKE].structures
    }
    structures = {}
    for structure, members in {**wanted, **_FURTHER}.items():
        known = symbols["user_types"][structure]
        structures[structure] = {
            "size": known["size"],
            "members": {
                m: known["fields"][m]["offset"] for m in sorted(members) if m in known["fields"]
            },
        }
    record = dict(_bits_of(symbols["user_types"], "_MMPFN"))
    bit_fields = {
        structure: {
            member: bits
            for member, bits in _bits_of(symbols["user_types"], structure)
            if any(member in p.bit_fields.get(structure, ()) for p in profiles().values())
        }
        for structure in profiles()[_LIKE].bit_fields
    }
    # The dispatcher header's third byte is the size of the process object in words.
    words = structures["_KPROCESS"]["size"] // 4 & 0xFF
    pdb = symbols["metadata"]["windows"]["pdb"]
    return {
        "pdb": f"{pdb['GUID']}-{pdb['age']}",
        "symbols": {symbol: symbols["symbols"][symbol]["address"] for symbol in SYMBOLS},
        "bits": 64,
        "version": [6, 4],
        "build": int(name.rpartition("_")[2]),
        "process_signature": bytes([3, 0, words, 0]).hex(),
        "kdbg_header": profiles()[_LIKE].kdbg_header.hex(),
        "structures": structures,
        "bit_fields": bit_fields,
        "vad_root": symbols["user_types"]["_EPROCESS"]["fields"]["VadRoot"]["type"]["name"],
        "frame_record": {
            "size": symbols["user_types"]["_MMPFN"]["size"],
            "members": {
                name: record[path]
                for name, paths in FRAME_RECORD.items()
                for path in paths
                if path in record
            },
        },
    }


def _bits_of(
    types: dict[str, Any], structure: str, offset: int = 0, path: str = ""
) -> Iterator[tuple[str, list[int]]]:
    """Yield path, and byte, first bit and end, of all members; of whole words bits 0 to 0."""
    for name, field in types[structure]["fields"].items():
        kind, at = field["type"], offset + field["offset"]
        if kind["kind"] == "bitfield":
            first = kind["bit_position"]
            yield path + name, [at, first, first + kind["bit_length"]]
        elif kind["kind"] in ("struct", "union") and not kind["name"].startswith(_NOT_LOOKED_INTO):
            yield from _bits_of(types, kind["name"], at, f"{path}{name}.")
        else:
            yield path + name, [at, 0, 0]


def main() -> int:
    """Convert the symbol files named on the command line."""
    rows = []
    for argument in sys.argv[1:]:
        name, _, path = argument.partition("=")
        symbols = json.loads(lzma.decompress(Path(path).read_bytes()))
        rows.append(f"{json.dumps(name)}: {json.dumps(layout(name, symbols), sort_keys=True)}")
    print("{\n" + ",\n".join(rows) + "\n}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
