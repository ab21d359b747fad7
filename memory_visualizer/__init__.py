"""See what a machine's RAM holds: one pixel for each page of physical memory.

import memory_visualizer
snapshot = memory_visualizer.open("memory.raw")
snapshot.classes       # by page frame number: absent, both, user, kernel, unused
snapshot.owners_of(42)  # the processes that own page frame 42, and where
memory_visualizer.diff("before.raw", "after.raw").codes  # what changed, by page frame number
"""

from memory_visualizer.api import Snapshot, diff, open  # noqa: A004
from memory_visualizer.errors import (
    BadInputError,
    DamagedInputError,
    MemoryVisualizerError,
    NotMappedError,
    UnknownNameError,
)
from memory_visualizer.paging import MAY_EXECUTE, MAY_USER, MAY_WRITE
from memory_visualizer.snapshot.owners import Owners
from memory_visualizer.snapshot.pagemap import PageClass, PageState
from memory_visualizer.snapshot.process import Process
from memory_visualizer.snapshot.system import System
from memory_visualizer.version import __version__

__all__ = [
    "MAY_EXECUTE",
    "MAY_USER",
    "MAY_WRITE",
    "BadInputError",
    "DamagedInputError",
    "MemoryVisualizerError",
    "NotMappedError",
    "Owners",
    "PageClass",
    "PageState",
    "Process",
    "Snapshot",
    "System",
    "UnknownNameError",
    "__version__",
    "diff",
    "open",
]
