"""Decompositions of an ink graph into pen strokes: samples of them, and the one most right on average.
`dood_pyro.inference.ink.parse_ink` parses pictures by them.

A decomposition says how often each branch was passed and which ends go on with each other at each node.
Samples come from p(times) p(joins | times) (`dood_pyro.inference.ink.join_scores`); a stroke's
confidence is the share of samples that have it, or one that covers it. The decomposition taken is that
sample for which the sum over strokes of confidence less `STROKE_PRICE` is highest: about the highest
expected F of matched strokes, which the single most probable decomposition need not have. `PROBABLE`
times its log-probability decides where that is about the same, as samples are few.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from dood_pyro.inference.ink.join_scores import JoinScores, MatchingScores, matchings
from dood_pyro.inference.ink.joins import ChainedLine, End, chain_branches, far_direction, turn
from dood_pyro.inference.ink.skeleton import Branch, InkGraph

SAMPLES = 256
"""Decompositions sampled of each piece of ink."""
SAMPLED_BRANCHES = 40_000
"""Most branches of all samples of a piece of ink together."""
STROKE_PRICE = 0.4
"""Confidence that a stroke must have to be worth its place: half of the F that is to be expected."""
PROBABLE = 0.1
"""Confidence that a decomposition e times as probable is worth."""
SAME = 0.8
"""Share of each other's length that strokes must cover to count as the same."""


class Decomposition(NamedTuple):
    """How a graph is drawn."""

    times: list[int]
    """How often each branch was passed, 1 or 2."""
    joined: dict[int, int]
    """Index of the matching (`join_scores.matchings`) of each node's slots."""
    log_p: float
    """Its log-probability under the scores of joins."""


class FoundStroke(NamedTuple):
    """A stroke of a decomposition."""

    line: ChainedLine
    confidence: float
    """Probability, in [0, 1], that a person drew it as one stroke."""


class DecomposedInk(NamedTuple):
    """Strokes of a piece of ink."""

    strokes: list[FoundStroke]
    log_p: float


def decompose(scores: JoinScores) -> DecomposedInk:
    """The decomposition of a graph, of those sampled, that is right about most strokes; the same for
    the same graph."""
    drawn, sets, confidence = _sampled(scores)
    values = [
        sum(confidence[stroke] - STROKE_PRICE for stroke in strokes) + PROBABLE * each.log_p
        for each, strokes in zip(drawn, sets, strict=True)
    ]
    best = drawn[int(np.argmax(values))]
    return _drawn(scores, best, confidence)


def alternatives(scores: JoinScores, count: int) -> list[DecomposedInk]:
    """Different decompositions of a graph, the most probable of those sampled, in falling order."""
    drawn, sets, confidence = _sampled(scores)
    found: dict[frozenset[frozenset[int]], Decomposition] = {}
    for each, strokes in zip(drawn, sets, strict=True):
        key = frozenset(strokes)
        if key not in found or each.log_p > found[key].log_p:
            found[key] = each
    ordered = sorted(found.values(), key=lambda each: -each.log_p)
    return [_drawn(scores, each, confidence) for each in ordered[:count]]


def _sampled(
    scores: JoinScores,
) -> tuple[list[Decomposition], list[list[frozenset[int]]], dict[frozenset[int], float]]:
    """Different decompositions, the strokes of each as sets of branches, and the strokes'
    confidences."""
    drawn, counts = different(sample_decompositions(scores, SAMPLES))
    sets = [_stroke_sets(scores, each) for each in drawn]
    return drawn, sets, _confidences(scores.graph, sets, counts)


def different(drawn: Sequence[Decomposition]) -> tuple[list[Decomposition], list[int]]:
    """Each decomposition once, and how often it was drawn."""
    counts = Counter(id(each) for each in drawn)
    once = {id(each): each for each in drawn}
    return list(once.values()), [counts[key] for key in once]


def sample_decompositions(scores: JoinScores, count: int) -> list[Decomposition]:
    """Decompositions: first the most probable, greedily; then independent samples. Those that are the
    same are one object."""
    rng = np.random.default_rng(0)
    # Meshes and halftones: thousands of branches, which no sample will get right.
    count = max(4, min(count, SAMPLED_BRANCHES // max(1, len(scores.graph.branches))))
    if not scores.nodes:
        count = 1
    odds = np.clip(scores.twice_log_odds(), -50, 50)
    twice = rng.random((count, len(odds))) < 1 / (1 + np.exp(-odds))
    twice[0] = odds > 0
    log_p = -np.logaddexp(0, np.where(twice, -odds, odds)).sum(1)
    joined = np.zeros((count, len(scores.nodes)), dtype=int)
    for column, (node, info) in enumerate(scores.nodes.items()):
        mine = twice[:, [branch for branch, _ in info.ends]]
        chance = rng.random(count)
        kinds, first, kind = np.unique(mine, axis=0, return_index=True, return_inverse=True)
        for index in range(len(kinds)):
            found = _matchings(scores, node, 1 + twice[first[index]])
            alike = np.flatnonzero(kind == index)
            chosen = np.searchsorted(np.exp(found.log_p).cumsum(), chance[alike])
            chosen[alike == 0] = found.log_p.argmax()
            joined[alike, column] = chosen.clip(None, len(found.log_p) - 1)
            log_p[alike] += found.log_p[joined[alike, column]]
    drawn: dict[bytes, Decomposition] = {}
    found_all = []
    for row in range(count):
        key = twice[row].tobytes() + joined[row].tobytes()
        if key not in drawn:
            nodes = dict(zip(scores.nodes, joined[row].tolist(), strict=True))
            drawn[key] = Decomposition((1 + twice[row]).tolist(), nodes, float(log_p[row]))
        found_all.append(drawn[key])
    return found_all


def _matchings(scores: JoinScores, node: int, times: Sequence[int]) -> MatchingScores:
    """A node's scores; where it would have too many slots, each branch counts once."""
    found = scores.matchings(node, times) or scores.matchings(node, [1] * len(times))
    assert found is not None
    return found


def _slot_branches(
    scores: JoinScores, node: int, times: Sequence[int]
) -> tuple[MatchingScores, list[tuple[End, int]]]:
    """A node's scores, and the end and pass (0 or 1) that each slot is."""
    found = _matchings(scores, node, times)
    ends = scores.nodes[node].ends
    slots, seen = [], set()
    for slot in found.slots:
        slots.append((ends[slot], int(slot in seen)))
        seen.add(slot)
    return found, slots


def _stroke_sets(scores: JoinScores, drawn: Decomposition) -> list[frozenset[int]]:
    """Strokes of a decomposition as sets of branches."""

    def joined() -> Iterator[tuple[Pass, Pass]]:
        for node, index in drawn.joined.items():
            found, slots = _slot_branches(scores, node, drawn.times)
            for a, b in matchings(len(found.slots))[index]:
                (end_a, pass_a), (end_b, pass_b) = slots[a], slots[b]
                yield (end_a[0], pass_a), (end_b[0], pass_b)

    return stroke_sets(scores.graph, drawn.times, joined())


Pass = tuple[int, int]
"""A branch, and which of its passes, 0 or 1."""


def stroke_sets(
    graph: InkGraph, times: Sequence[int], joined: Iterable[tuple[Pass, Pass]]
) -> list[frozenset[int]]:
    """Strokes as sets of branches.

    Args:
        times: how often each branch was passed.
        joined: passes that go on with each other.
    """
    parent: dict[Pass, Pass] = {}

    def root(key: Pass) -> Pass:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for index, count in enumerate(times):
        for each in range(count):
            parent[index, each] = (index, each)
        if count == 2 and None in graph.branches[index].ends:  # out to its tip, and back
            parent[index, 1] = (index, 0)
    for one, other in joined:
        parent[root(one)] = root(other)
    groups: dict[Pass, set[int]] = {}
    for key in parent:
        groups.setdefault(root(key), set()).add(key[0])
    return [frozenset(each) for each in groups.values()]


def _confidences(
    graph: InkGraph, sets: Sequence[Sequence[frozenset[int]]], counts: Sequence[int]
) -> dict[frozenset[int], float]:
    """Share of samples that have each stroke, or one that covers it and is covered by it.

    Args:
        counts: samples that have each set of strokes.
    """
    distinct = list(dict.fromkeys(itertools.chain.from_iterable(sets)))
    place = {each: index for index, each in enumerate(distinct)}
    member = _membership(distinct, len(graph.branches))
    length = np.array([max(branch.length, 1e-3) for branch in graph.branches])
    shared = (member @ sparse.diags(length) @ member.T).tocoo()  # only strokes that share a branch
    own = member @ length
    least = shared.data / np.maximum(own[shared.row], own[shared.col])
    alike = least >= SAME
    ones = np.ones(int(alike.sum()))
    same = sparse.csr_matrix((ones, (shared.row[alike], shared.col[alike])), shared.shape)
    has = _membership([[place[each] for each in strokes] for strokes in sets], len(distinct))
    share = np.asarray((has @ same > 0).T @ np.array(counts)).ravel() / sum(counts)
    return {each: float(share[index]) for each, index in place.items()}


def _membership(groups: Sequence[Iterable[int]], count: int) -> sparse.csr_matrix:
    """1 where a group (row) has a member (column)."""
    members = [list(each) for each in groups]
    rows = np.repeat(np.arange(len(members)), [len(each) for each in members])
    columns = np.array(list(itertools.chain.from_iterable(members)), dtype=int)
    return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), (len(members), count))


def _drawn(
    scores: JoinScores, chosen: Decomposition, confidence: dict[frozenset[int], float]
) -> DecomposedInk:
    """Lines of a decomposition."""
    graph = InkGraph(
        scores.graph.nodes, list(scores.graph.branches), scores.graph.width, scores.graph.fresh
    )
    links: dict[End, End] = {}
    copies: dict[int, int] = {}
    for index, count in enumerate(chosen.times):
        if count == 2:
            branch = graph.branches[index]
            copies[index] = len(graph.branches)
            graph.branches.append(Branch(branch.line.copy(), list(branch.ends), branch.ink))
            for end in (0, 1):
                if branch.ends[end] is None:  # out to its tip, and back
                    links[index, end] = (copies[index], end)
                    links[copies[index], end] = (index, end)
    for node, index in chosen.joined.items():
        found, slots = _slot_branches(scores, node, chosen.times)
        ends = [(copies[end[0]], end[1]) if later else end for end, later in slots]
        for a, b in matchings(len(found.slots))[index]:
            links[ends[a]], links[ends[b]] = ends[b], ends[a]
    for first, second in copies.items():
        _straightened(graph, links, first, second)
    original = {copy: index for index, copy in copies.items()}
    strokes = []
    for line in chain_branches(graph, links):
        passed = frozenset(original.get(branch, branch) for branch in line.branches)
        strokes.append(FoundStroke(line, confidence.get(passed, 0.0)))
    return DecomposedInk(strokes, chosen.log_p)


def _straightened(graph: InkGraph, links: dict[End, End], first: int, second: int) -> None:
    """Let strokes that share a branch leave it with the least turns: nothing else tells them apart."""
    outer = [links.get((branch, end)) for end in (0, 1) for branch in (first, second)]
    reached = [each for each in outer if each is not None and each[0] not in (first, second)]
    if len(reached) < 4:
        return
    a, b, c, d = (far_direction(graph, each) for each in reached)
    kept = turn(a, c) ** 2 + turn(b, d) ** 2
    if turn(a, d) ** 2 + turn(b, c) ** 2 < kept:
        links[first, 1], links[second, 1] = reached[3], reached[2]
        links[reached[3]], links[reached[2]] = (first, 1), (second, 1)
