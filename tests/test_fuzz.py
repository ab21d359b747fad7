"""Mutated dumps end in a picture or a sentence; `python -m tests.fuzz` tries many more."""

import json
import os
from pathlib import Path

import pytest

from tests.fuzz.__main__ import Worker, cases
from tests.fuzz.cases import Case, workplace

REGRESSIONS = json.loads((Path(__file__).parent / "fuzz/regressions.json").read_text())
COUNT = int(os.environ.get("FUZZ_CASES", "200"))
"""Cases of each of four fixed stretches; a minute or two in all."""


def check(given: list[Case]) -> None:
    faults = []
    with workplace() as folder:
        worker = Worker(folder)
        for case in given:
            worker.give(case)
            outcome = worker.take()
            if outcome.fault:
                faults.append((case, outcome.fault))
        worker.give(None)
    assert faults == []


@pytest.mark.parametrize("part", range(4))
def test_mutated_dumps(part: int) -> None:
    """A picture or one sentence, within 300 MiB, no leftovers, the dump as it was."""
    check(list(cases(COUNT, first=1_000_000 * part)))


def test_what_once_failed() -> None:
    """Every case that ever failed."""
    check([Case(**case) for case in REGRESSIONS])
