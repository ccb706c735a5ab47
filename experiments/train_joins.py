"""Training of the score of joins on true pen strokes (`dood_pyro.inference.ink.join_scores`).
Run by ``make joins``; writes dood_pyro/weights/joins.npz.

Drawings of three sets, without those that the table of strokes reports and those that choose settings
(and, of Omniglot, without other drawings of the same characters), are drawn with pens and at sizes of
many kinds. Their strokes are followed along the graph of the ink: how often each branch was passed, and
which ends were passed one after the other. The first network is trained by the likelihood of each
node's matching given how often its branches were passed, the second by that of a branch having been
passed twice, given the scores of the first.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from join_labels import find_labels
from scipy import ndimage

from dood_pyro.data.pen_strokes import FILES, PenDrawing, fit_to_square, load_pen_drawings
from dood_pyro.errors import exit_on_user_error
from dood_pyro.inference.ink.join_scores import (
    JoinNetworks,
    JoinScores,
    Network,
    matching_table,
    matchings,
    node_ends,
    pair_rows,
)
from dood_pyro.inference.ink.paper import find_ink
from dood_pyro.inference.ink.parse_ink import graph_contexts, graphs_of
from dood_pyro.inference.ink.skeleton import InkGraph
from dood_pyro.rendering.round_pen import Polyline, draw_with_pen

WEIGHTS = Path(__file__).parent.parent / "dood_pyro" / "weights" / "joins.npz"
SIDE, MARGIN = 256, 0.08
TESTED, CHOSEN = 100, 200
"""Drawings of each set, first in its shuffle of seed 0, that are reported, and that chose settings."""
KINDS = (
    (2.0, 256, 0.0),
    (3.0, 256, 0.0),
    (4.0, 256, 0.0),
    (4.0, 256, 0.0),
    (4.0, 256, 0.0),
    (4.0, 256, 0.0),
    (5.0, 400, 0.0),
    (8.0, 256, 0.0),
    (16.0, 256, 0.0),
    (4.0, 256, 2.0),
    (4.0, 64, 0.0),
    (4.0, 28, 0.0),
)
"""Pen at 256 pixels a side, the picture's side, and the standard deviation of a blur."""


def split_drawings(
    name: str, trained: int, data_dir: Path | None = None
) -> tuple[list[PenDrawing], list[PenDrawing], list[PenDrawing]]:
    """Drawings of a set: reported, for choices, and for training."""
    drawings = load_pen_drawings(name, data_dir)
    order = np.random.default_rng(0).permutation(len(drawings)).tolist()
    reported, rest = order[:TESTED], order[TESTED:]
    if name == "omniglot":
        # Twenty people drew each character, with much the same strokes.
        groups = {drawings[row].group for row in reported}
        rest = [row for row in rest if drawings[row].group not in groups]
    parts = reported, rest[:CHOSEN], rest[CHOSEN : CHOSEN + trained]
    return tuple([drawings[row] for row in part] for part in parts)  # type: ignore[return-value]


def picture_of(strokes: Sequence[Polyline], pen: float, side: int, blur: float) -> np.ndarray:
    """Picture of strokes given on `SIDE` pixels."""
    if side < SIDE:
        large = draw_with_pen(list(strokes), (SIDE, SIDE), pen)
        tensor = torch.from_numpy(large)[None, None]
        return torch.nn.functional.interpolate(tensor, size=(side, side), mode="area")[0, 0].numpy()
    scale = side / SIDE
    picture = draw_with_pen([scale * each for each in strokes], (side, side), scale * pen)
    return ndimage.gaussian_filter(picture, blur) if blur else picture


class Labelled(NamedTuple):
    """What is learned from a graph."""

    nodes: list[tuple[int, np.ndarray, np.ndarray]]
    """Slots, features of their pairs, and which matchings agree with the strokes."""
    graph: InkGraph
    times: list[int]
    context: list[float]


def labelled(job: tuple[list[Polyline], tuple[float, int, float]]) -> list[Labelled]:
    """Graphs of a drawing, and how its strokes pass through them."""
    strokes, (pen, side, blur) = job
    picture = picture_of(strokes, pen, side, blur)
    graphs, factor = graphs_of(find_ink(picture[..., None], polarity="bright-ink"))
    truth = [each * (factor * side / SIDE) for each in strokes]
    found = []
    for graph, context in zip(graphs, graph_contexts(graphs), strict=True):
        ends = node_ends(graph)
        labels = find_labels(graph, ends, truth, factor * side)
        nodes = []
        for node, info in ends.items():
            times = [labels.times[branch] for branch, _ in info.ends]
            right = np.array([pairs in labels.joined[node] for pairs in matchings(sum(times))])
            rows = pair_rows(info, times, graph.width, context).astype(np.float32)
            nodes.append((sum(times), rows, right))
        found.append(Labelled(nodes, graph, labels.times, context))
    return found


def perceptron(features: int, hidden: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Linear(features, hidden),
        torch.nn.Tanh(),
        torch.nn.Linear(hidden, hidden),
        torch.nn.Tanh(),
        torch.nn.Linear(hidden, 1),
    )


def as_network(net: torch.nn.Sequential, mean: np.ndarray, std: np.ndarray) -> Network:
    return Network(mean, std, [each.detach().numpy() for each in net.parameters()])


def train_pairs(data: dict[str, list[Labelled]], epochs: int, hidden: int = 96) -> Network:
    """Network of pairs' scores, by the likelihood of the matchings; each set weighs the same."""
    groups: dict[int, list[tuple[np.ndarray, np.ndarray, float]]] = {}
    for graphs in data.values():
        nodes = [node for graph in graphs for node in graph.nodes]
        for slots, rows, flags in nodes:
            groups.setdefault(slots, []).append((rows, flags, 1 / len(nodes)))
    every = np.concatenate([rows for group in groups.values() for rows, _, _ in group])
    mean, std = every.mean(0), every.std(0) + 1e-6
    tensors = {
        slots: (
            torch.tensor((np.stack([rows for rows, _, _ in group]) - mean) / std).float(),
            torch.tensor(np.stack([right for _, right, _ in group])),
            torch.tensor([weight for _, _, weight in group]).float(),
            torch.tensor(matching_table(slots)).float(),
        )
        for slots, group in groups.items()
    }
    total = sum(len(group) for group in groups.values())
    net = perceptron(len(mean), hidden)
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=3e-3)
    size = 256
    steps = epochs * sum(-(-len(group) // size) for group in groups.values())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    for epoch in range(epochs):
        batches = [
            (slots, rows)
            for slots, tensor in tensors.items()
            for rows in torch.randperm(len(tensor[0])).split(size)
        ]
        mean_loss = 0.0
        for index in torch.randperm(len(batches)).tolist():
            slots, chosen = batches[index]
            inputs, right, weight, table = tensors[slots]
            sums = net(inputs[chosen])[..., 0] @ table.T
            agreed = sums.masked_fill(~right[chosen], -1e9)
            log_p = torch.logsumexp(agreed, 1) - torch.logsumexp(sums, 1)
            loss = -(log_p * weight[chosen]).mean() * total / len(data)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            mean_loss += loss.item() * len(chosen) / total
        if epoch % 5 == 4:
            print(f"  joins, epoch {epoch + 1}: {mean_loss:.4f} nats a node", flush=True)
    return as_network(net, mean, std)


def twice_examples(job: tuple[Labelled, Network]) -> tuple[np.ndarray, list[bool]]:
    """Features of a graph's branches, the others passed once or as often as they were, and whether
    each was passed twice."""
    example, pair = job
    scores = JoinScores(example.graph, JoinNetworks(pair, pair), example.context)
    kept = [
        index for index, branch in enumerate(example.graph.branches) if branch.ends != [None, None]
    ]
    if not kept:
        return np.zeros((0, 0)), []
    times = example.times
    rows = [scores.twice_rows(each)[kept] for each in ([1] * len(times), times)]
    return np.concatenate(rows), 2 * [times[index] == 2 for index in kept]


def train_twice(examples: dict[str, tuple[np.ndarray, np.ndarray]], epochs: int) -> Network:
    """Network of the log-odds that branches were passed twice; each set weighs the same."""
    rows = np.concatenate([rows for rows, _ in examples.values()])
    mean, std = rows.mean(0), rows.std(0) + 1e-6
    features = torch.tensor((rows - mean) / std).float()
    twice = torch.tensor(np.concatenate([flags for _, flags in examples.values()])).float()
    weight = torch.cat(
        [
            torch.full((len(flags),), len(rows) / (len(examples) * len(flags)))
            for _, flags in examples.values()
        ]
    )
    net = perceptron(features.shape[1], 32)
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=3e-3)
    size = 512
    steps = epochs * -(-len(rows) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(rows)).split(size):
            odds = net(features[batch])[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                odds, twice[batch], weight[batch]
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    print(f"  passed twice: {loss.item():.4f} nats a branch in the last batch", flush=True)
    return as_network(net, mean, std)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=3000, help="Training drawings of each set.")
    parser.add_argument("--rounds", type=int, default=2, help="Pictures of each drawing.")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--jobs", type=int, default=2, help="Processes.")
    parser.add_argument("--data-dir", type=Path, help="Data folder, in place of DOOD_DATA.")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    data: dict[str, list[Labelled]] = {}
    began = time.perf_counter()
    with multiprocessing.Pool(arguments.jobs) as pool:
        for name in FILES:
            drawings = split_drawings(name, arguments.count, arguments.data_dir)[2]
            jobs = [
                (
                    fit_to_square(each.strokes, SIDE, MARGIN),
                    KINDS[int(rng.integers(len(KINDS)))],
                )
                for each in drawings
                for _ in range(arguments.rounds)
            ]
            found = pool.map(labelled, jobs, chunksize=20)
            data[name] = [graph for graphs in found for graph in graphs]
            nodes = sum(len(graph.nodes) for graph in data[name])
            spent = time.perf_counter() - began
            print(f"  {name}: {len(drawings)} drawings, {nodes} nodes, {spent:.0f} s", flush=True)
        pair = train_pairs(data, arguments.epochs)
        examples = {}
        for name, graphs in data.items():
            jobs_twice = [(each._replace(nodes=[]), pair) for each in graphs]
            rows = [each for each in pool.map(twice_examples, jobs_twice, chunksize=50) if each[1]]
            examples[name] = (
                np.concatenate([each for each, _ in rows]),
                np.array([flag for _, flags in rows for flag in flags]),
            )
    networks = JoinNetworks(pair, train_twice(examples, 20))
    arrays = {}
    for name, network in networks._asdict().items():
        arrays[f"{name}.mean"], arrays[f"{name}.std"] = (
            each.astype(np.float32) for each in (network.mean, network.std)
        )
        for index, weight in enumerate(network.weights):
            arrays[f"{name}.{index}"] = weight.astype(np.float32)
    with arguments.out.open("wb") as file:
        np.savez(file, **arrays)
    print(f"  {arguments.out}: {arguments.out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
