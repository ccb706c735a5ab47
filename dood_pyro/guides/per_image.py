"""No amortisation: each image's Gaussians climb its bound from drawings that know nothing of it.

The slow reference: what can be said of an image without having learned to see. Bounds over strokes
have many local optima, so each image has several starts and keeps the best.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor, nn

from dood_pyro.guides.factors import Factor, Factors, Progress
from dood_pyro.guides.refined import RefinedGuide
from dood_pyro.inference.common_noise import CommonNoise
from dood_pyro.inference.stop_time import AlwaysOn, stop_time_terms

START_STD = 0.05
"""Standard deviation of every Gaussian at the start; a step moves a mean by a share of it."""


class PerImageGuide(RefinedGuide):
    """Gaussians of each image's own, from the prior's drawings.

    Args:
        model: the program that the guide is for.
        guide: not used: every guide over another is called with one.
        steps: gradient steps of each start.
        starts: drawings of the prior to start from.
        rate: of Adam, in standard deviations.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        steps: int = 400,
        starts: int = 4,
        rate: float = 0.3,
    ) -> None:
        super().__init__(model, guide, steps, rate)
        self.starts = starts

    def start(self, image: Float[Tensor, "images size size"]) -> dict[str, Factor]:
        """Gaussians around drawings of the prior's, the same few for every image."""
        with AlwaysOn():
            trace = poutine.trace(self.model).get_trace(count=self.starts)
        each = image.shape[-3] // self.starts
        sites = {}
        for name in trace.stochastic_nodes:
            if name in ("images", "image"):
                continue
            value = trace.nodes[name]["value"]
            value = value.expand(self.starts, *value.shape[1:]).repeat_interleave(each, dim=0)
            if name.startswith("on_"):
                sites[name] = Factor(torch.zeros_like(value), None, 0)
            else:
                std = torch.full_like(value, math.log(START_STD))
                sites[name] = Factor(value, std, value.ndim - 1)
        return sites

    def factors(
        self, image: Float[Tensor, "images size size"], progress: Progress | None = None
    ) -> Factors:
        """Of each image's starts the one whose bound climbed highest."""
        repeated = image.repeat(self.starts, 1, 1)
        found = self._climbed(repeated, self.starts, progress)
        with poutine.block(), torch.no_grad(), CommonNoise(groups=self.starts):
            bound = torch.stack(
                [stop_time_terms(self.model, found, repeated).elbo() for _ in range(4)]
            )
        bound = torch.nan_to_num(bound.mean(0), nan=-torch.inf)
        best = bound.unflatten(0, (self.starts, -1)).argmax(0)
        return found.of(best * len(image) + torch.arange(len(image), device=image.device))
