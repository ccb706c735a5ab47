"""Inference without amortisation: each image's Gaussians climb its bound from drawings that know
nothing of it.
Commands that take a guide choose it by the name ``per-image``.

The slow reference: what can be inferred of an image without having learned to see. Bounds over strokes
have many local optima, so each image has several starts and keeps the best.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro import poutine

from dood_pyro.guides.base import Guide, Progress
from dood_pyro.images import ImageBatch, Images, as_batch
from dood_pyro.inference.messengers import AllOnMessenger, CommonNoiseMessenger
from dood_pyro.inference.search.mean_field import MeanFieldGuide, SiteFactor
from dood_pyro.inference.search.refined import RefinedGuide
from dood_pyro.inference.stop_marginal import stop_marginal_terms
from dood_pyro.models.sites import is_on, parse_site

START_STD = 0.05
"""Standard deviation of every Gaussian at the start; a step moves a mean by a share of it."""


class PerImageGuide(RefinedGuide):
    """Gaussians of each image's own, from the prior's drawings.

    Args:
        model: the program that the guide is for.
        guide: not used: every guide over another is called with one.
        steps: gradient steps of each start.
        starts: drawings of the prior to start from.
        learning_rate: Adam's, in standard deviations.
    """

    def __init__(
        self,
        model: Any,
        guide: Guide,
        steps: int = 400,
        starts: int = 4,
        learning_rate: float = 0.3,
    ) -> None:
        super().__init__(model, guide, steps, learning_rate, prior_steps=None)
        self.starts = starts

    def start(self, images: ImageBatch) -> dict[str, SiteFactor]:
        """Gaussians around drawings of the prior, the same few for every image."""
        with AllOnMessenger():
            trace: Any = poutine.trace(self.model).get_trace(
                count=self.starts, native_size=images.native_size
            )
        each = len(images) // self.starts
        sites = {}
        for name in trace.stochastic_nodes:
            if parse_site(name) is None:
                continue
            value = trace.nodes[name]["value"]
            value = value.expand(self.starts, *value.shape[1:]).repeat_interleave(each, dim=0)
            if is_on(name):
                sites[name] = SiteFactor(torch.zeros_like(value), None, 0)
            else:
                std = torch.full_like(value, math.log(START_STD))
                sites[name] = SiteFactor(value, std, value.ndim - 1)
        return sites

    def search(self, images: Images, progress: Progress | None = None) -> MeanFieldGuide:
        """Factors of each image's best start: the one whose bound climbed highest."""
        batch = as_batch(images)
        repeated = batch.repeat(self.starts)
        found = self._climbed(repeated, self.starts, progress)
        with poutine.block(), torch.no_grad(), CommonNoiseMessenger(groups=self.starts):
            bounds = [stop_marginal_terms(self.model, found, repeated).elbo() for _ in range(4)]
        bound = torch.nan_to_num(torch.stack(bounds).mean(0), nan=-torch.inf)
        best = bound.unflatten(0, (self.starts, -1)).argmax(0)
        return found.rows(best * len(batch) + torch.arange(len(batch), device=batch.device))
