"""Attend-Infer-Repeat (Eslami et al. 2016) and Difference-AIR, the baselines of section 3.1.
Trainings choose them by the names ``air`` and ``dair``.

An image is made of parts: a latent vector that a network decodes into a patch of ink, and a layout
by which a spatial transformer puts it on the canvas. The sites are DooD's, with ``part_t`` in place
of ``stroke_t`` and ``pen_t``:

    on_t      Bernoulli                event ()
    layout_t  Gaussian                 event (4,)
    part_t    standard Gaussian        event (part_dims,)
    canvas_t  deterministic            event (size, size)

The prior knows no order: every step's is the same, its ``on_t`` and ``layout_t`` learned. Ink adds
and saturates as in DooD. The two differ in their guide (`dood_pyro.guides.air`): Difference-AIR's sees
the residual and the canvas so far, vanilla AIR's the image alone.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.ops.provenance import detach_provenance
from torch import Tensor, nn

from dood_pyro import geometry
from dood_pyro.config import ModelConfig
from dood_pyro.models.base import DrawingModel
from dood_pyro.models.networks import PatchDecoder, glimpse, softplus_std
from dood_pyro.models.sites import canvas_site, on_site, site_name


class Parts(NamedTuple):
    """An image before step t."""

    ink: Float[Tensor, "*batch ink_size ink_size"]
    canvas: Float[Tensor, "*batch size size"]
    alive: Float[Tensor, "*batch"]
    """1 where every ``on`` so far was 1."""


class DifferenceAIR(DrawingModel[Parts]):
    """The generative program, whose guide sees the residual and the canvas so far."""

    title = "Difference-AIR"
    amortised_guide = "dood_pyro.guides.air:AIRGuide"
    part_sites: ClassVar[tuple[str, ...]] = ("part",)
    settings_without_effect: ClassVar[tuple[str, ...]] = (
        *DrawingModel.settings_without_effect,
        *("degree", "layout_components", "stroke_components", "control_points", "pen", "taper"),
        "canvas_channels",
    )

    def __init__(self, config: ModelConfig, detach: bool = True) -> None:
        super().__init__(config, detach)
        self.decoder = PatchDecoder(config.part_dims, config.features, config.glimpse_size)
        self.on_logit = nn.Parameter(torch.zeros(()))
        bounds = zip(geometry.LAYOUT_LOW, geometry.LAYOUT_HIGH, strict=True)
        self.layout_mean = nn.Parameter(torch.tensor([(a + b) / 2 for a, b in bounds]))
        self.raw_layout_std = nn.Parameter(torch.zeros(4))

    def step(self, t: int, state: Parts, after: Parts | None = None) -> Parts:
        """Sample the sites of step t and return the state after it."""
        on_logit = self.on_logit.expand(state.alive.shape)
        on = pyro.sample(on_site(t), dist.Bernoulli(logits=on_logit).mask(state.alive > 0))
        alive = state.alive * on > 0
        std = softplus_std(self.raw_layout_std, 0.01, 0.3)
        p_layout = dist.Normal(self.layout_mean, std).to_event(1).expand(alive.shape)
        layout = pyro.sample(site_name("layout", t), p_layout.mask(alive))
        zero = std.new_zeros(self.config.part_dims)
        p_part = dist.Normal(zero, torch.ones_like(zero)).to_event(1).expand(alive.shape)
        part = pyro.sample(site_name("part", t), p_part.mask(alive))
        if after is None:
            after = self.draw(state, on, layout, part)
        pyro.deterministic(canvas_site(t), after.canvas, event_dim=2)
        return after

    def initial_state(self, count: int, native_size: int = 0) -> Parts:
        """Blank canvases for ``count`` images."""
        like, size, ink_size = self.raw_scale, self.config.canvas_size, self.ink_size(native_size)
        ink = like.new_zeros(count, ink_size, ink_size)
        return Parts(ink, like.new_zeros(count, size, size), like.new_ones(count))

    def draw(self, state: Parts, on: Tensor, layout: Tensor, part: Tensor) -> Parts:
        """Add the part's ink to the canvas of images that have not stopped."""
        alive = state.alive * on
        drawn = detach_provenance(alive)[..., None, None]
        placing = geometry.invert_affine(geometry.affine_matrix(layout))
        ink = state.ink + drawn * glimpse(self.part_ink(part), placing, state.ink.shape[-1])
        return Parts(ink, self.picture(ink), alive)

    def part_ink(self, part: Tensor) -> Tensor:
        """Ink of parts in their own frames, (*batch, glimpse_size, glimpse_size)."""
        ink: Tensor = self.decoder(part)
        return ink

    def prior_parameters(self) -> list[nn.Parameter]:
        """Parameters of ``on_t`` and ``layout_t``; the part's prior has none."""
        return [self.on_logit, self.layout_mean, self.raw_layout_std]


class AIR(DifferenceAIR):
    """Vanilla AIR: the program of `DifferenceAIR`, whose guide sees the image alone."""

    title = "AIR"
    sees_canvas: ClassVar[bool] = False
