"""DooD's generative program p(image, strokes), section 2.1, as a Pyro model.

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

The ablations of section 3.1 are settings: ``renderer="network"`` is DooD−δR, ``guidance=False`` is
DooD−EG, and ``prior="independent"`` leaves the sequential prior out.
"""

from __future__ import annotations

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.ops.provenance import detach_provenance
from torch import Tensor, nn

from dood_pyro import drawing
from dood_pyro.config import ModelConfig
from dood_pyro.distributions import PointChain
from dood_pyro.networks import (
    ChainHead,
    ImageEncoder,
    MixtureHead,
    PatchDecoder,
    Squash,
    advance,
    concatenate,
    glimpse,
    mlp,
)
from dood_pyro.stepwise import Program


class State(NamedTuple):
    """A drawing before step t: all that later steps may depend on."""

    ink: Float[Tensor, "*batch ink_size ink_size"]
    canvas: Float[Tensor, "*batch size size"]
    layout_rnn: Float[Tensor, "*batch features"]
    stroke_rnn: Float[Tensor, "*batch features"]
    previous: Float[Tensor, "*batch site_dims"]
    """layout, stroke and pen of step t − 1, flattened; zeros before the first."""
    alive: Float[Tensor, "*batch"]
    """1 where every on so far was 1."""


class View(NamedTuple):
    """What step t goes by: the canvas so far, as encoders see it, and the RNNs after a look at it.

    Without execution guidance nothing is seen: the canvas is blank, and the features zero.
    """

    canvas: Float[Tensor, "*batch size size"]
    features: Float[Tensor, "*batch features"]
    layout_rnn: Float[Tensor, "*batch features"]
    stroke_rnn: Float[Tensor, "*batch features"]


class StepValues(NamedTuple):
    """The values of step t's sites."""

    on: Float[Tensor, "*batch"]
    layout: Float[Tensor, "*batch 4"]
    stroke: Float[Tensor, "*batch controls 2"]
    pen: Float[Tensor, "*batch pen_values"]


class DooD(Program[State]):
    """The model, and the substrate (RNNs, renderer) that it shares with its guides."""

    def __init__(self, config: ModelConfig, detach: bool = True) -> None:
        super().__init__(config, detach)
        width = config.features
        self.site_dims = 4 + 2 * (config.degree + 1) + config.pen_values
        # The substrate: h^l and h^s are functions of past strokes and the canvas, never the image.
        maps = config.canvas_channels
        self.canvas_encoder = ImageEncoder(config.canvas_size, width, stride=4, maps=maps)
        self.layout_rnn = nn.GRUCell(width + self.site_dims, width)
        self.stroke_rnn = nn.GRUCell(width + self.site_dims, width)
        # The conditionals.
        self.on_head = mlp(width, width, 1)
        self.layout_head = MixtureHead(
            2 * width,
            width,
            1,
            config.layout_components,
            Squash(drawing.LAYOUT_LOW, drawing.LAYOUT_HIGH),
            initial_std=0.2,
        )
        self.glimpse_encoder = ImageEncoder(config.glimpse_size, width, maps=maps)
        reach = drawing.CONTROL_REACH
        head = ChainHead if config.control_points == "chained" else MixtureHead
        self.stroke_head = head(
            2 * width + 4,
            width,
            config.degree + 1,
            config.stroke_components,
            Squash([-reach, -reach], [reach, reach]),
            initial_std=0.3,
        )
        values = config.pen_values
        pen_range = Squash(drawing.PEN_LOW[:values], drawing.PEN_HIGH[:values])
        self.pen_head: nn.Module
        if config.pen == "latent":
            self.pen_head = MixtureHead(width + 4, width, 1, 5, pen_range, initial_std=0.5)
        else:
            self.pen_head = nn.Sequential(mlp(width, width, values), pen_range)
        if config.renderer == "network":
            dims = 2 * (config.degree + 1) + values
            self.decoder = PatchDecoder(dims, width, config.glimpse_size)

    # The state and how it advances: shared with the guides.

    def initial_state(self, count: int) -> State:
        """Blank canvases and zero RNN states for ``count`` drawings."""
        return self.shared(f"initial {count}", (), lambda: self._initial_state(count))

    def _initial_state(self, count: int) -> State:
        like, size = self.raw_scale, self.config.canvas_size

        def zeros(*event: int) -> Tensor:
            return like.new_zeros(1, *event).expand(count, *event)

        hidden, ink = zeros(self.config.features), zeros(self.ink_size, self.ink_size)
        previous = zeros(self.site_dims)
        return State(ink, zeros(size, size), hidden, hidden, previous, like.new_ones(count))

    def look(self, state: State) -> View:
        """Encodes the canvas so far and advances h^l and h^s by it and the previous stroke."""
        return self.shared("look", (state,), lambda: self._look(state))

    def _look(self, state: State) -> View:
        seen, count = state[:-1], len(state.alive)
        # Before the first stroke all drawings are one, expanded: a look at it does for all.
        alike = self.config.guidance and not any(field.stride(0) for field in seen)
        if alike:
            state = State(*(field[:1] for field in state))
        if self.config.guidance:
            canvas = state.canvas.detach() if self.detach else state.canvas
            features = self.canvas_encoder(canvas.unsqueeze(-3))
        else:
            canvas = state.canvas.new_zeros(state.canvas.shape[-2:])
            features = state.layout_rnn.new_zeros(self.config.features)
        inputs = concatenate(features, state.previous)
        view = View(
            canvas,
            features,
            advance(self.layout_rnn, inputs, state.layout_rnn),
            advance(self.stroke_rnn, inputs, state.stroke_rnn),
        )
        return View(*(field.expand(count, *field.shape[1:]) for field in view)) if alike else view

    def draw(self, state: State, view: View, drawn: StepValues) -> State:
        """Puts a stroke's ink on the canvas where the drawing goes on."""
        # Provenance wraps the model's and the guide's on_t apart; what they wrap is the same.
        key = (state, *map(detach_provenance, drawn))
        return self.shared("draw", key, lambda: self._draw(state, view, drawn))

    def _draw(self, state: State, view: View, drawn: StepValues) -> State:
        on, layout, stroke, pen = drawn
        alive = state.alive * on
        lives = detach_provenance(alive)[..., None, None]
        matrix, size = drawing.affine_matrix(layout), self.ink_size
        if self.config.renderer == "network":
            patch = self.decoder(concatenate(stroke.flatten(-2), pen))
            ink = glimpse(patch, drawing.inverse(matrix), size)
        else:
            control = drawing.place(stroke, matrix)
            ink = drawing.draw_strokes(control, drawing.pen_profile(pen), size)
        ink = state.ink + lives * ink
        return State(
            ink,
            self.picture(ink),
            view.layout_rnn,
            view.stroke_rnn,
            concatenate(layout, stroke.flatten(-2), pen),
            alive,
        )

    # The conditionals of section 2.1.

    def _given(self, *conditions: Tensor) -> Float[Tensor, "*batch features"]:
        """What a conditional is given; nothing at all where the prior is independent."""
        given = concatenate(*conditions)
        return given if self.config.prior == "sequential" else torch.zeros_like(given)

    def p_on(self, view: View) -> Float[Tensor, "*batch"]:
        """Logit of p_on(o_t | x_<t), equation 4; without execution guidance given h^l_t."""
        seen = view.features if self.config.guidance else view.layout_rnn
        return self.on_head(self._given(seen)).squeeze(-1)

    def p_layout(self, view: View) -> dist.TorchDistribution:
        """p_layout(l_t | x_<t, h^l_t), equation 2."""
        mean, std, logits = self.layout_head(self._given(view.features, view.layout_rnn))
        return dist.MixtureOfDiagNormals(mean.squeeze(-3), std.squeeze(-3), logits.squeeze(-2))

    def p_stroke(self, view: View, layout: Tensor) -> dist.TorchDistribution:
        """p_stroke(s_t | l_t, x̃_<t, h^s_t), equation 3."""
        if self.config.guidance:
            seen = glimpse(view.canvas, drawing.affine_matrix(layout), self.config.glimpse_size)
            features = self.glimpse_encoder(seen.unsqueeze(-3))
        else:
            features = view.features
        given = self._given(layout, features, view.stroke_rnn)
        if self.config.control_points == "chained":
            return PointChain(self.stroke_head, given, (self.config.degree + 1, 2))
        return dist.MixtureOfDiagNormals(*self.stroke_head(given)).to_event(1)

    def p_pen(self, view: View, layout: Tensor) -> dist.TorchDistribution:
        """p(pen_t | l_t, h^s_t), the prior of the latent pen."""
        mean, std, logits = self.pen_head(self._given(layout, view.stroke_rnn))
        return dist.MixtureOfDiagNormals(mean.squeeze(-3), std.squeeze(-3), logits.squeeze(-2))

    def shared_pen(self, view: View) -> Float[Tensor, "*batch pen_values"]:
        """The pen as a function of h^s_t, the alternative to the latent pen."""
        return self.shared("pen", (view,), lambda: self._shared_pen(view))

    def _shared_pen(self, view: View) -> Tensor:
        pen: Tensor = self.pen_head(view.stroke_rnn)
        return pen

    def prior_parameters(self) -> list[nn.Parameter]:
        """The conditionals' own: not the canvas encoder and the RNNs, by which guides go, too."""
        heads = [self.on_head, self.layout_head, self.glimpse_encoder, self.stroke_head]
        if self.config.pen == "latent":
            heads.append(self.pen_head)
        return [parameter for head in heads for parameter in head.parameters()]

    # The program.

    def step(self, t: int, state: State) -> State:
        """Step t of equation 1."""
        view = self.look(state)
        on = pyro.sample(f"on_{t}", dist.Bernoulli(logits=self.p_on(view)).mask(state.alive > 0))
        alive = state.alive * on > 0
        layout = pyro.sample(f"layout_{t}", self.p_layout(view).mask(alive))
        stroke = pyro.sample(f"stroke_{t}", self.p_stroke(view, layout).mask(alive))
        if self.config.pen == "latent":
            pen = pyro.sample(f"pen_{t}", self.p_pen(view, layout).mask(alive))
        else:
            pen = pyro.deterministic(f"pen_{t}", self.shared_pen(view), event_dim=1)
        state = self.draw(state, view, StepValues(on, layout, stroke, pen))
        pyro.deterministic(f"canvas_{t}", state.canvas, event_dim=2)
        return state
