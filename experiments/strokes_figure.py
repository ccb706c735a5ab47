"""The picture of the README: drawings of people, and the pen strokes that dood-pyro finds in them.
Run by ``make strokes-table``; writes docs/strokes.png.

Each is the first of its kind in its set's shuffle of seed 0; those after the first hundred of a set may
have trained the score of joins.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from dood_pyro.canvas_drawing import STROKE_COLOURS
from dood_pyro.data.pen_strokes import PenDrawing, fit_to_square, load_pen_drawings
from dood_pyro.errors import exit_on_user_error
from dood_pyro.parsing import parse_picture
from dood_pyro.plots import new_figure
from dood_pyro.rendering.round_pen import draw_with_pen

OUT = Path(__file__).parent.parent / "docs" / "strokes.png"
SIDE, PEN = 400, 6.0
SHOWN = (
    ("quickdraw", "bicycle"),
    ("quickdraw", "flamingo"),
    ("quickdraw", "umbrella"),
    ("kanjivg", ""),
)
"""Set, and what a drawing of it must be of."""
FEWEST = 6
"""Strokes of a drawing of which only the set is given."""


def shuffled(name: str, data_dir: Path | None) -> list[PenDrawing]:
    """A set's drawings, shuffled as for the table."""
    drawings = load_pen_drawings(name, data_dir)
    rows = np.random.default_rng(0).permutation(len(drawings))
    return [drawings[row] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="Data folder, in place of DOOD_DATA.")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    figure = new_figure(2.2 * len(SHOWN), 4.4)
    axes = figure.subplots(2, len(SHOWN))
    for column, (name, group) in enumerate(SHOWN):
        strokes = next(
            each.strokes
            for each in shuffled(name, arguments.data_dir)
            if each.group == group or (not group and len(each.strokes) >= FEWEST)
        )
        picture = draw_with_pen(fit_to_square(strokes, SIDE, 0.08), (SIDE, SIDE), PEN)
        axes[0, column].imshow(1 - picture, cmap="gray", vmin=0, vmax=1)
        for index, line in enumerate(parse_picture(1 - picture).polylines()):
            colour = STROKE_COLOURS[index % len(STROKE_COLOURS)]
            axes[1, column].plot(*line.T, color=colour, linewidth=2, solid_capstyle="round")
            axes[1, column].plot(*line[0], "o", color=colour, markersize=4)
        axes[1, column].set_xlim(0, SIDE)
        axes[1, column].set_ylim(SIDE, 0)
        axes[1, column].set_aspect("equal")
    for axis in axes.ravel():
        axis.set_axis_off()
    figure.savefig(arguments.out, dpi=200, bbox_inches="tight")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
