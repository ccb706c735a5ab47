"""Sheets of drawings: targets, and each drawing after every stroke, strokes coloured by order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dood_pyro.drawing import STROKE_COLOURS, Drawing
from dood_pyro.files import write_atomically
from dood_pyro.rendering import canvas_from_ink, stroke_ink

CELL = 80
"""Pixels a side of one picture on a sheet."""
GAP = 4


def colour_steps(drawing: Drawing, size: int, steps: int) -> UInt8[np.ndarray, "steps size size 3"]:
    """A drawing on white after 1…``steps`` strokes, each stroke in its colour.

    Where strokes cross, their colours mix by their ink. After its last stroke a drawing stays.
    """
    colours = torch.tensor([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in STROKE_COLOURS])
    ink = torch.zeros(size, size)
    tint = torch.zeros(size, size, 3)
    pictures = [torch.full((size, size, 3), 255.0)]
    for index, stroke in enumerate(drawing.strokes):
        sigma, darkness = torch.tensor(stroke.sigma), torch.tensor(stroke.darkness)
        more = stroke_ink(stroke.control, sigma, darkness, size, points=192)
        ink = ink + more
        tint = tint + more[..., None] * (colours[index % len(colours)] / 255)
        opacity = canvas_from_ink(ink)[..., None]
        mixed = tint / ink[..., None].clamp(min=1e-6)
        pictures.append(255 * (1 - opacity + opacity * mixed))
    chosen = [pictures[min(step, len(drawing))] for step in range(1, steps + 1)]
    return torch.stack(chosen).round().clamp(0, 255).byte().numpy()


def stepwise_sheet(
    images: Float[Tensor, "count size size"], drawings: Sequence[Drawing], steps: int
) -> UInt8[np.ndarray, "height width 3"]:
    """A column a drawing: the target on top, then the drawing after each of ``steps`` strokes."""
    columns = []
    for image, drawing in zip(images, drawings, strict=True):
        paper = (255 * (1 - enlarge(image))).round().clamp(0, 255).byte().numpy()
        target = np.repeat(paper[..., None], 3, axis=-1)
        cells = [target, *colour_steps(drawing, CELL, steps)]
        columns.append(np.concatenate([_framed(cell) for cell in cells]))
    return np.concatenate(columns, axis=1)


def enlarge(image: Float[Tensor, "size size"]) -> Float[Tensor, "cell cell"]:
    """An image at the size of a sheet's cells, its pixels left to be seen."""
    return torch.nn.functional.interpolate(image[None, None].cpu(), size=(CELL, CELL))[0, 0]


def _framed(cell: UInt8[np.ndarray, "size size 3"]) -> UInt8[np.ndarray, "framed framed 3"]:
    framed = np.full((cell.shape[0] + GAP, cell.shape[1] + GAP, 3), 225, dtype=np.uint8)
    framed[GAP // 2 : -(GAP // 2), GAP // 2 : -(GAP // 2)] = cell
    return framed


def save_png(path: Path, sheet: UInt8[np.ndarray, "height width 3"]) -> None:
    """Writes a sheet.

    Raises:
        UserError: the disk does not take it.
    """
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG", optimize=True)
    write_atomically(path, buffer.getvalue())
