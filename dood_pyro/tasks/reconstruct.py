"""Stepwise reconstructions (Fig. 1 and 3): images, and each drawing after every stroke.
Used by ``dood-pyro reconstruct``, by training and by the comparison of models.
"""

from __future__ import annotations

from pathlib import Path

from dood_pyro.canvas_drawing import STROKE_COLOURS
from dood_pyro.errors import UserError
from dood_pyro.files import remove_numbered_from
from dood_pyro.plots import draw_steps, save_png
from dood_pyro.recognition import Recognizer


def reconstruct(
    dood: Recognizer,
    target: str,
    out: Path,
    count: int = 12,
    data_dir: str | Path | None = None,
    svg: bool = True,
) -> list[Path]:
    """Draw the first ``count`` test images of the target's shuffle of seed 0; return the paths written.

    Writes a sheet, ``out`` (PNG). With ``svg``, and where the model draws curves, also one SVG and one
    JSON per drawing in a folder of the same name.

    Raises:
        UserError: the target cannot be had, or ``out`` cannot be written.
    """
    images = dood.load_images(target, count, data_dir=data_dir)
    sheet, drawings = draw_steps(images, dood.infer(images), dood.model.draws_curves)
    try:
        if svg and drawings:
            out.with_suffix("").mkdir(exist_ok=True)
            remove_numbered_from(out.with_suffix(""), len(drawings))
    except OSError as error:
        raise UserError(f"cannot create a folder for {out}: {error.strerror}") from None
    save_png(out, sheet)
    written = [out]
    if svg and drawings:
        for index, drawing in enumerate(drawings):
            written += drawing.save(out.with_suffix("") / f"{index:03d}", STROKE_COLOURS)
    return written
