"""Base class of generative programs: a drawing made step by step, and the image's likelihood.
Every model of the package extends `DrawingModel`; training, inference and tasks work with any model
through it.

A program draws for t = 1…K: a Bernoulli ``on_t``, latent variables of its own, then the deterministic
``canvas_t``; last ``image`` around the last canvas (`dood_pyro.models.sites`). Estimators, bounds and
tasks know programs by these sites and by what `DrawingModel` declares. To write one, see
docs/extending.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pyro.ops.provenance import get_provenance, track_provenance
from torch import Tensor, nn

from dood_pyro.config import ModelConfig
from dood_pyro.errors import UserError
from dood_pyro.images import ImageBatch, Images, as_batch
from dood_pyro.models.parameter_store import register_parameters
from dood_pyro.models.sites import IMAGE, IMAGES
from dood_pyro.rendering import canvas_from_ink

MIN_INK_SCALE = 0.5
"""Smallest size of the ink grid, as a share of the canvas's: on fewer pixels more and more pens are so
thin that strokes fall between pixels."""

MIN_LIKELIHOOD_SCALE = 0.01
"""Floor of the likelihood's scale, as in the paper's experiments."""


class CanvasState(Protocol):
    """Fields that every program's state has."""

    @property
    def ink(self) -> Float[Tensor, "*batch ink_size ink_size"]:
        """Ink so far, before it saturates and is enlarged to the canvas."""

    @property
    def canvas(self) -> Float[Tensor, "*batch size size"]:
        """The canvas so far, in [0, 1)."""

    @property
    def alive(self) -> Float[Tensor, "*batch"]:
        """1 where every ``on`` so far was 1."""


S = TypeVar("S", bound=CanvasState)


class Trajectory(NamedTuple):
    """A program's states before the first step and after each.

    A guide that advances the model's own state returns them, so that the model, replayed on the
    guide's samples, takes the states over: nothing is encoded or rendered twice.
    """

    states: tuple[Any, ...]


class DrawingModel(nn.Module, Generic[S]):
    """A generative program p(image, drawing). ``forward`` is the Pyro program.

    A plain torch module: its parameters enter Pyro's parameter store only where something collects
    them, such as `pyro.infer.SVI` (`dood_pyro.models.parameter_store`).

    Args:
        config: sizes and choices.
        detach: whether the canvas carries no gradient into encoders, RNNs and ``on_t``; False only
            for checks of gradients.
    """

    title: ClassVar[str]
    """Name in tables and figures; the paper's where it has one."""
    amortised_guide: ClassVar[str]
    """The program's own trainable guide, as ``module:Class``."""
    draws_curves: ClassVar[bool] = False
    """Whether strokes are Bézier curves under the renderer, in sites of the kinds ``layout``,
    ``stroke`` and ``pen``."""
    part_sites: ClassVar[tuple[str, ...]] = ()
    """Kinds of the sites whose values, joined, are a part's vector, for models whose parts a network
    draws (`part_ink`) and a site of kind ``layout`` places; none for others."""
    sees_canvas: ClassVar[bool] = True
    """Execution guidance: whether model and guide see the canvas so far."""

    def __init__(self, config: ModelConfig, detach: bool = True) -> None:
        super().__init__()
        self.config = config
        self.detach = detach
        self.raw_scale = nn.Parameter(torch.tensor(-2.3))

    # What a program implements.

    def initial_state(self, count: int, native_size: int = 0) -> S:
        """Blank canvases for ``count`` drawings of images of a native size."""
        raise NotImplementedError

    def step(self, t: int, state: S, after: S | None = None) -> S:
        """Sample the sites of step t and return the state after it.

        Args:
            after: that state, where a guide has computed it from the very values that the sites are
                replayed with.
        """
        raise NotImplementedError

    def prior_parameters(self) -> list[nn.Parameter]:
        """Parameters that the prior alone depends on: neither what is drawn for given values of the
        sites nor what a guide sees of it changes with them."""
        raise NotImplementedError

    def part_ink(
        self, part: Float[Tensor, "*batch dims"]
    ) -> Float[Tensor, "*batch glimpse_size glimpse_size"]:
        """Ink of parts in their own frames, for models with ``part_sites``."""
        raise NotImplementedError

    def canvases(
        self, values: dict[str, Float[Tensor, "steps *batch *event"]], native_size: int = 0
    ) -> Float[Tensor, "stops *batch size size"]:
        """Canvases after 0…K parts of drawings that do not stop, for programs that draw at once.

        Args:
            values: of the latent variables but ``on_t``, by the kind of their site.
        """
        raise NotImplementedError

    # What all share.

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.raw_scale.device

    @property
    def samples_all(self) -> bool:
        """Whether latent variables alone decide what is drawn; if not, the program has deterministic
        sites beside ``canvas_t``."""
        return True

    @property
    def draws_at_once(self) -> bool:
        """Whether `canvases` draws all steps of given values at once; searches are then faster."""
        return False

    settings_without_effect: ClassVar[tuple[str, ...]] = ("pointers", "chain")
    """Settings of `ModelConfig` that the program does not go by."""
    usual_settings: ClassVar[Mapping[str, Any]] = {}
    """Settings of `ModelConfig` that new trainings of the model have unless told otherwise."""
    else_like: ClassVar[tuple[str, ...]] = ()
    """Names of models that this one is like in all but its prior, which can be trained alone from their
    runs."""

    @classmethod
    def prior_is_of_strokes(cls, config: ModelConfig) -> bool:
        """Whether the prior follows from latent variables alone, without drawing (`prior_of`)."""
        return False

    def prior_of(
        self,
        values: dict[str, Float[Tensor, "steps batch *event"]],
        wanted: Bool[Tensor, "steps batch"] | None = None,
    ) -> tuple[Float[Tensor, "steps batch"], Float[Tensor, "steps batch"]]:
        """Logits of p(on_t), and log p of step t's other variables, given those of the steps before.

        Args:
            values: of the latent variables but ``on_t``, by the kind of their site.
            wanted: where log p is wanted, if not everywhere; elsewhere it is 0.
        """
        raise NotImplementedError

    def scale_parameters(self) -> list[nn.Parameter]:
        """Parameters of the likelihood's scale, which learn at a rate of their own."""
        return [self.raw_scale]

    def ink_size(self, native_size: int) -> int:
        """Pixels per side of the grid that ink is put on for images of a native size: theirs, if that
        is fewer than the canvas has but not below `MIN_INK_SCALE` of it; else the canvas's."""
        size = self.config.canvas_size
        coarse = self.config.native_resolution and MIN_INK_SCALE * size <= native_size < size
        return native_size if coarse else size

    def batch(self, images: Images) -> ImageBatch:
        """Images as a batch.

        Raises:
            UserError: they are not of the canvas's size.
        """
        size, shape = self.config.canvas_size, tuple(as_batch(images).pixels.shape)
        if len(shape) != 3 or shape[1:] != (size, size):
            raise UserError(
                f"images of shape {shape} do not fit a canvas of {size} pixels per side: they must be "
                f"(images, {size}, {size}); dood_pyro.load(run).parse takes pictures of any size"
            )
        return as_batch(images)

    def picture(
        self, ink: Float[Tensor, "*batch ink_size ink_size"]
    ) -> Float[Tensor, "*batch size size"]:
        """The canvas that ink leaves."""
        return canvas_from_ink(ink, self.config.canvas_size)

    def likelihood_scale(self) -> Float[Tensor, ""]:
        """σ of equation 5: one learned scalar, in units of brightness."""
        return MIN_LIKELIHOOD_SCALE + F.softplus(self.raw_scale)

    def likelihood(self, canvas: Tensor, scale: Tensor | None = None) -> dist.TorchDistribution:
        """p_comp(x | x_≤T) of each pixel given the last canvas, equation 5."""
        scale = self.likelihood_scale() if scale is None else scale
        if self.config.likelihood == "gaussian":
            return dist.Normal(canvas, scale)
        return dist.Laplace(canvas, scale)

    def log_likelihood(
        self, image: Tensor, canvas: Tensor, scale: Tensor
    ) -> Float[Tensor, "*batch"]:
        """log p_comp(x | x_≤T), nats per image: the density of `likelihood` with fewer passes over
        the pixels."""
        pixels = canvas.shape[-1] * canvas.shape[-2]
        error = image - canvas
        if self.config.likelihood == "gaussian":
            squares = torch.linalg.vector_norm(error, dim=(-1, -2)) ** 2
            return -0.5 * squares / scale**2 - pixels * (scale.log() + 0.5 * math.log(2 * math.pi))
        absolute = torch.linalg.vector_norm(error, ord=1, dim=(-1, -2))
        return -absolute / scale - pixels * (2 * scale).log()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        register_parameters(self)
        return super().__call__(*args, **kwargs)

    def forward(
        self,
        images: Images | None = None,
        count: int = 1,
        native_size: int = 0,
        trajectory: Trajectory | None = None,
    ) -> Float[Tensor, "*particles images size size"]:
        """Draw, and observe ``images`` where they are given; else make ``count`` drawings.

        Args:
            images: what is observed.
            count, native_size: of drawings made without images.
            trajectory: the states of the guide whose samples this program is replayed on.

        Returns:
            The final canvases, in [0, 1).
        """
        observed = None
        if images is not None:
            batch = self.batch(images)
            count, native_size, observed = len(batch), batch.native_size, batch.pixels
        steps = range(1, self.config.max_strokes + 1)
        with pyro.plate(IMAGES, count, dim=-1):
            state = self.initial_state(count, native_size)
            if trajectory is not None:
                state = trajectory.states[0]
            # The canvas, and with it the image, depends on every earlier step.
            for t in pyro.markov(steps, history=len(steps)):
                state = self.step(t, state, None if trajectory is None else trajectory.states[t])
                if t == len(steps):  # in the loop: what is enumerated there is not known outside
                    self.observe(state, observed)
        return state.canvas

    def observe(self, state: S, image: Tensor | None) -> None:
        """Sample the image around the last canvas, or observe it."""
        # Which strokes were drawn decides the image. The canvas does not carry that provenance
        # (tracking makes tensors slow), so the likelihood's scale does.
        scale = track_provenance(self.likelihood_scale(), get_provenance(state.alive))
        pyro.sample(IMAGE, self.likelihood(state.canvas, scale).to_event(2), obs=image)
