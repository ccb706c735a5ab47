"""Scores of inferred strokes against strokes that are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from dood_pyro.rendering.round_pen import resample
from dood_pyro.tasks.stroke_scores import compare_strokes

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import strokes_table

CROSS = [np.array([[20.0, 100], [180, 100]]), np.array([[100.0, 20], [100, 180]])]


def test_the_truth_scores_full_marks() -> None:
    found = compare_strokes(CROSS, CROSS, 200)
    assert found.chamfer == pytest.approx(0, abs=1e-9)
    assert found[1:] == (1, 1, 1, 1, 1, 1, 1)


def test_distance_is_in_percent_of_the_side() -> None:
    moved = [stroke + np.array([0, 2]) for stroke in CROSS[:1]]
    found = compare_strokes(moved, CROSS[:1], 200)
    assert found.chamfer == pytest.approx(1.0, rel=0.01) and found.recall == 1


def test_pieces_are_no_match() -> None:
    """Four arms from the middle cover the cross and are none of its strokes."""
    middle = np.array([100.0, 100])
    arms = [np.stack([middle, end]) for stroke in CROSS for end in stroke]
    found = compare_strokes(arms, CROSS, 200)
    assert found.recall == found.f == 1
    assert found.match == found.exact == 0 and found.paths_per_stroke == 2


def test_direction_and_order() -> None:
    turned = [CROSS[1], CROSS[0][::-1]]
    found = compare_strokes(turned, CROSS, 200)
    assert found.match == found.exact == 1
    assert found.direction == 0.5 and found.order == 0


def test_one_path_matches_one_stroke() -> None:
    found = compare_strokes([CROSS[0], CROSS[0]], CROSS, 200)
    assert found.match == 0.5 and found.exact == 0 and found.recall < 0.6


def test_nothing_found() -> None:
    found = compare_strokes([], CROSS, 200)
    assert found.recall == found.match == found.exact == 0 and np.isnan(found.chamfer)


def test_resampling_keeps_ends_and_length() -> None:
    line = resample(np.array([[0.0, 0], [3, 4], [3, 14]]))
    steps = np.hypot(*np.diff(line, axis=0).T)
    assert len(line) == 16 and (line[0] == 0).all() and (line[-1] == (3, 14)).all()
    assert steps.max() <= 1 + 1e-9
    assert len(resample(np.array([[5.0, 5], [5, 5]]))) == 2  # a dot


def test_the_page_has_the_tables_of_the_results() -> None:
    results = strokes_table.RESULTS / "strokes.json"
    tables = strokes_table.page_tables(json.loads(results.read_text()))
    assert tables in strokes_table.PAGE.read_text()
