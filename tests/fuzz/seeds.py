"""Sound dumps to mutate, each with its most important places."""

import contextlib
import functools
import gzip
import io
import lzma
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cramjam
import numpy as np
import numpy.typing as npt

from memory_visualizer.cli import memviz as cli
from tests.synth import MIB, builds, containers, forge, profiles, s2
from tests.synth.ad1 import Tree, write_ad1
from tests.synth.aff4 import write_aff4
from tests.synth.ewf import write_e01
from tests.synth.hibernation import write_hibernation
from tests.synth.hyperv import write_hyperv
from tests.synth.linux import LinuxTruth, forge_linux
from tests.synth.linux386 import forge_linux_on_i386
from tests.synth.qemu import write_qemu, write_vma

PAGE = 4096


@dataclass(frozen=True)
class Seed:
    """A sound input for one of the commands."""

    contents: bytes
    """The file to mutate."""
    places: npt.NDArray[np.int64]
    """Bytes of it at which headers, page tables and the system's objects begin."""
    name: str = "dump"
    """Its name."""
    beside: Mapping[str, bytes] = field(default_factory=dict)
    """Other files that the command needs, by name."""
    arguments: tuple[str, ...] = ("dump",)
    """The command's arguments."""
    is_map: bool = False
    """Whether it is a text page map, for imagegenerator.py."""


def _windows(profile: str, **options: int | bool) -> tuple[bytes, list[int]]:
    kind = builds()[profile] if profile in builds() else profiles()[profile]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump"
        truth = forge(path, kind, size=16 * MIB, processes=3, **options)  # type: ignore[arg-type]
        contents = path.read_bytes()
    notes = truth.mappings
    places = [process.dtb & ~0xFFF for process in truth.processes]
    for process in truth.processes:
        inside = (notes["virtual"] <= process.eprocess) & (
            process.eprocess < notes["virtual"] + notes["size"].astype(np.uint64)
        )
        for note in notes[inside]:
            offset = process.eprocess - int(note["virtual"])
            places.append(int(note["frame"]) * PAGE + offset)
    if truth.records is not None:
        places += (truth.records.frames * PAGE).tolist()
    return contents, places


def _linux(era: str, **options: bool) -> tuple[bytes, list[int]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump"
        truth = forge_linux(path, era, size=32 * MIB, processes=3, **options)
        contents = path.read_bytes()
    return contents, _places(truth, contents)


def _linux_of_32_bits(*, pae: bool) -> tuple[bytes, list[int]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump"
        truth = forge_linux_on_i386(path, pae=pae, size=32 * MIB, low=20 * MIB)
        contents = path.read_bytes()
    return contents, _places(truth, contents)


def _places(truth: LinuxTruth, contents: bytes) -> list[int]:
    places = [truth.top * PAGE, *(frame * PAGE for frame in truth.text_frames)]
    for name in (b"\x9f\xeb\x01", b"swapper/0"):  # BTF and the first task
        if (place := contents.find(name)) >= 0:
            places.append(place)
    return places


_SYSTEMS = {
    "xp": lambda: _windows("WinXPSP2x86", pae=False),
    "pae": lambda: _windows("Win7SP1x86"),
    "xp records": lambda: _windows("WinXPSP2x86", pae=True, database=True),
    "x64 records": lambda: _windows("Win10x64_19041", objects=True),
    "win7": lambda: _windows("Win7SP1x64"),
    "win11": lambda: _windows("Win11x64_22000", shadow_tables=True),
    "levels": lambda: _windows("Win10x64_17763", five_levels=True),
    "linux": lambda: _linux("6.1", pti=True),
    "old": lambda: _linux("4.19"),
    "i386": lambda: _linux_of_32_bits(pae=False),
    "i386-pae": lambda: _linux_of_32_bits(pae=True),
    "noise": lambda: (np.random.default_rng(0).bytes(4 * MIB) + bytes(4 * MIB), [0]),
}
SYSTEMS = list(_SYSTEMS)


def _packed(pack: Callable[[bytes], bytes], path: Path, pieces: containers.Pieces) -> None:
    containers.write_lime(path, pieces)
    path.write_bytes(pack(path.read_bytes()))


def _e01(path: Path, pieces: containers.Pieces) -> None:
    containers.write_lime(path, pieces)
    [written] = write_e01(path, path.read_bytes(), level=1, errors=[(40, 9), (200, 8)])
    written.rename(path)


def _vmware_state(path: Path, pieces: containers.Pieces) -> None:
    """The description of a suspended machine; its memory lies beside it."""
    containers.write_vmware(path.with_suffix(".vmem"), path, pieces)


def _vmware_memory(path: Path, pieces: containers.Pieces) -> None:
    """The memory of a suspended machine; its description lies beside it."""
    containers.write_vmware(path, path.with_suffix(".vmss"), pieces)


def _split(path: Path, pieces: containers.Pieces) -> None:
    """A LiME dump in five parts; the first part is mutated."""
    containers.write_lime(path, pieces)
    contents = path.read_bytes()
    size = -(-len(contents) // 5)
    for number in range(5):
        part = contents[number * size : (number + 1) * size]
        path.with_suffix(f".{number + 1:03}").write_bytes(part)


def _vmware_inside(version: int, path: Path, pieces: containers.Pieces) -> None:
    """A suspended machine in a single file."""
    containers.write_vmware(path, path, pieces, version=version, inside=True)


def _ad1(path: Path, pieces: containers.Pieces) -> None:
    containers.write_lime(path, pieces)
    tree: Tree = {"pagefile.sys": b"", "capture": {"memory.lime": path.read_bytes()}}
    [written] = write_ad1(path, tree)
    written.rename(path)


_XPRESS: dict[str, Callable[[Path, containers.Pieces], object]] = {
    "hibernation": write_hibernation,
    "hibernation-plain": functools.partial(write_hibernation, plain=True, longest=2),
    "hibernation-xp": functools.partial(write_hibernation, system="XP"),
    "hibernation-2003": functools.partial(write_hibernation, system="2003 x64", longest=1),
    "hibernation-7": functools.partial(write_hibernation, system="7 x64"),
    "hyper-v": write_hyperv,
    "hyper-v-stored": functools.partial(write_hyperv, packed=False),
}
"""Xpress is packed in Python, which is too slow for whole systems."""
_BESIDE: dict[str, Callable[[Path, containers.Pieces], object]] = {
    "split": _split,
    "vmware": _vmware_state,
    "vmware-memory": _vmware_memory,
}
"""Each writes a second file; `_vmware` has such files of whole systems."""
WRITERS: dict[str, Callable[[Path, containers.Pieces], object]] = {
    **containers.WRITERS,
    "aff4": write_aff4,
    "ad1": _ad1,
    "e01": _e01,
    "gzip": functools.partial(_packed, functools.partial(gzip.compress, compresslevel=1)),
    "xz": functools.partial(_packed, functools.partial(lzma.compress, preset=0)),
    "zstd": functools.partial(_packed, lambda data: bytes(cramjam.zstd.compress(data))),
    "snappy": functools.partial(_packed, lambda data: bytes(cramjam.snappy.compress(data))),
    "s2": functools.partial(_packed, s2.stored_stream),
    "avml-mixed": functools.partial(containers.write_avml, packed=(True, False)),
    "kdump-flattened": functools.partial(containers.write_kdump, flattened=True),
    "kdump-32": functools.partial(containers.write_kdump, bits=32),
    "kdump-big-endian": functools.partial(containers.write_kdump, order=">", machine=b"s390x"),
    "elf-flattened": containers.write_flattened_elf,
    "crash-live": functools.partial(containers.write_crash, kind="live bitmap"),
    "crash-32": functools.partial(containers.write_crash, bits=32),
    "xen": containers.write_xen,
    "qemu": write_qemu,
    "qemu-zlib": functools.partial(write_qemu, how="zlib"),
    "qemu-xbzrle": functools.partial(write_qemu, how="again"),
    "qemu-mapped": functools.partial(write_qemu, mapped=True),
    "libvirt": functools.partial(write_qemu, libvirt=b"LibvirtQemudSave"),
    "libvirt-gzip": functools.partial(write_qemu, libvirt=b"LibvirtQemudSave", packing="gzip"),
    "proxmox": write_vma,
    "vmware-inside": functools.partial(_vmware_inside, 2),
    "vmware-old": functools.partial(_vmware_inside, 0),
    **_BESIDE,
    **_XPRESS,
}
"""Each writes pieces to a file, and the other files that it needs."""
_ALONE = [name for name in WRITERS if name not in (*_XPRESS, *_BESIDE)]
CONTAINERS = [*_ALONE, "vmware", "map"]


@functools.lru_cache(2 * len(CONTAINERS))
def seed(system: str, container: str) -> Seed:
    """A small dump of one of SYSTEMS in one of CONTAINERS."""
    memory, places = _system(system)
    if container == "raw":
        return Seed(memory, np.array(sorted({0, *places}), np.int64))
    if container == "vmware":
        return _vmware(memory)
    if container == "map":
        return _text_map(memory)
    half = len(memory) // 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump"
        pieces = [(0, memory[:half]), (half + (1 << 20), memory[half:])]
        if system != "noise":  # one piece, so that frames keep their places
            pieces = [(0, memory)]
        WRITERS[container](path, pieces)
        contents = path.read_bytes()
    # If pages are not compressed, their places in the file are found by the first page.
    start = contents.find(memory[places[0] : places[0] + 64]) - places[0] if places else -1
    moved = [start + place for place in places] if start >= 0 else []
    headers = [0, 16, 64, 128, 512, 1024, len(contents) - 64]
    return Seed(contents, np.array(sorted({*headers, *moved}), np.int64))


def _vmware(memory: bytes) -> Seed:
    """A suspended machine; its state file, which tells the places of the RAM, is mutated."""
    half = len(memory) // 2
    with tempfile.TemporaryDirectory() as folder:
        ram, state = Path(folder) / "dump.vmem", Path(folder) / "dump.vmss"
        containers.write_vmware(ram, state, [(0, memory[:half]), (half, memory[half:])])
        contents = state.read_bytes()
    places = np.arange(0, len(contents), 16)
    return Seed(contents, places, "dump.vmss", {"dump.vmem": memory}, ("dump.vmem",))


def _text_map(memory: bytes) -> Seed:
    """The text page map that memviz writes for the dump."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        dump, text = Path(folder) / "dump", Path(folder) / "dump.map"
        dump.write_bytes(memory)
        cli.main([str(dump), "-o", str(Path(folder) / "a.png"), "--map", str(text)])
        contents = text.read_bytes()
    places = np.arange(0, len(contents), max(1, len(contents) // 64))
    return Seed(contents, places, "dump.map", {"dump": memory}, ("dump", "dump.map"), is_map=True)


@functools.cache
def _system(name: str) -> tuple[bytes, list[int]]:
    return _SYSTEMS[name]()
