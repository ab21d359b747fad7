"""The real Volatility 2.6.1 on synthetic dumps of all Windows profiles, and the plugin in it."""

import html
import json
import os
import re
import sqlite3
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import memory_visualizer
from memory_visualizer.export.tables import write_text_map
from memory_visualizer.paging import SHARED
from tests import prestarted
from tests.conftest import ROOT, takes_all
from tests.painted import assert_painted_truly
from tests.synth import GIB, MIB, Profile, Truth, forge, profiles
from tests.synth.memory import PAGE_SIZE
from tests.volatility2program import run, volatility

Rows = list[tuple[int, int, int, str]]
"""Virtual, physical, size, kernel."""


def rows_of(text: str) -> Rows:
    """The rows of a text page map."""
    found = []
    for line in text.splitlines():
        if line.startswith("0x"):
            virtual, physical, size, kernel = line.split()[:4]
            found.append((int(virtual, 16), int(physical, 16), int(size, 16), kernel))
    return found


def rows_of_engine(dump: Path) -> set[tuple[int, int, int, str]]:
    """The same rows of listed processes and the kernel, by the project's own engine."""
    snapshot = memory_visualizer.open(dump)
    listed = [i for i, process in enumerate(snapshot.processes) if process.is_listed]
    seen = snapshot.mappings.take(np.isin(snapshot.mappings.space, [SHARED, *listed]))
    return {
        (virtual, frame * PAGE_SIZE, frames * PAGE_SIZE, str(not user))
        for virtual, frame, frames, user in zip(
            seen.virtual.tolist(),
            seen.pfn.tolist(),
            np.minimum(seen.count, snapshot.classes.size - seen.pfn).tolist(),
            seen.is_user.tolist(),
            strict=True,
        )
    }


def classes_of(rows: Rows, zero: npt.NDArray[np.bool_]) -> npt.NDArray[np.str_]:
    """The class of each page by these rows."""
    reached = {"True": np.zeros(zero.size, bool), "False": np.zeros(zero.size, bool)}
    for _, physical, size, kernel in rows:
        reached[kernel][physical // PAGE_SIZE : (physical + size) // PAGE_SIZE] = True
    is_kernel, is_user = reached["True"], reached["False"]
    classes = np.where(zero, "unused-zero", "unused-data")
    classes[is_kernel] = "kernel"
    classes[is_user] = "user"
    classes[is_user & is_kernel] = "both"
    return classes


def painted(dump: Path, rows: Rows) -> Path:
    """Have the renderer paint these rows."""
    page_map, picture = dump.with_name("map"), dump.with_name("picture.png")
    lines = [
        f"{virtual:#x} {physical:#x} {size:#x} {kernel}\n"
        for virtual, physical, size, kernel in rows
    ]
    page_map.write_text("(Virtual) (Physical) (Size) (Kernel)\n" + "".join(lines))
    arguments = [ROOT / "imagegenerator.py", dump, page_map, "-o", picture]
    result = prestarted.run(arguments)
    assert result.returncode == 0, result.stderr
    return picture


def families() -> list[str]:
    """The newest profile of each version of Windows and word size."""
    newest = {(one.version, one.bits): name for name, one in sorted(profiles().items(), key=_build)}
    return list(newest.values())


def _build(item: tuple[str, Profile]) -> tuple[int, str]:
    name, profile = item
    return profile.build, name


def test_families() -> None:
    """The families are XP to Windows 10, with 32 and 64 bits."""
    known = {(profiles()[name].version, profiles()[name].bits) for name in families()}
    assert known == {(one.version, one.bits) for one in profiles().values()}
    assert len(known) == 13


@pytest.mark.long
def test_profiles(volatility2: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """The real imageinfo and pslist accept the dumps; each page of map and picture is right.

    Each row's physical address equals the answer of `vtop` for its virtual address. One process of
    Volatility reads the dumps of all profiles, or of one of each family, since loading the profiles
    takes most of the time.
    """
    names = sorted(profiles() if takes_all(pytestconfig) else families())
    truths: list[Truth] = []
    for number, name in enumerate(names):
        truths.append(forge(tmp_path / name, profiles()[name], size=16 * MIB, seed=number))
    dumps = tmp_path / "dumps"
    dumps.write_text("".join(f"{name} {tmp_path / name}\n" for name in names))
    plugins = f"{ROOT / 'plugins'}:{ROOT / 'tests/volatility2'}"
    done = volatility(
        volatility2, dumps, "WinXPSP2x86", "secondopinion", f"--dumps={dumps}", plugins=plugins
    )
    assert done.returncode == 0, done.stderr
    opinions = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(opinions) == len(names)
    for name, truth, seen in zip(names, truths, opinions, strict=True):
        assert name in re.split(r", | \(", seen["suggested"]), name
        assert seen["image_time"] == "2019-04-17 18:40:00 UTC+0000"
        listed = [[p.pid, p.name, p.exited] for p in truth.processes if p.listed]
        assert seen["processes"] == listed, name
        assert all(physical == vtop for _, physical, _, _, _, vtop in seen["rows"]), name
        rows = [(row[0], row[1], row[2], str(row[3])) for row in seen["rows"]]
        expected = truth.classes(truth.listed)
        np.testing.assert_array_equal(classes_of(rows, truth.zero), expected, name)
        assert_painted_truly(painted(tmp_path / name, rows), truth)
        assert set(rows) == rows_of_engine(tmp_path / name), name


@pytest.mark.parametrize(
    ("name", "pae"), [("WinXPSP3x86", True), ("VistaSP1x86", False), ("Win7SP1x86", False)]
)
def test_the_other_32_bit_paging(name: str, pae: bool, volatility2: Path, tmp_path: Path) -> None:
    truth = forge(tmp_path / "dump", profiles()[name], size=16 * MIB, pae=pae)
    done = volatility(volatility2, tmp_path / "dump", name, "memoryvisualizer")
    np.testing.assert_array_equal(
        classes_of(rows_of(done.stdout), truth.zero), truth.classes(truth.listed)
    )


@pytest.fixture(scope="module")
def win7(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """A synthetic 64-bit Windows 7, and its truth."""
    dump = tmp_path_factory.mktemp("win7") / "win7.raw"
    return dump, forge(dump, profiles()["Win7SP1x64"], size=16 * MIB)


@pytest.fixture(scope="module")
def page_map(win7: tuple[Path, Truth], volatility2: Path) -> str:
    """The text page map of `win7`, with owners."""
    done = volatility(volatility2, win7[0], "Win7SP1x64", "memoryvisualizer", "--owner")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_text_page_map(page_map: str) -> None:
    title, rule, first = page_map.splitlines()[:3]
    assert title.split() == [
        "(Virtual)",
        "(Physical)",
        "(Size)",
        "(Kernel)",
        "(Pid)",
        "(Process)",
    ]
    assert set(rule) == {"-"}
    assert re.fullmatch(r"0x[0-9a-f]+ +0x[0-9a-f]+ +0x[0-9a-f]+ +(True|False) +\d+ +\S.*", first)


def test_pages_of_1_gib(volatility2: Path, tmp_path: Path) -> None:
    """The longest size leaves each line its four columns, also in the engine's map."""
    dump, name = tmp_path / "dump", "Win10x64_17763"
    truth = forge(
        dump,
        profiles()[name],
        size=5 * GIB,
        kernel_pages=600,
        user_pages=60,
        free_data=0.0,
        processes=3,
    )
    assert (truth.mappings["size"] == GIB).any()
    write_text_map(tmp_path / "map", memory_visualizer.open(dump))
    theirs = volatility(volatility2, dump, name, "memoryvisualizer").stdout
    for text in (theirs, (tmp_path / "map").read_text()):
        rows = [line.split() for line in text.splitlines()[2:]]
        assert {len(row) for row in rows} == {4}
        assert "0x40000000" in {row[2] for row in rows}


def test_kernel_rows_are_distinct(page_map: str, win7: tuple[Path, Truth]) -> None:
    """Each mapping of the kernel comes once, and a process's own mapping with the process."""
    kernel = [row for row in rows_of(page_map) if row[3] == "True"]
    assert len(kernel) == len(set(kernel))
    notes = win7[1].mappings
    owned = notes[np.isin(notes["owner"], [-1, *win7[1].listed])]
    expected = set(zip(owned["virtual"].tolist(), owned["frame"].tolist(), strict=True))
    found = {(virtual, physical // PAGE_SIZE) for virtual, physical, _, _ in rows_of(page_map)}
    assert found == expected


def test_owners(page_map: str, win7: tuple[Path, Truth]) -> None:
    """A user mapping has pid and name of the process that got the page."""
    truth = win7[1]
    notes = truth.mappings[truth.mappings["user"] & np.isin(truth.mappings["owner"], truth.listed)]
    expected = {(int(note["virtual"]), truth.processes[note["owner"]].pid) for note in notes}
    found = set()
    for line in page_map.splitlines()[2:]:
        virtual, _, _, kernel, pid, name = line.split(None, 5)
        assert name == next(p.name for p in truth.processes if p.pid == int(pid))
        if kernel == "False":
            found.add((int(virtual, 16), int(pid)))
    assert found == expected


def test_every_mapping(win7: tuple[Path, Truth], volatility2: Path, page_map: str) -> None:
    """All mappings of all processes, with the kernel's again for each, as in the seed's output."""
    done = volatility(volatility2, win7[0], "Win7SP1x64", "memoryvisualizer", "--every-mapping")
    rows = rows_of(done.stdout)
    assert set(rows) == set(rows_of(page_map))
    image = [row for row in rows if row[0] == 0xFFFFF800_02A00000]
    assert len(image) == len(win7[1].listed)


@pytest.mark.parametrize("output", ["json", "html", "sqlite", "greptext", "dot"])
def test_other_renderers(
    output: str,
    win7: tuple[Path, Truth],
    volatility2: Path,
    page_map: str,
    tmp_path: Path,
) -> None:
    """Volatility's own renderers give the same rows as the text."""
    file = tmp_path / "out"
    done = volatility(
        volatility2,
        win7[0],
        "Win7SP1x64",
        "memoryvisualizer",
        f"--output={output}",
        f"--output-file={file}",
    )
    assert done.returncode == 0, done.stderr
    expected = set(rows_of(page_map))
    if output == "json":
        found = {tuple(row) for row in json.loads(file.read_text())["rows"]}
    elif output == "sqlite":
        with sqlite3.connect(file) as database:
            columns = "Virtual, Physical, Size, Kernel"
            table = database.execute(f"select {columns} from MemoryVisualizer").fetchall()
        found = {(*map(int, row[:3]), row[3]) for row in table}
    else:
        text = html.unescape(file.read_text())
        assert text.count("True") + text.count("False") >= len(expected)
        return
    assert found == expected


def test_output_file_is_not_overwritten(
    win7: tuple[Path, Truth], volatility2: Path, page_map: str, tmp_path: Path
) -> None:
    file = tmp_path / "map"
    for expected in (0, 1):
        done = volatility(
            volatility2, win7[0], "Win7SP1x64", "memoryvisualizer", f"--output-file={file}"
        )
        assert done.returncode == expected
    assert set(rows_of(file.read_text())) == set(rows_of(page_map))


def choose(win7: tuple[Path, Truth], vol: Path, *arguments: str) -> set[str]:
    """Names of the processes whose rows come with these options."""
    done = volatility(vol, win7[0], "Win7SP1x64", "memoryvisualizer", "--owner", *arguments)
    assert done.returncode == 0, done.stderr
    return {line.split(None, 5)[5] for line in done.stdout.splitlines()[2:]}


def test_choosing_processes(win7: tuple[Path, Truth], volatility2: Path) -> None:
    """-p, -n and -o choose as in pslist; -o finds the unlinked process."""
    truth = win7[1]
    by_name = {p.name: p for p in truth.processes}
    pids = f"{by_name['notepad.exe'].pid},{by_name['lsass.exe'].pid}"
    assert choose(win7, volatility2, "-p", pids) == {"notepad.exe", "lsass.exe"}
    assert choose(win7, volatility2, "-n", "^csrss") == {"csrss.exe"}
    pool = truth.mappings[truth.mappings["virtual"] == by_name["rootkit.exe"].eprocess & ~0xFFF]
    physical = int(pool["frame"][0]) * PAGE_SIZE + by_name["rootkit.exe"].eprocess % PAGE_SIZE
    assert choose(win7, volatility2, "-o", hex(physical)) == {"rootkit.exe"}


def failure(vol: Path, dump: Path, profile: str, *arguments: str) -> str:
    """The plugin's error: one sentence after Volatility's banner."""
    done = volatility(vol, dump, profile, "memoryvisualizer", *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not rows_of(done.stdout)
    lines = [line for line in done.stderr.splitlines() if "ERROR" in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_wrong_profile(win7: tuple[Path, Truth], volatility2: Path) -> None:
    assert "No Windows like WinXPSP3x86" in failure(volatility2, win7[0], "WinXPSP3x86")


def test_not_a_dump(volatility2: Path, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(MIB))
    assert "No Windows like Win7SP1x64" in failure(volatility2, tmp_path / "noise", "Win7SP1x64")


def test_no_such_process(win7: tuple[Path, Truth], volatility2: Path) -> None:
    assert "Cannot find PID 12345" in failure(volatility2, win7[0], "Win7SP1x64", "-p", "12345")
    sentence = failure(volatility2, win7[0], "Win7SP1x64", "-o", "0x1000")
    assert "no process at the physical offset 0x1000" in sentence


def test_no_process_list(volatility2: Path, tmp_path: Path) -> None:
    """The code that leads Volatility to the debugger block is damaged, so it has no list."""
    name = "Win10x64_17763"  # in Windows 8 Volatility searches a page of 1 GiB for it
    forge(tmp_path / "dump", profiles()[name], size=16 * MIB)
    contents = (tmp_path / "dump").read_bytes()
    bswap_and_return = bytes.fromhex("480fcac3")
    assert contents.count(bswap_and_return) == 1
    (tmp_path / "dump").write_bytes(contents.replace(bswap_and_return, bytes(4)))
    assert "no list of processes" in failure(volatility2, tmp_path / "dump", name)


def test_a_process_whose_tables_are_gone(
    win7: tuple[Path, Truth], volatility2: Path, tmp_path: Path
) -> None:
    """It is named and left out; the others are listed."""
    truth = win7[1]
    lost = next(i for i in truth.listed if truth.processes[i].name == "explorer.exe")
    table = truth.processes[lost].dtb
    contents = bytearray(win7[0].read_bytes())
    contents[table : table + PAGE_SIZE] = os.urandom(8) * 512
    dump = tmp_path / "damaged.raw"
    dump.write_bytes(contents)
    done = volatility(volatility2, dump, "Win7SP1x64", "memoryvisualizer", "--owner")
    assert done.returncode == 0
    assert re.search(r"explorer\.exe \(pid \d+\): its page tables are gone", done.stderr)
    names = {line.split(None, 5)[5] for line in done.stdout.splitlines()[2:]}
    assert names == {truth.processes[i].name for i in truth.listed if i != lost}


def test_exited_process_is_named_and_left_out(win7: tuple[Path, Truth], volatility2: Path) -> None:
    done = volatility(volatility2, win7[0], "Win7SP1x64", "memoryvisualizer", "-n", "notepad|setup")
    assert re.search(r"setup\.exe \(pid \d+\) has exited", done.stderr)


def test_tables_in_circles_end(volatility2: Path, tmp_path: Path) -> None:
    """A table whose entries all lead to itself is read once for each level."""
    truth = forge(tmp_path / "dump", profiles()["Win7SP1x64"], size=16 * MIB)
    victim = next(p for p in truth.processes if p.name == "notepad.exe")
    contents = bytearray((tmp_path / "dump").read_bytes())
    entries = np.frombuffer(contents, dtype="<u8")[victim.dtb // 8 : victim.dtb // 8 + 512]
    entries[:256] = victim.dtb | 0x67
    # The part that Volatility needs is still there, one level down.
    (tmp_path / "dump").write_bytes(contents)
    done = volatility(volatility2, tmp_path / "dump", "Win7SP1x64", "memoryvisualizer")
    assert done.returncode == 0
    assert len(rows_of(done.stdout)) < 100_000


def test_hostile_names_are_escaped(volatility2: Path, tmp_path: Path) -> None:
    names = ["\x1b[31mred", "a\nb", "<script>"]
    forge(tmp_path / "dump", profiles()["Win7SP1x64"], size=16 * MIB, names=names)
    done = volatility(volatility2, tmp_path / "dump", "Win7SP1x64", "memoryvisualizer", "--owner")
    assert "\x1b" not in done.stdout + done.stderr
    shown = {line.split(None, 5)[5] for line in done.stdout.splitlines()[2:]}
    assert shown >= {r"\x1b[31mred", r"a\x0ab", "<script>"}


def test_not_for_other_systems(volatility2: Path, tmp_path: Path) -> None:
    """A profile of another system is refused with Volatility's own sentence."""
    check = tmp_path / "check.py"
    check.write_text(
        "import volatility.registry as r, volatility.conf as c; r.PluginImporter()\n"
        "import sys; sys.path.insert(0, 'plugins'); import memoryvisualizer as m\n"
        "linux = type('P', (), {'metadata': {'os': 'linux'}})()\n"
        "print(m.MemoryVisualizer.is_valid_profile(linux))"
    )
    done = run(volatility2.parent / "python", check)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("is_there", [True, False])
def test_as_a_person_starts_it(is_there: bool, win7: tuple[Path, Truth], volatility2: Path) -> None:
    """The other tests' runs, from a server, equal runs by a new Python, also if they fail."""
    dump = win7[0] if is_there else win7[0].with_name("missing")
    forked, started = (
        volatility(volatility2, dump, "Win7SP1x64", "memoryvisualizer", "--owner", anew=anew)
        for anew in (False, True)
    )
    assert started.returncode == (not is_there)
    assert bool(rows_of(started.stdout)) == is_there
    assert ("requested file doesn't exist" in started.stderr) == (not is_there)
    assert (forked.returncode, forked.stderr) == (started.returncode, started.stderr)
    assert forked.stdout == started.stdout


def test_how_a_run_from_the_server_ends(volatility2: Path, tmp_path: Path) -> None:
    """The code, what was said and what was written are as at the end of any Python."""
    for number, (ending, code, said) in enumerate(
        [
            ("", 0, ""),
            ("sys.exit(259)", 3, ""),
            ("sys.exit('ended')", 1, "ended\n"),
            ("os.kill(os.getpid(), 9)", -9, None),
            ("{}['no such key']", 1, "KeyError: 'no such key'\n"),
        ]
    ):
        script = tmp_path / f"{number}.py"
        script.write_text(
            "import os, sys, volatility.plugins as plugins\n"
            "def work():\n"
            "    file = open(sys.argv[1], 'wb'); around = [file]; around.append(around)\n"
            "    file.write('written')\n"
            "    print sys.argv[1:], os.getcwd(), __name__, sys.path[0], sys.stdin.read(),\n"
            "    print plugins.__path__, sys.stdout.encoding, 'volatility.conf' in sys.modules\n"
            f"    {ending or 'pass'}\n"
            "work()\n"
        )
        results = []
        for anew in (False, True):
            file = tmp_path / "file"
            arguments = file, f"--plugins={tmp_path}:tests/volatility2"
            done = run(volatility2.parent / "python", script, *arguments, anew=anew)
            results.append((done.returncode, done.stdout, file.read_bytes()))
            if said is not None:
                assert done.stderr.endswith(said) and bool(done.stderr) == bool(said)
        assert results[0] == results[1]
        assert results[0][0] == code
        if code >= 0:
            assert "tests/volatility2" in results[0][1] and results[0][2] == b"written"
