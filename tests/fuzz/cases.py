"""One case: a mutation of a sound dump, run through a command as its users run it."""

import contextlib
import io
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

import imagegenerator
from memory_visualizer.cli import memviz as cli
from memory_visualizer.picture.colouring import COLOURINGS
from tests.fuzz.seeds import CONTAINERS, PAGE, SYSTEMS, Seed, seed

_EXTREMES = (0, 1, 0x7F, 0xFF, 0xFFFF, 1 << 31, 2**32 - 1, 1 << 52, 2**63 - 1, 2**64 - 1)
_EXIT_CODES = (0, 2, 3)
_OPTIONS = (
    ("--lenient",),
    ("--layout", "hilbert"),
    ("--scale", "3"),
    ("--palette", "colour-blind"),
    ("--legend",),
)
_MEMVIZ_OPTIONS = (
    *(("--color-by", what) for what in COLOURINGS),
    ("--uses",),
    ("--pid", "4"),
    ("--name", "."),
    ("--html", "a.html"),
    ("--table", "a.csv"),
    ("--table", "a.npz"),
    ("--map", "a.map"),
    ("--regions", "a.regions.csv"),
)


@dataclass(frozen=True)
class Case:
    """All values from which a mutated dump can be made again."""

    system: str
    container: str
    mutation: str
    number: int
    """Seed of the random numbers."""
    options: Sequence[str] = ()
    """Options of the command."""


def cases(systems: Sequence[str] = ()) -> st.SearchStrategy[Case]:
    """Cases of some systems, or of all; most are raw dumps."""

    def of_container(container: str) -> st.SearchStrategy[Case]:
        options = _OPTIONS if container == "map" else (*_OPTIONS, *_MEMVIZ_OPTIONS)
        chosen = st.lists(st.sampled_from(options), max_size=2, unique_by=lambda option: option[0])
        return st.builds(
            Case,
            st.sampled_from(systems or SYSTEMS),
            st.just(container),
            st.sampled_from(list(MUTATIONS)),
            st.integers(0, 2**32 - 1),
            chosen.map(lambda options: tuple(chain(*options))),
        )

    return st.sampled_from(["raw"] * len(CONTAINERS) + CONTAINERS).flatmap(of_container)


@dataclass(frozen=True)
class Outcome:
    """The end of a case."""

    fault: str
    """The fault; empty if the case ended well."""
    seconds: float
    """Processor time."""
    code: int


def mutated(case: Case) -> bytearray:
    """The mutated input of a case."""
    sound = seed(case.system, case.container)
    data = bytearray(sound.contents)
    rng = np.random.default_rng([case.number, len(case.mutation)])
    MUTATIONS[case.mutation](rng, data, sound.places.tolist())
    return data


def _flip(rng: np.random.Generator, data: bytearray, places: list[int]) -> None:
    """A few wrong bytes near important places."""
    for _ in range(int(rng.integers(1, 12))):
        at = (int(rng.choice(places)) + int(rng.integers(0, PAGE))) % len(data)
        data[at] ^= int(rng.integers(1, 256))


def _extreme(rng: np.random.Generator, data: bytearray, places: list[int]) -> None:
    """Counts, lengths and addresses of extreme size."""
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
    if len(data) < PAGE:
        return _extreme(rng, data, places)
    frames = [place // PAGE for place in places] or [0]
    words = np.frombuffer(data, "<u8", len(data) // PAGE * (PAGE // 8)).reshape(-1, PAGE // 8)
    for _ in range(int(rng.integers(1, 8))):
        table = int(rng.choice(frames)) % len(words)
        flags = int(rng.choice([0x67, 0x63, 0xE7, 0x867]))
        target = np.uint64((int(rng.choice(frames)) << 12) | flags)
        if rng.random() < 0.5:
            words[table, int(rng.integers(512))] = target
        else:
            words[table] = target
    return None


def _smear(rng: np.random.Generator, data: bytearray, places: list[int]) -> None:
    """Pages from another moment: pages copied over others, some of them shifted."""
    pages = max(1, len(data) // PAGE)
    for _ in range(int(rng.integers(1, max(2, pages // 50)))):
        source, target = (int(n) * PAGE for n in rng.integers(pages, size=2))
        page = data[source : source + PAGE]
        data[target : target + len(page)] = page


def _noise(rng: np.random.Generator, data: bytearray, places: list[int]) -> None:
    """Noise in the place of a table, an object or a header."""
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.choice(places)) // PAGE * PAGE
        size = int(rng.choice([64, 512, PAGE]))
        data[at : at + size] = rng.bytes(len(data[at : at + size]))


def _numbers(rng: np.random.Generator, data: bytearray, places: list[int]) -> None:
    """Numbers in a text that are too large, too small, or not numbers; else as `_extreme`."""
    if b"\0" in data[:PAGE]:
        return _extreme(rng, data, places)
    for _ in range(int(rng.integers(1, 12))):
        if not (found := re.compile(rb"\w+").search(data, int(rng.choice(places)))):
            continue
        value = _EXTREMES[int(rng.integers(len(_EXTREMES)))]
        forms = (str(value), hex(value), f"-{value}", "True", "nan", "", "\x1b[2J", "9" * 5000)
        data[slice(*found.span())] = forms[int(rng.integers(len(forms)))].encode()
    return None


MUTATIONS: dict[str, Callable[[np.random.Generator, bytearray, list[int]], None]] = {
    "flip": _flip,
    "extreme": _extreme,
    "cut": _cut,
    "entries": _entries,
    "smear": _smear,
    "noise": _noise,
    "numbers": _numbers,
}


def prepare(case: Case, folder: Path, *, sound: bool = False) -> Seed:
    """Write a case's files into an empty folder; `sound` leaves out the mutation.

    Returns the parameters of `run`, without the contents.
    """
    given = seed(case.system, case.container)
    for name, contents in given.beside.items():
        (folder / name).write_bytes(contents)
    (folder / given.name).write_bytes(given.contents if sound else mutated(case))
    return replace(given, contents=b"", beside={})


def run(given: Seed, options: Sequence[str], folder: Path) -> Outcome:
    """Run the command on the files, which are alone in a folder, and remove all files."""
    inputs = {path: path.stat() for path in folder.iterdir()}
    arguments = [str(folder / name) for name in given.arguments]
    arguments += ["-o", str(folder / "a.png")]
    if not given.is_map:
        arguments += ["--json", str(folder / "a.json")]
    arguments += [str(folder / one) if one.startswith("a.") else one for one in options]
    printed, said = io.StringIO(), io.StringIO()
    started = time.process_time()
    code, fault = -1, ""
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            code = (imagegenerator if given.is_map else cli).main(arguments)
    except BaseException as error:
        fault = f"{type(error).__name__}: {error}"
    seconds = time.process_time() - started
    outputs = {one for one in arguments if Path(one).name.startswith("a.")}
    left = {str(path) for path in folder.iterdir()} - set(map(str, inputs))
    if not fault:
        fault = _fault(given, code, printed.getvalue(), said.getvalue(), left, outputs)
    for path, before in inputs.items():
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            fault = fault or f"{path.name} was changed"
    for path in list(folder.iterdir()):
        path.unlink()
    return Outcome(fault, seconds, code)


def _fault(
    given: Seed, code: int, printed: str, said: str, left: set[str], outputs: set[str]
) -> str:
    """The fault in the end of a command; empty if it ended well."""
    if code not in _EXIT_CODES:
        return f"exit code {code}: {said[:300]}"
    program = "imagegenerator.py" if given.is_map else "memviz"
    if code == 2 and not re.fullmatch(rf"({re.escape(program)}: .+\n)+", said):
        return f"no sentence: {said[:300]!r}"
    if left != (set() if code == 2 else outputs):
        return f"exit code {code} left {sorted(left)}"
    if not all(line.isprintable() for line in (printed + said).splitlines()):
        return "prints what a terminal would obey"
    return ""


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """An empty folder, in memory if there is a file system for it."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)
