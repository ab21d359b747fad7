"""How to install an optional package, in the way in which this copy was installed."""

import sys
from pathlib import Path

_DISTRIBUTION = "memory-visualizer"
"""This program's own name among packages."""


def how_to_get(package: str) -> str:
    """How to install a package beside this copy of the program, as the copy was installed."""
    prefix = Path(sys.prefix)
    if (prefix / "pipx_metadata.json").exists():
        return f"pipx inject {_DISTRIBUTION} {package}"
    if (prefix / "uv-receipt.toml").exists():
        return f"uv pip install --python {quoted(sys.executable)} {package}"
    return f"{quoted(sys.executable)} -m pip install {package}"


def quoted(path: str) -> str:
    """A path as a shell takes it."""
    return f'"{path}"' if " " in path else path
