"""A page as one HTML file: its sources, which are joined unchanged, its data, and its policy."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from memory_visualizer.output import GENERATOR
from memory_visualizer.viewer.data import Column

D3 = (
    "color",
    "dispatch",
    "ease",
    "interpolate",
    "selection",
    "timer",
    "drag",
    "transition",
    "zoom",
)
"""Parts of D3 in the order of their dependencies: d3-zoom and the parts that it needs."""

MAP_SCRIPTS = (
    "dom",
    "columns",
    "data",
    "list",
    "folding",
    "layout",
    "colour",
    "tiles",
    "map",
    "strip",
    "card",
    "legend",
)
"""The scripts of each page with a map, in the order of their dependencies."""

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def file_of(
    template: str,
    *,
    scripts: Sequence[str],
    styles: Sequence[str],
    about: Mapping[str, Any],
    columns: Mapping[str, Column],
    parts: Mapping[str, str],
    folder: Traversable | None = None,
    libraries: Sequence[str] = D3,
    images: str = "data:",
) -> str:
    """The text of a page.

    `template` is a file in `page` with placeholders such as ``{{title}}``. `scripts` and `styles`
    are its sources, in their order. `about` becomes JSON. `parts` are the texts for further
    placeholders, and must be escaped. Sources that are not in `page` are in `folder`. `libraries`
    are parts of D3; `images` are the sources from which the policy allows images.
    """
    own = partial(_own_source, folder)
    style = "".join(map(own, styles))
    script = _script(libraries, (own(f"{name}.js") for name in scripts))
    sizes = {name: [column.count, column.width] for name, column in columns.items()}
    known = {
        "generator": GENERATOR,
        "policy": html.escape(_policy(script, style, images)),
        "style": style,
        "script": script,
        "licences": html.escape(
            source("vendor/LICENSE-d3.txt") + "\n" + source("vendor/LICENSE-d3-ease.txt")
        ),
        "about": _json_element({**about, "columns": sizes}),
        "columns": "\n".join(
            f'<script type="application/octet-stream" id="column-{name}">'
            f"{base64.b64encode(column.packed).decode('ascii')}</script>"
            for name, column in columns.items()
        ),
        **parts,
    }
    known["head"] = _PLACEHOLDER.sub(lambda found: known[found[1]], source("page/head.html"))
    # All placeholders are replaced in one pass, so that no text from the dump is taken for one.
    return _PLACEHOLDER.sub(lambda found: known[found[1]], own(template))


def _own_source(folder: Traversable | None, name: str) -> str:
    """A source file in `page`, or else in another folder."""
    page = files(__package__) / "page" / name
    return (page if folder is None or page.is_file() else folder / name).read_text("utf-8")


def _policy(script: str, style: str, images: str) -> str:
    """A content security policy: only this script and this style, and no text becomes markup.

    The script may start workers from text in the page (blob:), which this policy binds, too.
    """
    return (
        "default-src 'none';"
        f" script-src '{_hash(script)}';"
        f" style-src '{_hash(style)}';"
        f" worker-src blob:; img-src {images}; base-uri 'none'; form-action 'none';"
        " require-trusted-types-for 'script'; trusted-types memviz-worker"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _script(libraries: Iterable[str], own: Iterable[str]) -> str:
    """The libraries, and the page's own scripts as one function, so that no name leaks."""
    others = [source(f"vendor/d3-{name}.min.js") for name in libraries]
    return "\n".join([*others, '(() => {\n"use strict";', *own, "})();"])


def source(name: str) -> str:
    """A source file of the page, by its path in this folder."""
    return files(__package__).joinpath(name).read_text("utf-8")


def _json_element(data: Any) -> str:
    """JSON for a script element: nothing in it ends the element or a line."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
