"""The page: one HTML file that shows the owners of each page of a dump.

    write_page(Path("memory.html"), snapshot)

The file contains everything it needs, and may not load anything: its content security policy names
exactly the scripts and styles in it, and forbids the network. Its sources, plain files that are
joined unchanged, are in `page`; libraries by others are in `vendor`.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import runs_in
from memory_visualizer.export.summary import dump_holes
from memory_visualizer.leads import LEADS, leads_so_far
from memory_visualizer.output import GENERATOR, whole_file
from memory_visualizer.picture import colouring
from memory_visualizer.picture.folding import long_holes
from memory_visualizer.picture.palette import FOLD, PALETTES, hex_colour
from memory_visualizer.printable import binary_size, printable
from memory_visualizer.snapshot.findings import remarks_on_copies
from memory_visualizer.snapshot.framerecords import RecordFinding
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.snapshot.process import STATE_WORDS
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE
from memory_visualizer.viewer.data import page_columns
from memory_visualizer.viewer.dumpfile import about_file
from memory_visualizer.viewer.inventory import module_columns, region_columns

_LIBRARIES = (
    "color",
    "dispatch",
    "ease",
    "interpolate",
    "selection",
    "timer",
    "drag",
    "transition",
    "zoom",
)
"""Parts of D3 in the order of their dependencies: d3-zoom and the parts that it needs."""

_SCRIPTS = (
    "dom",
    "data",
    "list",
    "folding",
    "layout",
    "colour",
    "tiles",
    "map",
    "strip",
    "card",
    "legend",
    "uses",
    "processes",
    "files",
    "modules",
    "leads",
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

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


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
    force: bool = False,
) -> None:
    """Write the page of a snapshot.

    `entropy` is the result of entropy.entropy, if the page should show it; `regions` reads the
    regions of all processes and the modules of the kernel, for the page to name them, which takes
    longer. The other arguments choose the first view: one of layout.LAYOUTS, colouring.COLOURINGS
    and palette.PALETTES, the processes whose pages are highlighted, by index in Snapshot.processes,
    and what becomes of long holes, one of folding.HOLES. The file appears whole or
    not at all. The same arguments make the same bytes. OSError when it cannot be written, or must
    not be replaced (see output.check_target).
    """
    start = {"layout": layout, "color": color_by, "palette": palette}
    if chosen is not None:
        start["show"] = ",".join(map(str, sorted(chosen)))
    text = page(snapshot, entropy, start, holes=holes, regions=regions)
    with whole_file(path, force=force) as file:
        file.write(text.encode("utf-8"))


def page(
    snapshot: Snapshot,
    entropy: NDArray[np.uint8] | None,
    start: Mapping[str, str],
    *,
    holes: str = "fold",
    regions: bool = False,
) -> str:
    """The page as text.

    `start` names the layout, the colouring (`color`), the palette, and the highlighted processes
    (`show`, as in the page's address), if any. `holes` is one of folding.HOLES.
    """
    others = _file_columns(snapshot) | _record_columns(snapshot)
    if entropy is not None:
        others["entropy"] = entropy
    modules, of_modules = module_columns(snapshot, asked=regions)
    texts, of_regions = region_columns(snapshot) if regions else ([], {})
    others |= of_modules | of_regions
    about = _about(snapshot, has_entropy=entropy is not None)  # and remarks on all that was read
    about |= {"modules": modules, "regions": texts}
    about["start"] = dict(start)
    about["folds"] = long_holes(snapshot.dump.there) if holes == "fold" else []
    about["fold"] = hex_colour(FOLD)
    about["named"] = []
    named = [("state", snapshot.states), ("use", snapshot.uses)]
    if start.get("color") == "file":  # read only if it is asked for
        named.append(("file", colouring.by_file(snapshot, PALETTES["default"]).values))
    for name, codes in named:
        if codes is not None:
            others[name] = codes
            about["named"].append(
                {"id": name, "title": name.capitalize(), "swatches": _swatches(snapshot, name)}
            )
    about["file"], places = about_file(snapshot)
    columns, about["untold"] = page_columns(snapshot, others | places)
    about["files"] = [
        f"{printable(file.path)}{' (deleted)' * file.is_deleted}"
        for file in snapshot.file_pages.files
    ]
    about["leads"] = _leads(snapshot)
    about["findings"] = [finding.label for finding in RecordFinding]
    about["columns"] = {name: [column.count, column.width] for name, column in columns.items()}
    style = _source("page/style.css")
    script = _script()
    parts = {
        "generator": GENERATOR,
        "title": html.escape(about["dump"]["name"]),
        "facts": html.escape(_facts(snapshot)),
        "end": hex(snapshot.dump.frame_count * PAGE_SIZE),
        "policy": html.escape(_policy(script, style)),
        "style": style,
        "script": script,
        "worker": _source("page/findworker.js"),
        "licences": html.escape(
            _source("vendor/LICENSE-d3.txt") + "\n" + _source("vendor/LICENSE-d3-ease.txt")
        ),
        "about": _json_element(about),
        "columns": "\n".join(
            f'<script type="application/octet-stream" id="column-{name}">'
            f"{base64.b64encode(column.packed).decode('ascii')}</script>"
            for name, column in columns.items()
        ),
    }
    # All placeholders are replaced in one pass, so that no text from the dump is taken for one.
    return _PLACEHOLDER.sub(lambda found: parts[found[1]], _source("page/page.html"))


def _record_columns(snapshot: Snapshot) -> dict[str, NDArray[Any]]:
    """What else the kernel says of frames: see FrameRecords; 0 stands for nobody, and for none."""
    records = snapshot.records
    if (
        records is None
        or records.last_owners is None
        or records.priorities is None
        or records.findings is None
    ):
        return {}
    return {
        "last_owner": records.last_owners + np.int32(1),
        "priority": records.priorities + np.uint8(1),
        "finding": records.findings,
    }


_MOST_RUNS = 100_000
"""The most runs of frames of all leads that a page has."""


def _leads(snapshot: Snapshot) -> dict[str, Any]:
    """The leads with their frames, each run as its first frame and its number of frames."""
    index = {id(process): number for number, process in enumerate(snapshot.processes)}
    leads, room, found = leads_so_far(snapshot), _MOST_RUNS, []
    for lead in leads.found:
        runs = runs_in(lead.frames)[:room]
        room -= len(runs)
        found.append(
            {
                "kind": lead.kind,
                "reason": printable(lead.reason),
                "process": index[id(lead.process)] if lead.process else -1,
                "pages": len(lead.frames),
                "runs": runs.tolist(),
            }
        )
    return {"kinds": LEADS, "complete": leads.is_complete, "found": found}


def _file_columns(snapshot: Snapshot) -> dict[str, NDArray[Any]]:
    """The file behind each frame, 0 for none, and its place in it.

    The place is in sectors of 512 bytes, plus one, since images are aligned to sectors in their
    files; 0 where it is unknown.
    """
    if not snapshot.file_pages.files:
        return {}
    file, offset = snapshot.file_pages.of_frames(0, snapshot.classes.size)
    return {"file_of": file + np.int32(1), "file_sector": (offset >> 9) + 1}


def _facts(snapshot: Snapshot) -> str:
    """One line on the dump and its system."""
    dump = snapshot.dump
    facts = [printable(dump.format), binary_size(dump.size), f"{dump.size // PAGE_SIZE:,} pages"]
    if holes := dump_holes(dump):
        facts.append(f"{holes:,} holes" if holes > 1 else "1 hole")
    if snapshot.system and snapshot.paging:
        facts += [printable(str(snapshot.system)), f"{snapshot.paging.name} paging"]
    else:
        facts.append("no system found")
    if snapshot.time:
        facts.append(f"taken {snapshot.time:%Y-%m-%d %H:%M:%S} UTC")
    if dump.sha256:
        facts.append(f"SHA-256 {dump.sha256}")
    return " · ".join(facts)


def _policy(script: str, style: str) -> str:
    """A content security policy: only this script and this style, and no text becomes markup.

    The script may start workers from text in the page (blob:), which this policy binds, too.
    """
    return (
        "default-src 'none';"
        f" script-src '{_hash(script)}';"
        f" style-src '{_hash(style)}';"
        " worker-src blob:; img-src data:; base-uri 'none'; form-action 'none';"
        " require-trusted-types-for 'script'; trusted-types memviz-worker"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _script() -> str:
    libraries = [_source(f"vendor/d3-{name}.min.js") for name in _LIBRARIES]
    own = [_source(f"page/{name}.js") for name in _SCRIPTS]
    return "\n".join([*libraries, '(() => {\n"use strict";', *own, "})();"])


def _source(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _json_element(data: Any) -> str:
    """JSON for a script element: nothing in it ends the element or a line."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _about(snapshot: Snapshot, *, has_entropy: bool) -> dict[str, Any]:
    """Everything beside the columns. Text from the dump is made printable here."""
    dump = snapshot.dump
    pages = snapshot.pages_of_processes().tolist()
    return {
        "dump": {
            "name": printable(dump.path.name),
            "frames": dump.frame_count,
        },
        "classes": [page_class.label for page_class in PageClass],
        "palettes": {
            name: [hex_colour(palette[page_class]) for page_class in PageClass]
            for name, palette in PALETTES.items()
        },
        "swatches": {
            name: _swatches(snapshot, name)
            for name in ("process", "protection", "entropy", "mappings")
            if has_entropy or name != "entropy"
        },
        "processes": [
            {
                "pid": process.pid,
                "ppid": process.ppid,
                "name": printable(process.name),
                "state": process.state,
                # Anomalies that the state does not tell already.
                "anomalies": [word for word in process.anomalies if word not in STATE_WORDS],
                "private": private,
                "shared": shared,
                "colour": hex_colour(colouring.process_colour(process)),
            }
            for process, (private, shared) in zip(snapshot.processes, pages, strict=True)
        ],
        "remarks": [
            printable(remark)
            for remark in (
                *leads_so_far(snapshot).remarks,
                *dump.remarks,
                *snapshot.remarks,
                *snapshot.record_remarks,
                *(snapshot.inventory.remarks if snapshot.inventory else ()),
                *remarks_on_copies(snapshot.copies),
            )
        ],
    }


def _swatches(snapshot: Snapshot, name: str) -> list[list[str]]:
    """Labels and colours of a colouring, by its values; for processes only the base."""
    found = colouring.swatches_of(name, snapshot, PALETTES["default"])
    chosen = found[: colouring.BASE_SWATCHES] if name == "process" else found
    return [[swatch.label, hex_colour(swatch.colour)] for swatch in chosen]
