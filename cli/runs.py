"""The ``dood-pyro runs`` commands: list, show, compare and delete run folders.
`dood_pyro.registry` names them; `dood_pyro.listing` does the work.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dood_pyro.errors import UserError

from . import options


@click.group(invoke_without_command=True)
@options.runs_dir("Folder in which runs are looked for.")
@options.as_json
def runs(runs_dir: Path, as_json: bool) -> None:
    """List runs, how far each has come, and how good it is.

    The bound is that of images that were held out of the run's own source, nats per image: higher is
    better, and only runs of one source compare.
    """
    context = click.get_current_context()
    if context.invoked_subcommand is not None:
        for name in ("runs_dir", "as_json"):
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                option = options.typed_name(context, name)
                raise click.UsageError(f"{option} comes after runs {context.invoked_subcommand}")
        return
    options.check_folder(runs_dir, "runs_dir")
    from dood_pyro.listing import runs as find_runs

    found = find_runs(runs_dir)
    options.say(found.json(), repr(found), as_json)


@runs.command()
@click.argument("run")
@click.option("--out", type=options.Png(), help="Draw its curves into this PNG, too.")
@options.as_json
def show(run: str, out: Path | None, as_json: bool) -> None:
    """Show one run: how far it has come, its settings, and the curve of its bound."""
    from dood_pyro.listing import Runs, duration, held_out_lines, summary
    from dood_pyro.recognition import open_run

    opened, told = open_run(run), summary(run)
    config, _ = opened.read_config()  # says what is wrong with it
    held_out = held_out_lines(opened)
    files = [] if out is None else _draw_curves(held_out, run, out)
    lines = [repr(Runs([told]))]
    for part, kept in (("model", config.model.to_json()), ("train", config.train.to_json())):
        lines += ["", f"[{part}]", *(f"{name} = {value}" for name, value in kept.items())]
    if held_out:
        lines += ["", "held-out bound, nats per image"]
        lowest, highest = (pick(line["elbo"] for line in held_out) for pick in (min, max))
        for line in held_out:
            share = (line["elbo"] - lowest) / max(highest - lowest, 1e-9)
            numbers = f"{line['step']:>8,} {line['elbo']:>9,.1f}"
            lines.append(f"{duration(line['seconds']):>7} {numbers} {'█' * round(30 * share)}")
    values = {**told._asdict(), "settings": config.to_json(), "held_out_curve": held_out}
    options.say(values, "\n".join(lines), as_json, files)


def _draw_curves(held_out: list[dict[str, Any]], run: str, out: Path) -> list[Path]:
    from dood_pyro.plots import new_figure, save_figure

    if not held_out:
        raise UserError(f"{run} has no held-out bound yet, of which a curve could be drawn")
    figure = new_figure(5, 3)
    axes = figure.subplots()
    axes.plot([line["seconds"] / 60 for line in held_out], [line["elbo"] for line in held_out])
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("held-out bound, nats per image")
    axes.set_title(options.run_name(run))
    return save_figure(figure, out)


@runs.command()
@click.argument("names", metavar="RUN RUN...", nargs=-1, required=True)
@options.as_json
def compare(names: tuple[str, ...], as_json: bool) -> None:
    """Say in what runs differ: settings, time, and held-out bound."""
    from dood_pyro.listing import Runs, differences, summary
    from dood_pyro.tables import columns

    if len(names) < 2:
        raise click.UsageError("name two runs, or more")
    settings = differences(names)
    told = Runs(map(summary, names))
    rows = [[name, *map(str, values)] for name, values in settings.items()]
    table = columns([["setting", *names], *rows], right=False)
    text = f"{told!r}\n\n{table if rows else 'all settings are equal'}"
    options.say({"runs": told.json(), "settings": settings}, text, as_json)


@runs.command()
@click.argument("names", metavar="RUN...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(names: tuple[str, ...], yes: bool) -> None:
    """Delete run folders, weights and all, after asking."""
    from dood_pyro.files import locked, unwritable
    from dood_pyro.hub import is_on_hub
    from dood_pyro.recognition import trained_weights
    from dood_pyro.run_folders.run import LOCK, Run

    chosen = []
    for name in dict.fromkeys(names):
        if is_on_hub(name):
            raise UserError(f"{name} is on the hub: it is deleted there")
        run = Run(name)
        if name in trained_weights() and not run.path.exists():
            raise UserError(f"{name} came with dood-pyro and is not deleted")
        run.read_config()  # nothing that is no run is deleted
        if run.path.is_symlink():
            raise UserError(f"{name} is a link; name the folder itself")
        chosen.append(run)
    for run in chosen:
        if not yes:
            _confirm(run.path)
        try:
            with locked(run.path / LOCK, wait=False):
                shutil.rmtree(run.path)
        except BlockingIOError:
            raise UserError(f"{run.path} is being trained; stop that first") from None
        except OSError as error:
            raise unwritable(run.path, error) from None
        click.echo(f"deleted {run.path}")


def _confirm(path: Path) -> None:
    """Ask whether to delete a run folder.

    Raises:
        UserError: the answer is no, or nobody answers.
    """
    try:
        if click.confirm(f"delete {path} and all that is in it?"):
            return
    except click.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise
        click.echo(err=True)  # ends the line of the question
        raise UserError(
            f"nobody answered: {path} is kept; --yes deletes without a question"
        ) from None
    raise UserError(f"{path} is kept")
