"""Many mutated files for each reader: python -m tests.fuzz.readers [NAME ...] [--count N].

The files are small, and go through the reader alone, not through a command: each is opened, with
--lenient and without, scanned, and some frames are read. It must end in a dump or a sentence,
within 300 MiB more than the sound file takes, and twice its processor time. Failing files are
printed.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.opening import open_dump
from tests.fuzz.cases import MUTATIONS
from tests.fuzz.seeds import WRITERS

_MEMORY = 300 << 20
_PATIENCE = 20
"""Seconds after which a file counts as hanging."""
_TIMES, _NOISE = 2, 0.1
_PAGE = 4096


def main() -> int:
    """Try all readers, or the named ones; 1 if any file fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *WRITERS], metavar="NAME")
    parser.add_argument("--count", type=int, default=10_000, help="files for each (10,000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other files (0)")
    options = parser.parse_args()
    _limit_memory()
    signal.signal(signal.SIGALRM, _hangs)
    faults = 0
    for name in options.names or WRITERS:
        faults += _try_reader(name, options.count, options.seed)
    return int(faults > 0)


def _hangs(*_: object) -> None:
    raise TimeoutError(f"hangs for {_PATIENCE} s")


def _limit_memory() -> None:
    """Limit the memory of this process to so much more than now."""
    import resource  # not on Windows, where only test_lenient.py uses this module, for places_of

    with open("/proc/self/status") as status:  # noqa: PTH123
        used = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + _MEMORY, resource.RLIM_INFINITY))


def _try_reader(name: str, count: int, seed: int) -> int:
    """Run one reader's files; returns the number of failures."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        path = Path(folder) / "dump.001"
        WRITERS[name](path, small_memory(seed))
        sound = path.read_bytes()
        places = places_of(sound)
        limit = _TIMES * min(_run(path)[1] for _ in range(5)) + _NOISE
        ends: Counter[str] = Counter()
        faults = 0
        slowest = 0.0
        for number in range(count):
            mutation = list(MUTATIONS)[number % len(MUTATIONS)]
            data = bytearray(sound)
            MUTATIONS[mutation](np.random.default_rng([seed, number]), data, places)
            path.write_bytes(data)
            end, seconds = _run(path)
            if end in ("dump", "sentence") and seconds > limit:
                end, seconds = min((_run(path) for _ in range(3)), key=lambda run: run[1])
                end = end if seconds <= limit else f"takes {seconds:.2f} s"
            slowest = max(slowest, seconds)
            ends[end if end in ("dump", "sentence") else "FAULT"] += 1
            if end not in ("dump", "sentence"):
                faults += 1
                print(f"{name}, {mutation}, number {number}, seed {seed}: {end}", flush=True)
    print(f"{name}: {dict(ends)}, slowest {slowest:.2f} s of {limit:.2f} s", flush=True)
    return faults


def small_memory(seed: int = 0) -> list[tuple[int, bytes]]:
    """48 pages in two pieces, a third of them zeros."""
    rng = np.random.default_rng(seed)
    pages = [rng.bytes(_PAGE) if number % 3 else bytes(_PAGE) for number in range(48)]
    return [(0x1000, b"".join(pages[:20])), (0x40000, b"".join(pages[20:]))]


def places_of(sound: bytes) -> list[int]:
    """Important bytes of a file: its beginning and end, and places between them at equal steps."""
    size = len(sound)
    ends = [*range(0, min(size, 2048), 64), *range(max(0, size - 2048), size, 64)]
    return sorted({*ends, *range(0, size, max(1, size // 64))})


def _run(path: Path) -> tuple[str, float]:
    """The end of a file (a dump, a sentence or a fault), and its seconds."""
    started = time.process_time()
    signal.alarm(_PATIENCE)
    end = "sentence"
    try:
        for lenient in (False, True):
            try:
                dump = open_dump(path, lenient=lenient)
                list(dump.each_block(lambda _, words: bool(words.any())))
                dump.read_frames(np.arange(0, 96, 5))
                assert not (dump.held & dump.left_out).any()
                end = "dump"
            except BadInputError as error:
                if len(str(error)) > 1000:
                    end = f"a long sentence: {str(error)[:100]}"
    except BaseException as error:
        end = f"{type(error).__name__}: {error}"
    signal.alarm(0)
    return end, time.process_time() - started


if __name__ == "__main__":
    sys.exit(main())
