"""Training of the score of joins on true pen strokes (`dood_pyro.inference.ink.join_scores`).
Run by ``make joins``; writes dood_pyro/weights/joins.npz.

Drawings of three sets, without those that the table of strokes reports and those that choose settings
(and, of Omniglot, without other drawings of the same characters), are drawn with pens and at sizes of
many kinds. Of each graph of the ink the decomposition is looked for whose strokes match the true ones
best (`join_labels`): how often each branch was passed, and which ends one after the other. The first
network is trained by the likelihood of each node's matching given how often its branches were passed,
the second by that of a branch having been passed twice, given the scores of the first.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.pool
import pickle
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from join_labels import find_labels
from scipy import ndimage
from torch import Tensor

from dood_pyro.data.pen_strokes import FILES, PenDrawing, fit_to_square, load_pen_drawings
from dood_pyro.errors import exit_on_user_error
from dood_pyro.files import replacing, write_atomically
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

HIDDEN, LAYERS, DROPOUT = 160, 3, 0.25
TWICE_HIDDEN = 64
"""Sizes of the two networks."""
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


def perceptron(features: int, hidden: int, layers: int, dropout: float) -> torch.nn.Sequential:
    parts: list[torch.nn.Module] = []
    for width in [features] + [hidden] * (layers - 1):
        parts += [torch.nn.Linear(width, hidden), torch.nn.SiLU(), torch.nn.Dropout(dropout)]
    return torch.nn.Sequential(*parts, torch.nn.Linear(hidden, 1))


def as_network(net: torch.nn.Sequential, mean: np.ndarray, std: np.ndarray) -> Network:
    return Network(mean, std, [each.detach().numpy() for each in net.parameters()])


class PairExamples(NamedTuple):
    """Nodes with the same number of slots."""

    rows: Tensor
    """Standardised features, (nodes, pairs, features)."""
    right: Tensor
    """Which matchings agree with the strokes, (nodes, matchings)."""
    weight: Tensor
    table: Tensor
    """`matching_table`"""

    def log_p(self, net: torch.nn.Module, chosen: Tensor) -> Tensor:
        """Log-probability of what agrees with the strokes."""
        sums = net(self.rows[chosen])[..., 0] @ self.table.T
        agreed = sums.masked_fill(~self.right[chosen], -1e9)
        return torch.logsumexp(agreed, 1) - torch.logsumexp(sums, 1)


def pair_examples(
    data: dict[str, list[Labelled]], mean: np.ndarray, std: np.ndarray
) -> list[PairExamples]:
    """Nodes by their number of slots; each set weighs the same, 1 a node on average."""
    groups: dict[int, list[tuple[np.ndarray, np.ndarray, float]]] = {}
    total = sum(len(graph.nodes) for graphs in data.values() for graph in graphs)
    for graphs in data.values():
        nodes = [node for graph in graphs for node in graph.nodes]
        for slots, rows, flags in nodes:
            groups.setdefault(slots, []).append((rows, flags, total / len(nodes) / len(data)))
    return [
        PairExamples(
            torch.tensor((np.stack([rows for rows, _, _ in group]) - mean) / std).float(),
            torch.tensor(np.stack([right for _, right, _ in group])),
            torch.tensor([weight for _, _, weight in group]).float(),
            torch.tensor(matching_table(slots)).float(),
        )
        for slots, group in groups.items()
    ]


def train_pairs(
    data: dict[str, list[Labelled]], held_out: dict[str, list[Labelled]], epochs: int
) -> Network:
    """Network of pairs' scores, by the likelihood of the matchings."""
    every = np.concatenate(
        [rows for graphs in data.values() for graph in graphs for _, rows, _ in graph.nodes]
    )
    mean, std = every.mean(0), every.std(0) + 1e-6
    examples, others = (pair_examples(each, mean, std) for each in (data, held_out))
    total = sum(len(group.rows) for group in examples)
    net = perceptron(len(mean), HIDDEN, LAYERS, DROPOUT)
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=3e-3)
    size = 256
    steps = epochs * sum(-(-len(group.rows) // size) for group in examples)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    for epoch in range(epochs):
        batches = [
            (group, rows)
            for group in examples
            for rows in torch.randperm(len(group.rows)).split(size)
        ]
        mean_loss = 0.0
        for index in torch.randperm(len(batches)).tolist():
            group, chosen = batches[index]
            loss = -(group.log_p(net, chosen) * group.weight[chosen]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            mean_loss += loss.item() * len(chosen) / total
        if epoch % 5 == 4 or epoch == epochs - 1:
            net.eval()
            with torch.no_grad():
                losses = [
                    -(group.log_p(net, torch.arange(len(group.rows))) * group.weight)
                    for group in others
                ]
            net.train()
            print(
                f"  joins, epoch {epoch + 1}: {mean_loss:.4f} nats a node, "
                f"held out {float(torch.cat(losses).mean()):.4f}",
                flush=True,
            )
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


Branches = dict[str, tuple[np.ndarray, np.ndarray]]
"""Of each set, features of branches and whether they were passed twice."""


def twice_losses(
    net: torch.nn.Module, rows: np.ndarray, flags: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> float:
    """Nats a branch."""
    with torch.no_grad():
        odds = net(torch.tensor((rows - mean) / std).float())[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            odds, torch.tensor(flags).float()
        )
    return float(loss)


def train_twice(examples: Branches, held_out: Branches, epochs: int) -> Network:
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
    net = perceptron(features.shape[1], TWICE_HIDDEN, 2, DROPOUT)
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
    net.eval()
    for part, each in (("trained", examples), ("held out", held_out)):
        losses = [twice_losses(net, *found, mean, std) for found in each.values()]
        print(f"  passed twice, {part}: {np.mean(losses):.4f} nats a branch", flush=True)
    return as_network(net, mean, std)


Examples = dict[str, dict[str, list[Labelled]]]
"""Graphs by part, ``train`` and ``held out``, and set."""


def make_examples(
    count: int, pictures: int, data_dir: Path | None, pool: multiprocessing.pool.Pool
) -> Examples:
    """Labelled graphs of ``pictures`` pictures of each set."""
    rng = np.random.default_rng(1)
    began = time.perf_counter()
    found: Examples = {"train": {}, "held out": {}}
    for name in FILES:
        _, chosen, trained = split_drawings(name, count, data_dir)
        for part, drawings, wanted in (("train", trained, pictures), ("held out", chosen, 400)):
            jobs = [
                (
                    fit_to_square(drawings[index % len(drawings)].strokes, SIDE, MARGIN),
                    KINDS[int(rng.integers(len(KINDS)))],
                )
                for index in range(wanted)
            ]
            lists = pool.map(labelled, jobs, chunksize=10)
            graphs = [graph for graphs in lists for graph in graphs]
            found[part][name] = graphs
            nodes = sum(len(graph.nodes) for graph in graphs)
            spent = time.perf_counter() - began
            print(f"  {name}, {part}: {wanted} pictures, {nodes} nodes, {spent:.0f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=5000, help="Training drawings of each set.")
    parser.add_argument("--pictures", type=int, default=4500, help="Pictures of each set.")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=3, help="Of the networks.")
    parser.add_argument("--jobs", type=int, default=2, help="Processes.")
    parser.add_argument("--data-dir", type=Path, help="Data folder, in place of DOOD_DATA.")
    parser.add_argument(
        "--examples",
        type=Path,
        help="File of labelled graphs, which take most of the time: read if it is there, else written. "
        "A pickle: read none that you have not made.",
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    with multiprocessing.Pool(arguments.jobs) as pool:
        if arguments.examples is not None and arguments.examples.exists():
            data: Examples = pickle.loads(arguments.examples.read_bytes())
        else:
            data = make_examples(arguments.count, arguments.pictures, arguments.data_dir, pool)
            if arguments.examples is not None:
                write_atomically(arguments.examples, pickle.dumps(data))
        pair = train_pairs(data["train"], data["held out"], arguments.epochs)
        branches: dict[str, Branches] = {}
        for part, sets in data.items():
            branches[part] = {}
            for name, graphs in sets.items():
                jobs = [(each._replace(nodes=[]), pair) for each in graphs]
                rows = [each for each in pool.map(twice_examples, jobs, chunksize=50) if each[1]]
                branches[part][name] = (
                    np.concatenate([each for each, _ in rows]),
                    np.array([flag for _, flags in rows for flag in flags]),
                )
    networks = JoinNetworks(pair, train_twice(branches["train"], branches["held out"], 20))
    arrays = {}
    for name, network in networks._asdict().items():
        arrays[f"{name}.mean"], arrays[f"{name}.std"] = (
            each.astype(np.float32) for each in (network.mean, network.std)
        )
        for index, weight in enumerate(network.weights):
            # Half the bytes; scores differ by 10⁻³.
            arrays[f"{name}.{index}"] = weight.astype(np.float16)
    with replacing(arguments.out) as file:
        np.savez(file, **arrays)
    print(f"  {arguments.out}: {arguments.out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
