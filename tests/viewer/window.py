"""A browser's window, which tests use one after another."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tests.viewer.page import WINDOW, is_firefox, settle

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ViewportSize

    Scheme = Literal["dark", "light"]


class Window:
    """A window for one page at a time, and what that page did that it must not do."""

    def __init__(self, browser: "Browser", **options: Any) -> None:
        """Open an empty window, with options of Playwright's."""
        self.troubles: list[str] = []
        self._wanted = ""
        self._context = browser.new_context(**({"viewport": WINDOW} | options))
        self.page = page = self._context.new_page()
        page.on("request", lambda request: self._requested(request.url))
        page.on("pageerror", lambda error: self.troubles.append(f"threw {error}"))
        page.on("console", lambda message: self._said(message.text))
        page.on("dialog", lambda dialog: self.troubles.append(f"asked {dialog.message}"))
        page.on("popup", lambda _: self.troubles.append("opened a window"))

    def _requested(self, url: str) -> None:
        if url.split("#")[0] != self._wanted and not url.startswith(("data:", "blob:")):
            self.troubles.append(f"requested {url}")

    def _said(self, text: str) -> None:
        if "willReadFrequently" not in text:  # only the tests read the canvas
            self.troubles.append(f"said {text}")

    def open(self, path: Path, fragment: str) -> None:
        """Open a page's file."""
        self._wanted = path.as_uri()
        self.page.bring_to_front()
        self.page.goto(self._wanted + fragment)
        settle(self.page)

    def change(
        self, viewport: "ViewportSize | None" = None, color_scheme: "Scheme | None" = None
    ) -> None:
        """Change options of the window, until `empty`."""
        if viewport:
            self.page.set_viewport_size(viewport)
        if color_scheme:
            self.page.emulate_media(color_scheme=color_scheme)

    def empty(self) -> None:
        """Leave the page; the window is then as a new one."""
        self.page.evaluate("0")  # what the page did before comes before the answer
        self._wanted = "about:blank"
        self.page.goto(self._wanted)
        self.page.mouse.move(0, 0)
        self.page.set_viewport_size(WINDOW)
        if not is_firefox(self.page):  # it lacks the command
            self.page.emulate_media(media="null", color_scheme="light")

    def close(self) -> None:
        """Close the window."""
        self._context.close()
