"""Hostile text and links, and attempts to leave the page."""

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memory_visualizer.cli.memviz import main
from tests.conftest import both_browsers
from tests.synth import forge, profiles
from tests.viewer.page import (
    SIZE,
    Dump,
    fitted,
    fragment_of,
    go_to,
    is_firefox,
    names_listed,
    read_card,
    settle,
    view,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.mark.parametrize(
    "fragment",
    [
        "#layout=<img src=x onerror=alert(1)>&color=__proto__&palette=constructor",
        "#pin=<script>alert(1)</script>&show=<b>,1e9,-1,999999&off=<i>",
        "#view=NaN,1,2&pin=fffffffff",
        "#view=1e308,1e308,1e308",
        "#view=-5,-5,0.0000001&show=" + "9," * 5000,
        "#%E2%80%AE%00%ff&&&===",
        "#layout=toString&color=valueOf",
    ],
)
@pytest.mark.many
def test_hostile_links(open_page: Callable[..., "Page"], dump: Dump, fragment: str) -> None:
    page = open_page(dump.page, fragment)
    assert page.input_value("#layout") == "rows"
    assert page.input_value("#color") == "class"
    assert page.locator("script:not([type])").count() == 1
    assert page.locator("img, b, i, iframe").count() == 0
    page.keyboard.press("Home")
    assert view(page)[2] == pytest.approx(fitted(page, dump.truth.frames))


HOSTILE = {
    "<script>a(1)</s": "<script>a(1)</s",
    "</script><b>x": "</script><b>x",
    "<img src=x>": "<img src=x>",
    "\"'`&lt;${1}": "\"'`&lt;${1}",
    "{{columns}}": "{{columns}}",
    "<!--<script>": "<!--<script>",
    "\x1b]0;own\x07": "\\x1b]0;own\\x07",
    "\x1b[31mred\n\r": "\\x1b[31mred\\x0a\\x0d",
    "\u202egnp.exe": "\\u202egnp.exe",
    "\u05d0\u05d1\u05d2 1234": "\u05d0\u05d1\u05d2 1234",
    "constructor": "constructor",
}


def test_hostile_names_stay_text(
    open_page: Callable[..., "Page"], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of processes and of the dump are text in lists, cards, choices, title and terminal."""
    path = tmp_path / '<b>\u202e&{{about}}\x1b[1m".raw'
    shown = '<b>\\u202e&{{about}}\\x1b[1m".raw'
    truth = forge(path, profiles()["Win7SP1x64"], size=SIZE, processes=16, names=list(HOSTILE))
    out = tmp_path / "page.html"
    assert main([str(path), "-o", str(tmp_path / "a.png"), "--html", str(out)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in HOSTILE.values())
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", printed)

    page = open_page(out)
    assert page.title() == f"{shown} \N{EN DASH} Memory Visualizer"
    assert page.locator("h1").inner_text() == shown
    assert set(HOSTILE.values()) < set(names_listed(page))
    assert page.locator("b, img, iframe, script[src]").count() == 0
    titles = page.locator("#process-rows td[title]").evaluate_all(
        "(all) => all.map((td) => td.title)"
    )
    for name in HOSTILE.values():
        assert any(title.startswith(f"{name} (parent ") for title in titles)
    # A right-to-left name does not reverse the numbers behind it.
    isolated = page.locator("#process-rows bdi.name").evaluate_all(
        "(all) => all.every((name) => getComputedStyle(name).unicodeBidi === 'isolate')"
    )
    assert isolated
    for process in truth.processes:
        if process.name not in HOSTILE:
            continue
        name = HOSTILE[process.name]
        page.fill("#search", name)
        assert name in names_listed(page)
        index = truth.processes.index(process)
        note = next(n for n in truth.mappings if n["owner"] == index and n["user"])
        assert go_to(page, "virtual", hex(note["virtual"]), f"{process.pid} {name}") == ""
        told = read_card(page, "#pinned")
        assert told["owners"][process.pid, name] == hex(note["virtual"])
    assert fragment_of(page).startswith("#pin=")


@both_browsers
def test_the_policy_lets_nothing_out_or_in(browser: "Browser", dump: Dump) -> None:
    """Even a script within the page cannot load or send anything."""
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    context = browser.new_context()
    page = context.new_page()
    page.goto(dump.page.as_uri())
    settle(page)
    elsewhere = f"http://127.0.0.1:{server.getsockname()[1]}/"
    # Chromium opens a silent connection for a frame before it asks the policy, so the frame does
    # not use the watched address. Firefox would refuse the other address without asking.
    tried = page.evaluate(
        """async ([elsewhere, framed]) => {
            const violated = [];
            document.addEventListener("securitypolicyviolation",
                (event) => violated.push(event.effectiveDirective));
            const failed = [];
            const attempt = async (name, work) => {
                try { await work(); } catch { failed.push(name); }
            };
            await attempt("fetch", () => fetch(elsewhere));
            await attempt("markup", () => { document.body.innerHTML = "<b>x</b>"; });
            await attempt("eval", () => eval("1"));
            await attempt("script", () => {
                const script = document.createElement("script");
                script.text = "window.owned = true";
                document.body.append(script);
            });
            await attempt("image", () => new Promise((done, fail) =>
                Object.assign(new Image(), { onload: done, onerror: fail,
                    src: elsewhere + "x.png" })));
            const frame = document.createElement("iframe");
            frame.src = framed;
            document.body.append(frame);
            for (let n = 0; n < 50 && (n < 2 || !violated.includes("frame-src")); n++)
                await new Promise((done) => setTimeout(done, 100));
            return { failed, violated, owned: window.owned ?? false };
        }""",
        [elsewhere, elsewhere if is_firefox(page) else "http://127.0.0.1:9/"],
    )
    context.close()
    with server, pytest.raises(BlockingIOError):  # there was no call
        server.accept()
    assert {"fetch", "markup", "script", "image"} <= set(tried["failed"])
    assert {"connect-src", "img-src", "frame-src", "require-trusted-types-for"} <= set(
        tried["violated"]
    )
    assert tried["owned"] is False


def test_the_file_names_no_other_place(dump: Dump) -> None:
    """The only addresses are namespaces and the libraries' own homes in comments."""
    text = dump.page.read_text("utf-8")
    addresses = set(
        re.findall(r"""(?:src|href|url\(|@import|from)\s*[=("']+\s*(?!data:|#)[^"')\s>]+""", text)
    )
    assert {found for found in addresses if "//" in found} == set()
