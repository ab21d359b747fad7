"""The command line: python -m tests.guests list | make | compare | table."""

import argparse
import functools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.guests.compare import Result, compare_dump, markdown, report
from tests.guests.errors import GuestError
from tests.guests.make import FORMATS, Folder, make
from tests.guests.recipes import ARCHITECTURES, Recipe, changed, read_recipes

GUESTS = Path(__file__).parents[2] / "dumps" / "guests"
"""The default folder of guests; git ignores it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if all went well, 1 with a sentence if not."""
    options = _parser().parse_args(arguments)
    try:
        commands = {"list": _list, "make": _make, "compare": _compare, "table": _table}
        return commands[options.command](options)
    except GuestError as error:
        print(f"tests.guests: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.guests", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the guests that recipes.toml describes")
    make_ = commands.add_parser("make", help="boot guests, save their memory, write their truth")
    make_.add_argument("--source", action="append", default=[], metavar="LINE")
    make_.add_argument("--suite", help="Debian's suite, instead of the recipe's")
    make_.add_argument("--kernel", metavar="REGEX", help="the release, instead of the recipe's")
    make_.add_argument("--architecture", choices=ARCHITECTURES)
    make_.add_argument("--memory", type=int, metavar="MIB")
    make_.add_argument("--image", type=Path, metavar="FILE", help="an old kernel, as it boots")
    make_.add_argument("--types", type=Path, metavar="FILE", help="of a kernel without BTF")
    make_.add_argument("--options", metavar="WORDS", help="for the kernel's command line")
    make_.add_argument("--again", type=float, default=0, metavar="S", help="save a later dump, too")
    compare_ = commands.add_parser("compare", help="hold memviz's answer against the truth")
    compare_.add_argument("--formats", default=",".join(FORMATS), metavar="F,…")
    table = commands.add_parser("table", help="the results of compare as Markdown")
    for command in (make_, compare_, table):
        command.add_argument("names", nargs="*" if command is table else "+", metavar="NAME")
        command.add_argument("--folder", type=Path, default=GUESTS, help="where guests lie")
    return parser


def _list(_: argparse.Namespace) -> int:
    for recipe in read_recipes().values():
        print(f"{recipe.name:18} {recipe.architecture:6} {recipe.suite:18} {recipe.kernel}")
    return 0


def _make(options: argparse.Namespace) -> int:
    for name in options.names:
        recipe = changed(
            _recipe(name, options),
            suite=options.suite,
            kernel=options.kernel,
            architecture=options.architecture,
            memory=options.memory,
            options=options.options,
        )
        print(f"{name}: {recipe.architecture}, {recipe.memory} MiB, suite {recipe.suite}")
        folder = Folder((options.folder / name).resolve())
        tell = functools.partial(print, " ", flush=True)
        make(recipe, folder, options.source, options.image, options.types, tell, options.again)
    return 0


def _recipe(name: str, options: argparse.Namespace) -> Recipe:
    recipes = read_recipes()
    if name in recipes:
        return recipes[name]
    if options.suite and options.kernel:
        return Recipe(name, options.suite, options.kernel)
    raise GuestError(f"no guest {name}: `list` names them, or give --suite and --kernel")


def _compare(options: argparse.Namespace) -> int:
    for name in options.names:
        folder = Folder(options.folder / name)
        for form in options.formats.split(","):
            dump = folder.memory(form)
            if not dump.exists():
                raise GuestError(f"{dump} is not there: make the guest first")
            answers = folder.path / "answers" / form
            try:
                result = compare_dump(folder.truth, folder.maps, dump, answers)
            except subprocess.CalledProcessError as error:
                print(f"{name} {form}: memviz ended with {error.returncode}: {error.stderr}")
                continue
            result.write(answers / "result.json")
            for line in report(result):
                print(f"{name} {line}" if line[0] != " " else line, flush=True)
    return 0


def _table(options: argparse.Namespace) -> int:
    names = options.names or [name for name in read_recipes() if (options.folder / name).exists()]
    results = {}
    for name in names:
        paths = (options.folder / name / "answers" / form / "result.json" for form in FORMATS)
        results[name] = [Result.read(path) for path in paths if path.exists()]
    for line in markdown(results):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
