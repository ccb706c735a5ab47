"""The sleep phase of wake-sleep: the guide learns from drawings that the model makes.
Used by the trainer for the first ``sleep_steps`` steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor, nn

from dood_pyro.images import ImageBatch
from dood_pyro.models.sites import IMAGE


@contextmanager
def frozen_parameters(module: nn.Module) -> Iterator[None]:
    """Inside, a module's parameters get no gradient."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def sleep_loss(model: Any, guide: Any, count: int, native_size: int = 0) -> Float[Tensor, ""]:
    """Minus log q(drawing | image), summed over ``count`` drawings sampled from the model, noise of
    the likelihood included. Its gradient is for the guide's own parameters alone.

    Args:
        native_size: pixels per side of the drawn images (`dood_pyro.images.ImageBatch`).
    """
    with torch.no_grad():
        drawn: Any = poutine.trace(model).get_trace(count=count, native_size=native_size)
    images = ImageBatch(drawn.nodes[IMAGE]["value"], native_size)
    with frozen_parameters(model):
        trace: Any = poutine.trace(poutine.replay(guide, trace=drawn)).get_trace(images)
        loss: Tensor = -trace.log_prob_sum()
    return loss
