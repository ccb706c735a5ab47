"""Fréchet distances between sets of pictures, by the features of a network.
The command ``fid`` prints one; `dood_pyro.tasks.sample_quality` measures samples by it.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro import data
from dood_pyro.data.folder import read_all
from dood_pyro.errors import UserError
from dood_pyro.extras import extra
from dood_pyro.features import SIZE, FeatureNetwork
from dood_pyro.registry import SOURCES, canonical

BATCH = 32
"""Pictures per pass of the feature network: few enough that what passes through stays in the cache."""


class Reference:
    """Features of a set of pictures that other sets' are compared with.

    Args:
        features: of the pictures.

    Raises:
        UserError: there are no more pictures than features, so that the distance would measure noise.
    """

    def __init__(self, features: Float[Tensor, "count features"]) -> None:
        with extra("tasks"):
            from torchmetrics.image.fid import FrechetInceptionDistance

        self._least = features.shape[1] + 1
        as_they_are = nn.Identity()
        as_they_are.num_features = features.shape[1]  # type: ignore[assignment]
        self._metric = FrechetInceptionDistance(feature=as_they_are, reset_real_features=False)
        self._take(features, real=True)

    def distance(self, features: Float[Tensor, "count features"]) -> float:
        """Fréchet distance between the features of a set of pictures and the reference's.

        Raises:
            UserError: there are no more pictures than features, or a feature is not finite.
        """
        self._metric.reset()
        self._take(features, real=False)
        distance = float(self._metric.compute())
        if math.isnan(distance):
            raise UserError("the distance is of pictures with pixels that are not finite numbers")
        return max(0.0, distance)  # a set's distance to itself can be below 0 by rounding

    def _take(self, features: Tensor, real: bool) -> None:
        """Add features to the reference (``real``) or to the set compared with it."""
        if len(features) < self._least:
            raise UserError(
                f"a Fréchet distance needs {self._least} pictures on either side, and hundreds to say "
                f"much; one has {len(features)} (dood-pyro sample --count draws more)"
            )
        self._metric.update(features.float(), real=real)


@torch.no_grad()
def features_of(
    network: FeatureNetwork, pictures: Float[Tensor, "count 50 50"]
) -> Float[Tensor, "count features"]:
    """A network's features of pictures in [0, 1]."""
    return torch.cat([network(part.float()) for part in pictures.split(BATCH)])


def frechet(
    network: FeatureNetwork,
    first: Float[Tensor, "count 50 50"],
    second: Float[Tensor, "count 50 50"],
) -> float:
    """Fréchet distance between the features of two sets of pictures in [0, 1].

    Raises:
        UserError: a set has no more pictures than features, so that the distance would measure noise.
    """
    return Reference(features_of(network, first)).distance(features_of(network, second))


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
