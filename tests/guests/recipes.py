"""Which guests there are: a kernel, and the machine that it runs on."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path

RECIPES = Path(__file__).with_name("recipes.toml")
INSIDE = Path(__file__).with_name("inside")
"""What runs in the guest."""


@dataclass(frozen=True)
class Architecture:
    """What depends on the processor's kind."""

    compiler: tuple[str, ...]
    emulator: str
    machine: str
    """QEMU's word for the board, if the recipe names none."""
    processor: str
    console: str
    options: str
    """For the kernel's command line."""
    memory_begins: int
    """Physical address of the first byte of RAM."""
    has_ports: bool
    """Whether the guest tells by a second serial port that it is ready, else by its console."""


ARCHITECTURES = {
    "amd64": Architecture(
        compiler=("x86_64-linux-gnu-gcc",),
        emulator="qemu-system-x86_64",
        machine="pc",
        processor="IvyBridge",
        console="ttyS0",
        # Else a guest panics on a busy host, whose timer's ticks come late.
        options="no_timer_check",
        memory_begins=0,
        has_ports=True,
    ),
    "i386": Architecture(
        compiler=("i686-linux-gnu-gcc",),
        emulator="qemu-system-i386",
        machine="pc",
        processor="qemu32",
        console="ttyS0",
        options="no_timer_check",
        memory_begins=0,
        has_ports=True,
    ),
    "arm64": Architecture(
        compiler=("aarch64-linux-gnu-gcc",),
        emulator="qemu-system-aarch64",
        machine="virt",
        processor="cortex-a72",
        console="ttyAMA0",
        options="",
        memory_begins=1 << 30,
        has_ports=False,
    ),
}


_COMPILER_FOR_OLD = (
    # musl runs on kernels from 2.6 on, but has no headers of the kernel.
    *("musl-gcc", "-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"),
)


@dataclass(frozen=True)
class Recipe:
    """A guest, as recipes.toml or the command line describes it."""

    name: str
    suite: str
    """Debian's suite in which the kernel is, such as ``trixie-backports``."""
    kernel: str
    """A regular expression for the whole of the kernel's release."""
    architecture: str = "amd64"
    """Debian's word for it."""
    memory: int = 256
    """MiB."""
    processors: int = 1
    processor: str = ""
    """QEMU's word for the model; empty for the usual one of the architecture."""
    machine: str = ""
    """QEMU's word for the board; empty for the usual one."""
    share: int = 60
    """Per cent of their usual sizes that the workers take; 100 fits into 512 MiB."""
    buffer: int = 12
    """MiB for what the guest reads of itself."""
    options: str = ""
    """More words for the kernel's command line; `busy` and `thin` are for the guest's init."""
    is_old: bool = False
    """Whether the kernel is older than today's C library allows, and is given as a file.

    It then has klibc and musl, no disk and no modules.
    """

    @property
    def hardware(self) -> Architecture:
        """What depends on the architecture."""
        return ARCHITECTURES[self.architecture]

    @property
    def compiler(self) -> tuple[str, ...]:
        """The command that compiles for the guest."""
        return _COMPILER_FOR_OLD if self.is_old else self.hardware.compiler

    @property
    def command_line(self) -> str:
        """The kernel's command line."""
        hardware = self.hardware
        words = (
            f"console={hardware.console} random.trust_cpu=on",
            f"share={self.share} buffer={self.buffer}",
            hardware.options,
            self.options,
            "diskless" if self.is_old else "",
        )
        return " ".join(filter(None, words))


def read_recipes(path: Path = RECIPES) -> dict[str, Recipe]:
    """Read recipes by name; TypeError for a field that there is not, ValueError for a bad value."""
    recipes = {}
    for name, fields in tomllib.loads(path.read_text()).items():
        recipe = Recipe(name=name, **fields)
        if recipe.architecture not in ARCHITECTURES:
            raise ValueError(f"{path.name}: {name}: no architecture {recipe.architecture}")
        recipes[name] = recipe
    return recipes


def changed(recipe: Recipe, **fields: str | int | None) -> Recipe:
    """The same recipe with those fields that are not None."""
    given = {name: value for name, value in fields.items() if value is not None}
    return dataclasses.replace(recipe, **given)  # type: ignore[arg-type]
