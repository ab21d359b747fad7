"""The files of which something is in memory, with their pages counted."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.snapshot.framerecords import StateKind
from memory_visualizer.snapshot.inventory import File, FilePages
from memory_visualizer.snapshot.owners import Owners
from memory_visualizer.snapshot.process import Process


def files_in_memory(
    pages: FilePages,
    states: NDArray[np.uint8] | None,
    kind: StateKind,
    mapping_count: NDArray[np.uint32],
    owners: Iterable[tuple[range, Owners]],
    processes: Sequence[Process],
) -> tuple[File, ...]:
    """The files of `pages`, each with its pages by state and the processes that have any.

    `states`, `mapping_count` and `processes` are as in Snapshot, `kind` is its state_kind, `owners`
    as by owners_by_frame.
    """
    count = len(pages.files)
    total = np.bincount(pages.file, minlength=count)
    mapped = np.bincount(pages.file[mapping_count[pages.frame] > 0], minlength=count)
    by_state = _by_state(pages, states, kind)
    users = _users(pages, owners)
    return tuple(
        File(
            **vars(file),
            pages=int(total[number]),
            states=by_state[number],
            mapped=int(mapped[number]),
            processes=tuple(processes[index] for index in users.get(number, ())),
        )
        for number, file in enumerate(pages.files)
    )


def _by_state(
    pages: FilePages, states: NDArray[np.uint8] | None, kind: StateKind
) -> list[Mapping[str, int]]:
    """Of each file its pages by state, in words."""
    found: list[dict[str, int]] = [{} for _ in pages.files]
    if states is None:
        return [*found]
    key = pages.file.astype(np.int64) << 8 | states[pages.frame]
    values, counts = np.unique(key, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        found[value >> 8][kind(value & 0xFF).label] = count
    return [*found]


def _users(pages: FilePages, owners: Iterable[tuple[range, Owners]]) -> dict[int, list[int]]:
    """Of each file the processes that have a page of it, by their indices."""
    keys: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    for frames, some in owners:
        file, _ = pages.of_frames(frames.start, frames.stop)
        of_owner = file[some.frame - frames.start].astype(np.int64)
        chosen = (of_owner >= 0) & some.is_user
        keys.append(distinct(of_owner[chosen] << 32 | some.process[chosen].astype(np.int64)))
    found: dict[int, list[int]] = {}
    for key in distinct(np.concatenate(keys)).tolist():
        found.setdefault(key >> 32, []).append(key & 0xFFFF_FFFF)
    return found
