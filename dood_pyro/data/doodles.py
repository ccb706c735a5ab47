"""Random pen strokes drawn by the project's own renderer, with the true strokes kept.

What a parse should find is known here, which no real source offers.
"""

from pathlib import Path

import numpy as np
import torch

from dood_pyro import drawing
from dood_pyro.data.prepared import Arrays
from dood_pyro.rendering import canvas_from_ink, stroke_ink

DESCRIPTION = "random pen strokes, drawn here, true strokes known"

COUNTS = {"train": 10_000, "test": 1_000}
MAX_STROKES = 4
SIZE = 50


def prepare(folder: Path, scratch: Path) -> Arrays:
    """Draws one to four smooth strokes a picture, all with one pen, the same ones every time.

    Beside the images: ``*_control`` (count, strokes, 5, 2) and ``*_sigma`` and ``*_darkness``
    (count,), in canvas units as for `dood_pyro.rendering.stroke_ink`; ``*_strokes`` (count,) says
    how many of the strokes were drawn, and doubles as the label.
    """
    generator = torch.Generator().manual_seed(0)
    arrays: Arrays = {}
    for part, count in COUNTS.items():
        control, sigma, darkness, strokes = _random_strokes(count, generator)
        images = torch.empty(count, SIZE, SIZE, dtype=torch.uint8)
        for rows in torch.arange(count).split(500):
            drawn = (torch.arange(MAX_STROKES) < strokes[rows, None]) * darkness[rows, None]
            ink = stroke_ink(control[rows], sigma[rows, None].expand_as(drawn), drawn, SIZE).sum(1)
            images[rows] = (canvas_from_ink(ink) * 255).round().to(torch.uint8)
        arrays[f"{part}_images"] = images.numpy()
        arrays[f"{part}_labels"] = strokes.numpy().astype(np.uint8)
        arrays[f"{part}_strokes"] = strokes.numpy().astype(np.uint8)
        arrays[f"{part}_control"] = control.numpy()
        arrays[f"{part}_sigma"] = sigma.numpy()
        arrays[f"{part}_darkness"] = darkness.numpy()
    return arrays


def _random_strokes(
    count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    # A walk whose heading turns by a steady, random rate: arcs, hooks and near-straight lines.
    heading = uniform(-torch.pi, torch.pi, MAX_STROKES, 1)
    turn = uniform(-0.9, 0.9, MAX_STROKES, 1)
    angles = heading + turn * torch.arange(4)
    steps = uniform(0.12, 0.35, MAX_STROKES, 1)[..., None] * torch.stack(
        [angles.cos(), angles.sin()], dim=-1
    )
    walk = torch.cat([torch.zeros(count, MAX_STROKES, 1, 2), steps.cumsum(-2)], dim=-2)
    control = walk - walk.mean(-2, keepdim=True) + uniform(-0.45, 0.45, MAX_STROKES, 1, 2)
    reach = 0.95
    sigma = uniform(float(np.exp(drawing.PEN_LOW[0])), 0.07)
    strokes = torch.randint(1, MAX_STROKES + 1, (count,), generator=generator)
    return control.clamp(-reach, reach), sigma, uniform(1.0, 3.5), strokes
