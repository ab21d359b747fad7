"""Each format gives back the memory that was written, and reports damage."""

import functools
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats import base, files, mapped
from memory_visualizer.formats.base import zero_pages
from memory_visualizer.formats.mapped import MappedDump
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.units import PAGE_SIZE
from tests import prestarted
from tests.formats.checks import (
    CASES,
    GIB,
    HIGH_FIRST,
    WRITERS,
    Writer,
    check,
    check_plain,
    copied_blocks,
    every_format,
    frames_of,
    memory,
    not_sent,
    shifted,
    state_size,
)
from tests.synth import containers
from tests.synth.containers import Pieces

ROOT = Path(__file__).resolve().parents[2]


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


def test_one_piece_beyond_all_limits(path: Path) -> None:
    """A piece beyond all limits does not cost other pieces."""
    near = memory(4, 1)
    containers.write_elf(path, [(0x1000, near), (1 << 50, memory(2, 2))])
    with pytest.raises(DamagedInputError, match="16 TiB"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    assert dump.remarks[0].endswith("where this program stops; one piece was left out")
    check(dump, frames_of([(0x1000, near)]))


@every_format
@pytest.mark.many
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
        monkeypatch.setattr(files, "_MAX_RESIDENT", before + allowed)
        dump = open_dump(path)
        left.clear()
        for frames in order:
            assert (dump.read_frames(frames)[:, 0] == frames).all()
        assert len(left) >= expected and (expected or not left)
        assert all(size < (4 << 20) for size in left)
        dump.close()
