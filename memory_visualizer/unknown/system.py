"""A dump of an unknown system: user and kernel pages by its page tables."""

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.formats.base import Dump
from memory_visualizer.formats.raw import RawDump
from memory_visualizer.paging import Losses, Mappings, merge_kernel, walk
from memory_visualizer.paging.doubt import doubt_about
from memory_visualizer.printable import counted
from memory_visualizer.snapshot.build import Rest, of_mappings, walk_remarks
from memory_visualizer.snapshot.process import unnamed
from memory_visualizer.snapshot.snapshot import Snapshot
from memory_visualizer.unknown.toplevels import PAGING, Spaces, without_direct_map


def understand(dump: Dump, zero: NDArray[np.bool_], spaces: Spaces) -> Snapshot:
    """The snapshot of an unknown system: user and kernel pages by page tables, if any."""
    roots = spaces.roots
    losses, rest = Losses(), Rest(dump)
    mappings = Mappings.join([])
    if len(roots):
        mappings = rest.without(walk(dump, PAGING, roots, losses=losses))
    mappings, has_direct_map = without_direct_map(mappings, dump.held)
    mappings = merge_kernel(mappings)
    remarks = [*spaces.remarks]
    if len(roots):
        remarks.append(
            f"{counted(len(roots), 'address space')} found by the entries that their top-level page"
            " tables share: their processes are unknown, and some may be stale"
        )
    if isinstance(dump, RawDump):
        remarks += doubt_about(dump, PAGING, roots).remarks
    if has_direct_map:
        remarks.append(
            "the kernel's direct map of all memory was left out: it does not show which pages are"
            " in use"
        )
    return of_mappings(
        dump,
        zero,
        mappings,
        rest=rest,
        paging=PAGING if len(roots) else None,
        processes=[unnamed(int(top[0]), space).told() for space, top in enumerate(roots)],
        remarks=(*remarks, *walk_remarks(dump, mappings, losses, rest)),
    )
