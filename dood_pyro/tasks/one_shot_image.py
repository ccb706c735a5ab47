"""One-shot classification without a model: the control for a model's accuracy.
``dood-pyro one-shot image`` runs it.

The support image itself is fitted to the query, with the blurs, penalties and optimiser that fit tokens
of a parse (`dood_pyro.tasks.one_shot`). The control's accuracy is due to the matching alone; the value
of strokes is what a model adds to the control.
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
"""Deformations of the support image: none, an affine map, or an affine map and a bent grid."""

GRID = 6
"""Points per side of the grid whose displacements bend the picture in an elastic fit."""

SETTINGS: dict[Fit, Settings] = {
    "unfitted": Settings(parses=1, steps=0, blurs=(5.0,)),
    "affine": Settings(parses=1, scale=0.25),
    "elastic": Settings(parses=1),
}
"""Settings of each fit, chosen on trials of the background set
(``experiments/one_shot_settings.py``). In an elastic fit ``noise.control`` is the standard
deviation, canvas units, of the grid's displacements; the other fits do not use
``noise.control``."""


def image_types(images: Float[Tensor, "images size size"], fit: Fit) -> Types:
    """Images as types: one type per image, with the image in place of strokes."""
    count = len(images)
    bends = images.new_zeros(count, 1, 1, GRID**2 if fit == "elastic" else 0, 2)
    return Types((bends, images[:, None], images.new_ones(count, 1, 1)), _warp)


def _warp(latent: tuple[Tensor, ...], token: Token, noise: TokenNoise, size: int) -> Tensor:
    """Warp pictures by a token's affine map about the middle of their ink, and by the displacements
    of a grid of points, interpolated between the points: (*batch, size, size)."""
    _, picture, alive = latent
    pixels = pixel_centres(size, picture.dtype, picture.device)
    centres = torch.stack(torch.meshgrid(pixels, pixels, indexing="xy"), dim=-1).flatten(0, 1)
    weight = picture.flatten(-2)
    middle = (weight @ centres) / weight.sum(-1, keepdim=True).clamp(min=1e-6)
    # The affine map says where ink goes; a sampling grid needs the inverse, where ink comes from.
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
    """Scores of a run's queries for each class; the class with the highest score is the answer."""
    return scores(image_types(trials.support, fit), trials.queries, settings)


def one_shot_image(
    runs: Sequence[Trials],
    fit: Fit,
    settings: Settings | None = None,
    show: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """One-shot accuracy of the control on several runs (`dood_pyro.tasks.one_shot.accuracy_of`)."""
    chosen = SETTINGS[fit] if settings is None else settings
    if fit == "unfitted":
        chosen = dataclasses.replace(chosen, steps=0)
    return accuracy_of(lambda trials: classify_images(trials, fit, chosen), runs, show)
