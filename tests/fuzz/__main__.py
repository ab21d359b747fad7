"""Run mutated dumps: python -m tests.fuzz [--count N] [--first N] [--processes N].

Each case runs in a process that may take 300 MiB more memory than an honest dump's beginning, and
that is ended after a minute. What fails is printed as a line of JSON; append it to
tests/fuzz/regressions.json when it is mended.
"""

import argparse
import dataclasses
import json
import multiprocessing
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np

from tests.fuzz.cases import DUMP, MUTATIONS, Case, Outcome, mutated, run, workplace
from tests.fuzz.seeds import CONTAINERS, SYSTEMS, seed

_MEMORY = 300 << 20
_PATIENCE = 60
"""Seconds after which a case hangs."""


def cases(count: int, first: int = 0) -> Iterator[Case]:
    """The cases with these numbers: raw dumps of each system most often."""
    mutations = list(MUTATIONS)
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        container = "raw" if rng.random() < 0.6 else CONTAINERS[int(rng.integers(len(CONTAINERS)))]
        system = SYSTEMS[int(rng.integers(len(SYSTEMS)))]
        yield Case(system, container, mutations[int(rng.integers(len(mutations)))], number)


def limit_memory() -> None:
    """Let this process take so much more memory, and no more."""
    with open("/proc/self/status") as status:  # noqa: PTH123
        used = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + _MEMORY, resource.RLIM_INFINITY))


def _work(pipe: Connection, folder: Path) -> None:
    """Run the cases that come through the pipe, and send back how they end."""
    limit_memory()
    while (case := pipe.recv()) is not None:
        signal.alarm(_PATIENCE)
        outcome = run(case, folder)
        signal.alarm(0)
        pipe.send(outcome)


class Worker:
    """A process that runs cases, and is replaced when one of them ends it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._context = multiprocessing.get_context("fork")
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(
            target=_work, args=(theirs, self._folder), daemon=True
        )
        self._process.start()
        theirs.close()

    def give(self, case: Case | None) -> None:
        """Have it run a case, whose dump is made here; None ends it."""
        if case:
            (self._folder / DUMP).write_bytes(mutated(case))
        self._pipe.send(case)

    def take(self) -> Outcome:
        """Wait for how the case ended."""
        try:
            outcome: Outcome = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self._start()
            what = "hangs" if code == -signal.SIGALRM else f"ends the process: {code}"
            return Outcome(what, float(_PATIENCE), -1)
        return outcome


def main() -> int:
    """Run and count; 1 where any case fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="cases (20,000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (0)")
    parser.add_argument("--processes", type=int, default=2, help="at once (2)")
    options = parser.parse_args()
    for system in SYSTEMS:
        for container in CONTAINERS:
            seed(system, container)
    with ExitStack() as places:
        folders = [places.enter_context(workplace()) for _ in range(options.processes)]
        return _run_all(options.count, options.first, [Worker(folder) for folder in folders])


def _run_all(count: int, first: int, workers: list[Worker]) -> int:
    """Keep the workers busy, and print what came of it."""
    slowest: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    codes: Counter[int] = Counter()
    faults = 0
    begin = time.monotonic()
    todo = cases(count, first)
    waiting: list[tuple[Worker, Case]] = []
    done = 0
    for worker in workers:
        if case := next(todo, None):
            worker.give(case)
            waiting.append((worker, case))
    while waiting:
        worker, case = waiting.pop(0)
        outcome = worker.take()
        done += 1
        codes[outcome.code] += 1
        times.setdefault(case.system, []).append(outcome.seconds)
        slowest[case.system] = max(slowest.get(case.system, 0), outcome.seconds)
        if outcome.fault:
            faults += 1
            print(json.dumps(dataclasses.asdict(case)), outcome.fault, flush=True)
        if following := next(todo, None):
            worker.give(following)
            waiting.append((worker, following))
        if done % 1000 == 0:
            print(f"{done:,} cases, {faults} faults, {time.monotonic() - begin:.0f} s", flush=True)
    for worker in workers:
        worker.give(None)
    print(f"{done:,} cases, {faults} faults; exit codes {dict(sorted(codes.items()))}")
    for system, seconds in sorted(times.items()):
        print(f"  {system}: median {median(seconds):.2f} s, slowest {slowest[system]:.2f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
