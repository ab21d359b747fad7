"""The modules and the regions of processes that Volatility 2 sees in many dumps at once.

    vol.py --plugins=tests/volatility2 -f ANY --profile=WinXPSP2x86 secondobjects --dumps=LIST

LIST has a line for each dump: its profile, a space, its path. One JSON object a line comes out.

Runs inside Volatility 2, hence on Python 2.7; never loaded by users.
"""

import json

import volatility.plugins.common as common
import volatility.utils as utils
import volatility.win32.modules as modules
import volatility.win32.tasks as tasks


class SecondObjects(common.AbstractWindowsCommand):
    """What `modules` and `vadinfo` see in many dumps, as JSON"""

    def __init__(self, config, *args, **kwargs):
        common.AbstractWindowsCommand.__init__(self, config, *args, **kwargs)
        # The other plugin of this folder has an option of this name, too.
        if not config.opts.get("dumps"):
            config.add_option("DUMPS", default=None, help="File that lists profiles and dumps")

    def calculate(self):
        """Yield the modules and regions of each dump."""
        with open(self._config.DUMPS) as dumps:
            for line in dumps:
                profile, path = line.rstrip("\n").split(" ", 1)
                self._config.update("LOCATION", "file://" + path)
                self._config.update("PROFILE", profile)
                space = utils.load_as(self._config)
                yield {
                    "modules": [
                        [
                            m.BaseDllName.v(),
                            m.FullDllName.v(),
                            int(m.DllBase),
                            int(m.SizeOfImage),
                        ]
                        for m in modules.lsmod(space)
                    ],
                    "regions": dict(
                        (int(task.UniqueProcessId), sorted(self._regions(task)))
                        for task in tasks.pslist(space)
                    ),
                }

    @staticmethod
    def _regions(task):
        for vad in task.VadRoot.traverse():
            is_private = int(vad.VadFlags.PrivateMemory)
            file_object = None if is_private else vad.FileObject
            name = str(file_object.FileName or "") if file_object else ""
            yield [
                int(vad.Start),
                int(vad.End) + 1,
                int(vad.VadFlags.Protection),
                is_private,
                int(vad.CommitCharge),
                name,
            ]

    def render_text(self, outfd, data):
        """One JSON object a line."""
        for seen in data:
            outfd.write(json.dumps(seen) + "\n")
