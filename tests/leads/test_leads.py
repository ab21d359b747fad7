"""Each kind of lead is found at its place, with its pages, and nowhere else."""

import json
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import Snapshot
from memory_visualizer.export.summary import SCHEMA, summary
from memory_visualizer.leads import LEADS, Lead, known_leads, leads_so_far
from memory_visualizer.leads.images import image_in
from memory_visualizer.leads.writable import _entropies
from memory_visualizer.picture.entropy import entropy
from memory_visualizer.snapshot.pagemap import PageClass, PageState
from tests.cli.running import run
from tests.oddities import KINDS, Image, synthetic, victim
from tests.synth import forge, profiles
from tests.synth.filelayouts import read_layouts
from tests.synth.kernel import IMAGE_TIME
from tests.synth.linux import LinuxTruth, forge_linux
from tests.synth.linuxfiles import LAYOUT_OF_ERA, RegionTruth
from tests.synth.memory import PAGE_SIZE
from tests.synth.truth import INJECTED_PAGES
from tests.windows.dumps import Patch, dump_with_objects
from tests.windows.test_framedatabase import contradicted

__all__ = ["contradicted"]  # a fixture

Bytes = np.ndarray[tuple[int, int], np.dtype[np.uint8]]


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return synthetic("7 x64", tmp_path_factory.mktemp("windows"))


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> tuple[LinuxTruth, bytes]:
    path = tmp_path_factory.mktemp("linux") / "dump"
    return forge_linux(path, files=True), path.read_bytes()


def opened(pages: Bytes, folder: Path) -> Snapshot:
    (folder / "dump").write_bytes(pages.tobytes())
    return memory_visualizer.open(folder / "dump")


def of_kind(snapshot: Snapshot, kind: str) -> list[Lead]:
    assert kind in LEADS
    return [lead for lead in snapshot.leads.found if lead.kind == kind]


def pages_of(image: Image, name: str) -> set[int]:
    """The frames that the truth gives to a process."""
    rows = image.truth.mappings
    index = next(n for n, one in enumerate(image.truth.processes) if one.name == name)
    mine = rows[(rows["owner"] == index) & rows["user"] & ~rows["transition"]]
    return set(mine["frame"].tolist())


def test_a_sound_windows(windows: Image, tmp_path: Path) -> None:
    """Its only leads are an unlinked process and injected code in another process."""
    snapshot = opened(windows.pages, tmp_path)
    kinds = {lead.kind for lead in snapshot.leads.found}
    assert kinds == {"unlinked process", "writable code"}
    [unlinked] = of_kind(snapshot, "unlinked process")
    assert unlinked.process and unlinked.process.name == "rootkit.exe"
    assert set(unlinked.frames.tolist()) >= pages_of(windows, "rootkit.exe")
    [code] = of_kind(snapshot, "writable code")
    injected = next(one for one in windows.truth.processes if one.injected)
    assert code.process and code.process.pid == injected.pid
    assert f"{injected.injected:#x}-" in code.reason
    assert len(code.frames) == INJECTED_PAGES
    assert snapshot.leads.is_complete and not snapshot.leads.remarks


def test_a_machine_without_the_no_execute_bit(tmp_path: Path) -> None:
    """On a machine where all pages are executable, that right is not a lead."""
    forge(tmp_path / "dump", profiles()["WinXPSP2x86"], pae=False)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert {lead.kind for lead in snapshot.leads.found} == {"unlinked process"}


@pytest.mark.parametrize(
    ("oddity", "kinds"),
    [
        ("exit time though it runs", {"odd process object", "ended process with memory"}),
        ("in the middle of its exit", {"ended process with memory"}),
        ("header byte 0", {"odd process object"}),
        ("name of control characters", {"odd process object"}),
    ],
)
def test_odd_and_ended_processes(
    windows: Image, tmp_path: Path, oddity: str, kinds: set[str]
) -> None:
    image = windows.copy()
    process = victim(image, "svchost.exe")
    KINDS[oddity](image, process)
    snapshot = opened(image.pages, tmp_path)
    leads = snapshot.leads.found
    mine = [
        lead for lead in leads if lead.process and lead.process.object_address == process.eprocess
    ]
    assert {lead.kind for lead in mine} == kinds
    own = set(pages_of_pid(image, process.pid))
    assert all(set(lead.frames.tolist()) >= own for lead in mine)
    assert {lead.kind for lead in leads} - kinds == {"unlinked process", "writable code"}


def test_a_process_made_while_the_memory_was_saved(windows: Image, tmp_path: Path) -> None:
    """On a running machine, the page with the clock is some minutes older than other pages."""
    image = windows.copy()
    process = victim(image, "svchost.exe")
    image.set(process, "CreateTime", IMAGE_TIME + 10 * 60 * 10_000_000, 8)
    snapshot = opened(image.pages, tmp_path)
    [found] = [one for one in snapshot.processes if one.pid == process.pid]
    assert found.created and snapshot.time and found.created > snapshot.time
    assert not found.anomalies


def pages_of_pid(image: Image, pid: int) -> list[int]:
    rows = image.truth.mappings
    index = next(n for n, one in enumerate(image.truth.processes) if one.pid == pid)
    mine = rows[(rows["owner"] == index) & rows["user"] & ~rows["transition"]]
    return [int(frame) for frame in mine["frame"]]


def test_an_object_that_is_lost(windows: Image, tmp_path: Path) -> None:
    image = windows.copy()
    process = victim(image, "svchost.exe")
    KINDS["page lost, zeros"](image, process)
    found = of_kind(opened(image.pages, tmp_path), "page tables without a process")
    [lead] = [one for one in found if one.process and one.process.dtb == process.dtb]
    assert set(lead.frames.tolist()) >= set(pages_of_pid(image, process.pid))
    assert f"{process.dtb:#x}" in lead.reason


# Contents


def real_images() -> Iterator[tuple[str, bytes]]:
    """First pages of this machine's programs and libraries, which other projects' linkers wrote."""
    folder = Path(sys.prefix, "lib")
    for path in sorted({*folder.rglob("*.exe"), *folder.rglob("*.so")})[:40]:
        page = path.read_bytes()[:PAGE_SIZE]
        if page[:2] == b"MZ":
            yield "PE", page
        elif page[:4] == b"\x7fELF":
            yield "ELF", page


def test_headers_that_linkers_wrote() -> None:
    for name, page in real_images():
        image = image_in(page)
        assert image and image.format == name and image.size >= PAGE_SIZE


def pe_header(size: int = 0x5000) -> bytes:
    """The first page of a PE image (Microsoft, "PE Format")."""
    page = bytearray(PAGE_SIZE)
    page[:2], page[0x3C:0x40] = b"MZ", struct.pack("<I", 0xE8)
    page[0xE8:0x100] = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, 4, 1, 0, 0, 240, 0x22)
    page[0x100:0x102] = struct.pack("<H", 0x20B)
    page[0x120:0x128] = struct.pack("<II", 0x1000, 0x200)
    page[0x138:0x140] = struct.pack("<II", size, 0x400)
    return bytes(page)


def elf_header(kind: int = 3) -> bytes:
    """The first page of an ELF file with two segments (System V ABI, chapter 4)."""
    header = b"\x7fELF\2\1\1".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", kind, 62, 1, 0x1000, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    for start, size in ((0, 0x1000), (0x2000, 0x1800)):
        header += struct.pack("<IIQQQQQQ", 1, 5, start, start, start, size, size, 0x1000)
    return header.ljust(PAGE_SIZE, b"\0")


def test_two_letters_are_no_image() -> None:
    noise = np.random.default_rng(0)
    for letters in (b"MZ", b"\x7fELF", b"\x7fELF\2\1\1"):
        for filling in (
            bytes(PAGE_SIZE),
            b"\xff" * PAGE_SIZE,
            *map(noise.bytes, [PAGE_SIZE] * 200),
        ):
            assert image_in((letters + filling)[:PAGE_SIZE]) is None
    assert image_in(pe_header()) and image_in(elf_header())
    assert image_in(elf_header(kind=1)) is None  # an object file, which cannot run
    assert image_in(elf_header(kind=4)) is None


@pytest.mark.parametrize("place", [0x3C + 0xAC, 0x3C + 0xB0, 0x104])
def test_one_altered_field_hides_no_image(place: int) -> None:
    """The fields of a header vote, so an altered one does not hide the image."""
    page = bytearray(pe_header())
    page[place] ^= 0x55
    assert image_in(bytes(page))


@pytest.mark.parametrize("header", [pe_header, elf_header])
def test_an_image_in_private_memory(
    windows: Image, tmp_path: Path, header: Callable[[], bytes]
) -> None:
    image = windows.copy()
    injected = next(one for one in image.truth.processes if one.injected)
    rows = image.truth.mappings
    inside = (rows["virtual"] >= injected.injected) & rows["user"]
    inside &= rows["virtual"] < injected.injected + INJECTED_PAGES * PAGE_SIZE
    inside &= rows["owner"] == image.truth.processes.index(injected)
    frames = rows["frame"][inside].tolist()
    image.pages[frames[0]] = np.frombuffer(header(), np.uint8)
    [lead] = of_kind(opened(image.pages, tmp_path), "hidden image")
    assert lead.process and lead.process.pid == injected.pid
    assert lead.frames.tolist() == sorted(frames)
    assert f"at {injected.injected:#x}" in lead.reason


def test_images_in_unused_memory(windows: Image, tmp_path: Path) -> None:
    """All such images together are one lead."""
    snapshot, image = opened(windows.pages, tmp_path), windows.copy()
    unused = np.flatnonzero(snapshot.classes == PageClass.UNUSED_DATA)[5:50:9]
    image.pages[unused] = np.frombuffer(pe_header(), np.uint8)
    found = opened(image.pages, tmp_path)
    [lead] = of_kind(found, "image in unused memory")
    assert lead.frames.tolist() == unused.tolist()
    assert lead.reason.startswith(f"{len(unused)} executable images begin in memory")
    assert not of_kind(found, "hidden image")


@pytest.mark.parametrize("filling", ["noise", "code"])
def test_packed_code(windows: Image, tmp_path: Path, filling: str) -> None:
    image = windows.copy()
    [code] = of_kind(opened(image.pages, tmp_path), "writable code")
    contents = np.random.default_rng(3).integers(256, size=(len(code.frames), PAGE_SIZE))
    image.pages[code.frames] = contents if filling == "noise" else contents % 37
    snapshot = opened(image.pages, tmp_path)
    found = of_kind(snapshot, "packed code")
    assert [one.frames.tolist() for one in found] == (
        [code.frames.tolist()] if filling == "noise" else []
    )
    measured = entropy(snapshot.dump)[code.frames].astype(float) * 8 / 255
    assert np.allclose(_entropies(snapshot, code.frames), measured, atol=0.02)


# Linux


@pytest.mark.parametrize("moment", ["starting", "forking", "ending", ""])
@pytest.mark.many
def test_memory_between_two_programs(
    linux: tuple[LinuxTruth, bytes], tmp_path: Path, moment: str
) -> None:
    """Memory of the next program or of a child in the making, or being freed, hides nobody."""
    truth, contents = linux
    memory = bytearray(contents)
    other, owner = (next(one for one in truth.tasks if one.pid == pid) for pid in (107, 1))
    place = other.address - truth.direct + truth.places["mm"]
    (mm,) = struct.unpack_from("<Q", memory, place)
    # No task has this memory as its own any more; offsets as in tests/synth/linux.py.
    struct.pack_into("<QQ", memory, place, 0, 0)
    owned = owner.address if moment == "starting" else 0
    if moment == "forking":  # the child is a copy of its parent's task, with memory of its own
        free = truth.classes == "unused-data"
        room = int(np.flatnonzero(free[:-1] & free[1:])[0]) * PAGE_SIZE
        begin = owner.address - truth.direct
        memory[room : room + 2 * PAGE_SIZE] = memory[begin : begin + 2 * PAGE_SIZE]
        struct.pack_into("<QQ", memory, room + truth.places["mm"], mm, mm)
        owned = room + truth.direct
    struct.pack_into("<QQ", memory, mm - truth.direct + 400, owned, moment != "ending")
    (tmp_path / "dump").write_bytes(memory)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    [nameless] = [one for one in snapshot.processes if not one.object_address]
    phase = {"": "running", "forking": "starting"}.get(moment, moment)
    assert (nameless.dtb, nameless.phase) == (other.dtb, phase)
    found = of_kind(snapshot, "page tables without a process")
    assert len(found) == (not moment)


def entry_of(pages: Bytes, dtb: int, virtual: int) -> int:
    """Physical address of the last entry on the way to a virtual address (SDM 4.5.4)."""
    memory, table = pages.reshape(-1), dtb
    for shift in (39, 30, 21, 12):
        place = table + (virtual >> shift & 511) * 8
        table = int.from_bytes(memory[place : place + 8].tobytes(), "little") & 0xF_FFFF_FFFF_F000
    return place


def pointed(pages: Bytes, place: int, frame: int) -> None:
    """Point an entry to another frame."""
    entry = pages.reshape(-1)[place : place + 8].view("<u8")
    entry[0] = int(entry[0]) & ~0xF_FFFF_FFFF_F000 | frame * PAGE_SIZE


def test_a_sound_linux(linux: tuple[LinuxTruth, bytes], tmp_path: Path) -> None:
    """Its leads: an unlinked process, and in each process a region that is rwx without pages."""
    truth, contents = linux
    assert truth.files
    snapshot = opened(np.frombuffer(contents, np.uint8), tmp_path)
    kinds = {lead.kind for lead in snapshot.leads.found}
    assert kinds == {"unlinked process", "odd process object", "writable code"}
    code = {lead.process.pid: lead for lead in of_kind(snapshot, "writable code") if lead.process}
    regions = {
        pid: [one for one in regions if one.protection == "rwx" and one.is_private]
        for pid, regions in truth.files.regions.items()
    }
    assert code.keys() == {pid for pid, found in regions.items() if found}
    for pid, lead in code.items():
        assert all(f"{one.start:#x}-{one.end:#x}" in lead.reason for one in regions[pid])
    assert not known_leads(snapshot).is_complete


def test_altered_code(linux: tuple[LinuxTruth, bytes], tmp_path: Path) -> None:
    """A process's own copy of a library's page is a lead if it differs, and none if it is equal."""
    truth, contents = linux
    assert truth.files
    pages = np.frombuffer(contents, np.uint8).reshape(-1, PAGE_SIZE).copy()
    snapshot = opened(pages, tmp_path)
    process = next(one for one in snapshot.processes if one.pid == 107)
    library = next(one for one in truth.files.regions[107] if one.file and "x" in one.protection)
    own = next(one for one in truth.files.regions[107] if one.name == "[heap]")
    at = {virtual: frame for pid, virtual, frame in truth.owners if pid == 107}
    copy = next(at[virtual] for virtual in sorted(at) if own.start <= virtual < own.end)
    first = next(virtual for virtual in sorted(at) if library.start <= virtual < library.end)
    pages[copy] = pages[at[first]]
    pointed(pages, entry_of(pages, process.dtb, first), copy)
    assert not of_kind(opened(pages, tmp_path), "altered code")
    pages[copy, 100] ^= 0xCC
    [lead] = of_kind(opened(pages, tmp_path), "altered code")
    assert lead.process and lead.process.pid == 107
    assert lead.frames.tolist() == [copy]
    assert lead.reason.startswith(f"1 code page of {library.file} in ")


def with_another_file(
    truth: LinuxTruth, pages: Bytes, region: RegionTruth, pid: int, room: int
) -> None:
    """Let a process's region be of another file with the same path, which was deleted.

    `room` is an unused frame for the other file's objects.
    """
    assert truth.files
    memory = pages.reshape(-1)
    layout = read_layouts()[LAYOUT_OF_ERA["6.1"]]

    def copied(address: int, number: int) -> int:
        """Copy an object of at most a kilobyte; the result is the copy's address."""
        place, to = address - truth.direct, room * PAGE_SIZE + number * 1024
        memory[to : to + 1024] = memory[place : place + 1024]
        return to + truth.direct

    def put(address: int, value: int) -> None:
        memory[address - truth.direct :][:8] = np.frombuffer(struct.pack("<Q", value), np.uint8)

    area = truth.files.areas[pid, region.start] + layout["vm_area_struct"]["vm_file"]
    place = area - truth.direct
    file = copied(int.from_bytes(memory[place : place + 8].tobytes(), "little"), 0)
    dentry = copied(truth.files.dentries[region.file], 1)
    inode = copied(truth.files.inodes[region.file], 2)
    put(area, file)
    put(file + layout["file"]["f_path"] + layout["path"]["dentry"], dentry)
    put(dentry + layout["dentry"]["d_inode"], inode)
    put(dentry + layout["dentry"]["d_hash"] + 8, 0)
    put(inode + layout["inode"]["i_mapping"], inode + layout["inode"]["i_data"])
    put(inode + layout["inode"]["i_data"] + layout["address_space"]["host"], inode)


def test_a_file_that_was_replaced(linux: tuple[LinuxTruth, bytes], tmp_path: Path) -> None:
    """A process may have a library as it was before an update, under the same path."""
    truth, contents = linux
    assert truth.files
    pages = np.frombuffer(contents, np.uint8).reshape(-1, PAGE_SIZE).copy()
    process = next(one for one in truth.tasks if one.pid == 107)
    library = next(one for one in truth.files.regions[107] if one.file and "x" in one.protection)
    own = next(one for one in truth.files.regions[107] if one.name == "[heap]")
    at = {virtual: frame for pid, virtual, frame in truth.owners if pid == 107}
    copy = next(at[virtual] for virtual in sorted(at) if own.start <= virtual < own.end)
    first = next(virtual for virtual in sorted(at) if library.start <= virtual < library.end)
    pages[copy] = np.roll(pages[at[first]], 1)
    pointed(pages, entry_of(pages, process.dtb, first), copy)
    assert of_kind(opened(pages, tmp_path), "altered code")
    unused = np.flatnonzero((truth.classes == "unused-data") & (truth.states == "free"))
    with_another_file(truth, pages, library, 107, int(unused[0]))
    snapshot = opened(pages, tmp_path)
    found = next(one for one in snapshot.processes if one.pid == 107)
    [told] = [one for one in snapshot.regions(found) or () if one.start == library.start]
    assert (told.file, told.is_deleted) == (library.file, True)
    assert not of_kind(snapshot, "altered code")


def test_altered_code_on_windows(tmp_path: Path) -> None:
    """A library is one region of code and data; the right to execute tells the code pages."""
    truth = forge(tmp_path / "dump", profiles()["Win7SP1x64"], database=True, objects=True)
    contents = (tmp_path / "dump").read_bytes()
    pages = np.frombuffer(contents, np.uint8).reshape(-1, PAGE_SIZE).copy()
    snapshot = opened(pages, tmp_path)
    assert not of_kind(snapshot, "altered code")
    process = next(one for one in snapshot.processes if one.name == "svchost.exe")
    regions = snapshot.regions(process)
    assert regions is not None
    library = next(one for one in regions if one.file.endswith("kernel32.dll"))
    heap = max((one for one in regions if one.is_private), key=lambda one: one.size)
    index = next(n for n, one in enumerate(truth.processes) if one.pid == process.pid)
    rows = truth.mappings
    mine = rows[(rows["owner"] == index) & rows["user"] & ~rows["transition"]]
    at = dict(zip(mine["virtual"].tolist(), mine["frame"].tolist(), strict=True))
    first, *_ = [virtual for virtual in sorted(at) if library.start <= virtual < library.end]
    copy, *_ = [at[virtual] for virtual in sorted(at) if heap.start <= virtual < heap.end]
    pages[copy] = pages[at[first]]
    entry = entry_of(pages, process.dtb, first)
    pointed(pages, entry, copy)
    assert not of_kind(opened(pages, tmp_path), "altered code")
    pages[copy, 100] ^= 0xCC
    [lead] = of_kind(opened(pages, tmp_path), "altered code")
    assert lead.process and lead.process.pid == process.pid
    assert lead.frames.tolist() == [copy]
    assert library.file in lead.reason
    pages.reshape(-1)[entry + 7] |= 0x80  # no-execute: the page is data now
    assert not of_kind(opened(pages, tmp_path), "altered code")


def test_rights_that_were_changed(tmp_path: Path) -> None:
    """A region made as rw- that page tables let execute is writable code, too."""
    truth = forge(tmp_path / "dump", profiles()["Win7SP1x64"], database=True, objects=True)
    contents = (tmp_path / "dump").read_bytes()
    pages = np.frombuffer(contents, np.uint8).reshape(-1, PAGE_SIZE).copy()
    snapshot = opened(pages, tmp_path)
    process = next(one for one in snapshot.processes if one.name == "svchost.exe")
    regions = snapshot.regions(process)
    assert regions is not None and not any(one.findings for one in regions)
    heap = max((one for one in regions if one.is_private), key=lambda one: one.size)
    index = next(n for n, one in enumerate(truth.processes) if one.pid == process.pid)
    rows = truth.mappings
    mine = rows[(rows["owner"] == index) & rows["user"] & ~rows["transition"]]
    inside = (mine["virtual"] >= heap.start) & (mine["virtual"] < heap.end)
    virtual, frame = mine["virtual"][inside][0], mine["frame"][inside][0]
    pages.reshape(-1)[entry_of(pages, process.dtb, int(virtual)) + 7] &= 0x7F
    leads = of_kind(opened(pages, tmp_path), "writable code")
    assert {one.process.name for one in leads if one.process} == {"svchost.exe", "notepad.exe"}
    [lead] = [one for one in leads if one.process and one.process.name == "svchost.exe"]
    assert lead.frames.tolist() == [frame] and f"{virtual:#x}-" in lead.reason


def test_a_free_page_that_is_mapped(linux: tuple[LinuxTruth, bytes], tmp_path: Path) -> None:
    truth, contents = linux
    pages = np.frombuffer(contents, np.uint8).reshape(-1, PAGE_SIZE).copy()
    snapshot = opened(pages, tmp_path)
    assert snapshot.states is not None and not of_kind(snapshot, "records disagree")
    free = int(np.flatnonzero(snapshot.states == PageState.FREE)[7])
    process = next(one for one in snapshot.processes if one.pid == 107)
    virtual = next(virtual for pid, virtual, _ in sorted(truth.owners) if pid == 107)
    pointed(pages, entry_of(pages, process.dtb, virtual), free)
    [lead] = of_kind(opened(pages, tmp_path), "records disagree")
    assert lead.frames.tolist() == [free]
    assert lead.reason.startswith("processes have mapped 1 page, by the kernel's records free")


def test_windows_records_that_disagree(contradicted: tuple[Path, int, int]) -> None:
    """A mapped page whose record says free is a lead, and a process's page that no process maps."""
    path, free, hidden = contradicted
    found = of_kind(memory_visualizer.open(path), "records disagree")
    assert [lead.frames.tolist() for lead in found] == [[free], [hidden]]


def test_windows_records_that_agree(tmp_path: Path) -> None:
    forge(tmp_path / "dump", profiles()["Win7SP1x64"], database=True)
    assert not of_kind(memory_visualizer.open(tmp_path / "dump"), "records disagree")


# Outputs


@pytest.mark.parametrize("name", ["WinXPSP3x86", "Win7SP1x64", "Win10x86_17763", "Win11x64_22000"])
@pytest.mark.many
def test_a_driver_that_is_in_no_list(name: str, tmp_path: Path) -> None:
    """Its image with its rights is a lead; listed drivers are none, with or without headers."""
    truth = dump_with_objects(
        tmp_path / "dump", name, unlisted="HTTP.sys", **WITH_PAE.get(name, {})
    )
    snapshot = memory_visualizer.open(tmp_path / "dump")
    [driver] = [one for one in truth.modules if one.name == "HTTP.sys"]
    assert snapshot.modules and driver.name not in [one.name for one in snapshot.modules]
    [lead] = of_kind(snapshot, "unlisted driver")
    assert f"at {driver.start:#x} (" in lead.reason and "not in its list of modules" in lead.reason
    np.testing.assert_array_equal(lead.frames, np.sort(driver.frames))


WITH_PAE = {"WinXPSP3x86": {"pae": True}}
"""Without PAE these processors have no right to execute."""


def test_a_list_of_modules_that_is_lost(tmp_path: Path) -> None:
    """If the list of modules is lost, absence from it is not a lead."""
    truth = dump_with_objects(tmp_path / "dump", "Win7SP1x64")
    patch = Patch(tmp_path / "dump", truth)
    for driver in truth.modules[1:]:
        patch.write(driver.entry, bytes(0x40))
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert len(snapshot.modules or ()) < len(truth.modules) / 2
    assert of_kind(snapshot, "unlisted driver") == []


def test_outputs(windows: Image, tmp_path: Path) -> None:
    """The summary lists leads only with --leads; JSON always has those that cost no extra time."""
    opened(windows.pages, tmp_path)
    plain = run(["dump", "-o", "a.png", "--json", "plain.json"], tmp_path)
    asked = run(["dump", "-o", "b.png", "--json", "asked.json", "--leads"], tmp_path)
    assert plain.returncode == asked.returncode == 0
    assert "Leads" not in plain.stdout
    lines = asked.stdout.split("\nLeads\n")[1].splitlines()
    assert lines[0] == "  unlinked process: rootkit.exe (3604) is not in the list of processes"
    told = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("plain", "asked")]
    for document, complete in zip(told, (False, True), strict=True):
        jsonschema.validate(document, SCHEMA)
        assert document["leads_are_complete"] == complete
        kinds = [lead["kind"] for lead in document["leads"]]
        assert kinds == sorted(kinds, key=list(LEADS).index)
        assert {"unlinked process", "writable code"} <= set(kinds)
    some = run(["dump", "-o", "b.png", "--leads", "--name", "notepad"], tmp_path).stdout
    assert "writable code: notepad.exe" in some and "rootkit.exe" not in some


def test_the_number_of_leads_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(tmp_path / "dump", profiles()["Win7SP1x64"])
    snapshot = memory_visualizer.open(tmp_path / "dump")
    whole = leads_so_far(snapshot)
    from memory_visualizer.limits import Budget

    limit = Budget.limit
    monkeypatch.setattr(
        Budget, "limit", lambda budget, thing: 0 if thing == "lead" else limit(budget, thing)
    )
    cut = leads_so_far(snapshot)
    assert whole.found and not cut.found
    assert cut.remarks == (f"{len(whole.found)} leads left out: more than any machine has",)


def test_runs_in_the_summary(
    windows: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The summary lists all runs of frames, or the number of runs that it leaves out."""
    snapshot = opened(windows.pages, tmp_path)
    for told, lead in zip(summary(snapshot)["leads"], leads_so_far(snapshot).found, strict=True):
        runs = [[int(number, 16) for number in run.split("-")] for run in told["runs"]]
        frames = [n for first, last in runs for n in range(first, last + 1)]
        assert frames == lead.frames.tolist() and told["pages"] == len(frames)
        assert told["runs_left_out"] == 0
    whole = summary(snapshot)["leads"]
    monkeypatch.setattr("memory_visualizer.export.summary.MAX_LISTED_RUNS", 1)
    for told, all_runs in zip(summary(snapshot)["leads"], whole, strict=True):
        assert told["runs"] == all_runs["runs"][:1]
        assert told["runs_left_out"] == max(len(all_runs["runs"]) - 1, 0)
    assert any(len(told["runs"]) > 1 for told in whole)
