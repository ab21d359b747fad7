"""Run a command, and measure it from outside."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Bytecode is written, as for all users: without it, each run would compile the program first.
_ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
}

Cost = tuple[float, float, float]
"""Seconds by the clock, of processor time, and MiB of anonymous memory."""


def run(command: list[str], scratch: Path) -> Cost:
    """The cost of a command, which must not fail; `scratch` is a folder for a small file.

    memviz' exit code 3, for an unknown system, is not a failure.
    """
    result = scratch / "cost"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "bench/cost.py"), str(result), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=_ENVIRONMENT,
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, _anonymous_memory(process.pid))
        time.sleep(0.005)  # memory that is in use for a moment counts, too
    if process.returncode not in (0, 3):
        raise SystemExit(f"failed with code {process.returncode}: {' '.join(command)}")
    cost = json.loads(result.read_text())
    return cost["wall"], cost["cpu"], peak


def _anonymous_memory(parent: int) -> float:
    """Anonymous memory in use by the parent's only child, in MiB."""
    try:
        child = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
        status = Path(f"/proc/{child}/status").read_text()
    except (OSError, IndexError):
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
    return int(found[0]) / 1024 if found else 0.0
