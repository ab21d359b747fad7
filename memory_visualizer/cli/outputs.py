"""The files that ``memviz DUMP`` writes."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from memory_visualizer.cli.command import Steps, cannot_write, shown, write_picture
from memory_visualizer.cli.view import View
from memory_visualizer.export.summary import write_json
from memory_visualizer.export.tables import write_table, write_text_map
from memory_visualizer.export.volatility2 import profiles_of, why_unknown
from memory_visualizer.output import STANDARD_OUTPUT, whole_file
from memory_visualizer.printable import printable


def paths_beside(options: argparse.Namespace) -> list[Path]:
    """The outputs beside the picture that the options ask for."""
    return [path for name in WRITERS if (path := getattr(options, name))]


def write_outputs(view: View, picture: Path, steps: Steps) -> tuple[dict[Path, str], list[str]]:
    """Write all outputs: a line on each written file, and a sentence on each failure.

    BrokenPipeError if the reader of standard output has gone.
    """
    written: dict[Path, str] = {}
    failures: list[str] = []
    for path, write in _jobs(view, picture):
        try:
            written[path] = write(view, path)
        except BrokenPipeError:
            raise
        except OSError as error:
            failures.append(cannot_write(error))
        steps.done(f"writing {shown(path)}")
    return written, failures


def _jobs(view: View, picture: Path) -> list[tuple[Path, Callable[[View, Path], str]]]:
    """The outputs with the functions that write them; each returns a line on its output.

    Standard output comes last, since its reader may stop.
    """
    options = view.options
    jobs: list[tuple[Path | None, Callable[[View, Path], str]]] = [
        (picture, _paint),
        *((getattr(options, name), partial(_write, write)) for name, write in WRITERS.items()),
        (options.volatility2, _write_for_volatility2),
    ]
    named = [(path, write) for path, write in jobs if path]
    return sorted(named, key=lambda job: job[0] == STANDARD_OUTPUT)


def _paint(view: View, path: Path) -> str:
    return write_picture(
        view.options,
        path,
        view.snapshot.dump,
        view.colouring,
        dimmed=view.dimmed,
        snapshot=view.snapshot,
    )


def _write(write: Callable[[View, Path], None], view: View, path: Path) -> str:
    write(view, path)
    return f"{shown(path)}: written"


def _write_page(view: View, path: Path) -> None:
    """Write the page; the options choose its first view."""
    from memory_visualizer.viewer import write_page  # imported here, since most runs write no page

    options = view.options
    write_page(
        path,
        view.snapshot,
        entropy=view.entropy() if options.color_by == "entropy" else None,
        layout=options.layout,
        color_by=options.color_by,
        palette=options.palette,
        chosen=view.chosen,
        regions=bool(options.regions),
        holes=options.holes,
        hits=view.hits,
        force=options.force,
    )


def _write_table(view: View, path: Path) -> None:
    regions = bool(view.options.regions)
    write_table(path, view.snapshot, regions=regions, chosen=view.chosen, force=view.options.force)


def _write_json(view: View, path: Path) -> None:
    write_json(path, view.snapshot, hits=view.hits, chosen=view.chosen, force=view.options.force)


def _write_text_map(view: View, path: Path) -> None:
    write_text_map(path, view.snapshot, chosen=view.chosen, force=view.options.force)


def _write_files(view: View, path: Path) -> None:
    from memory_visualizer.export.inventorytables import write_files  # as most runs do not ask

    write_files(path, view.snapshot, chosen=view.chosen, force=view.options.force)


def _write_regions(view: View, path: Path) -> None:
    from memory_visualizer.export.inventorytables import write_regions  # as most runs do not ask

    write_regions(path, view.snapshot, chosen=view.chosen, force=view.options.force)


def _write_hits(view: View, path: Path) -> None:
    from memory_visualizer.export.inventorytables import write_hits  # as most runs do not ask

    assert view.hits is not None  # options.check_options has seen --yara
    write_hits(path, view.snapshot, view.hits, force=view.options.force)


def _write_for_volatility2(view: View, path: Path) -> str:
    """Write the facts for visualizer.sh: lines with a keyword and a value."""
    snapshot = view.snapshot
    unlinked = [process for process in snapshot.processes if process.state == "unlinked"]
    lines = [
        f"profiles {' '.join(profiles_of(snapshot))}",
        f"why {why_unknown(snapshot)}",
        f"unlinked {len(unlinked)}",
    ]
    with whole_file(path) as file:
        file.write("".join(f"{printable(line)}\n" for line in lines).encode("utf-8"))
    return ""


WRITERS: dict[str, Callable[[View, Path], None]] = {
    "html": _write_page,
    "table": _write_table,
    "json": _write_json,
    "map": _write_text_map,
    "files": _write_files,
    "regions": _write_regions,
    "hits": _write_hits,
}
"""The options that name an output beside the picture, with the functions that write it."""
