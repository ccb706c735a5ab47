"""The paper's recognition program q(strokes | image), section 2.2.
Trainings of DooD and its ablations use it unless another guide is named.

The sites of `dood_pyro.models.dood` with single Gaussians, from the residual Δx_t = image − canvas so
far, its glimpse, and the RNNs that the model shares. Departure from the paper: a stroke that was
proposed from the glimpse (equation 8) is then refined against the image (``num_refiners`` times;
`dood_pyro.guides.refinement`).
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro import geometry
from dood_pyro.config import TrainConfig
from dood_pyro.guides.base import SequentialGuide
from dood_pyro.guides.refinement import (
    Frame,
    RefinerInputs,
    RefinerSchedule,
    StrokeProposal,
    StrokeRefinement,
)
from dood_pyro.guides.stop import StopHead
from dood_pyro.images import ImageBatch
from dood_pyro.models.base import DrawingModel
from dood_pyro.models.dood import DooD, State, StepInputs, StepValues
from dood_pyro.models.networks import (
    ImageEncoder,
    IntervalTransform,
    concatenate,
    glimpse,
    mlp,
    softplus_std,
)
from dood_pyro.models.sites import on_site, site_name


class AmortisedGuide(SequentialGuide[State]):
    """q(on, layout, stroke, pen | image) by networks trained with the model.

    Args:
        model: the model whose state and RNNs the guide shares.
        config: settings of the training: number and schedule of the refiners.
    """

    MIN_STD = 0.003

    def __init__(self, model: DooD, config: TrainConfig | None = None) -> None:
        super().__init__(model)
        training = config or TrainConfig(source="none")
        settings = model.config
        width = settings.features
        self.controls = settings.degree + 1
        maps = training.guide_channels
        self.residual_encoder = ImageEncoder(settings.canvas_size, width, stride=4, maps=maps)
        # Without execution guidance the residual is the image at every step: the RNN tells them
        # apart.
        self.on_head = StopHead(width if model.sees_canvas else 2 * width, width)
        self.layout_head = mlp(2 * width, width, 2 * 4)
        self.layout_range = IntervalTransform(geometry.LAYOUT_LOW, geometry.LAYOUT_HIGH)
        self.glimpse_encoder = ImageEncoder(settings.glimpse_size, width, maps=maps)
        values = settings.pen_values
        self.pens = values if settings.pen == "latent" else 0
        self.stroke_head = mlp(2 * width + 4, width, 2 * (2 * self.controls + self.pens))
        # A refiner goes by the canvas so far, along the curve that is drawn.
        refinable = model.sees_canvas and model.draws_curves
        refiners = training.num_refiners if refinable else 0
        self.refinement = StrokeRefinement(
            self.controls, values, width, refiners, RefinerSchedule.from_config(training)
        )
        reach = geometry.CONTROL_REACH
        self.stroke_range = IntervalTransform([-reach, -reach], [reach, reach])
        self.pen_range = IntervalTransform(geometry.PEN_LOW[:values], geometry.PEN_HIGH[:values])
        # Predicts, in units that the estimator normalises, what is still to come.
        self.baseline = mlp(3 * width, width, 1)

    @classmethod
    def refusal(cls, model: DrawingModel[Any]) -> str | None:
        """DooD's sites are needed."""
        return None if isinstance(model, DooD) else "it needs a model with the sites of DooD"

    def baseline_parameters(self) -> list[nn.Parameter]:
        """Parameters of the network that predicts the cost still to come."""
        return list(self.baseline.parameters())

    def set_step(self, step: int) -> None:
        """Open the refiners' gates as far as their schedule says."""
        self.refinement.set_step(step)

    def phase(self) -> int:
        """Number of refiners at work."""
        return self.refinement.num_active()

    # The program.

    def initial_state(self, images: ImageBatch) -> State:
        """The model's own first state: it is shared."""
        state: State = self.model.initial_state(len(images), images.native_size)
        return state

    def step(self, t: int, state: State, image: Tensor) -> State:
        """Sample the sites of step t, equation 6."""
        inputs = self.model.step_inputs(state)
        residual = image - inputs.canvas
        features = self.residual_encoder(residual.unsqueeze(-3))
        infer: Any = {
            "baseline": {
                "nn_baseline": lambda seen: self.baseline(seen).squeeze(-1),
                "nn_baseline_input": concatenate(features, inputs.features, inputs.layout_rnn),
            }
        }
        q_on = dist.Bernoulli(logits=self.q_on(features, inputs, state.alive))
        on = pyro.sample(on_site(t), q_on.mask(state.alive > 0), infer=infer)
        alive = state.alive * on > 0
        q_layout = self.q_layout(features, inputs)
        layout = pyro.sample(site_name("layout", t), q_layout.mask(alive))
        q_stroke, pen = self.q_stroke_and_pen(image, residual, layout, state, inputs)
        stroke = pyro.sample(site_name("stroke", t), q_stroke.mask(alive))
        if not isinstance(pen, Tensor):
            pen = pyro.sample(site_name("pen", t), pen.mask(alive))
        drawn: State = self.model.draw(state, inputs, StepValues(on, layout, stroke, pen))
        return drawn

    # The conditionals of section 2.2.

    def q_on(self, features: Tensor, inputs: StepInputs, alive: Tensor) -> Float[Tensor, "*batch"]:
        """Logit of q_on(o_t | Δx_t); without execution guidance given h^l_t, too."""
        if not self.model.sees_canvas:
            features = concatenate(features, inputs.layout_rnn)
        logit: Tensor = self.on_head(features, alive)
        return logit

    def q_layout(self, features: Tensor, inputs: StepInputs) -> dist.TorchDistribution:
        """q_layout(l_t | Δx_t, h^l_t), equation 7."""
        raw = self.layout_head(concatenate(features, inputs.layout_rnn))
        mean = self.layout_range(raw[..., :4])
        return dist.Normal(mean, softplus_std(raw[..., 4:], self.MIN_STD, 0.05)).to_event(1)

    def q_stroke_and_pen(
        self,
        image: Tensor,
        residual: Tensor,
        layout: Tensor,
        state: State,
        inputs: StepInputs,
    ) -> tuple[dist.TorchDistribution, dist.TorchDistribution | Tensor]:
        """q_stroke(s_t | Δx̃_t, h^s_t), equation 8, refined, and the pen's Gaussian from the same
        glimpse; where the pen is not latent, the pen itself."""
        frame = Frame.from_layout(layout)
        given = self.stroke_inputs(residual, frame, layout, inputs)
        proposal = self.propose(given, inputs)
        if self.refinement.refiners:
            proposal = self.refine(proposal, image, residual, frame, state)
        std = softplus_std(proposal.raw_point_std, self.MIN_STD, 0.05)
        q_stroke = self.stroke_gaussian(proposal.points, std, given)
        if not self.pens:
            return q_stroke, proposal.pen
        pen_std = softplus_std(proposal.raw_pen_std, self.MIN_STD, 0.1)
        return q_stroke, dist.Normal(proposal.pen, pen_std).to_event(1)

    def stroke_inputs(
        self, residual: Tensor, frame: Frame, layout: Tensor, inputs: StepInputs
    ) -> Float[Tensor, "*batch features"]:
        """l_t, the encoded glimpse Δx̃_t of the residual, and h^s_t."""
        seen = glimpse(residual, frame.matrix, self.model.config.glimpse_size)
        features = self.glimpse_encoder(seen.unsqueeze(-3))
        return concatenate(layout, features, inputs.stroke_rnn)

    def propose(self, given: Tensor, inputs: StepInputs) -> StrokeProposal:
        """Means and raw standard deviations of control points and pen: equation 8."""
        dims = 2 * self.controls
        sizes = [dims, dims, self.pens, self.pens]
        points, point_std, raw_pen, pen_std = self.stroke_head(given).split(sizes, dim=-1)
        return StrokeProposal(
            self.stroke_range(points.unflatten(-1, (self.controls, 2))),
            point_std.unflatten(-1, (self.controls, 2)),
            self.pen_range(raw_pen) if self.pens else self.model.shared_pen(inputs),
            raw_pen if self.pens else None,
            pen_std,
        )

    def refine(
        self,
        proposal: StrokeProposal,
        image: Tensor,
        residual: Tensor,
        frame: Frame,
        state: State,
    ) -> StrokeProposal:
        """The proposal, moved to where the image says that the stroke lies."""
        # Like the canvas, the ink so far carries no gradient.
        ink = state.ink.detach() if self.model.detach else state.ink
        seen = RefinerInputs(image, residual, ink)
        # Where gradients are checked they must be exact: a capped one is not.
        refined: StrokeProposal = self.refinement(
            proposal, frame, seen, self.pen_range, cap_gradient=self.model.detach
        )
        return refined

    def stroke_gaussian(self, mean: Tensor, std: Tensor, given: Tensor) -> dist.TorchDistribution:
        """Gaussian of the control points, ``(*batch, controls, 2)``.

        Args:
            given: what the stroke was proposed from (`stroke_inputs`).
        """
        return dist.Normal(mean, std).to_event(2)
