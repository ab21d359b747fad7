"""The page map the way the seed project made it, to be measured against.

Every page of every process is listed, the kernel's again for each, and each is translated once
more; the U/S bit is that of the last level alone; the addresses are written in decimal. Runs
inside Volatility 2, on Python 2.7.
"""

from __future__ import print_function

import volatility.plugins.taskmods as taskmods


class SeedWay(taskmods.DllList):
    """Page map as the Memory Visualizer of 2018 made it (for benchmarks)"""

    def calculate(self):
        """Yield (virtual, physical, size, kernel) for every page of every process."""
        for task in taskmods.DllList.calculate(self):
            space = task.get_process_address_space()
            for entry, virtual, size in space.get_available_pages(True):
                yield virtual, space.vtop(virtual), size, space.is_supervisor_page(entry)

    def render_text(self, outfd, data):
        """Print the rows as they come."""
        for virtual, physical, size, kernel in data:
            print(virtual, physical, size, kernel, file=outfd)
