"""Colourings: the colour of each page frame, and the meaning of the colours."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.arrays import changes, count_values, look_up
from memory_visualizer.errors import BadInputError, UnknownNameError
from memory_visualizer.paging import MAY_EXECUTE, MAY_WRITE
from memory_visualizer.picture.entropy import ENTROPY_STEPS
from memory_visualizer.picture.palette import Colour, Palette
from memory_visualizer.snapshot.framerecords import PageUse, WindowsState
from memory_visualizer.snapshot.pagemap import PageClass, PageMap, PageState
from memory_visualizer.snapshot.snapshot import Snapshot


@dataclass(frozen=True)
class Swatch:
    """A colour and its meaning."""

    label: str
    colour: Colour


@dataclass(frozen=True, eq=False)
class Colouring:
    """A colour for each frame."""

    name: str
    """One of COLOURINGS."""
    values: NDArray[np.unsignedinteger[Any]]
    """By PFN: index in swatches."""
    swatches: tuple[Swatch, ...]
    """The first one is for absent frames, and for pixels behind the last frame."""
    general: int = 0
    """The number of first swatches that belong in every legend, however long."""
    is_sparse: bool = False
    """Whether swatches without frames are left out of legends, as there are many."""

    def counts(self) -> list[int]:
        """The number of frames of each swatch."""
        counts: list[int] = count_values(self.values, len(self.swatches)).tolist()
        return counts


def by_class(page_map: PageMap, palette: Palette) -> Colouring:
    """Colour frames by their PageClass, which is also the index of the swatch."""
    return Colouring("class", page_map.classes, _class_swatches(page_map, palette))


def colour_by(
    name: str,
    snapshot: Snapshot,
    palette: Palette,
    entropy: Callable[[], NDArray[np.uint8]],
) -> Colouring:
    """Apply one of COLOURINGS; `entropy` is called if entropy.entropy is needed.

    BadInputError for the colouring by state if the dump does not tell states; UnknownNameError if
    there is no such colouring.
    """
    if name not in COLOURINGS:
        raise UnknownNameError("colouring", name, COLOURINGS)
    return COLOURINGS[name].colour(snapshot, palette, entropy)


def by_process(snapshot: Snapshot, palette: Palette) -> Colouring:
    """Colour the pages of user mode by process; all other pages are shades of grey."""
    base = BASE_SWATCHES
    values = look_up(np.array([0, 1, 1, 2, 3, 4, 5], np.uint16), snapshot.classes)
    for _, owners in snapshot.owners_by_frame():
        frame, process = owners.frame[owners.is_user], owners.process[owners.is_user]
        new = changes(frame)
        alone = new & np.append(new[1:], True)
        values[frame[alone]] = process[alone] + base
    swatches = _process_swatches(snapshot, palette)
    return Colouring("process", values, swatches, general=base)


BASE_SWATCHES = 6
"""Colouring by process: the number of first swatches that do not stand for a process."""


def _process_swatches(snapshot: Snapshot, palette: Palette) -> tuple[Swatch, ...]:
    greys = palette.greys
    colours = process_colours(snapshot, palette)
    return (
        Swatch("absent", palette[PageClass.ABSENT]),
        Swatch("several processes", greys.several),
        Swatch("kernel", greys.kernel),
        Swatch("unused-data", greys.data),
        Swatch("unused-zero", greys.zeros),
        Swatch("left-out", palette[PageClass.LEFT_OUT]),
        *(
            Swatch(f"{process.shown_name} ({process.pid})", colour)
            for process, colour in zip(snapshot.processes, colours, strict=True)
        ),
    )


def process_colours(snapshot: Snapshot, palette: Palette) -> list[Colour]:
    """The colour of each process: by its rank among all others, the largest first.

    Processes that are not in the system's list have colours of their own.
    """
    size = snapshot.pages_of_processes().sum(axis=1)
    colours: list[Colour] = [(0, 0, 0)] * len(snapshot.processes)
    linked = unlinked = 0
    for index in np.argsort(-size, kind="stable").tolist():
        if snapshot.processes[index].state == "unlinked":
            colours[index] = palette.unlinked[unlinked % len(palette.unlinked)]
            unlinked += 1
        else:
            colours[index] = _in_sequence(palette, linked)
            linked += 1
    return colours


def _in_sequence(palette: Palette, rank: int) -> Colour:
    """The colour for a rank; the sequence begins again in dull colours where it ends."""
    turn, place = divmod(rank, len(palette.sequence))
    colour = palette.sequence[place]
    if turn == 0:
        return colour
    red, green, blue = ((2 * channel + 3 * 128) // 5 for channel in colour)
    return red, green, blue


def by_protection(snapshot: Snapshot, palette: Palette) -> Colouring:
    """Colour frames by the rights on them: Snapshot.access."""
    writable, executable = snapshot.access & MAY_WRITE != 0, snapshot.access & MAY_EXECUTE != 0
    values = look_up(np.array([0, 3, 3, 7, 2, 2, 11], np.uint8), snapshot.classes)
    has_rights = (values >= 3) & (values < 11)
    values[has_rights] += (writable + 2 * executable.view(np.uint8))[has_rights]
    values[has_rights & (snapshot.mapping_count == 0)] = 1
    return Colouring("protection", values, _protection_swatches(snapshot, palette))


def _protection_swatches(_: Snapshot, palette: Palette) -> tuple[Swatch, ...]:
    return (
        Swatch("absent", palette[PageClass.ABSENT]),
        Swatch("kernel, by no table", palette.greys.kernel),
        Swatch("unused", palette.paper((246, 246, 242))),
        *[Swatch(f"user {rights}", colour) for rights, colour in palette.user_rights.items()],
        *[Swatch(f"kernel {rights}", colour) for rights, colour in palette.kernel_rights.items()],
        Swatch("left-out", palette[PageClass.LEFT_OUT]),
    )


_ENTROPY_BINS = 16


def by_entropy(snapshot: Snapshot, palette: Palette, entropy: NDArray[np.uint8]) -> Colouring:
    """Colour frames by entropy.entropy, in half bits per byte; zeros are white."""
    bins = np.minimum(entropy.astype(np.uint16) * _ENTROPY_BINS // ENTROPY_STEPS, _ENTROPY_BINS - 1)
    values = (bins + 2).astype(np.uint8)
    values[snapshot.zero] = 1
    values[snapshot.classes == PageClass.ABSENT] = 0
    values[snapshot.classes == PageClass.LEFT_OUT] = _ENTROPY_BINS + 2
    return Colouring("entropy", values, _entropy_swatches(snapshot, palette))


def _entropy_swatches(_: Snapshot, palette: Palette) -> tuple[Swatch, ...]:
    return (
        Swatch("absent", palette[PageClass.ABSENT]),
        Swatch("zeros", palette.greys.zeros),
        *(
            Swatch(f"{step / 2:.1f} to {(step + 1) / 2:.1f} bits per byte", colour)
            for step, colour in enumerate(palette.ramp(_ENTROPY_BINS))
        ),
        Swatch("left-out", palette[PageClass.LEFT_OUT]),
    )


_MAPPING_BINS = (1, 2, 3, 5, 9, 17, 33, 65)
"""The smallest number of mappings in each bin."""
_FIRST_OF_MAPPINGS = 0.25
"""Where on the scale a single mapping is: plainly apart from none."""


def by_mappings(snapshot: Snapshot, palette: Palette) -> Colouring:
    """Colour frames by the number of their mappings."""
    values = np.ones(snapshot.classes.size, np.uint8)
    for fewest in _MAPPING_BINS:
        values += snapshot.mapping_count >= fewest
    values[snapshot.classes == PageClass.ABSENT] = 0
    return Colouring("mappings", values, _mapping_swatches(snapshot, palette))


def _mapping_swatches(_: Snapshot, palette: Palette) -> tuple[Swatch, ...]:
    swatches = [
        Swatch("absent", palette[PageClass.ABSENT]),
        Swatch("not mapped", palette.greys.zeros),
    ]
    ends = [*(start - 1 for start in _MAPPING_BINS[1:]), None]
    colours = palette.ramp(len(_MAPPING_BINS), _FIRST_OF_MAPPINGS)
    for start, end, colour in zip(_MAPPING_BINS, ends, colours, strict=True):
        if end is None:
            label = f"{start} or more mappings"
        elif start == end:
            label = f"{start} mapping" + ("s" if start > 1 else "")
        else:
            label = f"{start} to {end} mappings"
        swatches.append(Swatch(label, colour))
    return tuple(swatches)


# Pages of processes are warm, pages of the kernel cool, and reclaimable pages pale.
_STATES: Mapping[PageState | WindowsState, Colour] = {
    PageState.FREE: (250, 250, 246),
    PageState.ANONYMOUS: (212, 70, 45),
    PageState.FILE_CACHE: (240, 196, 90),
    PageState.SHARED_MEMORY: (168, 58, 120),
    PageState.SLAB: (95, 194, 205),
    PageState.PAGE_TABLE: (52, 74, 160),
    PageState.KERNEL_IMAGE: (20, 110, 130),
    PageState.RESERVED: (150, 154, 160),
    PageState.HUGE_PAGE: (120, 84, 40),
    PageState.KERNEL_OTHER: (150, 214, 170),
    PageState.UNKNOWN: (205, 190, 220),
}


# Memory in use is strong, lists are paler the sooner they are given away, and faults alarm.
_WINDOWS_STATES: Mapping[PageState | WindowsState, Colour] = {
    WindowsState.ACTIVE: (64, 104, 176),
    WindowsState.STANDBY: (125, 188, 141),
    WindowsState.MODIFIED: (228, 155, 32),
    WindowsState.MODIFIED_NO_WRITE: (151, 93, 12),
    WindowsState.TRANSITION: (157, 17, 95),
    WindowsState.ZEROED: (255, 255, 255),
    WindowsState.FREE: (224, 204, 120),
    WindowsState.BAD: (195, 26, 72),
    WindowsState.UNKNOWN: (195, 183, 255),
}


def by_state(snapshot: Snapshot, palette: Palette) -> Colouring:
    """Colour frames by their state in the kernel's records: Snapshot.states."""
    if snapshot.states is None:
        raise _untold(snapshot, "state")
    return Colouring("state", snapshot.states, _state_swatches(snapshot, palette))


def _untold(snapshot: Snapshot, what: str) -> BadInputError:
    return BadInputError(
        f"{snapshot.dump.path} does not tell the {what} of its pages: the kernel's records of them"
        " were not found"
    )


def _state_swatches(snapshot: Snapshot, palette: Palette) -> tuple[Swatch, ...]:
    known = _WINDOWS_STATES if snapshot.state_kind is WindowsState else _STATES
    colours = {state.label: colour for state, colour in known.items()}
    return tuple(
        Swatch(state.label, palette.paper(colours.get(state.label, palette[PageClass.ABSENT])))
        for state in snapshot.state_kind
    )


# As with states: a process's own is red, files yellow to brown, the kernel's cool. A test computes
# how far apart they are for all eyes, as with the palettes.
_USES: dict[PageUse, Colour] = {
    PageUse.UNUSED: (250, 250, 246),
    PageUse.PROCESS_PRIVATE: (212, 70, 45),
    PageUse.MAPPED_FILE: (255, 206, 93),
    PageUse.IMAGE: (201, 146, 36),
    PageUse.FILE: (222, 172, 70),
    PageUse.SHAREABLE: (166, 45, 123),
    PageUse.PAGE_TABLE: (52, 74, 160),
    PageUse.PAGED_POOL: (133, 206, 203),
    PageUse.NONPAGED_POOL: (30, 120, 157),
    PageUse.KERNEL_STACK: (110, 110, 210),
    PageUse.SYSTEM_PTE: (150, 180, 214),
    PageUse.SESSION: (94, 156, 99),
    PageUse.DRIVER_IMAGE: (13, 74, 76),
    PageUse.METAFILE: (170, 190, 90),
    PageUse.LARGE_PAGE: (131, 57, 31),
    PageUse.AWE: (255, 142, 146),
    PageUse.DRIVER_LOCKED: (61, 61, 48),
    PageUse.KERNEL: (149, 136, 148),
    PageUse.UNKNOWN: (225, 216, 194),
}


def by_use(snapshot: Snapshot, palette: Palette) -> Colouring:
    """Colour frames by their purpose: Snapshot.uses."""
    if snapshot.uses is None:
        raise _untold(snapshot, "use")
    return Colouring("use", snapshot.uses, _use_swatches(snapshot, palette), is_sparse=True)


def _use_swatches(_: Snapshot, palette: Palette) -> tuple[Swatch, ...]:
    absent = palette[PageClass.ABSENT]
    return tuple(Swatch(use.label, palette.paper(_USES.get(use, absent))) for use in PageUse)


_LARGEST_FILES = 40


def by_file(snapshot: Snapshot, palette: Palette) -> Colouring:
    """Colour the pages of the files that have most in memory; all other pages are grey.

    BadInputError if the dump does not tell the files behind its pages.
    """
    pages = snapshot.file_pages
    if not pages.files:
        raise BadInputError(f"{snapshot.dump.path} does not tell the files behind its pages")
    values = np.ones(snapshot.classes.size, np.uint8)
    values[snapshot.classes == PageClass.ABSENT] = 0
    value_of = np.full(len(pages.files), 2, np.uint8)
    value_of[_largest_files(snapshot)] = np.arange(3, 3 + len(_largest_files(snapshot)))
    values[pages.frame] = value_of[pages.file]
    swatches = _file_swatches(snapshot, palette)
    return Colouring("file", values, swatches, general=3)


def _largest_files(snapshot: Snapshot) -> NDArray[np.intp]:
    """The files that have most pages, by their indices; of as many, the first one."""
    pages = snapshot.file_pages
    counts = np.bincount(pages.file, minlength=len(pages.files))
    return np.argsort(-counts, kind="stable")[:_LARGEST_FILES]


def _file_swatches(snapshot: Snapshot, palette: Palette) -> tuple[Swatch, ...]:
    files = [snapshot.file_pages.files[index] for index in _largest_files(snapshot).tolist()]
    return (
        Swatch("absent", palette[PageClass.ABSENT]),
        Swatch("no file", palette.greys.data),
        Swatch("other files", palette.greys.kernel),
        *(Swatch(file.path, _in_sequence(palette, rank)) for rank, file in enumerate(files)),
    )


def _class_swatches(_: PageMap, palette: Palette) -> tuple[Swatch, ...]:
    return tuple(Swatch(page_class.label, palette[page_class]) for page_class in PageClass)


class Kind(NamedTuple):
    """A colouring: its description, and the function that applies it."""

    colour: Callable[[Snapshot, Palette, Callable[[], NDArray[np.uint8]]], Colouring]
    """The last argument is called if the entropy of all frames is needed."""
    swatches: Callable[[Snapshot, Palette], tuple[Swatch, ...]]


COLOURINGS: Mapping[str, Kind] = {
    "class": Kind(lambda snapshot, palette, _: by_class(snapshot, palette), _class_swatches),
    "process": Kind(lambda snapshot, palette, _: by_process(snapshot, palette), _process_swatches),
    "protection": Kind(
        lambda snapshot, palette, _: by_protection(snapshot, palette), _protection_swatches
    ),
    "entropy": Kind(
        lambda snapshot, palette, entropy: by_entropy(snapshot, palette, entropy()),
        _entropy_swatches,
    ),
    "mappings": Kind(
        lambda snapshot, palette, _: by_mappings(snapshot, palette), _mapping_swatches
    ),
    "state": Kind(lambda snapshot, palette, _: by_state(snapshot, palette), _state_swatches),
    "use": Kind(lambda snapshot, palette, _: by_use(snapshot, palette), _use_swatches),
    "file": Kind(lambda snapshot, palette, _: by_file(snapshot, palette), _file_swatches),
}


def swatches_of(name: str, snapshot: Snapshot, palette: Palette) -> tuple[Swatch, ...]:
    """The swatches of colour_by, without colouring any frame."""
    return COLOURINGS[name].swatches(snapshot, palette)
