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
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from dood_pyro.devices import cores
from dood_pyro.errors import exit_on_user_error
from dood_pyro.files import read_object, update_object
from dood_pyro.runs.run import Run
from dood_pyro.tasks.transfer.engines import Job, LocalEngine
from dood_pyro.tasks.transfer.published import DATASETS

RESULTS = Path(__file__).parent / "results" / "departures.json"
PARTICLES = 200


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
    name: str, source: str, seed: int, given: argparse.Namespace, engine: LocalEngine, lock: Any
) -> str:
    """Train a row on a source, measure what is lacking, and say what came of it."""
    run = Run(given.runs / f"{name.replace(' ', '-')}-{source}-{seed}")
    key, what = f"{name}, {source}, seed {seed}", f"{ROWS[name].title}, {source}, seed {seed}"
    budget = ("--budget", f"{given.budget}m", "--no-tensorboard")
    going_on = ("train", "--resume", str(run.path), *budget)
    begin = (
        *("train", "--model", given.model, "--source", source, "--seed", str(seed)),
        *("--out", str(run.path), *ROWS[name].options, *budget),
    )
    if not run.path.exists() or run.progress()[1] < 60 * given.budget:
        job = Job(going_on if run.path.exists() else begin, run.path, True, going_on)
        outcome = engine.run(job)
        if outcome.status:
            return f"{what}: {outcome.error}"
    for target in DATASETS:
        with lock:
            entry = read_object(RESULTS).get(key, {})
        known = entry.get("targets", {})
        if target in known:
            continue
        words = (
            *("evaluate", str(run.path), "--target", target, "--json"),
            *("--limit", str(given.limit), "--particles", str(PARTICLES)),
        )
        outcome = engine.run(Job(words, run.path, trains=False))
        if outcome.status:
            return f"{what} on {target}: {outcome.error}"
        row = json.loads(outcome.out)
        measured = ("log_p", "log_p_se", "mean_strokes", "mean_absolute_error", "images")
        known[target] = {column: row[column] for column in measured}
        with lock:
            update_object(RESULTS, {key: {"run": run.provenance("best"), "targets": known}})
    return f"{what}: done"


def main() -> None:
    """Fill in all rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--sources", default="mnist,omniglot")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--budget", type=float, default=30.0, help="minutes a training")
    parser.add_argument("--limit", type=int, default=300, help="test images a cell")
    parser.add_argument("--model", default="dood")
    parser.add_argument("--jobs", type=int, default=cores())
    parser.add_argument("--runs", type=Path, default=Path("runs/departures"))
    given = parser.parse_args()
    names = given.rows.split(",")
    if unknown := sorted(set(names) - set(ROWS)):
        parser.error(f"there is no row {unknown[0]}; the rows are {', '.join(ROWS)}")
    given.runs.mkdir(parents=True, exist_ok=True)
    engine, lock = LocalEngine(given.jobs), threading.Lock()
    with ThreadPoolExecutor(given.jobs) as pool:
        waiting = [
            pool.submit(fill_in, name, source, int(seed), given, engine, lock)
            for seed in given.seeds.split(",")
            for name in names
            for source in given.sources.split(",")
        ]
        try:
            for future in waiting:
                print(future.result(), flush=True)
        except BaseException:
            engine.stop()
            pool.shutdown(cancel_futures=True)
            raise


if __name__ == "__main__":
    with exit_on_user_error():
        main()
