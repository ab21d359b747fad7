"""Let MemProcFS list the page-table maps of all processes: memprocfs_maps.py DUMP.

This is the part of memviz' work that MemProcFS offers; it needs the library libusb-1.0.
"""

import sys
from pathlib import Path

import memprocfs

OPTIONS = ["-disable-python", "-disable-symbolserver", "-disable-symbols", "-disable-infodb"]


def main() -> None:
    """Print the numbers of processes and of runs of pages."""
    dump = str(Path(sys.argv[1]).resolve())
    vmm = memprocfs.Vmm(["-device", dump, *OPTIONS, "-norefresh", "-waitinitialize"])
    runs = [len(process.maps.pte(False)) for process in vmm.process_list()]
    print(f"{len(runs)} processes, {sum(runs)} runs of pages")
    vmm.close()


if __name__ == "__main__":
    main()
