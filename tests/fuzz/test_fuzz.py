"""Mutated dumps end in a picture or a sentence; `python -m tests.fuzz` tries many more."""

import json
import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("resource", reason="costs are measured as Unix tells them")

from tests.fuzz.__main__ import REGRESSIONS
from tests.fuzz.cases import Case, cases
from tests.fuzz.crafted import CRAFTED, crafted
from tests.fuzz.seeds import SYSTEMS, Seed
from tests.fuzz.worker import Worker, worker_of_its_own
from tests.synth import MIB

pytestmark = pytest.mark.fuzz

COUNT = int(os.environ.get("FUZZ_CASES", "100"))
"""Cases of each system; they take a minute or two in all."""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with worker_of_its_own() as worker:
        yield worker


@pytest.mark.parametrize("system", SYSTEMS)
@settings(
    max_examples=COUNT,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
@pytest.mark.long
@pytest.mark.many(3)
def test_mutated_dumps(system: str, worker: Worker, data: st.DataObject) -> None:
    """Each ends in a picture or a sentence, within 300 MiB; the dump stays, nothing else does."""
    case = data.draw(cases([system]))
    assert worker.outcome(case).fault == ""


@pytest.mark.parametrize("case", json.loads(REGRESSIONS.read_text()), ids=str)
def test_what_once_failed(case: dict[str, object], worker: Worker) -> None:
    """Every case that ever failed ends well; the longer run measures the time of slow ones."""
    assert worker.outcome(Case(**case)).fault == ""  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CRAFTED)
@pytest.mark.many
def test_dumps_made_to_waste_time(name: str, worker: Worker) -> None:
    """Dumps in which nearly every page is a trick end likewise; bench/crafted.py measures them."""
    (worker.folder / "dump").write_bytes(crafted(name, 32 * MIB))
    assert worker.run(Seed(b"", np.zeros(1, np.int64))).fault == ""
