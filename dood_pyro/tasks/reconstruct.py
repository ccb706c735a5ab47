"""Stepwise reconstructions (Fig. 1 and 3): images, and each drawing after every stroke.
Used by ``dood-pyro reconstruct``, by training and by the comparison of models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dood_pyro.drawing import STROKE_COLOURS, Drawing
from dood_pyro.errors import UserError
from dood_pyro.guides.base import Guide
from dood_pyro.images import ImageBatch, Images
from dood_pyro.inference.parsing import Parse, parse
from dood_pyro.models.base import DrawingModel
from dood_pyro.plots import save_png, step_inks, stepwise_sheet
from dood_pyro.recognition import Recognizer, drawings_from_parse


def preview(
    model: DrawingModel[Any], guide: Guide, images: Images
) -> UInt8[Tensor, "3 height width"]:
    """Sheet of images and their drawings, channels first as TensorBoard takes pictures."""
    sheet, _ = draw_steps(images, parse(model, guide, images), model.draws_curves)
    return torch.from_numpy(sheet).permute(2, 0, 1)


def draw_steps(
    images: Images, parsed: Parse, curves: bool
) -> tuple[UInt8[np.ndarray, "height width 3"], list[Drawing]]:
    """Sheet of images and their drawings after every stroke, and the drawings as strokes.

    Args:
        curves: whether the model draws curves (`DrawingModel.draws_curves`). If not, the list is empty
            and the sheet shows the parse's canvases.
    """
    drawings = drawings_from_parse(parsed) if curves else []
    pixels = ImageBatch.of(images).pixels
    return stepwise_sheet(pixels, step_inks(parsed, drawings), len(parsed.alive)), drawings


def reconstruct(
    dood: Recognizer,
    target: str,
    out: Path,
    count: int = 12,
    part: str = "test",
    data_dir: str | Path | None = None,
    svg: bool = True,
) -> list[Path]:
    """Draw the first ``count`` images of the target's shuffle of seed 0; return the paths written.

    Writes a sheet, ``out`` (PNG). With ``svg``, and where the model draws curves, also one SVG and one
    JSON per drawing in a folder of the same name.

    Raises:
        UserError: the target cannot be had, or ``out`` cannot be written.
    """
    images = dood.load_images(target, count, part, data_dir)
    sheet, drawings = draw_steps(images, dood.infer(images), dood.model.draws_curves)
    try:
        if svg and drawings:
            out.with_suffix("").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create a folder for {out}: {error.strerror}") from None
    save_png(out, sheet)
    written = [out]
    if svg and drawings:
        for index, drawing in enumerate(drawings):
            written += drawing.save(out.with_suffix("") / f"{index:03d}", STROKE_COLOURS)
    return written
