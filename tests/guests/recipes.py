"""The guests: a kernel, and the machine that it runs on."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path

RECIPES = Path(__file__).with_name("recipes.toml")
INSIDE = Path(__file__).with_name("inside")
"""The sources of the guest's programs."""


@dataclass(frozen=True)
class Architecture:
    """The properties of an architecture."""

    compiler: tuple[str, ...]
    emulator: str
    machine: str
    """QEMU's name of the board, if the recipe does not name one."""
    processor: str
    console: str
    options: str
    """Options for the kernel's command line."""
    memory_begins: int
    """Physical address of the first byte of RAM."""
    has_ports: bool
    """Whether the guest reports by a second serial port that it is ready, and not by its
    console."""


ARCHITECTURES = {
    "amd64": Architecture(
        compiler=("x86_64-linux-gnu-gcc",),
        emulator="qemu-system-x86_64",
        machine="pc",
        processor="IvyBridge",
        console="ttyS0",
        # Without this option a guest panics on a busy host, whose timer ticks come late.
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
    """Debian's suite with the kernel, such as ``trixie-backports``."""
    kernel: str
    """A regular expression for the kernel's full release."""
    architecture: str = "amd64"
    """Debian's name of the architecture."""
    memory: int = 256
    """MiB."""
    processors: int = 1
    processor: str = ""
    """QEMU's name of the processor; empty for the architecture's default."""
    machine: str = ""
    """QEMU's name of the board; empty for the default."""
    share: int = 60
    """The workers' sizes in per cent of the usual; 100 fits into 512 MiB."""
    buffer: int = 12
    """MiB for the guest's records of itself."""
    options: str = ""
    """Further options for the kernel's command line; `busy` and `thin` are for the guest's init."""
    is_old: bool = False
    """Whether the kernel is too old for today's C library, and is given as a file.

    Such a guest has klibc and musl, no disk and no modules.
    """
    source: str = ""
    """Debian's package with the source of a kernel that is built, such as ``linux-source-6.12``."""
    configuration: str = ""
    """The configuration of such a kernel: a file beside recipes.toml."""
    more_configuration: tuple[str, ...] = ()
    """Further lines of it, such as ``CONFIG_ARM64_VA_BITS_52=y``."""

    @property
    def hardware(self) -> Architecture:
        """The properties of the recipe's architecture."""
        return ARCHITECTURES[self.architecture]

    @property
    def whole_configuration(self) -> str:
        """The options of a kernel that is built."""
        text = RECIPES.with_name(self.configuration).read_text()
        return text + "".join(line + "\n" for line in self.more_configuration)

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
    """Read recipes by name; TypeError for an unknown field, ValueError for a bad value."""
    recipes = {}
    for name, fields in tomllib.loads(path.read_text()).items():
        recipe = Recipe(name=name, **fields)
        if recipe.architecture not in ARCHITECTURES:
            raise ValueError(f"{path.name}: {name}: no architecture {recipe.architecture}")
        recipes[name] = recipe
    return recipes


def changed(recipe: Recipe, **fields: str | int | None) -> Recipe:
    """The same recipe, changed in the fields that are not None."""
    given = {name: value for name, value in fields.items() if value is not None}
    return dataclasses.replace(recipe, **given)  # type: ignore[arg-type]
