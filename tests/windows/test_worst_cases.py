"""A third of all process objects damaged at once, chosen so that a decision loses its witnesses.

The law of test_odd_processes.py, with objects that lie beside each other in the list, or hold each
other's bytes, or have the same wrong value.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.oddities import FAMILIES, Image, Said, harm, said_of, synthetic
from tests.synth.memory import PAGE_SIZE
from tests.synth.truth import Process

pytestmark = [pytest.mark.fuzz, pytest.mark.many]

Damage = Callable[[Image, list[Process]], None]


def thirds(image: Image) -> Iterator[list[Process]]:
    """Objects that are witnesses of the same decision, a third of all."""
    everyone = image.truth.processes
    count = len(everyone) // 3
    listed = [process for process in everyone if process.listed]
    names = Counter(process.name for process in everyone)
    hidden = next(n for n, process in enumerate(everyone) if not process.listed)
    yield listed[:count]  # with System and one neighbour of the list's head
    yield listed[-count:]  # the youngest, with its other neighbour
    yield [*listed[:2], *listed[-2:]][:count]  # all around the head
    yield listed[1::2][:count]  # neighbours of the others
    yield listed[::3][:count]
    yield [p for p in everyone if not p.listed or p.exited or p.pid == 4]
    yield [everyone[(hidden + n) % len(everyone)] for n in (-2, -1, 1, 2)][:count]
    yield [process for process in everyone if names[process.name] > 1][:count]


def contents(image: Image, process: Process) -> bytes:
    """The bytes of an object, as far as its first page has them."""
    size = min(image.profile.size("_EPROCESS"), PAGE_SIZE - process.eprocess % PAGE_SIZE)
    return image.read(process.eprocess, size)


def _others(image: Image, chosen: list[Process]) -> list[Process]:
    return [p for p in image.truth.processes if p not in chosen and p.listed and not p.exited]


def copies_of_one(image: Image, chosen: list[Process]) -> None:
    """Each object holds the bytes of the same process."""
    copied = contents(image, _others(image, chosen)[0])
    for process in chosen:
        image.write(process.eprocess, copied)


def copies_of_the_hidden(image: Image, chosen: list[Process]) -> None:
    """Each object holds the bytes of the process that is not in the list."""
    [hidden] = [process for process in image.truth.processes if not process.listed]
    copied = contents(image, hidden)
    for process in chosen:
        image.write(process.eprocess, copied)


def copies_of_the_ended(image: Image, chosen: list[Process]) -> None:
    """Each object holds the bytes of the process that has ended."""
    [ended] = [process for process in image.truth.processes if process.exited]
    copied = contents(image, ended)
    for process in chosen:
        image.write(process.eprocess, copied)


def places_changed(image: Image, chosen: list[Process]) -> None:
    """Each object holds the bytes of another one of them."""
    moved = [contents(image, process) for process in chosen]
    for process, other in zip(chosen, moved[1:] + moved[:1], strict=True):
        image.write(process.eprocess, other)


def bases_of_one(image: Image, chosen: list[Process]) -> None:
    """All lead to the tables of another process."""
    for process in chosen:
        image.set(process, "DirectoryTableBase", _others(image, chosen)[0].dtb)


def pids_of_system(image: Image, chosen: list[Process]) -> None:
    """All have the pid of System."""
    for process in chosen:
        image.set(process, "UniqueProcessId", 4)


def parents_wild(image: Image, chosen: list[Process]) -> None:
    """No parent is a pid; System has a parent, too."""
    for process in chosen:
        image.set(process, "InheritedFromUniqueProcessId", -1)


DAMAGES: list[Damage] = [
    copies_of_one,
    copies_of_the_hidden,
    copies_of_the_ended,
    places_changed,
    bases_of_one,
    pids_of_system,
    parents_wild,
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Image, Said]]:
    folder = tmp_path_factory.mktemp("sound")
    images = {family: synthetic(family, folder) for family in FAMILIES}
    return {family: (image, said_of(image, folder)) for family, image in images.items()}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("family", ["7 x86 PAE", "11, shadow"])
def test_a_third(
    family: str, damage: Damage, sound: dict[str, tuple[Image, Said]], tmp_path: Path
) -> None:
    image, before = sound[family]
    for chosen in thirds(image):
        odd = image.copy()
        damage(odd, chosen)
        after = said_of(odd, tmp_path)
        cost = harm(odd, before, after, {process.pid for process in chosen})
        assert (cost.others, cost.frames) == (0, 0), ([p.pid for p in chosen], after.remarks)


@pytest.mark.parametrize("family", ["7 x86 PAE", "10 x64"])
def test_data_that_resembles_a_process_in_many_pages(
    family: str, sound: dict[str, tuple[Image, Said]], tmp_path: Path
) -> None:
    """Copies of one page of data that looks like a process have no more votes than a process."""
    image, before = sound[family]
    odd = image.copy()
    system, *others = [process for process in image.truth.processes if process.listed]
    rng = np.random.default_rng(2)
    data = bytearray(rng.bytes(0x800))
    width = image.profile.pointer_size
    data[0], data[4:8] = 3, bytes(4)
    for member, value in {"DirectoryTableBase": system.dtb, "UniqueProcessId": 0x8E0000}.items():
        at = image.place(system, member) - system.eprocess
        data[at : at + width] = value.to_bytes(width, "little")
    for page in image.kernel_pages()[4:34:3]:
        odd.write(page + 0x200, bytes(data))
    lost = others[1:5]
    for process in lost:
        odd.lose_page(process.eprocess, b"\0")
    cost = harm(odd, before, said_of(odd, tmp_path), {process.pid for process in lost})
    assert (cost.others, cost.frames) == (0, 0)
