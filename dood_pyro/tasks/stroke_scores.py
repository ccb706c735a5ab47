"""Comparison of inferred pen strokes with a person's: geometry, decomposition, direction, order.
The table of strokes measures by it.

Strokes are polylines in pixels, x to the right, y down; pixel i covers [i, i + 1). They are resampled
at a pixel's spacing before they are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from dood_pyro.rendering.round_pen import Polyline, resample

TOLERANCE = 0.02
"""Distance within which points agree, as a share of the picture's side."""
COVER = 0.8
"""Share of each other's points that a path and a true stroke must cover to match."""


class StrokeScores(NamedTuple):
    """Scores of one drawing; NaN where there is nothing to score."""

    chamfer: float
    """Mean of both directions' mean distances, % of the side."""
    recall: float
    """Share of the true strokes' points within `TOLERANCE` of a path."""
    f: float
    """Harmonic mean of recall and the same share of the paths' points."""
    match: float
    """F of one-to-one matches between paths and true strokes."""
    exact: float
    """1 if every path matches a true stroke and every stroke a path."""
    direction: float
    """Share of matched strokes that are drawn the way the person drew them."""
    order: float
    """Share of pairs of matched strokes that come in the person's order."""
    paths_per_stroke: float


def compare_strokes(
    found: Sequence[Polyline], truth: Sequence[Polyline], side: float
) -> StrokeScores:
    """Scores of the paths found in a picture.

    Args:
        truth: the person's strokes, in writing order; at least one.
        side: pixels per side of the picture, the longer one.
    """
    strokes = [resample(stroke) for stroke in truth]
    if not found:
        return StrokeScores(np.nan, 0.0, 0.0, 0.0, 0.0, np.nan, np.nan, 0.0)
    paths = [resample(path) for path in found]
    radius = TOLERANCE * side
    ink, drawn = np.concatenate(strokes), np.concatenate(paths)
    to_paths, to_strokes = cKDTree(drawn).query(ink)[0], cKDTree(ink).query(drawn)[0]
    recall, precision = float((to_paths <= radius).mean()), float((to_strokes <= radius).mean())
    pairs = match_strokes(paths, strokes, radius)
    agreeing = [_same_direction(paths[path], strokes[stroke]) for path, stroke in pairs]
    rank = [path for path, _ in sorted(pairs, key=lambda pair: pair[1])]
    ordered = [a < b for i, a in enumerate(rank) for b in rank[i + 1 :]]
    return StrokeScores(
        chamfer=50 * float(to_paths.mean() + to_strokes.mean()) / side,
        recall=recall,
        f=2 * recall * precision / max(recall + precision, 1e-9),
        match=2 * len(pairs) / (len(paths) + len(strokes)),
        exact=float(len(pairs) == len(paths) == len(strokes)),
        direction=float(np.mean(agreeing)) if agreeing else np.nan,
        order=float(np.mean(ordered)) if ordered else np.nan,
        paths_per_stroke=len(paths) / len(strokes),
    )


def match_strokes(
    paths: Sequence[Polyline], strokes: Sequence[Polyline], radius: float
) -> list[tuple[int, int]]:
    """Pairs of a path and a stroke that cover `COVER` of each other within ``radius``: as many as can
    be, one to one."""
    path_trees, stroke_trees = [cKDTree(p) for p in paths], [cKDTree(s) for s in strokes]
    cover = np.zeros((len(paths), len(strokes)))
    for i, path in enumerate(paths):
        for j, stroke in enumerate(strokes):
            if _apart(path, stroke, radius):
                continue
            ours = (stroke_trees[j].query(path, distance_upper_bound=radius)[0] <= radius).mean()
            theirs = (path_trees[i].query(stroke, distance_upper_bound=radius)[0] <= radius).mean()
            cover[i, j] = min(ours, theirs)
    # Above all the number of matches counts, then how well they cover each other.
    rows, columns = linear_sum_assignment(
        np.where(cover >= COVER, 1 + cover / 1000, 0.0), maximize=True
    )
    chosen = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(i, j) for i, j in chosen if cover[i, j] >= COVER]


def _apart(first: Polyline, second: Polyline, radius: float) -> bool:
    """Whether two polylines' boxes are farther apart than ``radius``."""
    gap = np.maximum(first.min(0) - second.max(0), second.min(0) - first.max(0))
    return bool((gap > radius).any())


def _same_direction(path: Polyline, stroke: Polyline) -> bool:
    """Whether a path runs along a stroke rather than against it."""
    count = 20
    a, b = (
        line[np.linspace(0, len(line) - 1, count).round().astype(int)] for line in (path, stroke)
    )
    return bool(np.square(a - b).sum() <= np.square(a[::-1] - b).sum())
