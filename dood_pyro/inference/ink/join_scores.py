"""Learned scores of joins: which branches continue each other at a node, and which were passed twice.
`dood_pyro.inference.ink.decompositions` draws strokes from them.

Two small networks, trained on true pen strokes of other drawings (experiments/train_joins.py), give

    s(i, j)   the score of joining ends i and j of a node's branches, and
    z(b)      the log-odds that branch b was passed twice.

Given how often each branch was passed, the joins at a node are a matching M of its ends (an end passed
twice takes part twice), with p(M) ∝ exp Σ s(i, j) over the pairs in M: a conditional random field.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import expit

from dood_pyro.inference.ink.joins import End, crossing_bridges
from dood_pyro.inference.ink.skeleton import InkGraph, Points, along, path_length

MAX_SLOTS = 8
"""Ends of a node that are paired, those passed twice counted twice; a node with more stays as it is."""
OTHER_INK = 0.3
"""Difference in darkness from which two branches are of different inks."""
OTHER_INK_SCORE = -8.0
"""What joining different inks adds to a score; the training drawings have one ink."""
NODES_AT_ONCE = 1000
"""Nodes whose pairs are scored together: meshes have thousands."""
BEST_DEFAULT = 180.0
"""Turn where there is no other pair, degrees."""


class Network(NamedTuple):
    """A perceptron with hidden layers of x sigmoid(x), on standardised features."""

    mean: np.ndarray
    std: np.ndarray
    weights: list[np.ndarray]
    """Weight and bias of each layer in turn."""

    def __call__(self, rows: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows"]:
        x = (rows - self.mean) / self.std
        for index in range(0, len(self.weights) - 2, 2):
            x = x @ self.weights[index].T + self.weights[index + 1]
            x = x * expit(x)
        out: np.ndarray = (x @ self.weights[-2].T + self.weights[-1])[:, 0]
        return out


class JoinNetworks(NamedTuple):
    """The two networks."""

    pair: Network
    twice: Network


@lru_cache(maxsize=1)
def trained_networks() -> JoinNetworks:
    """The networks that come with the package."""
    path = resources.files("dood_pyro") / "weights" / "joins.npz"
    with path.open("rb") as file, np.load(file) as arrays:
        return JoinNetworks(*(_network(arrays, name) for name in JoinNetworks._fields))


def _network(arrays: Mapping[str, np.ndarray], name: str) -> Network:
    """A network of a file."""
    weights: list[np.ndarray] = []
    while f"{name}.{len(weights)}" in arrays:
        weights.append(arrays[f"{name}.{len(weights)}"].astype(float))
    return Network(arrays[f"{name}.mean"], arrays[f"{name}.std"], weights)


Pairs = tuple[tuple[int, int], ...]


@cache
def matchings(count: int) -> tuple[Pairs, ...]:
    """All sets of disjoint pairs of ``count`` things; the empty set first."""

    def of(left: tuple[int, ...]) -> list[Pairs]:
        if len(left) < 2:
            return [()]
        first, rest = left[0], left[1:]
        found = of(rest)
        for other in rest:
            beyond = tuple(each for each in rest if each != other)
            found += [((first, other), *pairs) for pairs in of(beyond)]
        return found

    return tuple(of(tuple(range(count))))


@cache
def matching_table(count: int) -> Float[np.ndarray, "matchings pairs"]:
    """1 where a matching has a pair; pairs in the order of ``itertools.combinations``."""
    place = {pair: index for index, pair in enumerate(itertools.combinations(range(count), 2))}
    table = np.zeros((len(matchings(count)), len(place)))
    for row, pairs in enumerate(matchings(count)):
        for pair in pairs:
            table[row, place[pair]] = 1
    return table


class NodeEnds(NamedTuple):
    """Branches as they leave a node; arrays over its ends."""

    ends: list[End]
    directions: Float[np.ndarray, "stretches ends 2"]
    place: Points
    """Where the first stretch begins."""
    bend: Float[np.ndarray, "ends"]
    """Turn between the first pen widths and those after them, degrees; positive to the right."""
    length: Float[np.ndarray, "ends"]
    straightness: Float[np.ndarray, "ends"]
    beyond: Int[np.ndarray, "ends"]
    """Number of branches at the node at the other end; 0 where the branch ends freely."""
    loop: Bool[np.ndarray, "ends"]
    """Whether the branch comes back to this node."""
    ink: Float[np.ndarray, "ends"]
    """Darkness along the branch."""
    turns: Float[np.ndarray, "stretches ends ends"]
    """Turn from each branch to each, degrees; 180 on the diagonal."""


def node_ends(graph: InkGraph) -> dict[int, NodeEnds]:
    """Ends at each node at which there is something to join."""
    at = graph.ends_at()
    degree = {node: len(ends) for node, ends in at.items()}
    return {
        node: _node_ends(graph, ends, degree)
        for node, ends in at.items()
        if 2 <= len(ends) <= MAX_SLOTS
    }


def _unit(vectors: np.ndarray) -> np.ndarray:
    length: np.ndarray = np.hypot(vectors[..., 0], vectors[..., 1])[..., None]
    units: np.ndarray = vectors / np.maximum(length, 1e-9)
    return units


def _signed_turn(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    cross = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    return np.degrees(np.arctan2(cross, (first * second).sum(-1)))


def _node_ends(graph: InkGraph, ends: list[End], degree: dict[int, int]) -> NodeEnds:
    w = graph.width
    points, lengths, chords, beyond, loops, inks = [], [], [], [], [], []
    for index, end in ends:
        branch = graph.branches[index]
        line = branch.outward(end)
        total = path_length(line)
        stretches = np.array([0.6, 2, 2, 5, 12]) * w
        limits = np.array([0.3, 1, 0.5, 1, 1]) * total
        points.append(along(line, np.minimum(stretches, limits)))
        lengths.append(total)
        chords.append(float(np.hypot(*(line[-1] - line[0]))) / max(total, 1e-9))
        far = branch.ends[1 - end]
        beyond.append(0 if far is None else degree[far])
        loops.append(far is not None and far == branch.ends[end])
        inks.append(branch.ink)
    near, second, before, after, last = np.array(points).transpose(1, 0, 2)
    directions = np.stack([_unit(each - near) for each in (second, after, last)])
    length = np.array(lengths)
    later = np.where((length > 2.5 * w)[:, None], _unit(after - before), directions[0])
    cosines = -np.einsum("sik,sjk->sij", directions, directions)
    turns = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    turns[:, np.arange(len(ends)), np.arange(len(ends))] = 180.0
    return NodeEnds(
        ends,
        directions,
        near,
        _signed_turn(directions[0], later),
        length,
        np.array(chords),
        np.array(beyond),
        np.array(loops),
        np.array(inks),
        turns,
    )


def graph_context(graphs: Sequence[InkGraph]) -> list[float]:
    """What the graphs of a character are like together."""
    branches = [branch for graph in graphs for branch in graph.branches]
    degrees = [len(ends) for graph in graphs for ends in graph.ends_at().values()]
    free = sum(branch.ends.count(None) for branch in branches)
    length = np.array([branch.length for branch in branches])
    chord = np.array([np.hypot(*(b.line[-1] - b.line[0])) for b in branches])
    points = np.concatenate([branch.line for branch in branches])
    size = float(np.ptp(points, axis=0).max())
    return [
        float(np.log(len(branches) + 1)),
        # Where the pen is thick for the drawing, the middle of the ink tells less.
        float(np.log(size / graphs[0].width + 1)),
        free / max(1, 2 * len(branches)),
        float(np.mean([each == 2 for each in degrees])) if degrees else 0.0,
        float(np.mean([each == 3 for each in degrees])) if degrees else 0.0,
        float(chord.sum() / max(float(length.sum()), 1e-9)),
    ]


def pair_rows(
    node: NodeEnds, times: Sequence[int], width: float, context: Sequence[float]
) -> Float[np.ndarray, "pairs features"]:
    """Features of all pairs of a node's slots.

    Args:
        times: how often each end's branch was passed, 1 or 2; a slot for each.
        context: `graph_context`.
    """
    pairs = slot_pairs(tuple(times))
    return _features(node, pairs, np.array(times)[pairs], width, context)


def _features(
    node: NodeEnds,
    pairs: Int[np.ndarray, "pairs 2"],
    counts: Int[np.ndarray, "pairs 2"],
    width: float,
    context: Sequence[float],
) -> Float[np.ndarray, "pairs features"]:
    """Features of pairs of a node's ends, given how often the branch of each was passed."""
    first, second = pairs.T
    direction = node.directions[0]
    # Oriented the way that people mostly draw: what depends on the sense of a bend is then the same
    # for a pair and for the same pair the other way round.
    swapped = ((direction[second] - direction[first]).sum(-1) < 0) & (first != second)
    i, j = np.where(swapped, second, first), np.where(swapped, first, second)
    near, middle, far = (each[i, j] for each in node.turns)
    signed = np.where(i == j, 180.0, _signed_turn(-direction[i], direction[j]))
    bend_i, bend_j = -node.bend[i], node.bend[j]
    gap = node.place[j] - node.place[i]

    def offset(along_line: np.ndarray) -> np.ndarray:
        across = along_line[:, 0] * gap[:, 1] - along_line[:, 1] * gap[:, 0]
        return np.abs(across) / width

    off_i, off_j = offset(direction[i]), offset(direction[j])
    rivals = [_rivals(each, i, j) for each in node.turns[:2]]
    (best_i, best_j, others), (best_far_i, best_far_j, others_far) = rivals
    ends = len(node.ends)
    columns = [
        near / 60,
        (near / 60) ** 2,
        middle / 60,
        far / 60,
        signed / 60,
        bend_i / 60,
        bend_j / 60,
        np.abs(signed - (bend_i + bend_j) / 2) / 60,
        np.abs(bend_i - bend_j) / 60,
        off_i,
        off_j,
        np.abs(off_i - off_j),
        np.log(node.length[i] / width + 0.1),
        np.log(node.length[j] / width + 0.1),
        *(node.beyond[each] == degree for degree in (0, 2) for each in (i, j)),
        node.loop[i],
        node.loop[j],
        node.straightness[i],
        node.straightness[j],
        *(np.full(len(i), matches) for matches in (ends == 2, ends == 3, ends == 4, ends >= 5)),
        best_i / 60,
        best_j / 60,
        (best_i - near) / 60,
        (best_j - near) / 60,
        others / 60,
        (best_far_i - middle) / 60,
        (best_far_j - middle) / 60,
        others_far / 60,
        *direction[i].T,
        *direction[j].T,
        np.where(swapped, *counts.T[::-1]) == 2,
        np.where(swapped, *counts.T) == 2,
        i == j,
        *(np.full(len(i), value) for value in context),
    ]
    return np.stack(columns, axis=-1).astype(float)


def slots_of(times: Sequence[int]) -> list[int]:
    """The end that each slot belongs to."""
    return [end for end, count in enumerate(times) for _ in range(count)]


@lru_cache(maxsize=4096)
def slot_pairs(times: tuple[int, ...]) -> Int[np.ndarray, "pairs 2"]:
    """The two ends of each pair of slots, in the order of ``itertools.combinations``."""
    return np.array(list(itertools.combinations(slots_of(times), 2))).reshape(-1, 2)


@cache
def _pairs_and_counts(ends: int) -> Int[np.ndarray, "variants 4"]:
    """All pairs of a node's ends, each with all numbers of passes of their branches."""
    found = [
        (i, j, first, second)
        for i, j in itertools.combinations(range(ends), 2)
        for first in (1, 2)
        for second in (1, 2)
    ]
    return np.array(found + [(i, i, 2, 2) for i in range(ends)])


def _rivals(turns: np.ndarray, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, ...]:
    """Least turn of any other pair with i, with j, and with neither."""
    count = len(turns)
    rows = np.arange(len(i))
    rest = turns.copy()
    rest[np.arange(count), np.arange(count)] = BEST_DEFAULT
    of_i, of_j = rest[i], rest[j]
    for each in (i, j):
        of_i[rows, each] = BEST_DEFAULT
        of_j[rows, each] = BEST_DEFAULT
    neither = np.repeat(rest[None], len(i), axis=0)
    for each in (i, j):
        neither[rows, each] = BEST_DEFAULT
        neither[rows, :, each] = BEST_DEFAULT
    return of_i.min(-1), of_j.min(-1), neither.min((-1, -2))


class MatchingScores(NamedTuple):
    """Log-probabilities of the matchings of a node's slots."""

    slots: list[int]
    log_p: Float[np.ndarray, "matchings"]
    best: float
    """Score of the best matching."""
    total: float
    """Log-sum of all scores."""


class JoinScores:
    """Scores of the joins of one graph.

    Args:
        context: what the graphs that it lies among are like (`graph_context`).
    """

    def __init__(self, graph: InkGraph, networks: JoinNetworks, context: Sequence[float]) -> None:
        self.graph, self.networks = graph, networks
        self.nodes = node_ends(graph)
        self.context = list(context)
        self.touched: list[list[int]] = [[] for _ in graph.branches]
        for node, info in self.nodes.items():
            for branch, _ in info.ends:
                if node not in self.touched[branch]:
                    self.touched[branch].append(node)
        self._pair_scores = self._scores_of_pairs()
        self._kept: dict[tuple[int, tuple[int, ...]], MatchingScores | None] = {}

    def _scores_of_pairs(self) -> dict[int, Float[np.ndarray, "ends ends 3 3"]]:
        """For each node, scores of its pairs of ends by their branches' numbers of passes."""
        found: dict[int, np.ndarray] = {}
        every = list(self.nodes)
        for start in range(0, len(every), NODES_AT_ONCE):
            nodes = every[start : start + NODES_AT_ONCE]
            variants = [_pairs_and_counts(len(self.nodes[node].ends)) for node in nodes]
            rows = [
                _features(
                    self.nodes[node], each[:, :2], each[:, 2:], self.graph.width, self.context
                )
                for node, each in zip(nodes, variants, strict=True)
            ]
            scores = self.networks.pair(np.concatenate(rows))
            edges = np.cumsum([len(each) for each in rows])[:-1]
            for node, each, score in zip(nodes, variants, np.split(scores, edges), strict=True):
                ink = self.nodes[node].ink
                other = np.abs(ink[each[:, 0]] - ink[each[:, 1]]) > OTHER_INK
                found[node] = np.zeros((len(ink), len(ink), 3, 3))
                found[node][tuple(each.T)] = score + OTHER_INK_SCORE * other
        return found

    def matchings(self, node: int, times: Sequence[int]) -> MatchingScores | None:
        """Scores of a node's matchings, given how often each branch was passed; None where the node
        would have too many slots."""
        info = self.nodes[node]
        mine = tuple(times[branch] for branch, _ in info.ends)
        key = (node, mine)
        if key not in self._kept:
            self._kept[key] = self._scored(node, mine) if sum(mine) <= MAX_SLOTS else None
        return self._kept[key]

    def _scored(self, node: int, times: tuple[int, ...]) -> MatchingScores:
        slots = slots_of(times)
        first, second = slot_pairs(times).T
        counts = np.array(times)
        scores = self._pair_scores[node][first, second, counts[first], counts[second]]
        sums = matching_table(len(slots)) @ scores
        best = float(sums.max())
        total = best + float(np.log(np.exp(sums - best).sum()))
        return MatchingScores(slots, sums - total, best, total)

    def twice_rows(self, times: Sequence[int]) -> Float[np.ndarray, "branches features"]:
        """Features of each branch, the others passed as often as ``times`` says."""
        bridges = crossing_bridges(self.graph)
        rows = [self._twice_row(index, times, index in bridges) for index in range(len(times))]
        return np.array(rows, dtype=float)

    def _twice_row(self, index: int, times: Sequence[int], bridge: bool) -> list[float]:
        branch = self.graph.branches[index]
        sides = [self._gain(index, node, times) for node in self.touched[index]]
        sides.sort()
        sides = [(0, 0.0, 0.0, 0.0)] * (2 - len(sides)) + sides[:2]
        chord = float(np.hypot(*(branch.line[-1] - branch.line[0])))
        row = [
            float(np.log(branch.length / self.graph.width + 0.1)),
            float(branch.ends.count(None)),
            chord / max(branch.length, 1e-9),
        ]
        for ends, *gains in sides:
            row += [ends == 0, ends == 2, ends == 3, ends >= 4, *gains]
        row += [sides[0][1] + sides[1][1], sides[0][3] + sides[1][3], bridge]
        return [*map(float, row), *self.context]

    def _gain(self, index: int, node: int, times: Sequence[int]) -> tuple[int, float, float, float]:
        """What passing a branch twice does at one of its nodes: number of ends there, gain of the best
        matching and of all, and the log-probability that both passes go on."""
        once, twice = list(times), list(times)
        once[index], twice[index] = 1, 2
        before, after = self.matchings(node, once), self.matchings(node, twice)
        if before is None or after is None:
            return len(self.nodes[node].ends), -5.0, -5.0, -9.0
        ends = self.nodes[node].ends
        mine = [slot for slot, end in enumerate(after.slots) if ends[end][0] == index]
        pairs = matchings(len(after.slots))
        both = _all_taken(len(after.slots), tuple(mine))
        share = float(np.exp(after.log_p[both]).sum()) if len(pairs) else 0.0
        return (
            len(ends),
            after.best - before.best,
            after.total - before.total,
            float(np.log(share + 1e-4)),
        )

    def twice_log_odds(self) -> Float[np.ndarray, "branches"]:
        """Log-odds that each branch was passed twice; rings are passed once."""
        count = len(self.graph.branches)
        times = [1] * count
        odds = np.full(count, -np.inf)
        alone = np.array([branch.ends == [None, None] for branch in self.graph.branches])
        # They depend on how often the neighbours were passed: once at first, then as was found.
        for _ in range(2):
            odds = np.where(alone, -np.inf, self.networks.twice(self.twice_rows(times)))
            after = [2 if each > 0 else 1 for each in odds]
            if after == times:
                break
            times = after
        return odds


@cache
def _all_taken(count: int, slots: tuple[int, ...]) -> Bool[np.ndarray, "matchings"]:
    """Whether each matching has all of some slots."""
    return np.array(
        [all(any(slot in pair for pair in pairs) for slot in slots) for pairs in matchings(count)]
    )
