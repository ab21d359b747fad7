"""kdump: pages that makedumpfile left out, notes, split and flattened files, broken pages."""

import struct
from pathlib import Path

import numpy as np
import pytest

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats.opening import open_dump, together
from memory_visualizer.units import PAGE_SIZE
from tests.formats.checks import LOW, check, check_without, frames_of, kdump, memory
from tests.synth import containers


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
