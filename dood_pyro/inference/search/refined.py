"""The trained guide's answer, refined image by image: semi-amortised inference (Kim et al. 2018).
Commands that take a guide choose it by the name ``refined``.

Of the trained guide's modes and a few of its samples, the drawing that is likeliest under the model is
where each image starts: an ascent mends strokes, but does not find another order of them. From there
means, standard deviations and the logits of ``on_t`` climb the image's bound by gradient steps, the
stop variable marginalised. The result is a guide of independent sites, for any program whose guide is
Gaussian.

For one image nearly all the time of a step goes to the prior's networks, one stroke after the other,
and what they say changes little from step to step. For programs that can draw all strokes at once
(`DrawingModel.canvases`), the prior's part of the gradient is therefore taken a few times, and held in
between; the likelihood's is taken in every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from dood_pyro.errors import UserError
from dood_pyro.guides.base import Guide, Progress
from dood_pyro.images import ImageBatch, Images, as_batch
from dood_pyro.inference.messengers import (
    CommonNoiseMessenger,
    bernoulli_logits,
    common_noise,
)
from dood_pyro.inference.search.base import SearchGuide
from dood_pyro.inference.search.mean_field import MeanFieldGuide, SiteFactor
from dood_pyro.inference.stop_marginal import (
    StopMarginalTerms,
    collect_terms,
    mix_uniform,
    objective,
    stop_log_probs,
    stop_marginal_terms,
)
from dood_pyro.inference.traces import stroke_traces
from dood_pyro.models.sites import IMAGES, is_on, parse_site
from dood_pyro.optimiser import Adam

START_STD = 0.3
"""Standard deviations at the start, as a share of those that the guide proposes, whose later strokes
answer to its earlier ones: around one drawing, sites that do not answer each other have less room."""
LARGEST_LAYOUT_STD = 0.02
"""Largest standard deviation of a ``layout_t`` at the start. A trained guide may leave a layout nearly
free, its rotation for example, and make up for it by the stroke inside; here sites are independent."""
EXPLORE = 0.1
"""Share of a uniform distribution over stops that is mixed in where strokes are refined."""
PRIOR_STEPS = 4
"""How often the prior's part of the gradient is taken."""
PRIOR_PARTICLES = 2
"""Samples that it is averaged over: what is held for long must not be chance."""
FARTHEST_MOVE, FARTHEST_SPREAD = 5.0, 1.0
"""Farthest that means, in standard deviations, and logs of standard deviations go while it is held:
where the likelihood holds nothing back, they would follow a slope that is no longer there."""


class PriorPart(NamedTuple):
    """What is held of the prior and of the factors' entropy."""

    moves: list[Tensor]
    """The leaves where it was taken."""
    gradients: list[Tensor]
    """Gradients by the leaves of −Σ_k w_k R_k, in the symbols of `objective`."""
    log_p: Float[Tensor, "stops images"]
    log_ratio: Float[Tensor, "stops images"]
    """Both as in `StopMarginalTerms`, averaged over particles."""


class RefinedGuide(SearchGuide):
    """Any trained guide, refined.

    Args:
        model: the program that the guide is for.
        guide: where to start from.
        steps: gradient steps.
        learning_rate: Adam's; a mean moves by about this much of its standard deviation in a step.
        particles: samples that a step's gradient is averaged over.
        samples: samples of the trained guide that its modes compete with as a start.
        prior_steps: how often the prior's part of the gradient is taken; None for every step.
    """

    def __init__(
        self,
        model: Any,
        guide: Guide,
        steps: int = 120,
        learning_rate: float = 0.5,
        particles: int = 1,
        samples: int = 20,
        prior_steps: int | None = PRIOR_STEPS,
    ) -> None:
        super().__init__(model, guide)
        self.steps, self.learning_rate, self.particles = steps, learning_rate, particles
        self.samples, self.prior_steps = samples, prior_steps

    def start(self, images: ImageBatch) -> dict[str, SiteFactor]:
        """Factors around the likeliest of the trained guide's drawings, every stroke being drawn."""
        # Not a plate of particles: there may be one around this guide.
        drawings = 1 + self.samples
        with CommonNoiseMessenger(groups=drawings, first_at_means=True):
            scores, factors = self._drawn(images.repeat(drawings))
        count = len(images)
        scores = torch.nan_to_num(scores.unflatten(0, (drawings, count)), nan=-torch.inf)
        rows = scores.argmax(0) * count + torch.arange(count, device=images.device)
        return factors.rows(rows).sites

    def _drawn(self, images: ImageBatch) -> tuple[Tensor, MeanFieldGuide]:
        """A drawing of each image by the trained guide: log p(x, drawing), the stop variable
        marginalised, and factors around it."""
        p_trace, q_trace = stroke_traces(self.model, self.guide, images)
        terms, log_p, _ = collect_terms(self.model, images, p_trace, q_trace)
        joint = torch.logsumexp(terms.log_p + terms.log_likelihood + log_p, dim=0)
        sites, count = {}, len(images)
        for name in q_trace.stochastic_nodes:
            site: Any = q_trace.nodes[name]
            if name == IMAGES:
                continue
            if is_on(name):
                sites[name] = SiteFactor(bernoulli_logits(site).expand(count), None, 0)
                continue
            events = site["fn"].event_shape
            value = site["value"].expand(count, *events)
            try:
                spread = site["fn"].stddev
            except NotImplementedError:
                raise UserError(
                    f"{name} of the guide is a {type(site['fn']).__name__}, which has no standard "
                    "deviation to start from: it cannot be refined"
                ) from None
            log_std = (START_STD * spread).log().expand_as(value)
            parsed = parse_site(name)
            if parsed is not None and parsed.kind == "layout":
                log_std = log_std.clamp(max=math.log(LARGEST_LAYOUT_STD))
            sites[name] = SiteFactor(value, log_std, len(events))
        return joint, MeanFieldGuide(sites)

    def search(self, images: Images, progress: Progress | None = None) -> MeanFieldGuide:
        """Factors that have climbed the bound of each image. By common random numbers: what is found
        for an image does not depend on the others."""
        return self._climbed(as_batch(images), 1, progress)

    def _climbed(
        self, images: ImageBatch, groups: int, progress: Progress | None
    ) -> MeanFieldGuide:
        """`search` for ``groups`` copies of the images, one after the other, whose noise differs."""
        # Hidden from whatever traces or conditions this guide.
        with poutine.block(), torch.enable_grad(), pyro.validation_enabled(False):
            with torch.no_grad():
                first = self.start(images)
            climb = _Climb(self.model, images, first, groups)
            optimiser, never = Adam([climb.leaves]), images.pixels.new_zeros(())
            anew, prior = self._prior_steps(), None
            for step in range(self.steps):
                if step in anew:
                    prior = climb.prior(PRIOR_PARTICLES)
                gradients = (
                    climb.whole(self.particles) if prior is None else climb.likelihood(prior)
                )
                for leaf, gradient in zip(climb.leaves, gradients, strict=True):
                    leaf.grad = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
                optimiser.step([self.learning_rate * (1 - step / self.steps)], skip=never)
                if prior is not None:
                    climb.stay_near(prior)
                if progress is not None:
                    progress(len(images) / groups / self.steps)
            with torch.no_grad():
                return climb.moved()

    def _prior_steps(self) -> set[int]:
        """Steps in which the prior's part is taken anew; between two the learning rate adds up to the
        same."""
        count = self.prior_steps
        if count is None or not self.model.draws_at_once:
            return set()
        return {int(self.steps * (1 - math.sqrt(1 - each / count))) for each in range(count)}


class _Stack(NamedTuple):
    """Factors of one kind of site, step after step, and how far they have moved."""

    names: list[str]
    mean: Float[Tensor, "steps images *event"]
    log_std: Float[Tensor, "steps images *event"] | None
    event_dims: int
    move: Tensor
    """In standard deviations, in which all sites are alike; of ``on_t``, in logits."""
    spread: Tensor | None
    """What is added to ``log_std``."""

    def now(self) -> tuple[Tensor, Tensor | None]:
        """Means, and logs of standard deviations, as they are now."""
        if self.log_std is None or self.spread is None:
            return self.mean + self.move, None
        return self.mean + self.log_std.exp() * self.move, self.log_std + self.spread


class _Climb:
    """Factors on their way, and the gradients that they follow.

    Args:
        first: where they start.
        groups: copies of the images, whose noise differs.
    """

    def __init__(
        self, model: Any, images: ImageBatch, first: dict[str, SiteFactor], groups: int
    ) -> None:
        self.model, self.images, self.groups = model, images, groups
        self.order = list(first)
        names: dict[str, list[str]] = {}
        for name in first:
            parsed = parse_site(name)
            names.setdefault(name if parsed is None else parsed.kind, []).append(name)
        self.stacks = {
            kind: self._stack(together, [first[name] for name in together])
            for kind, together in names.items()
        }
        self.leaves = [
            leaf
            for stack in self.stacks.values()
            for leaf in (stack.move, stack.spread)
            if leaf is not None
        ]

    def _stack(self, names: list[str], factors: list[SiteFactor]) -> _Stack:
        mean = torch.stack([factor.mean for factor in factors])
        log_std, spread = None, None
        if factors[0].log_std is not None:
            log_std = torch.stack([each.log_std for each in factors if each.log_std is not None])
            spread = torch.zeros_like(log_std).requires_grad_()
        move = torch.zeros_like(mean).requires_grad_()
        return _Stack(names, mean, log_std, factors[0].event_dims, move, spread)

    def moved(self) -> MeanFieldGuide:
        """The factors as they are now."""
        sites = {}
        for stack in self.stacks.values():
            mean, log_std = stack.now()
            for row, name in enumerate(stack.names):
                spread = None if log_std is None else log_std[row]
                sites[name] = SiteFactor(mean[row], spread, stack.event_dims)
        return MeanFieldGuide({name: sites[name] for name in self.order})

    def whole(self, particles: int) -> Sequence[Tensor]:
        """Gradients by the leaves of minus the objective."""
        with CommonNoiseMessenger(self.groups):
            terms = stop_marginal_terms(self.model, self.moved(), self.images, particles)
        # A stroke that is not drawn yet must be able to improve until it is worth drawing.
        loss = -objective(terms, exploration=EXPLORE).sum() / particles
        return torch.autograd.grad(loss, self.leaves)

    def prior(self, particles: int) -> PriorPart:
        """The prior's part as it is now."""
        # Not a plate of particles: there may be one around the guide.
        copies = self.images.repeat(particles)
        with CommonNoiseMessenger(particles * self.groups):
            terms = stop_marginal_terms(self.model, self.moved().repeated(particles), copies)
        log_q, log_p, _, log_ratio = terms
        weights = mix_uniform(log_q.detach().exp(), EXPLORE)
        loss = -(weights * log_ratio).sum() / particles
        found = torch.autograd.grad(loss, self.leaves, allow_unused=True, materialize_grads=True)

        def mean(term: Tensor) -> Tensor:
            return term.detach().unflatten(1, (particles, -1)).mean(1)

        moves = [leaf.detach().clone() for leaf in self.leaves]
        return PriorPart(moves, list(found), mean(log_p), mean(log_ratio))

    @torch.no_grad()
    def stay_near(self, prior: PriorPart) -> None:
        """Bring the factors back to where the prior's part can be trusted."""
        spreads = {id(stack.spread) for stack in self.stacks.values()}
        for leaf, before in zip(self.leaves, prior.moves, strict=True):
            if leaf is self.stacks["on"].move:
                continue
            most = FARTHEST_SPREAD if id(leaf) in spreads else FARTHEST_MOVE
            leaf.clamp_(before - most, before + most)

    def likelihood(self, held: PriorPart) -> list[Tensor]:
        """Gradients by the leaves of minus the objective, the prior's part held."""
        model, images = self.model, self.images
        logits, _ = self.stacks["on"].now()
        values = {}
        for kind, stack in self.stacks.items():
            mean, log_std = stack.now()
            if log_std is not None:
                values[kind] = mean + log_std.exp() * common_noise(mean, self.groups, images_dim=1)
        canvases = model.canvases(values, images.native_size)
        scale = model.likelihood_scale()
        log_likelihood = model.log_likelihood(images.pixels, canvases, scale)
        terms = StopMarginalTerms(
            stop_log_probs(logits), held.log_p, log_likelihood, held.log_ratio
        )
        loss = -objective(terms, exploration=EXPLORE).sum()
        found = torch.autograd.grad(loss, self.leaves, allow_unused=True, materialize_grads=True)
        return [new + kept for new, kept in zip(found, held.gradients, strict=True)]
