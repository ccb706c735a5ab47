"""Pictures by a round pen with sharp edges, as SVG's strokes are; not differentiable.
Drawings of any size show themselves by it, and true strokes become pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import ndimage
from scipy.spatial import cKDTree

Polyline = Float[np.ndarray, "points 2"]
"""A pen path in pixels: x to the right, y down; pixel i covers [i, i + 1)."""


def resample(polyline: Polyline, spacing: float = 1.0) -> Polyline:
    """Points along a polyline at equal distances of about ``spacing``, both ends included."""
    steps = np.hypot(*np.diff(polyline, axis=0).T)
    along = np.concatenate([[0.0], steps.cumsum()])
    count = max(2, round(float(along[-1]) / spacing) + 1)
    where = np.linspace(0, along[-1], count)
    return np.stack([np.interp(where, along, column) for column in polyline.T], axis=-1)


def draw_with_pen(
    strokes: Sequence[Polyline],
    shape: tuple[int, int],
    width: float | Sequence[Float[np.ndarray, "points"]],
) -> Float[np.ndarray, "height width"]:
    """Picture of strokes by a round pen: the share of each pixel that ink covers, nearly.

    Args:
        strokes: in pixels.
        shape: height and width of the picture.
        width: the pen's diameter, pixels; or what it is at each point of each stroke.
    """
    if not strokes:
        return np.zeros(shape)
    if isinstance(width, (int, float)):
        points = np.concatenate([resample(stroke, 0.25) for stroke in strokes])
        return _draw_dots(points, shape, width)
    swelling = [np.column_stack([*each]) for each in zip(strokes, width, strict=True)]
    points = np.concatenate([resample(stroke, 0.25) for stroke in swelling])
    # A swelling pen is many pens, each of which draws where it is as wide.
    widths = np.round(8 * points[:, 2]) / 8
    drawn = [_draw_dots(points[widths == each, :2], shape, each) for each in np.unique(widths)]
    picture: np.ndarray = np.max(drawn, axis=0)
    return picture


def _draw_dots(
    points: Float[np.ndarray, "points 2"], shape: tuple[int, int], width: float
) -> Float[np.ndarray, "height width"]:
    """Picture of dots of one pen, which lie close to one another along strokes."""
    picture = np.zeros(shape)
    reach = int(np.ceil(width / 2)) + 2
    columns, rows = np.floor(points).astype(int).T
    # Only the box that the strokes lie in is looked at: a large page with a small drawing costs little.
    left, top = max(0, int(columns.min()) - reach), max(0, int(rows.min()) - reach)
    right, bottom = int(columns.max()) + reach + 1, int(rows.max()) + reach + 1
    near = np.zeros(
        (max(0, min(bottom, shape[0]) - top), max(0, min(right, shape[1]) - left)), bool
    )
    columns, rows = columns - left, rows - top
    inside = (rows >= 0) & (rows < near.shape[0]) & (columns >= 0) & (columns < near.shape[1])
    near[rows[inside], columns[inside]] = True
    for axis in (0, 1):
        near = ndimage.maximum_filter1d(
            near.view(np.uint8), 2 * reach + 1, axis=axis, mode="constant"
        )
    ys, xs = np.nonzero(near)
    centres = np.stack([xs + left + 0.5, ys + top + 0.5], axis=-1)
    distance = cKDTree(points).query(centres, distance_upper_bound=width / 2 + 1)[0]
    picture[ys + top, xs + left] = np.clip(width / 2 + 0.5 - distance, 0, 1)
    return picture
