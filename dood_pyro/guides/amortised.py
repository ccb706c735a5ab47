"""The paper's recognition program q(strokes | image), section 2.2, with a second look at each stroke.

The sites of `dood_pyro.model` with single Gaussians, from the residual Δx_t = image − canvas so far,
its glimpse, and the RNNs that the model shares. Departure from the paper: having proposed a stroke
from the glimpse, the guide renders its own proposal in the glimpse's frame, looks at both side by
side and corrects it (``corrections`` times); each look narrows what a single regression leaves.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro import drawing
from dood_pyro.model import DooD, State, Stroke, View
from dood_pyro.networks import ImageEncoder, Squash, concatenate, glimpse, mlp, positive
from dood_pyro.rendering import canvas_from_ink, stroke_ink

DEAD_LOGIT = -60.0
"""Logit of on_t for a drawing that has stopped: its score term vanishes, where a mask would not
reach it."""


class AmortisedGuide(nn.Module):
    """q(on, layout, stroke, pen | image) by networks trained with the model.

    Args:
        model: the model whose state and RNNs the guide shares.
        corrections: how often a proposed stroke is looked at and corrected.
    """

    LEAST_STD = 0.003

    def __init__(self, model: DooD, corrections: int = 1) -> None:
        super().__init__()
        # Held in a list: as a submodule the model's weights would be the guide's, too.
        self._model = [model]
        config = model.config
        width = config.features
        self.controls = config.degree + 1
        self.residual_encoder = ImageEncoder(config.canvas_size, width, stride=4)
        self.on_head = mlp(width, width, 1)
        self.layout_head = mlp(2 * width, width, 2 * 4)
        self.layout_squash = Squash(drawing.LAYOUT_LOW, drawing.LAYOUT_HIGH)
        self.glimpse_encoder = ImageEncoder(config.glimpse_size, width)
        self.pens = 2 if config.pen == "latent" else 0
        outputs = 2 * (2 * self.controls + self.pens)
        self.stroke_head = mlp(2 * width + 4, width, outputs)
        self.correctors = nn.ModuleList(
            nn.ModuleDict(
                {
                    "encoder": ImageEncoder(config.glimpse_size, width, channels=3),
                    "head": mlp(width + 4 + outputs, width, outputs),
                }
            )
            for _ in range(corrections)
        )
        reach = drawing.CONTROL_REACH
        self.stroke_squash = Squash([-reach, -reach], [reach, reach])
        self.pen_squash = Squash(drawing.PEN_LOW, drawing.PEN_HIGH)
        # Predicts, in units that the estimator normalises, what is still to come.
        self.baseline = mlp(3 * width, width, 1)

        self.on_floor = 0.0
        """Lower bound on the probability of ``on``; the trainer holds it up at the start of a
        training by score function, which otherwise stops drawing before it has learned to draw."""

    @property
    def model(self) -> DooD:
        return self._model[0]

    def q_on(self, features: Tensor, alive: Tensor) -> Float[Tensor, "*batch"]:
        """Logit of q_on(o_t | Δx_t)."""
        logit = self.on_head(features).squeeze(-1)
        if self.on_floor > 0:
            probability = self.on_floor + (1 - self.on_floor) * torch.sigmoid(logit)
            logit = torch.logit(probability, eps=1e-6)
        return torch.where(alive > 0, logit, logit.new_tensor(DEAD_LOGIT))

    def q_layout(self, features: Tensor, view: View) -> dist.TorchDistribution:
        """q_layout(l_t | Δx_t, h^l_t), equation 7."""
        raw = self.layout_head(concatenate(features, view.layout_rnn))
        mean = self.layout_squash(raw[..., :4])
        return dist.Normal(mean, positive(raw[..., 4:], self.LEAST_STD, 0.05)).to_event(1)

    def q_stroke_and_pen(
        self, residual: Tensor, layout: Tensor, view: View
    ) -> tuple[dist.TorchDistribution, dist.TorchDistribution | None]:
        """q_stroke(s_t | Δx̃_t, h^s_t), equation 8, and the pen's Gaussian, from the same glimpse."""
        size = self.model.config.glimpse_size
        matrix = drawing.affine_matrix(layout)
        seen = glimpse(residual, matrix, size)
        # The sampled layout matters through its frame alone, so the heads are given it as it is.
        features = self.glimpse_encoder(seen.unsqueeze(-3))
        raw = self.stroke_head(concatenate(layout, features, view.stroke_rnn))
        before = glimpse(view.canvas, matrix, size) if len(self.correctors) else seen
        for corrector in self.correctors:
            proposal = self._render_proposal(raw.detach(), layout.detach(), view)
            looks = torch.stack([seen, before, proposal.expand(seen.shape)], dim=-3)
            features = corrector["encoder"](looks)
            raw = raw + corrector["head"](concatenate(layout, features, raw.detach()))
        (points, point_std), pen = self._split(raw)
        q_stroke = dist.Normal(points, point_std).to_event(2)
        return q_stroke, None if pen is None else dist.Normal(*pen).to_event(1)

    def _split(self, raw: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
        """Means and standard deviations of control points and pen out of the heads' outputs."""
        dims = 2 * self.controls
        points = self.stroke_squash(raw[..., :dims].unflatten(-1, (self.controls, 2)))
        point_std = positive(raw[..., dims : 2 * dims], self.LEAST_STD, 0.05)
        control = (points, point_std.unflatten(-1, (self.controls, 2)))
        if not self.pens:
            return control, None
        pen = self.pen_squash(raw[..., 2 * dims : 2 * dims + 2])
        return control, (pen, positive(raw[..., 2 * dims + 2 :], self.LEAST_STD, 0.1))

    @torch.no_grad()
    def _render_proposal(self, raw: Tensor, layout: Tensor, view: View) -> Tensor:
        """The proposed stroke by itself, in the glimpse's frame: (*batch, size, size)."""
        (points, _), pen = self._split(raw)
        sigma, darkness = drawing.pen_profile(self.model.shared_pen(view) if pen is None else pen[0])
        scale = layout[..., 0].clamp(min=drawing.LEAST_SCALE)
        size = self.model.config.glimpse_size
        return canvas_from_ink(stroke_ink(points, sigma / scale, darkness, size, points=48))

    def step(self, t: int, state: State, image: Tensor) -> State:
        """Step t of equation 6."""
        view = self.model.look(state)
        residual = image - view.canvas
        features = self.residual_encoder(residual.unsqueeze(-3))
        baseline_input = concatenate(features, view.features, view.layout_rnn)
        on = pyro.sample(
            f"on_{t}",
            dist.Bernoulli(logits=self.q_on(features, state.alive)).mask(state.alive > 0),
            infer={
                "baseline": {
                    "nn_baseline": lambda seen: self.baseline(seen).squeeze(-1),
                    "nn_baseline_input": baseline_input,
                }
            },
        )
        alive = state.alive * on > 0
        layout = pyro.sample(f"layout_{t}", self.q_layout(features, view).mask(alive))
        q_stroke, q_pen = self.q_stroke_and_pen(residual, layout, view)
        stroke = pyro.sample(f"stroke_{t}", q_stroke.mask(alive))
        if q_pen is None:
            pen = self.model.shared_pen(view)
        else:
            pen = pyro.sample(f"pen_{t}", q_pen.mask(alive))
        return self.model.draw(state, view, Stroke(on, layout, stroke, pen))

    def forward(self, image: Float[Tensor, "images size size"]) -> Float[Tensor, "*p images s s"]:
        """Parses ``image``; returns the final canvases, in [0, 1)."""
        count = image.shape[-3]
        with pyro.plate("images", count, dim=-1):
            state = self.model.initial_state(count)
            for t in pyro.markov(range(1, self.model.config.max_strokes + 1)):
                state = self.step(t, state, image)
        return state.canvas
