"""The paper's recognition program q(strokes | image), section 2.2, with a second look at each stroke.

The sites of `dood_pyro.model` with single Gaussians, from the residual Δx_t = image − canvas so far,
its glimpse, and the RNNs that the model shares. Departure from the paper: having proposed a stroke
from the glimpse, the guide draws it in its mind, looks at what is then left, and corrects it
(``corrections`` times; `dood_pyro.guides.corrections`).
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro import drawing
from dood_pyro.config import TrainConfig
from dood_pyro.guides.corrections import Correction, Frame, Maps, Taming
from dood_pyro.guides.stopping import UNBOUNDED, StopHead
from dood_pyro.model import DooD, State, StepValues, View
from dood_pyro.networks import ImageEncoder, Squash, concatenate, glimpse, mlp, positive
from dood_pyro.stepwise import StepwiseGuide

FIRST_REACH = 4.0
LESS_REACH = 0.6
"""How far the first correction may move a control point, in visible widths of the pen, and by what
factor less each next one: what is left to correct shrinks, and a late look that leaps unsettles the
earlier ones."""


class AmortisedGuide(StepwiseGuide[State]):
    """q(on, layout, stroke, pen | image) by networks trained with the model.

    Args:
        model: the model whose state and RNNs the guide shares.
        config: of the training; how many corrections, and when they are let in.
    """

    LEAST_STD = 0.003

    def __init__(self, model: DooD, config: TrainConfig | None = None) -> None:
        super().__init__(model)
        training = config or TrainConfig(source="none")
        self.trust_steps = (training.trust_begin, training.trust_full, training.trust_stagger)
        settings = model.config
        width = settings.features
        self.controls = settings.degree + 1
        maps = training.guide_channels
        self.residual_encoder = ImageEncoder(settings.canvas_size, width, stride=4, maps=maps)
        # Without execution guidance the residual is the image at every step: the RNN tells them
        # apart.
        self.on_head = StopHead(width if settings.guidance else 2 * width, width)
        self.layout_head = mlp(2 * width, width, 2 * 4)
        self.layout_squash = Squash(drawing.LAYOUT_LOW, drawing.LAYOUT_HIGH)
        self.glimpse_encoder = ImageEncoder(settings.glimpse_size, width, maps=maps)
        values = settings.pen_values
        self.pens = values if settings.pen == "latent" else 0
        self.stroke_head = mlp(2 * width + 4, width, 2 * (2 * self.controls + self.pens))
        # A correction looks at the canvas so far, along the curve that is drawn.
        can_look = settings.guidance and settings.renderer == "bezier"
        corrections = training.corrections if can_look else 0
        self.corrections = nn.ModuleList(
            Correction(self.controls, values, width, FIRST_REACH * LESS_REACH**look)
            for look in range(corrections)
        )
        reach = drawing.CONTROL_REACH
        self.stroke_squash = Squash([-reach, -reach], [reach, reach])
        self.pen_squash = Squash(drawing.PEN_LOW[:values], drawing.PEN_HIGH[:values])
        # Predicts, in units that the estimator normalises, what is still to come.
        self.baseline = mlp(3 * width, width, 1)

        # Corrections that move while proposals are still wild set both chasing each other: they
        # are let in one after the other, once proposals lie near the ink. Kept with the weights.
        self.register_buffer("trust", torch.ones(corrections))
        self.trust: Tensor
        self.let_in = corrections
        """How many corrections have any trust: the others need not look."""
        self.on_bounds = UNBOUNDED
        """Of the probability of ``on``; a training by score function narrows them (`NVIL`)."""

    @property
    def model(self) -> DooD:
        model = self._model[0]
        assert isinstance(model, DooD)
        return model

    def anneal(self, step: int) -> None:
        """Sets what depends on the number of training steps taken."""
        begin, full, stagger = self.trust_steps
        for look in range(len(self.trust)):
            since = step - begin - look * stagger
            trust = since / (full - begin) if full > begin else float(since >= 0)
            self.trust[look].fill_(min(1.0, max(0.0, trust)))
        # The same without asking the device.
        late = 0 if full > begin else 1
        self.let_in = sum(step + late > begin + look * stagger for look in range(len(self.trust)))

    def q_on(self, features: Tensor, view: View, alive: Tensor) -> Float[Tensor, "*batch"]:
        """Logit of q_on(o_t | Δx_t); without execution guidance given h^l_t, too."""
        if not self.model.config.guidance:
            features = concatenate(features, view.layout_rnn)
        logit: Tensor = self.on_head(features, alive, self.on_bounds)
        return logit

    def q_layout(self, features: Tensor, view: View) -> dist.TorchDistribution:
        """q_layout(l_t | Δx_t, h^l_t), equation 7."""
        raw = self.layout_head(concatenate(features, view.layout_rnn))
        mean = self.layout_squash(raw[..., :4])
        return dist.Normal(mean, positive(raw[..., 4:], self.LEAST_STD, 0.05)).to_event(1)

    def q_stroke_and_pen(
        self, image: Tensor, residual: Tensor, layout: Tensor, state: State, view: View
    ) -> tuple[dist.TorchDistribution, dist.TorchDistribution | None]:
        """q_stroke(s_t | Δx̃_t, h^s_t), equation 8, and the pen's Gaussian, from the same glimpse."""
        frame = Frame.of(layout)
        seen = glimpse(residual, frame.matrix, self.model.config.glimpse_size)
        features = self.glimpse_encoder(seen.unsqueeze(-3))
        given = concatenate(layout, features, view.stroke_rnn)
        raw = self.stroke_head(given)
        dims = 2 * self.controls
        points, point_std, pen, pen_std = raw.split([dims, dims, self.pens, self.pens], dim=-1)
        points = self.stroke_squash(points.unflatten(-1, (self.controls, 2)))
        point_std = point_std.unflatten(-1, (self.controls, 2))
        raw_pen = pen
        pen = self.pen_squash(raw_pen) if self.pens else self.model.shared_pen(view)
        # Like the canvas, the ink so far is what is looked at, not what is moved.
        ink = state.ink.detach() if self.model.detach else state.ink
        maps = Maps(image, residual, ink)
        for correction, trust in zip(self.corrections[: self.let_in], self.trust, strict=False):
            of_points, of_pen = Taming(2), Taming(1)
            proposal = points, pen
            if self.model.detach:  # not where gradients are checked: this one is not exact
                proposal = of_points.proposal(points), of_pen.proposal(pen)
            moves, more_std, pen_move, more_pen_std = correction(*proposal, frame, maps)
            points = of_points.corrected(points + trust * moves)
            point_std = point_std + trust * more_std
            if self.pens:
                raw_pen = raw_pen + trust * pen_move
                pen = of_pen.corrected(self.pen_squash(raw_pen))
                pen_std = pen_std + trust * more_pen_std
        std = positive(point_std, self.LEAST_STD, 0.05)
        q_stroke = self.stroke_gaussian(points, std, given)
        if not self.pens:
            return q_stroke, None
        return q_stroke, dist.Normal(pen, positive(pen_std, self.LEAST_STD, 0.1)).to_event(1)

    def stroke_gaussian(self, mean: Tensor, std: Tensor, given: Tensor) -> dist.TorchDistribution:
        """The control points' Gaussian, given what the stroke was proposed from."""
        return dist.Normal(mean, std).to_event(2)

    def start(self, image: Float[Tensor, "images size size"]) -> State:
        """The model's own first state: it is shared."""
        return self.model.initial_state(image.shape[-3])

    def step(self, t: int, state: State, image: Tensor) -> State:
        """Step t of equation 6."""
        view = self.model.look(state)
        residual = image - view.canvas
        features = self.residual_encoder(residual.unsqueeze(-3))
        infer: Any = {
            "baseline": {
                "nn_baseline": lambda seen: self.baseline(seen).squeeze(-1),
                "nn_baseline_input": concatenate(features, view.features, view.layout_rnn),
            }
        }
        on = pyro.sample(
            f"on_{t}",
            dist.Bernoulli(logits=self.q_on(features, view, state.alive)).mask(state.alive > 0),
            infer=infer,
        )
        alive = state.alive * on > 0
        layout = pyro.sample(f"layout_{t}", self.q_layout(features, view).mask(alive))
        q_stroke, q_pen = self.q_stroke_and_pen(image, residual, layout, state, view)
        stroke = pyro.sample(f"stroke_{t}", q_stroke.mask(alive))
        if q_pen is None:
            pen = self.model.shared_pen(view)
        else:
            pen = pyro.sample(f"pen_{t}", q_pen.mask(alive))
        return self.model.draw(state, view, StepValues(on, layout, stroke, pen))
