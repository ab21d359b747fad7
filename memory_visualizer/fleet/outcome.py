"""The outcome of one dump: the file outcome.json beside its outputs.

It is written last: if it exists, all outputs that it names are whole. It says nothing about the run
(times, machine), so every machine writes the same bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from memory_visualizer.output import GENERATOR, whole_file
from memory_visualizer.version import __version__

SCHEMA = 1
"""The version of the file's form."""
FILE = "outcome.json"
DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class Outcome:
    """The facts of one dump for an index, and the file and options that its outputs come from."""

    source: str
    """The dump's path or URL, without credentials."""
    name: str
    """Its name in the run, which is also the name of its folder."""
    size: int = 0
    """Bytes of its file; 0 if it could not be read."""
    fingerprint: str = ""
    """See formats.opening.fingerprint; empty if the file could not be read."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The options that change outputs."""
    version: str = __version__
    """The program's."""
    status: str = FAILED
    """DONE or FAILED."""
    sentence: str | None = None
    """Why it failed."""
    exit_code: int = 1
    """The exit code of ``memviz`` for the same dump."""
    system: str | None = None
    """Such as ``Windows 10.0.19041``; None if unknown. All further facts are empty on failure."""
    family: str | None = None
    """``Windows`` or ``Linux``."""
    time: str | None = None
    """The system's own clock, ISO 8601, UTC."""
    frames: int = 0
    """Page frames that the dump holds."""
    bytes: int = 0
    """Bytes of these frames."""
    classes: Mapping[str, int] = field(default_factory=dict)
    """Page frames of each class."""
    processes: int = 0
    """The number of processes, kernel threads of Linux not counted."""
    unlinked: int = 0
    """Processes that are in memory, but not in the system's list."""
    leads: Mapping[str, int] = field(default_factory=dict)
    """The number of leads of each kind; kinds without leads are left out."""
    remarks: int = 0
    """The number of remarks in the summary, on missing or doubtful data."""
    outputs: Mapping[str, int] = field(default_factory=dict)
    """The size of each output in bytes, by its path below the run's folder, with slashes."""

    @property
    def is_done(self) -> bool:
        """Whether all outputs were written."""
        return self.status == DONE

    def serves(self, other: "Outcome", folder: Path) -> bool:
        """Whether this outcome has the file and options of `other`, and all its outputs exist.

        `folder` is the folder of the run.
        """
        same = ("source", "name", "size", "fingerprint", "options", "version")
        return (
            self.is_done
            and all(getattr(self, word) == getattr(other, word) for word in same)
            and all(_size(folder / path) == size for path, size in self.outputs.items())
        )


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def folder_of(folder: Path, name: str) -> Path:
    """The folder of a dump's own outputs in the run's folder."""
    return folder / "dumps" / name


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write the file of an outcome into the run's folder. OSError as for output.whole_file."""
    path = folder_of(folder, outcome.name) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"generator": GENERATOR, "schema": SCHEMA, **asdict(outcome)}, indent=2)
    with whole_file(path) as file:
        file.write(text.encode("ascii") + b"\n")


def read_outcome(folder: Path, name: str) -> Outcome | None:
    """The outcome of a dump in the run's folder; None if it is missing or malformed."""
    try:
        values = json.loads((folder_of(folder, name) / FILE).read_bytes())
        if values["schema"] != SCHEMA or values["name"] != name:
            return None
        return Outcome(**{one.name: values[one.name] for one in fields(Outcome)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def outcomes_in(folder: Path) -> list[Outcome]:
    """All outcomes in a run's folder, also of earlier runs, by name."""
    names = sorted(path.parent.name for path in folder.glob(f"dumps/*/{FILE}"))
    return [found for name in names if (found := read_outcome(folder, name))]
