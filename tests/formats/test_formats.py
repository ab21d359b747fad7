"""Each format gives back the memory that was written, and reports damage."""

import functools
import importlib
import os
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats import base, files, mapped
from memory_visualizer.formats.base import BLOCK_FRAMES, Dump, Words, zero_pages
from memory_visualizer.formats.mapped import MappedDump
from memory_visualizer.formats.opening import open_dump, together
from memory_visualizer.formats.raw import RawDump
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.units import PAGE_SIZE
from tests import prestarted
from tests.synth import containers
from tests.synth.containers import Pieces
from tests.synth.hibernation import OLD, write_hibernation
from tests.synth.hyperv import write_hyperv
from tests.synth.linux import forge_linux
from tests.synth.qemu import write_qemu

ROOT = Path(__file__).resolve().parents[2]
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


def _vmware(path: Path, pieces: Pieces, **options: Any) -> None:
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
    "vmware": ("VMware", PIECES, _vmware),
    "vmware-old": ("VMware", PIECES, functools.partial(_vmware, version=0)),
    "vmware-inside": ("VMware", PIECES, functools.partial(_vmware, inside=True)),
    "vmware-one-piece": ("VMware", [(0, memory(50, 6))], _vmware),
}

every_format = pytest.mark.parametrize(
    ("format_", "pieces", "write"), WRITERS.values(), ids=WRITERS
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path for a test's dump; its name says nothing, except that VMware's files need .vmem."""
    return tmp_path / "dump.vmem"


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


@every_format
@pytest.mark.many
def test_all_that_was_written(path: Path, format_: str, pieces: Pieces, write: Writer) -> None:
    """Frames, contents and zeros are as written, also in small blocks."""
    write(path, pieces)
    before = path.read_bytes()
    dump = open_dump(path)
    assert (dump.path, dump.format, dump.remarks) == (path, format_, ())
    frames = frames_of(pieces)
    left_out = not_sent(frames) if format_ in ("QEMU migration stream", "libvirt save") else []
    check(dump, frames, left_out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "BLOCK_FRAMES", 7)
        patch.setattr(mapped, "_GATHER_FRAMES", 5)
        check(open_dump(path, lenient=True), frames, left_out)
    check_plain(dump, frames)
    assert path.read_bytes() == before


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


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in WRITERS
        if name[:4] not in ("avml", "kdum", "hibe", "qemu", "libv", "hype") and "flat" not in name
    ],
)
@pytest.mark.parametrize("is_mapped", [True, False], ids=["mapped", "read"])
@pytest.mark.many
def test_pages_at_any_byte_of_the_file(
    path: Path, name: str, is_mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages may lie at any byte of the file, as no format aligns words of memory."""
    _, pieces, write = WRITERS[name]
    write(path, pieces)
    dump = open_dump(path)
    assert isinstance(dump, MappedDump)
    if not is_mapped:
        monkeypatch.setattr(files, "_can_populate", lambda: False)
    for by in range(8):
        check(shifted(dump, path.with_name("shifted"), by), frames_of(pieces))


@pytest.mark.parametrize("by", range(8))
def test_only_what_is_asked_for_is_copied(path: Path, by: int) -> None:
    """Only requested pages are copied, wherever pages begin."""
    pages = 16_384
    with path.open("wb") as file:
        for address, size in ((pages * PAGE_SIZE * 2, by), (0, pages * PAGE_SIZE)):
            if size:
                file.write(struct.pack("<4sIQQQ", b"EMiL", 1, address, address + size - 1, 0))
                file.truncate(file.seek(size, os.SEEK_CUR))
    dump = open_dump(path)
    asked = np.arange(0, pages, pages // 16)
    tracemalloc.start()
    try:
        assert not dump.read_frames(asked).any()
        assert not dump.read_frames(asked[:1]).any()
        assert all(dump.each_block(lambda _, words: bool(zero_pages(words).all())))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < pages * PAGE_SIZE // 4


@every_format
@pytest.mark.many
def test_same_picture_from_every_format(
    path: Path, format_: str, pieces: Pieces, write: Writer
) -> None:
    """The renderer paints holes as absent, and all other pages as those of a raw dump."""
    pieces = [piece for piece in pieces if piece[0] < GIB]
    write(path, pieces)
    raw = path.with_name("dump.raw")
    containers.write_raw(raw, pieces)
    path.with_name("map").write_text("0x0 0x2000 0x1000 True\n0x0 0x4000 0x2000 False\n")
    pictures = []
    for dump in (path, raw):
        picture = path.with_name("out.png")
        renderer = [ROOT / "imagegenerator.py", dump, path.with_name("map"), "-o", picture]
        run = prestarted.run(renderer)
        assert (run.returncode, run.stderr) == (0, "")
        from PIL import Image

        with Image.open(picture) as image:
            pictures.append(np.asarray(image).ravel())
    painted, painted_raw = pictures
    held = np.zeros(painted.size, np.bool_)
    held[list(frames_of(pieces))] = True
    expected = np.where(held, painted_raw, PageClass.ABSENT)
    left_out = open_dump(path).left_out  # some formats tell RAM that was not saved
    expected[: left_out.size][left_out] = PageClass.LEFT_OUT
    assert np.array_equal(painted, expected)


_byte_pieces = st.lists(
    st.tuples(st.integers(0, 3 * PAGE_SIZE), st.integers(1, 4 * PAGE_SIZE)), min_size=1, max_size=6
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    gaps_and_sizes=_byte_pieces,
    order=st.randoms(use_true_random=False),
    write=st.sampled_from(
        [
            containers.write_lime,
            containers.write_elf,
            functools.partial(containers.write_avml, block_size=PAGE_SIZE),
        ]
    ),
)
def test_pieces_that_are_not_whole_pages(
    path: Path, gaps_and_sizes: list[tuple[int, int]], order: Any, write: Writer
) -> None:
    """A frame is held only if all its bytes are in one piece."""
    pieces = []
    address = 0
    for seed, (gap, size) in enumerate(gaps_and_sizes):
        address += gap + 1
        pieces.append((address, memory(size // PAGE_SIZE + 1, seed)[:size]))
        address += size
    order.shuffle(pieces)
    write(path, pieces)
    frames = frames_of(pieces)
    if frames:
        check(open_dump(path), frames)
    else:
        with pytest.raises(BadInputError, match="holds no page of memory"):
            open_dump(path)


# Each format's own ways


def test_lime_range_that_ends_within_a_page(path: Path) -> None:
    """LiME writes it if firmware keeps the end of low memory: the last page is not held."""
    contents = memory(0x9F, 1)[: 0x9FC00 - 0x1000]
    containers.write_lime(path, [(0x1000, contents), (0x100000, memory(4, 2))])
    dump = open_dump(path)
    assert dump.runs.tolist() == [[1, 0x9E], [0x100, 4]]


def test_avml_with_noise(path: Path) -> None:
    """Blocks that do not compress are stored unpacked; Volatility 3 2.28.2 hangs on them."""
    noise = np.random.default_rng(1).bytes(40 << 20)
    containers.write_avml(path, [(0x100000, noise)])
    assert path.stat().st_size > len(noise)
    dump = open_dump(path)
    read = b"".join(words.tobytes() for _, words in copied_blocks(dump))
    assert read == noise
    assert dump.read_frames(np.array([0x100 + 5000])).tobytes() == noise[5000 << 12 : 5001 << 12]


@pytest.mark.parametrize("packed", [(True,), (False,), (True, False)])
def test_avml_without_blocks_of_zeros(path: Path, packed: tuple[bool, ...]) -> None:
    """A gap between two blocks of a stretch was left out; the end of a stretch tells nothing."""
    block = 16 << 20
    noise, end = memory(2, 1) + memory(4094, 2), memory(100, 3)
    pieces = [
        (0x1000, noise + bytes(2 * block) + noise + end),  # the end lies within a block
        (0x1000 + 5 * block, noise + bytes(block)),
        (0x100000 + 8 * block, noise + bytes(block) + noise),
    ]
    containers.write_avml(path, pieces, without_zeros=True, packed=packed)
    dump = open_dump(path)
    assert dump.remarks == ()
    assert dump.left_out_runs.tolist() == [[0x1001, 0x2000], [0x9100, 0x1000]]
    assert dump.runs.tolist() == [
        [1, 0x1000],
        [0x3001, 0x1064],
        [0x5001, 0x1000],
        [0x8100, 0x1000],
        [0xA100, 0x1000],
    ]
    assert not (dump.held & dump.left_out).any()


def test_lime_with_holes_of_the_machine(path: Path) -> None:
    """Ranges of other sizes are not AVML's blocks, so no frame is left out."""
    containers.write_lime(path, PIECES)
    assert not open_dump(path).left_out.any()
    block = bytes(16 << 20)
    containers.write_lime(path, [(0, block), (4 << 24, block + bytes(PAGE_SIZE))])
    assert not open_dump(path).left_out.any()


@pytest.mark.parametrize("packed", [(True,), (False,), (True, False), (False, True)])
@pytest.mark.parametrize(
    "garbage", [b"x" * 32, struct.pack("<4sIQQQ", b"EMiL", 1, 1 << 60, 1 << 61, 0)]
)
def test_garbage_in_the_place_of_a_header(
    path: Path, packed: tuple[bool, ...], garbage: bytes
) -> None:
    """Only the range behind the header is lost, though memory may hold headers, too."""
    header = struct.pack("<4sIQQQ", b"EMiL", 1, 0x5000, 0x5FFF, 0)
    contents = [(header + memory(9, number))[: 8 * PAGE_SIZE] for number in range(5)]
    pieces = [(0x10000 * number, data) for number, data in enumerate(contents, 1)]
    starts = containers.write_avml(path, pieces, packed=packed)
    data = path.read_bytes()
    for number in range(5):
        at = starts[number]  # the first header must be sound
        path.write_bytes(
            data[:at] + (b"EMiL" if number == 0 else garbage[:4]) + garbage[4:] + data[at + 32 :]
        )
        with pytest.raises(DamagedInputError):
            open_dump(path)
        dump = open_dump(path, lenient=True)
        assert dump.remarks
        left = [piece for place, piece in enumerate(pieces) if place != number]
        check(dump, frames_of(left))


def test_lime_range_of_a_wrong_length(path: Path) -> None:
    """The range behind the wrong length is found again."""
    pieces = [(0x10000 * number, memory(4, number)) for number in range(1, 5)]
    containers.write_lime(path, pieces)
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, 16, 1 << 40)
    path.write_bytes(data)
    with pytest.raises(DamagedInputError):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    assert "shorter than it says" in dump.remarks[0]
    check(dump, frames_of(pieces))


def test_elf_notes(path: Path) -> None:
    """Notes are as written; notes of one name follow one another."""
    text = b"OSRELEASE=6.1\nPAGESIZE=4096\n"
    notes = [(b"QEMU", b"first CPU"), (b"QEMU", b"second"), (b"VMCOREINFO", text)]
    containers.write_elf(path, PIECES, notes=notes)
    found = dict(open_dump(path).notes)
    assert found.pop("e_machine") == 62  # EM_X86_64, of the header
    assert found == {"QEMU": b"first CPUsecond", "VMCOREINFO": text}


def test_elf_notes_that_are_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes beyond the limit, or behind a broken note, are told with their size and place."""
    notes = [(b"QEMU", b"first CPU"), (b"QEMU", bytes(100)), (b"VMCOREINFO", b"OSRELEASE=6.1\n")]
    containers.write_elf(path, PIECES, notes=notes)
    [segment] = [row for row in program_headers(path) if row[0] == 4]
    at, size = segment[2], segment[5]
    with monkeypatch.context() as patch:
        patch.setattr("memory_visualizer.formats.elf._MAX_NOTES", size - 8)
        dump = open_dump(path)
    check(dump, frames_of(PIECES))
    assert "VMCOREINFO" not in dump.notes
    assert [remark.split(" of ")[0] for remark in dump.remarks] == ["8 bytes", "notes"]
    data = bytearray(path.read_bytes())
    second = at + 12 + 8 + 12
    data[second + 4 : second + 8] = (1 << 20).to_bytes(4, "little")
    path.write_bytes(data)
    dump = open_dump(path)
    assert dump.notes["QEMU"] == b"first CPU" and "VMCOREINFO" not in dump.notes
    assert dump.remarks == (f"notes of {path} are broken, and end, at byte {second:,}",)


def program_headers(path: Path) -> list[tuple[int, ...]]:
    """The program headers of a 64-bit ELF file."""
    data = path.read_bytes()
    at, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    return [struct.unpack_from("<IIQQQQQQ", data, at + 56 * number) for number in range(count)]


def test_elf_with_the_same_memory_twice(path: Path) -> None:
    """A core that holds the same bytes twice, as /proc/vmcore does, is read."""
    contents = memory(8, 1)
    containers.write_elf(path, [(0, contents), (0x2000, contents[0x2000:0x5000])])
    check(open_dump(path), frames_of([(0, contents)]))


@pytest.mark.parametrize("bits", [32, 64])
def test_crash_dump_tells_of_its_machine(path: Path, bits: int) -> None:
    """The fields of the header become notes."""
    containers.write_crash(path, PIECES, bits=bits)
    notes = open_dump(path).notes
    assert notes["MinorVersion"] == 19041
    assert notes["DirectoryTableBase"] == 0x1AA000
    assert notes["PsActiveProcessHead"] == 0x30
    assert notes["MachineImageType"] == 0x8664


def test_vmware_is_opened_by_either_file(path: Path) -> None:
    """A .vmem with its .vmss, or its .vmsn, is one dump, opened by either file."""
    _vmware(path, PIECES)
    check(open_dump(path.with_suffix(".vmss")), frames_of(PIECES))
    path.with_suffix(".vmss").rename(path.with_suffix(".vmsn"))
    check(open_dump(path), frames_of(PIECES))
    check(open_dump(path.with_suffix(".vmsn")), frames_of(PIECES))


def test_vmware_with_more_groups_than_are_read(path: Path) -> None:
    """The error says that only some groups were read: others may have the memory."""
    _vmware(path, PIECES)
    state = path.with_suffix(".vmss")
    data = bytearray(state.read_bytes().replace(b"memory\0", b"others\0", 1))
    data[8:12] = (5000).to_bytes(4, "little")
    state.write_bytes(data)
    with pytest.raises(BadInputError, match=r"claims 5,000 groups of state, and the first 1,024"):
        open_dump(state)


@pytest.mark.parametrize("suffix", [".VMSS", ".Vmsn"])
def test_names_in_upper_case(tmp_path: Path, suffix: str) -> None:
    """Endings may be in upper case, as Windows' file systems may give them."""
    ram, state = tmp_path / "Machine.VMEM", tmp_path / f"MACHINE{suffix}"
    containers.write_vmware(ram, state, PIECES)
    for path in (ram, state):
        dump = open_dump(path)
        check(dump, frames_of(PIECES))
        assert dump.remarks == ()


def test_a_vmem_that_was_renamed(tmp_path: Path) -> None:
    """A state whose memory has another name is matched by its size, which a remark tells."""
    ram, state = tmp_path / "memory.bin", tmp_path / "machine.vmsn"
    containers.write_vmware(ram, state, PIECES)
    containers.write_vmware(tmp_path / "b.vmem", tmp_path / "b.vmss", PIECES)
    for path in (ram, state):
        dump = open_dump(path)
        check(dump, frames_of(PIECES))
        assert dump.remarks == (f"{ram} is used as the memory of {state}, since its size fits",)
    (tmp_path / "another.vmss").write_bytes(state.read_bytes())
    assert open_dump(ram).format == "raw"
    (tmp_path / "other.bin").write_bytes(ram.read_bytes())
    with pytest.raises(BadInputError, match=r"under the name machine\.vmem"):
        open_dump(state)


def test_vmsn_alone(path: Path) -> None:
    """A .vmsn asks for its .vmem; --lenient does not help."""
    state = path.with_suffix(".vmsn")
    containers.write_vmware(path, state, PIECES)
    path.unlink()
    for lenient in (False, True):
        with pytest.raises(BadInputError, match=r"holds none; its \.vmem file is needed") as caught:
            open_dump(state, lenient=lenient)
        assert not isinstance(caught.value, DamagedInputError)


def test_vmware_region_lost(path: Path) -> None:
    """A region with a broken description is told, and lenient leaves it out."""
    _vmware(path, PIECES)
    state = path.with_suffix(".vmss")
    contents = bytearray(state.read_bytes())
    last = contents.rindex(b"regionSize")
    contents[last : last + 6] = b"nowhat"
    state.write_bytes(contents)
    said = f"{state} says that the RAM has {len(PIECES)} regions, but describes {len(PIECES) - 1}"
    with pytest.raises(DamagedInputError) as caught:
        open_dump(path)
    assert str(caught.value) == said
    dump = open_dump(path, lenient=True)
    check(dump, frames_of(PIECES[:-1]))
    assert dump.remarks == (said,)


def test_vmware_description_cut_off(path: Path) -> None:
    """Regions that may stand behind the end of a file with RAM in it are told."""
    state = path.with_suffix(".vmss")
    containers.write_vmware(path, state, PIECES, inside=True)
    data = state.read_bytes()[:-2]  # the end of the description
    state.write_bytes(data)
    with pytest.raises(DamagedInputError, match="its description of memory does not end"):
        open_dump(state)
    dump = open_dump(state, lenient=True)
    check(dump, frames_of(PIECES))
    assert [remark for remark in dump.remarks if "ends within its description" in remark]


def test_vmem_alone(path: Path) -> None:
    """A .vmem alone is raw; above 3 GiB a remark warns."""
    path.write_bytes(memory(4, 1))
    path.with_suffix(".vmss").write_text("not VMware's")
    dump = open_dump(path)
    assert (dump.format, dump.remarks) == ("raw", ())
    os.truncate(path, 4 * GIB)
    assert open_dump(path).remarks == (
        f"{path} is read as raw, but for a machine with more than 3 GiB the .vmss or .vmsn file is"
        " needed beside it: pages above 3 GiB are at wrong addresses without it",
    )


@pytest.mark.posix  # without SEEK_DATA holes cannot be told from data
def test_sparse_dump_of_4_tib(path: Path) -> None:
    """Holes in the file are not read."""
    page = memory(30, 1)
    with path.with_suffix(".raw").open("wb") as file:
        file.seek(3 << 40)
        file.write(page)
        file.truncate(4 << 40)
    dump = open_dump(path.with_suffix(".raw"))
    blocks = list(copied_blocks(dump))
    assert sum(len(words) for _, words in blocks) <= 64
    assert dump.read_frames(np.arange(30) + (3 << 28)).tobytes() == page


def test_progress_counts_held_frames(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress counts held frames only, and ends at the size."""
    monkeypatch.setattr(base, "BLOCK_FRAMES", 16)
    containers.write_lime(path, HIGH_FIRST)
    calls: list[tuple[int, int | None]] = []
    dump = open_dump(path)
    dump.zero_frames(lambda done, total: calls.append((done, total)))
    assert calls[0] == (16 * PAGE_SIZE, dump.size)
    assert calls[-1] == (dump.size, dump.size)
    assert calls == sorted(calls)


# Files that cannot be read


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (b"\x04\x22\x4d\x18", "is packed with lz4; unpack it first"),
        (b"PK\x03\x04", "is packed with zip; unpack it first"),
        (b"MDMP\x93\xa7", "is the minidump of a process"),
        (b"EVF2\r\n\x81\0", "is an EnCase image"),
    ],
)
def test_files_of_other_kinds(path: Path, head: bytes, sentence: str) -> None:
    """A sentence for each kind of file says what to do."""
    path.write_bytes(head + bytes(PAGE_SIZE))
    with pytest.raises(BadInputError, match=sentence):
        open_dump(path)


@every_format
@pytest.mark.many
def test_cut_off(path: Path, format_: str, pieces: Pieces, write: Writer) -> None:
    """Wherever the file ends, one sentence tells it; lenient reads up to the end."""
    write(path, pieces)
    frames = frames_of(pieces)
    size = path.stat().st_size
    memory_from = size - sum(len(contents) for _, contents in pieces)
    cuts = {size - 1, size - PAGE_SIZE - 1, size // 2 + 1, 0x3001, 0x1011, 200, 40, 9, 5}
    for cut in sorted({cut for cut in cuts if cut < size}, reverse=True):
        os.truncate(path, cut)
        with pytest.raises(BadInputError) as caught:
            open_dump(path)
        assert str(caught.value).startswith((str(path), f"{path.with_suffix('.vmss')}"))
        try:
            dump = open_dump(path, lenient=True)
        except BadInputError:
            assert cut < max(memory_from + PAGE_SIZE, PAGE_SIZE) or format_.startswith(
                ("AVML", "kdump", "Windows hib", "QEMU", "libvirt", "Xen", "Hyper-V")
            )
        else:
            there = np.flatnonzero(dump.held).tolist()
            left_out = np.flatnonzero(dump.left_out).tolist()
            assert set(left_out) <= frames.keys()
            check(dump, {pfn: frames[pfn] for pfn in there}, left_out)
            assert len(there) < len(frames) or cut == size - 1
            assert dump.remarks


@every_format
@pytest.mark.many
def test_broken_headers(path: Path, format_: str, pieces: Pieces, write: Writer) -> None:
    """Any number of wrong bytes in the headers ends quickly in a dump or a sentence."""
    write(path, pieces)
    state = path.with_suffix(".vmss")
    target = state if state.exists() else path
    sound = target.read_bytes()
    rng = np.random.default_rng(7)
    extreme = [b"\xff" * 8, bytes(8), b"\xff" * 7 + b"\x7f", struct.pack("<Q", 1 << 52)]
    for attempt in range(3 * CASES):
        data = bytearray(sound)
        for _ in range(int(rng.integers(1, 4))):
            where = int(rng.integers(4, min(len(sound), 0x2200 if attempt % 2 else 400) - 8))
            value = extreme[int(rng.integers(5)) % 4] if attempt % 3 else rng.bytes(8)
            data[where : where + 8] = value[: int(rng.integers(1, 9))]
        target.write_bytes(data[: len(sound)])
        for lenient in (False, True):
            try:
                dump = open_dump(path, lenient=lenient)
                assert dump.size <= path.stat().st_size * 25 + state_size(state)
                for _, words in copied_blocks(dump):
                    words.any()
                dump.read_frames(np.arange(64))
            except BadInputError as error:
                assert len(str(error)) < 1000


def state_size(state: Path) -> int:
    """The size of the state file beside a .vmem, or 0."""
    return state.stat().st_size if state.exists() else 0


@pytest.mark.parametrize("write", [containers.write_lime, containers.write_avml])
def test_the_same_frame_twice(path: Path, write: Writer) -> None:
    """Two contents for one frame are an error; lenient takes the first and says so."""
    one, other = memory(8, 1), memory(8, 2)
    write(path, [(0x4000, one), (0x8000, other)])
    with pytest.raises(DamagedInputError, match=r"in (more than one place|several places)"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    assert len(dump.remarks) == 1
    assert dump.read_frames(np.arange(4, 12)).tobytes() == one


@pytest.mark.parametrize(
    ("first", "last"),
    [(0, 2**64 - 1), (2**63, 2**63 + 0xFFF), (2**52 << 12 & 2**64 - 1, 2**64 - 1), (0, 2**44)],
)
def test_more_memory_than_there_is(path: Path, first: int, last: int) -> None:
    """Frames that no machine has do not make a table."""
    for magic, version in ((b"EMiL", 1), (b"AVML", 2)):
        header = struct.pack("<4sIQQQ", magic, version, first, last, 0)
        path.write_bytes(header + bytes(PAGE_SIZE))
        for lenient in (False, True):
            with pytest.raises(BadInputError, match="16 TiB"):
                open_dump(path, lenient=lenient)


@pytest.mark.parametrize(
    "write", [containers.write_lime, containers.write_elf, containers.write_avml]
)
def test_a_few_pages_far_away(path: Path, write: Callable[[Path, Pieces], None]) -> None:
    """Pages beyond any machine are left out; near pages are read, and the gap makes no table."""
    near = memory(4, 1)
    write(path, [(0x1000, near), (1 << 42, memory(2, 2))])
    with pytest.raises(DamagedInputError, match="far too high for the 24 KiB"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    assert dump.frame_count == 5
    assert [remark.endswith("left out") for remark in dump.remarks] == [True]
    assert dump.read_frames(np.arange(1, 5)).tobytes() == near


@pytest.mark.parametrize("write", [containers.write_avml, containers.write_lime])
def test_all_pages_far_away(path: Path, write: Callable[[Path, Pieces], None]) -> None:
    """If all pages are beyond any machine, a sentence refuses the file."""
    write(path, [(1 << 42, memory(2, 2))])
    for lenient in (False, True):
        with pytest.raises(BadInputError, match="far too high for the 8 KiB"):
            open_dump(path, lenient=lenient)


def test_what_is_far_away_only_for_the_rest(path: Path) -> None:
    """Memory that would justify the distance of other pieces may be too far away itself."""
    with path.open("wb") as file:
        for address, size in ((0, 2 * PAGE_SIZE), (100 << 30, PAGE_SIZE), (8 << 40, 1 << 31)):
            file.write(struct.pack("<4sIQQQ", b"EMiL", 1, address, address + size - 1, 0))
            file.truncate(file.seek(size, os.SEEK_CUR))
    dump = open_dump(path, lenient=True)
    assert (dump.frame_count, len(dump.remarks)) == (2, 2)


def test_runs_of_a_crash_dump_share_no_bytes(path: Path) -> None:
    """Segments with the same bytes at many addresses do not make a small file a large dump."""
    contents = memory(4, 1)
    containers.write_elf(path, [(0, contents)])
    data = bytearray(path.read_bytes())
    segment = bytes(data[64 + 128 + 56 :][:56])
    again = bytearray(segment)
    struct.pack_into("<Q", again, 24, 1 << 30)
    data[64 + 128 + 56 : 64 + 128 + 112] = segment + again
    struct.pack_into("<H", data, 56, 3)
    path.write_bytes(data)
    with pytest.raises(BadInputError, match="more memory than the file has bytes"):
        open_dump(path)


def test_a_paravirtual_guest_of_xen(path: Path) -> None:
    """Pages are at the guest's own frames; a remark tells that page tables have the host's."""
    containers.write_xen(path, HIGH_FIRST, paravirtual=True)
    dump = open_dump(path)
    check(dump, frames_of(HIGH_FIRST))
    assert len(dump.remarks) == 1 and "paravirtual" in dump.remarks[0]
    assert struct.unpack_from("<Q", dump.notes["Xen"])[0] == 0xF00FEBED  # type: ignore[arg-type]


def test_a_core_of_xen_with_many_names(path: Path) -> None:
    """The place of the names of sections does not matter."""
    containers.write_xen(path, HIGH_FIRST, more_names=1 << 18)
    dump = open_dump(path)
    check(dump, frames_of(HIGH_FIRST))
    assert dump.remarks == () and "Xen" in dump.notes


def test_a_core_of_xen_without_its_table(path: Path) -> None:
    """Without the table, which comes last in the file, the places of pages are unknown."""
    containers.write_xen(path, LOW)
    size = path.stat().st_size
    os.truncate(path, size - 8 * 20)
    with pytest.raises(DamagedInputError, match="gives addresses for 51 pages, but holds 71"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    check(dump, dict(list(frames_of(LOW).items())[:51]))
    os.truncate(path, size - 8 * 71)
    for lenient in (False, True):
        with pytest.raises(BadInputError, match="gives addresses for 0 pages, but holds 71"):
            open_dump(path, lenient=lenient)


def test_a_core_of_xen_with_too_few_pages(path: Path) -> None:
    """Addresses for pages that the section of pages does not have are told."""
    containers.write_xen(path, LOW)
    data = bytearray(path.read_bytes())
    # The fifth header of the sections is that of the pages; its size stands at byte 32.
    struct.pack_into(
        "<Q", data, struct.unpack_from("<Q", data, 40)[0] + 4 * 64 + 32, 51 * PAGE_SIZE
    )
    path.write_bytes(data)
    dump = open_dump(path)
    check(dump, dict(list(frames_of(LOW).items())[:51]))
    assert dump.remarks == (
        f"{path} gives addresses for 71 pages, but holds 51; the other addresses are ignored",
    )


def test_elf_files_that_are_no_dumps(path: Path) -> None:
    """Programs, and cores of processes, are refused."""
    with pytest.raises(BadInputError, match="is an ELF file, but not a core"):
        open_dump(sys.executable)
    containers.write_elf(path, [(0, memory(1, 1)), (0, memory(2, 2))])
    with pytest.raises(BadInputError, match="is the core of a process, not of a machine"):
        open_dump(path)


@pytest.mark.parametrize(
    ("dump_type", "what"), [(2, "a kernel dump"), (4, "a minidump"), (77, "77")]
)
def test_crash_dumps_without_pages(path: Path, dump_type: int, what: str) -> None:
    """Each other kind of crash dump is refused by name."""
    containers.write_crash(path, PIECES)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 0xF98, dump_type)
    path.write_bytes(data)
    with pytest.raises(BadInputError, match=what):
        open_dump(path)


def test_fields_of_a_crash_dump_that_windows_never_wrote(path: Path) -> None:
    """Such fields are full of PAGE, which is not an address."""
    containers.write_crash(path, PIECES, kind="live bitmap", machine=0xAA64)
    data = bytearray(path.read_bytes())
    data[0x18:0x20] = data[0x80:0x88] = b"PAGEPAGE"
    path.write_bytes(data)
    notes = open_dump(path).notes
    assert notes["MachineImageType"] == 0xAA64 and notes["DirectoryTableBase"] == 0x1AA000
    assert notes.keys().isdisjoint({"PfnDataBase", "KdDebuggerDataBlock", "SystemTime"})


@pytest.mark.parametrize("bits", [32, 64])
def test_what_a_crash_dump_leaves_out(path: Path, bits: int) -> None:
    """Windows' header lists all memory, so missing pages are left out, not absent."""
    gaps = [(0x14000, bytes(0xC000)), (0x101000, bytes(0x9000))]
    containers.write_crash(path, LOW, kind="bitmap", bits=bits, left_out=gaps)
    dump = open_dump(path)
    assert dump.left_out_runs.tolist() == [[0x14, 0xC], [0x101, 9]]
    assert np.array_equal(np.flatnonzero(dump.held), sorted(frames_of(LOW)))
    containers.write_crash(path, LOW, kind="bitmap", bits=bits)
    assert not len(open_dump(path).left_out_runs)


CRASH_RUNS = [(0x1000 * 40 * number, memory(3 + number, number)) for number in range(5)]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(
    ("number", "run", "lost"),
    [
        (2, (1 << 20, 1 << 31), [2]),  # too many pages
        (2, (1 << 31, 5), [2]),  # no such place
        (0, (0x45474150, 0x45474150), [0]),
        (4, (0x45474150, 0x45474150), [4]),
        (1, (40, 81), [1]),  # overlaps the next run
    ],
)
def test_a_run_of_garbage_in_a_crash_dump(
    path: Path, bits: int, number: int, run: tuple[int, int], lost: list[int]
) -> None:
    """The run is left out; the runs behind it are found from the end of the file."""
    containers.write_crash(path, CRASH_RUNS, bits=bits)
    data = bytearray(path.read_bytes())
    at, word = (0x98, "<QQ") if bits == 64 else (0x6C, "<II")
    struct.pack_into(word, data, at + struct.calcsize(word) * number, *run)
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match=r"some of them are invalid|far too high"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    assert len(dump.remarks) == 1
    assert "4 were used" in dump.remarks[0] or "left out" in dump.remarks[0]
    check(dump, frames_of([piece for n, piece in enumerate(CRASH_RUNS) if n not in lost]))


@pytest.mark.parametrize("bits", [32, 64])
def test_a_crash_dump_with_more_runs_than_its_header_has_room_for(path: Path, bits: int) -> None:
    """The listed runs suffice if garbage follows them at once."""
    containers.write_crash(path, CRASH_RUNS, bits=bits)
    data = bytearray(path.read_bytes())
    at = 0x88 if bits == 64 else 0x64
    data[at : at + 4] = b"PAGE"
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match="1,162,297,680 runs of pages, but its header has"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    assert len(dump.remarks) == 1
    check(dump, frames_of(CRASH_RUNS))
    data[at + 4 : 0x320] = b"PAGE" * ((0x320 - at - 4) // 4)
    path.write_bytes(data)
    for lenient in (False, True):
        with pytest.raises(BadInputError, match="nothing else in it gives") as caught:
            open_dump(path, lenient=lenient)
        assert not isinstance(caught.value, DamagedInputError)  # so --lenient is not offered


def test_a_bitmap_larger_than_its_room(path: Path) -> None:
    """The bitmap is read as far as it has room."""
    containers.write_crash(path, CRASH_RUNS, kind="bitmap")
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, 0x2030, 1 << 40)
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match="there is no room"):
        open_dump(path)
    check(open_dump(path, lenient=True), frames_of(CRASH_RUNS))


def test_one_piece_beyond_all_limits(path: Path) -> None:
    """A piece beyond all limits does not cost other pieces."""
    near = memory(4, 1)
    containers.write_elf(path, [(0x1000, near), (1 << 50, memory(2, 2))])
    with pytest.raises(DamagedInputError, match="16 TiB"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    assert dump.remarks[0].endswith("where this program stops; one piece was left out")
    check(dump, frames_of([(0x1000, near)]))


def test_avml_with_a_wrong_byte(path: Path) -> None:
    """Checksums find it; lenient leaves out the 16 pages around it."""
    contents = np.random.default_rng(0).bytes(64 * PAGE_SIZE)
    containers.write_avml(path, [(0, contents)])
    data = bytearray(path.read_bytes())
    data[140_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        DamagedInputError, match=r"bytes [\d,]+ to [\d,]+ cannot be decoded: .*checksum"
    ):
        open_dump(path).zero_frames()
    dump = open_dump(path, lenient=True)
    assert dump.remarks == (f"1 broken pieces of {path} were left out",)
    check_without(dump, frames_of([(0, contents)]), range(32, 48))


@every_format
def test_dump_that_gets_shorter(path: Path, format_: str, pieces: Pieces, write: Writer) -> None:
    """A dump that was cut after opening is an error, not the end of the process."""
    write(path, pieces)
    dump, first_use = open_dump(path), open_dump(path)
    dump.read_frames(np.arange(4))
    os.truncate(path, 0x1800)
    for cut in (dump, first_use):
        with pytest.raises(BadInputError, match="got shorter while it was read"):
            cut.read_frames(np.flatnonzero(cut.held))
        with pytest.raises(BadInputError, match="got shorter while it was read"):
            cut.zero_frames()


@pytest.mark.posix
def test_dump_that_gets_shorter_between_two_blocks(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel is asked before a page is touched, even if the size looks right."""
    monkeypatch.setattr(base, "BLOCK_FRAMES", 1)
    monkeypatch.setattr(files._MappedFile, "check_size", lambda self: None)
    path.write_bytes(b"x" * (40 * PAGE_SIZE))
    blocks = copied_blocks(open_dump(path))
    next(blocks)
    # Some pages after the first are in use at this moment, and stay.
    os.truncate(path, 20 * PAGE_SIZE)
    with pytest.raises(BadInputError, match="Input/output error"):
        for _ in blocks:
            pass


def test_without_cramjam(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers are read without cramjam; a sentence says that contents need it."""
    containers.write_avml(path, PIECES)
    monkeypatch.setitem(sys.modules, "cramjam", None)
    dump = open_dump(path)
    assert dump.frame_count
    with pytest.raises(BadInputError, match="install the Python package cramjam"):
        next(copied_blocks(dump))


def test_kdump_without_some_pages(path: Path) -> None:
    """Pages that makedumpfile left out are not held; the kernel's note is there."""
    left_out = [0x3, 0x21, 0x22, 0x100]
    kdump(path, LOW, left_out=left_out, vmcoreinfo=b"OSRELEASE=6.1\n")
    dump = open_dump(path)
    frames = {pfn: page for pfn, page in frames_of(LOW).items() if pfn not in left_out}
    check(dump, frames, left_out)
    assert dump.notes["VMCOREINFO"] == b"OSRELEASE=6.1\n"


@pytest.mark.parametrize("field", ["place", "size"])
def test_kdump_with_a_text_that_is_not_there(path: Path, field: str) -> None:
    """A text beyond the file, or of more than 64 KiB, is ignored with a remark."""
    text = b"OSRELEASE=6.1\n"
    kdump(path, LOW, vmcoreinfo=text)
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<Q", data.index(text)) + struct.pack("<Q", len(text)))
    told = len(text) if field == "place" else 1 << 17
    data[at : at + 16] = struct.pack("<QQ", len(data) if field == "place" else at, told)
    path.write_bytes(data)
    dump = open_dump(path)
    check(dump, frames_of(LOW))
    assert "VMCOREINFO" not in dump.notes
    assert dump.remarks[0].startswith(f"{path} says that its VMCOREINFO has {told:,} bytes")


@pytest.mark.parametrize("fault", ["lost", "changed"])
def test_the_text_of_most_parts(path: Path, fault: str) -> None:
    """A part whose VMCOREINFO is lost, or differs from that of the others, does not decide."""
    text = b"OSRELEASE=6.1\n"
    paths = [path.with_suffix(f".{number}") for number in range(3)]
    for each, part in zip(paths, [(0, 0x22), (0x22, 0x30), (0x30, 0x101)], strict=True):
        kdump(each, LOW, part=part, vmcoreinfo=text)
    data = bytearray(paths[0].read_bytes())
    if fault == "changed":
        data[data.index(text)] ^= 1
    else:
        at = data.index(struct.pack("<Q", data.index(text)) + struct.pack("<Q", len(text)))
        struct.pack_into("<Q", data, at + 8, 1 << 17)
    paths[0].write_bytes(data)
    dump = open_dump(paths)
    check(dump, frames_of(LOW))
    assert dump.notes["VMCOREINFO"] == text
    assert len(dump.remarks) == (fault == "lost")


def test_left_out_frames_far_away(path: Path) -> None:
    """Left-out frames far away do not make a table of gigabytes."""
    kdump(path, [(0, memory(4, 1)), (1 << 40, memory(1, 2))], left_out=[1 << 28])
    dump = open_dump(path)
    assert dump.frame_count == 4
    assert not dump.left_out.any()
    assert "leaves out 1 page too high" in dump.remarks[0]


@pytest.mark.parametrize("flattened", [(), (1,), (0, 1, 2)])
def test_kdump_in_several_files(path: Path, flattened: tuple[int, ...]) -> None:
    """The files of a split dump may come in any order; frames of a missing file are told."""
    cuts = [0, 0x22, 0x30, 0x101]
    left_out = [0x3, 0x21]
    paths = []
    for number in range(3):
        paths.append(path.with_suffix(f".{number}"))
        part = (cuts[number], cuts[number + 1])
        is_flattened = number in flattened
        kdump(paths[-1], LOW, left_out=left_out, part=part, flattened=is_flattened)
    frames = {pfn: page for pfn, page in frames_of(LOW).items() if pfn not in left_out}
    dump = open_dump([paths[2], paths[0], paths[1]])
    check(dump, frames, left_out)
    assert dump.remarks == ()
    dump = open_dump([paths[2], paths[0]])
    check(dump, {pfn: page for pfn, page in frames.items() if not 0x22 <= pfn < 0x30}, left_out)
    assert dump.remarks == ("no file of the dump covers the page frames 0x22 to 0x2f",)
    alone = open_dump(paths[1])
    assert "is one of several files" in alone.remarks[0]
    check(alone, {pfn: page for pfn, page in frames.items() if 0x22 <= pfn < 0x30}, left_out)


@pytest.mark.parametrize("flattened", [(), (1, 4)])
def test_files_of_several_split_dumps(path: Path, flattened: tuple[int, ...]) -> None:
    """Consecutive parts are one dump, until a part repeats page frames."""
    paths = [path.with_suffix(f".{number}") for number in range(7)]
    parts = [(0, 0x22), (0x22, 0x101), (0x30, 0x101), (0, 0x30), (0, 0x101), None]
    for number, (one, part) in enumerate(zip(paths, parts, strict=False)):
        kdump(one, LOW, part=part, flattened=number in flattened)
    containers.write_lime(paths[6], LOW)
    dumps = [[0, 1], [2, 3], [4], [5], [6]]
    assert together(paths) == [[paths[number] for number in dump] for dump in dumps]
    images = [path.with_suffix(f".00{number}") for number in (1, 2, 3)]
    for image in images:
        image.write_bytes(bytes(4096) + b"x" * 4096)
    assert together([*images, *images[:1], paths[6]]) == [images, images[:1], paths[6:]]
    with pytest.raises(BadInputError, match="No such file"):
        together([path.with_suffix(".missing")])


def test_files_that_are_no_parts_of_one_dump(path: Path) -> None:
    """Parts of another machine or format are refused, and a part that is given twice."""
    one, other = path.with_suffix(".1"), path.with_suffix(".2")
    kdump(one, LOW, part=(0, 0x30))
    kdump(other, LOW, part=(0x30, 0x101), machine=b"i686")
    with pytest.raises(BadInputError, match=r"\.2 does not belong to the same dump as .*\.1"):
        open_dump([one, other])
    containers.write_lime(other, LOW)
    with pytest.raises(BadInputError, match="is not part of a split kdump file"):
        open_dump([one, other])
    with pytest.raises(DamagedInputError, match="35 pages twice, the first of them page frame 0x1"):
        open_dump([one, one])
    frames = {pfn: page for pfn, page in frames_of(LOW).items() if pfn < 0x30}
    check(open_dump([one, one], lenient=True), frames)


@pytest.mark.parametrize(
    ("machine", "bits", "padded", "block"),
    [
        (b"s390x", 64, False, PAGE_SIZE),
        (b"ppc64", 64, False, 1 << 16),
        (b"ppc", 32, True, PAGE_SIZE),
        (b"mips", 32, False, PAGE_SIZE),
    ],
)
def test_kdump_of_a_big_endian_machine(
    path: Path, machine: bytes, bits: int, padded: bool, block: int
) -> None:
    """Numbers are byte-swapped; pages are as they were."""
    pieces = [(0, memory(64, 1)), (1 << 20, memory(32, 2))]
    text = b"OSRELEASE=5.14.0\n"
    kdump(
        path,
        pieces,
        order=">",
        machine=machine,
        bits=bits,
        padded=padded,
        block=block,
        vmcoreinfo=text,
    )
    dump = open_dump(path)
    check(dump, frames_of(pieces))
    assert dump.notes["VMCOREINFO"] == text
    assert dump.notes["machine"] == machine.ljust(65, b"\0")


def test_kdump_of_a_big_endian_machine_in_two_files(path: Path) -> None:
    """Each file's own header tells its pages."""
    paths = [path.with_suffix(".1"), path.with_suffix(".2")]
    for each, part in zip(paths, [(0, 0x22), (0x22, 0x101)], strict=True):
        kdump(each, LOW, order=">", machine=b"s390x", part=part)
    check(open_dump(paths), frames_of(LOW))


def test_flattened_file_of_something_else(path: Path) -> None:
    """A flattened file must hold makedumpfile's format, never a raw dump."""
    kdump(path, LOW, flattened=True, magic=b"        ")
    with pytest.raises(BadInputError, match="holds no kdump file or ELF core"):
        open_dump(path)


def _place_of_page(data: bytes, number: int) -> tuple[int, int]:
    """Place and packed size of a page in a kdump file."""
    [blocks] = struct.unpack_from("<I", data, 436)
    offset, size = struct.unpack_from("<QI", data, PAGE_SIZE * (2 + blocks) + 24 * number)
    return offset, size


@pytest.mark.parametrize("compression", ["zlib", "snappy", "zstd", "lzo"])
def test_kdump_with_broken_pages(path: Path, compression: str) -> None:
    """A page that cannot be unpacked is an error; lenient leaves it out and says so."""
    kdump(path, LOW, compression=compression)
    data = bytearray(path.read_bytes())
    frames = frames_of(LOW)
    pfns = sorted(frames)
    number = next(pfn for pfn in pfns if frames[pfn][:6] == b"memory")
    offset, size = _place_of_page(bytes(data), pfns.index(number))
    data[offset : offset + size] = b"\xf3" * size
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match=r"cannot be unpacked|bytes unpacked"):
        open_dump(path).read_frames(np.array([number]))
    lenient = open_dump(path, lenient=True)
    assert "1 broken page " in lenient.remarks[-1]
    check_without(lenient, frames, [number])


# A real one


def test_qemu_core(qemu_core: tuple[Path, Path]) -> None:
    """QEMU's ELF core gives the raw dump's frames, and the BIOS below 4 GiB."""
    raw, core = (open_dump(path) for path in qemu_core)
    assert core.runs.tolist() == [[0, 0x10000], [0xFFFC0, 0x40]]
    assert np.array_equal(core.zero_frames()[:0x10000], raw.zero_frames())
    some = np.arange(0, 0x10000, 97)
    assert np.array_equal(core.read_frames(some), raw.read_frames(some))
    for block, words in copied_blocks(raw):
        assert np.array_equal(words, core.read_frames(block))
    assert sorted(core.notes) == ["CORE", "QEMU", "e_machine"]


# Second opinions


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"no second opinion here: {error}")


def _volatility_layer(path: Path, layer: str) -> Any:
    """The physical memory that Volatility 3 reads from a file with this layer."""
    contexts = _import("volatility3.framework.contexts")
    physical = _import("volatility3.framework.layers.physical")
    module, class_ = layer.split(".")
    context = contexts.Context()
    names = {"base": path, "meta": path.with_suffix(".vmss")}
    for name, file in names.items():
        if file.exists():
            context.config[f"{name}.location"] = file.as_uri()
            context.add_layer(physical.FileLayer(context, name, name))
            context.config[f"top.{name}_layer"] = name
    reader = getattr(_import(f"volatility3.framework.layers.{module}"), class_)
    return reader(context, "top", "top")


@pytest.mark.peer
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("lime", "lime.LimeLayer"),
        ("elf", "elf.Elf64Layer"),
        ("elf-virtualbox", "elf.Elf64Layer"),
        ("crash-complete", "crash.WindowsCrashDump64Layer"),
        ("crash-complete-32", "crash.WindowsCrashDump32Layer"),
        ("crash-bitmap", "crash.WindowsCrashDump64Layer"),
        ("crash-bitmap-32", "crash.WindowsCrashDump32Layer"),
        ("xen", "xen.XenCoreDumpLayer"),
        ("vmware", "vmware.VmwareLayer"),
    ],
)
def test_volatility3_reads_the_same(path: Path, name: str, layer: str) -> None:
    """Volatility 3 reads the same pages from files of these tests."""
    _, pieces, write = WRITERS[name]
    pieces = sorted(pieces)  # it looks in no other places
    if name == "vmware":
        write = functools.partial(_vmware, padding=0)  # Volatility 3 takes only this version
    write(path, pieces)
    seen = _volatility_layer(path, layer)
    for pfn, page in frames_of(pieces).items():
        assert seen.read(pfn * PAGE_SIZE, PAGE_SIZE) == page
    absent = [0, 0x14, 0x50, 0xFF, 0x101, 5 * GIB // PAGE_SIZE - 1]
    assert not any(seen.is_valid(pfn * PAGE_SIZE, 1) for pfn in absent)


@pytest.mark.peer
@pytest.mark.parametrize("name", ["crash-complete", "crash-bitmap", "crash-live", "crash-ranges"])
def test_kdmp_parser_reads_the_same(path: Path, name: str) -> None:
    """kdmp-parser reads the same pages from files of these tests."""
    kdmp = _import("kdmp_parser")
    _, pieces, write = WRITERS[name]
    write(path, pieces)
    dump = kdmp.KernelDumpParser(path)
    frames = frames_of(pieces)
    assert sorted(dump.pages) == [pfn * PAGE_SIZE for pfn in sorted(frames)]
    assert all(bytes(dump.read_physical_page(pfn * PAGE_SIZE)) == frames[pfn] for pfn in frames)


DRGN_WRITERS: dict[str, Callable[[Path, Pieces, bytes], None]] = {
    "elf": lambda path, pieces, text: elf(path, pieces, notes=[(b"VMCOREINFO", text)]),
    "kdump": lambda path, pieces, text: kdump(path, pieces, vmcoreinfo=text),
    "kdump-zstd": lambda path, pieces, text: kdump(
        path, pieces, vmcoreinfo=text, compression="zstd", left_out=range(2, 8000, 3)
    ),
    "kdump-flattened": lambda path, pieces, text: kdump(
        path, pieces, vmcoreinfo=text, flattened=True
    ),
}


@pytest.mark.parametrize("name", DRGN_WRITERS)
def test_drgn_reads_the_same(path: Path, name: str, drgn: ModuleType) -> None:
    """The same pages of a Linux machine are read by drgn from files of these tests."""
    forge_linux(path, "6.1", size=32 << 20, processes=3)
    contents = path.read_bytes()
    at = contents.find(b"OSRELEASE=")
    DRGN_WRITERS[name](path, [(0, contents)], contents[at : contents.index(b"\0", at)])
    program = drgn.Program()
    program.set_core_dump(path)
    dump = open_dump(path)
    held = np.flatnonzero(dump.held)
    for pfn, page in zip(held.tolist(), dump.read_frames(held), strict=True):
        assert program.read(pfn * PAGE_SIZE, PAGE_SIZE, physical=True) == page.tobytes()
        assert page.tobytes() == contents[pfn * PAGE_SIZE : (pfn + 1) * PAGE_SIZE]
    for pfn in np.flatnonzero(dump.left_out).tolist():
        with pytest.raises(drgn.FaultError):
            program.read(pfn * PAGE_SIZE, PAGE_SIZE, physical=True)


@pytest.mark.skipif(not files._can_populate(), reason="files are read here, not mapped")
def test_mapped_pages_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump is unmapped once a process has much of it in memory; later reads are right."""
    path, pages = tmp_path / "dump", (64 << 20) // PAGE_SIZE
    path.write_bytes(np.arange(pages, dtype="<u8").repeat(PAGE_SIZE // 8).tobytes())
    before, left = files._resident(), []
    drop = files._MappedFile.drop

    def noted(self: files._MappedFile, offset: int, count: int) -> None:
        drop(self, offset, count)
        left.append(files._resident() - before)

    monkeypatch.setattr(files._MappedFile, "drop", noted)
    monkeypatch.setattr(files, "_PAGES_BETWEEN", 64)
    order = np.random.default_rng(1).permutation(pages).reshape(-1, 16)
    for allowed, expected in ((8 << 20, 8), (GIB, 0)):
        monkeypatch.setattr(files, "_MOST_RESIDENT", before + allowed)
        dump = open_dump(path)
        left.clear()
        for frames in order:
            assert (dump.read_frames(frames)[:, 0] == frames).all()
        assert len(left) >= expected and (expected or not left)
        assert all(size < (4 << 20) for size in left)
        dump.close()
