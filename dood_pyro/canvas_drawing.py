"""Drawings on the model's canvas: what model and guide draw, in their own units.
Tasks and plots use them, and take their colours from here; `CanvasDrawing.in_pixels` turns one into a
`dood_pyro.drawing.Drawing`, which has a picture's frame.

Coordinates are canvas units: the canvas is [−1, 1]², x to the right, y down.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro.drawing import MAX_RENDERED, Drawing, PenStroke
from dood_pyro.errors import UserError
from dood_pyro.files import write_atomically
from dood_pyro.geometry import draw_strokes
from dood_pyro.rendering import CURVE_POINTS, bernstein, canvas_from_ink
from dood_pyro.stroke import Stroke, stroke_pens

STROKE_COLOURS = ("#1b6ca8", "#d1495b", "#3b8b5a", "#e09f3e", "#7b4fa0", "#4f4f4f")
"""Colours of strokes by order; most colour-blind readers can tell them apart."""

PIECES = 8
"""Cubic pieces of a stroke in a picture's frame."""


class CanvasDrawing:
    """Parse of one image: strokes in the order in which they are drawn.

    Args:
        strokes: the strokes.
        size: pixels per side of the canvas that the strokes were inferred on.
    """

    def __init__(self, strokes: Sequence[Stroke], size: int) -> None:
        self.strokes = tuple(strokes)
        self.size = size

    def __len__(self) -> int:
        return len(self.strokes)

    def __repr__(self) -> str:
        return f"CanvasDrawing({len(self)} strokes on {self.size}×{self.size} pixels)"

    def render(self, size: int | None = None) -> Float[Tensor, "size size"]:
        """Return the picture, in [0, 1), bright ink on black.

        Args:
            size: pixels per side; None for those of the drawing's canvas.

        Raises:
            UserError: ``size`` is not a whole number from 1 to `MAX_RENDERED`.
        """
        return self.render_steps(size)[-1]

    def render_steps(self, size: int | None = None) -> Float[Tensor, "steps size size"]:
        """Return the picture before the first stroke and after each stroke; errors as in `render`."""
        size = self.size if size is None else size
        if not isinstance(size, int) or not 1 <= size <= MAX_RENDERED:
            raise UserError(
                f"a drawing is rendered at 1 to {MAX_RENDERED:,} pixels a side, a whole number; "
                f"not at {size!r}"
            )
        return torch.cat([torch.zeros(1, size, size), canvas_from_ink(self.inks(size).cumsum(0))])

    def inks(self, size: int) -> Float[Tensor, "strokes size size"]:
        """Return the ink of each stroke, at ``size`` pixels per side."""
        if not self.strokes:
            return torch.zeros(0, size, size)
        control = torch.stack([stroke.control for stroke in self.strokes])
        return draw_strokes(control, stroke_pens(self.strokes), size, points=2 * CURVE_POINTS)

    def save(self, stem: str | Path, colours: str | Sequence[str] | None = None) -> list[Path]:
        """Write ``stem``.svg and ``stem``.json; return their paths.

        Args:
            stem: a path; an ending of .svg or .json is dropped.
            colours: as for `svg`.

        Raises:
            UserError: ``stem`` is empty, or a file cannot be written.
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
        """Return the drawing as plain values for ``json.dumps``."""
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
        """Return an SVG document of ``size`` × ``size`` user units, on white
        (`dood_pyro.drawing.Drawing.svg`)."""
        return self.in_pixels(self.size, self.size).svg(size, colours, "white", seconds_per_stroke)

    def in_pixels(self, width: int, height: int, explained: float = 1.0) -> Drawing:
        """The drawing in the frame of the picture that was parsed.

        A stroke whose pen tapers has its width in the middle all along.

        Args:
            width, height: of the picture, pixels; it lies in the middle of the canvas, whose side is
                its longer one.
            explained: share of the picture's ink that is explained.
        """
        side = max(width, height)
        # As pictures are padded (`pictures.read_picture`).
        corner = torch.tensor([(side - width) // 2, (side - height) // 2], dtype=torch.float64)
        strokes = [
            PenStroke(
                ((_cubic_pieces(stroke.control) + 1) * side / 2 - corner).numpy(),
                stroke.width * side / 2,
                stroke.brightness,
                stroke.confidence,
            )
            for stroke in self.strokes
        ]
        return Drawing(strokes, width, height, explained)


def _cubic_pieces(control: Float[Tensor, "controls 2"]) -> Float[Tensor, "pieces 4 2"]:
    """Cubic curves along a Bézier curve of any degree, with its end points and tangents."""
    degree = control.shape[0] - 1
    t = torch.linspace(0, 1, PIECES + 1, dtype=torch.float64)
    points = bernstein(degree, t) @ control.double()
    tangents = bernstein(degree - 1, t) @ (degree * control.double().diff(dim=0)) / (3 * PIECES)
    corners = [points[:-1], points[:-1] + tangents[:-1], points[1:] - tangents[1:], points[1:]]
    return torch.stack(corners, dim=1)
