"""Drawings as glyphs of a single-line font, whose contours are open: UFO, by ufoLib2.
``dood-pyro parse --font`` writes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dood_pyro.errors import UserError
from dood_pyro.extras import extra
from dood_pyro.files import unwritable

if TYPE_CHECKING:
    from dood_pyro.drawing import Drawing

EM = 1000
"""Units per em: the height of a picture."""
DESCENT = 200
"""Units of a picture's height that lie below the baseline."""


def code_point(name: str) -> int | None:
    """Code point of a glyph's name: the character itself, or ``uni0041``, or ``u1F600``; else None."""
    if len(name) == 1:
        return ord(name)
    match = re.fullmatch(r"(?:uni([0-9A-Fa-f]{4})|u([0-9A-Fa-f]{4,6}))", name)
    value = int(match[1] or match[2], 16) if match else None
    return value if value is not None and value < 0x110000 else None


def check_font(path: Path) -> None:
    """Check that a UFO can be written to a path.

    Raises:
        UserError: its name does not end in .ufo, something is there, or ufoLib2 is not installed.
    """
    if path.suffix.lower() != ".ufo":
        raise UserError(f"a font is written as .ufo; {path} is not")
    if path.exists():
        raise UserError(f"{path} is there already; name another font")
    with extra("fonts"):
        import ufoLib2  # noqa: F401


def write_ufo(drawings: Mapping[str, Drawing], path: Path) -> None:
    """Write a UFO with a glyph for each drawing, whose strokes are open contours of cubic curves.

    Args:
        drawings: by the name of the glyph (`code_point`).
        path: ends in .ufo; nothing may be there.

    Raises:
        UserError: something is there, or it cannot be written, or ufoLib2 is not installed.
    """
    check_font(path)
    with extra("fonts"):
        from fontTools.agl import UV2AGL
        from ufoLib2 import Font
    font = Font()
    info = font.info
    info.familyName, info.styleName = path.stem, "Single line"
    info.unitsPerEm, info.ascender, info.descender = EM, EM - DESCENT, -DESCENT
    for name, drawing in drawings.items():
        point = code_point(name)
        own = name if point is None else UV2AGL.get(point, f"uni{point:04X}")
        if own in font:
            raise UserError(f"two pictures are of the glyph {own}; keep one of them")
        glyph = font.newGlyph(own)
        glyph.unicodes = [] if point is None else [point]
        scale = EM / drawing.height
        glyph.width = round(scale * drawing.width)
        pen = glyph.getPen()
        for stroke in drawing:
            curves = scale * stroke.control
            curves[..., 1] = EM - DESCENT - curves[..., 1]
            pen.moveTo(tuple(curves[0, 0].round(2).tolist()))
            for curve in curves.round(2).tolist():
                pen.curveTo(*map(tuple, curve[1:]))
            pen.endPath()
    try:
        font.save(path)
    except OSError as error:
        raise unwritable(path, error) from None
