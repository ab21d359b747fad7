"""Pictures, legends and colours: pixels one by one, and distances between colours computed."""

import ast
import io
import json
from itertools import combinations, pairwise
from math import dist
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import memory_visualizer
from memory_visualizer.dump import PAGE_SIZE, RawDump
from memory_visualizer.legend import (
    PANEL_SHADES,
    LegendEntry,
    legend,
    legend_json,
    legend_lines,
    legend_panel,
)
from memory_visualizer.output import check_target
from memory_visualizer.pagemap import PageClass, PageMap, classify
from memory_visualizer.palette import (
    COLOUR_BLIND,
    DEFAULT,
    PALETTES,
    Colour,
    Palette,
    hex_colour,
)
from memory_visualizer.picture import add_panel, layout_rows, paint, write_png
from memory_visualizer.textmap import read_mapped_frames


def some_page_map(frame_count: int) -> PageMap:
    """A page map in which all classes occur."""
    generator = np.random.default_rng(frame_count)
    classes = generator.integers(0, 6, frame_count, dtype=np.uint8)
    return PageMap(classes, classes == PageClass.UNUSED_ZERO)


# Layout


@pytest.mark.parametrize(
    ("frame_count", "side"), [(1, 1), (2, 2), (4, 2), (5, 3), (131_072, 363), (262_144, 512)]
)
def test_default_layout_is_the_smallest_square(frame_count: int, side: int) -> None:
    """The whole square, as the seed's pictures: 363 x 363 for 512 MiB."""
    assert layout_rows(np.zeros(frame_count, dtype=np.uint8)).shape == (side, side)


@pytest.mark.parametrize(("frame_count", "width"), [(7, 3), (6, 3), (2, 5), (10, None), (1, 1)])
def test_frames_lie_in_rows(frame_count: int, width: int | None) -> None:
    """First frame top left, left to right, top to bottom; absent behind the last."""
    page_map = some_page_map(frame_count)
    rows = layout_rows(page_map.classes, width)
    if width:
        assert rows.shape[1] == width
        assert (rows.shape[0] - 1) * width < frame_count <= rows.shape[0] * width
    for y, x in np.ndindex(rows.shape):
        pfn = y * rows.shape[1] + x
        expected = page_map.classes[pfn] if pfn < frame_count else PageClass.ABSENT
        assert rows[y, x] == expected


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_painted_colours(palette: Palette) -> None:
    """Each pixel has its class's colour exactly, and is the class in the palette."""
    page_map = some_page_map(30)
    picture = paint(page_map, palette, 6)
    assert (picture.mode, picture.size) == ("P", (6, 5))
    assert np.array_equal(np.asarray(picture).ravel(), page_map.classes)
    in_rgb = picture.convert("RGB")
    for pfn, value in enumerate(page_map.classes):
        assert in_rgb.getpixel((pfn % 6, pfn // 6)) == palette[PageClass(value)]


# PNG files


def test_png_file(tmp_path: Path) -> None:
    """Palette-coded, with its text chunks, and the same bytes each time."""
    path = tmp_path / "a.png"
    picture = paint(some_page_map(100), DEFAULT)
    texts = {"Software": "test", "Source": "漢字.raw"}
    write_png(path, picture, texts)
    with Image.open(path) as read:
        assert isinstance(read.info, dict)
        assert (read.format, read.mode, read.size) == ("PNG", "P", (10, 10))
        assert read.info["Software"] == "test"
        assert read.info["Source"] == "漢字.raw"
        assert np.array_equal(np.asarray(read), np.asarray(picture))
    first = path.read_bytes()
    write_png(path, picture, texts)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


class Unfinished(Image.Image):
    """A picture that fails when it is half written."""

    error: BaseException = OSError(28, "No space left on device")

    def save(self, fp: object, *args: object, **kwargs: object) -> None:
        """Write some bytes and fail."""
        assert isinstance(fp, io.BufferedWriter)
        fp.write(b"half")
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_png_is_written_whole_or_not_at_all(tmp_path: Path, error: BaseException) -> None:
    """After an error the old file is there as it was, and nothing beside it."""
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    picture = Unfinished()
    picture.error = error
    with pytest.raises(type(error)) as caught:
        write_png(path, picture, {})
    if isinstance(caught.value, OSError):
        assert (caught.value.strerror, caught.value.filename) == (error.args[1], str(path))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_symbolic_link_stays_one(tmp_path: Path) -> None:
    """What it points to is replaced."""
    target, link = tmp_path / "target.png", tmp_path / "link.png"
    link.symlink_to(target)
    write_png(link, paint(some_page_map(4), DEFAULT), {})
    assert link.is_symlink()
    assert target.is_file()


def test_check_target(tmp_path: Path) -> None:
    """A missing folder, and what is no plain file, are refused."""
    check_target(tmp_path / "new.png")
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        check_target(tmp_path / "nowhere" / "a.png")
    with pytest.raises(FileExistsError, match="is not a plain file"):
        check_target(tmp_path)
    with pytest.raises(FileExistsError, match="is not a plain file"):
        write_png(Path("/dev/null"), paint(some_page_map(4), DEFAULT), {})


# Legend


def example_legend() -> list[LegendEntry]:
    """The legend of eight frames."""
    classes = np.array([2, 3, 3, 3, 4, 5, 5, 5], dtype=np.uint8)
    return legend(PageMap(classes, classes == 5), DEFAULT)


def test_legend_counts() -> None:
    """All classes, in their order, with counts and shares."""
    entries = [(e.page_class.label, e.count, e.percent, e.colour) for e in example_legend()]
    assert entries == [
        ("absent", 0, "0.0 %", (24, 26, 30)),
        ("both", 0, "0.0 %", (92, 45, 120)),
        ("user", 1, "12.5 %", (212, 70, 45)),
        ("kernel", 3, "37.5 %", (95, 194, 205)),
        ("unused-data", 1, "12.5 %", (233, 214, 140)),
        ("unused-zero", 3, "37.5 %", (255, 255, 255)),
    ]


def test_legend_lines() -> None:
    """Plain text has no escape sequences; with ANSI there is a swatch of the very colour."""
    plain = legend_lines(example_legend())
    assert plain[3] == "  #5fc2cd  kernel       3   37.5 %"
    assert "\x1b" not in "".join(plain)
    assert legend_lines(example_legend(), ansi=True)[3] == (
        "  \x1b[48;2;95;194;205m    \x1b[0m  #5fc2cd  kernel       3   37.5 %"
    )


def test_legend_json() -> None:
    """One object, class name to colour, as the PNG carries it."""
    colours = json.loads(legend_json(DEFAULT))
    assert list(colours) == ["absent", "both", "user", "kernel", "unused-data", "unused-zero"]
    assert colours["kernel"] == "#5fc2cd"
    assert colours["user"] == "#d4462d"


@pytest.mark.parametrize("frame_count", [1, 8192, 262_144, 1_048_576])
@pytest.mark.parametrize("title", ["win7.raw", "x" * 255, "\x1b[31m\u202e漢字\n.raw", ""])
def test_drawn_legend(frame_count: int, title: str) -> None:
    """The picture stays as it is; the legend below has a swatch of each class, and text."""
    page_map = some_page_map(frame_count)
    plain = paint(page_map, DEFAULT)
    panel = legend_panel(plain.width, title, "subtitle", legend(page_map, DEFAULT))
    picture = add_panel(plain, panel, DEFAULT)
    pixels = np.asarray(picture)
    assert picture.mode == "P"
    assert picture.width >= max(plain.width, 200)
    assert np.array_equal(pixels[: plain.height, : plain.width], np.asarray(plain))
    below = pixels[plain.height :]
    for page_class in PageClass:
        assert np.count_nonzero(below == page_class) >= 12 * 12
    colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or []}
    assert colours <= {*DEFAULT.values(), *PANEL_SHADES}
    darkest = len(PageClass) + len(PANEL_SHADES) - 1
    assert np.count_nonzero(below == darkest) > 50
    # Nothing touches the panel's edges, so nothing was cut off.
    assert (below[1:, [0, -1]] == len(PageClass)).all()
    assert (below[-1] == len(PageClass)).all()


def test_drawn_legend_needs_no_subtitle() -> None:
    """The narrowest panel still holds one column of classes."""
    assert legend_panel(1, "", "", example_legend()).shape[1] > 100


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
    """CIE L*a*b* (D65) of an sRGB colour (IEC 61966-2-1) as somebody with that vision sees it."""
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
    """White, black and sRGB red, as published."""
    assert cielab((255, 255, 255)) == pytest.approx((100, 0, 0), abs=0.05)
    assert cielab((0, 0, 0)) == pytest.approx((0, 0, 0), abs=0.05)
    assert cielab((255, 0, 0)) == pytest.approx((53.24, 80.09, 67.20), abs=0.05)


def test_the_seeds_colours() -> None:
    """Kernel, user and unused as in the seed's published pictures."""
    assert DEFAULT[PageClass.KERNEL] == (95, 194, 205)
    assert DEFAULT[PageClass.USER] == (212, 70, 45)
    assert DEFAULT[PageClass.UNUSED_ZERO] == (255, 255, 255)
    assert hex_colour(DEFAULT[PageClass.KERNEL]) == "#5fc2cd"


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_lightness_is_a_staircase(palette: Palette) -> None:
    """In print without colour, too, each class differs clearly from the next lighter one."""
    lightness = sorted(cielab(palette[page_class])[0] for page_class in PageClass)
    assert min(lighter - darker for darker, lighter in pairwise(lightness)) > 12


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_classes_are_apart_for_all_eyes(palette: Palette, vision: str) -> None:
    """CIE 1976 colour difference; about 2.3 can just be noticed, 20 is plain to see."""
    seen = [cielab(colour, vision) for colour in palette.values()]
    assert min(dist(one, other) for one, other in combinations(seen, 2)) > 20


@pytest.mark.parametrize("vision", ["protan", "deutan"])
def test_the_palette_for_colour_blind_eyes(vision: str) -> None:
    """For red-green blindness, by far the most common, its distances are larger still."""
    seen = [cielab(colour, vision) for colour in COLOUR_BLIND.values()]
    assert min(dist(one, other) for one, other in combinations(seen, 2)) > 30


# The package as a whole


def test_the_library_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """From dump and map to the PNG without a word, damaged input included."""
    (tmp_path / "dump.raw").write_bytes(bytes(PAGE_SIZE) + b"x" * PAGE_SIZE + b"rest")
    dump = RawDump.open(tmp_path / "dump.raw", lenient=True)
    map_text = io.BytesIO(b"0 0 8192 True\nbroken\n0 0 0x10000 False\n")
    mapped = read_mapped_frames(map_text, "map", dump.frame_count, lenient=True)
    page_map = classify(mapped.user, mapped.kernel, dump.zero_frames())
    picture = paint(page_map, DEFAULT)
    panel = legend_panel(picture.width, "dump.raw", "", legend(page_map, DEFAULT))
    write_png(tmp_path / "a.png", add_panel(picture, panel, DEFAULT), {})
    assert capfd.readouterr() == ("", "")


def test_the_library_neither_prints_nor_exits_in_its_source() -> None:
    """No call of print, exit or sys.exit in any module but those of the commands."""
    [folder] = memory_visualizer.__path__
    for path in Path(folder).glob("**/*.py"):
        if path.name in ("cli.py", "command.py", "__main__.py"):
            continue
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        names = {ast.unparse(call.func) for call in calls}
        assert names.isdisjoint({"print", "exit", "quit", "sys.exit", "os._exit"}), path
