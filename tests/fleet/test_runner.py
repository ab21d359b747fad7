"""The runner of a fleet and the ends of its tasks; the tests play Dask's part."""

import concurrent.futures
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from memory_visualizer.errors import BadInputError, MemoryVisualizerError, MissingLibraryError
from memory_visualizer.fleet import cluster, runner
from memory_visualizer.fleet.cluster import Place, check_libraries
from memory_visualizer.fleet.outcome import DONE, Outcome, read_outcome
from memory_visualizer.fleet.runner import results
from memory_visualizer.fleet.sources import Source
from memory_visualizer.fleet.task import ClusterError, Options, Result
from memory_visualizer.formats.base import Progress
from tests.fleet.conftest import Analysed
from tests.fleet.test_task import files_of

if sys.platform == "elsewhere":
    pytest.skip("psutil, of Dask, knows no such system", allow_module_level=True)
from distributed import KilledWorker
from distributed.comm.core import CommClosedError

SOURCES = [Source(f"/dumps/{name}", name) for name in ("a", "b", "c")]


@dataclass(eq=False)
class Future:
    """An ended task with a result, an error, or another status."""

    end: object
    callbacks: list[Callable[["Future"], None]] = field(default_factory=list)

    @property
    def status(self) -> str:
        if isinstance(self.end, str):
            return self.end
        return "error" if isinstance(self.end, Exception) else "finished"

    def result(self) -> object:
        if isinstance(self.end, CancelledError | OSError):
            raise self.end
        return self.end

    def exception(self) -> object:
        return self.end

    def add_done_callback(self, call: Callable[["Future"], None]) -> None:
        call(self)


class Client:
    """A connection to a cluster on which the tasks end as `ends` says, by dump and try."""

    status = "running"

    def __init__(self, ends: dict[str, list[object]]) -> None:
        self.ends = {name: list(of_one) for name, of_one in ends.items()}
        self.order: list[str] = []
        self.cancelled: list[Future] = []

    @property
    def scheduler(self) -> Any:
        return type("Scheduler", (), {"address": "tcp://there"})

    def submit(self, _: object, source: dict[str, str], *__: object, **___: object) -> Future:
        self.order.append(source["name"])
        return Future(self.ends[source["name"]].pop(0))

    def cancel(self, futures: list[Future], **_: object) -> None:
        self.cancelled += futures

    def nthreads(self) -> dict[str, int]:
        return {}

    def get_executor(self, **_: object) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1)


def well(name: str) -> Result:
    return Result(Outcome(f"/dumps/{name}", name, status=DONE))


def killed(name: str) -> KilledWorker:
    return KilledWorker(name, None, 3)  # type: ignore[arg-type]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, list[object]]], tuple[Client, Iterator[Result]]]:
    """Begin a run on a cluster with given ends of its tasks."""

    def begin(ends: dict[str, list[object]]) -> tuple[Client, Iterator[Result]]:
        client = Client(ends)

        monkeypatch.setattr(runner, "connected", lambda _: nullcontext(client))
        return client, results(SOURCES, tmp_path, Options(), Place("tcp://there"))

    return begin


Run = Callable[[dict[str, list[object]]], tuple[Client, Iterator[Result]]]


def test_a_dump_that_ends_its_workers(run: Run, tmp_path: Path) -> None:
    """Dumps that lost their worker run again, one at a time; a second such end is a failure."""
    client, found = run(
        {
            "a": [killed("a"), well("a")],
            "b": [killed("b"), killed("b")],
            "c": [well("c")],
        }
    )
    outcomes = {one.outcome.name: one.outcome for one in found}
    assert client.order == ["a", "b", "c", "a", "b"]
    assert {name: one.is_done for name, one in outcomes.items()} == {
        "a": True,
        "b": False,
        "c": True,
    }
    sentence = outcomes["b"].sentence
    assert sentence and sentence.startswith("each worker that analysed it ended: ")
    assert read_outcome(tmp_path, "b") == outcomes["b"]


def test_an_error_of_a_task_costs_its_dump(run: Run) -> None:
    """An error such as an outcome that cannot be written costs its dump only."""
    full = OSError(28, "No space left on device")
    _, found = run({"a": [well("a")], "b": [full], "c": [well("c")]})
    sentences = {one.outcome.name: one.outcome.sentence for one in found}
    assert sentences == {"a": None, "b": f"OSError: {full}", "c": None}


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (ClusterError("a worker does not see the folder"), "a worker does not see the folder"),
        (ModuleNotFoundError("No module named 'x'"), "lack a package that .* No module named 'x'"),
        ("cancelled", "the scheduler at tcp://there went away: 2 dumps left; the same command"),
        ("lost", "the scheduler at tcp://there went away: 2 dumps left; the same command"),
    ],
)
def test_faults_of_the_cluster_end_the_run(end: object, sentence: str, run: Run) -> None:
    """A sentence tells the fault; waiting tasks are cancelled, and finished ones were told."""
    client, found = run({"a": [well("a")], "b": [end], "c": [well("c")]})
    assert next(found).outcome.name == "a"
    with pytest.raises(ClusterError, match=sentence):
        next(found)
    assert client.cancelled


def test_a_result_that_cannot_be_fetched(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler goes away when the result is fetched: the run ends."""
    monkeypatch.setattr(Future, "status", "finished")
    _, found = run({"a": [OSError("closed")], "b": [well("b")], "c": [well("c")]})
    with pytest.raises(ClusterError, match="went away: 3 dumps left"):
        next(found)


def test_a_scheduler_without_workers(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remark is made once, and the run waits for workers."""
    monkeypatch.setattr(runner, "_TICK_SECONDS", 0)
    client = Client({"a": ["pending"]})
    told: list[str] = []

    def remark(sentence: str) -> None:
        told.append(sentence)
        for future in under_way:
            future.end = well("a")

    work = runner._Run(client, tmp_path, Options(), force=False, remark=remark)
    under_way: list[Future] = []
    submit = client.submit

    def submitted(*arguments: Any, **options: Any) -> Future:
        under_way.append(submit(*arguments, **options))
        return under_way[-1]

    monkeypatch.setattr(client, "submit", submitted)
    assert [one.outcome.name for one in work.results(SOURCES[:1])] == ["a"]
    assert told == ["the scheduler at tcp://there has no workers yet"]


def test_a_scheduler_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence names the scheduler."""
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.2)
    for address in ("tcp://127.0.0.1:1", "nonsense://x"):
        with pytest.raises(ClusterError, match=f"no scheduler answers at {address}: "):
            next(results(SOURCES, tmp_path, Options(), Place(address)))


def test_a_scheduler_with_tls_and_nothing_to_show(tmp_path: Path) -> None:
    """A sentence tells the missing certificate before any connection."""
    with pytest.raises(ClusterError, match="tls://there:1 asks for a certificate, but Dask's"):
        next(results(SOURCES, tmp_path, Options(), Place("tls://there:1")))


def test_missing_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence names the libraries, and the way to install them."""
    check_libraries()
    monkeypatch.setattr(
        cluster, "find_spec", lambda name: None if name in ("dask", "distributed") else name
    )
    with pytest.raises(MissingLibraryError, match="needs dask, distributed, which are not install"):
        check_libraries()


def test_split_dumps_are_those_of_one_machine(
    analysed: Analysed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers share the scan of each dump; all outputs are the same bytes."""
    client = Client({})
    parts: list[object] = []
    monkeypatch.setattr(runner, "connected", lambda _: nullcontext(client))
    look = runner._look()

    def noted(*arguments: object) -> object:
        parts.append(arguments)
        return look(*arguments)

    monkeypatch.setattr(runner, "_look", lambda: noted)
    sources = [Source(str(analysed.dumps / name), name) for name in ("win7.raw", "nothing")]
    told: dict[str, tuple[int, int | None]] = {}

    def shown(source: Source) -> nullcontext[Progress]:
        return nullcontext(lambda done, total: told.update({source.name: (done, total)}))

    found = list(results(sources, tmp_path, Options(), Place(), split=True, shown=shown))
    assert [one.outcome.name for one in found] == ["win7.raw", "nothing"]
    sizes = {source.name: Path(source.url).stat().st_size for source in sources}
    assert told == {name: (size, size) for name, size in sizes.items()}
    assert len(parts) >= 2
    made = files_of(tmp_path)
    assert made == {path: each for path, each in files_of(analysed.folder).items() if path in made}
    assert not client.order


@pytest.mark.parametrize(
    ("fault", "kind", "sentence"),
    [
        (killed("a"), MemoryVisualizerError, "each worker that analysed it ended: "),
        (ImportError("No module named 'x'"), ClusterError, "lack a package .* No module named"),
        (CancelledError(), ClusterError, "gone"),
        (CommClosedError("closed"), ClusterError, "gone"),
        (BadInputError("a is cut"), BadInputError, "a is cut"),
    ],
)
def test_faults_of_a_part_of_a_scan(fault: Exception, kind: type[Exception], sentence: str) -> None:
    """A fault of the cluster ends the run; a fault of the dump costs the dump."""
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    future.set_exception(fault)
    with pytest.raises(kind, match=sentence) as raised:
        runner._Part(future, lambda: ClusterError("gone")).result()
    assert type(raised.value) is kind
