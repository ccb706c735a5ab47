"""Pen strokes out of pixels: a trained run, loaded, parses pictures into drawings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro import drawing
from dood_pyro.checkpoints import Run, RunConfig
from dood_pyro.drawing import Drawing, Stroke, visible_width
from dood_pyro.errors import UserError
from dood_pyro.inference.parsing import Parse, parse
from dood_pyro.pictures import Polarity, read_picture, resize

BATCH = 64
"""Images parsed at once: larger batches gain nothing on a CPU."""


def trained_weights() -> list[str]:
    """Names of the runs that come with the package."""
    folder = resources.files("dood_pyro") / "weights"
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def open_run(run: str | os.PathLike[str]) -> Run:
    """The run folder at a path, or the trained weights of that name that come with the package.

    Raises:
        UserError: there is neither.
    """
    if Path(run).exists() or str(run) not in trained_weights():
        if not Path(run).exists():
            raise UserError(
                f"{run} is neither a run folder nor one of the trained weights that come with "
                f"dood-pyro ({', '.join(trained_weights()) or 'none'})"
            )
        return Run(Path(run))
    return Run(Path(str(resources.files("dood_pyro") / "weights" / str(run))))


def load(
    run: str | os.PathLike[str], device: str | torch.device = "cpu", which: str = "best"
) -> Dood:
    """Loads a run folder, or trained weights by name (``"omniglot"``), to parse with.

    Args:
        which: ``"best"`` or ``"last"`` checkpoint.

    Raises:
        UserError: there is no such run, or it is damaged or of another version.
    """
    model, guide, config = open_run(run).load(which)
    return Dood(model.to(device), guide.to(device), config)


class Dood:
    """A trained model and guide.

    Attributes:
        model, guide: the Pyro programs.
        config: how they were made and trained.
    """

    def __init__(self, model: nn.Module, guide: nn.Module, config: RunConfig) -> None:
        self.model, self.guide, self.config = model, guide, config

    @property
    def size(self) -> int:
        """Pixels a side of the canvas."""
        return self.config.model.canvas_size

    def prepare(self, pictures: Sequence[Any], polarity: Polarity = "auto") -> Tensor:
        """Pictures as the model sees them: (count, size, size), brightest ink at 1."""
        squares = [resize(read_picture(picture, polarity), self.size) for picture in pictures]
        stack = torch.stack(squares).clamp(0, 1)
        peak = stack.amax((-1, -2), keepdim=True)
        return stack / peak.clamp(min=1e-6)

    def parse(self, images: Any, polarity: Polarity = "auto") -> Any:
        """The strokes of one picture, or of many.

        Args:
            images: one picture (path, PIL image, numpy array or tensor: (height, width) or with 1,
                3 or 4 channels first or last), or many: a list of these, or an array of three
                dimensions that are not channels, or of four. Any size; padded to a square.
            polarity: ``"bright-ink"``, ``"dark-ink"`` or ``"auto"``, by the border.

        Returns:
            A `Drawing` for one picture, a list of them for many.

        Raises:
            UserError: something is not a picture, is blank, too small or too large.
        """
        many = _is_many(images)
        pictures = list(images) if many else [images]
        if not pictures:
            return []
        drawings = self.drawings(self.prepare(pictures, polarity))
        return drawings if many else drawings[0]

    def drawings(self, images: Float[Tensor, "count size size"]) -> list[Drawing]:
        """Drawings of images that are at the canvas's size already, in [0, 1], ink bright."""
        device = next(self.model.parameters()).device
        found: list[Drawing] = []
        for batch in images.split(BATCH):
            found += drawings_from_parse(parse(self.model, self.guide, batch.to(device)))
        return found


def drawings_from_parse(parsed: Parse) -> list[Drawing]:
    """One `Drawing` an image of a parse."""
    parsed = Parse(*(field.cpu() for field in parsed))
    matrix = drawing.affine_matrix(parsed.layout)
    control = drawing.place(parsed.stroke, matrix)
    sigma, darkness = drawing.pen_profile(parsed.pen)
    scale = parsed.layout[..., 0].clamp(min=drawing.LEAST_SCALE)
    spread = parsed.stroke_std.square().mean((-1, -2)).sqrt() * scale
    drawings = []
    for image in range(control.shape[1]):
        strokes = []
        for t in range(control.shape[0]):
            if parsed.alive[t, image] == 0:
                break
            pen = (float(sigma[t, image]), float(darkness[t, image]))
            strokes.append(
                Stroke(
                    control=control[t, image],
                    width=visible_width(*pen),
                    sigma=pen[0],
                    darkness=pen[1],
                    confidence=float(parsed.on_probability[t, image]),
                    uncertainty=float(spread[t, image]),
                )
            )
        drawings.append(Drawing(strokes, parsed.canvas.shape[-1]))
    return drawings


def _is_many(images: Any) -> bool:
    if isinstance(images, Tensor | np.ndarray):
        channels = {1, 3, 4} & {images.shape[0], images.shape[-1]} if images.ndim == 3 else set()
        return images.ndim == 4 or (images.ndim == 3 and not channels)
    return isinstance(images, Sequence) and not isinstance(images, str | bytes)
