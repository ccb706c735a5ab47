"""Joins as a distribution: matchings counted, probabilities that add up, samples that agree with them,
and labels that follow true strokes."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from dood_pyro.inference.ink.decompositions import (
    DecomposedInk,
    alternatives,
    decompose,
    sample_decompositions,
)
from dood_pyro.inference.ink.join_scores import (
    JoinScores,
    matching_table,
    matchings,
    node_ends,
    pair_rows,
    trained_networks,
)
from dood_pyro.inference.ink.parse_ink import graph_contexts, most_probable
from dood_pyro.inference.ink.skeleton import InkGraph, ink_graphs
from dood_pyro.rendering.round_pen import Polyline, draw_with_pen

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
import join_labels

CROSS = [np.array([[20.0, 30], [170, 150]]), np.array([[150.0, 30], [40, 170]])]
OUT_AND_BACK = [np.array([[30.0, 30], [100, 30], [100, 150], [100, 30], [170, 34]])]
SHARED = [
    np.array([[20.0, 40], [80, 100], [130, 100], [180, 40]]),
    np.array([[20.0, 160], [80, 100], [130, 100], [180, 160]]),
]


def graph_of(strokes: list[Polyline]) -> InkGraph:
    (graph,) = ink_graphs(draw_with_pen(strokes, (200, 200), 4.0) > 0.5)
    return graph


def scores_of(strokes: list[Polyline]) -> JoinScores:
    graph = graph_of(strokes)
    return JoinScores(graph, trained_networks(), graph_contexts([graph])[0])


def test_matchings_are_all_and_differ() -> None:
    """As many as the telephone numbers."""
    for count, expected in enumerate((1, 1, 2, 4, 10, 26, 76, 232, 764)):
        assert len(set(matchings(count))) == expected
        for pairs in matchings(count):
            flat = list(itertools.chain(*pairs))
            assert len(flat) == len(set(flat))
        assert matching_table(count).sum(1).tolist() == [len(pairs) for pairs in matchings(count)]


def test_probabilities_of_a_nodes_matchings_add_up() -> None:
    scores = scores_of(CROSS)
    count = len(scores.graph.branches)
    for node, times in itertools.product(scores.nodes, ([1] * count, [2] + [1] * (count - 1))):
        found = scores.matchings(node, times)
        assert found is not None
        assert np.exp(found.log_p).sum() == pytest.approx(1)
        assert np.exp(found.best - found.total) == pytest.approx(np.exp(found.log_p.max()))


def test_a_pairs_features_do_not_depend_on_the_order_of_its_ends() -> None:
    graph = graph_of(CROSS)
    (node,) = [info for info in node_ends(graph).values() if len(info.ends) == 4]
    turned = node._replace(
        ends=node.ends[::-1],
        directions=node.directions[:, ::-1],
        place=node.place[::-1],
        turns=node.turns[:, ::-1, ::-1],
        **{
            name: getattr(node, name)[::-1]
            for name in ("bend", "length", "straightness", "beyond", "loop", "ink")
        },
    )
    rows, again = (pair_rows(each, [1] * 4, graph.width, [0.0] * 6) for each in (node, turned))
    order = [
        list(itertools.combinations(range(4), 2)).index((3 - j, 3 - i))
        for i, j in itertools.combinations(range(4), 2)
    ]
    assert np.allclose(rows, again[order])


def test_samples_follow_the_scores() -> None:
    scores = scores_of(CROSS)
    (node,) = [node for node, info in scores.nodes.items() if len(info.ends) == 4]
    drawn = sample_decompositions(scores, 3000)[1:]
    once = [each for each in drawn if max(each.times) == 1]
    found = scores.matchings(node, [1] * len(scores.graph.branches))
    assert found is not None
    shares = np.bincount([each.joined[node] for each in once], minlength=10) / len(once)
    assert np.abs(shares - np.exp(found.log_p)).max() < 0.03


def test_a_decomposition_keeps_all_ink_and_has_confidences() -> None:
    for strokes in (CROSS, SHARED, OUT_AND_BACK):
        scores = scores_of(strokes)
        found = decompose(scores)
        passed = {branch for stroke in found.strokes for branch in stroke.line.branches}
        assert set(range(len(scores.graph.branches))) <= passed
        assert all(0 < stroke.confidence <= 1 for stroke in found.strokes)
        assert decompose(scores_of(strokes)).log_p == found.log_p


def test_alternatives_differ_and_fall() -> None:
    found = alternatives(scores_of(SHARED), 5)
    values = [each.log_p for each in found]
    assert len(found) > 1 and values == sorted(values, reverse=True)


def test_the_most_probable_combinations() -> None:
    rng = np.random.default_rng(0)
    ways = [
        [DecomposedInk([], value) for value in sorted(rng.normal(size=count), reverse=True)]
        for count in (3, 1, 4, 2)
    ]
    best = [sum(each.log_p for each in chosen) for chosen in most_probable(ways, 10)]
    every = sorted(
        (sum(each.log_p for each in chosen) for chosen in itertools.product(*ways)), reverse=True
    )
    assert best == pytest.approx(every[:10])
    assert len(most_probable(ways, 100)) == 24


@pytest.mark.parametrize(
    ("strokes", "twice"),
    [(CROSS, 0), (OUT_AND_BACK, 1), (SHARED, 1)],
    ids=["cross", "leg", "shared"],
)
def test_labels_follow_the_strokes(strokes: list[Polyline], twice: int) -> None:
    """How often branches were passed, and that the true joins are among those allowed."""
    graph = graph_of(strokes)
    truth = join_labels.true_strokes(strokes)
    times = [join_labels.times_passed(graph, each, truth) for each in graph.branches]
    assert times.count(2) == twice and set(times) <= {1, 2}
    for node, info in node_ends(graph).items():
        mine = [times[branch] for branch, _ in info.ends]
        passed = join_labels.passages(graph, node, info, truth)
        assert len(join_labels.agreeing(mine, passed)) == passed.sum()
        assert passed.sum() == sum(mine) // 2
