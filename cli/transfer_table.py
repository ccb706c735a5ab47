"""The ``dood-pyro transfer-table`` command: the table of source by target (Fig. 4).
`dood_pyro.registry` names it, and `dood_pyro.tasks.transfer` does the work.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dood_pyro.errors import UserError

from . import options

if TYPE_CHECKING:
    from dood_pyro.tasks.transfer.engines import Engine
    from dood_pyro.tasks.transfer.plan import Plan


@click.command("transfer-table")
@click.option(
    "--models",
    type=options.Names(),
    help="Models, separated by commas.  [default: dood,dair on every source; air, "
    "dood-no-renderer and dood-no-guidance on mnist, if mnist is among the sources]",
)
@click.option(
    "--sources",
    type=options.Names(),
    help="Sources, separated by commas.  [default: the paper's five datasets]",
)
@click.option(
    "--targets",
    type=options.Names(),
    help="Targets, separated by commas.  [default: the sources]",
)
@click.option(
    "--seeds",
    type=options.Numbers(),
    default="0",
    show_default=True,
    help="Seeds of training, separated by commas.",
)
@click.option(
    "--budget",
    type=options.Duration(),
    default="30m",
    show_default=True,
    help="Training time per run; runs that had less are continued.",
)
@options.particles()
@options.limit(1000)
@options.runs_dir("Folder of the run folders.")
@click.option(
    "--kept-runs",
    "kept",
    type=options.PathTo(),
    help="Folder of kept runs: a run that --runs-dir lacks is taken from here, not trained, if "
    "its settings, data and budget are the same.",
)
@click.option(
    "--table",
    type=options.PathTo(),
    default=Path("experiments/results/transfer.csv"),
    show_default=True,
    help="CSV file of the rows; a cell that is there, after as long a training, is not measured "
    "again.",
)
@click.option(
    "--out", type=options.Png(), help="PNG; a PDF is written beside it.  [default: TABLE with .png]"
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where trainings and measurements run: on this machine, or as tasks of a Ray cluster.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Processes at once of the engine local.  [default: one per GPU, else one for every two cores]",
)
@click.option(
    "--task-cpus",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Cores of a task of the engine ray.",
)
@click.option(
    "--task-gpus",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="GPUs of a task of the engine ray; 0.25: four tasks share one.",
)
@click.option(
    "--fill/--no-fill",
    default=True,
    show_default=True,
    help="Train and measure what is missing, or only draw the cells that there are.",
)
@click.option(
    "--train/--no-train",
    default=True,
    show_default=True,
    help="Train the runs that are missing, or only measure the runs that there are.",
)
@options.device
@options.data_dir
def transfer_table(
    models: tuple[str, ...] | None,
    sources: tuple[str, ...] | None,
    targets: tuple[str, ...] | None,
    seeds: tuple[int, ...],
    budget: float,
    particles: int,
    limit: int,
    runs_dir: Path,
    kept: Path | None,
    table: Path,
    out: Path | None,
    engine: str,
    jobs: int | None,
    task_cpus: float,
    task_gpus: float,
    fill: bool,
    train: bool,
    device: str,
    data_dir: Path | None,
) -> None:
    """Train models and measure who explains whose drawings.

    Makes the table of Fig. 4, as numbers and as a figure.

    Runs and cells that are there already stay, so that an interrupted table continues where it
    stopped.
    """
    from dood_pyro.progress import print_if_read
    from dood_pyro.tasks.rows import read_rows
    from dood_pyro.tasks.transfer.cells import cells
    from dood_pyro.tasks.transfer.figure import Strips, draw_table
    from dood_pyro.tasks.transfer.fill import fill as fill_table
    from dood_pyro.tasks.transfer.plan import Plan
    from dood_pyro.tasks.transfer.plan import trainings as plan_trainings
    from dood_pyro.tasks.transfer.published import DATASETS, other_data
    from dood_pyro.tasks.transfer.report import as_text, findings

    if table.suffix != ".csv":
        raise UserError(f"--table must end in .csv; {table} does not")
    if kept is not None and not kept.is_dir():
        raise UserError(f"--kept-runs: there is no folder {kept}")
    out = table.with_suffix(".png") if out is None else out
    context = click.get_current_context()
    for name, of in (("jobs", "local"), ("task_cpus", "ray"), ("task_gpus", "ray")):
        if options.typed(context, name) is not None and not (fill and engine == of):
            option = options.typed_name(context, name)
            raise UserError(
                f"{option} is for --engine {of}, and for what is filled in: leave it out"
            )
    trainings = plan_trainings(models, sources, seeds)
    plan = Plan(
        trainings,
        targets or sources or DATASETS,
        budget,
        runs=runs_dir,
        table=table,
        particles=particles,
        limit=limit,
        device=device,
        data_dir=data_dir,
        train=train,
        kept=kept,
    )
    # Neither a closed terminal nor a closed pipe of standard output ends trainings.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    problems: list[str] = []
    if fill:
        with _engine(engine, plan, jobs, task_cpus, task_gpus) as where:
            problems = fill_table(plan, where, print_if_read)
    rows = read_rows(table)
    found, left_out = cells(rows, plan)
    for line in (*as_text(found, other_data(rows)), *left_out, *findings(found)):
        click.echo(line)
    if found:
        shown = list(dict.fromkeys(training.model for training in trainings))
        strips = Strips(plan, table.with_suffix(".strips.npz"))
        for path in draw_table(found, shown, strips, out, other_data(rows)):
            click.echo(path)
        strips.save()
    for problem in problems:
        click.echo(f"missing: {problem}", err=True)
    if problems or not found:
        raise UserError(
            f"{len(problems)} parts of the table are missing"
            if problems
            else f"{table} has no row of this table"
        )


@contextlib.contextmanager
def _engine(
    name: str, plan: Plan, jobs: int | None, task_cpus: float, task_gpus: float
) -> Iterator[Engine]:
    from dood_pyro.devices import parallel_jobs
    from dood_pyro.tasks.transfer.engines import LocalEngine, RayEngine

    if name == "local":
        default_jobs, gpus = parallel_jobs(plan.device)
        yield LocalEngine(jobs or default_jobs, gpus)
        return
    engine = RayEngine(plan.runs, task_cpus, task_gpus)
    try:
        yield engine
    finally:
        engine.close()
