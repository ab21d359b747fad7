"""The system's Firefox for Playwright, driven by Firefox's own protocol (WebDriver BiDi).

    python -m tests.viewer.firefox ARGUMENTS

For each new window, Playwright sends a command that Firefox lacks: the choice between light and
dark. This program starts Firefox, stands between the two, and answers this command as done; Firefox
stays light. All other messages pass unchanged.
"""

import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

FIREFOX = ("firefox-esr", "firefox")
"""Possible names of the browser's command."""
CHANNEL = "moz-firefox"
"""Playwright's name for Firefox driven by this protocol."""
PREFERENCES: dict[str, str | float | bool] = {"layout.css.prefers-color-scheme.content-override": 1}
"""Light, whatever the system prefers."""
_LISTENS = re.compile(r"WebDriver BiDi listening on (ws://\S+)")
_LACKING = "emulation.setMediaFeaturesOverride"


def command() -> str | None:
    """Path of the system's Firefox."""
    return next(filter(None, map(shutil.which, FIREFOX)), None)


def write_starter(path: Path) -> Path:
    """Write a command for Playwright that starts this program."""
    root = Path(__file__).resolve().parents[2]
    path.write_text(
        f'#!/bin/sh\nPYTHONPATH="{root}" exec "{sys.executable}" -m tests.viewer.firefox "$@"\n',
        "utf-8",
    )
    path.chmod(0o755)
    return path


def _forward(source: ClientConnection, target: ServerConnection) -> None:
    """Pass on Firefox's messages, until one side ends."""
    try:
        for message in source:
            target.send(message)
    except ConnectionClosed:
        pass


def main(arguments: list[str]) -> int:
    """Start Firefox and stand between, until Firefox ends; returns its exit code."""
    path = command()
    assert path
    process = subprocess.Popen([path, *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr
    where = next(filter(None, map(_LISTENS.search, process.stderr)))[1]

    def stand_between(playwright: ServerConnection) -> None:
        with connect(f"{where}/session", max_size=None, ping_interval=None) as firefox:
            threading.Thread(target=_forward, args=(firefox, playwright), daemon=True).start()
            for message in playwright:
                told = json.loads(message)
                if told["method"] == _LACKING:
                    answer = {"type": "success", "id": told["id"], "result": {}}
                    playwright.send(json.dumps(answer))
                else:
                    firefox.send(message)

    with serve(stand_between, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.socket.getsockname()[1]
        print(f"WebDriver BiDi listening on ws://127.0.0.1:{port}", file=sys.stderr, flush=True)
        for _ in process.stderr:  # a full pipe would stop Firefox
            pass
        return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
