"""Training and measuring of the cells that the transfer table lacks, in several processes at once.
Used by ``dood-pyro transfer-table``.

Trainings and measurements are the commands ``dood-pyro train`` and ``dood-pyro evaluate``, each in a
process of its own. Existing results are kept: runs resume where they stopped, and cells that the table
holds are not measured again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from dood_pyro import data
from dood_pyro.devices import cores
from dood_pyro.errors import UserError
from dood_pyro.tasks.rows import read_rows, record
from dood_pyro.tasks.transfer.plan import Plan, TableRun, known_data, likelihood, row_fits


def fill(plan: Plan, say: Callable[[str], None] = print) -> list[str]:
    """Train and measure what the table lacks; return the problems met, one line each.

    A run is measured before the next one is trained, so that an interrupted table is as full as it can
    be.

    Args:
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
    worker = _Worker(plan, say)
    problems: list[str] = []
    to_train, to_measure = deque(plan.trainings), deque[tuple[TableRun, str]]()
    under_way: dict[Future[str | None], TableRun | None] = {}
    with ThreadPoolExecutor(plan.jobs) as pool:
        try:
            while to_train or to_measure or under_way:
                while len(under_way) < plan.jobs and (to_train or to_measure):
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
            worker.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return problems


class _Worker:
    """Runner of a plan's commands, for use from several threads."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan, self.say = plan, say
        self.known = known_data(plan)
        self.lock = threading.Lock()
        self.processes: set[subprocess.Popen[str]] = set()
        self.in_use = dict.fromkeys(plan.devices, 0)
        self.stopped = False

    def stop(self) -> None:
        """Terminate running processes: a training saves its state, a measurement is lost."""
        self.stopped = True
        with self.lock:
            for process in self.processes:
                process.terminate()

    def command(self, *arguments: str) -> tuple[int, str, str]:
        """Run a ``dood-pyro`` command; return exit status, output and the last line of errors."""
        environment = dict(os.environ)
        with self.lock:
            device = min(self.in_use, key=self.in_use.__getitem__, default=None)
            if device is not None:
                self.in_use[device] += 1
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        else:
            threads = max(1, cores() // self.plan.jobs)
            environment["OMP_NUM_THREADS"] = str(threads)
        if self.plan.data_dir is not None:
            arguments += ("--data-dir", str(self.plan.data_dir))
        process = subprocess.Popen(
            [sys.executable, "-m", "dood_pyro.cli", *arguments, "--device", self.plan.device],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        with self.lock:
            self.processes.add(process)
            if self.stopped:
                process.terminate()
        out, err = process.communicate()
        with self.lock:
            self.processes.discard(process)
            if device is not None:
                self.in_use[device] -= 1
        lines = [line for line in err.splitlines() if line.strip()]
        return process.returncode, out, lines[-1] if lines else f"exit {process.returncode}"

    def train(self, training: TableRun) -> str | None:
        """Train a run up to the plan's budget; return the problem, or None."""
        run = self.plan.run(training)
        anew = "; move it away to have it trained again" if self.plan.train else ""
        budget = ("--budget", f"{self.plan.budget:.3f}s")
        try:
            if run.path.exists():
                if other := self.plan.difference(run, training):
                    return f"{training}: {run.path} was trained {other}{anew}"
                steps, seconds = run.progress()
                if seconds >= self.plan.budget or not self.plan.train:
                    return None
                if not (run.path / "state.safetensors").exists() and steps:
                    return (
                        f"{training}: {run.path} was trained for {seconds:.0f} s and has no "
                        "state to go on from; lower --budget, or move it away to have it trained again"
                    )
                arguments: tuple[str, ...] = ("train", "--resume", str(run.path), *budget)
            elif not self.plan.train:
                return f"{training}: there is no run {run.path}"
            else:
                arguments = (
                    *("train", "--model", training.model, "--source", training.source),
                    *("--seed", str(training.seed), "--out", str(run.path), *budget),
                    *("--likelihood", likelihood(training)),
                )
        except UserError as problem:
            return f"{training}: {problem}"
        self.say(f"training  {training}")
        status, _, error = self.command(*arguments, "--no-tensorboard")
        return None if status == 0 else f"{training}: {error}"

    def evaluate(self, training: TableRun, target: str) -> str | None:
        """Measure a cell if the table lacks it; return the problem, or None."""
        plan, run = self.plan, self.plan.run(training)
        try:
            if self.measured(training, target):
                return None
        except UserError as problem:
            return f"{training} on {target}: {problem}"
        status, out, error = self.command(
            *("evaluate", str(run.path), "--target", target, "--json"),
            *("--particles", str(plan.particles), "--limit", str(plan.limit)),
        )
        if status != 0:
            return f"{training} on {target}: {error}"
        row = json.loads(out)
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
