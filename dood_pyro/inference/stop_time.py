"""The exact sum over stop times: the bound of equation 9 with on_1…on_K summed out.

With every on_t = 1, one pass draws all K strokes, and the picture after each is at hand. For
k = 0…K strokes let q_k = Π_{t≤k} q(on_t = 1) · [1 − q(on_{k+1} = 1)], the bracket left out at k = K,
and p_k likewise. Then

    ELBO = Σ_k q_k { log p(x | canvas_k) + Σ_{t≤k} log p/q of (layout, stroke, pen)_t }
           − Σ_k q_k (log q_k − log p_k),

which needs no score function, and

    w = Σ_k p_k p(x | canvas_k) Π_{t≤k} p/q of (layout, stroke, pen)_t

is a weight whose mean has expectation p(x).
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import pyro
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from dood_pyro.inference.report import Report
from dood_pyro.stepwise import sharing_states


class AlwaysOn(Messenger):
    """Forces every ``on_t`` to 1, unobserved, so that a program draws all its strokes."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"].startswith("on_"):
            msg["value"] = torch.ones_like(bernoulli_logits(msg)).expand(msg["fn"].batch_shape)
            msg["done"] = True


class StopTimeTerms(NamedTuple):
    """What one pass that draws every stroke says of each number of strokes k = 0…K, in nats."""

    log_q: Float[Tensor, "stops *batch"]
    """log q_k"""
    log_p: Float[Tensor, "stops *batch"]
    """log p_k"""
    log_likelihood: Float[Tensor, "stops *batch"]
    """log p(x | canvas_k)"""
    log_ratio: Float[Tensor, "stops *batch"]
    """Σ_{t≤k} log p/q of the latent variables of step t other than on_t"""

    def by_particle(self) -> StopTimeTerms:
        """With a dimension of particles, (stops, particles, images), though it be of one."""
        if self.log_q.ndim > 2:
            return self
        return StopTimeTerms(*(term[:, None] for term in self))

    def elbo(self) -> Float[Tensor, "*batch"]:
        """The bound with stops summed out, β = 1."""
        inner = self.log_likelihood + self.log_ratio - self.log_q + self.log_p
        return (self.log_q.exp() * inner).sum(0)

    def log_weight(self) -> Float[Tensor, "*batch"]:
        """log w of the module's docstring; q(on) plays no part in it."""
        return torch.logsumexp(self.log_p + self.log_likelihood + self.log_ratio, dim=0)

    def report(self) -> Report:
        """The bound and its parts, averaged over the batch."""
        q = self.log_q.exp()
        stops = torch.arange(q.shape[0], dtype=q.dtype, device=q.device)
        return Report(
            elbo=self.elbo().mean().detach(),
            log_likelihood=(q * self.log_likelihood).sum(0).mean().detach(),
            kl_strokes=-(q * self.log_ratio).sum(0).mean().detach(),
            kl_stop=(q * (self.log_q - self.log_p)).sum(0).mean().detach(),
            strokes=torch.tensordot(stops, q, 1).mean().detach(),
        )


def stop_log_probs(logits: Float[Tensor, "steps *batch"]) -> Float[Tensor, "stops *batch"]:
    """Logs of the probabilities of k = 0…K strokes, given the logits of on_1…on_K."""
    goes_on = F.logsigmoid(logits).cumsum(0)
    start = torch.zeros_like(goes_on[:1])
    stops = torch.cat([F.logsigmoid(-logits), start])
    return torch.cat([start, goes_on]) + stops


def stroke_traces(
    model: nn.Module, guide: nn.Module, image: Tensor, particles: int = 1
) -> tuple[poutine.Trace, poutine.Trace]:
    """Traces of the model and the guide with every ``on_t`` forced to 1."""
    with ExitStack() as contexts:
        contexts.enter_context(sharing_states())
        if particles > 1:
            contexts.enter_context(pyro.plate("particles", particles, dim=-2))
        # Around the guide alone: the model replays the very tensors that the guide's states are
        # shared by.
        with AlwaysOn():
            q_trace = poutine.trace(guide).get_trace(image)
        p_trace = poutine.trace(poutine.replay(model, trace=q_trace)).get_trace(image)
    return p_trace, q_trace


def explored(q: Float[Tensor, "stops *batch"], explore: float) -> Float[Tensor, "stops *batch"]:
    """The stops' probabilities with ``explore`` of a uniform distribution mixed in."""
    return (1 - explore) * q + explore / q.shape[0]


def stop_time_terms(
    model: nn.Module,
    guide: nn.Module,
    image: Float[Tensor, "images size size"],
    particles: int = 1,
    explore: float = 0.0,
) -> StopTimeTerms:
    """Draws every stroke of ``image`` once, or ``particles`` times, and collects the terms.

    Batch shape of the terms: (images,), or (particles, images) for more than one. ``explore`` is for
    `collect_terms`.
    """
    p_trace, q_trace = stroke_traces(model, guide, image, particles)
    return collect_terms(model, image, p_trace, q_trace, explore)[0]


def collect_terms(
    model: nn.Module,
    image: Tensor,
    p_trace: poutine.Trace,
    q_trace: poutine.Trace,
    explore: float = 0.0,
) -> tuple[StopTimeTerms, Float[Tensor, "stops *batch"], Float[Tensor, "stops *batch"]]:
    """The terms of two traces of `stroke_traces`, and Σ_{t≤k} log p and Σ_{t≤k} log q, whose
    difference is ``log_ratio``, by themselves.

    Args:
        explore: of whoever weighs the likelihoods by `explored` probabilities, if the likelihood's
            scale is to learn as if they were weighed by q_k: its gradient is made up for that.
    """
    blank = model.initial_state(image.shape[-3]).canvas  # type: ignore[operator]
    logits: list[tuple[Tensor, Tensor]] = []
    log_p, log_q, canvases = [], [], [blank]
    step = 1
    while f"on_{step}" in p_trace.nodes:
        p_on, q_on = (bernoulli_logits(each.nodes[f"on_{step}"]) for each in (p_trace, q_trace))
        logits.append((p_on, q_on))
        of_p, of_q = torch.zeros_like(q_on), torch.zeros_like(q_on)
        for name, q_site in q_trace.nodes.items():
            if name.endswith(f"_{step}") and not name.startswith("on_"):
                p: Any = p_trace.nodes[name]["fn"]
                q: Any = q_site["fn"]
                of_p = of_p + p.log_prob(q_site["value"])
                of_q = of_q + q.log_prob(q_site["value"])
        log_p.append(of_p)
        log_q.append(of_q)
        canvases.append(p_trace.nodes[f"canvas_{step}"]["value"])
        step += 1
    batch = torch.broadcast_shapes(*(term.shape for term in (*log_p, *log_q)))

    def sums(columns: list[Tensor]) -> Tensor:
        summed = torch.stack([column.expand(batch) for column in columns]).cumsum(0)
        return torch.cat([torch.zeros_like(summed[:1]), summed])

    stops = [
        stop_log_probs(torch.stack([logit.expand(batch) for logit in column]))
        for column in zip(*logits, strict=True)
    ]
    scale = model.likelihood_scale()  # type: ignore[operator]
    scales = [scale] * len(canvases)
    if explore:
        q = stops[1].detach().exp()
        # The same values, with as much of the gradient as there is drawn among what is explored.
        scales = [
            scale.detach() + share * (scale - scale.detach()) for share in q / explored(q, explore)
        ]
    log_likelihood = torch.stack(
        [
            model.log_likelihood(image, canvas, its_scale).expand(batch)  # type: ignore[operator]
            for canvas, its_scale in zip(canvases, scales, strict=True)
        ]
    )
    log_p_sum, log_q_sum = sums(log_p), sums(log_q)
    ratio = sums([of_p - of_q for of_p, of_q in zip(log_p, log_q, strict=True)])
    terms = StopTimeTerms(stops[1], stops[0], log_likelihood, ratio)
    return terms, log_p_sum, log_q_sum


def bernoulli_logits(site: Any) -> Tensor:
    """Logits of a site's Bernoulli, whatever masks and plates have wrapped around it."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    logits: Tensor = fn.logits
    return logits


class StopTimeELBO:
    """The bound with the stop variable summed out, over any model and guide with ``on_t`` sites.

    Args:
        beta: β, the weight of everything that the stop variable pays for: it draws a stroke if
            that gains β times its cost in KL. Strokes themselves are trained with weight 1.
        explore_steps: for how many steps a uniform distribution is mixed into q_k where strokes
            are trained, at first half and half, so that each of them learns before the guide
            would draw it. A blank canvas is a strong optimum: cold, thin pens never leave it.
        explore_always: how much of it stays mixed in.
        scale_learns: whether the likelihood's scale learns from what would be ``drawn``, or from all
            that is ``explored``.
    """

    def __init__(
        self,
        beta: float = 1.0,
        explore_steps: int = 0,
        explore_always: float = 0.0,
        scale_learns: Literal["explored", "drawn"] = "drawn",
    ) -> None:
        self.beta = beta
        self.explore_steps = explore_steps
        self.explore_always = explore_always
        self.scale_learns = scale_learns
        self.explore = explore_always
        self.state = nn.Module()
        """Nothing to keep; `NVIL` keeps moments there."""
        self.report: Report | None = None

    def anneal(self, step: int, guide: nn.Module) -> None:
        """Sets what depends on the number of steps taken."""
        falling = 0.5 * max(0.0, 1 - step / self.explore_steps) if self.explore_steps else 0.0
        self.explore = max(falling, self.explore_always)

    def objective(self, terms: StopTimeTerms) -> Float[Tensor, "*batch"]:
        """What training ascends, in nats an image: with sg[·] passing no gradient on, ε ``explore``
        and R_k the ``log_ratio`` of k strokes, strokes ascend

            Σ_k sg[(1 − ε) q_k + ε / (K + 1)] (log p(x | canvas_k) + R_k),

        and the stop variable, which weighs by β what its strokes cost and what it costs itself,

            Σ_k q_k sg[log p(x | canvas_k) + β R_k] − β Σ_k q_k (log q_k − log p_k).

        The value is the first less the last term: the bound, where β = 1 and nothing is explored.
        The likelihood's scale ascends the first sum with ε = 0, if it learns from what is drawn.
        """
        log_q, log_p, log_likelihood, log_ratio = terms
        q = log_q.exp()
        weights = explored(q.detach(), self.explore)
        strokes = (weights * (log_likelihood + log_ratio)).sum(0)
        gains = (log_likelihood + self.beta * log_ratio).detach()
        stop = (q * (gains - self.beta * (log_q - log_p))).sum(0)
        return strokes + stop - (q * gains).sum(0).detach()

    def differentiable_loss(
        self, model: nn.Module, guide: nn.Module, image: Tensor
    ) -> Float[Tensor, ""]:
        """Minus the objective summed over images; its parts are left in ``report``."""
        explore = self.explore if self.scale_learns == "drawn" else 0.0
        terms = stop_time_terms(model, guide, image, explore=explore)
        self.report = terms.report()
        return -self.objective(terms).sum()
