"""The transfer table over seeds of training. Run by hand; takes up where it was stopped.

    python experiments/seeds.py --sources mnist --seeds 1,2
    python experiments/seeds.py --sources mnist --seeds 0      # the kept runs, on the same images

A training takes as many steps as the kept run of seed 0 took in its 30 minutes on one core, so that it
does not matter how busy the machine is. Each is measured on the first 300 test images of the five
datasets: rows of experiments/results/seeds.csv, with the columns of transfer.csv. Weights are not kept;
a training whose rows are all there is not trained again. In the end the cells of two seeds or more are
printed: mean and standard deviation over seeds, and Welch's test.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev

from results_page import number
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


def lacking(training: TableRun) -> list[str]:
    """Targets that the table has no row of."""
    plan = Plan((training,), DATASETS, 0.0, KEPT, RESULTS, limit=LIMIT)
    known = known_data(plan)
    with LOCK:
        rows = [row for row in read_rows(RESULTS) if row_fits(row, training, plan, known)]
    found = {
        row["target"]
        for row in rows
        if (row["model"], row["source"], row["seed"])
        == (training.model, training.source, str(training.seed))
    }
    return [target for target in DATASETS if target not in found]


def fill_in(engine: LocalEngine, training: TableRun, runs: Path) -> str:
    """Train what is lacking, measure it, and say what came of it."""
    targets = lacking(training)
    if targets and training.seed:
        run = Run(runs / str(training))
        steps, _ = Run(KEPT / str(training._replace(seed=0))).progress()
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
    with LOCK:
        rows = read_rows(RESULTS)
    names = (training.model, training.source, str(training.seed))
    cells = [
        f"{row['target']} {float(row['log_p']):.0f}"
        for row in rows
        if (row["model"], row["source"], row["seed"]) == names
    ]
    return f"{training}: {', '.join(cells)}"


def table() -> list[str]:
    """Cells of two seeds or more, in Markdown: DooD, Difference-AIR, and the published DooD."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in sorted(read_rows(RESULTS), key=lambda row: row["seed"]):
        key = row["model"], row["source"], row["target"]
        found.setdefault(key, []).append(float(row["log_p"]))
    lines = [
        "| trained on, tested on | seeds | DooD | Difference-AIR | DooD is | paper's DooD | DooD is |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for source in DATASETS:
        for target in DATASETS:
            dood, rival = (found.get((model, source, target), []) for model in RIVALS)
            if min(len(dood), len(rival)) < 2:
                continue
            paper = published("dood", source, target)
            assert paper is not None
            text = [f"{number(mean(each))} ± {number(stdev(each))}" for each in (dood, rival)]
            cols = [
                f"{source_title(source)}, {source_title(target)}",
                str(len(dood)) if len(dood) == len(rival) else f"{len(dood)}, {len(rival)}",
                text[0],
                text[1],
                welch(dood, (mean(rival), stdev(rival), len(rival))),
                f"{number(paper.mean)} ± {number(paper.std or 0)}",
                welch(dood, (paper.mean, paper.std or 0.0, paper.seeds)),
            ]
            lines.append(f"| {' | '.join(cols)} |")
    return lines


def welch(values: Sequence[float], other: tuple[float, float, int]) -> str:
    """Verdict on the mean over trainings against another's mean, standard deviation and number of
    trainings, by Welch's test at 95 %."""
    from scipy.stats import ttest_ind_from_stats

    own = mean(values), stdev(values), len(values)
    if ttest_ind_from_stats(*own, *other, equal_var=False).pvalue > 0.05:
        return "a tie"
    return "above" if own[0] > other[0] else "below"


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
