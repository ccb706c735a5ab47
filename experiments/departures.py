"""What each departure from the paper is worth: trainings of equal time with one of them taken back.
Run by hand; takes up where it was stopped.

    python experiments/departures.py                    # every row, as many at once as there are cores
    python experiments/departures.py --rows paper,taper --sources mnist --budget 30

Each row is trained on each source by one core for the same time, and measured on all five datasets'
test images: the importance-weighted log p(x), nats per image. What compares with the published figures
is the row without native resolution, for the paper knows 50×50 pixels alone. Written to
experiments/results/departures.json, by row, source and seed.
"""

from __future__ import annotations

import argparse
import threading
from functools import partial
from pathlib import Path
from typing import NamedTuple

from trainings import measure, options, side_by_side, train

from dood_pyro.errors import exit_on_user_error
from dood_pyro.files import read_object, update_object
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks.transfer.engines import LocalEngine
from dood_pyro.tasks.transfer.published import DATASETS

RESULTS = Path(__file__).parent / "results" / "departures.json"
PARTICLES = 200
MEASURED = ("log_p", "log_p_se", "mean_strokes", "mean_absolute_error", "images")
LOCK = threading.Lock()
"""Of the file of results."""


class Row(NamedTuple):
    """A row of the table."""

    title: str
    options: tuple[str, ...]
    """Of ``dood-pyro train``."""


TAKEN_BACK = {
    "native resolution": ("--no-native-resolution",),
    "random strokes": ("--synthetic-ratio", "0"),
    "corrections": ("--num-refiners", "0"),
    "chained control points": ("--control-points", "independent"),
    "latent pen": ("--pen", "shared"),
    "taper": ("--no-taper",),
    "stop marginalised": ("--estimator", "nvil"),
    "beta on all KL": ("--beta-on", "stop"),
    "scale from what is drawn": ("--scale-learns", "explored"),
}
"""Options that take a departure back."""
# nvil has no random strokes beside the images, and nothing explored for the scale to learn from.
NOT_IN_PAPER = ("random strokes", "scale from what is drawn")

ROWS = {
    "default": Row("the default", ()),
    **{name: Row(f"less {name}", options) for name, options in TAKEN_BACK.items()},
    "paper": Row(
        "the paper's program alone",
        tuple(
            word
            for name, options in TAKEN_BACK.items()
            if name not in NOT_IN_PAPER
            for word in options
        ),
    ),
}


def fill_in(
    engine: LocalEngine, name: str, source: str, seed: str, given: argparse.Namespace
) -> str:
    """Train a row on a source, measure what is lacking, and say what came of it."""
    run = Run(given.runs / f"{name.replace(' ', '-')}-{source}-{seed}")
    words = ("--model", given.model, "--source", source, "--seed", seed, *ROWS[name].options)
    train(engine, run, words, TrainingBudget(seconds=60 * given.budget))
    key = f"{name}, {source}, seed {seed}"
    for target in DATASETS:
        with LOCK:
            known = read_object(RESULTS).get(key, {}).get("targets", {})
        if target in known:
            continue
        few = ("--limit", str(given.limit), "--particles", str(PARTICLES))
        row = measure(engine, run, "evaluate", "--target", target, "--json", *few)
        known[target] = {column: row[column] for column in MEASURED}
        with LOCK:
            update_object(RESULTS, {key: {"run": run.provenance("best"), "targets": known}})
    cells = [f"{target} {cell['log_p']:.0f}" for target, cell in known.items()]
    return f"{key}: {', '.join(cells)}"


def main() -> None:
    """Fill in all rows asked for."""
    parser = options(__doc__, "runs/departures", 30.0)
    parser.add_argument("--rows", default=",".join(ROWS), help="separated by commas")
    parser.add_argument("--sources", default="mnist,omniglot", help="separated by commas")
    parser.add_argument("--limit", type=int, default=300, help="test images a cell")
    parser.add_argument("--model", default="dood")
    given = parser.parse_args()
    names = given.rows.split(",")
    if unknown := sorted(set(names) - set(ROWS)):
        parser.error(f"there is no row {unknown[0]}; the rows are {', '.join(ROWS)}")
    engine = LocalEngine(given.jobs)
    side_by_side(
        engine,
        [
            partial(fill_in, engine, name, source, seed, given)
            for seed in given.seeds.split(",")
            for name in names
            for source in given.sources.split(",")
        ],
    )


if __name__ == "__main__":
    with exit_on_user_error():
        main()
