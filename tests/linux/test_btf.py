"""BTF from C sources by pahole, compared with the compiler's own layout of these sources."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from memory_visualizer.limits import Budget
from memory_visualizer.linux.btf import HEADER_SIZE, Btf, total_size
from tests.conftest import do_without

SAMPLE = Path(__file__).with_name("sample")
CONTENTS = (SAMPLE / "sample.btf").read_bytes()
KNOWN: dict[str, list[int]] = json.loads((SAMPLE / "sample.json").read_text())
"""The compiler's answers: offset and size of members, size of structures, value of enumerators."""
MEMBERS = [name for name in KNOWN if "." in name]
STRUCTURES = [name for name in KNOWN if name.isidentifier() and name != "compiler"]
ENUMERATORS = [name for name in KNOWN if name.startswith("= ")]


def parsed(contents: bytes) -> Btf | None:
    return Btf.parse(np.frombuffer(contents, np.uint8))


@pytest.fixture(scope="module")
def btf() -> Btf:
    """The types in the blob."""
    found = parsed(CONTENTS)
    assert found
    return found


@pytest.mark.parametrize("name", MEMBERS)
def test_where_members_stand(name: str, btf: Btf) -> None:
    """Members of unnamed structures count as members of the structure around them."""
    structure, member = name.split(".")
    assert btf.offset(structure, member) == KNOWN[name][0]
    assert btf.offset(structure, "no_such", member) == KNOWN[name][0]


@pytest.mark.parametrize("name", STRUCTURES)
def test_sizes_of_structures(name: str, btf: Btf) -> None:
    assert btf.size(name) == KNOWN[name][0]


@pytest.mark.parametrize("name", ENUMERATORS)
def test_enumerators(name: str, btf: Btf) -> None:
    """Enumerators of 64 bits give their lower 32."""
    assert btf.enumerator(name.removeprefix("= ")) == KNOWN[name][0] & 0xFFFF_FFFF


def test_what_there_is_not(btf: Btf) -> None:
    """Names of other things, parts of names, and unknown names give None."""
    assert btf.size("no_such") is None
    assert btf.size("word_t") is None  # a typedef
    assert btf.size("order") is None  # an enumeration
    assert btf.size("forward") is None
    assert btf.offset("no_such", "name") is None
    assert btf.offset("inner", "name") is None  # a member of other structures
    assert btf.offset("plain", "plain", "nam", "names") is None
    assert btf.offset("nothing", "anything") is None
    assert btf.enumerator("plain") is None
    assert btf.enumerator("small") is None
    assert btf.size("") is None


def test_a_name_of_many_things() -> None:
    """A structure and an enumerator are found behind any number of other things of that name."""
    text = b"\0name\0"
    typedef, structure, enumeration = 8 << 24, 4 << 24, 6 << 24 | 1
    words = [1, typedef, 0] * 5000 + [1, structure, 24] + [0, enumeration, 4, 1, 77]
    types = np.array(words, "<u4").tobytes()
    header = np.array([0x0001EB9F, HEADER_SIZE, 0, len(types), len(types), len(text)], "<u4")
    found = parsed(header.tobytes() + types + text)
    assert found
    assert found.size("name") == 24
    assert found.enumerator("name") == 77


def test_one_behind_another_in_memory() -> None:
    """Bytes behind the strings are ignored."""
    behind = parsed(CONTENTS + b"\xff" * 4096)
    assert behind
    assert behind.size("plain") == KNOWN["plain"][0]
    assert total_size(CONTENTS) == len(CONTENTS)
    assert total_size(CONTENTS[:HEADER_SIZE]) == len(CONTENTS)


def test_cut_off() -> None:
    """A truncated blob gives None, and so does another magic."""
    assert all(parsed(CONTENTS[:size]) is None for size in range(len(CONTENTS)))
    assert parsed(CONTENTS[1:]) is None
    assert parsed(b"\x9f\xeb\x02" + CONTENTS[3:]) is None


def test_any_damage(btf: Btf) -> None:
    """With any one byte changed, answers may change or be missing; most stay the same."""
    asked = [name.split(".") for name in MEMBERS]
    sound = [btf.offset(*words) for words in asked]
    same = 0
    rng = np.random.default_rng(1)
    places = rng.integers(HEADER_SIZE, len(CONTENTS), 300)
    for place, value in zip(places.tolist(), rng.integers(1, 256, 300).tolist(), strict=True):
        damaged = bytearray(CONTENTS)
        damaged[place] ^= value
        found = parsed(bytes(damaged))
        assert found
        told = [found.offset(*words) for words in asked]
        same += sum(one == before for one, before in zip(told, sound, strict=True))
        found.enumerator("SECOND")
    assert same > 300 * len(asked) * 0.6


def test_more_unnamed_parts_than_any_compiler_makes() -> None:
    """All parts up to the limit are read, and the others are counted."""
    budget = Budget(0)
    limit = budget.limit("unnamed part of a kernel type")
    text, structure, count = b"\0outer\0member\0", 4 << 24, 2 * limit
    # The first type has an unnamed member of each other type, and these have one member each.
    words = [1, structure | count, 8 * count]
    for number in range(count):
        words += [0, 2 + number, 64 * number]
    for _ in range(count):
        words += [0, structure | 1, 8, 7, 0, 0]
    types = np.array(words, "<u4").tobytes()
    header = np.array([0x0001EB9F, HEADER_SIZE, 0, len(types), len(types), len(text)], "<u4")
    contents = np.frombuffer(header.tobytes() + types + text, np.uint8)
    found = Btf.parse(contents, budget)
    assert found
    assert found.offset("outer", "member") == 0
    assert budget.remarks == (
        f"{limit:,} unnamed parts of a kernel type left out: more than any machine has",
    )


@pytest.mark.peer
def test_the_sample_is_what_the_tools_make(tmp_path: Path) -> None:
    """The compiler here lays the sources out as the sample's compiler did."""
    if not (shutil.which("gcc") and shutil.which("pahole")):
        do_without("REQUIRE_PAHOLE", "no gcc and pahole here (on Debian: apt install gcc dwarves)")
    subprocess.run([SAMPLE / "make-btf", tmp_path], check=True)
    known = json.loads((tmp_path / "sample.json").read_text())
    assert known | {"compiler": KNOWN["compiler"]} == KNOWN
    anew = parsed((tmp_path / "sample.btf").read_bytes())
    assert anew
    for name in MEMBERS:
        assert anew.offset(*name.split(".")) == KNOWN[name][0]
