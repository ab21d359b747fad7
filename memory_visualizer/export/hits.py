"""The hits of YARA rules as rows, for tables and JSON."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from memory_visualizer.output import HIT_TITLES
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.yara import Hits

HIT_BYTES = 32
"""The most bytes of a hit that are shown."""


def hit_rows(snapshot: Snapshot, hits: Hits) -> Iterator[dict[str, Any]]:
    """A row for each hit: see write_hits."""
    for hit in hits.found:
        rule = hits.rules[hit.rule]
        process = snapshot.processes[hit.process] if hit.process >= 0 else None
        file = snapshot.file_of(hit.frame)
        at = file[1] if file else None
        page = snapshot.dump.read_frames(np.array([hit.frame])).tobytes()
        length = min(hit.length, HIT_BYTES)
        values = (
            rule.name,
            rule.file,
            hit.pattern,
            hex(hit.physical),
            hit.frame,
            hit.offset,
            hit.length,
            process.pid if process else None,
            process.name if process else "",
            None if hit.virtual is None else hex(hit.virtual),
            hit.owners,
            file[0].path if file else "",
            None if at is None else at + hit.offset,
            page[hit.offset : hit.offset + length].hex(),
        )
        yield dict(zip(HIT_TITLES, values, strict=True))
