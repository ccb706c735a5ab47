"""Adam without the compiler: `torch.optim.adam.adam`, the library's function, over state of our own.

The class `torch.optim.Adam` imports torch's compiler, and sympy with it, wherever it is made: memory
and seconds that nothing here needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """Adam with a learning rate for each group of parameters.

    Attributes:
        groups: the parameters, group by group.
        state: of each parameter that has had a gradient: ``step``, ``exp_avg``, ``exp_avg_sq``.
    """

    def __init__(self, groups: Sequence[Sequence[Tensor]]) -> None:
        self.groups = groups
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for group in self.groups:
            for parameter in group:
                parameter.grad = None

    @torch.no_grad()
    def step(self, rates: Sequence[float], skip: Tensor) -> None:
        """Takes a step with a learning rate a group.

        Where ``skip``, a scalar on the parameters' device, is 1, nothing changes, without a word to
        the host.
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
                    found_inf=skip.float(),  # whatever the precision of the parameters
                    amsgrad=False,
                    beta1=0.9,
                    beta2=0.999,
                    lr=rate,
                    weight_decay=0.0,
                    eps=1e-8,
                    maximize=False,
                )
