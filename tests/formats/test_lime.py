"""LiME, and AVML, which extends it: ranges, blocks, and broken headers."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.units import PAGE_SIZE
from tests.formats.checks import PIECES, check, check_without, copied_blocks, frames_of, memory
from tests.synth import containers


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
@pytest.mark.many
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


def test_without_cramjam(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers are read without cramjam; a sentence says that contents need it."""
    containers.write_avml(path, PIECES)
    monkeypatch.setitem(sys.modules, "cramjam", None)
    dump = open_dump(path)
    assert dump.frame_count
    with pytest.raises(BadInputError, match="install the Python package cramjam"):
        next(copied_blocks(dump))
