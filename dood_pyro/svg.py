"""Drawings as SVG documents: Bézier curves of any degree as cubic paths, still or animated.
Used by `dood_pyro.drawing.Drawing`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dood_pyro.errors import UserError
from dood_pyro.rendering import bernstein
from dood_pyro.stroke import Stroke

PIECES = 8
"""Cubic pieces per stroke."""
CONSTANT_TAPER = 0.05
"""Change of log width, from middle to end, below which a stroke is one path of constant width."""


def drawing_svg(
    strokes: Sequence[Stroke],
    size: int,
    colours: str | Sequence[str] | None = None,
    seconds_per_stroke: float | None = None,
) -> str:
    """SVG document of strokes, ``size`` × ``size`` user units, on white.

    Args:
        colours: one per stroke, repeated in turn, or one for all strokes; black by default.
        seconds_per_stroke: pace of the animated drawing, seconds; None for a still picture.

    Raises:
        UserError: ``size`` is not positive.
    """
    if not 0 < size < math.inf:
        raise UserError(f"an SVG's size must be positive; it is {size}")
    colours = [colours] if isinstance(colours, str) else colours
    paths = []
    for index, stroke in enumerate(strokes):
        colour = colours[index % len(colours)] if colours else "black"
        paths.append(f'<g stroke="{colour}" opacity="{stroke.brightness:.3g}">')
        pieces = _cubic_paths(stroke, size)
        for place, (path, width) in enumerate(pieces):
            shape = f'd="{path}" stroke-width="{width:.3g}"'
            if seconds_per_stroke is None:
                paths.append(f"  <path {shape}/>")
            else:
                duration = seconds_per_stroke / len(pieces)
                begin = index * seconds_per_stroke + place * duration
                paths.append(_animated_path(shape, begin, duration))
        paths.append("</g>")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" '
            f'width="{size}" height="{size}">',
            f'<rect width="{size}" height="{size}" fill="white"/>',
            '<g fill="none" stroke-linecap="round" stroke-linejoin="round">',
            *paths,
            "</g>",
            "</svg>",
            "",
        ]
    )


def _animated_path(shape: str, begin: float, duration: float) -> str:
    """Path that appears at ``begin`` seconds and reaches its full length ``duration`` seconds later."""
    return (
        f'  <path {shape} pathLength="1" stroke-dasharray="1 2" stroke-dashoffset="1" '
        f'visibility="hidden"><set attributeName="visibility" to="visible" begin="{begin:.3f}s" '
        f'fill="freeze"/><animate attributeName="stroke-dashoffset" from="1" to="0" '
        f'begin="{begin:.3f}s" dur="{duration:.3f}s" fill="freeze"/></path>'
    )


def _cubic_paths(stroke: Stroke, size: int) -> list[tuple[str, float]]:
    """Path data and widths of a stroke: one path, or one per piece where the pen tapers.

    SVG has cubic curves only: each piece takes its end points and tangents from the curve.
    """
    degree = stroke.control.shape[0] - 1
    t = torch.linspace(0, 1, PIECES + 1, dtype=torch.float64)
    control = (stroke.control.double() + 1) * size / 2
    points = bernstein(degree, t) @ control
    tangents = bernstein(degree - 1, t) @ (degree * control.diff(dim=0)) / (3 * PIECES)
    width = stroke.width * size / 2
    pieces = []
    for i in range(PIECES):
        corners = (points[i] + tangents[i], points[i + 1] - tangents[i + 1], points[i + 1])
        curve = "C" + " ".join(f"{x:.2f} {y:.2f}" for x, y in (c.tolist() for c in corners))
        along = (2 * i + 1) / PIECES - 1
        start = f"M{points[i, 0]:.2f} {points[i, 1]:.2f}"
        pieces.append((start, curve, width * math.exp(stroke.width_taper * along)))
    if abs(stroke.width_taper) < CONSTANT_TAPER:
        return [(pieces[0][0] + "".join(curve for _, curve, _ in pieces), width)]
    return [(start + curve, width) for start, curve, width in pieces]
