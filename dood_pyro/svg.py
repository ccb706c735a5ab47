"""Drawings as SVG documents, still or animated, and back. Used by `dood_pyro.drawing.Drawing`."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Float

from dood_pyro.errors import UserError

if TYPE_CHECKING:
    from dood_pyro.drawing import Drawing, PenStroke

OPAQUE = 0.9
"""Darkness from which ink is drawn without opacity: the rest is the picture's own unevenness."""
UNITS = ("", "px", "mm", "cm", "in", "pt", "pc")
SPACE = "http://www.w3.org/2000/svg"
MARK = "dood-pyro drawing"
"""Class of the documents' groups, by which they are known again."""


def drawing_svg(
    drawing: Drawing,
    size: float | str | None = None,
    colours: str | Sequence[str] | None = None,
    background: str | None = "white",
    seconds_per_stroke: float | None = None,
) -> str:
    """SVG document of a drawing; as for `dood_pyro.drawing.Drawing.svg`.

    Raises:
        UserError: ``size`` is not a positive length, the pace no positive time, or a colour is unknown.
    """
    width, height = _lengths(drawing, size)
    colours = [colours] if isinstance(colours, str) else colours
    for colour in (*(colours or ()), *(() if background is None else (background,))):
        check_colour(colour)
    if seconds_per_stroke is not None and not 0 < seconds_per_stroke < 1e6:
        raise UserError(f"a stroke takes a positive number of seconds, not {seconds_per_stroke}")
    lengths = [_length(stroke) for stroke in drawing.strokes]
    pace = None
    if seconds_per_stroke is not None:
        # A long stroke takes longer; a dot takes a moment too.
        shares = np.array(lengths) + 0.1 * max(lengths, default=1.0)
        pace = shares / max(float(shares.mean()) if len(shares) else 1.0, 1e-9) * seconds_per_stroke
    lines = [
        f'<svg xmlns="{SPACE}" viewBox="0 0 {drawing.width} {drawing.height}" '
        f'width="{width}" height="{height}">'
    ]
    if background is not None:
        frame = f'width="{drawing.width}" height="{drawing.height}"'
        lines.append(f'<rect class="paper" {frame} fill={quoteattr(background)}/>')
    lines.append(
        f'<g class="{MARK}" data-explained="{drawing.explained:.6g}" '
        f'data-limited="{int(drawing.limited)}" data-given="{drawing.given}" '
        'fill="none" stroke-linecap="round" '
        'stroke-linejoin="round">'
    )
    begin = 0.0
    for index, stroke in enumerate(drawing.strokes):
        colour = colours[index % len(colours)] if colours else stroke.colour
        value = stroke.darkness if colours else stroke.opacity
        opacity = "" if value >= OPAQUE else f' stroke-opacity="{value:.3g}"'
        shape = (
            f'd="{path_data(stroke.control)}" stroke={quoteattr(colour)} '
            f'stroke-width="{stroke.width:.7g}"{opacity} '
            f'data-confidence="{stroke.confidence:.4g}" data-darkness="{stroke.darkness:.5g}" '
            f"data-ink={quoteattr(stroke.colour)}"
        )
        if pace is None:
            lines.append(f"<path {shape}/>")
        else:
            lines.append(_animated(shape, begin, float(pace[index])))
            begin += float(pace[index])
    return "\n".join([*lines, "</g>", "</svg>", ""])


def check_colour(colour: str) -> None:
    """Refuse what is no colour, which a reader of SVG would draw as black.

    Raises:
        UserError: as said.
    """
    from PIL import ImageColor

    try:
        if colour not in ("none", "transparent", "currentColor"):
            ImageColor.getrgb(colour)
    except (ValueError, AttributeError):
        raise UserError(f"{colour!r} is no colour; write a name, as white, or #rrggbb") from None


def _lengths(drawing: Drawing, size: float | str | None) -> tuple[str, str]:
    """Width and height of the document, with their unit."""
    given = str(drawing.width if size is None else size).strip()
    match = re.fullmatch(r"((?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)\s*([a-z]*)", given)
    if match is None or match[2] not in UNITS or not 0 < float(match[1]) < 1e9:
        raise UserError(
            f"an SVG's size must be a positive length, alone or with one of {', '.join(UNITS[1:])}; "
            f"it is {given}"
        )
    width = float(match[1])
    return f"{width:g}{match[2]}", f"{width * drawing.height / drawing.width:g}{match[2]}"


def _length(stroke: PenStroke) -> float:
    return float(np.linalg.norm(np.diff(stroke.control, axis=1), axis=-1).sum())


def path_data(control: Float[np.ndarray, "curves 4 2"]) -> str:
    """Data of an SVG path along a chain of cubic curves."""
    parts = [f"M{_number(control[0, 0, 0])} {_number(control[0, 0, 1])}"]
    for curve in control:
        numbers = " ".join(_number(value) for value in curve[1:].ravel())
        parts.append(f"C{numbers}")
    return "".join(parts)


def _number(value: float) -> str:
    text = f"{value:.3f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _animated(shape: str, begin: float, duration: float) -> str:
    """Path that appears at ``begin`` seconds and reaches its full length ``duration`` seconds later."""
    return (
        f'<path {shape} pathLength="1" stroke-dasharray="1 2" stroke-dashoffset="1" '
        f'visibility="hidden"><set attributeName="visibility" to="visible" begin="{begin:.3f}s" '
        f'fill="freeze"/><animate attributeName="stroke-dashoffset" from="1" to="0" '
        f'begin="{begin:.3f}s" dur="{duration:.3f}s" fill="freeze"/></path>'
    )


def drawing_from_svg(text: str) -> Drawing:
    """The drawing of a document by `drawing_svg`.

    Raises:
        UserError: the text is not such a document.
    """
    from dood_pyro.drawing import Drawing
    from dood_pyro.drawing_files import checked

    try:
        root = ElementTree.fromstring(text)
        frame = [float(value) for value in (root.get("viewBox") or "").split()]
        group = next(each for each in root.iter(f"{{{SPACE}}}g") if each.get("class") == MARK)
        strokes = [_stroke(path) for path in group.iter(f"{{{SPACE}}}path")]
        return checked(
            Drawing(
                strokes,
                int(frame[2]),
                int(frame[3]),
                float(group.get("data-explained") or 1),
                group.get("data-limited") == "1",
                given=int(group.get("data-given") or 0),
            )
        )
    except (
        ElementTree.ParseError,
        StopIteration,
        ValueError,
        TypeError,
        IndexError,
        OverflowError,
    ):
        raise UserError(
            "this SVG was not written by dood-pyro, or was changed: only its own drawings are read back"
        ) from None


def _stroke(path: ElementTree.Element) -> PenStroke:
    from dood_pyro.drawing import PenStroke

    numbers = [float(each) for each in re.findall(r"-?\d+(?:\.\d+)?", path.get("d") or "")]
    points = np.array(numbers).reshape(-1, 2)
    curves = (len(points) - 1) // 3
    if curves < 1 or len(points) != 3 * curves + 1:
        raise ValueError("no chain of cubic curves")
    control = np.stack([points[3 * i : 3 * i + 4] for i in range(curves)])
    return PenStroke(
        control,
        float(path.get("stroke-width") or 1),
        float(path.get("data-darkness") or 1),
        float(path.get("data-confidence") or 1),
        path.get("data-ink") or "#000000",
    )
