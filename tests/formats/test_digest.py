"""The SHA-256 of a dump's file, computed in parallel with other work."""

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats import digest
from memory_visualizer.formats.digest import FileHash


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (3 << 20) + 17])
def test_of_files_of_any_size(size: int, tmp_path: Path) -> None:
    contents = np.random.default_rng(size).bytes(size)
    (tmp_path / "a").write_bytes(contents)
    told: list[tuple[int, int | None]] = []
    with FileHash(tmp_path / "a") as hashed:
        assert hashed.wait(lambda done, total: told.append((done, total))) == (
            hashlib.sha256(contents).hexdigest()
        )
    assert all(total == (size or None) and done <= size for done, total in told)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with (
        FileHash(tmp_path / "missing") as hashed,
        pytest.raises(BadInputError, match=r"cannot read .*missing: No such file"),
    ):
        hashed.wait()
    (tmp_path / "folder").mkdir()
    with FileHash(tmp_path / "folder") as hashed, pytest.raises(BadInputError, match="directory"):
        hashed.wait()


def test_it_ends_with_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the other work fails, the digest is abandoned at once."""
    monkeypatch.setattr(digest, "_CHUNK", 4096)
    with (tmp_path / "a").open("wb") as file:
        file.truncate(1 << 40)  # a hole that would take an hour
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), FileHash(tmp_path / "a"):
        assert threading.active_count() == before + 1
        raise KeyboardInterrupt
    assert threading.active_count() == before
