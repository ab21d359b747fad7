"""The bytes in the page: the browser opens the dump, reads, searches and saves it."""

import base64
import hashlib
import io
import json
import re
import socket
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import viewer
from memory_visualizer.cli.memviz import main
from memory_visualizer.snapshot.pagemap import PageClass
from tests.conftest import both_browsers
from tests.snapshot.test_snapshot import expanded
from tests.synth.containers import (
    Pieces,
    write_crash,
    write_elf,
    write_kdump,
    write_lime,
    write_raw,
    write_vmware,
)
from tests.synth.linux import forge_linux
from tests.synth.memory import PAGE_SIZE
from tests.synth.qemu import write_qemu
from tests.viewer.page import (
    Dump,
    assert_axe_finds_nothing,
    downloaded,
    fragment_of,
    lit_frames,
    numbers_of,
    settle,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Opener = Callable[..., "Page"]

SECRET = "the spice must flow"
WIDE_AT, CUT_AT, NARROW_AT = 5 * PAGE_SIZE + 100, 10 * PAGE_SIZE - 7, 40 * PAGE_SIZE + 4000
"""Physical addresses of the secret: in UTF-16, across a page's end, and in another run."""
HEX_AT = 33 * PAGE_SIZE + 1


def contents(pages: int, seed: int) -> bytearray:
    """Pages of noise that cannot be packed, of noise that can, and of zeros."""
    rng = np.random.default_rng(seed)
    memory = np.zeros((pages, PAGE_SIZE), np.uint8)
    memory[::3] = rng.integers(256, size=(len(memory[::3]), PAGE_SIZE))
    memory[1::3] = rng.integers(128, 132, size=(len(memory[1::3]), PAGE_SIZE))
    return bytearray(memory.tobytes())


def pieces() -> list[tuple[int, bytes]]:
    """Two runs of memory, with the secret in them."""
    low, high = contents(24, 1), contents(16, 2)
    wide, narrow = SECRET.encode("utf-16-le"), SECRET.encode()
    low[WIDE_AT : WIDE_AT + len(wide)] = wide
    low[CUT_AT : CUT_AT + len(narrow)] = narrow
    start = 32 * PAGE_SIZE
    high[NARROW_AT - start : NARROW_AT - start + len(narrow)] = narrow.upper()
    high[HEX_AT - start : HEX_AT - start + 4] = b"\x00\x01\x02\x03"
    return [(0, bytes(low)), (start, bytes(high))]


def frames_of(written: Pieces) -> dict[int, bytes]:
    """The bytes of each frame."""
    return {
        (address + start) // PAGE_SIZE: data[start : start + PAGE_SIZE]
        for address, data in written
        for start in range(0, len(data), PAGE_SIZE)
    }


def _vmware(path: Path, written: Pieces) -> None:
    write_vmware(path, path.with_suffix(".vmss"), written)


FORMATS: dict[str, Callable[[Path, Pieces], object]] = {
    "dump.raw": write_raw,
    "dump.lime": write_lime,
    "dump.elf": partial(write_elf, notes=[(b"A", b"12345")]),
    "dump.dmp": partial(write_crash, kind="bitmap"),
    "dump.vmem": _vmware,
    "dump.qemu": write_qemu,
    "dump.kdump": write_kdump,
}


@dataclass(frozen=True)
class Opened:
    """A dump without a system, and its page."""

    path: Path
    frames: dict[int, bytes]
    page: Path


def made(folder: Path, name: str) -> Opened:
    """Write the dump in the format that its name tells, and its page."""
    path = folder / name
    FORMATS[name](path, pieces())
    memory_visualizer.open(path).to_html(folder / "page.html")
    return Opened(path, frames_of(pieces()), folder / "page.html")


@pytest.fixture(scope="module")
def lime(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return made(tmp_path_factory.mktemp("lime"), "dump.lime")


def give(page: "Page", path: Path) -> "Page":
    """Give a file to the page, and wait for the answer."""
    page.locator("#bench-open").click()
    page.locator("#bench-file").set_input_files(path)
    page.wait_for_function(
        """() => !document.getElementById("bench-body").hidden
            || document.getElementById("bench-said").classList.contains("fault")"""
    )
    return page


def read(page: "Page", frame: int) -> bytes | str:
    """The bytes of a frame as the page reads them, or the sentence on missing bytes."""
    found: str = page.evaluate(
        """async (frame) => {
            try {
                return "=" + btoa(String.fromCharCode(...await memviz.bench.bytesOf(frame)));
            } catch (error) {
                return error.message;
            }
        }""",
        frame,
    )
    return base64.b64decode(found[1:]) if found.startswith("=") else found


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.many
def test_every_page_of_the_dump(open_page: Opener, tmp_path: Path, name: str) -> None:
    """In each format, each page has its written bytes at its place in the file."""
    opened = made(tmp_path, name)
    page = give(open_page(opened.page), opened.path)
    assert page.locator("#bench-name").inner_text().startswith(name)
    packed = []
    for frame in range(48):
        if name != "dump.raw" and frame not in opened.frames:
            assert "does not hold" in str(read(page, frame))
            continue
        found = read(page, frame)
        if isinstance(found, str):
            assert "memviz convert" in found
            packed.append(frame)
        else:
            assert found == opened.frames.get(frame, bytes(PAGE_SIZE)), frame
    # kdump packs pages that get smaller; the other formats pack none.
    smaller = [n for n, data in opened.frames.items() if len(zlib.compress(data)) < PAGE_SIZE]
    with_data = [frame for frame in smaller if any(opened.frames[frame])]
    assert packed == (with_data if name == "dump.kdump" else [])


def test_a_raw_file_of_a_packed_dump(open_page: Opener, tmp_path: Path) -> None:
    """The sentence names the command; the page opens the command's result, and shows every page."""
    opened = made(tmp_path, "dump.kdump")
    raw = tmp_path / "out.raw"
    assert main(["convert", str(opened.path), "-o", str(raw)]) == 0
    page = open_page(opened.page)
    page.locator("#bench-open").click()
    assert "memviz convert DUMP -o OUT.raw" in page.locator("#bench-what").inner_text()
    page.locator("#bench-file").set_input_files(raw)
    page.wait_for_selector("#bench-body", state="visible")
    for frame, expected in opened.frames.items():
        assert read(page, frame) == expected


def test_what_is_another_dump(open_page: Opener, lime: Opened, tmp_path: Path) -> None:
    """Size or contents tell another dump; the page says which, and shows no bytes of it."""
    page = open_page(lime.page)
    (tmp_path / "short.lime").write_bytes(lime.path.read_bytes()[:-1])
    give(page, tmp_path / "short.lime")
    said = page.locator("#bench-said").inner_text()
    assert said.startswith("This is another file.")
    assert f"{lime.path.stat().st_size:,} bytes" not in said.split(";")[0]
    assert f"{lime.path.stat().st_size:,}" in said.split(";")[1]
    other = bytearray(lime.path.read_bytes())
    other[len(other) // 2 :] = bytes(len(other) - len(other) // 2)
    (tmp_path / "other.lime").write_bytes(other)
    page.locator("#bench-file").set_input_files(tmp_path / "other.lime")
    page.wait_for_function(
        """() => document.getElementById("bench-said").textContent.includes("compared")"""
    )
    assert re.search(
        r"of \d+ pages that were compared, \d+ differ", page.locator("#bench-said").inner_text()
    )
    assert page.evaluate("memviz.bench.dump") is None
    page.locator("#bench-file").set_input_files(lime.path)
    page.wait_for_selector("#bench-body", state="visible")


def test_dropped_on_the_map(open_page: Opener, lime: Opened) -> None:
    page = open_page(lime.page)
    page.evaluate(
        """(data) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], "dump.lime"));
            const map = document.getElementById("map");
            for (const type of ["dragover", "drop"])
                map.dispatchEvent(new DragEvent(type,
                    { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        base64.b64encode(lime.path.read_bytes()).decode("ascii"),
    )
    page.wait_for_selector("#bench-body", state="visible")
    assert read(page, 3) == lime.frames[3]


def test_only_what_is_looked_at_is_read(open_page: Opener, lime: Opened) -> None:
    """Opening reads the samples, and then each page is read alone."""
    page = open_page(lime.page)
    page.evaluate(
        """() => {
            window.sliced = 0;
            const { slice } = Blob.prototype;
            Blob.prototype.slice = function (from, to) {
                window.sliced += to - from;
                return slice.call(this, from, to);
            };
        }"""
    )
    give(page, lime.path)
    samples = page.evaluate("memviz.about.file.samples.length")
    assert page.evaluate("window.sliced") == samples * PAGE_SIZE
    page.evaluate("window.sliced = 0")
    pin(page, 6)
    assert page.evaluate("window.sliced") == PAGE_SIZE


def test_bytes_where_the_machine_has_no_memory(open_page: Opener, tmp_path: Path) -> None:
    """A raw file has bytes there, which are shown, searched and saved like others."""
    path = tmp_path / "dump.raw"
    forge_linux(path, "6.1", hole=True)
    hole = path.stat().st_size // 2
    memory = bytearray(path.read_bytes())
    memory[hole : hole + len(SECRET)] = SECRET.encode()
    path.write_bytes(memory)
    snapshot = memory_visualizer.open(path)
    frame = hole // PAGE_SIZE
    assert snapshot.classes[frame] == PageClass.ABSENT
    snapshot.to_html(tmp_path / "page.html")
    page = give(open_page(tmp_path / "page.html"), path)
    assert read(page, frame) == bytes(memory[hole : hole + PAGE_SIZE])
    assert [at for at, *_ in find(page, "text", SECRET)] == [hole]


def pin(page: "Page", frame: int) -> None:
    """Pin a page and wait for its bytes."""
    page.select_option("#goto-kind", "pfn")
    page.fill("#goto-number", str(frame))
    page.locator("#goto button").click()
    page.wait_for_function(
        "(address) => document.querySelector('#hex .at')?.textContent === address",
        arg=f"{frame * PAGE_SIZE:08x}",
    )


@both_browsers
def test_hexadecimal_and_text(open_page: Opener, lime: Opened) -> None:
    """Bytes are shown as by xxd; mouse and keys select, and the selection is copied."""
    page = give(open_page(lime.page), lime.path)
    pin(page, 5)
    lines = page.locator("#hex .hex-row").evaluate_all(
        "(rows) => rows.map((row) => [...row.children].map((part) => part.textContent))"
    )
    assert len(lines) == 256
    for number, (address, numbers, text) in enumerate(lines):
        row = lime.frames[5][16 * number : 16 * number + 16]
        assert int(address, 16) == 5 * PAGE_SIZE + 16 * number
        assert bytes.fromhex(numbers) == row
        assert text == "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in row)
    # The secret's first letter is byte 100 = 6 * 16 + 4 of the page.
    box = page.locator("#hex .hex-row").nth(6).locator(".hex").bounding_box()
    assert box
    page.mouse.click(box["x"] + 12.5 / 50 * box["width"], box["y"] + box["height"] / 2)
    assert page.evaluate("memviz.bench.hex.cursor") == 100
    assert page.locator("#hex-at").inner_text().split()[:2] == ["Offset", "0x064"]
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Shift+ArrowUp")
    page.evaluate(
        """() => Object.defineProperty(navigator, "clipboard",
            { value: { writeText: async (text) => { window.copied = text; } } })"""
    )
    page.keyboard.press("Control+c")
    assert page.evaluate("window.copied") == "74 00 68 00"
    page.get_by_role("button", name="Copy text").click()
    assert page.evaluate("window.copied") == "t·h·"
    page.locator("#hex").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Control+c")
    assert bytes.fromhex(page.evaluate("window.copied")) == lime.frames[5]
    page.locator("#hex").focus()
    page.keyboard.press("]")
    page.wait_for_function("() => document.querySelector('#hex .at').textContent === '00006000'")
    assert page.evaluate("memviz.state.pin") == 6
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "map"


def find(
    page: "Page", kind: str, what: str | int, scope: str = "dump"
) -> list[tuple[int, str, str]]:
    """Search, and return the listed hits: address, text with context, kind."""
    page.get_by_role("tab", name="Find").click()
    page.select_option("#find-kind", kind)
    page.select_option("#find-scope", scope)
    page.fill("#find-least" if kind == "strings" else "#find-text", str(what))
    page.locator("#find-start").click()
    page.wait_for_function("() => !memviz.bench.find.worker")
    rows = page.locator("#hits tbody tr").evaluate_all(
        "(rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent))"
    )
    return [(int(address, 16), text, as_) for address, text, as_, _ in rows]


@both_browsers
def test_find_text(open_page: Opener, lime: Opened) -> None:
    """Both encodings are found, also across a page's end; the pages with hits are lit."""
    page = give(open_page(lime.page), lime.path)
    hits = find(page, "text", SECRET)
    assert [(at, kind) for at, _, kind in hits] == [
        (WIDE_AT, "UTF-16"),
        (CUT_AT, "ASCII"),
        (NARROW_AT, "ASCII"),
    ]
    assert SECRET in hits[0][1]
    assert page.locator("#find-answer").inner_text() == "3 hits in 4 pages (16 KiB)."
    assert lit_frames(page) == {5, 9, 10, 40}
    page.locator("#find-case").check()
    assert len(find(page, "text", SECRET)) == 2
    page.locator("#hits tbody tr").nth(1).click()
    page.wait_for_function("() => memviz.bench.hex.bytes && memviz.state.pin === 9")
    assert page.evaluate("memviz.bench.hex.selection") == [PAGE_SIZE - 7, PAGE_SIZE]
    # The pages stay lit, and can be searched again, until their chip is clicked.
    page.locator("#lit .chip").click()
    assert len(lit_frames(page)) == page.evaluate("memviz.model.frames")


def test_find_bytes(open_page: Opener, lime: Opened) -> None:
    page = give(open_page(lime.page), lime.path)
    assert [at for at, *_ in find(page, "bytes", "00010203")] == [HEX_AT]
    assert [at for at, *_ in find(page, "bytes", "0x00, 01 02 03")] == [HEX_AT]
    assert find(page, "bytes", "00 01 02 04") == []
    assert page.locator("#find-answer").inner_text() == "0 hits in 0 pages (0 bytes)."
    assert find(page, "bytes", "0 1") == []
    assert "pairs of hexadecimal digits" in page.locator("#find-answer").inner_text()


def test_long_stretches_of_zeros_are_not_read(open_page: Opener, tmp_path: Path) -> None:
    """Zeros are skipped, but hits at their edges are found."""
    path = tmp_path / "dump.raw"
    memory = bytearray(8 * PAGE_SIZE)
    memory[PAGE_SIZE - 3 : PAGE_SIZE] = b"END"
    memory[7 * PAGE_SIZE : 7 * PAGE_SIZE + 2] = b"GO"
    path.write_bytes(memory)
    memory_visualizer.open(path).to_html(tmp_path / "page.html")
    page = give(open_page(tmp_path / "page.html"), path)
    assert [at for at, *_ in find(page, "bytes", "45 4e 44" + " 00" * 1000)] == [PAGE_SIZE - 3]
    assert page.evaluate("memviz.bench.find.size") == 4 * PAGE_SIZE
    assert [at for at, *_ in find(page, "bytes", "00" * 1000 + "474f")] == [7 * PAGE_SIZE - 1000]
    stretches = (PAGE_SIZE - 3, 6 * PAGE_SIZE, PAGE_SIZE - 2)
    assert len(find(page, "bytes", "00" * 1024)) == sum(size // 1024 for size in stretches)


@pytest.mark.parametrize("least", [4, 12])
def test_strings_of_a_page(open_page: Opener, lime: Opened, least: int) -> None:
    """The strings equal those of Python's regular expressions."""
    page = give(open_page(lime.page), lime.path)
    pin(page, 5)
    memory = lime.frames[5]
    ascii_, wide = (
        [(5 * PAGE_SIZE + found.start(), found[0]) for found in re.finditer(pattern, memory)]
        for pattern in (rb"[\t -~]{%d,}" % least, rb"(?:[\t -~]\0){%d,}" % least)
    )
    hits = find(page, "strings", least, "page")
    assert [(at, text.encode()) for at, text, kind in hits if kind == "ASCII"] == ascii_
    assert [(at, text.encode("utf-16-le")) for at, text, kind in hits if kind == "UTF-16"] == wide
    assert wide


def test_strings_of_a_process(open_page: Opener, dump: Dump) -> None:
    """Strings come in virtual order, also across pages, and from no other pages."""
    page = give(open_page(dump.page), dump.path)
    assert find(page, "strings", 6, "processes") == []
    assert "No process is chosen" in page.locator("#find-answer").inner_text()
    row = page.locator("#process-rows tr", has_text="lsass.exe").first
    row.locator("input").click()
    find(page, "strings", 6, "processes")
    process = next(one for one in dump.snapshot.processes if one.name == "lsass.exe")
    frames = dump.snapshot.pages(process)
    memory = dump.snapshot.dump.read_frames(frames)
    held = {
        int(frame)
        for frame, words in zip(frames, memory, strict=True)
        if re.search(rb"[\t -~]{6,}|(?:[\t -~]\0){6,}", words.tobytes())
    }
    marks = (
        "() => [...memviz.state.mark.frames.keys()].filter((at) => memviz.state.mark.frames[at])"
    )
    owners = """(index) => [...memviz.model.page.keys()].filter((frame) =>
        memviz.model.owners.of(frame).some(({ process }) => process === index))"""
    marked = set(numbers_of(page, marks))
    owned = set(numbers_of(page, owners, dump.snapshot.processes.index(process)))
    assert held <= marked <= owned


def test_a_search_can_be_stopped(open_page: Opener, lime: Opened) -> None:
    """The hits until then stay."""
    page = give(open_page(lime.page), lime.path)
    page.get_by_role("tab", name="Find").click()
    page.fill("#find-text", "anything")
    page.evaluate(
        """() => {
            const button = document.getElementById("find-start");
            button.click();
            button.click();
        }"""
    )
    assert page.locator("#find-answer").inner_text().startswith("Stopped at ")
    assert page.locator("#find-start").inner_text() == "Find"


def test_many_hits_are_counted_but_not_all_kept(open_page: Opener, tmp_path: Path) -> None:
    path = tmp_path / "dump.raw"
    path.write_bytes(b"hit." * (64 * PAGE_SIZE // 4))
    memory_visualizer.open(path).to_html(tmp_path / "page.html")
    page = give(open_page(tmp_path / "page.html"), path)
    find(page, "text", "hit")
    said = page.locator("#find-answer").inner_text()
    assert said == "65,536 hits in 64 pages (256 KiB); the first 20,000 are listed."
    assert page.evaluate("memviz.bench.find.hits.length") == 20_000


def test_hostile_bytes_stay_text(open_page: Opener, tmp_path: Path) -> None:
    """Markup in the dump is shown as text; the fixture would notice any effect."""
    markup = b"</td></script><script>alert(1)</script><img src=x onerror=alert(2)>"
    path = tmp_path / "dump.raw"
    path.write_bytes(markup.ljust(4 * PAGE_SIZE, b"\0"))
    memory_visualizer.open(path).to_html(tmp_path / "page.html")
    page = give(open_page(tmp_path / "page.html"), path)
    [(at, text, _)] = find(page, "text", "</script>", "dump")[:1]
    assert at == markup.index(b"</script>")
    assert "<script>alert(1)" in text
    find(page, "strings", 8)
    assert page.locator("#hits td bdi").first.inner_text() == markup.decode()
    page.locator("#hits tbody tr").first.click()
    assert page.locator("#hits img, #hex img").count() == 0


def saved(page: "Page", scope: str, label: str = "") -> tuple[dict[str, Any], bytes]:
    """Save, and return the manifest and the bytes."""
    page.get_by_role("tab", name="Save").click()
    page.select_option("#save-scope", scope)
    if label:
        page.select_option("#save-process", label=label)
    _, contents = downloaded(page, page.get_by_role("button", name="Save …").click)
    with tarfile.open(fileobj=io.BytesIO(contents)) as archive:
        assert archive.getnames() == ["manifest.json", "memory.bin"]
        manifest, memory = (archive.extractfile(name) for name in archive.getnames())
        assert manifest and memory
        return json.loads(manifest.read()), memory.read()


def test_strings_of_a_class(open_page: Opener, dump: Dump) -> None:
    """A class chosen in the legend can be searched, and all hits are in its pages."""
    page = give(open_page(dump.page), dump.path)
    page.get_by_role("tab", name="Find").click()
    chosen = page.locator("#find-scope option[value=shown]")
    assert chosen.text_content() == (
        "what is lit: everything, as nothing is chosen in the legend or a list"
    )
    page.locator("#legend-entries li", has_text="kernel").hover()
    page.get_by_role("button", name="Only kernel").click()
    held = int(np.count_nonzero(dump.classes == "kernel"))
    assert chosen.text_content() == f"what is lit: Class: kernel ({held:,} pages)"
    found = [address // PAGE_SIZE for address, *_ in find(page, "strings", 6, "shown")]
    assert found
    assert set(dump.classes[found].tolist()) == {"kernel"}


@both_browsers
def test_saved_pages(open_page: Opener, lime: Opened) -> None:
    """The pinned page and the lit pages are saved with their bytes."""
    page = give(open_page(lime.page), lime.path)
    pin(page, 5)
    manifest, memory = saved(page, "page")
    assert memory == lime.frames[5]
    assert manifest["sha256"] == hashlib.sha256(memory).hexdigest()
    assert manifest["stretches"] == [{"at": 0, "pages": 1, "physical": "0x5000"}]
    find(page, "text", SECRET)
    manifest, memory = saved(page, "shown")
    assert memory == b"".join(lime.frames[frame] for frame in (5, 9, 10, 40))
    assert [(one["physical"], one["pages"]) for one in manifest["stretches"]] == [
        ("0x5000", 1),
        ("0x9000", 2),
        ("0x28000", 1),
    ]
    assert (manifest["pages"], manifest["missing_pages"]) == (4, 0)


def test_saved_process(open_page: Opener, dump: Dump) -> None:
    """All pages of a process are saved by virtual addresses, also pages with several."""
    page = give(open_page(dump.page), dump.path)
    process = next(one for one in dump.snapshot.processes if one.name == "lsass.exe")
    manifest, memory = saved(page, "process", f"{process.pid} lsass.exe")
    assert manifest["process"] == {"pid": process.pid, "name": "lsass.exe"}
    notes, frames, virtuals = expanded(dump.truth)
    mine = {
        virtual: frame
        for note, frame, virtual in zip(notes, frames.tolist(), virtuals.tolist(), strict=True)
        if note["owner"] >= 0 and dump.truth.processes[note["owner"]].pid == process.pid
    }
    told = [
        (int(one["virtual"], 16) + page_ * PAGE_SIZE, int(one["physical"], 16) // PAGE_SIZE + page_)
        for one in manifest["stretches"]
        for page_ in range(one["pages"])
    ]
    assert told == sorted(mine.items())
    expected = dump.snapshot.dump.read_frames(np.array([frame for _, frame in told]))
    assert memory == expected.tobytes()
    assert manifest["bytes"] == len(memory) == manifest["pages"] * PAGE_SIZE


def test_numbers_lead_to_pages(open_page: Opener, dump: Dump) -> None:
    """A pointer in a process's page leads to that process's page."""
    page = give(open_page(dump.page), dump.path)
    user = {
        frame: owners
        for frame, owners in dump.owners.items()
        if len(owners) == 1 and dump.classes[frame] == PageClass.USER.label
    }
    frame, owners = next(iter(user.items()))
    [((pid, _), _)] = owners.items()
    other, virtual = next(
        (frame_, owners_[key])
        for frame_, owners_ in user.items()
        for key in owners_
        if key[0] == pid and frame_ != frame
    )
    pin(page, frame)
    words, goes = page.evaluate(
        """async ([value]) => {
            const [words, act] = memviz.bench.follow(BigInt(value));
            act();
            return [words, memviz.state.pin];
        }""",
        [hex(int(virtual, 16) + 0x123)],
    )
    assert words.startswith(hex(int(virtual, 16) + 0x123))
    assert goes == other
    page.wait_for_function("() => memviz.bench.hex.cursor === 0x123")


def test_a_page_that_was_made_without_the_dump(
    open_page: Opener, lime: Opened, tmp_path: Path
) -> None:
    with memory_visualizer.open(lime.path) as snapshot:
        pass
    viewer.write_page(tmp_path / "page.html", snapshot)
    page = open_page(tmp_path / "page.html")
    page.locator("#bench-open").click()
    assert "could not be read any more" in page.locator("#bench-what").inner_text()
    assert page.locator("#bench-choose").is_disabled()


def test_the_policy_binds_workers(browser: "Browser", lime: Opened) -> None:
    """Even a worker from a foreign script cannot reach the network."""
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    context = browser.new_context()
    page = context.new_page()
    page.goto(lime.page.as_uri())
    tried = page.evaluate(
        """async (elsewhere) => {
            const script = `
                (async () => {
                    const tried = {};
                    try { await fetch("${elsewhere}"); tried.fetch = "went"; }
                    catch { tried.fetch = "failed"; }
                    try { importScripts("${elsewhere}"); tried.script = "went"; }
                    catch { tried.script = "failed"; }
                    try { new WebSocket("${elsewhere.replace("http", "ws")}"); tried.socket = "?"; }
                    catch { tried.socket = "failed"; }
                    await new Promise((done) => setTimeout(done, 200));
                    postMessage(tried);
                })()`;
            const address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
            const policy = trustedTypes.createPolicy("memviz-worker",
                { createScriptURL: () => address });
            const worker = new Worker(policy.createScriptURL(""));
            return new Promise((done) => { worker.onmessage = ({ data }) => done(data); });
        }""",
        f"http://127.0.0.1:{server.getsockname()[1]}/",
    )
    context.close()
    with server, pytest.raises(BlockingIOError):  # there was no call
        server.accept()
    assert (tried["fetch"], tried["script"]) == ("failed", "failed")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing(open_page: Opener, lime: Opened, width: int, scheme: str) -> None:
    """No finding before the dump is open, with bytes, or with hits; no part exceeds the screen."""
    viewport = {"width": width, "height": 860}
    page = open_page(lime.page, "#pin=5", viewport=viewport, color_scheme=scheme)
    page.keyboard.press("b")
    assert_axe_finds_nothing(page)
    page.locator("#bench-file").set_input_files(lime.path)
    page.wait_for_selector("#hex .hex-row")
    assert_axe_finds_nothing(page)
    assert find(page, "strings", 8)
    assert_axe_finds_nothing(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@both_browsers
def test_keys(open_page: Opener, lime: Opened) -> None:
    page = open_page(lime.page)
    page.keyboard.press("b")
    assert page.evaluate("document.activeElement.id") == "bench-choose"
    page.locator("#bench-file").set_input_files(lime.path)
    page.wait_for_selector("#bench-body", state="visible")
    page.locator("#map").focus()
    page.keyboard.press("f")
    assert page.evaluate("document.activeElement.id") == "find-text"
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    assert page.evaluate("document.activeElement.id") == "hex"
    height = page.locator("#bench").bounding_box()
    page.locator("#bench-size").focus()
    page.keyboard.press("ArrowUp")
    taller = page.locator("#bench").bounding_box()
    assert height and taller and taller["height"] > height["height"]
    settle(page)
    assert fragment_of(page) == ""
