"""One-shot classification without a model: the control beside which a model's accuracy stands.

The support image itself is fitted to the query, by the blurs, penalties and optimiser that tokens of a
parse are fitted with (`dood_pyro.tasks.one_shot`). What it reaches is the matcher's; what strokes are
worth is what they add.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dood_pyro import geometry
from dood_pyro.data.one_shot_runs import Trials
from dood_pyro.rendering.strokes import pixel_centres
from dood_pyro.tasks.one_shot import Settings, Types, accuracy_of, scores
from dood_pyro.tokens import Token, TokenNoise, affine_map

Fit = Literal["unfitted", "affine", "elastic"]

GRID = 6
"""Points a side of the grid whose displacements bend the picture in an elastic fit."""

SETTINGS: dict[Fit, Settings] = {
    "unfitted": Settings(parses=1, steps=0, blurs=(5.0,)),
    "affine": Settings(parses=1, scale=0.25),
    "elastic": Settings(parses=1),
}
"""How pictures are compared. ``noise.control`` is the standard deviation, canvas units, of the grid's
displacements; it plays no part in the other fits. Chosen on trials of the background set
(``experiments/one_shot_settings.py``)."""


def image_types(images: Float[Tensor, "images size size"], fit: Fit) -> Types:
    """Pictures as types: one each, which stands for its only stroke."""
    count = len(images)
    bends = images.new_zeros(count, 1, 1, GRID**2 if fit == "elastic" else 0, 2)
    return Types((bends, images[:, None], images.new_ones(count, 1, 1)), _warp)


def _warp(latent: tuple[Tensor, ...], token: Token, noise: TokenNoise, size: int) -> Tensor:
    """Pictures under a token's affine map about the middle of their ink, and under the displacements
    of a grid of points, interpolated between them: (*batch, size, size)."""
    _, picture, alive = latent
    pixels = pixel_centres(size, picture.dtype, picture.device)
    centres = torch.stack(torch.meshgrid(pixels, pixels, indexing="xy"), dim=-1).flatten(0, 1)
    weight = picture.flatten(-2)
    middle = (weight @ centres) / weight.sum(-1, keepdim=True).clamp(min=1e-6)
    # The affine map says where ink goes; a sampling grid asks where it comes from.
    back = geometry.invert_affine(affine_map(token, noise))
    places = geometry.apply_affine(centres - middle[..., None, :], back) + middle[..., None, :]
    batch = alive.shape[:-1]
    if token.control.numel():
        bends = noise.control * token.control.reshape(-1, GRID, GRID, 2).movedim(-1, 1)
        smooth = F.interpolate(bends, (size, size), mode="bicubic", align_corners=True)
        places = places + smooth.movedim(1, -1).reshape(*batch, size * size, 2)
    flat = picture.expand(*batch, size, size).reshape(-1, 1, size, size)
    grid = places.reshape(-1, size, size, 2)
    return F.grid_sample(flat, grid, align_corners=False).reshape(*batch, size, size)


def classify_images(trials: Trials, fit: Fit, settings: Settings) -> Float[Tensor, "queries ways"]:
    """Scores of a run's queries: the highest is the answer."""
    return scores(image_types(trials.support, fit), trials.queries, settings)


def one_shot_image(
    runs: Sequence[Trials],
    fit: Fit,
    settings: Settings | None = None,
    show: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """The control's accuracy on several runs, as `dood_pyro.tasks.one_shot.accuracy_of` has it."""
    chosen = SETTINGS[fit] if settings is None else settings
    if fit == "unfitted":
        chosen = dataclasses.replace(chosen, steps=0)
    return accuracy_of(lambda trials: classify_images(trials, fit, chosen), runs, show)
