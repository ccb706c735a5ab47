"""Runs trained for an experiment, several at once, each in a process of its own.
`departures.py`, `counts.py` and `seeds.py` use it; what was stopped is taken up by the next call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from dood_pyro.config import RunConfig
from dood_pyro.data import ImageDataset
from dood_pyro.devices import cores
from dood_pyro.errors import UserError
from dood_pyro.files import read_object
from dood_pyro.images import ImageBatch
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks.transfer.engines import Job, LocalEngine, Outcome
from dood_pyro.training.trainer import Trainer

LATE = 10_000
"""Step past the start of training, after which a step of the same kind costs the same."""
TURN = 8
"""Steps measured at a time: random strokes come with every eighth."""
TURNS = 5


def options(what: str | None, runs: str, minutes: float | None = None) -> argparse.ArgumentParser:
    """Options that experiments with trainings have.

    Args:
        what: the experiment's docstring.
        runs: default folder of the runs.
        minutes: default of ``--budget``, which None leaves out.
    """
    parser = argparse.ArgumentParser(description=(what or "").partition("\n")[0])
    parser.add_argument("--seeds", default="0", help="separated by commas")
    if minutes is not None:
        parser.add_argument("--budget", type=float, default=minutes, help="minutes a training")
    parser.add_argument("--jobs", type=int, default=cores(), help="trainings at once")
    parser.add_argument("--runs", type=Path, default=Path(runs), help="folder of the runs")
    return parser


def seconds_a_step(configs: Mapping[str, RunConfig], dataset: ImageDataset) -> dict[str, float]:
    """Seconds of a late training step of each configuration on one core: medians of `TURNS` turns.

    For trainings of equal time on a busy machine; to be called with nothing beside it.
    """
    torch.set_num_threads(1)
    trainers = {
        name: Trainer.from_config(config, torch.device("cpu"), dataset.native_size)
        for name, config in configs.items()
    }
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for trainer in trainers.values():
        trainer.step = LATE
    for turn in range(1 + TURNS):
        for name, trainer in trainers.items():
            batch = dataset.images[: configs[name].train.batch_size].float() / 255
            images = ImageBatch(batch, dataset.native_size)
            began = time.perf_counter()
            for _ in range(TURN):
                trainer.train_step(images)
            if turn:  # the first warms up
                times[name].append((time.perf_counter() - began) / TURN)
    return {name: statistics.median(each) for name, each in times.items()}


def known_costs(results: Path, key: str, names: Sequence[str], command: str) -> dict[str, float]:
    """Seconds of a step that a file of results has under a key, by name.

    Args:
        command: what measures them.

    Raises:
        UserError: it has not those of all ``names``.
    """
    known: dict[str, float] = read_object(results).get(key, {})
    if missing := [name for name in names if name not in known]:
        raise UserError(
            f"{results} does not say what a step of {' and of '.join(missing)} costs; first, with "
            f"nothing beside it: {command}"
        )
    return known


def train(engine: LocalEngine, run: Run, words: Sequence[str], budget: TrainingBudget) -> None:
    """Train a run to its budget, anew or from where it is.

    Args:
        words: options of ``dood-pyro train`` for a new run.

    Raises:
        UserError: the training has failed; it says why.
    """
    ends: tuple[str, ...] = () if budget.steps is None else ("--steps", str(budget.steps))
    ends += () if budget.seconds is None else ("--budget", f"{budget.seconds}s")
    begin = ("train", *words, "--out", str(run.path), *ends, "--no-tensorboard")
    going_on = ("train", "--resume", str(run.path), *ends, "--no-tensorboard")
    if run.path.exists() and budget.used_up(*run.progress()):
        return
    run.path.parent.mkdir(parents=True, exist_ok=True)
    command = going_on if run.path.exists() else begin
    _said(engine.run(Job(command, run.path, trains=True, going_on=going_on)), run)


def measure(engine: LocalEngine, run: Run, *words: str) -> Any:
    """What a ``dood-pyro`` command of the run prints as JSON.

    Raises:
        UserError: it has failed; it says why.
    """
    job = Job((words[0], str(run.path), *words[1:]), run.path, trains=False)
    return json.loads(_said(engine.run(job), run))


def _said(outcome: Outcome, run: Run) -> str:
    if outcome.status:
        raise UserError(f"{run.path}: {outcome.error.removeprefix('dood-pyro: ')}")
    return outcome.out


def side_by_side(engine: LocalEngine, jobs: Sequence[Callable[[], str]]) -> None:
    """Do jobs, as many at once as the engine can, and print what each has to say in the end."""

    def done(job: Callable[[], str]) -> str:
        try:
            return job()
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(engine.slots()) as pool:
        waiting = [pool.submit(done, job) for job in jobs]
        try:
            for future in waiting:
                print(future.result(), flush=True)
        except BaseException:
            engine.stop()
            pool.shutdown(cancel_futures=True)
            raise
