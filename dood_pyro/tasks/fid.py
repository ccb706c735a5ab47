"""Fréchet distances between sets of pictures (section 3.2, the numbers of Fig. 6)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro import data, geometry
from dood_pyro.data.folder import read_all
from dood_pyro.devices import seeded
from dood_pyro.errors import UserError
from dood_pyro.features import SIZE, FeatureNetwork
from dood_pyro.images import ImageBatch
from dood_pyro.inference.parsing import Parse
from dood_pyro.models.base import DrawingModel
from dood_pyro.models.networks import glimpse
from dood_pyro.pictures import resize
from dood_pyro.recognition import Recognizer
from dood_pyro.registry import SOURCES, canonical
from dood_pyro.tasks.generate import generate
from dood_pyro.tokens import TokenNoise, affine_map, apply_token, sample_token, strokes_from_parse

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
        distance = float(self._metric.compute())
        if math.isnan(distance):
            raise UserError("the distance is of pictures with pixels that are not finite numbers")
        return max(0.0, distance)  # of a set to itself, less by rounding

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
    if canonical(name) in SOURCES or not name or not Path(name).is_dir():
        return pictures_of(name, part, data_dir)
    pictures = torch.from_numpy(read_all(Path(name), SIZE))
    return pictures[np.random.default_rng(0).permutation(len(pictures))].float() / 255


def _generated(
    model: DrawingModel[Any], count: int, seed: int, native_size: int
) -> Iterator[Parse]:
    """Drawings from a model's prior, batch by batch."""
    for start in range(0, count, BATCH):
        yield generate(model, min(BATCH, count - start), seed * 100_003 + start, native_size)


def samples(
    model: DrawingModel[Any], count: int, seed: int, native_size: int = 0
) -> Float[Tensor, "count 50 50"]:
    """Pictures from a model's prior, drawn on as few pixels as images of ``native_size``."""
    parts = [each.canvas[-1].cpu() for each in _generated(model, count, seed, native_size)]
    return resize(torch.cat(parts), SIZE)


def shuffled_strokes(
    model: DrawingModel[Any], count: int, seed: int, native_size: int = 0
) -> Float[Tensor, "count 50 50"]:
    """Pictures whose strokes come from different drawings of the prior: what a model would draw
    that had learned single strokes and nothing of their order."""
    parts = []
    for parsed in _generated(model, count, seed, native_size):
        strokes = strokes_from_parse(parsed)
        ink = strokes.ink(model.ink_size(native_size))
        generator = torch.Generator().manual_seed(seed)
        columns = []
        for t in range(ink.shape[1]):
            drawn = torch.nonzero(strokes.alive[:, t] > 0)[:, 0].cpu()
            # Drawings that have a stroke t exchange it among themselves.
            order = drawn[torch.randperm(len(drawn), generator=generator)]
            column = ink[:, t].clone()
            column[drawn] = ink[order, t]
            columns.append(column)
        parts.append(model.picture(torch.stack(columns).sum(0)).cpu())
    return resize(torch.cat(parts), SIZE)


@torch.no_grad()
def affinely_moved(
    pictures: Float[Tensor, "count size size"], noise: TokenNoise, seed: int
) -> Float[Tensor, "count size size"]:
    """Pictures under small random affine maps about the canvas's middle, a token's (`TokenNoise`)."""
    with seeded(seed, pictures.device):
        token = sample_token(pictures.new_zeros(len(pictures), 1, 0, 2))
    matrix = geometry.invert_affine(affine_map(token, noise))
    return glimpse(pictures, matrix, pictures.shape[-1])


@torch.no_grad()
def rewritten(
    dood: Recognizer,
    pictures: Float[Tensor, "count size size"],
    noise: TokenNoise,
    seed: int,
    native_size: int = 0,
) -> Float[Tensor, "count size size"]:
    """Pictures of a native size parsed, and written anew with the noise of tokens."""
    parts = []
    for index, part in enumerate(pictures.split(BATCH)):
        images = ImageBatch(resize(part, dood.size).to(dood.device), native_size)
        strokes = strokes_from_parse(dood.infer(images))
        with seeded(seed * 100_003 + index, dood.device):
            token = sample_token(strokes.control)
        written = apply_token(strokes, token, noise)
        ink = written.ink(dood.model.ink_size(native_size)).sum(-3)
        parts.append(dood.model.picture(ink).cpu())
    return resize(torch.cat(parts), SIZE)


def memorisers(
    dood: Recognizer,
    target: str,
    network: FeatureNetwork,
    count: int = 2500,
    seeds: Sequence[int] = range(5),
    data_dir: str | Path | None = None,
) -> dict[str, Any]:
    """How far two copyists of the training pictures are from the test pictures: what samples must be
    better than to show more than that, and what a distance alone cannot tell from drawing.

    The reference and the denominators are those of `report`; so are the seeds.

    Returns:
        ``affine`` (training pictures under small affine maps) and ``tokens`` (training pictures, parsed
        by the model and written anew with the noise of tokens): means over seeds, each with ``…_std``
        and ``…_ratio``, to ``real``; ``pictures`` a set.

    Raises:
        UserError: the target cannot be had or is too small, or the model draws no curves.
    """
    if not dood.model.draws_curves:
        raise UserError(f"a {dood.config.model_name} model draws no strokes to write anew")
    noise = TokenNoise()
    sets = _Sets(target, network, count, "test", data_dir)
    columns: dict[str, list[float]] = {"affine": [], "tokens": [], "real": []}
    for seed in seeds:
        reference, _, training = sets.split(seed)
        columns["real"].append(reference.distance(training))
        columns["affine"].append(reference.distance(affinely_moved(training, noise, seed)))
        again = rewritten(dood, training, noise, seed, sets.native_size)
        columns["tokens"].append(reference.distance(again))
    found = {"pictures": sets.count, **_means(columns)}
    return found | {f"{n}_ratio": found[n] / found["real"] for n in ("affine", "tokens")}


def report(
    model: DrawingModel[Any],
    rival: DrawingModel[Any] | None,
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
    sets = _Sets(target, network, count, part, data_dir)
    columns: dict[str, list[float]] = {
        name: [] for name in ("samples", "real", "halves", "air", "shuffled")
    }
    for seed in seeds:
        reference, rest, other = sets.split(seed)
        columns["halves"].append(reference.distance(rest))
        columns["real"].append(reference.distance(other))
        drawn = samples(model, sets.count, seed, sets.native_size)
        columns["samples"].append(reference.distance(drawn))
        if model.draws_curves:
            shuffled = shuffled_strokes(model, sets.count, seed, sets.native_size)
            columns["shuffled"].append(reference.distance(shuffled))
        if rival is not None:
            drawn = samples(rival, sets.count, seed, sets.native_size)
            columns["air"].append(reference.distance(drawn))
    found = {"pictures": sets.count, **_means(columns)}
    found["ratio"] = found["samples"] / found["real"]
    return found


class _Sets:
    """A target's pictures, split by seed into what is compared."""

    def __init__(
        self,
        target: str,
        network: FeatureNetwork,
        count: int,
        part: str,
        data_dir: str | Path | None,
    ) -> None:
        drawings = data.load(target, part, SIZE, data_dir)
        self.network = network
        self.native_size = drawings.native_size
        self.everything = drawings.shuffled(None).float() / 255
        self.others = pictures_of(target, "test" if part == "train" else "train", data_dir)
        self.count = min(count, len(self.everything) // 2, len(self.others))
        """Pictures a set."""

    def split(self, seed: int) -> tuple[Reference, Tensor, Tensor]:
        """One half of the part to compare with, the other half, and as many of the other part."""
        rng, count = np.random.default_rng(seed), self.count
        order = torch.from_numpy(rng.permutation(len(self.everything)))
        half, rest = self.everything[order[:count]], self.everything[order[count : 2 * count]]
        other = self.others[torch.from_numpy(rng.permutation(len(self.others))[:count])]
        return Reference(self.network, half), rest, other


def _means(columns: dict[str, list[float]]) -> dict[str, Any]:
    """Means and standard deviations over seeds of what was measured."""
    found: dict[str, Any] = {}
    for name, values in columns.items():
        if values:
            found[name] = float(np.mean(values))
            found[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return found
