"""Random strokes drawn by the renderer, with the true strokes kept.
Used by `dood_pyro.data` for the source ``random-strokes``, and by training for synthetic images.

Random strokes are a source that needs no data and whose true parses are known, unlike those of real
sources. A guide can also learn to parse them beside its source's images
(`TrainConfig.synthetic_ratio`).
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
"""Number of images of each part."""
MAX_STROKES = 4
"""Largest number of strokes per drawing of the source."""
SIZE = 50
"""Pixels per side of the source's images."""
SIGMAS = (float(np.exp(geometry.PEN_LOW[0])), 0.07)
"""Range of the pen's standard deviation in the source, canvas units."""


class RandomStrokes(NamedTuple):
    """Drawings of random strokes, in canvas units as for `dood_pyro.rendering.stroke_ink`; one pen per
    drawing."""

    control: Float[Tensor, "count strokes 5 2"]
    """Control points."""
    sigma: Float[Tensor, "count"]
    """Pen's standard deviation."""
    darkness: Float[Tensor, "count"]
    """Pen's darkness."""
    strokes: Int[Tensor, "count"]
    """Number of strokes, from the first on, that are drawn."""

    def render(self, size: int) -> Float[Tensor, "count size size"]:
        """Pictures of the drawings, in [0, 1)."""
        return canvas_from_ink(self.ink(size))

    def ink(self, size: int) -> Float[Tensor, "count size size"]:
        """Sum of all strokes' ink per drawing."""
        every = torch.arange(self.control.shape[1], device=self.control.device)
        drawn = (every < self.strokes[:, None]) * self.darkness[:, None]
        # Stroke by stroke: all strokes at once would need more memory than any other part of training.
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
    """Sample drawings of one to ``max_strokes`` smooth random strokes.

    Args:
        count: number of drawings.
        sigmas: range of the pen's standard deviation, canvas units.
        generator: random number generator; None for torch's own.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(count, *shape, generator=generator, device=device)
        return low + (high - low) * drawn

    # A walk whose heading turns by a constant random angle per step: arcs, hooks, near-straight lines.
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
    """Return drawings of one to four smooth strokes, one pen per drawing; always the same drawings.

    Arrays beside the images: ``*_control`` (count, strokes, 5, 2), ``*_sigma`` and ``*_darkness``
    (count,), in canvas units as for `dood_pyro.rendering.stroke_ink`; ``*_strokes`` (count,), the
    number of strokes drawn, which is also the label.
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
