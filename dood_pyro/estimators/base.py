"""Base class of estimators: losses whose gradients train model and guide.
Every estimator extends `Estimator`, and the trainer calls its `loss`.

To write one, see docs/extending.md.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro.config import TrainConfig
from dood_pyro.images import Images
from dood_pyro.inference.stop_marginal import ElboTerms
from dood_pyro.schedules import Step

Loss = tuple[Float[Tensor, ""], ElboTerms]
"""A scalar, summed over images, whose gradient training descends; and the terms of the bound, for
reports."""


class Estimator(nn.Module):
    """An objective over any model and guide. Buffers are kept with a run's checkpoints."""

    takes_particles: ClassVar[bool] = False
    """Whether ``--particles`` samples per image are for it."""
    capturable: ClassVar[bool] = False
    """Whether a step can be captured as a CUDA graph: the loss reads nothing back from the device, and
    takes what depends on the step's number from a tensor. One that claims it and cannot is run
    operation by operation, and that is said."""
    shares_batches: ClassVar[bool] = True
    """Whether several processes may each take the loss of a part of the batch: it is a sum over images,
    and nothing that it keeps between steps depends on the other parts."""
    bounds_one_sample: ClassVar[bool] = False
    """Whether it is after the bound of one sample per image: a prior may then learn from samples of the
    guide that were drawn before (`dood_pyro.training.parsed`)."""
    trains_baselines: ClassVar[bool] = False
    """Whether it trains the guide's learned baselines (`Guide.baseline_parameters`). These know one
    kind of images: such an estimator is given no random strokes beside the source's."""
    settings_without_effect: ClassVar[tuple[str, ...]] = ()
    """Settings of `TrainConfig` that it does not go by, which a user is not to give."""

    @classmethod
    def from_config(cls, config: TrainConfig, max_strokes: int) -> Estimator:
        """The estimator of a training's settings."""
        return cls()

    def phase(self, step: int) -> Hashable:
        """What the loss after ``step`` steps does that it may not do after others: steps of one phase
        run the same operations. An estimator with several phases has a `scheduled_loss`."""
        return None

    def loss(self, model: Any, guide: Any, images: Images, step: Any) -> Loss:
        """The loss of a batch.

        Args:
            step: number of training steps taken; schedules go by it. A scalar tensor where the step is
                captured as a CUDA graph (`dood_pyro.schedules`).
        """
        raise NotImplementedError

    def scheduled_loss(
        self, model: Any, guide: Any, images: Images, step: Step, phase: Hashable
    ) -> Loss:
        """The loss of a batch in a given phase."""
        return self.loss(model, guide, images, step)
