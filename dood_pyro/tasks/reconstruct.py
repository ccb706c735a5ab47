"""Stepwise reconstructions (Fig. 1 and 3): targets, and each drawing after every stroke."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dood_pyro import data
from dood_pyro.drawing import STROKE_COLOURS
from dood_pyro.errors import UserError
from dood_pyro.files import write_atomically
from dood_pyro.inference.parsing import parse
from dood_pyro.plots import save_png, stepwise_sheet
from dood_pyro.recognition import Recognizer, drawings_from_parse


def preview(
    model: nn.Module, guide: nn.Module, images: Float[Tensor, "count size size"]
) -> UInt8[Tensor, "3 height width"]:
    """A sheet of ``images`` and their drawings, channels first as TensorBoard takes it."""
    parsed = parse(model, guide, images)
    sheet = stepwise_sheet(images, drawings_from_parse(parsed), len(parsed.alive))
    return torch.from_numpy(sheet).permute(2, 0, 1)


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

    Writes ``out`` (PNG) and, where ``svg``, one SVG and one JSON a drawing in a folder of the
    same name; returns the paths.

    Raises:
        UserError: the target cannot be had or ``out`` not be written.
    """
    if out.suffix.lower() != ".png":
        raise UserError(f"--out must end in .png; {out} does not")
    images = data.load(target, part, dood.size, data_dir).shuffled(count).float() / 255
    drawings = dood.drawings(images)
    steps = dood.config.model.max_strokes
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if svg:
            out.with_suffix("").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create a folder for {out}: {error.strerror}") from None
    save_png(out, stepwise_sheet(images, drawings, steps))
    written = [out]
    if svg:
        import json

        for index, drawing in enumerate(drawings):
            stem = out.with_suffix("") / f"{index:03d}"
            picture = drawing.svg(colours=STROKE_COLOURS)
            write_atomically(stem.with_suffix(".svg"), picture.encode())
            write_atomically(stem.with_suffix(".json"), json.dumps(drawing.json()).encode())
            written += [stem.with_suffix(".svg"), stem.with_suffix(".json")]
    return written
