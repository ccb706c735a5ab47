"""Zero-shot transfer (section 3.1, Fig. 4): every source × target × model × seed, trained and measured.

Trainings and measurements are the commands ``dood-pyro train`` and ``dood-pyro evaluate``, each in a
process of its own. What is there already stays: run folders go on where they stopped, and cells that
the table holds are not measured again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from dood_pyro import data
from dood_pyro.checkpoints import FORMAT, Run, RunConfig, Until
from dood_pyro.config import ModelConfig, TrainConfig
from dood_pyro.devices import cores
from dood_pyro.errors import UserError
from dood_pyro.programs import PROGRAMS
from dood_pyro.tasks.evaluate import read_rows, record
from dood_pyro.tasks.published import SOURCES, Figure, Verdict, published, verdict

RIVALS = ("dood", "dair")
"""Trained on every source."""
ON_MNIST = ("air", "dood-no-renderer", "dood-no-guidance")
"""Trained on MNIST alone, unless asked for by name."""

GAUSSIAN = {("dair", "omniglot"), ("air", "omniglot")}
"""Models and sources that are trained under a Gaussian likelihood, as in the paper. Under the Laplace
one they draw nothing: a part that half covers a thin line is worse than a blank, and no small change
of it is better."""


class Training(NamedTuple):
    """One run of the table."""

    model: str
    source: str
    seed: int

    def __str__(self) -> str:
        return f"{self.model}-{data.name_of(self.source)}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """What the table is to hold, and how it is to be filled."""

    trainings: tuple[Training, ...]
    targets: tuple[str, ...]
    budget: float
    """Seconds a training."""
    runs: Path
    """Folder of the run folders."""
    table: Path
    """The CSV file that rows go into."""
    particles: int = 200
    limit: int = 1000
    """Test images a cell."""
    jobs: int = 1
    """Processes at once."""
    device: str = "auto"
    data_dir: Path | None = None
    devices: tuple[str, ...] = field(default=())
    """GPUs that the processes take turns with, as in CUDA_VISIBLE_DEVICES; none: the machine's."""
    train: bool = True
    """Whether to train what is missing, or to measure the runs that are there."""
    kept: Path | None = None
    """Folder of runs that stand in for those that ``runs`` lacks, if they are what would be trained."""

    def __post_init__(self) -> None:
        sources = {*(training.source for training in self.trainings), *self.targets}
        names = sorted(map(data.name_of, sources))
        if len(set(names)) < len(names):
            raise UserError(
                f"different sources of one name, among {', '.join(names)}: rows go by them"
            )

    def run(self, training: Training) -> Run:
        """The run folder of a training: a kept one, if it had these settings, data and budget and
        ``runs`` has none."""
        own = Run(self.runs / str(training))
        if self.kept is None or own.path.exists():
            return own
        kept = Run(self.kept / str(training))
        try:
            config, until = kept.read_config()
            if not (kept.path / "best.safetensors").exists():
                return own
        except UserError:
            return own
        same = (
            not self.differs(config, training)
            and config.train.data_sha256 != ""
            and config.train.seed == training.seed
            and until == Until(seconds=self.budget)
        )
        return kept if same else own

    def differs(self, config: RunConfig, training: Training) -> str:
        """What a run was trained with, or on, that a training of this plan is not; or nothing."""
        if config.settings_sha256() != expected(training).settings_sha256():
            return "with other settings"
        source = known_data(self).get(data.name_of(training.source))
        if source and config.train.data_sha256 not in ("", source.sha256):
            return f"on other data than those of {training.source} now"
        return ""


def trainings(
    models: tuple[str, ...] | None, sources: tuple[str, ...] | None, seeds: tuple[int, ...]
) -> tuple[Training, ...]:
    """The runs of a table, seed by seed, so that a whole table comes first.

    Without ``models``, the paper's: DooD and Difference-AIR on every source, vanilla AIR and the
    ablations on MNIST.

    Raises:
        UserError: there is no such model.
    """
    unknown = [name for name in models or () if name not in PROGRAMS]
    if unknown:
        raise UserError(f"there is no model {unknown[0]!r}; choose from {', '.join(PROGRAMS)}")
    pairs = [(model, source) for model in models or RIVALS for source in sources or SOURCES]
    if models is None and (sources is None or "mnist" in sources):
        pairs += [(model, "mnist") for model in ON_MNIST]
    return tuple(Training(*pair, seed) for seed in seeds for pair in pairs)


def likelihood(training: Training) -> Literal["laplace", "gaussian"]:
    """Under which likelihood a run of the table is trained."""
    return "gaussian" if (training.model, data.name_of(training.source)) in GAUSSIAN else "laplace"


def expected(training: Training) -> RunConfig:
    """The configuration that a run of the table must have, but for its data's hash."""
    model = PROGRAMS[training.model].configure(ModelConfig(likelihood=likelihood(training)))
    return RunConfig(training.model, model, TrainConfig(training.source, seed=training.seed))


class Known(NamedTuple):
    """A source as it is now."""

    sha256: str
    test_images: int


@lru_cache(maxsize=1)
def known_data(plan: Plan) -> dict[str, Known]:
    """The plan's sources and targets by the names that rows have, but for those that are not here."""
    found = {}
    for name in {training.source for training in plan.trainings} | set(plan.targets):
        if name in data.NAMES and data.find(name, plan.data_dir) is None:
            continue
        try:
            images, _, sha256 = data.read(name, "test", plan.data_dir)
        except UserError:
            continue
        found[data.name_of(name)] = Known(sha256, len(images))
    return found


def fill(plan: Plan, say: Callable[[str], None] = print) -> list[str]:
    """Trains and measures what the table lacks; returns what could not be had, a line each.

    A run is measured before the next is trained, so that an interrupted table has what it can.

    Raises:
        UserError: the table is malformed, or a source cannot be had: before anything is trained.
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
    to_train, to_measure = deque(plan.trainings), deque[tuple[Training, str]]()
    under_way: dict[Future[str | None], Training | None] = {}
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
    """Runs the commands of a plan, from several threads."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan, self.say = plan, say
        self.known = known_data(plan)
        self.lock = threading.Lock()
        self.processes: set[subprocess.Popen[str]] = set()
        self.in_use = dict.fromkeys(plan.devices, 0)
        self.stopped = False

    def stop(self) -> None:
        """Ends the processes under way: a training saves, a measurement is lost."""
        self.stopped = True
        with self.lock:
            for process in self.processes:
                process.terminate()

    def command(self, *arguments: str) -> tuple[int, str, str]:
        """Runs a ``dood-pyro`` command: its exit status, output, and the last line of errors."""
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

    def train(self, training: Training) -> str | None:
        """Brings a run to the plan's budget; returns what went wrong."""
        run = self.plan.run(training)
        anew = "; move it away to have it trained again" if self.plan.train else ""
        budget = ("--budget", f"{self.plan.budget:.3f}s")
        try:
            if run.path.exists():
                config, _ = run.read_config()
                if other := self.plan.differs(config, training):
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

    def evaluate(self, training: Training, target: str) -> str | None:
        """Measures a cell that the table lacks; returns what went wrong."""
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

    def measured(self, training: Training, target: str) -> bool:
        """Whether the table has the cell, of this run or one that was trained for longer."""
        plan = self.plan
        step = plan.run(training).best_step()
        name = data.name_of(target)
        with self.lock:
            rows = read_rows(plan.table)
        return any(
            (row["model"], row["source"], row["target"], row["seed"])
            == (training.model, data.name_of(training.source), name, str(training.seed))
            and _fits(row, training, plan, self.known)
            and int(row["steps"]) >= step
            for row in rows
        )


def _fits(row: dict[str, str], training: Training, plan: Plan, known: dict[str, Known]) -> bool:
    """Whether a row has the guide, settings, format, samples, images and data that a plan asks for."""
    config = expected(training)
    source, target = known.get(row["source"]), known.get(row["target"])
    images = plan.limit if target is None else min(plan.limit, target.test_images)
    return (
        row["guide"] == config.train.guide
        and row["config_sha256"] == config.settings_sha256()
        and row["format"] == str(FORMAT)
        and int(row["particles"]) == plan.particles
        and int(row["images"]) == images
        and (target is None or row["data_sha256"] == target.sha256)
        and (source is None or row["train_data_sha256"] == source.sha256)
    )


class Cell(NamedTuple):
    """Of the table of Fig. 4."""

    mean: float
    """log p(x), stops sampled, averaged over seeds; nats an image."""
    spread: float | None
    """Standard deviation over seeds; with one seed the standard error over images."""
    seeds: int
    seconds: float
    """Of training, up to the checkpoint that was measured; the least over seeds."""
    published: Figure | None

    def standard_error(self) -> float | None:
        """Of the mean: over seeds, or of one seed over images."""
        return None if self.spread is None else self.spread / self.seeds**0.5

    def against_published(self) -> Verdict | None:
        """Whether the cell is above its published figure; None where there is none."""
        if self.published is None:
            return None
        paper = self.published
        return verdict(self.mean, self.standard_error(), paper.mean, paper.standard_error())

    def against(self, other: Cell) -> Verdict:
        """Whether the cell is above another one."""
        return verdict(self.mean, self.standard_error(), other.mean, other.standard_error())


def cells(
    rows: list[dict[str, str]], plan: Plan
) -> tuple[dict[tuple[str, str, str], Cell], list[str]]:
    """The table's cells by (model, source, target), and what was left out and why.

    Rows of other settings, formats, data, numbers of samples or images than the plan's are left out.
    """
    trained = {(t.model, data.name_of(t.source), t.seed) for t in plan.trainings}
    targets = set(map(data.name_of, plan.targets))
    present = known_data(plan)
    wanted: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    other: Counter[str] = Counter()
    for row in rows:
        training = Training(row["model"], row["source"], int(row["seed"]))
        if training not in trained or row["target"] not in targets:
            continue
        if _fits(row, training, plan, present):
            wanted.setdefault((*training[:2], row["target"]), []).append(row)
        else:
            other[row["model"]] += 1
    notes = [
        f"left out {count} rows of {model}: of other settings, data, samples or images"
        for model, count in sorted(other.items())
    ]
    for key, found in list(wanted.items()):
        if len({row["seed"] for row in found}) < len(found):
            notes.append(
                f"left out {' on '.join(key[1:])} of {key[0]}: it has several rows of one seed, of "
                "different data, and which are meant cannot be told without them"
            )
            del wanted[key]
    order = dict.fromkeys(
        (training.model, data.name_of(training.source), data.name_of(target))
        for training in plan.trainings
        for target in plan.targets
    )
    return {key: cell_of(key, wanted[key]) for key in order if key in wanted}, notes


def cell_of(key: tuple[str, str, str], rows: list[dict[str, str]]) -> Cell:
    """The cell of (model, source, target) from its rows, one a seed."""
    values = [float(row["log_p"]) for row in rows]
    mean = sum(values) / len(values)
    if len(values) > 1:
        spread = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    else:
        spread = float(rows[0]["log_p_se"]) if rows[0]["log_p_se"] else None
    seconds = min(float(row["seconds"] or 0) for row in rows)
    return Cell(mean, spread, len(values), seconds, published(*key))


def as_text(
    found: dict[tuple[str, str, str], Cell], other: dict[str, str] | None = None
) -> Iterator[str]:
    """A Markdown table a model: a row a source, a column a target; log p(x) and, in brackets, the
    published figure; what is said of seeds, errors and data stands below. Cells that are not there are
    left empty.

    Args:
        other: sources and targets whose data are not the paper's, and in what (`other_data`).
    """
    marks = marks_of(other)

    def named(source: str) -> str:
        return source + marks.get(source, "")

    for model in dict.fromkeys(key[0] for key in found):
        mine = {key[1:]: cell for key, cell in found.items() if key[0] == model}
        targets = list(dict.fromkeys(target for _, target in mine))
        yield f"| {PROGRAMS[model].title}: from ↓ on → | {' | '.join(map(named, targets))} |"
        yield "| --- |" + " ---: |" * len(targets)
        for source in dict.fromkeys(source for source, _ in mine):
            row = [_as_text(mine.get((source, target))) for target in targets]
            yield f"| {named(source)} | {' | '.join(row)} |"
        yield ""
    yield from notes(found, other)
    if found:
        yield ""


def marks_of(other: dict[str, str] | None) -> dict[str, str]:
    """The marks of sources and targets whose data are not the paper's."""
    return dict(zip(other or {}, "†‡", strict=False))


def notes(
    found: dict[tuple[str, str, str], Cell], other: dict[str, str] | None = None
) -> Iterator[str]:
    """What stands below a table: seeds, errors, and what is not the paper's data."""
    if not found:
        return
    seeds = sorted({cell.seeds for cell in found.values()})
    spread = "the standard deviation over seeds"
    if seeds == [1]:
        spread = "the standard error over images of that seed, and says nothing of other seeds"
    elif 1 in seeds:
        spread += ", of cells of one seed the standard error over images"
    yield f"seeds a cell: {' or '.join(map(str, seeds))}; ± is {spread}"
    yield (
        "beside them the published figures; = a tie, < below: they differ by no more, or by more, than "
        "two standard errors, √(ours² + published std² / its seeds)"
    )
    for source, mark in marks_of(other).items():
        yield f"{mark} {(other or {})[source]}: rows and columns compare roughly"


SIGNS = {"above": "", "tie": "=", "below": "<", None: ""}


def _as_text(cell: Cell | None) -> str:
    if cell is None:
        return ""
    spread = "" if cell.spread is None else f" ± {cell.spread:,.0f}"
    paper = ""
    if cell.published is not None:
        sign = SIGNS[cell.against_published()]
        paper = f" ({cell.published.mean:,.0f}){sign}"
    return f"{cell.mean:,.0f}{spread}{paper}".replace("-", "−")


def findings(found: dict[tuple[str, str, str], Cell]) -> Iterator[str]:
    """What the table says: diagonals, lowest rows, DooD against its rival and its paper."""
    for model in dict.fromkeys(key[0] for key in found):
        mine = {key[1:]: cell.mean for key, cell in found.items() if key[0] == model}
        sources = list(dict.fromkeys(source for source, _ in mine))
        targets = list(dict.fromkeys(target for _, target in mine))
        title = PROGRAMS[model].title
        yield f"{title}: trained for {minutes(found, model)} minutes, up to the best checkpoint"
        if len(sources) < 2:
            continue
        lacking = sum((s, t) not in mine for s in sources for t in targets)
        if lacking:
            yield f"{title}: {lacking} cells are missing: of its diagonal and rows nothing is said"
            continue
        best = {t: max(sources, key=lambda s: mine[s, t]) for t in targets if t in sources}
        not_own = [f"{t} ({s})" for t, s in best.items() if s != t]
        if best:
            said = "in every column" if not not_own else "but for " + ", ".join(not_own)
            yield f"{title}: the diagonal is the column's highest {said}"
        averages = {
            s: sum(mine[s, t] for t in targets if t != s) / max(1, len(targets) - (s in targets))
            for s in sources
        }
        order = sorted(sources, key=lambda s: averages[s])
        ranked = ", ".join(f"{s} {averages[s]:.0f}" for s in order)
        yield f"{title}: rows by their mean off the diagonal, lowest first: {ranked}"
    gaussian = sorted({f"{PROGRAMS[m].title} on {s}" for m, s, _ in found if (m, s) in GAUSSIAN})
    if gaussian:
        yield f"under a Gaussian likelihood, all others under a Laplace: {', '.join(gaussian)}"
    yield from comparisons(found)


def comparisons(found: dict[tuple[str, str, str], Cell]) -> Iterator[str]:
    """DooD against Difference-AIR, against its published figures and against Difference-AIR's; and
    Difference-AIR against its own."""
    dood = {key[1:]: cell for key, cell in found.items() if key[0] == "dood"}
    dair = {key[1:]: cell for key, cell in found.items() if key[0] == "dair"}
    both = {where: cell.against(dair[where]) for where, cell in dood.items() if where in dair}
    for diagonal in (False, True):
        chosen = {where: v for where, v in both.items() if (where[0] == where[1]) is diagonal}
        side = "on" if diagonal else "off"
        yield from _count(f"DooD against Difference-AIR of equal time {side} the diagonal", chosen)
    of_rival = {
        where: cell._replace(published=published("dair", *where)) for where, cell in dood.items()
    }
    for title, mine in (
        ("DooD against its published figures", dood),
        ("DooD against the published Difference-AIR", of_rival),
        ("Difference-AIR against its published figures", dair),
    ):
        told = {where: cell.against_published() for where, cell in mine.items()}
        yield from _count(title, {where: its for where, its in told.items() if its is not None})


def _count(what: str, verdicts: dict[tuple[str, str], Verdict]) -> Iterator[str]:
    """How many are above, tie, or below; the ties and those below by name, where they are few."""
    if not verdicts:
        return
    parts = []
    for kind in ("above", "tie", "below"):
        which = [" → ".join(where) for where, its in verdicts.items() if its == kind]
        if which or kind == "above":
            few = kind != "above" and len(which) <= 6
            word = "ties" if kind == "tie" and len(which) != 1 else kind
            parts.append(f"{len(which)} {word}" + (f" ({', '.join(which)})" if few else ""))
    yield f"{what}, {len(verdicts)} cells: {', '.join(parts)}"


def minutes(found: dict[tuple[str, str, str], Cell], model: str) -> str:
    """Of training that a model's cells had: one number, or from the least to the most."""
    times = [cell.seconds / 60 for key, cell in found.items() if key[0] == model]
    return " to ".join(dict.fromkeys(f"{time:.0f}" for time in (min(times), max(times))))
