"""Write the table of Windows profiles that export/volatility2.py reads, from Volatility 2.

    vol.py --plugins=tests/volatility2 -f README.md --profile=WinXPSP2x86 profiletable \
        > memory_visualizer/export/volatility2profiles.json

(Volatility wants some file and some profile; neither is looked at.)

Runs inside Volatility 2, hence on Python 2.7; never loaded by users.
"""

import json

import volatility.addrspace as addrspace
import volatility.obj as obj
import volatility.plugins.common as common
import volatility.registry as registry


class ProfileTable(common.AbstractWindowsCommand):
    """Bits, version and build of every Windows profile, as JSON"""

    def calculate(self):
        """Yield (name, bits, version and build) for every Windows profile, sorted by name."""
        profiles = registry.get_plugin_classes(obj.Profile)
        for name in sorted(profiles):
            if profiles[name]._md_os != "windows":
                continue
            self._config.update("PROFILE", name)
            metadata = addrspace.BufferAddressSpace(self._config).profile.metadata
            yield (
                name,
                {
                    "bits": 64 if metadata.get("memory_model") == "64bit" else 32,
                    "version": [metadata.get("major"), metadata.get("minor")],
                    "build": metadata.get("build", 0),
                },
            )

    def render_text(self, outfd, data):
        """One JSON object: profile name to its row, one profile a line."""
        rows = ['  "%s": %s' % (name, json.dumps(row, sort_keys=True)) for name, row in data]
        outfd.write("{\n" + ",\n".join(rows) + "\n}\n")
