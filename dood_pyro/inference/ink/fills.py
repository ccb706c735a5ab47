"""Patches of ink thicker than the pen: dots, and solid shapes, which a person fills with the pen.
`dood_pyro.inference.ink.parse_ink` takes them out of the ink before it looks for lines.

A patch has no middle line that a pen could have followed. A round one that is not large is a dot, a
touch of a pen as wide; of others the outline is drawn, and lines to and fro. Lines that pass through a
patch are led on straight; others go to a small one's middle, and end at a large one's edge.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from dood_pyro.inference.ink.fit import Chain
from dood_pyro.inference.ink.paper import Ink, specks
from dood_pyro.inference.ink.skeleton import Point, Points

THICK = 3.0
"""Depth of a large patch, from its edge, in widths of the pen."""
COMPACT = 3.0
"""Most area of a patch, in squares as wide as it is thick; what is longer is a line of a thick pen."""
CORNER = 0.3
"""Most area of a large patch's corners, which no disc of that depth reaches, in squares of it."""
LEAST = 1.1
"""Depth of a dot, in widths of the pen: where two lines cross or part, ink is less deep."""
LEAST_ALONE = 0.65
"""Depth of a dot that no line reaches, likewise."""
LEAST_SHAPED = 1.35
"""Depth of a small patch that is not round, likewise: it might be a small loop that ink has closed."""
OPENED = 0.72
"""Radius of a disc that fits into a small patch everywhere but at its tips, in widths of the pen; into
lines, and where two cross, it does not."""
TIP = 1.5
"""Most length of these tips, in widths of the pen."""
BARE = 0.3
"""Least share of a small patch that lines which reach it do not touch: else they meet there."""
ROUND = 0.935
"""Least share of a dot that lies in the circle of its area; of a square it is .91."""
CONVEX = 0.78
"""Least share that a small patch has of its convex hull."""
STRAIGHT = math.cos(math.radians(30))
"""Least cosine of the turn between a line and the way through a patch to one that goes on with it."""
APPROACH = 2.0
"""Stretch before a patch by which a line's direction is measured, in widths of the pen."""
SPACING = 0.9
"""Distance between neighbouring lines that fill, in widths of the pen."""
INSET = 0.75
"""Depth from which they fill, in widths of the pen: the outline reaches down to one."""
SMOOTH = 0.4
"""Most distance of an outline from the patch's edge, pixels, where that has steps."""

AROUND = np.ones((3, 3))
"""A pixel and the eight about it."""
Mask = Bool[np.ndarray, "height width"]
Picture = Float[np.ndarray, "height width"]
Box = tuple[slice, slice]


class Fills(NamedTuple):
    """Patches of ink."""

    strokes: list[Chain]
    """Dots, and outlines, each followed by the lines that fill it."""
    rest: Ink
    """The ink without the patches."""


class _Contact(NamedTuple):
    """Where a line reaches a patch."""

    place: Point
    """In pixels."""
    inward: Point
    """The line's direction there, of length 1."""


class _Patch(NamedTuple):
    """A patch of ink."""

    box: Box
    """What is cut out of the picture around it."""
    inside: Mask
    """Which pixels of the box it has."""
    depth: float
    """Distance from its middle to its edge, widths of the pen."""
    large: bool


def take_fills(ink: Ink) -> Fills:
    """Take patches out of a picture's ink."""
    if ink.coarse or not ink.width:
        return Fills([], ink)
    depth: Picture = ndimage.distance_transform_edt(np.pad(ink.mask, 1))[1:-1, 1:-1]
    # Of most pictures it is soon told that nothing is as deep.
    if depth.max() - 0.5 <= LEAST_ALONE * ink.width:
        return Fills([], ink)
    strokes: list[Chain] = []
    rest = ink.strength.copy()
    patches = [*_large_patches(ink, depth), *_small_patches(ink, depth), *_dots_alone(ink, depth)]
    for patch in patches:
        box, inside, deep, large = patch
        middle = _points(inside).mean(0)
        lines = _led_on(_contacts(ink.mask[box], inside, ink.width), middle, large, ink.width)
        painted = _painted(lines, inside, ink.width)
        if not large and (inside & (painted == 0)).sum() < BARE * inside.sum():
            continue
        darkness = float(np.median(ink.strength[box][inside]))
        corner = np.array([box[1].start, box[0].start])
        if not large and _is_round(inside):
            dot = np.broadcast_to(middle + corner, (1, 4, 2)).copy()
            strokes.append(Chain(dot, 2 * math.sqrt(inside.sum() / math.pi), darkness))
        elif large or (lines and deep > LEAST_SHAPED):
            filling = [_straight(line + corner) for line in _filling(inside, ink.width)]
            strokes += [Chain(line, ink.width, darkness) for line in filling]
        else:  # by itself it is a short line of a thicker pen
            continue
        edge = ndimage.binary_dilation(inside, AROUND)
        rest[box] = np.where(edge, darkness * painted, rest[box])
    return Fills(strokes, ink._replace(strength=rest)) if strokes else Fills([], ink)


def _large_patches(ink: Ink, depth: Picture) -> Iterator[_Patch]:
    """Patches that are several times as thick as the pen.

    Args:
        depth: of each pixel of ink, from the ink's edge.
    """
    mask, reach = ink.mask, THICK * ink.width
    cores, _ = ndimage.label(depth > reach, AROUND)
    for index, box in enumerate(ndimage.find_objects(cores), 1):
        box = _grown(box, int(reach + APPROACH * ink.width) + 4, mask.shape)
        core = cores[box] == index
        inside = mask[box] & (ndimage.distance_transform_edt(~core) <= reach)
        radius = float(depth[box][core].max())
        if inside.sum() <= COMPACT * (2 * radius) ** 2:
            inside |= _corners(mask[box], inside, CORNER * reach**2)
            yield _Patch(box, inside, radius / ink.width, large=True)


def _small_patches(ink: Ink, depth: Picture) -> Iterator[_Patch]:
    """Patches that are little thicker than the pen."""
    from skimage.measure import regionprops

    mask, width = ink.mask, ink.width
    wide = mask & (ndimage.distance_transform_edt(depth <= OPENED * width) <= OPENED * width)
    pieces, _ = ndimage.label(wide, AROUND)
    for index, box in enumerate(ndimage.find_objects(pieces), 1):
        radius = float(depth[box][pieces[box] == index].max()) - 0.5
        if not LEAST * width < radius <= THICK * width - 0.5:
            continue
        box = _grown(box, int((TIP + APPROACH) * width) + 4, mask.shape)
        inside = _with_tips(mask[box], pieces[box] == index, TIP * width)
        shape = regionprops(inside.astype(np.uint8))[0]
        if shape.area <= COMPACT * (2 * radius) ** 2 and shape.solidity >= CONVEX:
            yield _Patch(box, inside, radius / width, large=False)


def _dots_alone(ink: Ink, depth: Picture) -> Iterator[_Patch]:
    """Discs that no line reaches, and that are no larger than a small patch."""
    pieces, _ = ndimage.label(ink.mask, AROUND)
    for index, box in enumerate(ndimage.find_objects(pieces), 1):
        sides = [part.stop - part.start for part in box]
        if max(sides) > min(2 * LEAST * ink.width + 1, 1.3 * min(sides) + 1):
            continue
        radius = float(depth[box].max(where=pieces[box] == index, initial=0)) - 0.5
        if LEAST_ALONE * ink.width < radius <= LEAST * ink.width:
            box = _grown(box, 1, ink.mask.shape)
            inside = pieces[box] == index
            if _is_round(inside):
                yield _Patch(box, inside, radius / ink.width, large=False)


def _points(mask: Mask) -> Points:
    """Middles of a mask's pixels."""
    rows, columns = np.nonzero(mask)
    return np.stack([columns, rows], axis=-1) + 0.5


def _is_round(patch: Mask) -> bool:
    """Whether a patch is a disc, but for where lines leave it."""
    away = np.hypot(*(_points(patch) - _points(patch).mean(0)).T)
    return bool((away <= math.sqrt(len(away) / math.pi)).mean() >= ROUND)


def _with_tips(mask: Mask, patch: Mask, length: float) -> Mask:
    """A patch with the ink beside it that does not reach further than ``length``."""
    away = ndimage.distance_transform_edt(~patch)
    pieces, count = ndimage.label(mask & ~patch, AROUND)
    reach = ndimage.maximum(away, pieces, range(1, count + 1))
    near = ndimage.minimum(away, pieces, range(1, count + 1))
    tips = [i for i in range(count) if near[i] < 1.5 and reach[i] <= length]
    grown: Mask = patch | np.isin(pieces, np.array(tips) + 1)
    return grown


def _contact(place: Point, inward: Point) -> _Contact:
    return _Contact(place, inward / max(float(np.hypot(*inward)), 1e-6))


def _contacts(mask: Mask, patch: Mask, width: float) -> list[_Contact]:
    """Where lines reach a patch."""
    away = ndimage.distance_transform_edt(~patch)
    around = mask & (away > 0) & (away <= APPROACH * width + 2)
    pieces, number = ndimage.label(around, AROUND)
    found = []
    for piece in range(1, number + 1):
        line = pieces == piece
        near = line & (away <= 2)
        if not near.any():
            continue
        place = _points(near).mean(0)
        ends, count = ndimage.label(line & (away > APPROACH * width), AROUND)
        if count < 2:
            found.append(_contact(place, place - _points(line).mean(0)))
            continue
        for end in range(1, count + 1):  # lines that meet before they reach the patch
            outer = _points(ends == end).mean(0)
            found.append(_contact(outer, place - outer))
    return found


def _led_on(contacts: list[_Contact], middle: Point, large: bool, width: float) -> list[Points]:
    """Ways of lines through a patch: straight from one to another that goes on with it; of others to
    the patch's middle, or into a large one as far as its outline's pen reaches."""
    straight = []
    for (i, first), (j, second) in itertools.combinations(enumerate(contacts), 2):
        way = second.place - first.place
        way = way / max(float(np.hypot(*way)), 1e-6)
        turn = min(float(first.inward @ way), -float(second.inward @ way))
        if turn > STRAIGHT:
            straight.append((turn, i, j))
    ways: list[Points] = []
    done: set[int] = set()
    for _, i, j in sorted(straight, reverse=True):
        if not done & {i, j}:
            ways.append(np.array([contacts[i].place, contacts[j].place]))
            done |= {i, j}
    others = [contact for i, contact in enumerate(contacts) if i not in done]
    ends = [each.place + width * each.inward if large else middle for each in others]
    return ways + [np.array([each.place, end]) for each, end in zip(others, ends, strict=True)]


def _painted(lines: list[Points], patch: Mask, width: float) -> Picture:
    """Coverage of the pixels about a patch by a round pen along straight lines."""
    rows, columns = np.indices(patch.shape) + 0.5
    pixels = np.stack([columns, rows], axis=-1)
    painted: Picture = np.zeros(patch.shape)
    for start, end in lines:
        way = end - start
        t = ((pixels - start) @ way / max(float(way @ way), 1e-9)).clip(0, 1)
        distance = np.linalg.norm(pixels - start - t[..., None] * way, axis=-1)
        painted = np.maximum(painted, (width / 2 - distance + 0.5).clip(0, 1))
    return painted


def _grown(box: Box, margin: int, shape: tuple[int, ...]) -> Box:
    """A box with a margin, cut off at the picture's border."""
    rows, columns = (
        slice(max(0, each.start - margin), min(size, each.stop + margin))
        for each, size in zip(box, shape, strict=True)
    )
    return rows, columns


def _corners(mask: Mask, patch: Mask, area: float) -> Mask:
    """Small pieces of ink that touch a patch."""
    small = specks(mask & ~patch, area)
    pieces, _ = ndimage.label(small, AROUND)
    beside = np.unique(pieces[ndimage.binary_dilation(patch, AROUND)])
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
