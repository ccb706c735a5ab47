"""DooD's generative program p(image, strokes), section 2.1, as a Pyro model.
Trainings use it by the name ``dood``.

For t = 1…K, inside ``pyro.plate("images")``:

    on_t      Bernoulli given the canvas so far              equation 4
    layout_t  Gaussian mixture, event (4,)                   equation 2
    stroke_t  Gaussian mixtures, event (degree + 1, 2)       equation 3
    pen_t     Gaussian mixture, event (4,)                   the pen's width, darkness and taper
    canvas_t  deterministic, event (size, size)              Rendering and Compositing modules

then ``image``, Laplace around the last canvas (equation 5). Departures from the paper: there is no
on_{K+1}; the pen is a latent variable unless ``pen="shared"``; a control point's mixture is given
the points before it unless ``control_points="independent"``, so that what the prior draws is a
stroke and not five places; the canvas handed to encoders and RNNs carries no gradient, as in the
paper, and neither does the one that ``on_t`` sees.

The ablations of section 3.1 are subclasses: `dood_pyro.models.ablations`.
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
from dood_pyro.models.distributions import AutoregressivePoints, DiagonalMixture
from dood_pyro.models.networks import (
    AutoregressiveHead,
    ImageEncoder,
    IntervalTransform,
    MixtureHead,
    concatenate,
    glimpse,
    gru_step,
    mlp,
)
from dood_pyro.models.sites import canvas_site, on_site, site_name


class State(NamedTuple):
    """A drawing before step t: all that later steps may depend on."""

    ink: Float[Tensor, "*batch ink_size ink_size"]
    canvas: Float[Tensor, "*batch size size"]
    features: Float[Tensor, "*batch features"]
    """Encoded canvas that step t − 1 was conditioned on; zeros before the first."""
    layout_rnn: Float[Tensor, "*batch features"]
    """h^l_{t−1}"""
    stroke_rnn: Float[Tensor, "*batch features"]
    """h^s_{t−1}"""
    previous: Float[Tensor, "*batch site_dims"]
    """layout, stroke and pen of step t − 1, flattened; zeros before the first."""
    strokes: Float[Tensor, "*batch before site_dims"]
    """All strokes before, for a prior that remembers them; else of none."""
    alive: Float[Tensor, "*batch"]
    """1 where every ``on`` so far was 1."""


class StepInputs(NamedTuple):
    """Inputs of step t's conditionals: the canvas so far, its encoding, and both RNN states.

    Without execution guidance the canvas is blank and the features are zero.
    """

    canvas: Float[Tensor, "*batch size size"]
    features: Float[Tensor, "*batch features"]
    layout_rnn: Float[Tensor, "*batch features"]
    """h^l_t"""
    stroke_rnn: Float[Tensor, "*batch features"]
    """h^s_t"""
    memory: Float[Tensor, "*batch features"] | None = None
    """What a prior that remembers the strokes before makes of them."""
    first: bool | None = None
    """Whether no stroke lies before; None for a prior that does not remember strokes."""


class StepValues(NamedTuple):
    """Values of step t's sites."""

    on: Float[Tensor, "*batch"]
    layout: Float[Tensor, "*batch 4"]
    stroke: Float[Tensor, "*batch controls 2"]
    pen: Float[Tensor, "*batch pen_values"]


class DooD(DrawingModel[State]):
    """The model, and the substrate (RNNs, canvas encoder, renderer) that it shares with its guides."""

    title = "DooD"
    amortised_guide = "dood_pyro.guides.amortised:AmortisedGuide"
    draws_curves: ClassVar[bool] = True
    settings_without_effect: ClassVar[tuple[str, ...]] = (
        *DrawingModel.settings_without_effect,
        "part_dims",
    )
    remembers_strokes: ClassVar[bool] = False
    """Whether the prior goes by all strokes before, which are kept in the state."""

    @property
    def samples_all(self) -> bool:
        """Whether the pen is latent, too."""
        return self.config.pen == "latent"

    @property
    def draws_at_once(self) -> bool:
        """Whether latent variables alone decide what is drawn, by this class's own `draw`."""
        return self.samples_all and type(self).draw is DooD.draw

    def __init__(self, config: ModelConfig, detach: bool = True) -> None:
        super().__init__(config, detach)
        width = config.features
        self.site_dims = 4 + 2 * (config.degree + 1) + config.pen_values
        # The substrate: h^l and h^s are functions of past strokes and the canvas, never the image.
        maps = config.canvas_channels
        self.canvas_encoder = ImageEncoder(config.canvas_size, width, stride=4, maps=maps)
        self.layout_rnn = nn.GRUCell(width + self.site_dims, width)
        self.stroke_rnn = nn.GRUCell(width + self.site_dims, width)
        self.pen_head: nn.Module
        self.make_prior()

    def make_prior(self) -> None:
        """Networks of the conditionals."""
        config, width = self.config, self.config.features
        self.on_head = mlp(width, width, 1)
        self.layout_head = MixtureHead(
            2 * width,
            width,
            1,
            config.layout_components,
            IntervalTransform(geometry.LAYOUT_LOW, geometry.LAYOUT_HIGH),
            initial_std=0.2,
        )
        self.glimpse_encoder = ImageEncoder(config.glimpse_size, width, maps=config.canvas_channels)
        reach = geometry.CONTROL_REACH
        head = AutoregressiveHead if config.control_points == "chained" else MixtureHead
        self.stroke_head = head(
            2 * width + 4,
            width,
            config.degree + 1,
            config.stroke_components,
            IntervalTransform([-reach, -reach], [reach, reach]),
            initial_std=0.3,
        )
        if config.pen == "latent":
            pen_range = self.pen_range()
            self.pen_head = MixtureHead(width + 4, width, 1, 5, pen_range, initial_std=0.5)
        else:
            self.make_shared_pen()

    def make_shared_pen(self) -> None:
        """The network of a pen that is not latent."""
        width = self.config.features
        self.pen_head = nn.Sequential(mlp(width, width, self.config.pen_values), self.pen_range())

    def pen_range(self) -> IntervalTransform:
        """The range of a pen's mean."""
        values = self.config.pen_values
        return IntervalTransform(geometry.PEN_LOW[:values], geometry.PEN_HIGH[:values])

    # The program.

    def step(self, t: int, state: State, after: State | None = None) -> State:
        """Sample the sites of step t, equation 1, and return the state after it."""
        inputs = self.step_inputs(state) if after is None else self.inputs_before(state, after)
        inputs = self.with_memory(inputs, state)
        going = state.alive > 0
        on = pyro.sample(on_site(t), dist.Bernoulli(logits=self.p_on(inputs)).mask(going))
        alive = state.alive * on > 0
        layout = pyro.sample(site_name("layout", t), self.p_layout(inputs).mask(alive))
        stroke = pyro.sample(site_name("stroke", t), self.p_stroke(inputs, layout).mask(alive))
        if self.config.pen == "latent":
            pen = pyro.sample(site_name("pen", t), self.p_pen(inputs, layout, stroke).mask(alive))
        else:
            pen = pyro.deterministic(site_name("pen", t), self.shared_pen(inputs), event_dim=1)
        if after is None:
            after = self.draw(state, inputs, StepValues(on, layout, stroke, pen))
        pyro.deterministic(canvas_site(t), after.canvas, event_dim=2)
        return after

    # The conditionals of section 2.1.

    def p_on(self, inputs: StepInputs) -> Float[Tensor, "*batch"]:
        """Logit of p_on(o_t | x_<t), equation 4."""
        return self.on_head(self.prior_inputs(inputs.features)).squeeze(-1)

    def p_layout(self, inputs: StepInputs) -> dist.TorchDistribution:
        """p_layout(l_t | x_<t, h^l_t), equation 2."""
        given = self.prior_inputs(inputs.features, inputs.layout_rnn)
        mean, std, logits = self.layout_head(given)
        return DiagonalMixture(mean.squeeze(-3), std.squeeze(-3), logits.squeeze(-2))

    def p_stroke(self, inputs: StepInputs, layout: Tensor) -> dist.TorchDistribution:
        """p_stroke(s_t | l_t, x̃_<t, h^s_t), equation 3."""
        features = self.glimpse_features(inputs, layout)
        given = self.prior_inputs(layout, features, inputs.stroke_rnn)
        if self.config.control_points == "chained":
            return AutoregressivePoints(self.stroke_head, given, (self.config.degree + 1, 2))
        return DiagonalMixture(*self.stroke_head(given)).to_event(1)

    def p_pen(self, inputs: StepInputs, layout: Tensor, stroke: Tensor) -> dist.TorchDistribution:
        """p(pen_t | l_t, h^s_t), the prior of the latent pen."""
        mean, std, logits = self.pen_head(self.prior_inputs(layout, inputs.stroke_rnn))
        return DiagonalMixture(mean.squeeze(-3), std.squeeze(-3), logits.squeeze(-2))

    def shared_pen(self, inputs: StepInputs) -> Float[Tensor, "*batch pen_values"]:
        """The pen as a function of h^s_t, the alternative to the latent pen."""
        pen: Tensor = self.pen_head(inputs.stroke_rnn)
        return pen

    def prior_inputs(self, *conditions: Tensor) -> Float[Tensor, "*batch features"]:
        """Conditions of a prior's head, side by side."""
        return concatenate(*conditions)

    def glimpse_features(
        self, inputs: StepInputs, layout: Tensor
    ) -> Float[Tensor, "*batch features"]:
        """Encoding of the glimpse x̃_<t of the canvas at a layout."""
        matrix = geometry.affine_matrix(layout)
        seen = glimpse(inputs.canvas, matrix, self.config.glimpse_size)
        features: Tensor = self.glimpse_encoder(seen.unsqueeze(-3))
        return features

    def prior_parameters(self) -> list[nn.Parameter]:
        """Parameters of the conditionals alone: not the canvas encoder and the RNNs, which guides go
        by, too."""
        heads = [self.on_head, self.layout_head, self.glimpse_encoder, self.stroke_head]
        if self.config.pen == "latent":
            heads.append(self.pen_head)
        return [parameter for head in heads for parameter in head.parameters()]

    # The state and how it advances: shared with the guides.

    def initial_state(self, count: int, native_size: int = 0) -> State:
        """Blank canvases and zero RNN states for ``count`` drawings."""
        like, size, ink_size = self.raw_scale, self.config.canvas_size, self.ink_size(native_size)

        def zeros(*event: int) -> Tensor:
            return like.new_zeros(1, *event).expand(count, *event)

        hidden, ink, canvas = (
            zeros(self.config.features),
            zeros(ink_size, ink_size),
            zeros(size, size),
        )
        previous, strokes = zeros(self.site_dims), zeros(0, self.site_dims)
        return State(ink, canvas, hidden, hidden, hidden, previous, strokes, like.new_ones(count))

    def step_inputs(self, state: State) -> StepInputs:
        """Encode the canvas so far, and advance h^l and h^s by it and the previous stroke."""
        seen, count = state[:-1], len(state.alive)
        # Before the first stroke all drawings are one, expanded: encoding one does for all.
        alike = self.sees_canvas and not any(field.stride(0) for field in seen)
        if alike:
            state = State(*(field[:1] for field in state))
        canvas, features = self.encode_canvas(state)
        rnn_inputs = concatenate(features, state.previous)
        inputs = StepInputs(
            canvas,
            features,
            gru_step(self.layout_rnn, rnn_inputs, state.layout_rnn),
            gru_step(self.stroke_rnn, rnn_inputs, state.stroke_rnn),
        )
        if not alike:
            return inputs
        canvas, features, layout_rnn, stroke_rnn = (
            field.expand(count, *field.shape[1:]) for field in inputs[:4]
        )
        return StepInputs(canvas, features, layout_rnn, stroke_rnn)

    def with_memory(self, inputs: StepInputs, state: State) -> StepInputs:
        """The inputs as the prior needs them, which no guide does."""
        return inputs

    def inputs_before(self, state: State, after: State) -> StepInputs:
        """The inputs of the step that led from ``state`` to ``after``, without computing them anew."""
        canvas = self.visible_canvas(state)
        return StepInputs(canvas, after.features, after.layout_rnn, after.stroke_rnn)

    def encode_canvas(self, state: State) -> tuple[Tensor, Tensor]:
        """The canvas as conditionals see it, and its features."""
        canvas = self.visible_canvas(state)
        return canvas, self.canvas_encoder(canvas.unsqueeze(-3))

    def visible_canvas(self, state: State) -> Float[Tensor, "*batch size size"]:
        """The canvas as conditionals see it: without gradient, unless gradients are checked."""
        return state.canvas.detach() if self.detach else state.canvas

    def draw(self, state: State, inputs: StepInputs, values: StepValues) -> State:
        """Add the stroke's ink to the canvas of drawings that have not stopped."""
        on, layout, stroke, pen = values
        alive = state.alive * on
        drawn = detach_provenance(alive)[..., None, None]
        ink = state.ink + drawn * self.stroke_ink(layout, stroke, pen, state.ink.shape[-1])
        return State(
            ink,
            self.picture(ink),
            inputs.features,
            inputs.layout_rnn,
            inputs.stroke_rnn,
            concatenate(layout, stroke.flatten(-2), pen),
            self.remembered(state.strokes, values),
            alive,
        )

    def remembered(self, strokes: Tensor, values: StepValues) -> Tensor:
        """Strokes before, and one more, as a prior that remembers them has them; here of none."""
        return strokes

    def canvases(
        self, values: dict[str, Float[Tensor, "steps *batch *event"]], native_size: int = 0
    ) -> Float[Tensor, "stops *batch size size"]:
        layout, stroke, pen = (values[kind] for kind in ("layout", "stroke", "pen"))
        ink = self.stroke_ink(layout, stroke, pen, self.ink_size(native_size)).cumsum(0)
        return self.picture(torch.cat([torch.zeros_like(ink[:1]), ink]))

    def stroke_ink(
        self, layout: Tensor, stroke: Tensor, pen: Tensor, size: int
    ) -> Float[Tensor, "*batch size size"]:
        """Ink of the stroke s̃_t = l_t ⊙ s_t, drawn by the renderer."""
        control = geometry.apply_affine(stroke, geometry.affine_matrix(layout))
        return geometry.draw_strokes(control, geometry.pen_profile(pen), size)
