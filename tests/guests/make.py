"""Make a guest, from its recipe to its saved memory and its truth."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.guests.errors import GuestError
from tests.guests.initramfs import build, make_disk, make_empty, make_initramfs, module_files
from tests.guests.kernelbuild import build_kernel
from tests.guests.machine import Files, running
from tests.guests.maps import lines_of_records
from tests.guests.packages import Packages, whole_suite
from tests.guests.recipes import Recipe
from tests.guests.records import read_records
from tests.guests.resources import read_resources
from tests.guests.truth import Guest, Truth, make_truth
from tests.synth.containers import write_lime

FORMATS = ("raw", "elf", "kdump", "lime")
_RECORDS_SIZE = 128 << 20
_KEPT = ("cmdline", "iomem", "kallsyms", "version", "zoneinfo", "dmesg", "btf_vmlinux")
"""The guest's records that are kept unchanged."""


@dataclass(frozen=True)
class Folder:
    """The folder of one guest's files."""

    path: Path

    @property
    def name(self) -> str:
        """The guest's name."""
        return self.path.name

    def memory(self, form: str) -> Path:
        """The saved memory in one of FORMATS."""
        return self.path / f"{self.name}.{form}"

    @property
    def later(self) -> Path:
        """The same memory some time later."""
        return self.path / f"{self.name}.later.raw"

    @property
    def stops(self) -> Path:
        """When the guest was stopped, by the host's clock: seconds since 1970, a line each."""
        return self.path / "stops"

    @property
    def truth(self) -> Path:
        """The kernel's records of its pages and processes."""
        return self.path / "truth.npz"

    @property
    def maps(self) -> Path:
        """The lines of /proc/PID/maps of all processes, each with the pid in front."""
        return self.path / "maps"

    @property
    def files(self) -> Path:
        """The kernel's records of files in its cache."""
        return self.path / "files.npz"


def make(
    recipe: Recipe,
    folder: Folder,
    sources: Sequence[str],
    image: Path | None,
    types: Path | None,
    tell: Callable[[str], None],
    again: float = 0,
) -> None:
    """Make a guest, and replace an earlier one.

    If `again` is above 0, memory is saved once more after so many seconds.

    Packages and programs are kept beside the guests' folders for the next guest. `image` is the
    kernel for a recipe of an old kernel, `types` a file with the types of a kernel without BTF.
    `tell` gets a line about each step. GuestError names the missing or failed part.
    """
    common = folder.path.parent / "common"
    packages = Packages(common, recipe.suite, recipe.architecture, sources)
    userland = Packages(common, whole_suite(recipe.suite), recipe.architecture, sources)
    modules: dict[str, Path] = {}
    if recipe.source:
        tell(f"building a kernel from {recipe.source}; the first time takes some minutes")
        kernel = build_kernel(recipe, packages, common)
        image, types = kernel.image, types or kernel.types
    elif recipe.is_old:
        if image is None:
            raise GuestError(f"{recipe.name}: no package has this kernel: give it with --image")
    else:
        release = packages.newest_kernel(recipe.kernel)
        tell(f"kernel {release}")
        unpacked = packages.unpack_kernel(release)
        image, modules = _image(unpacked), module_files(unpacked)
    built = f"{recipe.architecture}-old" if recipe.is_old else recipe.architecture
    programs = build(recipe, common / built)
    shutil.rmtree(folder.path, ignore_errors=True)
    folder.path.mkdir(parents=True)
    files = Files(
        kernel=image,
        initramfs=folder.path / "initramfs",
        disk=folder.path / "disk",
        records=folder.path / "records",
        console=folder.path / "console.log",
    )
    files.initramfs.write_bytes(make_initramfs(recipe, userland, modules, programs))
    make_disk(files.disk)
    make_empty(files.records, _RECORDS_SIZE)
    tell("booting")
    with running(recipe, files) as machine:
        machine.wait_and_stop()
        stops = [time.time()]
        tell("saving memory")
        (folder.path / "machine.txt").write_text(machine.state())
        machine.save(*(folder.memory(form) for form in ("raw", "elf", "kdump")))
        if again:
            stops.append(machine.save_again(folder.later, again))
        machine.go_on()
    folder.stops.write_text("".join(f"{stop:.3f}\n" for stop in stops))
    records = read_records(files.records)
    for name in _KEPT:
        (folder.path / name).write_bytes(records.get(name, b""))
    folder.maps.write_text(lines_of_records(records))
    begins = recipe.hardware.memory_begins
    raw = folder.memory("raw")
    _finish(
        folder,
        Guest(raw, records, recipe.architecture, recipe.processors, begins, types),
        tell,
    )
    # If the truth could not be made, the records stay.
    for used in (files.initramfs, files.disk, files.records):
        used.unlink()


def _finish(folder: Folder, guest: Guest, tell: Callable[[str], None]) -> None:
    """Write the truth, and the memory in LiME's format."""
    for form in ("elf", "kdump"):
        folder.memory(form).chmod(0o644)
    truth = make_truth(guest)
    write_truth(folder, truth)
    resources = read_resources(guest.records["iomem"].decode())
    memory, begins = np.memmap(guest.raw, np.uint8, "r"), guest.begins
    pieces = [(a, memory[a - begins : b - begins].tobytes()) for a, b in resources.ram]
    write_lime(folder.memory("lime"), pieces)
    for remark in truth.remarks:
        tell(remark)
    pages = truth.pages
    tell(f"{len(pages['kernel_says'])} frames, {len(pages['pids'])} processes")


def write_truth(folder: Folder, truth: Truth) -> None:
    """Write both files of arrays."""
    np.savez_compressed(folder.truth, **truth.pages)  # type: ignore[arg-type]
    np.savez_compressed(folder.files, **truth.files)  # type: ignore[arg-type]


def _image(kernel: Path) -> Path:
    """The file that boots: in /boot, or since late 2026 beside the modules."""
    for pattern in ("boot/vmlinu[xz]-*", "**/modules/*/vmlinu[xz]"):
        for image in kernel.glob(pattern):
            return image
    raise GuestError(f"no kernel in {kernel}")
