"""q(on_t | what the guide goes by): the part that guides of every program share."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro.networks import mlp

DEAD_LOGIT = -60.0
"""Logit of on_t for a drawing that has stopped: its score term vanishes, where a mask would not
reach it."""

UNBOUNDED = (0.0, 1.0)


class _Within(torch.autograd.Function):
    """Clamps; beyond a bound the gradient still passes where it leads back. A sigmoid in its place
    would flatten out there, and what has gone too far would never come back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float | None, high: float | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        low, high = ctx.bounds
        # Descent moves against the gradient.
        if low is not None:
            gradient = torch.where((x < low) & (gradient > 0), 0.0, gradient)
        if high is not None:
            gradient = torch.where((x > high) & (gradient < 0), 0.0, gradient)
        return gradient, None, None


class StopHead(nn.Sequential):
    """Features to the logit of ``on_t``."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(*mlp(inputs, hidden, 1))

    def forward(  # type: ignore[override]
        self,
        features: Float[Tensor, "*batch inputs"],
        alive: Float[Tensor, "*batch"],
        bounds: tuple[float, float] = UNBOUNDED,
    ) -> Float[Tensor, "*batch"]:
        """The logit, `DEAD_LOGIT` where not ``alive``; the probability of ``on`` lies within
        ``bounds``."""
        logit = super().forward(features).squeeze(-1)
        if bounds != UNBOUNDED:
            low, high = (math.log(p / (1 - p)) if 0 < p < 1 else None for p in bounds)
            logit = _Within.apply(logit, low, high)
        return torch.where(alive > 0, logit, DEAD_LOGIT)
