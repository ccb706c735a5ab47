"""Anatomy of a run's bound on each target: the likelihood's scale, number of strokes, and guide.
Run by hand; docs/results.md cites its findings.

    python experiments/what_holds_back.py experiments/runs/dood-mnist-0 experiments/runs/dood-omniglot-0

For each run and target, on the first test images in the shuffle of seed 0, in nats per image:

    log_p           bound with a few samples, stop variable marginalised: the basis of comparison
    scale           gain of the best guess if the likelihood's scale were fitted to the target
    strokes         gain of twice as many strokes, the model drawing on as before
    searched        gain of the best of twenty of the guide's drawings, followed by gradient steps on
                    each image's own bound: the guide's imprecision
    thin, thick     log_p of the third of the images with the thinnest pens, and with the thickest

Written to experiments/results/what_holds_back.json, by run; a run's new entries replace its old ones.
Only for runs that draw curves under a Laplace likelihood.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dood_pyro
from dood_pyro.errors import exit_on_user_error
from dood_pyro.files import read_object, update_object
from dood_pyro.images import ImageBatch
from dood_pyro.inference.guide_parses import Parse
from dood_pyro.inference.importance import bound_of
from dood_pyro.inference.search.refined import RefinedGuide
from dood_pyro.models.base import MIN_LIKELIHOOD_SCALE
from dood_pyro.recognition import Recognizer, open_run
from dood_pyro.tasks.transfer.published import DATASETS

RESULTS = Path(__file__).parent / "results" / "what_holds_back.json"
PARTICLES = 10
REFINEMENT = 60


def log_p(dood: Recognizer, images: ImageBatch, refine: int = 0) -> Tensor:
    """Bound of each image, stop variable marginalised, nats."""
    torch.manual_seed(0)
    guide = RefinedGuide(dood.model, dood.guide, refine) if refine else dood.guide
    return bound_of(dood.model, guide, images, PARTICLES).log_p_summed


@contextlib.contextmanager
def taken_further(dood: Recognizer, strokes: int) -> Iterator[None]:
    """Let the model draw up to ``strokes`` strokes inside the block."""
    model: Any = dood.model
    model.config = dataclasses.replace(dood.config.model, max_strokes=strokes)
    try:
        yield
    finally:
        model.config = dood.config.model


def gain_of_scale(error: Tensor, scale: float, pixels: int) -> float:
    """Gain in nats per image of the likelihood scale fitted to ``error`` over ``scale``.

    Args:
        error: mean absolute error per pixel, by image.
        scale: the model's likelihood scale.
        pixels: number of pixels per image.
    """
    own = max(MIN_LIKELIHOOD_SCALE, float(error.mean()))
    return pixels * (float(error.mean()) * (1 / scale - 1 / own) + math.log(scale / own))


def mean_pen(parsed: Parse) -> Tensor:
    """Mean log width over each image's drawn strokes."""
    drawn = parsed.alive
    width = parsed.values["pen"][..., 0]
    return (drawn * width).sum(0) / drawn.sum(0).clamp(min=1)


def anatomy(dood: Recognizer, images: ImageBatch) -> dict[str, float]:
    """Columns of the module's docstring, with errors and strokes per drawing."""
    most = dood.config.model.max_strokes
    plain, parsed = log_p(dood, images), dood.infer(images)
    error = (parsed.canvas[-1] - images.pixels).abs().mean((-1, -2))
    counts = parsed.alive.sum(0)
    scale = float(dood.model.likelihood_scale().detach())
    searched = log_p(dood, images, REFINEMENT)
    with taken_further(dood, 2 * most):
        further = log_p(dood, images)
    drawn = torch.nonzero(counts).flatten()  # an image without strokes has no pen
    order = drawn[mean_pen(parsed)[drawn].argsort()]
    third = max(1, len(order) // 3)
    return {
        "images": len(images),
        "log_p": float(plain.mean()),
        "mean_absolute_error": float(error.mean()),
        "likelihood_scale": scale,
        "mean_strokes": float(counts.mean()),
        "share_with_all_strokes": float((counts == most).float().mean()),
        "scale": gain_of_scale(error, scale, images.pixels[0].numel()),
        "strokes": float((further - plain).mean()),
        "searched": float((searched - plain).mean()),
        "thin": float(plain[order[:third]].mean()),
        "thick": float(plain[order[-third:]].mean()),
    }


def main() -> None:
    """Read the arguments, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="+")
    parser.add_argument(
        "--images", type=int, default=60, help="Number of images, at least 3.  [default: 60]"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.images < 3:
        parser.error("--images must be at least 3")
    read_object(arguments.out)
    for name in arguments.runs:
        opened = open_run(name)
        dood = dood_pyro.load(name)
        if not dood.model.draws_curves or dood.config.model.likelihood != "laplace":
            parser.error(f"{name} does not draw curves under a Laplace likelihood")
        found = {}
        for target in DATASETS:
            found[target] = anatomy(dood, dood.load_images(target, arguments.images))
            shown = ", ".join(f"{key} {value:.4g}" for key, value in found[target].items())
            print(f"{opened.path.name} on {target}: {shown}", flush=True)
        about = {
            "seconds": opened.progress()[1],
            "revision": opened.read_facts().versions.get("revision", ""),
        }
        entry = {**about, "particles": PARTICLES, "refinement_steps": REFINEMENT, "targets": found}
        update_object(arguments.out, {opened.path.name: entry})


if __name__ == "__main__":
    with exit_on_user_error():
        main()
