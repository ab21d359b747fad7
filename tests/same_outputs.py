"""Compare the outputs of two versions of the program over many synthetic dumps.

    python -m tests.same_outputs COMMIT [--mutated N] [--step N] [-v]

The dumps are those of tests/fuzz, sound and mutated, of every system and container. Picture, table,
JSON, text page map and summary of COMMIT's version are compared byte for byte with those of this
one. Exit code 1 if any differ. Use it for a change that moves code without changing results.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from tests.conftest import ROOT
from tests.fuzz.cases import MUTATIONS, Case, mutated
from tests.fuzz.seeds import CONTAINERS, SYSTEMS, seed

OPTIONS = (
    *("-o", "a.png", "--table", "a.csv", "--json", "a.json", "--map", "a.map"),
    *("--html", "a.html", "--force", "--lenient"),
)


def main() -> int:
    """Compare, print the differences, and return the exit code."""
    parser = argparse.ArgumentParser(description="Compare the outputs of two versions.")
    parser.add_argument("commit", help="the other version")
    parser.add_argument("--mutated", metavar="N", type=int, default=1, help="of each pair (1)")
    parser.add_argument(
        "--step", metavar="N", type=int, default=1, help="take one pair of N, such as 19 (1)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say what each dump gives")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        other = folder / "other"
        command = ["git", "worktree", "add", "--quiet", "--detach", str(other), options.commit]
        subprocess.run(command, cwd=ROOT, check=True)
        try:
            return _compare(folder, (ROOT, other), options)
        finally:
            remove = ["git", "worktree", "remove", "--force", str(other)]
            subprocess.run(remove, cwd=ROOT, check=True)


def _compare(folder: Path, sources: tuple[Path, Path], options: argparse.Namespace) -> int:
    different = count = 0
    containers = [container for container in CONTAINERS if container != "map"]
    kinds = list(MUTATIONS)
    pairs = list(enumerate(product(SYSTEMS, containers)))
    for number, (system, container) in pairs[:: options.step]:
        for mutant in range(options.mutated + 1):
            kind = kinds[(number + mutant) % len(kinds)]
            name = f"{system}, {container}, {f'{kind} {mutant}' if mutant else 'sound'}"
            case = Case(system, container, kind, mutant)
            contents = mutated(case) if mutant else seed(system, container).contents
            dump = folder / "dump"
            dump.write_bytes(contents)
            count += 1
            here, there = (_outputs(dump, source, folder / "out") for source in sources)
            differing = [
                key for key in here.keys() | there.keys() if here.get(key) != there.get(key)
            ]
            different += bool(differing)
            if differing or options.verbose:
                print(f"{name}: {', '.join(sorted(differing)) or 'the same'}", flush=True)
    print(f"{count} dumps, {different} with different outputs")
    return int(different > 0)


def _outputs(dump: Path, source: Path, folder: Path) -> dict[str, bytes]:
    """All outputs of a version: files, text and exit code."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    run = subprocess.run(
        [sys.executable, "-m", "memory_visualizer", str(dump), *OPTIONS],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
    )
    said = {"summary": run.stdout, "errors": run.stderr, "exit code": b"%d" % run.returncode}
    return said | {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


if __name__ == "__main__":
    sys.exit(main())
