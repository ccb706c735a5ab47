"""The transfer table over seeds of training. Run by hand; takes up where it was stopped.

    python experiments/seeds.py --sources mnist --seeds 1,2
    python experiments/seeds.py --sources mnist --seeds 0      # the kept runs, on the same images

A training takes as many steps as the kept run of seed 0 took in its 30 minutes on one core, so that it
does not matter how busy the machine is. Each is measured on the first 300 test images of the five
datasets: rows of experiments/results/seeds.csv, with the columns of transfer.csv. Weights are not kept;
a training whose rows are all there is not trained again. In the end the cells of two seeds or more are
printed: mean and standard deviation over seeds, and Welch's test, of each cell by itself (of fifty such
verdicts two or three may be chance).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from results_files import line_of, number
from trainings import measure, options, side_by_side, train

from dood_pyro.errors import UserError, exit_on_user_error
from dood_pyro.plots import source_title
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks.rows import read_rows, record
from dood_pyro.tasks.transfer.engines import LocalEngine
from dood_pyro.tasks.transfer.plan import RIVALS, Plan, TableRun, known_data, likelihood, row_fits
from dood_pyro.tasks.transfer.published import DATASETS, published

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "seeds.csv"
KEPT = HERE / "runs"
LIMIT = 300
"""Test images a cell."""
LOCK = threading.Lock()
"""Of the table."""


def rows_of(training: TableRun) -> dict[str, dict[str, str]]:
    """The table's rows of a training under the present settings and data, by target."""
    # One plan for all trainings: what is known of the data is kept for the last plan alone.
    plan = Plan((), DATASETS, 0.0, KEPT, RESULTS, limit=LIMIT)
    known = known_data(plan)
    with LOCK:
        rows = read_rows(RESULTS)
    return {
        row["target"]: row
        for row in rows
        if (row["model"], row["source"], row["seed"])
        == (training.model, training.source, str(training.seed))
        and row_fits(row, training, plan, known)
    }


def fill_in(engine: LocalEngine, training: TableRun, runs: Path) -> str:
    """Train what is lacking, measure it, and say what came of it."""
    there = rows_of(training)
    targets = [target for target in DATASETS if target not in there]
    if targets and training.seed:
        run = Run(runs / str(training))
        first = Run(KEPT / str(training._replace(seed=0)))
        steps, _ = first.progress()
        if not steps:
            raise UserError(f"{first.path} is not kept, whose number of steps is to be taken")
        words = (
            *("--model", training.model, "--source", training.source),
            *("--seed", str(training.seed), "--likelihood", likelihood(training)),
        )
        train(engine, run, words, TrainingBudget(steps=steps))
    else:
        run = Run(KEPT / str(training))
        if targets and not (run.path / "best.safetensors").exists():
            raise UserError(f"{run.path} has no weights: make restore-runs")
    for target in targets:
        few = ("--limit", str(LIMIT), "--particles", "200")
        row = measure(engine, run, "evaluate", "--target", target, "--json", *few)
        with LOCK:
            record(RESULTS, row)
    cells = [f"{target} {float(row['log_p']):.0f}" for target, row in rows_of(training).items()]
    return f"{training}: {', '.join(cells)}"


class Seeds(NamedTuple):
    """A cell over seeds of training."""

    values: list[float]
    """log p(x) of each, nats per image."""
    of_images: float
    """Standard error over the images, which all seeds share."""


def cells() -> dict[tuple[str, str, str], Seeds]:
    """Cells of two seeds or more, by model, source and target."""
    trainings = {
        TableRun(row["model"], row["source"], int(row["seed"])) for row in read_rows(RESULTS)
    }
    found: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for training in sorted(trainings):
        for target, row in rows_of(training).items():
            found.setdefault((training.model, training.source, target), []).append(row)
    return {
        key: Seeds(
            [float(row["log_p"]) for row in rows], mean(float(row["log_p_se"]) for row in rows)
        )
        for key, rows in found.items()
        if len(rows) > 1
    }


def table() -> list[str]:
    """The cells in Markdown: DooD, Difference-AIR on the same images, and the published DooD."""
    found = cells()
    lines = [
        "| trained on, tested on | seeds | DooD | Difference-AIR | DooD is | paper's DooD | DooD is |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for source in DATASETS:
        for target in DATASETS:
            dood, rival = (found.get((model, source, target)) for model in RIVALS)
            paper = published("dood", source, target)
            if dood is None or rival is None or paper is None:
                continue
            own, other = (Part.of(each.values) for each in (dood, rival))
            theirs = Part(paper.mean, (paper.std or 0.0) ** 2 / paper.seeds, paper.seeds - 1)
            cols = [
                f"{source_title(source)}, {source_title(target)}",
                f"{len(dood.values)}, {len(rival.values)}",
                *(f"{number(mean(s.values))} ± {number(stdev(s.values))}" for s in (dood, rival)),
                welch(own, other),
                f"{number(paper.mean)} ± {number(paper.std or 0)}",
                # The paper's images are others: those of a cell are a sample, too.
                welch(own, theirs, Part(0.0, dood.of_images**2, LIMIT - 1)),
            ]
            lines.append(line_of(cols))
    return lines


class Part(NamedTuple):
    """A mean, its variance, and the degrees of freedom of that."""

    mean: float
    variance: float
    freedom: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Part:
        """The mean of a sample."""
        return cls(mean(values), stdev(values) ** 2 / len(values), len(values) - 1)


def welch(own: Part, other: Part, *more: Part) -> str:
    """Verdict on one mean against another by Welch's test at 95 %, a cell at a time.

    Args:
        more: further parts of the error.
    """
    from scipy.stats import t

    parts = [part for part in (own, other, *more) if part.variance]
    variance = sum(part.variance for part in parts)
    freedom = variance**2 / sum(part.variance**2 / part.freedom for part in parts)
    difference = own.mean - other.mean
    if 2 * t.sf(abs(difference) / variance**0.5, freedom) > 0.05:
        return "a tie"
    return "above" if difference > 0 else "below"


def main() -> None:
    """Fill in all that is asked for."""
    parser = options(__doc__, "runs/seeds")
    parser.set_defaults(seeds="0,1,2")
    parser.add_argument("--models", default=",".join(RIVALS), help="separated by commas")
    parser.add_argument("--sources", default=",".join(DATASETS), help="separated by commas")
    given = parser.parse_args()
    engine = LocalEngine(given.jobs)
    trainings = [
        TableRun(model, source, int(seed))
        for source in given.sources.split(",")
        for seed in given.seeds.split(",")
        for model in given.models.split(",")
    ]
    side_by_side(engine, [partial(fill_in, engine, each, given.runs) for each in trainings])
    print(*table(), sep="\n")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
