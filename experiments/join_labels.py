"""Decompositions of ink graphs that agree best with true pen strokes: what training of joins learns.
`train_joins` uses it.

How often a stroke passes a branch, and which ends it passes one after the other, can be read off where
it passes near (`times_passed`, `passages`). At corners, short branches and retraced stretches that is
often wrong by a branch. From there, one branch or node at a time is changed as long as the strokes that
come out match the true ones better, by the measure that the table of strokes reports.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from dood_pyro.inference.ink.decompositions import stroke_sets
from dood_pyro.inference.ink.join_scores import (
    MAX_SLOTS,
    NodeEnds,
    Pairs,
    matchings,
    slots_of,
)
from dood_pyro.inference.ink.skeleton import Branch, InkGraph, along
from dood_pyro.rendering.round_pen import Polyline, resample
from dood_pyro.tasks.stroke_scores import COVER, TOLERANCE

SOFT = 0.3
"""Weight of how well matched strokes cover each other, beside their number."""
PASS_PRICE = 0.002
"""Price of passing a branch twice where that changes nothing."""
MOST_TRIED = 256
"""Most matchings of a branch's two nodes that are tried together when the branch is passed once more or
less."""
SWEEPS = 3
"""Times that all nodes and branches are gone through at most."""
MOST_BRANCHES = 60
"""Branches of a graph above which nothing is searched: that would take minutes."""
SAME = 1e-9
"""Difference below which values are the same."""


class Labels(NamedTuple):
    """How a graph was drawn."""

    times: list[int]
    """How often each branch was passed, 1 or 2."""
    joined: dict[int, list[Pairs]]
    """For each node, the matchings of its slots that agree best with the strokes; several where they
    agree alike."""
    value: float
    """How well its strokes match the true ones, up to 1 + `SOFT`; NaN where nothing was searched."""


class TrueStroke(NamedTuple):
    """A true stroke, resampled at a pixel's spacing, to be looked up."""

    points: Polyline
    tangents: Polyline
    tree: cKDTree


def true_strokes(strokes: Sequence[Polyline]) -> list[TrueStroke]:
    found = []
    for stroke in strokes:
        points = resample(stroke)
        found.append(TrueStroke(points, np.gradient(points, axis=0), cKDTree(points)))
    return found


def visits(
    place: np.ndarray, direction: np.ndarray, stroke: TrueStroke, radius: float
) -> list[tuple[int, int]]:
    """Times at which a stroke passes a place, and whether along (1) or against (−1) a direction."""
    near = np.array(sorted(stroke.tree.query_ball_point(place, radius)), dtype=int)
    if not len(near):
        return []
    sign = np.sign(stroke.tangents[near] @ direction).astype(int)
    near, sign = near[sign != 0], sign[sign != 0]
    cuts = np.nonzero((np.diff(near) > 2) | (np.diff(sign) != 0))[0] + 1
    found = []
    for part in np.split(np.arange(len(near)), cuts):
        if len(part):
            distance = np.hypot(*(stroke.points[near[part]] - place).T)
            found.append((int(near[part][distance.argmin()]), int(sign[part[0]])))
    return found


def times_passed(graph: InkGraph, branch: Branch, strokes: Sequence[TrueStroke]) -> int:
    """How often strokes pass the middle of a branch."""
    total, w = branch.length, graph.width
    where = np.array([0.5 * total, max(0.0, 0.5 * total - w), min(total, 0.5 * total + w)])
    middle, before, after = along(branch.line, where)
    direction = (after - before) / max(float(np.hypot(*(after - before))), 1e-9)
    count = 0
    for stroke in strokes:
        last = None
        for moment, sign in visits(middle, direction, stroke, max(0.8 * w, 1.5)):
            if last is None or moment - last[0] > 2 * w or sign != last[1]:
                count += 1
            last = moment, sign
    return count


def passages(
    graph: InkGraph, node: int, info: NodeEnds, strokes: Sequence[TrueStroke]
) -> np.ndarray:
    """How often strokes come in by each end of a node and leave by each: (ends, ends), symmetric."""
    w, count = graph.width, len(info.ends)
    reach = np.minimum(2 * w, 0.5 * info.length)
    places, directions = [], []
    for (index, end), distance in zip(info.ends, reach, strict=True):
        line = graph.branches[index].outward(end)
        before, after, at = along(line, np.array([max(0, distance - w), distance + w, distance]))
        places.append(at)
        directions.append((after - before) / max(float(np.hypot(*(after - before))), 1e-9))
    found = np.zeros((count, count), int)
    for stroke in strokes:
        events = sorted(
            (moment, end, sign)
            for end in range(count)
            for moment, sign in visits(places[end], directions[end], stroke, max(0.8 * w, 1.5))
        )
        kept: list[tuple[int, int, int]] = []
        for event in events:
            if not (kept and kept[-1][1:] == event[1:] and event[0] - kept[-1][0] < 2 * w):
                kept.append(event)
        for (start, i, inward), (stop, j, outward) in itertools.pairwise(kept):
            if inward > 0 or outward < 0 or stop - start > 1.4 * (reach[i] + reach[j]) + 2 * w:
                continue
            nearest = np.hypot(*(stroke.points[start : stop + 1] - graph.nodes[node]).T).min()
            if nearest <= 1.5 * w + 1:
                found[min(i, j), max(i, j)] += 1
    return found


def agreeing(times: Sequence[int], passed: np.ndarray) -> Pairs:
    """A matching of a node's slots that joins its ends as often as strokes passed them, or at least
    once; the empty one where there is none."""
    slots = slots_of(times)
    for wanted in (passed, np.minimum(passed, 1)):
        for pairs in matchings(len(slots)):
            joined = np.zeros_like(passed)
            for a, b in pairs:
                joined[min(slots[a], slots[b]), max(slots[a], slots[b])] += 1
            if (joined == wanted).all():
                return pairs
    return ()


class Agreement:
    """How well sets of a graph's branches match true strokes.

    Args:
        strokes: the true strokes in the graph's pixels.
        side: pixels per side of the picture there.
    """

    def __init__(self, graph: InkGraph, strokes: Sequence[Polyline], side: float) -> None:
        radius = TOLERANCE * side
        lines = [resample(branch.line) for branch in graph.branches]
        self.length = np.array([len(line) for line in lines], dtype=float)
        trees = [cKDTree(line) for line in lines]
        every = cKDTree(np.concatenate(lines))
        near, covers = [], []
        for stroke in strokes:
            points = resample(stroke)
            if (every.query(points, distance_upper_bound=radius)[0] <= radius).mean() < 0.5:
                continue
            tree = cKDTree(points)
            near.append(
                [
                    (tree.query(each, distance_upper_bound=radius)[0] <= radius).sum()
                    for each in lines
                ]
            )
            covers.append(
                np.stack(
                    [each.query(points, distance_upper_bound=radius)[0] <= radius for each in trees]
                )
            )
        self.near = np.array(near, dtype=float).reshape(len(near), len(lines))
        self.covers = covers
        self._kept: dict[frozenset[int], np.ndarray] = {}

    def _of(self, branches: frozenset[int]) -> np.ndarray:
        """Share that a path of some branches and each stroke cover of each other."""
        if branches not in self._kept:
            rows = sorted(branches)
            ours = self.near[:, rows].sum(1) / self.length[rows].sum()
            theirs = [float(each[rows].any(0).mean()) for each in self.covers]
            self._kept[branches] = np.minimum(ours, theirs)
        return self._kept[branches]

    def value(self, paths: Sequence[frozenset[int]]) -> float:
        """F of one-to-one matches, and a little of how well they cover each other."""
        if not self.covers:
            return 0.0
        cover = np.stack([self._of(path) for path in paths])
        worth = (cover >= COVER) + SOFT * cover
        rows, columns = linear_sum_assignment(worth, maximize=True)
        return 2 * float(worth[rows, columns].sum()) / (len(paths) + len(self.covers))


class _Search:
    """A decomposition that is changed bit by bit."""

    def __init__(
        self, graph: InkGraph, nodes: dict[int, NodeEnds], agreement: Agreement, times: list[int]
    ) -> None:
        self.graph, self.nodes, self.agreement = graph, nodes, agreement
        self.times = times
        self.joined: dict[int, Pairs] = {node: () for node in nodes}
        self.touched: list[list[int]] = [[] for _ in graph.branches]
        for node, info in nodes.items():
            for branch, _ in info.ends:
                if node not in self.touched[branch]:
                    self.touched[branch].append(node)

    def slots(self, node: int) -> list[tuple[int, int]]:
        """Branch and pass of each of a node's slots."""
        ends = self.nodes[node].ends
        slots = slots_of([self.times[branch] for branch, _ in ends])
        seen: dict[int, int] = {}
        found = []
        for end in slots:
            found.append((ends[end][0], seen.setdefault(end, -1) + 1))
            seen[end] += 1
        return found

    def value(self) -> float:
        """How well the strokes agree with the true ones."""
        joined = (
            (slots[a], slots[b])
            for node, pairs in self.joined.items()
            for slots in (self.slots(node),)
            for a, b in pairs
        )
        paths = stroke_sets(self.graph, self.times, joined)
        return self.agreement.value(paths) - PASS_PRICE * self.times.count(2)

    def choices(self, node: int) -> tuple[Pairs, ...]:
        return matchings(sum(self.times[branch] for branch, _ in self.nodes[node].ends))

    def improve_node(self, node: int, value: float) -> float:
        """The best matching of a node, the others staying as they are."""
        best = self.joined[node]
        for pairs in self.choices(node):
            self.joined[node] = pairs
            tried = self.value()
            if tried > value + SAME:
                value, best = tried, pairs
        self.joined[node] = best
        return value

    def improve_times(self, branch: int, value: float) -> float:
        """The branch passed once more or less, if that is better with the best joins at its ends."""
        nodes = self.touched[branch]
        before = self.times[branch], {node: self.joined[node] for node in nodes}
        self.times[branch] = 3 - self.times[branch]
        best = before
        if all(len(self.slots(node)) <= MAX_SLOTS for node in nodes):
            every = [self.choices(node) for node in nodes]
            if np.prod([len(each) for each in every]) <= MOST_TRIED:
                tries: Iterator[tuple[Pairs, ...]] = itertools.product(*every)
                for chosen in tries:
                    self.joined.update(zip(nodes, chosen, strict=True))
                    tried = self.value()
                    if tried > value + SAME:
                        value = tried
                        best = self.times[branch], dict(zip(nodes, chosen, strict=True))
        self.times[branch] = best[0]
        self.joined.update(best[1])
        return value


def find_labels(
    graph: InkGraph, nodes: dict[int, NodeEnds], strokes: Sequence[Polyline], side: float
) -> Labels:
    """The decomposition of a graph that agrees best with true strokes, and which joins of it could as
    well be others.

    Args:
        strokes: the true strokes in the graph's pixels.
        side: pixels per side of the picture there.
    """
    truth = true_strokes(strokes)
    times = [max(1, min(2, times_passed(graph, each, truth))) for each in graph.branches]
    for info in nodes.values():
        if sum(times[branch] for branch, _ in info.ends) > MAX_SLOTS:
            for branch, _ in info.ends:
                times[branch] = 1
    joined = {
        node: agreeing([times[b] for b, _ in info.ends], passages(graph, node, info, truth))
        for node, info in nodes.items()
    }
    if len(graph.branches) > MOST_BRANCHES:
        return Labels(times, {node: [pairs] for node, pairs in joined.items()}, float("nan"))
    search = _Search(graph, nodes, Agreement(graph, strokes, side), times)
    search.joined.update(joined)
    value = search.value()
    for _ in range(SWEEPS):
        before = value
        for node in nodes:
            value = search.improve_node(node, value)
        for branch in range(len(graph.branches)):
            if search.touched[branch]:
                value = search.improve_times(branch, value)
        if value <= before + SAME:
            break
    alike: dict[int, list[Pairs]] = {}
    for node in nodes:
        kept = search.joined[node]
        alike[node] = []
        for pairs in search.choices(node):
            search.joined[node] = pairs
            if search.value() >= value - SAME:
                alike[node].append(pairs)
        search.joined[node] = kept
    return Labels(search.times, alike, value)
