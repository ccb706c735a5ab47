"""Bounds on the probability of going on."""

from __future__ import annotations

import torch

from dood_pyro.guides.stop import DEAD_LOGIT, StopHead, _Within


def test_probabilities_lie_within_bounds_and_find_back_from_beyond() -> None:
    torch.manual_seed(0)
    head = StopHead(2, 4)
    with torch.no_grad():
        head[-1].bias.add_(3.0)  # type: ignore[operator, union-attr]
    features, alive = torch.randn(50, 2) * 20, torch.ones(50)
    plain = head(features, alive)
    bounded = head(features, alive, (0.4, 0.9))
    low, high = torch.logit(torch.tensor([0.4, 0.9]))
    torch.testing.assert_close(bounded, plain.clamp(low, high))
    assert (plain > high).any() and (plain < low).any()
    raw = torch.tensor([-5.0, 0.0, 5.0, -5.0, 0.0, 5.0], requires_grad=True)
    push = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    (_Within.apply(raw, -1.0, 1.0) * push).sum().backward()
    # Descent on +x moves down: from below the lower bound that leads away, from above it leads back.
    assert raw.grad is not None and raw.grad.tolist() == [0.0, 1.0, 1.0, -1.0, -1.0, 0.0]


def test_what_has_stopped_stays_so() -> None:
    head = StopHead(2, 4)
    logit = head(torch.randn(3, 2), torch.tensor([1.0, 0.0, 1.0]), (0.4, 0.9))
    assert logit[1] == DEAD_LOGIT and (logit[[0, 2]] > -3).all()
