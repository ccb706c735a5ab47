"""The guide's inputs and strokes at each step of one drawing (Fig. 2).
``dood-pyro anatomy`` draws them, and the page to draw on shows them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro import geometry
from dood_pyro.canvas_drawing import STROKE_COLOURS
from dood_pyro.errors import UserError
from dood_pyro.images import ImageBatch
from dood_pyro.models.networks import glimpse
from dood_pyro.plots import new_figure, save_figure
from dood_pyro.recognition import Recognizer
from dood_pyro.rendering import curve_points

ROWS = ("residual and layout", "glimpse and stroke", "canvas", "on-probability")
"""Titles of the figure's rows."""


class Step(NamedTuple):
    """What the guide sees and does at one step of a drawing."""

    residual: Float[Tensor, "size size"]
    """What is left to draw; without execution guidance, the whole image."""
    on: float
    """q(on_t = 1)"""
    frame: Float[Tensor, "5 2"] | None
    """The layout's frame on the canvas, corner by corner and back; canvas units. None, with what
    follows, where the drawing has stopped."""
    glimpse: Float[Tensor, "glimpse_size glimpse_size"] | None
    stroke: Float[Tensor, "controls 2"] | None
    """Control points in the layout's frame."""
    canvas: Float[Tensor, "size size"] | None
    """After the stroke."""


def steps_of(dood: Recognizer, images: ImageBatch) -> list[Step]:
    """Steps of the parse of one image, up to and with the one at which it stops.

    Args:
        images: a batch of one image.

    Raises:
        UserError: the model draws no curves.
    """
    if not dood.model.draws_curves:
        raise UserError(f"a {dood.config.model_name} model draws no strokes that could be shown")
    parsed, image = dood.infer(images), images.pixels[0]
    drawn = int(parsed.alive.sum())
    canvas, steps = torch.zeros_like(image), []
    for t in range(min(len(parsed.alive), drawn + 1)):
        residual = image - canvas if dood.model.sees_canvas else image
        on = float(parsed.on_probability[t, 0])
        if t == drawn:
            steps.append(Step(residual, on, None, None, None, None))
            break
        matrix = geometry.affine_matrix(parsed.values["layout"][t, 0])
        square = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
        seen = glimpse(residual[None], matrix[None], dood.config.model.glimpse_size)[0]
        canvas = parsed.canvas[t, 0]
        frame = geometry.apply_affine(square.to(matrix), matrix)
        steps.append(Step(residual, on, frame, seen, parsed.values["stroke"][t, 0], canvas))
    return steps


def draw_anatomy(dood: Recognizer, images: ImageBatch, out: Path) -> list[Path]:
    """Draw the steps of one image's parse; write the figure as PNG and PDF and return their paths.

    One column per step: the residual with the layout's frame, the glimpse in that frame with the
    stroke, the canvas after the stroke, and q(on_t = 1).

    Args:
        images: a batch of one image.

    Raises:
        UserError: the model draws no curves, or the figure cannot be written.
    """
    steps, image = steps_of(dood, images), images.pixels[0]
    figure = new_figure(1.25 * (len(steps) + 1), 1.3 * 3 + 0.6)
    grid = figure.subplots(4, len(steps) + 1, squeeze=False, height_ratios=[1, 1, 1, 0.35])
    for axes in grid.flatten():
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, name in zip(grid[:, 0], ("target", "", "", ""), strict=True):
        axes.set_axis_off()
        axes.set_title(name, fontsize=7)
    grid[0, 0].imshow(1 - image.cpu(), cmap="gray", vmin=0, vmax=1, extent=(-1, 1, 1, -1))
    for number, step in enumerate(steps):
        residual_axes, glimpse_axes, canvas_axes, on_axes = grid[:, number + 1]
        residual_axes.set_title(f"step {number + 1}", fontsize=7)
        _show_difference(residual_axes, step.residual)
        if step.frame is None or step.glimpse is None or step.stroke is None or step.canvas is None:
            glimpse_axes.set_axis_off()
            canvas_axes.set_axis_off()
        else:
            colour = STROKE_COLOURS[number % len(STROKE_COLOURS)]
            residual_axes.plot(*step.frame.cpu().T, color=colour, lw=1.2)
            _show_difference(glimpse_axes, step.glimpse)
            glimpse_axes.plot(*curve_points(step.stroke, 64)[0].cpu().T, color=colour, lw=1.5)
            glimpse_axes.plot(*step.stroke.cpu().T, "o", color=colour, ms=2)
            grey = 1 - step.canvas.cpu()
            canvas_axes.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=(-1, 1, 1, -1))
        residual_axes.set_xlim(-1, 1)
        residual_axes.set_ylim(1, -1)
        glimpse_axes.set_xlim(-1.25, 1.25)
        glimpse_axes.set_ylim(1.25, -1.25)
        on_axes.barh([0], [step.on], color="#1b6ca8")
        on_axes.set_xlim(0, 1)
        on_axes.set_title(f"{step.on:.2f}", fontsize=6, pad=1)
    for axes, name in zip(grid[:, 1], ROWS, strict=True):
        axes.set_ylabel(name, fontsize=6)
    return save_figure(figure, out)


def _show_difference(axes: Any, picture: Tensor) -> None:
    axes.imshow(picture.cpu(), cmap="RdBu", vmin=-1, vmax=1, extent=(-1, 1, 1, -1))
