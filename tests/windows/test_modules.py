"""The kernel's list of modules, against the noted truth."""

from pathlib import Path

import pytest

import memory_visualizer
from memory_visualizer import Snapshot
from memory_visualizer.snapshot.framerecords import PageUse
from memory_visualizer.snapshot.inventory import Module
from tests.synth import Truth
from tests.synth.truth import ModuleTruth
from tests.windows.dumps import ALL, FAMILIES, Originals, Patch, dump_with_objects, remarks_of


def modules_of(snapshot: Snapshot) -> tuple[Module, ...]:
    assert snapshot.modules is not None and snapshot.inventory is not None
    return snapshot.modules


def row(truth: ModuleTruth) -> Module:
    return Module(
        truth.name,
        ((truth.start, truth.end),),
        tuple(sorted(truth.frames.tolist())),
        truth.path,
        truth.entry,
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.many
def test_families(family: str, tmp_path: Path) -> None:
    name, options = FAMILIES[family]
    truth = dump_with_objects(tmp_path / "dump", name, **options)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert modules_of(snapshot) == tuple(row(module) for module in truth.modules)
    assert remarks_of(snapshot) == ""
    assert snapshot.inventory and snapshot.inventory.unlisted_modules() == ()


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.many(16)
def test_profiles(name: str, tmp_path: Path) -> None:
    truth = dump_with_objects(tmp_path / "dump", name)
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert modules_of(snapshot) == tuple(row(module) for module in truth.modules)
    assert snapshot.inventory and snapshot.inventory.unlisted_modules() == ()


@pytest.mark.parametrize("name", ["WinXPSP2x86", "Win10x64_19041"])
def test_a_driver_without_header_is_a_driver_image(name: str, tmp_path: Path) -> None:
    """The list tells it; the search for headers does not."""
    truth = dump_with_objects(tmp_path / "dump", name)
    [hidden] = [one for one in truth.modules if len(one.frames) and one.name == "tcpip.sys"]
    uses = memory_visualizer.open(tmp_path / "dump").uses
    assert uses is not None
    assert {PageUse(use).label for use in uses[hidden.frames].tolist()} == {"driver image"}


class Damaged:
    """A dump with a list of modules that tests damage."""

    def __init__(self, path: Path, name: str, truth: Truth) -> None:
        self.path = path
        self.truth = truth
        self.patch = Patch(self.path, self.truth)
        self.word = ALL[name].pointer_size
        self._offset = ALL[name].offset

    def set(self, number: int, member: str, value: int, size: int = 0) -> None:
        """Write a member of an entry."""
        at = self.truth.modules[number].entry + self._offset("_LDR_DATA_TABLE_ENTRY", member)
        self.patch.write(at, value.to_bytes(size or self.word, "little"))

    def found(self) -> tuple[dict[str, Module], Snapshot]:
        """The modules by their names."""
        snapshot = memory_visualizer.open(self.path)
        modules = modules_of(snapshot)
        assert len({module.name for module in modules}) == len(modules)
        return {module.name: module for module in modules}, snapshot

    def others(self, *numbers: int) -> dict[str, Module]:
        """All other modules, unchanged."""
        rows = [one for number, one in enumerate(self.truth.modules) if number not in numbers]
        return {one.name: row(one) for one in rows}


@pytest.fixture(params=["WinXPSP2x86", "Win7SP1x64"])
def damaged(request: pytest.FixtureRequest, originals: Originals, tmp_path: Path) -> Damaged:
    """A dump with 32 bits, and one with 64."""
    path = tmp_path / "dump"
    return Damaged(path, request.param, originals.copy(request.param, path))


def test_a_broken_link_costs_nothing(damaged: Damaged) -> None:
    damaged.set(4, "InLoadOrderLinks", 0)
    found, snapshot = damaged.found()
    assert found == damaged.others()
    assert list(found) == [module.name for module in damaged.truth.modules]
    assert "the list of the kernel's modules is broken: 0 entries beside it" in remarks_of(snapshot)


def test_a_fragment_between_two_broken_links_is_joined(damaged: Damaged) -> None:
    """Three entries are reached from neither side."""
    damaged.set(2, "InLoadOrderLinks", 0x41414140)
    entry = damaged.truth.modules[6].entry
    damaged.patch.write(entry + damaged.word, (0x41414140).to_bytes(damaged.word, "little"))
    found, snapshot = damaged.found()
    # The fourth driver's header is not in memory, so its entry alone does not prove it.
    hidden = damaged.truth.modules[4]
    assert hidden.name == "tcpip.sys"
    assert found == damaged.others(4)
    assert "2 entries beside it were found by their form" in remarks_of(snapshot)


def test_a_circle_ends(damaged: Damaged) -> None:
    damaged.set(6, "InLoadOrderLinks", damaged.truth.modules[2].entry)
    found, snapshot = damaged.found()
    assert found == damaged.others()
    assert "broken" in remarks_of(snapshot)


@pytest.mark.parametrize(
    ("member", "value", "size"),
    [
        ("SizeOfImage", 0xFFFF_F000, 4),
        ("SizeOfImage", 0, 4),
        ("DllBase", 0x1234, 0),
        ("FullDllName", 0, 2),
        ("BaseDllName", 0x4141_4141, 4),
    ],
)
@pytest.mark.many
def test_a_lie_costs_its_own_entry(damaged: Damaged, member: str, value: int, size: int) -> None:
    damaged.set(3, member, value, size)
    found, snapshot = damaged.found()
    assert {name: one for name, one in found.items() if name != "ndis.sys"} == damaged.others(3)
    true = row(damaged.truth.modules[3])
    if member == "SizeOfImage":  # the image's header tells it
        assert found["ndis.sys"] == true
    elif member == "DllBase":
        assert found["ndis.sys"].ranges == () and found["ndis.sys"].frames == ()
    else:
        assert found["ndis.sys"].ranges == true.ranges
    if member in ("SizeOfImage", "DllBase"):
        assert "1 module of the kernel contradicts the header of its image" in remarks_of(snapshot)


def test_two_entries_with_the_same_base(damaged: Damaged) -> None:
    """The entry whose size agrees with the image keeps the addresses."""
    damaged.set(5, "DllBase", damaged.truth.modules[3].start)
    found, snapshot = damaged.found()
    assert {name: one for name, one in found.items() if name != "Ntfs.sys"} == damaged.others(5)
    assert found["Ntfs.sys"].ranges == ()
    assert "1 module of the kernel" in remarks_of(snapshot)


def test_texts_that_are_paged_out_cost_only_themselves(damaged: Damaged) -> None:
    """All but two modules lose their texts; all addresses are still known."""
    offset = ALL[damaged.truth.profile].offset
    for module in damaged.truth.modules[2:]:
        for member in ("FullDllName", "BaseDllName"):
            at = module.entry + offset("_LDR_DATA_TABLE_ENTRY", member) + damaged.word
            damaged.patch.write(at, (0x1234).to_bytes(damaged.word, "little"))
    found, snapshot = damaged.found()
    expected = [row(module) for module in damaged.truth.modules]
    assert [one.ranges for one in found.values()] == [one.ranges for one in expected]
    assert [one.frames for one in found.values()] == [one.frames for one in expected]
    assert [*found.values()][:2] == expected[:2]
    assert list(found)[2] == f"[{expected[2].ranges[0][0]:#x}]"
    assert "7 modules of the kernel" in remarks_of(snapshot)


def test_without_the_head_of_the_list(damaged: Damaged) -> None:
    """Entries without the list's head are found by their form."""
    kernel = damaged.truth.modules[0]
    head = int.from_bytes(damaged.patch.read(kernel.entry + damaged.word, damaged.word), "little")
    damaged.patch.write(head, bytes(2 * damaged.word))
    found, snapshot = damaged.found()
    assert found == damaged.others(4)  # only the list tells this driver
    assert "8 entries beside it" in remarks_of(snapshot)
