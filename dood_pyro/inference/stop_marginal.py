"""The stop variable marginalised: the bound of equation 9 summed exactly over numbers of strokes.
Used by estimators, bounds on log p(x), searches and the log of training.

With every on_t = 1, one pass draws all K strokes, and the canvas after each is at hand. For
k = 0…K strokes let q_k = Π_{t≤k} q(on_t = 1) · [1 − q(on_{k+1} = 1)], the bracket left out at k = K,
and p_k likewise. Then

    ELBO = Σ_k q_k { log p(x | canvas_k) + Σ_{t≤k} log p/q of (layout, stroke, pen)_t }
           − Σ_k q_k (log q_k − log p_k),

which needs no score function, and

    w = Σ_k p_k p(x | canvas_k) Π_{t≤k} p/q of (layout, stroke, pen)_t

is a weight whose mean has expectation p(x).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from dood_pyro.guides.base import Guide, SequentialGuide
from dood_pyro.images import ImageBatch, Images, as_batch
from dood_pyro.inference.guide_parses import tells_all
from dood_pyro.inference.messengers import AllOnMessenger, bernoulli_logits
from dood_pyro.inference.traces import stroke_traces
from dood_pyro.models.base import DrawingModel
from dood_pyro.models.sites import canvas_site, latent_sites, on_site
from dood_pyro.schedules import Step


class ElboTerms(NamedTuple):
    """The bound (β = 1) and its parts, nats per image, averaged over a batch; on its device."""

    elbo: Float[Tensor, ""]
    log_likelihood: Float[Tensor, ""]
    kl_strokes: Float[Tensor, ""]
    """KL of layouts, strokes and pens."""
    kl_stop: Float[Tensor, ""]
    """KL of the stop variable."""
    strokes: Float[Tensor, ""]
    """Strokes per drawing."""


class StopMarginalTerms(NamedTuple):
    """Terms of one pass that draws every stroke, for each number of strokes k = 0…K, in nats."""

    log_q: Float[Tensor, "stops *batch"]
    """log q_k"""
    log_p: Float[Tensor, "stops *batch"]
    """log p_k"""
    log_likelihood: Float[Tensor, "stops *batch"]
    """log p(x | canvas_k)"""
    log_ratio: Float[Tensor, "stops *batch"]
    """Σ_{t≤k} log p/q of the latent variables of step t other than on_t"""

    def by_particle(self) -> StopMarginalTerms:
        """The terms with a dimension of particles, (stops, particles, images), if need be of one."""
        if self.log_q.ndim > 2:
            return self
        return StopMarginalTerms(*(term[:, None] for term in self))

    def elbo(self) -> Float[Tensor, "*batch"]:
        """The bound with the stop variable marginalised, β = 1."""
        inner = self.log_likelihood + self.log_ratio - self.log_q + self.log_p
        return (self.log_q.exp() * inner).sum(0)

    def log_weight(self) -> Float[Tensor, "*batch"]:
        """log w of the module's docstring; q(on) plays no part in it."""
        return torch.logsumexp(self.log_p + self.log_likelihood + self.log_ratio, dim=0)

    def averages(self) -> ElboTerms:
        """The bound and its parts, averaged over the batch."""
        q = self.log_q.exp()
        stops = torch.arange(q.shape[0], dtype=q.dtype, device=q.device)
        return ElboTerms(
            elbo=self.elbo().mean().detach(),
            log_likelihood=(q * self.log_likelihood).sum(0).mean().detach(),
            kl_strokes=-(q * self.log_ratio).sum(0).mean().detach(),
            kl_stop=(q * (self.log_q - self.log_p)).sum(0).mean().detach(),
            strokes=torch.tensordot(stops, q, 1).mean().detach(),
        )


def stop_log_probs(logits: Float[Tensor, "steps *batch"]) -> Float[Tensor, "stops *batch"]:
    """Log-probabilities of k = 0…K strokes, given the logits of on_1…on_K."""
    goes_on = F.logsigmoid(logits).cumsum(0)
    start = torch.zeros_like(goes_on[:1])
    stops = torch.cat([F.logsigmoid(-logits), start])
    return torch.cat([start, goes_on]) + stops


def mix_uniform(q: Float[Tensor, "stops *batch"], share: Step) -> Float[Tensor, "stops *batch"]:
    """The stops' probabilities with ``share`` of a uniform distribution mixed in."""
    return (1 - share) * q + share / q.shape[0]


def objective(
    terms: StopMarginalTerms,
    beta: float = 1.0,
    exploration: Step = 0.0,
    beta_on: Literal["all", "stop"] = "all",
) -> Float[Tensor, "*batch"]:
    """Objective of training, nats per image.

    With sg[·] passing no gradient on, ε the ``exploration`` and R_k the ``log_ratio`` of k strokes,
    strokes ascend

        Σ_k sg[(1 − ε) q_k + ε / (K + 1)] (log p(x | canvas_k) + R_k),

    and the stop variable, which weighs by β what its strokes cost and what it costs itself,

        Σ_k q_k sg[log p(x | canvas_k) + β R_k] − β Σ_k q_k (log q_k − log p_k).

    In the latter's bracket β is 1 where ``beta_on`` is ``"stop"``.

    The value is the first less the last term: the bound, where β = 1 and nothing is explored. The
    likelihood's scale ascends the first sum with ε = 0, if the terms were collected so
    (`collect_terms`).
    """
    log_q, log_p, log_likelihood, log_ratio = terms
    q = log_q.exp()
    weights = mix_uniform(q.detach(), exploration)
    strokes = (weights * (log_likelihood + log_ratio)).sum(0)
    gains = (log_likelihood + (beta if beta_on == "all" else 1.0) * log_ratio).detach()
    stop = (q * (gains - beta * (log_q - log_p))).sum(0)
    return strokes + stop - (q * gains).sum(0).detach()


def stop_marginal_terms(
    model: Any, guide: Any, images: Images, particles: int = 1, explore: Step = 0.0
) -> StopMarginalTerms:
    """Terms of one pass that draws every stroke of ``images``, or of ``particles`` passes.

    Batch shape of the terms: (images,), or (particles, images) for more than one. ``explore`` is for
    `collect_terms`.
    """
    if particles == 1 and strokes_are_all(model, guide):
        return _terms_of_strokes(model, guide_strokes(model, guide, images), explore)
    p_trace, q_trace = stroke_traces(model, guide, images, particles)
    return collect_terms(model, images, p_trace, q_trace, explore)[0]


def at_step(trace: Any, drawn: Any, step: int) -> tuple[Float[Tensor, "*batch"], Tensor]:
    """Logit of ``on_t`` in a trace, and the log-density there of step t's other latent variables.

    Args:
        drawn: the trace whose values they have.
    """
    logit = bernoulli_logits(trace.nodes[on_site(step)])
    log_density = torch.zeros_like(logit)
    for name, _ in latent_sites(drawn.nodes, step):
        log_density = log_density + trace.nodes[name]["fn"].log_prob(drawn.nodes[name]["value"])
    return logit, log_density


def sums_to_stops(of_steps: Float[Tensor, "steps *batch"]) -> Float[Tensor, "stops *batch"]:
    """Sums over the first k steps, k = 0…K."""
    summed = of_steps.cumsum(0)
    return torch.cat([torch.zeros_like(summed[:1]), summed])


def collect_terms(
    model: Any, images: Images, p_trace: Any, q_trace: Any, explore: Step = 0.0
) -> tuple[StopMarginalTerms, Float[Tensor, "stops *batch"], Float[Tensor, "stops *batch"]]:
    """The terms of two traces of `stroke_traces`, and Σ_{t≤k} log p and Σ_{t≤k} log q, whose
    difference is ``log_ratio``, by themselves.

    Args:
        explore: share of the uniform distribution (`mix_uniform`) in the weights that the likelihoods
            will be given, where the likelihood's scale is to learn as if they were weighed by q_k: its
            gradient is made up for that.
    """
    batch = as_batch(images)
    blank = model.initial_state(len(batch), batch.native_size).canvas
    logits: list[tuple[Tensor, Tensor]] = []
    log_p, log_q, canvases = [], [], [blank]
    step = 1
    while on_site(step) in p_trace.nodes:
        (p_on, of_p), (q_on, of_q) = (at_step(each, q_trace, step) for each in (p_trace, q_trace))
        logits.append((p_on, q_on))
        log_p.append(of_p)
        log_q.append(of_q)
        canvases.append(p_trace.nodes[canvas_site(step)]["value"])
        step += 1
    shape = torch.broadcast_shapes(*(term.shape for term in (*log_p, *log_q)))

    def sums(columns: list[Tensor]) -> Tensor:
        return sums_to_stops(torch.stack([column.expand(shape) for column in columns]))

    p_stop, q_stop = (
        stop_log_probs(torch.stack([logit.expand(shape) for logit in column]))
        for column in zip(*logits, strict=True)
    )
    log_likelihood = _log_likelihoods(model, batch, canvases, q_stop, explore, shape)
    log_p_sum, log_q_sum = sums(log_p), sums(log_q)
    ratio = sums([of_p - of_q for of_p, of_q in zip(log_p, log_q, strict=True)])
    return StopMarginalTerms(q_stop, p_stop, log_likelihood, ratio), log_p_sum, log_q_sum


def _log_likelihoods(
    model: Any,
    batch: ImageBatch,
    canvases: Sequence[Tensor],
    q_stop: Tensor,
    explore: Step,
    shape: torch.Size,
) -> Float[Tensor, "stops *batch"]:
    """log p(x | canvas_k); ``explore`` is for `collect_terms`."""
    scale = model.likelihood_scale()
    scales = [scale] * len(canvases)
    if isinstance(explore, Tensor) or explore:
        q = q_stop.detach().exp()
        # The same values, with as much of the gradient as there is drawn among what is explored.
        scales = [
            scale.detach() + share * (scale - scale.detach())
            for share in q / mix_uniform(q, explore)
        ]
    return torch.stack(
        [
            model.log_likelihood(batch.pixels, canvas, its_scale).expand(shape)
            for canvas, its_scale in zip(canvases, scales, strict=True)
        ]
    )


class GuideStrokes(NamedTuple):
    """What a guide draws for images, every step drawn."""

    images: ImageBatch
    values: dict[str, Float[Tensor, "steps batch *event"]]
    """Latent variables but ``on_t``, by the kind of their site."""
    q_logits: Float[Tensor, "steps batch"]
    """Logits of q(on_t)."""
    log_q: Float[Tensor, "steps batch"]
    """log q of ``values``."""
    canvases: Sequence[Float[Tensor, "batch size size"]]
    """After 0…K strokes."""


def strokes_are_all(model: Any, guide: Any) -> bool:
    """Whether a guide's strokes tell all terms but the prior's, and the prior follows from strokes
    alone: the model's program need not be run."""
    return (
        isinstance(model, DrawingModel)
        and model.prior_is_of_strokes(model.config)
        and isinstance(guide, SequentialGuide)
        and tells_all(guide, model)
    )


def guide_strokes(model: DrawingModel[Any], guide: Guide, images: Images) -> GuideStrokes:
    """Sample a guide with every ``on_t`` forced to 1, where `strokes_are_all`."""
    with AllOnMessenger():
        trace: Any = poutine.trace(guide).get_trace(images)
    canvases = [state.canvas for state in trace.nodes["_RETURN"]["value"].states]
    values: dict[str, list[Tensor]] = {}
    steps = range(1, len(canvases))
    for step in steps:
        for name, site in latent_sites(trace.nodes, step):
            values.setdefault(site.kind, []).append(trace.nodes[name]["value"])
    logits, log_q = zip(*(at_step(trace, trace, step) for step in steps), strict=True)
    return GuideStrokes(
        as_batch(images),
        {kind: torch.stack(column) for kind, column in values.items()},
        torch.stack(logits),
        torch.stack(log_q),
        canvases,
    )


def _terms_of_strokes(
    model: DrawingModel[Any], drawn: GuideStrokes, explore: Step
) -> StopMarginalTerms:
    """The terms of what a guide draws."""
    logits, log_p = model.prior_of(drawn.values)
    q_stop, shape = stop_log_probs(drawn.q_logits), drawn.log_q.shape[1:]
    likelihoods = _log_likelihoods(model, drawn.images, drawn.canvases, q_stop, explore, shape)
    ratio = sums_to_stops(log_p - drawn.log_q)
    return StopMarginalTerms(q_stop, stop_log_probs(logits), likelihoods, ratio)
