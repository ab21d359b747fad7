"""The task for one dump of a fleet, on any machine.

The dump's own outputs are those of ``memviz``, byte for byte. All appear whole or not at all; the
outcome comes last. No dump makes its task fail: the fault becomes the sentence of the outcome.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.api import Snapshot
from memory_visualizer.api import open as open_snapshot
from memory_visualizer.errors import BadInputError, MemoryVisualizerError, reading
from memory_visualizer.export.summary import write_json
from memory_visualizer.fleet.datasets import DATASETS, part_of, write_datasets
from memory_visualizer.fleet.outcome import (
    DONE,
    FILE,
    Outcome,
    folder_of,
    read_outcome,
    write_outcome,
)
from memory_visualizer.fleet.sources import Source
from memory_visualizer.fleet.thumbnail import write_thumbnail
from memory_visualizer.formats.base import Progress, Scanner
from memory_visualizer.formats.files import file_size
from memory_visualizer.formats.opening import fingerprint
from memory_visualizer.formats.paths import as_path
from memory_visualizer.output import PARTS, is_own
from memory_visualizer.picture.colouring import Colouring, colour_by
from memory_visualizer.picture.entropy import entropy
from memory_visualizer.picture.file import paint_file
from memory_visualizer.picture.palette import PALETTES
from memory_visualizer.picture.picture import picture_of
from memory_visualizer.picture.scale import Scale
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.version import __version__
from memory_visualizer.viewer import write_page

WRITE_ERROR, BAD_INPUT, NO_SYSTEM = 1, 2, 3
"""The exit codes of ``memviz``."""


class ClusterError(MemoryVisualizerError):
    """The cluster, and not a dump, is at fault: no dump can be analysed."""


@dataclass(frozen=True)
class Options:
    """The options of ``memviz`` that change its outputs; they are the same for all dumps."""

    layout: str = "rows"
    width: int | None = None
    scale: int | str = 1
    palette: str = "default"
    legend: bool = False
    holes: str = "fold"
    color_by: str = "class"
    leads: bool = False
    """Whether page and summary have all leads; the dataset always has them."""
    lenient: bool = False


@dataclass(frozen=True)
class Result:
    """What a task gives back."""

    outcome: Outcome
    is_kept: bool = False
    """Whether it comes from an earlier run, so that nothing had to be done."""


def analyse_plain(
    source: Mapping[str, str], folder: str, options: Mapping[str, Any], version: str, *, force: bool
) -> Result:
    """Do `analyse` for a program that may be on another machine; the arguments are plain values.

    `version` is the version of that program. ClusterError if this machine cannot do its tasks.
    """
    check_version(version)
    return analyse(Source(**source), Path(folder), Options(**options), force=force)


def check_version(version: str) -> None:
    """Raise ClusterError if a program that gives tasks has another version than this one."""
    if version != __version__:
        raise ClusterError(
            f"a worker has Memory Visualizer {__version__}, but this is {version}: their outputs"
            " may differ"
        )


def analyse(
    source: Source,
    folder: Path,
    options: Options,
    *,
    force: bool = False,
    scanner: Scanner | None = None,
    progress: Progress | None = None,
) -> Result:
    """Write all outputs of one dump into the run's folder, unless they are there already.

    `force` as for output.whole_file, `scanner` and `progress` as for api.open. ClusterError if this
    machine does not see the folder, or the scanner's cluster is at fault; OSError if the outcome
    cannot be written.
    """
    if not folder.is_dir():
        raise ClusterError(
            f"a worker does not see the folder {folder}: it must be on storage that all share"
        )
    draft = Outcome(source.url, source.name, options=asdict(options))
    earlier = read_outcome(folder, source.name)
    try:
        draft = _identified(draft)
    except MemoryVisualizerError as error:
        failed = replace(draft, sentence=str(error), exit_code=BAD_INPUT)
        # The file may be back tomorrow, and its earlier outputs are still true.
        if earlier is None or not earlier.is_done:
            write_outcome(folder, failed)
        return Result(failed)
    if earlier and earlier.serves(draft, folder):
        return Result(earlier, is_kept=True)
    clear(folder, source.name)
    outcome = _made(draft, folder, options, scanner, progress, force=force)
    if not outcome.is_done:
        clear(folder, source.name)
    write_outcome(folder, outcome)
    return Result(outcome)


def _identified(draft: Outcome) -> Outcome:
    """The draft with size and fingerprint of the dump's file; BadInputError if it is unreadable."""
    path = as_path(draft.source)
    mark = fingerprint(path)
    with reading(path), path.open("rb", buffering=0) as file:
        return replace(draft, size=file_size(file), fingerprint=mark)


def _made(
    draft: Outcome,
    folder: Path,
    options: Options,
    scanner: Scanner | None,
    progress: Progress | None,
    *,
    force: bool,
) -> Outcome:
    """Analyse the dump and write its outputs."""
    try:
        with open_snapshot(
            draft.source, lenient=options.lenient, progress=progress, scanner=scanner
        ) as snapshot:
            outcome = _written(draft, folder, snapshot, options, force=force)
        sizes = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in outputs(folder, draft.name)
        }
        return replace(outcome, status=DONE, outputs=sizes)
    except ClusterError:
        raise
    except BadInputError as error:
        return replace(draft, sentence=str(error), exit_code=BAD_INPUT)
    except OSError as error:
        return replace(draft, sentence=f"cannot write {error.filename}: {error.strerror or error}")
    except MemoryError as error:
        return replace(draft, sentence=str(error) or "out of memory")
    except MemoryVisualizerError as error:
        return replace(draft, sentence=str(error))
    except Exception as error:  # a fault of this program must not cost the other dumps
        return replace(draft, sentence=f"internal error: {type(error).__name__}: {error}")


def _written(
    draft: Outcome, folder: Path, snapshot: Snapshot, options: Options, *, force: bool
) -> Outcome:
    """Write all outputs, and return the draft with the facts of the dump.

    Data is read in the order of ``memviz``, since the summary only tells what has been read.
    """
    picture, page, summary, thumbnail = _own_outputs(folder, draft.name)
    picture.parent.mkdir(parents=True, exist_ok=True)
    _ = snapshot.record_remarks
    if options.leads:
        snapshot.look_for_leads()
    measured = cache(lambda: entropy(snapshot.dump, zero=snapshot.zero))
    colouring = colour_by(options.color_by, snapshot, PALETTES[options.palette], measured)
    paint_file(
        picture,
        snapshot.dump,
        colouring,
        layout=options.layout,
        width=options.width,
        scale=options.scale,
        legend=options.legend,
        holes=options.holes,
        snapshot=snapshot,
        force=force,
    )
    _write_page(page, snapshot, options, measured, force=force)
    write_json(summary, snapshot, force=force)
    _write_thumbnail(thumbnail, snapshot, colouring, options, force=force)
    write_datasets(folder, draft.name, snapshot, force=force)
    return _told(draft, snapshot, json.loads(summary.read_bytes())["remarks"])


def _write_page(
    path: Path,
    snapshot: Snapshot,
    options: Options,
    measured: Callable[[], NDArray[np.uint8]],
    *,
    force: bool,
) -> None:
    write_page(
        path,
        snapshot,
        entropy=measured() if options.color_by == "entropy" else None,
        layout=options.layout,
        color_by=options.color_by,
        palette=options.palette,
        holes=options.holes,
        force=force,
    )


def _write_thumbnail(
    path: Path, snapshot: Snapshot, colouring: Colouring, options: Options, *, force: bool
) -> None:
    """Write the small picture. It is nearly square, so the option for the width does not apply.

    If a pixel of the picture stands for many pages, the small picture begins with the same scale.
    """
    scale = options.scale if Scale.of(options.scale).pages > 1 else 1
    picture = picture_of(
        snapshot.dump, colouring, layout=options.layout, holes=options.holes, scale=scale
    )
    write_thumbnail(path, picture, force=force)


def _told(draft: Outcome, snapshot: Snapshot, remarks: list[str]) -> Outcome:
    """The draft with the facts of a dump."""
    system, leads = snapshot.system, snapshot.leads.found
    kinds = sorted({lead.kind for lead in leads})
    return replace(
        draft,
        exit_code=0 if system else NO_SYSTEM,
        system=str(system) if system else None,
        family=system.family if system else None,
        time=snapshot.time.isoformat() if snapshot.time else None,
        frames=snapshot.dump.size // PAGE_SIZE,
        bytes=snapshot.dump.size,
        classes={one.label: count for one, count in snapshot.counts().items()},
        processes=sum(not process.is_kernel_thread for process in snapshot.processes),
        unlinked=sum(process.state == "unlinked" for process in snapshot.processes),
        leads={kind: sum(lead.kind == kind for lead in leads) for kind in kinds},
        remarks=len(remarks),
    )


def _own_outputs(folder: Path, name: str) -> tuple[Path, Path, Path, Path]:
    """Picture, page, summary and thumbnail of a dump."""
    own = folder_of(folder, name)
    return own / f"{name}.png", own / f"{name}.html", own / f"{name}.json", own / "thumbnail.png"


def outputs(folder: Path, name: str) -> Iterator[Path]:
    """All outputs of a dump but its outcome."""
    yield from _own_outputs(folder, name)
    yield from (part_of(folder, dataset, name) for dataset in DATASETS)


def clear(folder: Path, name: str) -> None:
    """Remove the outputs of an earlier run, and the remains of a killed run.

    The outcome goes first: without it nothing counts as done. Files that this program did not write
    stay, and so do their folders.
    """
    own = [folder_of(folder, name) / FILE, *outputs(folder, name)]
    for path in own:
        with suppress(OSError):
            if is_own(path):
                path.unlink()
    for place in {path.parent for path in own}:
        clear_parts(place)
        with suppress(OSError):
            place.rmdir()


def clear_parts(folder: Path) -> None:
    """Remove unfinished files of a killed process from a folder.

    They exist where a system cannot write files without a name. Nobody else may write to the folder
    at the same time.
    """
    for part in folder.glob(PARTS):
        part.unlink(missing_ok=True)
