"""The file objects, and the pages of their sections, that Volatility 2 sees in many dumps.

    vol.py --plugins=tests/volatility2 -f ANY --profile=WinXPSP2x86 secondfiles --dumps=LIST

LIST has a line for each dump: its profile, a space, its path. Beside each dump a file with the
ending `.areas` has the addresses of control areas as JSON. One JSON object a line comes out.

Runs inside Volatility 2, hence on Python 2.7; never loaded by users.
"""

import json

import volatility.obj as obj
import volatility.plugins.common as common
import volatility.plugins.filescan as filescan
import volatility.utils as utils


class SecondFiles(common.AbstractWindowsCommand):
    """What `filescan` and the structures of sections say in many dumps, as JSON"""

    def __init__(self, config, *args, **kwargs):
        common.AbstractWindowsCommand.__init__(self, config, *args, **kwargs)
        # The other plugins of this folder have an option of this name, too.
        if not config.opts.get("dumps"):
            config.add_option("DUMPS", default=None, help="File that lists profiles and dumps")

    def calculate(self):
        """Yield the files of each dump."""
        with open(self._config.DUMPS) as dumps:
            for line in dumps:
                profile, path = line.rstrip("\n").split(" ", 1)
                self._config.update("LOCATION", "file://" + path)
                self._config.update("PROFILE", profile)
                space = utils.load_as(self._config)
                with open(path + ".areas") as areas:
                    told = [self._section(space, area) for area in json.load(areas)]
                scanned = []
                if space.profile.metadata.get("minor") == 1 and "Win7" in profile:
                    found = filescan.FileScan(self._config).calculate()
                    scanned = [str(one.file_name_with_device()) for one in found]
                yield {"sections": told, "scanned": scanned}

    @staticmethod
    def _section(space, address):
        area = obj.Object("_CONTROL_AREA", offset=address, vm=space)
        pointer = area.FilePointer
        if hasattr(pointer, "dereference_as"):
            file_object = pointer.dereference_as("_FILE_OBJECT")
        else:
            file_object = pointer.dereference()
        parts = []
        size = space.profile.get_obj_size("_CONTROL_AREA")
        word = space.profile.get_obj_size("address")
        part = obj.Object("_SUBSECTION", offset=address + -(-size // word) * word, vm=space)
        while part and len(parts) < 16:
            start = int(part.StartingSector)
            high = int(part.u.SubsectionFlags.StartingSector4132)
            parts.append([int(part.SubsectionBase.v()), int(part.PtesInSubsection), start, high])
            part = part.NextSubsection.dereference()
        return {
            "path": str(file_object.file_name_with_device()),
            "is_image": bool(int(area.u.Flags.Image)),
            "is_deleted": bool(int(file_object.DeletePending)),
            "parts": parts,
        }

    def render_text(self, outfd, data):
        """One JSON object a line."""
        for seen in data:
            outfd.write(json.dumps(seen) + "\n")
