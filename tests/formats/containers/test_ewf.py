"""E01 images of one and several files, whole and damaged; libewf reads and writes them as well."""

import gzip
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.units import PAGE_SIZE
from tests.formats.checks import PIECES, check, check_without, frames_of, memory
from tests.synth import containers
from tests.synth.ewf import CHUNK, write_e01

CONTENTS = memory(200, 1) + bytes(64 * PAGE_SIZE) + memory(25, 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dump.E01"


@pytest.mark.parametrize("per_file", [1 << 20, 20, 1])
def test_raw(path: Path, per_file: int) -> None:
    """A raw dump in one, a few and many files."""
    write_e01(path, CONTENTS, per_file=per_file)
    dump = open_dump(path)
    assert (dump.format, dump.remarks) == ("raw (E01)", ())
    check(dump, frames_of([(0, CONTENTS)]))
    check(open_dump(path, lenient=True), frames_of([(0, CONTENTS)]))


@pytest.mark.parametrize("name", ["lime", "elf", "crash", "kdump", "avml"])
def test_any_format(path: Path, name: str) -> None:
    """The image may hold a dump of any format."""
    raw = path.with_suffix(".raw")
    containers.WRITERS[name](raw, PIECES)
    write_e01(path, raw.read_bytes(), per_file=7)
    dump = open_dump(path, lenient=name in ("lime", "avml"))  # sectors add bytes at the end
    assert dump.format == f"{open_dump(raw).format} (E01)"
    check(dump, frames_of(PIECES))


def test_more_than_99_files(path: Path) -> None:
    """After .E99 file names go on with letters, in the case of the first name."""
    path = path.with_suffix(".e01")
    contents = np.random.default_rng(1).bytes(110 * CHUNK)
    for number, file in enumerate(write_e01(path, contents, per_file=1)):
        letters = f"{chr(97 + (number - 99) // 26)}{chr(97 + (number - 99) % 26)}"
        suffix = f".e{number + 1:02}" if number < 99 else f".e{letters}"
        file.rename(path.with_suffix(suffix))
    check(open_dump(path), frames_of([(0, contents)]))


def test_a_missing_file(path: Path) -> None:
    """A missing file is named; lenient reads up to it."""
    files = write_e01(path, CONTENTS, per_file=10)
    with pytest.raises(BadInputError, match=r"is file 2 of an E01 image; give the first file"):
        open_dump(files[1])
    files[2].unlink()
    with pytest.raises(DamagedInputError, match=r"dump\.E03 is missing"):
        open_dump(path)
    dump = open_dump(path, lenient=True)
    check(dump, frames_of([(0, CONTENTS[: 20 * CHUNK])]))
    assert "the part before it was read" in dump.remarks[0]
    shutil.copy(files[1], files[2])
    with pytest.raises(DamagedInputError, match=r"dump\.E03 is not file 3"):
        open_dump(path)


@pytest.mark.parametrize("stored", [True, False])
def test_a_broken_chunk(path: Path, stored: bool) -> None:
    """The checksum finds it; lenient leaves out its frames. libewf gives zeros instead."""
    noise = np.random.default_rng(1).bytes(4 * CHUNK)
    contents = noise if stored else b"".join(memory(8, number) for number in range(4))
    write_e01(path, contents)
    data = bytearray(path.read_bytes())
    at = data.find(b"sectors") + 76 + (CHUNK + 500 if stored else 40)
    data[at] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DamagedInputError, match=r"wrong checksum|cannot be unpacked"):
        open_dump(path).zero_frames()
    dump = open_dump(path, lenient=True)
    assert dump.remarks == (f"1 broken chunk of {path} left out",)
    lost = range(8, 16) if stored else range(8)
    check_without(dump, frames_of([(0, contents)]), lost)


ERRORS = [(8 * 40 + 3, 2), (8 * 100, 8 * 20), (8 * 110, 8 * 30), (8 * 289, 1 << 31)]
NOT_READ = [40, *range(100, 140)]


@pytest.mark.parametrize("per_file", [1 << 20, 20])
def test_what_could_not_be_read(path: Path, per_file: int) -> None:
    """The image lists unread sectors, which hold zeros; their frames are left out, not absent."""
    write_e01(path, CONTENTS, per_file=per_file, errors=ERRORS)
    for lenient in (False, True):
        dump = open_dump(path, lenient=lenient)
        check_without(dump, frames_of([(0, CONTENTS)]), NOT_READ)
        assert dump.remarks == (f"322 sectors of {path} could not be read when the image was made",)


def test_a_broken_list_of_what_could_not_be_read(path: Path) -> None:
    write_e01(path, CONTENTS, errors=ERRORS)
    contents = bytearray(path.read_bytes())
    contents[contents.index(b"error2") + 76 + 520] ^= 1
    path.write_bytes(contents)
    dump = open_dump(path)
    check(dump, frames_of([(0, CONTENTS)]))
    [remark] = dump.remarks
    assert remark.endswith("that could not be read is broken; they show as zeros")


@pytest.mark.skipif(not shutil.which("ewfinfo"), reason="no ewf-tools here")
def test_ewfinfo_tells_the_same(path: Path) -> None:
    """The program ewfinfo tells the same about images of these tests."""
    write_e01(path, CONTENTS, errors=ERRORS[:2])
    said = subprocess.run(["ewfinfo", str(path)], check=True, capture_output=True, text=True).stdout
    assert "total number: 2" in said
    assert "at sector(s): 323 - 324 number: 2" in said
    assert "at sector(s): 800 - 959 number: 160" in said


def test_a_broken_table(path: Path) -> None:
    """The second table replaces it; if both are broken, that is an error."""
    write_e01(path, CONTENTS)
    data = bytearray(path.read_bytes())
    for name in (b"table\0", b"table2"):
        data[data.find(name) + 76 + 30] ^= 1
        path.write_bytes(data)
        if name == b"table\0":
            check(open_dump(path), frames_of([(0, CONTENTS)]))
    with pytest.raises(DamagedInputError, match="broken table"):
        open_dump(path)


@pytest.mark.parametrize("place", [0, 1 << 29, (1 << 31) + 5, 0xFFFFFFFF])
def test_a_broken_entry_without_a_checksum(path: Path, place: int) -> None:
    """The first versions wrote no checksum: an entry costs its chunk, and that before it."""
    write_e01(path, CONTENTS)
    data = bytearray(path.read_bytes())
    rows = data.find(b"table\0") + 76 + 24
    [count] = struct.unpack_from("<I", data, rows - 24)
    struct.pack_into("<I", data, rows + 4 * 5, place)
    struct.pack_into("<I", data, rows + 4 * count, 0)
    path.write_bytes(data)
    with pytest.raises(DamagedInputError):
        open_dump(path).zero_frames()
    dump = open_dump(path, lenient=True)
    pages = CHUNK // PAGE_SIZE
    check_without(dump, frames_of([(0, CONTENTS)]), range(4 * pages, 6 * pages))
    assert dump.remarks == (f"2 broken chunks of {path} left out",)


def test_fewer_sectors_than_chunks(path: Path) -> None:
    """The dump ends at the image's last sector."""
    write_e01(path, CONTENTS)
    data = bytearray(path.read_bytes())
    at = data.find(b"volume") + 76
    data[at + 16 : at + 24] = (3 * 64 + 8).to_bytes(8, "little")
    path.write_bytes(data)
    for lenient in (False, True):
        check(open_dump(path, lenient=lenient), frames_of([(0, CONTENTS[: 25 * PAGE_SIZE])]))


def test_cut_off_and_wrong_bytes(path: Path) -> None:
    """Cuts and wrong bytes end quickly in a dump or a sentence."""
    files = write_e01(path, CONTENTS, per_file=15)
    rng = np.random.default_rng(3)
    for file in files:
        whole = file.read_bytes()
        for attempt in range(40):
            data = bytearray(whole)
            if attempt % 2:
                del data[int(rng.integers(1, len(data))) :]
            else:
                at = int(rng.choice([13, 400, len(data) - 300])) + int(rng.integers(200))
                data[at : at + 8] = rng.bytes(8)
            file.write_bytes(data)
            for lenient in (False, True):
                try:
                    open_dump(path, lenient=lenient).zero_frames()
                except BadInputError as error:
                    assert len(str(error)) < 1000
        file.write_bytes(whole)


def test_in_another_container(path: Path) -> None:
    """Other files of an image in a container are not found, which a sentence tells."""
    write_e01(path, CONTENTS)
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(BadInputError, match="unpack that container first"):
        open_dump(path)


# Second opinions


def test_libewf_reads_the_same(path: Path) -> None:
    """The library libewf reads the same bytes from images of these tests."""
    pyewf = pytest.importorskip("pyewf")
    write_e01(path, CONTENTS, per_file=20)
    handle = pyewf.handle()
    handle.open(pyewf.glob(str(path)))
    assert handle.get_media_size() == len(CONTENTS)
    assert handle.read_buffer_at_offset(len(CONTENTS), 0) == CONTENTS


@pytest.mark.skipif(not shutil.which("ewfexport"), reason="no ewf-tools here")
def test_ewfexport_gives_the_same(path: Path) -> None:
    """The program ewfexport gives the same bytes."""
    write_e01(path, CONTENTS, per_file=20)
    target = path.with_name("exported")
    command = ["ewfexport", "-q", "-u", "-f", "raw", "-t", str(target), str(path)]
    subprocess.run(command, check=True, capture_output=True)
    assert target.with_suffix(".raw").read_bytes() == CONTENTS


@pytest.mark.skipif(not shutil.which("ewfacquirestream"), reason="no ewf-tools here")
@pytest.mark.parametrize("format_", ["encase2", "encase5", "encase6", "encase7", "ftk", "linen7"])
@pytest.mark.parametrize("compression", ["none", "fast", "best"])
@pytest.mark.many
def test_what_libewf_writes(path: Path, format_: str, compression: str) -> None:
    """Images by libewf in each dialect, split, and with different chunk sizes."""
    target = path.with_suffix("")
    contents = CONTENTS + np.random.default_rng(1).bytes(1500 * PAGE_SIZE)
    options = ["-f", format_, "-c", compression, "-S", "3MiB", "-b", "128", "-t", str(target)]
    command = ["ewfacquirestream", "-q", "-e", "x", "-C", "1", "-D", "d", "-E", "e", *options]
    subprocess.run(command, input=contents, check=True, capture_output=True)
    assert len(list(path.parent.iterdir())) > 1
    dump = open_dump(path)
    assert dump.remarks == ()
    assert dump.read_frames(np.arange(dump.frame_count)).tobytes() == contents
