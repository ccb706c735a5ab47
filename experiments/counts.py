"""How many strokes are counted of how many there are: AIR's known trouble, and DooD beside it.
Run by hand; takes up where it was stopped.

    python experiments/counts.py --costs        # first, with nothing beside: what a step costs
    python experiments/counts.py                # dood, air and dair, three seeds, 20 minutes each

A training takes as many steps as it would take in that time on one core, by what late steps cost: so it
does not matter how busy the machine is. Models are trained on ``random-strokes``, whose true number of
strokes, one to four, is kept, and count those of its 1,000 test pictures by their guides' modes.
Written to experiments/results/counts.json, by model and seed: ``confusion``, pictures by true number
(rows, from 1) and counted one (columns, from 0), and ``right``, the share counted right. A model that
says "two" of all pictures is right in about a quarter.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from trainings import known_costs, options, seconds_a_step, side_by_side, train

import dood_pyro
from dood_pyro import data
from dood_pyro.config import ModelConfig
from dood_pyro.errors import exit_on_user_error
from dood_pyro.files import read_object, update_object
from dood_pyro.recognition import BATCH
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks.transfer.engines import LocalEngine

RESULTS = Path(__file__).parent / "results" / "counts.json"
SOURCE = "random-strokes"
MODELS = ("dood", "dair", "air")
COSTS = "seconds a step"
"""Key of what steps cost."""
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


def costs(models: Sequence[str]) -> dict[str, float]:
    """Seconds of a training step of each model on one core (`seconds_a_step`)."""
    configs = {model: dood_pyro.configure(model, SOURCE) for model in models}
    return seconds_a_step(configs, data.load(SOURCE, "train", ModelConfig.canvas_size))


def steps_of(model: str, minutes: float) -> int:
    """Steps that a model takes in a time on one core.

    Raises:
        UserError: it is not known what they cost.
    """
    cost = known_costs(RESULTS, COSTS, (model,), "python experiments/counts.py --costs")
    return round(60 * minutes / cost[model])


def count(engine: LocalEngine, model: str, seed: str, given: argparse.Namespace) -> str:
    """Train a model, count, and say how often it was right."""
    run = Run(given.runs / f"{model}-{seed}")
    words = ("--model", model, "--source", SOURCE, "--seed", seed)
    train(engine, run, words, TrainingBudget(steps=steps_of(model, given.budget)))
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
    parser.add_argument("--models", default=",".join(MODELS), help="separated by commas")
    parser.add_argument("--costs", action="store_true", help="measure what a step of each costs")
    given = parser.parse_args()
    if given.costs:
        known = read_object(RESULTS).get(COSTS, {})
        update_object(RESULTS, {COSTS: known | costs(given.models.split(","))})
        return
    engine = LocalEngine(given.jobs)
    models = [(model, seed) for seed in given.seeds.split(",") for model in given.models.split(",")]
    side_by_side(engine, [partial(count, engine, *each, given) for each in models])


if __name__ == "__main__":
    with exit_on_user_error():
        main()
