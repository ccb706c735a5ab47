"""Strokes and drawings: what a parse gives, rendered again, or written as SVG and JSON.

Coordinates are canvas units: the canvas is [−1, 1]², x to the right, y down.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro.errors import UserError
from dood_pyro.files import write_atomically
from dood_pyro.geometry import Pen, draw_strokes
from dood_pyro.rendering import CURVE_POINTS, MAX_BRIGHTNESS, canvas_from_ink
from dood_pyro.svg import drawing_svg

STROKE_COLOURS = ("#1b6ca8", "#d1495b", "#3b8b5a", "#e09f3e", "#7b4fa0", "#4f4f4f")
"""Colours of strokes by order, told apart by most colour-blind readers."""

MAX_RENDERED = 16_384
"""Pixels a side that a drawing is rendered at: a gibibyte a stroke."""


class Stroke(NamedTuple):
    """One stroke of a drawing, in canvas units unless said otherwise."""

    control: Float[Tensor, "controls 2"]
    """Control points of the Bézier curve, x to the right, y down, the canvas being [−1, 1]²."""
    width: float
    """Visible width in the middle of the stroke: between the points where it falls to half of its
    brightest."""
    brightness: float
    """Of the stroke's brightest point, in [0, 1). A stroke shorter than its pen is wide is fainter
    than its darkness says."""
    sigma: float
    """Standard deviation of the pen's profile in the middle of the stroke."""
    darkness: float
    """Ink in the interior of a long stroke, at its middle; brightness is tanh of it."""
    width_taper: float
    """Half of what log ``sigma`` gains from the stroke's start to its end."""
    darkness_taper: float
    """Half of what ``darkness`` gains from the stroke's start to its end."""
    confidence: float
    """The recognition model's probability, in [0, 1], that the drawing goes as far as this
    stroke."""
    uncertainty: float
    """Root mean square of the control points' standard deviations."""


def stroke_pens(strokes: Sequence[Stroke]) -> Pen:
    """The pens of strokes, batch shape (strokes,)."""
    columns = [[s.sigma, s.darkness, s.width_taper, s.darkness_taper] for s in strokes]
    sigma, darkness, *taper = torch.tensor(columns).unbind(-1)
    return Pen(sigma, darkness, torch.stack(taper, dim=-1))


def beginning(stroke: Stroke, share: float) -> Stroke:
    """The stroke as far as its pen has come at ``share`` of its way, in (0, 1]; ``width`` and
    ``brightness`` stay those of the whole."""
    control = stroke.control
    # De Casteljau: the beginning of a Bézier curve is one of the same degree.
    corners = [control[0]]
    while len(control) > 1:
        control = (1 - share) * control[:-1] + share * control[1:]
        corners.append(control[0])
    return stroke._replace(
        control=torch.stack(corners),
        sigma=stroke.sigma * math.exp(stroke.width_taper * (share - 1)),
        # Of the middle of what is drawn, and below 0 where only the tips are dark.
        darkness=stroke.darkness + stroke.darkness_taper * (share - 1),
        width_taper=stroke.width_taper * share,
        darkness_taper=stroke.darkness_taper * share,
    )


class Drawing:
    """What a parse of one image returns: strokes in the order in which they are drawn.

    Args:
        strokes: the strokes.
        size: pixels a side of the canvas that they were inferred on.
    """

    def __init__(self, strokes: Sequence[Stroke], size: int) -> None:
        self.strokes = tuple(strokes)
        self.size = size

    def __len__(self) -> int:
        return len(self.strokes)

    def __repr__(self) -> str:
        return f"Drawing({len(self)} strokes on {self.size}×{self.size} pixels)"

    def render(self, size: int | None = None) -> Float[Tensor, "size size"]:
        """The picture, in [0, 1), ink bright on black, at ``size`` pixels a side.

        Raises:
            UserError: that is no whole number of 1 to `MAX_RENDERED`.
        """
        return self.render_steps(size)[-1]

    def render_steps(self, size: int | None = None) -> Float[Tensor, "steps size size"]:
        """The picture before the first stroke, and after each."""
        size = self.size if size is None else size
        if not isinstance(size, int) or not 1 <= size <= MAX_RENDERED:
            raise UserError(
                f"a drawing is rendered at 1 to {MAX_RENDERED:,} pixels a side, a whole number; "
                f"not at {size!r}"
            )
        return torch.cat([torch.zeros(1, size, size), canvas_from_ink(self.inks(size).cumsum(0))])

    def inks(self, size: int) -> Float[Tensor, "strokes size size"]:
        """The ink of each stroke, at ``size`` pixels a side."""
        if not self.strokes:
            return torch.zeros(0, size, size)
        control = torch.stack([stroke.control for stroke in self.strokes])
        return draw_strokes(control, stroke_pens(self.strokes), size, points=2 * CURVE_POINTS)

    def save(self, stem: str | Path, colours: str | Sequence[str] | None = None) -> list[Path]:
        """Writes ``stem``.svg and ``stem``.json; returns their paths.

        Args:
            stem: a path; one that ends in .svg or .json stands for the one without.
            colours: as for `svg`.

        Raises:
            UserError: they cannot be written.
        """
        if not str(stem):
            raise UserError("a drawing is saved under a name: give one")
        stem = Path(stem)
        if stem.suffix.lower() in (".svg", ".json"):
            stem = stem.with_suffix("")
        contents = {"svg": self.svg(colours=colours), "json": json.dumps(self.json())}
        paths = [Path(f"{stem}.{suffix}") for suffix in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            write_atomically(path, content.encode())
        return paths

    def json(self) -> dict[str, Any]:
        """The drawing as plain values that ``json.dumps`` takes."""
        return {
            "units": "canvas units: the canvas is [-1, 1] x [-1, 1], x to the right, y down",
            "canvas_size": self.size,
            "strokes": [
                {**stroke._asdict(), "control": stroke.control.tolist()} for stroke in self.strokes
            ],
        }

    def svg(
        self,
        size: int = 200,
        colours: str | Sequence[str] | None = None,
        seconds_per_stroke: float | None = None,
    ) -> str:
        """The drawing as an SVG document of ``size`` × ``size`` user units (`svg.drawing_svg`)."""
        return drawing_svg(self.strokes, size, colours, seconds_per_stroke)


def visible_width(sigma: float, brightness: float) -> float:
    """Full width at half maximum of a stroke whose brightest point is ``brightness`` in [0, 1),
    canvas units, for a pen of standard deviation ``sigma``."""
    ink = math.atanh(min(brightness, MAX_BRIGHTNESS))
    if ink <= 0:
        return 0.0
    return 2 * sigma * math.sqrt(2 * math.log(ink / math.atanh(brightness / 2)))
