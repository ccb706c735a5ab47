"""The vocabulary: layouts, pens, strokes and drawings, and how a drawing leaves as SVG or JSON.

Coordinates: the canvas is [−1, 1]², x to the right, y down. A layout places a glimpse's frame,
also [−1, 1]², on the canvas: canvas point = scale · R(rotation) · frame point + translation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro.errors import UserError
from dood_pyro.files import write_atomically
from dood_pyro.rendering import CURVE_POINTS, WHITEST, bernstein, canvas_from_ink, stroke_ink

LAYOUT_NAMES = ("scale", "x", "y", "rotation")
"""What the four numbers of a ``layout_t`` site are: 1, canvas units, canvas units, radians."""
LAYOUT_LOW = [0.25, -0.8, -0.8, -torch.pi / 4]
LAYOUT_HIGH = [1.0, 0.8, 0.8, torch.pi / 4]
"""The range of a layout's mean (section 2.1, "appropriately constrained")."""
LEAST_LAYOUT_SCALE = 0.1

MOST_RENDERED = 16_384
"""Pixels a side that a drawing is rendered at: a gibibyte a stroke."""

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

    One matrix serves `networks.glimpse` and `place`, so that a stroke lies where its glimpse
    was taken.
    """
    scale, x, y, rotation = layout.unbind(-1)
    # A Gaussian's sample can leave the range that its mean is kept in; no frame has size zero.
    scale = scale.clamp(min=LEAST_LAYOUT_SCALE)
    cos, sin = scale * rotation.cos(), scale * rotation.sin()
    return torch.stack([cos, -sin, x, sin, cos, y], dim=-1).unflatten(-1, (2, 3))


def inverse(matrix: Float[Tensor, "*batch 2 3"]) -> Float[Tensor, "*batch 2 3"]:
    """The affine map the other way round, from the canvas to the glimpse's frame: what a spatial
    transformer needs to put a part's picture on the canvas."""
    (a, b, x), (c, d, y) = (row.unbind(-1) for row in matrix.unbind(-2))
    det = a * d - b * c
    back = [d, -b, b * y - d * x, -c, a, c * x - a * y]
    return torch.stack([entry / det for entry in back], dim=-1).unflatten(-1, (2, 3))


def compose(
    outer: Float[Tensor, "*batch 2 3"], inner: Float[Tensor, "*batch 2 3"]
) -> Float[Tensor, "*batch 2 3"]:
    """The affine map that is ``inner`` and then ``outer``; batch dimensions broadcast."""
    turned = outer[..., :2] @ inner
    return torch.cat([turned[..., :2], turned[..., 2:] + outer[..., 2:]], dim=-1)


def place(
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
            UserError: that is no whole number of 1 to `MOST_RENDERED`.
        """
        return self.render_steps(size)[-1]

    def render_steps(self, size: int | None = None) -> Float[Tensor, "steps size size"]:
        """The picture before the first stroke, and after each."""
        size = self.size if size is None else size
        if not isinstance(size, int) or not 1 <= size <= MOST_RENDERED:
            raise UserError(
                f"a drawing is rendered at 1 to {MOST_RENDERED:,} pixels a side, a whole number; "
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
        seconds_a_stroke: float | None = None,
    ) -> str:
        """The drawing as an SVG document of ``size`` × ``size`` user units, ink on white.

        Args:
            colours: one a stroke, taken in turn, or one for all; black where there are none.
            seconds_a_stroke: animates the drawing being drawn at this pace; None for at once.

        Raises:
            UserError: ``size`` is not positive.
        """
        if not 0 < size < math.inf:
            raise UserError(f"an SVG's size must be positive; it is {size}")
        colours = [colours] if isinstance(colours, str) else colours
        paths = []
        for index, stroke in enumerate(self.strokes):
            colour = colours[index % len(colours)] if colours else "black"
            paths.append(f'<g stroke="{colour}" opacity="{stroke.brightness:.3g}">')
            pieces = _svg_paths(stroke, size)
            for place, (path, width) in enumerate(pieces):
                shape = f'd="{path}" stroke-width="{width:.3g}"'
                if seconds_a_stroke is None:
                    paths.append(f"  <path {shape}/>")
                else:
                    duration = seconds_a_stroke / len(pieces)
                    paths.append(
                        _svg_animated(shape, index * seconds_a_stroke + place * duration, duration)
                    )
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


STROKE_COLOURS = ("#1b6ca8", "#d1495b", "#3b8b5a", "#e09f3e", "#7b4fa0", "#4f4f4f")
"""Colours of strokes by order, told apart by most colour-blind readers."""

SVG_PIECES = 8
STRAIGHT_TAPER = 0.05
"""Strokes whose width changes by less (of its log, from middle to end) are one path."""


def visible_width(sigma: float, brightness: float) -> float:
    """Full width at half maximum of a stroke whose brightest point is ``brightness`` in [0, 1),
    canvas units, for a pen of standard deviation ``sigma``."""
    ink = math.atanh(min(brightness, WHITEST))
    if ink <= 0:
        return 0.0
    return 2 * sigma * math.sqrt(2 * math.log(ink / math.atanh(brightness / 2)))


def _svg_animated(shape: str, begin: float, duration: float) -> str:
    """A path that appears at ``begin`` seconds and has grown to its end ``duration`` later."""
    return (
        f'  <path {shape} pathLength="1" stroke-dasharray="1 2" stroke-dashoffset="1" '
        f'visibility="hidden"><set attributeName="visibility" to="visible" begin="{begin:.3f}s" '
        f'fill="freeze"/><animate attributeName="stroke-dashoffset" from="1" to="0" '
        f'begin="{begin:.3f}s" dur="{duration:.3f}s" fill="freeze"/></path>'
    )


def _svg_paths(stroke: Stroke, size: int) -> list[tuple[str, float]]:
    """A curve of any degree as cubic pieces with its own ends and tangents (SVG knows no others),
    and their widths: one path, or one a piece where the pen tapers."""
    degree = stroke.control.shape[0] - 1
    t = torch.linspace(0, 1, SVG_PIECES + 1, dtype=torch.float64)
    control = (stroke.control.double() + 1) * size / 2
    points = bernstein(degree, t) @ control
    tangents = bernstein(degree - 1, t) @ (degree * control.diff(dim=0)) / (3 * SVG_PIECES)
    width = stroke.width * size / 2
    pieces = []
    for i in range(SVG_PIECES):
        corners = (points[i] + tangents[i], points[i + 1] - tangents[i + 1], points[i + 1])
        curve = "C" + " ".join(f"{x:.2f} {y:.2f}" for x, y in (c.tolist() for c in corners))
        along = (2 * i + 1) / SVG_PIECES - 1
        start = f"M{points[i, 0]:.2f} {points[i, 1]:.2f}"
        pieces.append((start, curve, width * math.exp(stroke.width_taper * along)))
    if abs(stroke.width_taper) < STRAIGHT_TAPER:
        return [(pieces[0][0] + "".join(curve for _, curve, _ in pieces), width)]
    return [(start + curve, width) for start, curve, width in pieces]
