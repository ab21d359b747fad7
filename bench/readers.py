"""How long each reader takes for a dump, beside cat: python -m bench.readers RAW [NAME ...].

RAW is a raw dump (2 GiB, say), which is written in each container to a scratch folder (TMPDIR),
read, and removed. Time of `cat FILE`, of the program that unpacks such files where there is one,
and of the reader, which opens the file and finds the pages of zeros, with its anonymous memory.
"""

import argparse
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.measure import run
from tests.synth import containers, s2
from tests.synth.aff4 import write_aff4
from tests.synth.ewf import write_e01

_READ = """
import sys
from memory_visualizer.formats.opening import open_dump
dump = open_dump(sys.argv[1])
dump.zero_frames()
"""


def _piped(command: list[str], path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        subprocess.run(command, input=data, stdout=file, check=True)


def _of_pieces(write: Callable[[Path, containers.Pieces], object], path: Path, data: bytes) -> None:
    write(path, [(0, data)])


def _e01(path: Path, data: bytes) -> None:
    [written] = write_e01(path, data, level=1)
    written.rename(path)


_kdump = containers.write_kdump
_WRITERS: dict[str, tuple[Callable[[Path, bytes], object], list[str]]] = {
    "raw": (lambda path, data: path.write_bytes(data), []),
    "lime": (functools.partial(_of_pieces, containers.write_lime), []),
    "avml": (functools.partial(_of_pieces, containers.write_avml), []),
    "kdump-zlib": (functools.partial(_of_pieces, _kdump), []),
    "kdump-zstd": (
        functools.partial(_of_pieces, functools.partial(_kdump, compression="zstd")),
        [],
    ),
    "kdump-flattened": (
        functools.partial(_of_pieces, functools.partial(_kdump, flattened=True)),
        [],
    ),
    "gzip": (functools.partial(_piped, ["gzip", "-1c"]), ["gzip", "-dc"]),
    "xz": (functools.partial(_piped, ["xz", "-0c"]), ["xz", "-dc"]),
    "zstd": (functools.partial(_piped, ["zstd", "-1c"]), ["zstd", "-dc"]),
    "s2": (lambda path, data: path.write_bytes(s2.stored_stream(data)), []),
    "e01": (_e01, []),
    "aff4-snappy": (functools.partial(_of_pieces, write_aff4), []),
    "aff4-zlib": (
        functools.partial(_of_pieces, functools.partial(write_aff4, compression="zlib")),
        [],
    ),
}


def main() -> int:
    """Print a line for each container."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--runs", metavar="N", type=int, default=2, help="the best of these (2)")
    options = parser.parse_args()
    data = options.raw.read_bytes()
    for name in options.names or _WRITERS:
        write, unpack = _WRITERS[name]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "dump"
            write(path, data)
            line = f"{name}: {path.stat().st_size >> 20:,} MiB"
            for what, command in (
                ("cat", ["cat", str(path)]),
                (" ".join(unpack), [*unpack, str(path)] if unpack else []),
                ("read", [sys.executable, "-c", _READ, str(path)]),
            ):
                if command and shutil.which(command[0]):
                    wall, cpu, memory = min(run(command, Path(folder)) for _ in range(options.runs))
                    line += f"; {what} {wall:.2f} s ({cpu:.2f} s of processor)"
            print(f"{line}, {memory:.0f} MiB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
