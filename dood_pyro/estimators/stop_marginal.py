"""The bound with the stop variable marginalised exactly: the default estimator, ``stop-marginal``.
Trainings use it unless another is named, and the multi-sample estimators extend it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from dood_pyro.config import TrainConfig
from dood_pyro.estimators.base import Estimator, Loss
from dood_pyro.images import Images
from dood_pyro.inference.stop_marginal import StopMarginalTerms, objective, stop_marginal_terms
from dood_pyro.schedules import Step, at_least, falling


class StopMarginalELBO(Estimator):
    """The bound of `dood_pyro.inference.stop_marginal`, over any model and guide with ``on_t`` sites.

    Args:
        beta: β, the weight of everything that the stop variable pays for: it draws a stroke if
            that gains β times its cost in KL. Strokes themselves are trained with weight 1.
        beta_on: whether that is the KL of the stroke and the stop variable, or of the latter.
        explore_steps: for how many steps a uniform distribution is mixed into q_k where strokes
            are trained, at first half and half, so that each of them learns before the guide
            would draw it. A blank canvas is a strong optimum: cold, thin pens never leave it.
        explore_always: how much of it stays mixed in.
        scale_learns: whether the likelihood's scale learns from what would be ``drawn``, or from all
            that is ``explored``.
    """

    capturable: ClassVar[bool] = True
    bounds_one_sample: ClassVar[bool] = True
    settings_without_effect: ClassVar[tuple[str, ...]] = ("hold_steps",)

    def __init__(
        self,
        beta: float = 1.0,
        explore_steps: int = 0,
        explore_always: float = 0.0,
        scale_learns: Literal["explored", "drawn"] = "drawn",
        beta_on: Literal["all", "stop"] = "all",
    ) -> None:
        super().__init__()
        self.beta_on: Literal["all", "stop"] = beta_on
        self.beta = beta
        self.explore_steps = explore_steps
        self.explore_always = explore_always
        self.scale_learns = scale_learns

    @classmethod
    def from_config(cls, config: TrainConfig, max_strokes: int) -> Estimator:
        """A run that starts from trained weights has explored; and a stroke that no drawing needed
        is nothing for a prior to learn from."""
        always = 0.0 if config.trainable == "prior" else config.explore_always
        steps = config.exploration_steps()
        return cls(config.beta, steps, always, config.scale_learns, config.beta_on)

    def exploration(self, step: Step) -> Step:
        """Share of the uniform distribution in the strokes' weights after ``step`` steps."""
        return at_least(0.5 * falling(step, self.explore_steps), self.explore_always)

    def objective(
        self, terms: StopMarginalTerms, exploration: Step = 0.0
    ) -> Float[Tensor, "*batch"]:
        """Objective of training, nats per image (`inference.stop_marginal.objective`)."""
        return objective(terms, self.beta, exploration, self.beta_on)

    def loss(self, model: Any, guide: Any, images: Images, step: Step) -> Loss:
        """Minus the objective, summed over images."""
        exploration = self.exploration(step)
        explore: Step = exploration if self.scale_learns == "drawn" else 0.0
        terms = stop_marginal_terms(model, guide, images, explore=explore)
        return -self.objective(terms, exploration).sum(), terms.averages()
