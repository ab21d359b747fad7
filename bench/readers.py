"""Measure each reader of dumps beside cat: python -m bench.readers [NAME ...] [--write].

A synthetic memory (2 GiB: zeros, texts and noise, a third each) is written in each container to a
scratch folder (TMPDIR), read, and removed. Each row has `cat` of the file; the decompression alone,
by the program that unpacks such files or by the library, block by block, where there is one; and
the reader, which opens the file and finds the pages of zeros, with its anonymous memory. Rows that
were measured before are kept in a file (--results), and are measured again where they are named.
"""

import argparse
import functools
import json
import multiprocessing
import pickle
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cramjam
import numpy as np

from bench.measure import run
from bench.readme import put_table
from tests.synth import containers, hibernation, hyperv, qemu, s2, xpress
from tests.synth.ad1 import write_ad1
from tests.synth.aff4 import write_aff4
from tests.synth.ewf import write_e01

_PAGE = 4096
_PERIOD = 32 << 20
"""Bytes after which the memory repeats: more than any compression here looks back."""
_STRETCH = 16
"""Pages of one kind in a row, at most."""
_MAX_MEMORY = 300

_READ = """
import sys
from memory_visualizer.formats.opening import open_dump
open_dump(sys.argv[1]).zero_frames()
"""
_UNPACK = """
import pickle, sys
from bench.readers import unpack_all
with open(sys.argv[2], "rb") as file:
    unpack_all(sys.argv[1], pickle.load(file), int(sys.argv[3]))
"""

Write = Callable[[Path, bytes], object]


@dataclass(frozen=True)
class _Kind:
    """A container."""

    write: Write
    program: Sequence[str] = ()
    """Unpacks the file to its standard output."""
    library: str = ""
    """One of `_LIBRARIES`, where blocks are packed one by one."""
    block: int = _PAGE
    """Bytes of such a block, unpacked."""


def _lzo(data: bytes) -> bytes:
    import lzallright

    return bytes(lzallright.LZOCompressor.decompress(data, _PAGE))


def _huffman(data: bytes) -> bytes:
    import pyfwnt

    return bytes(pyfwnt.lzxpress_huffman_decompress(data, 16 * _PAGE))


def _plain(data: bytes) -> bytes:
    from memory_visualizer.formats.xpress import unpack_plain

    return unpack_plain(data, 16 * _PAGE)


_LIBRARIES: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], object]]] = {
    "zlib": (zlib.compress, zlib.decompress),
    "fast zlib": (functools.partial(zlib.compress, level=1), zlib.decompress),
    "lzo": (lambda data: containers.pack_page(data, "lzo")[0], _lzo),
    "snappy": (
        lambda data: bytes(cramjam.snappy.compress_raw(data)),
        cramjam.snappy.decompress_raw,
    ),
    "zstd": (lambda data: bytes(cramjam.zstd.compress(data)), cramjam.zstd.decompress),
    "Xpress Huffman": (xpress.pack_huffman, _huffman),
    "Xpress": (xpress.pack_plain, _plain),
}
"""By name: what packs a block, and what unpacks it."""


def unpack_all(library: str, blocks: Sequence[bytes], times: int) -> None:
    """Unpack all blocks, so many times."""
    _, unpack = _LIBRARIES[library]
    for _ in range(times):
        for block in blocks:
            unpack(block)


def _by(program: Sequence[str], path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        subprocess.run(program, input=data, stdout=file, check=True)


def _pieces(write: Callable[[Path, containers.Pieces], object], path: Path, data: bytes) -> None:
    write(path, [(0, data)])


def _of_pieces(write: Callable[..., object], **options: object) -> Write:
    return functools.partial(_pieces, functools.partial(write, **options))


def _e01(path: Path, data: bytes) -> None:
    [written] = write_e01(path, data, level=1)
    written.rename(path)


def _ad1(path: Path, data: bytes) -> None:
    [written] = write_ad1(path, {"memdump.mem": data})
    written.rename(path)


def _vmware(path: Path, data: bytes) -> None:
    containers.write_vmware(path, path.with_suffix(".vmss"), [(0, data)])


def _vmware_inside(path: Path, data: bytes) -> None:
    containers.write_vmware(path, path, [(0, data)], inside=True)


def _with_kept_blocks(module: object, write: Write) -> Write:
    """Pack each block of the memory once: Xpress is packed in Python, and zlib takes its time."""

    def written(path: Path, data: bytes) -> None:
        for name in ("pack_plain", "pack_huffman", "pack_page"):
            if hasattr(module, name):
                setattr(module, name, functools.cache(getattr(module, name)))
        write(path, data)

    return written


def _libvirt(packing: str, program: Sequence[str], path: Path, data: bytes) -> None:
    """Saved by virsh; packed by the program, as libvirt does."""
    qemu.write_qemu(path, [(0, data)])
    stream = path.read_bytes()
    with path.open("wb") as file:
        file.write(qemu.libvirt_header(b"LibvirtQemudSave", False, packing))
        file.flush()
        subprocess.run(program, input=stream, stdout=file, check=True)


def _saved(packing: str, *program: str) -> _Kind:
    """What is behind the header is unpacked by the same program."""
    start = len(qemu.libvirt_header(b"LibvirtQemudSave", False, packing))
    unpack = f"tail -c +{start + 1} {{}} | {program[0]} -dc"
    return _Kind(functools.partial(_libvirt, packing, program), ("sh", "-c", unpack))


def _kdump(compression: str, *, flattened: bool = False) -> _Kind:
    write = functools.partial(containers.write_kdump, compression=compression, flattened=flattened)
    return _Kind(_with_kept_blocks(containers, _of_pieces(write)), library=compression)


def _hibernation(system: str) -> Write:
    return _with_kept_blocks(hibernation, _of_pieces(hibernation.write_hibernation, system=system))


_KINDS: dict[str, _Kind] = {
    "raw": _Kind(lambda path, data: path.write_bytes(data)),
    "LiME": _Kind(_of_pieces(containers.write_lime)),
    "ELF core": _Kind(_of_pieces(containers.write_elf)),
    "Windows crash dump": _Kind(_of_pieces(containers.write_crash)),
    "Xen core": _Kind(_of_pieces(containers.write_xen)),
    "VMware, .vmem with .vmss": _Kind(_vmware),
    "VMware, .vmss alone": _Kind(_vmware_inside),
    "QEMU stream": _Kind(_of_pieces(qemu.write_qemu)),
    "Proxmox .vma": _Kind(_of_pieces(qemu.write_vma)),
    "virsh save": _Kind(_of_pieces(qemu.write_qemu, libvirt=b"LibvirtQemudSave")),
    "virsh save, gzip": _saved("gzip", "gzip", "-1c"),
    "virsh save, bzip2": _saved("bzip2", "bzip2", "-1c"),
    "virsh save, xz": _saved("xz", "xz", "-0c"),
    "virsh save, zstd": _saved("zstd", "zstd", "-1c"),
    "ELF core, flattened": _Kind(_of_pieces(containers.write_flattened_elf)),
    "kdump, zlib": _kdump("zlib"),
    "kdump, zlib, flattened": _kdump("zlib", flattened=True),
    "kdump, LZO": _kdump("lzo"),
    "kdump, Snappy": _kdump("snappy"),
    "kdump, zstd": _kdump("zstd"),
    "AVML": _Kind(_of_pieces(containers.write_avml), library="snappy", block=1 << 16),
    "hibernation, Windows 10": _Kind(
        _hibernation("10 x64"), library="Xpress Huffman", block=16 * _PAGE
    ),
    "hibernation, Windows 7": _Kind(_hibernation("7 x64"), library="Xpress", block=16 * _PAGE),
    "Hyper-V .vmrs": _Kind(_with_kept_blocks(hyperv, _of_pieces(hyperv.write_hyperv))),
    "gzip": _Kind(functools.partial(_by, ["gzip", "-1c"]), ("gzip", "-dc", "{}")),
    "bzip2": _Kind(functools.partial(_by, ["bzip2", "-1c"]), ("bzip2", "-dc", "{}")),
    "xz": _Kind(functools.partial(_by, ["xz", "-0c"]), ("xz", "-dc", "{}")),
    "zstd": _Kind(functools.partial(_by, ["zstd", "-1c"]), ("zstd", "-dc", "{}")),
    "Snappy, framed": _Kind(
        lambda path, data: path.write_bytes(cramjam.snappy.compress(data)),
        library="snappy",
        block=1 << 16,
    ),
    "S2": _Kind(lambda path, data: path.write_bytes(s2.stored_stream(data))),
    "E01": _Kind(_e01, library="fast zlib", block=1 << 15),
    "AD1": _Kind(_ad1, library="fast zlib", block=1 << 16),
    "AFF4, Snappy": _Kind(_of_pieces(write_aff4), library="snappy", block=1 << 15),
    "AFF4, zlib": _Kind(_of_pieces(write_aff4, compression="zlib"), library="zlib", block=1 << 15),
}


def main() -> int:
    """Measure, and print a table; 1 where a reader takes more memory than it may."""
    parser = argparse.ArgumentParser(description="Measure each reader of a dump beside cat.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(_KINDS)}")
    parser.add_argument("--mib", metavar="N", type=int, default=2048, help="of the memory (2,048)")
    parser.add_argument("--runs", metavar="N", type=int, default=2, help="the best of these (2)")
    parser.add_argument("--results", metavar="FILE", type=Path, help="keep rows here (JSON)")
    parser.add_argument("--write", action="store_true", help="update bench/README.md")
    options = parser.parse_args()
    rows: dict[str, str] = {}
    if options.results and options.results.exists():
        rows = json.loads(options.results.read_text())
    for name in options.names or [name for name in _KINDS if name not in rows]:
        rows[name] = _measured(name, _KINDS[name], options.mib, options.runs)
        print(rows[name], flush=True)
        if options.results:
            options.results.write_text(json.dumps(rows))
    lines = [
        "| container | file, MiB | `cat`, wall, s | cpu, s | decompression alone, cpu, s"
        " | reader, wall, s | cpu, s | anonymous memory, MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(rows[name] for name in _KINDS if name in rows),
    ]
    if options.write:
        put_table("readers.py", lines)
    memory = [float(row.split("|")[-2]) for row in rows.values()]
    return int(max(memory) > _MAX_MEMORY)


def _measured(name: str, kind: _Kind, mib: int, runs: int) -> str:
    """The row of one container."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump"
        # In a process of its own, which gives all of its memory back.
        writer = multiprocessing.get_context("fork").Process(target=_write, args=(kind, path, mib))
        writer.start()
        writer.join()
        if writer.exitcode:
            raise SystemExit(f"{name} could not be written")
        command = _unpacking(kind, path, mib)
        cat = min(run(["cat", str(path)], Path(folder)) for _ in range(runs))
        alone = [run(command, Path(folder))[1] for _ in range(runs if command else 0)]
        read = [sys.executable, "-c", _READ, str(path)]
        readings = [run(read, Path(folder)) for _ in range(runs)]
        wall, cpu = (min(reading[number] for reading in readings) for number in (0, 1))
        memory = max(reading[2] for reading in readings)
        unpacked = f"{min(alone):.1f}" if alone else ""
        return (
            f"| {name} | {path.stat().st_size >> 20:,} | {cat[0]:.1f} | {cat[1]:.1f} | {unpacked}"
            f" | {wall:.1f} | {cpu:.1f} | {memory:.0f} |"
        )


def _unpacking(kind: _Kind, path: Path, mib: int) -> list[str]:
    """The command that unpacks only; nothing where nothing is packed."""
    if not kind.library:
        return [word.format(path) for word in kind.program]
    pack, _ = _LIBRARIES[kind.library]
    part = _part()
    blocks = (pack(part[at : at + kind.block]) for at in range(0, len(part), kind.block))
    packed = path.with_suffix(".blocks")
    packed.write_bytes(pickle.dumps([block for block in blocks if len(block) < kind.block]))
    times = (mib << 20) // len(part)
    return [sys.executable, "-c", _UNPACK, kind.library, str(packed), str(times)]


def _write(kind: _Kind, path: Path, mib: int) -> None:
    part = _part()
    kind.write(path, part * ((mib << 20) // len(part)))


@functools.cache
def _part() -> bytes:
    """What the memory repeats: stretches of zeros, of texts and of noise."""
    rng = np.random.default_rng(1)
    words = [rng.bytes(int(size)) for size in rng.integers(3, 12, 200)]
    pages: list[bytes] = []
    while len(pages) < _PERIOD // _PAGE:
        count, kind = int(rng.integers(1, _STRETCH + 1)), len(pages) % 3
        for _ in range(count):
            chosen = b" ".join(words[n] for n in rng.integers(len(words), size=800))
            pages.append((bytes(_PAGE), chosen[:_PAGE], rng.bytes(_PAGE))[kind])
    return b"".join(pages[: _PERIOD // _PAGE])


if __name__ == "__main__":
    sys.exit(main())
