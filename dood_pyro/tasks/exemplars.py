"""New exemplars of a character (section 3.2, Fig. 7): tokens of the type that a parse is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dood_pyro import drawing
from dood_pyro.baselines.air import AIR
from dood_pyro.inference.parsing import parse
from dood_pyro.networks import glimpse
from dood_pyro.plots import CELL, colour_steps, enlarge, grey_cell, rows_sheet
from dood_pyro.recognition import Recognizer, draws_curves
from dood_pyro.tasks.compare import test_images
from dood_pyro.tokens import TokenNoise, sample_token, strokes_of, write

PART_NOISE = 0.3
"""Standard deviation of the noise on AIR's part vectors, whose prior's is 1."""


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
            return write(repeated, sample_token(repeated), noise).ink(size)
        return _of_parts(dood, parsed.alive, parsed.values, each, noise, size)


def _of_parts(
    dood: Recognizer,
    alive: Tensor,
    values: dict[str, Tensor],
    each: int,
    noise: TokenNoise,
    size: int,
) -> Tensor:
    count = alive.shape[1]
    if isinstance(dood.model, AIR):
        latent = values["part"]
    else:
        latent = torch.cat([values["stroke"].flatten(-2), values["pen"]], dim=-1)
    latent = latent[:, :, None] + PART_NOISE * torch.randn(*latent.shape[:2], each, latent.shape[2])
    layout = values["layout"][:, :, None].expand(*latent.shape[:3], 4)
    placing = drawing.inverse(drawing.affine_matrix(layout))
    patch = dood.model.decoder(latent.to(layout))  # type: ignore[operator]
    inks = glimpse(patch, placing, size) * alive[..., None, None, None]
    # One affine map for the whole picture, taken the other way round: it says where to look.
    draw = torch.randn(count, each, 6).to(layout)
    angle = noise.rotation * draw[..., 2]
    scale = (noise.log_scale * draw[..., 3:5]).exp()
    shear = noise.shear * draw[..., 5]
    cos, sin = angle.cos(), angle.sin()
    a, b = cos * scale[..., 0], (cos * shear - sin) * scale[..., 1]
    c, d = sin * scale[..., 0], (sin * shear + cos) * scale[..., 1]
    matrix = torch.stack(
        [
            torch.stack([a, b, noise.shift * draw[..., 0]], dim=-1),
            torch.stack([c, d, noise.shift * draw[..., 1]], dim=-1),
        ],
        dim=-2,
    )
    return glimpse(inks, drawing.inverse(matrix), size).movedim(0, 2)


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
