"""The guide's inputs and strokes at each step of one drawing (Fig. 2).
``dood-pyro anatomy`` draws them.
"""

from __future__ import annotations

from pathlib import Path

import torch

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


def draw_anatomy(dood: Recognizer, images: ImageBatch, out: Path) -> list[Path]:
    """Draw the steps of one image's parse; write the figure as PNG and PDF and return their paths.

    One column per step: the residual with the layout's frame, the glimpse in that frame with the
    stroke, the canvas after the stroke, and q(on_t = 1).

    Args:
        images: a batch of one image.

    Raises:
        UserError: the model draws no curves, or the figure cannot be written.
    """
    if not dood.model.draws_curves:
        raise UserError(f"a {dood.config.model_name} model draws no strokes that could be shown")
    parsed, image = dood.infer(images), images.pixels[0]
    steps = len(parsed.alive)
    drawn = int(parsed.alive.sum())
    columns = min(steps, drawn + 1)
    figure = new_figure(1.25 * (columns + 1), 1.3 * 3 + 0.6)
    grid = figure.subplots(4, columns + 1, squeeze=False, height_ratios=[1, 1, 1, 0.35])
    for axes in grid.flatten():
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, name in zip(grid[:, 0], ("target", "", "", ""), strict=True):
        axes.set_axis_off()
        axes.set_title(name, fontsize=7)
    grid[0, 0].imshow(1 - image.cpu(), cmap="gray", vmin=0, vmax=1, extent=(-1, 1, 1, -1))
    canvas = torch.zeros_like(image)
    for step in range(columns):
        residual_axes, glimpse_axes, canvas_axes, on_axes = grid[:, step + 1]
        # Without execution guidance the guide sees the whole image at every step.
        residual = image - canvas if dood.model.sees_canvas else image
        residual_axes.set_title(f"step {step + 1}", fontsize=7)
        residual_axes.imshow(residual.cpu(), cmap="RdBu", vmin=-1, vmax=1, extent=(-1, 1, 1, -1))
        alive = step < drawn
        if alive:
            layout = parsed.values["layout"][step, 0]
            stroke = parsed.values["stroke"][step, 0]
            matrix = geometry.affine_matrix(layout)
            colour = STROKE_COLOURS[step % len(STROKE_COLOURS)]
            frame = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
            corners = geometry.apply_affine(frame.to(matrix), matrix).cpu()
            residual_axes.plot(*corners.T, color=colour, lw=1.2)
            seen = glimpse(residual[None], matrix[None], dood.config.model.glimpse_size)[0]
            glimpse_axes.imshow(seen.cpu(), cmap="RdBu", vmin=-1, vmax=1, extent=(-1, 1, 1, -1))
            curve = curve_points(stroke, 64)[0].cpu()
            glimpse_axes.plot(*curve.T, color=colour, lw=1.5)
            glimpse_axes.plot(*stroke.cpu().T, "o", color=colour, ms=2)
            canvas = parsed.canvas[step, 0]
            canvas_axes.imshow(1 - canvas.cpu(), cmap="gray", vmin=0, vmax=1, extent=(-1, 1, 1, -1))
        else:
            glimpse_axes.set_axis_off()
            canvas_axes.set_axis_off()
        residual_axes.set_xlim(-1, 1)
        residual_axes.set_ylim(1, -1)
        glimpse_axes.set_xlim(-1.25, 1.25)
        glimpse_axes.set_ylim(1.25, -1.25)
        on = float(parsed.on_probability[step, 0])
        on_axes.barh([0], [on], color="#1b6ca8")
        on_axes.set_xlim(0, 1)
        on_axes.set_title(f"{on:.2f}", fontsize=6, pad=1)
    for axes, name in zip(grid[:, 1], ROWS, strict=True):
        axes.set_ylabel(name, fontsize=6)
    return save_figure(figure, out)
