"""The trained guide's answer, refined image by image: semi-amortised inference (Kim et al. 2018).
Commands that take a guide choose it by the name ``refined``.

Of the trained guide's modes and a few of its samples, the drawing that is likeliest under the model is
where each image starts: an ascent mends strokes, but does not find another order of them. From there
means, standard deviations and the logits of ``on_t`` climb the image's bound by gradient steps, the
stop variable marginalised. The result is a guide of independent sites, for any program whose guide is
Gaussian.
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from dood_pyro.errors import UserError
from dood_pyro.guides.base import Guide, Progress
from dood_pyro.images import ImageBatch, Images, as_batch
from dood_pyro.inference.messengers import CommonNoiseMessenger, ModeMessenger, bernoulli_logits
from dood_pyro.inference.search.base import SearchGuide
from dood_pyro.inference.search.mean_field import MeanFieldGuide, SiteFactor
from dood_pyro.inference.stop_marginal import collect_terms, objective, stop_marginal_terms
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


class RefinedGuide(SearchGuide):
    """Any trained guide, refined.

    Args:
        model: the program that the guide is for.
        guide: where to start from.
        steps: gradient steps.
        learning_rate: Adam's; a mean moves by about this much of its standard deviation in a step.
        particles: samples that a step's gradient is averaged over.
        samples: samples of the trained guide that its modes compete with as a start.
    """

    def __init__(
        self,
        model: Any,
        guide: Guide,
        steps: int = 100,
        learning_rate: float = 0.5,
        particles: int = 1,
        samples: int = 20,
    ) -> None:
        super().__init__(model, guide)
        self.steps, self.learning_rate, self.particles = steps, learning_rate, particles
        self.samples = samples

    def start(self, images: ImageBatch) -> dict[str, SiteFactor]:
        """Factors around the likeliest of the trained guide's drawings, every stroke being drawn."""
        with ModeMessenger():
            drawn = [self._drawn(images)]
        if self.samples:
            # Not a plate of particles: there may be one around this guide.
            with CommonNoiseMessenger(groups=self.samples):
                drawn.append(self._drawn(images.repeat(self.samples)))
        count = len(images)
        scores = torch.cat([score for score, _ in drawn]).unflatten(0, (-1, count))
        best = torch.nan_to_num(scores, nan=-torch.inf).argmax(0)
        rows = best * count + torch.arange(count, device=images.device)
        return MeanFieldGuide.concatenated([factors for _, factors in drawn]).rows(rows).sites

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
        model = self.model
        # Hidden from whatever traces or conditions this guide.
        with poutine.block(), torch.enable_grad(), pyro.validation_enabled(False):
            with torch.no_grad():
                first = self.start(images)
            moves: dict[str, tuple[Tensor, Tensor | None]] = {}
            for name, (mean, log_std, _) in first.items():
                spread = None if log_std is None else torch.zeros_like(log_std).requires_grad_()
                moves[name] = (torch.zeros_like(mean).requires_grad_(), spread)
            leaves = [leaf for pair in moves.values() for leaf in pair if leaf is not None]

            def moved() -> MeanFieldGuide:
                sites = {}
                for name, (mean, log_std, event_dims) in first.items():
                    move, spread = moves[name]
                    if log_std is None or spread is None:
                        sites[name] = SiteFactor(mean + move, None, 0)
                    else:
                        # In units of the standard deviations, in which all sites are alike.
                        moved_mean = mean + log_std.exp() * move
                        sites[name] = SiteFactor(moved_mean, log_std + spread, event_dims)
                return MeanFieldGuide(sites)

            optimiser, never = Adam([leaves]), images.pixels.new_zeros(())
            for step in range(self.steps):
                with CommonNoiseMessenger(groups):
                    terms = stop_marginal_terms(model, moved(), images, self.particles)
                # A stroke that is not drawn yet must be able to improve until it is worth drawing.
                loss = -objective(terms, exploration=EXPLORE).sum() / self.particles
                for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
                    leaf.grad = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
                optimiser.step([self.learning_rate * (1 - step / self.steps)], skip=never)
                if progress is not None:
                    progress(len(images) / groups / self.steps)
            with torch.no_grad():
                return moved()
