"""The index of a run: one HTML file with all dumps, which can be sorted, filtered and searched.

    write_gallery(Path("incident"))

The file has its data in it and loads nothing but the thumbnails beside it, so it opens from disk.
It is made from the run's folder, whoever filled it: from the outcome of each dump, and the names of
processes, files and modules in the datasets.
"""

from pathlib import Path

from memory_visualizer.fleet.gallery.data import dumps_in, names_in
from memory_visualizer.fleet.gallery.document import document
from memory_visualizer.output import whole_file

FILE = "index.html"


def write_gallery(folder: Path, *, force: bool = False) -> None:
    """Write the index of all dumps in a run's folder.

    The same folder makes the same bytes. OSError when it cannot be written, or must not be replaced
    (see output.check_target).
    """
    dumps = dumps_in(folder)
    text = document(dumps, names_in(folder, dumps))
    with whole_file(folder / FILE, force=force) as file:
        file.write(text.encode("utf-8"))
