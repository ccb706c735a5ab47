"""Table of pen strokes from pictures: inferred strokes beside those of the people who drew them.
Run by ``make strokes-table``; writes results/strokes.json and a contact sheet, results/strokes.png.

Drawings of three sets (Quick, Draw!, Omniglot, KanjiVG), whose true strokes are known, are drawn by a
round pen on 256×256 pixels, clean and degraded, and traced by

    dood        the amortised guide of the packaged weights, trained on Omniglot's images
    graph       the ink's own graph, branches continued by angle (dood_pyro.inference.ink)
    skeleton    scikit-image's skeleton, branches continued by angle at its junctions
    autotrace   pyautotrace's centreline
    vtracer     outlines, for reference: what most tracers give

The last two come by ``pip install 'dood-pyro[rivals]'`` and are left out where they are not installed.
Scores: `dood_pyro.tasks.stroke_scores`; each is the mean over drawings, ``ms`` the median time.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage

from dood_pyro.data.pen_strokes import (
    FILES,
    Polyline,
    draw_with_pen,
    fit_to_square,
    load_pen_drawings,
)
from dood_pyro.errors import exit_on_user_error
from dood_pyro.files import update_object
from dood_pyro.inference.ink.joins import canonical, chain_branches, joins, trace_strokes
from dood_pyro.inference.ink.skeleton import skeleton_graph
from dood_pyro.plots import new_figure, save_figure
from dood_pyro.recognition import load
from dood_pyro.rendering import curve_points
from dood_pyro.tasks.stroke_scores import StrokeScores, compare_strokes

RESULTS = Path(__file__).parent / "results"
SIDE, PEN, MARGIN = 256, 4.0, 0.08
"""Pixels per side of clean pictures, of the pen, and the margin as a share of the side."""

Picture = Float[np.ndarray, "height width"]
"""Darkness of ink in [0, 1], on 0."""
Tracer = Callable[[Picture], list[Polyline]]


def shrunk(picture: Picture, side: int) -> Picture:
    """A picture at fewer pixels, by area."""
    tensor = torch.from_numpy(picture)[None, None]
    return torch.nn.functional.interpolate(tensor, size=(side, side), mode="area")[0, 0].numpy()


def speckled(picture: Picture) -> Picture:
    """A picture 1 % of whose pixels are turned over."""
    return np.where(np.random.default_rng(0).random(picture.shape) < 0.01, 1 - picture, picture)


def unevenly_lit(picture: Picture) -> Picture:
    """A picture whose paper darkens to one side by 60 %."""
    light = np.linspace(1, 0.4, picture.shape[1])
    return 1 - (1 - 0.9 * picture) * light


DEGRADED: dict[str, tuple[float, Callable[[Picture], Picture]]] = {
    "clean": (PEN, lambda picture: picture),
    "64 pixels": (PEN, lambda picture: shrunk(picture, 64)),
    "28 pixels": (PEN, lambda picture: shrunk(picture, 28)),
    "pen 2": (2.0, lambda picture: picture),
    "pen 8": (8.0, lambda picture: picture),
    "pen 16": (16.0, lambda picture: picture),
    "blur": (PEN, lambda picture: ndimage.gaussian_filter(picture, 2.0)),
    "speckle": (PEN, speckled),
    "uneven light": (PEN, unevenly_lit),
}
"""Kinds of pictures: the pen that draws them, and what is done to them then."""


def tracers() -> dict[str, Tracer]:
    """Tracers by name; those that are not installed are left out."""
    found: dict[str, Tracer] = {"dood": _dood(), "graph": trace_strokes, "skeleton": _skeleton}
    for name, module, make in (
        ("autotrace", "autotrace", _autotrace),
        ("vtracer", "vtracer", _vtracer),
    ):
        if importlib.util.find_spec(module) is not None:
            found[name] = make()
        else:
            print(f"  left out: {name} is not installed: pip install 'dood-pyro[rivals]'")
    return found


def _dood() -> Tracer:
    dood = load("omniglot")

    def trace(picture: Picture) -> list[Polyline]:
        side = picture.shape[0]
        strokes = dood.parse(picture, polarity="bright-ink").strokes
        if not strokes:
            return []
        control = torch.stack([stroke.control for stroke in strokes])
        points = curve_points(control, 64)[0]
        return [(line.numpy() + 1) / 2 * side for line in points]

    return trace


def _skeleton(picture: Picture) -> list[Polyline]:
    graph = skeleton_graph(picture > 0.5)
    return [canonical(line) for line in chain_branches(graph, joins(graph))]


def _autotrace() -> Tracer:
    import autotrace

    def trace(picture: Picture) -> list[Polyline]:
        grey = np.round(255 * (1 - picture)).astype(np.uint8)
        bitmap = autotrace.Bitmap(np.repeat(grey[..., None], 3, -1))
        vector = bitmap.trace(centerline=True, background_color=(255, 255, 255), color_count=2)
        lines = []
        for path in vector.paths:
            points = [spline.points for spline in path.splines]
            lines.append(_flattened([[(p.x, p.y) for p in each] for each in points], picture))
        return lines

    return trace


def _flattened(splines: Sequence[Sequence[tuple[float, float]]], picture: Picture) -> Polyline:
    """Points along cubic splines; y counts from the bottom."""
    t = np.linspace(0, 1, 16)[:, None]
    parts = []
    for spline in splines:
        a, b, c, d = (np.array(point) for point in spline)
        parts.append(
            (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d
        )
    line = np.concatenate(parts)
    return np.stack([line[:, 0], picture.shape[0] - line[:, 1]], axis=-1)


def _vtracer() -> Tracer:
    import re

    import vtracer

    number = r"-?\d+(?:\.\d+)?"

    def trace(picture: Picture) -> list[Polyline]:
        grey = np.round(255 * (1 - picture)).astype(int).ravel().tolist()
        shape = (picture.shape[1], picture.shape[0])
        svg = vtracer.convert_pixels_to_svg(
            [(each, each, each, 255) for each in grey], shape, colormode="binary", mode="polygon"
        )
        lines = []
        for path, x, y in re.findall(r'd="([^"]*)"[^>]*translate\(([-\d.]+),([-\d.]+)\)', svg):
            for part in path.split("M")[1:]:
                points = np.array(re.findall(number, part), float).reshape(-1, 2)
                if len(points) > 1:
                    lines.append(points + np.array([float(x), float(y)]))
        return lines

    return trace


def chosen_drawings(
    name: str, count: int, seed: int, data_dir: Path | None
) -> list[list[Polyline]]:
    """The first ``count`` of a set's shuffle, in pixels of a clean picture."""
    drawings = load_pen_drawings(name, data_dir)
    rows = np.random.default_rng(seed).permutation(len(drawings))[:count]
    return [fit_to_square(drawings[row].strokes, SIDE, MARGIN) for row in rows]


def measured(
    trace: Tracer, drawings: Sequence[list[Polyline]], kind: str
) -> dict[str, float | None]:
    """Scores of a tracer on one kind of pictures of the drawings."""
    pen, degrade = DEGRADED[kind]
    rows, times = [], []
    for strokes in drawings:
        picture = degrade(draw_with_pen(strokes, (SIDE, SIDE), pen))
        began = time.perf_counter()
        found = trace(picture)
        times.append(1000 * (time.perf_counter() - began))
        scale = SIDE / picture.shape[0]
        rows.append(
            compare_strokes([scale * line for line in found if len(line) > 1], strokes, SIDE)
        )
    columns = np.array(rows, dtype=float).T
    values = {
        name: round(float(np.nanmean(column)), 4) if np.isfinite(column).any() else None
        for name, column in zip(StrokeScores._fields, columns, strict=True)
    }
    return {**values, "ms": round(statistics.median(times), 1)}


def draw_sheet(
    found: dict[str, Tracer], drawings: dict[str, list[list[Polyline]]], each: int = 4
) -> None:
    """Contact sheet: pictures, true strokes, and every tracer's, coloured by order."""
    items = [strokes for of_set in drawings.values() for strokes in of_set[:each]]
    figure = new_figure(1.5 * len(items), 1.6 * (1 + len(found)))
    axes = figure.subplots(1 + len(found), len(items), squeeze=False)
    for column, strokes in enumerate(items):
        picture = draw_with_pen(strokes, (SIDE, SIDE), PEN)
        rows = [("truth", strokes), *((name, trace(picture)) for name, trace in found.items())]
        for axis, (name, lines) in zip(axes[:, column], rows, strict=True):
            axis.imshow(1 - 0.2 * picture, cmap="gray", vmin=0, vmax=1, extent=(0, SIDE, SIDE, 0))
            for index, line in enumerate(lines):
                axis.plot(line[:, 0], line[:, 1], color=f"C{index % 10}", linewidth=1.2)
                axis.plot(*line[0], ".", color=f"C{index % 10}", markersize=4)
            axis.set_xticks([])
            axis.set_yticks([])
            if column == 0:
                axis.set_ylabel(name)
    save_figure(figure, RESULTS / "strokes.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100, help="Drawings of each set.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the shuffle of drawings.")
    parser.add_argument("--kinds", nargs="+", choices=list(DEGRADED), default=list(DEGRADED))
    parser.add_argument("--data-dir", type=Path, help="Data folder, in place of DOOD_DATA.")
    parser.add_argument("--out", type=Path, default=RESULTS / "strokes.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = tracers()
    drawings = {
        name: chosen_drawings(name, arguments.count, arguments.seed, arguments.data_dir)
        for name in FILES
    }
    table: dict[str, Any] = {"drawings": arguments.count, "seed": arguments.seed}
    for kind in arguments.kinds:
        table[kind] = {name: {} for name in drawings}
        for name, of_set in drawings.items():
            for tracer, trace in found.items():
                scores = measured(trace, of_set, kind)
                table[kind][name][tracer] = scores
                shown = "  ".join(f"{key} {value}" for key, value in scores.items())
                print(f"{kind:12}  {name:9}  {tracer:9}  {shown}", flush=True)
    update_object(arguments.out, table)
    if arguments.out.parent == RESULTS:
        draw_sheet(found, drawings)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
