"""Pen strokes from an ink graph: at every node, which branches continue each other.
Parsing by angles, with nothing learned, uses it; `join_scores` and `decompositions` build on its parts.

At a node any two branches may be joined, each with one other at most. A join's score is by how many
degrees its turn falls short of a limit; the set of joins with the highest sum is taken. The limit is
far higher where only two branches meet: people seldom lift the pen at a corner.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from dood_pyro.inference.ink.skeleton import (
    Branch,
    InkGraph,
    Point,
    Points,
    along,
    path_length,
)

NEAR, FAR = 0.6, 2.0
"""Stretch of a branch that gives its direction at a node, pen widths from the node."""
BEYOND = (1.0, 5.0)
"""The same beyond the bend that a slanted crossing makes."""
JUNCTION_LIMIT = 60.0
"""Turn up to which branches continue each other at a junction, degrees."""
CORNER_LIMIT = 180.0
"""The same at a corner."""
STRAIGHT = 25.0
"""Turn up to which strokes cross each other straight, where they cross at a slant, degrees."""
OVERLAP = 1.3
"""Factor on the length of ink that strokes share where they cross at a slant."""
MAX_ENDS = 8
"""Branches of a node that are compared with each other; a node with more is left as it is."""

End = tuple[int, int]
"""A branch's number, and which of its ends, 0 or 1."""


def joins(graph: InkGraph) -> dict[End, End]:
    """The end that each joined end goes on with, in both directions.

    A branch along which two strokes cross at a slant is doubled: the graph gets a copy of it.
    """
    found = _slanted_crossings(graph)
    for ends in graph.ends_at().values():
        if any(end in found for end in ends):
            continue
        directions = [direction(graph.branches[b], end, graph.width) for b, end in ends]
        limit = CORNER_LIMIT if len(ends) == 2 else JUNCTION_LIMIT
        scores = {
            (i, j): limit - turn(directions[i], directions[j])
            for i, j in itertools.combinations(range(len(ends)), 2)
        }
        for i, j in best_pairs(len(ends), scores):
            found[ends[i]], found[ends[j]] = ends[j], ends[i]
    return found


def _slanted_crossings(graph: InkGraph) -> dict[End, End]:
    """Joins of strokes that share a branch, as they cross at a small angle; the branch is doubled."""
    found: dict[End, End] = {}
    for bridge, pairs in crossing_bridges(graph).items():
        branch = graph.branches[bridge]
        graph.branches.append(Branch(branch.line.copy(), list(branch.ends), branch.ink))
        for (one, other), copy in zip(pairs, (bridge, len(graph.branches) - 1), strict=True):
            for end, mine in ((one, (copy, 0)), (other, (copy, 1))):
                found[end], found[mine] = mine, end
    return found


def crossing_bridges(graph: InkGraph) -> dict[int, tuple[tuple[End, End], tuple[End, End]]]:
    """Branches that two strokes share because they cross at a small angle, and the ends that continue
    each other across each.

    Where pens of width w cross at an angle θ, their ink is one over a length of about w / tan(θ / 2).
    """
    found: dict[int, tuple[tuple[End, End], tuple[End, End]]] = {}
    taken: set[End] = set()
    at = graph.ends_at()
    for bridge in sorted(range(len(graph.branches)), key=lambda each: graph.branches[each].length):
        branch = graph.branches[bridge]
        first, second = branch.ends
        if first is None or second is None or first == second:
            continue
        sides = [[end for end in at[node] if end[0] != bridge] for node in (first, second)]
        used = any(end in taken for node in (first, second) for end in at[node])
        if used or [len(side) for side in sides] != [2, 2]:
            continue
        (a, b), (c, d) = sides
        directions = {end: far_direction(graph, end) for end in (a, b, c, d)}

        def bend(pairs: tuple[tuple[End, End], ...], of: dict[End, Point] = directions) -> float:
            return max(turn(of[one], of[other]) for one, other in pairs)

        pairs = min(((a, c), (b, d)), ((a, d), (b, c)), key=bend)
        lines = [directions[other] - directions[one] for one, other in pairs]
        cosine = lines[0] @ lines[1] / max(float(np.hypot(*lines[0]) * np.hypot(*lines[1])), 1e-9)
        angle = np.arccos(np.clip(cosine, -1, 1))
        shared = graph.width / max(float(np.tan(angle / 2)), 1e-3)
        if bend(pairs) > STRAIGHT or branch.length > OVERLAP * shared + graph.width:
            continue
        found[bridge] = pairs
        taken |= {end for node in (first, second) for end in at[node]}
    return found


def direction(
    branch: Branch, end: int, width: float, stretch: tuple[float, float] = (NEAR, FAR)
) -> Point:
    """Unit vector along a branch as it leaves one of its ends.

    Args:
        stretch: where it begins and ends, pen widths from the end.
    """
    line = branch.outward(end)
    total = path_length(line)
    near, far = along(
        line, np.array([min(stretch[0] * width, 0.3 * total), min(stretch[1] * width, total)])
    )
    vector: Point = far - near
    return vector / max(float(np.hypot(*vector)), 1e-9)


def far_direction(graph: InkGraph, end: End) -> Point:
    """Direction of a branch beyond where a slanted crossing bends the ink's middle."""
    return direction(graph.branches[end[0]], end[1], graph.width, BEYOND)


def turn(first: Point, second: Point) -> float:
    """Turn of a pen that comes in along one branch and leaves along another, degrees; both directions
    lead away from the node."""
    return float(np.degrees(np.arccos(np.clip(-(first @ second), -1, 1))))


def best_pairs(count: int, scores: dict[tuple[int, int], float]) -> list[tuple[int, int]]:
    """Pairs of ``count`` things, each in one at most, with the highest sum of positive scores."""
    if count > MAX_ENDS:
        return []

    def best(left: tuple[int, ...]) -> tuple[float, list[tuple[int, int]]]:
        if len(left) < 2:
            return 0.0, []
        first, rest = left[0], left[1:]
        choice = best(rest)
        for second in rest:
            if scores[first, second] > 0:
                value, pairs = best(tuple(each for each in rest if each != second))
                value += scores[first, second]
                if value > choice[0]:
                    choice = value, [(first, second), *pairs]
        return choice

    return best(tuple(range(count)))[1]


class ChainedLine(NamedTuple):
    """Branches one after the other."""

    line: Points
    seams: list[int]
    """Indices of the points at which branches meet."""
    branches: list[int]
    """The branches, in turn."""


def chain_branches(graph: InkGraph, links: dict[End, End]) -> list[ChainedLine]:
    """Lines of branches that are joined to each other, rings last."""
    left = set(range(len(graph.branches)))

    def walk(branch: int, end: int) -> ChainedLine:
        parts: list[Points] = []
        seams: list[int] = []
        passed: list[int] = []
        length = 0
        while branch in left:
            left.remove(branch)
            passed.append(branch)
            line = graph.branches[branch].outward(end)
            if parts:
                seams.append(length - 1)
                line = line[1:]
            parts.append(line)
            length += len(line)
            following = links.get((branch, 1 - end))
            if following is None:
                break
            branch, end = following
        return ChainedLine(np.concatenate(parts), seams, passed)

    starts = [
        (branch, end)
        for branch in range(len(graph.branches))
        for end in (0, 1)
        if (branch, end) not in links
    ]
    lines = [walk(branch, end) for branch, end in starts if branch in left]
    return lines + [walk(branch, 0) for branch in sorted(left) if branch in left]


def canonical(line: Points) -> Points:
    """A line started at the end whose x + y is least, as people mostly do."""
    return line if line[0].sum() <= line[-1].sum() else line[::-1]
