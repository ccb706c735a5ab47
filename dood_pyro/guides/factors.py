"""Guides that work on each image by itself, and what they come to: independent sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro.guides.stopping import DEAD_LOGIT

Progress = Callable[[float], None]


class Factor(NamedTuple):
    """What the guide says of one site."""

    mean: Tensor
    """Of a Gaussian; of ``on_t``, its logit."""
    log_std: Tensor | None
    """None for ``on_t``."""
    event_dims: int


class Factors(nn.Module):
    """A guide of independent sites: ``on_t`` Bernoulli, all others Gaussian.

    Args:
        sites: by name, in the order in which they are sampled.
    """

    def __init__(self, sites: dict[str, Factor]) -> None:
        super().__init__()
        self.sites = sites

    def of(self, rows: slice | Tensor) -> Factors:
        """The guide of some of the images."""
        return Factors(
            {
                name: Factor(mean[rows], None if log_std is None else log_std[rows], event_dims)
                for name, (mean, log_std, event_dims) in self.sites.items()
            }
        )

    @classmethod
    def joined(cls, parts: Sequence[Factors]) -> Factors:
        """The guide of several guides' images, one's after the other's."""
        sites = {}
        for name, (_, log_std, event_dims) in parts[0].sites.items():
            columns = [part.sites[name] for part in parts]
            mean = torch.cat([factor.mean for factor in columns])
            spread = [factor.log_std for factor in columns if factor.log_std is not None]
            sites[name] = Factor(mean, None if log_std is None else torch.cat(spread), event_dims)
        return cls(sites)

    def forward(self, image: Float[Tensor, "images size size"]) -> None:
        """Samples every site for the images that the sites are of."""
        with pyro.plate("images", image.shape[-3], dim=-1):
            alive: Tensor = image.new_ones(image.shape[-3])
            for name, (mean, log_std, event_dims) in self.sites.items():
                if log_std is None:
                    logit = torch.where(alive > 0, mean, DEAD_LOGIT)
                    on = pyro.sample(name, dist.Bernoulli(logits=logit).mask(alive > 0))
                    alive = alive * on
                else:
                    site = dist.Normal(mean, log_std.exp()).to_event(event_dims)
                    pyro.sample(name, site.mask(alive > 0))


class ImageByImage(nn.Module):
    """A guide over a trained one that settles each image's factors by a search of its own.

    Args:
        model: the program that the guide is for.
        guide: the trained guide.
    """

    def __init__(self, model: Any, guide: Any) -> None:
        super().__init__()
        # Held in a list: as submodules their weights would be counted as this guide's.
        self._programs = [model, guide]

    @property
    def model(self) -> Any:
        return self._programs[0]

    @property
    def guide(self) -> Any:
        return self._programs[1]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # What `to` and its like do to this module they do to the one within.
        for program in self._programs:
            program._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def factors(
        self, image: Float[Tensor, "images size size"], progress: Progress | None = None
    ) -> Factors:
        """What the search finds. It is hidden from whatever traces or conditions this guide.

        Args:
            progress: called with the images done since the last call, parts of them counted.
        """
        raise NotImplementedError

    def forward(self, image: Float[Tensor, "images size size"]) -> None:
        """Searches and samples. For many samples an image take `factors` and sample those."""
        self.factors(image)(image)
