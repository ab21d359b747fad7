"""The meanings that Windows and Linux give to entries that are not present."""

from collections.abc import Callable

import numpy as np
import pytest

from memory_visualizer.paging.architecture import (
    MAY_EXECUTE,
    MAY_USER,
    MAY_WRITE,
    PAE,
    X64,
    X64_5_LEVELS,
    X86,
    Architecture,
)
from memory_visualizer.paging.software import (
    Paging,
    as_linux_has_it,
    as_processor_has_it,
    as_windows_has_it,
)

ALL = [X86, PAE, X64, X64_5_LEVELS]
LEAF = X64.levels[-1]
IN_TRANSITION, PROTOTYPE, NOBODYS = 0x5000 | 1 << 11, 0x5000 | 1 << 11 | 1 << 10, 0x5000
NOT_ALLOWED = (~0x5000 & 0x000F_FFFF_FFFF_F000) | 1 << 8


@pytest.mark.parametrize("architecture", ALL)
def test_an_architecture_stays_itself(architecture: Architecture) -> None:
    """The system does not change the levels, and each system has its own meaning."""
    systems = [as_processor_has_it, as_windows_has_it, as_linux_has_it]
    pagings = [has_it(architecture) for has_it in systems]
    assert {paging.architecture for paging in pagings} == {architecture}
    assert len({paging.software for paging in pagings}) == len(systems)
    for paging in pagings:
        assert paging == type(paging)(paging.architecture, paging.software)
        assert (paging.name, paging.levels) == (architecture.name, architecture.levels)


@pytest.mark.parametrize(
    ("has_it", "seen"),
    [
        (as_processor_has_it, [True, False, False, False, False]),
        (as_windows_has_it, [True, True, False, False, False]),
        (as_linux_has_it, [True, False, False, False, True]),
    ],
)
def test_what_leads_somewhere(has_it: Callable[[Architecture], Paging], seen: list[bool]) -> None:
    """Pages in transition are Windows', pages that nobody may use are Linux', others nobody's."""
    entries = np.array([0x5001, IN_TRANSITION, PROTOTYPE, NOBODYS, NOT_ALLOWED], np.uint64)
    assert has_it(X64).is_present(entries).tolist() == seen


def test_addresses_out_of_sight() -> None:
    """Linux inverts all bits of the address; Windows sets one bit above the used ones."""
    marked = np.array([IN_TRANSITION, IN_TRANSITION | 1 << 46], np.uint64)
    assert as_windows_has_it(X64).frames(marked, LEAF).tolist() == [5, 5]
    inverted = np.array([NOT_ALLOWED], np.uint64)
    assert as_linux_has_it(X64).frames(inverted, LEAF).tolist() == [5]


def test_one_mark_at_most() -> None:
    """More than one bit above the address in an entry in transition is damage."""
    entries = np.array([IN_TRANSITION | 1 << 46, IN_TRANSITION | 3 << 46], np.uint64)
    paging = as_windows_has_it(X64)
    found = paging.is_impossible(entries, paging.frames(entries, LEAF), LEAF)
    assert found.tolist() == [False, True]


def test_the_bit_of_encryption_is_no_address() -> None:
    """AMD's C-bit is not part of the address."""
    entries = np.array([0x5067 | 1 << 51], np.uint64)
    assert as_linux_has_it(X64, 1 << 51).frames(entries, LEAF).tolist() == [5]
    assert as_linux_has_it(X64).frames(entries, LEAF).tolist() == [1 << 39 | 5]


@pytest.mark.parametrize(
    ("protection", "allowed"),
    [
        (1, 0),  # MM_READONLY
        (2, MAY_EXECUTE),  # MM_EXECUTE
        (3, MAY_EXECUTE),  # MM_EXECUTE_READ
        (4, MAY_WRITE),  # MM_READWRITE
        (6, MAY_WRITE | MAY_EXECUTE),  # MM_EXECUTE_READWRITE
    ],
)
def test_rights_in_transition(protection: int, allowed: int) -> None:
    """Bits 5 to 9 have the rights, by the numbers of ntosp.h; a table's rights do not count."""
    entries = np.array([IN_TRANSITION | protection << 5 | 4], np.uint64)
    paging = as_windows_has_it(X64)
    assert paging.access(entries, np.ones(1, bool)).tolist() == [MAY_USER | allowed]
    assert paging.access(entries, np.zeros(1, bool)).tolist() == [
        MAY_USER | MAY_WRITE | MAY_EXECUTE
    ]


def test_nobody_may_use_it() -> None:
    """A page of PROT_NONE belongs to user mode, without rights."""
    assert as_linux_has_it(X64).access(
        np.array([NOT_ALLOWED], np.uint64), np.ones(1, bool)
    ).tolist() == [MAY_USER]


def test_whose_entries() -> None:
    """Half of the addresses are a Linux process's own; of 32 bits, three quarters are."""
    own = [as_linux_has_it(each).software.user_entries for each in ALL]
    assert own == [range(768), range(1536), range(256), range(256)]
    assert [as_windows_has_it(each).software.self_entries for each in ALL] == [
        range(0x300, 0x301),
        range(0x600, 0x601),
        range(0x100, 0x200),
        range(0x100, 0x200),
    ]


def test_habits() -> None:
    """Linux clears accessed bits of entries that lead to tables; all such entries allow writing."""
    entries = np.array([0x5067, 0x5047, 0x5065, 0x507F], np.uint64)
    upper = X64.levels[1]
    for paging, odd in (
        (as_windows_has_it(X64), [False, True, True, True]),
        (as_linux_has_it(X64), [False, False, True, True]),
    ):
        assert paging.is_odd(entries, upper).tolist() == odd
