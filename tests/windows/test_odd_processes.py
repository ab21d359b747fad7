"""Odd process objects: an oddity changes only the report on its own process."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory_visualizer import PageClass
from memory_visualizer.snapshot.process import ANOMALIES, Process
from memory_visualizer.units import PAGE_SIZE
from tests.oddities import (
    FAMILIES,
    KINDS,
    Image,
    Said,
    all_kinds,
    harm,
    on_page_of,
    said_of,
    synthetic,
    top_frames,
    tried,
    victim,
)

EXAMPLES = int(os.environ.get("MEMVIZ_LAW", "25"))
"""Examples of the law for each family; MEMVIZ_LAW in the environment asks for more."""


class Sound(dict[str, tuple[Image, Said]]):
    """Each family's image, and the report on it."""

    def __repr__(self) -> str:  # Hypothesis prints this for a failing test
        return "sound images"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    folder = tmp_path_factory.mktemp("sound")
    images = {family: synthetic(family, folder) for family in FAMILIES}
    return Sound((family, (image, said_of(image, folder))) for family, image in images.items())


def odd_one(said: Said, image: Image, name: str) -> list[Process]:
    """The report on a process, by its object's address."""
    address = victim(image, name).eprocess
    return [p for p in said.snapshot.processes if p.object_address == address]


@pytest.mark.fuzz
@pytest.mark.parametrize(
    ("family", "kind", "which"),
    [
        (family, kind, which)
        for family, kind in all_kinds()
        for which in ("svchost.exe", "System")
        if which != "System" or family in ("XP x86", "10 x64") or EXAMPLES > 100
    ],
)
@pytest.mark.many
def test_others_stay_as_they_are(
    family: str, kind: str, which: str, sound: Sound, tmp_path: Path
) -> None:
    image, before = sound[family]
    cost, after = tried(image, before, kind, tmp_path, which)
    assert (cost.others, cost.frames) == (0, 0), after.remarks
    for process in after.snapshot.processes:
        for word in process.anomalies:
            assert word.split(" 0x")[0] in ANOMALIES


SAID = {
    "links null": ("", "links lead nowhere"),
    "forward link wild": ("", "links lead nowhere"),
    "links to itself": ("", "links lead nowhere"),
    "pid null": ("", "pid not plausible"),
    "pid odd": ("", "pid not plausible"),
    "pid of another": ("", "pid also of"),
    "header byte 0": ("", "header altered"),
    "header size 0": ("", "header altered"),
    "signalled though it runs": ("", "end in doubt"),
    "signal and status altered": ("", "end in doubt"),
    "signal, time and status of an end": ("", "end in doubt"),
    "no handles": ("", "end in doubt"),
    "handles wild": ("", ""),
    "base all ones": ("no tables", "base leads to no table"),
    "exit time though it runs": ("", "end in doubt"),
    "exit time wild": ("", "exit time not plausible"),
    "base null": ("no memory", "base leads to no table"),
    "base beyond memory": ("no tables", "base leads to no table"),
    "top-level table lost": ("no tables", "base leads to no table"),
    "top-level table does not name itself": ("", "top-level table altered"),
    "created in the future": ("", "created in the future"),
    "created in 1601": ("", "creation time not plausible"),
    "parent wild": ("", "parent unknown"),
    "parent is itself": ("", "parent unknown"),
    "name empty": ("", "name not printable"),
    "name of control characters": ("", "name not printable"),
    "unlinked, own links stay": ("unlinked", ""),
    "unlinked, links null": ("unlinked", "links lead nowhere"),
    "unlinked, header altered": ("unlinked", "header altered"),
    "being made": ("starting", "starting"),
    "being made, pid 0": ("starting", "pid not plausible"),
    "being deleted": ("ending", "ending"),
    "in the middle of its exit": ("ending", "ending"),
}
"""For each kind, the state and the oddity of the process."""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", SAID)
@pytest.mark.many
def test_what_is_odd_is_said(kind: str, family: str, sound: Sound, tmp_path: Path) -> None:
    image, before = sound[family]
    _, after = tried(image, before, kind, tmp_path, "svchost.exe")
    [process] = odd_one(after, image, "svchost.exe")
    state, word = SAID[kind]
    assert process.state == state
    assert any(one.startswith(word) for one in process.anomalies) or not word


@pytest.mark.parametrize("family", FAMILIES)
def test_sound_processes_are_not_odd(family: str, sound: Sound) -> None:
    _, before = sound[family]
    assert not [p for p in before.snapshot.processes if p.anomalies]
    assert before.remarks == ()
    assert before.snapshot.copies == ()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.many
def test_tables_without_an_object(family: str, sound: Sound, tmp_path: Path) -> None:
    """Tables in use are shown and painted; an old process's tables are not."""
    image, before = sound[family]
    cost, after = tried(image, before, "base null", tmp_path, "svchost.exe")
    [nameless] = [p for p in after.snapshot.processes if not p.object_address]
    assert nameless.anomalies == ("known by its page tables only",)
    assert after.snapshot.stale_spaces == before.snapshot.stale_spaces == 1
    changed = np.flatnonzero(after.classes != before.classes).tolist()
    # No object names its second table, for user mode, any more.
    assert set(changed) <= {victim(image, "svchost.exe").shadow_dtb // PAGE_SIZE}
    assert cost.frames == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.many
def test_all_headers_lost(family: str, sound: Sound, tmp_path: Path) -> None:
    """Without any process header, table bases still lead to the objects."""
    image, before = sound[family]
    _, after = tried(image, before, "all headers lost", tmp_path, "System")
    for process in after.snapshot.processes:
        assert process.anomalies == ("header altered",)
    assert [row[:9] for row in after.processes.values()] == [
        row[:9] for row in before.processes.values()
    ]
    np.testing.assert_array_equal(after.classes, before.classes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.many
def test_the_system_process_is_known_by_more_than_its_pid(
    family: str, sound: Sound, tmp_path: Path
) -> None:
    image, before = sound[family]
    _, after = tried(image, before, "pid odd", tmp_path, "System")
    assert after.snapshot.kernel_dtb == before.snapshot.kernel_dtb
    _, after = tried(image, before, "pid of System", tmp_path, "svchost.exe")
    assert after.snapshot.kernel_dtb == before.snapshot.kernel_dtb


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("kind", "count"), [("copy in another page", 1), ("seven copies", 7)])
@pytest.mark.many
def test_copies_are_told(kind: str, count: int, family: str, sound: Sound, tmp_path: Path) -> None:
    image, before = sound[family]
    cost, after = tried(image, before, kind, tmp_path, "svchost.exe")
    assert len(after.snapshot.copies) % count == 0  # the page may have more objects
    assert len(after.snapshot.copies) >= count
    assert after.processes == before.processes
    assert cost.is_found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.many
def test_where_the_list_is_broken(family: str, sound: Sound, tmp_path: Path) -> None:
    image, before = sound[family]
    _, after = tried(image, before, "list broken at two places", tmp_path, "csrss.exe")
    [remark] = [text for text in after.remarks if "list of active processes" in text]
    assert "broken at 2 places" in remark
    assert "smss.exe (152)" in remark
    [hidden] = [p for p in after.snapshot.processes if p.state == "unlinked"]
    assert hidden.name == "rootkit.exe"


SHIFTS = {"x86": (22, 12), "pae": (30, 21, 12), "x64": (39, 30, 21, 12)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.many
def test_tables_that_lead_to_the_objects_are_lost(
    family: str, sound: Sound, tmp_path: Path
) -> None:
    """One of the kernel's tables after another becomes text; all names stay."""
    image, before = sound[family]
    names = {(p.pid, p.name, p.is_alive) for p in before.snapshot.processes}
    for frame in tables_to(image, image.truth.processes[1].eprocess)[1:]:
        odd = image.copy()
        odd.pages[frame] = np.frombuffer((b"all work and no play " * 200)[:PAGE_SIZE], np.uint8)
        after = said_of(odd, tmp_path)
        assert {(p.pid, p.name, p.is_alive) for p in after.snapshot.processes} == names
        assert after.snapshot.stale_spaces == 1
        for process in after.snapshot.processes:
            assert "object not mapped" in process.anomalies or process.object_address > 1 << 31
        gone = (before.classes != after.classes).nonzero()[0]
        # Pages below the table were the kernel's.
        assert set(before.classes[gone]) <= {PageClass.KERNEL}


def tables_to(image: Image, virtual: int) -> list[int]:
    """The tables on System's way to an address, the top one first."""
    wide = image.truth.paging != "x86"
    entries = image.pages.reshape(-1).view(np.uint64 if wide else np.uint32)
    table = image.truth.processes[0].dtb & ~0xF
    frames = []
    for shift in SHIFTS[image.truth.paging]:
        frames.append(table // PAGE_SIZE)
        count = 512 if wide else 1024
        index = virtual >> shift & ((4 if shift == 30 and len(frames) == 1 else count) - 1)
        table = int(entries[table // entries.itemsize + index]) & 0xF_FFFF_FFFF_F000
    return frames


# The law: for any bytes in some processes' objects, the report on all others stays.

values = st.one_of(
    st.binary(min_size=1, max_size=16),
    st.sampled_from([bytes(8), b"\xff" * 8, b"\1" + bytes(7), b"\xb0\xb0\xd0\xba" * 2]),
)


@pytest.mark.fuzz
@pytest.mark.parametrize("family", FAMILIES)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_law(family: str, sound: Sound, tmp_path: Path, data: st.DataObject) -> None:
    image, before = sound[family]
    image = image.copy()
    processes = image.truth.processes
    chosen = data.draw(
        st.lists(st.sampled_from(range(len(processes))), min_size=1, max_size=5, unique=True)
    )
    odd: set[int] = set()
    for number in chosen[: len(processes) // 3]:
        process = processes[number]
        odd.add(process.pid)
        size = min(image.profile.size("_EPROCESS"), 0x1000 - process.eprocess % 0x1000)
        how = data.draw(st.sampled_from(["field", "bytes", "bytes", "page", "copy", "free copy"]))
        if how == "field":
            members = image.profile.structures["_EPROCESS"]["members"]
            at = members[data.draw(st.sampled_from(sorted(members)))]
            image.write(process.eprocess + at, data.draw(values)[: size - at])
        elif how == "bytes":
            at = data.draw(st.integers(0, size - 1))
            image.write(process.eprocess + at, data.draw(values)[: size - at])
        elif how == "page":
            image.lose_page(process.eprocess, data.draw(st.sampled_from([b"\0", b"\xff", b"BAD0"])))
            odd |= on_page_of(image, process)
        elif how == "free copy":
            KINDS["copy in free memory"](image, process)
        else:
            page = data.draw(st.sampled_from(image.kernel_pages()))
            copy = image.copy_object(process, page, with_header=data.draw(st.booleans()))
            at = data.draw(st.integers(0, size - 1))
            image.write(copy.eprocess + at, data.draw(values)[: size - at])
    after = said_of(image, tmp_path)
    cost = harm(image, before, after, odd)
    assert (cost.others, cost.frames) == (0, 0), after.remarks


def test_kinds_are_many() -> None:
    assert len(KINDS) >= 40


@pytest.mark.parametrize("share", [0.002, 0.01, 0.03])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.many
def test_names_where_pages_changed_places(
    family: str, share: float, sound: Sound, tmp_path: Path
) -> None:
    """In a live dump with pages of other moments, each sound object with its table is known."""
    image, _ = sound[family]
    for seed in range(8):
        odd = image.copy()
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(odd.pages), round(share * len(odd.pages)), replace=False)
        odd.pages[chosen] = odd.pages[rng.permutation(chosen)]
        after = said_of(odd, tmp_path)
        names = {(p.pid, p.name) for p in after.snapshot.processes}
        for process in image.truth.processes:
            page = image.physical(process.eprocess) // PAGE_SIZE
            own = {page, *top_frames(image, process)}
            if process.dtb and not own & set(chosen.tolist()) and not process.exited:
                assert (process.pid, process.name) in names, (seed, after.remarks)
