"""The importance-weighted bound where log p(x) is known, and what more samples do to it."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.guides.base import Guide
from dood_pyro.images import ImageBatch, Images, as_batch
from dood_pyro.inference import importance
from dood_pyro.inference.importance import ImportanceBound, bound_of, importance_bound, log_mean_exp
from dood_pyro.inference.stop_marginal import StopMarginalTerms, stop_marginal_terms
from dood_pyro.models.dood import DooD
from tests.conftest import TINY


class Linear(nn.Module):
    """A program with the sites of DooD whose marginal likelihood is known.

    ``layout_t`` ~ N(0, 1) adds itself to every pixel of a picture of one pixel, while ``on``; noise
    N(0, 1). So x | k strokes ~ N(0, 1 + k), and p(x) is a mixture over k.
    """

    strokes, on, noise = 2, (0.7, 0.4), 1.0

    class State:
        """What `stop_marginal_terms` asks of a first state."""

        def __init__(self, canvas: Tensor) -> None:
            self.canvas = canvas

    def initial_state(self, count: int, native_size: int = 0) -> Linear.State:
        return self.State(torch.zeros(count, 1, 1, dtype=torch.float64))

    def likelihood_scale(self) -> Tensor:
        return torch.tensor(self.noise, dtype=torch.float64)

    def log_likelihood(self, image: Tensor, canvas: Tensor, scale: Tensor) -> Tensor:
        return dist.Normal(canvas, scale).log_prob(image).sum((-1, -2))

    def forward(self, images: Images, proposal: tuple[float, float] | None = None) -> None:
        image = as_batch(images).pixels
        with pyro.plate("images", len(image), dim=-1):
            alive: Tensor = torch.ones(len(image), dtype=torch.float64)
            canvas = torch.zeros(len(image), 1, 1, dtype=torch.float64)
            for t in range(1, self.strokes + 1):
                on = torch.tensor(self.on[t - 1] if proposal is None else 0.5).double()
                logits = torch.logit(on).expand(len(image))
                value = pyro.sample(f"on_{t}", dist.Bernoulli(logits=logits).mask(alive > 0))
                alive = alive * value
                mean, std = (0.0, 1.0) if proposal is None else proposal
                centre = mean * image[:, 0, 0]
                layout = dist.Normal(centre, torch.full_like(centre, std)).mask(alive > 0)
                moved = pyro.sample(f"layout_{t}", layout)
                canvas = canvas + (alive * moved)[..., None, None]
                if proposal is None:
                    pyro.deterministic(f"canvas_{t}", canvas, event_dim=2)
            if proposal is None:
                pyro.sample("image", dist.Normal(canvas, self.noise).to_event(2), obs=image)

    def log_marginal(self, image: Tensor) -> Tensor:
        first, second = self.on
        weights = [1 - first, first * (1 - second), first * second]
        terms = [
            math.log(w) + dist.Normal(0.0, math.sqrt(1 + k)).log_prob(image[:, 0, 0])
            for k, w in enumerate(weights)
        ]
        return torch.logsumexp(torch.stack(terms), 0)


class Proposal(Guide):
    """A guide for `Linear` that is not its posterior."""

    def forward(self, images: Images) -> None:
        self.model(images, proposal=(0.3, 1.1))


@pytest.fixture
def linear() -> tuple[Linear, Proposal, Tensor]:
    model = Linear()
    return model, Proposal(model), torch.tensor([-1.5, 0.2, 2.5]).double()[:, None, None]


def test_approaches_the_marginal_likelihood(linear: tuple[Linear, Proposal, Tensor]) -> None:
    model, guide, image = linear
    torch.manual_seed(0)
    bound = importance_bound(model, guide, image, particles=40_000, chunk=3 * 20_000)
    torch.testing.assert_close(bound.log_p, model.log_marginal(image), atol=0.03, rtol=0)
    torch.testing.assert_close(bound.log_p_summed, model.log_marginal(image), atol=0.02, rtol=0)


def test_never_decreases_with_more_samples(linear: tuple[Linear, Proposal, Tensor]) -> None:
    """In expectation: means over many repetitions, which differ by far more than their errors."""
    model, guide, image = linear
    torch.manual_seed(0)
    many = image.repeat(4000, 1, 1)
    truth = model.log_marginal(image)
    for field in ("log_p", "log_p_summed"):
        means = []
        for particles in (1, 2, 8, 64):
            bound = importance_bound(model, guide, many, particles, chunk=10**6)
            means.append(getattr(bound, field).reshape(4000, 3).mean(0))
        means.append(truth)
        stacked = torch.stack(means)
        assert (stacked.diff(dim=0) > 0).all(), field


def test_a_marginalised_stop_is_tighter_and_effective_samples_are_within_bounds(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    torch.manual_seed(0)
    bound = importance_bound(*tiny, images, particles=50)
    assert (bound.log_p_summed >= bound.elbo).all()
    again = importance_bound(*tiny, images.repeat(200, 1, 1), particles=2)
    difference = (again.log_p_summed - again.log_p).reshape(200, len(images))
    error = difference.std(0) / len(difference) ** 0.5
    assert (difference.mean(0) > 3 * error).all()
    assert (bound.effective_samples >= 1 - 1e-4).all()
    assert (bound.effective_samples <= 50 + 1e-3).all()
    assert (bound.strokes >= 0).all() and (bound.strokes <= 3).all()


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
def test_chunks_cover_every_image_and_particle(
    tiny: tuple[DooD, AmortisedGuide],
    images: Tensor,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[int] = []
    drawn: list[int] = []

    def counted(*given: Any) -> StopMarginalTerms:
        *_, some, particles = given
        drawn.append(len(some) * particles)
        return stop_marginal_terms(*given)

    monkeypatch.setattr(importance, "stop_marginal_terms", counted)
    bound = importance_bound(*tiny, images, particles=20, chunk=chunk, progress=done.append)
    assert bound.log_p.shape == (5,) and sum(done) == 5 and sum(drawn) == 5 * 20
    assert max(drawn) <= max(chunk, 1)
    assert torch.isfinite(torch.stack(list(bound))).all()


def test_log_mean_exp() -> None:
    values = torch.tensor([[0.0, -1e5], [math.log(3.0), -1e5]])
    torch.testing.assert_close(log_mean_exp(values), torch.tensor([math.log(2.0), -1e5]))


class Knows(AmortisedGuide):
    """Has a bound of its own, though it does not search."""

    def bound(self, images: ImageBatch, particles: int) -> ImportanceBound:
        """The number of samples, for every image and every field."""
        value = torch.full((len(images),), float(particles))
        return ImportanceBound(*[value] * len(ImportanceBound._fields))


def test_a_guides_own_bound_is_asked_for(images: Tensor) -> None:
    model = DooD(TINY)
    found = bound_of(model, Knows(model), images, particles=7)
    assert found.log_p.tolist() == [7.0] * len(images)
    plain = AmortisedGuide(model)
    torch.manual_seed(0)
    one = bound_of(model, plain, images, particles=7)
    torch.manual_seed(0)
    assert torch.equal(one.log_p, importance_bound(model, plain, images, particles=7).log_p)
