"""Sequential Monte Carlo with a trained guide as its proposal (`dood_pyro.inference.smc`).
Commands that take a guide choose it by the name ``smc``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro import poutine

from dood_pyro.devices import seeded
from dood_pyro.errors import UserError
from dood_pyro.guides.base import Guide, Progress
from dood_pyro.images import ImageBatch, Images, as_batch
from dood_pyro.inference.importance import ImportanceBound
from dood_pyro.inference.search.base import SearchGuide
from dood_pyro.inference.search.mean_field import MeanFieldGuide, SiteFactor
from dood_pyro.inference.smc import smc
from dood_pyro.models.sites import on_site


class SMCGuide(SearchGuide):
    """Independent Gaussians around the likeliest drawing that sequential Monte Carlo finds.

    Its parses are that drawing. Its bound on log p(x) is the estimate of sequential Monte Carlo itself,
    the stop variable marginalised.

    Args:
        model: the program that the guide is for.
        guide: proposes strokes; one that goes step by step.
        particles: particles per image, in a parse.

    Raises:
        UserError: the guide does not go step by step.
    """

    has_density: ClassVar[bool] = False

    def __init__(self, model: Any, guide: Guide, particles: int = 50) -> None:
        super().__init__(model, guide)
        if not guide.sequential:
            raise UserError(
                "sequential Monte Carlo needs a guide that goes step by step, a SequentialGuide; "
                f"{type(guide).__name__} is none"
            )
        self.particles = particles

    def search(self, images: Images, progress: Progress | None = None) -> MeanFieldGuide:
        """The Gaussians with which the likeliest drawing was proposed, around what was drawn.

        Every image has particles by the same random numbers: what is found for it does not depend on
        the others.
        """
        # One by one: the particles of an image fill a batch by themselves.
        seed = int(torch.randint(2**31, ()))
        parts = []
        for one in as_batch(images).split(1):
            with poutine.block(), seeded(seed, one.device):
                parts.append(self._proposed(one))
            if progress is not None:
                progress(1)
        return MeanFieldGuide.concatenated(parts)

    def bound(self, images: ImageBatch, particles: int) -> ImportanceBound:
        """The estimate of log p(x), one for all three bounds, its expectation being below log p(x)."""
        found = smc(self.model, self.guide, images, particles)
        log_p = found.log_p()
        stops = torch.arange(len(found.log_weight)).to(log_p)
        strokes = torch.tensordot(stops, found.log_stop().exp(), 1)
        return ImportanceBound(log_p, log_p, log_p, torch.full_like(log_p, torch.nan), strokes)

    def _proposed(self, images: ImageBatch) -> MeanFieldGuide:
        found = smc(self.model, self.guide, images, self.particles)
        log_stop, (best, stop) = found.log_stop(), found.best()
        sites = {}
        for t, drawn in enumerate(best, start=1):
            goes_on = torch.logsumexp(log_stop[t:], 0) - log_stop[t - 1]
            # As sure as the particles are, but not against the drawing that was chosen.
            sure = torch.where(t <= stop, goes_on.clamp(1, 20), goes_on.clamp(-20, -1))
            sites[on_site(t)] = SiteFactor(sure, None, 0)
            for name, (value, std) in drawn.items():
                sites[name] = SiteFactor(value, std.log(), value.ndim - 1)
        return MeanFieldGuide(sites)
