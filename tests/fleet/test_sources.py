"""The dumps of a fleet and their names: files, folders, globs, lists and URLs."""

import pickle
from pathlib import Path

import fsspec
import numpy as np
import pytest

import memory_visualizer
from memory_visualizer.errors import BadInputError
from memory_visualizer.fleet.sources import Source, expand

DUMP = np.random.default_rng(7).bytes(3 * 4096)


def lay(folder: Path, *names: str, content: bytes = DUMP) -> None:
    """Make files in a folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def names(found: list[Source]) -> list[str]:
    """The names of sources."""
    return [one.name for one in found]


def test_files_keep_their_order_and_one_is_named_once(tmp_path: Path) -> None:
    lay(tmp_path, "b.raw", "a.raw")
    first, second = str(tmp_path / "b.raw"), str(tmp_path / "a.raw")
    assert expand([first, second, first]) == [Source(first, "b.raw"), Source(second, "a.raw")]


def test_a_relative_word_means_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, "a.raw")
    monkeypatch.chdir(tmp_path)
    assert expand(["a.raw"]) == [Source(str(Path.cwd() / "a.raw"), "a.raw")]


def test_a_missing_file_costs_itself_later(tmp_path: Path) -> None:
    assert names(expand([str(tmp_path / "gone.raw")])) == ["gone.raw"]


def test_a_folder_means_all_below_it_that_may_be_dumps(tmp_path: Path) -> None:
    lay(tmp_path, "host1/mem.raw", "host2/mem.raw", "c.raw", ".hidden", ".git/d.raw", "out/e.raw")
    lay(tmp_path, "notes.txt", content=b"This is a text, " * 1000)
    lay(tmp_path, "short.bin", content=b"\x01" * 100)
    told: list[str] = []
    found = expand([str(tmp_path)], without=tmp_path / "out", remark=told.append)
    assert names(found) == ["c.raw", "host1_mem.raw", "host2_mem.raw"]
    assert len(told) == 1
    assert "2 files are evidently not dumps" in told[0]
    assert "notes.txt (a text file)" in told[0]


def test_a_glob_names_by_what_its_wildcards_found(tmp_path: Path) -> None:
    lay(tmp_path, "host1/mem.raw", "host2/mem.raw", "host2/other.raw", "host3/deep/mem.raw")
    assert names(expand([str(tmp_path / "*" / "mem.raw")])) == ["host1_mem.raw", "host2_mem.raw"]
    deep = names(expand([str(tmp_path / "**" / "mem.raw")]))
    assert deep == ["host1_mem.raw", "host2_mem.raw", "host3_deep_mem.raw"]


def test_a_file_whose_name_is_a_pattern_is_that_file(tmp_path: Path) -> None:
    lay(tmp_path, "[1].raw", "1.raw")
    assert names(expand([str(tmp_path / "[1].raw")])) == ["[1].raw"]


def test_a_list_has_a_word_in_each_line(tmp_path: Path) -> None:
    lay(tmp_path, "a.raw", "sub/b.raw")
    listing = tmp_path / "list"
    listing.write_text(f"# two\n\n{tmp_path / 'a.raw'}\r\n  {tmp_path / 'sub'}\n", encoding="utf-8")
    assert names(expand([f"@{listing}"])) == ["a.raw", "b.raw"]
    with pytest.raises(BadInputError, match=r"cannot read .*nothing"):
        expand([f"@{tmp_path / 'nothing'}"])
    listing.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInputError, match="not UTF-8"):
        expand([f"@{listing}"])


@pytest.mark.parametrize("word", ["*.none", "empty"])
def test_a_word_that_finds_nothing_is_an_error(tmp_path: Path, word: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="no file that may be a dump"):
        expand([str(tmp_path / word)])


def test_files_with_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    lay(tmp_path, "x/host1/mem.raw", "x/host2/MEM.raw", "x/host3/c.raw")
    words = [str(tmp_path / "x" / one) for one in ("host1/mem.raw", "host2/MEM.raw", "host3/c.raw")]
    expected = ["host1_mem.raw", "host2_MEM.raw", "c.raw"]
    assert names(expand(words)) == expected
    assert names(expand(words[::-1])) == expected[::-1]


def test_a_new_dump_in_a_folder_changes_no_other_name(tmp_path: Path) -> None:
    lay(tmp_path, "b/mem.raw", "c/mem.raw")
    before = expand([str(tmp_path)])
    lay(tmp_path, "a/mem.raw")
    assert set(before) < set(expand([str(tmp_path)]))


def test_names_that_no_folder_tells_apart_get_a_mark(tmp_path: Path) -> None:
    lay(tmp_path, "a_b/c.raw", "a/b_c.raw")
    found = expand([str(tmp_path)])
    assert len({one.name.casefold() for one in found}) == 2
    assert found == expand([str(tmp_path)])


@pytest.mark.posix
def test_names_are_safe_as_folders(tmp_path: Path) -> None:
    lay(tmp_path, "a\x1b[2J.raw", "con.raw", "100%41.raw", "x" * 200)
    found = names(expand([str(tmp_path)]))
    assert len(found) == 4
    for name in found:
        assert name.isprintable()
        assert not set(name) & set('/\\%<>:"|?*')
        assert len(name.encode()) <= 80
    assert "con.raw" not in found


def test_further_parts_belong_to_the_first(tmp_path: Path) -> None:
    lay(tmp_path, "i.E01", "i.E02", "i.EAA", "a.ad1", "a.ad2", "v.vmem", "v.vmss", "only.vmss")
    lay(tmp_path, "s.001", "s.002", "s.003")
    (tmp_path / "s.003").write_bytes(DUMP[:4096])
    found = names(expand([str(tmp_path)]))
    assert found == ["a.ad1", "i.E01", "only.vmss", "s.001", "v.vmem"]
    # All words that the shell made from one pattern are treated alike.
    assert names(expand([str(path) for path in sorted(tmp_path.iterdir())])) == found


def test_a_series_of_dumps_is_not_an_image_in_parts(tmp_path: Path) -> None:
    lay(tmp_path, "day.001", "day.002", content=b"EMiL" + bytes(4092))
    assert names(expand([str(tmp_path)])) == ["day.001", "day.002"]


def test_urls_of_files_folders_and_patterns() -> None:
    system = fsspec.filesystem("memory")
    system.pipe({"/case/h1/m.raw": DUMP, "/case/h2/m.raw": DUMP, "/case/.x/m.raw": DUMP})
    system.pipe({"/case/h1/n.lime": DUMP, "/case/h1/short": b"1"})
    try:
        one = expand(["memory://case/h1/m.raw"])
        assert one == [Source("memory://case/h1/m.raw", "m.raw")]
        assert names(expand(["memory://case/"])) == ["h1_m.raw", "h1_n.lime", "h2_m.raw"]
        found = expand(["memory://case/*/m.raw"])
        assert [source.url for source in found] == [
            "memory://case/h1/m.raw",
            "memory://case/h2/m.raw",
        ]
        assert names(found) == ["h1_m.raw", "h2_m.raw"]
        assert memory_visualizer.open(found[0].url).dump.size == len(DUMP)
        with pytest.raises(BadInputError, match="no file that may be a dump"):
            expand(["memory://case/*.none"])
    finally:
        system.rm("/case", recursive=True)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@host/x.raw",
        "sftp://me:hunter2@host/x.raw",
        "https://host/x.raw?X-Amz-Signature=hunter2&X-Amz-Date=3",
        "https://hunter2@host/x.raw",
    ],
)
def test_a_url_with_credentials_is_refused_without_them(url: str) -> None:
    with pytest.raises(BadInputError, match="environment of its workers") as raised:
        expand([url])
    assert "hunter2" not in str(raised.value)
    assert "host/x.raw" in str(raised.value)


def test_sources_travel() -> None:
    [source] = expand(["s3://bucket/a%20b/x.raw"])
    assert pickle.loads(pickle.dumps(source)) == source
    assert source.name == "x.raw"
