"""Strokes on large canvases: each is drawn on a box around its own curve, and the boxes are added up.
`dood_pyro.rendering.ink_on_boxes`, for canvases of which a stroke takes little.

Beyond `REACH` standard deviations of its pen from its curve a stroke leaves less than e⁻⁸ of its ink:
nothing is drawn there. Time and memory grow with the strokes' extents, not with the canvas.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dood_pyro.rendering.strokes import CURVE_POINTS, curve_points, stroke_ink

REACH = 4.0
"""Distance from its curve at which a stroke's ink ends, standard deviations of the pen."""
UNIT = 25.0
"""Pixels of a unit in which strokes are drawn: those of the model's canvas of 50 pixels, so that a dot,
which `strokes.MIN_SPEED` makes visible, is as dark as there."""
SIDES = (
    16,
    24,
    32,
    48,
    64,
    96,
    128,
    192,
    256,
    384,
    512,
    768,
    1024,
    1536,
    2048,
    3072,
    4096,
    6144,
    8192,
)
"""Sides that boxes are rounded up to, pixels: strokes of one side are drawn together."""


def ink_on_boxes(
    control: Float[Tensor, "strokes controls 2"],
    sigma: Float[Tensor, "strokes"],
    darkness: Float[Tensor, "strokes"],
    height: int,
    width: int,
    points: int = CURVE_POINTS,
    taper: Float[Tensor, "strokes 2"] | None = None,
) -> Float[Tensor, "height width"]:
    """Ink of all strokes together on a canvas of any size, in pixels.

    Args:
        control: control points of Bézier curves in pixels; pixel i covers [i, i + 1).
        sigma: standard deviation of each pen's profile, > 0, pixels.
        darkness: ink in the interior of each stroke, ≥ 0; the picture is tanh of ink.
        points: points along each curve; a curve longer than about ``points`` × ``sigma`` shows beads.
        taper: as for `stroke_ink`.

    Differentiable (once) in the tensors, as `stroke_ink` is.
    """
    canvas = control.new_zeros(height * width + 1)
    corners, sides = boxes(control.detach(), sigma.detach(), points, taper)
    for side in sorted(set(sides.tolist())):
        rows = (sides == side).nonzero()[:, 0]
        corner = corners[rows]
        pixel = torch.arange(side, device=control.device)
        # Relative to the box: pixel numbers of a large canvas would cost precision.
        local = (control[rows] - corner[:, None]) / UNIT
        axes = ((pixel + 0.5) / UNIT).to(control.dtype).expand(len(rows), 2, side)
        ink = stroke_ink(
            local,
            sigma[rows] / UNIT,
            darkness[rows],
            side,
            points,
            None if taper is None else taper[rows],
            axes,
        )
        x, y = (corner[:, k, None] + pixel for k in (0, 1))
        inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None]
        # What lies beyond the canvas goes to one place after its last pixel, and is dropped.
        place = torch.where(inside, y[:, :, None] * width + x[:, None], height * width)
        canvas = canvas.index_add(0, place.reshape(-1), ink.reshape(-1))
    return canvas[:-1].reshape(height, width)


def boxes(
    control: Float[Tensor, "strokes controls 2"],
    sigma: Float[Tensor, "strokes"],
    points: int = CURVE_POINTS,
    taper: Float[Tensor, "strokes 2"] | None = None,
) -> tuple[Int[Tensor, "strokes 2"], Int[Tensor, "strokes"]]:
    """Upper left pixel (x, y) of each stroke's box, and the box's side, one of `SIDES`, in pixels.

    A stroke that needs a larger box than the largest is cut at its right and lower edge.
    """
    widest = sigma if taper is None else sigma * taper[:, 0].abs().exp()
    curve = curve_points(control, points)[0]
    # The curve runs a little beyond its first and last points.
    ends = torch.cat([curve, control[:, :1], control[:, -1:]], dim=1)
    reach = REACH * widest[:, None]
    low, high = (ends.amin(1) - reach).floor(), (ends.amax(1) + reach).ceil()
    needed = (high - low).amax(-1)
    sizes = torch.tensor(SIDES, device=control.device)
    index = torch.searchsorted(sizes.to(needed.dtype), needed).clamp(max=len(SIDES) - 1)
    return low.long(), sizes[index]
