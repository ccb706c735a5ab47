"""What training of joins learns: the decomposition of a graph that matches the true strokes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from dood_pyro.inference.ink.join_scores import node_ends
from dood_pyro.inference.ink.paper import find_ink
from dood_pyro.inference.ink.parse_ink import graphs_of
from dood_pyro.rendering.round_pen import Polyline, draw_with_pen, resample

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

from join_labels import SOFT, Agreement, Labels, find_labels

SIDE = 128


def line(*points: tuple[float, float]) -> Polyline:
    return np.array(points, dtype=float)


DRAWINGS = {
    "a cross": [line((20, 64), (108, 64)), line((64, 20), (64, 108))],
    "a corner of one stroke": [line((20, 20), (20, 100), (100, 100))],
    "a corner of two": [line((20, 20), (20, 100)), line((20, 100), (100, 100))],
    "a leg out and back": [line((20, 60), (100, 60), (60, 60), (60, 110))],
    "a shared stretch": [
        line((20, 20), (50, 64), (80, 64), (108, 20)),
        line((20, 108), (50, 64), (80, 64), (108, 108)),
    ],
    "a box whose sides begin at one corner": [
        line((30, 30), (30, 100)),
        line((30, 30), (100, 30), (100, 100)),
        line((30, 100), (100, 100)),
    ],
}


def labels_of(strokes: list[Polyline]) -> tuple[Labels, Agreement, list[frozenset[int]]]:
    picture = draw_with_pen(strokes, (SIDE, SIDE), 4.0)
    (graph,), factor = graphs_of(find_ink(picture[..., None], polarity="bright-ink"))
    truth = [factor * each for each in strokes]
    nodes = node_ends(graph)
    labels = find_labels(graph, nodes, truth, factor * SIDE)
    agreement = Agreement(graph, truth, factor * SIDE)
    covered = [
        frozenset(
            index
            for index, branch in enumerate(graph.branches)
            if agreement.near[row, index] > 0.5 * len(resample(branch.line))
        )
        for row in range(len(truth))
    ]
    return labels, agreement, covered


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_labels_are_the_true_strokes(name: str) -> None:
    labels, agreement, covered = labels_of(DRAWINGS[name])
    # The branches that lie on each true stroke, taken as paths, match all strokes.
    assert agreement.value(covered) == pytest.approx(1 + SOFT, abs=0.05)
    assert labels.value == pytest.approx(1 + SOFT, abs=0.05)


def test_a_stretch_of_two_strokes_is_passed_twice() -> None:
    labels, _, covered = labels_of(DRAWINGS["a shared stretch"])
    (shared,) = covered[0] & covered[1]
    assert labels.times[shared] == 2 and sum(labels.times) == len(labels.times) + 1


def test_what_agrees_alike_is_right_alike() -> None:
    """Nothing tells two strokes that swap sides on a shared stretch of no length from two that cross;
    the strokes' shapes do tell a corner's two strokes from one."""
    one, _, _ = labels_of(DRAWINGS["a corner of one stroke"])
    two, _, _ = labels_of(DRAWINGS["a corner of two"])
    assert [pairs for each in one.joined.values() for pairs in each] == [((0, 1),)]
    assert [pairs for each in two.joined.values() for pairs in each] == [()]
