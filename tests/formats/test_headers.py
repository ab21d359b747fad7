"""The records of headers agree with Volatility 3's symbols, and with C's alignment."""

import ctypes
import json
from importlib import resources
from typing import Any

import numpy as np
import pytest

from memory_visualizer.formats import crashheaders, elfheaders, kdumpheaders
from memory_visualizer.formats.kdumpheaders import NARROW, WIDE
from memory_visualizer.formats.records import RecordType, end_of, read_record


def _places(type_: RecordType) -> dict[str, tuple[int, int]]:
    """Offset and size of each field of a record."""
    assert type_.fields is not None
    return {name: (field[1], field[0].itemsize) for name, field in type_.fields.items()}


def _symbols(file: str) -> dict[str, Any]:
    """A table of Volatility 3's symbols."""
    text = resources.files("volatility3.framework.symbols").joinpath(file).read_text()
    symbols: dict[str, Any] = json.loads(text)
    return symbols


def _check_places(type_: RecordType, file: str, name: str, *others: str) -> None:
    """All fields that Volatility 3 has are at the same places; `but` has its names for others."""
    symbols = _symbols(file)
    fields = symbols["user_types"][name]["fields"]
    places = _places(type_)
    for field in fields.keys() - set(others):
        assert places[field][0] == fields[field]["offset"], field
        if fields[field]["type"]["kind"] == "base":
            size = symbols["base_types"][fields[field]["type"]["name"]]["size"]
            assert places[field][1] == size, field
    assert type_.itemsize == symbols["user_types"][name]["size"]


@pytest.mark.parametrize("class_", elfheaders.LAYOUTS)
def test_elf(class_: int) -> None:
    layout, bits = elfheaders.LAYOUTS[class_], 32 * class_
    _check_places(layout.header, "linux/elf.json", f"Elf{bits}_Ehdr")
    _check_places(layout.segment, "linux/elf.json", f"Elf{bits}_Phdr")
    # Its sh_entsize of 64 bits is half as wide as the ABI's; the record's size tells, too.
    _check_places(layout.section, "linux/elf.json", f"Elf{bits}_Shdr", "sh_entsize")
    _check_places(elfheaders.IDENTITY, "linux/elf.json", "Elf", "e_ident")


def test_crash_of_32_bits() -> None:
    _check_places(crashheaders.HEADER_32, "windows/crash.json", "_DUMP_HEADER", "reserved3")
    _check_places(crashheaders.RUN_32, "windows/crash.json", "_PHYSICAL_MEMORY_RUN")


def test_crash_of_64_bits() -> None:
    _check_places(crashheaders.HEADER_64, "windows/crash64.json", "_DUMP_HEADER64", "Unused2")
    _check_places(crashheaders.RUN_64, "windows/crash64.json", "_PHYSICAL_MEMORY_RUN64")


def test_crash_bitmap() -> None:
    """Volatility 3 and kdmp-parser have different names for these fields."""
    fields = _symbols("windows/crash_common.json")["user_types"]["_SUMMARY_DUMP"]["fields"]
    names = {
        "Signature": "Signature",
        "ValidDump": "ValidDump",
        "FirstPage": "HeaderSize",
        "TotalPresentPages": "Pages",
        "Pages": "BitmapSize",
    }
    places = _places(crashheaders.BITMAP_HEADER)
    for name, other in names.items():
        assert places[name][0] == fields[other]["offset"], name
    assert crashheaders.BITMAP_HEADER.itemsize == fields["BufferChar"]["offset"]


@pytest.mark.parametrize(
    ("header", "file", "name"),
    [
        (crashheaders.HEADER_32, "crash", "_PHYSICAL_MEMORY_DESCRIPTOR"),
        (crashheaders.HEADER_64, "crash64", "_PHYSICAL_MEMORY_DESCRIPTOR64"),
    ],
)
def test_crash_runs_end_where_the_next_field_begins(
    header: RecordType, file: str, name: str
) -> None:
    fields = _symbols(f"windows/{file}.json")["user_types"][name]["fields"]
    assert header.fields is not None
    memory, at = header.fields["PhysicalMemoryBlockBuffer"][:2]
    assert _places(memory)["Run"][0] == fields["Run"]["offset"]
    room = header.fields["ContextRecord"][1] - at - fields["Run"]["offset"]
    run = memory["Run"].base.itemsize
    assert memory["Run"].shape == (room // run,)


_HEADER = """signature:char8 header_version:int utsname:char390 tv_sec:long tv_usec:long status:int
block_size:int sub_hdr_size:int bitmap_blocks:int max_mapnr:int total_ram_blocks:int
device_blocks:int written_blocks:int current_cpu:int nr_cpus:int"""
_SUB_HEADER = """phys_base:long dump_level:int split:int start_pfn:long end_pfn:long
offset_vmcoreinfo:off_t size_vmcoreinfo:long offset_note:off_t size_note:long
offset_eraseinfo:off_t size_eraseinfo:long start_pfn_64:off_t end_pfn_64:off_t
max_mapnr_64:off_t"""
_DESCRIPTOR = "offset:off_t size:int flags:int page_flags:off_t"


def _c_places(fields: str, word: int, alignment: int) -> tuple[int, dict[str, tuple[int, int]]]:
    """Size of a structure of C's, and offset and size of each field."""
    types: dict[str, Any] = {
        "int": ctypes.c_uint32,
        "long": ctypes.c_uint64 if word == 8 else ctypes.c_uint32,
        "off_t": ctypes.c_uint64,
        "char8": ctypes.c_char * 8,
        "char390": ctypes.c_char * 390,
    }
    pairs = [field.split(":") for field in fields.split()]
    members = {
        "_layout_": "ms",
        "_pack_": alignment,
        "_fields_": [(name, types[type_]) for name, type_ in pairs],
    }
    structure = type("structure", (ctypes.Structure,), members)
    places = {name: getattr(structure, name) for name, _ in pairs}
    return ctypes.sizeof(structure), {name: (at.offset, at.size) for name, at in places.items()}


@pytest.mark.parametrize(
    ("header", "sub_header", "word", "alignment"),
    [
        (WIDE.header, WIDE.sub_header, 8, 8),
        (NARROW.header, NARROW.sub_header, 4, 4),
        (NARROW.header, NARROW.aligned_sub_header, 4, 8),
    ],
)
def test_kdump(header: RecordType, sub_header: RecordType, word: int, alignment: int) -> None:
    """The records are laid out as a compiler lays out makedumpfile's diskdump_mod.h."""
    for type_, fields in (
        (header, _HEADER),
        (sub_header, _SUB_HEADER),
        (kdumpheaders.PAGE_DESCRIPTOR, _DESCRIPTOR),
    ):
        size, expected = _c_places(fields, word, alignment)
        places = _places(type_)
        assert {name: places[name] for name in expected} == expected
        assert type_.itemsize == size
    assert header["utsname"].itemsize == kdumpheaders.UTSNAME.itemsize


_RECORD: RecordType = np.dtype([("first", "<u4"), ("name", "V3"), ("last", "<u8")])


def test_a_record_has_pythons_numbers() -> None:
    record = read_record(_RECORD, b"\xff" * 4 + b"ab\0" + b"\xff" * 8 + b"behind it")
    assert record == {"first": 2**32 - 1, "name": b"ab\0", "last": 2**64 - 1}
    assert record["last"] + 1 == 2**64


def test_a_record_of_the_other_order() -> None:
    record = read_record(_RECORD.newbyteorder(">"), b"\1\2\3\4abc" + b"\1" + bytes(7))
    assert record == {"first": 0x01020304, "name": b"abc", "last": 1 << 56}


def test_a_record_that_is_cut() -> None:
    assert read_record(_RECORD, b"\1\0\0\0a") == {"first": 1, "name": b"a\0\0", "last": 0}


def test_end_of_a_field() -> None:
    assert [end_of(_RECORD, name) for name in ("first", "name", "last")] == [4, 7, 15]
