"""Fréchet distances between sets of pictures (section 3.2, the numbers of Fig. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro import data
from dood_pyro.data.folder import read_all
from dood_pyro.errors import UserError
from dood_pyro.features import SIZE, FeatureNetwork
from dood_pyro.pictures import resize
from dood_pyro.recognition import Recognizer, draws_curves
from dood_pyro.tasks.generate import generate
from dood_pyro.tokens import strokes_of

BATCH = 256


class Reference:
    """Pictures in [0, 1], (count, 50, 50), that others are compared with: their features are computed
    once.

    Raises:
        UserError: there are fewer than there are features: the distance would be of noise.
    """

    def __init__(self, network: FeatureNetwork, pictures: Float[Tensor, "count 50 50"]) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        self._least = network.num_features + 1
        self._metric = FrechetInceptionDistance(
            feature=network, normalize=True, reset_real_features=False
        )
        self._take(pictures, real=True)

    def distance(self, pictures: Float[Tensor, "count 50 50"]) -> float:
        """The Fréchet distance of the features of other pictures.

        Raises:
            UserError: there are too few.
        """
        self._metric.reset()
        self._take(pictures, real=False)
        return float(self._metric.compute())

    @torch.no_grad()
    def _take(self, pictures: Tensor, real: bool) -> None:
        if len(pictures) < self._least:
            raise UserError(
                f"a Fréchet distance needs {self._least} pictures on either side; one has "
                f"{len(pictures)}"
            )
        for part in pictures.split(BATCH):
            self._metric.update(part.float(), real=real)


def frechet(
    network: FeatureNetwork,
    first: Float[Tensor, "count 50 50"],
    second: Float[Tensor, "count 50 50"],
) -> float:
    """The Fréchet distance between the features of two sets of pictures in [0, 1].

    Raises:
        UserError: a set has fewer pictures than there are features: the distance would be of noise.
    """
    return Reference(network, first).distance(second)


def pictures_of(
    source: str, part: str, data_dir: str | Path | None = None
) -> Float[Tensor, "count 50 50"]:
    """All pictures of one part of a source, in the order of the shuffle of seed 0.

    Raises:
        UserError: the source cannot be had.
    """
    return data.load(source, part, SIZE, data_dir).shuffled(None).float() / 255


def folder_or_source(
    name: str, part: str, data_dir: str | Path | None = None
) -> Float[Tensor, "count 50 50"]:
    """Every picture of a folder, as of samples, in the order of a shuffle; of a source those of a part.

    Raises:
        UserError: it cannot be had.
    """
    if name in data.NAMES or not name or not Path(name).is_dir():
        return pictures_of(name, part, data_dir)
    pictures = torch.from_numpy(read_all(Path(name), SIZE))
    return pictures[np.random.default_rng(0).permutation(len(pictures))].float() / 255


def samples(dood: Recognizer, count: int, seed: int) -> Float[Tensor, "count 50 50"]:
    """Pictures from a model's prior."""
    parts = [
        generate(dood, min(BATCH, count - start), seed * 100_003 + start).canvas[-1].cpu()
        for start in range(0, count, BATCH)
    ]
    return resize(torch.cat(parts), SIZE)


def shuffled_strokes(dood: Recognizer, count: int, seed: int) -> Float[Tensor, "count 50 50"]:
    """Pictures whose strokes come from different drawings of the prior: what a model would draw
    that had learned single strokes and nothing of their order."""
    parts = []
    for start in range(0, count, BATCH):
        parsed = generate(dood, min(BATCH, count - start), seed * 100_003 + start)
        strokes = strokes_of(parsed)
        ink = strokes.ink(dood.model.ink_size)
        generator = torch.Generator().manual_seed(seed)
        columns = []
        for t in range(ink.shape[1]):
            drawn = torch.nonzero(strokes.alive[:, t] > 0)[:, 0].cpu()
            # Drawings that have a stroke t exchange it among themselves.
            order = drawn[torch.randperm(len(drawn), generator=generator)]
            column = ink[:, t].clone()
            column[drawn] = ink[order, t]
            columns.append(column)
        parts.append(dood.model.picture(torch.stack(columns).sum(0)).cpu())
    return resize(torch.cat(parts), SIZE)


def report(
    dood: Recognizer,
    rival: Recognizer | None,
    target: str,
    network: FeatureNetwork,
    count: int = 2500,
    seeds: Sequence[int] = range(5),
    part: str = "test",
    data_dir: str | Path | None = None,
) -> dict[str, Any]:
    """How far samples are from a target's pictures, beside how far real pictures are from them.

    The reference is one half of ``part``. ``real`` is the distance of pictures of the target's other
    part, for the test part those that a model learns from: what it would reach by drawing them as
    they are. ``halves`` is that of the other half, the least that can be had with so many pictures.
    Every set has the same number of them: the distance depends on it.

    Returns:
        ``samples``, ``real``, ``ratio`` (of the two), ``halves``, ``air`` and ``shuffled``: means over
        seeds of sampling and splitting, each with ``…_std``; ``pictures`` a set.

    Raises:
        UserError: the target cannot be had, or is too small.
    """
    drawings = data.load(target, part, SIZE, data_dir)
    everything = drawings.shuffled(None).float() / 255
    others = pictures_of(target, "test" if part == "train" else "train", data_dir)
    # Samples are compared with pictures of the target's: they are drawn on as many pixels.
    for sampled in (dood, rival):
        if sampled is not None:
            sampled.model.expect(drawings.resolution)
    count = min(count, len(everything) // 2, len(others))
    columns: dict[str, list[float]] = {
        name: [] for name in ("samples", "real", "halves", "air", "shuffled")
    }
    for seed in seeds:
        rng = np.random.default_rng(seed)
        order = torch.from_numpy(rng.permutation(len(everything)))
        half, rest = everything[order[:count]], everything[order[count : 2 * count]]
        other = others[torch.from_numpy(rng.permutation(len(others))[:count])]
        reference = Reference(network, half)
        columns["halves"].append(reference.distance(rest))
        columns["real"].append(reference.distance(other))
        columns["samples"].append(reference.distance(samples(dood, count, seed)))
        if draws_curves(dood.model):
            columns["shuffled"].append(reference.distance(shuffled_strokes(dood, count, seed)))
        if rival is not None:
            columns["air"].append(reference.distance(samples(rival, count, seed)))
    found: dict[str, Any] = {"pictures": count}
    for name, values in columns.items():
        if values:
            found[name] = float(np.mean(values))
            found[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    found["ratio"] = found["samples"] / found["real"]
    return found
