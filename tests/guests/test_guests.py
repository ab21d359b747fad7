"""The parts of the tool for real guests that need no guest: archives, truth, comparison."""

import gzip
import re
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.guests import kerneltypes, machine
from tests.guests.compare import (
    Answer,
    Comparison,
    Result,
    compare,
    first_addresses,
    markdown,
    of_pages,
    report,
)
from tests.guests.dwarf import read_dwarf
from tests.guests.errors import GuestError
from tests.guests.freelists import KernelMemory, counted_by_zoneinfo, read_symbols
from tests.guests.initramfs import Entry, archive, file, folder, link, load_order, make_empty
from tests.guests.kernelbuild import missing_options
from tests.guests.kerneltypes import Types, symbols_of_file
from tests.guests.machine import Files
from tests.guests.maps import lines_of_records, read_lines, told_regions
from tests.guests.packages import kernel_releases, sources_for, version_key, whole_suite
from tests.guests.recipes import ARCHITECTURES, INSIDE, changed, read_recipes
from tests.guests.records import read_records, timing
from tests.guests.resources import read_resources
from tests.guests.truth import Flag, Says, classify, mark_stretches, read_processes


def unpacked(contents: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and contents by name, read as the kernel's documentation describes the format."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        head = contents[at : at + 110]
        assert head[:6] == b"070701"
        fields = [int(head[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
        name_size, size = fields[11], fields[6]
        name = contents[at + 110 : at + 110 + name_size - 1].decode()
        start = (at + 110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = fields[1], contents[start : start + size]
        at = (start + size + 3) // 4 * 4


def test_an_archive_is_read_back() -> None:
    entries = [folder("bin"), file("bin/a", b"12345", 0o755), link("bin/b", "a"), file("c", b"")]
    assert unpacked(archive(entries)) == {
        "bin": (stat.S_IFDIR | 0o755, b""),
        "bin/a": (stat.S_IFREG | 0o755, b"12345"),
        "bin/b": (stat.S_IFLNK | 0o777, b"a"),
        "c": (stat.S_IFREG | 0o644, b""),
    }
    assert unpacked(archive([Entry("x" * n, 0) for n in range(1, 9)])).keys() == {
        "x" * n for n in range(1, 9)
    }


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    texts = {
        "ext4": b"\0depends=jbd2,mbcache\0\0softdep=pre: crc32c\0",
        "jbd2": b"\0depends=\0",
        "mbcache": b"\0depends=ext4\0",  # a loop, as a broken module might have it
        "crc32c": b"\0license=GPL\0",
    }
    modules = {}
    for name, text in texts.items():
        modules[name] = tmp_path / f"{name}.ko.gz"
        modules[name].write_bytes(gzip.compress(text))
    order = list(load_order(["ext4", "not-there"], modules))
    assert sorted(order) == sorted(texts)
    assert order[-1] == "ext4"


def test_packages_of_a_suite() -> None:
    told = [
        "http://one/debian/ main Debian",
        "http://one/debian/ contrib Debian",
        "http://two/debian-security/ main Debian",
        "http://three/node main $(ORIGIN)",
        "http://one/debian/ main Debian",
    ]
    assert sources_for("trixie", told) == ["deb http://one/debian/ trixie main"]
    assert sources_for("trixie-security", told) == [
        "deb http://two/debian-security/ trixie-security main"
    ]
    assert whole_suite("trixie-backports") == "trixie"
    assert whole_suite("experimental") == "sid"


def test_the_newest_kernel() -> None:
    names = ["linux-image-6.12.9+deb13-amd64", "linux-image-6.12.43+deb13-amd64", "linux-base"]
    names += ["linux-image-6.12.50+deb13-amd64-dbg", "linux-binary-6.12.40+deb13-amd64"]
    releases = kernel_releases(names, r"6\.12\.\d+\+deb13-amd64")
    assert max(releases, key=version_key) == "6.12.43+deb13-amd64"
    assert len(releases) == 3


def test_recipes() -> None:
    recipes = read_recipes()
    assert len(recipes) >= 12
    for recipe in recipes.values():
        re.compile(recipe.kernel)
        assert recipe.architecture in ARCHITECTURES
        assert f"share={recipe.share}" in recipe.command_line.split()
    assert changed(recipes["linux-6.12"], memory=512, suite=None).memory == 512
    assert {path.name for path in INSIDE.iterdir()} == {"collect.c", "init", "worker.c"}


@pytest.mark.parametrize("name", ["linux-6.12", "arm64-4k", "linux-2.6.32"])
def test_a_machines_command_line(name: str) -> None:
    recipe = read_recipes()[name]
    files = Files(*map(Path, ("kernel", "initramfs", "disk", "records", "console")))
    words = machine.command_line(recipe, files, Path("/sockets"))
    assert words.count("-serial") == (2 if recipe.hardware.has_ports else 1)
    assert words[words.index("-append") + 1] == recipe.command_line
    disks = [word for word in words if word.startswith("virtio-blk-pci")]
    assert len(disks) == (0 if recipe.is_old else 2)
    assert any("path=records" in word for word in words) == recipe.is_old


def record(name: str, contents: bytes) -> bytes:
    """A record as inside/collect.c writes it, including its padding."""
    head = b"REC1" + name.encode().ljust(92, b"\0") + struct.pack("<Q", len(contents))
    return head + contents + bytes(-(len(head) + len(contents)) % 8)


def test_records(tmp_path: Path) -> None:
    told = record("timing.txt", b"collect_start=1.5 page=16384 lost=0\n")
    (tmp_path / "records").write_bytes(told + record("iomem", b"odd") + record("END", b""))
    records = read_records(tmp_path / "records")
    assert records["iomem"] == b"odd"
    assert timing(records)["page"] == 16384
    make_empty(tmp_path / "empty", 4096)
    with pytest.raises(GuestError, match="end after 0"):
        read_records(tmp_path / "empty")
    (tmp_path / "cut").write_bytes(told)
    with pytest.raises(GuestError, match="end after 1"):
        read_records(tmp_path / "cut")
    (tmp_path / "full").write_bytes(record("timing.txt", b"lost=3\n") + record("END", b""))
    with pytest.raises(GuestError, match="3 pieces"):
        read_records(tmp_path / "full")
    (tmp_path / "lost").write_bytes(told + record("LOST", b""))
    with pytest.raises(GuestError, match="found no room"):
        read_records(tmp_path / "lost")


def test_resources_and_the_frames_in_them() -> None:
    found = read_resources(
        "00001000-0009fbff : System RAM\n"
        "00100000-0ffdffff : System RAM\n"
        "  01000000-015360c4 : Kernel code\n"
        "  02000000-02000fff : System RAM\n"
        "10000000-10000fff : reserved\n"
    )
    assert found.ram == [(0x1000, 0x9FC00), (0x100000, 0xFFE0000)]
    assert found.image == {"Kernel code": (0x1000000, 0x15360C5)}
    assert found.reserved == [(0x10000000, 0x10001000)]
    # A frame that is only partly RAM does not count as RAM.
    marks = mark_stretches(found.ram, 0, 0x200, 4096)
    assert np.flatnonzero(marks).tolist() == [*range(1, 0x9F), *range(0x100, 0x200)]
    assert mark_stretches([(0x4000, 0x8000)], 5, 4, 4096).tolist() == [True, True, True, False]


def test_what_the_kernel_says() -> None:
    def flags(*told: Flag) -> int:
        return sum(1 << flag for flag in told)

    cases = [
        (0, False, False, False, Says.NOT_RAM),
        (flags(Flag.NOPAGE), False, True, False, Says.NO_STRUCT_PAGE),
        (flags(Flag.BUDDY), False, True, False, Says.FREE),
        (flags(Flag.ANON, Flag.LRU, Flag.MMAP), True, True, False, Says.ANONYMOUS),
        (flags(Flag.ANON, Flag.LRU), False, True, False, Says.ANONYMOUS_UNMAPPED),
        (flags(Flag.LRU, Flag.MMAP), True, True, False, Says.CACHE_MAPPED),
        (flags(Flag.LRU, Flag.SWAPBACKED), False, True, False, Says.SHARED_MEMORY),
        (flags(Flag.LRU), False, True, False, Says.FILE_CACHE),
        (flags(Flag.RESERVED), True, True, True, Says.IMAGE_MAPPED),
        (flags(Flag.RESERVED), False, True, True, Says.IMAGE),
        (0, False, True, True, Says.KERNEL_OTHER),  # a freed page of the image
        (0, True, True, False, Says.OTHER_MAPPED),
        (flags(Flag.COMPOUND_TAIL), False, True, False, Says.COMPOUND),
        (flags(Flag.HUGE, Flag.COMPOUND_HEAD), True, True, False, Says.HUGE_MAPPED),
    ]
    told, mapped, ram, image, expected = (np.array(column) for column in zip(*cases, strict=True))
    says = classify(told.astype(np.uint64), mapped, ram, image)
    np.testing.assert_array_equal(says, expected)


def test_processes_by_their_files() -> None:
    status = b"Name:\tx\nState:\tZ (zombie)\nPPid:\t2\nThreads:\t4\n"
    records = {"pid0/7.status": status, "pid0/7.comm": b"a\nb\n", "pid/7.comm": b"c\n"}
    found = {name: column.tolist() for name, column in read_processes(records).items()}
    assert found["pids"] == [7] and found["ppid"] == [2] and found["threads"] == [4]
    assert found["comm"] == ["a\nb"] and found["comm_after"] == ["c"] and found["state"] == ["Z"]
    assert found["kernel_thread"] == [True]


DWARF = """
<0><0x0+0xb><DW_TAG_compile_unit> DW_AT_producer<"GNU C">
<1><0x10><DW_TAG_structure_type> DW_AT_name<"page"> DW_AT_byte_size<0x00000038>
<2><0x11><DW_TAG_member> DW_AT_name<"flags"> DW_AT_type<<0x00000050>> DW_AT_data_member_location<0>
<2><0x12><DW_TAG_member> DW_AT_type<<0x00000030>> DW_AT_data_member_location<128(as signed = -128)>
<1><0x20><DW_TAG_structure_type> DW_AT_name<zone> DW_AT_declaration<yes>
<1><0x30><DW_TAG_union_type> DW_AT_byte_size<8>
<2><0x31><DW_TAG_member> DW_AT_name<private> DW_AT_type<<0x00000050>>
<2><0x32><DW_TAG_member> DW_AT_name<lists> DW_AT_type<<0x00000040>>
<1><0x40><DW_TAG_array_type> DW_AT_type<<0x00000050>>
<2><0x41><DW_TAG_subrange_type> DW_AT_upper_bound<3>
<2><0x42><DW_TAG_subrange_type> DW_AT_upper_bound<0x00000001>
<1><0x50><DW_TAG_base_type> DW_AT_byte_size<8>
<0><0x60+0xb><DW_TAG_compile_unit> DW_AT_producer<"GNU C">
<1><0x10><DW_TAG_structure_type> DW_AT_name<page> DW_AT_byte_size<99>
"""


def test_types_of_a_profile() -> None:
    types = Types(read_dwarf(DWARF.splitlines()))
    assert types.size("page") == 0x38
    assert types.offset("page", "flags") == 0
    assert types.offset("page", "private") == 128  # in a union without a name
    assert types.is_array("page", "lists") and types.length("page", "lists") == 8
    assert not types.has("page", "lru") and not types.has("zone", "name")


def test_files_of_types(tmp_path: Path) -> None:
    """A profile of Volatility 2 tells types only; other files are refused."""
    profile = tmp_path / "profile.zip"
    with zipfile.ZipFile(profile, "w") as zipped:
        zipped.writestr("volatility/tools/linux/module.dwarf", DWARF)
    assert Types.of_file(profile).size("page") == 0x38
    assert symbols_of_file(profile, {"_text": 0x1000}) == {}
    (tmp_path / "odd").write_bytes(b"MZ\0\0")
    with pytest.raises(GuestError, match="neither BTF nor a kernel in ELF nor a profile"):
        Types.of_file(tmp_path / "odd")


def test_symbols_of_a_kernel_lie_where_it_was_moved_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF")
    told = "c1000000 T _text\nc1e00040 D mem_map\n         U lost\n"
    monkeypatch.setattr(kerneltypes, "run", lambda command, what: told)
    symbols = symbols_of_file(tmp_path / "vmlinux", {"_text": 0xD6000000})
    assert symbols == {"_text": 0xD6000000, "mem_map": 0xD6E00040}


@pytest.mark.parametrize(("pae", "entry"), [(False, 0x0040_0081), (True, 0x0060_0081)])
def test_addresses_of_a_kernel_of_32_bits(pae: bool, entry: int) -> None:
    """Large pages have 4 MiB, or under PAE 2 MiB, below a table of pointers."""
    raw = np.zeros(8 << 20, np.uint8)
    size = 8 if pae else 4
    top = 0x3000
    if pae:  # the fourth pointer leads to the table of the last gigabyte
        raw[top + 24 : top + 32] = np.frombuffer(struct.pack("<Q", 0x4001), np.uint8)
    place = 0x4000 if pae else top + 768 * size
    raw[place : place + size] = np.frombuffer(entry.to_bytes(size, "little"), np.uint8)
    target = entry & 0xFFFF_F000
    raw[target + 0x123 : target + 0x127] = [1, 2, 3, 4]
    memory = KernelMemory(
        raw=raw,
        begins=0,
        info={"SYMBOL(swapper_pg_dir)": "c0003000"} | ({"CONFIG_X86_PAE": "y"} if pae else {}),
        symbols={"_text": 0xC0000000},
        code=0,
        architecture="i386",
        page_size=4096,
    )
    assert memory.translate(0xC0000123) == target + 0x123
    assert memory.number(0xC0000123) == 0x04030201
    with pytest.raises(GuestError, match="leads nowhere"):
        memory.translate(0xC0800000)


def test_types_and_symbols_that_the_kernel_tells() -> None:
    info = {"SIZE(page)": "56", "OFFSET(page.private)": "48", "NUMBER(PG_lru)": "5"}
    types = Types.told_by(info)
    assert (types.size("page"), types.offset("page", "private")) == (56, 48)
    assert not types.has("per_cpu_pages", "lists") and not types.has("page", "_count")
    symbols = read_symbols("ffffffff81000000 T _text\nffffffffc0000000 t _text\t[ext4]\n")
    assert symbols == {"_text": 0xFFFFFFFF81000000}
    assert counted_by_zoneinfo("  cpu: 0\n              count: 12\n   count: 3\n") == 15


def small_guest() -> tuple[dict[str, Any], Answer]:
    """A truth of eight frames and two processes, and output of memviz that agrees with it."""
    says = [Says.KERNEL_OTHER, Says.FREE, Says.FREE, Says.ANONYMOUS, Says.OTHER_MAPPED]
    says += [Says.NOT_RAM, Says.HUGE_POOL, Says.ANONYMOUS_UNMAPPED]
    truth = {
        "kernel_says": np.array(says, np.uint8),
        "changed": np.zeros(8, bool),
        "user_mapped": np.array([0, 0, 0, 1, 1, 0, 0, 0], bool),
        "zero": np.array([0, 1, 0, 0, 0, 0, 0, 0], bool),
        "owner_pid": np.array([1, 1, 9], np.uint32),
        "owner_virtual": np.array([0x9000, 0x1000, 0x5000], np.uint64),
        "owner_pfn": np.array([103, 103, 104], np.uint64),
        "pids": np.array([1, 9]),
        "comm": np.array(["init", "kworker/0:1-a"]),
        "comm_after": np.array(["init", "kworker/0:1-b"]),
        "ppid": np.array([0, 1]),
        "state": np.array(["S", "Z"]),
        "threads": np.array([1, 3]),
        "page_size": np.array(4096),
        "first_frame": np.array(100),
    }
    names = ["absent", "kernel", "user", "both", "unused-data", "unused-zero"]
    table = {
        "pfn": np.arange(100, 108),
        "class": np.array([1, 5, 4, 2, 3, 0, 1, 4]),
        "class_names": np.array(names),
        "owner_pid": np.array([1, 9]),
        "owner_virtual": np.array([0x1000, 0x5000], np.uint64),
        "owner_pfn": np.array([103, 104]),
    }
    processes = [
        {"pid": 1, "ppid": 0, "name": "init", "exited": False, "listed": True},
        {"pid": 9, "ppid": 1, "name": "kworker/0:1-b", "exited": False, "listed": True},
    ]
    return truth, Answer(table, {"processes": processes})


def test_an_answer_that_agrees() -> None:
    truth, answer = small_guest()
    result = compare(truth, answer)
    assert (result.frames, result.agree, result.per_cent) == (6, 6, 100.0)
    assert (result.owners, result.owners_missing, result.owners_extra) == (2, 0, 0)
    assert (result.processes, result.sound, result.faults) == (2, 2, {})


def test_each_fault_is_counted() -> None:
    truth, answer = small_guest()
    table: dict[str, Any] = dict(answer.table)
    table["class"] = np.array([1, 4, 4, 1, 2, 0, 0, 1])
    table["owner_virtual"] = np.array([0x9000, 0x5000], np.uint64)
    processes = [
        {"pid": 1, "ppid": 7, "name": "unit", "exited": True, "listed": False},
        {"pid": 5, "ppid": 1, "name": "ghost", "exited": False, "listed": True},
    ]
    result = compare(truth, Answer(table, {"processes": processes}))
    # The free page of zeros, the anonymous page, and the kernel's page that a process maps.
    assert (result.frames, result.agree) == (6, 3)
    # The first address in the first process is different.
    assert (result.owners_missing, result.owners_extra) == (1, 1)
    assert result.sound == 0
    kinds = ["parent", "name", "end", "listed", "missing", "extra"]
    assert {f"process {kind}" for kind in kinds} < result.faults.keys()


@pytest.mark.parametrize(
    ("told", "sound"),
    [("kworker/0:1-c", 2), ("kworker/0:1", 2), ("kworker/0:2-a", 1), ("worker", 1)],
)
def test_a_workers_name_changes_with_its_work(told: str, sound: int) -> None:
    truth, answer = small_guest()
    processes = [dict(process) for process in answer.summary["processes"]]
    processes[1]["name"] = told
    assert compare(truth, Answer(answer.table, {"processes": processes})).sound == sound


def test_larger_pages_than_frames() -> None:
    table = {
        "pfn": np.arange(16),
        "class": np.array([0, 0, 0, 0, 2, 2, 1, 2, 2, 2, 2, 2, 0, 0, 1, 0]),
        "class_names": np.array(["kernel", "unused-data", "unused-zero"]),
        "owner_pfn": np.array([4, 5, 6, 7]),
        "owner_pid": np.array([1, 1, 1, 1]),
        "owner_virtual": np.array([0x4000, 0x5000, 0x6000, 0x7000], np.uint64),
    }
    wide = of_pages(table, 4)
    assert wide["pfn"].tolist() == [0, 1, 2, 3]
    told = wide["class_names"][wide["class"]].tolist()
    assert told == ["kernel", "unused-data", "unused-zero", "mixed"]
    assert wide["owner_pfn"].tolist() == [1] and wide["owner_virtual"].tolist() == [0x4000]
    assert of_pages(table, 1) is table


def test_first_addresses() -> None:
    rows = first_addresses(np.array([2, 1, 2]), np.array([5, 5, 5]), np.array([9, 7, 3], np.uint64))
    assert rows.tolist() == [(1, 5, 7), (2, 5, 3)]


MAPS = """\
7 00400000-00403000 r-xp 00001000 00:02 31                         /bin/two\\012lines (deleted)
7 7f0000000000-7f0000021000 rw-p 00000000 00:00 0
7 7ffd00000000-7ffd00001000 rw-p 00000000 00:00 0                  [stack]
8 7f0000000000-7f0000001000 rw-s 00002000 00:05 9                  /dev/zero
"""


def test_regions_as_the_kernel_tells_them() -> None:
    """Rows of memviz are compared with lines of /proc/PID/maps; all but two agree."""
    known = read_lines(MAPS)
    assert len(known) == 4
    row = {"pid": 7, "sharing": "private", "name": "", "file": "", "offset": None, "deleted": False}
    told = [
        {**row, "start": "0x400000", "end": "0x403000", "protection": "r-x"}
        | {"file": "/bin/two\nlines", "offset": 0x1000, "deleted": True},
        {**row, "start": "0x7f0000000000", "end": "0x7f0000021000", "protection": "rw-"},
        {**row, "start": "0x7ffd00000000", "end": "0x7ffd00001000", "protection": "r--"}
        | {"name": "[heap]"},
        {**row, "start": "0x1000", "end": "0x2000", "protection": "r--"},
    ]
    truth, answer = small_guest()
    result = compare(truth, Answer(answer.table, answer.summary, told_regions(told)), known)
    assert (result.regions, result.regions_right) == (4, 2)
    assert {kind: len(words) for kind, words in result.faults.items()} == {
        **{"region rights": 1, "region name": 1},
        **{"region missing": 1, "region extra": 1},
    }


def test_lines_of_all_processes() -> None:
    records = {"maps/7": b"a\nb\n", "maps/12": b"c\n", "pid/7.comm": b"x\n"}
    assert lines_of_records(records) == "7 a\n7 b\n12 c\n"


def test_the_options_of_kernels_that_are_built() -> None:
    """Each recipe has options of its own; options that a kernel does not accept are named."""
    built = [recipe for recipe in read_recipes().values() if recipe.source]
    options = {recipe.name: recipe.whole_configuration for recipe in built}
    assert "CONFIG_ARM64_64K_PAGES=y\n" in options["arm64-64k-42"]
    assert "CONFIG_ARM64_VA_BITS_42=y\n" in options["arm64-64k-42"]
    assert options["arm64-64k"] == options["arm64-64k-48"] != options["arm64-64k-42"]
    taken = "CONFIG_A=y\n# CONFIG_B is not set\n"
    assert missing_options("# why\nCONFIG_A=y\nCONFIG_B=y\n\n", taken) == ["CONFIG_B=y"]


def test_results_are_kept_and_shown(tmp_path: Path) -> None:
    told = Comparison(1000, 999, 20, 0, 1, 8, 7, 5, 4)
    told.faults["process name"] = ["3: 'a' instead of 'b'"] * 9
    result = Result("raw", "Linux 6.12", 1.25, ["a remark"], told)
    result.write(tmp_path / "result.json")
    assert Result.read(tmp_path / "result.json") == result
    text = "\n".join(report(result))
    assert (
        "99.900 % of 1,000 frames" in text
        and "regions: 4 of 5" in text
        and "process name: 3 more" in text
    )
    *_, row = markdown({"linux-6.12": [result]})
    assert row == "| linux-6.12 | Linux 6.12 | raw | 1,000 | 99.900 % | 20 | 0 | 1 | 7 of 8 |"
