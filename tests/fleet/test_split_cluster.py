"""A dump whose scan is split on a real cluster; a worker is killed."""

import os
import signal
from pathlib import Path

import pytest

from memory_visualizer.fleet.sources import Source
from memory_visualizer.fleet.task import Options, analyse
from tests.fleet import test_cluster
from tests.fleet.test_cluster import cluster, ended, fleet, wait_until
from tests.fleet.test_task import files_of
from tests.fuzz.seeds import seed

pytestmark = [pytest.mark.frontdoor, pytest.mark.posix]

GIB = 1 << 30


def test_a_worker_that_is_killed_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a range, and never ends it; another worker does it, and the outputs are the same."""
    from distributed import Client  # Windows' Python in these tests cannot import it

    monkeypatch.setitem(
        test_cluster._ENVIRONMENT, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "3"
    )
    dump = tmp_path / "large.raw"
    dump.write_bytes(seed("win7", "raw").contents)
    os.truncate(dump, 4 * GIB)  # sparse: four ranges
    alone, split = tmp_path / "alone", tmp_path / "split"
    alone.mkdir()
    assert analyse(Source(str(dump), "large.raw"), alone, Options(scale="1/8")).outcome.is_done
    with cluster(tmp_path / "cluster") as found:
        found.add_workers(2)
        with Client(found.address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            pids = client.run(os.getpid)
            victim = next(address for address in pids)
            os.kill(pids[victim], signal.SIGSTOP)
            running = fleet(
                dump, "--out", split, "--scheduler", found.address, "--split", "--scale", "1/8"
            )
            wait_until(lambda: bool(client.processing().get(victim)), running)
            assert running.poll() is None
            os.kill(pids[victim], signal.SIGKILL)
            code, _, err = ended(running)
            assert (code, err) == (0, "")
            assert victim not in client.scheduler_info()["workers"]
    made, expected = files_of(split), files_of(alone)
    assert len(expected) > 8
    assert {path: made.get(path) for path in expected} == expected
