"""Mean-field guides: independent sites for each image, as searches find them.
Every search returns a `MeanFieldGuide`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from dood_pyro.guides.base import Guide
from dood_pyro.guides.stop import DEAD_LOGIT
from dood_pyro.images import Images, as_batch
from dood_pyro.models.sites import IMAGES


class SiteFactor(NamedTuple):
    """Parameters of one site's distribution."""

    mean: Tensor
    """Mean of a Gaussian; of ``on_t``, its logit."""
    log_std: Tensor | None
    """None for ``on_t``."""
    event_dims: int


class MeanFieldGuide(Guide):
    """A guide of independent sites: ``on_t`` Bernoulli, all others Gaussian.

    Args:
        sites: by name, in the order in which they are sampled.
    """

    def __init__(self, sites: dict[str, SiteFactor]) -> None:
        # Of no model: it has no networks, and no state to share.
        super().__init__(None)  # type: ignore[arg-type]
        self.sites = sites

    def rows(self, rows: slice | Tensor) -> MeanFieldGuide:
        """The guide of some of the images."""
        return MeanFieldGuide(
            {
                name: SiteFactor(mean[rows], None if log_std is None else log_std[rows], event_dims)
                for name, (mean, log_std, event_dims) in self.sites.items()
            }
        )

    def repeated(self, copies: int) -> MeanFieldGuide:
        """The guide of so many copies of its images, one after the other."""
        return self.concatenated([self] * copies)

    @classmethod
    def concatenated(cls, parts: Sequence[MeanFieldGuide]) -> MeanFieldGuide:
        """Several guides as one, images after images."""
        sites = {}
        for name, (_, log_std, event_dims) in parts[0].sites.items():
            columns = [part.sites[name] for part in parts]
            mean = torch.cat([factor.mean for factor in columns])
            spread = [factor.log_std for factor in columns if factor.log_std is not None]
            spreads = None if log_std is None else torch.cat(spread)
            sites[name] = SiteFactor(mean, spreads, event_dims)
        return cls(sites)

    def forward(self, images: Images) -> None:
        """Sample every site for the images that the sites belong to."""
        batch = as_batch(images)
        with pyro.plate(IMAGES, len(batch), dim=-1):
            alive: Tensor = batch.pixels.new_ones(len(batch))
            for name, (mean, log_std, event_dims) in self.sites.items():
                if log_std is None:
                    logit = torch.where(alive > 0, mean, DEAD_LOGIT)
                    on = pyro.sample(name, dist.Bernoulli(logits=logit).mask(alive > 0))
                    alive = alive * on
                else:
                    site = dist.Normal(mean, log_std.exp()).to_event(event_dims)
                    pyro.sample(name, site.mask(alive > 0))
