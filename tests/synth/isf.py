"""Symbol files of synthetic kernels, as Volatility 3 reads them (ISF, schema 6.2.0).

They are made from the offsets that the writer itself uses. Types that Volatility 3 requires
(symbols/windows/__init__.py), but of which a synthetic dump has no object, are empty.
"""

import json
import lzma
from pathlib import Path
from typing import Any

from tests.synth.kernel import MACHINE_TYPE, PDB_NAME, PRODUCT_TYPE, SYSTEM_ROOT, symbols_of
from tests.synth.profiles import Profile

_NUMBERS = {
    "char": (1, True, "char"),
    "unsigned char": (1, False, "char"),
    "short": (2, True, "int"),
    "unsigned short": (2, False, "int"),
    "wchar": (2, False, "int"),
    "int": (4, True, "int"),
    "long": (4, True, "int"),
    "unsigned int": (4, False, "int"),
    "unsigned long": (4, False, "int"),
    "long long": (8, True, "int"),
    "unsigned long long": (8, False, "int"),
    "double": (8, True, "float"),
    "void": (0, True, "void"),
}

_EMPTY = (
    "_CMHIVE",
    "_CM_KEY_BODY",
    "_CM_KEY_NODE",
    "_CM_KEY_VALUE",
    "_CONTROL_AREA",
    "_DEVICE_OBJECT",
    "_DRIVER_OBJECT",
    "_ERESOURCE",
    "_EX_FAST_REF",
    "_FILE_OBJECT",
    "_HMAP_ENTRY",
    "_IMAGE_DOS_HEADER",
    "_KMUTANT",
    "_KTIMER",
    "_MMVAD",
    "_MMVAD_SHORT",
    "_OBJECT_SYMBOLIC_LINK",
    "_POOL_TRACKER_BIG_PAGES",
    "_SHARED_CACHE_MAP",
    "_TOKEN",
    "_UNICODE_STRING",
    "_VACB",
)

_TYPES: dict[str, dict[str, str]] = {
    "_EPROCESS": {
        "ActiveProcessLinks": "_LIST_ENTRY",
        "ActiveThreads": "unsigned long",
        "CreateTime": "_LARGE_INTEGER",
        "ExitStatus": "long",
        "ExitTime": "_LARGE_INTEGER",
        "ImageFileName": "unsigned char[15]",
        "InheritedFromUniqueProcessId": "void*",
        "ObjectTable": "_HANDLE_TABLE*",
        "Pcb": "_KPROCESS",
        "Peb": "void*",
        "SectionBaseAddress": "void*",
        "Session": "void*",
        "ThreadListHead": "_LIST_ENTRY",
        "UniqueProcessId": "void*",
        "WoW64Process": "void*",
    },
    "_KUSER_SHARED_DATA": {
        "NtMajorVersion": "unsigned long",
        "NtMinorVersion": "unsigned long",
        "NtProductType": "enum _NT_PRODUCT_TYPE",
        "NtSystemRoot": "wchar[260]",
        "SystemTime": "_KSYSTEM_TIME",
    },
    "_DBGKD_GET_VERSION64": {
        "DebuggerDataList": "unsigned long long",
        "KernBase": "unsigned long long",
        "MachineType": "unsigned short",
        "MajorVersion": "unsigned short",
        "MinorVersion": "unsigned short",
        "PsLoadedModuleList": "unsigned long long",
    },
    "_ETHREAD": {"ThreadListEntry": "_LIST_ENTRY"},
    "_HANDLE_TABLE": {"HandleTableList": "_LIST_ENTRY"},
    "_KTHREAD": {"ThreadListEntry": "_LIST_ENTRY"},
    "_LDR_DATA_TABLE_ENTRY": {
        "DllBase": "void*",
        "InLoadOrderLinks": "_LIST_ENTRY",
        "SizeOfImage": "unsigned long",
    },
    "_MM_SESSION_SPACE": {"SessionId": "unsigned long"},
    "_OBJECT_HEADER": {},
    "_POOL_HEADER": {"PoolTag": "unsigned long"},
}
"""The members that Volatility 3 uses, of those that the writer knows, with their types."""

_KNOWN_PLACES = {"Pcb": 0, "MachineType": MACHINE_TYPE}
_KNOWN_PLACES |= {"NtProductType": PRODUCT_TYPE, "NtSystemRoot": SYSTEM_ROOT}


def write_symbols(profile: Profile, folder: Path) -> Path:
    """Write a synthetic kernel's symbol file below a folder for Volatility 3's option ``-s``.

    Returns its path; the name is the identity in the image's debug record.
    """
    path = folder / "windows" / PDB_NAME / f"{profile.pdb}.json.xz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(json.dumps(symbols(profile)).encode(), preset=0))
    return path


def symbols(profile: Profile) -> dict[str, Any]:
    """The symbol file of a synthetic kernel."""
    guid, age = profile.pdb.split("-")
    pointer = {"size": profile.pointer_size, "signed": False, "kind": "int", "endian": "little"}
    numbers = {
        name: {"size": size, "signed": signed, "kind": kind, "endian": "little"}
        for name, (size, signed, kind) in _NUMBERS.items()
    }
    return {
        "metadata": {
            "format": "6.2.0",
            "producer": {"name": "tests.synth", "version": "0", "datetime": "2019-04-17T18:40:00"},
            "windows": {
                "pdb": {
                    "GUID": guid,
                    "age": int(age),
                    "database": PDB_NAME,
                    "machine_type": 0x8664 if profile.bits == 64 else 0x14C,
                }
            },
        },
        "base_types": {**numbers, "pointer": pointer},
        "enums": {
            "_NT_PRODUCT_TYPE": {
                "base": "int",
                "size": 4,
                "constants": {"NtProductWinNt": 1, "NtProductLanManNt": 2, "NtProductServer": 3},
            }
        },
        "symbols": {name: {"address": place} for name, place in symbols_of(profile).items()},
        "user_types": _user_types(profile),
    }


def _user_types(profile: Profile) -> dict[str, Any]:
    width = profile.pointer_size
    types = {name: _structure(1, {}) for name in _EMPTY}
    links = {"Flink": (0, "_LIST_ENTRY*"), "Blink": (width, "_LIST_ENTRY*")}
    types["_LIST_ENTRY"] = _structure(2 * width, links)
    times = {"LowPart": (0, "unsigned long"), "HighPart": (4, "long"), "QuadPart": (0, "long long")}
    types["_LARGE_INTEGER"] = _structure(8, times)
    times = {"LowPart": (0, "unsigned long"), "High1Time": (4, "long"), "High2Time": (8, "long")}
    types["_KSYSTEM_TIME"] = _structure(12, times)
    # In 32-bit Windows it is an array of two: the second is the top level for hyperspace.
    base = "unsigned long long" if width == 8 else "unsigned long[2]"
    place = profile.offset("_KPROCESS", "DirectoryTableBase")
    size = profile.size("_KPROCESS")
    types["_KPROCESS"] = _structure(size, {"DirectoryTableBase": (place, base)})
    for name, members in _TYPES.items():
        places = profile.structures[name]["members"] | _KNOWN_PLACES
        fields = {m: (places[m], kind) for m, kind in members.items() if m in places}
        types[name] = _structure(profile.size(name), fields)
    return types


def _structure(size: int, fields: dict[str, tuple[int, str]]) -> dict[str, Any]:
    described = {
        name: {"offset": offset, "type": _type(kind)} for name, (offset, kind) in fields.items()
    }
    return {"kind": "struct", "size": size, "fields": described}


def _type(kind: str) -> dict[str, Any]:
    """A type in the form of the symbol file, from its form in C."""
    if kind.endswith("*"):
        return {"kind": "pointer", "subtype": _type(kind[:-1])}
    if kind.endswith("]"):
        subtype, _, count = kind[:-1].partition("[")
        return {"kind": "array", "count": int(count), "subtype": _type(subtype)}
    if kind.startswith("enum "):
        return {"kind": "enum", "name": kind.removeprefix("enum ")}
    return {"kind": "base" if kind in _NUMBERS else "struct", "name": kind}
