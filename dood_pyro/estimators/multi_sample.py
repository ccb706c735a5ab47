"""Objectives of several samples per image: the importance-weighted bound, and reweighted wake-sleep.
Trainings choose them by the names ``iwae`` and ``rws``.

Both marginalise the stop variable, as `dood_pyro.inference.stop_marginal` does: weights belong to the
pairs of a sample i and a number of strokes k,

    log w_ik = log p_k + log p(x | canvas_k) + Σ_{t≤k} log p/q of (layout, stroke, pen)_t,

and are normalised image by image over these pairs.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from dood_pyro.config import TrainConfig
from dood_pyro.estimators.base import Estimator, Loss
from dood_pyro.estimators.stop_marginal import StopMarginalELBO
from dood_pyro.images import Images
from dood_pyro.inference.stop_marginal import StopMarginalTerms, collect_terms, stop_marginal_terms
from dood_pyro.inference.traces import stroke_traces
from dood_pyro.schedules import Step


def joint_log_weight(terms: StopMarginalTerms) -> Float[Tensor, "stops *batch"]:
    """log w of each sample and number of strokes."""
    return terms.log_p + terms.log_likelihood + terms.log_ratio


def log_bound(log_weight: Float[Tensor, "stops particles images"]) -> Float[Tensor, "images"]:
    """log of the mean over particles of the sum over stops."""
    return torch.logsumexp(log_weight, dim=(0, 1)) - math.log(log_weight.shape[1])


class MultiSampleEstimator(StopMarginalELBO):
    """Base of the objectives of several samples, which begin by the one-sample bound.

    A blank canvas is a strong optimum, which weights do not leave: until strokes have been explored
    (``explore_steps``), training goes by the bound that explores them.

    Args:
        particles: samples per image.
        beta, explore_steps, scale_learns: settings of the bound that training begins with.
    """

    takes_particles: ClassVar[bool] = True
    bounds_one_sample: ClassVar[bool] = False
    settings_without_effect: ClassVar[tuple[str, ...]] = ("hold_steps", "explore_always")

    def __init__(
        self,
        particles: int,
        beta: float,
        explore_steps: int,
        scale_learns: Literal["explored", "drawn"] = "drawn",
        beta_on: Literal["all", "stop"] = "all",
    ) -> None:
        super().__init__(beta, explore_steps, scale_learns=scale_learns, beta_on=beta_on)
        self.particles = particles

    @classmethod
    def from_config(cls, config: TrainConfig, max_strokes: int) -> Estimator:
        """The estimator of a training's settings."""
        steps = config.exploration_steps()
        given = config.particles, config.beta, steps, config.scale_learns, config.beta_on
        return cls(*given)

    def phase(self, step: int) -> bool:
        """Whether strokes are still explored."""
        return step < self.explore_steps

    def loss(self, model: Any, guide: Any, images: Images, step: Any) -> Loss:
        """Minus the objective, summed over images; the terms are of the one-sample bound."""
        return self.scheduled_loss(model, guide, images, step, self.phase(step))

    def scheduled_loss(
        self, model: Any, guide: Any, images: Images, step: Step, phase: Hashable
    ) -> Loss:
        if phase:
            return super().loss(model, guide, images, step)
        return self.weighted_loss(model, guide, images)

    def weighted_loss(self, model: Any, guide: Any, images: Images) -> Loss:
        """The loss once strokes have been explored."""
        raise NotImplementedError


class IWAE(MultiSampleEstimator):
    """The importance-weighted bound (Burda et al. 2015), by reparameterised gradients.

    q(on_t) plays no part in it; it is trained towards the weights' distribution of the number of
    strokes. In guides without execution guidance, whose RNN knows what was drawn before, a little of
    that gradient reaches earlier strokes.
    """

    def weighted_loss(self, model: Any, guide: Any, images: Images) -> Loss:
        terms = stop_marginal_terms(model, guide, images, self.particles).by_particle()
        log_weight = joint_log_weight(terms)
        share = log_weight.detach().flatten(0, 1).softmax(0).view_as(log_weight)
        loss = -log_bound(log_weight).sum() - (share * terms.log_q).sum()
        return loss, terms.averages()


class ReweightedWakeSleep(MultiSampleEstimator):
    """Reweighted wake-sleep (Bornschein and Bengio 2015), its wake phases: the model by the gradient
    of the importance-weighted bound, the guide by its own density of the samples, each weighed by
    the normalised weights of its image. No gradient passes through a sample. What both share, the
    encoder of the canvas and the RNNs, learns from both.
    """

    def weighted_loss(self, model: Any, guide: Any, images: Images) -> Loss:
        with torch.no_grad():
            _, drawn = stroke_traces(model, guide, images, self.particles)
        again: Any = poutine.replay(guide, trace=drawn)
        p_trace, q_trace = stroke_traces(model, again, images, self.particles)
        terms, log_p, log_q = collect_terms(model, images, p_trace, q_trace)
        terms = terms.by_particle()
        log_p, log_q = log_p.view_as(terms.log_p), log_q.view_as(terms.log_q)
        log_weight = joint_log_weight(terms).detach()
        share = log_weight.flatten(0, 1).softmax(0).view_as(log_weight)
        wake_model = terms.log_p + terms.log_likelihood + log_p
        wake_guide = terms.log_q + log_q
        return -(share * (wake_model + wake_guide)).sum(), terms.averages()
