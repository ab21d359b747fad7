"""The summary of a dump, everything except the pages themselves, as JSON values."""

import json
import os
from collections import Counter
from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from memory_visualizer.arrays import runs_in
from memory_visualizer.export.hits import hit_rows
from memory_visualizer.export.volatility2 import profiles_of
from memory_visualizer.formats.base import Dump
from memory_visualizer.leads import Lead, leads_so_far
from memory_visualizer.output import GENERATOR, whole_file
from memory_visualizer.snapshot.framerecords import NOBODY, PageUse
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.yara import Hits


def _object(required: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": required,
        "required": list(required),
        "additionalProperties": False,
    }


def _field(kind: str | list[str], description: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": description, **more}


def _array(item: dict[str, Any], description: str) -> dict[str, Any]:
    return {"type": "array", "description": description, "items": item}


MAX_LISTED_RUNS = 1000
"""The most runs of frames that a lead lists."""
_COUNTS = {"additionalProperties": {"type": "integer"}}
_ADDRESS = {"pattern": "^0x[0-9a-f]+$"}

_PROCESS = _object(
    {
        "pid": _field("integer", "its process identifier; -1 where only its page tables are known"),
        "ppid": _field("integer", "its parent's pid; -1 where it is not known"),
        "name": _field("string", "as the kernel records it; may be any text"),
        "dtb": _field(
            "string", "physical address of its top-level page table; 0x0 if it has none", **_ADDRESS
        ),
        "user_dtb": _field(
            "string",
            "physical address of its second top-level table, for user mode; 0x0 if it has none",
            **_ADDRESS,
        ),
        "object_address": _field(
            "string",
            "virtual address of its _EPROCESS or task_struct (physical address where no page table"
            " leads to it); 0x0 if not found",
            **_ADDRESS,
        ),
        "pages": _field("integer", "page frames that it has in user mode"),
        "private_pages": _field("integer", "page frames that only this process has"),
        "shared_pages": _field("integer", "page frames that other processes have, too"),
        "listed": _field("boolean", "whether it is in the system's list of processes"),
        "kernel_thread": _field("boolean", "whether it is a thread of the Linux kernel"),
        "exited": _field("boolean", "whether it has ended, and its page tables are not in use"),
        "phase": _field("string", "starting, running, ending, or exited"),
        "anomalies": _array({"type": "string"}, "its anomalies, in words of process.ANOMALIES"),
        "created": _field(["string", "null"], "ISO 8601, UTC"),
        "exit_time": _field(["string", "null"], "ISO 8601, UTC"),
    }
)

_LEAD = _object(
    {
        "kind": _field("string", "one of leads.LEADS"),
        "reason": _field("string", "a sentence; may hold any text from the dump"),
        "pid": _field(["integer", "null"], "of the process that it is about, if it is one"),
        "pages": _field("integer", "its page frames"),
        "runs": _array(
            {"type": "string", "pattern": "^0x[0-9a-f]+-0x[0-9a-f]+$"},
            "first and last page frame of each run, as `memviz extract --frames` takes them; at"
            f" most {MAX_LISTED_RUNS:,} runs",
        ),
        "runs_left_out": _field("integer", "how many runs there are beyond these"),
    }
)

_YARA = _object(
    {
        "scanned": _field("integer", "bytes of memory that were scanned"),
        "rules": _array(
            _object(
                {
                    "rule": _field("string", "its name"),
                    "rules": _field("string", "name of the file with the rule"),
                    "hits": _field("integer", "all hits, also those that are not listed"),
                    "exact": _field("boolean", "whether there are exactly so many, and not more"),
                    "pages": _field("integer", "page frames with bytes of its hits"),
                }
            ),
            "the rules with hits",
        ),
        "hits": _array(
            _object(
                {
                    "rule": _field("string", "the rule's name"),
                    "rules": _field("string", "name of the file with the rule"),
                    "pattern": _field("string", "such as $a; empty for a rule without a pattern"),
                    "physical": _field("string", "physical address of the first byte", **_ADDRESS),
                    "pfn": _field("integer", "page frame"),
                    "offset": _field("integer", "of the first byte, in its page"),
                    "length": _field("integer", "bytes"),
                    "pid": _field(["integer", "null"], "of the first process that has the page"),
                    "process": _field("string", "its name"),
                    "virtual": _field(["string", "null"], "address in this process", **_ADDRESS),
                    "owners": _field("integer", "how many processes have the page"),
                    "file": _field("string", "path of the file behind the page; or empty"),
                    "file_offset": _field(["integer", "null"], "of the first byte in this file"),
                    "data": _field("string", "the first bytes in hexadecimal"),
                }
            ),
            "the first hits of each rule",
        ),
    }
)

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Summary of a memory dump",
    **_object(
        {
            "generator": _field("string", "the program and version that wrote it"),
            "dump": _field("string", "the file's name"),
            "format": _field("string", "such as ELF core"),
            "sha256": _field(["string", "null"], "SHA-256 of the dump's file; only with --hash"),
            "size": _field("integer", "bytes of memory that the dump holds"),
            "frames": _field("integer", "page frames up to the last one that is held"),
            "runs": _field("integer", "runs of page frames that the dump holds"),
            "holes": _field("integer", "gaps between these runs"),
            "os": _field(["string", "null"], "such as Windows 10.0.19041; null if not known"),
            "time": _field(["string", "null"], "the system's own clock, ISO 8601, UTC"),
            "paging": _field(["string", "null"], "such as x86-64"),
            "dtb": _field(
                ["string", "null"], "physical address of the kernel's page table", **_ADDRESS
            ),
            "classes": _field("object", "page frames of each class", **_COUNTS),
            "states": _field(["object", "null"], "page frames of each state", **_COUNTS),
            "uses": _field(["object", "null"], "page frames of each use", **_COUNTS),
            "pfn_database": {
                "description": "Windows' page frame database; null where it was not found",
                "oneOf": [
                    {"type": "null"},
                    _object(
                        {
                            "address": _field("string", "virtual address of record 0", **_ADDRESS),
                            "stride": _field("integer", "bytes of a record"),
                            "agreement": _field(
                                "number",
                                "share of active, mapped page frames whose records lead to the"
                                " entry that maps them, 0 to 1",
                            ),
                        }
                    ),
                ],
            },
            "files": {
                "description": "files with pages in memory; null if not known",
                "anyOf": [
                    {"type": "null"},
                    _object(
                        {
                            "count": _field("integer", "files with pages in memory"),
                            "deleted": _field("integer", "those whose names were removed"),
                            "pages": _field("integer", "page frames that hold parts of files"),
                        }
                    ),
                ],
            },
            "frame_findings": _field(
                ["object", "null"],
                "page frames whose records contradict the page tables",
                **_COUNTS,
            ),
            "last_owners": _field(
                ["object", "null"],
                "standby and modified page frames of each process that had them, by pid",
                **_COUNTS,
            ),
            "stale_spaces": _field("integer", "address spaces that no live process has"),
            "volatility2_profiles": _array({"type": "string"}, "profiles of Volatility 2 that fit"),
            "processes_left_out": _field("integer", "number of processes that were not chosen"),
            "processes": _array(_PROCESS, "in the order of their pids"),
            "copies": _array(
                _object(
                    {
                        "pid": _field("integer", "as the copy says"),
                        "name": _field("string", "as the copy says"),
                        "object_address": _field("string", "where it lies", **_ADDRESS),
                    }
                ),
                "stale copies of process objects, which are not processes",
            ),
            "leads": _array(_LEAD, "what to look at first; kinds as in leads.LEADS"),
            "leads_are_complete": _field(
                "boolean",
                "whether contents, regions and files were looked at for leads (--leads)",
            ),
            "yara": {
                "description": "hits of YARA rules; null without --yara",
                "oneOf": [{"type": "null"}, _YARA],
            },
            "remarks": _array({"type": "string"}, "remarks on missing or doubtful data"),
        }
    ),
}
"""The JSON Schema of the result of `summary` and of ``memviz --json``."""


def summary(
    snapshot: Snapshot, *, chosen: Collection[int] | None = None, hits: Hits | None = None
) -> dict[str, Any]:
    """Everything except the pages themselves, as JSON values.

    Only the `chosen` processes, indices in Snapshot.processes, are included; `hits` are those of
    YARA rules. SCHEMA describes each
    field. Addresses are hexadecimal text, since many readers of JSON keep numbers exactly only up
    to 2**53.
    """
    dump = snapshot.dump
    pages = snapshot.pages_of_processes().tolist()
    leads = leads_so_far(snapshot)
    if chosen is not None:
        leads = leads.of([snapshot.processes[index] for index in chosen])
    left_out = [] if chosen is None else set(range(len(snapshot.processes))) - set(chosen)
    return {
        "generator": GENERATOR,
        "dump": os.fsencode(dump.path.name).decode("utf-8", "backslashreplace"),
        "format": dump.format,
        "sha256": dump.sha256,
        "size": dump.size,
        "frames": dump.frame_count,
        "runs": len(dump.runs),
        "holes": dump_holes(dump),
        "os": str(snapshot.system) if snapshot.system else None,
        "time": _date(snapshot.time),
        "paging": snapshot.paging.name if snapshot.paging else None,
        "dtb": _hex(snapshot.kernel_dtb),
        "classes": {page_class.label: count for page_class, count in snapshot.counts().items()},
        "states": {state.label: count for state, count in snapshot.state_counts().items()} or None,
        "files": _files(snapshot),
        "uses": _use_counts(snapshot),
        "pfn_database": _database(snapshot),
        "frame_findings": _finding_counts(snapshot),
        "last_owners": _last_owner_counts(snapshot.with_last_owners(chosen)),
        "stale_spaces": snapshot.stale_spaces,
        "volatility2_profiles": list(profiles_of(snapshot)),
        "processes_left_out": len(left_out),
        "processes": [
            {
                "pid": process.pid,
                "ppid": process.ppid,
                "name": process.name,
                "dtb": _hex(process.dtb),
                "user_dtb": _hex(process.user_dtb),
                "object_address": _hex(process.object_address),
                "pages": private + shared,
                "private_pages": private,
                "shared_pages": shared,
                "listed": process.is_listed,
                "kernel_thread": process.is_kernel_thread,
                "exited": not process.is_alive,
                "phase": process.phase,
                "anomalies": list(process.anomalies),
                "created": _date(process.created),
                "exit_time": _date(process.exited),
            }
            for index, (process, (private, shared)) in enumerate(
                zip(snapshot.processes, pages, strict=True)
            )
            if index not in left_out
        ],
        "copies": [
            {"pid": copy.pid, "name": copy.name, "object_address": _hex(copy.object_address)}
            for copy in snapshot.copies
        ],
        "leads": [_lead(lead) for lead in leads.found],
        "leads_are_complete": leads.is_complete,
        "yara": _yara(snapshot, hits) if hits else None,
        "remarks": [
            *(hits.remarks if hits else ()),
            *leads.remarks,
            *dump.remarks,
            *snapshot.remarks,
            *snapshot.record_remarks,
            *(snapshot.inventory.remarks if snapshot.inventory else ()),
        ],
    }


def _lead(lead: Lead) -> dict[str, Any]:
    runs = runs_in(lead.frames)
    return {
        "kind": lead.kind,
        "reason": lead.reason,
        "pid": lead.process.pid if lead.process else None,
        "pages": len(lead.frames),
        "runs": [
            f"{first:#x}-{first + count - 1:#x}" for first, count in runs[:MAX_LISTED_RUNS].tolist()
        ],
        "runs_left_out": max(len(runs) - MAX_LISTED_RUNS, 0),
    }


def _yara(snapshot: Snapshot, hits: Hits) -> dict[str, Any]:
    return {
        "scanned": hits.scanned,
        "rules": [
            {
                "rule": rule.name,
                "rules": rule.file,
                "hits": rule.count,
                "exact": rule.is_exact,
                "pages": len(rule.frames),
            }
            for rule in hits.rules
        ],
        "hits": list(hit_rows(snapshot, hits)),
    }


def _use_counts(snapshot: Snapshot) -> dict[str, int] | None:
    """Frames of each use; None where no use is known."""
    if snapshot.uses is None:
        return None
    counts = snapshot.use_counts().sum(axis=1).tolist()
    return {use.label: count for use, count in zip(PageUse, counts, strict=True)}


def _database(snapshot: Snapshot) -> dict[str, Any] | None:
    found = snapshot.records.database if snapshot.records else None
    if found is None:
        return None
    return {
        "address": hex(found.address),
        "stride": found.stride,
        "agreement": round(found.agreement, 4),
    }


def _finding_counts(snapshot: Snapshot) -> dict[str, int] | None:
    """Frames of each finding; None where no records are known that could contradict tables."""
    counts = {finding.label: count for finding, count in snapshot.finding_counts().items()}
    return counts or None


def _last_owner_counts(snapshot: Snapshot) -> dict[str, int] | None:
    """Frames that each process had last, by its pid as text; None where that is not known."""
    records = snapshot.records
    if records is None or records.last_owners is None:
        return None
    counts: Counter[str] = Counter()
    owners, frames = np.unique(
        records.last_owners[records.last_owners != NOBODY], return_counts=True
    )
    for owner, count in zip(owners.tolist(), frames.tolist(), strict=True):
        counts[str(snapshot.processes[owner].pid)] += count
    return dict(counts)


def _files(snapshot: Snapshot) -> dict[str, int] | None:
    """The counts of files in memory."""
    pages = snapshot.file_pages
    if not pages.files:
        return None
    deleted = sum(file.is_deleted for file in pages.files)
    return {"count": len(pages.files), "deleted": deleted, "pages": len(pages.frame)}


def dump_holes(dump: Dump) -> int:
    """The number of gaps below the last frame that are neither held nor left out."""
    if len(dump.left_out_runs):
        return int(np.count_nonzero(np.diff(dump.there, prepend=True, append=True)) // 2)
    return len(dump.runs) - (1 if dump.runs[0, 0] == 0 else 0)


def _date(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


def _hex(address: int | None) -> str | None:
    return None if address is None else hex(address)


def write_json(
    path: Path,
    snapshot: Snapshot,
    *,
    chosen: Collection[int] | None = None,
    hits: Hits | None = None,
    force: bool = False,
) -> None:
    """Write the summary as JSON; the arguments and errors as for summary and write_table."""
    with whole_file(path, force=force) as file:
        text = json.dumps(summary(snapshot, chosen=chosen, hits=hits), indent=2)
        file.write(text.encode("ascii") + b"\n")
