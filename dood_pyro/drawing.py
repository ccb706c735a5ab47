"""The vocabulary: layouts, pens, strokes and drawings, and how a drawing leaves as SVG or JSON.

Coordinates: the canvas is [−1, 1]², x to the right, y down. A layout places a glimpse's frame,
also [−1, 1]², on the canvas: canvas point = scale · R(rotation) · frame point + translation.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

LAYOUT_NAMES = ("scale", "x", "y", "rotation")
"""What the four numbers of a ``layout_t`` site are: 1, canvas units, canvas units, radians."""
LAYOUT_LOW = [0.25, -0.8, -0.8, -torch.pi / 4]
LAYOUT_HIGH = [1.0, 0.8, 0.8, torch.pi / 4]
"""The range of a layout's mean (section 2.1, "appropriately constrained")."""
LEAST_SCALE = 0.1

CONTROL_REACH = 1.2
"""Means of control points lie within ± this, a little beyond the glimpse's frame."""

PEN_NAMES = ("log_width", "darkness")
"""What the two numbers of a ``pen_t`` site are: log of the profile's standard deviation in canvas
units, and the ink in a stroke's interior (the picture is tanh of it)."""
PEN_LOW = [-4.2, 0.2]
PEN_HIGH = [-1.9, 4.5]
"""The range of a pen's mean: standard deviations from 0.015 to 0.15 canvas units."""


def affine_matrix(layout: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 2 3"]:
    """The affine map of a layout from the glimpse's frame to the canvas.

    One matrix serves `networks.glimpse` and `place`, so that a stroke lies where its glimpse
    was taken.
    """
    scale, x, y, rotation = layout.unbind(-1)
    # A Gaussian's sample can leave the range that its mean is kept in; no frame has size zero.
    scale = scale.clamp(min=LEAST_SCALE)
    cos, sin = scale * rotation.cos(), scale * rotation.sin()
    return torch.stack([cos, -sin, x, sin, cos, y], dim=-1).unflatten(-1, (2, 3))


def place(
    points: Float[Tensor, "*batch points 2"], matrix: Float[Tensor, "*batch 2 3"]
) -> Float[Tensor, "*batch points 2"]:
    """s̃ = l ⊙ s: points of the glimpse's frame to the canvas."""
    return points @ matrix[..., :2].mT + matrix[..., None, :, 2]


def pen_profile(pen: Float[Tensor, "*batch 2"]) -> tuple[Tensor, Tensor]:
    """Standard deviation (canvas units) and darkness of a ``pen_t`` site, clamped for drawing."""
    log_width, darkness = pen.unbind(-1)
    sigma = log_width.clamp(PEN_LOW[0] - 0.3, PEN_HIGH[0] + 0.3).exp()
    return sigma, darkness.clamp(0.0, PEN_HIGH[1] + 0.5)
