#!/usr/bin/env python3
"""Measure the page of a large dump in headless Chromium: size, time until usable, frames a second.

Usage: .venv/bin/python -m bench.page [--size GIB] [--runs N] [--dump FILE] [--write]

Writes a dump of 16 GiB (some minutes, and as much disk) or takes one that is there, writes its
page, opens it several times, and drags the map with the mouse at several scales. --write puts the
table into bench/README.md.
"""

import argparse
import shutil
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from playwright.sync_api import sync_playwright

import memory_visualizer
from bench.readme import put_table
from memory_visualizer.picture.entropy import entropy
from memory_visualizer.viewer import write_page
from tests.conftest import CHROMIUM
from tests.synth import GIB, forge, profiles

if TYPE_CHECKING:
    from playwright.sync_api import Page

WINDOW: Any = {"width": 1280, "height": 800}
SECONDS = 3.0

USABLE = """async () => {
    while (!(window.memviz && memviz.map.settled)) await new Promise(requestAnimationFrame);
    return performance.now();  // since the page was asked for
}"""

RECORD = """() => {
    window.drawn = [];
    let before;
    const look = (now) => {
        const { x, y } = memviz.map.transform;
        if (before !== `${x} ${y}`) window.drawn.push(now);
        before = `${x} ${y}`;
        window.looking = requestAnimationFrame(look);
    };
    look(performance.now());
}"""


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure the page in headless Chromium.")
    parser.add_argument("--size", metavar="GIB", type=int, default=16, help="of the dump (16)")
    parser.add_argument("--runs", metavar="N", type=int, default=5, help="times it is opened (5)")
    parser.add_argument("--dump", type=Path, help="a dump that is there")
    parser.add_argument("--write", action="store_true", help="update bench/README.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dump = options.dump
        if dump is None:
            dump = folder / "dump"
            profile = profiles()["Win10x64_17763"]
            forge(dump, profile, size=options.size * GIB, processes=80, stretch=256)
        lines = ["| what | measured |", "| --- | --- |", *_measure(dump, folder, options.runs)]
    print("\n".join(lines))
    if options.write:
        put_table("page.py", lines)
    return 0


def _measure(dump: Path, folder: Path, runs: int) -> list[str]:
    snapshot = memory_visualizer.open(dump)
    mapped = int(np.count_nonzero(snapshot.mapping_count))
    lines = [f"| pages, of them mapped | {snapshot.classes.size:,}, {mapped:,} |"]
    # The order matters: values that the snapshot computes on first use count for the first page.
    plain, full = folder / "plain.html", folder / "full.html"
    start = time.perf_counter()
    write_page(plain, snapshot)
    took = time.perf_counter() - start
    write_page(full, snapshot, entropy=entropy(snapshot.dump))
    allowed = 6 * mapped + 300 * 1024
    lines += [
        f"| writing the page, from the snapshot | {took:.1f} s |",
        f"| size without entropy | {_size(plain, allowed)} |",
        f"| size with entropy | {_size(full, allowed)} |",
    ]
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        times = []
        for _ in range(runs):
            context = browser.new_context(viewport=WINDOW)
            page = context.new_page()
            page.goto(full.as_uri(), wait_until="commit")
            times.append(page.evaluate(USABLE) / 1000)
            context.close()
        shown = ", ".join(f"{seconds:.2f}" for seconds in sorted(times))
        lines.append(f"| usable after (median of {runs}) | {median(times):.2f} s ({shown}) |")
        page = browser.new_context(viewport=WINDOW).new_page()
        page.goto(full.as_uri())
        page.evaluate(USABLE)
        for layout in ("rows", "hilbert"):
            page.select_option("#layout", layout)
            for scale in (0.8, 2, 8, 32, 80):
                rate, slowest = _drag(page, scale)
                lines.append(
                    f"| panning {layout}, {scale:g} pixels a page | {rate:.0f} frames a second,"
                    f" the slowest took {slowest:.0f} ms |"
                )
        browser.close()
    return lines


def _size(page: Path, allowed: int) -> str:
    size = page.stat().st_size
    return f"{size:,} bytes, {size / allowed:.0%} of what is allowed"


def _drag(page: "Page", scale: float) -> tuple[float, float]:
    """Drag the map to and fro: frames per second, and the longest gap between two, in ms."""
    page.evaluate(
        """(scale) => {
            const { map } = memviz;
            map.goTo(map.layout.width / 2, map.layout.height / 2, scale);
        }""",
        scale,
    )
    page.wait_for_timeout(700)  # the current view has been painted
    page.mouse.move(700, 300)
    page.mouse.down()
    page.evaluate(RECORD)
    end = time.perf_counter() + SECONDS
    for step in cycle([*range(0, 300, 12), *range(300, 0, -12)]):
        page.mouse.move(700 + step, 300 + step // 2)
        if time.perf_counter() > end:
            break
    drawn = page.evaluate("cancelAnimationFrame(window.looking), window.drawn")
    page.mouse.up()
    steps = np.diff(drawn)
    return 1000 / float(steps.mean()), float(steps.max())


if __name__ == "__main__":
    sys.exit(main())
