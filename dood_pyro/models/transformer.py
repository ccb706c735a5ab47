"""DooD with a prior that remembers: its conditionals come from a transformer over all strokes so far.
Trainings use it unless another model is named.

Canvas, renderer, RNNs and guide are those of `dood_pyro.models.dood`; in place of equations 2 to 4,

    on_t, layout_t, stroke_t, pen_t   given all numbers of the strokes before, and those of this stroke
                                      that come before (`dood_pyro.models.stroke_prior`); its ends, too,
                                      places of what is drawn so far (`dood_pyro.models.pointers`).

A stroke's numbers are its layout, where it starts on the canvas, how far each control point lies from
the last, and its pen: on the canvas, not in the layout's frame, strokes that meet have like numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dood_pyro import geometry
from dood_pyro.config import ModelConfig
from dood_pyro.models.dood import DooD, State, StepInputs, StepValues
from dood_pyro.models.networks import concatenate
from dood_pyro.models.pointers import PointerChain
from dood_pyro.models.stroke_prior import (
    DEEP,
    DEEP_FIRST,
    WIDTH,
    Chain,
    ChainedNumbers,
    StrokeTransformer,
)

STEP = 0.8
"""About the largest distance of a control point from the last along an axis, canvas units."""


class DooDTransformer(DooD):
    """DooD whose prior sees every stroke before, not the canvas."""

    title = "DooD, transformer prior"
    else_like: ClassVar[tuple[str, ...]] = ("dood",)
    settings_without_effect: ClassVar[tuple[str, ...]] = (
        "part_dims",
        "layout_components",
        "stroke_components",
        "control_points",
    )
    usual_settings: ClassVar[Mapping[str, Any]] = {"pointers": True, "chain": "deep"}
    remembers_strokes: ClassVar[bool] = True

    def make_prior(self) -> None:
        config = self.config
        pens = config.pen_values
        steps = 2 * config.degree
        low = [*geometry.LAYOUT_LOW, *[-1.0] * 2, *[-STEP] * steps, *geometry.PEN_LOW[:pens]]
        high = [*geometry.LAYOUT_HIGH, *[1.0] * 2, *[STEP] * steps, *geometry.PEN_HIGH[:pens]]
        first: Chain | None = None
        depth: dict[str, Any] = {}
        if config.chain == "deep":
            first = Chain(low, high, WIDTH, layers=DEEP_FIRST)
            depth = {"layers": DEEP, "modulated": True}
        if first is not None and config.max_strokes == 1:
            chain, first = first, None  # there is no other stroke
        elif config.pointers:
            ends = config.degree, config.max_strokes
            chain = PointerChain(low, high, WIDTH, *ends, **depth)
        else:
            chain = Chain(low, high, WIDTH, **depth)
        self.transformer = StrokeTransformer(chain, config.max_strokes, first)
        if config.pen == "shared":
            self.make_shared_pen()

    @classmethod
    def prior_is_of_strokes(cls, config: ModelConfig) -> bool:
        return config.pen == "latent"

    def prior_parameters(self) -> list[nn.Parameter]:
        return list(self.transformer.parameters())

    def with_memory(self, inputs: StepInputs, state: State) -> StepInputs:
        strokes = state.strokes
        if not strokes.shape[-2]:  # before the first stroke all drawings are one
            strokes = strokes.flatten(0, -3)[:1]
        memory = self.transformer.conditions(strokes)[..., -1, :]
        batch = torch.broadcast_shapes(memory.shape[:-1], state.alive.shape)
        return inputs._replace(memory=memory.expand(*batch, -1), first=not state.strokes.shape[-2])

    def remembered(self, strokes: Tensor, values: StepValues) -> Tensor:
        numbers = self.numbers(values.layout, values.stroke, values.pen)
        strokes = strokes.expand(*numbers.shape[:-1], *strokes.shape[-2:])
        return torch.cat([strokes, numbers[..., None, :]], dim=-2)

    def numbers(
        self, layout: Tensor, stroke: Tensor, pen: Tensor
    ) -> Float[Tensor, "*batch numbers"]:
        """A stroke's numbers."""
        frame = geometry.affine_matrix(layout)
        return concatenate(layout, numbers_of_points(stroke, frame), pen)

    def prior_of(
        self,
        values: dict[str, Float[Tensor, "steps batch *event"]],
        wanted: Bool[Tensor, "steps batch"] | None = None,
    ) -> tuple[Float[Tensor, "steps batch"], Float[Tensor, "steps batch"]]:
        layout, stroke, pen = (values[kind].transpose(0, 1) for kind in ("layout", "stroke", "pen"))
        wanted = None if wanted is None else wanted.transpose(0, 1)
        logits, log_p = self.transformer.of_drawings(self.numbers(layout, stroke, pen), wanted)
        in_frame = stroke.shape[-2] * log_area(geometry.affine_matrix(layout))
        log_p = log_p + (in_frame if wanted is None else in_frame.masked_fill(~wanted, 0.0))
        return logits.transpose(0, 1), log_p.transpose(0, 1)

    def p_on(self, inputs: StepInputs) -> Tensor:
        """Logit of p(o_t | strokes before)."""
        return self.transformer.stop_logits(self._memory(inputs))

    def p_layout(self, inputs: StepInputs) -> ChainedNumbers:
        """p(l_t | strokes before)."""
        memory = self._memory(inputs)
        return ChainedNumbers(self._chain(inputs), memory, memory[..., :0], (4,))

    def p_stroke(self, inputs: StepInputs, layout: Tensor) -> ChainedNumbers:
        """p(s_t | l_t, strokes before)."""
        shape = (self.config.degree + 1, 2)
        frame = geometry.affine_matrix(layout)
        return ChainedPoints(self._chain(inputs), self._memory(inputs), layout, shape, frame)

    def p_pen(self, inputs: StepInputs, layout: Tensor, stroke: Tensor) -> ChainedNumbers:
        """p(pen_t | l_t, s_t, strokes before)."""
        before = concatenate(layout, numbers_of_points(stroke, geometry.affine_matrix(layout)))
        shape = (self.config.pen_values,)
        return ChainedNumbers(self._chain(inputs), self._memory(inputs), before, shape)

    def _chain(self, inputs: StepInputs) -> Chain:
        assert inputs.first is not None
        return self.transformer.chain_of(inputs.first)

    @staticmethod
    def _memory(inputs: StepInputs) -> Tensor:
        assert inputs.memory is not None
        return inputs.memory


class ChainedPoints(ChainedNumbers):
    """Control points in a layout's frame, whose chain is of their places on the canvas.

    Args:
        frame: from the layout's frame to the canvas, (*batch, 2, 3).
    """

    def __init__(
        self,
        chain: Chain,
        given: Tensor,
        before: Tensor,
        event_shape: tuple[int, ...],
        frame: Float[Tensor, "*batch 2 3"],
    ) -> None:
        super().__init__(chain, given, before, event_shape)
        self.frame = frame

    def flat(self, value: Tensor) -> Tensor:
        return numbers_of_points(value, self.frame)

    def unflat(self, numbers: Tensor) -> Tensor:
        points = numbers.unflatten(-1, self.event_shape).cumsum(-2)
        return geometry.apply_affine(points, geometry.invert_affine(self.frame))

    def log_prob(self, value: Tensor) -> Float[Tensor, "*batch"]:
        return super().log_prob(value) + value.shape[-2] * log_area(self.frame)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ChainedPoints:
        wider = super().expand(batch_shape)
        frame = self.frame.expand(*batch_shape, 2, 3)
        shape = tuple(self.event_shape)
        found = ChainedPoints(self.chain, wider.given, wider.before, shape, frame)
        found.temperature = self.temperature
        return found


def numbers_of_points(
    points: Float[Tensor, "*batch points 2"], frame: Float[Tensor, "*batch 2 3"]
) -> Float[Tensor, "*batch numbers"]:
    """Where control points in a frame start on the canvas, and the steps between them."""
    placed = geometry.apply_affine(points, frame)
    steps = torch.cat([placed[..., :1, :], placed[..., 1:, :] - placed[..., :-1, :]], dim=-2)
    return steps.flatten(-2)


def log_area(frame: Float[Tensor, "*batch 2 3"]) -> Float[Tensor, "*batch"]:
    """Log of how much larger a frame makes areas."""
    (a, b, _), (c, d, _) = (row.unbind(-1) for row in frame.unbind(-2))
    return (a * d - b * c).log()
