"""DooD's ablations (section 3.1): what each leaves out of `dood_pyro.models.dood.DooD`.
Trainings choose them by the names in `dood_pyro.registry`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dood_pyro import geometry
from dood_pyro.config import ModelConfig
from dood_pyro.models.dood import DooD, State, StepInputs
from dood_pyro.models.networks import PatchDecoder, concatenate, glimpse


class DooDNoRenderer(DooD):
    """DooD−δR: a network decodes a stroke into a patch, which a spatial transformer places."""

    title = "DooD−δR"
    draws_curves: ClassVar[bool] = False
    part_sites: ClassVar[tuple[str, ...]] = ("stroke", "pen")

    def __init__(self, config: ModelConfig, detach: bool = True) -> None:
        super().__init__(config, detach)
        dims = 2 * (config.degree + 1) + config.pen_values
        self.decoder = PatchDecoder(dims, config.features, config.glimpse_size)

    def stroke_ink(self, layout: Tensor, stroke: Tensor, pen: Tensor, size: int) -> Tensor:
        matrix = geometry.affine_matrix(layout)
        patch = self.part_ink(concatenate(stroke.flatten(-2), pen))
        return glimpse(patch, geometry.invert_affine(matrix), size)

    def part_ink(self, part: Tensor) -> Tensor:
        ink: Tensor = self.decoder(part)
        return ink


class DooDNoGuidance(DooD):
    """DooD−EG: without execution guidance, neither model nor guide sees the canvas so far. The encoders
    of canvas and glimpse are there, as in DooD, and idle."""

    title = "DooD−EG"
    sees_canvas: ClassVar[bool] = False

    def encode_canvas(self, state: State) -> tuple[Tensor, Tensor]:
        features = torch.zeros_like(state.features)
        return self.visible_canvas(state), features

    def visible_canvas(self, state: State) -> Tensor:
        return state.canvas.new_zeros(state.canvas.shape[-2:])

    def p_on(self, inputs: StepInputs) -> Tensor:
        """Logit of p_on(o_t | h^l_t)."""
        return self.on_head(self.prior_inputs(inputs.layout_rnn)).squeeze(-1)

    def glimpse_features(self, inputs: StepInputs, layout: Tensor) -> Tensor:
        return inputs.features


class DooDIndependentPrior(DooD):
    """Every step's prior is the same: it depends on no earlier step."""

    title = "DooD, independent prior"

    def prior_inputs(self, *conditions: Tensor) -> Tensor:
        return torch.zeros_like(concatenate(*conditions))
