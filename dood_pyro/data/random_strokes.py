"""Random pen strokes, drawn by the renderer, with the true strokes kept.

A source that needs no data, and whose right parses are known, which no real source offers; and what a
guide learns to parse beside its source's images (`TrainConfig.synthetic_ratio`).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dood_pyro import geometry
from dood_pyro.data.prepared import Arrays
from dood_pyro.rendering import canvas_from_ink, stroke_ink

COUNTS = {"train": 10_000, "test": 1_000}
MAX_STROKES = 4
SIZE = 50
SIGMAS = (float(np.exp(geometry.PEN_LOW[0])), 0.07)


class RandomStrokes(NamedTuple):
    """Strokes of pictures, in canvas units as for `dood_pyro.rendering.stroke_ink`; one pen each."""

    control: Float[Tensor, "count strokes 5 2"]
    sigma: Float[Tensor, "count"]
    darkness: Float[Tensor, "count"]
    strokes: Int[Tensor, "count"]
    """How many of the strokes, from the first on, are drawn."""

    def render(self, size: int) -> Float[Tensor, "count size size"]:
        """The pictures, in [0, 1)."""
        return canvas_from_ink(self.ink(size))

    def ink(self, size: int) -> Float[Tensor, "count size size"]:
        """Ink of all strokes together."""
        every = torch.arange(self.control.shape[1], device=self.control.device)
        drawn = (every < self.strokes[:, None]) * self.darkness[:, None]
        # One after the other: together they would take the most memory of a training.
        ink = drawn.new_zeros(len(drawn), size, size)
        for control, darkness in zip(self.control.unbind(1), drawn.unbind(1), strict=True):
            ink += stroke_ink(control, self.sigma, darkness, size)
        return ink


def sample_random_strokes(
    count: int,
    max_strokes: int,
    sigmas: tuple[float, float],
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> RandomStrokes:
    """Random drawings of one to ``max_strokes`` smooth strokes.

    Args:
        sigmas: range of the pen's standard deviation, canvas units.
        generator: source of random numbers; None for torch's own.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(count, *shape, generator=generator, device=device)
        return low + (high - low) * drawn

    # A walk whose heading turns by a steady, random rate: arcs, hooks and near-straight lines.
    heading = uniform(-torch.pi, torch.pi, max_strokes, 1)
    turn = uniform(-0.9, 0.9, max_strokes, 1)
    angles = heading + turn * torch.arange(4, device=device)
    steps = uniform(0.12, 0.35, max_strokes, 1)[..., None] * torch.stack(
        [angles.cos(), angles.sin()], dim=-1
    )
    walk = torch.cat([steps.new_zeros(count, max_strokes, 1, 2), steps.cumsum(-2)], dim=-2)
    control = walk - walk.mean(-2, keepdim=True) + uniform(-0.45, 0.45, max_strokes, 1, 2)
    reach = 0.95
    sigma = uniform(*sigmas)
    strokes = torch.randint(1, max_strokes + 1, (count,), generator=generator, device=device)
    return RandomStrokes(control.clamp(-reach, reach), sigma, uniform(1.0, 3.5), strokes)


def prepare(folder: Path, scratch: Path) -> Arrays:
    """Draws one to four smooth strokes a picture, all with one pen, the same ones every time.

    Beside the images: ``*_control`` (count, strokes, 5, 2) and ``*_sigma`` and ``*_darkness``
    (count,), in canvas units as for `dood_pyro.rendering.stroke_ink`; ``*_strokes`` (count,) says
    how many of the strokes were drawn, and doubles as the label.
    """
    generator = torch.Generator().manual_seed(0)
    arrays: Arrays = {}
    for part, count in COUNTS.items():
        drawings = sample_random_strokes(count, MAX_STROKES, SIGMAS, generator)
        control, sigma, darkness, strokes = drawings
        images = torch.empty(count, SIZE, SIZE, dtype=torch.uint8)
        for rows in torch.arange(count).split(500):
            pictures = RandomStrokes(*(column[rows] for column in drawings)).render(SIZE)
            images[rows] = (pictures * 255).round().to(torch.uint8)
        arrays[f"{part}_images"] = images.numpy()
        arrays[f"{part}_labels"] = strokes.numpy().astype(np.uint8)
        arrays[f"{part}_strokes"] = strokes.numpy().astype(np.uint8)
        arrays[f"{part}_control"] = control.numpy()
        arrays[f"{part}_sigma"] = sigma.numpy()
        arrays[f"{part}_darkness"] = darkness.numpy()
    return arrays
