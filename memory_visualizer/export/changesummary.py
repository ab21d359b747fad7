"""The changes between dumps as JSON values, except for the frames themselves."""

import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from memory_visualizer.difference.changes import ChangeBit
from memory_visualizer.difference.difference import Difference
from memory_visualizer.difference.moment import Moment
from memory_visualizer.difference.processes import ProcessChange
from memory_visualizer.output import GENERATOR, whole_file
from memory_visualizer.snapshot.process import Process


def _object(required: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": required,
        "required": list(required),
        "additionalProperties": False,
    }


def _field(kind: str | list[str], description: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": description, **more}


def _array(item: dict[str, Any], description: str, kind: Any = "array") -> dict[str, Any]:
    return {"type": kind, "description": description, "items": item}


_COUNTS = {"additionalProperties": {"type": "integer"}}

_OWNER = _object(
    {
        "pid": _field("integer", "its process identifier; -1 where only its tables are known"),
        "name": _field("string", "its name; may be any text"),
    }
)

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "What changed between memory dumps",
    **_object(
        {
            "generator": _field("string", "the program and version that wrote it"),
            "dumps": _array(
                _object(
                    {
                        "dump": _field("string", "the file's name"),
                        "format": _field("string", "such as ELF core"),
                        "os": _field(["string", "null"], "such as Windows 10.0.19041"),
                        "time": _field(["string", "null"], "the system's own clock, ISO 8601, UTC"),
                        "started": _field(["string", "null"], "when the system started, the same"),
                        "size": _field("integer", "bytes of memory that the dump holds"),
                        "frames": _field("integer", "page frames up to the last one that is held"),
                        "classes": _field("object", "page frames of each class", **_COUNTS),
                        "remarks": _array({"type": "string"}, "on missing or doubtful data"),
                    }
                ),
                "in the order in which they are compared",
            ),
            "steps": _array(
                _object(
                    {
                        "step": _field("integer", "1 from the first dump to the second"),
                        "one_machine": _field(
                            "boolean",
                            "whether both dumps are of one machine, without a restart in between;"
                            " if not, frames are not compared, and processes are matched by name",
                        ),
                        "witnesses": _array(
                            _object(
                                {
                                    "what": _field("string", "a thing that stays while it runs"),
                                    "before": _field("string", "by the earlier dump"),
                                    "after": _field("string", "by the later dump"),
                                    "agrees": _field("boolean", "whether it is the same"),
                                    "weight": _field("integer", "of its vote"),
                                }
                            ),
                            "what tells whether it is one machine",
                        ),
                        "changes": _field(
                            ["object", "null"], "page frames by their strongest change", **_COUNTS
                        ),
                        "bits": _field(
                            ["object", "null"], "page frames of which each is true", **_COUNTS
                        ),
                        "owner_moves": _array(
                            _object(
                                {
                                    "from": _array(_OWNER, "owners before"),
                                    "to": _array(_OWNER, "owners after"),
                                    "frames": _field("integer", "page frames"),
                                }
                            ),
                            "page frames with other owners, most frames first, 1,000 rows at most",
                        ),
                        "processes": _array(
                            _object(
                                {
                                    "pid": _field("integer", "its process identifier"),
                                    "name": _field("string", "its name in the later dump"),
                                    "old_name": _field(
                                        ["string", "null"], "its name before, if it was another one"
                                    ),
                                    "change": _field(
                                        "string",
                                        "came, went, came and went, grew, shrank or same",
                                    ),
                                    "pages_before": _field("integer", "page frames in user mode"),
                                    "pages_after": _field("integer", "page frames in user mode"),
                                    "unlinked": _field(
                                        "boolean", "whether it was taken out of the list"
                                    ),
                                    "new_anomalies": _array(
                                        {"type": "string"}, "anomalies that it did not have before"
                                    ),
                                    "created": _field(["string", "null"], "ISO 8601, UTC"),
                                }
                            ),
                            "in the order of the later dump, those that are gone last",
                        ),
                        "leads": _array(
                            _object(
                                {
                                    "kind": _field("string", "one of leads.lead.LEADS"),
                                    "reason": _field("string", "a sentence; may hold any text"),
                                    "pid": _field(["integer", "null"], "of its process"),
                                    "pages": _field("integer", "page frames"),
                                }
                            ),
                            "leads of a kind that the process did not have before, or of more"
                            " pages than before",
                        ),
                        "files": _array(
                            _object(
                                {
                                    "path": _field("string", "its path"),
                                    "kind": _field("string", "such as file"),
                                    "pages_before": _field("integer", "page frames"),
                                    "pages_after": _field("integer", "page frames"),
                                }
                            ),
                            "files with more or fewer pages in memory; null where not known",
                            ["array", "null"],
                        ),
                        "remarks": _array({"type": "string"}, "on this comparison"),
                    }
                ),
                "from each dump to the next",
            ),
            "remarks": _array({"type": "string"}, "on the order of the dumps"),
        }
    ),
}
"""The JSON Schema of the result of ``memviz diff --json``."""


def dump_values(moment: Moment) -> dict[str, Any]:
    """A dump, as in `dumps` of SCHEMA."""
    dump = moment.dump
    return {
        "dump": os.fsencode(dump.path.name).decode("utf-8", "backslashreplace"),
        "format": dump.format,
        "os": str(moment.system) if moment.system else None,
        "time": _date(moment.time),
        "started": _date(moment.booted),
        "size": dump.size,
        "frames": dump.frame_count,
        "classes": {page_class.label: count for page_class, count in moment.counts.items()},
        "remarks": list(moment.remarks),
    }


def step_values(found: Difference, step: int) -> dict[str, Any]:
    """A step, as in `steps` of SCHEMA."""
    is_one = found.is_one_machine
    return {
        "step": step,
        "one_machine": is_one,
        "witnesses": [vars(one) for one in found.kinship.witnesses],
        "changes": {change.label: count for change, count in found.counts().items()}
        if is_one
        else None,
        "bits": _bit_values(found) if is_one else None,
        "owner_moves": _moves(found) if is_one else [],
        "processes": [_process_values(one) for one in found.processes],
        "leads": [
            {
                "kind": lead.kind,
                "reason": lead.reason,
                "pid": None if lead.process is None else found.after.processes[lead.process].pid,
                "pages": lead.pages,
            }
            for lead in found.leads
        ],
        "files": None
        if found.files is None
        else [
            {
                "path": file.path,
                "kind": file.kind,
                "pages_before": file.pages_before,
                "pages_after": file.pages_after,
            }
            for file in found.files
        ],
        "remarks": list(found.remarks),
    }


def _bit_values(found: Difference) -> dict[str, int]:
    counts = found.bit_counts()
    return {str(bit.name).lower(): counts[bit] for bit in ChangeBit}


def _moves(found: Difference) -> list[dict[str, Any]]:
    return [
        {
            "from": _owner_values(before, found.before.processes),
            "to": _owner_values(after, found.after.processes),
            "frames": frames,
        }
        for before, after, frames in found.owner_moves()
    ]


def _owner_values(indices: Sequence[int], processes: Sequence[Process]) -> list[dict[str, Any]]:
    return [{"pid": processes[index].pid, "name": processes[index].name} for index in indices]


def _process_values(one: ProcessChange) -> dict[str, Any]:
    return {
        "pid": one.process.pid,
        "name": one.process.name,
        "old_name": one.old_name,
        "change": one.change,
        "pages_before": one.pages_before,
        "pages_after": one.pages_after,
        "unlinked": one.was_unlinked,
        "new_anomalies": list(one.new_anomalies),
        "created": _date(one.process.created),
    }


def _date(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


def write_changes(
    path: Path,
    moments: Sequence[Moment],
    steps: Sequence[dict[str, Any]],
    remarks: Sequence[str],
    *,
    force: bool = False,
) -> None:
    """Write the summary as JSON: see SCHEMA. `steps` are as by step_values. OSError as above."""
    values = {
        "generator": GENERATOR,
        "dumps": [dump_values(moment) for moment in moments],
        "steps": list(steps),
        "remarks": list(remarks),
    }
    with whole_file(path, force=force) as file:
        file.write(json.dumps(values, indent=2).encode("ascii") + b"\n")
