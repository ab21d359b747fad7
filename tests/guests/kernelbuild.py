"""Build a kernel that no package has, from Debian's source and a short configuration.

All other options are off (allnoconfig): some 900 files are compiled.
"""

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.guests.errors import GuestError
from tests.guests.packages import Packages, run
from tests.guests.recipes import Recipe

_NAMES = {"amd64": ("x86_64", "bzImage"), "arm64": ("arm64", "Image")}
"""By Debian's name of an architecture: the kernel's own, and the file that boots."""


@dataclass(frozen=True)
class BuiltKernel:
    """The files of a kernel that was built."""

    image: Path
    """The file that boots."""
    types: Path
    """The same kernel in ELF, with all symbols and types: see kerneltypes.Types.of_file."""


def build_kernel(recipe: Recipe, packages: Packages, common: Path) -> BuiltKernel:
    """Build the kernel of a recipe, unless one with the same configuration is in `common`.

    All of it is in one file, without modules. GuestError says what is missing or failed: also an
    option that the kernel does not know, or that needs another one.
    """
    if recipe.architecture not in _NAMES:
        raise GuestError(f"{recipe.name}: no kernel can be built for {recipe.architecture}")
    name, image = _NAMES[recipe.architecture]
    wanted = recipe.whole_configuration
    target = common / f"kernel-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    built = BuiltKernel(target / "arch" / name / "boot" / image, target / "vmlinux")
    done = target / ".built"
    if done.exists():
        return built
    source = _source(packages.unpack([recipe.source]))
    target.mkdir(parents=True, exist_ok=True)
    options = target / "wanted.config"
    options.write_text(wanted)
    make = ["make", "-C", str(source), f"O={target}", f"ARCH={name}"]
    make.append(f"CROSS_COMPILE={recipe.hardware.compiler[0].removesuffix('gcc')}")
    configure = ["env", f"KCONFIG_ALLCONFIG={options}", *make, "allnoconfig"]
    run(configure, what="configuring the kernel")
    if missing := missing_options(wanted, (target / ".config").read_text()):
        raise GuestError(f"{recipe.name}: options not taken: {', '.join(missing)}")
    log = target / "build.log"
    with log.open("wb") as file:
        command = [*make, f"-j{os.cpu_count() or 1}", "vmlinux", image]
        if subprocess.run(command, stdout=file, stderr=file, check=False).returncode:
            raise GuestError(f"the kernel was not built: see {log}")
    done.touch()
    return built


def missing_options(wanted: str, taken: str) -> list[str]:
    """The options of one configuration that another one does not have."""
    have = set(taken.splitlines())
    return [line for line in wanted.splitlines() if line[:1] not in ("", "#") and line not in have]


def _source(unpacked: Path) -> Path:
    """The kernel's source, out of the archive that Debian's package holds."""
    target = unpacked / "source"
    if not target.exists():
        [packed] = unpacked.glob("usr/src/linux-source-*.tar.xz")
        half = unpacked / "half"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir()
        run(["tar", "-xf", packed, "-C", half, "--strip-components=1"], what=packed.name)
        half.rename(target)
    return target
