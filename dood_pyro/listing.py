"""Runs that lie in a folder, how far each has come, and in what they differ.
`dood_pyro.runs` and ``dood-pyro runs`` list them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dood_pyro.data import name_of
from dood_pyro.errors import UserError
from dood_pyro.files import locked
from dood_pyro.recognition import open_run, trained_weights
from dood_pyro.registry import canonical
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import CONFIG, LOCK, STATE, Run
from dood_pyro.tables import columns, html_table


class RunSummary(NamedTuple):
    """What a list of runs says of one."""

    name: str
    """As commands take it: a path, or the name of weights that come with the package."""
    model: str
    source: str
    seed: int
    steps: int
    """Steps taken."""
    seconds: float
    """Time trained for."""
    held_out: float | None
    """Best held-out bound, nats per image; None before the first."""
    state: str
    """``"trained"``, ``"stopped at 40 %"``, or what is wrong with it."""

    def open(self) -> Run:
        """The run.

        Raises:
            UserError: it is gone.
        """
        return open_run(self.name)


class Runs(list[RunSummary]):
    """Several runs: a list that shows itself as a table in a notebook."""

    COLUMNS = ("name", "model", "source", "seed", "steps", "time", "held-out bound", "state")

    def cells(self) -> list[list[str]]:
        """The rows of a table with `COLUMNS`."""
        return [
            [
                each.name,
                each.model,
                each.source,
                str(each.seed),
                f"{each.steps:,}",
                duration(each.seconds),
                "–" if each.held_out is None else f"{each.held_out:,.0f}",
                each.state,
            ]
            for each in self
        ]

    def __repr__(self) -> str:
        return columns([list(self.COLUMNS), *self.cells()], right=False) if self else "no runs"

    def _repr_html_(self) -> str:
        """Show the runs in a notebook."""
        return html_table(self.COLUMNS, self.cells())

    def json(self) -> list[dict[str, Any]]:
        """Return the runs as plain values for ``json.dumps``."""
        return [each._asdict() for each in self]


def runs(folder: str | Path = "runs") -> Runs:
    """Runs in a folder and the folders within it, and the weights that come with the package, last.

    Raises:
        UserError: the folder cannot be read.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name the folder of the runs")
    try:
        paths = sorted(path.parent for path in folder.rglob(CONFIG))
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from None
    return Runs(summary(name) for name in [*map(str, paths), *trained_weights()])


def summary(name: str) -> RunSummary:
    """What is to be said of a run; if it is damaged, that.

    Raises:
        UserError: there is none.
    """
    run = open_run(name)
    try:
        config, budget = run.read_config()
        metrics, (steps, seconds) = run.read_metrics(), run.progress()
    except UserError as error:
        return RunSummary(name, "", "", 0, 0, 0.0, None, str(error))
    bounds = [line["elbo"] for line in held_out_lines(run)]
    if metrics:  # kept weights have no checkpoint to go on from
        steps, seconds = max(steps, metrics[-1]["step"]), max(seconds, metrics[-1]["seconds"])
    source = name_of(canonical(config.train.source))
    best = max(bounds, default=None)
    state = state_of(budget, steps, seconds)
    if steps and not (run.path / STATE).exists():
        state = "kept"  # weights alone: nothing to go on from
    if (run.path / LOCK).exists() and is_locked(run.path / LOCK):
        state = state.replace("stopped", "training,").replace("not begun", "training")
    return RunSummary(
        name, config.model_name, source, config.train.seed, steps, seconds, best, state
    )


def held_out_lines(run: Run) -> list[dict[str, Any]]:
    """Lines of a run's metrics that have a finite held-out bound."""
    lines = (line for line in run.read_metrics() if line["kind"] == "held-out")
    return [line for line in lines if isinstance(line.get("elbo"), int | float)]


def state_of(budget: TrainingBudget, steps: int, seconds: float) -> str:
    """Whether a training that far along is at its end, or at what share of the way."""
    if budget.used_up(steps, seconds):
        return "trained"
    done = max(steps / (budget.steps or float("inf")), seconds / (budget.seconds or float("inf")))
    return f"stopped at {done:.0%}" if steps else "not begun"


def differences(names: Sequence[str]) -> dict[str, list[Any]]:
    """Settings in which runs differ, each with the values of all, in order.

    Raises:
        UserError: one is no run, or cannot be read.
    """
    settings = []
    for name in names:
        config, budget = open_run(name).read_config()
        parts = {"model": config.model.to_json(), "train": config.train.to_json()}
        settings.append(
            {f"{part}.{key}": value for part, kept in parts.items() for key, value in kept.items()}
            | {"model.name": config.model_name}
            | {"steps": budget.steps}
            | {"budget": None if budget.seconds is None else duration(budget.seconds)}
        )
    every = {key: [each.get(key) for each in settings] for each in settings for key in each}
    return {key: values for key, values in every.items() if any(v != values[0] for v in values)}


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock."""
    try:
        with locked(path, wait=False):
            return False
    except BlockingIOError:
        return True
    except OSError:  # nobody here may know
        return False


def duration(seconds: float) -> str:
    """A time as it is typed: 1h30m, 45m, 20s."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes or not hours else "")
