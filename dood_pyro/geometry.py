"""Geometry of a drawing: layouts, affine maps and pens.
Used by models, guides, drawings and tasks to place strokes.

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
"""Names of a ``layout_t`` site's four values; units: 1, canvas units, canvas units, radians."""
LAYOUT_LOW = [0.25, -0.8, -0.8, -torch.pi / 4]
LAYOUT_HIGH = [1.0, 0.8, 0.8, torch.pi / 4]
"""Bounds of a layout's mean (section 2.1, "appropriately constrained")."""
MIN_LAYOUT_SCALE = 0.1
"""Smallest scale of a glimpse's frame, the canvas being 1."""

CONTROL_REACH = 1.2
"""Largest absolute mean of a control point's coordinates, slightly beyond the glimpse's frame."""

PEN_NAMES = ("log_width", "darkness", "width_taper", "darkness_taper")
"""Names of a ``pen_t`` site's values. ``log_width`` is the log of the profile's standard deviation in
canvas units, ``darkness`` the ink in a stroke's interior (the picture is tanh of ink), both in the
middle of the stroke. A pen that tapers has two more values: half of what ``log_width`` and
``darkness`` gain from the stroke's start to its end."""
PEN_LOW = [-4.2, 0.2, -0.7, -1.5]
PEN_HIGH = [-1.9, 4.5, 0.7, 1.5]
"""Bounds of a pen's mean: standard deviations from 0.015 to 0.15 canvas units."""


def affine_matrix(layout: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 2 3"]:
    """Affine map of a layout, from the glimpse's frame to the canvas.

    `models.networks.glimpse` and `apply_affine` take the same matrix, so that a stroke lies where its
    glimpse was taken.
    """
    scale, x, y, rotation = layout.unbind(-1)
    # A Gaussian sample can leave the range of its mean; the clamp keeps frames from vanishing.
    scale = scale.clamp(min=MIN_LAYOUT_SCALE)
    cos, sin = scale * rotation.cos(), scale * rotation.sin()
    return torch.stack([cos, -sin, x, sin, cos, y], dim=-1).unflatten(-1, (2, 3))


def invert_affine(matrix: Float[Tensor, "*batch 2 3"]) -> Float[Tensor, "*batch 2 3"]:
    """Inverse of an affine map: from the canvas to the glimpse's frame.

    A spatial transformer takes the inverse to put a part's picture on the canvas.
    """
    (a, b, x), (c, d, y) = (row.unbind(-1) for row in matrix.unbind(-2))
    det = a * d - b * c
    back = [d, -b, b * y - d * x, -c, a, c * x - a * y]
    return torch.stack([entry / det for entry in back], dim=-1).unflatten(-1, (2, 3))


def compose_affine(
    outer: Float[Tensor, "*batch 2 3"], inner: Float[Tensor, "*batch 2 3"]
) -> Float[Tensor, "*batch 2 3"]:
    """Affine map that applies ``inner``, then ``outer``; batch dimensions broadcast."""
    turned = outer[..., :2] @ inner
    return torch.cat([turned[..., :2], turned[..., 2:] + outer[..., 2:]], dim=-1)


def apply_affine(
    points: Float[Tensor, "*batch points 2"], matrix: Float[Tensor, "*batch 2 3"]
) -> Float[Tensor, "*batch points 2"]:
    """Map points from the glimpse's frame to the canvas: s̃ = l ⊙ s."""
    return points @ matrix[..., :2].mT + matrix[..., None, :, 2]


class Pen(NamedTuple):
    """Pens as the renderer takes them."""

    sigma: Float[Tensor, "*batch"]
    """Standard deviation of the profile, canvas units."""
    darkness: Float[Tensor, "*batch"]
    """Ink in the interior of a long stroke."""
    taper: Float[Tensor, "*batch 2"] | None
    """Change of sigma and darkness along the stroke (`rendering.strokes.pen_along`); None for a
    constant pen."""


def pen_profile(pen: Float[Tensor, "*batch values"]) -> Pen:
    """Pen of a ``pen_t`` site, clamped for drawing: two values, or four for a pen that tapers."""
    low, high = _pen_bounds(pen.shape[-1], pen.dtype, pen.device)
    pen = pen.clamp(low, high)
    return Pen(pen[..., 0].exp(), pen[..., 1], pen[..., 2:] if pen.shape[-1] > 2 else None)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _pen_bounds(values: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Bounds that pens are clamped to for drawing, slightly beyond those of the means: (2, values)."""
    low = [PEN_LOW[0] - 0.3, 0.0, PEN_LOW[2] - 0.1, -math.inf]
    high = [PEN_HIGH[0] + 0.3, PEN_HIGH[1] + 0.5, PEN_HIGH[2] + 0.1, math.inf]
    return torch.tensor([low[:values], high[:values]], dtype=dtype, device=device)


def draw_strokes(
    control: Float[Tensor, "*batch controls 2"],
    pen: Pen,
    size: int,
    points: int = CURVE_POINTS,
) -> Float[Tensor, "*batch size size"]:
    """Ink of strokes on the canvas, each stroke drawn with its own pen."""
    return stroke_ink(control, pen.sigma, pen.darkness, size, points, pen.taper)
