"""True pen strokes of people, in writing order, to measure what is inferred from pixels.
The table of strokes and the training of joins read them; DooD itself is never trained on them.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dood_pyro.data import data_folder
from dood_pyro.errors import UserError
from dood_pyro.rendering.round_pen import Polyline

OMNIGLOT = ("strokes_background_small1.zip", "strokes_background_small2.zip")
FILES = {
    "quickdraw": ("strokes_quickdraw.npz",),
    "omniglot": OMNIGLOT,
    "kanjivg": ("strokes_kanjivg.npz",),
}
"""Files of each set of drawings in the data folder."""


class PenDrawing(NamedTuple):
    """A drawing as a person made it."""

    strokes: list[Polyline]
    """In writing order, in units of the set's own."""
    group: str
    """What was drawn: character, category; drawings that share it look alike."""


def load_pen_drawings(name: str, data_dir: str | Path | None = None) -> list[PenDrawing]:
    """Drawings of a set, in the order of its files.

    Args:
        name: a key of `FILES`.

    Raises:
        UserError: there is no such set, or its files are not in the data folder.
    """
    if name not in FILES:
        raise UserError(f"there are no pen strokes {name!r}; choose one of {', '.join(FILES)}")
    folder = data_folder(data_dir)
    paths = [folder / file for file in FILES[name]]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}, the true strokes of {name}; put them there, or name "
            "the folder that has them by DOOD_DATA or --data-dir"
        )
    if name == "omniglot":
        return [drawing for path in paths for drawing in _from_zip(path)]
    return _from_npz(paths[0])


def fit_to_square(strokes: list[Polyline], side: int, margin: float) -> list[Polyline]:
    """Strokes moved and scaled, aspect kept, to the middle of a square picture.

    Args:
        side: pixels per side.
        margin: space around them, as a share of the side.

    Returns:
        Strokes in pixels; pixel i covers [i, i + 1).
    """
    points = np.concatenate(strokes)
    low, high = points.min(0), points.max(0)
    scale = side * (1 - 2 * margin) / max(float((high - low).max()), 1e-9)
    return [(stroke - (low + high) / 2) * scale + side / 2 for stroke in strokes]


def _from_npz(path: Path) -> list[PenDrawing]:
    with np.load(path) as file:
        points = file["points"].astype(float)
        strokes = np.split(points, file["stroke_lengths"].cumsum()[:-1])
        ends = file["drawing_lengths"].cumsum()
        labels = (
            [str(file["label_names"][label]) for label in file["labels"]]
            if "labels" in file
            else [str(index) for index in range(len(ends))]
        )
    starts = [0, *ends[:-1]]
    return [
        PenDrawing(strokes[start:end], label)
        for start, end, label in zip(starts, ends, labels, strict=True)
    ]


def _from_zip(path: Path) -> list[PenDrawing]:
    drawings = []
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".txt"))
        for name in (name for name in names if not name.startswith("__MACOSX")):
            strokes: list[Polyline] = []
            points: list[list[float]] = []
            for line in io.TextIOWrapper(archive.open(name), "ascii"):
                word = line.strip()
                if word == "BREAK" and points:
                    strokes.append(np.array(points) * (1, -1))
                    points = []
                elif word not in ("START", "BREAK", ""):
                    x, y, _ = word.split(",")
                    points.append([float(x), float(y)])
            drawings.append(PenDrawing(strokes, str(Path(name).parent)))
    return drawings
