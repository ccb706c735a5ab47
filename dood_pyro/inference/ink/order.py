"""Order in which strokes are drawn, by rule: characters line by line, and each in one go.
Used by `dood_pyro.inference.ink.parse_ink`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.cluster.hierarchy import DisjointSet

from dood_pyro.inference.ink.fit import Chain
from dood_pyro.inference.ink.skeleton import Points

APART = 0.12
"""Gap between strokes of a character, as a share of the higher one's size."""
DOWNWARD = 1.0
"""Weight of a start's height against its place from the left, within a character."""


def drawing_order(chains: Sequence[Chain]) -> list[int]:
    """Indices of strokes in drawing order.

    Strokes whose boxes overlap, or nearly, are a character. Characters come line by line from the top,
    within a line from the left; strokes within a character by where they start, from the upper left.
    """
    if not chains:
        return []
    boxes = np.array([box_of(chain.control.reshape(-1, 2)) for chain in chains])
    groups = characters(boxes)
    whole = np.array([[*boxes[group, :2].min(0), *boxes[group, 2:].max(0)] for group in groups])
    ordered = []
    for index in _reading_order(whole):
        group = groups[index]
        starts = np.array([chains[each].control[0, 0] for each in group])
        rank = starts[:, 0] + DOWNWARD * starts[:, 1]
        ordered += [group[each] for each in np.argsort(rank, kind="stable")]
    return ordered


def box_of(points: Points) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of points."""
    (left, top), (right, bottom) = points.min(0), points.max(0)
    return float(left), float(top), float(right), float(bottom)


def characters(boxes: Float[np.ndarray, "boxes 4"]) -> list[list[int]]:
    """Indices of boxes (left, top, right, bottom) that overlap or nearly do, together."""
    sets = DisjointSet(range(len(boxes)))
    size = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    by_left = np.argsort(boxes[:, 0])
    reach = APART * float(size.max())
    for place, i in enumerate(by_left):
        for j in by_left[place + 1 :]:
            if boxes[j, 0] - boxes[i, 2] > reach:
                break
            margin = APART * max(size[i], size[j])
            across = max(boxes[i, 0], boxes[j, 0]) - min(boxes[i, 2], boxes[j, 2])
            down = max(boxes[i, 1], boxes[j, 1]) - min(boxes[i, 3], boxes[j, 3])
            if max(across, down) <= margin:
                sets.merge(int(i), int(j))
    return [sorted(group) for group in sets.subsets()]


def _reading_order(boxes: np.ndarray) -> list[int]:
    """Boxes line by line: those whose middles lie within a line's height belong to it."""
    left = sorted(range(len(boxes)), key=lambda index: float(boxes[index, 1]))
    ordered: list[int] = []
    while left:
        top = left[0]
        low, high = boxes[top, 1], boxes[top, 3]
        # The line is as high as the highest box that begins in the upper half of the first.
        for index in left:
            if boxes[index, 1] < (low + high) / 2:
                high = max(high, min(boxes[index, 3], low + 2 * (high - low)))
        line = [index for index in left if (boxes[index, 1] + boxes[index, 3]) / 2 <= high]
        line = line or [top]
        ordered += sorted(line, key=lambda index: float(boxes[index, 0]))
        left = [index for index in left if index not in line]
    return ordered
