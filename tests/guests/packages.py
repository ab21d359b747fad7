"""Find, fetch and unpack Debian's packages for a guest, whatever the machine's own system.

apt works in a folder of its own and leaves the machine's packages alone. Mirrors and keys are those
of the machine's own sources, for the guest's suite and architecture, or the given ones.
"""

import functools
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.guests.errors import GuestError

_FIELDS = "$(REPO_URI) $(COMPONENT) $(ORIGIN)"
_UNPACKED = ".unpacked"
"""The mark of a folder with all its packages."""


def run(command: Sequence[str | Path], *, folder: Path | None = None, what: str) -> str:
    """Run a program and return its output; GuestError with its last line if it fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, errors="replace"
        )
    except FileNotFoundError:
        raise GuestError(f"{what}: needs the program {command[0]}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise GuestError(f"{what}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout


class Packages:
    """Packages of one suite and architecture."""

    def __init__(
        self, folder: Path, suite: str, architecture: str, sources: Sequence[str] = ()
    ) -> None:
        """Keep lists and packages in `folder`; `sources` are lines for a sources.list."""
        self.suite, self.architecture = suite, architecture
        self.folder = folder / f"{suite}-{architecture}"
        self._sources = sources

    @functools.cached_property
    def _configuration(self) -> Path:
        """The configuration file, with the suite's lists beside it."""
        folder = self.folder / "apt"
        for place in ("state/lists/partial", "cache/archives/partial"):
            (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        sources = self._sources or sources_of_machine(self.suite)
        text = "".join(line + "\n" for line in sources)
        is_new = _write_if_new(folder / "sources.list", text)
        configuration = folder / "apt.conf"
        configuration.write_text(
            f'Dir::State "{folder}/state";\n'
            f'Dir::State::status "{folder}/status";\n'
            f'Dir::Cache "{folder}/cache";\n'
            f'Dir::Etc::sourcelist "{folder}/sources.list";\n'
            'Dir::Etc::sourceparts "/dev/null";\n'
            f'APT::Architecture "{self.architecture}";\n'
            f'APT::Architectures {{"{self.architecture}";}};\n'
            'APT::Sandbox::User "";\n'
            'Acquire::Languages "none";\n'
        )
        if is_new or not any((folder / "state/lists").glob("*Packages*")):
            self._apt(configuration, "apt-get", "-q", "update")
        return configuration

    def _apt(
        self, configuration: Path, program: str, *words: str, folder: Path | None = None
    ) -> str:
        command = ["env", f"APT_CONFIG={configuration}", program, *words]
        return run(command, folder=folder, what=f"{self.suite} {self.architecture}")

    def newest_kernel(self, pattern: str) -> str:
        """The newest release of the kernels that a regular expression names."""
        names = self._apt(self._configuration, "apt-cache", "pkgnames", "linux-").split()
        releases = kernel_releases(names, pattern)
        if not releases:
            raise GuestError(f"{self.suite} {self.architecture}: no kernel {pattern}")
        return max(releases, key=version_key)

    def unpack_kernel(self, release: str) -> Path:
        """A folder with the kernel and its modules."""
        known = set(self._apt(self._configuration, "apt-cache", "pkgnames", "linux-").split())
        # Kernels of late 2026 are in two packages, and linux-image only depends on these.
        parts = [f"linux-binary-{release}", f"linux-modules-{release}"]
        return self.unpack(parts if known >= set(parts) else [f"linux-image-{release}"])

    def unpack(self, names: Sequence[str]) -> Path:
        """A folder with the contents of these packages."""
        target = self.folder / names[0]
        if (target / _UNPACKED).exists():
            return target
        shutil.rmtree(target, ignore_errors=True)
        fetched = target / ".fetched"
        fetched.mkdir(parents=True)
        self._apt(self._configuration, "apt-get", "-q", "download", *names, folder=fetched)
        for package in fetched.glob("*.deb"):
            run(["dpkg-deb", "-x", package, target], what=package.name)
        shutil.rmtree(fetched)
        (target / _UNPACKED).touch()
        return target


def sources_of_machine(suite: str) -> list[str]:
    """Lines of a sources.list for a suite, from the mirrors that the machine itself uses."""
    told = run(["apt-get", "indextargets", "--format", _FIELDS], what="apt's own sources")
    lines = sources_for(suite, told.splitlines())
    if not lines:
        raise GuestError(
            f"no source of Debian's for {suite}: run apt-get update, or name one with --source"
        )
    return lines


def sources_for(suite: str, told: Iterable[str]) -> list[str]:
    """Take Debian's mirrors among lines of address, component and origin.

    A suite of security updates has a mirror of its own, which the address tells.
    """
    lines = []
    for line in dict.fromkeys(told):
        address, component, *origin = line.split()
        is_security = "security" in address.rstrip("/").rsplit("/", 1)[-1]
        if component != "main" or origin != ["Debian"]:
            continue
        if is_security == suite.endswith("-security"):
            lines.append(f"deb {address} {suite} main")
    return lines


def whole_suite(suite: str) -> str:
    """The complete suite that belongs to a suite with only some packages.

    >>> whole_suite("trixie-backports"), whole_suite("bullseye-security")
    ('trixie', 'bullseye')
    """
    return "sid" if suite == "experimental" else suite.split("-", 1)[0]


def kernel_releases(names: Iterable[str], pattern: str) -> set[str]:
    """The releases of kernels, among the names of packages, that a regular expression names."""
    found = (re.fullmatch(rf"linux-(?:image|binary)-({pattern})", name) for name in names)
    return {match[1] for match in found if match}


def version_key(release: str) -> tuple[int, ...]:
    """The sort key of releases: the numbers in them."""
    return tuple(int(number) for number in re.findall(r"\d+", release))


def _write_if_new(path: Path, text: str) -> bool:
    """Write a file unless it has the same content; returns whether it was written."""
    if path.exists() and path.read_text() == text:
        return False
    path.write_text(text)
    return True
