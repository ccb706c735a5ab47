"""Reference renderer: the formula as written, one Gaussian for every pixel and curve point.
Used by tests and benchmarks, beside the fast renderer.

Slow and plain on purpose: `dood_pyro.rendering.strokes` is tested and timed against this module.
"""

import math

from jaxtyping import Float
from torch import Tensor, stack

from dood_pyro.rendering.strokes import (
    CURVE_POINTS,
    MIN_SPEED,
    curve_points,
    pen_along,
    pixel_centres,
)


def stroke_ink_per_pixel(
    control: Float[Tensor, "*batch controls 2"],
    sigma: Float[Tensor, "*batch"],
    darkness: Float[Tensor, "*batch"],
    size: int,
    points: int = CURVE_POINTS,
    taper: Float[Tensor, "*batch 2"] | None = None,
) -> Float[Tensor, "*batch size size"]:
    """Ink of each stroke, by the sum in the docstring of `dood_pyro.rendering.strokes`.

    Arguments and result are those of `dood_pyro.rendering.stroke_ink`.
    """
    position, velocity = curve_points(control, points)
    speed = (velocity.square().sum(-1) + MIN_SPEED**2).sqrt()
    axis = pixel_centres(size, control.dtype, control.device)
    pixels = stack([axis.expand(size, size), axis[:, None].expand(size, size)], dim=-1)
    distance2 = (pixels[:, :, None, :] - position[..., None, None, :, :]).square().sum(-1)
    sigma, darkness = (at[..., None, None, :] for at in pen_along(sigma, darkness, taper, points))
    weight = darkness * speed[..., None, None, :] / (points * sigma * math.sqrt(2 * math.pi))
    return (weight * (-distance2 / (2 * sigma**2)).exp()).sum(-1)
