"""Pen strokes out of a picture of any size, from its ink (`dood_pyro.recognition` calls it).

A parse is a decomposition s of the ink into strokes, and the strokes' curves, widths and darknesses θ.
Its log-density is

    log p(picture | θ, s) + log p(s | ink)

with a Laplace density of each pixel around what the strokes leave there, as in the model, and the
learned score of joins (`join_scores`). s is chosen first, for the most strokes that are right
(`decompositions`); then θ is fitted to the picture by least squares (`fit`). The ink's skeleton only
proposes (`skeleton`). Direction and order of the strokes are by rule (`order`). The model's prior over
strokes, which knows canvases of up to six, has no part in it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from dood_pyro.inference.ink.decompositions import (
    DecomposedInk,
    FoundStroke,
    alternatives,
    decompose,
)
from dood_pyro.inference.ink.fills import Fills, take_fills
from dood_pyro.inference.ink.fit import STEPS, Chain, fit_chains
from dood_pyro.inference.ink.join_scores import (
    JoinNetworks,
    JoinScores,
    graph_context,
    trained_networks,
)
from dood_pyro.inference.ink.joins import chain_branches, joins, turn
from dood_pyro.inference.ink.order import box_of, characters, drawing_order
from dood_pyro.inference.ink.paper import Ink, above_half_of_near, specks
from dood_pyro.inference.ink.pens import of_one_pen
from dood_pyro.inference.ink.skeleton import InkGraph, Points, along, ink_graphs, path_length

FILLING = 0.5
"""Confidence of strokes that fill a patch: nothing tells how a person filled it."""
MAX_STROKES = 100_000
"""Most strokes of a picture, unless told."""
LAPLACE_SCALE = 0.1
"""Scale of the Laplace density of a pixel around what the strokes leave there (equation 5)."""
Joins = Literal["learned", "angles"]

FINE_WIDTH = 4.0
"""Width of the pen, pixels, below which a picture is enlarged before its skeleton is taken."""
MOST_ENLARGED = 8
COARSE_SPECK = 1.2
"""Area up to which a piece of a coarse picture's ink is a speck, pixels of the picture."""
LARGEST_SIDE = 1200
"""Pixels of the longer side up to which pictures are enlarged."""
CORNER = 40.0
"""Turn from which a stroke may have a corner where its branches meet, degrees."""
SEAM_REACH = (0.4, 1.8)
"""Stretch before and after a seam over which its turn is measured, pen widths."""


class InkStroke(NamedTuple):
    """A pen stroke in a picture."""

    chain: Chain
    confidence: float
    """Probability, in [0, 1], that a person drew it as one stroke."""


class InkParse(NamedTuple):
    """Strokes of a picture, in the order in which they are drawn."""

    strokes: list[InkStroke]
    explained: float
    """Share of the ink that the strokes leave too."""
    limited: bool
    """Whether there were more strokes than the limit."""
    log_density: float
    """log p(picture | strokes) + log p(decomposition | ink), nats, up to a constant of the picture; NaN
    for joins scored by angles."""


def parse_ink(
    ink: Ink,
    score: Joins = "learned",
    steps: int = STEPS,
    max_strokes: int = MAX_STROKES,
    networks: JoinNetworks | None = None,
) -> InkParse:
    """Pen strokes of a picture's ink.

    Args:
        score: what says which branches continue each other: networks that learned from true strokes
            of other drawings, or angles alone.
        steps: steps of the joint fit; 0 for lines through the middle of the ink.
        max_strokes: most strokes; the longest are kept.
        networks: in place of those that come with the package.
    """
    fills = take_fills(ink)
    graphs, factor = graphs_of(fills.rest)
    if score == "angles":
        lines = [line for graph in graphs for line in chain_branches(graph, joins(graph))]
        drawn = DecomposedInk([FoundStroke(line, 1.0) for line in lines], float("nan"))
    else:
        pieces = [decompose(scores) for scores in _scores(graphs, networks)]
        drawn = _together(pieces)
    return _fitted(ink, fills, drawn, _width(graphs), factor, steps, max_strokes)


def parse_ink_ways(ink: Ink, count: int, max_strokes: int = MAX_STROKES) -> list[InkParse]:
    """Up to ``count`` different parses, in falling order of their decompositions' probability.

    Args:
        max_strokes: most strokes of each; the longest are kept.
    """
    fills = take_fills(ink)
    graphs, factor = graphs_of(fills.rest)
    ways = [alternatives(scores, count) for scores in _scores(graphs, None)]
    return [
        _fitted(ink, fills, _together(chosen), _width(graphs), factor, STEPS, max_strokes)
        for chosen in most_probable(ways, count)
    ]


def most_probable(ways: Sequence[Sequence[DecomposedInk]], count: int) -> list[list[DecomposedInk]]:
    """Combinations of one of each, the ``count`` with the highest sums of log-probabilities.

    Args:
        ways: each in falling order.
    """
    first = (0,) * len(ways)

    def value(places: tuple[int, ...]) -> float:
        return sum(each[place].log_p for each, place in zip(ways, places, strict=True))

    heap, seen = [(-value(first), first)], {first}
    found: list[list[DecomposedInk]] = []
    while heap and len(found) < count:
        _, places = heapq.heappop(heap)
        found.append([each[place] for each, place in zip(ways, places, strict=True)])
        for index, place in enumerate(places):
            following = (*places[:index], place + 1, *places[index + 1 :])
            if place + 1 < len(ways[index]) and following not in seen:
                seen.add(following)
                heapq.heappush(heap, (-value(following), following))
    return found


def _scores(graphs: Sequence[InkGraph], networks: JoinNetworks | None) -> list[JoinScores]:
    networks = networks or trained_networks()
    return [
        JoinScores(graph, networks, context)
        for graph, context in zip(graphs, graph_contexts(graphs), strict=True)
    ]


def _width(graphs: Sequence[InkGraph]) -> float:
    return graphs[0].width if graphs else 1.0


def _together(pieces: Sequence[DecomposedInk]) -> DecomposedInk:
    """Pieces of ink as one."""
    strokes = [stroke for piece in pieces for stroke in piece.strokes]
    return DecomposedInk(strokes, sum(piece.log_p for piece in pieces))


def _fitted(
    ink: Ink,
    fills: Fills,
    drawn: DecomposedInk,
    width: float,
    factor: int,
    steps: int,
    max_strokes: int,
) -> InkParse:
    """Strokes fitted to the picture, directed and ordered, with those that fill patches.

    Args:
        ink: all of it.
        width: the pen's, in the lines' own finer pixels.
        factor: how many times finer these are.
    """
    found = of_one_pen([each.line for each in drawn.strokes], ink.colours, width, factor)
    strokes = [
        FoundStroke(each.line, min(drawn.strokes[index].confidence for index in each.of))
        for each in found
    ]
    filling = fills.strokes
    limited = len(strokes) + len(filling) > max_strokes
    if limited:
        lengths = [path_length(each.line.line) / factor for each in strokes]
        lengths += [path_length(each.control[:, 0]) for each in filling]
        kept = set(np.argsort(lengths)[::-1][:max_strokes].tolist())
        filling = [each for i, each in enumerate(filling, len(strokes)) if i in kept]
        strokes = [each for i, each in enumerate(strokes) if i in kept]
    lines = []
    for stroke in strokes:
        line, seams, _ = stroke.line
        corners = [seam for seam in seams if _is_corner(line, seam, width)]
        lines.append((_two_points(line) / factor, corners))
    fit = fit_chains(fills.rest.strength, lines, width / factor, steps)
    chains = [*map(_directed, fit.chains), *filling]
    sure = [*(stroke.confidence for stroke in strokes), *(FILLING for _ in filling)]
    ordered = [InkStroke(chains[i], sure[i]) for i in drawing_order(chains)]
    log_density = drawn.log_p - fit.misfit / LAPLACE_SCALE
    return InkParse(ordered, explained_share(ink, chains), limited, log_density)


def graph_contexts(graphs: Sequence[InkGraph]) -> list[list[float]]:
    """For each graph, what those of its character are like together."""
    if not graphs:
        return []
    points = [np.concatenate([branch.line for branch in graph.branches]) for graph in graphs]
    found: list[list[float]] = [[]] * len(graphs)
    for group in characters(np.array([box_of(each) for each in points])):
        context = graph_context([graphs[index] for index in group])
        for index in group:
            found[index] = context
    return found


def graphs_of(ink: Ink) -> tuple[list[InkGraph], int]:
    """Graphs of a picture's ink, and how many times finer than the picture their pixels are."""
    mask, fine, factor = enlarged_mask(ink)
    return ink_graphs(mask, fine), factor


def enlarged_mask(
    ink: Ink,
) -> tuple[Bool[np.ndarray, "rows columns"], Float[np.ndarray, "rows columns"], int]:
    """Where there is ink, and its strength, in pixels as many times finer than the picture's as make a
    thin pen a few pixels wide; and how many times that is."""
    longer = max(ink.strength.shape)
    factor = int(np.clip(round(FINE_WIDTH / max(ink.width, 0.5)), 1, MOST_ENLARGED))
    factor = max(1, min(factor, LARGEST_SIDE // longer))
    if factor == 1:
        return ink.mask, ink.strength, 1
    fine = ndimage.zoom(ink.strength, factor, order=3, mode="nearest", grid_mode=True)
    mask: Bool[np.ndarray, "height width"] = fine > ink.threshold
    if ink.coarse:
        mask = above_half_of_near(fine, factor)
        mask &= ~specks(mask, COARSE_SPECK * factor**2)
    return mask, fine, factor


def _two_points(line: Points) -> Points:
    """A line of two points at least: a dot's middle is one."""
    return line if len(line) > 1 else np.concatenate([line, line + 1e-3])


def _is_corner(line: Points, seam: int, width: float) -> bool:
    """Whether a line turns sharply where two of its branches meet."""
    before, after = line[: seam + 1][::-1], line[seam:]
    near, far = (reach * width for reach in SEAM_REACH)
    if min(path_length(before), path_length(after)) < near + 0.5:
        return False
    directions = []
    for side in (before, after):
        first, second = along(side, np.array([near, far]))
        directions.append((second - first) / max(float(np.hypot(*(second - first))), 1e-9))
    return turn(*directions) > CORNER


def _directed(chain: Chain) -> Chain:
    """A chain started towards the upper left."""
    if chain.control[0, 0].sum() <= chain.control[-1, -1].sum():
        return chain
    return chain._replace(control=chain.control[::-1, ::-1])


def explained_share(ink: Ink, chains: Sequence[Chain]) -> float:
    """Share of a picture's ink that lies under the strokes."""
    from scipy.spatial import cKDTree

    ys, xs = np.nonzero(ink.mask)
    if not len(ys):
        return 1.0
    if not chains:
        return 0.0
    pixels = np.stack([xs + 0.5, ys + 0.5], axis=-1)
    covered = np.zeros(len(pixels), dtype=bool)
    # Dots by themselves: of a dot's pixels the line that it lies on may be the nearest.
    dots = [np.ptp(chain.control, axis=(0, 1)).max() < 1 for chain in chains]
    for dotted in set(dots):
        group = [chain for chain, is_dot in zip(chains, dots, strict=True) if is_dot == dotted]
        lines = [chain.evenly(max(1.0, chain.width / 2)) for chain in group]
        widths = np.repeat([chain.width for chain in group], [len(line) for line in lines])
        distance, nearest = cKDTree(np.concatenate(lines)).query(
            pixels, distance_upper_bound=float(widths.max()) + 2
        )
        near = np.isfinite(distance)
        near[near] = distance[near] <= widths[nearest[near]] / 2 + 1
        covered |= near
    weight = ink.strength[ys, xs]
    return float(weight[covered].sum() / weight.sum())
