"""Base classes of guides: recognition programs q(drawing | images) over the sites of a model.
Every guide of the package extends one, search guides included; training, inference and tasks work with
any guide through them.

Bounds, parses and tasks ask a guide for its properties by this interface, and know no particular guide.
`Guide` is enough for a guide that is written as a whole; `SequentialGuide` is for guides that go stroke
by stroke, so that inference can step in between. To write one, see docs/extending.md.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, ClassVar, Generic, TypeVar, cast

import pyro
from torch import Tensor, nn

from dood_pyro.images import ImageBatch, Images
from dood_pyro.models.base import CanvasState, DrawingModel, Trajectory
from dood_pyro.models.parameter_store import register_parameters
from dood_pyro.models.sites import IMAGES

Progress = Callable[[float], None]
"""Called with the number of images done since the last call, parts of them counted."""


class Guide(nn.Module):
    """A recognition program. ``forward(images)`` is the Pyro program.

    Args:
        model: the program that the guide is for. It is not a submodule: its parameters are not the
            guide's.
    """

    sequential: ClassVar[bool] = False
    """Whether it goes step by step, as a `SequentialGuide`."""
    has_density: ClassVar[bool] = True
    """Whether its samples are draws of a distribution whose density is known; weighted particles are
    not."""
    searches: ClassVar[bool] = False
    """Whether it searches image by image, so that its `posterior` is another guide."""
    search_share: ClassVar[float] = 0.0
    """For guides that search: the share of the time per image that the search takes, roughly, where
    bounds are measured."""

    def __init__(self, model: DrawingModel[Any]) -> None:
        super().__init__()
        # In a list: as a submodule the model's weights would be the guide's, too.
        self._model = [model]

    @property
    def model(self) -> Any:
        """The program that the guide is for."""
        return self._model[0]

    @classmethod
    def refusal(cls, model: DrawingModel[Any]) -> str | None:
        """Reason why this class of guides cannot serve a model, as "it needs …"; None if it can."""
        return None

    def baseline_parameters(self) -> list[nn.Parameter]:
        """Parameters of learned baselines: only score-function estimators train them, in a group of
        their own."""
        return []

    def set_step(self, step: int) -> None:
        """Set what depends on the number of training steps taken, in buffers; called before each."""

    def phase(self) -> Hashable:
        """What the guide does now that it may not do after other numbers of training steps: steps of
        one phase run the same operations."""
        return None

    def posterior(self, images: Images, progress: Progress | None = None) -> Guide:
        """The guide that samples for these images are drawn from: this one, unless it searches."""
        return self

    def rows(self, rows: slice | Tensor) -> Guide:
        """The guide for some of the images that it is the `posterior` of."""
        return self

    def bound(self, images: ImageBatch, particles: int) -> Any:
        """The guide's own bound on log p(x), an `inference.importance.ImportanceBound`, where it has a
        better one than its samples give; else None."""
        return None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        register_parameters(self)
        return super().__call__(*args, **kwargs)

    def forward(self, images: Images) -> Trajectory | None:
        """Sample the model's latent sites for ``images``.

        Returns:
            The model's states along the way, where the guide has computed them by
            ``model.initial_state`` and ``model.draw``; the model then takes them over.
        """
        raise NotImplementedError


G = TypeVar("G", bound=tuple[Any, ...])


class SequentialGuide(Guide, Generic[G]):
    """A guide that goes step by step, with a state of type G."""

    sequential: ClassVar[bool] = True

    def initial_state(self, images: ImageBatch) -> G:
        """The guide's state before the first step."""
        raise NotImplementedError

    def step(self, t: int, state: G, image: Tensor) -> G:
        """Sample the sites of step t.

        Args:
            image: pixels, (images, size, size).
        """
        raise NotImplementedError

    def model_state(self, state: G) -> CanvasState:
        """The model's own state in the guide's: all of it, unless a guide carries more."""
        return cast(CanvasState, state)

    def forward(self, images: Images) -> Trajectory:
        """Sample all steps' sites; return the model's states."""
        batch = self.model.batch(images)
        steps = range(1, self.model.config.max_strokes + 1)
        with pyro.plate(IMAGES, len(batch), dim=-1):
            state = self.initial_state(batch)
            states = [self.model_state(state)]
            for t in pyro.markov(steps, history=len(steps)):
                state = self.step(t, state, batch.pixels)
                states.append(self.model_state(state))
        return Trajectory(tuple(states))
