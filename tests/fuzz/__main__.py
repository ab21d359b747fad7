"""Run mutated dumps: python -m tests.fuzz [--count N] [--seed N] [--processes N] [--laws N].

Then the laws are tried with --laws examples each (LAWS): damage to one thing changes only the
report on that thing.

Each case runs in a process that may take 300 MiB more memory than at its start, and that is ended
after a minute. A case also fails if it takes more than twice the processor time of the sound dump
with the same options. A failing case is printed as a line of JSON; append it to
tests/fuzz/regressions.json together with the fix.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from statistics import median

import hypothesis
from hypothesis import HealthCheck, Phase, given

from tests.fuzz.cases import Case, Outcome, cases
from tests.fuzz.seeds import CONTAINERS, SYSTEMS, seed
from tests.fuzz.worker import Worker, worker_of_its_own

REGRESSIONS = Path(__file__).parent / "regressions.json"
"""Every case that ever failed."""
ROOT = Path(__file__).parents[2]
LAWS = (
    "tests/windows/test_odd_processes.py",
    "tests/linux/test_law.py",
    "tests/paging/test_smear.py",
)
"""The laws, each of which runs with fewer examples in CI."""
_TIMES = 2
_NOISE = 0.05
"""Seconds by which measured processor time may be wrong on a busy machine."""


def main() -> int:
    """Run and count; 1 if any case fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="cases (20,000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other cases (0)")
    parser.add_argument("--laws", type=int, default=1000, help="examples of each law (1,000)")
    parser.add_argument("--processes", type=int, default=2, help="at once (2)")
    options = parser.parse_args()
    for system in SYSTEMS:
        for container in CONTAINERS:
            seed(system, container)
    context = multiprocessing.get_context("fork")
    results: SimpleQueue[tuple[Case, Outcome] | None] = context.SimpleQueue()
    processes = []
    for number in range(options.processes):
        count = (options.count + number) // options.processes
        given = (options.seed * 1000 + number, count, results)
        processes.append(context.Process(target=_stretch, args=given))
        processes[-1].start()
    faults = _report(options.processes, results)
    for process in processes:
        process.join()
    failed = bool(faults) or any(process.exitcode for process in processes)
    if options.laws:
        variables = {"MEMVIZ_LAW": str(options.laws), "MEMVIZ_SMEAR": "all"}
        command = [sys.executable, "-m", "pytest", "-q", f"--numprocesses={options.processes}"]
        laws = subprocess.run([*command, *LAWS], env=os.environ | variables, cwd=ROOT)
        failed |= laws.returncode != 0
    return int(failed)


def _stretch(number: int, count: int, results: "SimpleQueue[tuple[Case, Outcome] | None]") -> None:
    """Run so many cases, and count their ends."""
    try:
        with worker_of_its_own() as worker:

            @functools.cache
            def sound(case: Case) -> float:
                """Seconds that the sound input of a case takes."""
                return min(worker.outcome(case, sound=True).seconds for _ in range(3))

            numbers = itertools.count(number << 32)

            def check(case: Case) -> None:
                results.put((case, _outcome(worker, case, sound)))

            def check_anew(case: Case) -> None:
                # Hypothesis likes to repeat numbers with other options.
                check(dataclasses.replace(case, number=next(numbers)))

            if number % 1000 == 0:
                for case in json.loads(REGRESSIONS.read_text()):
                    check(Case(**{**case, "options": tuple(case.get("options", ()))}))
            settings = hypothesis.settings(
                max_examples=count,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            hypothesis.seed(number)(settings(given(cases())(check_anew)))()
    finally:
        results.put(None)


def _outcome(worker: Worker, case: Case, sound: Callable[[Case], float]) -> Outcome:
    """The end of a case; a slow case is measured again."""
    outcome = worker.outcome(case)
    plain = dataclasses.replace(case, mutation="", number=0, options=())
    if outcome.fault or outcome.seconds <= _TIMES * sound(plain) + _NOISE:
        return outcome
    limit = _TIMES * sound(dataclasses.replace(plain, options=case.options)) + _NOISE
    seconds = min(outcome.seconds, *(worker.outcome(case).seconds for _ in range(2)))
    fault = f"takes {seconds:.2f} s, the sound one {(limit - _NOISE) / _TIMES:.2f} s"
    return dataclasses.replace(outcome, seconds=seconds, fault=fault if seconds > limit else "")


def _report(processes: int, results: "SimpleQueue[tuple[Case, Outcome] | None]") -> int:
    """Print failing cases while they come in, and a summary."""
    times: dict[str, list[float]] = {}
    codes: Counter[int] = Counter()
    inputs: set[tuple[str, str, str, int]] = set()
    faults = done = 0
    begin = time.monotonic()
    while processes:
        if (result := results.get()) is None:
            processes -= 1
            continue
        case, outcome = result
        done += 1
        inputs.add((case.system, case.container, case.mutation, case.number))
        codes[outcome.code] += 1
        times.setdefault(f"{case.system}, {case.container}", []).append(outcome.seconds)
        if outcome.fault:
            faults += 1
            print(json.dumps(dataclasses.asdict(case)), outcome.fault, flush=True)
        if done % 1000 == 0:
            print(f"{done:,} cases, {faults} faults, {time.monotonic() - begin:.0f} s", flush=True)
    print(
        f"{done:,} cases, {len(inputs):,} different inputs, {faults} faults;"
        f" exit codes {dict(sorted(codes.items()))}"
    )
    for what, seconds in sorted(times.items()):
        print(
            f"  {what}: {len(seconds):,}, median {median(seconds):.2f} s,"
            f" slowest {max(seconds):.2f} s"
        )
    return faults


if __name__ == "__main__":
    sys.exit(main())
