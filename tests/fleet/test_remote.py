"""Dumps of a fleet behind URLs."""

import json
from pathlib import Path

from memory_visualizer.fleet.outcome import FILE
from memory_visualizer.fleet.sources import Source, expand
from memory_visualizer.fleet.task import Options, analyse
from tests.formats.rangeserver import serving
from tests.synth import MIB, forge, profiles


def test_the_same_outputs_as_of_a_local_dump(tmp_path: Path) -> None:
    """All outputs but the source are the same bytes; a lost dump costs only itself."""
    dump = tmp_path / "win.raw"
    forge(dump, profiles()["Win10x64"], size=16 * MIB)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    [local] = expand([str(dump)])
    assert analyse(local, here, Options(), force=False).outcome.is_done
    with serving() as store:
        store.files["/case/win.raw"] = dump
        remote, gone = expand([store.url("case/win.raw"), store.url("case/gone.raw")])
        assert remote == Source(store.url("case/win.raw"), local.name)
        assert analyse(remote, there, Options(), force=False).outcome.is_done
        assert store.sent <= dump.stat().st_size + 4 * MIB
        lost = analyse(gone, there, Options(), force=False).outcome
        assert lost.sentence == f"cannot read {gone.url}: it does not exist"
        before = len(store.asked)
        assert analyse(remote, there, Options(), force=False).is_kept
        assert sum(end - start for _, start, end in store.asked[before:]) < 2 * MIB
    written = sorted(path.relative_to(here) for path in here.rglob("*") if path.is_file())
    assert len(written) > 10
    for path in written:
        if path.name == FILE:
            told = [json.loads((folder / path).read_bytes()) for folder in (here, there)]
            assert [one.pop("source") for one in told] == [str(dump), remote.url]
            assert told[0] == told[1]
        else:
            assert (here / path).read_bytes() == (there / path).read_bytes(), path
