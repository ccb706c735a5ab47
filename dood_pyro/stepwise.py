"""What every program here shares: a drawing made step by step, and the picture's likelihood.

A program draws for t = 1…K: a Bernoulli ``on_t``, then latent variables of its own, then the
deterministic ``canvas_t``; last ``image`` around the last canvas. Estimators, bounds and tasks know
programs by these sites and by what `Program` declares, whatever happens within a step.

A picture that came with fewer pixels than the canvas has was enlarged, and shows it: along its edges
is a pattern that no pen leaves, and that costs hundreds of nats. It is no part of the drawing but of
how the picture was made. Programs put ink on as few pixels, and enlarge what it leaves in the same
way: p(image | drawing) is given the number of pixels, which is known with the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, Protocol, TypeVar, cast

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pyro.ops.provenance import get_provenance, track_provenance
from torch import Tensor, nn

from dood_pyro.config import ModelConfig
from dood_pyro.data import Drawings
from dood_pyro.rendering import canvas_from_ink

S = TypeVar("S")

COARSEST = 0.5
"""Of the canvas's pixels a side: on fewer, more and more pens are so thin that strokes fall between
pixels."""

LEAST_LIKELIHOOD_SCALE = 0.01
"""Floor of the likelihood's scale, as in the paper's experiments."""


class Drawn(Protocol):
    """What any program's state holds."""

    @property
    def canvas(self) -> Float[Tensor, "*batch size size"]:
        """The canvas so far."""

    @property
    def alive(self) -> Float[Tensor, "*batch"]:
        """1 where every on so far was 1."""


D = TypeVar("D", bound=Drawn)


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


class Program(nn.Module, Generic[D]):
    """A generative program p(image, drawing). ``forward`` is the Pyro program.

    A plain module rather than a `PyroModule`, which would keep its weights in Pyro's global store,
    where two models of one process overwrite each other.

    Args:
        config: sizes and choices.
        detach: whether the canvas is cut off from the gradient where encoders, RNNs and ``on_t``
            look at it; False only for checks of gradients.
    """

    def __init__(self, config: ModelConfig, detach: bool = True) -> None:
        super().__init__()
        self.config = config
        self.detach = detach
        self.raw_scale = nn.Parameter(torch.tensor(-2.3))
        self._ink_size = config.canvas_size

    # Pictures of few pixels.

    @property
    def ink_size(self) -> int:
        """Pixels a side that ink is put on, before it is enlarged to the canvas (`picture`).

        Set by `expect` and `at`, before the program meets pictures, from how many pixels those came
        with.
        """
        return self._ink_size

    def ink_size_for(self, resolution: int) -> int:
        """Pixels a side that pictures are drawn on that came with ``resolution`` a side: as many, if
        that is fewer than the canvas has, but not below `COARSEST`; else the canvas's. 0: not known."""
        size = self.config.canvas_size
        coarse = self.config.native_resolution and COARSEST * size <= resolution < size
        return resolution if coarse else size

    def expect(self, resolution: int) -> None:
        """From here on pictures are met that came with ``resolution`` pixels a side."""
        self._ink_size = self.ink_size_for(resolution)

    @contextmanager
    def at(self, resolution: int) -> Iterator[None]:
        """Inside, pictures are met that came with ``resolution`` pixels a side."""
        before = self._ink_size
        self.expect(resolution)
        try:
            yield
        finally:
            self._ink_size = before

    def meet(
        self, drawings: Drawings, count: int | None = None
    ) -> Float[Tensor, "images size size"]:
        """The first images of a source's shuffle, in [0, 1]; the program expects such from here on."""
        self.expect(drawings.resolution)
        return (drawings.shuffled(count).float() / 255).to(self.raw_scale.device)

    def picture(
        self, ink: Float[Tensor, "*batch ink_size ink_size"]
    ) -> Float[Tensor, "*batch size size"]:
        """The canvas that ink leaves."""
        return canvas_from_ink(ink, self.config.canvas_size)

    # What a program says of itself.

    def initial_state(self, count: int) -> D:
        """Blank canvases for ``count`` drawings."""
        raise NotImplementedError

    def step(self, t: int, state: D) -> D:
        """The sites of step t."""
        raise NotImplementedError

    def prior_parameters(self) -> list[nn.Parameter]:
        """Those that the prior alone depends on: neither what is drawn for given values of the
        sites nor what a guide sees of it changes with them."""
        raise NotImplementedError

    # What all share.

    def shared(self, name: str, key: tuple[Any, ...], compute: Callable[[], S]) -> S:
        """``compute()``, or what it gave the last time for the very same tensors."""
        memo = _memo.get()
        if memo is None:
            return compute()
        name_and_ids = (name, torch.is_grad_enabled(), id(self), *map(id, key))
        if name_and_ids not in memo:
            # The key is kept so that no other tensor can take over one of its ids.
            memo[name_and_ids] = (compute(), key)
        return memo[name_and_ids][0]

    def likelihood_scale(self) -> Float[Tensor, ""]:
        """σ of equation 5: one learned scalar, in units of brightness."""
        return LEAST_LIKELIHOOD_SCALE + F.softplus(self.raw_scale)

    def likelihood(self, canvas: Tensor, scale: Tensor | None = None) -> dist.TorchDistribution:
        """p_comp(x | x_≤T), equation 5: of each pixel, given the last canvas."""
        scale = self.likelihood_scale() if scale is None else scale
        if self.config.likelihood == "gaussian":
            return dist.Normal(canvas, scale)
        return dist.Laplace(canvas, scale)

    def log_likelihood(
        self, image: Tensor, canvas: Tensor, scale: Tensor
    ) -> Float[Tensor, "*batch"]:
        """log p_comp(x | x_≤T), nats an image: the density of `likelihood` with fewer passes over
        the pixels."""
        pixels = canvas.shape[-1] * canvas.shape[-2]
        error = image - canvas
        if self.config.likelihood == "gaussian":
            squares = torch.linalg.vector_norm(error, dim=(-1, -2)) ** 2
            return -0.5 * squares / scale**2 - pixels * (scale.log() + 0.5 * math.log(2 * math.pi))
        absolute = torch.linalg.vector_norm(error, ord=1, dim=(-1, -2))
        return -absolute / scale - pixels * (2 * scale).log()

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


G = TypeVar("G", bound=tuple[Any, ...])


class StepwiseGuide(nn.Module, Generic[G]):
    """A guide that goes step by step, so that inference can step in between two strokes.

    Args:
        model: the program that the guide is for.
    """

    def __init__(self, model: Program[Any]) -> None:
        super().__init__()
        # Held in a list: as a submodule the model's weights would be the guide's, too.
        self._model = [model]

    @property
    def program(self) -> Program[Any]:
        """The program that the guide is for."""
        return self._model[0]

    def start(self, image: Float[Tensor, "images size size"]) -> G:
        """What the guide carries from step to step, before the first."""
        raise NotImplementedError

    def step(self, t: int, state: G, image: Float[Tensor, "images size size"]) -> G:
        """The sites of step t."""
        raise NotImplementedError

    def drawn(self, state: G) -> Drawn:
        """The program's own state in what is carried: all of it, unless a guide carries more."""
        return cast(Drawn, state)

    def forward(self, image: Float[Tensor, "images size size"]) -> G:
        """Parses ``image``; returns what it carries after the last step."""
        with pyro.plate("images", image.shape[-3], dim=-1):
            state = self.start(image)
            for t in pyro.markov(range(1, self.program.config.max_strokes + 1)):
                state = self.step(t, state, image)
        return state
