"""A graph of a picture's ink: branches along the middle of the ink, and the nodes where they meet.
Used by `dood_pyro.inference.ink.joins`, which makes pen strokes of it.

The ink's skeleton is cut at its junctions. Junctions that lie closer together than a pen's width and a
half are one (two strokes that cross at a slant have two), spurs of a pen's width are the skeleton's and
no stroke's, and a sharp corner within a branch is a node of two ends: whether the pen was lifted there
is for `joins` to say.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

Points = Float[np.ndarray, "points 2"]
Point = Float[np.ndarray, "2"]

MERGED = 1.5
"""Distance below which junctions are one, pen widths."""
SPUR = 0.9
"""Length up to which a dead end at a junction is a spur, pen widths."""
CORNER_ANGLE = 40.0
"""Turn from which a bend is a corner, degrees."""
CORNER_REACH = (0.3, 1.8)
"""Stretch before and after a point over which its turn is measured, pen widths."""


@dataclass(eq=False)
class Branch:
    """A stretch of ink without junctions."""

    line: Points
    """Its middle, in pixels, the positions of its nodes included."""
    ends: list[int | None]
    """Nodes at its first and last point; None where it ends freely."""
    ink: float = 1.0
    """Darkness along it, in [0, 1]."""

    def outward(self, end: int) -> Points:
        """The line as it leaves one of its ends, 0 or 1."""
        return self.line if end == 0 else self.line[::-1]

    @property
    def closed(self) -> bool:
        """Whether it is a ring."""
        return (
            self.ends == [None, None]
            and len(self.line) > 3
            and bool((self.line[0] == self.line[-1]).all())
        )

    @property
    def length(self) -> float:
        """Length in pixels."""
        return path_length(self.line)


@dataclass
class InkGraph:
    """Branches and nodes."""

    nodes: dict[int, Point]
    branches: list[Branch]
    width: float
    """The pen's, pixels."""
    fresh: int = 0
    """A number that no node has had."""
    middle: Point = field(default_factory=lambda: np.zeros(2))
    """Of its ink."""

    def ends_at(self) -> dict[int, list[tuple[int, int]]]:
        """Ends (branch, 0 or 1) that meet at each node."""
        found: dict[int, list[tuple[int, int]]] = {node: [] for node in self.nodes}
        for index, branch in enumerate(self.branches):
            for end, node in enumerate(branch.ends):
                if node is not None:
                    found[node].append((index, end))
        return found


def path_length(line: Points) -> float:
    """Length of a polyline."""
    return float(np.hypot(*np.diff(line, axis=0).T).sum())


def smooth(line: Points, sigma: float) -> Points:
    """A line without the steps of its pixels; its ends stay."""
    if len(line) < 4:
        return line
    # Reflected about the ends, not at them: the line goes straight on beyond them.
    reach = min(int(3 * sigma) + 1, len(line) - 1)
    before = 2 * line[0] - line[reach:0:-1]
    after = 2 * line[-1] - line[-2 : -reach - 2 : -1]
    whole = np.concatenate([before, line, after])
    smoothed: Points = ndimage.gaussian_filter1d(whole, sigma, axis=0)[reach : reach + len(line)]
    smoothed[0], smoothed[-1] = line[0], line[-1]
    return smoothed


def ink_graphs(
    mask: Bool[np.ndarray, "height width"],
    strength: Float[np.ndarray, "height width"] | None = None,
) -> list[InkGraph]:
    """Graphs of a mask of ink, one for each connected piece, with one width of the pen.

    Args:
        strength: how dark the ink is; None where all is alike.
    """
    graphs = skeleton_graphs(mask)
    for graph in graphs:
        _cut_spurs(graph)
        _merge_nodes(graph)
        _cut_spurs(graph)
        _join_passages(graph)
        if not graph.branches:  # a blot, of which only nodes and spurs came
            graph.branches.append(Branch(graph.middle[None], [None, None]))
            graph.nodes.clear()
        for branch in graph.branches:
            branch.line = smooth(branch.line, max(1.0, 0.4 * graph.width))
        _split_corners(graph)
        if strength is not None:
            for branch in graph.branches:
                branch.ink = _darkness(branch, strength, graph.width)
    return graphs


def skeleton_graphs(mask: Bool[np.ndarray, "height width"]) -> list[InkGraph]:
    """Graphs of the bare skeleton: nothing cut, merged or split."""
    from skimage.morphology import skeletonize

    pieces, _ = ndimage.label(mask, np.ones((3, 3)))
    graphs = []
    for index, box in enumerate(ndimage.find_objects(pieces), 1):
        # Piece by piece: time and memory grow with the ink, not with the paper.
        crop = np.pad(pieces[box] == index, 1)
        graph = _chains(skeletonize(crop))
        corner = np.array([box[1].start - 1, box[0].start - 1], dtype=float)
        ys, xs = np.nonzero(crop)
        graph.middle = np.array([xs.mean() + 0.5, ys.mean() + 0.5]) + corner
        graph.nodes = {node: place + corner for node, place in graph.nodes.items()}
        for branch in graph.branches:
            branch.line = branch.line + corner
        graphs.append(graph)
    width = _pen_width([branch for graph in graphs for branch in graph.branches], float(mask.sum()))
    for graph in graphs:
        graph.width = width
    return graphs


def _darkness(branch: Branch, strength: np.ndarray, width: float) -> float:
    """Darkness of the ink in the middle of a branch, away from what crosses its ends."""
    total = branch.length
    margin = min(1.5 * width, 0.3 * total)
    points = along(branch.line, np.linspace(margin, total - margin, 9))
    return float(np.median(pixels_at(points, strength)))


def pixels_at(points: Points, picture: np.ndarray) -> np.ndarray:
    """The pixels, of one or more channels, that points lie in."""
    columns, rows = np.floor(points).astype(int).T
    height, width = picture.shape[:2]
    found: np.ndarray = picture[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    return found


def _pen_width(branches: list[Branch], area: float) -> float:
    """Width w of the pen that leaves an area of ink along the branches, which it overruns by w / 2
    where they end: w (length + ends w / 2) = area."""
    length = sum(branch.length for branch in branches)
    free = sum(branch.ends.count(None) for branch in branches) / 2
    if free == 0:
        return max(1.0, area / max(length, 1.0))
    return max(1.0, (math.sqrt(length**2 + 4 * free * area) - length) / (2 * free))


def _chains(skeleton: Bool[np.ndarray, "height width"]) -> InkGraph:
    """Cut a skeleton at its junctions."""
    around = ndimage.convolve(skeleton.astype(np.uint8), np.ones((3, 3), np.uint8), mode="constant")
    # Pixels with three neighbours: without them no two branches touch, not even by a corner.
    junctions = skeleton & (around >= 4)
    labels, count = ndimage.label(junctions, np.ones((3, 3)))
    centres = ndimage.center_of_mass(junctions, labels, range(1, count + 1))
    nodes = {i: np.array([x + 0.5, y + 0.5]) for i, (y, x) in enumerate(centres)}
    graph = InkGraph(nodes, [], 1.0, count)
    rest = skeleton & ~junctions
    pieces, number = ndimage.label(rest, np.ones((3, 3)))
    ys, xs = np.nonzero(rest)
    order = np.argsort(pieces[ys, xs], kind="stable")
    ys, xs = ys[order], xs[order]
    bounds = np.searchsorted(pieces[ys, xs], np.arange(1, number + 2))
    for first, last in itertools.pairwise(bounds):
        pixels = set(zip(ys[first:last].tolist(), xs[first:last].tolist(), strict=True))
        graph.branches.append(_branch(pixels, labels, nodes))
    return graph


STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))


def _branch(pixels: set[tuple[int, int]], labels: np.ndarray, nodes: dict[int, Point]) -> Branch:
    """The branch of a piece of the skeleton that has no junction."""

    def beside(pixel: tuple[int, int]) -> list[tuple[int, int]]:
        y, x = pixel
        return [(y + dy, x + dx) for dy, dx in STEPS if (y + dy, x + dx) in pixels]

    def touched(pixel: tuple[int, int]) -> list[int]:
        y, x = pixel
        near = labels[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        return sorted({int(label) - 1 for label in near.ravel() if label})

    ends = [pixel for pixel in pixels if len(beside(pixel)) <= 1]
    touching = [pixel for pixel in pixels if touched(pixel)]
    start = min(ends or touching or pixels)
    path, seen = [start], {start}
    while True:
        step = next((pixel for pixel in beside(path[-1]) if pixel not in seen), None)
        if step is None:
            break
        path.append(step)
        seen.add(step)
    line = np.array([[x + 0.5, y + 0.5] for y, x in path])
    if not ends and not touching:  # a ring
        return Branch(np.concatenate([line, line[:1]]), [None, None])
    first, last = touched(path[0]), touched(path[-1])
    if len(path) == 1:
        found = [first[0] if first else None, first[1] if len(first) > 1 else None]
    else:
        found = [first[0] if first else None, last[0] if last else None]
        if found[0] is not None and found[0] == found[1]:  # if either touches another one, that
            found[1] = next((node for node in last if node != found[0]), found[1])
            if found[0] == found[1]:
                found[0] = next((node for node in first if node != found[1]), found[0])
    parts = [line]
    if found[0] is not None:
        parts.insert(0, nodes[found[0]][None])
    if found[1] is not None:
        parts.append(nodes[found[1]][None])
    return Branch(np.concatenate(parts), found)


def _cut_spurs(graph: InkGraph) -> None:
    """Remove short dead ends at nodes of three ends and more, the shortest first."""
    while True:
        ends = graph.ends_at()
        spurs = []
        for branch in graph.branches:
            node = branch.ends[0] if branch.ends[1] is None else branch.ends[1]
            dead = (branch.ends[0] is None) != (branch.ends[1] is None)
            if dead and node is not None and len(ends[node]) >= 3:
                length = branch.length
                if length < SPUR * graph.width + 0.5:
                    spurs.append((length, branch))
        if not spurs:
            return
        graph.branches.remove(min(spurs, key=lambda spur: spur[0])[1])


def _merge_nodes(graph: InkGraph) -> None:
    """Make nodes one that a short branch connects, the shortest first."""
    while True:
        short = [
            (branch.length, index)
            for index, branch in enumerate(graph.branches)
            if None not in branch.ends and branch.length < MERGED * graph.width
        ]
        if not short:
            return
        branch = graph.branches.pop(min(short)[1])
        kept, gone = branch.ends
        if kept == gone or kept is None or gone is None:
            continue
        middle = (graph.nodes[kept] + graph.nodes.pop(gone)) / 2
        graph.nodes[kept] = middle
        for other in graph.branches:
            other.ends = [kept if node == gone else node for node in other.ends]
            if other.ends[0] == kept:
                other.line[0] = middle
            if other.ends[1] == kept:
                other.line[-1] = middle


def _join_passages(graph: InkGraph) -> None:
    """Make one branch of two that meet where no other does."""
    for node in list(graph.nodes):
        ends = [
            (index, end)
            for index, branch in enumerate(graph.branches)
            for end in (0, 1)
            if branch.ends[end] == node
        ]
        if len(ends) != 2:
            continue
        (a, a_end), (b, b_end) = ends
        first, second = graph.branches[a], graph.branches[b]
        del graph.nodes[node]
        if first is second:  # a ring
            first.ends = [None, None]
            continue
        line = np.concatenate([first.outward(1 - a_end), second.outward(b_end)[1:]])
        joined = Branch(line, [first.ends[1 - a_end], second.ends[1 - b_end]])
        graph.branches = [each for each in graph.branches if each not in (first, second)]
        graph.branches.append(joined)


def along(line: Points, distances: np.ndarray) -> Points:
    """Points at distances along a line, clamped to it."""
    where = np.concatenate([[0.0], np.hypot(*np.diff(line, axis=0).T).cumsum()])
    return np.stack([np.interp(distances, where, column) for column in line.T], axis=-1)


def turns(line: Points, width: float, closed: bool) -> tuple[np.ndarray, Points]:
    """Turn at points half a pixel apart along a line, degrees; and the points."""
    total = path_length(line)
    where = np.arange(0, total + 1e-9, 0.5)
    near, far = (reach * width for reach in CORNER_REACH)

    def point(s: np.ndarray) -> Points:
        return along(line, s % total if closed else np.clip(s, 0, total))

    before = point(where - near) - point(where - far)
    after = point(where + far) - point(where + near)
    cosine = (before * after).sum(-1) / np.maximum(
        np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1), 1e-9
    )
    turn = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    if not closed:  # too near an end to tell
        turn[(where < far) | (where > total - far)] = 0.0
    return turn, along(line, where)


def _split_corners(graph: InkGraph) -> None:
    """Split branches at sharp corners, where nodes of two ends come to be."""
    for branch in list(graph.branches):
        closed = branch.closed
        if branch.length < 2 * CORNER_REACH[1] * graph.width:
            continue
        turn, points = turns(branch.line, graph.width, closed)
        window = max(1, round(2 * CORNER_REACH[1] * graph.width))
        peak = (
            turn == ndimage.maximum_filter1d(turn, window, mode="wrap" if closed else "nearest")
        ) & (turn > CORNER_ANGLE)
        corners = np.nonzero(peak)[0]
        corners = (
            corners[np.concatenate([[True], np.diff(corners) > 1])] if len(corners) else corners
        )
        if not len(corners):
            continue
        ids = []
        for corner in corners:
            graph.nodes[graph.fresh] = points[corner]
            ids.append(graph.fresh)
            graph.fresh += 1
        graph.branches.remove(branch)
        if closed:
            cuts = [*corners, corners[0] + len(points) - 1]
            looped = np.concatenate([points[:-1], points])
            for i in range(len(corners)):
                a, b = ids[i], ids[(i + 1) % len(ids)]
                graph.branches.append(Branch(looped[cuts[i] : cuts[i + 1] + 1], [a, b]))
            continue
        edges = [0, *corners, len(points) - 1]
        names = [branch.ends[0], *ids, branch.ends[1]]
        for i in range(len(edges) - 1):
            graph.branches.append(
                Branch(points[edges[i] : edges[i + 1] + 1], [names[i], names[i + 1]])
            )
