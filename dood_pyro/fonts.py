"""Drawings as glyphs of a single-line font, whose contours are open: UFO, by ufoLib2.
``dood-pyro parse --font`` writes them.
"""

from __future__ import annotations

import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
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
    name = unicodedata.normalize("NFC", name)  # some file systems take characters apart
    if len(name) == 1:
        return ord(name)
    match = re.fullmatch(r"(?:uni([0-9A-Fa-f]{4})|u([0-9A-Fa-f]{4,6}))", name)
    value = int(match[1] or match[2], 16) if match else None
    return value if value is not None and value < 0x110000 else None


def check_font(path: Path, names: Iterable[str] = ()) -> None:
    """Check that a UFO can be written to a path, of glyphs of these names.

    Raises:
        UserError: two are of one glyph; the font's name does not end in .ufo, something is there, its
            folder is not; or ufoLib2 is not installed.
    """
    if path.suffix.lower() != ".ufo":
        raise UserError(f"a font is written as .ufo; {path} is not")
    if path.exists():
        raise UserError(f"{path} is there already; name another font")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for {path.name}; create it")
    with extra("fonts"):
        import ufoLib2  # noqa: F401
    names = list(names)
    for name in names:
        if not name.isprintable() or any("\ud800" <= each <= "\udfff" for each in name):
            raise UserError(f"a glyph cannot be called {name!r}: rename that picture")
    named = Counter(map(glyph_name, names))
    if named and (most := named.most_common(1)[0])[1] > 1:
        raise UserError(f"{most[1]} pictures are of the glyph {most[0]}; keep one of them")


def glyph_name(name: str) -> str:
    """A glyph's name in the font."""
    from fontTools.agl import UV2AGL

    point = code_point(name)
    if point is None:
        return name
    return UV2AGL.get(point, f"uni{point:04X}" if point <= 0xFFFF else f"u{point:04X}")


def write_ufo(drawings: Mapping[str, Drawing], path: Path) -> None:
    """Write a UFO with a glyph for each drawing, whose strokes are open contours of cubic curves.

    Args:
        drawings: by the name of the glyph (`code_point`).
        path: ends in .ufo; nothing may be there.

    Raises:
        UserError: something is there, or it cannot be written, or ufoLib2 is not installed.
    """
    check_font(path, drawings)
    from fontTools.ufoLib.errors import UFOLibError
    from ufoLib2 import Font

    font = Font()
    info = font.info
    info.familyName, info.styleName = path.stem, "Single line"
    info.unitsPerEm, info.ascender, info.descender = EM, EM - DESCENT, -DESCENT
    for name, drawing in drawings.items():
        point = code_point(name)
        glyph = font.newGlyph(glyph_name(name))
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
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as beside:
            font.save(Path(beside) / path.name)
            (Path(beside) / path.name).rename(path)
    except OSError as error:
        raise unwritable(path, error) from None
    except UFOLibError as error:
        raise UserError(f"cannot write {path}: {error}") from None
