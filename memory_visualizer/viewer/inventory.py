"""Modules of the kernel and regions of processes for the HTML page.

Both are read on demand, since reading the regions of a few hundred processes takes longer than all
other work. Modules that cost little are read for every page.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import changes
from memory_visualizer.printable import printable
from memory_visualizer.snapshot.inventory import Region
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.units import PAGE_SIZE

_Columns = dict[str, NDArray[Any]]


def module_columns(snapshot: Snapshot, *, asked: bool) -> tuple[list[str], _Columns]:
    """The names of modules, and the columns of their frames; empty unless `asked` or cheap.

    A run of frames of one module has ``module_gap`` (frames between the end of the run before and
    this one), ``module_count`` (frames) and ``module_of`` (index of the name). A frame that several
    modules claim belongs to the first of them.
    """
    inventory = snapshot.inventory
    is_read = asked or (inventory is not None and inventory.modules_cost_little)
    modules = (snapshot.modules if is_read else None) or ()
    names = [printable(module.name) for module in modules]
    frame = np.array([frame for module in modules for frame in module.frames], np.int64)
    if not len(frame):
        return names, {}
    which = np.repeat(np.arange(len(modules)), [len(module.frames) for module in modules])
    frame, first = np.unique(frame, return_index=True)
    which = which[first]
    starts = np.flatnonzero(changes(frame - np.arange(len(frame)), which))
    count = np.diff(starts, append=len(frame))
    end = np.append(0, frame[starts] + count)[:-1]
    columns = {
        "module_gap": frame[starts] - end,
        "module_count": count,
        "module_of": which[starts],
    }
    return names, columns


def region_columns(snapshot: Snapshot) -> tuple[list[str], _Columns]:
    """Descriptions of regions, and the columns of the regions by process and address.

    ``region_count`` is the number of regions of each process; ``region_gap`` the pages of address
    space between the end of the region before and this one, ``region_pages`` its pages, and
    ``region_text`` the index of its description. A region that overlaps the one before is cut, or
    left out.
    """
    texts: dict[str, int] = {}
    counts: list[int] = []
    rows: list[tuple[int, int, int]] = []
    for process in snapshot.processes:
        end, before = 0, len(rows)
        for region in sorted(snapshot.regions(process) or (), key=lambda one: one.start):
            start = max(region.start // PAGE_SIZE, end)
            pages = -(-region.end // PAGE_SIZE) - start
            if pages <= 0:
                continue
            text = texts.setdefault(description(region), len(texts))
            rows.append((start - end, pages, text))
            end = start + pages
        counts.append(len(rows) - before)
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    titles = ("region_gap", "region_pages", "region_text")
    found: _Columns = dict(zip(titles, columns, strict=True))
    return list(texts), {"region_count": np.array(counts, np.int64), **found}


def description(region: Region) -> str:
    """A region in a few words, such as ``r-x private /usr/bin/bash``."""
    words = (
        region.protection,
        "private" if region.is_private else "shared",
        region.kind,
        printable(region.name or region.file),
        "(deleted)" * region.is_deleted,
        *(f"· {finding}" for finding in region.findings),
    )
    return " ".join(filter(None, words))
