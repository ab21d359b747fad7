"""What every format must give back, and the writers of all formats."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memory_visualizer.formats import mapped
from memory_visualizer.formats.base import BLOCK_FRAMES, Dump, Words
from memory_visualizer.formats.mapped import MappedDump
from memory_visualizer.formats.raw import RawDump
from memory_visualizer.units import PAGE_SIZE
from tests.synth import containers
from tests.synth.containers import Pieces
from tests.synth.hibernation import OLD, write_hibernation
from tests.synth.hyperv import write_hyperv
from tests.synth.qemu import write_qemu

GIB = 1 << 30
CASES = int(os.environ.get("FUZZ_CASES", "100"))


def memory(pages: int, seed: int) -> bytes:
    """Pages of zeros, of noise, of text, and with a single byte."""
    rng = np.random.default_rng(seed)
    contents = np.zeros((pages, PAGE_SIZE), np.uint8)
    for page, kind in enumerate(rng.integers(4, size=pages)):
        if kind == 1:
            contents[page] = rng.integers(256, size=PAGE_SIZE)
        elif kind == 2:
            contents[page] = np.resize(np.frombuffer(b"memory visualizer ", np.uint8), PAGE_SIZE)
        elif kind == 3:
            contents[page, rng.integers(PAGE_SIZE)] = 1
    return contents.tobytes()


PIECES = [
    (0x1000, memory(19, 1)),
    (0x20000, memory(40, 2)),
    (0x48000, memory(8, 3)),  # adjoins the piece before it
    (0x100000, memory(1, 4)),
    (5 * GIB, memory(72, 5)),
]
"""Runs and holes, and addresses of more than 32 bits."""
LOW = PIECES[:4]
MEBIBYTES = [
    (0, bytes(0x1000) + PIECES[0][1] + bytes(0xEC000)),
    (0x100000, bytes(0x100000)),
    (5 * GIB, PIECES[4][1]),
]
"""The same for formats whose memory comes in whole mebibytes."""
HIGH_FIRST = [PIECES[4], PIECES[1], PIECES[0], PIECES[3], PIECES[2]]
Writer = Callable[[Path, Pieces], object]


def vmware(path: Path, pieces: Pieces, **options: Any) -> None:
    """Write VMware's two files, or with `inside` only the one that also holds the RAM."""
    state = path if options.get("inside") else path.with_suffix(".vmss")
    containers.write_vmware(path, state, pieces, **options)


LARGE = [(0x30000, memory(48, 7)), (0x100000, memory(16, 8))]
"""Whole pages of 64 KiB."""
elf, crash, kdump = containers.write_elf, containers.write_crash, containers.write_kdump
WRITERS: dict[str, tuple[str, Pieces, Writer]] = {
    "lime": ("LiME", PIECES, containers.write_lime),
    "lime-unsorted": ("LiME", HIGH_FIRST, containers.write_lime),
    "avml": ("AVML", PIECES, functools.partial(containers.write_avml, block_size=0x8000)),
    "avml-large-blocks": ("AVML", HIGH_FIRST, containers.write_avml),
    "avml-plain-first": (
        "AVML",
        PIECES,
        functools.partial(containers.write_avml, block_size=0x8000, packed=(False, True, True)),
    ),
    "avml-plain-last": (
        "AVML",
        PIECES,
        functools.partial(containers.write_avml, block_size=0x9000, packed=(True, False)),
    ),
    "avml-all-plain": (
        "LiME",
        HIGH_FIRST,
        functools.partial(containers.write_avml, block_size=0x8000, packed=(False,)),
    ),
    "elf": ("ELF core", PIECES, elf),
    "elf-odd-offset": ("ELF core", PIECES, functools.partial(elf, notes=[(b"A", b"12345")])),
    "elf-32": ("ELF core", LOW, functools.partial(elf, bits=32)),
    "elf-virtualbox": (
        "ELF core",
        HIGH_FIRST,
        functools.partial(elf, left_out=[(0xA0000, 0x20000), (0xF0000000, 0x8000000)]),
    ),
    "elf-paging": (
        "ELF core",
        PIECES,
        functools.partial(elf, views=[(0x2000, 0x3000), (0x4000, 0x2000)] * 40_000, many=True),
    ),
    "elf-32-paging": ("ELF core", LOW, functools.partial(elf, bits=32, many=True)),
    "crash-complete": ("Windows crash dump (complete, 64-bit)", PIECES, crash),
    "crash-complete-32": (
        "Windows crash dump (complete, 32-bit)",
        PIECES,
        functools.partial(crash, bits=32),
    ),
    "crash-bitmap": (
        "Windows crash dump (bitmap, 64-bit)",
        PIECES,
        functools.partial(crash, kind="bitmap"),
    ),
    "crash-bitmap-32": (
        "Windows crash dump (bitmap, 32-bit)",
        LOW,  # 257 bits
        functools.partial(crash, bits=32, kind="bitmap"),
    ),
    "crash-live": (
        "Windows crash dump (live, bitmap, 64-bit)",
        PIECES,
        functools.partial(crash, kind="live bitmap", machine=0xAA64),
    ),
    "crash-ranges": (
        "Windows crash dump (complete ranges, 64-bit)",
        PIECES,
        functools.partial(crash, kind="ranges"),
    ),
    "kdump": ("kdump", PIECES, kdump),
    "kdump-lzo": ("kdump", LOW, functools.partial(kdump, compression="lzo")),
    "kdump-snappy": (
        "kdump",
        HIGH_FIRST,
        functools.partial(kdump, compression="snappy"),
    ),
    "kdump-zstd": ("kdump", LOW, functools.partial(kdump, compression="zstd")),
    "kdump-flattened": (
        "kdump (flattened)",
        PIECES,
        functools.partial(kdump, flattened=True),
    ),
    "kdump-32": ("kdump", LOW, functools.partial(kdump, bits=32, machine=b"i686")),
    "kdump-arm": (
        "kdump",
        LOW,
        functools.partial(kdump, bits=32, padded=True, vmcoreinfo=b"A=1\n", machine=b"armv7l"),
    ),
    "kdump-64k": ("kdump", LARGE, functools.partial(kdump, block=0x10000, compression="lzo")),
    "kdump-old": (
        "kdump",
        LOW,
        functools.partial(kdump, magic=b"DISKDUMP", version=1, compression="none"),
    ),
    "elf-flattened": ("ELF core (flattened)", PIECES, containers.write_flattened_elf),
    **{
        f"hibernation-{system}": (
            "Windows hibernation file (up to Windows 7)",
            PIECES if "x64" in system else LOW,
            functools.partial(write_hibernation, system=system),
        )
        for system in OLD
    },
    **{
        f"hibernation-{system}": (
            "Windows hibernation file (from Windows 8 on)",
            PIECES,
            functools.partial(write_hibernation, system=system),
        )
        for system in ("8", "8 x64", "11 x64")
    },
    "xen": ("Xen core", HIGH_FIRST, containers.write_xen),
    "qemu": ("QEMU migration stream", PIECES, functools.partial(write_qemu, devices=False)),
    "qemu-zlib": (
        "QEMU migration stream",
        PIECES,
        functools.partial(write_qemu, how="zlib", devices=False),
    ),
    "libvirt": (
        "libvirt save",
        HIGH_FIRST,
        functools.partial(write_qemu, libvirt=b"LibvirtQemudSave", devices=False),
    ),
    "hyper-v": ("Hyper-V saved state", MEBIBYTES, write_hyperv),
    "hyper-v-stored": (
        "Hyper-V saved state",
        MEBIBYTES,
        functools.partial(write_hyperv, packed=False),
    ),
    "vmware": ("VMware", PIECES, vmware),
    "vmware-old": ("VMware", PIECES, functools.partial(vmware, version=0)),
    "vmware-inside": ("VMware", PIECES, functools.partial(vmware, inside=True)),
    "vmware-one-piece": ("VMware", [(0, memory(50, 6))], vmware),
}
every_format = pytest.mark.parametrize(
    ("format_", "pieces", "write"), WRITERS.values(), ids=WRITERS
)


def frames_of(pieces: Pieces) -> dict[int, bytes]:
    """The whole frames in the pieces, by PFN."""
    frames = {}
    for address, contents in pieces:
        for start in range(-address % PAGE_SIZE, len(contents) - PAGE_SIZE + 1, PAGE_SIZE):
            frames[(address + start) // PAGE_SIZE] = contents[start : start + PAGE_SIZE]
    return frames


def not_sent(frames: dict[int, bytes], hole: int = 3 * GIB) -> list[int]:
    """Frames of QEMU's machine besides these: RAM up to a hole, and from 4 GiB on."""
    last = max(frames)
    ram = [*range(min(last, hole // PAGE_SIZE)), *range(4 * GIB // PAGE_SIZE, last)]
    return sorted(set(ram) - frames.keys())


def copied_blocks(
    dump: Dump, within: range | None = None
) -> Iterator[tuple[NDArray[np.int64], Words]]:
    """The dump's blocks, each with frames and contents."""

    def copy(block: NDArray[np.int64], words: Words) -> tuple[NDArray[np.int64], Words]:
        assert not words.flags.writeable
        return block, words.copy()

    return dump.each_block(copy, within)


def check(dump: Dump, frames: dict[int, bytes], left_out: Sequence[int] = ()) -> None:
    """The dump holds exactly these frames, in each way of reading them."""
    pfns = np.array(sorted(frames))
    assert dump.frame_count == max([*frames, *left_out]) + 1
    assert np.array_equal(np.flatnonzero(dump.held), pfns)
    assert np.flatnonzero(dump.left_out).tolist() == list(left_out)
    assert dump.size == len(frames) * PAGE_SIZE
    ends = [first + count for first, count in dump.runs.tolist()]
    assert all(a < b for a, b in zip(ends, dump.runs[1:, 0].tolist(), strict=False))
    listed = [pfn for first, count in dump.runs.tolist() for pfn in range(first, first + count)]
    assert np.array_equal(listed, pfns)

    seen: dict[int, bytes] = {}
    for block, words in copied_blocks(dump):
        assert 0 < len(block) <= BLOCK_FRAMES and words.shape == (len(block), 512)
        assert words.dtype == np.uint64
        assert not seen or block[0] > max(seen)
        assert (np.diff(block) > 0).all()
        seen |= {pfn: row.tobytes() for pfn, row in zip(block.tolist(), words, strict=True)}
    skipped = frames.keys() - seen.keys()
    assert seen == {pfn: page for pfn, page in frames.items() if pfn not in skipped}
    assert not any(any(frames[pfn]) for pfn in skipped)

    # Ranges that adjoin have the same blocks together, each block once, wherever they are cut.
    whole = [block.tolist() for block, _ in copied_blocks(dump)]
    cuts = np.random.default_rng(len(pfns)).integers(0, dump.frame_count, 5)
    edges = sorted([0, *cuts.tolist(), *whole[len(whole) // 2][:1], dump.frame_count])
    ranges = [range(first, end) for first, end in pairwise(edges)]
    parts = [block.tolist() for within in ranges for block, _ in copied_blocks(dump, within)]
    assert parts == whole

    data = [pfn for pfn, page in frames.items() if any(page)]
    zero = np.ones(dump.frame_count, np.bool_)
    zero[data] = False
    assert np.array_equal(dump.zero_frames(), zero)

    around = np.unique([pfns - 1, pfns, pfns + 1, 2**40 + pfns])
    shuffled = np.random.default_rng(0).permutation(np.concatenate((around, pfns)))
    expected = [frames.get(pfn, bytes(PAGE_SIZE)) for pfn in shuffled.tolist()]
    assert dump.read_frames(shuffled).tobytes() == b"".join(expected)
    assert dump.read_frames(np.empty(0, np.int64)).shape == (0, 512)


def check_without(
    dump: Dump, frames: dict[int, bytes], lost: Iterable[int], left_out: Iterable[int] = ()
) -> None:
    """As `check`, but without lost frames: these are left out, too."""
    lost = set(lost)
    there = {pfn: page for pfn, page in frames.items() if pfn not in lost}
    check(dump, there, sorted({*lost, *left_out}))


def check_plain(dump: Dump, frames: dict[int, bytes]) -> None:
    """A page that the dump calls plain lies at its place in the file."""
    plain = dump.plain_pages()
    if plain is None:
        return
    contents = plain.file.read_bytes()
    told = {
        first + page: contents[place + page * PAGE_SIZE :][:PAGE_SIZE]
        for first, count, place in zip(
            plain.first.tolist(), plain.count.tolist(), plain.offset.tolist(), strict=True
        )
        for page in range(count)
    }
    assert told == {frame: frames[frame] for frame in told}
    if isinstance(dump, MappedDump):
        assert told.keys() == frames.keys()


def shifted(dump: MappedDump, path: Path, by: int) -> MappedDump:
    """A copy of the file in which each page lies `by` bytes further on."""
    source = dump._source
    path.write_bytes(bytes(by) + source.read_bytes())
    extents = dump._extents
    moved = mapped.Extents(extents.first, extents.count, extents.offset + by)
    return RawDump(path, dump.format, moved)


def state_size(state: Path) -> int:
    """The size of the state file beside a .vmem, or 0."""
    return state.stat().st_size if state.exists() else 0
