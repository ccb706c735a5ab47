"""The probability of going on, kept between bounds by a handler around the guide."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions.transforms import SigmoidTransform

from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.guides.stop import DEAD_LOGIT, StopHead
from dood_pyro.inference.messengers import (
    ModeMessenger,
    StopBoundsMessenger,
    _Within,
    bernoulli_logits,
)
from dood_pyro.models.dood import DooD


def on_logits(head: StopHead, features: Tensor, alive: Tensor, *bounds: float) -> Tensor:
    """Logits of a guide's ``on_1``, bounded if bounds are given."""

    def guide() -> None:
        with pyro.plate("images", len(features), dim=-1):
            q_on = dist.Bernoulli(logits=head(features, alive))
            pyro.sample("on_1", q_on.mask(alive > 0))

    program = StopBoundsMessenger(*bounds)(guide) if bounds else guide
    trace: Any = poutine.trace(program).get_trace()
    return bernoulli_logits(trace.nodes["on_1"])


def test_probabilities_lie_within_bounds_and_find_back_from_beyond() -> None:
    torch.manual_seed(0)
    head = StopHead(2, 4)
    with torch.no_grad():
        head[-1].bias.add_(3.0)  # type: ignore[operator, union-attr]
    features, alive = torch.randn(50, 2) * 20, torch.ones(50)
    plain = on_logits(head, features, alive)
    bounded = on_logits(head, features, alive, 0.4, 0.9)
    low, high = torch.logit(torch.tensor([0.4, 0.9]))
    torch.testing.assert_close(bounded, plain.clamp(low, high))
    assert (plain > high).any() and (plain < low).any()
    raw = torch.tensor([-5.0, 0.0, 5.0, -5.0, 0.0, 5.0], requires_grad=True)
    push = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    (_Within.apply(raw, -1.0, 1.0) * push).sum().backward()
    # Descent on +x moves down: from below the lower bound that leads away, from above it leads back.
    assert raw.grad is not None and raw.grad.tolist() == [0.0, 1.0, 1.0, -1.0, -1.0, 0.0]


@pytest.mark.parametrize("bounds", [(0.4, 1.0), (0.0, 0.9), (0.0, 1.0)])
def test_0_and_1_bound_nothing(bounds: tuple[float, float]) -> None:
    torch.manual_seed(0)
    head = StopHead(2, 4)
    features, alive = torch.randn(50, 2) * 20, torch.ones(50)
    low, high = torch.logit(torch.tensor(bounds))
    found = on_logits(head, features, alive, *bounds)
    torch.testing.assert_close(found, on_logits(head, features, alive).clamp(low, high))


def test_what_has_stopped_stays_so() -> None:
    torch.manual_seed(0)
    head = StopHead(2, 4)
    logits = on_logits(head, torch.randn(3, 2), torch.tensor([1.0, 0.0, 1.0]), 0.4, 0.9)
    assert logits[1] == DEAD_LOGIT and (logits[[0, 2]] > -3).all()


@pytest.mark.parametrize("bias", [-9.0, 9.0])
def test_a_whole_guide_is_kept_within_bounds(
    bias: float, tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    """Whatever it goes by, and its states come through as they are."""
    _, guide = tiny
    with torch.no_grad():
        guide.on_head[-1].bias.fill_(bias)  # type: ignore[union-attr, operator]
    trace: Any = poutine.trace(StopBoundsMessenger(0.3, 0.6)(guide)).get_trace(images)
    low, high = torch.logit(torch.tensor([0.3, 0.6]))
    for t in (1, 2, 3):
        site = trace.nodes[f"on_{t}"]
        alive = site["fn"]._mask
        logits = bernoulli_logits(site)
        bound = low if bias < 0 else high
        torch.testing.assert_close(logits[alive], bound.expand_as(logits[alive]))
        assert (logits[~alive] == DEAD_LOGIT).all()
    last = trace.nodes["_RETURN"]["value"].states[-1]
    assert torch.equal(last.alive > 0, alive & (site["value"] > 0))


@pytest.mark.parametrize(
    ("fn", "mode"),
    [
        (dist.Normal(torch.tensor([2.0, 3.0]), 1.0), [2.0, 3.0]),
        (dist.Normal(torch.ones(2, 3), 1.0).to_event(1), [[1.0] * 3] * 2),
        (dist.Categorical(torch.ones(2, 4)), None),
        (
            dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0), [SigmoidTransform()]),
            None,
        ),
    ],
)
def test_modes_are_means_where_there_are_any(fn: Any, mode: Any) -> None:
    """Of one number or several; what has none is sampled, and that is known."""

    def guide() -> Any:
        with pyro.plate("images", 2, dim=-1):
            return pyro.sample("width_1", fn)

    with ModeMessenger() as modes:
        value = guide()
    assert modes.sampled == (mode is None)
    assert value.shape == fn.batch_shape + fn.event_shape and torch.isfinite(value).all()
    assert mode is None or value.tolist() == mode
