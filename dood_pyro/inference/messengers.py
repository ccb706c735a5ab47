"""Effect handlers for the programs' sites: all strokes drawn, modes, common noise, bounds on stops.
Used by inference, searches and estimators.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import Bernoulli, Independent, MaskedDistribution, Normal
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from torch import Tensor

from dood_pyro.models.distributions import CorrelatedPoints
from dood_pyro.models.sites import IMAGE, is_on
from dood_pyro.schedules import Step


def bernoulli_logits(site: Any) -> Tensor:
    """Logits of a site's Bernoulli, whatever masks and plates have wrapped around it."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    logits: Tensor = fn.logits
    return logits


class AllOnMessenger(Messenger):
    """Handler that sets every ``on_t`` to 1, unobserved, so that a program draws all its strokes."""

    def _pyro_sample(self, msg: Any) -> None:
        if is_on(msg["name"]):
            msg["value"] = torch.ones_like(bernoulli_logits(msg)).expand(msg["fn"].batch_shape)
            msg["done"] = True


class ModeMessenger(Messenger):
    """Handler that sets latent variables to their mean and ``on_t`` to its likelier value.

    Another discrete one, or one without a mean, is sampled from, and ``sampled`` is then True.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sampled = False

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or not hasattr(msg["fn"], "batch_shape"):
            return
        if is_on(msg["name"]):
            msg["value"] = (bernoulli_logits(msg) > 0).to(bernoulli_logits(msg))
            msg["done"] = True
        elif msg["fn"].has_enumerate_support:
            self.sampled = True
        else:
            try:
                msg["value"] = msg["fn"].mean
                msg["done"] = True
            except NotImplementedError:
                self.sampled = True


class TemperatureMessenger(Messenger):
    """Handler that puts latent variables at a temperature: below 1, likelier values are sampled more
    often still.

    Each conditional of the program is, not the whole: mixtures component by component.

    Args:
        temperature: T > 0; a density p becomes p^(1/T), normalised.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["name"] != IMAGE and hasattr(msg["fn"], "batch_shape"):
            msg["fn"] = _at_temperature(msg["fn"], self.temperature)


def _at_temperature(fn: Any, temperature: float) -> Any:
    """A distribution at a temperature; one of another kind as it is."""
    if isinstance(fn, MaskedDistribution):
        return _at_temperature(fn.base_dist, temperature).mask(fn._mask)
    if isinstance(fn, Independent):
        return _at_temperature(fn.base_dist, temperature).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, Bernoulli):
        return Bernoulli(logits=fn.logits / temperature)
    if isinstance(fn, Normal):
        return Normal(fn.loc, fn.scale * temperature**0.5)
    return fn.at_temperature(temperature) if hasattr(fn, "at_temperature") else fn


class CommonNoiseMessenger(Messenger):
    """Handler that samples a guide's Gaussian sites with common random numbers, which all images share.

    For searches: the result for an image does not depend on the images beside it. Each image's samples
    keep their distribution; samples of different images depend on each other. Sites of other
    distributions than `Normal` and `CorrelatedPoints` are sampled as usual.

    Args:
        groups: number of copies of the images in the batch, one after the other; noise differs
            between copies.
        first_at_means: whether the first copy has no noise.
    """

    def __init__(self, groups: int = 1, first_at_means: bool = False) -> None:
        super().__init__()
        self.groups, self.first_at_means = groups, first_at_means

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or msg["value"] is not None:
            return
        fn = msg["fn"]
        while isinstance(fn, Independent | MaskedDistribution):
            fn = fn.base_dist
        if not isinstance(fn, Normal | CorrelatedPoints):
            return
        batch, event = msg["fn"].batch_shape, msg["fn"].event_shape
        mean = fn.mean.expand(*batch, *event)
        noise = common_noise(mean, self.groups, len(batch) - 1)
        if self.first_at_means:
            noise = noise.clone()
            noise.narrow(len(batch) - 1, 0, batch[-1] // self.groups).zero_()
        if isinstance(fn, CorrelatedPoints):
            correlated = fn.scale_tril @ noise.flatten(-2)[..., None]
            msg["value"] = fn.mean + correlated.reshape(noise.shape)
        else:
            msg["value"] = fn.mean + fn.scale * noise
        msg["done"] = True


def common_noise(like: Tensor, groups: int, images_dim: int) -> Tensor:
    """Standard Gaussian noise of a tensor's shape and precision, the same for all images.

    Args:
        groups: copies of the images, whose noise differs.
        images_dim: the dimension of images.
    """
    left, images, event = (
        like.shape[:images_dim],
        like.shape[images_dim],
        like.shape[images_dim + 1 :],
    )
    # Drawn alike whatever the precision: a search in float64 sees the noise of one in float32.
    noise = torch.randn(*left, groups, 1, *event).to(like)
    return noise.expand(*left, groups, images // groups, *event).reshape(like.shape)


class StopBoundsMessenger(Messenger):
    """Handler that keeps the probabilities q(on_t = 1) of a guide between two bounds.

    For score-function training: an untrained guide would stop drawing for good, and a stop that is
    never drawn is never learned. Drawings that have stopped, whose site is masked, keep their logits.

    Args:
        low, high: bounds of the probability; 0 and 1 bound nothing.
    """

    def __init__(self, low: Step, high: Step) -> None:
        super().__init__()
        self.low, self.high = (_bound(p) for p in (low, high))

    def _pyro_sample(self, msg: Any) -> None:
        unbounded = self.low is None and self.high is None
        if unbounded or not is_on(msg["name"]) or msg["is_observed"]:
            return
        fn, mask = msg["fn"], None
        if isinstance(fn, MaskedDistribution):
            fn, mask = fn.base_dist, fn._mask
        # What tracks dependencies is a tensor subclass, which autograd functions do not take.
        provenance, logits = get_provenance(fn.logits), detach_provenance(fn.logits)
        bounded: Tensor = _Within.apply(logits, self.low, self.high)
        if mask is not None:
            bounded = torch.where(detach_provenance(mask), bounded, logits)
        bounded = track_provenance(bounded, provenance)
        msg["fn"] = Bernoulli(logits=bounded, validate_args=False)
        if mask is not None:
            msg["fn"] = msg["fn"].mask(mask)


def _bound(probability: Step) -> Tensor | float | None:
    """A probability's logit; None where it bounds nothing."""
    if isinstance(probability, Tensor):
        return probability.logit()
    return math.log(probability / (1 - probability)) if 0 < probability < 1 else None


class _Within(torch.autograd.Function):
    """Clamp whose gradient, beyond a bound, still passes where it leads back inside. A sigmoid would
    flatten out there, and a logit that has gone too far would never come back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, low: Tensor | float | None, high: Tensor | float | None
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        for bound, clamp in ((low, torch.clamp_min), (high, torch.clamp_max)):
            if bound is not None:
                x = clamp(x, bound)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        low, high = ctx.bounds
        # Descent moves against the gradient.
        if low is not None:
            gradient = torch.where((x < low) & (gradient > 0), 0.0, gradient)
        if high is not None:
            gradient = torch.where((x > high) & (gradient < 0), 0.0, gradient)
        return gradient, None, None
