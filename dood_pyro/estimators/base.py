"""Base class of estimators: losses whose gradients train model and guide.
Every estimator extends `Estimator`, and the trainer calls its `loss`.

To write one, see docs/extending.md.
"""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro.config import TrainConfig
from dood_pyro.images import Images
from dood_pyro.inference.stop_marginal import ElboTerms

Loss = tuple[Float[Tensor, ""], ElboTerms]
"""A scalar, summed over images, whose gradient training descends; and the terms of the bound, for
reports."""


class Estimator(nn.Module):
    """An objective over any model and guide. Buffers are kept with a run's checkpoints."""

    takes_particles: ClassVar[bool] = False
    """Whether ``--particles`` samples per image are for it."""
    trains_baselines: ClassVar[bool] = False
    """Whether it trains the guide's learned baselines (`Guide.baseline_parameters`). These know one
    kind of images: such an estimator is given no random strokes beside the source's."""

    @classmethod
    def from_config(cls, config: TrainConfig, max_strokes: int) -> Estimator:
        """The estimator of a training's settings."""
        return cls()

    def loss(self, model: Any, guide: Any, images: Images, step: int) -> Loss:
        """The loss of a batch.

        Args:
            step: number of training steps taken; schedules go by it.
        """
        raise NotImplementedError
