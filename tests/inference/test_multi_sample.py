"""Objectives of several samples: against the bounds and densities that they are made of."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pyro import poutine
from torch import Tensor

from dood_pyro.config import ModelConfig
from dood_pyro.estimators.multi_sample import IWAE, ReweightedWakeSleep
from dood_pyro.estimators.sleep import frozen_parameters, sleep_loss
from dood_pyro.estimators.stop_marginal import StopMarginalELBO
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.inference.guide_parses import parse
from dood_pyro.inference.stop_marginal import collect_terms, stop_marginal_terms
from dood_pyro.inference.traces import stroke_traces
from dood_pyro.models.dood import DooD
from dood_pyro.optimiser import Adam
from tests.conftest import TINY, nudge

PRIOR = ("model.on_head", "model.layout_head", "model.stroke_head", "model.pen_head")
"""Of the model's weights those that no sample depends on."""


def model_and_guide(detach: bool = True) -> tuple[DooD, AmortisedGuide]:
    torch.manual_seed(0)
    model = DooD(TINY, detach)
    guide = AmortisedGuide(model)
    nudge(model)
    nudge(guide)
    return model, guide


def gradients(estimator: Any, model: DooD, guide: AmortisedGuide, images: Tensor) -> dict[str, Any]:
    for module in (model, guide):
        module.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    estimator.loss(model, guide, images, 10_000)[0].backward()
    return {
        f"{kind}.{name}": parameter.grad.clone()
        for kind, module in (("model", model), ("guide", guide))
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def test_the_bound_is_the_importance_weighted_one(images: Tensor) -> None:
    model, guide = model_and_guide()
    estimator = IWAE(particles=7, beta=3.0, explore_steps=0)
    torch.manual_seed(1)
    loss = float(estimator.loss(model, guide, images, 0)[0].detach())
    torch.manual_seed(1)
    terms = stop_marginal_terms(model, guide, images, 7)
    bound = (torch.logsumexp(terms.log_weight(), 0) - math.log(7)).sum()
    # Less what trains q(on), which is a cross entropy.
    joint = terms.log_p + terms.log_likelihood + terms.log_ratio
    share = joint.flatten(0, 1).softmax(0).view_as(joint)
    assert loss == pytest.approx(float((-bound - (share * terms.log_q).sum()).detach()), rel=1e-5)


def test_the_models_gradient_is_the_same_in_wake_sleep(images: Tensor) -> None:
    """∇ log Σ w = Σ w̄ ∇ log p wherever samples do not depend on the weights."""
    model, guide = model_and_guide()
    weighted = gradients(IWAE(5, 3.0, 0), model, guide, images)
    wake = gradients(ReweightedWakeSleep(5, 3.0, 0), model, guide, images)
    names = [name for name in weighted if name.startswith(PRIOR) or name == "model.raw_scale"]
    assert len(names) > 8
    for name in names:
        torch.testing.assert_close(weighted[name], wake[name], rtol=1e-3, atol=1e-3)


def test_the_guides_gradient_in_wake_sleep_is_that_of_its_density(images: Tensor) -> None:
    """With one sample the weights say nothing of samples: Σ_k share_k ∇ log q of the first k."""
    model, guide = model_and_guide()
    found = gradients(ReweightedWakeSleep(1, 3.0, 0), model, guide, images)
    torch.manual_seed(1)
    with torch.no_grad():
        terms = stop_marginal_terms(model, guide, images)
        share = (terms.log_p + terms.log_likelihood + terms.log_ratio).softmax(0)
    name = "guide.layout_head.2.bias"
    assert found[name].abs().max() > 0

    def log_q(move: Tensor) -> Tensor:
        torch.manual_seed(1)
        with torch.no_grad():
            _, drawn = stroke_traces(model, guide, images)
            guide.layout_head[2].bias.add_(move)
            again: Any = poutine.replay(guide, trace=drawn)
            moved, _, sums = collect_terms(model, images, *stroke_traces(model, again, images))
            guide.layout_head[2].bias.sub_(move)
        return (share * (moved.log_q + sums)).sum()

    for place in range(4):
        move = torch.zeros(8)
        move[place] = 1e-2
        slope = (log_q(move) - log_q(-move)) / 2e-2
        assert float(-found[name][place]) == pytest.approx(float(slope), rel=0.05, abs=0.05)


@pytest.mark.parametrize("estimator", [IWAE, ReweightedWakeSleep])
def test_every_weight_of_the_guide_learns(estimator: Any, images: Tensor) -> None:
    model, guide = model_and_guide()
    found = gradients(estimator(4, 3.0, 0), model, guide, images)
    idle = {f"guide.{n}" for n, _ in guide.named_parameters()} - {
        name for name, gradient in found.items() if gradient.abs().max() > 0
    }
    assert all(name.startswith("guide.baseline") for name in idle)


@pytest.mark.parametrize("estimator", [IWAE, ReweightedWakeSleep])
def test_training_begins_by_exploring(estimator: Any, images: Tensor) -> None:
    model, guide = model_and_guide()
    weighing, exploring = estimator(3, 3.0, 100), StopMarginalELBO(3.0, 100)
    for step, same in ((0, True), (99, True), (100, False)):
        losses = []
        for each in (weighing, exploring):
            torch.manual_seed(1)
            losses.append(each.loss(model, guide, images, step)[0].detach())
        assert torch.allclose(*losses) == same


def test_sleep_teaches_the_guide_what_the_model_draws() -> None:
    torch.manual_seed(0)
    config = ModelConfig(**{**TINY.to_json(), "max_strokes": 1})
    model = DooD(config)
    with torch.no_grad():
        model.on_head[-1].bias.fill_(3.0)
    guide = AmortisedGuide(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimiser = Adam([list(guide.parameters())])
    losses = []
    for _ in range(160):
        loss = sleep_loss(model, guide, 32) / 32
        loss.backward()
        optimiser.step([3e-3], skip=torch.zeros(()))
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-20:]) < sum(losses[:20]) - 20 * 2
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    # What it has learned shows on samples that it has not seen.
    torch.manual_seed(5)
    with torch.no_grad():
        sampled: Any = poutine.trace(model).get_trace(count=64)
    images, drawn = sampled.nodes["image"]["value"], sampled.nodes["on_1"]["value"]
    fresh = AmortisedGuide(model)
    layout = sampled.nodes["layout_1"]["value"][drawn > 0]
    errors = [
        (parse(model, each, images).values["layout"][0][drawn > 0] - layout).abs().mean()
        for each in (fresh, guide)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_the_sleep_loss_is_the_guides_density(tiny: tuple[DooD, AmortisedGuide]) -> None:
    model, guide = tiny
    torch.manual_seed(3)
    loss = sleep_loss(model, guide, 6)
    torch.manual_seed(3)
    with torch.no_grad():
        sampled: Any = poutine.trace(model).get_trace(count=6)
        replayed: Any = poutine.replay(guide, trace=sampled)
        trace = poutine.trace(replayed).get_trace(sampled.nodes["image"]["value"])
    trace.compute_log_prob()
    sites = [node for name, node in trace.nodes.items() if name[-2:] in ("_1", "_2", "_3")]
    expected = -sum(node["log_prob_sum"] for node in sites if node["type"] == "sample")
    torch.testing.assert_close(loss.detach(), expected)
    with frozen_parameters(model):
        assert not any(p.requires_grad for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())
