"""The sheet of paper in a photograph that shows what it lies on, too.
`dood_pyro.inference.ink.paper` looks for ink on it alone.

A sheet is where the colour changes slowly, up to edges that make it convex and four-sided; around it,
up to the picture's border, is another and darker colour. A shadow over a part of the paper is not
taken for a table: it is grey, lets light through, and comes in from a side or two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.spatial import ConvexHull

from .blocks import enlarged, shrunk

SMALLEST = 240
"""Longer side of a picture, pixels, up to which it is no photograph of a sheet."""
SLIMMEST = 8
"""Longer side in shorter ones, from which it is a strip and no photograph either."""
SIDE = 200
"""Blocks of the longer side, by whose means the sheet is looked for."""
MEDIAN = 9
"""Side of the neighbourhood in whose median pens' lines vanish, blocks."""
JUMP = 0.05
"""Difference between neighbouring blocks' colours from which there is an edge."""
TRIED = 4
"""Number of parts without edges that may be the sheet."""
LEAST_SHADED = 0.05
"""Least share of the picture of a shaded part of the sheet."""
NEAR = 20
"""Blocks from the lit part in which its light tells what a shadow lets through."""
BRIDGED = 6
"""Half of the width of a shadow's edge, blocks, over which both sides are one sheet."""
LEAST_SHEET, LEAST_AROUND = 0.2, 0.01
"""Least shares of the picture of the sheet and of what is around it."""
CONVEX = 0.94
"""Least share of its convex hull that a sheet covers."""
FRAMED = 0.1
"""Least share of the picture's border that differs so from its middle."""
FOUR_SIDED = 0.88
"""Least share that the largest quadrilateral in it covers."""
INK, MOST_INKED = 0.995, 0.2
"""Quantile of differences from the paper that is ink's, and the most of a sheet that is inked; where
more is, it is a dense drawing."""
MEASURED = 200_000
"""Number of pixels, about, by which that is measured."""
ALIKE, ONE_COLOUR = 0.03, 1e-3
"""Differences of colours, of what is drawn with one pen, and of neighbouring pixels of one colour."""
CONTRAST = 0.1
"""Least difference of what is around the sheet from the sheet, in some channel."""
UNLIKE = 0.8
"""Share of what is around the sheet that differs so from it."""
SHADE = 0.5
"""Share of the light that a shadow lets through at the least."""
HUE = 0.08
"""Most difference that a shadow makes between channels."""
SIDES, ALONG = 3, 0.9
"""Sides of the picture that what is around the sheet lies along where it may be a shadow, and the
least share of such a side."""
BESIDE = 0.25
"""Least share of a second side of the picture that it lies along."""
BLACK = 0.02
"""Brightness up to which what is around the sheet is nothing, not a table."""
EDGE = 0.04
"""Distance from the sheet's edge, as a share of its longer side, up to which such a piece lies."""
TOUCHING = 2
"""Distance from it at which such a piece touches the edge, pixels."""
MARGIN = 2
"""Blocks along its edge, blurred and shaded, that are not counted as of the sheet."""


class Sheet(NamedTuple):
    """A sheet of paper in a picture."""

    box: tuple[slice, slice]
    """Rows and columns that it lies in."""
    colours: Float[np.ndarray, "height width channels"]
    """Of the box; the paper's where there is no sheet."""
    there: Bool[np.ndarray, "height width"]
    """Where in the box the sheet is."""

    def edges(self, ink: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
        """What is not of the sheet, though it looks like ink: pieces along its edge that touch it."""
        side = max(ink.shape)
        far = ndimage.distance_transform_edt(np.pad(self.there, 1))[1:-1, 1:-1] > EDGE * side
        pieces, _ = ndimage.label(ink, np.ones((3, 3)))
        at_edge = ndimage.binary_dilation(~self.there, iterations=TOUCHING)
        along = np.setdiff1d(pieces[at_edge], pieces[far])
        return ~self.there | (ink & np.isin(pieces, along))


def find_sheet(colours: Float[np.ndarray, "height width channels"]) -> Sheet | None:
    """The sheet that a photograph shows with what is around it; None where there is no such thing.

    A photograph of bright ink on a dark sheet is to be given as its negative.
    """
    height, width = colours.shape[:2]
    if max(height, width) <= SMALLEST or SLIMMEST * min(height, width) < max(height, width):
        return None
    channels = [shrunk(each, SIDE) for each in np.moveaxis(colours, -1, 0)]
    if not _is_framed(np.stack(channels, -1)):  # most pictures, soon told
        return None
    blocks = np.stack([ndimage.median_filter(each, MEDIAN) for each in channels], -1)
    found = next((each for each in _flat_parts(blocks) if _is_sheet(blocks, each)), None)
    if found is None:
        return None
    # Dense ink at its edge is no flat part, and yet of the sheet.
    core = ndimage.binary_erosion(_hull(found), iterations=MARGIN, border_value=1)
    if not (core & found).any():
        return None
    ground = _continued(blocks, core & found)
    shape = (height, width)
    there = enlarged(core.astype(float), shape) > 0.5
    rows, columns = np.nonzero(there.any(1))[0], np.nonzero(there.any(0))[0]
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    paper = [enlarged(each, shape)[box] for each in np.moveaxis(ground, -1, 0)]
    there = there[box]
    if _share_inked(colours[box], np.stack(paper, -1), there) > MOST_INKED:
        return None
    around = enlarged(ndimage.binary_erosion(~core, iterations=2 * MARGIN, border_value=1), shape)
    if _is_drawn(colours, around > 0.5, colours[box][there]):
        return None
    filled = np.where(there[..., None], colours[box], np.stack(paper, -1))
    return Sheet(box, filled.astype(colours.dtype), there)


def _is_framed(blocks: Float[np.ndarray, "rows columns channels"]) -> bool:
    """Whether a part of the picture's border is unlike its middle."""
    rows, columns = (side // 4 for side in blocks.shape[:2])
    middle = np.median(blocks[rows:-rows, columns:-columns], (0, 1))
    border = np.concatenate([blocks[0], blocks[-1], blocks[:, 0], blocks[:, -1]])
    return float((np.abs(border - middle).max(-1) > CONTRAST).mean()) > FRAMED


def _flat_parts(
    blocks: Float[np.ndarray, "rows columns channels"],
) -> Iterator[Bool[np.ndarray, "rows columns"]]:
    """The parts without edges that reach farthest, each with all that lies within it; first those with
    what may be their shaded parts."""
    steps = [
        ndimage.maximum_filter(each, 3) - ndimage.minimum_filter(each, 3)
        for each in np.moveaxis(blocks, -1, 0)
    ]
    parts, _ = ndimage.label(np.max(steps, 0) < JUMP)
    boxes = ndimage.find_objects(parts)
    reach = [(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in boxes]
    farthest = [int(index) + 1 for index in np.argsort(reach)[::-1][:TRIED]]
    broad = [part for part in farthest if (parts == part).mean() > LEAST_SHADED]
    for first in broad if len(broad) > 1 else ():
        lit = parts == first
        ground, near = _continued(blocks, lit), ndimage.binary_dilation(lit, iterations=NEAR)
        together = lit
        for part in broad:
            shaded = parts == part
            beside = near & shaded
            if part != first and beside.any() and _may_be_shade(blocks[beside], ground[beside]):
                together = together | shaded | _between(lit, shaded)
        if together is not lit:
            yield _whole(together)
    for part in farthest:
        yield _whole(parts == part)


def _between(
    one: Bool[np.ndarray, "rows columns"], other: Bool[np.ndarray, "rows columns"]
) -> Bool[np.ndarray, "rows columns"]:
    """What lies within `BRIDGED` blocks of both parts."""
    near = [ndimage.binary_dilation(part, iterations=BRIDGED) for part in (one, other)]
    both: np.ndarray = near[0] & near[1]
    return both


def _whole(part: Bool[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
    """A part up to its edge, with all that lies within it."""
    # Steps are wider by a block on either side than the edge is.
    filled: np.ndarray = ndimage.binary_fill_holes(ndimage.binary_dilation(part))
    return filled


def _is_sheet(
    blocks: Float[np.ndarray, "rows columns channels"], inside: Bool[np.ndarray, "rows columns"]
) -> bool:
    """Whether a part of a picture is a sheet that lies on something else."""
    if inside.mean() < LEAST_SHEET:
        return False
    hull = _hull(inside)
    around = ~hull
    if around.mean() < LEAST_AROUND:
        return False
    if inside.sum() < CONVEX * hull.sum() or _share_of_quadrilateral(hull) < FOUR_SIDED:
        return False
    # Away from the edge, whose blocks are of both.
    around = ndimage.binary_erosion(around, iterations=MARGIN, border_value=1)
    border = np.zeros_like(around)
    border[[0, -1]] = border[:, [0, -1]] = True
    if not (around & border).any():
        return False
    ground = _continued(blocks, inside)
    table = float(np.median(blocks[around]))
    # What is darker than its surroundings, or on nothing, may be a dense drawing.
    if not BLACK < table < float(np.median(ground[around])):
        return False
    unlike = np.abs(blocks - ground).max(-1) > CONTRAST
    # On the border, too: around a large closed line, drawn on the paper, is paper.
    if min(unlike[around].mean(), unlike[around & border].mean()) < UNLIKE:
        return False
    along = sorted(
        float(each.mean()) for each in (around[0], around[-1], around[:, 0], around[:, -1])
    )
    if _may_be_shade(blocks[around], ground[around]):
        return along[-SIDES] > ALONG
    # Else a banner.
    return along[-2] > BESIDE or int(ndimage.label(around)[1]) > 1


def _hull(part: Bool[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
    from skimage.morphology import convex_hull_image

    hull: np.ndarray = convex_hull_image(part)
    return hull


def _is_drawn(
    colours: Float[np.ndarray, "height width channels"],
    around: Bool[np.ndarray, "height width"],
    inside: Float[np.ndarray, "pixels channels"],
) -> bool:
    """Whether what is around is of one colour throughout, which no photograph is, and that of the ink,
    if there is other ink: a frame, or a figure that fills the picture.

    Args:
        inside: colours of the sheet.
    """
    beside = around[:, 1:] & around[:, :-1]
    if not beside.any():
        return True
    steps = np.abs(np.diff(colours, axis=1)).max(-1)[beside]
    brightness = inside.mean(-1)
    ink = inside[brightness <= np.quantile(brightness, 1 - INK)]
    alike = np.abs(np.median(ink, 0) - np.median(colours[around], 0)).max() < ALIKE
    blank = np.abs(np.median(ink, 0) - np.median(inside, 0)).max() < CONTRAST
    return bool((alike or blank) and (steps < ONE_COLOUR).mean() > UNLIKE)


def _may_be_shade(
    around: Float[np.ndarray, "blocks channels"], ground: Float[np.ndarray, "blocks channels"]
) -> bool:
    """Whether colours may be the paper's in a shadow, in the picture or in its negative."""
    for here, light in ((around, ground), (1 - around, 1 - ground)):
        through = here / np.maximum(light, 0.05)
        hue = float(np.median(np.ptp(through, axis=-1)))
        if hue < HUE and SHADE < float(np.median(through)) < 1 / SHADE:
            return True
    return False


def _share_of_quadrilateral(hull: Bool[np.ndarray, "rows columns"]) -> float:
    """Share of a convex part that the largest quadrilateral between its corners covers."""
    padded = np.pad(hull, 1)
    corners = np.argwhere(padded & ~ndimage.binary_erosion(padded)).astype(float)
    corners = corners[ConvexHull(corners).vertices]
    along = corners[None] - corners[:, None]
    # Twice the area, with its sign, of the triangle of a diagonal and a third corner.
    to = corners[None, None] - corners[:, None, None]
    areas = along[:, :, None, 0] * to[..., 1] - along[:, :, None, 1] * to[..., 0]
    largest = (areas.max(-1) - areas.min(-1)).max() / 2
    return float(largest / hull.sum())


def _share_inked(
    colours: Float[np.ndarray, "height width channels"],
    paper: Float[np.ndarray, "height width channels"],
    there: Bool[np.ndarray, "height width"],
) -> float:
    """Share of a sheet that is about as unlike its paper as its ink is."""
    every = slice(None, None, max(1, there.size // MEASURED))
    away = np.abs(colours - paper).max(-1)[there][every]
    ink = float(np.quantile(away, INK))
    return float((away > 0.5 * ink).mean()) if ink > CONTRAST else 0.0  # else noise


def _continued(
    blocks: Float[np.ndarray, "rows columns channels"], inside: Bool[np.ndarray, "rows columns"]
) -> Float[np.ndarray, "rows columns channels"]:
    """Colours that go on beyond a part as they are at the nearest place in it."""
    rows, columns = ndimage.distance_transform_edt(
        ~inside, return_distances=False, return_indices=True
    )
    nearest = blocks[rows, columns]
    smooth = ndimage.gaussian_filter(nearest, (MEDIAN / 2, MEDIAN / 2, 0))
    return np.where(inside[..., None], blocks, smooth)
