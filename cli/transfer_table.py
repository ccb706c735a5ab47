"""``dood-pyro transfer-table``."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from dood_pyro.errors import UserError

from . import options


@click.command("transfer-table")
@click.option(
    "--models",
    type=options.Names(),
    help="By comma.  [default: dood,dair on every source; air, dood-no-renderer and "
    "dood-no-guidance on mnist, if that is one of them]",
)
@click.option(
    "--sources", type=options.Names(), help="By comma.  [default: the paper's five datasets]"
)
@click.option("--targets", type=options.Names(), help="By comma.  [default: the sources]")
@click.option("--seeds", type=options.Numbers(), default="0", show_default=True, help="By comma.")
@click.option(
    "--budget",
    type=options.Duration(),
    default="30m",
    show_default=True,
    help="Of each training; runs that had less go on.",
)
@options.particles()
@options.limit(1000)
@click.option(
    "--runs-dir",
    "runs",
    type=options.PathTo(),
    default=Path("runs"),
    show_default=True,
    help="Folder of the run folders.",
)
@click.option(
    "--kept-runs",
    "kept",
    type=options.PathTo(),
    help="Folder of trained runs: what --runs-dir lacks is not trained if it is there, of the same "
    "settings, data and budget.",
)
@click.option(
    "--table",
    type=options.PathTo(),
    default=Path("experiments/results/transfer.csv"),
    show_default=True,
    help="Rows go here; cells that it has, of as long a training, are not measured again.",
)
@click.option("--out", type=options.Png(), help="PNG and PDF.  [default: as TABLE]")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Processes at once.  [default: one a GPU, else one for every two cores]",
)
@click.option("--fill/--no-fill", default=True, show_default=True, help="Or draw what there is.")
@click.option(
    "--train/--no-train",
    default=True,
    show_default=True,
    help="Or measure the runs that there are.",
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
    runs: Path,
    kept: Path | None,
    table: Path,
    out: Path | None,
    jobs: int | None,
    fill: bool,
    train: bool,
    device: str,
    data_dir: Path | None,
) -> None:
    """Trains and measures who explains whose drawings.

    The table of Fig. 4, as numbers and as a figure.

    What is there already stays, so that an interrupted table goes on where it stopped.
    """
    from dood_pyro.devices import parallel_jobs
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
    trainings = plan_trainings(models, sources, seeds)
    default_jobs, gpus = parallel_jobs(device)
    plan = Plan(
        trainings,
        targets or sources or DATASETS,
        budget,
        runs=runs,
        table=table,
        particles=particles,
        limit=limit,
        jobs=jobs or default_jobs,
        device=device,
        data_dir=data_dir,
        devices=gpus,
        train=train,
        kept=kept,
    )
    # Neither the end of the terminal nor of who reads what is said ends trainings.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    problems = fill_table(plan, print_if_read) if fill else []
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
            f"{len(problems)} parts of the table could not be had"
            if problems
            else f"{table} has no row of this table"
        )
