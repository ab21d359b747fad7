"""The guest's files: an initramfs with busybox, workers, collector, modules; and a small disk."""

import gzip
import lzma
import random
import re
import shutil
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cramjam

from tests.guests.packages import Packages, run
from tests.guests.recipes import INSIDE, Recipe

FIRST_MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_mmio",
    "crc32c_generic",
    "crc32c_cryptoapi",
    "crc32c_intel",
    "ext4",
    "af_packet",
)
"""Modules for the disks and the workers, as far as they are not built in."""
BUSY_MODULES = ("lzo", "lzo_rle", "zram", "loop", "dummy", "tun", "xfs", "nf_tables", "fuse")
PROGRAMS = ("collect", "worker")
COMMANDS = (
    *("sh", "mount", "mkdir", "insmod", "sleep", "cat", "dd", "ip", "head", "base64"),
    *("unshare", "mkswap", "swapon", "losetup", "poweroff"),
)
"""The commands of busybox that init uses."""
DISK_FILES = 192
_DISK_SIZE = 48 << 20
_LARGE_FILES = 12
"""The number of large files on the disk, which come last."""
_STAY_MAPPED = 4
"""One in so many files is still mapped when memory is saved."""


@dataclass(frozen=True)
class Entry:
    """A file or folder of the archive."""

    name: str
    mode: int
    contents: bytes = b""


def folder(name: str) -> Entry:
    """An empty folder."""
    return Entry(name, stat.S_IFDIR | 0o755)


def file(name: str, contents: bytes, mode: int = 0o644) -> Entry:
    """A plain file."""
    return Entry(name, stat.S_IFREG | mode, contents)


def link(name: str, target: str) -> Entry:
    """A symbolic link."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def archive(entries: Iterable[Entry]) -> bytes:
    """A cpio archive in the form that the kernel unpacks.

    The form is newc, of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst:
    thirteen numbers of eight hexadecimal digits, the name, the contents, each padded to 4 bytes.
    """
    parts = []
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], 1):
        name = entry.name.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.contents), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields)
        parts.append(_padded(head + name) + _padded(entry.contents))
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def module_files(kernel: Path) -> dict[str, Path]:
    """The modules of an unpacked kernel by their names, with ``_`` for ``-``."""
    found = {}
    for path in kernel.glob("**/*.ko*"):
        if match := re.fullmatch(r"(.+)\.ko(\.xz|\.zst|\.gz)?", path.name):
            found[match[1].replace("-", "_")] = path
    return found


def read_module(path: Path) -> bytes:
    """A module, unpacked."""
    contents = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(contents)
    if path.suffix == ".zst":
        return bytes(cramjam.zstd.decompress(contents))
    return gzip.decompress(contents) if path.suffix == ".gz" else contents


def needed_modules(module: bytes) -> list[str]:
    """The modules that must be loaded before a module, by its section .modinfo."""
    depends = re.search(rb"\0depends=([^\0]*)\0", module)
    softly = re.findall(rb"softdep=pre: ([^\0]*)\0", module)
    names = depends[1].decode().split(",") if depends else []
    names += [name for line in softly for name in line.decode().split() if name != "post:"]
    return [name.replace("-", "_") for name in names if name]


def load_order(names: Iterable[str], modules: Mapping[str, Path]) -> dict[str, bytes]:
    """Modules with their dependencies, in the order of loading.

    A name without a module is left out: it is built in, or the kernel lacks it.
    """
    order: dict[str, bytes] = {}
    begun = set[str]()

    def add(name: str) -> None:
        if name in begun or name not in modules:
            return
        begun.add(name)
        contents = read_module(modules[name])
        for needed in needed_modules(contents):
            add(needed)
        order[name] = contents

    for name in names:
        add(name)
    return order


def build(recipe: Recipe, target: Path) -> list[Path]:
    """Compile the guest's programs statically."""
    target.mkdir(parents=True, exist_ok=True)
    built = []
    for name in PROGRAMS:
        program = target / name
        source = INSIDE / f"{name}.c"
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            command = [*recipe.compiler, "-O2", "-static", "-pthread", "-Wall", "-Wextra"]
            what = f"compiling {source.name} for {recipe.architecture}"
            run([*command, "-o", str(program), str(source)], what=what)
        built.append(program)
    return built


def busybox_entries(packages: Packages) -> list[Entry]:
    """The single program of busybox, and a link for each command."""
    unpacked = packages.unpack(["busybox-static"])
    [program] = [path for path in unpacked.glob("**/bin/busybox") if path.is_file()]
    links = [link(f"bin/{name}", "busybox") for name in COMMANDS]
    return [file("bin/busybox", program.read_bytes(), 0o755), *links]


def klibc_entries(packages: Packages) -> list[Entry]:
    """Commands for kernels that are too old for today's C library."""
    unpacked = packages.unpack(["klibc-utils", "libklibc"])
    programs = [path for path in unpacked.glob("usr/lib/klibc/bin/*") if path.is_file()]
    [library] = unpacked.glob("**/klibc-*.so")
    entries = [file(f"bin/{path.name}", path.read_bytes(), 0o755) for path in programs]
    return [*entries, folder("lib"), file(f"lib/{library.name}", library.read_bytes(), 0o755)]


def make_initramfs(
    recipe: Recipe, packages: Packages, modules: Mapping[str, Path], programs: Iterable[Path]
) -> bytes:
    """The packed archive with which the kernel starts; `packages` are of a whole suite."""
    first, busy = load_order(FIRST_MODULES, modules), load_order(BUSY_MODULES, modules)
    entries = [folder(name) for name in ("bin", "modules", "proc", "sys", "dev", "etc")]
    entries.append(file("init", (INSIDE / "init").read_bytes(), 0o755))
    entries += klibc_entries(packages) if recipe.is_old else busybox_entries(packages)
    entries += [file(f"bin/{path.name}", path.read_bytes(), 0o755) for path in programs]
    entries += [file(f"modules/{name}.ko", data) for name, data in (first | busy).items()]
    entries.append(file("modules.first", _lines(f"{name}.ko" for name in first)))
    entries.append(file("modules.busy", _lines(f"{name}.ko" for name in busy if name not in first)))
    entries.append(file("files.list", _lines(_watched_files(recipe))))
    return gzip.compress(archive(entries), 1, mtime=0)


def _lines(texts: Iterable[str]) -> bytes:
    return "".join(text + "\n" for text in texts).encode()


def _watched_files(recipe: Recipe) -> Iterator[str]:
    """Files whose pages are looked up; + marks files that stay mapped."""
    yield "+/bin/sh"
    for name in ("/bin/worker", "/bin/collect", "/modules.first"):
        yield f"-{name}"
    for name in ("/dev/shm/big.bin", "/run/small.bin", "/mnt/mapped.bin"):
        yield f"-{name}"
    for number in () if recipe.is_old else range(DISK_FILES):
        yield f"{'-' if number % _STAY_MAPPED else '+'}/mnt/f/{_disk_file(number)}"


def _disk_file(number: int) -> str:
    return f"file{number:03d}.dat"


def make_disk(target: Path) -> None:
    """An ext4 disk with files of many sizes, the same each time."""
    contents = target.with_suffix(".d")
    shutil.rmtree(contents, ignore_errors=True)
    (contents / "f").mkdir(parents=True)
    chance = random.Random(5)
    for number in range(DISK_FILES):
        is_large = number >= DISK_FILES - _LARGE_FILES
        sizes = (300_000, 1 << 20) if is_large else (1, 100, 4095, 4096, 4097, 10_000, 70_001)
        size = chance.choice(sizes)
        text = struct.pack("<10sI2s", b"FILETRUTH ", number, b": ") * (size // 16 + 1)
        data = text[:size] if number % 8 else chance.randbytes(size)
        (contents / "f" / _disk_file(number)).write_bytes(data)
    target.unlink(missing_ok=True)
    make_empty(target, _DISK_SIZE)
    run(["mke2fs", "-q", "-b", "4096", "-t", "ext4", "-d", contents, target], what="the disk")
    shutil.rmtree(contents)


def make_empty(target: Path, size: int) -> None:
    """A sparse file of zeros."""
    with target.open("wb") as made:
        made.truncate(size)
