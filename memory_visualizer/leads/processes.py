"""Leads about processes, and about records of frames: they need no further read of the dump."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.leads.lead import Lead
from memory_visualizer.leads.processpages import ProcessPages
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.findings import named
from memory_visualizer.snapshot.framerecords import RecordFinding
from memory_visualizer.snapshot.process import STATE_WORDS
from memory_visualizer.snapshot.snapshot import Snapshot


def process_leads(snapshot: Snapshot, pages: ProcessPages) -> Iterator[Lead]:
    """Processes that are unlinked, have odd objects, or have ended and still have memory.

    An anomaly that most processes have belongs to the system, not to a process.
    """
    words = Counter(word for one in snapshot.processes for word in map(_word, one.anomalies))
    usual = {word for word, count in words.items() if 2 * count > len(snapshot.processes)}
    for index, process in enumerate(snapshot.processes):
        who = named([process])
        kinds = {}
        if not process.object_address:
            if process.phase == "running" and not usual.intersection(process.anomalies):
                kinds["page tables without a process"] = (
                    f"the page tables at {process.dtb:#x} are in use, but no process has them"
                )
        elif process.state == "unlinked":
            kinds["unlinked process"] = f"{who} is not in the list of processes"
        odd = [
            word
            for word in process.anomalies
            if _word(word) not in usual and _word(word) not in STATE_WORDS
        ]
        if odd and process.object_address:
            kinds["odd process object"] = f"{who}: {'; '.join(odd)}"
        if process.exited is not None or process.phase in ("ending", "exited"):
            kinds["ended process with memory"] = f"by its object, {who} has ended; it has memory"
        if not kinds:
            continue
        frames = pages.of(index).frames
        for kind, reason in kinds.items():
            if kind != "ended process with memory" or len(frames):
                yield Lead(kind, reason, frames, process)


def _word(anomaly: str) -> str:
    """An anomaly without the address that may follow it."""
    return anomaly.split(" 0x")[0]


_FINDINGS = {
    RecordFinding.FREE_BUT_MAPPED: "a process has mapped {}, free by the kernel's records",
    RecordFinding.PRIVATE_BUT_NOT_MAPPED: (
        "no process has mapped {}, by the kernel's records in use as a process's private memory"
    ),
}


def record_leads(snapshot: Snapshot) -> Iterator[Lead]:
    """Frames whose records contradict the page tables."""
    if len(frames := snapshot.contradicted):
        reason = (
            f"processes have mapped {_count(frames)}, by the kernel's records free or its own; such"
            " mappings are left out"
        )
        yield Lead("records disagree", reason, frames)
    records = snapshot.records
    if records is None or records.findings is None:
        return
    for finding, sentence in _FINDINGS.items():
        if len(frames := np.flatnonzero(records.findings == finding)):
            yield Lead("records disagree", sentence.format(_count(frames)), frames)


def _count(frames: NDArray[np.int64]) -> str:
    return counted(len(frames), "page")
