"""Drawings in a picture's own pixels: what parsing a picture gives its user, to look at and to keep.
`dood_pyro.Drawing`; recognition makes them, `dood_pyro.svg` and `dood_pyro.drawing_files` write them.

Coordinates are pixels of the picture, x to the right, y down; pixel i covers [i, i + 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex, overload

import numpy as np
from jaxtyping import Float

from dood_pyro import drawing_files, plotter, svg
from dood_pyro.errors import UserError
from dood_pyro.files import unwritable, write_atomically
from dood_pyro.rendering.round_pen import Polyline, draw_with_pen

MAX_RENDERED = 16_384
"""Longest side that a drawing is rendered at, pixels."""
BLACK = "#000000"
"""Ink without a colour."""
OTHER_FORMATS = (
    *(".pdf", ".eps", ".ai", ".dxf", ".html", ".txt", ".csv"),
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"),
)
"""Suffixes of formats that a drawing is not saved as; others are taken for a part of its name."""
UNITS = "pixels of the picture, x to the right, y down; pixel i covers [i, i + 1)"


class PenStroke(NamedTuple):
    """What a pen draws without being lifted: a chain of cubic Bézier curves."""

    control: Float[np.ndarray, "curves 4 2"]
    """Control points in pixels; each curve starts where the one before ends."""
    width: float
    """The pen's diameter, pixels."""
    darkness: float = 1.0
    """Darkness of the ink, in [0, 1]; 1 is the picture's darkest."""
    confidence: float = 1.0
    """Probability, in [0, 1], that a person drew this as one stroke."""
    colour: str = BLACK
    """Colour of the ink, as the picture has it; black for ink without a colour."""

    @property
    def opacity(self) -> float:
        """Opacity at which `colour` is drawn: black ink's darkness; a colour is as light as it is."""
        return self.darkness if self.colour == BLACK else 1.0

    def points(self, spacing: float = 1.0) -> Polyline:
        """Points along the stroke, about ``spacing`` pixels apart, both ends included.

        Raises:
            UserError: ``spacing`` is not positive.
        """
        if not spacing > 0:
            raise UserError(f"points are some distance apart, not {spacing}")
        parts = [self.control[:1, 0]]
        for curve in self.control:
            length = float(np.hypot(*np.diff(curve, axis=0).T).sum())
            t = np.linspace(0, 1, max(2, math.ceil(length / spacing) + 1))[1:, None]
            a, b, c, d = curve
            u = 1 - t
            parts.append(u**3 * a + 3 * t * u**2 * b + 3 * t**2 * u * c + t**3 * d)
        return np.concatenate(parts)

    def same(self, other: PenStroke) -> bool:
        """Whether two strokes are equal; NamedTuple's own comparison does not know arrays."""
        return self[1:] == other[1:] and np.array_equal(self.control, other.control)


class Drawing:
    """Strokes of a picture, in the order in which they are drawn.

    Args:
        strokes: the strokes.
        width, height: of the picture, pixels.
        explained: share of the picture's ink that the strokes leave too, in [0, 1].
        limited: whether a limit on the number of strokes ended the parse.
        log_density: of picture and strokes together, nats, up to a constant that parses of one picture
            share; None where it is not known.
        given: first strokes that were there before a prior went on.
    """

    def __init__(
        self,
        strokes: Sequence[PenStroke],
        width: int,
        height: int,
        explained: float = 1.0,
        limited: bool = False,
        log_density: float | None = None,
        given: int = 0,
    ) -> None:
        self.strokes = tuple(strokes)
        self.width, self.height = width, height
        self.explained, self.limited, self.log_density = explained, limited, log_density
        self.given = given

    def __len__(self) -> int:
        return len(self.strokes)

    def __iter__(self) -> Iterator[PenStroke]:
        return iter(self.strokes)

    def __getitem__(self, index: int) -> PenStroke:
        return self.strokes[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Drawing):
            return NotImplemented
        return (
            (self.width, self.height, len(self)) == (other.width, other.height, len(other))
            and (self.explained, self.limited, self.given)
            == (other.explained, other.limited, other.given)
            and all(a.same(b) for a, b in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        of_ink = f", {self.explained:.0%} of the ink explained" if self.explained < 1 else ""
        return f"Drawing({len(self)} strokes on {self.width}×{self.height} pixels{of_ink})"

    def _repr_svg_(self) -> str:
        """Show the drawing in a notebook."""
        return self.svg()

    def polylines(self, spacing: float = 1.0) -> list[Polyline]:
        """Points along each stroke, about ``spacing`` pixels apart."""
        return [stroke.points(spacing) for stroke in self.strokes]

    def render(self, scale: float = 1.0) -> Float[np.ndarray, "height width"]:
        """Return the picture, in [0, 1], ink on 0.

        Args:
            scale: pixels per pixel of the picture that was parsed.

        Raises:
            UserError: ``scale`` is not positive, or makes more than `MAX_RENDERED` pixels a side.
        """
        if not (scale > 0 and scale * max(self.width, self.height) <= MAX_RENDERED):
            raise UserError(
                f"a drawing is rendered at up to {MAX_RENDERED:,} pixels a side; "
                f"{self.width}×{self.height} by {scale:g} are not that"
            )
        shape = max(1, round(scale * self.height)), max(1, round(scale * self.width))
        picture = np.zeros(shape)
        for stroke in self.strokes:
            line = scale * stroke.points(0.5 / scale)
            drawn = draw_with_pen([line], shape, scale * stroke.width)
            np.maximum(picture, stroke.darkness * drawn, out=picture)
        return picture

    def svg(
        self,
        size: float | str | None = None,
        colours: str | Sequence[str] | None = None,
        background: str | None = "white",
        seconds_per_stroke: float | None = None,
    ) -> str:
        """Return an SVG document in the picture's frame, one path for each stroke.

        Args:
            size: width of the document, in user units or with a CSS unit (``"210mm"``); None for the
                picture's pixels. The height follows.
            colours: one per stroke, repeated in turn, or one for all; None for the ink's own.
            background: colour of the paper; None for none.
            seconds_per_stroke: mean pace of the animated drawing, seconds; None for a still picture.

        Raises:
            UserError: ``size`` is not a positive length, ``seconds_per_stroke`` not a positive time, or
                a colour is none that CSS knows.
        """
        return svg.drawing_svg(self, size, colours, background, seconds_per_stroke)

    def plotter_svg(self, size: str = "100mm") -> str:
        """Return an SVG document for pen plotters: millimetres, one path a stroke, a layer for each
        colour, no background, in an order that spares the lifted pen travel.

        Args:
            size: width of the document, in mm, cm or in. The height follows.

        Raises:
            UserError: ``size`` is no such length.
        """
        return plotter.plotter_svg(self, size)

    def json(self) -> dict[str, Any]:
        """Return the drawing as plain values for ``json.dumps``; `from_json` reads them."""
        return {
            "format": "dood-pyro drawing",
            "version": 1,
            "units": UNITS,
            "width": self.width,
            "height": self.height,
            "explained": self.explained,
            "limited": self.limited,
            "log_density": self.log_density,
            "given": self.given,
            "strokes": [
                {
                    "control": stroke.control.tolist(),
                    "width": float(stroke.width),
                    "darkness": float(stroke.darkness),
                    "confidence": float(stroke.confidence),
                    "colour": stroke.colour,
                }
                for stroke in self.strokes
            ],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | str) -> Drawing:
        """The drawing of `json`'s values, or of their text.

        Raises:
            UserError: they are not a drawing's.
        """
        return drawing_files.from_json(values)

    @classmethod
    def from_svg(cls, text: str) -> Drawing:
        """The drawing of an SVG document that `svg` wrote: positions to a thousandth of a pixel.

        Raises:
            UserError: ``text`` is not such a document.
        """
        return svg.drawing_from_svg(text)

    def stroke3(self, spacing: float = 2.0) -> Float[np.ndarray, "points 3"]:
        """Offsets (Δx, Δy) from point to point, and 1 where the pen is lifted after a point: the format
        of sketch-rnn. The first offset is from the picture's upper left corner.

        Args:
            spacing: distance of points, pixels.
        """
        return drawing_files.stroke3(self, spacing)

    def quickdraw(self, word: str = "") -> dict[str, Any]:
        """A record of Quick, Draw!'s simplified ndjson: scaled to 0 to 255, at the upper left corner,
        polylines within 2 of the curves."""
        return drawing_files.quickdraw(self, word)

    def gif(self, side: int = 400, seconds: float = 3.0) -> bytes:
        """GIF of the drawing being drawn, at the pen's pace.

        Args:
            side: pixels of the longer side.
            seconds: how long it takes; it rests for a second, then starts again.

        Raises:
            UserError: ``side`` is below 1, or ``seconds`` not from 0 to 3,600.
        """
        return drawing_files.gif(self, side, seconds)

    def save(
        self,
        path: str | Path,
        colours: str | Sequence[str] | None = None,
        size: float | str | None = None,
        background: str | None = "white",
    ) -> list[Path]:
        """Write the drawing; return the files' paths.

        Args:
            path: its suffix says what is written: .svg, .json, .npz (stroke-3), .ndjson (Quick, Draw!)
                or .gif. Without one of these, ``path``.svg and ``path``.json.
            colours, size, background: as for `svg`.

        Raises:
            UserError: ``path`` is empty or of another format, or a file cannot be written.
        """
        if not str(path):
            raise UserError("a drawing is saved under a name: give one")
        path = Path(path)
        known = path.suffix.lower() in drawing_files.WRITERS or path.suffix.lower() == ".svg"
        if path.suffix.lower() in OTHER_FORMATS:
            raise UserError(
                f"{path}: a drawing is saved as .svg or {', '.join(drawing_files.WRITERS)}"
            )
        paths = [path] if known else [Path(f"{path}{suffix}") for suffix in (".svg", ".json")]
        for each in paths:
            suffix = each.suffix.lower()
            if suffix == ".svg":
                content = self.svg(size, colours, background).encode()
            else:
                content = drawing_files.WRITERS[suffix](self, each.stem)
            write_atomically(each, content)
        return paths

    @classmethod
    def open(cls, path: str | Path) -> Drawing:
        """Read a drawing that `save` wrote as .json or .svg.

        Raises:
            UserError: the file cannot be read, or is no drawing.
        """
        return drawing_files.open_drawing(Path(path))


class Drawings(list[Drawing]):
    """Several drawings: a list that shows itself in a notebook, and is written and read as JSON."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> Drawing: ...

    @overload
    def __getitem__(self, index: slice) -> Drawings: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Drawing | Drawings:
        found = list.__getitem__(self, index)
        return Drawings(found) if isinstance(found, list) else found

    def __repr__(self) -> str:
        return f"Drawings({list.__repr__(self)})"

    def _repr_html_(self) -> str:
        """Show the drawings in a notebook, side by side."""
        cells = (f"<div>{each.svg(128)}</div>" for each in self)
        return f'<div style="display: flex; flex-wrap: wrap; gap: .5em">{"".join(cells)}</div>'

    def json(self) -> list[dict[str, Any]]:
        """Return the drawings as plain values for ``json.dumps``; `from_json` reads them."""
        return [drawing.json() for drawing in self]

    @classmethod
    def from_json(cls, values: Sequence[Any] | str) -> Drawings:
        """The drawings of `json`'s values, or of their text.

        Raises:
            UserError: they are not a list of drawings.
        """
        return cls(drawing_files.many_from_json(values))

    def save(self, folder: str | Path, suffix: str = ".svg") -> list[Path]:
        """Write each drawing into a folder, as 000.svg and so on; return the files' paths.

        Args:
            folder: made if it is not there.
            suffix: as for `Drawing.save`.

        Raises:
            UserError: a file there has such a name already, or cannot be written.
        """
        known = (".svg", *drawing_files.WRITERS)
        if suffix not in known:
            raise UserError(f"drawings are saved as one of {', '.join(known)}, not {suffix!r}")
        digits = max(3, len(str(len(self) - 1)))
        paths = [Path(folder) / f"{index:0{digits}d}{suffix}" for index in range(len(self))]
        if there := [path for path in paths if path.exists()]:
            raise UserError(f"{there[0]} is there already; name another folder")
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from None
        return [drawing.save(path)[0] for drawing, path in zip(self, paths, strict=True)]
