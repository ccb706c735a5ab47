"""The guide of AIR and Difference-AIR: q(on, layout, part | image).
Trainings of these models use it under the name ``amortised``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro import geometry
from dood_pyro.config import TrainConfig
from dood_pyro.guides.base import SequentialGuide
from dood_pyro.guides.stop import StopHead
from dood_pyro.images import ImageBatch
from dood_pyro.models.air import DifferenceAIR, Parts
from dood_pyro.models.base import DrawingModel
from dood_pyro.models.networks import (
    ImageEncoder,
    IntervalTransform,
    concatenate,
    glimpse,
    gru_step,
    mlp,
    softplus_std,
)
from dood_pyro.models.sites import on_site, site_name


class AIRState(NamedTuple):
    """The guide's state before step t."""

    parts: Parts
    """The model's own."""
    hidden: Float[Tensor, "*batch features"]
    """State of the RNN."""
    previous: Float[Tensor, "*batch site_dims"]
    """layout and part of step t − 1; zeros before the first."""
    image_features: Float[Tensor, "*batch features"] | None
    """Encoded image, for vanilla AIR, which sees the same at every step; else None."""


class AIRGuide(SequentialGuide[AIRState]):
    """An RNN over the parts so far and what is seen: the residual, or in vanilla AIR the image.

    Args:
        model: the model whose states the guide advances.
        config: settings of the training.
    """

    MIN_STD = 0.003

    def __init__(self, model: DifferenceAIR, config: TrainConfig | None = None) -> None:
        super().__init__(model)
        settings = model.config
        width, dims = settings.features, settings.part_dims
        maps = (config or TrainConfig(source="none")).guide_channels
        channels = 2 if model.sees_canvas else 1
        self.image_encoder = ImageEncoder(settings.canvas_size, width, channels, 4, maps)
        self.rnn = nn.GRUCell(width + 4 + dims, width)
        self.on_head = StopHead(width, width)
        self.layout_head = mlp(width, width, 2 * 4)
        self.layout_range = IntervalTransform(geometry.LAYOUT_LOW, geometry.LAYOUT_HIGH)
        self.glimpse_encoder = ImageEncoder(settings.glimpse_size, width, maps=maps)
        self.part_head = mlp(2 * width + 4, width, 2 * dims)
        self.baseline = mlp(2 * width, width, 1)

    @classmethod
    def refusal(cls, model: DrawingModel[Any]) -> str | None:
        """AIR's sites are needed."""
        return (
            None if isinstance(model, DifferenceAIR) else "it needs a model with the sites of AIR"
        )

    def baseline_parameters(self) -> list[nn.Parameter]:
        """Parameters of the network that predicts the cost still to come."""
        return list(self.baseline.parameters())

    def initial_state(self, images: ImageBatch) -> AIRState:
        """The model's first state, and zeros."""
        count, settings, image = len(images), self.model.config, images.pixels
        parts = self.model.initial_state(count, images.native_size)
        hidden = image.new_zeros(count, settings.features)
        previous = image.new_zeros(count, 4 + settings.part_dims)
        features = None if self.model.sees_canvas else self.image_encoder(image.unsqueeze(-3))
        return AIRState(parts, hidden, previous, features)

    def model_state(self, state: AIRState) -> Parts:
        """The model's state in the guide's."""
        return state.parts

    def step(self, t: int, state: AIRState, image: Tensor) -> AIRState:
        """Sample the sites of step t."""
        parts, hidden, previous, image_features = state
        seen, features = self.observe(image, parts, image_features)
        hidden = gru_step(self.rnn, concatenate(features, previous), hidden)
        infer: Any = {
            "baseline": {
                "nn_baseline": lambda given: self.baseline(given).squeeze(-1),
                "nn_baseline_input": concatenate(features, hidden),
            }
        }
        q_on = dist.Bernoulli(logits=self.on_head(hidden, parts.alive)).mask(parts.alive > 0)
        on = pyro.sample(on_site(t), q_on, infer=infer)
        alive = parts.alive * on > 0
        raw = self.layout_head(hidden)
        mean = self.layout_range(raw[..., :4])
        q_layout = dist.Normal(mean, softplus_std(raw[..., 4:], self.MIN_STD, 0.05)).to_event(1)
        layout = pyro.sample(site_name("layout", t), q_layout.mask(alive))
        patch = glimpse(seen, geometry.affine_matrix(layout), self.model.config.glimpse_size)
        patch_features = self.glimpse_encoder(patch.unsqueeze(-3))
        mean, raw_std = self.part_head(concatenate(layout, patch_features, hidden)).chunk(2, dim=-1)
        q_part = dist.Normal(mean, softplus_std(raw_std, self.MIN_STD, 0.5)).to_event(1)
        part = pyro.sample(site_name("part", t), q_part.mask(alive))
        parts = self.model.draw(parts, on, layout, part)
        return AIRState(parts, hidden, concatenate(layout, part), image_features)

    def observe(
        self, image: Tensor, parts: Parts, image_features: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Input of the guide at a step, and its encoding: residual and canvas, or the image."""
        if image_features is not None:
            return image, image_features
        canvas = parts.canvas.detach() if self.model.detach else parts.canvas
        residual = image - canvas
        maps = torch.stack(torch.broadcast_tensors(residual, canvas), dim=-3)
        return residual, self.image_encoder(maps)
