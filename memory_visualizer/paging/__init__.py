"""Page tables and their mappings, read for all address spaces of a dump at once.

`architecture` describes how a processor reads its tables, `software` the additional meaning that an
operating system gives to entries. `walk` finds all mappings of many address spaces; `translate` and
`virtualmemory` translate single addresses.
"""

from memory_visualizer.paging.architecture import (
    ACCESSED,
    ADDRESS,
    ARM64_BOTH_HALVES,
    CACHING,
    DIRTY,
    LARGE,
    MAY_EXECUTE,
    MAY_USER,
    MAY_WRITE,
    NO_EXECUTE,
    PAE,
    PAE_POINTER_RESERVED,
    PRESENT,
    USER,
    WRITE,
    X64,
    X64_5_LEVELS,
    X86,
    Architecture,
    Arm64,
    Entries,
    Level,
    arm64,
)
from memory_visualizer.paging.groups import SHARED
from memory_visualizer.paging.mappings import (
    Losses,
    Mappings,
    merge_alike,
    merge_kernel,
    without_contradicted,
)
from memory_visualizer.paging.memory import (
    PhysicalMemory,
    frames_there,
    is_held,
)
from memory_visualizer.paging.software import (
    PROTOTYPE,
    TRANSITION,
    WINDOWS_ON_ARM64,
    Paging,
    Software,
    Unseen,
    as_linux_has_it,
    as_linux_on_arm64_has_it,
    as_processor_has_it,
    as_windows_has_it,
)
from memory_visualizer.paging.tables import are_tables, read_roots, read_tables, tables_of
from memory_visualizer.paging.translate import frames_behind, translate
from memory_visualizer.paging.walk import walk

__all__ = [
    "ACCESSED",
    "ADDRESS",
    "ARM64_BOTH_HALVES",
    "CACHING",
    "DIRTY",
    "LARGE",
    "MAY_EXECUTE",
    "MAY_USER",
    "MAY_WRITE",
    "NO_EXECUTE",
    "PAE",
    "PAE_POINTER_RESERVED",
    "PRESENT",
    "PROTOTYPE",
    "SHARED",
    "TRANSITION",
    "USER",
    "WINDOWS_ON_ARM64",
    "WRITE",
    "X64",
    "X64_5_LEVELS",
    "X86",
    "Architecture",
    "Arm64",
    "Entries",
    "Level",
    "Losses",
    "Mappings",
    "Paging",
    "PhysicalMemory",
    "Software",
    "Unseen",
    "are_tables",
    "arm64",
    "as_linux_has_it",
    "as_linux_on_arm64_has_it",
    "as_processor_has_it",
    "as_windows_has_it",
    "frames_behind",
    "frames_there",
    "is_held",
    "merge_alike",
    "merge_kernel",
    "read_roots",
    "read_tables",
    "tables_of",
    "translate",
    "walk",
    "without_contradicted",
]
