"""The amortised guide with one Gaussian of full covariance over a stroke's control points.
Trainings choose it by the name ``full-covariance``.

Control points that slide along the stroke together leave the image as it is: under the posterior they
are correlated, and independent Gaussians must be as narrow as the narrowest direction.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from dood_pyro.config import TrainConfig
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.models.distributions import CorrelatedPoints
from dood_pyro.models.dood import DooD
from dood_pyro.models.networks import concatenate, mlp


class FullCovarianceGuide(AmortisedGuide):
    """`AmortisedGuide`, and a network for how control points vary together.

    At first they do not: started from an amortised guide's weights, it is that guide.
    """

    def __init__(self, model: DooD, config: TrainConfig | None = None) -> None:
        super().__init__(model, config)
        width, dims = model.config.features, 2 * self.controls
        self.register_buffer("below", torch.tril_indices(dims, dims, offset=-1), persistent=False)
        self.below: Tensor
        self.covariance_head = mlp(2 * width + 4 + 2 * dims, width, self.below.shape[1])
        last = self.covariance_head[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.zero_()
            last.bias.zero_()

    def stroke_gaussian(self, mean: Tensor, std: Tensor, given: Tensor) -> dist.TorchDistribution:
        """Gaussian whose Cholesky factor is the standard deviations times a unit lower triangle."""
        inputs = concatenate(given, mean.flatten(-2), std.flatten(-2).log())
        entries = self.covariance_head(inputs)
        triangle = torch.diag_embed(entries.new_ones(*entries.shape[:-1], 2 * self.controls))
        triangle[..., self.below[0], self.below[1]] = entries
        return CorrelatedPoints(mean, std.flatten(-2)[..., None] * triangle)
