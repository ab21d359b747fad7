"""QEMU's migration streams: the last sent state of each page is read, as QEMU has it."""

import shutil
import socket
import struct
import subprocess
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats.containers import vma
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.formats.qemu import QemuDump
from memory_visualizer.units import PAGE_SIZE
from tests.formats.checks import (
    GIB,
    LOW,
    PIECES,
    check,
    check_without,
    frames_of,
    memory,
    not_sent,
)
from tests.synth.qemu import write_qemu, write_vma

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "saved"


@pytest.mark.parametrize("machine", [b"pc-i440fx-7.2", b"pc-q35-7.2", b"pc-1.0"])
def test_where_memory_is(path: Path, machine: bytes) -> None:
    """Each machine has its hole for devices at its own place."""
    hole = {b"pc-i440fx-7.2": 3 * GIB, b"pc-q35-7.2": 2 * GIB, b"pc-1.0": 0xE0000000}[machine]
    pieces = [*LOW, (hole - 8 * PAGE_SIZE, memory(8, 7)), (4 * GIB, memory(9, 8)), PIECES[4]]
    write_qemu(path, pieces, machine=machine)
    frames = frames_of(pieces)
    check(open_dump(path), frames, not_sent(frames, hole))


@pytest.mark.parametrize("how", ["again", "zlib"])
def test_pages_that_have_to_be_made(path: Path, how: str) -> None:
    """Pages are made from changes of earlier pages, from packed pages, and from both."""
    write_qemu(path, PIECES, how=how)
    dump = open_dump(path)
    check(dump, frames_of(PIECES), not_sent(frames_of(PIECES)))
    assert dump.remarks == ()


def test_what_is_not_sent(path: Path) -> None:
    """RAM that the guest calls free is left out; a cut stream does not tell the left-out RAM."""
    write_qemu(path, LOW, devices=False)
    dump = open_dump(path)
    assert np.array_equal(dump.left_out, ~dump.held)
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    assert not open_dump(path, lenient=True).left_out.any()


@pytest.mark.parametrize("libvirt", [b"", b"LibvirtQemudSave"])
def test_pages_at_places_of_their_own(path: Path, libvirt: bytes) -> None:
    """With mapped-ram, pages that the bitmap lacks are held as zeros."""
    write_qemu(path, LOW, mapped=True, libvirt=libvirt)
    pages = frames_of(LOW)
    held = {pfn: pages.get(pfn, bytes(PAGE_SIZE)) for pfn in range(max(pages) + 1)}
    check(open_dump(path), held)


def test_mapped_memory_that_is_not_there(path: Path) -> None:
    write_qemu(path, LOW, mapped=True)
    data = path.read_bytes()
    path.write_bytes(data[: 1 * MIB + 70 * PAGE_SIZE + 5])
    with pytest.raises(DamagedInputError, match=r"ends too early|makes no sense"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    pages = frames_of(LOW)
    for pfn in (1, 40, 69):
        assert dump.read_frames(np.array([pfn])).tobytes() == pages.get(pfn, bytes(PAGE_SIZE))
    assert not dump.held[70:0x100].all()


def test_a_bitmap_of_more_than_any_machine_has(path: Path) -> None:
    """A bitmap for 4 TiB without a set bit, small on disk, takes no memory for each frame."""
    frames = 1 << 30
    write_qemu(path, LOW, mapped=True)
    data = bytearray(path.read_bytes()[:MIB])
    size_at = data.index(b"\6pc.ram") + 7
    struct.pack_into(">Q", data, size_at, frames * PAGE_SIZE)
    struct.pack_into(">QQ", data, size_at + 20, MIB, MIB + frames // 8)
    path.write_bytes(data)
    with path.open("r+b") as file:
        file.truncate(MIB + frames // 8 + 8 * PAGE_SIZE)
    tracemalloc.start()
    try:
        with pytest.raises(BadInputError, match="ends before the machine's memory"):
            open_dump(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < frames // 32


def test_what_libvirt_did_not_finish(path: Path) -> None:
    write_qemu(path, LOW, libvirt=b"LibvirtQemudPart")
    with pytest.raises(DamagedInputError, match="did not finish saving"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    check(dump, frames_of(LOW), not_sent(frames_of(LOW)))
    assert len(dump.remarks) == 1


@pytest.mark.parametrize("packing", ["gzip", "bzip2", "xz", "zstd"])
@pytest.mark.many
def test_what_libvirt_packed(path: Path, packing: str) -> None:
    """Packed streams of libvirt are unpacked first."""
    write_qemu(path, PIECES, libvirt=b"LibvirtQemudSave", packing=packing)
    dump = open_dump(path)
    assert dump.format == f"QEMU migration stream ({packing}) (libvirt save)"
    check(dump, frames_of(PIECES), not_sent(frames_of(PIECES)))


def test_what_libvirt_packed_with_lzop(path: Path) -> None:
    """A sentence tells the way to a dump."""
    write_qemu(path, LOW, libvirt=b"LibvirtQemudSave", packing="lzop")
    with pytest.raises(BadInputError, match=r"packed with lzop; .*tail -c \+1093 FILE"):
        open_dump(path)


def test_a_backup_of_proxmox(path: Path) -> None:
    """The stream lies in the clusters of a device in the backup."""
    write_vma(path, PIECES)
    dump = open_dump(path)
    assert dump.format == "QEMU migration stream (Proxmox backup)"
    check(dump, frames_of(PIECES), not_sent(frames_of(PIECES)))


def test_a_backup_without_memory(path: Path) -> None:
    write_vma(path, PIECES, state=False)
    for lenient in (False, True):
        with pytest.raises(BadInputError, match="Proxmox machine without its memory"):
            open_dump(path, lenient=lenient)


def test_a_backup_that_was_cut(path: Path) -> None:
    write_vma(path, PIECES)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DamagedInputError, match="is cut off"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    frames = frames_of(PIECES)
    there = np.flatnonzero(dump.held).tolist()
    assert 0 < len(there) < len(frames) and len(dump.remarks) == 2
    check(dump, {pfn: frames[pfn] for pfn in there})


def test_a_backup_with_too_many_clusters(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters beyond the limit are an error; lenient ignores them, and a remark tells it."""
    monkeypatch.setattr(vma, "_MAX_CLUSTERS", 2)
    write_vma(path, PIECES)
    with pytest.raises(DamagedInputError, match=r"more than 2 clusters$"):
        open_dump(path)
    assert "more than 2 clusters; the rest was ignored" in open_dump(path, lenient=True).remarks[0]


def test_a_backup_with_long_names(path: Path) -> None:
    """Long names of other devices do not matter."""
    write_vma(path, PIECES, long_names=(1 << 16) - 1)
    check(open_dump(path), frames_of(PIECES), not_sent(frames_of(PIECES)))


def test_a_machine_that_is_not_known(path: Path) -> None:
    """The largest block is taken for RAM; remarks tell both guesses."""
    write_qemu(path, PIECES)
    data = path.read_bytes().replace(b"\x06pc.ram", b"\x06my-ram")
    path.write_bytes(data.replace(b"pc-i440fx-7.2", b"fantasy-12345"))
    dump = open_dump(path)
    assert ["'my-ram'" in dump.remarks[0], "'fantasy-12345'" in dump.remarks[1]] == [True, True]


def test_broken_changes(path: Path) -> None:
    """A page that cannot be made is an error; --lenient leaves it out."""
    contents = memory(40, 2)
    write_qemu(path, [(0x20000, contents)], how="again")
    data = bytearray(path.read_bytes())
    pfn = next(n for n in range(40) if contents[n * PAGE_SIZE :][:6] == b"memory")
    header = struct.pack(">Q", (0x20 + pfn) * PAGE_SIZE | 0x40 | 0x20)
    data[data.index(header) + 8 + 3] = 0x7F
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match="a change at byte"):
        open_dump(path).zero_frames()
    dump = open_dump(path, lenient=True)
    assert dump.remarks == (f"1 broken pages of {path} were left out",)
    frames = frames_of([(0x20000, contents)])
    check_without(dump, frames, [0x20 + pfn], not_sent(frames))


@pytest.mark.parametrize("how", ["plain", "zlib", "again"])
def test_a_page_beyond_its_block(path: Path, how: str) -> None:
    """A page that its block has no room for is damage, and so are the pages behind it."""
    flag = {"plain": 8, "zlib": 0x100, "again": 0x40}[how] | 0x20
    write_qemu(path, [(0x20000, memory(40, 2))], how=how)
    data = bytearray(path.read_bytes())
    headers = [struct.pack(">Q", pfn * PAGE_SIZE | flag) for pfn in range(0x20, 0x48)]
    at = min(data.index(header) for header in headers if header in data)
    struct.pack_into(">Q", data, at, 1 << 40 | flag)
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match=r"is invalid at byte"):
        open_dump(path)
    [remark] = open_dump(path, lenient=True).remarks
    assert remark.endswith("the part before it was read")


def test_a_page_beyond_16_tebibytes(path: Path) -> None:
    """Memory of a machine that is too large is told, not dropped."""
    write_qemu(path, LOW)
    data = path.read_bytes().replace(b"\6pc.ram", b"\x09ram-node1")
    # Another node of 16 TiB, which is not sent, comes before it.
    size_at = data.index(b"\x09ram-node1")
    first = b"\x09ram-node0" + struct.pack(">Q", 1 << 44)
    total = struct.unpack_from(">Q", data, size_at - 8)[0] + (1 << 44)
    path.write_bytes(data[: size_at - 8] + struct.pack(">Q", total) + first + data[size_at:])
    with pytest.raises(DamagedInputError, match=r"page frame 0x1\w+; this program stops"):
        open_dump(path)


def test_too_many_capabilities(path: Path) -> None:
    """A list that is longer than any QEMU's breaks the stream, and is not cut in silence."""
    write_qemu(path, LOW, mapped=True)
    data = path.read_bytes()
    told = struct.pack(">II", 1, 1) + b"\x0amapped-ram"
    many = struct.pack(">II", 1, 300) + b"\x0amapped-ram" * 300
    path.write_bytes(data.replace(told, many))
    with pytest.raises(BadInputError, match="ends before the machine's memory"):
        open_dump(path)


# QEMU itself


def _qemu(folder: Path, arguments: Sequence[str]) -> "subprocess.Popen[str]":
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        pytest.skip("no QEMU here (on Debian: apt install qemu-system-x86)")
    (folder / "contents").write_bytes(memory(300, 1))
    (folder / "more").write_bytes(memory(100, 2))
    return subprocess.Popen(
        [
            *(program, "-S", "-accel", "tcg", "-display", "none", "-nodefaults"),
            *("-monitor", "stdio"),
            *("-device", f"loader,file={folder / 'contents'},addr=0x200000,force-raw=on"),
            *arguments,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _check_saved(folder: Path, regions: Sequence[tuple[int, int]]) -> None:
    """The saved stream equals QEMU's memory, except for memory of devices below 1 MiB."""
    dump = open_dump(folder / "saved")
    for number, (address, size) in enumerate(regions):
        raw = np.fromfile(folder / f"raw{number}", np.uint64).reshape(-1, 512)
        frames = np.arange(size // PAGE_SIZE) + address // PAGE_SIZE
        same = (dump.read_frames(frames) == raw).all(axis=1)
        same |= (frames >= 0xA0) & (frames < 0x100)
        assert same.all()
        assert dump.held[frames].all()
        assert raw.any()
    assert dump.zero_frames()[0x1000:].all() == (len(regions) == 1)


@pytest.mark.parametrize(
    ("machine", "size", "capability", "regions"),
    [
        ("pc", "48M", "", [(0, 48 * MIB)]),
        ("pc", "48M", "compress", [(0, 48 * MIB)]),
        ("pc", "48M", "mapped-ram", [(0, 48 * MIB)]),
        ("microvm", "48M", "", [(0, 48 * MIB)]),
        ("pc", "3600M", "", [(0, 8 * MIB), (4 * GIB, 8 * MIB)]),
        ("q35", "2900M", "", [(0, 8 * MIB), (4 * GIB, 8 * MIB)]),
    ],
)
@pytest.mark.peer
def test_qemu_saved_the_same(
    tmp_path: Path, machine: str, size: str, capability: str, regions: list[tuple[int, int]]
) -> None:
    """A stopped machine of QEMU with known contents is read as QEMU has it."""
    more = ["-device", f"loader,file={tmp_path / 'more'},addr={4 * GIB:#x},force-raw=on"]
    qemu = _qemu(tmp_path, ["-M", machine, "-m", size, *(more if len(regions) > 1 else [])])
    place = "file:" if capability == "mapped-ram" else "exec:cat > "
    commands = [f'migrate "{place}{tmp_path / "saved"}"']
    if capability:
        commands.insert(0, f"migrate_set_capability {capability} on")
    commands += [
        f'pmemsave {address} {length} "{tmp_path / f"raw{number}"}"'
        for number, (address, length) in enumerate(regions)
    ]
    said, _ = qemu.communicate("\n".join([*commands, "quit", ""]), timeout=120)
    if capability and "nvalid parameter" in said:
        pytest.skip(f"this QEMU does not know {capability}")
    _check_saved(tmp_path, regions)


def _debugger(connection: socket.socket, command: bytes) -> None:
    """Send a command to QEMU's debugger stub, and wait for its answer."""
    connection.sendall(b"$%s#%02x" % (command, sum(command) % 256))
    said = b""
    while b"#" not in said or len(said.split(b"#")[-1]) < 2:
        said += connection.recv(4096)
    connection.sendall(b"+")


@pytest.mark.peer
def test_changes_while_qemu_saves(tmp_path: Path) -> None:
    """Pages that change all the time are sent again and again, as XBZRLE changes."""
    stub = tmp_path / "gdb"
    qemu = _qemu(tmp_path, ["-M", "pc", "-m", "32M", "-gdb", f"unix:{stub},server=on,wait=off"])
    assert qemu.stdin is not None
    deadline = time.monotonic() + 60
    while not stub.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    say = qemu.stdin.write
    say("migrate_set_capability xbzrle on\nmigrate_set_capability pause-before-switchover on\n")
    say("migrate_set_parameter downtime-limit 1\nmigrate_set_parameter max-bandwidth 500k\n")
    say(f'migrate -d "exec:cat > {tmp_path / "saved"}"\n')
    qemu.stdin.flush()
    rng = np.random.default_rng(3)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(stub))
        until = time.monotonic() + 4
        while time.monotonic() < until:
            for pfn in range(0x210, 0x230):
                new = rng.bytes(int(rng.integers(1, 40)))
                address = pfn * PAGE_SIZE + int(rng.integers(4000))
                command = f"M{address:x},{len(new):x}:{new.hex()}"
                _debugger(connection, command.encode())
            time.sleep(0.02)
    say("migrate_continue pre-switchover\n")
    qemu.stdin.flush()
    time.sleep(2)
    said, _ = qemu.communicate(
        f'info migrate\npmemsave 0 {32 * MIB} "{tmp_path / "raw0"}"\nquit\n', timeout=60
    )
    assert "Migration status: completed" in said
    _check_saved(tmp_path, [(0, 32 * MIB)])
    dump = open_dump(tmp_path / "saved")
    assert isinstance(dump, QemuDump)
    assert any(made.changes for made in dump._made)
