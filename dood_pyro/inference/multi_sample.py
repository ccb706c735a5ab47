"""Objectives of several samples an image: the importance-weighted bound, and reweighted wake-sleep.

Both sum stops out, as `dood_pyro.inference.stop_time` does: what is weighted are the pairs of a
sample i and a number of strokes k,

    log w_ik = log p_k + log p(x | canvas_k) + Σ_{t≤k} log p/q of (layout, stroke, pen)_t,

and what is normalised, image by image, are these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor, nn

from dood_pyro.inference.stop_time import (
    StopTimeELBO,
    StopTimeTerms,
    collect_terms,
    stop_time_terms,
    stroke_traces,
)
from dood_pyro.stepwise import sharing_states


def joint_log_weight(terms: StopTimeTerms) -> Float[Tensor, "stops *batch"]:
    """log w of each sample and number of strokes."""
    return terms.log_p + terms.log_likelihood + terms.log_ratio


def log_bound(log_weight: Float[Tensor, "stops particles images"]) -> Float[Tensor, "images"]:
    """log of the mean over particles of the sum over stops."""
    return torch.logsumexp(log_weight, dim=(0, 1)) - math.log(log_weight.shape[1])


class _MultiSample(StopTimeELBO):
    """What both objectives share: particles, and a beginning by the one-sample bound.

    A blank canvas is a strong optimum, which weights do not leave: until strokes have been explored
    (``explore_steps``), training goes by the bound that explores them.
    """

    def __init__(
        self,
        particles: int,
        beta: float,
        explore_steps: int,
        scale_learns: Literal["explored", "drawn"] = "drawn",
    ) -> None:
        super().__init__(beta, explore_steps, scale_learns=scale_learns)
        self.particles = particles
        self.exploring = explore_steps > 0

    def anneal(self, step: int, guide: nn.Module) -> None:
        """Sets what depends on the number of steps taken."""
        super().anneal(step, guide)
        self.exploring = step < self.explore_steps

    def terms(self, model: nn.Module, guide: nn.Module, image: Tensor) -> StopTimeTerms:
        """Of ``particles`` samples: (stops, particles, images)."""
        return stop_time_terms(model, guide, image, self.particles).by_particle()

    def differentiable_loss(
        self, model: nn.Module, guide: nn.Module, image: Tensor
    ) -> Float[Tensor, ""]:
        """Minus the objective, summed over images; the report is of the one-sample bound."""
        if self.exploring:
            return super().differentiable_loss(model, guide, image)
        return self.weighted_loss(model, guide, image)

    def weighted_loss(self, model: nn.Module, guide: nn.Module, image: Tensor) -> Tensor:
        """Once strokes have been explored."""
        raise NotImplementedError


class IWAE(_MultiSample):
    """The importance-weighted bound (Burda et al. 2015), by reparameterised gradients.

    q(on_t) plays no part in it; it is trained towards the weights' distribution of the number of
    strokes. Where it sees what was drawn before, as guides without execution guidance do by their
    RNN, a little of that gradient reaches earlier strokes.

    Args:
        particles: samples an image.
        beta, explore_steps, scale_learns: of the bound that training begins with.
    """

    def weighted_loss(self, model: nn.Module, guide: nn.Module, image: Tensor) -> Tensor:
        terms = self.terms(model, guide, image)
        self.report = terms.report()
        log_weight = joint_log_weight(terms)
        share = log_weight.detach().flatten(0, 1).softmax(0).view_as(log_weight)
        return -log_bound(log_weight).sum() - (share * terms.log_q).sum()


class ReweightedWakeSleep(_MultiSample):
    """Reweighted wake-sleep (Bornschein and Bengio 2015), its wake phases: the model by the gradient
    of the importance-weighted bound, the guide by its own density of the samples, each weighed by
    the normalised weights of its image. No gradient passes through a sample. What both share, the
    encoder of the canvas and the RNNs, learns from both.

    Args:
        particles: samples an image.
        beta, explore_steps, scale_learns: of the bound that training begins with.
    """

    def weighted_loss(self, model: nn.Module, guide: nn.Module, image: Tensor) -> Tensor:
        with torch.no_grad():
            _, drawn = stroke_traces(model, guide, image, self.particles)
        again: Any = poutine.replay(guide, trace=drawn)
        p_trace, q_trace = stroke_traces(model, again, image, self.particles)
        terms, log_p, log_q = collect_terms(model, image, p_trace, q_trace)
        terms = terms.by_particle()
        log_p, log_q = log_p.view_as(terms.log_p), log_q.view_as(terms.log_q)
        self.report = terms.report()
        log_weight = joint_log_weight(terms).detach()
        share = log_weight.flatten(0, 1).softmax(0).view_as(log_weight)
        wake_model = terms.log_p + terms.log_likelihood + log_p
        wake_guide = terms.log_q + log_q
        return -(share * (wake_model + wake_guide)).sum()


@contextmanager
def fixed(module: nn.Module) -> Iterator[None]:
    """Inside, no gradient is kept for a module's parameters."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def sleep_loss(model: nn.Module, guide: nn.Module, count: int) -> Float[Tensor, ""]:
    """The sleep phase: minus log q(drawing | image) summed over ``count`` drawings that the model
    dreams, noise of the likelihood included. For the guide's own parameters alone."""
    with torch.no_grad():
        dreamt: Any = poutine.trace(model).get_trace(count=count)
    image = dreamt.nodes["image"]["value"]
    with fixed(model), sharing_states():
        trace: Any = poutine.trace(poutine.replay(guide, trace=dreamt)).get_trace(image)
        loss: Tensor = -trace.log_prob_sum()
    return loss
