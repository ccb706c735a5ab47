"""Random pen strokes drawn by the project's own renderer, with the true strokes kept.

What a parse should find is known here, which no real source offers.
"""

from pathlib import Path

import numpy as np
import torch

from dood_pyro import drawing
from dood_pyro.data.prepared import Arrays
from dood_pyro.doodling import Doodles, doodle

DESCRIPTION = "random pen strokes, drawn here, true strokes known"

COUNTS = {"train": 10_000, "test": 1_000}
MAX_STROKES = 4
SIZE = 50
SIGMAS = (float(np.exp(drawing.PEN_LOW[0])), 0.07)


def prepare(folder: Path, scratch: Path) -> Arrays:
    """Draws one to four smooth strokes a picture, all with one pen, the same ones every time.

    Beside the images: ``*_control`` (count, strokes, 5, 2) and ``*_sigma`` and ``*_darkness``
    (count,), in canvas units as for `dood_pyro.rendering.stroke_ink`; ``*_strokes`` (count,) says
    how many of the strokes were drawn, and doubles as the label.
    """
    generator = torch.Generator().manual_seed(0)
    arrays: Arrays = {}
    for part, count in COUNTS.items():
        drawings = doodle(count, MAX_STROKES, SIGMAS, generator)
        control, sigma, darkness, strokes = drawings
        images = torch.empty(count, SIZE, SIZE, dtype=torch.uint8)
        for rows in torch.arange(count).split(500):
            pictures = Doodles(*(column[rows] for column in drawings)).render(SIZE)
            images[rows] = (pictures * 255).round().to(torch.uint8)
        arrays[f"{part}_images"] = images.numpy()
        arrays[f"{part}_labels"] = strokes.numpy().astype(np.uint8)
        arrays[f"{part}_strokes"] = strokes.numpy().astype(np.uint8)
        arrays[f"{part}_control"] = control.numpy()
        arrays[f"{part}_sigma"] = sigma.numpy()
        arrays[f"{part}_darkness"] = darkness.numpy()
    return arrays
