"""One pen stroke of a drawing, and what follows from its parameters.
Used by drawings, their SVG and recognition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro.geometry import Pen
from dood_pyro.rendering import MAX_BRIGHTNESS


class Stroke(NamedTuple):
    """Stroke of a drawing; lengths in canvas units."""

    control: Float[Tensor, "controls 2"]
    """Control points of the Bézier curve, x to the right, y down, the canvas being [−1, 1]²."""
    width: float
    """Visible width in the middle of the stroke: full width at half of the brightest point."""
    brightness: float
    """Brightness of the stroke's brightest point, in [0, 1). A stroke shorter than its pen is wide
    is fainter than tanh(``darkness``)."""
    sigma: float
    """Standard deviation of the pen's profile in the middle of the stroke."""
    darkness: float
    """Ink in the interior of a long stroke, at its middle; brightness is tanh of ink."""
    width_taper: float
    """Half of what log ``sigma`` gains from the stroke's start to its end."""
    darkness_taper: float
    """Half of what ``darkness`` gains from the stroke's start to its end."""
    confidence: float
    """Probability under the recognition model, in [0, 1], that the drawing does not stop before
    this stroke."""
    uncertainty: float
    """Root mean square of the control points' standard deviations."""


def stroke_pens(strokes: Sequence[Stroke]) -> Pen:
    """Pens of strokes, batch shape (strokes,)."""
    columns = [[s.sigma, s.darkness, s.width_taper, s.darkness_taper] for s in strokes]
    sigma, darkness, *taper = torch.tensor(columns).unbind(-1)
    return Pen(sigma, darkness, torch.stack(taper, dim=-1))


def beginning(stroke: Stroke, share: float) -> Stroke:
    """Beginning of a stroke: the part up to curve parameter t = ``share``, in (0, 1].

    ``width`` and ``brightness`` stay those of the whole stroke.
    """
    control = stroke.control
    # De Casteljau: the beginning of a Bézier curve is a Bézier curve of the same degree.
    corners = [control[0]]
    while len(control) > 1:
        control = (1 - share) * control[:-1] + share * control[1:]
        corners.append(control[0])
    return stroke._replace(
        control=torch.stack(corners),
        sigma=stroke.sigma * math.exp(stroke.width_taper * (share - 1)),
        # Darkness in the middle of the drawn part; below 0 where only the tips are dark.
        darkness=stroke.darkness + stroke.darkness_taper * (share - 1),
        width_taper=stroke.width_taper * share,
        darkness_taper=stroke.darkness_taper * share,
    )


def visible_width(sigma: float, brightness: float) -> float:
    """Full width at half maximum of a stroke, canvas units.

    Args:
        sigma: standard deviation of the pen's profile, canvas units.
        brightness: brightness of the stroke's brightest point, in [0, 1).
    """
    ink = math.atanh(min(brightness, MAX_BRIGHTNESS))
    if ink <= 0:
        return 0.0
    return 2 * sigma * math.sqrt(2 * math.log(ink / math.atanh(brightness / 2)))
