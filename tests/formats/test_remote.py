"""Dumps behind URLs: results equal those of local files, requests are few, errors are sentences."""

import base64
import gc
import hashlib
import json
import os
import pickle
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import fsspec
import numpy as np
import pytest

import memory_visualizer
from memory_visualizer.cli import memviz
from memory_visualizer.errors import BadInputError, MissingLibraryError
from memory_visualizer.formats import base, remote
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.formats.paths import RemotePath, as_path
from memory_visualizer.formats.remote import RemoteFile
from memory_visualizer.units import PAGE_SIZE
from tests.formats.checks import WRITERS, Writer, check, frames_of, memory, not_sent
from tests.formats.rangeserver import Store, serving
from tests.synth import MIB, forge, profiles
from tests.synth.containers import Pieces
from tests.synth.ewf import write_e01

SECRET = "hunter2-Tr0ub4dor"
SYSTEM = 16 * MIB
"""Bytes at the beginning of a dump that its system fills."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A server; failed requests are repeated without a pause."""
    monkeypatch.setattr(remote, "_PAUSES", (0, 0, 0))
    with serving() as found:
        yield found


@pytest.fixture
def small(tmp_path: Path, store: Store) -> Path:
    """A raw dump of 2 MiB, which the server has as small.raw."""
    path = tmp_path / "small.raw"
    path.write_bytes(memory(512, 11))
    store.files["/small.raw"] = path
    return path


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sparse dump of 256 MiB, with a Windows in its first part."""
    path = tmp_path_factory.mktemp("remote") / "win.raw"
    forge(path, profiles()["Win10x64_17763"], size=SYSTEM, objects=True)
    with path.open("r+b") as file:
        file.truncate(256 * MIB)
    return path


@pytest.fixture
def in_memory() -> Iterator[Callable[[Path], str]]:
    """Copy a file, and all files beside it, into a file system in memory; gives the URL."""
    system = fsspec.filesystem("memory")

    def copy(path: Path) -> str:
        for one in path.parent.iterdir():
            if one.is_file():
                system.pipe_file(f"/folder/{one.name}", one.read_bytes())
        return f"memory://folder/{path.name}"

    yield copy
    if system.exists("/folder"):
        system.rm("/folder", recursive=True)


def sentence_of(action: Callable[[], object]) -> str:
    """The sentence of an action's error."""
    with pytest.raises(BadInputError) as raised:
        action()
    return str(raised.value)


@pytest.mark.parametrize(("format_", "pieces", "write"), WRITERS.values(), ids=WRITERS)
@pytest.mark.many
def test_each_format(
    tmp_path: Path,
    format_: str,
    pieces: Pieces,
    write: Writer,
    in_memory: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Frames equal the file's, also with small blocks and a small cache."""
    monkeypatch.setattr(remote, "BLOCK", 3 * 1024)
    monkeypatch.setattr(remote, "_ZEROS", memoryview(bytes(3 * 1024)))
    monkeypatch.setattr(remote, "BUDGET", 100 * 1024)
    monkeypatch.setattr(remote, "_REQUEST", 20 * 1024)
    monkeypatch.setattr(remote, "_STREAM", 10 * 1024)
    path = tmp_path / "dump.vmem"
    write(path, pieces)
    url = in_memory(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote._cache, "most", 0)
        dump = open_dump(url)
        assert (dump.format, dump.remarks, str(dump.path)) == (format_, (), url)
        frames = frames_of(pieces)
        left_out = not_sent(frames) if format_ in ("QEMU migration stream", "libvirt save") else []
        check(dump, frames, left_out)
    local = open_dump(path)
    plain, expected = dump.plain_pages(), local.plain_pages()
    assert (plain is None) == (expected is None)
    if plain and expected:
        assert plain.file.name == expected.file.name
        assert np.array_equal(plain.offset, expected.offset)


def test_files_in_parts(tmp_path: Path, in_memory: Callable[[Path], str]) -> None:
    """The parts of E01 and split images are found if the folder can be listed."""
    data = memory(96, 5)
    write_e01(tmp_path / "image.E01", data, per_file=4)
    for number, start in enumerate(range(0, len(data), 100_000), 1):
        (tmp_path / f"image.{number:03}").write_bytes(data[start : start + 100_000])
    for name, format_ in (("image.E01", "raw (E01)"), ("image.002", "raw (split image)")):
        dump = open_dump(in_memory(tmp_path / name))
        assert dump.format == format_
        check(dump, frames_of([(0, data)]))


def test_parts_that_cannot_be_looked_for_are_told(tmp_path: Path, store: Store) -> None:
    """A web server does not list its folders, so a remark says that the part was read alone."""
    (tmp_path / "x.001").write_bytes(memory(16, 1))
    store.files["/x.001"] = tmp_path / "x.001"
    [remark] = open_dump(store.url("x.001")).remarks
    assert "was read alone" in remark


def outputs(folder: Path) -> list[str]:
    """Options for an output of each kind."""
    return [
        f"--output={folder / 'x.png'}",
        f"--html={folder / 'x.html'}",
        f"--json={folder / 'x.json'}",
        f"--table={folder / 'x.npz'}",
        f"--map={folder / 'x.map'}",
        f"--files={folder / 'files.csv'}",
        f"--regions={folder / 'regions.csv'}",
        "--leads",
    ]


def test_the_same_outputs_and_each_byte_once(
    windows: Path,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The cache has room for an eighth of the dump; only bytes of the system may come twice."""
    monkeypatch.setattr(remote, "BUDGET", 32 * MIB)
    monkeypatch.setattr(remote._cache, "most", 0)
    store.files["/win.raw"] = windows
    printed = []
    for name, dump in (("here", str(windows)), ("there", store.url("win.raw"))):
        (tmp_path / name).mkdir()
        assert memviz.main([dump, *outputs(tmp_path / name)]) == 0
        out = capsys.readouterr()
        printed.append((out.out.replace(str(tmp_path / name), ""), out.err))
    assert printed[0] == printed[1]
    for path in sorted((tmp_path / "here").iterdir()):
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes(), path.name
    size = windows.stat().st_size
    # Zeros are never requested again; pages of the system may be.
    asked = np.zeros(size // remote.BLOCK, np.int64)
    for _, start, end in store.asked:
        asked[start // remote.BLOCK : -(-end // remote.BLOCK)] += 1
    assert (asked[SYSTEM // remote.BLOCK + 1 : -1] <= 1).all()
    assert store.sent <= size + SYSTEM
    assert 0 < remote._cache.most * remote.BLOCK <= 32 * MIB


def test_requests_are_under_way_at_once(windows: Path, store: Store) -> None:
    """A scan requests data ahead, in large requests at once."""
    store.files["/win.raw"] = windows
    dump = open_dump(store.url("win.raw"))
    more = base._MAX_THREADS + 2
    for number, _ in enumerate(dump.each_block(lambda *_: None)):
        if number == 12:  # the server now waits for so many requests
            store.at_once, store.wait_for = 0, more
        if number == 24:
            break
    assert store.at_once >= more
    assert max(end - start for _, start, end in store.asked) == remote._REQUEST


def test_pages_are_asked_for_together(small: Path, store: Store) -> None:
    """Near pages come in one request, distant pages in parallel requests."""
    dump = open_dump(store.url("small.raw"))
    before, store.wait_for, store.at_once = len(store.asked), 4, 0
    near = np.arange(100, 116)
    far = np.array([200, 300, 400])
    words = dump.read_frames(np.concatenate((near, far)))
    raw = np.fromfile(small, np.uint64).reshape(-1, 512)
    assert np.array_equal(words, raw[[*near, *far]])
    assert len(store.asked) - before == 4
    assert store.at_once == 4
    dump.read_frames(near)
    assert len(store.asked) - before == 4


def test_the_library_and_other_commands(
    windows: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`open` and its pickle, diff, convert and extract work with URLs."""
    small = tmp_path / "win.raw"
    small.write_bytes(windows.read_bytes()[:SYSTEM])
    store.files["/win.raw"] = small
    url = store.url("win.raw")
    snapshot = memory_visualizer.open(url)
    assert snapshot.system and repr(snapshot) == repr(memory_visualizer.open(small))
    again = pickle.loads(pickle.dumps(snapshot.dump))
    assert np.array_equal(again.read_frames(np.arange(9)), snapshot.dump.read_frames(np.arange(9)))
    assert memviz.main(["diff", str(small), url]) == 0
    assert re.search(r"the same +4,096 ", capsys.readouterr().out)
    copy = tmp_path / "copy.raw"
    assert memviz.main(["convert", url, "-o", str(copy), "-q"]) == 0
    assert copy.read_bytes() == small.read_bytes()
    target = tmp_path / "frames"
    assert memviz.main(["extract", url, "--frames", "16-31", "--to", str(target)]) == 0
    [piece] = [path for path in target.rglob("*") if path.suffix != ".json" and path.is_file()]
    assert piece.read_bytes() == small.read_bytes()[16 * PAGE_SIZE : 32 * PAGE_SIZE]
    told = tmp_path / "x.json"
    assert memviz.main([url, "--hash", "-q", f"-o{tmp_path / 'x.png'}", f"--json={told}"]) == 0
    digest = hashlib.sha256(small.read_bytes()).hexdigest()
    assert json.loads(told.read_bytes())["sha256"] == digest


def test_a_server_without_ranges_is_refused(small: Path, store: Store) -> None:
    """Only the last byte is requested; then a sentence refuses the server."""
    store.ranges = False
    said = sentence_of(lambda: open_dump(store.url("small.raw")))
    assert said == (
        f"cannot read {store.url('small.raw')}: its server does not send parts of files, so all of"
        " it would have to be copied"
    )
    assert len(store.asked) == 1


@pytest.mark.parametrize(
    ("status", "said", "tries"),
    [
        (401, "the server asks for credentials, which are missing or wrong", 1),
        (403, "the server refuses access", 1),
        (404, "it does not exist", 1),
        (500, "the server answers with status 500 (tried 4 times)", 4),
        (503, "the server answers with status 503 (tried 4 times)", 4),
    ],
)
def test_statuses(small: Path, store: Store, status: int, said: str, tries: int) -> None:
    """Each status gives a sentence; temporary ones are tried again, a few times."""
    dump = open_dump(store.url("small.raw"))
    before = len(store.headers)
    store.refuse = lambda *_: status
    found = sentence_of(lambda: dump.read_frames(np.array([300])))
    assert found == f"cannot read {store.url('small.raw')}: {said}"
    assert len(store.headers) - before == tries
    store.refuse = lambda *_: 0
    assert dump.read_frames(np.array([300])).tobytes() == small.read_bytes()[300 << 12 : 301 << 12]
    store.refuse = lambda *_: status
    assert sentence_of(lambda: open_dump(store.url("small.raw"))).endswith(said)


def test_a_fault_that_passes_is_not_seen(small: Path, store: Store) -> None:
    """Reading succeeds though every other request fails."""
    store.refuse = lambda _, __: 503 * (len(store.headers) % 2)
    check(open_dump(store.url("small.raw")), frames_of([(0, small.read_bytes())]))


def test_no_server(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence names the address if no server answers."""
    said = sentence_of(lambda: open_dump("http://127.0.0.1:9/x.raw"))
    assert said.startswith("cannot read http://127.0.0.1:9/x.raw: ")
    assert "127.0.0.1:9" in said and said.endswith("(tried 4 times)")


def test_patience_ends(small: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow faults are tried less often."""
    monkeypatch.setattr(remote, "_PATIENCE", 0.0)
    store.refuse = lambda *_: 503
    assert sentence_of(lambda: open_dump(store.url("small.raw"))).endswith("(tried 1 time)")


@pytest.mark.parametrize("tags", [True, False])
def test_a_file_that_changes_is_an_error(
    small: Path, store: Store, tags: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change is told by the ETag of each answer, otherwise by the date at the next check."""
    store.tags = tags
    monkeypatch.setattr(remote, "_CHECK_AFTER", 0.0)
    dump = open_dump(store.url("small.raw"))
    dump.read_frames(np.array([1]))
    small.write_bytes(memory(512, 12))
    os.utime(small, (1e9, 1e9))
    said = sentence_of(lambda: dump.read_frames(np.array([300])))
    assert said.startswith(f"{store.url('small.raw')} changed while it was read")
    with pytest.raises(BadInputError, match="changed while it was read"):
        dump.scan([lambda *_: None])


def test_a_change_is_seen_at_the_end_of_a_scan(
    tmp_path: Path, in_memory: Callable[[Path], str]
) -> None:
    """The change is told though all ranges came."""
    (tmp_path / "x.raw").write_bytes(memory(64, 1))
    url = in_memory(tmp_path / "x.raw")

    def change(*_: object) -> None:
        fsspec.filesystem("memory").pipe_file("/folder/x.raw", memory(64, 2))

    dump = open_dump(url)
    with pytest.raises(BadInputError, match="changed while it was read: its created is different"):
        dump.scan([change])


def secret_urls(store: Store) -> Sequence[str]:
    """URLs of win.raw with a password, and with a signature."""
    host = store.address.removeprefix("http://")
    return (
        f"http://me:{SECRET}@{host}/win.raw",
        f"http://{host}/win.raw?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}%2Fs3",
    )


@pytest.mark.parametrize("kind", [0, 1])
def test_credentials_are_used_and_shown_nowhere(
    windows: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: int
) -> None:
    """No output, error, traceback or pickle has the credentials."""
    small = tmp_path / "win.raw"
    small.write_bytes(windows.read_bytes()[:SYSTEM])
    store.files["/win.raw"] = small
    url = secret_urls(store)[kind]
    folder = tmp_path / "out"
    folder.mkdir()
    assert memviz.main([url, *outputs(folder), "-v"]) == 0
    if kind == 0:
        expected = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
        assert {one.get("Authorization") for one in store.headers} == {expected}
    snapshot = memory_visualizer.open(url)
    shown = [
        repr(snapshot),
        str(snapshot.dump.path),
        repr(snapshot.dump.path),
        snapshot.dump.path.name,
    ]
    shown += [snapshot._repr_html_(), repr(as_path(url)), str(as_path(url).parent)]
    port = store.address.rpartition(":")[2]
    for change in (("win.raw", "gone.raw"), ("http:", "nothing:"), (port, "9")):
        with pytest.raises(BadInputError) as raised:
            open_dump(url.replace(*change))
        shown += [str(raised.value), "".join(traceback.format_exception(raised.value))]
    store.refuse = lambda *_: 403
    assert memviz.main([url, "-q", f"-o{tmp_path / 'y.png'}"]) == 2
    captured = capsys.readouterr()
    shown += [captured.out, captured.err]
    written = [path.read_bytes() for path in folder.iterdir()]
    written += [pickle.dumps(snapshot.dump), pickle.dumps(as_path(url))]
    assert len(written) == 9
    for text in [*shown, *(data.decode("latin-1") for data in written)]:
        assert SECRET not in text
        assert base64.b64encode(SECRET.encode()).decode()[:-4] not in text


def test_netrc_has_the_password(
    small: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password in .netrc is used, as by other programs."""
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    fsspec.filesystem("http").clear_instance_cache()
    open_dump(store.url("small.raw"))
    expected = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert {one.get("Authorization") for one in store.headers} == {expected}


@pytest.mark.posix
def test_what_is_no_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of this machine stay paths, even if they look like URLs."""
    monkeypatch.chdir(tmp_path)
    for name in ("x.raw", "C:\\dumps\\x.raw", "C:/x.raw", "c://x.raw", "a:b", "://x", "s3:x", "@x"):
        assert not isinstance(as_path(name), RemotePath), name
    assert isinstance(as_path("s3://bucket/x.raw"), RemotePath)
    Path("s3:/bucket").mkdir(parents=True)
    Path("s3:/bucket/x.raw").write_bytes(memory(4, 1))
    assert not isinstance(as_path("s3://bucket/x.raw"), RemotePath)
    check(open_dump("s3://bucket/x.raw"), frames_of([(0, memory(4, 1))]))
    (tmp_path / "y.raw").write_bytes(memory(4, 2))
    for url in (f"file://{tmp_path}/y.raw", f"file://localhost{tmp_path}/y.raw"):
        assert as_path(url) == tmp_path / "y.raw"


def test_an_output_never_replaces_the_dump_behind_a_file_url(tmp_path: Path) -> None:
    path = tmp_path / "y.raw"
    path.write_bytes(memory(4, 2))
    assert memviz.main(["convert", f"file://{path}", "-o", str(path)]) == 2
    assert path.read_bytes() == memory(4, 2)


def test_urls_that_cannot_be_read(in_memory: Callable[[Path], str], tmp_path: Path) -> None:
    """Each bad URL gives a sentence."""
    (tmp_path / "x.raw").write_bytes(memory(4, 1))
    url = in_memory(tmp_path / "x.raw")
    assert "is a folder" in sentence_of(lambda: open_dump("memory://folder"))
    assert "it does not exist" in sentence_of(lambda: open_dump(f"{url}.gone"))
    chained = sentence_of(lambda: open_dump(f"zip://x.raw::{url}"))
    assert "chains file systems" in chained
    assert "nosuch" in sentence_of(lambda: open_dump("nosuch://x/y"))


def test_without_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence tells how to install it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "fsspec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingLibraryError, match=r"pip install fsspec s3fs$"):
        open_dump("s3://bucket/x.raw")


def test_without_the_package_of_a_protocol() -> None:
    """The sentence names the package that fsspec needs; the tests' environment lacks this one."""
    with pytest.raises(MissingLibraryError, match=r"pip install fsspec gcsfs$"):
        open_dump("gs://bucket/x.raw")


def test_a_hostile_table_of_contents_costs_no_more_than_the_budget(
    small: Path, store: Store
) -> None:
    """Any places and sizes in a file are cut to the budget."""
    file = RemoteFile(store.url("small.raw"))
    before = store.sent
    file.ask(np.array([0, 1 << 60, -5, 4096]), np.array([1 << 62, 10, 10, 1 << 50]))
    assert file.read(PAGE_SIZE, 0) == small.read_bytes()[:PAGE_SIZE]
    assert store.sent - before <= small.stat().st_size + remote.BLOCK


def test_what_nobody_has_any_more_takes_no_room(small: Path, store: Store) -> None:
    """The blocks of a closed dump are dropped."""
    dump = open_dump(store.url("small.raw"))
    dump.read_frames(np.arange(512))
    number = cast(RemotePath, dump.path)._file._number
    assert number in {key[0] for key in remote._cache._held}
    del dump
    gc.collect()
    open_dump(store.url("small.raw"))
    assert number not in {key[0] for key in remote._cache._held}
