"""Snappy and S2 streams: each element, each kind of block, and damage."""

from pathlib import Path

import cramjam
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats.base import Dump
from memory_visualizer.formats.containers import s2
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.units import PAGE_SIZE
from tests.formats.checks import LOW, check, check_without, frames_of, memory
from tests.synth import containers
from tests.synth import s2 as synth

UNPACKERS = {"compiled": s2.unpack, "slowly": s2.unpack_slowly}
every_unpacker = pytest.mark.parametrize("name", UNPACKERS)


def without_slowness(dump: Dump) -> list[str]:
    """The remarks of a dump, except for the one about a missing wasmtime."""
    return [remark for remark in dump.remarks if "wasmtime" not in remark]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dump"


_elements = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=70).map(lambda data: ("literal", data, 0)),
        st.builds(
            lambda length, back: ("copy", length, back), st.integers(1, 64), st.integers(0, 10**6)
        ),
        st.builds(
            lambda length: ("repeat", length, 0),
            st.sampled_from([4, 5, 8, 9, 200, 263, 264, 300, 65539, 65540, 70_000]),
        ),
    ),
    max_size=30,
)


@every_unpacker
@settings(deadline=None)
@given(elements=_elements)
def test_every_element(name: str, elements: list[tuple[str, int | bytes, int]]) -> None:
    """Literals, copies with each width of offsets, and repeats give the right bytes."""
    data, block, last = bytearray(), bytearray(), 0
    for kind, value, back in elements:
        if isinstance(value, bytes):
            data += value
            block += synth.literal(value)
        elif kind == "copy" and data:
            last = back % len(data) + 1
            block += synth.copy(last, value)
            data += bytes(data[len(data) - last + i % last] for i in range(value))
        elif last and len(data) < 1 << 20:
            block += synth.repeat(value)
            some = bytes(data[-last:])
            data += (some * (value // last + 1))[:value]
    assert UNPACKERS[name](bytes(block), len(data)) == data


@every_unpacker
@pytest.mark.parametrize(
    "block",
    [
        b"\x01",  # offset missing
        b"\x01\x00",  # nothing to repeat
        synth.literal(b"a") + b"\x15\x00",  # length missing
        synth.literal(b"a") + synth.copy(2, 4),  # from before the beginning
        synth.literal(b"a") + synth.copy(1, 60),  # beyond the end
        synth.literal(b"a") + b"\x02\x00\x00",  # offset 0 in a copy that is not a repeat
        b"\xf0",  # length missing
        b"\xfc\xff\xff\xff\xff",  # a length of 2**32
        b"\x28abc",  # a literal that is cut off
    ],
)
def test_broken_blocks(name: str, block: bytes) -> None:
    """Each broken block is refused, and no memory around it is changed."""
    with pytest.raises(ValueError):
        UNPACKERS[name](block, 5)


@every_unpacker
def test_noise(name: str) -> None:
    """Random bytes give bytes or an error."""
    rng = np.random.default_rng(1)
    sound = synth.block(memory(4, 1))
    for attempt in range(2000):
        block = bytearray(sound[: int(rng.integers(1, len(sound)))] if attempt % 2 else b"")
        block += rng.bytes(int(rng.integers(1, 60)))
        try:
            UNPACKERS[name](bytes(block), 4 * PAGE_SIZE)
        except ValueError:
            continue


def test_too_large_a_block() -> None:
    """A header cannot claim more room than a block may have."""
    with pytest.raises(ValueError, match="too large"):
        s2.unpack(b"a", s2.MAX_BLOCK + 1)


@pytest.mark.parametrize("size", [1 << 16, 1 << 20])
@pytest.mark.many
def test_s2(path: Path, size: int) -> None:
    """WinPmem's S2 streams are read, also with small blocks."""
    contents = memory(300, 1)
    path.write_bytes(synth.stream(contents, size))
    dump = open_dump(path)
    assert dump.format == "raw (S2)" and not without_slowness(dump)
    check(dump, frames_of([(0, contents)]))


def test_s2_without_wasmtime(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without wasmtime the result is the same; a remark says that it is slow."""
    monkeypatch.setattr(s2, "_compiled", lambda: None)
    contents = memory(60, 1)
    path.write_bytes(synth.stream(contents, 1 << 16))
    dump = open_dump(path)
    assert "slowly without the Python package wasmtime" in dump.remarks[0]
    check(dump, frames_of([(0, contents)]))


def test_snappy(path: Path) -> None:
    """Streams of WinPmem and of cramjam are read; any format may be inside."""
    contents = memory(300, 1)
    path.write_bytes(synth.stream(contents, 1 << 16, is_snappy=True))
    dump = open_dump(path)
    assert dump.format == "raw (Snappy)" and dump.remarks == ()
    check(dump, frames_of([(0, contents)]))
    containers.write_lime(path, LOW)
    path.write_bytes(bytes(cramjam.snappy.compress(path.read_bytes())))
    dump = open_dump(path)
    assert dump.format == "LiME (Snappy)"
    check(dump, frames_of(LOW))


def _stream(contents: bytes, *, is_snappy: bool) -> bytes:
    return synth.stream(contents, 1 << 16, is_snappy=is_snappy)


@pytest.mark.parametrize("is_snappy", [True, False])
def test_cut_off(path: Path, is_snappy: bool) -> None:
    """One sentence tells the cut; lenient reads up to it."""
    contents = np.random.default_rng(2).bytes(64 * PAGE_SIZE)
    whole = _stream(contents, is_snappy=is_snappy)
    for cut in (len(whole) - 1, len(whole) // 2, 100_000):
        path.write_bytes(whole[:cut])
        with pytest.raises(DamagedInputError, match="is cut off"):
            open_dump(path)
        dump = open_dump(path, lenient=True)
        there = dump.frame_count
        assert there == (cut - 35) // ((1 << 16) + 8) * 16  # stored, as noise cannot be packed
        assert dump.read_frames(np.arange(there)).tobytes() == contents[: there * PAGE_SIZE]
    path.write_bytes(whole[:40])
    with pytest.raises(BadInputError):
        open_dump(path, lenient=True)


@pytest.mark.parametrize("is_snappy", [True, False])
def test_a_broken_chunk(path: Path, is_snappy: bool) -> None:
    """Lenient leaves out the chunk and keeps the rest, also in a mapped format inside."""
    contents = b"".join(memory(16, number) for number in range(4))
    whole = bytearray(_stream(contents, is_snappy=is_snappy))
    at = 10
    for _ in range(2):
        at += 4 + int.from_bytes(whole[at + 1 : at + 4], "little")
        while whole[at] > 1:
            at += 4 + int.from_bytes(whole[at + 1 : at + 4], "little")
    whole[at + 20 : at + 60] = b"\xff" * 40
    whole[at : at + 1] = b"\0"
    path.write_bytes(whole)
    with pytest.raises(DamagedInputError, match="cannot be unpacked"):
        open_dump(path).zero_frames()
    dump = open_dump(path, lenient=True)
    assert without_slowness(dump) == [f"1 broken chunk of {path} left out"]
    check_without(dump, frames_of([(0, contents)]), range(32, 48))


@pytest.mark.parametrize("is_snappy", [True, False])
def test_wrong_bytes(path: Path, is_snappy: bool) -> None:
    """Wrong bytes end in a dump or a sentence."""
    whole = _stream(memory(64, 1), is_snappy=is_snappy)
    rng = np.random.default_rng(2)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(3):
            data[int(rng.integers(10, len(data)))] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        for lenient in (False, True):
            try:
                open_dump(path, lenient=lenient).zero_frames()
            except BadInputError as error:
                assert len(str(error)) < 1000


def test_dump_that_gets_shorter(path: Path) -> None:
    """A dump that was cut while it is read is an error, not zeros."""
    path.write_bytes(_stream(np.random.default_rng(2).bytes(64 * PAGE_SIZE), is_snappy=False))
    dump = open_dump(path)
    path.write_bytes(path.read_bytes()[:70_000])
    with pytest.raises(BadInputError, match="got shorter"):
        dump.zero_frames()
