"""Random pen strokes, drawn by the renderer: a source of pictures that needs no data."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dood_pyro.rendering import canvas_from_ink, stroke_ink


class Doodles(NamedTuple):
    """Pictures' strokes, in canvas units as for `dood_pyro.rendering.stroke_ink`; one pen each."""

    control: Float[Tensor, "count strokes 5 2"]
    sigma: Float[Tensor, "count"]
    darkness: Float[Tensor, "count"]
    strokes: Int[Tensor, "count"]
    """How many of the strokes are drawn, the first."""

    def render(self, size: int) -> Float[Tensor, "count size size"]:
        """The pictures, in [0, 1)."""
        return canvas_from_ink(self.ink(size))

    def ink(self, size: int) -> Float[Tensor, "count size size"]:
        """All strokes' ink."""
        every = torch.arange(self.control.shape[1], device=self.control.device)
        drawn = (every < self.strokes[:, None]) * self.darkness[:, None]
        # One after the other: together they would take the most memory of a training.
        ink = drawn.new_zeros(len(drawn), size, size)
        for control, darkness in zip(self.control.unbind(1), drawn.unbind(1), strict=True):
            ink += stroke_ink(control, self.sigma, darkness, size)
        return ink


def doodle(
    count: int,
    most: int,
    sigmas: tuple[float, float],
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Doodles:
    """One to ``most`` smooth strokes a picture.

    Args:
        sigmas: between which the pen's standard deviation lies, canvas units.
        generator: of random numbers; None for torch's own.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(count, *shape, generator=generator, device=device)
        return low + (high - low) * drawn

    # A walk whose heading turns by a steady, random rate: arcs, hooks and near-straight lines.
    heading = uniform(-torch.pi, torch.pi, most, 1)
    turn = uniform(-0.9, 0.9, most, 1)
    angles = heading + turn * torch.arange(4, device=device)
    steps = uniform(0.12, 0.35, most, 1)[..., None] * torch.stack(
        [angles.cos(), angles.sin()], dim=-1
    )
    walk = torch.cat([steps.new_zeros(count, most, 1, 2), steps.cumsum(-2)], dim=-2)
    control = walk - walk.mean(-2, keepdim=True) + uniform(-0.45, 0.45, most, 1, 2)
    reach = 0.95
    sigma = uniform(*sigmas)
    strokes = torch.randint(1, most + 1, (count,), generator=generator, device=device)
    return Doodles(control.clamp(-reach, reach), sigma, uniform(1.0, 3.5), strokes)
