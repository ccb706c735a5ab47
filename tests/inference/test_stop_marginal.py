"""The marginalised stop variable against brute force, finite differences, and the paper's estimator."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pyro import poutine
from torch import Tensor

from dood_pyro.config import TrainConfig
from dood_pyro.estimators.nvil import NVIL
from dood_pyro.estimators.stop_marginal import StopMarginalELBO
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.inference.messengers import AllOnMessenger
from dood_pyro.inference.stop_marginal import stop_log_probs, stop_marginal_terms
from dood_pyro.models.dood import DooD
from tests.conftest import TINY, nudge, random_pictures


def test_stop_probabilities_sum_to_one() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(6, 40, dtype=torch.float64)
    total = stop_log_probs(logits).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_stop_probabilities_are_products() -> None:
    on = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    expected = torch.tensor([0.1, 0.9 * 0.5, 0.9 * 0.5 * 0.8, 0.9 * 0.5 * 0.2]).double()
    torch.testing.assert_close(stop_log_probs(torch.logit(on)).exp(), expected)


class Forced(AllOnMessenger):
    """Forces the stop variable to a given sequence."""

    def __init__(self, values: tuple[int, ...]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        if msg["name"].startswith("on_"):
            msg["value"] = msg["value"] * self.values[int(msg["name"].split("_")[1]) - 1]


def test_equals_the_sum_over_all_stop_sequences(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    """Σ_o q(o) [log p(x, o, z) − log q(o, z)] over o, the strokes z held where they were drawn."""
    model, guide = (module.double() for module in tiny)
    images = images.double()
    nudge(model)
    nudge(guide)
    torch.manual_seed(5)
    terms = stop_marginal_terms(model, guide, images)
    torch.manual_seed(5)
    with AllOnMessenger():
        drawn: Any = poutine.trace(guide).get_trace(images)
    for t in range(1, TINY.max_strokes + 1):
        drawn.remove_node(f"on_{t}")
    elbo: Tensor = torch.zeros(5, dtype=torch.float64)
    for k in range(TINY.max_strokes + 1):
        sequence = tuple(int(t < k) for t in range(TINY.max_strokes))
        with Forced(sequence):
            q = poutine.trace(poutine.replay(guide, trace=drawn)).get_trace(images)
            p = poutine.trace(poutine.replay(model, trace=q)).get_trace(images)
        p.compute_log_prob()
        q.compute_log_prob()

        def total(trace: Any, prefix: tuple[str, ...]) -> Tensor:
            return sum(
                (s["log_prob"] for n, s in trace.nodes.items() if n.startswith(prefix)),
                start=torch.zeros(5, dtype=torch.float64),
            )

        every = ("on_", "layout_", "stroke_", "pen_")
        weight = total(q, ("on_",)).exp()
        elbo = elbo + weight * (total(p, (*every, "image")) - total(q, every))
    torch.testing.assert_close(terms.elbo(), elbo)


@pytest.mark.parametrize(("refiners", "tolerance"), [(0, 2e-3), (2, 1e-2)])
def test_gradient_against_finite_differences(refiners: int, tolerance: float) -> None:
    """With nothing detached and β = 1 the objective's gradient is that of the bound.

    What refiners see is sampled bilinearly, with kinks at the borders of pixels.
    """
    torch.manual_seed(0)
    model = DooD(TINY, detach=False).double()
    guide = AmortisedGuide(model, TrainConfig("none", num_refiners=refiners)).double()
    nudge(model)
    nudge(guide)
    images = random_pictures(2, TINY.canvas_size).double()
    elbo = StopMarginalELBO(beta=1.0)

    def bound() -> Tensor:
        torch.manual_seed(7)
        return stop_marginal_terms(model, guide, images).elbo().sum()

    torch.manual_seed(7)
    (-elbo.loss(model, guide, images, 0)[0]).backward()
    checked = 0
    for module in (model, guide):
        for name, parameter in module.named_parameters():
            if parameter.grad is None:
                assert name.startswith("baseline")
                continue
            flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
            index = int(gradient.abs().argmax())
            step = 1e-6
            flat[index] += step
            above = float(bound().detach())
            flat[index] -= 2 * step
            below = float(bound().detach())
            flat[index] += step
            expected = (above - below) / (2 * step)
            assert float(gradient[index]) == pytest.approx(expected, rel=tolerance, abs=1e-3), name
            checked += 1
    assert checked > 40


def test_scale_learns_from_what_is_drawn(tiny: tuple[DooD, AmortisedGuide], images: Tensor) -> None:
    model, guide = tiny

    def gradients(elbo: StopMarginalELBO) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        parameters = [model.raw_scale, *guide.stroke_head.parameters()]
        found = torch.autograd.grad(elbo.loss(model, guide, images, 0)[0], parameters)
        return found[0], found[1]

    of_bound = gradients(StopMarginalELBO())
    drawn = gradients(StopMarginalELBO(explore_always=0.4))
    explored = gradients(StopMarginalELBO(explore_always=0.4, scale_learns="explored"))
    torch.testing.assert_close(drawn[0], of_bound[0])
    assert not torch.allclose(explored[0], of_bound[0], rtol=1e-2)
    torch.testing.assert_close(drawn[1], explored[1])
    assert not torch.allclose(drawn[1], of_bound[1], rtol=1e-2)


def test_exploring_trains_every_stroke(tiny: tuple[DooD, AmortisedGuide], images: Tensor) -> None:
    model, guide = tiny
    with torch.no_grad():
        guide.on_head[-1].bias.fill_(-30.0)  # type: ignore[union-attr, operator]
    elbo = StopMarginalELBO(explore_steps=10)

    def gradient(step: int) -> float:
        guide.zero_grad()
        torch.manual_seed(0)
        elbo.loss(model, guide, images, step)[0].backward()
        grad = guide.stroke_head[-1].weight.grad  # type: ignore[union-attr]
        assert isinstance(grad, Tensor)
        return float(grad.abs().sum())

    assert gradient(0) > 1
    assert gradient(10) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("beta", "beta_on"), [(1.0, "all"), (3.0, "all"), (3.0, "stop")])
def test_estimators_agree_in_expectation(beta: float, beta_on: Any) -> None:
    """Score function and exact sum, same β, no normalisation: the same gradient, on average."""
    torch.manual_seed(0)
    model = DooD(TINY)
    guide = AmortisedGuide(model, TrainConfig("none", num_refiners=1))
    nudge(guide, 0.5)
    with torch.no_grad():
        model.raw_scale.fill_(1.5)  # a blunt likelihood keeps the score function's variance down
    images = random_pictures(64, TINY.canvas_size)[:1].repeat(512, 1, 1)

    def mean_gradient(elbo: Any, repeats: int) -> tuple[Tensor, Tensor]:
        rows = []
        for repeat in range(repeats):
            torch.manual_seed(100 + repeat)
            model.zero_grad()
            guide.zero_grad()
            elbo.loss(model, guide, images, 0)[0].backward()
            parts = [
                parameter.grad.flatten()
                for module in (model, guide)
                for name, parameter in module.named_parameters()
                if parameter.grad is not None and not name.startswith("baseline")
            ]
            rows.append(torch.cat(parts) / len(images))
        stacked = torch.stack(rows)
        return stacked.mean(0), stacked.std(0) / repeats**0.5

    exact, exact_se = mean_gradient(StopMarginalELBO(beta, beta_on=beta_on), 12)
    score, score_se = mean_gradient(NVIL(beta, normalise=False, beta_on=beta_on), 36)
    error = (exact - score).abs()
    tolerance = (exact_se**2 + score_se**2).sqrt()
    used = tolerance > 1e-9
    # Student's t over thousands of entries: nearly all within three standard errors, none far out.
    deviations = error[used] / tolerance[used]
    assert (deviations > 3).float().mean() < 0.02
    assert deviations.max() < 7
    # And the test can tell: the stop variable's gradient is not small beside its error.
    assert (exact.abs() > 5 * tolerance).sum() > 100


def test_all_sequences_are_counted() -> None:
    """Sequences that differ after the first 0 are one event: K + 1 of them in all."""
    kept = {
        tuple(itertools.takewhile(bool, sequence))
        for sequence in itertools.product((0, 1), repeat=3)
    }
    assert len(kept) == len(stop_log_probs(torch.zeros(3)))
