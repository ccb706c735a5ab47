"""Figure of the transfer table (Fig. 4): log p(x) and reconstructions per cell, models side by side.
``dood-pyro transfer-table`` draws it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from dood_pyro import data
from dood_pyro.errors import UserError
from dood_pyro.files import replacing, unreadable
from dood_pyro.plots import new_figure, save_figure, source_title
from dood_pyro.recognition import Recognizer, load
from dood_pyro.registry import model_title
from dood_pyro.tasks.transfer.cells import Cell
from dood_pyro.tasks.transfer.plan import Plan, expected, known_data
from dood_pyro.tasks.transfer.report import SIGNS, marks_of, minutes, notes

Thumbnails = Callable[[str, str, str], UInt8[np.ndarray, "height width 3"] | None]
"""Function of model, source and target to a strip of images and reconstructions, or None."""


def draw_table(
    found: dict[tuple[str, str, str], Cell],
    models: Sequence[str],
    thumbnails: Thumbnails,
    out: Path,
    other: dict[str, str] | None = None,
) -> list[Path]:
    """Write the table as PNG and PDF; return the paths.

    One panel per model, with sources as rows and targets as columns. A cell holds a strip of
    reconstructions, log p(x) in nats per image and the published figure; a missing cell says "missing".
    Below the panels stand notes on seeds, errors and data that are not the paper's.

    Args:
        other: sources and targets whose data are not the paper's, with how they differ
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
    # Two panels per line; a line is as high as its panel with the most rows.
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


STRIP_IMAGES = 4
"""Images per strip."""


class Strips:
    """Strips of a target's first test images and, below the images, their reconstructions by the
    runs of a plan's first seed.

    A call takes model, source and target; the result is None if a run or a target is missing.
    Strips are kept in a file, and read from the file where a run's weights are not at hand.

    Args:
        path: the .npz file of strips.

    Raises:
        UserError: the file cannot be read.
    """

    def __init__(self, plan: Plan, path: Path) -> None:
        self.plan, self.path = plan, path
        self.runs = {(t.model, data.name_of(t.source)): t for t in reversed(plan.trainings)}
        self.targets = {data.name_of(target): target for target in plan.targets}
        self.loaded: dict[tuple[str, str], Recognizer | None] = {}
        self.kept: dict[str, UInt8[np.ndarray, "height width"]] = {}
        if path.exists():
            try:
                with np.load(path, allow_pickle=False) as archive:
                    self.kept = dict(archive)
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                raise unreadable(path, error, "; delete it") from None

    def __call__(
        self, model: str, source: str, target: str
    ) -> UInt8[np.ndarray, "height width 3"] | None:
        name = " ".join((model, source, target))
        grey = self._draw(model, source, target)
        if grey is not None:
            self.kept[name] = grey
        grey = self.kept.get(name)
        return None if grey is None else np.repeat(grey[..., None], 3, axis=-1)

    def save(self) -> None:
        """Write all strips to the file.

        Raises:
            UserError: the file cannot be written.
        """
        if self.kept:
            with replacing(self.path) as file:
                np.savez_compressed(file, **self.kept)  # type: ignore[arg-type]

    def _draw(
        self, model: str, source: str, target: str
    ) -> UInt8[np.ndarray, "height width"] | None:
        """A new strip, dark on white; None if the run or the target's data are not at hand."""
        dood = self._recognizer(model, source)
        # Drawing a figure must not download data.
        if dood is None or target not in known_data(self.plan):
            return None
        name = self.targets[target]
        images = dood.load_images(name, STRIP_IMAGES, data_dir=self.plan.data_dir)
        made = dood.infer(images).canvas[-1]
        rows = [torch.cat(list(part.cpu()), dim=-1) for part in (images.pixels, made)]
        return (255 * (1 - torch.cat(rows))).round().clamp(0, 255).byte().numpy()

    def _recognizer(self, model: str, source: str) -> Recognizer | None:
        """The run of a model and source, loaded once; None if it cannot be loaded."""
        if (model, source) not in self.loaded:
            try:
                run = self.plan.run(self.runs[model, source])
                trusted = expected(self.runs[model, source]).own_code()
                self.loaded[model, source] = load(run.path, self.plan.device, trusted=trusted)
            except UserError:
                self.loaded[model, source] = None
        return self.loaded[model, source]
