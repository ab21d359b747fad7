"""One case: a mutation of a sound dump, run through the command as its users run it."""

import contextlib
import io
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memory_visualizer import cli
from tests.fuzz.seeds import PAGE, seed

_EXTREMES = (0, 1, 0x7F, 0xFF, 0xFFFF, 1 << 31, 2**32 - 1, 1 << 52, 2**63 - 1, 2**64 - 1)
_EXIT_CODES = (0, 2, 3)
DUMP = "dump"
"""The file's name."""


@dataclass(frozen=True)
class Case:
    """All that is needed to make a mutated dump again."""

    system: str
    container: str
    mutation: str
    number: int
    """Of the random numbers."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended."""

    fault: str
    """What must not be; empty where all is well."""
    seconds: float
    """Of the processor's time."""
    code: int


def mutated(case: Case) -> bytearray:
    """The dump of a case."""
    sound = seed(case.system, case.container)
    data = bytearray(sound.contents)
    rng = np.random.default_rng([case.number, len(case.mutation)])
    MUTATIONS[case.mutation](rng, data, sound.places.tolist())
    return data


def _flip(rng: np.random.Generator, data: bytearray, places: list[int]) -> None:
    """A few wrong bytes near what matters."""
    for _ in range(int(rng.integers(1, 12))):
        at = (int(rng.choice(places)) + int(rng.integers(0, PAGE))) % len(data)
        data[at] ^= int(rng.integers(1, 256))


def _extreme(rng: np.random.Generator, data: bytearray, places: list[int]) -> None:
    """Counts, lengths and addresses at their limits."""
    for _ in range(int(rng.integers(1, 6))):
        size = int(rng.choice([1, 2, 4, 8]))
        at = (int(rng.choice(places)) + int(rng.integers(0, PAGE // 8)) * 8) % (len(data) - 8)
        value = _EXTREMES[int(rng.integers(len(_EXTREMES)))] % (1 << 8 * size)
        data[at : at + size] = value.to_bytes(size, "little")


def _cut(rng: np.random.Generator, data: bytearray, places: list[int]) -> None:
    """An end at, before or behind a boundary."""
    boundary = int(rng.choice([*places, PAGE, len(data) // 2, len(data) - PAGE]))
    del data[max(1, boundary + int(rng.integers(-9, 10))) :]


def _entries(rng: np.random.Generator, data: bytearray, places: list[int]) -> None:
    """Tables in circles and stars: entries that lead to other tables, or to their own."""
    frames = [place // PAGE for place in places] or [0]
    words = np.frombuffer(data, "<u8", len(data) // 8)
    words = words[: len(words) // 512 * 512].reshape(-1, 512).copy()
    for _ in range(int(rng.integers(1, 8))):
        table = int(rng.choice(frames)) % len(words)
        flags = int(rng.choice([0x67, 0x63, 0xE7, 0x867]))
        target = np.uint64((int(rng.choice(frames)) << 12) | flags)
        if rng.random() < 0.5:
            words[table, int(rng.integers(512))] = target
        else:
            words[table] = target
    data[: words.nbytes] = words.tobytes()


def _smear(rng: np.random.Generator, data: bytearray, places: list[int]) -> None:
    """Pages of another moment: pages copied over others, some of them shifted."""
    pages = max(1, len(data) // PAGE)
    for _ in range(int(rng.integers(1, max(2, pages // 50)))):
        source, target = (int(n) * PAGE for n in rng.integers(pages, size=2))
        page = data[source : source + PAGE]
        data[target : target + len(page)] = page


def _noise(rng: np.random.Generator, data: bytearray, places: list[int]) -> None:
    """Noise where a table, an object or a header was."""
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.choice(places)) // PAGE * PAGE
        size = int(rng.choice([64, 512, PAGE]))
        data[at : at + size] = rng.bytes(len(data[at : at + size]))


MUTATIONS: dict[str, Callable[[np.random.Generator, bytearray, list[int]], None]] = {
    "flip": _flip,
    "extreme": _extreme,
    "cut": _cut,
    "entries": _entries,
    "smear": _smear,
    "noise": _noise,
}


def run(case: Case, folder: Path) -> Outcome:
    """Run the command on a case's dump, which is in a folder that is empty but for it."""
    dump = folder / DUMP
    before = dump.stat()
    options = [] if case.number % 2 else ["--lenient"]
    outputs = ["-o", str(folder / "a.png"), "--json", str(folder / "a.json")]
    printed, said = io.StringIO(), io.StringIO()
    started = time.process_time()
    code, fault = -1, ""
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            code = cli.main([str(dump), *outputs, *options])
    except BaseException as error:
        fault = f"{type(error).__name__}: {error}"
    seconds = time.process_time() - started
    left = sorted(path.name for path in folder.iterdir())
    if not fault:
        fault = _fault(code, printed.getvalue(), said.getvalue(), left)
    after = dump.stat()
    if not fault and (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        fault = "the dump was changed"
    for name in left:
        (folder / name).unlink()
    return Outcome(fault, seconds, code)


def _fault(code: int, printed: str, said: str, left: list[str]) -> str:
    """What is wrong with how the command ended, if anything is."""
    if code not in _EXIT_CODES:
        return f"exit code {code}: {said[:300]}"
    if code == 2 and not re.fullmatch(r"(memviz: .+\n)+", said):
        return f"no sentence: {said[:300]!r}"
    if left != (["dump"] if code == 2 else ["a.json", "a.png", "dump"]):
        return f"exit code {code} left {left}"
    if not all(line.isprintable() for line in (printed + said).splitlines()):
        return "prints what a terminal would obey"
    return ""


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """An empty folder, in memory where there is one for that."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)
