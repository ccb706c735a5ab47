"""Sequential Monte Carlo: particles that draw stroke by stroke, and are resampled in between.

Particles propose each stroke by a guide. After stroke t they have the weights

    w_t = Π_{s≤t} p(on_s = 1) · p/q of the other latent variables of step s,

and before the next one they are resampled by w_t · p(x | canvas_t), the likelihood of the picture if
the drawing ended there, a look ahead that is divided out of their weights again (Del Moral et al.
2006). With stops summed out as in `dood_pyro.inference.stop_time`, the sum over k = 0…K strokes of
the mean over particles of

    w_k · p(on_{k+1} = 0) · p(x | canvas_k)

(the middle factor left out at k = K) has expectation p(x), whatever is resampled when.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any, NamedTuple

import pyro
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pyro import poutine
from torch import Tensor

from dood_pyro.inference.stop_time import AlwaysOn, bernoulli_logits
from dood_pyro.stepwise import Program, StepwiseGuide, sharing_states


class Proposed(NamedTuple):
    """Values of a site, and the standard deviations with which the guide proposed them."""

    value: Float[Tensor, "particles images *event"]
    std: Float[Tensor, "particles images *event"]


class Particles(NamedTuple):
    """What a run of `smc` leaves."""

    log_weight: Float[Tensor, "stops particles images"]
    """log of what particle and number of strokes k = 0…K contribute to the estimate of p(x)."""
    strokes: list[list[dict[str, Proposed]]]
    """By k, then by step t ≤ k, then by site other than ``on_t``: what the particles that contribute
    at k have drawn."""

    def log_p(self) -> Float[Tensor, "images"]:
        """log of the unbiased estimate of p(x): a lower bound in expectation."""
        particles = self.log_weight.shape[1]
        return torch.logsumexp(self.log_weight, dim=(0, 1)) - math.log(particles)

    def best(self) -> list[dict[str, Proposed]]:
        """By step and site, (images, *event): the drawing that contributes most, and past its last
        stroke what its particle would have drawn."""
        _, particles, images = self.log_weight.shape
        place = self.log_weight.flatten(0, 1).argmax(0).cpu()
        stop, particle = place // particles, place % particles
        chosen = []
        for t in range(1, len(self.strokes)):
            sites = {}
            for name in self.strokes[t][t - 1]:
                later = [drawn[t - 1][name] for drawn in self.strokes[t:]]
                where = (stop - t).clamp(min=0), particle, torch.arange(images)
                columns = zip(*later, strict=True)
                sites[name] = Proposed(*(torch.stack(column)[where] for column in columns))
            chosen.append(sites)
        return chosen

    def log_stop(self) -> Float[Tensor, "stops images"]:
        """log of the estimated posterior probability of k = 0…K strokes."""
        return torch.logsumexp(self.log_weight, dim=1).log_softmax(dim=0)


def systematic(log_weight: Float[Tensor, "particles images"]) -> Int[Tensor, "particles images"]:
    """Ancestors by systematic resampling: each particle's number of offspring is within one of its
    share."""
    particles = log_weight.shape[0]
    edges = log_weight.softmax(0).cumsum(0).T.contiguous()
    offset = torch.rand(edges.shape[0], 1, dtype=edges.dtype, device=edges.device)
    places = (torch.arange(particles, dtype=edges.dtype, device=edges.device) + offset) / particles
    return torch.searchsorted(edges, places).clamp(max=particles - 1).T


@torch.no_grad()
def smc(
    model: Program[Any],
    guide: StepwiseGuide[Any],
    image: Float[Tensor, "images size size"],
    particles: int = 200,
    threshold: float = 0.5,
    heat: float = 1.0,
) -> Particles:
    """Runs ``particles`` particles over the strokes of each image, which are independent.

    Args:
        threshold: an image's particles are resampled where their effective number falls below
            this share of them.
        heat: the power of the likelihood by which they are resampled; 0 for not looking ahead.
    """
    count = image.shape[-3]
    blank, started = model.initial_state(count), guide.start(image)
    scale = model.likelihood_scale()
    weight = image.new_zeros(particles, count)
    likelihood = model.log_likelihood(image, blank.canvas, scale).expand(particles, count)
    contributions: list[Tensor] = []
    drawn: list[dict[str, Proposed]] = []
    strokes: list[list[dict[str, Proposed]]] = [[]]
    model_state, guide_state = blank, started
    for t in range(1, model.config.max_strokes + 1):
        with ExitStack() as contexts:
            contexts.enter_context(sharing_states())
            contexts.enter_context(pyro.plate("particles", particles, dim=-2))
            contexts.enter_context(pyro.plate("images", count, dim=-1))
            with AlwaysOn():
                traced: Any = poutine.trace(guide.step)
                q_trace = traced.get_trace(t, guide_state, image)
            replayed: Any = poutine.trace(poutine.replay(model.step, trace=q_trace))
            p_trace = replayed.get_trace(t, model_state)
        on = bernoulli_logits(p_trace.nodes[f"on_{t}"]).expand(particles, count)
        contributions.append(weight + F.logsigmoid(-on) + likelihood)
        ratio, sites = torch.zeros_like(weight), {}
        for name in q_trace.stochastic_nodes:
            if name.startswith("on_") or name in ("particles", "images"):
                continue
            p, q = p_trace.nodes[name]["fn"], q_trace.nodes[name]["fn"]
            value = q_trace.nodes[name]["value"]
            ratio = ratio + p.log_prob(value) - q.log_prob(value)
            value = value.expand(particles, count, *q.event_shape)
            sites[name] = Proposed(value, q.stddev.expand_as(value))
        weight = weight + F.logsigmoid(on) + ratio
        model_state = _spread(p_trace.nodes["_RETURN"]["value"], blank, weight.shape)
        guide_state = _spread(q_trace.nodes["_RETURN"]["value"], started, weight.shape)
        drawn = [*drawn, sites]
        strokes.append(drawn)
        likelihood = model.log_likelihood(image, model_state.canvas, scale)
        if t == model.config.max_strokes:
            contributions.append(weight + likelihood)
            break
        ahead = weight + heat * likelihood
        ancestors, resampled = _ancestors(ahead, threshold)
        weight, likelihood = (each.gather(0, ancestors) for each in (weight, likelihood))
        mean = torch.logsumexp(ahead, 0) - math.log(particles)
        weight = torch.where(resampled, mean - heat * likelihood, weight)
        model_state, guide_state, drawn = _gather((model_state, guide_state, drawn), ancestors)
    return Particles(torch.stack(contributions), strokes)


def _ancestors(log_weight: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Systematic where few particles carry the weight, else each its own; and where that was so.

    A draw may leave each its own ancestor: resampled all the same, all then weigh alike.
    """
    particles = log_weight.shape[0]
    effective = 2 * torch.logsumexp(log_weight, 0) - torch.logsumexp(2 * log_weight, 0)
    few = effective.exp() < threshold * particles
    own = torch.arange(particles, device=log_weight.device)[:, None].expand_as(log_weight)
    return torch.where(few, systematic(log_weight), own), few


def _spread(tree: Any, template: Any, batch: torch.Size) -> Any:
    """A state whose every tensor has the particles' dimension; ``template``'s have images only."""
    if isinstance(tree, Tensor):
        return tree.expand(*batch, *template.shape[1:])
    return type(tree)(*(_spread(*pair, batch) for pair in zip(tree, template, strict=True)))


def _gather(tree: Any, ancestors: Tensor) -> Any:
    """The ancestors' tensors, in named tuples, tuples, lists and dictionaries."""
    if isinstance(tree, Tensor):
        images = torch.arange(ancestors.shape[1], device=ancestors.device)
        return tree[ancestors, images]
    if isinstance(tree, dict):
        return {name: _gather(each, ancestors) for name, each in tree.items()}
    made = [_gather(each, ancestors) for each in tree]
    return type(tree)(*made) if hasattr(tree, "_fields") else type(tree)(made)
