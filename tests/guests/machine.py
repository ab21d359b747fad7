"""The guest's machine: QEMU under software emulation, driven by its monitor (QMP)."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.guests.errors import GuestError
from tests.guests.recipes import Recipe

_READY = b"READY"
_LOST = b"Kernel panic"
_BOOT, _END = 600.0, 180.0
"""Seconds for booting until memory can be saved, and for the time afterwards."""
_PAUSE = 0.2
_NICE = 10
_KNOWN_STATE = ("info cpus", "info registers -a", "info mtree -f", "info version")
"""The monitor's commands whose output is kept beside the memory."""


@dataclass(frozen=True)
class Files:
    """The files with which the machine starts, and to which it writes."""

    kernel: Path
    initramfs: Path
    disk: Path
    records: Path
    """A second disk, to which the guest writes its records."""
    console: Path


def command_line(recipe: Recipe, files: Files, sockets: Path) -> list[str]:
    """QEMU's command line; `sockets` is a folder for the sockets of monitor and serial port."""
    hardware = recipe.hardware
    command = [
        *("nice", "-n", str(_NICE), hardware.emulator, "-accel", "tcg,tb-size=256"),
        *("-M", recipe.machine or hardware.machine, "-cpu", recipe.processor or hardware.processor),
        *("-smp", str(recipe.processors), "-m", f"{recipe.memory}M"),
        *("-nodefaults", "-display", "none", "-no-reboot"),
        *("-kernel", str(files.kernel), "-initrd", str(files.initramfs)),
        *("-append", recipe.command_line),
        *("-qmp", f"unix:{sockets}/monitor,server=on,wait=off"),
    ]
    if recipe.is_old:
        command += ["-chardev", f"file,id=records,path={files.records}"]
        command += ["-device", "isa-debugcon,iobase=0xe9,chardev=records"]
    disks = {} if recipe.is_old else {"disk": files.disk, "records": files.records}
    for name, disk in disks.items():
        command += ["-drive", f"file={disk},if=none,id={name},format=raw,cache=unsafe"]
        command += ["-device", f"virtio-blk-pci,drive={name}"]
    ready = f"socket,id=ready,path={sockets}/ready,server=on,wait=off"
    if hardware.has_ports:
        command += ["-vga", "none", "-chardev", f"file,id=console,path={files.console}"]
        command += ["-serial", "chardev:console", "-chardev", ready, "-serial", "chardev:ready"]
    else:
        command += ["-chardev", f"{ready},logfile={files.console}", "-serial", "chardev:ready"]
    return command


class Monitor:
    """QEMU's monitor: commands as JSON, a line each (docs/interop/qmp-spec)."""

    def __init__(self, path: Path) -> None:
        self._stream = _connected(path).makefile("rw", encoding="utf-8")
        self._stream.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: object) -> Any:
        """Run a command and return its answer; GuestError with QEMU's message if it fails."""
        asked: Mapping[str, object] = {"execute": command, "arguments": arguments}
        self._stream.write(json.dumps(asked) + "\n")
        self._stream.flush()
        for line in self._stream:  # events come in between
            answer = json.loads(line)
            if "error" in answer:
                raise GuestError(f"QEMU: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise GuestError(f"QEMU ended at {command}")

    def ask_person(self, command: str) -> str:
        """The answer to a command of the human monitor."""
        return str(self.ask("human-monitor-command", **{"command-line": command}))


def _connected(path: Path) -> socket.socket:
    for _ in range(100):
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(str(path))
        except OSError:
            made.close()
            time.sleep(_PAUSE)
        else:
            return made
    raise GuestError(f"QEMU did not start: there is no {path.name}")


class Machine:
    """A running guest."""

    def __init__(self, recipe: Recipe, files: Files, sockets: Path) -> None:
        self.recipe, self._files = recipe, files
        self._complaints = sockets / "complaints"
        with self._complaints.open("w") as complaints:
            self._process = subprocess.Popen(
                command_line(recipe, files, sockets), stdin=subprocess.DEVNULL, stderr=complaints
            )
        try:
            self.monitor = Monitor(sockets / "monitor")
            self._ready = _connected(sockets / "ready")
        except GuestError as error:
            self.end()
            raise GuestError(f"{error}: {self._complaints.read_text().strip()}") from None

    def wait_and_stop(self) -> None:
        """Wait until the guest has read itself, and stop it at once."""
        self._ready.settimeout(_PAUSE)
        heard, deadline = b"", time.monotonic() + _BOOT
        while _READY not in heard:
            try:
                heard = heard[-len(_READY) :] + self._ready.recv(4096)
            except TimeoutError:
                self._check(deadline)
        self.monitor.ask("stop")

    def _check(self, deadline: float) -> None:
        console = self._files.console
        if console.exists() and _LOST in console.read_bytes():
            raise GuestError(f"the guest's kernel panicked: see {console}")
        if self._process.poll() is not None:
            raise GuestError(f"QEMU ended: {self._complaints.read_text().strip()}")
        if time.monotonic() > deadline:
            raise GuestError(f"the guest was not ready in {_BOOT:.0f} s: see {console}")

    def state(self) -> str:
        """The monitor's output on processors, registers and memory regions."""
        answers = ((command, self.monitor.ask_person(command)) for command in _KNOWN_STATE)
        return "".join(f"(qemu) {command}\n{answer}\n" for command, answer in answers)

    def save(self, raw: Path, elf: Path, kdump: Path) -> None:
        """Save memory three times: plain, as an ELF core, and as a compressed kdump file.

        Byte 0 of the plain file is the first byte of RAM.
        """
        begin, size = self.recipe.hardware.memory_begins, self.recipe.memory << 20
        self.monitor.ask("pmemsave", val=begin, size=size, filename=str(raw))
        self.monitor.ask("dump-guest-memory", paging=False, protocol=f"file:{elf}")
        self.monitor.ask(
            "dump-guest-memory", paging=False, protocol=f"file:{kdump}", format="kdump-zlib"
        )

    def save_again(self, raw: Path, seconds: float) -> float:
        """Let the guest run on, stop it, and save its memory once more, plain.

        Returns the time of the stop by the host's clock, in seconds since 1970.
        """
        self.monitor.ask("cont")
        time.sleep(seconds)
        self.monitor.ask("stop")
        stopped = time.time()
        begin, size = self.recipe.hardware.memory_begins, self.recipe.memory << 20
        self.monitor.ask("pmemsave", val=begin, size=size, filename=str(raw))
        return stopped

    def go_on(self) -> None:
        """Let the guest write its records, and wait until it has switched itself off."""
        self.monitor.ask("cont")
        if self.recipe.hardware.has_ports:
            self._ready.send(b"x")
        self._ready.setblocking(False)
        deadline = time.monotonic() + _END
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                raise GuestError("the guest did not switch itself off")
            with contextlib.suppress(OSError):  # otherwise the console would wait for a reader
                self._ready.recv(1 << 16)
            time.sleep(_PAUSE / 2)

    def end(self) -> None:
        """End QEMU, if it runs."""
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGTERM)
        self._process.wait()


@contextmanager
def running(recipe: Recipe, files: Files) -> Iterator[Machine]:
    """Start a guest, and end it in any case."""
    # A socket's path may have only 108 letters.
    with tempfile.TemporaryDirectory(prefix="guest-") as sockets:
        machine = Machine(recipe, files, Path(sockets))
        try:
            yield machine
        finally:
            machine.end()
