"""Further members of a virtual address descriptor (VAD): protection, kind, section.

The offsets of these members differ between versions (_MMVAD_FLAGS in Volatility 2's profiles, in
later symbol files, and in MemProcFS' mm_vad.c). The majority of VADs decides which known form fits:
private VADs have no section and all others have a section, the control areas of images agree, the
tags of the pool blocks agree, and no page has a right that its region denies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.paging import MAY_EXECUTE, MAY_WRITE
from memory_visualizer.windows.controlareas import SectionKind, read_control_areas
from memory_visualizer.windows.kernelmemory import KernelMemory
from memory_visualizer.windows.vadtrees import TreeForm, tags_of

_BYTES = 128
"""Bytes of a VAD that are read."""
_BUILD_WEIGHT = 1 / 8
"""The weight of the build number; other witnesses have weight 1."""

_AREA_SIZES = {4: (48, 56), 8: (72,)}
"""Bytes of a control area in Windows XP and 2003, by the bytes of a pointer."""

PROTECTIONS = ("---", "r--", "--x", "r-x", "rw-", "rc-", "rwx", "rcx")
"""By the lowest three bits of Protection (MM_READONLY and so on); `c` copies a page on writing."""
KINDS = (
    "",
    "device memory",
    "image",
    "AWE",
    "write watch",
    "large pages",
    "rotating device memory",
    "large page section",
)
"""By VadType (MI_VAD_TYPE)."""
_XP_KINDS = ((19, 1), (20, 2), (21, 3), (23, 4), (29, 5))
"""Bits of Windows XP's flags, and the VadType that they became."""


@dataclass(frozen=True)
class DetailForm:
    """Offsets of members in bytes from a node's beginning, and bits in the flags."""

    flags: int
    flag_bytes: int
    kind: int | None
    """First bit of VadType; None for Windows XP's single bits."""
    protection: int
    """First of the five bits of Protection; the next member has one bit."""
    private: int
    commit: int
    """Offset of the number of charged pages."""
    commit_bits: int
    section: int
    """Offset of the pointer to the subsection, or to the control area."""
    is_direct: bool = False
    """Whether that pointer leads to the control area itself."""
    commit_high: int | None = None
    """Offset of bits 31 to 38 of the number of charged pages."""
    builds: range = range(0)
    """The builds that are known to have this form."""


_LATER = (
    (0, 3, 15, range(9600, 17134)),
    (0, 3, 14, range(17134, 18362)),
    (4, 7, 20, range(18362, 20348)),
    (4, 7, 21, range(20348, 28000)),
    (2, 5, 19, range(28000, 1 << 20)),
)
"""First bits of VadType, Protection and PrivateMemory since Windows 8.1, and their builds."""


_MOVED = 28000


def detail_forms(word: int, tree: TreeForm) -> tuple[DetailForm, ...]:
    """The known forms of nodes with such links and bounds."""
    if tree.left == 0:  # since Windows 8.1
        flags, section = (28, 44) if word == 4 else (48, 72)
        high = 34 if word == 8 else None
        return tuple(
            DetailForm(flags, 4, kind, protection, private, flags + 4, 31, at, False, high, builds)
            for kind, protection, private, builds in _LATER
            for at in (section, *_moved(word, builds))
        )
    eight = DetailForm(24, 4, 0, 3, 15, 28, 31, 44, builds=range(9200, 9600))
    old = range(6000, 9200)
    if word == 8:
        if tree.number == 4:
            return (DetailForm(40, 4, 0, 3, 15, 44, 31, 72, builds=eight.builds),)
        return (
            DetailForm(40, 8, 52, 56, 63, 40, 51, 72, builds=old),
            DetailForm(40, 8, 52, 56, 63, 40, 51, 48, is_direct=True),
        )
    xp = DetailForm(20, 4, None, 24, 31, 20, 19, 24, is_direct=True)
    if tree.start == 0:
        return (xp,)
    return (
        DetailForm(20, 4, 20, 24, 31, 20, 19, 36, builds=old),
        DetailForm(20, 4, 20, 24, 31, 20, 19, 24, is_direct=True),
        xp,  # Windows 2003 without a service pack
        eight,
    )


def _moved(word: int, builds: range) -> tuple[int, ...]:
    """Offset of the subsection in the newest builds, which have two more numbers before it."""
    return (80,) if word == 8 and builds.start >= _MOVED else ()


@dataclass(frozen=True, eq=False)
class Details:
    """These members of some nodes, a row for each."""

    known: NDArray[np.bool_]
    """Whether the flags are readable."""
    protection: NDArray[np.uint8]
    """Five bits: see PROTECTIONS; the upper two are no cache, guard, and write combine."""
    kind: NDArray[np.uint8]
    """Index in KINDS."""
    is_private: NDArray[np.bool_]
    commit: NDArray[np.int64]
    """Charged pages."""
    area: NDArray[np.uint64]
    """The control area of the node; 0 for none."""
    subsection: NDArray[np.uint64]
    """The subsection that the node names, or else the control area's first one; 0 for none."""
    prototype: NDArray[np.uint64]
    """Address of the prototype entry of the first page."""


def read_details(kernel: KernelMemory, form: DetailForm, nodes: NDArray[np.uint64]) -> Details:
    """Read the members of nodes that have this form."""
    raw = kernel.read_partly(nodes, _BYTES)
    _, known = kernel.numbers(nodes + np.uint64(form.flags), form.flag_bytes)
    flags = _number(raw, form.flags, form.flag_bytes)
    commit = _bits(_number(raw, form.commit, 8), 0, form.commit_bits)
    if form.commit_high is not None:
        commit |= _number(raw, form.commit_high, 1) << np.uint64(31)
    is_private = _bits(flags, form.private, 1) != 0
    pointers = _number(raw, form.section, kernel.word)
    pointers[is_private] = 0
    areas = _areas(kernel, pointers, is_direct=form.is_direct)
    return Details(
        known,
        _bits(flags, form.protection, 5).astype(np.uint8),
        _kinds(flags, form.kind),
        is_private,
        commit.astype(np.int64),
        areas,
        _behind(kernel, areas) if form.is_direct else pointers,
        _number(raw, form.section + kernel.word, kernel.word),
    )


def _number(raw: NDArray[np.uint8], place: int, size: int) -> NDArray[np.uint64]:
    column = np.ascontiguousarray(raw[:, place : place + size]).view(f"<u{size}")[:, 0]
    return column.astype(np.uint64)


def _bits(numbers: NDArray[np.uint64], first: int, count: int) -> NDArray[np.uint64]:
    return numbers >> np.uint64(first) & np.uint64((1 << count) - 1)


def _kinds(flags: NDArray[np.uint64], first: int | None) -> NDArray[np.uint8]:
    if first is not None:
        return _bits(flags, first, 3).astype(np.uint8)
    kinds = np.zeros(len(flags), np.uint8)
    for bit, kind in _XP_KINDS:
        kinds[_bits(flags, bit, 1) != 0] = kind
    return kinds


def _areas(
    kernel: KernelMemory, pointers: NDArray[np.uint64], *, is_direct: bool
) -> NDArray[np.uint64]:
    """The control areas that nodes lead to; a subsection begins with its control area."""
    return pointers if is_direct else kernel.numbers(pointers)[0]


def _behind(kernel: KernelMemory, areas: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The subsection directly behind each control area (Windows XP and 2003); 0 for none."""
    found = np.zeros(len(areas), np.uint64)
    for size in _AREA_SIZES[kernel.word]:
        behind = areas + np.uint64(size)
        back, _ = kernel.numbers(behind)
        fits = (found == 0) & (back == areas) & (areas != 0)
        found[fits] = behind[fits]
    return found


def choose_form(
    kernel: KernelMemory,
    forms: Sequence[DetailForm],
    nodes: NDArray[np.uint64],
    rights: NDArray[np.uint8],
    build: int,
) -> DetailForm:
    """The form that most nodes agree with.

    `rights` are the MAY_ bits of all pages in each region, and 0 without pages; `build` is the
    system's build number, which counts little, and 0 if unknown.
    """
    raw = kernel.read_partly(nodes, _BYTES)
    tags = tags_of(kernel, nodes)
    sections: dict[tuple[int, bool], NDArray[np.uint8]] = {}
    for place in {(form.section, form.is_direct) for form in forms}:
        pointers = _number(raw, place[0], kernel.word)
        areas = _areas(kernel, pointers, is_direct=place[1])
        sections[place] = read_control_areas(kernel, areas).kinds

    def score(form: DetailForm) -> float:
        details = read_details(kernel, form, nodes)
        section = sections[form.section, form.is_direct]
        of_file = np.isin(section, (SectionKind.DATA, SectionKind.IMAGE))
        says_image = details.kind == KINDS.index("image")
        agrees = [
            details.is_private != (section != SectionKind.UNKNOWN),
            (says_image == (section == SectionKind.IMAGE))[of_file],
            (details.is_private == (tags == 1))[tags > 0],
            _allow(details.protection, rights)[rights > 0],
        ]
        votes = sum(float(np.mean(witness)) for witness in agrees if len(witness))
        return votes + _BUILD_WEIGHT * (build in form.builds)

    return max(forms, key=score)


_MAY = np.array(
    [
        (MAY_WRITE if set("wc") & set(rights) else 0) | (MAY_EXECUTE if "x" in rights else 0)
        for rights in PROTECTIONS
    ],
    np.uint8,
)


def _allow(protection: NDArray[np.uint8], rights: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which protections allow these rights; a protection without rights allows no page at all."""
    kind = protection & 7
    allowed: NDArray[np.bool_] = (kind > 0) & (
        rights & ~_MAY[kind] & (MAY_WRITE | MAY_EXECUTE) == 0
    )
    return allowed
