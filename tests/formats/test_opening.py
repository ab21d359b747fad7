"""Raw dumps, against files whose pages the tests wrote one by one."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats import base, files
from memory_visualizer.formats.raw import RawDump
from memory_visualizer.units import PAGE_SIZE

ZERO_PAGE = bytes(PAGE_SIZE)


def page_with(offset: int, value: int = 1) -> bytes:
    """A page of zeros except for one byte."""
    return ZERO_PAGE[:offset] + bytes([value]) + ZERO_PAGE[offset + 1 :]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path for a test's dump."""
    return tmp_path / "dump.raw"


def test_zero_frames_sees_a_single_byte_anywhere_in_a_page(path: Path) -> None:
    """The first byte, the last, and one at each place in a word make a page not zero."""
    pages = [ZERO_PAGE, page_with(0), page_with(4095, 255), ZERO_PAGE]
    pages += [page_with(2048 + n, 1 << n) for n in range(8)]
    path.write_bytes(b"".join(pages))
    dump = RawDump.open(path)
    assert (dump.frame_count, dump.size) == (12, 12 * PAGE_SIZE)
    assert dump.zero_frames().tolist() == [True, False, False, True] + [False] * 8


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.sampled_from(["hole", "zeros", "data"]), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(0, 3),
)
def test_zero_frames_of_sparse_files(
    path: Path, pages: list[str], chunk_pages: int, short_hole: int
) -> None:
    """Holes count as zeros, wherever chunks begin and end, and whether holes are read or not."""
    with path.open("wb") as file:
        file.truncate(len(pages) * PAGE_SIZE)
        for pfn, kind in enumerate(pages):
            if kind != "hole":
                file.seek(pfn * PAGE_SIZE)
                file.write(page_with(pfn) if kind == "data" else ZERO_PAGE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "BLOCK_FRAMES", chunk_pages)
        patch.setattr(files, "_SHORT_HOLE", short_hole * PAGE_SIZE)
        zero = RawDump.open(path).zero_frames()
    assert zero.tolist() == [kind != "data" for kind in pages]


@pytest.mark.parametrize(("hole", "blocks"), [(1, 1), (8, 1), (9, 5), (100, 5)])
def test_short_holes_are_read(path: Path, hole: int, blocks: int) -> None:
    """Data between short holes is one block, and long holes are in no block."""
    with path.open("wb") as file:
        for number in range(5):
            file.seek(number * (1 + hole) * PAGE_SIZE)
            file.write(page_with(number + 1))
    if _pages_of_data(path) != 5:
        pytest.skip("this file system does not tell the holes of files")
    assert sum(1 for _ in RawDump.open(path).each_block(lambda frames, words: None)) == blocks


def _pages_of_data(path: Path) -> int:
    """The number of pages that are not in a hole of the file, as the file system tells it."""
    if not hasattr(os, "SEEK_DATA"):
        return 0
    pages = 0
    with path.open("rb", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        at = file.seek(0, os.SEEK_DATA)
        while at < end:
            hole = file.seek(at, os.SEEK_HOLE)
            pages += (hole - at) // PAGE_SIZE
            at = file.seek(hole, os.SEEK_DATA) if hole < end else end
    return pages


def test_zero_frames_where_the_file_system_cannot_tell_holes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without SEEK_DATA the whole file is read."""
    seek = os.lseek

    def lseek(descriptor: int, position: int, whence: int) -> int:
        if whence not in (os.SEEK_SET, os.SEEK_CUR):
            raise OSError(22, "Invalid argument")
        return seek(descriptor, position, whence)

    path.write_bytes(ZERO_PAGE + page_with(7) + ZERO_PAGE)
    dump = RawDump.open(path)
    monkeypatch.setattr(os, "lseek", lseek)
    assert dump.zero_frames().tolist() == [True, False, True]


def test_progress_ends_at_the_dumps_size(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress grows chunk by chunk and ends at the number of bytes."""
    monkeypatch.setattr(base, "BLOCK_FRAMES", 2)
    path.write_bytes(page_with(0) * 5)
    calls: list[tuple[int, int | None]] = []
    RawDump.open(path).zero_frames(lambda done, total: calls.append((done, total)))
    assert calls == [(pages * PAGE_SIZE, 5 * PAGE_SIZE) for pages in (2, 4, 5)]


def test_dump_is_not_changed(path: Path) -> None:
    """A read-only dump can be opened, and stays as it was."""
    path.write_bytes(page_with(5))
    path.chmod(0o444)
    before = path.stat()
    RawDump.open(path).zero_frames()
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    assert path.read_bytes() == page_with(5)


def test_partial_last_page(path: Path) -> None:
    """An incomplete last page is an error; lenient leaves it out."""
    path.write_bytes(ZERO_PAGE + page_with(0) + b"rest")
    with pytest.raises(DamagedInputError) as caught:
        RawDump.open(path)
    assert str(caught.value) == (
        f"{path} is not a whole number of 4,096-byte pages: 4 bytes follow page 2"
    )
    dump = RawDump.open(path, lenient=True)
    assert (dump.frame_count, dump.trailing_bytes) == (2, 4)
    assert dump.zero_frames().tolist() == [True, False]


@pytest.mark.parametrize("content", [b"", b"x" * 4095])
@pytest.mark.parametrize("lenient", [False, True])
def test_dump_without_a_page(path: Path, content: bytes, lenient: bool) -> None:
    """Less than a page is an error in any case."""
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=f"holds {len(content):,} bytes, less than one page"):
        RawDump.open(path, lenient=lenient)


def test_missing_dump(path: Path) -> None:
    """A missing file is named."""
    with pytest.raises(BadInputError) as caught:
        RawDump.open(path)
    assert str(caught.value) == f"cannot read {path}: No such file or directory"


def test_folder_as_dump(tmp_path: Path) -> None:
    """A folder is not a dump."""
    with pytest.raises(BadInputError, match="Is a directory"):
        RawDump.open(tmp_path)


@pytest.mark.posix
def test_pipe_as_dump() -> None:
    """A pipe has no size, so it cannot be a dump."""
    reader, writer = os.pipe()
    try:
        with pytest.raises(BadInputError, match="is a pipe; a dump must be a file"):
            RawDump.open(f"/dev/fd/{reader}")
    finally:
        os.close(reader)
        os.close(writer)


def test_dump_that_gets_shorter(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump cut while it is read is an error, not zeros."""
    monkeypatch.setattr(base, "BLOCK_FRAMES", 1)
    path.write_bytes(page_with(0) * 40)
    dump = RawDump.open(path)
    with pytest.raises(BadInputError, match="got shorter while it was read"):
        # Some pages after the first are in use at this moment, and stay.
        dump.zero_frames(lambda done, total: os.truncate(path, 20 * PAGE_SIZE))
