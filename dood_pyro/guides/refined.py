"""The amortised guide's answer, refined image by image: semi-amortised inference (Kim et al. 2018).

Of the trained guide's modes and a few of its samples, the drawing that is likeliest under the model is
where each image starts: an ascent mends strokes, but does not find another order of them. From there
means, standard deviations and the logits of ``on_t`` climb the image's bound by gradient steps, stops
summed out. What is left is a guide whose sites no longer depend on each other, for any program whose
guide is Gaussian.
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor, nn

from dood_pyro.errors import UserError
from dood_pyro.guides.factors import Factor, Factors, ImageByImage, Progress
from dood_pyro.inference.common_noise import CommonNoise
from dood_pyro.inference.parsing import Modes
from dood_pyro.inference.stop_time import (
    StopTimeELBO,
    bernoulli_logits,
    collect_terms,
    stop_time_terms,
    stroke_traces,
)
from dood_pyro.optimiser import Adam

START_STD = 0.3
"""Standard deviations at the start, of those that the guide proposes, whose later strokes answer to
its earlier ones: around one drawing, sites that do not answer each other have less room."""
LARGEST_LAYOUT_STD = 0.02
"""Of a ``layout_t`` at the start. A trained guide may leave a layout as good as free, its rotation for
one, and make up for it by the stroke inside, which does not answer here."""
EXPLORE = 0.1
"""How much of a uniform distribution over stops is mixed in where strokes are refined."""


class RefinedGuide(ImageByImage):
    """Any trained guide, refined.

    Args:
        model: the program that the guide is for.
        guide: where to start from.
        steps: gradient steps.
        rate: of Adam; a mean moves by about this much of its standard deviation in a step.
        particles: samples that a step's gradient is averaged over.
        samples: of the trained guide, that its modes compete with as a start.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        steps: int = 100,
        rate: float = 0.5,
        particles: int = 1,
        samples: int = 20,
    ) -> None:
        super().__init__(model, guide)
        self.steps, self.rate, self.particles = steps, rate, particles
        self.samples = samples

    def start(self, image: Float[Tensor, "images size size"]) -> dict[str, Factor]:
        """Factors around the likeliest of the trained guide's drawings, every stroke being drawn."""
        with Modes():
            drawn = [self._drawn(image)]
        if self.samples:
            # Not a plate of particles: there may be one around this guide.
            with CommonNoise(groups=self.samples):
                drawn.append(self._drawn(image.repeat(self.samples, 1, 1)))
        scores = torch.cat([score for score, _ in drawn]).unflatten(0, (-1, len(image)))
        best = torch.nan_to_num(scores, nan=-torch.inf).argmax(0)
        rows = best * len(image) + torch.arange(len(image), device=image.device)
        return Factors.joined([factors for _, factors in drawn]).of(rows).sites

    def _drawn(self, image: Tensor) -> tuple[Tensor, Factors]:
        """A drawing of each image by the trained guide: log p(x, drawing), stops summed out, and
        factors around it."""
        p_trace, q_trace = stroke_traces(self.model, self.guide, image)
        terms, log_p, _ = collect_terms(self.model, image, p_trace, q_trace)
        joint = torch.logsumexp(terms.log_p + terms.log_likelihood + log_p, dim=0)
        sites = {}
        for name in q_trace.stochastic_nodes:
            site: Any = q_trace.nodes[name]
            if name == "images":
                continue
            if name.startswith("on_"):
                sites[name] = Factor(bernoulli_logits(site).expand(len(image)), None, 0)
                continue
            events = site["fn"].event_shape
            value = site["value"].expand(len(image), *events)
            try:
                spread = site["fn"].stddev
            except NotImplementedError:
                raise UserError(
                    f"{name} of the guide is a {type(site['fn']).__name__}, which has no standard "
                    "deviation to start from: it cannot be refined"
                ) from None
            log_std = (START_STD * spread).log().expand_as(value)
            if name.startswith("layout_"):
                log_std = log_std.clamp(max=math.log(LARGEST_LAYOUT_STD))
            sites[name] = Factor(value, log_std, len(events))
        return joint, Factors(sites)

    def factors(
        self, image: Float[Tensor, "images size size"], progress: Progress | None = None
    ) -> Factors:
        """Factors that have climbed the bound of each image. By common random numbers: what is found
        for an image does not depend on the others."""
        return self._climbed(image, 1, progress)

    def _climbed(
        self, image: Float[Tensor, "images size size"], groups: int, progress: Progress | None
    ) -> Factors:
        """The same for so many copies of the images, one after the other, whose noise differs."""
        model = self.model
        # Hidden from whatever traces or conditions this guide.
        with poutine.block(), torch.enable_grad(), pyro.validation_enabled(False):
            with torch.no_grad():
                first = self.start(image)
            moves: dict[str, tuple[Tensor, Tensor | None]] = {}
            for name, (mean, log_std, _) in first.items():
                spread = None if log_std is None else torch.zeros_like(log_std).requires_grad_()
                moves[name] = (torch.zeros_like(mean).requires_grad_(), spread)
            leaves = [leaf for pair in moves.values() for leaf in pair if leaf is not None]

            def moved() -> Factors:
                sites = {}
                for name, (mean, log_std, event_dims) in first.items():
                    move, spread = moves[name]
                    if log_std is None or spread is None:
                        sites[name] = Factor(mean + move, None, 0)
                    else:
                        # In units of the standard deviations, in which all sites are alike.
                        sites[name] = Factor(
                            mean + log_std.exp() * move, log_std + spread, event_dims
                        )
                return Factors(sites)

            optimiser, never = Adam([leaves]), image.new_zeros(())
            # A stroke that is not drawn yet must be able to improve until it is worth drawing.
            objective = StopTimeELBO(explore_always=EXPLORE)
            for step in range(self.steps):
                with CommonNoise(groups):
                    terms = stop_time_terms(model, moved(), image, self.particles)
                loss = -objective.objective(terms).sum() / self.particles
                for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
                    leaf.grad = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
                optimiser.step([self.rate * (1 - step / self.steps)], skip=never)
                if progress is not None:
                    progress(len(image) / groups / self.steps)
            with torch.no_grad():
                return moved()
