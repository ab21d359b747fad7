"""Firefox as it is, driven by its own protocol: no driver lies between (W3C, WebDriver BiDi).

Playwright can only drive a Firefox of its own making.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

FIREFOX = ("firefox-esr", "firefox")
"""What the browser's command may be called."""
_LISTENS = re.compile(r"WebDriver BiDi listening on (ws://\S+)")
_SECONDS = 240


class Firefox:
    """One window."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.said: list[str] = []
        """What the page wrote to the console, errors among it."""
        self.call("session.new", capabilities={})
        self.call("session.subscribe", events=["log.entryAdded"])
        # The window that it opens by itself may not go everywhere.
        self._window = self.call("browsingContext.create", type="tab")["context"]

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result; RuntimeError with what Firefox says of it."""
        self._number += 1
        self._connection.send(
            json.dumps({"id": self._number, "method": method, "params": parameters})
        )
        while True:
            told = json.loads(self._connection.recv(timeout=_SECONDS))
            if told.get("method") == "log.entryAdded":
                self.said.append(told["params"]["text"])
            if told.get("id") == self._number:
                if told["type"] == "error":
                    raise RuntimeError(f"{method}: {told['message']}")
                return told["result"]

    def open(self, url: str, width: int, height: int) -> None:
        """Go to a page and wait until it is loaded; its part of the window has this size."""
        size = {"width": width, "height": height}
        self.call("browsingContext.setViewport", context=self._window, viewport=size)
        self.call("browsingContext.navigate", context=self._window, url=url, wait="complete")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited; it goes through JSON."""
        told = self.call(
            "script.evaluate",
            expression=f"(async () => JSON.stringify((await ({expression})) ?? null))()",
            target={"context": self._window},
            awaitPromise=True,
        )
        if told["type"] == "exception":
            raise RuntimeError(told["exceptionDetails"]["text"])
        return json.loads(told["result"]["value"])

    def give(self, selector: str, path: Path) -> None:
        """Choose a file in the input element that a CSS selector finds."""
        found = self.call(
            "browsingContext.locateNodes",
            context=self._window,
            locator={"type": "css", "value": selector},
        )
        element = {"sharedId": found["nodes"][0]["sharedId"]}
        self.call("input.setFiles", context=self._window, element=element, files=[str(path)])

    def click(self, x: float, y: float) -> None:
        """Move the mouse to a place of the page, and press its button there."""
        self.move(x, y, [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}])

    def press(self, key: str) -> None:
        """Press a key, and release it."""
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        actions = [{"type": "key", "id": "keys", "actions": keys}]
        self.call("input.performActions", context=self._window, actions=actions)

    def move(self, x: float, y: float, then: Sequence[dict[str, Any]] = ()) -> None:
        """Move the mouse to a place of the page."""
        steps: list[dict[str, Any]] = [{"type": "pointerMove", "x": round(x), "y": round(y)}, *then]
        mouse = {
            "type": "pointer",
            "id": "mouse",
            "parameters": {"pointerType": "mouse"},
            "actions": steps,
        }
        self.call("input.performActions", context=self._window, actions=[mouse])


@contextmanager
def started(path: str, profile: Path) -> Iterator[Firefox]:
    """Firefox without a window of its own on the screen, with a profile that is empty."""
    command = [path, "-headless", "-no-remote", "--remote-debugging-port=0", "-profile"]
    process = subprocess.Popen(
        [*command, str(profile)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        where = next(filter(None, map(_LISTENS.search, process.stderr)))[1]
        with connect(f"{where}/session", max_size=None) as connection:
            yield Firefox(connection)
    finally:
        process.kill()
        process.wait()


def command() -> str | None:
    """Path of the system's Firefox."""
    return next(filter(None, map(shutil.which, FIREFOX)), None)
