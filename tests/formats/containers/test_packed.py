"""Packed dumps of any format, in all ways that are read, and damaged."""

import bz2
import gzip
import lzma
import os
import pickle
import shutil
import sys
import zlib
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import cramjam
import numpy as np
import pytest

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats.containers import packed
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.units import PAGE_SIZE
from tests.formats.checks import LOW, PIECES, check, frames_of, memory
from tests.synth import containers
from tests.synth.containers import Pieces


def _limes(data: bytes) -> bytes:
    """Pack as LiME does (src/deflate.c): with a window of 11 bits and little memory."""
    stream = zlib.compressobj(wbits=11, memLevel=5)
    return stream.compress(data) + stream.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": lambda data: bytes(cramjam.zstd.compress(data)),
    "zlib": _limes,
}
every_kind = pytest.mark.parametrize("kind", PACKERS)
MANY = [name for name in PACKERS if name != "zlib"]
"""The ways in which several streams may follow one another."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dump"


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of scratch files, which is empty after the test."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert not list(folder.iterdir())


def written(path: Path, write: Callable[[Path, Pieces], object], pieces: Pieces) -> bytes:
    """The bytes of a dump, as a writer writes it."""
    write(path, pieces)
    return path.read_bytes()


@every_kind
@pytest.mark.parametrize("name", ["lime", "avml", "elf", "crash", "kdump"])
@pytest.mark.many
def test_any_format(path: Path, kind: str, name: str, scratch: Path) -> None:
    """The frames are those of the plain file; a remark tells the room that unpacking takes."""
    if kind == "zlib" and name != "lime":
        pytest.skip("only LiME packs so")
    data = written(path, containers.WRITERS[name], PIECES)
    format_ = open_dump(path).format
    path.write_bytes(PACKERS[kind](data))
    dump = open_dump(path)
    assert dump.format == f"{format_} ({kind})"
    check(dump, frames_of(PIECES))
    [remark] = dump.remarks
    assert str(scratch) in remark and "until the program ends" in remark


@every_kind
def test_raw(path: Path, kind: str) -> None:
    """Holes stay holes: zeros are not written to the scratch file, and not read again."""
    contents = memory(40, 1) + bytes(512 * PAGE_SIZE) + memory(3, 2)
    path.write_bytes(PACKERS[kind](contents))
    dump = open_dump(path)
    check(dump, frames_of([(0, contents)]))
    seen = sum(dump.each_block(lambda frames, _: len(frames)))
    if hasattr(os, "SEEK_DATA"):
        assert 43 <= seen < 43 + 64


@pytest.mark.parametrize("kind", MANY)
def test_streams_one_after_the_other(path: Path, kind: str) -> None:
    """pigz, pixz, pzstd and cat write several streams; some tapes add zeros."""
    contents = memory(64, 1)
    pack = PACKERS[kind]
    streams = b"".join(
        pack(contents[start : start + 50_000]) for start in range(0, 1 << 18, 50_000)
    )
    for padding in (b"", bytes(512)) if kind in ("gzip", "xz") else (b"",):
        path.write_bytes(streams + padding)
        check(open_dump(path), frames_of([(0, contents)]))


@every_kind
@pytest.mark.many
def test_cut_off(path: Path, kind: str) -> None:
    """One sentence tells the cut; lenient reads up to it."""
    contents = np.random.default_rng(1).bytes(600 * PAGE_SIZE)
    whole = PACKERS[kind](contents)
    for cut in (len(whole) - 1, len(whole) // 2, 100_000):
        path.write_bytes(whole[:cut])
        with pytest.raises(DamagedInputError, match=r"ends too early|cannot be unpacked"):
            open_dump(path)
        try:
            dump = open_dump(path, lenient=True)
        except BadInputError:
            assert cut < 1 << 20  # bzip2 and zstd give only whole blocks
            continue
        there = dump.frame_count
        assert dump.read_frames(np.arange(there)).tobytes() == contents[: there * PAGE_SIZE]
        assert "the part before it was read" in dump.remarks[0]


@every_kind
@pytest.mark.many
def test_wrong_bytes(path: Path, kind: str) -> None:
    """The checksum of a stream finds wrong bytes."""
    whole = bytearray(PACKERS[kind](memory(64, 1)))
    rng = np.random.default_rng(2)
    for _ in range(40):
        data = whole.copy()
        data[int(rng.integers(12, len(data)))] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        for lenient in (False, True):
            try:
                dump = open_dump(path, lenient=lenient)
                dump.zero_frames()
            except BadInputError as error:
                assert len(str(error)) < 1000


def test_pickles(path: Path) -> None:
    """A pickle holds the container's path, which is opened again; the path inside has no pickle."""
    path.write_bytes(gzip.compress(written(path, containers.write_lime, LOW)))
    dump = open_dump(path)
    check(pickle.loads(pickle.dumps(dump)), frames_of(LOW))
    with pytest.raises(TypeError, match="cannot be pickled by its path"):
        pickle.dumps(dump.path)
    assert pickle.loads(pickle.dumps(dump.path.parent)) == path.parent


def test_packed_twice(path: Path) -> None:
    """A container in a container is read, up to a limit."""
    data = written(path, containers.write_lime, LOW)
    path.write_bytes(lzma.compress(gzip.compress(data)))
    dump = open_dump(path)
    assert dump.format == "LiME (gzip) (xz)"
    check(dump, frames_of(LOW))
    for _ in range(5):
        data = gzip.compress(data)
    path.write_bytes(data)
    with pytest.raises(BadInputError, match="too deeply"):
        open_dump(path)


@pytest.mark.parametrize("wbits", [11, 15])
def test_lime_with_compress(path: Path, wbits: int) -> None:
    """LiME's header tells format=lime, and the stream's parameters tell format=raw."""
    data = written(path, containers.write_lime, LOW)
    stream = zlib.compressobj(wbits=wbits)
    path.write_bytes(stream.compress(data) + stream.flush())
    assert open_dump(path).format == "LiME (zlib)"
    stream = zlib.compressobj(wbits=wbits)
    path.write_bytes(stream.compress(memory(64, 3)) + stream.flush())
    path.write_bytes(path.read_bytes().ljust(65 * PAGE_SIZE, b"\0")[: 65 * PAGE_SIZE])
    assert open_dump(path, lenient=True).format == ("raw (zlib)" if wbits == 11 else "raw")


def test_no_room(path: Path, monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    """A full disk is told before unpacking."""
    path.write_bytes(gzip.compress(memory(64, 1)))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(1 << 40, 0, 300 << 20))
    with pytest.raises(BadInputError, match=r"no room for it in .*scratch.* 300 MiB are free"):
        open_dump(path)
    monkeypatch.setattr(packed, "_folder", lambda: scratch / "missing")
    with pytest.raises(BadInputError, match=r"no scratch file can be written in .*TMPDIR"):
        open_dump(path)


def test_without_a_decompressor(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the package."""
    path.write_bytes(PACKERS["zstd"](memory(4, 1)))
    for module in ("compression", "backports"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BadInputError, match=r"install the Python package backports\.zstd"):
        open_dump(path)


def test_nothing_packed(path: Path) -> None:
    """An empty stream is refused; a file that merely begins like gzip is a raw dump."""
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(BadInputError, match="is packed, but holds nothing"):
        open_dump(path)
    path.write_bytes(b"\x1f\x8b\x08\xff" + os.urandom(2 * PAGE_SIZE - 4))
    assert open_dump(path).format == "raw"


def test_progress(path: Path) -> None:
    """Progress is told while unpacking."""
    path.write_bytes(gzip.compress(np.random.default_rng(1).bytes(3 << 20)))
    calls: list[tuple[int, int | None]] = []
    open_dump(path, progress=lambda done, total: calls.append((done, total)))
    assert len(calls) == 4 and calls == sorted(calls)
    assert calls[-1] == (path.stat().st_size, path.stat().st_size)
