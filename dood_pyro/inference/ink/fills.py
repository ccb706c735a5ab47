"""Solid patches of ink, far thicker than the pen: each an outline, and lines to and fro that fill it.
`dood_pyro.inference.ink.parse_ink` takes them out of the ink before it looks for lines.

A patch has no middle line that a pen could have followed; a person fills it with the pen at hand.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from dood_pyro.inference.ink.fit import Chain
from dood_pyro.inference.ink.paper import Ink, specks
from dood_pyro.inference.ink.skeleton import Points

THICK = 3.0
"""Depth of a patch, from its edge, in widths of the pen."""
COMPACT = 3.0
"""Most area of a patch, in squares as wide as it is thick; what is longer is a line of a thick pen."""
CORNER = 0.3
"""Most area of a patch's corners, which no disc of that depth reaches, in squares of the depth."""
SPACING = 0.9
"""Distance between neighbouring lines that fill, in widths of the pen."""
INSET = 0.75
"""Depth from which they fill, in widths of the pen: the outline reaches down to one."""
SMOOTH = 0.4
"""Most distance of an outline from the patch's edge, pixels, where that has steps."""

Mask = Bool[np.ndarray, "height width"]


class Fills(NamedTuple):
    """Solid patches of ink."""

    strokes: list[Chain]
    """Outlines, each followed by the lines that fill it."""
    rest: Ink
    """The ink without the patches."""


def take_fills(ink: Ink) -> Fills:
    """Take solid patches out of a picture's ink."""
    mask, reach = ink.mask, THICK * ink.width
    # Within each such patch is a square: soon told of most pictures that there is none.
    if ink.coarse or not reach or not _holds_square(mask, int(1.4 * reach)):
        return Fills([], ink)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    cores, _ = ndimage.label(depth > reach, np.ones((3, 3)))
    strokes: list[Chain] = []
    taken = np.zeros_like(mask)
    for index, box in enumerate(ndimage.find_objects(cores)):
        box = _grown(box, int(reach) + 2, mask.shape)
        core = cores[box] == index + 1
        patch = mask[box] & (ndimage.distance_transform_edt(~core) <= reach)
        if patch.sum() > COMPACT * (2 * float(depth[box][core].max())) ** 2:
            continue
        patch |= _corners(mask[box], patch, CORNER * reach**2)
        darkness = float(np.median(ink.strength[box][patch]))
        corner = np.array([box[1].start, box[0].start])
        for line in _filling(patch, ink.width):
            strokes.append(Chain(_straight(line + corner), ink.width, darkness))
        taken[box] |= patch
    if not strokes:
        return Fills([], ink)
    edge = ndimage.binary_dilation(taken, np.ones((3, 3)))
    return Fills(strokes, ink._replace(strength=np.where(edge, 0, ink.strength)))


def _holds_square(mask: Mask, side: int) -> bool:
    if side < 1 or side > min(mask.shape):
        return False
    return bool(ndimage.minimum_filter(mask.astype(np.uint8), side).any())


def _grown(box: tuple[slice, slice], margin: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """A box with a margin, cut off at the picture's border."""
    rows, columns = (
        slice(max(0, each.start - margin), min(size, each.stop + margin))
        for each, size in zip(box, shape, strict=True)
    )
    return rows, columns


def _corners(mask: Mask, patch: Mask, area: float) -> Mask:
    """Small pieces of ink that touch a patch."""
    small = specks(mask & ~patch, area)
    pieces, _ = ndimage.label(small, np.ones((3, 3)))
    beside = np.unique(pieces[ndimage.binary_dilation(patch, np.ones((3, 3)))])
    return small & np.isin(pieces, beside[beside > 0])


def _filling(patch: Mask, width: float) -> list[Points]:
    """Lines of a pen that fill a patch: around it, then to and fro."""
    from skimage.measure import approximate_polygon, find_contours

    depth = ndimage.distance_transform_edt(np.pad(patch, 1))
    lines = [
        approximate_polygon(contour, SMOOTH)[:, ::-1] - 0.5  # of the padding, to pixels' corners
        for contour in find_contours(depth, width / 2)
    ]
    inner = depth[1:-1, 1:-1] > INSET * width
    return lines + _to_and_fro(inner, SPACING * width)


def _to_and_fro(inner: Mask, spacing: float) -> list[Points]:
    """Lines along rows of a mask, one after the other, joined where rows meet."""
    rows = np.nonzero(inner.any(1))[0]
    if not len(rows):
        return []
    count = max(1, round((rows[-1] - rows[0]) / spacing))
    done: list[list[tuple[float, float]]] = []
    open_lines: list[tuple[tuple[int, int], list[tuple[float, float]]]] = []
    for row in np.linspace(rows[0], rows[-1], count + 1).round().astype(int):
        runs = _runs(inner[row])
        following = []
        for first, last in runs:
            before = next(
                (each for each in open_lines if each[0][0] <= last and first <= each[0][1]), None
            )
            ends = [(first + 0.5, row + 0.5), (last + 0.5, row + 0.5)]
            if before is None:
                line = ends
                done.append(line)
            else:
                open_lines.remove(before)
                line = before[1]
                nearer = abs(line[-1][0] - ends[0][0]) <= abs(line[-1][0] - ends[1][0])
                line += ends if nearer else ends[::-1]
            following.append(((first, last), line))
        open_lines = following
    return [np.array(line) for line in done if line[0] != line[-1]]


def _runs(row: Bool[np.ndarray, "width"]) -> list[tuple[int, int]]:
    """First and last places of runs of True."""
    steps = np.diff(np.concatenate([[0], row.astype(np.int8), [0]]))
    firsts, ends = np.nonzero(steps > 0)[0], np.nonzero(steps < 0)[0]
    return [(int(a), int(b) - 1) for a, b in zip(firsts, ends, strict=True)]


def _straight(line: Points) -> Float[np.ndarray, "curves 4 2"]:
    """Straight cubic curves from point to point."""
    t = np.array([0, 1 / 3, 2 / 3, 1])[:, None]
    return line[:-1, None] * (1 - t) + line[1:, None] * t
