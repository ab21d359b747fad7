"""Write a synthetic memory dump from the command line."""

import argparse
import sys
from contextlib import suppress
from pathlib import Path

from tests.synth import forge, profiles
from tests.synth.isf import write_symbols
from tests.synth.memory import OutOfMemoryError


def _size(text: str) -> int:
    units = {"K": 10, "M": 20, "G": 30}
    unit = units.get(text[-1:].upper())
    try:
        return int(text[:-1]) << unit if unit else int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a size such as 32M or 4G") from None


def _write(arguments: argparse.Namespace, part: Path, beside: Path) -> None:
    # The truth comes first: so every dump from here has one, even if the program is stopped.
    truth = forge(
        part,
        profiles()[arguments.profile],
        size=arguments.size,
        processes=arguments.processes,
        seed=arguments.seed,
        pae=arguments.pae,
        kernel_pages=arguments.kernel_pages,
        user_pages=arguments.user_pages,
        stretch=arguments.stretch,
        database=arguments.database,
    )
    truth.save(beside)
    part.replace(arguments.file)


def main() -> int:
    """Write a dump and, beside it, its truth."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.synth",
        description="Write a synthetic Windows memory dump, and its truth as FILE.truth.npz.",
        epilog="example: python -m tests.synth Win10x64_17763 dumps/win10.raw --size 256M",
    )
    parser.add_argument("profile", help="a Windows profile of Volatility 2.6.1, e.g. Win7SP1x64")
    parser.add_argument("file", type=Path, help="the dump to write")
    parser.add_argument("--size", type=_size, default=32 << 20, help="such as 32M or 4G (32M)")
    parser.add_argument("--processes", type=int, default=12, help="live, listed processes (12)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same dump (0)")
    parser.add_argument("--pae", action=argparse.BooleanOptionalAction, help="32-bit paging mode")
    parser.add_argument("--kernel-pages", type=int, help="about how many pages the kernel maps")
    parser.add_argument("--user-pages", type=int, help="about how many each process maps")
    parser.add_argument(
        "--stretch",
        type=int,
        default=256,
        help="frames that stay together at most, as on a machine that has run for a while (256)",
    )
    parser.add_argument(
        "--database", action="store_true", help="the kernel has its page frame database"
    )
    parser.add_argument(
        "--symbols", metavar="FOLDER", type=Path, help="also write a symbol file for Volatility 3"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace FILE even if no truth beside it says whose it is",
    )
    arguments = parser.parse_args()
    if arguments.profile not in profiles():
        parser.error(f"no profile {arguments.profile}; there are: {', '.join(profiles())}")
    beside = arguments.file.with_name(arguments.file.name + ".truth.npz")
    if arguments.file.exists() and not beside.exists() and not arguments.force:
        parser.error(f"{arguments.file} is there, and not from here, since it has no {beside.name}")
    part = arguments.file.with_name(f".{arguments.file.name}.part")
    try:
        _write(arguments, part, beside)
    except OutOfMemoryError as error:
        parser.error(f"{arguments.size:,} bytes cannot hold so many pages ({error})")
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.exit(1, f"{parser.prog}: cannot write {arguments.file}: {error.strerror}\n")
    finally:
        with suppress(OSError):
            part.unlink()
    if arguments.symbols:
        write_symbols(profiles()[arguments.profile], arguments.symbols)
    return 0


if __name__ == "__main__":
    sys.exit(main())
