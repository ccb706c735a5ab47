"""Strokes of several pens: cut where one goes over into another, and joined again where two cross."""

from __future__ import annotations

import numpy as np
import pytest

from dood_pyro.inference.ink.joins import ChainedLine
from dood_pyro.inference.ink.paper import find_ink
from dood_pyro.inference.ink.pens import of_one_pen
from dood_pyro.parsing import parse_picture
from dood_pyro.rendering.round_pen import draw_with_pen

RED, BLUE, GREEN, BLACK = (0.8, 0.1, 0.1), (0.1, 0.2, 0.7), (0.1, 0.5, 0.2), (0.05, 0.05, 0.05)
WHITE = (1.0, 1.0, 1.0)
Drawn = list[tuple[tuple[float, float, float], list[tuple[float, float]]]]


def picture_of(drawn: Drawn, paper: tuple[float, float, float] = WHITE) -> np.ndarray:
    """Polylines by round pens of 5 pixels, the later on top."""
    found = np.broadcast_to(np.array(paper), (200, 240, 3))
    for colour, line in drawn:
        cover = draw_with_pen([np.array(line, dtype=float)], (200, 240), 5.0)[..., None]
        found = found * (1 - cover) + np.array(colour) * cover
    return found.astype(np.float32)


def ring(first: float, last: float) -> list[tuple[float, float]]:
    """An arc of a circle, angles in degrees."""
    at = np.deg2rad(np.linspace(first, last, 60))
    return [(120 + 60 * np.cos(a), 100 + 60 * np.sin(a)) for a in at]


def hue(colour: str) -> str:
    """Which of red, green and blue a colour is most of, or black."""
    values = list(bytes.fromhex(colour[1:]))
    return (
        "black" if max(values) - min(values) < 30 else ["red", "green", "blue"][np.argmax(values)]
    )


STRAIGHT: Drawn = [(RED, [(30, 100), (120, 100)]), (BLUE, [(120, 100), (210, 100)])]
FORK: Drawn = [
    (RED, [(120, 100), (120, 20)]),
    (BLUE, [(120, 100), (50, 170)]),
    (GREEN, [(120, 100), (190, 170)]),
]
CROSS: Drawn = [(RED, [(40, 40), (200, 160)]), (BLUE, [(40, 160), (200, 40)])]
RING: Drawn = [(RED, ring(0, 180)), (BLUE, ring(180, 360))]
AXES: Drawn = [(BLACK, [(30, 20), (30, 180), (220, 180)]), (RED, [(30, 180), (210, 40)])]


@pytest.mark.parametrize(
    ("drawn", "hues"),
    [
        (STRAIGHT, ["blue", "red"]),
        (FORK, ["blue", "green", "red"]),
        (CROSS, ["blue", "red"]),
        (RING, ["blue", "red"]),
    ],
    ids=["straight", "fork", "cross", "ring"],
)
@pytest.mark.parametrize("paper", [WHITE, (0.95, 0.9, 0.6), (0.1, 0.1, 0.12)])
def test_a_stroke_is_of_one_pen(
    drawn: Drawn, hues: list[str], paper: tuple[float, float, float]
) -> None:
    if paper[0] < 0.5:  # chalk
        drawn = [(tuple(0.3 + 0.7 * np.array(colour)), line) for colour, line in drawn]
    found = parse_picture(picture_of(drawn, paper))
    assert sorted(hue(stroke.colour) for stroke in found) == hues
    lengths = [float(np.hypot(*np.diff(stroke.points(), axis=0).T).sum()) for stroke in found]
    true = [float(np.hypot(*np.diff(line, axis=0).T).sum()) for _, line in drawn]
    assert sum(lengths) == pytest.approx(sum(true), rel=0.08)


def test_ends_of_one_pen_are_joined_where_lines_were_cut() -> None:
    # As if joins had taken each arm for the other pen's.
    ink = find_ink(picture_of(CROSS))
    middle = (120.0, 100.0)

    def line(*points: tuple[float, float]) -> ChainedLine:
        bent = np.array(points)
        long = np.concatenate(
            [np.linspace(bent[0], bent[1], 50), np.linspace(bent[1], bent[2], 50)]
        )
        return ChainedLine(long, [49], [])

    lines = [line((40, 40), middle, (200, 40)), line((40, 160), middle, (200, 160))]
    found = of_one_pen(lines, ink.colours, 5.0, 1)
    assert [sorted(each.of) for each in found] == [[0, 1], [0, 1]]
    for each in found:
        (x, y), (u, v) = each.line.line[0], each.line.line[-1]
        assert abs(x - u) == pytest.approx(160) and abs(y - v) == pytest.approx(120)
        assert each.line.seams == [49]


@pytest.mark.parametrize("paper", [WHITE, (0.95, 0.9, 0.6)])
@pytest.mark.parametrize("pen", [BLACK, RED])
def test_lines_of_one_pen_stay_whole(
    pen: tuple[float, float, float], paper: tuple[float, float, float]
) -> None:
    shade = np.linspace(0.6, 1.0, 240)[:, None]
    picture = picture_of([(pen, line) for _, line in (*CROSS, *AXES)], paper) * shade
    ink = find_ink(picture.astype(np.float32))
    bent = ChainedLine(np.array([(40.0, 40.0), (120, 100), (200, 160)]), [1], [])
    assert of_one_pen([bent], ink.colours, 5.0, 1)[0].line is bent


def test_black_beside_a_colour() -> None:
    found = parse_picture(picture_of(AXES))
    assert {hue(stroke.colour) for stroke in found} == {"black", "red"}
    assert sum(hue(stroke.colour) == "red" for stroke in found) == 1
