"""How far a machine's memory reaches, whatever a dump says of it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import BadInputError
from memory_visualizer.formats.base import runs_of
from memory_visualizer.formats.damage import report_damage
from memory_visualizer.printable import binary_size, counted
from memory_visualizer.units import MAX_FRAMES, PAGE_SIZE

_NEAR_FRAMES = 2**21
"""8 GiB of addresses, which any dump may use."""
_FRAMES_FOR_EACH = 1024
"""Even a dump without free, cached and user pages holds more than one page in this many."""


def near_pieces(
    path: Path, start: NDArray[np.int64], length: NDArray[np.int64], *, lenient: bool
) -> tuple[NDArray[np.bool_], list[str]]:
    """Which pieces of memory, given in bytes, a machine with this much memory can have; remarks.

    Machines have holes, even of a terabyte, and tools leave pages out; but no dump of a terabyte of
    addresses holds only a few megabytes. This program keeps some bytes for each frame up to the
    last, held or not, so false headers must not decide their number. DamagedInputError for pieces
    too far away, unless `lenient` and there are others.
    """
    near = np.ones(start.size, np.bool_)
    remarks: list[str] = []
    while near.any():  # without the far pieces, other pieces may be too far for the rest
        size = int(length[near].sum())
        far = near & (start + length > near_frames(size) * PAGE_SIZE)
        if not far.any():
            break
        sentence = (
            f"{path} says that it holds memory at physical address {start[far][0]:#x}, far too high"
            f" for the {binary_size(size)} that it holds in all"
        )
        near &= ~far
        some_left = bool(near.any())
        report_damage(sentence, remarks, lenient=lenient and some_left, then="it was left out")
    return near, remarks


def near_frames(size: int) -> int:
    """The number of frames up to which a machine may have memory, if `size` bytes are held."""
    return max(_NEAR_FRAMES, _FRAMES_FOR_EACH * (size // PAGE_SIZE))


def near_left_out(
    path: Path, runs: NDArray[np.int64], limit: int
) -> tuple[NDArray[np.int64], list[str]]:
    """Runs of pages that a dump leaves out (as `Dump.runs`), up to page `limit`; remarks.

    The reason is that of `near_frames`: a false header must not decide on the number of frames.
    """
    near = runs[runs[:, 0] < limit]
    count = np.minimum(near[:, 1], limit - near[:, 0])
    beyond = int(runs[:, 1].sum()) - int(count.sum())
    if not beyond:
        return runs, []
    remark = (
        f"{path} says that it leaves out {counted(beyond, 'page')} too high for the memory that it"
        " holds; they count as absent"
    )
    return np.stack((near[:, 0], count), axis=1), [remark]


def last_of_each(
    path: Path,
    frame: NDArray[np.int64],
    *,
    lenient: bool,
    remarks: list[str],
    tells_copies: bool = False,
) -> NDArray[np.intp]:
    """The last occurrence of each PFN in the order of the file, by ascending PFN.

    DamagedInputError, unless `lenient`, for frames that no machine has; BadInputError if no frame
    is left. `tells_copies` adds a remark if frames come several times.
    """
    far = frame >= MAX_FRAMES
    if far.any():
        report_damage(
            f"{path} says that it holds page frame {int(frame[far][0]):#x}; this program stops at"
            f" {MAX_FRAMES:#x} (16 TiB)",
            remarks,
            lenient=lenient,
            then=f"{np.count_nonzero(far):,} pages were left out",
        )
    # In the reversed list, the last of equal frames comes first.
    frames, last = np.unique(frame[::-1], return_index=True)
    if tells_copies and (copies := frame.size - frames.size):
        remarks.append(f"{path} holds {copies:,} pages more than once; the later copies were used")
    frames, last = frames[frames < MAX_FRAMES], last[frames < MAX_FRAMES]
    if not frames.size:
        raise BadInputError(f"{path} holds no page of memory")
    runs = runs_of(frames)
    near, left_out = near_pieces(path, *(runs * PAGE_SIZE).T, lenient=lenient)
    remarks += left_out
    chosen: NDArray[np.intp] = frame.size - 1 - last
    return chosen if near.all() else chosen[np.repeat(near, runs[:, 1])]
