"""Pictures as people have them to pen strokes: paper, inks, sizes, widths, and what does not fit."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from dood_pyro.drawing import Drawing
from dood_pyro.errors import UserError
from dood_pyro.inference.ink.fit import Chain
from dood_pyro.inference.ink.sheet import find_sheet
from dood_pyro.inference.ink.skeleton import path_length
from dood_pyro.parsing import InkOptions, parse_picture, parse_ways
from dood_pyro.rendering.round_pen import Polyline, draw_with_pen, resample
from dood_pyro.tasks.stroke_scores import compare_strokes


def arc(
    middle: tuple[float, float], radius: float, first: float, last: float, flat: float = 1.0
) -> Polyline:
    angle = np.radians(np.linspace(first, last, 60))
    return np.array(middle) + radius * np.stack([np.cos(angle), flat * np.sin(angle)], axis=-1)


CROSS = [np.array([[30.0, 40], [170, 150]]), np.array([[150.0, 30], [60, 170]])]
WAVE = [np.stack([np.linspace(20, 180, 90), 100 + 40 * np.sin(np.linspace(0, 7, 90))], -1)]
THREE = [*CROSS, arc((100, 100), 85, 200, 340)]


def ink_of(
    strokes: list[Polyline], size: int = 200, pen: float = 5.0, side: int = 200
) -> np.ndarray:
    return draw_with_pen([each * size / 200 for each in strokes], (side, side), pen)


def right(drawing: Drawing, strokes: list[Polyline], scale: float = 1.0) -> None:
    """The strokes are those drawn, one to one, and lie on them."""
    scores = compare_strokes(
        drawing.polylines(), [scale * each for each in strokes], max(drawing.width, drawing.height)
    )
    assert scores.exact == 1, (len(drawing), scores)
    assert scores.f >= 0.98 and scores.chamfer < 0.4


def rgba(ink: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    array = np.zeros((*ink.shape, 4), np.uint8)
    array[..., :3] = colour
    array[..., 3] = (255 * ink).round()
    return Image.fromarray(array)


def light(shape: tuple[int, int]) -> np.ndarray:
    """Light that falls off towards a corner."""
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    return 0.9 - 0.5 * (x + y) / 2


RNG = np.random.default_rng(0)
INK = ink_of(THREE)
PICTURES: dict[str, object] = {
    "black on white": 1 - INK,
    "white on black": INK,
    "white on transparent": rgba(INK, (255, 255, 255)),
    "black on transparent": rgba(INK, (0, 0, 0)),
    "light that falls off": (light(INK.shape) * (1 - 0.8 * INK)),
    "grain of a camera": (
        light(INK.shape) * (1 - 0.8 * INK) + RNG.normal(0, 0.015, INK.shape)
    ).clip(0, 1),
    "pencil": 1 - 0.3 * INK,
    "12 bits in 16": (4095 * (1 - INK)).round().astype(np.uint16),
    "speckle": np.where(RNG.random(INK.shape) < 0.01, INK, 1 - INK),
    "red on green, as bright": np.stack(
        [0.2 + 0.6 * INK, 0.5056 - 0.3065 * INK, np.full_like(INK, 0.2)], axis=-1
    ),
    "a dark frame": np.pad(1 - INK, 24),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_ink_is_told_from_paper(kind: str) -> None:
    shift = 24 if kind == "a dark frame" else 0
    right(parse_picture(PICTURES[kind]), [each + shift for each in THREE])


@pytest.mark.parametrize("thickness", [1, 2, 3])
@pytest.mark.parametrize("squared", [False, True])
def test_ruled_paper(thickness: int, squared: bool) -> None:
    paper = np.ones((240, 260))
    for offset in range(thickness):
        paper[20 + offset :: 30] = 0.75
        if squared:
            paper[:, 10 + offset :: 30] = 0.75
    strokes = [each + 20 for each in CROSS]
    drawn = draw_with_pen(strokes, paper.shape, 5.0)
    right(parse_picture(paper * (1 - 0.9 * drawn)), strokes)


def test_faintly_ruled_paper() -> None:
    paper = np.ones((240, 260))
    paper[20::30] = 0.8
    strokes = [each + 20 for each in CROSS]
    drawn = draw_with_pen(strokes, paper.shape, 5.0)
    right(parse_picture(paper * (1 - drawn)), strokes)


@pytest.mark.parametrize("degrees", [-3.0, -0.7, -0.1, 0.3, 1.5])
@pytest.mark.parametrize("squared", [False, True])
def test_ruled_paper_that_lies_tilted(degrees: float, squared: bool) -> None:
    rise, size = np.tan(np.deg2rad(degrees)), (300, 340)
    rules = [np.array([[-10.0, y - 10 * rise], [350, y + 350 * rise]]) for y in range(-15, 330, 30)]
    if squared:
        across = [
            np.array([[x + 10 * rise, -10.0], [x - 310 * rise, 310]]) for x in range(-15, 370, 30)
        ]
        rules += across
    paper = 1 - 0.25 * draw_with_pen(rules, size, 1.5)
    strokes = [each + 60 for each in CROSS]
    right(parse_picture(paper * (1 - 0.9 * draw_with_pen(strokes, size, 5.0))), strokes)


def test_lines_that_slope_alike_are_no_rules() -> None:
    lines = [np.array([[20.0, y], [180, y + 5]]) for y in (30, 60, 90, 120, 150)]
    drawing = parse_picture(1 - draw_with_pen([*lines, CROSS[0]], (210, 200), 5.0))
    assert len(drawing) == 6


def test_bars_that_are_drawn_are_no_rules() -> None:
    lines = [np.array([[0.0, y], [200, y]]) for y in (30, 90, 150)]
    drawing = parse_picture(1 - draw_with_pen([*lines, CROSS[0]], (200, 200), 5.0))
    assert len(drawing) == 4


SHEET = np.full((300, 300), 244.0) + np.random.default_rng(1).normal(0, 2.5, (300, 300))


@pytest.mark.parametrize("light", [1.0, 0.6], ids=["even", "uneven"])
@pytest.mark.parametrize("coloured", [False, True])
def test_a_blank_sheet_has_no_strokes(light: float, coloured: bool) -> None:
    sheet = SHEET * np.linspace(1, light, 300)
    noise = np.random.default_rng(2).normal(0, 6, (300, 300, 3 if coloured else 1))
    picture = (sheet[..., None] + noise).clip(0, 255).round().astype(np.uint8)
    assert len(parse_picture(picture if coloured else picture[..., 0])) == 0


@pytest.mark.parametrize("light", [1.0, 0.6], ids=["even", "uneven"])
@pytest.mark.parametrize(("contrast", "noise"), [(0.9, 0.2), (0.3, 0.03), (0.15, 0.03)])
def test_ink_is_told_from_noise(contrast: float, noise: float, light: float) -> None:
    line = np.array([[40.0, 60], [260, 240]])
    paper = 0.93 * np.linspace(1, light, 300) * np.ones((300, 1))
    grain = np.random.default_rng(0).normal(0, noise, paper.shape)
    picture = paper * (1 - contrast * draw_with_pen([line], paper.shape, 5.0)) + grain
    drawing = parse_picture(picture.clip(0, 1))
    right(drawing, [line])


@pytest.mark.parametrize("depth", [0.1, 0.25, 0.45])
@pytest.mark.parametrize("edge", [2.0, 25.0])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_ink_is_told_from_a_shadow(depth: float, edge: float, noise: float) -> None:
    """Of a hand or a phone, with an edge that slants across the strokes."""
    y, x = np.mgrid[:400, :500]
    shade = 1 - depth * ndimage.gaussian_filter((x + 0.4 * y > 400).astype(float), edge)
    ink = draw_with_pen([2.0 * each for each in THREE], (400, 500), 8.0)
    picture = shade * (0.88 * (1 - ink) + 0.2 * ink)
    picture += noise * np.random.default_rng(0).normal(size=picture.shape)
    right(parse_picture(picture.clip(0, 1)), THREE, 2.0)


TABLES = {
    "dark": (0.2, 0.18, 0.17),
    "grey": (0.62, 0.62, 0.6),
    "wooden": (0.55, 0.37, 0.23),
}
CORNERS = {
    "whole": ((70, 40), (660, 90), (630, 730), (25, 690)),
    "cut off below": ((60, 50), (650, 30), (670, 900), (30, 900)),
}


def on_table(ink: np.ndarray, table: str, corners: str) -> np.ndarray:
    """A photograph, 700 by 760 pixels, of a sheet on a table; the light falls off."""
    mask = Image.new("L", (700, 760))
    ImageDraw.Draw(mask).polygon(CORNERS[corners], fill=255)
    sheet = np.asarray(mask.filter(ImageFilter.GaussianBlur(1)))[..., None] / 255
    rng = np.random.default_rng(0)
    grain = 0.03 * ndimage.gaussian_filter1d(rng.normal(size=(760, 1)), 2, axis=0)[..., None]
    picture = sheet * 0.92 * (1 - 0.8 * ink[..., None]) + (1 - sheet) * (TABLES[table] + grain)
    picture *= np.linspace(1, 0.8, 700)[:, None]
    return (picture + rng.normal(0, 0.01, picture.shape)).clip(0, 1)


@pytest.mark.parametrize("corners", CORNERS)
@pytest.mark.parametrize("table", TABLES)
def test_a_sheet_is_told_from_the_table_that_it_lies_on(table: str, corners: str) -> None:
    strokes = [2 * each + [150, 180] for each in THREE]
    picture = on_table(draw_with_pen(strokes, (760, 700), 7.0), table, corners)
    found = parse_picture(picture)
    scores = compare_strokes(found.polylines(), strokes, 760)
    assert len(found) == 3 and scores.exact == 1 and scores.chamfer < 0.4
    negative = parse_picture(1 - picture, InkOptions(polarity="bright-ink"))
    assert len(negative) == 3
    blank = on_table(np.zeros((760, 700)), table, corners)
    file = io.BytesIO()
    Image.fromarray((255 * blank).astype(np.uint8)).save(file, "JPEG", quality=80)
    assert len(parse_picture(Image.open(file))) == 0


def test_what_lies_near_a_sheets_edge_is_kept() -> None:
    """A frame around the drawing, and a dot as small as a page's number."""
    frame = np.array([[95.0, 75], [625, 118], [600, 690], [60, 655], [95, 75]])
    strokes = [frame, arc((330, 360), 120, 200, 340), np.array([[300.0, 700], [306, 700.0]])]
    picture = on_table(draw_with_pen(strokes, (760, 700), 6.0), "wooden", "whole")
    found = parse_picture(picture)
    assert compare_strokes(found.polylines(), strokes, 760).recall > 0.99


def test_no_drawing_is_taken_for_a_sheet() -> None:
    """Neither a large closed line, nor a figure cropped to its ink, nor a dense drawing, nor the paper
    beside a shadow."""
    around = [np.array([[30.0, 40], [260, 30], [270, 265], [25, 255], [30, 40]])]
    hatched = [np.array([[60.0 + x, 60], [70 + x, 240]]) for x in range(0, 180, 14)]
    x = np.mgrid[:300, :300][1]
    shadow = 1 - 0.45 * (x > 170)
    for ink, light in (
        (draw_with_pen(around, (300, 300), 18.0), 1.0),
        (draw_with_pen(around, (300, 300), 18.0)[31:265, 26:270], 1.0),
        (draw_with_pen([arc((150, 150), 138, 0, 360)], (300, 300), 30.0), 1.0),
        (draw_with_pen(hatched, (300, 300), 12.0), 1.0),
        (draw_with_pen(around, (300, 300), 3.0), shadow),
    ):
        picture = ((1 - 0.9 * ink) * light)[..., None]
        assert find_sheet(picture) is None and find_sheet(1 - picture) is None


def test_chalk_has_grain() -> None:
    rng = np.random.default_rng(3)
    strokes = [2.0 * each for each in THREE]
    ink = draw_with_pen(strokes, (400, 400), 9.0)
    grain = ndimage.gaussian_filter(rng.normal(size=ink.shape), 1.0)
    board = 0.15 + 0.65 * ink * (grain > -0.7 * grain.std()) + 0.02 * rng.normal(size=ink.shape)
    found = parse_picture(board.clip(0, 1))
    assert len(found) <= 8
    scores = compare_strokes(found.polylines(), strokes, 400)
    assert scores.recall > 0.98 and scores.chamfer < 0.6


def test_a_broad_pale_stroke_is_no_shadow() -> None:
    pale = arc((200, 200), 120, 200, 340)
    strokes = [2.0 * CROSS[0], pale]
    ink = np.maximum(
        draw_with_pen(strokes[:1], (400, 400), 6.0), 0.35 * draw_with_pen([pale], (400, 400), 26.0)
    )
    found = parse_picture(1 - ink, InkOptions())
    broad = max(found, key=lambda stroke: stroke.width)
    assert broad.width == pytest.approx(26, rel=0.1)
    assert broad.darkness < 0.6 < min(stroke.darkness for stroke in found if stroke is not broad)


def test_inks_of_different_darkness() -> None:
    picture = np.maximum(ink_of(CROSS[:1]), 0.3 * ink_of(CROSS[1:]))
    drawing = parse_picture(1 - picture)
    right(drawing, CROSS)
    assert sorted(stroke.darkness for stroke in drawing) == pytest.approx([0.3, 1.0], abs=0.05)
    assert drawing.svg().count("stroke-opacity") == 1


def test_colours_of_ink() -> None:
    blue, red = ink_of(CROSS[:1])[..., None], ink_of(WAVE)[..., None]
    picture = 1 - blue * (1 - np.array([0.1, 0.2, 0.8]))
    drawing = parse_picture(picture)
    assert [stroke.colour for stroke in drawing] == ["#1a33cc"]
    assert "#1a33cc" in drawing.svg() and "stroke-opacity" not in drawing.svg()
    assert parse_picture(1 - red.repeat(3, -1))[0].colour == "#000000"


def test_a_pen_has_one_colour_in_light_and_in_shadow() -> None:
    lines = [np.array([[30.0, y], [170, y + 8]]) for y in (30, 70, 110, 150)]
    picture = 1 - ink_of(lines)[..., None] * (1 - np.array([0.8, 0.15, 0.15]))
    light = np.where(np.arange(200) < 90, 0.95, 0.65)[:, None, None]
    drawing = parse_picture(picture * light)
    (colour,) = {stroke.colour for stroke in drawing}
    told = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    assert told == pytest.approx([0.95 * 0.8, 0.95 * 0.15, 0.95 * 0.15], abs=0.03)
    assert len(drawing) == 4


@pytest.mark.parametrize("share", [0.3, 0.6, 0.75])
def test_a_shadow_over_most_of_a_sheet(share: float) -> None:
    edge = np.arange(200)[:, None] / 200 - share + 0.1 * np.arange(200) / 200
    light = 0.95 - 0.45 / (1 + np.exp(edge * 60))
    shaded = ((1 - ink_of(THREE)) * light)[..., None].repeat(3, -1)
    drawing = parse_picture(shaded)
    right(drawing, THREE)
    assert len(drawing) == len(THREE)


def test_light_that_falls_off_is_no_frame() -> None:
    x, y = np.meshgrid(np.arange(400), np.arange(400))
    lamp = np.exp(-((x - 160) ** 2 + (y - 160) ** 2) / 2 / 130**2)
    strokes = [*CROSS, np.array([[20.0, 190], [180, 186]]), np.array([[188.0, 40], [186, 160]])]
    drawing = parse_picture((1 - ink_of(strokes, 400, 6, 400)) * (0.25 + 0.7 * lamp))
    found = compare_strokes(drawing.polylines(), [2 * each for each in strokes], 400)
    assert found.match > 0.7


def test_flat_colours_in_black_outlines_are_no_ink() -> None:
    image = Image.new("RGB", (400, 300), (188, 224, 248))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 220, 400, 300), fill=(120, 190, 90))
    draw.rectangle((120, 120, 280, 225), fill=(230, 200, 150), outline="black", width=4)
    draw.polygon([(105, 120), (200, 50), (295, 120)], fill=(190, 80, 60), outline="black", width=4)
    draw.ellipse((320, 20, 370, 70), outline="black", width=4)
    drawing = parse_picture(image)
    assert len(drawing) <= 4 and drawing.explained > 0.98
    assert min(stroke.width for stroke in drawing) < 5 and len(drawing) > 2


@pytest.mark.parametrize("pen", [2.0, 4.0, 8.0, 16.0])
def test_widths_are_the_pens(pen: float) -> None:
    drawing = parse_picture(1 - ink_of(CROSS, pen=pen))
    right(drawing, CROSS)
    assert [stroke.width for stroke in drawing] == pytest.approx([pen, pen], rel=0.1)
    assert all(stroke.darkness > 0.97 for stroke in drawing)


@pytest.mark.parametrize("pen", [4.0, 6.0, 9.0])
def test_a_pen_that_swells_leaves_lines_as_long(pen: float) -> None:
    """What is thicker is not filled by a line that goes back and forth."""
    straight = [[(40.0, 20), (46, 180)], [(40.0, 100), (120, 92)], [(120.0, 18), (124, 182)]]
    strokes = [resample(np.array(each)) for each in straight]
    strokes.append(resample(arc((165, 110), 30, 0, 360, 1.5)))
    widths = [
        pen * (1 + 0.5 * np.sin(np.arange(len(each)) / 12 + index))
        for index, each in enumerate(strokes)
    ]
    found = parse_picture(draw_with_pen(strokes, (200, 210), widths)).polylines()
    assert len(found) == len(strokes)
    length = sum(path_length(each) for each in strokes)
    assert sum(path_length(each) for each in found) == pytest.approx(length, rel=0.03)


@pytest.mark.parametrize("pens", [(24.0, 3.0), (3.0, 8.0), (4.0, 12.0)])
def test_pens_of_different_widths_in_one_picture(pens: tuple[float, float]) -> None:
    lines = (np.array([[30.0, 60], [220, 70]]), np.array([[30.0, 150], [220, 190]]))
    picture = np.maximum(
        *(draw_with_pen([line], (256, 256), pen) for line, pen in zip(lines, pens, strict=True))
    )
    found = [stroke.width for stroke in parse_picture(picture).strokes]
    assert found == pytest.approx(pens, rel=0.05)


@pytest.mark.parametrize("degrees", [10, 20, 45, 90])
def test_lines_that_cross_are_two(degrees: float) -> None:
    half = np.radians(degrees / 2)
    ray = 90 * np.array([np.cos(half), np.sin(half)])
    strokes = [np.array([100 - ray, 100 + ray]), np.array([100 - ray, 100 + ray])]
    strokes[1] = strokes[1] * [1, -1] + [0, 200]
    right(parse_picture(1 - ink_of(strokes, pen=4.0)), strokes)


def test_dots_stay_dots_and_dashes_dashes() -> None:
    dots = [np.array([[50.0, 60], [50.2, 60]]), np.array([[120.0, 60], [120, 60.2]])]
    dash = [np.array([[60.0, 120], [75, 120]])]
    drawing = parse_picture(1 - ink_of([*dots, *dash], pen=6.0))
    assert len(drawing) == 3
    spans = sorted(float(np.ptp(line, axis=0).max()) for line in drawing.polylines())
    assert spans[1] < 2.5 and spans[2] == pytest.approx(15, abs=1)


@pytest.mark.parametrize("side", [16, 28, 64])
def test_small_pictures(side: int) -> None:
    scale = side / 200
    small = draw_with_pen([each * scale for each in CROSS], (side, side), 1.5)
    right(parse_picture(1 - small), CROSS, scale)


def test_wide_pictures_keep_their_frame() -> None:
    strokes = [np.stack([np.linspace(20, 780, 300), 60 + 25 * np.sin(np.linspace(0, 30, 300))], -1)]
    drawing = parse_picture(1 - draw_with_pen(strokes, (120, 800), 4.0))
    assert (drawing.width, drawing.height) == (800, 120)
    assert 'viewBox="0 0 800 120"' in drawing.svg()
    right(drawing, strokes)


def test_little_ink_on_a_large_page() -> None:
    """Memory grows with the ink: a page of 16 megapixels takes little more than its own arrays."""
    page = np.ones((4000, 4000), np.float32)
    page[1000:1200, 3000:3200] -= INK.astype(np.float32)
    tracemalloc.start()
    drawing = parse_picture(page)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    scores = compare_strokes(
        drawing.polylines(), [each + np.array([3000.0, 1000.0]) for each in THREE], 200
    )
    assert scores.exact == 1
    assert peak < 1.5e9


def test_characters_come_line_by_line_and_each_in_one_go() -> None:
    page = np.ones((300, 500))
    corners = [(20, 20), (180, 24), (340, 18), (30, 170), (190, 166)]
    for left, top in corners:
        page[top : top + 100, left : left + 100] -= draw_with_pen(
            [each / 2 for each in CROSS], (100, 100), 4.0
        )
    drawing = parse_picture(page)
    assert len(drawing) == 10
    for index, line in enumerate(drawing.polylines()):
        left, top = corners[index // 2]
        assert (line >= (left, top)).all() and (line <= (left + 100, top + 100)).all()


def test_strokes_start_towards_the_upper_left() -> None:
    for stroke in parse_picture(1 - INK):
        assert stroke.control[0, 0].sum() <= stroke.control[-1, -1].sum()


def test_how_much_is_explained_and_limits() -> None:
    drawing = parse_picture(1 - INK)
    assert drawing.explained > 0.98 and not drawing.limited
    limited = parse_picture(1 - INK, InkOptions(max_strokes=1))
    assert len(limited) == 1 and limited.limited and limited.explained < 0.6
    filled = np.ones((200, 200))
    filled[30:170, 30:170] = 0
    assert parse_picture(filled).explained < 1
    with pytest.raises(UserError, match="1 or more"):
        parse_picture(1 - INK, InkOptions(max_strokes=0))


def test_flat_paper_takes_nothing_away() -> None:
    framed = PICTURES["a dark frame"]
    assert len(parse_picture(framed, InkOptions(paper="flat"))) != len(parse_picture(framed))


def test_ways_to_draw_it_with_their_densities() -> None:
    ways = parse_ways(1 - INK, 4)
    assert 2 <= len(ways) <= 4
    densities = [drawing.log_density for drawing in ways]
    assert None not in densities and densities == sorted(densities, reverse=True)  # type: ignore
    shapes = {tuple(sorted(round(len(line), -1) for line in each.polylines())) for each in ways}
    assert len(shapes) > 1
    with pytest.raises(UserError, match="1 or more"):
        parse_ways(1 - INK, 0)
    with pytest.raises(UserError, match="learned"):
        parse_ways(1 - INK, 2, InkOptions(joins="angles"))


def test_nothing_learned() -> None:
    right(parse_picture(1 - INK, InkOptions(joins="angles")), THREE)


def test_what_is_no_picture(tmp_path: Path) -> None:
    for name, said in (
        ("a.pdf", "pdftoppm"),
        ("b.svg", "strokes already"),
        ("c.heic", "heif-convert"),
        ("d.txt", "not a picture"),
    ):
        (tmp_path / name).write_bytes(b"%PDF-1.7 nothing")
        with pytest.raises(UserError, match=said):
            parse_picture(tmp_path / name)
    with pytest.raises(UserError, match="blank"):
        parse_picture(np.full((30, 30), 0.5))
    with pytest.raises(UserError, match="at least 4"):
        parse_picture(np.zeros((2, 30)))


def test_long_straight_strokes_explain_their_ink() -> None:
    line = [np.array([[20.0, 20], [380, 370]])]
    drawing = parse_picture(1 - draw_with_pen(line, (400, 400), 4.0))
    assert len(drawing) == 1 and drawing.explained > 0.99
    whole = Chain(np.linspace(line[0][0], line[0][1], 4)[None], 4.0, 1.0)
    assert np.hypot(*np.diff(whole.evenly(2.0), axis=0).T).max() <= 2.0


def test_a_long_straight_stroke_is_one_curve() -> None:
    line = [np.array([[20.0, 20], [380, 370]])]
    drawing = parse_picture(1 - draw_with_pen(line, (400, 400), 4.0))
    assert len(drawing[0].control) == 1


@pytest.mark.parametrize("width", [3, 8])
def test_a_line_along_the_border_is_no_frame(width: int) -> None:
    picture = np.ones((120, 160))
    picture[:width] = 0
    assert len(parse_picture(picture)) == 1
    picture[60 : 60 + width, 30:120] = 0
    drawing = parse_picture(picture)
    assert [stroke.width for stroke in drawing] == pytest.approx([width, width], rel=0.15)
    middles = sorted(float(stroke.points()[:, 1].mean()) for stroke in drawing)
    assert middles == pytest.approx([width / 2, 60 + width / 2], abs=0.5)


def test_a_line_half_outside_keeps_its_width() -> None:
    lines = [np.array([[20.0, 30], [180, 60]]), np.array([[20.0, 99], [180, 99]])]
    drawing = parse_picture(1 - draw_with_pen(lines, (100, 200), 8.0))
    assert [stroke.width for stroke in drawing] == pytest.approx([8, 8], rel=0.15)


@pytest.mark.parametrize("pen", [3.0, 6.0, 10.0])
def test_letters_cropped_to_their_ink(pen: float) -> None:
    """Their outer strokes look like a scan's frame."""
    near, far, low = pen / 2, 80 - pen / 2, 120 - pen / 2
    ell = [np.array([[near, near], [near, low], [far, low]])]
    tee = [np.array([[near, near], [far, near]]), np.array([[40.0, near], [40, low]])]
    for strokes in (ell, tee):
        drawing = parse_picture(1 - draw_with_pen(strokes, (120, 80), pen))
        assert len(drawing) == len(strokes) and drawing.explained > 0.99
        assert [stroke.width for stroke in drawing] == pytest.approx([pen] * len(strokes), rel=0.1)


def test_strokes_of_one_pen_have_one_colour() -> None:
    lines = [np.array([[20.0, y], [180, y + 5]]) for y in range(20, 180, 20)]
    blue = 1 - draw_with_pen(lines, (200, 200), 4.0)[..., None] * np.array([0.9, 0.8, 0.3])
    file = io.BytesIO()
    Image.fromarray((255 * blue).round().astype(np.uint8)).save(file, "JPEG", quality=80)
    drawing = parse_picture(Image.open(file))
    assert len(drawing) == len(lines)
    assert len({stroke.colour for stroke in drawing}) == 1 and drawing[0].colour != "#000000"


def test_opacity_as_people_have_it() -> None:
    page = rgba(INK, (0, 0, 0))
    faint = np.asarray(page).copy()
    faint[..., 3] = 100
    faint[..., :3] = (255 * (1 - INK))[..., None].round()
    right(parse_picture(faint), THREE)
    with pytest.raises(UserError, match="blank"):
        parse_picture(np.concatenate([faint[..., :3], 0 * faint[..., 3:]], axis=-1))
    board = np.zeros((200, 200, 4), np.uint8)
    board[..., :3] = (255 * INK)[..., None].round()
    board[..., 3] = 255
    board[:9, :9, 3] = 0
    right(parse_picture(board), THREE)


def test_flat_paper_keeps_specks() -> None:
    picture = np.ones((120, 200))
    picture[50:70, 20:150] = 0
    picture[20:27, 170:177] = 0
    assert len(parse_picture(picture)) == 1
    assert len(parse_picture(picture, InkOptions(paper="flat"))) == 2


def test_options_are_checked() -> None:
    for options in ({"polarity": "dark"}, {"paper": "Flat"}, {"joins": "angle"}):
        with pytest.raises(UserError, match="is one of"):
            parse_picture(1 - INK, InkOptions(**options))  # type: ignore[arg-type]


def test_a_halftone_ends() -> None:
    """Thousands of branches in one piece."""
    picture = np.ones((160, 160))
    picture[::4], picture[:, ::4] = 0, 0
    assert len(parse_picture(picture)) > 10


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    Image.fromarray((255 * (1 - INK)).astype(np.uint8)).save(tmp_path / "x.tif")
    whole = bytearray((tmp_path / "x.tif").read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = whole.copy()
        for place in rng.integers(0, len(whole), 4):
            damaged[place] = int(rng.integers(256))
        for place in rng.integers(max(0, len(whole) - 200), len(whole), 4):
            damaged[place] = int(rng.integers(256))
        (tmp_path / "y.tif").write_bytes(damaged)
        try:
            parse_picture(tmp_path / "y.tif", InkOptions(joins="angles"))
        except UserError:
            continue
    with pytest.raises(UserError, match="no page 10"):
        parse_picture(tmp_path / "x.tif", page=9)
