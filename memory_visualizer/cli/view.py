"""The part of a dump that the options ask to show."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.api import Snapshot
from memory_visualizer.picture.colouring import Colouring

if TYPE_CHECKING:
    from memory_visualizer.yara import Hits


@dataclass(frozen=True, eq=False)
class View:
    """A dump with the choices that the summary and the written files have in common."""

    options: argparse.Namespace
    snapshot: Snapshot
    colouring: Colouring
    entropy: Callable[[], NDArray[np.uint8]]
    """The entropy of each frame; measured at the first call."""
    chosen: list[int] | None
    """Indices of the processes of --pid and --name; None without these options."""
    hits: "Hits | None"
    """The hits of --yara; None without this option."""

    @property
    def told(self) -> Sequence[int]:
        """Indices of the processes that the summary describes."""
        return range(len(self.snapshot.processes)) if self.chosen is None else self.chosen

    @property
    def dimmed(self) -> NDArray[np.bool_] | None:
        """The frames that the picture shows pale; None if there are none."""
        if self.hits:
            dimmed = np.ones(self.snapshot.classes.size, bool)
            dimmed[self.hits.frames] = False
            return dimmed
        return None if self.chosen is None else self.snapshot.pages_of_others(self.chosen)
