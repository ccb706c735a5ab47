"""Table of pen strokes from pictures: inferred strokes beside those of the people who drew them.
Run by ``make strokes-table``; writes results/strokes.json, a contact sheet (results/strokes.png) and
the tables of docs/strokes.md.

Drawings of three sets (Quick, Draw!, Omniglot, KanjiVG), whose true strokes are known, are drawn by a
round pen on 256×256 pixels, clean and degraded, and traced by

    dood        what dood-pyro parse does: branches of the ink joined by learned scores, then fitted
    proposals   the same before the fit
    angles      the same with joins scored by angle, without anything learned
    single pass the amortised guide of the packaged weights alone, trained on Omniglot's images
    skeleton    scikit-image's skeleton, branches continued by angle at its junctions
    skeleton of ink    the same of the ink that dood finds, enlarged where dood enlarges it
    autotrace   pyautotrace's centreline
    vtracer     outlines, for reference: what most tracers give

The last two come by ``pip install 'dood-pyro[rivals]'`` and are left out where they are not installed.
Scores: `dood_pyro.tasks.stroke_scores`; each is the mean over drawings, ``ms`` the median time.
``pixel_error`` is the mean absolute difference between the picture and what is drawn again: by the
strokes' own pens, or by the true pen for tracers that know none. ``length`` is that of all paths, in
that of the true strokes. ``sure`` is the share of strokes
claimed with a confidence of .9 or more, ``sure_and_right`` the share of these that match a true one.
``match_error`` is the match's standard error. Settings were chosen on other drawings, measured by
``--part for-choices --tracers dood --kinds clean --out experiments/results/strokes_for_choices.json``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from scipy import ndimage
from train_joins import split_drawings

from dood_pyro.data.pen_strokes import FILES, fit_to_square
from dood_pyro.drawing import Drawing, PenStroke
from dood_pyro.errors import exit_on_user_error
from dood_pyro.files import update_object, write_atomically
from dood_pyro.inference.ink.joins import canonical, chain_branches, joins
from dood_pyro.inference.ink.paper import find_ink
from dood_pyro.inference.ink.parse_ink import enlarged_mask, parse_ink
from dood_pyro.inference.ink.skeleton import path_length, skeleton_graphs
from dood_pyro.plots import new_figure, save_figure
from dood_pyro.recognition import load
from dood_pyro.rendering.round_pen import Polyline, draw_with_pen, resample
from dood_pyro.tasks.stroke_scores import TOLERANCE, compare_strokes, match_strokes

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "strokes.md"
SIDE, PEN, MARGIN = 256, 4.0, 0.08
"""Pixels per side of clean pictures, of the pen, and the margin as a share of the side."""

SURE = 0.9
"""Confidence from which a stroke counts as sure."""
STROKES = ((1, 2), (3, 5), (6, 10), (11, 1000))
"""Numbers of true strokes by which clean pictures are also told apart."""

Picture = Float[np.ndarray, "height width"]
"""Darkness of ink in [0, 1], on 0."""


class Traced(NamedTuple):
    """What a tracer finds."""

    lines: list[Polyline]
    drawn: Picture | None = None
    """Picture by its own pens; None where it knows no pens."""
    log_density: float | None = None
    confidences: list[float] | None = None


Tracer = Callable[[Picture], Traced]


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


def in_shadow(picture: Picture) -> Picture:
    """A picture on whose right half, about, lies a shadow of 40 % with a blurred, slanting edge."""
    y, x = np.indices(picture.shape)
    shadow = ndimage.gaussian_filter((x + 0.4 * y > 0.65 * SIDE).astype(float), 4.0)
    return 1 - (1 - 0.9 * picture) * (1 - 0.4 * shadow)


SHEET = ((6, 12), (246, 5), (251, 248), (9, 243))
"""Corners of a sheet of paper that shows the table beneath it along its edges, x and y, pixels."""


def on_table(picture: Picture) -> Picture:
    """A picture on a slanting sheet of paper on a dark table, both with the noise of a photograph."""
    mask = Image.new("L", (4 * SIDE, 4 * SIDE))
    ImageDraw.Draw(mask).polygon([(4 * x, 4 * y) for x, y in SHEET], fill=255)
    sheet = np.asarray(mask.resize((SIDE, SIDE), Image.Resampling.BOX)) / 255
    noise = np.random.default_rng(0).normal(0, 0.01, picture.shape)
    return (1 - (sheet * (0.95 - 0.85 * picture) + (1 - sheet) * 0.25 + noise)).clip(0, 1)


SWELL_LENGTH = 60.0
"""Length of a stroke over which a pen swells and thins once, pixels."""


class Kind(NamedTuple):
    """A kind of pictures: the pen that draws them, and what is done to them then."""

    pen: float = PEN
    degrade: Callable[[Picture], Picture] = lambda picture: picture
    swells: float = 0.0
    """By how much the pen swells and thins along a stroke, as a share of its width."""


DEGRADED: dict[str, Kind] = {
    "clean": Kind(),
    "64 pixels": Kind(degrade=lambda picture: shrunk(picture, 64)),
    "28 pixels": Kind(degrade=lambda picture: shrunk(picture, 28)),
    "pen 2": Kind(2.0),
    "pen 8": Kind(8.0),
    "pen 16": Kind(16.0),
    "blur": Kind(degrade=lambda picture: ndimage.gaussian_filter(picture, 2.0)),
    "speckle": Kind(degrade=speckled),
    "uneven light": Kind(degrade=unevenly_lit),
    "shadow": Kind(degrade=in_shadow),
    "on a table": Kind(degrade=on_table),
    "swelling pen": Kind(swells=0.4),
}
"""Kinds of pictures by name."""


def drawn_picture(strokes: Sequence[Polyline], kind: str) -> Picture:
    """Picture of one kind of a drawing."""
    pen, degrade, swells = DEGRADED[kind]
    if not swells:
        return degrade(draw_with_pen(strokes, (SIDE, SIDE), pen))
    lines = [resample(stroke) for stroke in strokes]
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, len(lines))
    widths = [
        pen * (1 + swells * np.sin(2 * np.pi * np.arange(len(line)) / SWELL_LENGTH + phase))
        for line, phase in zip(lines, phases, strict=True)
    ]
    return degrade(draw_with_pen(lines, (SIDE, SIDE), widths))


def tracers() -> dict[str, Tracer]:
    """Tracers by name; those that are not installed are left out."""
    found: dict[str, Tracer] = {
        "dood": _ink(),
        "proposals": _ink(steps=0),
        "angles": _ink(score="angles"),
        "single pass": _single_pass(),
        "skeleton": _skeleton,
        "skeleton of ink": _skeleton_of_ink,
    }
    for name, module, make in (
        ("autotrace", "autotrace", _autotrace),
        ("vtracer", "vtracer", _vtracer),
    ):
        if importlib.util.find_spec(module) is not None:
            found[name] = make()
        else:
            print(f"  left out: {name} is not installed: pip install 'dood-pyro[rivals]'")
    return found


def _single_pass() -> Tracer:
    dood = load("omniglot")

    def trace(picture: Picture) -> Traced:
        drawing = dood.parse(picture, polarity="bright-ink", method="guide")
        return Traced(drawing.polylines(), drawing.render())

    return trace


def _skeleton(picture: Picture) -> Traced:
    return Traced(_skeleton_lines(picture > 0.5))


def _skeleton_of_ink(picture: Picture) -> Traced:
    mask, _, factor = enlarged_mask(find_ink(picture[..., None], polarity="bright-ink"))
    return Traced([line / factor for line in _skeleton_lines(mask)])


def _skeleton_lines(mask: Bool[np.ndarray, "height width"]) -> list[Polyline]:
    return [
        canonical(each.line)
        for graph in skeleton_graphs(mask)
        for each in chain_branches(graph, joins(graph))
    ]


def _ink(**options: Any) -> Tracer:
    def trace(picture: Picture) -> Traced:
        ink = find_ink(picture[..., None], polarity="bright-ink")
        parsed = parse_ink(ink, **options)
        strokes = [
            PenStroke(each.chain.control, each.chain.width, each.chain.darkness)
            for each in parsed.strokes
        ]
        drawing = Drawing(strokes, picture.shape[1], picture.shape[0])
        known = None if np.isnan(parsed.log_density) else parsed.log_density
        confidences = [each.confidence for each in parsed.strokes]
        return Traced(drawing.polylines(), drawing.render(), known, confidences)

    return trace


def _autotrace() -> Tracer:
    import autotrace

    def trace(picture: Picture) -> Traced:
        grey = np.round(255 * (1 - picture)).astype(np.uint8)
        bitmap = autotrace.Bitmap(np.repeat(grey[..., None], 3, -1))
        vector = bitmap.trace(centerline=True, background_color=(255, 255, 255), color_count=2)
        lines = []
        for path in vector.paths:
            points = [spline.points for spline in path.splines]
            lines.append(_flattened([[(p.x, p.y) for p in each] for each in points], picture))
        return Traced(lines)

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

    def trace(picture: Picture) -> Traced:
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
        return Traced(lines)

    return trace


PARTS = ("reported", "for-choices")
"""Drawings that trained nothing: those reported, and those by which settings were chosen."""


def chosen_drawings(
    name: str, count: int, data_dir: Path | None, part: str = PARTS[0]
) -> list[list[Polyline]]:
    """Drawings of a part of a set, in pixels of a clean picture."""
    drawings = split_drawings(name, 0, data_dir)[PARTS.index(part)][:count]
    return [fit_to_square(each.strokes, SIDE, MARGIN) for each in drawings]


def measured(
    trace: Tracer, drawings: Sequence[list[Polyline]], kind: str
) -> tuple[dict[str, float | None], list[dict[str, float]]]:
    """Scores of a tracer on one kind of pictures of the drawings: their means, and each."""
    pen = DEGRADED[kind].pen
    rows: list[dict[str, float]] = []
    claims: list[bool] = []
    right: list[bool] = []
    for strokes in drawings:
        picture = drawn_picture(strokes, kind)
        began = time.perf_counter()
        found = trace(picture)
        spent = 1000 * (time.perf_counter() - began)
        scale = SIDE / picture.shape[0]
        lines = [scale * line for line in found.lines if len(line) > 1]
        drawn = found.drawn
        if drawn is None:  # a tracer that knows no pens is given the true one
            drawn = draw_with_pen(
                [line / scale for line in lines], (picture.shape[0], picture.shape[1]), pen / scale
            )
        row: dict[str, float] = dict(compare_strokes(lines, strokes, SIDE)._asdict())
        row["length"] = sum(map(path_length, lines)) / max(1.0, sum(map(path_length, strokes)))
        row["pixel_error"] = float(np.abs(drawn - picture).mean())
        row["log_density"] = np.nan if found.log_density is None else found.log_density
        row["ms"] = spent
        rows.append(row)
        if found.confidences is not None:
            sure = [each >= SURE for each in found.confidences]
            resampled = [resample(line) for line in lines], [resample(each) for each in strokes]
            pairs = match_strokes(*resampled, TOLERANCE * SIDE)
            claims += sure
            right += [sure[path] for path, _ in pairs]
    scores = means(rows)
    matches = np.array([row["match"] for row in rows])
    scores["match_error"] = round(float(matches.std(ddof=1) / len(matches) ** 0.5), 4)
    if claims:
        scores["sure"] = round(sum(claims) / len(claims), 4)
        scores["sure_and_right"] = round(sum(right) / max(1, sum(claims)), 4)
    return scores, rows


def means(rows: Sequence[dict[str, float]]) -> dict[str, float | None]:
    """Means over drawings, but for times, of which it is the median."""
    found: dict[str, float | None] = {}
    for name in rows[0] if rows else ():
        column = np.array([row[name] for row in rows])
        if not np.isfinite(column).any():
            found[name] = None
        elif name == "ms":
            found[name] = round(statistics.median(column.tolist()), 1)
        else:
            found[name] = round(float(np.nanmean(column)), 5)
    return found


def by_strokes(
    drawings: Sequence[list[Polyline]], rows: Sequence[dict[str, float]]
) -> dict[str, dict[str, float | None]]:
    """Scores by the number of true strokes, and how many drawings have so many."""
    found = {}
    for least, most in STROKES:
        part = [row for each, row in zip(drawings, rows, strict=True) if least <= len(each) <= most]
        if part:
            found[f"{least}-{most}"] = {"drawings": float(len(part)), **means(part)}
    return found


def draw_sheet(
    found: dict[str, Tracer], drawings: dict[str, list[list[Polyline]]], each: int = 4
) -> None:
    """Contact sheet: pictures, true strokes, and every tracer's, coloured by order."""
    items = [strokes for of_set in drawings.values() for strokes in of_set[:each]]
    figure = new_figure(1.5 * len(items), 1.6 * (1 + len(found)))
    axes = figure.subplots(1 + len(found), len(items), squeeze=False)
    for column, strokes in enumerate(items):
        picture = draw_with_pen(strokes, (SIDE, SIDE), PEN)
        rows = [
            ("truth", strokes),
            *((name, trace(picture).lines) for name, trace in found.items()),
        ]
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


ROWS = (
    ("chamfer", "Chamfer distance, % of the side", 3),
    ("recall", "recall within 2 % of the side", 4),
    ("f", "F at 2 %", 4),
    ("match", "one-to-one match F", 3),
    ("exact", "decomposed exactly", 2),
    ("pixel_error", "pixel error", 4),
    ("direction", "direction", 2),
    ("order", "order", 2),
    ("paths_per_stroke", "paths a stroke", 2),
    ("length", "length of the paths, in that of the strokes", 3),
    ("ms", "milliseconds", 0),
)
"""Scores on the page: name, words, and digits after the point."""
NAMES = (
    *("dood", "proposals", "angles", "single pass"),
    *("skeleton", "skeleton of ink", "autotrace", "vtracer"),
)
"""Tracers on the page, in their order."""
MARKS = "<!-- tables by experiments/strokes_table.py -->", "<!-- end of tables -->"


def page_tables(table: dict[str, Any]) -> str:
    """The page's tables: clean pictures by score, then the match on all kinds of pictures."""

    def cell(kind: str, tracer: str, score: str, digits: int) -> str:
        values = [table[kind][name].get(tracer, {}).get(score) for name in FILES]
        shown = ["–" if value is None else f"{value:.{digits}f}" for value in values]
        return " / ".join(each.removeprefix("0") if "." in each else each for each in shown)

    names = [name for name in NAMES if name in table["clean"][next(iter(FILES))]]
    head = f"| | {' | '.join(names)} |\n|{' --- |' * (len(names) + 1)}\n"
    clean = head
    for score, words, digits in ROWS:
        cells = [cell("clean", name, score, digits) for name in names]
        clean += f"| {words} | {' | '.join(cells)} |\n"
    kinds = [kind for kind in DEGRADED if kind in table]
    match = head
    for kind in kinds:
        cells = [cell(kind, name, "match", 2) for name in names]
        match += f"| {kind} | {' | '.join(cells)} |\n"
    lengths = head
    for kind in kinds:
        cells = [cell(kind, name, "length", 2) for name in names]
        lengths += f"| {kind} | {' | '.join(cells)} |\n"
    sure = "| | sure (confidence ≥ .9) | of these, right |\n| --- | --- | --- |\n"
    for kind in kinds:
        both = [cell(kind, "dood", score, 2) for score in ("sure", "sure_and_right")]
        sure += f"| {kind} | {' | '.join(both)} |\n"
    return (
        f"On clean pictures:\n\n{clean}\nMatch F on every kind of picture:\n\n{match}\n"
        f"Length of the paths, in that of the true strokes:\n\n{lengths}\n"
        f"Confidences of `dood`:\n\n{sure}"
    )


def write_page(table: dict[str, Any], page: Path = PAGE) -> None:
    """Put the tables between the page's marks."""
    text = page.read_text()
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    tables = page_tables(table)
    write_atomically(page, f"{before}{MARKS[0]}\n\n{tables}\n{MARKS[1]}{after}".encode())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100, help="Drawings of each set.")
    parser.add_argument("--part", choices=PARTS, default=PARTS[0], help="Which drawings.")
    parser.add_argument("--tracers", nargs="+", help="Only these.")
    parser.add_argument("--kinds", nargs="+", choices=list(DEGRADED), default=list(DEGRADED))
    parser.add_argument("--data-dir", type=Path, help="Data folder, in place of DOOD_DATA.")
    parser.add_argument("--out", type=Path, default=RESULTS / "strokes.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        name: trace
        for name, trace in tracers().items()
        if arguments.tracers is None or name in arguments.tracers
    }
    drawings = {
        name: chosen_drawings(name, arguments.count, arguments.data_dir, arguments.part)
        for name in FILES
    }
    table: dict[str, Any] = {"drawings": arguments.count, "part": arguments.part}
    for kind in arguments.kinds:
        table[kind] = {name: {} for name in drawings}
        for name, of_set in drawings.items():
            for tracer, trace in found.items():
                scores, rows = measured(trace, of_set, kind)
                table[kind][name][tracer] = scores
                if kind == "clean":
                    of_numbers = table.setdefault("by_strokes", {}).setdefault(name, {})
                    of_numbers[tracer] = by_strokes(of_set, rows)
                shown = "  ".join(f"{key} {value}" for key, value in scores.items())
                print(f"{kind:12}  {name:9}  {tracer:9}  {shown}", flush=True)
    update_object(arguments.out, table)
    if arguments.out == RESULTS / "strokes.json":
        draw_sheet(found, drawings)
        write_page(json.loads(arguments.out.read_text()))


if __name__ == "__main__":
    with exit_on_user_error():
        main()
