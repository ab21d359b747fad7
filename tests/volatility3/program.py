"""Volatility 3 as the tests run it."""

import csv
import io
import json
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests import prestarted
from tests.conftest import newest_volatility3

ROOT = Path(__file__).resolve().parents[2]

Row = dict[str, str]
Mapping = tuple[int, int, int]
"""Virtual address, physical address, size."""


_START = """import sys
sys.argv[0] = "vol"
sys.modules["jsonschema"] = None
from volatility3.cli import main
main()"""
"""Starts Volatility 3 as where jsonschema, which it does not require, is not installed.

With it, Volatility compares each symbol file with the schema, for 20 seconds if the kernel is real.
"""


@cache
def cache_of(program: Path) -> "tempfile.TemporaryDirectory[str]":
    """Volatility's cache of identities of symbol files, its own, too, for all runs of a release."""
    return tempfile.TemporaryDirectory(prefix="volatility3-")


@dataclass
class Volatility:
    """Volatility 3 with a dump and symbols."""

    program: Path
    folder: Path
    """The folder of the dump and the symbols."""
    symbols: Path
    dump: Path = field(init=False)
    _found: dict[Path, Path] = field(init=False, default_factory=dict)
    """The configuration of the kernel that was found in each dump."""

    def __post_init__(self) -> None:
        self.dump = self.folder / "dump.raw"

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a plugin with these arguments; returns its output and its exit code.

        The first run on a dump finds the kernel. Later ones get what it found, as a person may do
        it, since the search for the tables of 32-bit Windows takes seconds.
        """
        output = self.folder / "output"
        output.mkdir(exist_ok=True)
        known = self._found.get(self.dump)
        saved = Path(tempfile.mkdtemp(dir=self.folder)) / "configuration"
        configuration = ("--config", known) if known else ("--save-config", saved)
        common = ("--offline", "-q", "--cache-path", cache_of(self.program).name)
        mine = ("-s", self.symbols, "-o", output, "-p", ROOT / "plugins3", "-f", self.dump)
        done = self._run([*common, *mine, *configuration, *arguments])
        if not known and saved.exists():
            options = json.loads(saved.read_text()).items()
            kernel = {name: value for name, value in options if name.startswith("kernel.")}
            saved.write_text(json.dumps(kernel))
            self._found[self.dump] = saved
        return done

    def take(self, found: "Volatility") -> None:
        """Use what was found in another file with the same memory."""
        known = found._found[found.dump].read_text()
        mine = self.folder / f"{self.dump.name}.configuration"
        mine.write_text(known.replace(found.dump.as_uri(), self.dump.as_uri()))
        self._found[self.dump] = mine

    def _run(self, arguments: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        if self.program == newest_volatility3():
            return prestarted.run(["-c", _START, *arguments], self.folder, loaded="volatility3")
        return subprocess.run(
            [str(self.program), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
        )

    def rows(self, *arguments: str | Path) -> list[Row]:
        """The rows of a plugin's table."""
        done = self.run("-r", "csv", *arguments)
        assert done.returncode == 0, done.stderr
        table = done.stdout[done.stdout.index("TreeDepth") :]
        return list(csv.DictReader(io.StringIO(table), escapechar="\\"))

    def memmap_of(self, pid: int) -> list[Mapping]:
        """The rows of Volatility's own `memmap` for a process."""
        return addresses(self.rows("windows.memmap", "--pid", str(pid)))

    def memmap(self) -> dict[int, list[Mapping]]:
        """The rows of Volatility's own `memmap`, by pid.

        The rows do not name their process: in each process, addresses ascend.
        """
        rows = addresses(self.rows("windows.memmap"))
        ends = [n for n in range(1, len(rows)) if rows[n][0] <= rows[n - 1][0]]
        pids = [int(row["PID"]) for row in self.rows("windows.pslist")]
        return {
            pid: rows[start:end]
            for pid, start, end in zip(pids, [0, *ends], [*ends, len(rows)], strict=True)
        }


def addresses(rows: Iterable[Row]) -> list[Mapping]:
    """The mappings that rows with addresses tell."""
    return [
        (int(row["Virtual"], 16), int(row["Physical"], 16), int(row["Size"], 16)) for row in rows
    ]
