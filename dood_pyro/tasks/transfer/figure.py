"""The table of Fig. 4: values with reconstructions in the cells, models side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from dood_pyro import data
from dood_pyro.devices import choose_device
from dood_pyro.errors import UserError
from dood_pyro.plots import new_figure, save_figure, source_title
from dood_pyro.recognition import Recognizer
from dood_pyro.registry import model_title
from dood_pyro.tasks.transfer.cells import Cell
from dood_pyro.tasks.transfer.plan import Plan
from dood_pyro.tasks.transfer.report import SIGNS, marks_of, minutes, notes

Thumbnails = Callable[[str, str, str], UInt8[np.ndarray, "height width 3"] | None]
"""Model, source and target to a strip of targets and reconstructions, or None."""


def draw_table(
    found: dict[tuple[str, str, str], Cell],
    models: Sequence[str],
    thumbnails: Thumbnails,
    out: Path,
    other: dict[str, str] | None = None,
) -> list[Path]:
    """Writes ``out`` as PNG and PDF; returns the paths.

    A panel a model: rows are sources, columns targets; a cell holds log p(x), below it the published
    figure, and a strip of reconstructions. Cells that are missing say so; below stand seeds, errors and
    what is not the paper's data.

    Args:
        other: sources and targets whose data are not the paper's, and in what
            (`dood_pyro.tasks.transfer.published.other_data`).

    Raises:
        UserError: the figure cannot be written.
    """
    from matplotlib.patches import Rectangle

    marks = marks_of(other)

    def named(source: str) -> str:
        return source_title(source) + marks.get(source, "")

    sources = list(dict.fromkeys(key[1] for key in found))
    targets = list(dict.fromkeys(key[2] for key in found))
    rows = {m: [s for s in sources if any((m, s, t) in found for t in targets)] for m in models}
    shown = [model for model in models if rows[model]]
    # Two panels abreast, as many as it takes; a panel is as high as it has rows.
    pairs = [shown[i : i + 2] for i in range(0, len(shown), 2)]
    heights = [max(len(rows[model]) for model in pair) + 0.7 for pair in pairs]
    abreast = max(len(pair) for pair in pairs)
    width = len(targets) * 1.35 + 1.2
    figure = new_figure(abreast * width, sum(heights) * 0.95)
    grid = figure.add_gridspec(len(pairs), abreast, height_ratios=heights, wspace=0.02, hspace=0.05)
    for line, pair in enumerate(pairs):
        for column, model in enumerate(pair):
            axes = figure.add_subplot(grid[line, column])
            axes.set_xlim(-0.9, len(targets))
            axes.set_ylim(heights[line] - 0.7, -0.7)
            axes.axis("off")
            title = model_title(model)
            axes.text(-0.85, -0.55, title, fontsize=11, weight="bold", va="center")
            trained = f"trained for {minutes(found, model)} minutes"
            axes.text(len(targets), -0.55, trained, fontsize=7, ha="right", va="center")
            for j, target in enumerate(targets):
                axes.text(
                    j + 0.5,
                    -0.18,
                    named(target),
                    ha="center",
                    fontsize=8,
                )
            for i, source in enumerate(rows[model]):
                axes.text(-0.08, i + 0.5, named(source), ha="right", va="center", fontsize=8)
                for j, target in enumerate(targets):
                    cell = found.get((model, source, target))
                    face = "#eef4f8" if source == target else "white"
                    axes.add_patch(
                        Rectangle((j, i), 1, 1, facecolor=face, edgecolor="#b8c4cc", linewidth=0.6)
                    )
                    if cell is None:
                        axes.text(
                            j + 0.5,
                            i + 0.5,
                            "missing",
                            ha="center",
                            va="center",
                            fontsize=7,
                            color="#a04040",
                        )
                        continue
                    strip = thumbnails(model, source, target)
                    if strip is not None:
                        axes.imshow(
                            strip,
                            extent=(j + 0.06, j + 0.94, i + 0.60, i + 0.04),
                            aspect="auto",
                            interpolation="antialiased",
                            zorder=2,
                        )
                    spread = "" if cell.spread is None else f" ± {cell.spread:.0f}"
                    axes.text(
                        j + 0.5,
                        i + 0.74,
                        f"{cell.mean:.0f}{spread}".replace("-", "−"),
                        ha="center",
                        va="center",
                        fontsize=8,
                    )
                    if cell.published is not None:
                        sign = SIGNS[cell.against_published()]
                        axes.text(
                            j + 0.5,
                            i + 0.90,
                            f"paper {cell.published.mean:.0f} {sign}".replace("-", "−"),
                            ha="center",
                            va="center",
                            fontsize=6,
                            color="#707070",
                        )
    figure.text(0.5, 0.01, "\n".join(notes(found, other)), ha="center", va="bottom", fontsize=6.5)
    return save_figure(figure, out)


def thumbnails_of(plan: Plan, count: int = 4) -> Thumbnails:
    """Strips of the first test images and, below them, what a plan's runs of its first seed make of
    them; None where a run or a target is missing."""
    runs = {(t.model, data.name_of(t.source)): t for t in reversed(plan.trainings)}
    targets = {data.name_of(target): target for target in plan.targets}
    loaded: dict[tuple[str, str], Any] = {}

    def strip(model: str, source: str, target: str) -> UInt8[np.ndarray, "height width 3"] | None:
        device = choose_device(plan.device)
        if (model, source) not in loaded:
            try:
                loaded[model, source] = plan.run(runs[model, source]).load()
            except UserError:
                loaded[model, source] = None
        if loaded[model, source] is None:
            return None
        program, guide, config = loaded[model, source]
        try:
            dataset = data.load(targets[target], "test", config.model.canvas_size, plan.data_dir)
        except UserError:
            return None
        dood = Recognizer(program.to(device), guide.to(device), config)
        images = dataset.batch(count, device)
        made = dood.infer(images).canvas[-1]
        rows = [torch.cat(list(part.cpu()), dim=-1) for part in (images.pixels, made)]
        grey = (255 * (1 - torch.cat(rows))).round().clamp(0, 255).byte().numpy()
        return np.repeat(grey[..., None], 3, axis=-1)

    return strip
