"""Volatility 3: to whom each page of a Linux memory dump belongs.

    vol -p plugins3 -f DUMP linux.memoryvisualizer

The work is done in memory_visualizer.volatility3; this module asks Volatility for its facts on
Linux.
"""

import logging
from collections.abc import Iterator
from typing import Any

from volatility3.framework import exceptions, interfaces
from volatility3.framework.configuration import requirements
from volatility3.framework.objects import utility
from volatility3.plugins.linux import pslist

from memory_visualizer.snapshot.process import Process
from memory_visualizer.snapshot.system import System
from memory_visualizer.volatility3.mappings import table_base
from memory_visualizer.volatility3.visualizer import LinuxVisualizer, options

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
                description="Linux kernel",
                architectures=["Intel32", "Intel64"],
            ),
            requirements.VersionRequirement(
                name="pslist", component=pslist.PsList, version=(4, 0, 0)
            ),
            *options(),
        ]

    def run(self) -> Any:
        """The rows: one for each process, or for each mapping."""
        kernel = self.context.modules[self.config["kernel"]]
        layer = self.context.layers[kernel.layer_name]
        return LinuxVisualizer(self, layer, list(self._processes()), System("Linux")).grid()

    def _processes(self) -> Iterator[Process]:
        for task in pslist.PsList.list_tasks(self.context, self.config["kernel"]):
            try:
                # A kernel thread borrows the memory of the last process that ran.
                name = None if task.is_kernel_thread else task.add_process_layer()
                yield Process(
                    pid=int(task.tgid),
                    ppid=int(task.get_parent_pid()),
                    name=utility.array_to_string(task.comm),
                    dtb=table_base(self.context.layers[name]) if name else 0,
                    object_address=int(task.vol.offset),
                    created=None,
                    exited=None,
                    is_alive=True,
                    is_listed=True,
                    is_kernel_thread=bool(task.is_kernel_thread),
                )
            except exceptions.InvalidAddressException:
                vollog.info("Invalid task found at address %x: left out", task.vol.offset)
