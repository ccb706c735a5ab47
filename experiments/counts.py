"""How many strokes are counted of how many there are: AIR's known trouble, and DooD beside it.
Run by hand; takes up where it was stopped.

    python experiments/counts.py                # dood, air and dair, three seeds, 20 minutes each

Models are trained on ``random-strokes``, whose true number of strokes, one to four, is kept, and count
those of its 1,000 test pictures by their guides' modes. Written to experiments/results/counts.json, by
model and seed: ``confusion``, pictures by true number (rows, from 1) and counted one (columns, from 0),
and ``right``, the share counted right. A model that says "two" of all pictures is right in about a
quarter.
"""

from __future__ import annotations

import argparse
import threading
from functools import partial
from pathlib import Path

import numpy as np
from trainings import options, side_by_side, train

import dood_pyro
from dood_pyro import data
from dood_pyro.errors import exit_on_user_error
from dood_pyro.files import update_object
from dood_pyro.recognition import BATCH
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks.transfer.engines import LocalEngine

RESULTS = Path(__file__).parent / "results" / "counts.json"
SOURCE = "random-strokes"
LOCK = threading.Lock()
"""Of the file of results."""


def confusion(run: Run) -> np.ndarray:
    """Test pictures by true number of strokes (from 1) and counted one (from 0)."""
    dood = dood_pyro.load(run.path)
    drawings = data.load(SOURCE, "test", dood.size)
    order = np.random.default_rng(0).permutation(len(drawings.images))
    true = drawings.labels[order]
    counted = np.concatenate(
        [dood.infer(part).alive.sum(0).int().numpy() for part in drawings.batch().split(BATCH)]
    )
    found = np.zeros((true.max(), dood.config.model.max_strokes + 1), dtype=int)
    np.add.at(found, (true - 1, counted), 1)
    return found


def count(engine: LocalEngine, model: str, seed: str, given: argparse.Namespace) -> str:
    """Train a model, count, and say how often it was right."""
    run = Run(given.runs / f"{model}-{seed}")
    words = ("--model", model, "--source", SOURCE, "--seed", seed)
    train(engine, run, words, TrainingBudget(seconds=60 * given.budget))
    with LOCK:  # one at a time: a parse takes all cores
        found = confusion(run)
        right = float(np.trace(found[:, 1:]) / found.sum())
        entry = {"run": run.provenance("best"), "confusion": found.tolist(), "right": right}
        update_object(RESULTS, {f"{model}, seed {seed}": entry})
    return f"{model}, seed {seed}: {100 * right:.1f} % counted right"


def main() -> None:
    """Train and count all that is asked for."""
    parser = options(__doc__, "runs/counts", 20.0)
    parser.set_defaults(seeds="0,1,2")
    parser.add_argument("--models", default="dood,dair,air", help="separated by commas")
    given = parser.parse_args()
    engine = LocalEngine(given.jobs)
    models = [(model, seed) for seed in given.seeds.split(",") for model in given.models.split(",")]
    side_by_side(engine, [partial(count, engine, *each, given) for each in models])


if __name__ == "__main__":
    with exit_on_user_error():
        main()
