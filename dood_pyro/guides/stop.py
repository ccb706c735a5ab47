"""q(on_t): the network that amortised guides of every model share."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro.models.networks import mlp

DEAD_LOGIT = -60.0
"""Logit of on_t for a drawing that has stopped: its score term vanishes, where a mask would not
reach it."""


class StopHead(nn.Sequential):
    """Features to the logit of ``on_t``."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(*mlp(inputs, hidden, 1))

    def forward(  # type: ignore[override]
        self, features: Float[Tensor, "*batch inputs"], alive: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """The logit; `DEAD_LOGIT` where not ``alive``."""
        return torch.where(alive > 0, super().forward(features).squeeze(-1), DEAD_LOGIT)
