"""Guides over one trained model, on the same images: bound, gap and time of each.
``dood-pyro compare-guides`` measures and draws them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from dood_pyro import data
from dood_pyro.config import RunConfig
from dood_pyro.devices import choose_device, seeded
from dood_pyro.errors import UserError
from dood_pyro.guides.base import Guide
from dood_pyro.images import ImageBatch
from dood_pyro.inference.guide_parses import in_double, parse
from dood_pyro.inference.importance import ImportanceBound, bound_of
from dood_pyro.models.base import DrawingModel
from dood_pyro.plots import new_figure, save_figure, source_title
from dood_pyro.recognition import BATCH, open_run
from dood_pyro.registry import SEARCH_GUIDES
from dood_pyro.run_folders.run import Run, make_search_guide
from dood_pyro.tasks.evaluate import mean_and_se
from dood_pyro.tasks.sensitivity import sensitivity


def load_guides(
    run: Run,
    names: Sequence[str] | None,
    which: str = "best",
    guide: str | None = None,
    trusted: Sequence[str] = (),
) -> tuple[DrawingModel[Any], dict[str, Guide], RunConfig]:
    """Load a run's model and guides over the model.

    Args:
        names: the name of the run's own guide, names in `dood_pyro.registry.SEARCH_GUIDES`, or folders
            of runs whose guide was trained over this model (``train --init-from RUN --trainable
            guide``). Default: the run's own guide, ``smc`` if that guide is sequential, and
            ``refined``.
        guide: name of a guide that is not built in, ``module:Class``, of the run or of those folders:
            its code is permitted to run.

    Returns:
        The model, guides by name, and the run's configuration.

    Raises:
        UserError: there is no guide of a name, or a folder's model is another one.
    """
    if guide in SEARCH_GUIDES:
        raise UserError(
            f"name {guide} among --guides: --guide permits a guide of one's own, module:Class"
        )
    mine = run.read_config()[0].train.guide
    others = [name for name in names or () if name != mine and name not in SEARCH_GUIDES]
    folders = {name: open_run(name) for name in others if Path(name).is_dir()}
    settings = {name: folder.read_config()[0].train for name, folder in folders.items()}
    if guide not in (None, mine, *(each.guide for each in settings.values())):
        raise UserError(f"no run here was trained with the guide {guide!r}")
    model, own, config = run.load(which, guide if mine == guide else None, trusted)
    if names is None:
        names = [mine, *(["smc"] if own.sequential else []), "refined"]
    found: dict[str, Guide] = {}
    for name in names:
        if name == mine:
            found[name] = own
        elif name in SEARCH_GUIDES:
            found[name] = make_search_guide(name, model, own)
        elif name in folders:
            theirs = settings[name]
            permitted = guide if theirs.guide == guide else None
            other = folders[name].load_guide(model, which, permitted, trusted)
            found[f"{theirs.guide} by {theirs.estimator}, {Path(name)}"] = other
        else:
            raise UserError(
                f"there is no guide {name!r} over {run.path}; name {mine}, "
                f"{', '.join(SEARCH_GUIDES)}, or the folder of a run trained with --trainable guide"
            )
    return model, found, config


def compare_guides(
    run: Run,
    target: str,
    names: Sequence[str] | None,
    particles: int = 200,
    limit: int = 100,
    device: str | torch.device = "cpu",
    data_dir: str | Path | None = None,
    which: str = "best",
    guide: str | None = None,
    progress: Callable[[str, float, int], None] | None = None,
    trusted: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Measure guides on the first ``limit`` test images of the target's shuffle of seed 0.

    Args:
        names, guide, trusted: as for `load_guides`.
        progress: called with a guide's name, images done since the last call, and images in all.

    Returns:
        One row per guide: ``log_p`` and ``elbo`` in nats per image, stop variable marginalised, with
        ``log_p_se`` over images (sequential Monte Carlo has one bound for both); ``gap`` between the
        ELBO and the highest log p(x) that any of the guides finds for an image, nats per image;
        ``effective_samples`` of ``particles`` (None for sequential Monte Carlo);
        ``mean_absolute_error`` of the guide's modes, brightness per pixel; ``strokes`` per drawing;
        ``milliseconds`` per drawing to compute the modes, in batches of `BATCH`; and
        `dood_pyro.tasks.sensitivity.Sensitivity.summary`.

    Raises:
        UserError: a guide or the target cannot be had.
    """
    if isinstance(device, str):
        device = choose_device(device)
    model, guides, config = load_guides(run, names, which, guide, trusted)
    model = model.to(device)
    dataset = data.load(target, "test", config.model.canvas_size, data_dir)
    images = dataset.batch(limit, device)
    rows: list[dict[str, Any]] = []
    bounds: list[Tensor] = []
    elbos: list[Tensor] = []
    for name, recognition in guides.items():
        recognition = recognition.to(device)

        # A search guide searches once for the bound, once for its modes and twice for moved pictures;
        # for other guides the bound takes nearly all of the time.
        share = 0.4 if recognition.searches else 1.0

        def show(done: float, name: str = name, share: float = share) -> None:
            if progress is not None:
                progress(name, share * done, len(images))

        with pyro.validation_enabled(False), seeded(0, device):
            # In batches, because a search guide searches for all images of a batch at once.
            parts = [
                bound_of(model, recognition, part, particles, show) for part in images.split(BATCH)
            ]
            bound = ImportanceBound.concatenated(parts)
            error, seconds = _best_guess(model, recognition, images)
            show((1 / share - 1) / 3 * len(images))
            moved = sensitivity(model, recognition, images)
            show((1 / share - 1) * 2 / 3 * len(images))
        bounds.append(bound.log_p_summed)
        elbos.append(bound.elbo)
        _, log_p_se = mean_and_se(bound.log_p_summed)
        rows.append(
            {
                "guide": name,
                "images": len(images),
                "log_p": float(bound.log_p_summed.mean()),
                "log_p_se": log_p_se,
                "elbo": float(bound.elbo.mean()),
                "effective_samples": bound.mean_effective_samples(),
                "mean_absolute_error": error,
                "strokes": float(bound.strokes.mean()),
                "milliseconds": 1000 * seconds / len(images),
                **moved.summary(),
            }
        )
    highest = torch.stack(bounds).amax(0)
    for row, elbo in zip(rows, elbos, strict=True):
        row["gap"] = float((highest - elbo).mean())
    return rows


def _best_guess(model: DrawingModel[Any], guide: Guide, images: ImageBatch) -> tuple[float, float]:
    """Mean absolute error of the guide's modes, brightness per pixel, and the seconds they took."""
    errors = []
    model, guide = in_double(model, guide)
    # The first parse of a process includes one-off costs, so one is run untimed. Beside a search they
    # are negligible.
    if not guide.searches:
        parse(model, guide, images[:BATCH])
    if images.device.type == "cuda":  # work queued earlier must not count
        torch.cuda.synchronize(images.device)
    began = time.perf_counter()
    for part in images.split(BATCH):
        errors.append((parse(model, guide, part).canvas[-1] - part.pixels).abs().mean((-1, -2)))
    error = float(torch.cat(errors).mean())
    return error, time.perf_counter() - began


def draw_guides(rows: Sequence[dict[str, Any]], target: str, out: Path) -> list[Path]:
    """Write each guide's ELBO and log p(x) against time as PNG and PDF; return the paths.

    Args:
        rows: as `compare_guides` returns them.

    Raises:
        UserError: the figure cannot be written.
    """
    figure = new_figure(5.2, 3.6)
    axes = figure.subplots()
    floor = _floor(rows)
    for index, row in enumerate(rows):
        colour = f"C{index}"
        milliseconds = row["milliseconds"]
        seen = row["elbo"] >= floor
        bottom = row["elbo"] if seen else floor
        axes.plot([milliseconds] * 2, [bottom, row["log_p"]], color=colour, lw=1, alpha=0.6)
        axes.plot(milliseconds, bottom, "v", color=colour, ms=6, mfc=colour if seen else "none")
        axes.plot(milliseconds, row["log_p"], "o", color=colour, ms=6)
        notes = [(row["guide"], row["log_p"])]
        if not seen:
            notes.append((f"{row['elbo']:,.0f}, off the scale", floor))
        for note, height in notes:
            axes.annotate(
                note,
                (milliseconds, height),
                xytext=(6, 4),
                textcoords="offset points",
                fontsize=7,
                color=colour,
            )
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.15)
    axes.set_xlabel("milliseconds per drawing")
    axes.set_ylabel("nats per image")
    axes.set_title(f"{source_title(target)}: log p(x) (circles) and ELBO (triangles)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return save_figure(figure, out)


def _floor(rows: Sequence[dict[str, Any]]) -> float:
    """The lowest ELBO drawn to scale, nats per image; one far below the others would flatten them."""
    lowest = min(row["log_p"] for row in rows)
    across = max(row["log_p"] for row in rows) - lowest
    gaps = sorted(row["log_p"] - row["elbo"] for row in rows)
    return float(lowest - 2 * max(across, gaps[(len(gaps) - 1) // 2]))
