"""Differentiable renderer δR (section 2.1, Rendering module): Bézier strokes to ink.
Used by models, guides, drawings and tasks, through `dood_pyro.rendering`.

A stroke is a curve c(t) walked by a round pen whose profile is a Gaussian of standard deviation σ.
Its ink at a pixel is

    a · Σᵢ wᵢ exp(−‖pixel − cᵢ‖² / 2σ²),    wᵢ = √(|c′(tᵢ)|² + ε²) · (1/n) / (σ √2π),

the midpoint rule over n points for an integral along the curve. Inside a straight stroke longer
than about 4σ the ink is a, whatever the stroke's length. Where the pen tapers, each point has its own
σ and a.

The Gaussian is separable: a stroke's ink is the matrix product E_yᵀ diag(w) E_x of two
(points × pixels) tables, instead of one exponential for every pixel and point.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dood_pyro.rendering.choice import draws_fused

CURVE_POINTS = 128
"""Number of points along a curve. Spaced evenly in t, the points thin out where a curve is fast. The
tests check that the longest strokes show no beads: a straight stroke with the thinnest pen, and a
stroke around three sides of the canvas with a standard deviation of 0.03 or more."""

MIN_SPEED = 1e-2
"""Smallest speed ε, canvas units per unit of t: a stroke of no length is still a dot, with a finite
gradient."""

MIN_EXPONENT = -40.0
"""Smallest exponent of the Gaussian tables. Far pixels would otherwise hold denormal numbers, which
make a CPU's matrix products several times slower; e⁻⁴⁰ is nothing on any canvas."""

LOG2_E = math.log2(math.e)


def pixel_centres(
    size: int, dtype: torch.dtype, device: torch.device | None = None
) -> Float[Tensor, "size"]:
    """Centres of ``size`` pixels on the canvas axis [−1, 1].

    The convention is that of ``affine_grid(..., align_corners=False)``.
    """
    return (torch.arange(size, dtype=dtype, device=device) * 2 + 1) / size - 1


def bernstein(degree: int, t: Float[Tensor, "points"]) -> Float[Tensor, "points controls"]:
    """The degree + 1 Bernstein polynomials at ``t``; their product with control points is a curve."""
    columns = [math.comb(degree, i) * t**i * (1 - t) ** (degree - i) for i in range(degree + 1)]
    return torch.stack(columns, dim=-1)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _midpoint_tables(degree: int, points: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Bernstein polynomials, then their derivatives, at the midpoints: (2 · points, degree + 1)."""
    t = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    value = bernstein(degree, t)
    slope = torch.zeros_like(value)
    if degree > 0:
        lower = degree * bernstein(degree - 1, t)
        slope[:, :-1] -= lower
        slope[:, 1:] += lower
    return torch.cat([value, slope]).to(dtype=dtype, device=device)


def curve_points(
    control: Float[Tensor, "*batch controls 2"], points: int = CURVE_POINTS
) -> tuple[Float[Tensor, "*batch points 2"], Float[Tensor, "*batch points 2"]]:
    """Positions c(tᵢ) and velocities c′(tᵢ) of Bézier curves at the midpoints tᵢ = (i + ½)/points.

    ``control`` holds degree + 1 control points in any unit; positions come back in that unit,
    velocities in that unit per unit of t.
    """
    tables = _midpoint_tables(control.shape[-2] - 1, points, control.dtype, control.device)
    both = tables @ control
    return both[..., :points, :], both[..., points:, :]


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _along(points: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """1 and u = 2t − 1 at the midpoints: (points, 2)."""
    # One formula gives the midpoints of the curve's parameter and the centres of pixels.
    u = pixel_centres(points, torch.float64)
    return torch.stack([torch.ones_like(u), u], dim=-1).to(dtype=dtype, device=device)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _pixel_powers(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Powers 0, 1 and 2 of the pixel centres: (3, size)."""
    pixels = pixel_centres(size, dtype, device)
    return torch.stack([torch.ones_like(pixels), pixels, pixels**2])


def _powers(axes: Tensor | None, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Powers 0, 1 and 2 of the pixels' x and of their y: (3, size), or (*batch, 3, size) where each
    stroke has a box of its own."""
    if axes is None:
        powers = _pixel_powers(size, like.dtype, like.device)
        return powers, powers
    x, y = axes.unbind(-2)
    return tuple(torch.stack([torch.ones_like(a), a, a**2], dim=-2) for a in (x, y))  # type: ignore


def _tables(
    x: Tensor, y: Tensor, sigma: Tensor, pixels_x: Tensor, pixels_y: Tensor
) -> tuple[Tensor, Tensor]:
    """Gaussian tables E_x and E_y: (*batch, points, pixels) each."""
    # On a CPU powers of two take less time than torch's exponentials.
    rate = (math.sqrt(0.5 * LOG2_E) / sigma)[..., None]

    def table(position: Tensor, pixels: Tensor) -> Tensor:
        exponent = (pixels - position[..., None]).mul_(rate).square_().neg_()
        return exponent.clamp_(min=MIN_EXPONENT * LOG2_E).exp2_()

    return table(x, pixels_x), table(y, pixels_y)


class _Walk(NamedTuple):
    """Pen at each point of its curve: (*batch, points); velocity (*batch, points, 2)."""

    x: Tensor
    y: Tensor
    velocity: Tensor
    speed: Tensor
    sigma: Tensor
    weight: Tensor


def _walk(
    control: Tensor, sigma: Tensor, darkness: Tensor, taper: Tensor | None, points: int
) -> _Walk:
    position, velocity = curve_points(control, points)
    speed = (velocity.square().sum(-1) + MIN_SPEED**2).sqrt()
    sigma, darkness = pen_along(sigma, darkness, taper, points)
    weight = darkness * speed / (points * math.sqrt(2 * math.pi) * sigma)
    x, y = position.unbind(-1)
    return _Walk(x, y, velocity, speed, sigma.expand_as(x), weight)


class _StrokeInk(torch.autograd.Function):
    """`stroke_ink` with a hand-written gradient.

    Autograd would keep and revisit half a dozen tensors of the size of the tables, the largest of a
    training step, and dozens of small ones. The hand-written backward pass is two matrix products and
    the moments of their results.
    """

    @staticmethod
    def forward(
        ctx: Any,
        control: Tensor,
        sigma: Tensor,
        darkness: Tensor,
        taper: Tensor | None,
        size: int,
        points: int,
        axes: Tensor | None,
    ) -> Tensor:
        ctx.points = points
        walk = _walk(control, sigma, darkness, taper, points)
        of_x, of_y = _powers(axes, size, control)
        pixels = (of_x[..., 1, :], of_y[..., 1, :])
        if axes is not None:
            pixels = (pixels[0][..., None, :], pixels[1][..., None, :])
        table_x, table_y = _tables(walk.x, walk.y, walk.sigma, *pixels)
        ctx.save_for_backward(control, sigma, darkness, taper, axes, table_x, table_y, *walk)
        return (table_y * walk.weight[..., None]).mT @ table_x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        control, pen_sigma, pen_darkness, taper, axes, table_x, table_y, *walk = ctx.saved_tensors
        x, y, velocity, speed, sigma, weight = walk
        points = ctx.points
        powers_x, powers_y = _powers(axes, grad.shape[-1], grad)
        along_x = (table_y @ grad).mul_(table_x)
        along_y = (table_x @ grad.mT).mul_(table_y)
        x0, x1, x2 = (along_x @ powers_x.mT).unbind(-1)
        y0, y1, y2 = (along_y @ powers_y.mT).unbind(-1)
        # Gradients of each point's position, then of its log sigma, speed and darkness.
        from_x, from_y = x1 - x * x0, y1 - y * y0
        spread = x2 - x * (x1 + from_x) + y2 - y * (y1 + from_y)
        scaled = weight / sigma**2
        log_sigma = scaled * spread - weight * x0
        at_speed = x0 * weight / speed
        at_darkness = x0 * speed / (points * math.sqrt(2 * math.pi) * sigma)
        place = torch.stack([from_x, from_y], dim=-1) * scaled[..., None]
        of_curve = torch.cat([place, velocity * (at_speed / speed)[..., None]], dim=-2)
        tables = _midpoint_tables(control.shape[-2] - 1, points, control.dtype, control.device)
        to_control = tables.mT @ of_curve
        if taper is None:
            to_sigma = log_sigma.sum(-1) / pen_sigma
            return to_control, to_sigma, at_darkness.sum(-1), None, None, None, None
        along = _along(points, control.dtype, control.device)
        # Darkness is clamped at 0: no gradient where it would be below.
        below = pen_darkness[..., None] + taper[..., 1:] * along[:, 1] < 0
        at_darkness = at_darkness.masked_fill(below, 0.0)
        pen = torch.stack([log_sigma, at_darkness], dim=-2) @ along
        to_sigma = pen[..., 0, 0] / pen_sigma
        return to_control, to_sigma, pen[..., 1, 0], pen[..., 1], None, None, None


def stroke_ink(
    control: Float[Tensor, "*batch controls 2"],
    sigma: Float[Tensor, "*batch"],
    darkness: Float[Tensor, "*batch"],
    size: int,
    points: int = CURVE_POINTS,
    taper: Float[Tensor, "*batch 2"] | None = None,
    axes: Float[Tensor, "*batch 2 size"] | None = None,
) -> Float[Tensor, "*batch size size"]:
    """Ink of each stroke on a canvas of ``size`` × ``size`` pixels, or on a box of its own.

    Args:
        control: control points (x to the right, y down) in canvas units, the canvas being
            [−1, 1]²; their number sets the curve's degree.
        sigma: standard deviation of the pen's profile, > 0, canvas units.
        darkness: ink in the interior of the stroke, ≥ 0; the picture is tanh of ink.
        size: pixels per side.
        points: points along the curve.
        taper: change of the pen along the stroke (`pen_along`); None for a constant pen.
        axes: x and y of the pixels of each stroke's box (`rendering.boxes`), in units of ``control``;
            None for the canvas.

    Differentiable (once) in the tensors, which broadcast over ``*batch``. Drawn by fused kernels or by
    torch (`dood_pyro.rendering.choice`).
    """
    batches = {control.shape[:-2], sigma.shape, darkness.shape}
    if taper is not None:
        batches.add(taper.shape[:-1])
    if len(batches) > 1:
        batch = torch.broadcast_shapes(*batches)
        control = control.expand(*batch, *control.shape[-2:])
        sigma, darkness = sigma.expand(batch), darkness.expand(batch)
        taper = None if taper is None else taper.expand(*batch, 2)
    if draws_fused(control):
        return _fused_ink(control, sigma, darkness, size, points, taper, axes)
    ink: Tensor = _StrokeInk.apply(control, sigma, darkness, taper, size, points, axes)
    return ink


def _fused_ink(
    control: Tensor,
    sigma: Tensor,
    darkness: Tensor,
    size: int,
    points: int,
    taper: Tensor | None,
    axes: Tensor | None,
) -> Tensor:
    """`stroke_ink` by the fused kernels, which know strokes one by one."""
    from dood_pyro.rendering.fused import FusedStrokeInk

    batch = control.shape[:-2]
    if axes is not None:
        axes = axes.expand(*batch, 2, size).reshape(-1, 2, size)
    ink: Tensor = FusedStrokeInk.apply(
        control.reshape(-1, *control.shape[-2:]),
        sigma.reshape(-1),
        darkness.reshape(-1),
        None if taper is None else taper.reshape(-1, 2),
        size,
        points,
        axes,
    )
    return ink.reshape(*batch, size, size)


def pen_along(
    sigma: Float[Tensor, "*batch"],
    darkness: Float[Tensor, "*batch"],
    taper: Float[Tensor, "*batch 2"] | None,
    points: int = CURVE_POINTS,
) -> tuple[Float[Tensor, "*batch _"], Float[Tensor, "*batch _"]]:
    """Pen's standard deviation and darkness at the points of `curve_points`.

    At t the values are sigma · exp(u · taper₀) and max(0, darkness + u · taper₁), with u = 2t − 1: the
    taper is half of what log sigma and darkness gain from the stroke's start to its end.
    """
    sigma, darkness = sigma[..., None], darkness[..., None]
    if taper is None:
        return sigma, darkness
    along = _along(points, taper.dtype, taper.device)[:, 1]
    sigma = sigma * (taper[..., :1] * along).exp()
    return sigma, (darkness + taper[..., 1:] * along).clamp(min=0.0)


def peak_ink(
    control: Float[Tensor, "*batch controls 2"],
    sigma: Float[Tensor, "*batch"],
    darkness: Float[Tensor, "*batch"],
    points: int = 48,
    taper: Float[Tensor, "*batch 2"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Most ink that each stroke leaves anywhere on its curve.

    At most ``darkness`` (at the darkest point, where the pen tapers); less for a stroke shorter than
    about 4 ``sigma``.
    """
    walk = _walk(control, sigma, darkness, taper, points)
    position = torch.stack([walk.x, walk.y], dim=-1)
    distance = torch.cdist(position, position) / walk.sigma[..., None, :]
    ink = ((-0.5 * distance**2).exp() @ walk.weight[..., None]).squeeze(-1).amax(-1)
    return torch.minimum(ink, pen_along(sigma, darkness, taper, points)[1].amax(-1))
