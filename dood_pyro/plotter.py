"""Drawings for pen plotters: millimetres, one path a stroke, in an order that spares travel.
`Drawing.plotter_svg` and ``dood-pyro parse --plotter`` write them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Float

from dood_pyro.errors import UserError
from dood_pyro.svg import SPACE, path_data

if TYPE_CHECKING:
    from dood_pyro.drawing import Drawing, PenStroke

MILLIMETRES = {"mm": 1.0, "cm": 10.0, "in": 25.4}
"""Millimetres of a unit."""
PEN = 0.3
"""Width at which paths are shown, millimetres; a plotter's pen has its own."""
INKSCAPE = "http://www.inkscape.org/namespaces/inkscape"
PASSES = 20
"""Most rounds of improvement."""
BROAD = 1.5
"""Width from which a dot is filled, in widths of the drawing's pen: the plotter has but that one."""
SPACING = 0.9
"""Distance between the rounds that fill it, likewise."""
ROUND_STEPS = 12
"""Curves a round."""


def plotter_svg(drawing: Drawing, size: str = "100mm") -> str:
    """SVG document of a drawing, in millimetres, a layer for each colour of ink.

    Args:
        size: width of the document, in mm, cm or in. The height follows.

    Raises:
        UserError: ``size`` is no such length.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(mm|cm|in)", str(size).strip())
    if match is None or not 0 < float(match[1]) < 1e5:
        raise UserError(f"a plotter's paper has a width as 210mm, in mm, cm or in; not {size!r}")
    width = float(match[1]) * MILLIMETRES[match[2]]
    scale = width / drawing.width
    height = scale * drawing.height
    lines = [
        f'<svg xmlns="{SPACE}" xmlns:inkscape="{INKSCAPE}" width="{width:g}mm" height="{height:g}mm" '
        f'viewBox="0 0 {width:g} {height:g}">'
    ]
    colours = dict.fromkeys(stroke.colour for stroke in drawing)
    filled = with_dots_filled(list(drawing))
    for number, colour in enumerate(colours, start=1):
        strokes = least_travel([stroke for stroke in filled if stroke.colour == colour])
        lines.append(
            f'<g inkscape:groupmode="layer" inkscape:label="{number} {colour}" '
            f'id="layer{number}" fill="none" stroke={quoteattr(colour)} stroke-width="{PEN}" '
            'stroke-linecap="round" stroke-linejoin="round">'
        )
        lines += [f'<path d="{path_data(scale * stroke.control)}"/>' for stroke in strokes]
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


def with_dots_filled(strokes: Sequence[PenStroke]) -> list[PenStroke]:
    """Strokes with a spiral in place of each dot that is broader than the pen of the lines: their
    median width."""
    sizes = [float(np.ptp(each.control, axis=(0, 1)).max()) for each in strokes]
    is_dot = [size < each.width / 4 for each, size in zip(strokes, sizes, strict=True)]
    widths = [each.width for each, dot in zip(strokes, is_dot, strict=True) if not dot]
    if not widths:
        return list(strokes)
    pen = float(np.median(widths))
    return [
        each._replace(control=_spiral(each.control.mean((0, 1)), each.width, pen), width=pen)
        if dot and each.width > BROAD * pen
        else each
        for each, dot in zip(strokes, is_dot, strict=True)
    ]


def _spiral(
    middle: Float[np.ndarray, "2"], width: float, pen: float
) -> Float[np.ndarray, "curves 4 2"]:
    """A path by which a pen fills a dot: outwards, then once around."""
    radius = (width - pen) / 2
    rounds = max(1, math.ceil(radius / (SPACING * pen)))
    angle = np.arange((rounds + 1) * ROUND_STEPS + 1) * (2 * np.pi / ROUND_STEPS)
    away = np.minimum(angle / (2 * np.pi * rounds), 1) * radius
    points = middle + away[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    slopes = np.gradient(points, axis=0)
    before, after = points[:-1], points[1:]
    return np.stack([before, before + slopes[:-1] / 3, after - slopes[1:] / 3, after], axis=1)


def least_travel(strokes: Sequence[PenStroke]) -> list[PenStroke]:
    """Strokes in an order, and each in a direction, that spare the lifted pen travel.

    From the upper left corner the pen goes to the nearest end of a stroke left to draw; then stretches
    of the order are turned around for as long as that helps.
    """
    if not strokes:
        return []
    ends = np.array([[each.control[0, 0], each.control[-1, -1]] for each in strokes])
    order, turned = _nearest_first(ends)
    _turn_stretches(ends, order, turned)
    return [_turned(strokes[index]) if turned[index] else strokes[index] for index in order]


def travel(strokes: Sequence[PenStroke]) -> float:
    """How far the lifted pen goes, from the upper left corner on."""
    at, total = np.zeros(2), 0.0
    for stroke in strokes:
        total += float(np.hypot(*(stroke.control[0, 0] - at)))
        at = stroke.control[-1, -1]
    return total


def _turned(stroke: PenStroke) -> PenStroke:
    return stroke._replace(control=stroke.control[::-1, ::-1])


def _nearest_first(ends: Float[np.ndarray, "strokes 2 2"]) -> tuple[list[int], np.ndarray]:
    """An order of strokes, and which are drawn from their other end."""
    left, at = list(range(len(ends))), np.zeros(2)
    order, turned = [], np.zeros(len(ends), bool)
    while left:
        away = np.hypot(*(ends[left] - at).transpose(2, 0, 1))
        row, end = np.unravel_index(away.argmin(), away.shape)
        index = left.pop(int(row))
        order.append(index)
        turned[index] = bool(end)
        at = ends[index, 1 - int(end)]
    return order, turned


def _turn_stretches(
    ends: Float[np.ndarray, "strokes 2 2"], order: list[int], turned: np.ndarray
) -> None:
    """Turn stretches of an order around, in place, while the pen's travel falls (2-opt)."""
    count = len(order)
    for _ in range(PASSES):
        better = False
        for first in range(count):
            # Where each stroke of the order is entered, and where it is left.
            sides = turned[order].astype(int)
            enters, leaves = ends[order, sides], ends[order, 1 - sides]
            before = leaves[first - 1] if first else np.zeros(2)
            follows = np.concatenate([enters[first + 1 :], [[np.nan, np.nan]]])
            now = np.hypot(*(enters[first] - before)) + np.hypot(*(follows - leaves[first:]).T)
            then = np.hypot(*(leaves[first:] - before).T) + np.hypot(*(follows - enters[first]).T)
            # After the last stroke the pen may stay where it is.
            now[-1] = np.hypot(*(enters[first] - before))
            then[-1] = np.hypot(*(leaves[-1] - before))
            gain = now - then
            last = first + int(gain.argmax())
            if gain.max() > 1e-9:
                order[first : last + 1] = order[first : last + 1][::-1]
                turned[order[first : last + 1]] ^= True
                better = True
        if not better:
            return
