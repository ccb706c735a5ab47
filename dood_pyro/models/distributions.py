"""Distributions that Pyro lacks, for points and mixtures.
Used by DooD's prior and by the full-covariance guide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions import (
    MixtureOfDiagNormals,
    MultivariateNormal,
    TorchDistribution,
    constraints,
)
from torch import Tensor

Parameters = tuple[Tensor, Tensor, Tensor]


class DiagonalMixture(MixtureOfDiagNormals):
    """A mixture of diagonal Gaussians that says its support, which Pyro's automatic guides ask for."""

    support = constraints.real_vector

    def at_temperature(self, temperature: float) -> DiagonalMixture:
        """With components' densities to the power of 1 / temperature, and their weights."""
        scale = self.coord_scale * temperature**0.5
        return DiagonalMixture(self.locs, scale, self.component_logits / temperature)


class AutoregressivePoints(TorchDistribution):
    """Points that follow one another, each from a mixture of Gaussians given those before it.

    Args:
        head: maps ``given`` and points (*batch, points, dims) to means and standard deviations
            (*batch, points, components, dims) and logits (*batch, points, components) of each point's
            mixture, given the points before it.
        given: other conditions of the points, (*batch, features).
        event_shape: (points, dims).
    """

    has_rsample = True
    support = constraints.independent(constraints.real, 2)
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self,
        head: Callable[[Tensor, Tensor], Parameters],
        given: Float[Tensor, "*batch features"],
        event_shape: tuple[int, ...],
    ) -> None:
        self.head, self.given = head, given
        super().__init__(given.shape[:-1], torch.Size(event_shape), validate_args=False)

    def conditionals(self, points: Float[Tensor, "*batch points dims"]) -> DiagonalMixture:
        """Mixture of every point given the points before it: batch shape (*batch, points)."""
        return DiagonalMixture(*self.head(self.given, points))

    def log_prob(self, value: Float[Tensor, "*batch points dims"]) -> Float[Tensor, "*batch"]:
        """log Π_j p(point_j | points before it)."""
        log_prob: Tensor = self.conditionals(value).log_prob(value).sum(-1)
        return log_prob

    def rsample(self, sample_shape: Any = ()) -> Float[Tensor, "*batch points dims"]:
        """Sample one point after the other."""
        points, dims = self.event_shape
        batch = (*sample_shape, *self.batch_shape)
        drawn = [self.given.new_zeros(*batch, dims) for _ in range(points)]
        for point in range(points):
            mean, std, logits = self.head(self.given, torch.stack(drawn, dim=-2))
            of_point = (mean[..., point, :, :], std[..., point, :, :], logits[..., point, :])
            drawn[point] = DiagonalMixture(*of_point).rsample()
        return torch.stack(drawn, dim=-2)

    def at_temperature(self, temperature: float) -> AutoregressivePoints:
        """With each point's mixture at that temperature."""

        def head(given: Tensor, points: Tensor) -> Parameters:
            mean, std, logits = self.head(given, points)
            return mean, std * temperature**0.5, logits / temperature

        return AutoregressivePoints(head, self.given, self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> AutoregressivePoints:
        """The distribution for each member of a larger batch."""
        given = self.given.expand(*batch_shape, self.given.shape[-1])
        return AutoregressivePoints(self.head, given, self.event_shape)


class CorrelatedPoints(TorchDistribution):
    """Points with a Gaussian over all their coordinates together.

    Args:
        loc: means, (*batch, points, dims).
        scale_tril: Cholesky factor of the covariance of the points one after the other,
            (*batch, points · dims, points · dims).
    """

    has_rsample = True
    support = constraints.independent(constraints.real, 2)
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, loc: Tensor, scale_tril: Tensor) -> None:
        self.loc, self.scale_tril = loc, scale_tril
        super().__init__(loc.shape[:-2], loc.shape[-2:], validate_args=False)

    @property
    def mean(self) -> Float[Tensor, "*batch points dims"]:
        return self.loc

    @property
    def scale(self) -> Float[Tensor, "*batch points dims"]:
        """Standard deviation of each coordinate by itself."""
        return torch.linalg.vector_norm(self.scale_tril, dim=-1).view(self.loc.shape)

    @property
    def variance(self) -> Float[Tensor, "*batch points dims"]:
        return self.scale**2

    def _flat(self) -> MultivariateNormal:
        return MultivariateNormal(
            self.loc.flatten(-2), scale_tril=self.scale_tril, validate_args=False
        )

    def log_prob(self, value: Float[Tensor, "*batch points dims"]) -> Float[Tensor, "*batch"]:
        log_prob: Tensor = self._flat().log_prob(value.flatten(-2))
        return log_prob

    def rsample(self, sample_shape: Any = ()) -> Float[Tensor, "*batch points dims"]:
        drawn: Tensor = self._flat().rsample(torch.Size(sample_shape))
        return drawn.unflatten(-1, self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CorrelatedPoints:
        """The distribution for each member of a larger batch."""
        tril = self.scale_tril.expand(*batch_shape, *self.scale_tril.shape[-2:])
        return CorrelatedPoints(self.loc.expand(*batch_shape, *self.event_shape), tril)
