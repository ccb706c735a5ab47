"""Common random numbers: the same Gaussian noise for every image of a batch."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Independent, MaskedDistribution, Normal
from pyro.poutine.messenger import Messenger
from torch import Tensor

from dood_pyro.distributions import CorrelatedPoints


class CommonNoise(Messenger):
    """Samples the Gaussian sites of guides by noise that all images share.

    For searches: what is found for an image then does not depend on which images stand beside it.
    Each image's samples have the distribution that they would have had; samples of different images
    depend on each other. Sites of other distributions than `Normal` and `CorrelatedPoints` are sampled
    as usual.

    Args:
        groups: the batch holds so many copies of the images, one after the other; noise differs
            between copies.
    """

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or msg["value"] is not None:
            return
        fn = msg["fn"]
        while isinstance(fn, Independent | MaskedDistribution):
            fn = fn.base_dist
        if not isinstance(fn, Normal | CorrelatedPoints):
            return
        batch, event = msg["fn"].batch_shape, msg["fn"].event_shape
        noise = self._noise(batch, event, fn.mean)
        if isinstance(fn, CorrelatedPoints):
            turned = fn.scale_tril @ noise.flatten(-2)[..., None]
            msg["value"] = fn.mean + turned.reshape(noise.shape)
        else:
            msg["value"] = fn.mean + fn.scale * noise
        msg["done"] = True

    def _noise(self, batch: torch.Size, event: torch.Size, like: Tensor) -> Tensor:
        """Standard Gaussian noise; the images are the last of the batch's dimensions."""
        *left, images = batch
        # Drawn alike whatever the precision: a search in float64 sees the noise of one in float32.
        noise = torch.randn(*left, self.groups, 1, *event).to(like)
        return noise.expand(*left, self.groups, images // self.groups, *event).reshape(
            *batch, *event
        )
