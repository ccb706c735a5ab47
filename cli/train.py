"""The ``dood-pyro train`` command: a new training, or one that goes on.
`dood_pyro.registry` names it; `dood_pyro.research` makes the settings, and `dood_pyro.training`
trains.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dood_pyro.config import (
    DEFAULT_MODEL,
    ModelConfig,
    SettingError,
    TrainConfig,
    UnknownSettingError,
)
from dood_pyro.errors import UserError

from . import options

if TYPE_CHECKING:
    from dood_pyro.run_folders.budget import TrainingBudget
    from dood_pyro.training.loop import Training
    from dood_pyro.training.processes import Team
    from dood_pyro.training.trainer import Trainer


@click.command()
@click.option("--source", type=options.Name(), help=options.names("source", "a path"))
@click.option(
    "--model",
    "model__name",
    type=options.Component("model"),
    help=options.names("model", "module:Class") + f"  [default: {DEFAULT_MODEL}]",
)
@click.option("--steps", type=click.IntRange(min=1), help="Total number of steps.")
@click.option("--budget", type=options.Duration(), help="Total training time, as 90m or 1h30m.")
@click.option("--out", type=options.PathTo(), help="Run folder.  [default: runs/MODEL-SOURCE-SEED]")
@click.option("--resume", type=options.PathTo(), help="Continue this run folder.")
@click.option(
    "--init-from",
    help="Begin with this run's model and weights, and with those weights of its guide that fit. "
    "Name a --source, too.",
)
@options.seed
@options.settings(("model", ModelConfig), ("train", TrainConfig))
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set any setting, such as model.features=512 or train.decay_steps=2000; may be repeated.",
)
@click.option(
    "--config",
    "config_file",
    type=options.PathTo(),
    help="TOML file of settings, with tables [model] and [train]; options and --set override it.",
)
@click.option("--tensorboard/--no-tensorboard", default=True, show_default=True)
@click.option(
    "--cuda-graph/--no-cuda-graph",
    default=True,
    show_default=True,
    help="On a GPU, capture steps as CUDA graphs.",
)
@click.option(
    "--skip-bad", is_flag=True, help="Leave out files of a --source folder that are no pictures."
)
@options.trust
@options.device
@options.data_dir
@click.pass_context
def train(ctx: click.Context, /, **given: Any) -> None:
    """Train model and guide on a source, or continue a run.

    Over several GPUs: torchrun --nproc-per-node GPUS -m dood_pyro.cli train ...; each process takes its
    share of every batch.

    Ctrl-C saves the run. --resume RUN continues a run that was stopped or killed; with --steps, on a
    CPU, the final weights are exactly those of an uninterrupted run. With --resume, --steps or
    --budget may be raised; the run's settings stay.
    """
    from dood_pyro.training.processes import Followed, joined

    # SIGHUP says that the terminal was closed; training continues without it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with joined(given["device"]) as (team, device):
        given["device"] = str(device)
        try:
            _with_team(ctx, given, team)
        except Followed:
            sys.exit(1)  # the first process says why


def _with_team(ctx: click.Context, given: dict[str, Any], team: Team) -> None:
    """Begin or continue the training, as the team's first process or behind it."""
    from dood_pyro.devices import choose_device
    from dood_pyro.progress import print_if_read
    from dood_pyro.run_folders.run import Run
    from dood_pyro.training.log import not_yet
    from dood_pyro.training.loop import Training

    begun: tuple[Training, TrainingBudget] | None = None
    with team.after_first():
        if team.first:
            begun = (
                _begin(ctx, given, team) if given["resume"] is None else _resume(ctx, given, team)
            )
    path, budget = team.from_first(begun and (str(begun[0].run.path), begun[1]))
    if begun is None:
        run = Run(path)
        trusted = run.read_config()[0].own_code(training=True)  # as the first process was told
        training = Training.open(
            run, choose_device(given["device"]), given["data_dir"], trusted, team
        )
        training.train(tensorboard=False, budget=budget, cuda_graph=given["cuda_graph"])
        return
    training = begun[0]
    tensorboard = options.typed(ctx, "tensorboard")
    if tensorboard is None:  # not typed: as for the run so far
        tensorboard = training.run.logs_for_tensorboard()
    trainer = _train(training, budget, tensorboard, given["cuda_graph"])
    picture = _reconstructions(training, trainer, given)
    print_if_read(f"run: {training.run.path}")
    if 0 < trainer.prior_steps < trainer.step:
        print_if_read(
            f"steps: {trainer.image_steps:,}, and {trainer.prior_steps:,} of the prior alone"
        )
    print_if_read(f"reconstructions, stroke by stroke: {picture}")
    held_out = [line for line in training.run.read_metrics() if line["kind"] == "held-out"]
    if said := not_yet(held_out[-1]["strokes"], trainer.image_steps, str(training.run.path)):
        print_if_read(said)


MAY_CHANGE = {
    *("resume", "steps", "budget", "device", "data_dir", "tensorboard", "cuda_graph"),
    *("train__guide", "trusted"),
}
"""Parameters allowed with --resume; a guide of the user's own must be named again
(`Run.trusted_config`)."""


def _resume(
    ctx: click.Context, given: dict[str, Any], team: Team
) -> tuple[Training, TrainingBudget]:
    from dood_pyro.devices import choose_device
    from dood_pyro.recognition import open_run
    from dood_pyro.training.loop import Training

    device = choose_device(given["device"])
    for name in ctx.params.keys() - MAY_CHANGE:
        if options.typed(ctx, name) not in (None, ()):
            raise UserError(
                f"{options.typed_name(ctx, name)} cannot change when a run is resumed; leave it out, "
                "or train a new run with --out"
            )
    run = open_run(given["resume"])
    guide = options.typed(ctx, "train__guide")
    run.trusted_config(guide, given["trusted"], training=True)
    _, budget = run.read_config()
    budget = budget.extended(given["steps"], given["budget"], *run.progress())
    trusted = (*given["trusted"], *filter(None, [guide]))
    return Training.open(run, device, given["data_dir"], trusted, team), budget


def _begin(
    ctx: click.Context, given: dict[str, Any], team: Team
) -> tuple[Training, TrainingBudget]:
    from dood_pyro import data
    from dood_pyro.research import begin_training, parse_assignment, read_settings

    file = given["config_file"]
    settings = {} if file is None else read_settings(file)
    for name in ctx.params:
        setting = options.setting_of(name)
        if setting is not None and options.typed(ctx, name) is not None:
            settings[setting] = ctx.params[name]
    for name in ("source", "init_from", "seed"):
        if options.typed(ctx, name) is not None:
            settings[f"train.{name}"] = given[name]
    settings |= dict(parse_assignment(text) for text in given["assignments"])
    if given["skip_bad"]:
        folder = str(settings.get("train.source", ""))
        if not folder or not Path(folder).is_dir():
            raise UserError("--skip-bad is for a --source that is a folder of pictures")
        data.locate(folder, given["data_dir"], skip_bad=True)
    try:
        training = begin_training(
            settings.pop("train.source", None),
            settings.pop("model.name", None),
            steps=given["steps"],
            seconds=given["budget"],
            out=given["out"],
            settings=settings,
            init_from=settings.pop("train.init_from", None),
            device=given["device"],
            data_dir=given["data_dir"],
            trusted=given["trusted"],
            team=team,
        )
        return training, training.run.read_config()[1]
    except UnknownSettingError:
        raise
    except SettingError as error:
        name = options.option_of(ctx, error.setting)
        what = error.what.replace("init_from", "--init-from")
        raise UserError(f"{name} {what}") from None


def _train(training: Training, budget: Any, tensorboard: bool, cuda_graph: bool) -> Trainer:
    from dood_pyro.progress import print_across, progress_bar
    from dood_pyro.training.log import collapse

    by_steps = budget.steps is not None
    unit, total = ("step", budget.steps) if by_steps else ("s", round(budget.seconds or 0))
    bar: Any = None

    said = ""

    def show(trainer: Trainer, line: dict[str, Any]) -> None:
        nonlocal bar, said
        done = trainer.step if by_steps else round(trainer.seconds)
        if bar is None:
            name = training.run.path.resolve().name
            bar = progress_bar(total=total, initial=done, unit=unit, desc=name, bar_format=BAR)
        bar.n = min(done, total)  # beyond it a bar has no share to show
        if line["kind"] == "parsing":
            bar.set_postfix_str("parsing training images, for the prior to learn from")
        elif line["kind"] == "parsed":
            print_across(
                bar, f"{line['images']:,} parses of training images; the prior learns alone"
            )
        elif line["kind"] == "train":
            bar.set_postfix_str(_progress(line))
        elif line["kind"] == "held-out":
            print_across(
                bar,
                f"step {line['step']:>6}  held-out ELBO {_number(line['elbo'], 1):>8}  "
                f"strokes {_number(line['strokes'], 2)}  after {line['seconds'] / 60:.1f} min",
            )
            settings = trainer.config
            begun = settings.train.sleep_steps + settings.train.exploration_steps()
            if trainer.estimator.trains_baselines:
                begun += settings.train.hold_steps
            if trainer.image_steps > begun:
                said, before = collapse(line["strokes"], settings.model.max_strokes), said
                if said and not before:  # once, until it is over
                    print_across(bar, said)

    try:
        return training.train(show, tensorboard, budget, cuda_graph)
    finally:
        if bar is not None:
            bar.close()


def _progress(line: dict[str, Any]) -> str:
    """Text beside the bar: a line of metrics in short, nats per image."""
    names = ("elbo", "log_likelihood", "kl_strokes")
    elbo, likelihood, strokes = (_number(line[name], 0) for name in names)
    return (
        f"ELBO {elbo} = {likelihood} − {strokes} − {_number(line['kl_stop'], 1)}, "
        f"{_number(line['strokes'], 2)} strokes, {line['steps_per_second']:.2f} steps/s"
        + (f", {line['skipped']} skipped" if line["skipped"] else "")
    )


def _number(value: float | None, digits: int) -> str:
    """Number as text, or a dash for None, which stands for a value that is not finite."""
    return "–" if value is None else f"{value:.{digits}f}"


BAR = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}] {postfix}"


def _reconstructions(training: Training, trainer: Trainer, given: dict[str, Any]) -> Path:
    from dood_pyro.recognition import load
    from dood_pyro.tasks.reconstruct import reconstruct

    config, run = trainer.config, training.run
    trusted = (*given["trusted"], *config.own_code())
    recognizer = load(run.path, trusted=trusted)
    picture = run.path / "reconstructions.png"
    source, data_dir = config.train.source, given["data_dir"]
    reconstruct(recognizer, source, picture, data_dir=data_dir, svg=False)
    return picture
