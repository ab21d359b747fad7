"""Dumps in S3, served on the loopback address by the project moto."""

import logging
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from memory_visualizer.cli import memviz
from memory_visualizer.errors import BadInputError
from memory_visualizer.fleet.sources import expand
from memory_visualizer.formats import remote
from memory_visualizer.formats.opening import open_dump
from tests.formats.checks import check, frames_of, memory
from tests.synth import MIB, forge, profiles

pytestmark = pytest.mark.peer
SECRET = "hunter2-Tr0ub4dor"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The server's address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty bucket; only the environment has its address and credentials."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(remote, "_PAUSES", (0, 0, 0))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    system = fsspec.filesystem("s3")
    system.mkdir("case")
    yield "s3://case"
    system.invalidate_cache()
    system.rm("case", recursive=True)


def put(url: str, data: bytes) -> None:
    """Store a file in the bucket."""
    fsspec.filesystem("s3").pipe_file(url, data)


def test_the_same_outputs(bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All outputs equal those of a local file."""
    path = tmp_path / "win.raw"
    forge(path, profiles()["Win7SP1x64"], size=16 * MIB)
    put(f"{bucket}/h1/win.raw", path.read_bytes())
    for name, dump in (("here", str(path)), ("there", f"{bucket}/h1/win.raw")):
        (tmp_path / name).mkdir()
        options = [f"-o{tmp_path / name / 'x.png'}", f"--json={tmp_path / name / 'x.json'}"]
        assert memviz.main([dump, *options]) == 0
    for name in ("x.png", "x.json"):
        here, there = ((tmp_path / one / name).read_bytes() for one in ("here", "there"))
        assert here == there
        assert SECRET.encode() not in there
    assert SECRET not in "".join(capsys.readouterr())


def test_folders_patterns_and_split_images(bucket: str) -> None:
    """Folders and patterns are expanded for a fleet; the parts of an image are found."""
    data = memory(64, 3)
    put(f"{bucket}/h1/m.raw", data)
    put(f"{bucket}/h2/m.raw", data)
    for number, start in enumerate(range(0, len(data), 100_000), 1):
        put(f"{bucket}/h2/image.{number:03}", data[start : start + 100_000])
    found = expand([f"{bucket}/"])
    assert [one.name for one in found] == ["h1_m.raw", "h2_image.001", "h2_m.raw"]
    assert [one.url for one in expand([f"{bucket}/*/m.raw"])] == [
        "s3://case/h1/m.raw",
        "s3://case/h2/m.raw",
    ]
    dump = open_dump(found[1].url)
    assert dump.format == "raw (split image)"
    check(dump, frames_of([(0, data)]))


def test_a_file_that_changes_is_an_error(bucket: str) -> None:
    """The request itself fails, by the ETag."""
    put(f"{bucket}/x.raw", memory(512, 1))
    dump = open_dump(f"{bucket}/x.raw")
    dump.read_frames(np.array([1]))
    put(f"{bucket}/x.raw", memory(512, 2))
    with pytest.raises(BadInputError, match=r"s3://case/x\.raw changed while it was read"):
        dump.read_frames(np.array([300]))


def test_what_cannot_be_read(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors are sentences without credentials."""
    monkeypatch.setattr(remote, "_PAUSES", ())
    for url, said in ((f"{bucket}/gone.raw", "does not exist"), ("s3://no/x.raw", "cannot read")):
        with pytest.raises(BadInputError, match=said) as raised:
            open_dump(url)
        assert str(raised.value).startswith(f"cannot read {url}: ")
        assert SECRET not in str(raised.value)
    put(f"{bucket}/folder/x.raw", memory(1, 1))
    with pytest.raises(BadInputError, match="is a folder"):
        open_dump(f"{bucket}/folder")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(BadInputError, match=r"cannot read s3://case/x\.raw: "):
        open_dump(f"{bucket}/x.raw")
