"""A fleet on real clusters: processes on the loopback address that are disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.dataset
import pytest

from memory_visualizer.cli.memviz import main as memviz
from memory_visualizer.fleet.outcome import outcomes_in
from tests.conftest import ROOT
from tests.fleet.dumps import BROKEN, SOUND, Expected, write_many
from tests.fleet.test_task import files_of

pytestmark = [pytest.mark.frontdoor, pytest.mark.posix]

_PATIENCE = 120
"""Seconds after which a test gives up on any machine."""
_ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def wait_until(is_so: Callable[[], bool], *processes: "subprocess.Popen[str]") -> None:
    """Wait until a condition holds that one of these processes fulfils."""
    end = time.monotonic() + _PATIENCE
    while not is_so():
        over = [process for process in processes if process.poll() is not None]
        if over and not is_so():
            pytest.fail(f"it has ended: {[ended(process) for process in over]}")
        if time.monotonic() > end:
            for process in processes:
                process.kill()
            pytest.fail(f"it takes too long: {[ended(process) for process in processes]}")
        time.sleep(0.02)


def started(*arguments: object) -> "subprocess.Popen[str]":
    """Start a Python program in a process group of its own."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Jobs in the background of a shell ignore interrupts, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def fleet(*arguments: object) -> "subprocess.Popen[str]":
    return started("-m", "memory_visualizer", "fleet", *arguments)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for the end: exit code and both outputs."""
    out, err = process.communicate(timeout=_PATIENCE)
    return process.returncode, out, err


class Cluster:
    """A scheduler and workers, each in a process."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "scheduler.json"
        self.log = folder / "log"
        options = ("--scheduler-file", self._file, "--host", "127.0.0.1", "--no-dashboard")
        self.scheduler = self._start("dask_scheduler", *options, "--port", 0)
        self.workers: list[subprocess.Popen[str]] = []

    @property
    def address(self) -> str:
        """The scheduler's address; empty until the scheduler has written it."""
        try:
            return str(json.loads(self._file.read_bytes())["address"])
        except (OSError, ValueError):
            return ""

    def _start(self, module: str, *options: object) -> "subprocess.Popen[str]":
        with self.log.open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", *map(str, options)],
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )

    def add_workers(self, count: int) -> None:
        """Start workers."""
        options = ["--nthreads", 1, "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"]
        for _ in range(count):
            worker = self._start("dask_worker", "--scheduler-file", self._file, *options)
            self.workers.append(worker)

    def end(self) -> None:
        """End all processes that still run."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    folder.mkdir()
    found = Cluster(folder)
    try:
        wait_until(lambda: bool(found.address), found.scheduler)
        yield found
    finally:
        found.end()
        print(found.log.read_text())  # pytest shows it if the test fails


def done(folder: Path) -> int:
    """The number of outcomes in a run's folder."""
    return len(list(folder.glob("dumps/*/outcome.json")))


def assert_whole(folder: Path) -> None:
    """No file is half written, and each outcome tells the truth."""
    assert not list(folder.rglob(".*"))
    for outcome in outcomes_in(folder):
        for path, size in outcome.outputs.items():
            assert (folder / path).stat().st_size == size


def test_two_hundred_dumps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker is killed, the run interrupted, the scheduler killed; at last all dumps are done."""
    dumps, folder = tmp_path / "dumps", tmp_path / "fleet"
    dumps.mkdir()
    expected = write_many(dumps)
    words = tmp_path / "list"
    words.write_text("".join(f"{dumps / name}\n" for name in expected))
    with cluster(tmp_path / "cluster") as one:
        one.add_workers(2)
        command = (f"@{words}", "--out", folder, "--scheduler", one.address)
        running = fleet(*command)
        wait_until(lambda: done(folder) >= 20, running)
        one.workers[0].kill()
        at_kill = done(folder)
        wait_until(lambda: done(folder) >= at_kill + 20, running)
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        code, _, err = ended(running)
        assert code == 130, err
        assert err.splitlines()[-1] == "memviz: interrupted"
        assert "Traceback" not in err

        running = fleet(*command)
        at_start = done(folder)
        wait_until(lambda: done(folder) >= at_start + 20, running)
        one.scheduler.kill()
        code, _, err = ended(running)
    assert code == 1, err
    gone = f"memviz: the scheduler at {one.address} went away: "
    assert err.splitlines()[-1].startswith(gone)
    assert "the same command does the rest" in err
    assert "Traceback" not in err
    assert_whole(folder)

    before = files_of(folder)
    assert before.pop("index.html")  # of the dumps that were done
    assert 60 <= done(folder) < len(expected)
    code, out, err = ended(fleet(f"@{words}", "--out", folder, "--workers", 2))
    assert code == 2, err
    assert out.splitlines()[-1].startswith(f"{len(expected)} dumps: {SOUND} analysed (")
    assert out.splitlines()[-1].endswith(f"of them before), {BROKEN} failed; see {folder}")
    assert_whole(folder)
    assert before.items() <= files_of(folder).items()
    _assert_true(folder, expected, err)
    for outcome in outcomes_in(folder):
        if not outcome.is_done:
            assert memviz([outcome.source, "-o", str(tmp_path / "a.png")]) == outcome.exit_code
            assert capsys.readouterr().err.startswith(f"memviz: {outcome.sentence}")


def _assert_true(folder: Path, expected: dict[str, Expected], err: str) -> None:
    """Each outcome agrees with the truth of the writers."""
    outcomes = {outcome.name: outcome for outcome in outcomes_in(folder)}
    assert outcomes.keys() == expected.keys()
    for name, outcome in outcomes.items():
        assert outcome.is_done != expected[name].is_broken
        assert outcome.system == expected[name].system
        if outcome.is_done:
            assert outcome.frames == expected[name].frames
        else:
            assert f"{name}: failed: {outcome.sentence}\n" in err
    table = pyarrow.dataset.dataset(folder / "processes", partitioning="hive").to_table()
    found = {(row["dump"], row["name"]) for row in table.to_pylist()}
    assert found >= {(name, one) for name in expected for one in expected[name].processes}
    pages = pyarrow.dataset.dataset(folder / "pages", partitioning="hive").to_table(["dump"])
    sound = {name for name in expected if not expected[name].is_broken}
    assert set(pages["dump"].to_pylist()) == sound


def test_the_local_cluster_is_for_nobody_else() -> None:
    """The cluster listens on the loopback address, uses TLS with keys of its own, and has limits.

    Ctrl-C in a terminal, which reaches all processes, ends it without a message.
    """
    program = """
import psutil, time
from memory_visualizer.fleet.cluster import _local
if __name__ == "__main__":
    with _local(1) as client:
        [worker] = client.scheduler_info()["workers"].values()
        assert 0 < worker["memory_limit"] <= psutil.virtual_memory().total
        assert worker["nthreads"] == 1
        me = psutil.Process()
        listening = [
            one.laddr for process in (me, *me.children(recursive=True))
            for one in process.net_connections() if one.status == psutil.CONN_LISTEN
        ]
        assert len(listening) >= 3
        assert {address.ip for address in listening} == {"127.0.0.1"}
        assert client.scheduler.address.startswith("tls://")
        from distributed import Client
        try:
            Client(client.scheduler.address.replace("tls", "tcp"), timeout=2)
        except OSError:
            pass
        else:
            raise AssertionError
        try:
            print("refused", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""
    running = started("-c", program)
    assert running.stdout
    assert running.stdout.readline() == "refused\n", ended(running)
    os.killpg(running.pid, signal.SIGINT)
    assert ended(running) == (0, "interrupted\n", "")


def test_a_task_without_the_package() -> None:
    """A worker that lacks the package can read the task, and names the package."""
    import cloudpickle

    from memory_visualizer.fleet.runner import _task

    code = cloudpickle.dumps(_task()).hex()
    program = f"""
import pickle, sys
sys.modules["memory_visualizer"] = None
task = pickle.loads(bytes.fromhex("{code}"))
try:
    task({{}}, "", {{}}, "", False)
except ImportError as error:
    print(error.name)
"""
    assert ended(started("-c", program))[1] == "memory_visualizer.fleet\n"
