"""Fréchet distances between sets of pictures (section 3.2, the figures beside Fig. 6).
The commands ``fid``, ``fid-samples`` and ``fid-memorisers`` measure them.
"""

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
from dood_pyro.inference.guide_parses import Parse
from dood_pyro.models.base import DrawingModel
from dood_pyro.models.networks import glimpse
from dood_pyro.pictures import resize
from dood_pyro.recognition import Recognizer
from dood_pyro.registry import SOURCES, canonical
from dood_pyro.tasks.generate import generate
from dood_pyro.tokens import TokenNoise, affine_map, apply_token, sample_token, strokes_from_parse

BATCH = 256
"""Pictures per pass of the feature network, and drawings sampled at once."""


class Reference:
    """A set of pictures that other sets are compared with; its features are computed once.

    Args:
        network: network that maps pictures to features.
        pictures: in [0, 1].

    Raises:
        UserError: there are no more pictures than features, so that the distance would measure noise.
    """

    def __init__(self, network: FeatureNetwork, pictures: Float[Tensor, "count 50 50"]) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        self._least = network.num_features + 1
        self._metric = FrechetInceptionDistance(
            feature=network, normalize=True, reset_real_features=False
        )
        self._take(pictures, real=True)

    def distance(self, pictures: Float[Tensor, "count 50 50"]) -> float:
        """Fréchet distance between the features of ``pictures``, in [0, 1], and the reference's.

        Raises:
            UserError: there are no more pictures than features, or a pixel is not finite.
        """
        self._metric.reset()
        self._take(pictures, real=False)
        distance = float(self._metric.compute())
        if math.isnan(distance):
            raise UserError("the distance is of pictures with pixels that are not finite numbers")
        return max(0.0, distance)  # a set's distance to itself can be below 0 by rounding

    @torch.no_grad()
    def _take(self, pictures: Tensor, real: bool) -> None:
        """Add pictures to the reference (``real``) or to the set compared with it."""
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
    """Fréchet distance between the features of two sets of pictures in [0, 1].

    Raises:
        UserError: a set has no more pictures than features, so that the distance would measure noise.
    """
    return Reference(network, first).distance(second)


def pictures_of(
    source: str, part: str, data_dir: str | Path | None = None
) -> Float[Tensor, "count 50 50"]:
    """All pictures of one part of a source, in [0, 1], in the order of the shuffle of seed 0.

    Raises:
        UserError: the source cannot be had.
    """
    return data.load(source, part, SIZE, data_dir).shuffled(None).float() / 255


def folder_or_source(
    name: str, part: str, data_dir: str | Path | None = None
) -> Float[Tensor, "count 50 50"]:
    """All pictures of a folder, such as one of samples, or of one part of a source; in [0, 1], in the
    order of a shuffle of seed 0.

    Raises:
        UserError: the folder or source cannot be had.
    """
    if canonical(name) in SOURCES or not name or not Path(name).is_dir():
        return pictures_of(name, part, data_dir)
    pictures = torch.from_numpy(read_all(Path(name), SIZE))
    return pictures[np.random.default_rng(0).permutation(len(pictures))].float() / 255


def _generated(
    model: DrawingModel[Any], count: int, seed: int, native_size: int
) -> Iterator[Parse]:
    """Batches of ``count`` drawings from a model's prior."""
    for start in range(0, count, BATCH):
        yield generate(model, min(BATCH, count - start), seed * 100_003 + start, native_size)


def samples(
    model: DrawingModel[Any], count: int, seed: int, native_size: int = 0
) -> Float[Tensor, "count 50 50"]:
    """Pictures sampled from a model's prior.

    Args:
        native_size: pixels per side of the grid that ink is put on (`DrawingModel.ink_size`).
    """
    parts = [each.canvas[-1].cpu() for each in _generated(model, count, seed, native_size)]
    return resize(torch.cat(parts), SIZE)


def shuffled_strokes(
    model: DrawingModel[Any], count: int, seed: int, native_size: int = 0
) -> Float[Tensor, "count 50 50"]:
    """Pictures whose strokes come from different drawings sampled from the prior: samples of a model
    that has learned single strokes and nothing of how they depend on each other.

    Args:
        native_size: as for `samples`.
    """
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
    """Pictures moved by a random token's affine map (`TokenNoise`) about the canvas's middle."""
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
    """Parse pictures, and render a random token of each parse.

    Args:
        native_size: pixels per side of the pictures as they came (`dood_pyro.images.ImageBatch`).
    """
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
    """Fréchet distances of two memorising baselines, which copy training pictures, from the test
    pictures. Samples no closer than these baselines do not show that a model has learned more than its
    training pictures.

    The reference, the denominator ``real`` and the seeds are those of `report`.

    Returns:
        ``affine`` (training pictures under small affine maps) and ``tokens`` (training pictures, parsed
        by the model and rendered anew with token noise): means over seeds, each with ``…_std`` and
        ``…_ratio`` to ``real``; ``pictures``, the number in each set.

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
    """Fréchet distances of a model's samples, and of real pictures, from a target's pictures.

    The reference is one half of ``part``. ``real`` is the distance of the target's other part. For
    the test part, the other part holds the training pictures, so ``real`` is what a model reaches
    by copying them. ``halves`` is the distance of the other half of ``part``, the smallest to be
    expected with so many pictures. All sets have the same number of pictures, because the distance
    depends on it.

    Args:
        rival: model whose samples' distance is ``air``; None leaves it out.

    Returns:
        ``samples``, ``real``, ``halves``, ``air`` and ``shuffled`` (`shuffled_strokes`): means over
        seeds of sampling and splitting, each with ``…_std``; ``ratio`` of ``samples`` to ``real``;
        ``pictures``, the number in each set.

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
    """A target's pictures, split by seed into sets of equal size."""

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
        """Pictures per set."""

    def split(self, seed: int) -> tuple[Reference, Tensor, Tensor]:
        """Split by a seed: one half of the part as reference, the other half, and equally many pictures
        of the other part."""
        rng, count = np.random.default_rng(seed), self.count
        order = torch.from_numpy(rng.permutation(len(self.everything)))
        half, rest = self.everything[order[:count]], self.everything[order[count : 2 * count]]
        other = self.others[torch.from_numpy(rng.permutation(len(self.others))[:count])]
        return Reference(self.network, half), rest, other


def _means(columns: dict[str, list[float]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of each column; empty columns are left out."""
    found: dict[str, Any] = {}
    for name, values in columns.items():
        if values:
            found[name] = float(np.mean(values))
            found[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return found
