"""Pictures, legends and colours: single pixels, and computed distances between colours."""

import ast
import io
import json
from dataclasses import replace
from itertools import combinations, pairwise
from math import dist
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import memory_visualizer
from memory_visualizer.export.textmap import read_mapped_frames
from memory_visualizer.formats.raw import RawDump
from memory_visualizer.output import check_target
from memory_visualizer.picture.colouring import (
    _USES,
    _WINDOWS_STATES,
    Colouring,
    Swatch,
    by_class,
)
from memory_visualizer.picture.folding import HOLES, long_holes, plan
from memory_visualizer.picture.layout import LAYOUTS, arrange
from memory_visualizer.picture.legend import LegendEntry, legend, legend_json, legend_lines
from memory_visualizer.picture.painting import paint
from memory_visualizer.picture.palette import (
    COLOUR_BLIND,
    DEFAULT,
    PALETTES,
    Colour,
    Palette,
    hex_colour,
)
from memory_visualizer.picture.panel import SHADES, add_panel, ticks
from memory_visualizer.picture.picture import picture_of
from memory_visualizer.picture.png import write_png
from memory_visualizer.picture.scale import Scale
from memory_visualizer.snapshot.framerecords import PageUse
from memory_visualizer.snapshot.pagemap import PageClass, PageMap, classify
from memory_visualizer.units import PAGE_SIZE


def some_page_map(frame_count: int) -> PageMap:
    """A page map that has all classes."""
    generator = np.random.default_rng(frame_count)
    classes = generator.integers(0, 6, frame_count, dtype=np.uint8)
    return PageMap(classes, classes == PageClass.UNUSED_ZERO)


# Pixels


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_painted_colours(palette: Palette) -> None:
    """Each pixel has exactly its class's colour, and its palette index is the class."""
    page_map = some_page_map(30)
    picture = paint(by_class(page_map, palette), width=6).image()
    assert (picture.mode, picture.size) == ("P", (6, 5))
    assert np.array_equal(np.asarray(picture).ravel(), page_map.classes)
    in_rgb = picture.convert("RGB")
    for pfn, value in enumerate(page_map.classes):
        assert in_rgb.getpixel((pfn % 6, pfn // 6)) == palette[PageClass(value)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scale", [1, 2, 5])
def test_scale(layout: str, scale: int) -> None:
    """Each pixel becomes a square at its place."""
    colouring = by_class(some_page_map(50), DEFAULT)
    plain = paint(colouring, layout)
    scaled = paint(colouring, layout, scale=Scale(scale))
    assert np.array_equal(scaled.pixels, np.kron(plain.pixels, np.ones((scale, scale), np.uint8)))
    assert scaled.box == (0, 0, *scaled.image().size)


def test_more_colours_than_a_palette_holds() -> None:
    """A picture of 300 processes' colours is in true colour, also its dimmed pixels."""
    colours = [(n % 256, n // 256, 7) for n in range(300)]
    swatches = tuple(Swatch(str(n), colour) for n, colour in enumerate(colours))
    colouring = Colouring("process", np.arange(300, dtype=np.uint16), swatches)
    dimmed = np.arange(300) >= 290
    picture = paint(colouring, width=300, dimmed=dimmed).image()
    assert picture.mode == "RGB"
    row = np.asarray(picture)[0].tolist()
    assert row[:290] == [list(colour) for colour in colours[:290]]
    assert all(min(pixel) > 180 for pixel in row[290:])


@pytest.mark.parametrize("count", [6, 127, 128, 129])
def test_dimmed(count: int) -> None:
    """Pale colours follow the others in the palette, for any number of colours."""
    swatches = tuple(Swatch(str(n), (n, 0, 0)) for n in range(count))
    colouring = Colouring("process", np.arange(count, dtype=np.uint8), swatches)
    painting = paint(colouring, width=count, dimmed=np.arange(count) % 2 == 1)
    expected = [n + (count if n % 2 else 0) for n in range(count)]
    assert painting.pixels[0].tolist() == expected
    assert painting.colours[count - 1] == (count - 1, 0, 0)


# Folded holes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("held", "width"),
    [
        ([(0, 8000), (1 << 20, 64)], None),  # the firmware lies below 4 GiB
        ([(0, 160), (256, 30_000), (60_000, 20_000), (100_000, 1)], None),
        ([(100_000, 9000)], None),
        ([(0, 8000), (1 << 20, 64)], 200),
    ],
)
def test_folds(held: list[tuple[int, int]], width: int | None, layout: str) -> None:
    """Each held frame has one pixel, in order; breaks are thin; the text lists the folds."""
    there = np.zeros(sum(held[-1]), bool)
    for first, count in held:
        there[first : first + count] = True
    holes = long_holes(there)
    assert holes
    values = np.where(there, np.arange(1, there.size + 1), 0).astype(np.uint32)
    planned = plan(there.size, layout, width if layout == "rows" else None, holes)
    pixels = planned.pixels(values, 1 << 31)
    shown = pixels[(pixels > 0) & (pixels < 1 << 31)]
    assert np.array_equal(np.sort(shown), values[there])
    # Only the frames, short holes, and a few rows for each break are left.
    drawn = there.size - sum(count for _, count in holes)
    assert planned.size <= drawn + len(holes) * (2 * max(pixels.shape) + 2 * pixels.size // 256)
    if layout == "rows" and width is None:
        assert pixels.shape[0] == pixels.shape[1]
        assert (
            plan(there.size, layout, pixels.shape[1] - 1, holes).size > (pixels.shape[1] - 1) ** 2
        )
    elif layout == "rows":
        assert pixels.shape[1] == width
    # The layout in the text alone tells each frame's place.
    name, *folds = planned.described().split("; ")
    assert name == layout and len(folds) == len(holes)
    order: list[int] = []
    frame = 0
    for text in folds:
        start, size, place, places = text.removeprefix("fold ").split()
        first = int(start, 16) // PAGE_SIZE
        order += range(frame, first)
        assert len(order) == int(place)
        order += [-1] * int(places)
        frame = first + int(size, 16) // PAGE_SIZE
    order += range(frame, there.size)
    arranged = arrange(
        np.array(order), layout, pixels.shape[1] if layout == "rows" else None, beyond=-1
    )
    rows = len(arranged)
    is_page = np.zeros(pixels.shape, bool)
    is_page[:rows] = arranged >= 0
    is_page[:rows][arranged >= 0] &= there[arranged[arranged >= 0]]
    expected = np.zeros(pixels.shape, np.int64)
    expected[:rows] = np.where(arranged >= 0, arranged + 1, 0)
    assert np.array_equal(np.where(is_page, pixels, 0), np.where(is_page, expected, 0))


def test_a_dump_without_long_holes_is_not_folded(tmp_path: Path) -> None:
    """Its picture is the same either way; a raw dump has no holes."""
    there = np.ones(100_000, bool)
    there[160:256] = False
    assert long_holes(there) == []
    (tmp_path / "dump.raw").write_bytes(bytes(9000 * PAGE_SIZE))
    dump = RawDump.open(tmp_path / "dump.raw")
    colouring = by_class(some_page_map(9000), DEFAULT)
    folded, drawn = (picture_of(dump, colouring, legend=True, holes=holes) for holes in HOLES)
    assert np.array_equal(folded.pixels, drawn.pixels)
    assert folded.plan.described() == "rows"


def test_marks_of_folds() -> None:
    """Address and size stand beside each break."""
    holes = [(60_000, 900_000)]
    for layout in LAYOUTS:
        planned = plan(1_000_000, layout, None, holes)
        pixels = planned.pixels(np.ones(1_000_000, np.uint8), 2)
        marks = dict(ticks(planned, pixels.shape, 1, 14))
        label = f"{60_000 * PAGE_SIZE:#x} 3.4 GiB absent"
        assert label in marks.values()
        [row] = [row for row, text in marks.items() if text == label]
        assert (pixels[row : row + 2] == 2).any()


# PNG files


def test_png_file(tmp_path: Path) -> None:
    """The file has a palette and text chunks, and the same bytes each time."""
    path = tmp_path / "a.png"
    picture = paint(by_class(some_page_map(100), DEFAULT)).image()
    texts = {"Software": "Memory Visualizer 0", "Source": "漢字.raw"}
    write_png(path, picture, texts)
    with Image.open(path) as read:
        assert isinstance(read.info, dict)
        assert (read.format, read.mode, read.size) == ("PNG", "P", (10, 10))
        assert read.info["Software"] == "Memory Visualizer 0"
        assert read.info["Source"] == "漢字.raw"
        assert np.array_equal(np.asarray(read), np.asarray(picture))
    first = path.read_bytes()
    write_png(path, picture, texts)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


class Unfinished(Image.Image):
    """A picture that fails in the middle of writing."""

    error: BaseException = OSError(28, "No space left on device")

    def save(self, fp: object, *args: object, **kwargs: object) -> None:
        """Write some bytes and fail."""
        assert isinstance(fp, io.BufferedWriter)
        fp.write(b"half")
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_png_is_written_whole_or_not_at_all(tmp_path: Path, error: BaseException) -> None:
    """After an error the old file is as it was, and no other file is there."""
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    picture = Unfinished()
    picture.error = error
    with pytest.raises(type(error)) as caught:
        write_png(path, picture, {}, force=True)
    if isinstance(caught.value, OSError):
        assert (caught.value.strerror, caught.value.filename) == (error.args[1], str(path))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.posix
def test_symbolic_link_stays_one(tmp_path: Path) -> None:
    """The target of the link is replaced."""
    target, link = tmp_path / "target.png", tmp_path / "link.png"
    link.symlink_to(target)
    write_png(link, paint(by_class(some_page_map(4), DEFAULT)).image(), {})
    assert link.is_symlink()
    assert target.is_file()


def test_check_target(tmp_path: Path) -> None:
    """A missing folder and a special file are refused."""
    check_target(tmp_path / "new.png")
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        check_target(tmp_path / "nowhere" / "a.png")
    with pytest.raises(FileExistsError, match="is not a plain file"):
        check_target(tmp_path)
    with pytest.raises(FileExistsError, match="is not a plain file"):
        write_png(Path("/dev/null"), paint(by_class(some_page_map(4), DEFAULT)).image(), {})


# Legend


def example_legend() -> list[LegendEntry]:
    """The legend of eight frames."""
    classes = np.array([2, 3, 3, 3, 4, 5, 5, 5], dtype=np.uint8)
    return legend(by_class(PageMap(classes, classes == 5), DEFAULT))


def test_legend_counts() -> None:
    """The legend has all classes in order, with counts and shares."""
    entries = [(e.label, e.count, e.percent, e.colour) for e in example_legend()]
    assert entries == [
        ("absent", 0, "-", (24, 26, 30)),
        ("both", 0, "0.0 %", (84, 38, 112)),
        ("user", 1, "12.5 %", (212, 70, 45)),
        ("kernel", 3, "37.5 %", (95, 194, 205)),
        ("unused-data", 1, "12.5 %", (233, 214, 140)),
        ("unused-zero", 3, "37.5 %", (255, 255, 255)),
    ]


def test_legend_lines() -> None:
    """Plain text has no escape sequences; with ANSI each swatch has its exact colour."""
    plain = legend_lines(example_legend())
    assert plain[3] == "  #5fc2cd  kernel       3   0.01 MiB   37.5 %"
    assert "\x1b" not in "".join(plain)
    assert legend_lines(example_legend(), ansi=True)[3] == (
        "  \x1b[48;2;95;194;205m    \x1b[0m  #5fc2cd  kernel       3   0.01 MiB   37.5 %"
    )


def test_legend_json() -> None:
    """The legend in the PNG is one object from class names to colours."""
    colours = json.loads(legend_json(by_class(some_page_map(4), DEFAULT)))
    assert list(colours) == ["absent", "both", "user", "kernel", "unused-data", "unused-zero"]
    assert colours["kernel"] == "#5fc2cd"
    assert colours["user"] == "#d4462d"


def test_legend_of_many() -> None:
    """The labels with the most frames are listed in order, and the others counted together."""
    swatches = tuple(Swatch(f"process {n}", (n, n, n)) for n in range(6))
    colouring = Colouring("process", np.array([1, 1, 3, 3, 3, 5, 2], np.uint8), swatches)
    entries = [(entry.label, entry.colour, entry.count) for entry in legend(colouring, 3)]
    assert entries == [
        ("process 1", (1, 1, 1), 2),
        ("process 3", (3, 3, 3), 3),
        ("4 others", None, 2),
    ]
    assert len(legend(colouring, 6)) == 6
    general = replace(colouring, general=1)
    assert [entry.label for entry in legend(general, 3)] == ["process 0", "process 3", "4 others"]
    assert legend_lines(legend(colouring, 3))[2].split() == [
        "4",
        "others",
        "2",
        "0.008",
        "MiB",
        "28.6",
        "%",
    ]


def test_legend_lines_are_for_terminals() -> None:
    """Labels may hold any characters; escape sequences are escaped."""
    swatches = (Swatch("\x1b[31mred\u202e\n", (1, 2, 3)),)
    [line] = legend_lines(legend(Colouring("process", np.zeros(1, np.uint8), swatches)))
    assert line.isprintable()
    assert "\\x1b[31mred" in line


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("frame_count", "scale"), [(1, 1), (1, 3), (8192, 1), (8192, 3), (262_144, 1), (1_048_576, 1)]
)
@pytest.mark.parametrize("title", ["win7.raw", "x" * 255, "\x1b[31m\u202e漢字\n.raw", ""])
@pytest.mark.many
def test_drawn_legend(frame_count: int, title: str, layout: str, scale: int) -> None:
    """The picture is unchanged; the legend below has each class's swatch, and text."""
    colouring = by_class(some_page_map(frame_count), DEFAULT)
    plain = paint(colouring, layout, scale=Scale(scale))
    painting = add_panel(plain, title, ["subtitle"], legend(colouring))
    left, top, right, bottom = painting.box
    assert np.array_equal(painting.pixels[top:bottom, left:right], plain.pixels)
    assert (top, bottom) == (0, plain.pixels.shape[0])
    picture = painting.image()
    assert picture.mode == "P"
    assert picture.width >= max(plain.pixels.shape[1], 200)
    below = painting.pixels[bottom:]
    for page_class in set(PageClass) - {PageClass.LEFT_OUT}:
        assert np.count_nonzero(below == page_class) >= 12 * 12
    assert painting.colours == (*DEFAULT.values(), *SHADES)
    darkest, paper = len(painting.colours) - 1, len(PageClass)
    assert np.count_nonzero(below == darkest) > 50
    # The edges of the panel are empty, so nothing was cut off.
    assert (below[1:, [0, -1]] == paper).all()
    assert (below[-1] == paper).all()
    # All but the smallest have addresses on the left, which are not cut off.
    assert (left > 0) == (bottom > 3 * 14)
    if left:
        assert (painting.pixels[:bottom, 0] == paper).all()


@pytest.mark.parametrize(("frame_count", "width"), [(262_144, None), (65_536, 100), (9_000, 17)])
def test_addresses_at_the_left_edge(frame_count: int, width: int | None) -> None:
    """Each mark has its page's row; addresses are round and far enough apart."""
    height = -(-frame_count // (width or 512))
    told = ticks(plan(frame_count, "rows", width), (height, width or 512), 1, 14)
    marks = [(row, int(label, 16)) for row, label in told]
    assert len(marks) > 3
    for row, address in marks:
        assert row == address // PAGE_SIZE // (width or 512)
    step = marks[1][1]
    assert step & (step - 1) == 0
    assert [address for _, address in marks] == [n * step for n in range(len(marks))]
    assert min(b - a for (a, _), (b, _) in pairwise(marks)) >= 3 * 14 - 1


def test_addresses_along_hilberts_curve() -> None:
    """Each mark has a square of contiguous memory beside it, and tells its first address."""
    pixels = arrange(np.arange(60_000), "hilbert", beyond=-1)
    marks = ticks(plan(60_000, "hilbert"), (256, 256), 2, 14)
    assert len(marks) > 3
    side = (marks[1][0] - marks[0][0]) // 2
    for row, label in marks:
        square = pixels[row // 2 : row // 2 + side, :side]
        first = int(label, 16) // PAGE_SIZE
        frames = np.sort(square[square >= 0])
        assert np.array_equal(frames, np.arange(first, first + frames.size))
        assert frames.size > side * side // 2


def test_drawn_legend_needs_no_subtitle() -> None:
    """The narrowest panel still has room for a column of classes."""
    plain = paint(by_class(some_page_map(1), DEFAULT))
    assert add_panel(plain, "", [""], example_legend()).pixels.shape[1] > 100


# Colours

# Simulation of colour blindness in linear sRGB, severity 1.0: Machado, Oliveira and Fernandes,
# "A Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE TVCG 15 (2009),
# doi:10.1109/TVCG.2009.113, table of the supplementary material.
VISION = {
    "normal": np.eye(3),
    "protan": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deutan": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritan": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def cielab(colour: Colour, vision: str = "normal") -> tuple[float, float, float]:
    """CIE L*a*b* (D65) of an sRGB colour (IEC 61966-2-1) as seen with that vision."""
    encoded = np.array(colour) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    linear = np.clip(VISION[vision] @ linear, 0, 1)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = (to_xyz @ linear) / to_xyz.sum(axis=1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


def test_cielab_itself() -> None:
    """White, black and red of sRGB have the published values."""
    assert cielab((255, 255, 255)) == pytest.approx((100, 0, 0), abs=0.05)
    assert cielab((0, 0, 0)) == pytest.approx((0, 0, 0), abs=0.05)
    assert cielab((255, 0, 0)) == pytest.approx((53.24, 80.09, 67.20), abs=0.05)


def test_the_seeds_colours() -> None:
    """Kernel, user and unused have the colours of the seed's published pictures."""
    assert DEFAULT[PageClass.KERNEL] == (95, 194, 205)
    assert DEFAULT[PageClass.USER] == (212, 70, 45)
    assert DEFAULT[PageClass.UNUSED_ZERO] == (255, 255, 255)
    assert hex_colour(DEFAULT[PageClass.KERNEL]) == "#5fc2cd"


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_lightness_is_a_staircase(palette: Palette) -> None:
    """In print without colour, each class differs clearly from the next lighter one."""
    lightness = sorted(cielab(palette[page_class])[0] for page_class in PageClass)
    assert min(lighter - darker for darker, lighter in pairwise(lightness)) > 12


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_classes_are_apart_for_all_eyes(palette: Palette, vision: str) -> None:
    """CIE 1976 colour differences are large: 2.3 can just be noticed, 20 is plain to see."""
    seen = [cielab(colour, vision) for colour in palette.values()]
    assert min(dist(one, other) for one, other in combinations(seen, 2)) > 20


@pytest.mark.parametrize("vision", VISION)
def test_windows_states_and_uses_are_apart_for_all_eyes(vision: str) -> None:
    """All states differ, and all uses except files of unknown kind."""
    states = [DEFAULT[PageClass.ABSENT], *_WINDOWS_STATES.values()]
    seen = [cielab(colour, vision) for colour in states]
    assert min(dist(one, other) for one, other in combinations(seen, 2)) > 20
    told = [colour for use, colour in _USES.items() if use is not PageUse.FILE]
    seen = [cielab(colour, vision) for colour in (DEFAULT[PageClass.ABSENT], *told)]
    assert min(dist(one, other) for one, other in combinations(seen, 2)) > 13


@pytest.mark.parametrize("vision", ["protan", "deutan"])
def test_the_palette_for_colour_blind_eyes(vision: str) -> None:
    """Its distances are larger for red-green blindness, by far the most common kind."""
    seen = [cielab(colour, vision) for colour in COLOUR_BLIND.values()]
    assert min(dist(one, other) for one, other in combinations(seen, 2)) > 30


# The package as a whole


def test_the_library_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """From dump and map to the PNG no text is printed, also for damaged input."""
    (tmp_path / "dump.raw").write_bytes(bytes(PAGE_SIZE) + b"x" * PAGE_SIZE + b"rest")
    dump = RawDump.open(tmp_path / "dump.raw", lenient=True)
    map_text = io.BytesIO(b"0 0 8192 True\nbroken\n0 0 0x10000 False\n")
    mapped = read_mapped_frames(map_text, "map", dump.frame_count, lenient=True)
    page_map = classify(mapped.user, mapped.kernel, dump.zero_frames())
    colouring = by_class(page_map, DEFAULT)
    picture = add_panel(paint(colouring), "dump.raw", [""], legend(colouring))
    write_png(tmp_path / "a.png", picture.image(), {})
    assert capfd.readouterr() == ("", "")


def test_the_library_neither_prints_nor_exits_in_its_source() -> None:
    """Only modules of the commands call print, exit or sys.exit."""
    [folder] = memory_visualizer.__path__
    for path in Path(folder).glob("**/*.py"):
        if path.parent.name == "cli" or path.name == "__main__.py":
            continue
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        names = {ast.unparse(call.func) for call in calls}
        assert names.isdisjoint({"print", "exit", "quit", "sys.exit", "os._exit"}), path
