"""Linux on machines other than x86-64: descriptions of them, and synthetic memory."""

import struct
from pathlib import Path

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer.displaced.linux import put_where_it_begins
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.linux.armform import TopLevelSearch
from memory_visualizer.linux.machine import machines
from memory_visualizer.linux.vmcoreinfo import VmcoreInfo
from memory_visualizer.paging import PAE, X64, X86
from memory_visualizer.snapshot.pagemap import PageState
from tests.linux.test_linux import assert_is_truth
from tests.synth.linuxarm import forge_linux_on_arm64
from tests.synth.linuxtypes import vmcoreinfo_text

PAGE = 4096


@pytest.mark.parametrize("era", ["6.1", "6.6", "6.10", "6.12", "7.0"])
@pytest.mark.many
def test_64_bit_arm(era: str, tmp_path: Path) -> None:
    """Every frame, every process and its pages are true, without a remark on descriptors."""
    truth = forge_linux_on_arm64(tmp_path / "dump", era)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert_is_truth(snapshot, truth)
    assert snapshot.paging is not None
    assert snapshot.paging.name == "ARM64, 4 KiB pages"
    assert snapshot.remarks == ()


def test_addresses_of_64_bit_arm(tmp_path: Path) -> None:
    """A process's own tables have its addresses, and other tables the kernel's."""
    truth = forge_linux_on_arm64(tmp_path / "dump")
    snapshot = memory_visualizer.open(tmp_path / "dump")
    process = next(one for one in snapshot.processes if one.pid == 1)
    owned = {virtual: frame for pid, virtual, frame in truth.owners if pid == 1}
    for virtual in sorted(owned)[:40]:
        assert snapshot.translate(process, virtual + 5) == owned[virtual] * PAGE + 5
    # The direct map begins here, for the kernel only.
    assert snapshot.translate(process, truth.direct + 0x20_3005) == 0x20_3005
    assert snapshot.translate(process, (truth.direct + 0x20_3005) % 2**48) is None


@pytest.mark.parametrize("era", ["6.6", "7.0"])
def test_64_bit_arm_without_vmcoreinfo(era: str, tmp_path: Path) -> None:
    """The kernel is found by its tables, image and banner."""
    truth = forge_linux_on_arm64(tmp_path / "dump", era)
    with (tmp_path / "dump").open("r+b") as file:
        for frame in truth.text_frames:
            file.seek(frame * PAGE)
            file.write(bytes(PAGE))
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert [remark[:35] for remark in snapshot.remarks] == ["the kernel's VMCOREINFO was not fou"]
    states = np.array([state.label for state in PageState])[snapshot.states]
    lost = np.isin(np.arange(len(states)), truth.text_frames)
    np.testing.assert_array_equal(states[~lost], truth.states[~lost])
    assert {p.pid for p in snapshot.processes} == {task.pid for task in truth.tasks}


@pytest.mark.parametrize(
    ("entries", "bits"), [(2, (14, 48)), (16, (12, 52)), (32, (14, 52)), (64, (16, 48))]
)
def test_top_levels_that_do_not_fill_a_page(entries: int, bits: tuple[int, int]) -> None:
    """The last entry tells the size, unless data follow it, or the entries differ in kind.

    A process's table comes after the kernel's.
    """
    table = np.array([0x1_0003, 0, 0x2_0003], np.uint64)
    words = np.zeros((7, 512), np.uint64)
    words[:6, 0], words[:6, entries - 1] = table[0], table[2]
    words[0, [0, entries - 1]] |= np.uint64(1 << 59)  # a process's table
    words[2, 300] = 7  # data behind it
    words[3, entries - 1] |= np.uint64(0x40)  # a descriptor of a page
    words[4, entries] = table[2]  # more than any kernel has
    words[5, 0] = 0  # no table
    search = TopLevelSearch()
    search.scan(np.arange(20, 27), words)
    assert search.tops == [(21, bits), (20, bits)]


def test_an_altered_entry_does_not_make_a_table_a_processs() -> None:
    """Most entries of a process's table bar the kernel from executing its pages."""
    words = np.zeros((3, 512), np.uint64)
    words[:, [0, 1, 15]] = 0x1_0003
    barred = np.uint64(1 << 59)
    words[0, [0, 1, 15]] |= barred
    words[1, [0, 15]] |= barred  # a process's, one entry altered
    words[2, 1] |= barred  # the kernel's, one entry altered
    search = TopLevelSearch()
    search.scan(np.arange(20, 23), words)
    assert search.tops == [(22, (12, 52)), (20, (12, 52)), (21, (12, 52))]


@pytest.mark.parametrize(
    ("frames", "of_page", "bits"), [(2, 16, (16, 52)), (16, 16, (16, 42)), (4, 4, (14, 47))]
)
def test_top_levels_of_several_frames(frames: int, of_page: int, bits: tuple[int, int]) -> None:
    """The last frame tells them; the fuller comes first; one must begin a page of that size."""
    words = np.zeros((3 * of_page, 512), np.uint64)
    last = np.arange(3) * of_page + frames - 1
    words[last, 511], words[last[1], 508] = 0x3_0003, 0x2_0003
    words[last[2], 40] = 7  # data, or a mapped page
    words[of_page + frames, 511] = 0x1_0003  # not the last frame of a table
    search = TopLevelSearch()
    search.scan(np.arange(0x400, 0x400 + len(words)), words)
    of_size = [top for top, size in search.tops if size == bits]
    assert of_size == [0x400 + of_page, 0x400]


@pytest.mark.parametrize("entry", [0x1003, 0x4003])
def test_tables_that_begin_no_page(entry: int) -> None:
    """A top level of 64 entries has pages of 64 KiB, so entries that name none are refused."""
    words = np.zeros((1, 512), np.uint64)
    words[0, [0, 63]] = entry
    search = TopLevelSearch()
    search.scan(np.arange(1), words)
    assert search.tops == []


@pytest.mark.parametrize("altered", [0x3_0007, 0x3_0043, 0x3_1003])
def test_an_altered_entry_among_others(altered: int) -> None:
    """Most entries tell a table: of eight, one or two may be altered, but not three."""
    words = np.zeros((3, 512), np.uint64)
    words[:, [0, 1, 2, 3, 4, 5, 6, 63]] = 0x3_0003
    words[0, 3], words[1, [3, 4]], words[2, [3, 4, 5]] = altered, altered, altered
    search = TopLevelSearch()
    search.scan(np.arange(3), words)
    assert sorted(top for top, _ in search.tops) == [0, 1]


def test_each_size_of_top_levels_has_its_turn() -> None:
    """Other sizes are tried, however many tables there are of one size."""
    words = np.zeros((50, 512), np.uint64)
    words[:, 0] = words[:49, 1] = 0x1_0003
    words[49, 63] = 0x1_0003
    search = TopLevelSearch()
    search.scan(np.arange(50), words)
    assert sorted(search.tops[:2]) == [(0, (14, 48)), (49, (16, 48))]


def arm_memory(begin: int, voffset: int, told: int) -> tuple[bytes, VmcoreInfo]:
    """Pages of a kernel at `begin`; four of them are its tables, and each leads to the next."""
    table = begin + voffset + 4 * PAGE
    indexes = [table >> shift & 511 for shift in (39, 30, 21, 12)]
    pages = [bytearray(PAGE) for _ in range(16)]
    for number, index in enumerate(indexes):
        # The top-level table is page 4, the lower ones are pages 5 to 7; the last leads to page 4.
        target = begin + (5 + number if number < 3 else 4) * PAGE
        flags = 0x403 if number < 3 else 0x60_0000_0000_0F03
        struct.pack_into("<Q", pages[4 + number], index * 8, target | flags)
    text = vmcoreinfo_text(
        "6.6.0-arm64",
        {
            "PAGESIZE": 4096,
            "SYMBOL(swapper_pg_dir)": table,
            "SYMBOL(init_uts_ns)": begin + voffset + 8 * PAGE,
            "OFFSET(uts_namespace.name)": 4,
            "NUMBER(VA_BITS)": 48,
            "NUMBER(kimage_voffset)": voffset,
            "NUMBER(PHYS_OFFSET)": told,
        },
    )
    names = b"Linux".ljust(65, b"\0") + b"host".ljust(65, b"\0") + b"6.6.0-arm64\0"
    pages[8][4 : 4 + len(names)] = names
    info = VmcoreInfo.parse(text)
    assert info
    return b"".join(pages), info


@pytest.mark.parametrize(
    ("begin", "told", "found"),
    [
        (0x4000_0000, 0x4000_0000, 0x4000_0000),
        (0x8020_0000, 0x8000_0000, 0x8020_0000),  # the text has a rounded address
        (0x4000_0000, 0xFFF1_0000_4000_0000, 0x4000_0000),  # built for 52 bits, running with 48
        (0, 0, None),  # already in its place
    ],
)
def test_memory_that_does_not_begin_at_0(
    begin: int, told: int, found: int | None, tmp_path: Path
) -> None:
    """A raw file has no addresses: the kernel tells them, and its tables prove them."""
    contents, info = arm_memory(begin, 0xFFFF_8000_0000_0000, told)
    (tmp_path / "raw").write_bytes(contents)
    dump = open_dump(tmp_path / "raw")
    moved = put_where_it_begins(dump, [info])
    if found is None:
        assert moved is None
        return
    assert moved is not None
    assert moved.runs.tolist() == [[found // PAGE, 16]]
    assert moved.read_frames(np.array([found // PAGE + 8])).tobytes() == contents[8 * PAGE :][:PAGE]
    assert any(f"says that memory begins at {found:#x}" in remark for remark in moved.remarks)


def test_memory_of_which_the_kernel_does_not_make_sense(tmp_path: Path) -> None:
    """Without tables that lead to themselves, an address is not believed."""
    contents, info = arm_memory(0x4000_0000, 0xFFFF_8000_0000_0000, 0x4000_0000)
    (tmp_path / "raw").write_bytes(contents[: 6 * PAGE] + bytes(10 * PAGE))
    assert put_where_it_begins(open_dump(tmp_path / "raw"), [info]) is None


def info_of(lines: dict[str, int], *more: str) -> VmcoreInfo:
    text = vmcoreinfo_text("6.6.0", lines) + "".join(f"{line}\n" for line in more).encode()
    info = VmcoreInfo.parse(text)
    assert info
    return info


def test_which_machine() -> None:
    """Lines that only one architecture's kernels have tell the machine."""
    x64 = machines(info_of({"SYMBOL(swapper_pg_dir)": 0xFFFF_FFFF_8200_0000}))
    assert x64[0].kernel.architecture is X64
    i386 = {"SYMBOL(swapper_pg_dir)": 0xC1E7_4000}
    assert machines(info_of(i386))[0].kernel.architecture is X86
    pae = machines(info_of(i386, "CONFIG_X86_PAE=y"))[0]
    assert pae.kernel.architecture is PAE
    assert pae.physical(0xC1E7_4000) == 0x1E7_4000


@pytest.mark.parametrize(
    ("page", "built", "unused", "name", "bits"),
    [
        (4096, 48, 16, "ARM64, 4 KiB pages", 48),
        (4096, 39, 25, "ARM64, 4 KiB pages", 39),
        (4096, 52, 16, "ARM64, 4 KiB pages", 48),
        (4096, 52, 12, "ARM64, 4 KiB pages", 52),
        (16384, 52, 17, "ARM64, 16 KiB pages", 47),
        (65536, 52, 16, "ARM64, 64 KiB pages", 52),  # its tables are always as for 52 bits
        (65536, 42, 22, "ARM64, 64 KiB pages", 42),
    ],
)
def test_which_arm(page: int, built: int, unused: int, name: str, bits: int) -> None:
    """Levels are left out if the processor has fewer bits than the kernel was built for."""
    lines = {
        "PAGESIZE": page,
        "NUMBER(VA_BITS)": built,
        "NUMBER(TCR_EL1_T1SZ)": unused,
        "NUMBER(kimage_voffset)": 0xFFFF_8000_0000_0000,
    }
    first = machines(info_of(lines))[0]
    assert (first.user.name, first.user.address_bits) == (name, bits)
    assert first.page_frames == page // PAGE
    assert not first.has_own_half
    assert first.kernel.canonical(np.array([0], np.uint64)).tolist() == [2**64 - 2**bits]


def test_kernels_before_they_told_their_bits() -> None:
    """Kernels up to 5.3 tell only VA_BITS."""
    lines = {"NUMBER(VA_BITS)": 48, "NUMBER(kimage_voffset)": 0xFFFF_0000_0000_0000}
    assert machines(info_of(lines))[0].user.address_bits == 48
