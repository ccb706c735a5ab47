"""Models side by side on the same images: stepwise reconstructions (Fig. 3a) and the number of strokes
per drawing (Fig. 3b to d).
``dood-pyro compare`` and ``stroke-counts`` draw them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from dood_pyro.plots import draw_steps, new_figure, save_figure, source_title
from dood_pyro.recognition import BATCH, Recognizer
from dood_pyro.registry import model_title


def title(dood: Recognizer) -> str:
    """A model's name and training source, as figures write them."""
    return f"{model_title(dood.config.model_name)} ({source_title(dood.config.train.source)})"


def distinct(names: Sequence[str]) -> list[str]:
    """Names, with a number appended to those that occur more than once."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name} {seen[name]}" if names.count(name) > 1 else name)
    return numbered


def draw_reconstructions(
    models: Sequence[Recognizer],
    targets: Sequence[str],
    out: Path,
    count: int = 4,
    data_dir: str | Path | None = None,
) -> list[Path]:
    """Write Fig. 3a as PNG and PDF; return the paths.

    One block per model and one column per drawing: the image on top, below it the drawing after each
    stroke, strokes coloured by order.

    Args:
        count: images per target, the first of its shuffle of seed 0.

    Raises:
        UserError: a target cannot be had, or the figure cannot be written.
    """
    sheets, ends = [], [0]
    for dood in models:
        # One batch per target: a batch is drawn at one resolution.
        parts = []
        for target in targets:
            images = dood.load_images(target, count, data_dir=data_dir)
            parts.append(draw_steps(images, dood.infer(images), dood.model.draws_curves)[0])
        ends = [0, *np.cumsum([part.shape[1] for part in parts]).tolist()]
        sheets.append(np.concatenate(parts, axis=1))
    height = sum(sheet.shape[0] for sheet in sheets) / 200 + 0.1 * len(sheets) + 0.3
    figure = new_figure(sheets[0].shape[1] / 200 + 0.3, height)
    axes = figure.subplots(len(sheets), 1, squeeze=False, gridspec_kw={"hspace": 0.03})[:, 0]
    for index, (panel, sheet, dood) in enumerate(zip(axes, sheets, models, strict=True)):
        panel.imshow(sheet, interpolation="antialiased")
        side = {"rotation": 90, "ha": "right", "va": "center", "fontsize": 9}
        panel.text(-12, sheet.shape[0] / 2, title(dood), **side)
        panel.set_axis_off()
        for place, target in enumerate(targets):
            if index == 0:
                middle = (ends[place] + ends[place + 1]) / 2
                panel.text(middle, -8, source_title(target), ha="center", va="bottom", fontsize=8)
            if place:
                panel.axvline(ends[place] - 0.5, color="black", lw=0.8)
    return save_figure(figure, out)


def stroke_counts(
    dood: Recognizer, target: str, limit: int = 1000, data_dir: str | Path | None = None
) -> Int[np.ndarray, "stops"]:
    """Number of a target's first ``limit`` test images that a model draws with 0…K strokes.

    Raises:
        UserError: the target cannot be had.
    """
    images = dood.load_images(target, limit, data_dir=data_dir)
    counts = [dood.infer(part).alive.sum(0) for part in images.split(BATCH)]
    stops = dood.config.model.max_strokes + 1
    return np.bincount(torch.cat(counts).long().cpu().numpy(), minlength=stops)


def draw_stroke_counts(
    models: Sequence[Recognizer],
    targets: Sequence[str],
    out: Path,
    limit: int = 1000,
    data_dir: str | Path | None = None,
) -> tuple[list[Path], dict[str, dict[str, list[int]]]]:
    """Write Fig. 3b to d as PNG and PDF: one row per model, one panel per target, with the share of
    drawings by number of strokes.

    Returns:
        The paths, and the number of drawings with 0…K strokes by model and target.

    Raises:
        UserError: a target cannot be had, or the figure cannot be written.
    """
    counts = {
        name: {t: stroke_counts(dood, t, limit, data_dir).tolist() for t in targets}
        for name, dood in zip(distinct([title(dood) for dood in models]), models, strict=True)
    }
    figure = new_figure(1.5 * len(targets) + 0.6, 1.25 * len(models) + 0.5)
    grid = figure.subplots(len(models), len(targets), squeeze=False, sharey=True)
    for row, (name, by_target) in zip(grid, counts.items(), strict=True):
        for axes, (target, found) in zip(row, by_target.items(), strict=True):
            share = np.array(found) / max(1, sum(found))
            axes.bar(range(len(found)), share, color="#1b6ca8", width=0.8)
            mean = float(np.dot(share, np.arange(len(found))))
            axes.axvline(mean, color="#d1495b", lw=1)
            axes.set_title(f"{source_title(target)}: {mean:.1f}", fontsize=7)
            axes.set_xticks(range(len(found)))
            axes.tick_params(labelsize=6)
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(name, fontsize=6)
    for axes in grid[-1]:
        axes.set_xlabel("strokes", fontsize=7)
    figure.tight_layout()
    return save_figure(figure, out), counts
