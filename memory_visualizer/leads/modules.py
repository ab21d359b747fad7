"""Leads about the kernel's modules."""

from collections.abc import Iterator

import numpy as np

from memory_visualizer.leads.lead import Lead
from memory_visualizer.limits import Budget
from memory_visualizer.printable import binary_size
from memory_visualizer.snapshot.snapshot import Snapshot


def module_leads(snapshot: Snapshot, budget: Budget) -> Iterator[Lead]:
    """Images in the kernel's memory that are in no list of modules, and are not pages of files.

    If the pages of files are unknown, the right to execute tells drivers from mapped files.
    """
    if snapshot.inventory is None:
        return
    of_file = np.zeros(snapshot.dump.frame_count, bool)
    of_file[snapshot.file_pages.frame] = True
    room = budget.limit("page of an image")
    for module in snapshot.inventory.unlisted_modules():
        frames = np.array(module.frames, np.int64)
        if 2 * np.count_nonzero(of_file[frames]) >= len(frames):
            continue
        budget.refuse("page of an image", len(frames) - room)
        frames = frames[:room]
        room -= len(frames)
        reason = (
            f"the kernel has an image at {module.ranges[0][0]:#x} ({binary_size(module.size)}) that"
            " is not in its list of modules"
        )
        yield Lead("unlisted driver", reason, frames)
