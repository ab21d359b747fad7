"""Files that are not dumps: a sentence names each kind, and the way to a dump."""

import io
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import cramjam
import numpy as np
import pytest

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.opening import fingerprint, open_dump
from memory_visualizer.formats.raw import RawDump
from tests.conftest import ROOT

PAGE = 4096


def said_of(path: Path, *, lenient: bool = False) -> str:
    """The sentence on a refused file, without its name."""
    with pytest.raises(BadInputError) as caught:
        open_dump(path, lenient=lenient)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path} is ")
    return sentence.removeprefix(f"{path} is ")


# Archives, as other programs write them


def _zip(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("memory.raw", data)
    return file.getvalue()


def _tar(data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("memory.raw")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


ARCHIVES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "zip": (_zip, "unzip"),
    "tar": (_tar, "tar xf"),
    "lz4": (lambda data: bytes(cramjam.lz4.compress(data)), "lz4 -d"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(name: str, tmp_path: Path) -> None:
    pack, tool = ARCHIVES[name]
    path = tmp_path / "dump"
    path.write_bytes(pack(np.random.default_rng(0).bytes(8 * PAGE)))
    assert said_of(path) == f"packed with {name}; unpack it first ({tool})"


# All other kinds, by the first bytes that their descriptions give

CONTAINERS = {
    "7-Zip": (b"7z\xbc\xaf\x27\x1c", "7z x"),
    "RAR": (b"Rar!\x1a\x07\x01\0", "unrar"),
    "Ex01": (b"EVF2\r\n\x81\0", "(Ex01); export the raw dump"),
    "L01": (b"LVF\t\r\n\xff\0", "(L01)"),
    "Lx01": (b"LEF2\r\n\x81\0", "(Lx01)"),
    "AD1": (b"ADCRYPT\0", "an encrypted AD1 image; export the dump inside it with FTK"),
    "AFF": (b"AFF10\r\n\0", "affconvert"),
    "VirtualBox": (b"\x7fVirtualBox SavedState V2.0\n\0", "dumpvmcore"),
    "Xen, old": (b"LinuxGuestRecord", "Xen saved"),
    "Xen, xl": (b"Xen saved domain, xl format\n \0 \r", "Xen saved"),
    "Xen, stream": (b"\xff" * 8 + struct.pack(">I", 0x58454E46), "Xen saved"),
    "HPAK": (b"HPAK", "hpakextract"),
    "LKCD": (struct.pack("<Q", 0xA8190173618F23ED), "LKCD"),
    "sadump": (struct.pack("<II", 0x75646173, 0x0000706D), "makedumpfile"),
    "minidump": (b"MDMP\x93\xa7", "minidump of a process"),
    "qcow2": (b"QFI\xfb\0\0\0\x03", "(qcow2) of a disk, not of memory"),
    "VMDK": (b"KDMV\x01\0\0\0", "(VMDK) of a disk"),
    "VMDK, described": (b"# Disk DescriptorFile\nversion=1\n", "(VMDK) of a disk"),
    "VDI": (
        b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(0x40, b"\0")
        + struct.pack("<I", 0xBEDA107F),
        "(VDI) of a disk",
    ),
    "VHDX": (b"vhdxfile", "(VHDX) of a disk"),
    "VHD": (b"conectix", "(VHD) of a disk"),
    "GPT": (bytes(510) + b"\x55\xaaEFI PART", "an image of a disk"),
    "swap": (bytes(4086) + b"SWAPSPACE2", "a swap file"),
    "Mach-O core": (struct.pack("<4I", 0xFEEDFACF, 0x01000007, 3, 4), "a Mach-O core"),
    "Mach-O core, big-endian": (struct.pack(">4I", 0xFEEDFACE, 18, 0, 4), "a Mach-O core"),
    "Mach-O program": (struct.pack("<4I", 0xFEEDFACF, 0x01000007, 3, 2), "a program"),
    "picture": (b"\x89PNG\r\n\x1a\n", "a picture"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_beginnings(name: str, tmp_path: Path) -> None:
    """The beginning tells the kind and the way to a dump; the same bytes elsewhere do not."""
    begin, words = CONTAINERS[name]
    path = tmp_path / "dump"
    rest = np.random.default_rng(0).bytes(4 * PAGE)
    path.write_bytes(begin + rest[len(begin) :])
    assert words in said_of(path)
    assert said_of(path, lenient=True)
    path.write_bytes(bytes(PAGE) + begin + rest[PAGE + len(begin) :])
    assert open_dump(path).format == "raw"


def test_sadump_on_media(tmp_path: Path) -> None:
    """Its header comes one page later (libkdumpfile's tests/sadump.h)."""
    path = tmp_path / "dump"
    path.write_bytes(bytes(range(52)).ljust(PAGE, b"\0") + b"sadump\0\0\1\0\0\0" + bytes(PAGE))
    assert "sadump" in said_of(path)
    path.write_bytes(bytes(range(52)).ljust(PAGE, b"\0") + b"sadump\0\0" + bytes(PAGE - 8))
    assert open_dump(path).format == "raw"


def test_a_program_of_this_system() -> None:
    with pytest.raises(BadInputError, match="is an ELF file, but not a core"):
        open_dump(Path(sys.executable).resolve())


def _program(size_of_image: int) -> bytes:
    """The headers of a Windows program ("PE Format", learn.microsoft.com)."""
    header = bytearray(b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x80)).ljust(0x80, b"\0")
    header += b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, 240, 0x22)
    optional = bytearray(240)
    struct.pack_into("<H", optional, 0, 0x20B)
    struct.pack_into("<I", optional, 56, size_of_image)
    return bytes(header + optional)


def test_programs_of_windows(tmp_path: Path) -> None:
    """A dump may begin with a kernel's headers: it is then much longer than the program."""
    path = tmp_path / "dump"
    path.write_bytes(_program(2 * PAGE).ljust(4 * PAGE, b"\x90"))
    assert said_of(path) == "a program or library of Windows, not a dump"
    os.truncate(path, 32 << 20)
    assert open_dump(path).format == "raw"
    path.write_bytes(b"MZ" + np.random.default_rng(0).bytes(PAGE - 2))
    assert open_dump(path).format == "raw"


@pytest.mark.parametrize("name", ["README.md", "visualizer.sh", "tests/synth/profiles.json"])
def test_texts(name: str) -> None:
    assert said_of(ROOT / name) == "a text file, not a dump"


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_texts_of_other_languages(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_text("Größe über alles, façade à la carte\n" * 1000, encoding)
    assert said_of(path) == "a text file, not a dump"


def test_a_dump_that_begins_with_text(tmp_path: Path) -> None:
    """A page of text at the beginning does not make the file a text."""
    path = tmp_path / "dump"
    path.write_bytes((b"some text \n" * PAGE)[:PAGE] + bytes(PAGE))
    assert open_dump(path).format == "raw"
    path.write_bytes(b"x" * 4 * PAGE)
    assert open_dump(path).format == "raw"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("memory.zdmp", "Z2Dmp"),  # no description has its first bytes
        ("hiberfil.sys", "was cleared, as after a resume"),
        ("machine.VSV", "vm2dmp makes a dump of both, the file without the memory"),
        ("Pagefile.sys", "a page file of Windows"),
    ],
)
def test_what_only_its_name_tells(name: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(PAGE) + np.random.default_rng(0).bytes(PAGE))
    assert words in said_of(path)


def test_the_memory_beside_an_old_state_of_hyper_v(tmp_path: Path) -> None:
    (tmp_path / "machine.bin").write_bytes(np.random.default_rng(0).bytes(4 * PAGE))
    assert open_dump(tmp_path / "machine.bin").format == "raw"
    (tmp_path / "machine.vsv").write_bytes(b"state")
    assert "(.bin, .vsv) of a machine that Hyper-V saved" in said_of(tmp_path / "machine.bin")


@pytest.mark.parametrize("begin", [b"BZh", b"BZh91AX", b"\x1f\x8b\x08\xff", b"\x1f\x9d", b"<<< "])
def test_a_few_bytes_in_common_are_too_few(begin: bytes, tmp_path: Path) -> None:
    """A raw dump may begin with a few of these bytes."""
    path = tmp_path / "dump"
    path.write_bytes(begin + bytes(PAGE - len(begin)))
    assert open_dump(path).format == "raw"


# Paths that are not files


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    """A pipe that nobody writes to is refused unopened, as opening it would block."""
    os.mkfifo(tmp_path / "pipe")
    assert "a pipe; a dump is read more than once" in said_of(tmp_path / "pipe")
    program = f"from memory_visualizer.cli.memviz import main; main(['{tmp_path / 'pipe'}'])"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, timeout=20
    )
    assert result.stderr.count(b"\n") == 1


@pytest.mark.posix
@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no such devices")
def test_a_device_is_refused() -> None:
    assert "a device; save the memory as a file" in said_of(Path("/dev/zero"))


def test_fingerprints(tmp_path: Path) -> None:
    """Equal contents have equal fingerprints under any name; different contents different ones."""
    contents = bytearray(np.random.default_rng(0).bytes(64 * PAGE))
    (tmp_path / "a").write_bytes(contents)
    (tmp_path / "b").write_bytes(contents)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    assert RawDump.open(tmp_path / "a").frame_count == 64
    seen = {fingerprint(tmp_path / "a")}
    (tmp_path / "b").write_bytes(contents[: 63 * PAGE])
    seen.add(fingerprint(tmp_path / "b"))
    contents[8 * PAGE] ^= 1
    (tmp_path / "b").write_bytes(contents)
    seen.add(fingerprint(tmp_path / "b"))
    assert len(seen) == 3
