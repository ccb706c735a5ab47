"""New exemplars of a character (section 3.2, Fig. 7): tokens of the type that its parse defines.
``dood-pyro exemplars`` draws them.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dood_pyro.devices import seeded
from dood_pyro.images import Images, as_batch
from dood_pyro.plots import CELL, colour_steps, enlarge, grey_cell, labelled, rows_sheet
from dood_pyro.recognition import Recognizer
from dood_pyro.tokens import (
    Strokes,
    TokenNoise,
    apply_token,
    parts_from_parse,
    render_parts,
    sample_token,
    strokes_from_parse,
)


@torch.no_grad()
def tokens(
    dood: Recognizer, images: Images, each: int, noise: TokenNoise | None = None, seed: int = 0
) -> Strokes:
    """Strokes of ``each`` new exemplars of each image by a model that draws curves: batch shape
    (images, each).

    Args:
        noise: default `TokenNoise`.
    """
    types = strokes_from_parse(dood.infer(images))
    with seeded(seed, dood.device):
        repeated = Strokes(*(part[:, None].expand(-1, each, *part.shape[1:]) for part in types))
        return apply_token(repeated, sample_token(repeated.control), noise or TokenNoise())


@torch.no_grad()
def exemplars(
    dood: Recognizer,
    images: Images,
    each: int,
    noise: TokenNoise | None = None,
    seed: int = 0,
    size: int = CELL,
) -> Float[Tensor, "count each steps size size"]:
    """Sample ``each`` new exemplars of each image; return the ink of every stroke.

    AIR's parts have no control points: noise is added to part vectors, and the affine map is applied to
    the picture.

    Args:
        noise: default `TokenNoise`.
        size: pixels per side.
    """
    if dood.model.draws_curves:
        return tokens(dood, images, each, noise, seed).ink(size)
    noise = noise or TokenNoise()
    parsed = dood.infer(images)
    with seeded(seed, dood.device):
        parts = tuple(
            part[:, None].expand(-1, each, *part.shape[1:])
            for part in parts_from_parse(dood.model, parsed)
        )
        return render_parts(dood.model.part_ink, parts, sample_token(parts[0], 2), noise, size)


def draw_exemplars(
    dood: Recognizer,
    images: Images,
    each: int = 8,
    noise: TokenNoise | None = None,
    seed: int = 0,
) -> UInt8[np.ndarray, "height width 3"]:
    """Sheet with one column per image: the image on top, ``each`` new exemplars below."""
    inks = exemplars(dood, images, each, noise, seed)
    columns = []
    for image, mine in zip(as_batch(images).pixels, inks, strict=True):
        cells = [grey_cell(enlarge(image))]
        cells += [colour_steps(ink.cpu(), len(ink))[-1] for ink in mine]
        columns.append(cells)
    names = ["picture", *map(str, range(1, each + 1))]
    return labelled(rows_sheet([list(row) for row in zip(*columns, strict=True)]), names)
