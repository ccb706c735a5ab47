"""Sequential Monte Carlo: its estimate has p(x) as its expectation, and beats independent samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from dood_pyro.config import ModelConfig
from dood_pyro.errors import UserError
from dood_pyro.guides import check_guide
from dood_pyro.guides.air import AIRGuide
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.guides.base import SequentialGuide
from dood_pyro.images import ImageBatch
from dood_pyro.inference.guide_parses import parse
from dood_pyro.inference.importance import bound_of, importance_bound
from dood_pyro.inference.search.mean_field import MeanFieldGuide
from dood_pyro.inference.search.smc import SMCGuide
from dood_pyro.inference.smc import _map, smc, systematic
from dood_pyro.models.air import DifferenceAIR
from dood_pyro.models.base import DrawingModel
from dood_pyro.models.dood import DooD
from dood_pyro.run_folders.run import make_search_guide
from tests.conftest import TINY


class Sum(NamedTuple):
    ink: Tensor
    alive: Tensor

    @property
    def canvas(self) -> Tensor:
        """Ink does not saturate here."""
        return self.ink


class Sums(DrawingModel[Sum]):
    """``layout_t`` ~ N(0, 1) adds itself to a picture of one pixel while ``on``; noise N(0, 1)."""

    def __init__(self, noise: float = 1.0, on: Sequence[float] = (0.7, 0.4, 0.6)) -> None:
        super().__init__(ModelConfig(max_strokes=3, likelihood="gaussian"))
        self.noise, self.on = noise, on
        self.double()

    def likelihood_scale(self) -> Tensor:
        return torch.tensor(self.noise).double()

    def initial_state(self, count: int, native_size: int = 0) -> Sum:
        return Sum(torch.zeros(count, 1, 1).double(), torch.ones(count).double())

    def add(self, t: int, state: Sum, on: Tensor, layout: dist.TorchDistribution) -> Sum:
        logits = torch.logit(on.double()).expand(state.alive.shape)
        value = pyro.sample(f"on_{t}", dist.Bernoulli(logits=logits).mask(state.alive > 0))
        alive = state.alive * value
        moved = pyro.sample(f"layout_{t}", layout.mask(alive > 0))
        canvas = state.canvas + (alive * moved)[..., None, None]
        return Sum(canvas, alive)

    def step(self, t: int, state: Sum, after: Sum | None = None) -> Sum:
        zero = torch.zeros(state.alive.shape).double()
        return self.add(t, state, torch.tensor(self.on[t - 1]), dist.Normal(zero, 1.0))

    def log_marginal(self, image: Tensor) -> Tensor:
        terms, goes_on = [], 1.0
        for k in range(4):
            stops = 1 - self.on[k] if k < 3 else 1.0
            normal = dist.Normal(0.0, math.sqrt(1 + k))
            terms.append(math.log(goes_on * stops) + normal.log_prob(image[:, 0, 0]))
            goes_on *= self.on[k] if k < 3 else 1.0
        return torch.logsumexp(torch.stack(terms), 0)


class SumsGuide(SequentialGuide[Sum]):
    """Not the posterior: a share of what is left, too narrow."""

    def initial_state(self, images: ImageBatch) -> Sum:
        first: Sum = self.model.initial_state(len(images), images.native_size)
        return first

    def step(self, t: int, state: Sum, image: Tensor) -> Sum:
        left = (image - state.canvas)[..., 0, 0]
        model = self.model
        assert isinstance(model, Sums)
        return model.add(t, state, torch.tensor(0.5), dist.Normal(0.3 * left, 0.9))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.1])
def test_the_estimate_has_the_marginal_likelihood_as_its_expectation(threshold: float) -> None:
    """Never, at times and always resampling."""
    model = Sums()
    guide = SumsGuide(model)
    image = torch.tensor([-1.5, 0.2, 2.5]).double()[:, None, None]
    repeats = 20_000
    torch.manual_seed(0)
    found = smc(model, guide, image.repeat(repeats, 1, 1), particles=4, threshold=threshold)
    estimate = found.log_p().exp().reshape(repeats, 3)
    truth = model.log_marginal(image).exp()
    error = estimate.std(0) / repeats**0.5
    assert ((estimate.mean(0) - truth).abs() < 4 * error).all()
    assert (error < 0.02 * truth).all()
    assert (found.log_p().reshape(repeats, 3).mean(0) < truth.log()).all()


def test_resampling_beats_independent_samples(images: Tensor) -> None:
    torch.manual_seed(0)
    model = DooD(TINY)
    guide = AmortisedGuide(model)
    torch.manual_seed(0)
    pairs = [
        (
            importance_bound(model, guide, images, particles=100).log_p_summed,
            smc(model, guide, images, particles=100).log_p(),
        )
        for _ in range(8)
    ]
    plain, resampled = (torch.stack(column).mean(0) for column in zip(*pairs, strict=True))
    assert (resampled > plain - 1).all() and resampled.mean() > plain.mean() + 1


def test_systematic_resampling_gives_each_its_share() -> None:
    torch.manual_seed(0)
    log_weight = torch.randn(10, 6) * 2
    offspring = torch.zeros(10, 6)
    for _ in range(500):
        ancestors = systematic(log_weight)
        counts = torch.stack([torch.bincount(column, minlength=10) for column in ancestors.T], 1)
        share = 10 * log_weight.softmax(0)
        assert ((counts - share).abs() < 1 + 1e-4).all()
        offspring += counts / 500
    torch.testing.assert_close(offspring, share, atol=0.1, rtol=0)


@pytest.mark.parametrize("model_class", [DooD, DifferenceAIR])
def test_as_a_guide(model_class: type[DooD] | type[DifferenceAIR], images: Tensor) -> None:
    torch.manual_seed(0)
    model = model_class(TINY)
    guide = AmortisedGuide(model) if isinstance(model, DooD) else AIRGuide(model)
    found = make_search_guide("smc", model, guide)
    assert isinstance(found, SMCGuide)
    check_guide(model, found)
    bound, plain = (bound_of(model, each, images, 50) for each in (found, guide))
    assert bound.log_p.mean() > plain.log_p.mean()
    finite = {name: bool(column.isfinite().all()) for name, column in bound._asdict().items()}
    assert [name for name, whole in finite.items() if not whole] == ["effective_samples"]
    error = [
        (parse(model, each, images).canvas[-1] - images).abs().mean() for each in (guide, found)
    ]
    assert error[1] < error[0]


def test_best_is_a_drawing_that_explains_the_image() -> None:
    """Its strokes belong together: put together they make the picture, as few others do."""
    torch.manual_seed(0)
    model = Sums(noise=0.05, on=(0.9, 0.9, 0.7))
    guide = SumsGuide(model)
    image = torch.randn(50, 1, 1).double()
    found = smc(model, guide, image, particles=100)
    best, stop = found.best()
    assert set(stop.tolist()) >= {1, 2, 3}
    drawn = torch.stack([sites[f"layout_{t}"].value for t, sites in enumerate(best, start=1)])
    every = torch.arange(1, 4)[:, None]
    errors = ((drawn * (every <= stop)).sum(0) - image[:, 0, 0]).abs()
    assert errors.median() < 0.05 and errors.max() < 0.3
    # What it says of their probability is theirs.
    first = torch.where(every <= stop, dist.Normal(0.0, 1.0).log_prob(drawn), 0.0).sum(0)
    on = torch.tensor([*model.on, 0.0]).double()
    ends = on[:3].log().cumsum(0)
    ends = torch.cat([torch.zeros(1), ends])[stop] + torch.log1p(-on)[stop]
    likelihood = dist.Normal(0.0, 0.05).log_prob(errors)
    highest = found.log_joint.flatten(0, 1).amax(0)
    torch.testing.assert_close(highest, first + ends + likelihood, rtol=1e-4, atol=1e-4)


def test_what_the_guide_rendered_is_not_rendered_again(images: Tensor) -> None:
    model = DooD(TINY)
    guide = AmortisedGuide(model)
    calls = {"step_inputs": 0, "draw": 0}

    def counted(name: str) -> Callable[..., Any]:
        method = getattr(model, name)

        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return method(*arguments)

        return call

    for name in calls:
        setattr(model, name, counted(name))
    smc(model, guide, images, particles=5)
    assert calls == {"step_inputs": TINY.max_strokes, "draw": TINY.max_strokes}


def test_a_guide_that_goes_otherwise_is_refused(images: Tensor) -> None:
    model = DooD(TINY)
    with pytest.raises(UserError, match="step by step"):
        make_search_guide("smc", model, MeanFieldGuide({}))


def test_states_may_hold_anything() -> None:
    tree = {"hidden": torch.zeros(2), "step": 3, "more": [None, torch.ones(2)]}
    made = _map(tree, lambda leaf, like: leaf + like, tree)
    assert made["step"] == 3 and made["more"][0] is None
    assert torch.equal(made["more"][1], torch.full((2,), 2.0))
    assert torch.equal(_map(tree, lambda leaf, _: leaf + 1)["hidden"], torch.ones(2))
