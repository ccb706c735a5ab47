"""New exemplars of a character (section 3.2, Fig. 7): tokens of the type that a parse is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dood_pyro.inference.parsing import parse
from dood_pyro.plots import CELL, colour_steps, enlarge, grey_cell, rows_sheet
from dood_pyro.recognition import Recognizer, draws_curves
from dood_pyro.tasks.compare import test_images
from dood_pyro.tokens import TokenNoise, parts_of, sample_token, strokes_of, write, write_parts


@torch.no_grad()
def exemplars(
    dood: Recognizer,
    images: Float[Tensor, "count size size"],
    each: int,
    noise: TokenNoise | None = None,
    seed: int = 0,
    size: int = CELL,
) -> Float[Tensor, "count each steps size size"]:
    """The ink of every stroke of ``each`` new exemplars of each image.

    For AIR, whose parts have no control points, noise goes on part vectors and the affine map on
    the picture.
    """
    noise = noise or TokenNoise()
    parsed = parse(dood.model, dood.guide, images)
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        torch.manual_seed(seed)
        if draws_curves(dood.model):
            types = strokes_of(parsed)
            repeated = type(types)(
                *(part[:, None].expand(-1, each, *part.shape[1:]) for part in types)
            )
            return write(repeated, sample_token(repeated.control), noise).ink(size)
        parts = tuple(part[:, None].expand(-1, each, *part.shape[1:]) for part in parts_of(parsed))
        decoder: nn.Module = dood.model.decoder  # type: ignore[assignment]
        return write_parts(decoder, parts, sample_token(parts[0], 2), noise, size)


def draw_exemplars(
    dood: Recognizer,
    target: str,
    count: int = 8,
    each: int = 8,
    noise: TokenNoise | None = None,
    seed: int = 0,
    data_dir: str | Path | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """A sheet: a column a test image of the target, the image on top, new exemplars below.

    Raises:
        UserError: the target cannot be had.
    """
    images = test_images(dood, target, count, data_dir)
    inks = exemplars(dood, images, each, noise, seed)
    columns = []
    for image, mine in zip(images, inks, strict=True):
        cells = [grey_cell(enlarge(image))]
        cells += [colour_steps(ink.cpu(), len(ink))[-1] for ink in mine]
        columns.append(cells)
    return rows_sheet([list(row) for row in zip(*columns, strict=True)])
