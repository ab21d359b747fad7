"""VMware's two files: which belongs to which, and descriptions that are damaged."""

import os
from pathlib import Path

import pytest

from memory_visualizer.errors import BadInputError, DamagedInputError
from memory_visualizer.formats.opening import open_dump
from tests.formats.checks import GIB, PIECES, check, frames_of, memory, vmware
from tests.synth import containers


def test_vmware_is_opened_by_either_file(path: Path) -> None:
    """A .vmem with its .vmss, or its .vmsn, is one dump, opened by either file."""
    vmware(path, PIECES)
    check(open_dump(path.with_suffix(".vmss")), frames_of(PIECES))
    path.with_suffix(".vmss").rename(path.with_suffix(".vmsn"))
    check(open_dump(path), frames_of(PIECES))
    check(open_dump(path.with_suffix(".vmsn")), frames_of(PIECES))


def test_vmware_with_more_groups_than_are_read(path: Path) -> None:
    """The error says that only some groups were read: others may have the memory."""
    vmware(path, PIECES)
    state = path.with_suffix(".vmss")
    data = bytearray(state.read_bytes().replace(b"memory\0", b"others\0", 1))
    data[8:12] = (5000).to_bytes(4, "little")
    state.write_bytes(data)
    with pytest.raises(BadInputError, match=r"claims 5,000 groups of state, and the first 1,024"):
        open_dump(state)


@pytest.mark.parametrize("suffix", [".VMSS", ".Vmsn"])
def test_names_in_upper_case(tmp_path: Path, suffix: str) -> None:
    """Endings may be in upper case, as Windows' file systems may give them."""
    ram, state = tmp_path / "Machine.VMEM", tmp_path / f"MACHINE{suffix}"
    containers.write_vmware(ram, state, PIECES)
    for path in (ram, state):
        dump = open_dump(path)
        check(dump, frames_of(PIECES))
        assert dump.remarks == ()


def test_a_vmem_that_was_renamed(tmp_path: Path) -> None:
    """A state whose memory has another name is matched by its size, which a remark tells."""
    ram, state = tmp_path / "memory.bin", tmp_path / "machine.vmsn"
    containers.write_vmware(ram, state, PIECES)
    containers.write_vmware(tmp_path / "b.vmem", tmp_path / "b.vmss", PIECES)
    for path in (ram, state):
        dump = open_dump(path)
        check(dump, frames_of(PIECES))
        assert dump.remarks == (f"{ram} is used as the memory of {state}, since its size fits",)
    (tmp_path / "another.vmss").write_bytes(state.read_bytes())
    assert open_dump(ram).format == "raw"
    (tmp_path / "other.bin").write_bytes(ram.read_bytes())
    with pytest.raises(BadInputError, match=r"under the name machine\.vmem"):
        open_dump(state)


def test_vmsn_alone(path: Path) -> None:
    """A .vmsn asks for its .vmem; --lenient does not help."""
    state = path.with_suffix(".vmsn")
    containers.write_vmware(path, state, PIECES)
    path.unlink()
    for lenient in (False, True):
        with pytest.raises(BadInputError, match=r"holds none; its \.vmem file is needed") as caught:
            open_dump(state, lenient=lenient)
        assert not isinstance(caught.value, DamagedInputError)


def test_vmware_region_lost(path: Path) -> None:
    """A region with a broken description is told, and lenient leaves it out."""
    vmware(path, PIECES)
    state = path.with_suffix(".vmss")
    contents = bytearray(state.read_bytes())
    last = contents.rindex(b"regionSize")
    contents[last : last + 6] = b"nowhat"
    state.write_bytes(contents)
    said = f"{state} says that the RAM has {len(PIECES)} regions, but describes {len(PIECES) - 1}"
    with pytest.raises(DamagedInputError) as caught:
        open_dump(path)
    assert str(caught.value) == said
    dump = open_dump(path, lenient=True)
    check(dump, frames_of(PIECES[:-1]))
    assert dump.remarks == (said,)


def test_vmware_description_cut_off(path: Path) -> None:
    """Regions that may stand behind the end of a file with RAM in it are told."""
    state = path.with_suffix(".vmss")
    containers.write_vmware(path, state, PIECES, inside=True)
    data = state.read_bytes()[:-2]  # the end of the description
    state.write_bytes(data)
    with pytest.raises(DamagedInputError, match="its description of memory does not end"):
        open_dump(state)
    dump = open_dump(state, lenient=True)
    check(dump, frames_of(PIECES))
    assert [remark for remark in dump.remarks if "ends within its description" in remark]


def test_vmem_alone(path: Path) -> None:
    """A .vmem alone is raw; above 3 GiB a remark warns."""
    path.write_bytes(memory(4, 1))
    path.with_suffix(".vmss").write_text("not VMware's")
    dump = open_dump(path)
    assert (dump.format, dump.remarks) == ("raw", ())
    os.truncate(path, 4 * GIB)
    assert open_dump(path).remarks == (
        f"{path} is read as raw, but for a machine with more than 3 GiB the .vmss or .vmsn file is"
        " needed beside it: pages above 3 GiB are at wrong addresses without it",
    )
