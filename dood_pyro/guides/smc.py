"""Sequential Monte Carlo with a trained guide as its proposal (`dood_pyro.inference.smc`)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from dood_pyro.devices import seeded
from dood_pyro.errors import UserError
from dood_pyro.guides.factors import Factor, Factors, ImageByImage, Progress
from dood_pyro.inference.smc import smc
from dood_pyro.stepwise import StepwiseGuide


class SMCGuide(ImageByImage):
    """Independent Gaussians around the likeliest drawing that sequential Monte Carlo finds.

    Its parses are that drawing. What is reported as log p(x) of this guide is the estimate of
    sequential Monte Carlo itself (`dood_pyro.inference.importance.bound_of`).

    Args:
        model: the program that the guide is for.
        guide: proposes strokes; one that goes step by step.
        particles: how many draw at once, in a parse.

    Raises:
        UserError: the guide does not go step by step.
    """

    def __init__(self, model: Any, guide: Any, particles: int = 50) -> None:
        super().__init__(model, guide)
        if not isinstance(guide, StepwiseGuide):
            raise UserError(
                "sequential Monte Carlo needs a guide that goes step by step, a StepwiseGuide; "
                f"{type(guide).__name__} is none"
            )
        self.particles = particles

    def factors(
        self, image: Float[Tensor, "images size size"], progress: Progress | None = None
    ) -> Factors:
        """The Gaussians with which the likeliest drawing was proposed, around what was drawn.

        Every image has particles by the same random numbers: what is found for it does not depend on
        the others.
        """
        # One by one: the particles of an image fill a batch by themselves.
        seed = int(torch.randint(2**31, ()))
        parts = []
        for one in image.split(1):
            with poutine.block(), seeded(seed, image.device):
                parts.append(self._proposed(one))
            if progress is not None:
                progress(1)
        return Factors.joined(parts)

    def _proposed(self, image: Float[Tensor, "images size size"]) -> Factors:
        found = smc(self.model, self.guide, image, self.particles)
        log_stop, (best, stop) = found.log_stop(), found.best()
        sites = {}
        for t, drawn in enumerate(best, start=1):
            goes_on = torch.logsumexp(log_stop[t:], 0) - log_stop[t - 1]
            # As sure as the particles are, but not against the drawing that was chosen.
            sure = torch.where(t <= stop, goes_on.clamp(1, 20), goes_on.clamp(-20, -1))
            sites[f"on_{t}"] = Factor(sure, None, 0)
            for name, (value, std) in drawn.items():
                sites[name] = Factor(value, std.log(), value.ndim - 1)
        return Factors(sites)
