"""Attend-Infer-Repeat (Eslami et al. 2016) and Difference-AIR, the baselines of section 3.1.

A picture is made of parts: a latent vector that a network decodes into a patch of ink, and a layout
by which a spatial transformer puts it on the canvas. The sites are DooD's, with ``part_t`` in place
of ``stroke_t`` and ``pen_t``:

    on_t      Bernoulli                event ()
    layout_t  Gaussian                 event (4,)
    part_t    standard Gaussian        event (part_dims,)
    canvas_t  deterministic            event (size, size)

The prior knows no order: every step's is the same, its ``on_t`` and ``layout_t`` learned. Ink adds
and saturates as in DooD. With ``guidance=True`` the guide goes by the residual and the canvas so far
(Difference-AIR), with False by the image alone (vanilla AIR).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.ops.provenance import detach_provenance
from torch import Tensor, nn

from dood_pyro import drawing
from dood_pyro.config import ModelConfig, TrainConfig
from dood_pyro.guides.stopping import UNBOUNDED, StopHead
from dood_pyro.networks import (
    ImageEncoder,
    PatchDecoder,
    Squash,
    advance,
    concatenate,
    glimpse,
    mlp,
    positive,
)
from dood_pyro.stepwise import Program, StepwiseGuide


class Parts(NamedTuple):
    """A picture before step t."""

    ink: Float[Tensor, "*batch ink_size ink_size"]
    canvas: Float[Tensor, "*batch size size"]
    alive: Float[Tensor, "*batch"]
    """1 where every on so far was 1."""


class AIR(Program[Parts]):
    """The generative program."""

    def __init__(self, config: ModelConfig, detach: bool = True) -> None:
        super().__init__(config, detach)
        self.decoder = PatchDecoder(config.part_dims, config.features, config.glimpse_size)
        self.on_logit = nn.Parameter(torch.zeros(()))
        middle = [(a + b) / 2 for a, b in zip(drawing.LAYOUT_LOW, drawing.LAYOUT_HIGH, strict=True)]
        self.layout_mean = nn.Parameter(torch.tensor(middle))
        self.raw_layout_std = nn.Parameter(torch.zeros(4))

    def initial_state(self, count: int) -> Parts:
        """Blank canvases for ``count`` pictures."""
        return self.shared(f"initial {count}", (), lambda: self._initial_state(count))

    def _initial_state(self, count: int) -> Parts:
        size, like = self.config.canvas_size, self.raw_scale
        ink = like.new_zeros(count, self.ink_size, self.ink_size)
        return Parts(ink, like.new_zeros(count, size, size), like.new_ones(count))

    def draw(self, state: Parts, on: Tensor, layout: Tensor, part: Tensor) -> Parts:
        """Puts a part's ink on the canvas where the picture goes on."""
        key = (state, detach_provenance(on), layout, part)
        return self.shared("draw", key, lambda: self._draw(state, on, layout, part))

    def _draw(self, state: Parts, on: Tensor, layout: Tensor, part: Tensor) -> Parts:
        alive = state.alive * on
        lives = detach_provenance(alive)[..., None, None]
        placing = drawing.inverse(drawing.affine_matrix(layout))
        ink = glimpse(self.decoder(part), placing, self.ink_size)
        ink = state.ink + lives * ink
        return Parts(ink, self.picture(ink), alive)

    def prior_parameters(self) -> list[nn.Parameter]:
        """Of ``on_t`` and ``layout_t``; the part's prior has none."""
        return [self.on_logit, self.layout_mean, self.raw_layout_std]

    def step(self, t: int, state: Parts) -> Parts:
        """Step t."""
        on_logit = self.on_logit.expand(state.alive.shape)
        on = pyro.sample(f"on_{t}", dist.Bernoulli(logits=on_logit).mask(state.alive > 0))
        alive = state.alive * on > 0
        std = positive(self.raw_layout_std, 0.01, 0.3)
        p_layout = dist.Normal(self.layout_mean, std).to_event(1).expand(alive.shape)
        layout = pyro.sample(f"layout_{t}", p_layout.mask(alive))
        zero = std.new_zeros(self.config.part_dims)
        p_part = dist.Normal(zero, torch.ones_like(zero)).to_event(1).expand(alive.shape)
        part = pyro.sample(f"part_{t}", p_part.mask(alive))
        state = self.draw(state, on, layout, part)
        pyro.deterministic(f"canvas_{t}", state.canvas, event_dim=2)
        return state


class Carried(NamedTuple):
    """What `AIRGuide` carries from step to step."""

    parts: Parts
    hidden: Float[Tensor, "*batch features"]
    """Of its RNN."""
    previous: Float[Tensor, "*batch site_dims"]
    """layout and part of step t − 1; zeros before the first."""


class AIRGuide(StepwiseGuide[Carried]):
    """q(on, layout, part | image): an RNN over what is seen and the parts so far.

    Args:
        model: the model whose states the guide advances.
        config: of the training.
    """

    LEAST_STD = 0.003

    def __init__(self, model: AIR, config: TrainConfig | None = None) -> None:
        super().__init__(model)
        settings = model.config
        width, dims = settings.features, settings.part_dims
        maps = (config or TrainConfig(source="none")).guide_channels
        self.channels = 2 if settings.guidance else 1
        self.image_encoder = ImageEncoder(settings.canvas_size, width, self.channels, 4, maps)
        self.rnn = nn.GRUCell(width + 4 + dims, width)
        self.on_head = StopHead(width, width)
        self.layout_head = mlp(width, width, 2 * 4)
        self.layout_squash = Squash(drawing.LAYOUT_LOW, drawing.LAYOUT_HIGH)
        self.glimpse_encoder = ImageEncoder(settings.glimpse_size, width, maps=maps)
        self.part_head = mlp(2 * width + 4, width, 2 * dims)
        self.baseline = mlp(2 * width, width, 1)
        self.on_bounds = UNBOUNDED
        """Of the probability of ``on``; a training by score function narrows them."""

    @property
    def model(self) -> AIR:
        model = self._model[0]
        assert isinstance(model, AIR)
        return model

    def start(self, image: Float[Tensor, "images size size"]) -> Carried:
        """The model's first state, and zeros."""
        count, settings = image.shape[-3], self.model.config
        hidden = image.new_zeros(count, settings.features)
        previous = image.new_zeros(count, 4 + settings.part_dims)
        return Carried(self.model.initial_state(count), hidden, previous)

    def drawn(self, state: Carried) -> Parts:
        """The model's state in the guide's."""
        return state.parts

    def look(self, image: Tensor, state: Parts) -> tuple[Tensor, Tensor]:
        """What the guide goes by, and its encoding: the residual, or the image alone."""
        if not self.model.config.guidance:
            # The same at every step: encoded once.
            key = (image,)
            features = self.model.shared(
                "image", key, lambda: self.image_encoder(image.unsqueeze(-3))
            )
            return image, features
        canvas = state.canvas.detach() if self.model.detach else state.canvas
        residual = image - canvas
        maps = torch.stack(torch.broadcast_tensors(residual, canvas), dim=-3)
        return residual, self.image_encoder(maps)

    def step(self, t: int, state: Carried, image: Tensor) -> Carried:
        """Step t: the sites, and what is carried on."""
        parts, hidden, previous = state
        seen, features = self.look(image, parts)
        hidden = advance(self.rnn, concatenate(features, previous), hidden)
        infer: Any = {
            "baseline": {
                "nn_baseline": lambda given: self.baseline(given).squeeze(-1),
                "nn_baseline_input": concatenate(features, hidden),
            }
        }
        q_on = dist.Bernoulli(logits=self.on_head(hidden, parts.alive, self.on_bounds)).mask(
            parts.alive > 0
        )
        on = pyro.sample(f"on_{t}", q_on, infer=infer)
        alive = parts.alive * on > 0
        raw = self.layout_head(hidden)
        mean, std = self.layout_squash(raw[..., :4]), positive(raw[..., 4:], self.LEAST_STD, 0.05)
        layout = pyro.sample(f"layout_{t}", dist.Normal(mean, std).to_event(1).mask(alive))
        patch = glimpse(seen, drawing.affine_matrix(layout), self.model.config.glimpse_size)
        looked = self.glimpse_encoder(patch.unsqueeze(-3))
        mean, raw_std = self.part_head(concatenate(layout, looked, hidden)).chunk(2, dim=-1)
        q_part = dist.Normal(mean, positive(raw_std, self.LEAST_STD, 0.5)).to_event(1)
        part = pyro.sample(f"part_{t}", q_part.mask(alive))
        parts = self.model.draw(parts, on, layout, part)
        return Carried(parts, hidden, concatenate(layout, part))
