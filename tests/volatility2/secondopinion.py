"""The views of Volatility 2, and of this project's plugin in it, on many dumps at once.

    vol.py --plugins=plugins:tests/volatility2 -f ANY --profile=WinXPSP2x86 secondopinion \
        --dumps=LIST

LIST has a line for each dump: its profile, a space, its path. One JSON object a line comes out.
One process for all of them, since Volatility takes seconds to start and to load its profiles.

Runs inside Volatility 2, hence on Python 2.7; never loaded by users.
"""

import json

import volatility.obj as obj
import volatility.plugins.common as common
import volatility.plugins.imageinfo as imageinfo
import volatility.plugins.taskmods as taskmods
import volatility.registry as registry


class SecondOpinion(common.AbstractWindowsCommand):
    """Volatility's own view of many dumps, as JSON"""

    def __init__(self, config, *args, **kwargs):
        common.AbstractWindowsCommand.__init__(self, config, *args, **kwargs)
        config.add_option("DUMPS", default=None, help="File that lists profiles and dumps")

    def calculate(self):
        """Yield Volatility's view of each dump."""
        plugin = registry.get_plugin_classes(common.commands.Command)["MemoryVisualizer"]
        with open(self._config.DUMPS) as dumps:
            for line in dumps:
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
