"""Strokes from the ink's own graph: what crosses, meets, bends and ends is told apart."""

from __future__ import annotations

import numpy as np
import pytest

from dood_pyro.inference.ink.joins import best_pairs, canonical, chain_branches, joins
from dood_pyro.inference.ink.skeleton import ink_graphs, path_length, smooth
from dood_pyro.rendering.round_pen import Polyline, draw_with_pen
from dood_pyro.tasks.stroke_scores import compare_strokes

SIDE = 200


def trace_strokes(ink: np.ndarray) -> list[Polyline]:
    """Strokes through the middle of clean ink, joined by angle."""
    found = []
    for graph in ink_graphs(ink > 0.5):
        found += [canonical(each.line) for each in chain_branches(graph, joins(graph))]
    return found


def line(*points: tuple[float, float]) -> Polyline:
    return np.array(points, dtype=float)


def arc(centre: tuple[float, float], radius: float, begin: float, end: float) -> Polyline:
    angle = np.radians(np.linspace(begin, end, 60))
    return np.array(centre) + radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def crossing(degrees: float) -> list[Polyline]:
    angle = np.radians(degrees)
    along = 80 * np.array([np.cos(angle), np.sin(angle)])
    middle = np.array([100.0, 100.0])
    return [line((20, 100), (180, 100)), np.stack([middle - along, middle + along])]


DRAWINGS = {
    "a line": [line((30, 40), (170, 150))],
    "a ring": [arc((100, 100), 60, 0, 360)],
    "a wave": [np.concatenate([arc((60, 100), 30, 180, 360), arc((120, 100), 30, 180, 0)])],
    "a corner": [line((40, 40), (150, 40), (150, 160))],
    "a T": [line((40, 50), (160, 50)), line((100, 50), (100, 170))],
    "two lines apart": [line((40, 50), (160, 50)), line((40, 80), (160, 80))],
    "an eight": [np.concatenate([arc((100, 60), 35, 90, 450), arc((100, 130), 35, -90, 270)])],
    "a dash and a line": [line((60, 60), (75, 62)), line((40, 120), (160, 110))],
}


@pytest.mark.parametrize("width", [3.0, 4.0, 8.0])
@pytest.mark.parametrize("name", DRAWINGS)
def test_drawings_come_back(name: str, width: float) -> None:
    strokes = DRAWINGS[name]
    found = trace_strokes(draw_with_pen(strokes, (SIDE, SIDE), width))
    scores = compare_strokes(found, strokes, SIDE)
    if name == "an eight":  # which way it goes on where it touches itself is not to be seen
        assert scores.recall > 0.99 and len(found) <= 2
        return
    assert scores.exact == 1, [each.round().tolist() for each in found]
    assert scores.chamfer < 0.6


@pytest.mark.parametrize("degrees", [20, 30, 45, 60, 90])
@pytest.mark.parametrize("width", [3.0, 5.0])
def test_lines_that_cross_are_two(degrees: float, width: float) -> None:
    strokes = crossing(degrees)
    found = trace_strokes(draw_with_pen(strokes, (SIDE, SIDE), width))
    assert compare_strokes(found, strokes, SIDE).exact == 1, len(found)


@pytest.mark.parametrize("width", [2.0, 4.0, 8.0, 16.0])
def test_the_pens_width_is_found(width: float) -> None:
    for strokes in (DRAWINGS["a wave"], DRAWINGS["a T"], crossing(60)):
        graphs = ink_graphs(draw_with_pen(strokes, (SIDE, SIDE), width) > 0.5)
        assert graphs[0].width == pytest.approx(width, rel=0.12)


def test_no_ink_has_no_strokes() -> None:
    assert trace_strokes(np.zeros((30, 40))) == []


def test_the_frame_is_the_pictures_own() -> None:
    """Neither axis is taken for the other, and pixel i covers [i, i + 1)."""
    (found,) = trace_strokes(draw_with_pen([line((20, 10), (280, 10))], (40, 300), 4.0))
    assert found[0] == pytest.approx([20, 10], abs=2) and found[-1] == pytest.approx(
        [280, 10], abs=2
    )
    assert np.abs(found[:, 1] - 10).max() < 0.75


def test_pairs_are_the_best_set_and_not_the_best_pair() -> None:
    scores = {(0, 1): 5.0, (0, 2): 4.0, (0, 3): 0.0, (1, 2): 0.0, (1, 3): 4.0, (2, 3): 1.0}
    assert best_pairs(4, scores) == [(0, 2), (1, 3)]
    assert best_pairs(2, {(0, 1): -1.0}) == []


def test_smoothing_keeps_ends_and_straight_lines() -> None:
    straight = np.stack([np.arange(20.0), 0.5 * np.arange(20.0)], axis=-1)
    assert np.allclose(smooth(straight, 3.0), straight, atol=1e-3)
    steps = np.stack([np.arange(20.0), np.floor(np.arange(20.0) / 3)], axis=-1)
    smoothed = smooth(steps, 3.0)
    assert np.allclose(smoothed[[0, -1]], steps[[0, -1]])
    assert path_length(smoothed) < path_length(steps)
