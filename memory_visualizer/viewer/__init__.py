"""The page: one HTML file that shows the owners of each page of a dump.

    write_page(Path("memory.html"), snapshot)

The file contains everything it needs, and may not load anything: its content security policy names
exactly the scripts and styles in it, and forbids the network. Its sources, plain files that are
joined unchanged, are in `page`; libraries by others are in `vendor`.
"""

import html
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import runs_in
from memory_visualizer.export.summary import dump_holes
from memory_visualizer.leads import LEADS, Leads, leads_so_far
from memory_visualizer.output import whole_file
from memory_visualizer.picture import colouring
from memory_visualizer.picture.folding import long_holes
from memory_visualizer.picture.palette import (
    APART_FOR_ALL,
    COLOURED_FOR_ALL,
    DARK,
    FOLD,
    PALETTES,
    Palette,
    hex_colour,
)
from memory_visualizer.printable import binary_size, counted, printable
from memory_visualizer.snapshot.findings import remarks_on_copies
from memory_visualizer.snapshot.framerecords import RecordFinding
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.snapshot.process import STATE_WORDS
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.viewer.data import AnyColumn, PageColumns, Scattered
from memory_visualizer.viewer.dumpfile import about_file
from memory_visualizer.viewer.htmlfile import MAP_SCRIPTS, file_of, source
from memory_visualizer.viewer.inventory import module_columns, region_columns
from memory_visualizer.yara import Hits

_SCRIPTS = (
    *MAP_SCRIPTS,
    "uses",
    "processes",
    "files",
    "modules",
    "leads",
    "yara",
    "lights",
    "litpages",
    "goto",
    "dumpfile",
    "hex",
    "find",
    "save",
    "bench",
    "link",
    "main",
)
"""The page's own scripts; together they form one function, so that no name leaks."""


def write_page(
    path: Path,
    snapshot: Snapshot,
    *,
    entropy: NDArray[np.uint8] | None = None,
    layout: str = "rows",
    color_by: str = "class",
    palette: str = "default",
    chosen: Collection[int] | None = None,
    regions: bool = False,
    holes: str = "fold",
    hits: Hits | None = None,
    force: bool = False,
) -> None:
    """Write the page of a snapshot.

    `entropy` is the result of entropy.entropy, if the page should show it; `regions` reads the
    regions of all processes and the modules of the kernel, for the page to name them, which takes
    longer; `hits` are those of YARA rules. The other arguments choose the first view: one of
    layout.LAYOUTS, colouring.COLOURINGS and palette.PALETTES, the processes whose pages are
    highlighted, by index in Snapshot.processes, and the display of long holes, one of
    folding.HOLES. The file appears whole or not at all. The same arguments make the same bytes.
    OSError when it cannot be written, or must not be replaced (see output.check_target).
    """
    start = {"layout": layout, "color": color_by, "palette": palette}
    if chosen is not None:
        start["show"] = ",".join(map(str, sorted(chosen)))
    text = page(snapshot, entropy, start, holes=holes, regions=regions, hits=hits)
    with whole_file(path, force=force) as file:
        file.write(text.encode("utf-8"))


def page(
    snapshot: Snapshot,
    entropy: NDArray[np.uint8] | None,
    start: Mapping[str, str],
    *,
    holes: str = "fold",
    regions: bool = False,
    hits: Hits | None = None,
) -> str:
    """The page as text.

    `start` names the layout, the colouring (`color`), the palette, and the highlighted processes
    (`show`, as in the page's address), if any. `holes` is one of folding.HOLES.
    """
    snapshot.pages_of_processes()  # which takes memory for a while, as the owners do
    with PageColumns(snapshot) as packing:
        packing.add(_file_columns(snapshot))
        packing.add(_record_columns(snapshot))
        if entropy is not None:
            packing.add({"entropy": entropy})
        modules, of_modules = module_columns(snapshot, asked=regions)
        packing.add(of_modules)
        texts, of_regions = region_columns(snapshot) if regions else ([], {})
        packing.add(of_regions)
        packing.wait_for_owners()
        leads = leads_so_far(snapshot)
        # Last, so that it has the remarks on everything that was read before.
        about = _about(snapshot, leads, has_entropy=entropy is not None)
        about |= {"modules": modules, "regions": texts}
        about["start"] = dict(start)
        about["folds"] = long_holes(snapshot.dump.there) if holes == "fold" else []
        about["fold"] = hex_colour(FOLD)
        about["named"] = _named(snapshot, start, packing)
        about["file"], places = about_file(snapshot)
        packing.add(places)
        columns, about["untold"] = packing.all()
    names = [*about["swatches"], *(named["id"] for named in about["named"])]
    about["schemes"] = {
        kind: {name: _scheme(snapshot, palette, names) for name, palette in palettes.items()}
        for kind, palettes in (("light", PALETTES), ("dark", DARK))
    }
    about["forAll"] = list(COLOURED_FOR_ALL)
    about["apart"] = APART_FOR_ALL
    about["files"] = [
        f"{printable(file.path)}{' (deleted)' * file.is_deleted}"
        for file in snapshot.file_pages.files
    ]
    lit_by_leads, lit_by_hits = _Runs("leads"), _Runs("hits of YARA rules")
    about["leads"] = _leads(snapshot, leads, lit_by_leads)
    about["yara"] = _yara(hits, lit_by_hits) if hits else None
    about["remarks"] += [*lit_by_leads.remarks, *lit_by_hits.remarks]
    about["remarks"] += [printable(remark) for remark in (hits.remarks if hits else ())]
    about["findings"] = [finding.label for finding in RecordFinding]
    return file_of(
        "page.html",
        scripts=_SCRIPTS,
        styles=("style.css",),
        about=about,
        columns=columns,
        parts={
            "title": html.escape(about["dump"]["name"]),
            "facts": html.escape(_facts(snapshot)),
            "end": hex(snapshot.dump.frame_count * PAGE_SIZE),
            "worker": source("page/findworker.js"),
        },
    )


def _named(
    snapshot: Snapshot, start: Mapping[str, str], packing: PageColumns
) -> list[dict[str, Any]]:
    """Colourings whose values have packed columns of their own."""
    found = [("state", snapshot.states), ("use", snapshot.uses)]
    if start.get("color") == "file":  # read only if it is asked for
        found.append(("file", colouring.by_file(snapshot, PALETTES["default"]).values))
    named = []
    for name, codes in found:
        if codes is not None:
            packing.add({name: codes})
            named.append(
                {"id": name, "title": name.capitalize(), "swatches": _labels(snapshot, name)}
            )
    return named


def _record_columns(snapshot: Snapshot) -> dict[str, AnyColumn]:
    """Further records of the kernel, see FrameRecords; 0 stands for no value."""
    records = snapshot.records
    if (
        records is None
        or records.last_owners is None
        or records.priorities is None
        or records.findings is None
    ):
        return {}
    return {
        "last_owner": _from_one(records.last_owners, len(snapshot.processes)),
        "priority": records.priorities + np.uint8(1),
        "finding": records.findings,
    }


def _from_one(
    numbers: NDArray[np.signedinteger[Any]], highest: int
) -> NDArray[np.unsignedinteger[Any]]:
    """The numbers plus one, up to `highest`, in as few bytes as possible."""
    found = numbers.astype(np.min_scalar_type(highest))  # -1 becomes the largest number
    found += found.dtype.type(1)
    return found


_MAX_RUNS = 100_000
"""The most runs of frames in a page for all leads together, and for all hits together."""


class _Runs:
    """Runs of frames that leads or hits light, up to a limit for all of them."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._room = _MAX_RUNS
        self._left_out = 0

    def of(self, frames: NDArray[np.int64]) -> list[list[int]]:
        """The runs of these frames: the first frame of each, and the number of its frames."""
        runs = runs_in(frames)
        kept = runs[: self._room]
        self._room -= len(kept)
        self._left_out += len(runs) - len(kept)
        pairs: list[list[int]] = kept.tolist()
        return pairs

    @property
    def remarks(self) -> list[str]:
        """A sentence if runs were left out."""
        if not self._left_out:
            return []
        return [
            f"{counted(self._left_out, 'stretch', 'stretches')} of pages of {self._what} cannot be"
            f" lit in this page: it has the first {_MAX_RUNS:,}"
        ]


def _leads(snapshot: Snapshot, leads: Leads, lit: _Runs) -> dict[str, Any]:
    """The leads with the runs of their frames."""
    index = {id(process): number for number, process in enumerate(snapshot.processes)}
    found = [
        {
            "kind": lead.kind,
            "reason": printable(lead.reason),
            "process": index[id(lead.process)] if lead.process else -1,
            "pages": len(lead.frames),
            "runs": lit.of(lead.frames),
        }
        for lead in leads.found
    ]
    return {"kinds": LEADS, "complete": leads.is_complete, "found": found}


def _yara(hits: Hits, lit: _Runs) -> dict[str, Any]:
    """The hits of YARA rules, and the runs of frames of each rule."""
    rules = [
        {
            "name": rule.name,
            "file": printable(rule.file),
            "count": rule.count,
            "exact": rule.is_exact,
            "runs": lit.of(rule.frames),
        }
        for rule in hits.rules
    ]
    rows = [
        [
            *(hit.rule, hit.pattern, hit.frame, hit.offset, hit.length, hit.process),
            *("" if hit.virtual is None else hex(hit.virtual), hit.owners),
        ]
        for hit in hits.found
    ]
    return {"rules": rules, "hits": rows}


def _file_columns(snapshot: Snapshot) -> dict[str, AnyColumn]:
    """The file behind each frame, 0 for none, and its place in it.

    The place is in sectors of 512 bytes, plus one, since images are aligned to sectors in their
    files; 0 where it is unknown.
    """
    if not snapshot.file_pages.files:
        return {}
    pages, frames = snapshot.file_pages, snapshot.classes.size
    return {
        "file_of": Scattered(frames, pages.frame, pages.file.astype(np.int64) + 1),
        "file_sector": Scattered(frames, pages.frame, (pages.offset >> 9) + 1),
    }


def _facts(snapshot: Snapshot) -> str:
    """One line on the dump and its system."""
    dump = snapshot.dump
    facts = [printable(dump.format), binary_size(dump.size), f"{dump.size // PAGE_SIZE:,} pages"]
    if holes := dump_holes(dump):
        facts.append(f"{holes:,} holes" if holes > 1 else "1 hole")
    if snapshot.system and snapshot.paging:
        facts += [printable(str(snapshot.system)), snapshot.paging.title]
    else:
        facts.append("no system found")
    if snapshot.time:
        facts.append(f"taken {snapshot.time:%Y-%m-%d %H:%M:%S} UTC")
    if dump.sha256:
        facts.append(f"SHA-256 {dump.sha256}")
    return " · ".join(facts)


def _about(snapshot: Snapshot, leads: Leads, *, has_entropy: bool) -> dict[str, Any]:
    """Everything beside the columns. Text from the dump is made printable here."""
    dump = snapshot.dump
    pages = snapshot.pages_of_processes().tolist()
    return {
        "dump": {
            "name": printable(dump.path.name),
            "frames": dump.frame_count,
        },
        "classes": [page_class.label for page_class in PageClass],
        "palettes": list(PALETTES),
        "swatches": {
            name: _labels(snapshot, name)
            for name in ("process", "protection", "entropy", "mappings")
            if has_entropy or name != "entropy"
        },
        "processes": [
            {
                "pid": process.pid,
                "ppid": process.ppid,
                "name": printable(process.shown_name),
                "state": process.state,
                # Only anomalies that the state does not already show.
                "anomalies": [word for word in process.anomalies if word not in STATE_WORDS],
                "private": private,
                "shared": shared,
            }
            for process, (private, shared) in zip(snapshot.processes, pages, strict=True)
        ],
        "remarks": [
            printable(remark)
            for remark in (
                *leads.remarks,
                *dump.remarks,
                *snapshot.remarks,
                *snapshot.record_remarks,
                *(snapshot.inventory.remarks if snapshot.inventory else ()),
                *remarks_on_copies(snapshot.copies),
            )
        ],
    }


def _labels(snapshot: Snapshot, name: str) -> list[str]:
    """Labels of a colouring, by its values; for processes only the first, which are not theirs."""
    found = colouring.swatches_of(name, snapshot, PALETTES["default"])
    chosen = found[: colouring.BASE_SWATCHES] if name == "process" else found
    return [swatch.label for swatch in chosen]


def _scheme(snapshot: Snapshot, palette: Palette, names: Iterable[str]) -> dict[str, list[str]]:
    """The colours of each colouring in a palette, by its values; all colours for processes."""
    found = {name: colouring.swatches_of(name, snapshot, palette) for name in ("class", *names)}
    return {
        name: [hex_colour(swatch.colour) for swatch in swatches] for name, swatches in found.items()
    }
