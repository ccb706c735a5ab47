"""How many strokes are counted of how many there are: AIR's known trouble, and DooD beside it.
Run by hand; takes up where it was stopped.

    python experiments/counts.py --costs        # first, with nothing beside: what a step costs
    python experiments/counts.py --ink          # what its parses by ink count, without a run
    python experiments/counts.py                # dood, air and dair, three seeds, 20 minutes each

A training takes as many steps as it would take in that time on one core, by what late steps cost: so it
does not matter how busy the machine is. Models are trained on ``random-strokes``, whose true number of
strokes, one to four, is kept, and count those of its 1,000 test pictures by their guides' modes.
Written to experiments/results/counts.json, by model and seed: ``confusion``, pictures by true number
(rows, from 1) and counted one (columns, from 0), and ``right``, the share counted right. What says the
same number of all pictures is right in about a quarter.
"""

from __future__ import annotations

import argparse
import statistics
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from results_files import line_of, percent
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
TITLES = {"dood": "DooD", "dair": "Difference-AIR", "air": "AIR"}
MODELS = tuple(TITLES)
COSTS = "seconds a step"
"""Key of what steps cost."""
INK = "by ink"
"""Key of what parses by ink count."""
LOCK = threading.Lock()
"""Of the file of results."""


def by_guide(run: Run) -> np.ndarray:
    """Test pictures by true number of strokes (from 1) and number of strokes in the guide's mode (from
    0)."""
    dood = dood_pyro.load(run.path)
    drawings = data.load(SOURCE, "test", dood.size)
    order = np.random.default_rng(0).permutation(len(drawings.images))
    counted = [
        dood.infer(part).alive.sum(0).int().numpy() for part in drawings.batch().split(BATCH)
    ]
    most = dood.config.model.max_strokes
    return confusion(drawings.labels[order], np.concatenate(counted), most)


def by_ink(most: int = ModelConfig.max_strokes) -> np.ndarray:
    """Test pictures by true number of strokes (from 1) and number of strokes that a parse by ink finds
    (from 0), in the last column this number or more."""
    drawings = data.load(SOURCE, "test", ModelConfig.canvas_size)
    counted = [len(dood_pyro.parse(255 - picture)) for picture in np.asarray(drawings.images)]
    return confusion(drawings.labels, np.minimum(counted, most), most)


def confusion(true: np.ndarray, counted: np.ndarray, most: int) -> np.ndarray:
    """Pictures by true number (from 1) and counted one (from 0 to ``most``)."""
    found = np.zeros((true.max(), most + 1), dtype=int)
    np.add.at(found, (true - 1, counted), 1)
    return found


def share_right(found: np.ndarray) -> float:
    """Share of pictures of a `confusion` whose number is counted right."""
    return float(np.trace(found[:, 1:]) / found.sum())


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
        found = by_guide(run)
        right = share_right(found)
        entry = {"run": run.provenance("best"), "confusion": found.tolist(), "right": right}
        update_object(RESULTS, {f"{model}, seed {seed}": entry})
    return f"{model}, seed {seed}: {100 * right:.1f} % counted right"


def table() -> list[str]:
    """How often each model is right, over seeds, and how many strokes it counts of how many, as lines
    of Markdown."""
    found = read_object(RESULTS)
    true = range(1, len(found[INK]["confusion"]) + 1)
    lines = [line_of(["", "seeds", "counted right", *(f"strokes counted of {n}" for n in true)])]
    lines.append("|" + " --- |" * 3 + " ---: |" * len(true))
    entries = {TITLES[model]: of_model(found, model) for model in MODELS}
    entries["a parse by ink"] = [found[INK]]
    for title, every in entries.items():
        right = [each["right"] for each in every]
        share = percent(statistics.mean(right))
        if len(right) > 1:
            share += f" ± {100 * statistics.stdev(right):.1f}"
        of_true = np.mean([means(each) for each in every], axis=0)
        seeds = str(len(right)) if title in TITLES.values() else ""
        lines.append(line_of([title, seeds, share, *(f"{mean:.1f}" for mean in of_true)]))
    most, of_most = most_frequent(found)
    always = [f"{most}.0"] * len(true)
    return [*lines, line_of([f"{most} of all pictures", "", percent(of_most), *always])]


def of_model(found: Mapping[str, Any], model: str) -> list[dict[str, Any]]:
    """A model's results, seed by seed."""
    return [found[key] for key in sorted(found) if key.startswith(f"{model}, seed ")]


def means(entry: Mapping[str, Any]) -> np.ndarray:
    """Mean number of strokes counted, by true number (from 1)."""
    numbers = np.asarray(entry["confusion"])
    return numbers @ np.arange(numbers.shape[1]) / numbers.sum(1)


def most_frequent(found: Mapping[str, Any]) -> tuple[int, float]:
    """The true number that most pictures have, and their share: what always says it is right so
    often."""
    of_true = np.asarray(found[INK]["confusion"]).sum(1)
    return int(of_true.argmax()) + 1, float(of_true.max() / of_true.sum())


def main() -> None:
    """Train and count all that is asked for."""
    parser = options(__doc__, "runs/counts", 20.0)
    parser.set_defaults(seeds="0,1,2")
    parser.add_argument("--models", default=",".join(MODELS), help="separated by commas")
    parser.add_argument("--costs", action="store_true", help="measure what a step of each costs")
    parser.add_argument("--ink", action="store_true", help="count what parses by ink find")
    given = parser.parse_args()
    if given.ink:
        found = by_ink()
        update_object(RESULTS, {INK: {"confusion": found.tolist(), "right": share_right(found)}})
        return
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
