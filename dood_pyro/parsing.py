"""Pictures as people have them to drawings, by their ink.
`dood_pyro.recognition` and the command ``dood-pyro parse`` use it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dood_pyro.drawing import BLACK, Drawing, PenStroke
from dood_pyro.errors import UserError, whole_number
from dood_pyro.inference.ink.paper import Ink, Paper, find_ink
from dood_pyro.inference.ink.parse_ink import (
    MAX_STROKES,
    InkParse,
    Joins,
    parse_ink,
    parse_ink_ways,
)
from dood_pyro.inference.ink.pens import LEAST_CHROMA
from dood_pyro.inference.ink.skeleton import pixels_at
from dood_pyro.pictures import MIN_CONTRAST, Colours, Polarity, read_colours

ONE_PEN = 0.12
"""Largest difference in red, green or blue of two strokes of one pen."""


class InkOptions(NamedTuple):
    """How a picture is parsed by its ink."""

    polarity: Polarity = "auto"
    """Whether ink is darker or brighter than its paper."""
    paper: Paper = "auto"
    """``"auto"`` to take away what is paper: light, frames, ruled lines, specks; ``"flat"`` for paper
    of one colour, with nothing taken away."""
    joins: Joins = "learned"
    """What says which lines are one stroke: networks that learned from people's strokes, or
    ``"angles"`` alone."""
    max_strokes: int = MAX_STROKES
    """Most strokes; the longest are kept."""


BY_DEFAULT = InkOptions()
CHOICES = (("auto", "bright-ink", "dark-ink"), ("auto", "flat"), ("learned", "angles"))
"""Values of the first options."""


def parse(
    picture: Any,
    polarity: Polarity = "auto",
    paper: Paper = "auto",
    joins: Joins = "learned",
    max_strokes: int = MAX_STROKES,
    page: int = 0,
) -> Drawing:
    """Strokes of one picture by its ink, in its own pixels; no trained model is needed.

    Args:
        picture: path, bytes of a file, PIL image, numpy array or tensor: (height, width), or with 1, 3
            or 4 channels first or last.
        polarity, paper, joins, max_strokes: as in `InkOptions`.
        page: of a file that has several, from 0.

    Raises:
        UserError: as for `parse_picture`.
    """
    return parse_picture(picture, InkOptions(polarity, paper, joins, max_strokes), page)


def parse_picture(picture: Any, options: InkOptions = BY_DEFAULT, page: int = 0) -> Drawing:
    """Strokes of one picture, in its own pixels.

    Args:
        picture: as for `pictures.read_grey`.
        page: of a file that has several.

    Raises:
        UserError: ``picture`` is not a picture, or is blank, too small or too large.
    """
    most = whole_number("max_strokes", options.max_strokes)
    colours, ink = _ink(picture, options, page)
    parsed = parse_ink(ink, options.joins, max_strokes=most)
    return _drawing(parsed, ink, colours)


def parse_ways(picture: Any, count: int, options: InkOptions = BY_DEFAULT) -> list[Drawing]:
    """Up to ``count`` different parses of a picture, each with its log-density, highest first.

    Raises:
        UserError: as for `parse_picture`; or ``count`` is below 1, or joins are not scored by what was
            learned: only that gives probabilities.
    """
    count = whole_number("count", count)
    if options.joins != "learned":
        raise UserError("several parses need joins='learned': angles give no probabilities")
    most = whole_number("max_strokes", options.max_strokes)
    colours, ink = _ink(picture, options, 0)
    parses = parse_ink_ways(ink, count, max_strokes=most)
    drawings = [_drawing(parsed, ink, colours) for parsed in parses]
    return sorted(drawings, key=lambda drawing: -(drawing.log_density or 0.0))


def _ink(picture: Any, options: InkOptions, page: int) -> tuple[Colours, Ink]:
    for name, value, allowed in zip(options._fields, options, CHOICES, strict=False):
        if value not in allowed:
            raise UserError(f"{name} is one of {', '.join(map(repr, allowed))}, not {value!r}")
    colours = read_colours(picture, page)
    planes = [*np.moveaxis(colours.pixels, -1, 0)]
    if colours.alpha is not None:
        # What nothing can be seen of has no contrast.
        planes = [plane * colours.alpha for plane in planes] + [colours.alpha]
    if max(float(plane.max() - plane.min()) for plane in planes) < MIN_CONTRAST:
        if isinstance(picture, str) or hasattr(picture, "__fspath__"):
            raise UserError(f"{picture} is blank: its pixels are all of about one colour")
        low, high = float(colours.pixels.min()), float(colours.pixels.max())
        raise UserError(
            f"the picture is blank: its pixels run from {low:.3g} to {high:.3g}, where black is 0 and "
            "the white of its kind of pixels is 1 (a mask is given as bools, or as floats)"
        )
    ink = find_ink(colours.pixels, colours.alpha, options.polarity, options.paper)
    return colours, ink


def _drawing(parsed: InkParse, ink: Ink, colours: Colours) -> Drawing:
    height, width = colours.pixels.shape[:2]
    lines = [each.chain.evenly(2.0) for each in parsed.strokes]
    inks = _few([_colour(line, ink, colours) for line in lines], [len(line) for line in lines])
    strokes = [
        PenStroke(
            each.chain.control, each.chain.width, each.chain.darkness, each.confidence, colour
        )
        for each, colour in zip(parsed.strokes, inks, strict=True)
    ]
    log_density = None if np.isnan(parsed.log_density) else parsed.log_density
    return Drawing(strokes, width, height, parsed.explained, parsed.limited, log_density)


def _few(colours: list[str], lengths: list[int]) -> list[str]:
    """Colours of strokes, those of one pen as one: a picture's compression and paper vary them.

    Args:
        lengths: of the strokes; the longest gives its pen's colour.
    """
    known: list[tuple[str, np.ndarray]] = []
    found = list(colours)
    for index in sorted(range(len(colours)), key=lambda index: -lengths[index]):
        if colours[index] == BLACK:
            continue  # ink without a colour is told apart by its darkness
        value = np.array(list(bytes.fromhex(colours[index][1:]))) / 255
        near = [name for name, other in known if np.abs(value - other).max() < ONE_PEN]
        if near:
            found[index] = near[0]
        else:
            known.append((colours[index], value))
    return found


def _colour(line: np.ndarray, ink: Ink, colours: Colours) -> str:
    """Colour of the ink along a line; black for ink without one."""
    if colours.pixels.shape[-1] != 3:
        return BLACK
    along = pixels_at(line, colours.pixels) if ink.colours is None else ink.colours.in_light(line)
    red, green, blue = np.median(along, axis=0).tolist()
    if max(red, green, blue) - min(red, green, blue) < LEAST_CHROMA:
        return BLACK
    return "#" + "".join(f"{round(255 * each):02x}" for each in (red, green, blue))
