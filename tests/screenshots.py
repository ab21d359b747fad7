"""Take the pictures of the page in docs/images, from a synthetic dump.

Usage: .venv/bin/python -m tests.screenshots [FOLDER]
"""

import random
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import memory_visualizer
from memory_visualizer.cli.memviz import main as memviz
from memory_visualizer.picture.entropy import entropy
from memory_visualizer.viewer import write_page
from tests.conftest import CHROMIUM, ROOT
from tests.synth import MIB, forge, profiles
from tests.synth.evolution import EvolvingWindows
from tests.synth.linux import forge_linux

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WINDOW: Any = {"width": 1280, "height": 800}


def take(browser: "Browser", folder: Path) -> list[Path]:
    """Write the pictures to a folder and return their paths."""
    with tempfile.TemporaryDirectory() as temporary:
        dump = Path(temporary) / "win10.raw"
        profile = profiles()["Win10x64_17763"]
        forge(dump, profile, size=256 * MIB, processes=30, stretch=256)
        snapshot = memory_visualizer.open(dump)
        page_file = Path(temporary) / "page.html"
        write_page(page_file, snapshot, entropy=entropy(snapshot.dump))
        paths = []
        for name, scheme, fragment, prepare in (
            ("whole", "light", "", _point),
            ("processes", "dark", "#layout=hilbert&color=process&view=128,128,3", None),
            ("pages", "light", "#layout=hilbert", _pin_unlinked),
            ("bytes", "dark", "", partial(_search, dump=dump)),
        ):
            context = browser.new_context(viewport=WINDOW, color_scheme=scheme)  # type: ignore[arg-type]
            page = context.new_page()
            page.goto(page_file.as_uri() + fragment)
            _settle(page)
            if prepare:
                prepare(page)
                _settle(page)
            paths.append(folder / f"sample-page-{name}.png")
            page.screenshot(path=paths[-1])
            context.close()
    return [*paths, _difference(browser, folder), _fleet(browser, folder)]


def _fleet(browser: "Browser", folder: Path) -> Path:
    """The index of some dumps, with a search for a process."""
    with tempfile.TemporaryDirectory() as temporary:
        dumps, report = Path(temporary) / "dumps", Path(temporary) / "report"
        dumps.mkdir()
        for number, name in enumerate(
            ("WinXPSP2x86", "Win7SP1x64", "Win10x64_17763", "Win7SP1x86")
        ):
            path = dumps / f"desk-{number + 1:02}.raw"
            forge(path, profiles()[name], size=64 * MIB, processes=20, stretch=64, seed=number)
        for number in (1, 2):
            now = (1_790_000_000 + 86_400 * number) * 10**9
            path = dumps / f"server-{number}.raw"
            forge_linux(path, size=64 * MIB, files=True, now=now, seed=number)
        (dumps / "noise.raw").write_bytes(random.Random(1).randbytes(4 * MIB))
        (dumps / "cut.raw").write_bytes(b"\x45\x4d\x69\x4c" + bytes(8 * 1024))
        memviz(["fleet", str(dumps), "--out", str(report), "--layout", "hilbert", "-q"])
        context = browser.new_context(viewport=WINDOW, color_scheme="light")
        page = context.new_page()
        page.goto((report / "index.html").as_uri() + "#q=rootkit")
        page.locator("#match-list button").first.click()
        page.wait_for_function("[...document.images].every((one) => one.complete)")
        path = folder / "sample-fleet.png"
        page.screenshot(path=path)
        context.close()
    return path


def _difference(browser: "Browser", folder: Path) -> Path:
    """The page of a series of dumps, at a page whose owner changed."""
    with tempfile.TemporaryDirectory() as temporary:
        machine = EvolvingWindows(profiles()["Win10x64"], size=64 * MIB, seed=7)
        dumps = [Path(temporary) / f"{number}.raw" for number in range(6)]
        for dump, happens in zip(dumps, [*_HAPPENS, ()], strict=True):
            machine.dump(dump)
            for name in happens:
                machine.can[name]()
        page_file = Path(temporary) / "changes.html"
        memviz(["diff", *map(str, dumps), "--html", str(page_file), "-q"])
        context = browser.new_context(viewport=WINDOW, color_scheme="light")
        page = context.new_page()
        page.goto(page_file.as_uri() + "#dump=3")
        _settle(page)
        for _ in range(3):
            page.keyboard.press("n")
        _settle(page)
        path = folder / "sample-diff-page.png"
        page.screenshot(path=path)
        context.close()
    return path


_HAPPENS = (
    ("start", "end", "move", "make executable", "clear"),
    ("start", "end", "unlink", "write", "reuse", "move", "make executable"),
    ("write", "move"),
    ("clear",),
    ("end", "clear", "write"),
)
"""The events between the dumps."""


def _settle(page: "Page") -> None:
    page.wait_for_function("() => window.memviz && memviz.map.settled")
    page.wait_for_timeout(600)


def _point(page: "Page") -> None:
    """Point at a page that several processes have."""
    x, y = page.evaluate(
        """() => {
            const { map, model } = memviz;
            const frame = [...model.page.keys()].find((frame) =>
                frame > model.frames / 3 && model.owners.of(frame).length > 3);
            const { left, top, size } = map.boxOf(frame);
            const box = map.canvas.getBoundingClientRect();
            return [box.left + left + size / 2, box.top + top + size / 2];
        }"""
    )
    page.mouse.move(x, y)


def _pin_unlinked(page: "Page") -> None:
    """Light up the unlinked process, and go to one of its pages."""
    page.get_by_role("button", name="1 unlinked").click()
    page.locator("#process-rows input").click()
    address = page.evaluate(
        """() => {
            const { model, about } = memviz;
            const unlinked = about.processes.findIndex(({ state }) => state === "unlinked");
            const frame = [...model.page.keys()].find((frame) => frame > model.frames / 5
                && model.owners.of(frame).every(({ process }) => process === unlinked)
                && model.owners.of(frame).length);
            return "0x" + (frame * 4096).toString(16);
        }"""
    )
    page.fill("#goto-number", address)
    page.keyboard.press("Enter")
    page.evaluate("document.activeElement.blur()")


def _search(page: "Page", dump: Path) -> None:
    """Open the dump, search for a name, and go to the first page of a process that has it."""
    page.locator("#bench-open").click()
    page.locator("#bench-file").set_input_files(dump)
    page.get_by_role("tab", name="Find").click()
    page.fill("#find-text", "lsass.exe")
    page.keyboard.press("Enter")
    page.wait_for_function("() => memviz.bench.find.hits?.length && !memviz.bench.find.worker")
    page.locator("#hits tbody tr").first.click()
    page.wait_for_function("() => memviz.bench.hex.bytes")


def main() -> int:
    """Take the pictures."""
    from playwright.sync_api import sync_playwright

    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/images"
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for taken in take(browser, folder):
            print(f"{taken}: {taken.stat().st_size:,} bytes")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
