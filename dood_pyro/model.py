"""DooD's generative program p(image, strokes), section 2.1, as a Pyro model.

For t = 1…K, inside ``pyro.plate("images")``:

    on_t      Bernoulli given the canvas so far              equation 4
    layout_t  Gaussian mixture, event (4,)                   equation 2
    stroke_t  Gaussian mixtures, event (degree + 1, 2)       equation 3
    pen_t     Gaussian mixture, event (2,)                   the pen's width and darkness
    canvas_t  deterministic, event (size, size)              Rendering and Compositing modules

then ``image``, Laplace around the last canvas (equation 5). Departures from the paper: there is no
on_{K+1}; the pen is a latent variable unless ``pen="shared"``; the canvas handed to encoders and
RNNs carries no gradient, as in the paper, and neither does the one that ``on_t`` sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from torch import Tensor, nn

from dood_pyro import drawing
from dood_pyro.config import ModelConfig
from dood_pyro.networks import ImageEncoder, MixtureHead, Squash, concatenate, glimpse, mlp
from dood_pyro.rendering import canvas_from_ink, stroke_ink

S = TypeVar("S")

LEAST_LIKELIHOOD_SCALE = 0.01
"""Floor of the likelihood's scale, as in the paper's experiments."""


class State(NamedTuple):
    """A drawing before step t: all that later steps may depend on."""

    ink: Float[Tensor, "*batch size size"]
    canvas: Float[Tensor, "*batch size size"]
    layout_rnn: Float[Tensor, "*batch features"]
    stroke_rnn: Float[Tensor, "*batch features"]
    previous: Float[Tensor, "*batch site_dims"]
    """layout, stroke and pen of step t − 1, flattened; zeros before the first."""
    alive: Float[Tensor, "*batch"]
    """1 where every on so far was 1."""


class View(NamedTuple):
    """What step t goes by: the canvas so far, as encoders see it, and the RNNs after a look at it."""

    canvas: Float[Tensor, "*batch size size"]
    features: Float[Tensor, "*batch features"]
    layout_rnn: Float[Tensor, "*batch features"]
    stroke_rnn: Float[Tensor, "*batch features"]


class StepValues(NamedTuple):
    """The values of step t's sites."""

    on: Float[Tensor, "*batch"]
    layout: Float[Tensor, "*batch 4"]
    stroke: Float[Tensor, "*batch controls 2"]
    pen: Float[Tensor, "*batch 2"]


_memo: ContextVar[dict[tuple[Any, ...], tuple[Any, Any]] | None] = ContextVar("memo", default=None)


@contextmanager
def sharing_states() -> Iterator[None]:
    """Inside, the model replayed on a guide's samples takes over the guide's states.

    Both programs advance the same state by the same functions; where the tensors that go in are
    the very same objects, so is what comes out, and nothing is encoded or rendered twice.
    """
    token = _memo.set({})
    try:
        yield
    finally:
        _memo.reset(token)


class DooD(nn.Module):
    """The model, and the substrate (RNNs, renderer) that it shares with its guides.

    ``forward`` is the Pyro program. A plain module rather than a `PyroModule`, which would keep its
    weights in Pyro's global store, where two models of one process overwrite each other.

    Args:
        config: sizes and choices.
        detach: whether the canvas is cut off from the gradient where encoders, RNNs and ``on_t``
            look at it; False only for checks of gradients.
    """

    def __init__(self, config: ModelConfig, detach: bool = True) -> None:
        super().__init__()
        self.config = config
        self.detach = detach
        width = config.features
        self.site_dims = 4 + 2 * (config.degree + 1) + 2
        # The substrate: h^l and h^s are functions of past strokes and the canvas, never the image.
        self.canvas_encoder = ImageEncoder(config.canvas_size, width, stride=4)
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
        self.glimpse_encoder = ImageEncoder(config.glimpse_size, width)
        reach = drawing.CONTROL_REACH
        self.stroke_head = MixtureHead(
            2 * width + 4,
            width,
            config.degree + 1,
            config.stroke_components,
            Squash([-reach, -reach], [reach, reach]),
            initial_std=0.3,
        )
        pen_range = Squash(drawing.PEN_LOW, drawing.PEN_HIGH)
        self.pen_head: nn.Module
        if config.pen == "latent":
            self.pen_head = MixtureHead(width + 4, width, 1, 5, pen_range, initial_std=0.5)
        else:
            self.pen_head = nn.Sequential(mlp(width, width, 2), pen_range)
        self.raw_scale = nn.Parameter(torch.tensor(-2.3))

    # The state and how it advances: shared with the guides.

    def _shared(self, name: str, key: tuple[Any, ...], compute: Callable[[], S]) -> S:
        """``compute()``, or what it gave the last time for the very same tensors."""
        memo = _memo.get()
        if memo is None:
            return compute()
        name_and_ids = (name, torch.is_grad_enabled(), id(self), *map(id, key))
        if name_and_ids not in memo:
            # The key is kept so that no other tensor can take over one of its ids.
            memo[name_and_ids] = (compute(), key)
        return memo[name_and_ids][0]

    def initial_state(self, count: int) -> State:
        """Blank canvases and zero RNN states for ``count`` drawings."""
        return self._shared(f"initial {count}", (), lambda: self._initial_state(count))

    def _initial_state(self, count: int) -> State:
        like, size, width = self.raw_scale, self.config.canvas_size, self.config.features
        blank = like.new_zeros(count, size, size)
        hidden = like.new_zeros(count, width)
        previous = like.new_zeros(count, self.site_dims)
        return State(blank, blank, hidden, hidden, previous, like.new_ones(count))

    def look(self, state: State) -> View:
        """Encodes the canvas so far and advances h^l and h^s by it and the previous stroke."""
        return self._shared("look", (state,), lambda: self._look(state))

    def _look(self, state: State) -> View:
        canvas = state.canvas.detach() if self.detach else state.canvas
        features = self.canvas_encoder(canvas.unsqueeze(-3))
        inputs = concatenate(features, state.previous)
        batch = inputs.shape[:-1]

        def advance(rnn: nn.GRUCell, hidden: Tensor) -> Tensor:
            flat = hidden.expand(*batch, -1).reshape(-1, hidden.shape[-1])
            return rnn(inputs.reshape(-1, inputs.shape[-1]), flat).reshape(*batch, -1)

        return View(
            canvas,
            features,
            advance(self.layout_rnn, state.layout_rnn),
            advance(self.stroke_rnn, state.stroke_rnn),
        )

    def draw(self, state: State, view: View, drawn: StepValues) -> State:
        """Puts a stroke's ink on the canvas where the drawing goes on."""
        # Provenance wraps the model's and the guide's on_t apart; what they wrap is the same.
        key = (state, *map(detach_provenance, drawn))
        return self._shared("draw", key, lambda: self._draw(state, view, drawn))

    def _draw(self, state: State, view: View, drawn: StepValues) -> State:
        on, layout, stroke, pen = drawn
        alive = state.alive * on
        lives = detach_provenance(alive)[..., None, None]
        sigma, darkness = drawing.pen_profile(pen)
        control = drawing.place(stroke, drawing.affine_matrix(layout))
        ink = stroke_ink(control, sigma, darkness, self.config.canvas_size)
        ink = state.ink + lives * ink
        return State(
            ink,
            canvas_from_ink(ink),
            view.layout_rnn,
            view.stroke_rnn,
            concatenate(layout, stroke.flatten(-2), pen),
            alive,
        )

    # The conditionals of section 2.1.

    def p_on(self, view: View) -> Float[Tensor, "*batch"]:
        """Logit of p_on(o_t | x_<t), equation 4."""
        return self.on_head(view.features).squeeze(-1)

    def p_layout(self, view: View) -> dist.TorchDistribution:
        """p_layout(l_t | x_<t, h^l_t), equation 2."""
        mean, std, logits = self.layout_head(concatenate(view.features, view.layout_rnn))
        return dist.MixtureOfDiagNormals(mean.squeeze(-3), std.squeeze(-3), logits.squeeze(-2))

    def p_stroke(self, view: View, layout: Tensor) -> dist.TorchDistribution:
        """p_stroke(s_t | l_t, x̃_<t, h^s_t), equation 3."""
        seen = glimpse(view.canvas, drawing.affine_matrix(layout), self.config.glimpse_size)
        features = self.glimpse_encoder(seen.unsqueeze(-3))
        mean, std, logits = self.stroke_head(concatenate(layout, features, view.stroke_rnn))
        return dist.MixtureOfDiagNormals(mean, std, logits).to_event(1)

    def p_pen(self, view: View, layout: Tensor) -> dist.TorchDistribution:
        """p(pen_t | l_t, h^s_t), the prior of the latent pen."""
        mean, std, logits = self.pen_head(concatenate(layout, view.stroke_rnn))
        return dist.MixtureOfDiagNormals(mean.squeeze(-3), std.squeeze(-3), logits.squeeze(-2))

    def shared_pen(self, view: View) -> Float[Tensor, "*batch 2"]:
        """Width and darkness as a function of h^s_t, the alternative to the latent pen."""
        pen: Tensor = self.pen_head(view.stroke_rnn)
        return pen

    def likelihood_scale(self) -> Float[Tensor, ""]:
        """σ of equation 5: one learned scalar, in units of brightness."""
        return LEAST_LIKELIHOOD_SCALE + F.softplus(self.raw_scale)

    def likelihood(self, canvas: Tensor, scale: Tensor | None = None) -> dist.TorchDistribution:
        """p_comp(x | x_≤T), equation 5."""
        return dist.Laplace(canvas, self.likelihood_scale() if scale is None else scale)

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

    def forward(
        self, image: Float[Tensor, "images size size"] | None = None, count: int = 1
    ) -> Float[Tensor, "*particles images size size"]:
        """Draws, and observes ``image`` where it is given; else makes ``count`` drawings.

        Returns the final canvases, in [0, 1).
        """
        if image is not None:
            count = image.shape[-3]
        with pyro.plate("images", count, dim=-1):
            state = self.initial_state(count)
            for t in pyro.markov(range(1, self.config.max_strokes + 1)):
                state = self.step(t, state)
            # Which strokes were drawn decides the picture. The canvas does not carry that
            # provenance (tracking makes tensors slow), so the likelihood's scale does.
            scale = track_provenance(self.likelihood_scale(), get_provenance(state.alive))
            pyro.sample("image", self.likelihood(state.canvas, scale).to_event(2), obs=image)
        return state.canvas
