"""Volatility 3: to whom each page of a Windows memory dump belongs.

    vol -p plugins3 -f DUMP windows.memoryvisualizer

The work is done in memory_visualizer.volatility3; this module asks Volatility for its facts on
Windows.
"""

import logging
from collections.abc import Iterator
from typing import Any

from volatility3.framework import exceptions, interfaces
from volatility3.framework.configuration import requirements
from volatility3.plugins.windows import info, pslist

from memory_visualizer import Process
from memory_visualizer.snapshot.system import System
from memory_visualizer.volatility3.mappings import table_base
from memory_visualizer.volatility3.visualizer import Visualizer, options
from memory_visualizer.windows.toplevels import time_of

vollog = logging.getLogger(__name__)


class MemoryVisualizer(interfaces.plugins.PluginInterface):
    """Shows to whom each page of memory belongs."""

    _required_framework_version = (2, 26, 0)
    _version = (1, 0, 0)

    @classmethod
    def get_requirements(cls) -> list[Any]:
        """The plugin's requirements and options."""
        return [
            requirements.ModuleRequirement(
                name="kernel",
                description="Windows kernel",
                architectures=["Intel32", "Intel64"],
            ),
            requirements.VersionRequirement(
                name="pslist", component=pslist.PsList, version=(3, 0, 0)
            ),
            requirements.VersionRequirement(name="info", component=info.Info, version=(2, 0, 0)),
            *options(),
        ]

    def run(self) -> Any:
        """The rows: one for each process, or for each mapping."""
        kernel = self.context.modules[self.config["kernel"]]
        layer = self.context.layers[kernel.layer_name]
        return Visualizer(self, layer, list(self._processes()), self._system()).grid()

    def _processes(self) -> Iterator[Process]:
        for proc in pslist.PsList.list_processes(self.context, self.config["kernel"]):
            try:
                name = proc.ImageFileName
                yield Process(
                    pid=int(proc.UniqueProcessId),
                    ppid=int(proc.InheritedFromUniqueProcessId),
                    name=name.cast("string", max_length=name.vol.count, errors="replace"),
                    dtb=table_base(self.context.layers[proc.add_process_layer()]),
                    object_address=int(proc.vol.offset),
                    created=time_of(int(proc.CreateTime.QuadPart)),
                    exited=time_of(int(proc.ExitTime.QuadPart)),
                    is_alive=not proc.ExitTime.QuadPart,
                    is_listed=True,
                )
            except exceptions.InvalidAddressException:
                vollog.info("Invalid process found at address %x: left out", proc.vol.offset)

    def _system(self) -> System:
        try:
            user = info.Info.get_kuser_structure(self.context, self.config["kernel"])
            return System("Windows", f"{user.NtMajorVersion}.{user.NtMinorVersion}")
        except exceptions.InvalidAddressException:
            return System("Windows")
