"""Stepwise reconstructions (Fig. 1 and 3): targets, and each drawing after every stroke."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dood_pyro.drawing import STROKE_COLOURS, Drawing
from dood_pyro.errors import UserError
from dood_pyro.files import write_atomically
from dood_pyro.inference.parsing import parse
from dood_pyro.plots import canvas_inks, save_png, stepwise_sheet, stroke_inks
from dood_pyro.recognition import Recognizer, drawings_from_parse, draws_curves


def preview(
    model: nn.Module, guide: nn.Module, images: Float[Tensor, "count size size"]
) -> UInt8[Tensor, "3 height width"]:
    """A sheet of ``images`` and their drawings, channels first as TensorBoard takes it."""
    sheet, _ = draw_steps(model, guide, images)
    return torch.from_numpy(sheet).permute(2, 0, 1)


def draw_steps(
    model: nn.Module, guide: nn.Module, images: Float[Tensor, "count size size"]
) -> tuple[UInt8[np.ndarray, "height width 3"], list[Drawing]]:
    """A sheet of ``images`` and what any program makes of them, and their drawings where the program
    draws curves."""
    parsed = parse(model, guide, images)
    drawings: list[Drawing] = []
    if draws_curves(model):
        drawings = drawings_from_parse(parsed)
        inks = [stroke_inks(drawing) for drawing in drawings]
    else:
        counts = parsed.alive.sum(0).long().tolist()
        columns = zip(parsed.canvas.unbind(1), counts, strict=True)
        inks = [canvas_inks(canvases[:count]) for canvases, count in columns]
    return stepwise_sheet(images, inks, len(parsed.alive)), drawings


def reconstruct(
    dood: Recognizer,
    target: str,
    out: Path,
    count: int = 12,
    part: str = "test",
    data_dir: str | Path | None = None,
    svg: bool = True,
) -> list[Path]:
    """Draws the first ``count`` images of the target's shuffle of seed 0.

    Writes ``out`` (PNG) and, where ``svg`` and the program draws curves, one SVG and one JSON a
    drawing in a folder of the same name; returns the paths.

    Raises:
        UserError: the target cannot be had or ``out`` not be written.
    """
    images = dood.meet(target, count, part, data_dir)
    sheet, drawings = draw_steps(dood.model, dood.guide, images)
    try:
        if svg and drawings:
            out.with_suffix("").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create a folder for {out}: {error.strerror}") from None
    save_png(out, sheet)
    written = [out]
    if svg and drawings:
        import json

        for index, drawing in enumerate(drawings):
            stem = out.with_suffix("") / f"{index:03d}"
            picture = drawing.svg(colours=STROKE_COLOURS)
            write_atomically(stem.with_suffix(".svg"), picture.encode())
            write_atomically(stem.with_suffix(".json"), json.dumps(drawing.json()).encode())
            written += [stem.with_suffix(".svg"), stem.with_suffix(".json")]
    return written
