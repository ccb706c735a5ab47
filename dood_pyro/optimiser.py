"""Adam without torch's compiler: torch's function `torch.optim.adam.adam`, over state kept here.
Used by training, the feature networks, the gradient searches and the fits of one-shot classification.

The class `torch.optim.Adam` imports torch's compiler, and sympy with it, when an instance is made:
memory and seconds that nothing here needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

from dood_pyro.schedules import Step


class Adam:
    """Adam with a learning rate for each group of parameters.

    Attributes:
        groups: the parameters, group by group.
        state: ``step``, ``exp_avg`` and ``exp_avg_sq`` of each parameter that has had a gradient.
    """

    def __init__(self, groups: Sequence[Sequence[Tensor]]) -> None:
        self.groups = groups
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for group in self.groups:
            for parameter in group:
                parameter.grad = None

    @torch.no_grad()
    def step(self, rates: Sequence[Step], skip: Tensor) -> None:
        """Take a step.

        Args:
            rates: learning rates, one per group.
            skip: scalar on the parameters' device; where ``skip`` is 1, nothing changes. The host
                never reads ``skip``, and so never waits for the device.
        """
        for group, rate in zip(self.groups, rates, strict=True):
            parameters = [p for p in group if p.grad is not None]
            for parameter in parameters:
                if parameter not in self.state:
                    self.state[parameter] = {
                        "step": torch.zeros((), device=parameter.device),
                        "exp_avg": torch.zeros_like(parameter),
                        "exp_avg_sq": torch.zeros_like(parameter),
                    }
            states = [self.state[parameter] for parameter in parameters]
            if parameters:
                adam(
                    parameters,
                    [p.grad for p in parameters if p.grad is not None],
                    [state["exp_avg"] for state in states],
                    [state["exp_avg_sq"] for state in states],
                    [],
                    [state["step"] for state in states],
                    fused=True,
                    found_inf=skip.float(),  # float32, whatever the parameters' precision
                    amsgrad=False,
                    beta1=0.9,
                    beta2=0.999,
                    lr=rate,
                    weight_decay=0.0,
                    eps=1e-8,
                    maximize=False,
                )
