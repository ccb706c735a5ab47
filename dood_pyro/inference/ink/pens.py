"""Where strokes go from one pen's colour to another's.
`dood_pyro.inference.ink.parse_ink` cuts them there: joins are scored by geometry and darkness alone.

What a pen takes of its paper's light, or adds to it, is a direction in the space of colours, whatever
its line's darkness. Directions that occur along the strokes are gathered into pens, and a stroke ends
where it goes from one pen to another for longer than it would by crossing a line.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from dood_pyro.inference.ink.blocks import shrunk
from dood_pyro.inference.ink.joins import ChainedLine, End, turn
from dood_pyro.inference.ink.skeleton import Point, Points, along, path_length, pixels_at

GROUND_BLOCKS = 32
"""Blocks by which the paper's colour is looked at, on the longer side."""
LEAST_CHROMA = 0.12
"""Difference between the strongest and weakest of red, green and blue from which ink has a colour."""
LEAST_LIGHT = 0.25
"""Brightness from which a channel of the paper tells how much light there is."""
LEAST_CHANGE = 0.12
"""Change of the paper's colour from which its direction means something: its length."""
ALIKE = 12.0
"""Angle up to which directions are of one pen, degrees."""
APART = 20.0
"""Least angle between pens, degrees."""
LEAST_STRETCH = 3.0
"""Least stretch of a pen, widths of the pen: what is shorter is a crossing, or blurred."""
SNAP = 1.5
"""Distance to a node, widths of the pen, up to which a stroke is cut there."""
REACH = 2.5
"""Distance, widths of the pen, up to which ends of one pen meet."""
GOING_ON = 60.0
"""Turn up to which ends of one pen that meet go on with each other, degrees."""
GRID = 16
"""Steps per unit in which directions are counted."""

Directions = Float[np.ndarray, "points 3"]


class InkColours(NamedTuple):
    """A picture's colours, and those of its paper."""

    pixels: Float[np.ndarray, "height width 3"]
    ground: Float[np.ndarray, "rows columns 3"]
    """The paper's, by blocks of the picture."""

    def change(self, points: Float[np.ndarray, "points 2"]) -> Directions:
        """What ink has changed of the paper's colour at points, pixels of the picture."""
        changed: Directions = self._ground_at(points) - pixels_at(points, self.pixels)
        return changed

    def in_light(self, points: Float[np.ndarray, "points 2"]) -> Directions:
        """Colours of the picture at points, as they would be where its paper is brightest: in shadow
        paper and ink lose the same share of their light. Dark paper tells nothing of light."""
        here = self._ground_at(points)
        brightness = self.ground.mean(-1)
        brightest = self.ground[brightness >= np.quantile(brightness, 0.9)].mean(0)
        lost = np.where(here > LEAST_LIGHT, brightest / np.maximum(here, LEAST_LIGHT), 1.0)
        lit: Directions = (pixels_at(points, self.pixels) * lost).clip(0, 1)
        return lit

    def _ground_at(self, points: Float[np.ndarray, "points 2"]) -> Directions:
        rows, columns = self.ground.shape[:2]
        height, width = self.pixels.shape[:2]
        ground: Directions = pixels_at(points * [columns / width, rows / height], self.ground)
        return ground


def ink_colours(
    colours: Float[np.ndarray, "height width channels"], mask: Bool[np.ndarray, "height width"]
) -> InkColours | None:
    """Colours of ink beside its paper's; None where there is no colour.

    Args:
        mask: where there is ink.
    """
    if colours.shape[-1] != 3 or not mask.any():
        return None
    inked = colours[mask]
    if float(np.quantile(np.ptp(inked, axis=-1), 0.99)) < LEAST_CHROMA:
        return None
    paper = ~ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=2)
    share = ndimage.gaussian_filter(shrunk(paper.astype(np.float32), GROUND_BLOCKS), 1.0)
    planes = [
        ndimage.gaussian_filter(shrunk(np.where(paper, plane, 0), GROUND_BLOCKS), 1.0)
        for plane in np.moveaxis(colours, -1, 0)
    ]
    # Where all about is ink the paper is what it is elsewhere.
    usual = [float(plane.sum() / max(share.sum(), 1e-9)) for plane in planes]
    ground = [
        np.where(share > 0.02, plane / np.maximum(share, 0.02), elsewhere)
        for plane, elsewhere in zip(planes, usual, strict=True)
    ]
    return InkColours(colours, np.stack(ground, axis=-1))


class OfOnePen(NamedTuple):
    """A line of one pen."""

    line: ChainedLine
    of: list[int]
    """The lines that it is of."""


def of_one_pen(
    lines: Sequence[ChainedLine], colours: InkColours | None, width: float, factor: int
) -> list[OfOnePen]:
    """Lines cut where they go from one pen to another, and the ends that are left joined with those of
    the same pen that go on with them, as where two pens cross.

    Args:
        lines: in pixels ``factor`` times finer than the picture's.
        width: of the pen, in such pixels.
    """
    whole = [OfOnePen(line, [index]) for index, line in enumerate(lines)]
    if colours is None:
        return whole
    step = max(0.5 * width, 1.0)
    places = [_places(each.line, step) for each in lines]
    found = [
        _directions(each.line, at, colours, factor) for each, at in zip(lines, places, strict=True)
    ]
    pens = _pens(np.concatenate([each[~np.isnan(each[:, 0])] for each in found]), width / step)
    if len(pens) < 2:
        return whole
    parts: list[OfOnePen] = []
    ends: list[_LineEnd] = []
    for index, (line, at, directions) in enumerate(zip(lines, places, found, strict=True)):
        cuts = _cuts(directions, pens, round(LEAST_STRETCH * width / step))
        nearest = (_snapped(line, at[cut], SNAP * width) for cut in cuts)
        pieces = _parts(line, sorted({place for place in nearest if place is not None}))
        ring = len(pieces) > 1 and np.allclose(pieces[0].line[0], pieces[-1].line[-1])
        for place, piece in enumerate(pieces):
            along_it = _directions(piece.line, _places(piece.line, step), colours, factor)
            pen = _pen(along_it, pens)
            for end, cut in ((0, place > 0 or ring), (1, place < len(pieces) - 1 or ring)):
                ends.append(_line_end(piece.line, (len(parts), end), pen, cut, width))
            parts.append(OfOnePen(piece, [index]))
    return _joined(parts, _links(ends, REACH * width))


class _LineEnd(NamedTuple):
    """An end of a line of one pen."""

    end: End
    pen: int
    cut: bool
    """Whether a line was cut there."""
    point: Point
    outward: Point
    """Direction in which the line would go on."""


def _line_end(line: Points, end: End, pen: int, cut: bool, width: float) -> _LineEnd:
    inward = line if end[1] == 0 else line[::-1]
    near, far = along(inward, np.array([0.5, 2.5]) * width)
    outward = (near - far) / max(float(np.hypot(*(near - far))), 1e-9)
    return _LineEnd(end, pen, cut, inward[0], outward)


def _pen(directions: Directions, pens: Directions) -> int:
    """The pen of a line; -1 where its colour is hardly another than the paper's."""
    known = directions[~np.isnan(directions[:, 0])]
    return int(np.median(known @ pens.T, axis=0).argmax()) if len(known) else -1


def _links(ends: Sequence[_LineEnd], reach: float) -> dict[End, End]:
    """With which end each end of a cut goes on, in both directions: the straightest first."""
    points = np.array([each.point for each in ends]).reshape(-1, 2)
    pairs = [
        (turn(one.outward, ends[index].outward), one.end, ends[index].end)
        for one in ends
        if one.cut
        for index in np.flatnonzero(np.hypot(*(points - one.point).T) <= reach).tolist()
        if one.pen == ends[index].pen and one.end[0] != ends[index].end[0]
    ]
    found: dict[End, End] = {}
    for angle, one_end, other_end in sorted(pairs):
        if angle <= GOING_ON and one_end not in found and other_end not in found:
            found[one_end], found[other_end] = other_end, one_end
    return found


def _joined(parts: Sequence[OfOnePen], links: dict[End, End]) -> list[OfOnePen]:
    """Parts whose ends are linked as one, where the first of them was."""
    found: list[OfOnePen] = []
    done: set[int] = set()
    for index in range(len(parts)):
        if index in done:
            continue
        first, seen = (index, 0), {index}
        while first in links and links[first][0] not in seen:  # to where the chain begins
            before, end = links[first]
            seen.add(before)
            first = (before, 1 - end)
        line, of, (place, end) = np.zeros((0, 2)), [], first
        seams: list[int] = []
        while place not in done:
            done.add(place)
            points, own, _ = parts[place].line
            if end == 1:
                points, own = points[::-1], [len(points) - 1 - seam for seam in own[::-1]]
            if len(line):
                if np.allclose(line[-1], points[0]):
                    line = line[:-1]  # the same place
                seams.append(len(line))
            seams += [seam + len(line) for seam in own]
            line = np.concatenate([line, points])
            of += parts[place].of
            following = links.get((place, 1 - end))
            if following is None:
                break
            place, end = following
        found.append(OfOnePen(ChainedLine(line, seams, []), of))
    return found


def _places(line: np.ndarray, step: float) -> Float[np.ndarray, "places"]:
    """Distances along a line, evenly about a step from each other."""
    return np.linspace(0, path_length(line), max(2, round(path_length(line) / step) + 1))


def _distances(line: np.ndarray) -> Float[np.ndarray, "points"]:
    return np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])


def _directions(line: np.ndarray, at: np.ndarray, colours: InkColours, factor: int) -> Directions:
    """Directions of the colours along a line; NaN where the paper is hardly changed."""
    change = colours.change(along(line, at) / factor)
    change = ndimage.uniform_filter1d(change, 3, axis=0, mode="nearest")
    length = np.hypot(np.hypot(change[:, 0], change[:, 1]), change[:, 2])
    length[length < LEAST_CHANGE] = np.nan
    return change / length[:, None]


def _pens(directions: Directions, per_width: float) -> Directions:
    """Directions of pens, the commonest first: each of some stretch, and apart from the others."""
    if not len(directions):
        return directions
    cells, counts = np.unique(np.round(directions * GRID), axis=0, return_counts=True)
    cells /= np.linalg.norm(cells, axis=1, keepdims=True)
    near = cells @ cells.T > np.cos(np.deg2rad(ALIKE))
    pens: list[np.ndarray] = []
    while True:
        having = near @ counts
        most = int(having.argmax())
        if having[most] < LEAST_STRETCH * per_width:
            break
        pen = (cells * (near[most] * counts)[:, None]).sum(0)
        pen /= np.linalg.norm(pen)
        if all(pen @ other < np.cos(np.deg2rad(APART)) for other in pens):
            pens.append(pen)
        counts = np.where(near[most], 0, counts)
    return np.array(pens).reshape(-1, 3)


def _cuts(directions: Directions, pens: Directions, least: int) -> list[int]:
    """Places at which a line goes from one pen to another.

    Args:
        least: places that a stretch of a pen has at least.
    """
    known = np.flatnonzero(~np.isnan(directions[:, 0]))
    if len(known) < 2 * least:
        return []
    labels = (directions[known] @ pens.T).argmax(1)
    runs = _runs(labels)
    while len(runs) > 1:
        first, last, _ = min(runs, key=lambda run: run[1] - run[0])
        if last - first >= least:
            break
        # A short stretch goes over to its neighbours, half to each.
        middle = (first + last) // 2
        if first:
            labels[first : middle if last < len(labels) else last] = labels[first - 1]
        if last < len(labels):
            labels[middle if first else first : last] = labels[last]
        runs = _runs(labels)
    cuts = []
    for (before, _, _), (cut, after, _) in itertools.pairwise(runs):
        sides = [
            np.median(directions[known[a:b]], axis=0) for a, b in ((before, cut), (cut, after))
        ]
        one, other = (side / max(float(np.linalg.norm(side)), 1e-9) for side in sides)
        if one @ other < np.cos(np.deg2rad(APART)):
            cuts.append(int(known[cut]))
    return cuts


def _runs(labels: Int[np.ndarray, "places"]) -> list[tuple[int, int, int]]:
    """First place, place after the last, and label of each run of one label."""
    edges = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    return [(first, last, int(labels[first])) for first, last in itertools.pairwise(edges)]


def _snapped(line: ChainedLine, distance: float, reach: float) -> int | None:
    """Index of the line's point at a distance along it, or of a seam near it; None at its ends."""
    distances = _distances(line.line)
    place = int(np.abs(distances - distance).argmin())
    seams = [seam for seam in line.seams if abs(distances[seam] - distance) <= reach]
    if seams:
        place = min(seams, key=lambda seam: abs(distances[seam] - distance))
    return place if 0 < place < len(distances) - 1 else None


def _parts(line: ChainedLine, cuts: Sequence[int]) -> list[ChainedLine]:
    """A line cut at some of its points; of a ring that is cut twice or more, the end goes on into the
    beginning."""
    points, seams, branches = line
    if len(cuts) > 1 and np.allclose(points[0], points[-1]):
        first = cuts[0]
        points = np.concatenate([points[first:], points[1 : first + 1]])
        size = len(points) - 1
        seams = sorted((seam - first) % size for seam in (*seams, 0) if (seam - first) % size)
        cuts = [cut - first for cut in cuts[1:]]
    edges = [0, *cuts, len(points) - 1]
    return [
        ChainedLine(points[a : b + 1], [seam - a for seam in seams if a < seam < b], branches)
        for a, b in itertools.pairwise(edges)
    ]
