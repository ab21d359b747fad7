"""The public interface: open a dump, then show it or export its data."""

from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memory_visualizer.errors import NotWholePagesError
from memory_visualizer.formats.base import Progress, Scanner
from memory_visualizer.formats.opening import open_dump
from memory_visualizer.leads import Leads, all_leads
from memory_visualizer.recognise import recognise, recognise_behind_header
from memory_visualizer.snapshot import snapshot

# Pictures, pages, tables and comparisons are imported only when they are asked for.
if TYPE_CHECKING:
    from PIL.Image import Image

    from memory_visualizer.difference.difference import Difference
    from memory_visualizer.difference.moment import Moment


def open(  # noqa: A001 - the library's own word, as in ``memory_visualizer.open(path)``
    path: str | Path | Sequence[str | Path],
    *,
    lenient: bool = False,
    progress: Progress | None = None,
    scanner: Scanner | None = None,
) -> "Snapshot":
    """Read a memory dump, or all files of a split one; find its system and the owners of each page.

    A dump may also be the URL of a file on another machine, which is read by ranges through fsspec.
    `progress` is told how many bytes of the dump have been read. `scanner` reads the contents in
    place of this machine's threads: see fleet.split. BadInputError when the file cannot
    be read or is not a dump; DamagedInputError, unless `lenient`, when a part of it is missing.
    """
    try:
        dump = open_dump(path, lenient=lenient, progress=progress)
        dump.scanner = scanner
        found = recognise(dump, progress)
    except NotWholePagesError as error:
        # Perhaps it has a header of its own, and is whole behind it.
        behind = recognise_behind_header(error.path, progress, scanner)
        if behind is None:
            raise
        found = behind
    return Snapshot(**{field.name: getattr(found, field.name) for field in fields(found)})


def diff(
    before: "str | Path | Sequence[str | Path] | snapshot.Snapshot",
    after: "str | Path | Sequence[str | Path] | snapshot.Snapshot",
    *,
    order: bool = True,
    lenient: bool = False,
    progress: Progress | None = None,
) -> "Difference":
    """Compare two dumps of one machine, frame by frame and process by process.

    They may be paths (of a split dump, those of all its files) or snapshots, of any formats. The
    clocks of their systems tell which dump is the earlier one; without `order` the first one is. Of
    dumps of different machines only what makes sense is compared. The other arguments and errors
    are as for `open`.
    """
    from memory_visualizer.difference.difference import compare, in_order

    moments = [moment(one, lenient=lenient, progress=progress) for one in (before, after)]
    earlier, later = in_order(moments)[0] if order else moments
    return compare(earlier, later, progress)


def moment(
    dump: "str | Path | Sequence[str | Path] | snapshot.Snapshot",
    *,
    lenient: bool = False,
    progress: Progress | None = None,
) -> "Moment":
    """What is kept of a dump to compare it with others; the arguments are as for `diff`."""
    from memory_visualizer.difference.moment import Moment

    if isinstance(dump, snapshot.Snapshot):
        return Moment.of(dump)
    # Nothing else may refer to the snapshot: its largest columns are freed on the way.
    return Moment.of(open(dump, lenient=lenient, progress=progress))


class Snapshot(snapshot.Snapshot):
    """The analysis of a whole dump, with its pictures, pages and tables."""

    @cached_property
    def entropy(self) -> NDArray[np.uint8]:
        """Shannon's entropy of each frame, measured at the first access: see entropy.entropy."""
        from memory_visualizer.picture.entropy import entropy

        return entropy(self.dump, zero=self.zero)

    @cached_property
    def leads(self) -> Leads:
        """What an analyst should look at first; the first access reads the dump once more."""
        return all_leads(self)

    def look_for_leads(self, progress: Progress | None = None) -> None:
        """Find `leads`; `progress` is told the bytes that were read for them."""
        vars(self)["leads"] = all_leads(self, progress)

    def image(
        self,
        *,
        color_by: str = "class",
        layout: str = "rows",
        width: int | None = None,
        scale: int | str = 1,
        palette: str = "default",
        legend: bool = False,
        holes: str = "fold",
    ) -> "Image":
        """The picture as a PIL.Image.Image: see picture.picture_of, colouring and palette.

        `color_by` is one of colouring.COLOURINGS, `layout` one of layout.LAYOUTS, `palette` one of
        palette.PALETTES, `holes` one of folding.HOLES: UnknownNameError for any other.
        BadInputError if the picture would be too large, or the dump lacks the data for the
        colouring.
        """
        from memory_visualizer.picture.colouring import colour_by
        from memory_visualizer.picture.palette import palette_named
        from memory_visualizer.picture.picture import picture_of, system_line

        colouring = colour_by(color_by, self, palette_named(palette), lambda: self.entropy)
        return picture_of(
            self.dump,
            colouring,
            layout=layout,
            width=width,
            scale=scale,
            legend=legend,
            holes=holes,
            system=system_line(self),
        ).image()

    def _repr_html_(self) -> str:
        """The representation in a notebook: the picture with its legend."""
        from memory_visualizer.picture import notebook

        return notebook.html(self, self.image(legend=True))

    def _repr_png_(self) -> bytes:
        """The same for programs that show pictures only."""
        from memory_visualizer.picture import notebook

        return notebook.png(self.image(legend=True))

    def summary(self) -> dict[str, Any]:
        """Everything except the pages themselves, as JSON values: see summary.SCHEMA."""
        from memory_visualizer.export.summary import summary

        return summary(self)

    def to_arrow(self) -> Any:
        """The page map as a pyarrow.Table: see export.to_arrow."""
        from memory_visualizer.export import tables

        return tables.to_arrow(self)

    def to_pandas(self) -> Any:
        """The page map as a pandas.DataFrame: see export.to_pandas."""
        from memory_visualizer.export import tables

        return tables.to_pandas(self, entropy=vars(self).get("entropy"))

    def processes_frame(self) -> Any:
        """The processes as a pandas.DataFrame, a row for each: see tables.processes_frame."""
        from memory_visualizer.export import tables

        return tables.processes_frame(self)

    def to_html(
        self,
        path: str | Path,
        *,
        entropy: NDArray[np.uint8] | None = None,
        regions: bool = False,
    ) -> None:
        """Write the page for the browser: see viewer.write_page."""
        from memory_visualizer import viewer

        viewer.write_page(Path(path), self, entropy=entropy, regions=regions)
