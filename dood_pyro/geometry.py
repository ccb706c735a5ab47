"""Coordinates of a drawing: layouts, affine maps, and pens.

The canvas is [−1, 1]², x to the right, y down. A layout places a glimpse's frame, also [−1, 1]², on the
canvas: canvas point = scale · R(rotation) · frame point + translation (section 2.1).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro.rendering import CURVE_POINTS, stroke_ink

LAYOUT_NAMES = ("scale", "x", "y", "rotation")
"""What the four numbers of a ``layout_t`` site are: 1, canvas units, canvas units, radians."""
LAYOUT_LOW = [0.25, -0.8, -0.8, -torch.pi / 4]
LAYOUT_HIGH = [1.0, 0.8, 0.8, torch.pi / 4]
"""The range of a layout's mean (section 2.1, "appropriately constrained")."""
MIN_LAYOUT_SCALE = 0.1

CONTROL_REACH = 1.2
"""Means of control points lie within ± this, a little beyond the glimpse's frame."""

PEN_NAMES = ("log_width", "darkness", "width_taper", "darkness_taper")
"""What the numbers of a ``pen_t`` site are: log of the profile's standard deviation in canvas
units, and the ink in a stroke's interior (the picture is tanh of it), both in the middle of the
stroke; then, for a pen that tapers, half of what they gain from the stroke's start to its end."""
PEN_LOW = [-4.2, 0.2, -0.7, -1.5]
PEN_HIGH = [-1.9, 4.5, 0.7, 1.5]
"""The range of a pen's mean: standard deviations from 0.015 to 0.15 canvas units."""


def affine_matrix(layout: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 2 3"]:
    """The affine map of a layout from the glimpse's frame to the canvas.

    One matrix serves `models.networks.glimpse` and `apply_affine`, so that a stroke lies where its glimpse
    was taken.
    """
    scale, x, y, rotation = layout.unbind(-1)
    # A Gaussian's sample can leave the range that its mean is kept in; no frame has size zero.
    scale = scale.clamp(min=MIN_LAYOUT_SCALE)
    cos, sin = scale * rotation.cos(), scale * rotation.sin()
    return torch.stack([cos, -sin, x, sin, cos, y], dim=-1).unflatten(-1, (2, 3))


def invert_affine(matrix: Float[Tensor, "*batch 2 3"]) -> Float[Tensor, "*batch 2 3"]:
    """The affine map the other way round, from the canvas to the glimpse's frame: what a spatial
    transformer needs to put a part's picture on the canvas."""
    (a, b, x), (c, d, y) = (row.unbind(-1) for row in matrix.unbind(-2))
    det = a * d - b * c
    back = [d, -b, b * y - d * x, -c, a, c * x - a * y]
    return torch.stack([entry / det for entry in back], dim=-1).unflatten(-1, (2, 3))


def compose_affine(
    outer: Float[Tensor, "*batch 2 3"], inner: Float[Tensor, "*batch 2 3"]
) -> Float[Tensor, "*batch 2 3"]:
    """The affine map that is ``inner`` and then ``outer``; batch dimensions broadcast."""
    turned = outer[..., :2] @ inner
    return torch.cat([turned[..., :2], turned[..., 2:] + outer[..., 2:]], dim=-1)


def apply_affine(
    points: Float[Tensor, "*batch points 2"], matrix: Float[Tensor, "*batch 2 3"]
) -> Float[Tensor, "*batch points 2"]:
    """s̃ = l ⊙ s: points of the glimpse's frame to the canvas."""
    return points @ matrix[..., :2].mT + matrix[..., None, :, 2]


class Pen(NamedTuple):
    """A pen as the renderer takes it."""

    sigma: Float[Tensor, "*batch"]
    """Standard deviation of the profile, canvas units."""
    darkness: Float[Tensor, "*batch"]
    """Ink in the interior of a long stroke."""
    taper: Float[Tensor, "*batch 2"] | None
    """How both change along the stroke (`rendering.pen_along`); None for not at all."""


def pen_profile(pen: Float[Tensor, "*batch values"]) -> Pen:
    """The pen of a ``pen_t`` site of two values, or four for one that tapers, clamped for
    drawing."""
    low, high = _pen_bounds(pen.shape[-1], pen.dtype, pen.device)
    pen = pen.clamp(low, high)
    return Pen(pen[..., 0].exp(), pen[..., 1], pen[..., 2:] if pen.shape[-1] > 2 else None)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _pen_bounds(values: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What pens are clamped to for drawing, a little beyond where their means lie: (2, values)."""
    low = [PEN_LOW[0] - 0.3, 0.0, PEN_LOW[2] - 0.1, -math.inf]
    high = [PEN_HIGH[0] + 0.3, PEN_HIGH[1] + 0.5, PEN_HIGH[2] + 0.1, math.inf]
    return torch.tensor([low[:values], high[:values]], dtype=dtype, device=device)


def draw_strokes(
    control: Float[Tensor, "*batch controls 2"],
    pen: Pen,
    size: int,
    points: int = CURVE_POINTS,
) -> Float[Tensor, "*batch size size"]:
    """The ink of strokes on the canvas, drawn with a pen each."""
    return stroke_ink(control, pen.sigma, pen.darkness, size, points, pen.taper)
