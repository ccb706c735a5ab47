"""Drawings in the formats that others read: JSON, stroke-3, Quick, Draw! ndjson, GIF.
Used by `dood_pyro.drawing.Drawing`; SVG is in `dood_pyro.svg`.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from dood_pyro.errors import UserError
from dood_pyro.files import unreadable

if TYPE_CHECKING:
    from dood_pyro.drawing import Drawing

FRAMES = 40
"""Frames of an animation."""
REST = 1000
"""Time for which an animation shows the whole drawing, milliseconds."""
WIDEST = 10.0
"""Widest pen that a drawing may have, in sides of its picture."""
ROUNDED = 1 + 1e-6
"""Largest share, with what rounding adds."""
QUICKDRAW_SIDE, QUICKDRAW_TOLERANCE = 255, 2.0
"""Side of Quick, Draw!'s simplified drawings, and how far their lines may be from the strokes."""


def from_json(values: Mapping[str, Any] | str) -> Drawing:
    """The drawing of `Drawing.json`'s values, or of their text.

    Raises:
        UserError: they are not a drawing's.
    """
    from dood_pyro.drawing import Drawing, PenStroke

    try:
        read = json.loads(values) if isinstance(values, str) else values
        strokes = []
        for each in read["strokes"]:
            control = np.array(each["control"], dtype=float)
            if control.ndim != 3 or control.shape[1:] != (4, 2) or not np.isfinite(control).all():
                raise ValueError("control")
            darkness, confidence = (float(each.get(key, 1)) for key in ("darkness", "confidence"))
            colour = each.get("colour", "#000000")
            strokes.append(PenStroke(control, float(each["width"]), darkness, confidence, colour))
        log_density = read.get("log_density")
        return checked(
            Drawing(
                strokes,
                int(read["width"]),
                int(read["height"]),
                float(read.get("explained", 1)),
                bool(read.get("limited", False)),
                None if log_density is None else float(log_density),
                int(read.get("given", 0)),
            )
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UserError(
            "this JSON is no drawing of dood-pyro: it has width, height and strokes, each stroke a "
            "list of curves of four points"
        ) from None


def checked(drawing: Drawing) -> Drawing:
    """The same drawing, read from a file.

    Raises:
        ValueError: it has impossible values.
    """
    most = WIDEST * max(drawing.width, drawing.height)
    right = (
        min(drawing.width, drawing.height) >= 1
        and 0 <= drawing.explained <= ROUNDED
        and 0 <= drawing.given <= len(drawing)
        and (drawing.log_density is None or math.isfinite(drawing.log_density))
        and all(
            bool(np.isfinite(stroke.control).all())
            and 0 < stroke.width <= most
            and 0 <= stroke.darkness <= ROUNDED
            and 0 <= stroke.confidence <= ROUNDED
            and re.fullmatch("#[0-9a-fA-F]{6}", stroke.colour) is not None
            for stroke in drawing
        )
    )
    if not right:
        raise ValueError("impossible values")
    return drawing


def many_from_json(values: Sequence[Any] | str) -> list[Drawing]:
    """The drawings of a list of `Drawing.json`'s values, or of its text.

    Raises:
        UserError: it is none.
    """
    try:
        read = json.loads(values) if isinstance(values, str) else values
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, Sequence) or isinstance(read, str):
        raise UserError("this JSON is no list of drawings")
    return [from_json(each) for each in read]


def open_drawing(path: Path) -> Drawing:
    """Read a drawing from .json or .svg.

    Raises:
        UserError: the file cannot be read, or is no drawing.
    """
    from dood_pyro.drawing import Drawing

    readers: dict[str, Callable[[str], Drawing]] = {
        ".json": Drawing.from_json,
        ".svg": Drawing.from_svg,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: drawings are read from .json and .svg")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None
    try:
        return reader(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def stroke3(drawing: Drawing, spacing: float) -> Float[np.ndarray, "points 3"]:
    """As for `Drawing.stroke3`."""
    rows = []
    last = np.zeros(2)
    for line in drawing.polylines(spacing):
        offsets = np.diff(np.concatenate([last[None], line]), axis=0)
        lifted = np.zeros(len(line))
        lifted[-1] = 1
        rows.append(np.column_stack([offsets, lifted]))
        last = line[-1]
    return np.concatenate(rows).astype(np.float32) if rows else np.zeros((0, 3), np.float32)


def quickdraw(drawing: Drawing, word: str) -> dict[str, Any]:
    """As for `Drawing.quickdraw`."""
    lines = drawing.polylines()
    if lines:
        points = np.concatenate(lines)
        low = points.min(0)
        # A lone dot is a dot.
        scale = QUICKDRAW_SIDE / max(float((points.max(0) - low).max()), 1.0)
        lines = [simplified((line - low) * scale, QUICKDRAW_TOLERANCE) for line in lines]
    return {
        "word": word,
        "countrycode": "",
        "timestamp": "",
        "recognized": True,
        "key_id": "",
        "drawing": [np.round(line).astype(int).T.tolist() for line in lines],
    }


def simplified(line: Float[np.ndarray, "points 2"], tolerance: float) -> np.ndarray:
    """A polyline of fewer points within a distance of the given one (Ramer, Douglas and Peucker)."""
    kept = np.zeros(len(line), bool)
    kept[[0, -1]] = True
    spans = [(0, len(line) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        chord = line[last] - line[first]
        length = float(np.hypot(*chord))
        away = line[first + 1 : last] - line[first]
        if length < 1e-9:
            distance = np.hypot(*away.T)
        else:
            distance = np.abs(away[:, 0] * chord[1] - away[:, 1] * chord[0]) / length
        farthest = int(distance.argmax())
        if distance[farthest] > tolerance:
            middle = first + 1 + farthest
            kept[middle] = True
            spans += [(first, middle), (middle, last)]
    found: np.ndarray = line[kept]
    return found


def gif(drawing: Drawing, side: int, seconds: float) -> bytes:
    """As for `Drawing.gif`."""
    from PIL import Image, ImageColor, ImageDraw

    if side < 1:
        raise UserError(f"a GIF's side is 1 pixel or more, not {side}")
    if not 0 <= seconds <= 3600:
        raise UserError(f"a GIF takes from 0 to 3,600 seconds, not {seconds}")
    scale = side / max(drawing.width, drawing.height)
    fine = 2 * scale  # drawn at twice the size, then halved: smooth edges
    size = max(1, round(2 * scale * drawing.width)), max(1, round(2 * scale * drawing.height))
    lines = [fine * line for line in drawing.polylines(1 / scale)]
    total = sum(len(line) for line in lines)
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    frames = [page.resize((max(1, size[0] // 2), max(1, size[1] // 2)), Image.Resampling.BOX)]
    drawn = 0
    for stroke, line in zip(drawing.strokes, lines, strict=True):
        rgb = ImageColor.getrgb(stroke.colour)
        ink = tuple(round(255 + stroke.opacity * (value - 255)) for value in rgb[:3])
        radius = max(fine * stroke.width / 2, 0.7)
        for before, point in zip(np.concatenate([line[:1], line[:-1]]), line, strict=True):
            pen.line([tuple(before), tuple(point)], fill=ink, width=max(1, round(2 * radius)))
            pen.ellipse([*(point - radius), *(point + radius)], fill=ink)
            drawn += 1
            if drawn * FRAMES // max(total, 1) >= len(frames):
                frames.append(page.resize(frames[0].size, Image.Resampling.BOX))
    pace = max(20, round(1000 * seconds / max(1, len(frames) - 1)))
    durations = [pace] * (len(frames) - 1) + [REST]
    return gif_bytes(frames, durations)


def gif_bytes(frames: Sequence[Any], durations: Sequence[int]) -> bytes:
    """GIF of PIL images, each shown for its duration in milliseconds, over and over."""
    buffer = io.BytesIO()
    paletted = [frame.quantize(64) for frame in frames]
    paletted[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=paletted[1:],
        duration=list(durations),
        loop=0,
    )
    return buffer.getvalue()


def _npz(drawing: Drawing, name: str) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, stroke3=drawing.stroke3(), width=drawing.width, height=drawing.height
    )
    return buffer.getvalue()


WRITERS: dict[str, Callable[[Drawing, str], bytes]] = {
    ".json": lambda drawing, name: json.dumps(drawing.json()).encode(),
    ".npz": _npz,
    ".ndjson": lambda drawing, name: (json.dumps(drawing.quickdraw(name)) + "\n").encode(),
    ".gif": lambda drawing, name: drawing.gif(),
}
"""Contents of a file, by suffix, from a drawing and its name."""
