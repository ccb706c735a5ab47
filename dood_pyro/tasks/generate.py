"""Unconditional generation (section 3.2, Fig. 6): drawings sampled from the prior, and animations.
Used by ``dood-pyro sample`` and by the Fréchet distance.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from dood_pyro.canvas_drawing import STROKE_COLOURS, CanvasDrawing
from dood_pyro.devices import seeded
from dood_pyro.drawing_files import gif_bytes
from dood_pyro.errors import UserError
from dood_pyro.files import remove_numbered_from, write_atomically
from dood_pyro.inference.guide_parses import Parse, sample_prior
from dood_pyro.models.base import DrawingModel
from dood_pyro.plots import CELL, colour_steps, grid_sheet, save_png, step_inks
from dood_pyro.recognition import drawings_from_parse
from dood_pyro.stroke import beginning

BATCH = 256
"""Drawings of a set sampled at once."""
FRAMES_A_STROKE = 8
"""Frames per stroke of an animation."""
FRAME_MILLISECONDS = 60
"""Duration of a frame."""
LAST_MILLISECONDS = 1500
"""Duration of the last frame."""


def generate(
    model: DrawingModel[Any],
    count: int,
    seed: int = 0,
    native_size: int = 0,
    temperature: float = 1.0,
) -> Parse:
    """Sample ``count`` drawings from a model's prior, reproducibly for a seed.

    Args:
        native_size, temperature: as for `sample_prior`.

    Raises:
        UserError: the temperature is not above 0.
    """
    with seeded(seed, model.device):
        return sample_prior(model, count, native_size, temperature)


def in_batches(
    model: DrawingModel[Any], count: int, seed: int, native_size: int = 0
) -> Iterator[Parse]:
    """Batches of ``count`` drawings from a model's prior, for sets that are measured."""
    for start in range(0, count, BATCH):
        yield generate(model, min(BATCH, count - start), seed * 100_003 + start, native_size)


def sheet(parsed: Parse, drawings: list[CanvasDrawing]) -> UInt8[np.ndarray, "height width 3"]:
    """Square sheet of drawings, strokes coloured by order.

    Args:
        drawings: the parse's drawings; empty for models that draw no curves.
    """
    steps = len(parsed.alive)
    return grid_sheet([colour_steps(ink, steps)[-1] for ink in step_inks(parsed, drawings)])


def animation(drawings: list[CanvasDrawing]) -> bytes:
    """GIF bytes of the sheet, all drawings drawn stroke by stroke in parallel."""
    from PIL import Image

    most = max((len(drawing) for drawing in drawings), default=0)
    frames = []
    for frame in range(most * FRAMES_A_STROKE + 1):
        stroke, share = divmod(frame, FRAMES_A_STROKE)
        cells = []
        for drawing in drawings:
            strokes = list(drawing.strokes[:stroke])
            if share and stroke < len(drawing):
                strokes.append(beginning(drawing.strokes[stroke], share / FRAMES_A_STROKE))
            ink = CanvasDrawing(strokes, drawing.size).inks(CELL)
            cells.append(colour_steps(ink, max(1, most))[-1])
        frames.append(Image.fromarray(grid_sheet(cells)))
    durations = [FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_MILLISECONDS]
    return gif_bytes(frames, durations)


def sample(
    model: DrawingModel[Any],
    out: Path,
    count: int = 64,
    seed: int = 0,
    native_size: int = 0,
    temperature: float = 1.0,
) -> list[Path]:
    """Sample ``count`` drawings from the prior and write them; return the paths, sheets first.

    Writes a sheet, ``out`` (PNG), and each drawing's canvas (PNG, dark on white) in a folder of the
    same name. Where the model draws curves, also an animation of the sheet (GIF) and each drawing
    as SVG, animated SVG and JSON.

    Args:
        native_size, temperature: as for `sample_prior`.

    Raises:
        UserError: a file or the folder cannot be written, or the temperature is not above 0.
    """
    parsed = generate(model, count, seed, native_size, temperature)
    drawings = drawings_from_parse(parsed) if model.draws_curves else []
    folder = out.with_suffix("")
    try:
        folder.mkdir(exist_ok=True)
        remove_numbered_from(folder, count)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from None
    save_png(out, sheet(parsed, drawings))
    written = [out]
    if drawings:
        written.append(out.with_suffix(".gif"))
        write_atomically(written[-1], animation(drawings))
    for index, canvas in enumerate(parsed.canvas[-1]):
        written.append(folder / f"{index:03d}.png")
        grey = ((1 - canvas) * 255).round().clamp(0, 255).byte().cpu().numpy()
        save_png(written[-1], grey)
    for index, drawing in enumerate(drawings):
        written += drawing.save(folder / f"{index:03d}", STROKE_COLOURS)
        written.append(folder / f"{index:03d}-drawn.svg")
        drawn = drawing.svg(colours=STROKE_COLOURS, seconds_per_stroke=0.5)
        write_atomically(written[-1], drawn.encode())
    return written
