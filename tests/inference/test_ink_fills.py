"""Dots on lines, and solid shapes: what is thicker than the pen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dood_pyro.drawing import Drawing
from dood_pyro.parsing import InkOptions, parse_picture
from dood_pyro.rendering.round_pen import Polyline, draw_with_pen

NODES = {"a": (60, 60), "b": (200, 40), "c": (330, 90), "d": (120, 180), "e": (270, 200)}
EDGES = ("ab", "bc", "ad", "bd", "be", "ce", "de")


def straight(*points: tuple[float, float]) -> Polyline:
    return np.array(points, dtype=float)


def drawn(
    lines: Sequence[Polyline], pen: float, dots: Sequence[tuple[float, float, float]]
) -> np.ndarray:
    """Lines of a pen, and dots: where, and how wide."""
    picture = draw_with_pen(lines, (260, 400), pen)
    for x, y, width in dots:
        picture = np.maximum(
            picture, draw_with_pen([straight((x, y), (x, y + 1e-3))], (260, 400), width)
        )
    return picture


def dots_of(found: Drawing) -> list[tuple[float, ...]]:
    """Strokes that go nowhere: where, and how wide."""
    return sorted(
        (*stroke.points()[0], stroke.width)
        for stroke in found
        if np.ptp(stroke.points(), axis=0).max() < 0.5
    )


@pytest.mark.parametrize("noise", [0.0, 0.06])
def test_a_graph_has_its_nodes_and_its_edges(noise: float) -> None:
    lines = [straight(*(NODES[node] for node in edge)) for edge in EDGES]
    ink = drawn(lines, 3, [(*place, 15) for place in NODES.values()])
    noisy = ink + np.random.default_rng(0).normal(0, noise, ink.shape)
    found = parse_picture(1 - noisy.clip(0, 1))
    dots = np.array(dots_of(found))
    assert np.abs(dots[:, :2] - sorted(NODES.values())).max() < 0.5
    assert dots[:, 2] == pytest.approx(15, rel=0.06)
    assert np.abs(found.render() - ink).mean() < 0.004 and found.explained > 0.99
    # However edges are joined to strokes, no ink is drawn twice and none bends to cover a node.
    length = sum(np.hypot(*np.diff(stroke.points(), axis=0).T).sum() for stroke in found)
    edges = sum(float(np.hypot(*(line[1] - line[0]))) for line in lines)
    assert length == pytest.approx(edges, rel=0.03)


@pytest.mark.parametrize(("pen", "dot"), [(3, 10), (4, 12), (4, 22), (8, 24)])
def test_a_line_goes_on_through_its_dots(pen: float, dot: float) -> None:
    places = [(80.0, 131.0), (200.0, 130.0), (320.0, 128.5)]
    ink = drawn([straight((20, 130), (380, 130))], pen, [(*each, dot) for each in places])
    found = parse_picture(1 - ink)
    dots = dots_of(found)
    assert len(found) == 4 and len(dots) == 3
    assert np.abs(np.array(dots)[:, :2] - places).max() < 1
    (line,) = [stroke for stroke in found if np.ptp(stroke.points(), axis=0).max() > 300]
    assert np.abs(line.points()[:, 1] - 130).max() < 1 and line.width == pytest.approx(pen, rel=0.1)


def test_lines_that_meet_are_no_dot() -> None:
    """Stars of two to seven lines, and lines that part at a small angle."""
    lines = []
    for count in range(2, 8):
        middle = np.array([60 + 140 * ((count - 2) % 3), 60 + 130 * ((count - 2) // 3)])
        for angle in np.pi * np.arange(count) / count:
            way = 45 * np.array([np.cos(angle), np.sin(angle)])
            lines.append(np.array([middle - way, middle + way]))
    for pen in (3, 5):
        assert not dots_of(parse_picture(1 - draw_with_pen(lines, (260, 400), pen)))
    for degrees in (8, 15, 25):
        x, y = 300 * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
        parting = [straight((40, 40), (340, 40)), straight((40, 40), (40 + x, 40 + y))]
        assert len(parse_picture(1 - draw_with_pen(parting, (260, 400), 5))) <= 2


def test_an_arrow_has_its_head() -> None:
    image = Image.new("L", (1600, 800), 255)
    draw = ImageDraw.Draw(image)
    draw.line((160, 400, 1200, 400), fill=0, width=16)
    draw.polygon([(1360, 400), (1200, 320), (1200, 480)], fill=0)
    picture = 1 - np.asarray(image.resize((400, 200), Image.Resampling.BOX)) / 255
    found = parse_picture(1 - picture)
    assert np.abs(found.render() - picture).mean() < 0.003
    shaft = min(found, key=lambda stroke: stroke.points()[:, 0].min())
    assert np.abs(shaft.points()[:, 1] - 100).max() < 0.5


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_solid_patches_are_filled_by_the_pen(scale: float) -> None:
    """A face with filled eyes, and a line that leads up to a filled square."""
    size = round(400 * scale)
    image = Image.new("L", (size, size), 255)
    draw = ImageDraw.Draw(image)

    def box(*corners: float) -> tuple[float, ...]:
        return tuple(scale * each for each in corners)

    draw.ellipse(box(60, 60, 340, 340), outline=0, width=round(6 * scale))
    draw.ellipse(box(110, 120, 170, 190), fill=0)
    draw.ellipse(box(230, 120, 290, 190), fill=0)
    draw.rectangle(box(150, 220, 230, 280), fill=0)
    draw.line(box(190, 280, 190, 335), fill=0, width=round(6 * scale))
    found = parse_picture(image)
    assert found.explained > 0.99 and 8 <= len(found) <= 9
    widths = [stroke.width / scale for stroke in found]
    assert widths == pytest.approx([6] * len(found), rel=0.15)
    picture = 1 - np.asarray(image) / 255
    assert np.abs(found.render() - picture).mean() < 0.01
    assert sum(stroke.confidence == 0.5 for stroke in found) == 6
    few = parse_picture(image, InkOptions(max_strokes=2))
    assert len(few) == 2 and few.limited
    around = max(few, key=lambda stroke: np.ptp(stroke.points()[:, 0]))
    assert np.ptp(around.points()[:, 0]) == pytest.approx(274 * scale, rel=0.02)


def test_a_thick_line_is_no_patch_and_a_patch_alone_no_drawing() -> None:
    lines = [np.array([[40.0, 60], [360, 60]]), np.array([[60.0, 250], [340, 300]])]
    ink = np.maximum(
        draw_with_pen(lines[:1], (400, 400), 5.0), draw_with_pen(lines[1:], (400, 400), 40.0)
    )
    assert [round(stroke.width) for stroke in parse_picture(1 - ink)] == [5, 40]
    dot = draw_with_pen([np.array([[200.0, 200], [200.1, 200]])], (400, 400), 120.0)
    (stroke,) = parse_picture(1 - dot)
    assert stroke.width == pytest.approx(120, rel=0.1)
