"""The amortised guide's answer, refined image by image: semi-amortised inference (Kim et al. 2018).

Starting from the Gaussians that a trained guide proposes at its own modes, means, standard deviations
and the logits of ``on_t`` climb each image's bound by gradient steps, stops summed out. What is left is
a guide whose sites no longer depend on each other, for any program whose guide is Gaussian.
"""

from __future__ import annotations

from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor, nn

from dood_pyro.guides.factors import Factor, Factors, ImageByImage
from dood_pyro.inference.parsing import Modes
from dood_pyro.inference.stop_time import AlwaysOn, bernoulli_logits, stop_time_terms
from dood_pyro.optimiser import Adam


class RefinedGuide(ImageByImage):
    """Any trained guide, refined.

    Args:
        model: the program that the guide is for.
        guide: where to start from.
        steps: gradient steps.
        rate: of Adam; a mean moves by about this much of its standard deviation in a step.
        particles: samples that a step's gradient is averaged over.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        steps: int = 100,
        rate: float = 0.3,
        particles: int = 1,
    ) -> None:
        super().__init__(model, guide)
        self.steps, self.rate, self.particles = steps, rate, particles

    def start(self, image: Float[Tensor, "images size size"]) -> dict[str, Factor]:
        """The trained guide's factors at its own modes, every stroke being drawn."""
        with Modes(), AlwaysOn():
            trace = poutine.trace(self.guide).get_trace(image)
        sites = {}
        for name in trace.stochastic_nodes:
            site = trace.nodes[name]
            if name == "images":
                continue
            if name.startswith("on_"):
                sites[name] = Factor(bernoulli_logits(site).expand(image.shape[:-2]), None, 0)
                continue
            fn: Any = site["fn"]
            events = fn.event_shape
            while hasattr(fn, "base_dist"):
                fn = fn.base_dist
            sites[name] = Factor(fn.loc, fn.scale.log(), len(events))
        return sites

    def factors(self, image: Float[Tensor, "images size size"]) -> Factors:
        """Factors that have climbed the bound of each image."""
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
            for step in range(self.steps):
                bound = stop_time_terms(model, moved(), image, self.particles).elbo()
                loss = -bound.sum() / self.particles
                for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
                    leaf.grad = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
                optimiser.step([self.rate * (1 - step / self.steps)], skip=never)
            with torch.no_grad():
                return moved()
