"""What holds a run back on each target: the likelihood's scale, the number of strokes, the guide.

    python experiments/what_holds_back.py experiments/runs/dood-mnist-0 experiments/runs/dood-omniglot-0

For each run and target, on the first test images of the shuffle of seed 0 and in nats an image:

    log_p           the bound (stops summed out) of a few samples, what the rest is compared with
    scale           what the best guess would gain if the likelihood's scale were the target's own
    strokes         what twice as many strokes gain, the program simply going on
    searched        what the best of twenty of the guide's drawings and gradient steps on each
                    image's own bound gain: the guide's imprecision
    thin, thick     log_p of the third of the images with the thinnest pens, and of the thickest

Written to experiments/results/what_holds_back.json, run by run; a run's new entries replace its old.
For runs that draw curves under a Laplace likelihood.
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
from dood_pyro.inference.importance import bound_of
from dood_pyro.inference.parsing import Parse
from dood_pyro.inference.search.refined import RefinedGuide
from dood_pyro.models.base import MIN_LIKELIHOOD_SCALE
from dood_pyro.recognition import Recognizer, open_run
from dood_pyro.tasks.transfer.published import DATASETS

RESULTS = Path(__file__).parent / "results" / "what_holds_back.json"
PARTICLES = 10
REFINEMENT = 60


def log_p(dood: Recognizer, images: ImageBatch, refine: int = 0) -> Tensor:
    """The bound of each image, stops summed out."""
    torch.manual_seed(0)
    guide = RefinedGuide(dood.model, dood.guide, refine) if refine else dood.guide
    return bound_of(dood.model, guide, images, PARTICLES).log_p_summed


@contextlib.contextmanager
def taken_further(dood: Recognizer, strokes: int) -> Iterator[None]:
    """Inside, the program goes on to so many strokes."""
    model: Any = dood.model
    model.config = dataclasses.replace(dood.config.model, max_strokes=strokes)
    try:
        yield
    finally:
        model.config = dood.config.model


def gain_of_scale(error: Tensor, scale: float, pixels: int) -> float:
    """Nats an image that the scale that fits ``error``, mean and absolute a pixel, gains on
    ``scale``."""
    own = max(MIN_LIKELIHOOD_SCALE, float(error.mean()))
    return pixels * (float(error.mean()) * (1 / scale - 1 / own) + math.log(scale / own))


def mean_pen(parsed: Parse) -> Tensor:
    """Log width of the strokes drawn, averaged over each image's."""
    drawn = parsed.alive
    width = parsed.values["pen"][..., 0]
    return (drawn * width).sum(0) / drawn.sum(0).clamp(min=1)


def anatomy(dood: Recognizer, images: ImageBatch) -> dict[str, float]:
    """The columns of the module's docstring, with errors and strokes beside them."""
    most = dood.config.model.max_strokes
    plain, parsed = log_p(dood, images), dood.infer(images)
    error = (parsed.canvas[-1] - images.pixels).abs().mean((-1, -2))
    counts = parsed.alive.sum(0)
    scale = float(dood.model.likelihood_scale().detach())
    searched = log_p(dood, images, REFINEMENT)
    with taken_further(dood, 2 * most):
        further = log_p(dood, images)
    drawn = torch.nonzero(counts).flatten()  # a blank has no pen
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
    """Reads the arguments, measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--images", type=int, default=60, help="At least 3.  [default: 60]")
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
