"""Sequential Monte Carlo: particles that draw stroke by stroke, and are resampled in between.
Used by the search guide ``smc``.

Particles propose each stroke by a guide. After stroke t they have the weights

    w_t = Π_{s≤t} p(on_s = 1) · p/q of the other latent variables of step s,

and before the next one they are resampled by w_t · p(x | canvas_t), the likelihood of the picture if
the drawing ended there, a look-ahead that is divided out of their weights again (Del Moral et al.
2006). With the stop variable marginalised as in `dood_pyro.inference.stop_marginal`, the sum over
k = 0…K strokes of the mean over particles of

    w_k · p(on_{k+1} = 0) · p(x | canvas_k)

(the middle factor left out at k = K) has expectation p(x), whatever is resampled when.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import pyro
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pyro import poutine
from torch import Tensor

from dood_pyro.errors import UserError
from dood_pyro.guides.base import SequentialGuide
from dood_pyro.images import Images, as_batch
from dood_pyro.inference.messengers import AllOnMessenger, bernoulli_logits
from dood_pyro.models.sites import IMAGES, PARTICLES, latent_sites, on_site


class Proposed(NamedTuple):
    """Values of a site, and the standard deviations with which the guide proposed them."""

    value: Float[Tensor, "particles images *event"]
    std: Float[Tensor, "particles images *event"]


class Particles(NamedTuple):
    """Particles after a run of `smc`, by number of strokes k = 0…K."""

    log_weight: Float[Tensor, "stops particles images"]
    """log of each particle's contribution to the estimate of p(x)."""
    log_joint: Float[Tensor, "stops particles images"]
    """log p(x, drawing) of each particle's drawing, ended after k strokes."""
    strokes: list[list[dict[str, Proposed]]]
    """The particles' strokes: by k, then by step t ≤ k, then by site other than ``on_t``."""

    def best(self) -> tuple[list[dict[str, Proposed]], Int[Tensor, "images"]]:
        """Each image's likeliest drawing, by step and site, (images, *event), and its number of
        strokes; steps beyond that number hold meaningless values."""
        _, particles, images = self.log_joint.shape
        joint = torch.nan_to_num(self.log_joint, nan=-torch.inf)
        place = joint.flatten(0, 1).argmax(0)
        stop, particle = place // particles, place % particles
        every = torch.arange(images, device=place.device)
        chosen = []
        for t in range(1, len(self.strokes)):
            sites = {}
            for name in self.strokes[t][t - 1]:
                later = [drawn[t - 1][name] for drawn in self.strokes[t:]]
                where = (stop - t).clamp(min=0), particle, every
                columns = zip(*later, strict=True)
                sites[name] = Proposed(*(torch.stack(column)[where] for column in columns))
            chosen.append(sites)
        return chosen, stop

    def log_p(self) -> Float[Tensor, "images"]:
        """log of the unbiased estimate of p(x): a lower bound in expectation."""
        particles = self.log_weight.shape[1]
        return torch.logsumexp(self.log_weight, dim=(0, 1)) - math.log(particles)

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


def effective_samples(log_weight: Float[Tensor, "samples *batch"]) -> Float[Tensor, "*batch"]:
    """(Σw)² / Σw² over the first dimension."""
    doubled = 2 * torch.logsumexp(log_weight, 0) - torch.logsumexp(2 * log_weight, 0)
    return doubled.exp()


@torch.no_grad()
def smc(
    model: Any,
    guide: SequentialGuide[Any],
    images: Images,
    particles: int = 200,
    threshold: float = 0.5,
) -> Particles:
    """Run ``particles`` particles over the strokes of each image; images are independent.

    Args:
        threshold: an image's particles are resampled where their effective number falls below
            this share of them.
    """
    batch = as_batch(images)
    count, image = len(batch), batch.pixels
    started = guide.initial_state(batch)
    blank = guide.model_state(started)
    scale = model.likelihood_scale()
    weight = image.new_zeros(particles, count)
    prior = torch.zeros_like(weight)
    likelihood = model.log_likelihood(image, blank.canvas, scale).expand(particles, count)
    contributions: list[Tensor] = []
    joints: list[Tensor] = []
    drawn: list[dict[str, Proposed]] = []
    strokes: list[list[dict[str, Proposed]]] = [[]]
    state = started

    def spread(leaf: Tensor, like: Tensor) -> Tensor:
        """Expand to every particle; ``like``, of the initial state, has no dimension of particles.
        Other sizes may differ: a state that remembers strokes grows by each."""
        return leaf.expand(particles, count, *leaf.shape[leaf.dim() - like.dim() + 1 :])

    for t in range(1, model.config.max_strokes + 1):
        before = guide.model_state(state)
        with ExitStack() as contexts:
            contexts.enter_context(pyro.plate(PARTICLES, particles, dim=-2))
            contexts.enter_context(pyro.plate(IMAGES, count, dim=-1))
            with AllOnMessenger():
                traced: Any = poutine.trace(guide.step)
                q_trace = traced.get_trace(t, state, image)
            state = q_trace.nodes["_RETURN"]["value"]
            replayed: Any = poutine.trace(poutine.replay(model.step, trace=q_trace))
            p_trace = replayed.get_trace(t, before, guide.model_state(state))
        on = bernoulli_logits(p_trace.nodes[on_site(t)]).expand(particles, count)
        ends = F.logsigmoid(-on) + likelihood
        contributions.append(weight + ends)
        joints.append(prior + ends)
        log_p, log_q, sites = torch.zeros_like(weight), torch.zeros_like(weight), {}
        for name, _ in latent_sites(q_trace.stochastic_nodes, t):
            q, value = q_trace.nodes[name]["fn"], q_trace.nodes[name]["value"]
            log_p = log_p + p_trace.nodes[name]["fn"].log_prob(value)
            log_q = log_q + q.log_prob(value)
            value = value.expand(particles, count, *q.event_shape)
            try:
                sites[name] = Proposed(value, q.stddev.expand_as(value))
            except NotImplementedError:
                raise UserError(
                    f"{name} of the guide is a {type(q).__name__}, which has no standard deviation to "
                    "tell: it cannot propose to smc"
                ) from None
        goes_on = F.logsigmoid(on) + log_p
        weight, prior = weight + goes_on - log_q, prior + goes_on
        state = _map(state, spread, started)
        drawn = [*drawn, sites]
        likelihood = model.log_likelihood(image, guide.model_state(state).canvas, scale)
        if t < model.config.max_strokes:
            ahead = weight + likelihood
            ancestors, resampled = _ancestors(ahead, threshold)
            prior, likelihood, weight, state, drawn = _map(
                (prior, likelihood, weight, state, drawn), _taking(ancestors)
            )
            mean = torch.logsumexp(ahead, 0) - math.log(particles)
            weight = torch.where(resampled, mean - likelihood, weight)
        strokes.append(drawn)
    contributions.append(weight + likelihood)
    joints.append(prior + likelihood)
    return Particles(torch.stack(contributions), torch.stack(joints), strokes)


def _ancestors(log_weight: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Ancestors, by systematic resampling where few particles carry the weight, else each particle's
    own; and which images were resampled.

    Resampling may happen to leave each particle its own ancestor; their weights are equal all the same.
    """
    particles = log_weight.shape[0]
    few = effective_samples(log_weight) < threshold * particles
    own = torch.arange(particles, device=log_weight.device)[:, None].expand_as(log_weight)
    return torch.where(few, systematic(log_weight), own), few


def _taking(ancestors: Int[Tensor, "particles images"]) -> Callable[[Tensor, Any], Tensor]:
    images = torch.arange(ancestors.shape[1], device=ancestors.device)

    def take(leaf: Tensor, _: Any) -> Tensor:
        return leaf[ancestors, images]

    return take


def _map(
    tree: Any,
    change: Callable[[Tensor, Any], Tensor],
    template: Any = None,
    done: dict[int, Any] | None = None,
) -> Any:
    """Change every tensor of a tree of (named) tuples, lists and dictionaries, given its counterpart in
    ``template``; what stands in the tree twice is changed once and stays one object. Anything else
    stays as it is."""
    done = {} if done is None else done
    if id(tree) in done:
        return done[id(tree)]
    if isinstance(tree, Tensor):
        made: Any = change(tree, template)
    elif isinstance(tree, dict):
        given = template or dict.fromkeys(tree)
        made = {name: _map(each, change, given[name], done) for name, each in tree.items()}
    elif not isinstance(tree, list | tuple):
        made = tree
    else:
        like = [None] * len(tree) if template is None else template
        parts = [_map(each, change, its, done) for each, its in zip(tree, like, strict=True)]
        made = type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    done[id(tree)] = made
    return made
