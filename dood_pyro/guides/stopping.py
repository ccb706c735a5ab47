"""q(on_t | what the guide goes by): the part that guides of every program share."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro.networks import mlp

DEAD_LOGIT = -60.0
"""Logit of on_t for a drawing that has stopped: its score term vanishes, where a mask would not
reach it."""

UNBOUNDED = (0.0, 1.0)


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
        low, high = bounds
        if bounds != UNBOUNDED:
            logit = torch.logit(low + (high - low) * torch.sigmoid(logit), eps=1e-6)
        return torch.where(alive > 0, logit, DEAD_LOGIT)
