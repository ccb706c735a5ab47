"""How good a model's samples are: several measures, beside pictures that need no model.
The command ``sample-quality`` measures them (section 3.2, the figures beside Fig. 6).

One number does not tell drawing from copying, nor legible from varied. Every set of pictures is
compared with one half of a source's pictures, by the features of a network that knows the source's
characters:

``frechet``     Fréchet distance
``kernel``      squared maximum mean discrepancy under a cubic kernel, unbiased, × 1,000
``precision``   share of the set among the reference: no farther from one of its pictures than that
                picture is from its `NEIGHBOURS`-th nearest there (Kynkäänniemi et al., 2019)
``recall``      share of the reference that is among the set, likewise
``recognised``  share that a classifier names with a probability of `SURE` or more
``least_class`` the least, over classes, of a class's share of what is recognised, divided by its share
                of the real pictures that are; over those whose share there is `USUAL` of an even one
``nearest``     median distance to the nearest training picture, divided by the test pictures'
``copies``      share nearer to a training picture than 95 % of the test pictures are

and the sets are

``samples``     of the model's prior, at temperature 1
``other``       pictures of the source's other part; of the test part's, training pictures: what
                copying reaches
``halves``      the other half of the reference's part: the best to be expected with so many pictures
``moved``       those under small affine maps
``rewritten``   those parsed by the model and drawn anew with the noise of tokens
``shuffled``    samples whose strokes are exchanged between drawings
``rival``       samples of another run
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro import data, geometry
from dood_pyro.devices import seeded
from dood_pyro.extras import extra
from dood_pyro.features import SIZE, Classifier, FeatureNetwork, fit_classifier
from dood_pyro.images import ImageBatch
from dood_pyro.models.base import DrawingModel
from dood_pyro.models.networks import glimpse
from dood_pyro.pictures import resize
from dood_pyro.recognition import Recognizer
from dood_pyro.tasks.fid import Reference, features_of
from dood_pyro.tasks.generate import in_batches
from dood_pyro.tokens import TokenNoise, affine_map, apply_token, sample_token, strokes_from_parse

BATCH = 256
"""Pictures at once."""
LIMIT = 20_000
"""Pictures of a part, at most, that sets are taken from, and among which copies are sought."""
NEIGHBOURS = 3
SURE = 0.9
USUAL = 0.5
"""Share of an even share that a class has among recognised real pictures, at least, to count: of rarer
ones a set holds too few for a ratio to mean anything."""
COPY = 0.05
"""Share of the test pictures that lie nearer to a training picture than what counts as a copy."""
MEASURES = (
    "frechet", "kernel", "precision", "recall", "recognised", "least_class", "nearest", "copies",
)  # fmt: skip


class Judge:
    """Measures of sets of pictures beside a reference.

    Args:
        network: network that maps pictures to features.
        classifier: over these features.
        reference, training, test: features of the reference, of all training pictures, and of pictures
            that are known not to be copies of them.
        shares: of each class among real pictures that are recognised (`recognised_shares`).
    """

    def __init__(
        self,
        network: FeatureNetwork,
        classifier: Classifier,
        reference: Tensor,
        training: Tensor,
        test: Tensor,
        shares: Tensor,
    ) -> None:
        self.network, self.classifier, self.shares = network, classifier, shares
        self.reference, self.training = reference, training
        self.distance = Reference(reference)
        nearest = self._nearest(test)
        self.usual, self.copy = nearest.median(), nearest.quantile(COPY)

    def judge(self, pictures: Float[Tensor, "count 50 50"]) -> dict[str, float]:
        """All `MEASURES` of a set of pictures in [0, 1]."""
        with extra("tasks"):
            from torchmetrics.image.kid import poly_mmd

        features = features_of(self.network, pictures)
        both = self.reference.double(), features.double()
        nearest = self._nearest(features)
        probabilities = self.classifier(features)
        usual = self.shares >= USUAL / len(self.shares)
        named = recognised_shares(probabilities)[usual] / self.shares[usual]
        found: dict[str, Any] = {
            "frechet": self.distance.distance(features),
            "kernel": 1000 * poly_mmd(*both),
            "precision": _among(features, self.reference),
            "recall": _among(self.reference, features),
            "recognised": (probabilities.amax(-1) >= SURE).double().mean(),
            "least_class": named.min() if len(named) else 0.0,
            "nearest": nearest.median() / self.usual.clamp(min=1e-12),
            "copies": (nearest < self.copy).double().mean(),
        }
        return {name: float(value) for name, value in found.items()}

    def _nearest(self, features: Tensor) -> Float[Tensor, "count"]:
        """Distance of each to the nearest training picture."""
        parts = [torch.cdist(part, self.training).amin(1) for part in features.split(BATCH)]
        return torch.cat(parts)


def recognised_shares(
    probabilities: Float[Tensor, "count classes"],
) -> Float[Tensor, "classes"]:
    """Share of each class among the pictures that a classifier recognises (0 where it does none)."""
    probability, names = probabilities.max(-1)
    sure = names[probability >= SURE]
    return sure.bincount(minlength=probabilities.shape[-1]).double() / max(1, len(sure))


def _among(features: Tensor, others: Tensor) -> Tensor:
    """Share of a set that is among another one: near one of its members, as its own are."""
    apart = torch.cdist(others, others)
    reach = apart.kthvalue(NEIGHBOURS + 1).values  # the nearest is itself
    return (torch.cdist(features, others) <= reach).any(1).double().mean()


def samples(
    model: DrawingModel[Any], count: int, seed: int, native_size: int = 0
) -> Float[Tensor, "count 50 50"]:
    """Pictures sampled from a model's prior.

    Args:
        native_size: pixels per side of the grid that ink is put on (`DrawingModel.ink_size`).
    """
    parts = [each.canvas[-1].cpu() for each in in_batches(model, count, seed, native_size)]
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
    for parsed in in_batches(model, count, seed, native_size):
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


def report(
    dood: Recognizer,
    rival: DrawingModel[Any] | None,
    target: str,
    network: FeatureNetwork,
    count: int = 2500,
    seeds: Sequence[int] = range(5),
    part: str = "test",
    data_dir: str | Path | None = None,
    progress: Callable[[float, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a model's samples and what stands beside them.

    The reference is one half of ``part``; settings are to be chosen with the training part. All sets
    have the same number of pictures, because distances depend on it.

    Args:
        rival: model whose samples are measured, too.
        progress: called with the sets measured since the last call, and all of them.

    Returns:
        ``sets``, by name of the set: the mean over seeds, of sampling and splitting, of each of
        `MEASURES`, and its standard deviation, ``…_std``; ``ratio`` and ``ratio_halves`` of the
        samples' Fréchet distance to that of the other part and of the other half; ``pictures``,
        the number in each set; ``classifier``: its ``accuracy`` on pictures that it has not learned
        from, and whose ``recognised`` share, ``real``, the sets' compare with (``of``: the test part,
        or held-out training pictures where the test part has other classes: most of these the
        features' network has learned from, so that both numbers are somewhat high).

    Raises:
        UserError: the target cannot be had, is too small, or a classifier does not learn it.
    """
    sets = _Sets(target, network, count, part, data_dir)
    columns: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        judge, rest, other = sets.split(seed)
        made = _makers(dood, rival, rest, other, seed, sets.native_size)
        for name, pictures in made.items():
            columns.setdefault(name, []).append(judge.judge(pictures()))
            if progress is not None:
                progress(1, len(seeds) * len(made))
    found = {name: _means(column) for name, column in columns.items()}
    distance = found["samples"]["frechet"]
    return {
        "pictures": sets.count,
        "classifier": sets.facts,
        "ratio": distance / found["other"]["frechet"],
        "ratio_halves": distance / found["halves"]["frechet"],
        "sets": found,
    }


def _makers(
    dood: Recognizer,
    rival: DrawingModel[Any] | None,
    rest: Tensor,
    other: Tensor,
    seed: int,
    native_size: int,
) -> dict[str, Callable[[], Tensor]]:
    """All sets of a seed, each to be made when it is wanted, in memory one at a time."""
    model, count, noise = dood.model, len(rest), TokenNoise()
    made: dict[str, Callable[[], Tensor]] = {
        "samples": lambda: samples(model, count, seed, native_size),
        "other": lambda: other,
        "halves": lambda: rest,
        "moved": lambda: affinely_moved(other, noise, seed),
    }
    if model.draws_curves:
        made["rewritten"] = lambda: rewritten(dood, other, noise, seed, native_size)
        made["shuffled"] = lambda: shuffled_strokes(model, count, seed, native_size)
    if rival is not None:
        made["rival"] = lambda: samples(rival, count, seed, native_size)
    return made


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
        self.network, self.part = network, part
        parts = {name: data.load(target, name, SIZE, data_dir) for name in ("train", "test")}
        self.native_size = parts["train"].native_size
        rows = {
            name: torch.from_numpy(np.random.default_rng(0).permutation(len(each.images))[:LIMIT])
            for name, each in parts.items()
        }
        self.pictures = {name: each.images[rows[name]] for name, each in parts.items()}
        self.features = {
            name: torch.cat([features_of(network, _in_unit(few)) for few in each.split(BATCH)])
            for name, each in self.pictures.items()
        }
        labels = {name: torch.from_numpy(each.labels)[rows[name]] for name, each in parts.items()}
        self.classifier, fit = fit_classifier(target, self.features, labels)
        unseen = self.classifier(fit.unseen)
        self.shares = recognised_shares(unseen)
        sure = unseen.amax(-1) >= SURE
        self.facts = {"accuracy": fit.accuracy, "of": fit.of, "real": float(sure.double().mean())}
        self.other = "train" if part == "test" else "test"
        self.count = min(count, len(self.pictures[part]) // 2, len(self.pictures[self.other]))
        """Pictures per set."""

    def split(self, seed: int) -> tuple[Judge, Tensor, Tensor]:
        """Split by a seed: one half of the part as reference, the other half, and equally many pictures
        of the other part."""
        rng, count = np.random.default_rng(seed), self.count
        order = torch.from_numpy(rng.permutation(len(self.pictures[self.part])))
        others = torch.from_numpy(rng.permutation(len(self.pictures[self.other])))
        judge = Judge(
            self.network,
            self.classifier,
            self.features[self.part][order[:count]],
            self.features["train"],
            self.features["test"],
            self.shares,
        )
        rest = self.pictures[self.part][order[count : 2 * count]]
        return judge, _in_unit(rest), _in_unit(self.pictures[self.other][others[:count]])


def _in_unit(pictures: Tensor) -> Tensor:
    """Bytes as numbers in [0, 1]."""
    return pictures.float() / 255


def _means(column: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of each measure."""
    found: dict[str, Any] = {}
    for name in MEASURES:
        values = [each[name] for each in column]
        found[name] = float(np.mean(values))
        found[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return found
