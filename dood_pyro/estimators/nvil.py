"""The paper's estimator: score function for the stop variable with learned baselines (section 2.3).
Trainings choose it by the name ``nvil``.

NVIL (Mnih and Gregor 2014) over Pyro's ``TraceGraph_ELBO``: each ``on_t`` is charged with the costs
that come after it, less a learned baseline; the rest, the learning signal, is centred by its
running mean and divided by its running standard deviation where that exceeds one nat. That is NVIL's
algorithm 1, which the paper names; the paper's own text does not say which of these steps it takes.

Centring changes no expectation: the mean is of earlier batches. Division does: the gradient of every
``on_t`` is scaled by another number, so that only the unnormalised form (``normalise=False``) agrees
in expectation with the gradient of the bound, as the exact sum over stops gives it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pyro.distributions import MaskedDistribution
from pyro.infer import TraceGraph_ELBO
from pyro.infer.tracegraph_elbo import TrackNonReparam
from pyro.infer.util import MultiFrameTensor, is_validation_enabled
from pyro.ops.provenance import detach_provenance, get_provenance
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match
from torch import Tensor, nn

from dood_pyro.config import TrainConfig
from dood_pyro.errors import UserError
from dood_pyro.estimators.base import Estimator, Loss
from dood_pyro.images import Images
from dood_pyro.inference.messengers import StopBoundsMessenger
from dood_pyro.inference.stop_marginal import ElboTerms
from dood_pyro.inference.traces import model_and_guide_traces
from dood_pyro.models.sites import IMAGE, is_on, on_site
from dood_pyro.schedules import Step, falling

MAX_ON_PROBABILITY = 0.95
"""Highest probability of going on, in training: a stop that is never drawn is never learned."""
FIRST_MIN_ON_PROBABILITY = 0.8
"""Lowest probability of going on, at the first step."""


class NVIL(Estimator):
    """The score function for the stop variable, with β, learned baselines and normalised signals.

    Args:
        beta, beta_on: as for `dood_pyro.estimators.stop_marginal.StopMarginalELBO`: the stop variable
            weighs its own KL, and that of the strokes it lets through unless β is on ``"stop"``, by β.
        normalise: whether signals are centred and divided by their running standard deviation.
            Baselines (``infer={"baseline": {"nn_baseline": …, "nn_baseline_input": …}}`` at a guide's
            ``on_t``) predict in units of the cost's running moments either way, one number per
            drawing.
        max_strokes: K.
        hold_steps: for how many steps the lower bound of q(on_t) falls from 0.8 to 0; started cold,
            the estimator stops drawing before it has learned to draw. The upper bound is
            `MAX_ON_PROBABILITY`. 0: there are no bounds.
    """

    capturable: ClassVar[bool] = True
    bounds_one_sample: ClassVar[bool] = True
    trains_baselines: ClassVar[bool] = True
    shares_batches: ClassVar[bool] = False  # running moments are of whole batches
    settings_without_effect: ClassVar[tuple[str, ...]] = (
        "explore_steps",
        "explore_always",
        "scale_learns",
    )

    def __init__(
        self,
        beta: float = 1.0,
        normalise: bool = True,
        max_strokes: int = 64,
        hold_steps: int = 0,
        beta_on: Literal["all", "stop"] = "all",
    ) -> None:
        super().__init__()
        self.hold_steps = hold_steps
        names = [on_site(t) for t in range(1, max_strokes + 1)]
        self.moments = nn.ModuleDict(
            {name: nn.ModuleDict({"cost": _Moments(), "signal": _Moments()}) for name in names}
        )
        self.elbo = NVILELBO(self.moments, beta, normalise, beta_on)

    @classmethod
    def from_config(cls, config: TrainConfig, max_strokes: int) -> Estimator:
        """A run that starts from trained weights draws already."""
        hold = 0 if config.init_from else config.hold_steps
        return cls(config.beta, config.normalise, max_strokes, hold, config.beta_on)

    def loss(self, model: Any, guide: Any, images: Images, step: Step) -> Loss:
        """Minus a surrogate, summed over images, whose gradient is the estimate."""
        if self.hold_steps:
            low = FIRST_MIN_ON_PROBABILITY * falling(step, self.hold_steps)
            guide = StopBoundsMessenger(low, MAX_ON_PROBABILITY)(guide)
        (traces,) = self.elbo._get_traces(model, guide, (images,), {})
        _, surrogate_loss = self.elbo._loss_and_surrogate_loss_particle(*traces)
        return surrogate_loss, _terms(*traces)


class NVILELBO(TraceGraph_ELBO):
    """``TraceGraph_ELBO`` with the costs, baselines and signals of `NVIL`.

    Args:
        moments: running moments of costs and signals by ``on_t`` site.
        beta, normalise, beta_on: as for `NVIL`.
    """

    def __init__(
        self,
        moments: nn.ModuleDict,
        beta: float = 1.0,
        normalise: bool = True,
        beta_on: Literal["all", "stop"] = "all",
    ) -> None:
        super().__init__(max_plate_nesting=1)
        self.beta_on = beta_on
        self.moments, self.beta, self.normalise = moments, beta, normalise

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Pyro's own, but that the model takes over the guide's states."""
        with TrackNonReparam():
            model_trace, guide_trace = model_and_guide_traces(model, guide, *args)
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        model_trace, guide_trace = map(prune_subsample_sites, (model_trace, guide_trace))
        model_trace.compute_log_prob()
        guide_trace.compute_score_parts()
        return model_trace, guide_trace

    def _loss_and_surrogate_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        surrogate: Any = 0.0
        costs: dict[str, MultiFrameTensor] = defaultdict(MultiFrameTensor)

        def charge(site: dict[str, Any], sign: int) -> None:
            weighed = not site["is_observed"] and (self.beta_on == "all" or _is_stop(site))
            weight = self.beta if weighed else 1.0
            for name in get_provenance(site["log_prob_sum"]):
                cost = detach_provenance(site["log_prob"]).detach()
                costs[name].add((site["cond_indep_stack"], sign * weight * cost))

        for site in model_trace.nodes.values():
            if site["type"] == "sample":
                weight = self.beta if _is_stop(site) else 1.0
                surrogate = surrogate + weight * detach_provenance(site["log_prob_sum"])
                charge(site, +1)
        for site in guide_trace.nodes.values():
            if site["type"] == "sample":
                if not _is_stop(site):  # its own score has expectation 0
                    surrogate = surrogate - detach_provenance(site["log_prob_sum"])
                charge(site, -1)

        baseline_loss: Any = 0.0
        for name, frames in costs.items():
            site = guide_trace.nodes[name]
            signal, loss = self._signal(site, frames.sum_to(site["cond_indep_stack"]))
            score = detach_provenance(site["score_parts"].score_function)
            surrogate = surrogate + (score * signal).sum()
            baseline_loss = baseline_loss + loss
        return _terms(model_trace, guide_trace).elbo, baseline_loss - surrogate

    def _signal(self, site: dict[str, Any], cost: Tensor) -> tuple[Tensor, Tensor | float]:
        """Learning signal, which multiplies a site's score, and the loss of its baseline."""
        moments = self.moments.get_submodule(site["name"])
        assert isinstance(moments, nn.ModuleDict)
        # Pyro's sum leaves out plates of one.
        cost, mask = torch.broadcast_tensors(cost, _mask(site).to(cost))
        options = site["infer"].get("baseline")
        loss: Tensor | float = 0.0
        baseline: Tensor | float = 0.0
        if options is not None:
            predict: Callable[[Tensor], Tensor] = options["nn_baseline"]
            predicted = predict(detach_provenance(options["nn_baseline_input"]).detach())
            if predicted.shape != cost.shape:
                raise UserError(
                    f"the baseline of {site['name']} must give one number per drawing, of shape "
                    f"{tuple(cost.shape)}; it gives {tuple(predicted.shape)}"
                )
            units = moments["cost"]
            assert isinstance(units, _Moments)
            mean, std = units.before(cost, mask)
            units.update(cost, mask)
            baseline = mean + std * predicted.detach()
            loss = (mask * ((cost - mean) / std - predicted) ** 2).sum()
        signal = cost - baseline
        if self.normalise:
            running = moments["signal"]
            assert isinstance(running, _Moments)
            mean, std = running.before(signal, mask)
            running.update(signal, mask)
            signal = (signal - mean) / std
        return signal * mask, loss


class _Moments(nn.Module):
    """Running mean and variance of a signal in nats, kept with the weights of a run."""

    mean: Tensor
    variance: Tensor
    weight: Tensor

    DECAY = 0.95

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("weight", torch.zeros(()))

    @torch.no_grad()
    def update(self, values: Tensor, mask: Tensor) -> None:
        """Update with the values where ``mask`` is 1, unless there are none or one is not finite."""
        count = mask.sum()
        values = torch.where(mask > 0, values, torch.zeros_like(values))
        mean = values.sum() / count.clamp(min=1)
        variance = (mask * (values - mean) ** 2).sum() / count.clamp(min=1)
        usable = (count > 0) & torch.isfinite(mean) & torch.isfinite(variance)
        # The first batch counts fully, later ones by the decay.
        rate = torch.where(self.weight == 0, 1.0, 1 - self.DECAY)
        for buffer, value in ((self.mean, mean), (self.variance, variance)):
            buffer.copy_(torch.where(usable, buffer + rate * (value - buffer), buffer))
        self.weight.copy_(torch.where(usable, torch.ones_like(rate), self.weight))

    def before(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (at least one nat) before ``values``, so that no signal is
        normalised by itself; the moments of ``values`` where there are no earlier ones."""
        count = mask.sum().clamp(min=1)
        mean = (mask * values).sum() / count
        variance = (mask * (values - mean) ** 2).sum() / count
        new = self.weight == 0
        mean, variance = (
            torch.where(new, mean, self.mean),
            torch.where(new, variance, self.variance),
        )
        return mean, variance.sqrt().clamp(min=1.0)


def _is_stop(site: dict[str, Any]) -> bool:
    return is_on(str(site["name"]))


def _mask(site: dict[str, Any]) -> Tensor:
    """Mask of a site's distribution: 1 where the site counts."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        if isinstance(fn, MaskedDistribution):
            mask: Any = fn._mask
            return detach_provenance(mask)
        fn = fn.base_dist
    value: Tensor = detach_provenance(site["value"])
    return torch.ones_like(value)


def _terms(model_trace: Any, guide_trace: Any) -> ElboTerms:
    """The bound's parts, averaged over the images."""
    zero = detach_provenance(model_trace.nodes[IMAGE]["log_prob"]).detach()
    images = zero.numel()
    likelihood, strokes = zero.sum(), zero.new_zeros(())
    stop, drawn = torch.zeros_like(strokes), torch.zeros_like(strokes)
    for name, site in guide_trace.nodes.items():
        if site["type"] != "sample":
            continue
        log_p = detach_provenance(model_trace.nodes[name]["log_prob_sum"])
        cost = (detach_provenance(site["log_prob_sum"]) - log_p).detach()
        if _is_stop(site):
            stop = stop + cost
            drawn = drawn + (detach_provenance(site["value"]) * _mask(site)).sum()
        else:
            strokes = strokes + cost
    elbo = likelihood - strokes - stop
    return ElboTerms(*(part / images for part in (elbo, likelihood, strokes, stop, drawn)))
