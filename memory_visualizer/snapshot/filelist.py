"""The files of which something is in memory, with their pages counted."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import distinct
from memory_visualizer.snapshot.inventory import File
from memory_visualizer.snapshot.pagemap import PageState

if TYPE_CHECKING:
    from memory_visualizer.snapshot.snapshot import Snapshot


def files_in_memory(snapshot: "Snapshot") -> tuple[File, ...]:
    """The files of Snapshot.file_pages, with pages by state and the processes that have them."""
    pages = snapshot.file_pages
    total = np.bincount(pages.file, minlength=len(pages.files))
    mapped = np.bincount(
        pages.file[snapshot.mapping_count[pages.frame] > 0], minlength=len(pages.files)
    )
    states = _by_state(snapshot)
    processes = _users(snapshot)
    return tuple(
        File(
            **vars(file),
            pages=int(total[number]),
            states=states[number],
            mapped=int(mapped[number]),
            processes=tuple(snapshot.processes[index] for index in processes.get(number, ())),
        )
        for number, file in enumerate(pages.files)
    )


def _by_state(snapshot: "Snapshot") -> list[Mapping[str, int]]:
    """Of each file its pages by state, in words."""
    pages = snapshot.file_pages
    found: list[Mapping[str, int]] = [{} for _ in pages.files]
    if snapshot.states is None:
        return found
    key = pages.file.astype(np.int64) << 8 | snapshot.states[pages.frame]
    values, counts = np.unique(key, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        label = PageState(value & 0xFF).label
        found[value >> 8] = {**found[value >> 8], label: count}
    return found


def _users(snapshot: "Snapshot") -> dict[int, list[int]]:
    """Of each file the processes that have a page of it, by their indices."""
    pages = snapshot.file_pages
    keys: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    for frames, owners in snapshot.owners_by_frame():
        file, _ = pages.of_frames(frames.start, frames.stop)
        of_owner = file[owners.frame - frames.start].astype(np.int64)
        chosen = (of_owner >= 0) & owners.is_user
        keys.append(distinct(of_owner[chosen] << 32 | owners.process[chosen].astype(np.int64)))
    found: dict[int, list[int]] = {}
    for key in distinct(np.concatenate(keys)).tolist():
        found.setdefault(key >> 32, []).append(key & 0xFFFF_FFFF)
    return found
