"""Training and measuring of the cells that the transfer table lacks, several at once.
Used by ``dood-pyro transfer-table``.

Trainings and measurements are the commands ``dood-pyro train`` and ``dood-pyro evaluate``, each in a
process of its own, on this machine or on others (`dood_pyro.tasks.transfer.engines`). Existing results
are kept: runs resume where they stopped, and cells that the table holds are not measured again.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from dood_pyro import data
from dood_pyro.errors import UserError
from dood_pyro.research import absolute_source
from dood_pyro.run_folders.run import STATE
from dood_pyro.tasks.rows import read_rows, record
from dood_pyro.tasks.transfer.engines import Engine, Job
from dood_pyro.tasks.transfer.plan import (
    Plan,
    TableRun,
    expected,
    known_data,
    likelihood,
    row_fits,
)

AT_ONCE = 512
"""Most jobs that are waited for at once, however large a cluster is."""


def fill(plan: Plan, engine: Engine, say: Callable[[str], None] = print) -> list[str]:
    """Train and measure what the table lacks; return the problems met, one line each.

    A run is measured before the next one is trained, so that an interrupted table is as full as it can
    be.

    Args:
        engine: where trainings and measurements run.
        say: called with a line when a training begins and when a cell has been measured.

    Raises:
        UserError: the table is malformed, or a source cannot be had; raised before any training.
    """
    read_rows(plan.table)
    for source in {training.source for training in plan.trainings} | set(plan.targets):
        data.locate(source, plan.data_dir)
    if plan.runs.exists() and not plan.runs.is_dir():
        raise UserError(f"{plan.runs} is a file; name a folder for the runs")
    if plan.train:
        plan.runs.mkdir(parents=True, exist_ok=True)
    worker = _Worker(plan, engine, say)
    problems: list[str] = []
    to_train, to_measure = deque(plan.trainings), deque[tuple[TableRun, str]]()
    under_way: dict[Future[str | None], TableRun | None] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            while to_train or to_measure or under_way:
                slots = min(AT_ONCE, engine.slots())
                while len(under_way) < slots and (to_train or to_measure):
                    if to_measure:
                        under_way[pool.submit(worker.evaluate, *to_measure.popleft())] = None
                    else:
                        training = to_train.popleft()
                        under_way[pool.submit(worker.train, training)] = training
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    trained, problem = under_way.pop(future), future.result()
                    if problem:
                        problems.append(problem)
                    elif trained is not None:
                        to_measure += [(trained, target) for target in plan.targets]
        except BaseException:
            engine.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return problems


def _trusting(names: Iterable[str]) -> tuple[str, ...]:
    """Words of a command that is to run code that was named for the table."""
    return tuple(word for name in names for word in ("--trust", name))


class _Worker:
    """Runner of a plan's commands, for use from several threads."""

    def __init__(self, plan: Plan, engine: Engine, say: Callable[[str], None]) -> None:
        self.plan, self.engine, self.tell = plan, engine, say
        self.known = known_data(plan)
        self.lock = threading.Lock()

    def say(self, line: str) -> None:
        """Tell a line, one thread at a time: print writes a line's end apart from its text."""
        with self.lock:
            self.tell(line)

    def words(self, *command: str) -> tuple[str, ...]:
        """Words of a ``dood-pyro`` command."""
        if self.plan.data_dir is not None:
            command += ("--data-dir", str(self.plan.data_dir.resolve()))
        return (*command, "--device", self.plan.device)

    def train(self, training: TableRun) -> str | None:
        """Train a run up to the plan's budget; return the problem, or None."""
        run = self.plan.run(training)
        anew = "; move it away to have it trained again" if self.plan.train else ""
        settings = ("--budget", f"{self.plan.budget:.3f}s", "--no-tensorboard")
        try:
            trust = _trusting(expected(training).own_code(training=True))
            going_on = self.words("train", "--resume", str(run.path), *settings, *trust)
            if run.path.exists():
                if other := self.plan.difference(run, training):
                    return f"{training}: {run.path} was trained {other}{anew}"
                steps, seconds = run.progress()
                if seconds >= self.plan.budget or not self.plan.train:
                    return None
                if not (run.path / STATE).exists() and steps:
                    return (
                        f"{training}: {run.path} was trained for {seconds:.0f} s and has no "
                        "state to go on from; lower --budget, or move it away to have it trained again"
                    )
                job = Job(going_on, run.path, trains=True)
            elif not self.plan.train:
                return f"{training}: there is no run {run.path}"
            else:
                begin = self.words(
                    *("train", "--model", training.model),
                    *("--source", absolute_source(training.source)),
                    *("--seed", str(training.seed), "--out", str(run.path), *settings),
                    *("--likelihood", likelihood(training)),
                )
                job = Job(begin, run.path, trains=True, going_on=going_on)
        except UserError as problem:
            return f"{training}: {problem}"
        self.say(f"training  {training}")
        outcome = self.engine.run(job)
        return None if outcome.status == 0 else f"{training}: {outcome.error}"

    def evaluate(self, training: TableRun, target: str) -> str | None:
        """Measure a cell if the table lacks it; return the problem, or None."""
        plan, run = self.plan, self.plan.run(training)
        try:
            if self.measured(training, target):
                return None
        except UserError as problem:
            return f"{training} on {target}: {problem}"
        words = self.words(
            *("evaluate", str(run.path), "--target", absolute_source(target), "--json"),
            *("--particles", str(plan.particles), "--limit", str(plan.limit)),
            *_trusting(expected(training).own_code()),
        )
        outcome = self.engine.run(Job(words, run.path, trains=False))
        if outcome.status != 0:
            return f"{training} on {target}: {outcome.error}"
        row = json.loads(outcome.out)
        with self.lock:
            record(plan.table, row)
        self.say(f"measured  {training} on {target}: {row['log_p']:.0f} nats")
        return None

    def measured(self, training: TableRun, target: str) -> bool:
        """Whether the table holds the cell, measured at this run's step or a later one."""
        plan = self.plan
        step = plan.run(training).step_of()
        name = data.name_of(target)
        with self.lock:
            rows = read_rows(plan.table)
        return any(
            (row["model"], row["source"], row["target"], row["seed"])
            == (training.model, data.name_of(training.source), name, str(training.seed))
            and row_fits(row, training, plan, self.known)
            and int(row["steps"]) >= step
            for row in rows
        )
