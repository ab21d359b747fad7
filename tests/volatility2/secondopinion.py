"""The views of Volatility 2, and of this project's plugin in it, on many dumps at once.

    vol.py --plugins=plugins:tests/volatility2 -f ANY --profile=WinXPSP2x86 secondopinion \
        --dumps=LIST

LIST has a line for each dump: its profile, a space, its path. One JSON object a line comes out.
One process for all of them, since Volatility takes seconds to start and to load its profiles.

Runs inside Volatility 2, hence on Python 2.7; never loaded by users.
"""

import json

import volatility.addrspace as addrspace
import volatility.obj as obj
import volatility.plugins.addrspaces.standard as standard
import volatility.plugins.common as common
import volatility.plugins.imageinfo as imageinfo
import volatility.plugins.taskmods as taskmods
import volatility.registry as registry

LONG = 1 << 20
"""Shorter reads are not remembered."""


class Block(str):
    """Bytes of a dump that know the places that were looked for before."""

    def find(self, needle, *bounds):
        """As str.find."""
        known = self.__dict__
        if (needle, bounds) not in known:
            known[needle, bounds] = str.find(self, needle, *bounds)
        return known[needle, bounds]


class Remembered(object):
    """The long reads of one dump.

    `imageinfo` tries each of Volatility's profiles on a dump, and reads the file, or all of the
    kernel's memory, again for each. That is the same memory for all profiles with the same kind of
    address space and the same DTB. What Volatility concludes from it stays with Volatility.
    """

    def __init__(self):
        self._blocks = []
        self._reads = {}
        self._pages = {}
        for space in (standard.FileAddressSpace, addrspace.AbstractDiscreteAllocMemory):
            space.zread = self._remembering(space.zread)

    def forget(self):
        """Begin with another dump."""
        del self._blocks[:]
        self._reads.clear()
        self._pages.clear()

    def _remembering(self, zread):
        def read(space, address, length):
            if length < LONG:
                return zread(space, address, length)
            key = type(space), getattr(space, "dtb", None), int(address), int(length)
            if key not in self._reads:
                self._reads[key] = self._block(self._read(zread, space, address, length))
            return self._reads[key]

        return read

    def _read(self, zread, space, address, length):
        """Read within a large page at once; Volatility would translate each 4 KiB of it."""
        if hasattr(space, "get_available_pages"):
            kind = type(space), space.dtb
            if kind not in self._pages:
                self._pages[kind] = [p for p in space.get_available_pages() if p[1] >= LONG]
            for start, size in self._pages[kind]:
                if start <= address and address + length <= start + size:
                    return space.base.zread(space.translate(address), length)
        return zread(space, address, length)

    def _block(self, contents):
        """The same object for the same bytes: most of a page of 1 GiB lies beyond a small dump."""
        for known in self._blocks:
            if known == contents:
                return known
        self._blocks.append(Block(contents))
        return self._blocks[-1]


class SecondOpinion(common.AbstractWindowsCommand):
    """Volatility's own view of many dumps, as JSON"""

    def __init__(self, config, *args, **kwargs):
        common.AbstractWindowsCommand.__init__(self, config, *args, **kwargs)
        config.add_option("DUMPS", default=None, help="File that lists profiles and dumps")

    def calculate(self):
        """Yield Volatility's view of each dump."""
        plugin = registry.get_plugin_classes(common.commands.Command)["MemoryVisualizer"]
        remembered = Remembered()
        with open(self._config.DUMPS) as dumps:
            for line in dumps:
                remembered.forget()
                profile, path = line.rstrip("\n").split(" ", 1)
                self._config.update("LOCATION", "file://" + path)
                self._config.update("PROFILE", "WinXPSP2x86")  # Volatility's default
                info = dict(
                    (key, value) for key, _, value in imageinfo.ImageInfo(self._config).calculate()
                )
                self._config.update("PROFILE", profile)
                tasks = list(taskmods.PSList(self._config).calculate())
                yield {
                    "suggested": info["Suggested Profile(s)"],
                    "image_time": info.get("Image date and time"),
                    "processes": [
                        [int(t.UniqueProcessId), str(t.ImageFileName), bool(t.ExitTime.v())]
                        for t in tasks
                    ],
                    "rows": self._rows(plugin, tasks),
                }

    def _rows(self, plugin, tasks):
        """All rows of the page map, each with `vtop`'s answer for its virtual address."""
        spaces = dict(
            (int(task.UniqueProcessId), task.get_process_address_space()) for task in tasks
        )
        return [
            mapping + (found.pid, self._translated(spaces[found.pid], mapping[0]))
            for found in plugin(self._config).calculate()
            for mapping in found.mappings
        ]

    @staticmethod
    def _translated(space, virtual):
        physical = space.vtop(virtual)
        return None if isinstance(physical, obj.NoneObject) else physical

    def render_text(self, outfd, data):
        """One JSON object a line."""
        for seen in data:
            outfd.write(json.dumps(seen) + "\n")
