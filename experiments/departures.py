"""What each departure from the paper is worth: trainings of equal time with one of them taken back.
Run by hand; takes up where it was stopped.

    python experiments/departures.py --costs            # first, with nothing beside: what a step costs
    python experiments/departures.py                    # every row, as many at once as there are cores
    python experiments/departures.py --rows paper,taper --sources mnist

The default's row of seed 0 is the kept run, which had 30 minutes of one core. Each other row takes as
many steps as it would take in that time, by what a step of it costs beside one of the default: so it
does not matter how busy the machine is. All are measured on all five datasets' test images: the
importance-weighted log p(x), nats per image. What compares with the published figures is the row
without native resolution, for the paper knows 50×50 pixels alone. Written to
experiments/results/departures.json, by row, source and seed.
"""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from click.core import ParameterSource
from results_files import line_of, number
from trainings import known_costs, measure, options, seconds_a_step, side_by_side, train

from dood_pyro import data
from dood_pyro.config import ModelConfig
from dood_pyro.errors import UserError, exit_on_user_error
from dood_pyro.files import read_object, update_object
from dood_pyro.plots import source_title
from dood_pyro.registry import TASKS, load_target
from dood_pyro.research import configure
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks.transfer.engines import LocalEngine
from dood_pyro.tasks.transfer.published import DATASETS

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "departures.json"
KEPT = HERE / "runs"
MODEL = "dood"
CANVAS = ModelConfig.canvas_size
PARTICLES = 200
COSTS = "seconds a step, {source}"
"""Key of what steps cost."""
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


def settings(row: Row, source: str) -> dict[str, Any]:
    """What a row's options set, by ``part.name``."""
    words = ["--source", source, "--steps", "1", *row.options]
    context = load_target(TASKS["train"].target).make_context("train", words)
    return {
        parameter.replace("__", "."): value
        for parameter, value in context.params.items()
        if "__" in parameter
        and context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE
    }


def costs(source: str) -> dict[str, float]:
    """Seconds of a training step of each row on one core (`seconds_a_step`)."""
    configs = {name: configure(MODEL, source, settings(row, source)) for name, row in ROWS.items()}
    return seconds_a_step(configs, data.load(source, "train", CANVAS))


def steps_of(name: str, source: str) -> int:
    """Steps that a row takes in the time that the kept run of the source had.

    Raises:
        UserError: it is not known what they cost, or there is no such run.
    """
    kept = Run(KEPT / f"{MODEL}-{source}-0")
    steps, _ = kept.progress()
    if not steps:
        raise UserError(f"{kept.path} is not kept, whose number of steps is to be taken")
    measured_by = f"python experiments/departures.py --costs --sources {source}"
    cost = known_costs(RESULTS, COSTS.format(source=source), (name, "default"), measured_by)
    return round(steps * cost["default"] / cost[name])


def fill_in(engine: LocalEngine, name: str, source: str, seed: str, runs: Path, limit: int) -> str:
    """Train a row on a source, measure what is lacking, and say what came of it."""
    if name == "default" and seed == "0":
        run = Run(KEPT / f"{MODEL}-{source}-0")
        if not (run.path / "best.safetensors").exists():
            raise UserError(f"{run.path} has no weights: make restore-runs")
    else:
        run = Run(runs / f"{name.replace(' ', '-')}-{source}-{seed}")
        words = ("--model", MODEL, "--source", source, "--seed", seed, *ROWS[name].options)
        train(engine, run, words, TrainingBudget(steps=steps_of(name, source)))
    key = f"{name}, {source}, seed {seed}"
    for target in DATASETS:
        with LOCK:
            known = read_object(RESULTS).get(key, {}).get("targets", {})
        if target in known:
            continue
        few = ("--limit", str(limit), "--particles", str(PARTICLES))
        row = measure(engine, run, "evaluate", "--target", target, "--json", *few)
        known[target] = {column: row[column] for column in MEASURED}
        with LOCK:
            update_object(RESULTS, {key: {"run": run.provenance("best"), "targets": known}})
    cells = [f"{target} {cell['log_p']:.0f}" for target, cell in known.items()]
    return f"{key}: {', '.join(cells)}"


def table() -> list[str]:
    """The rows in Markdown that have all their targets, by source, and by seed where there are more."""
    found = read_object(RESULTS)
    lines = [line_of(["trained on", "", "steps", *map(source_title, DATASETS)])]
    lines.append("|" + " --- |" * 3 + " ---: |" * len(DATASETS))
    for source in DATASETS:
        for name, row in ROWS.items():
            for key in sorted(
                each for each in found if each.startswith(f"{name}, {source}, seed ")
            ):
                targets = found[key]["targets"]
                if targets.keys() != set(DATASETS):
                    continue
                seed = key.rpartition(", ")[2]
                title = row.title if seed == "seed 0" else f"{row.title}, {seed}"
                cells = [number(targets[target]["log_p"]) for target in DATASETS]
                steps = number(found[key]["run"]["steps"])
                lines.append(line_of([source_title(source), title, steps, *cells]))
    return lines


def main() -> None:
    """Fill in all rows asked for, or measure what their steps cost."""
    parser = options(__doc__, "runs/departures")
    parser.add_argument("--rows", default=",".join(ROWS), help="separated by commas")
    parser.add_argument("--sources", default="mnist,omniglot", help="separated by commas")
    parser.add_argument("--limit", type=int, default=300, help="test images a cell")
    parser.add_argument("--costs", action="store_true", help="measure what a step of each costs")
    given = parser.parse_args()
    names = given.rows.split(",")
    if unknown := sorted(set(names) - set(ROWS)):
        parser.error(f"there is no row {unknown[0]}; the rows are {', '.join(ROWS)}")
    if given.costs:
        for source in given.sources.split(","):
            update_object(RESULTS, {COSTS.format(source=source): costs(source)})
        return
    engine = LocalEngine(given.jobs)
    side_by_side(
        engine,
        [
            partial(fill_in, engine, name, source, seed, given.runs, given.limit)
            for seed in given.seeds.split(",")
            for name in names
            for source in given.sources.split(",")
        ],
    )


if __name__ == "__main__":
    with exit_on_user_error():
        main()
