"""Colours of processes, rights and scales, compared by CIEDE2000."""

import colorsys
from dataclasses import replace
from itertools import combinations, pairwise
from math import atan2, cos, degrees, dist, exp, hypot, radians, sin, sqrt

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import Process, Snapshot
from memory_visualizer.picture.colouring import COLOURINGS, process_colours, swatches_of
from memory_visualizer.picture.palette import (
    APART_FOR_ALL,
    COLOUR_BLIND,
    COLOURED_FOR_ALL,
    DARK,
    DEFAULT,
    PALETTES,
    Palette,
)
from memory_visualizer.snapshot.pagemap import PageClass
from memory_visualizer.units import PAGE_SIZE
from tests.picture.test_painting import VISION, cielab

ALL = [
    pytest.param(palette, id=f"{palette.name} {kind}")
    for kind, palettes in (("light", PALETTES), ("dark", DARK))
    for palette in palettes.values()
]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    path = tmp_path_factory.mktemp("palettes") / "zeros.raw"
    path.write_bytes(bytes(4 * PAGE_SIZE))
    return memory_visualizer.open(path)


def of_sizes(snapshot: Snapshot, sizes: list[tuple[int, bool]]) -> Snapshot:
    """A snapshot with a process for each number of pages; True means unlinked."""
    processes = tuple(
        Process(
            pid=4 * n,
            ppid=0,
            name=f"process{n}.exe",
            dtb=PAGE_SIZE,
            object_address=n,
            created=None,
            exited=None,
            is_alive=True,
            is_listed=not unlinked,
        )
        for n, (_, unlinked) in enumerate(sizes)
    )
    snapshot = replace(snapshot, processes=processes)
    vars(snapshot)["_pages_of_processes"] = np.array([(size, 0) for size, _ in sizes])
    return snapshot


@pytest.mark.parametrize("palette", ALL)
def test_the_largest_processes_are_apart(snapshot: Snapshot, palette: Palette) -> None:
    """40 processes differ by at least 12 from each other, from unlinked ones and from greys."""
    rng = np.random.default_rng(3)
    sizes = [(int(size), n % 20 == 3) for n, size in enumerate(rng.permutation(120) + 1)]
    colours = process_colours(of_sizes(snapshot, sizes), palette)
    ranks = np.argsort([-size for size, _ in sizes]).tolist()
    linked = [cielab(colours[n]) for n in ranks if not sizes[n][1]]
    unlinked = [cielab(colours[n]) for n in ranks if sizes[n][1]]
    assert len(unlinked) == 6
    seen = [*linked[:40], *unlinked]
    assert min(ciede2000(one, other) for one, other in combinations(seen, 2)) >= 12
    greys = [*vars(palette.greys).values(), palette[PageClass.ABSENT], palette[PageClass.LEFT_OUT]]
    for grey in greys:
        assert min(ciede2000(cielab(grey), colour) for colour in seen) >= 12
    for other in linked[40:]:
        assert min(ciede2000(other, one) for one in unlinked) >= 10


@pytest.mark.parametrize("vision", VISION)
def test_twenty_processes_are_apart_for_all_eyes(vision: str) -> None:
    """The palette for colour-blind eyes keeps them apart; blindness to blue is the rarest."""
    seen = [cielab(colour, vision) for colour in COLOUR_BLIND.sequence[:APART_FOR_ALL]]
    least = min(ciede2000(one, other) for one, other in combinations(seen, 2))
    assert len(seen) == 20
    assert least >= (10 if vision == "tritan" else 12)


@pytest.mark.parametrize("name", COLOURINGS)
def test_the_palette_changes_each_colouring(name: str, snapshot: Snapshot) -> None:
    """Each palette has colours of its own, unless a colouring's colours are for all eyes."""
    sized = of_sizes(snapshot, [(9, False), (5, False), (3, True)])
    swatches = [
        {swatch.colour for swatch in swatches_of(name, sized, palette)}
        for palette in (DEFAULT, COLOUR_BLIND)
    ]
    absent = {palette[PageClass.ABSENT] for palette in (DEFAULT, COLOUR_BLIND)}
    changed = len(swatches[0] - swatches[1] - absent) > 1
    if name == "file":  # this dump has no files, which have the colours of processes
        changed = DEFAULT.sequence != COLOUR_BLIND.sequence
    assert changed == (name not in COLOURED_FOR_ALL)


@pytest.mark.parametrize("palette", ALL)
def test_what_must_be_seen_is_seen(snapshot: Snapshot, palette: Palette) -> None:
    """Pages with one mapping differ from unmapped ones, and writable code differs from all else."""
    mappings = {s.label: s.colour for s in swatches_of("mappings", snapshot, palette)}
    once, never = (cielab(mappings[label]) for label in ("1 mapping", "not mapped"))
    assert ciede2000(once, never) > 14
    rights = {s.label: s.colour for s in swatches_of("protection", snapshot, palette)}
    alarm = rights.pop("user rwx")
    _, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in alarm))
    assert (saturation, value) == (1, 1)
    assert min(ciede2000(cielab(alarm), cielab(other)) for other in rights.values()) > 20


@pytest.mark.parametrize("palette", ALL)
def test_a_scale_goes_one_way(palette: Palette) -> None:
    """Lightness changes in one direction, from the paper's to its opposite."""
    lightness = [cielab(colour)[0] for colour in palette.ramp(16)]
    steps = [later - earlier for earlier, later in pairwise(lightness)]
    sign = 1 if palette in DARK.values() else -1
    assert all(sign * step > 1 for step in steps)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("palette", DARK.values(), ids=DARK)
def test_classes_on_a_dark_page_are_apart(palette: Palette, vision: str) -> None:
    """Zeros are dark, kernel and user as usual, and all differ (CIE 1976), also from holes."""
    seen = [cielab(colour, vision) for colour in palette.values()]
    assert min(dist(one, other) for one, other in combinations(seen, 2)) > 15
    assert cielab(palette[PageClass.UNUSED_ZERO])[0] < 20
    for page_class in (PageClass.KERNEL, PageClass.USER):
        assert palette[page_class] == PALETTES[palette.name][page_class]


def ciede2000(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The difference of two colours in CIELAB, by Sharma, Wu and Dalal."""
    (l1, a1, b1), (l2, a2, b2) = one, other
    mean = (hypot(a1, b1) + hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * sqrt(mean**7 / (mean**7 + 25**7))
    c1, c2 = hypot(stretch * a1, b1), hypot(stretch * a2, b2)
    h1, h2 = (degrees(atan2(b, stretch * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = 0.0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    hue = 2 * sqrt(c1 * c2) * sin(radians(turn / 2))
    middle = h1 + h2 if c1 * c2 == 0 else h1 + turn / 2
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    waves = (
        1
        - 0.17 * cos(radians(middle - 30))
        + 0.24 * cos(radians(2 * middle))
        + 0.32 * cos(radians(3 * middle + 6))
        - 0.20 * cos(radians(4 * middle - 63))
    )
    by_light = 1 + 0.015 * (light - 50) ** 2 / sqrt(20 + (light - 50) ** 2)
    by_chroma, by_hue = 1 + 0.045 * chroma, 1 + 0.015 * chroma * waves
    blue = 30 * exp(-(((middle % 360 - 275) / 25) ** 2))
    turned = -2 * sqrt(chroma**7 / (chroma**7 + 25**7)) * sin(radians(2 * blue))
    parts = ((l2 - l1) / by_light, (c2 - c1) / by_chroma, hue / by_hue)
    return sqrt(sum(part**2 for part in parts) + turned * parts[1] * parts[2])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 3.1571, -77.2803), (50, 0, -82.7485), 2.8615),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.5, 0), (61, -5, 29), 22.8977),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_ciede2000_itself(
    one: tuple[float, ...], other: tuple[float, ...], expected: float
) -> None:
    """The published pairs have their published differences (Sharma, Wu, Dalal, 2005)."""
    assert ciede2000(one, other) == pytest.approx(expected, abs=5e-5)
    assert ciede2000(other, one) == pytest.approx(expected, abs=5e-5)
