"""``dood-pyro train``."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dood_pyro.config import PRACTICE, ModelConfig, TrainConfig
from dood_pyro.errors import UserError

from . import options

if TYPE_CHECKING:
    from dood_pyro.checkpoints import Run, Until
    from dood_pyro.training import Trainer


@click.command()
@click.option(
    "--source", help="mnist, emnist, kmnist, quickdraw, omniglot, digits, doodles, or a path."
)
@click.option(
    "--model",
    "program",
    type=click.Choice(
        ["dood", "dood-no-renderer", "dood-no-guidance", "dood-independent-prior", "dair", "air"]
    ),
    default="dood",
    show_default=True,
    help="DooD; three ablations of it; Difference-AIR; vanilla AIR.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Train for so many steps in all.")
@click.option("--budget", type=options.Duration(), help="Train for so long in all: 90m, 1h30m.")
@click.option("--out", type=options.PathTo(), help="Run folder.  [default: runs/MODEL-SOURCE-SEED]")
@click.option("--resume", type=options.PathTo(), help="Go on with this run folder.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=TrainConfig.batch_size, show_default=True
)
@options.seed
@click.option(
    "--estimator",
    type=click.Choice(["stop-time", "nvil", "iwae", "rws"]),
    default=TrainConfig.estimator,
    show_default=True,
    help="Stops summed out exactly; the paper's score function; the importance-weighted bound; "
    "reweighted wake-sleep.",
)
@click.option(
    "--normalise/--no-normalise",
    default=TrainConfig.normalise,
    show_default=True,
    help="Of nvil: whether learning signals are centred and divided by their running deviation, as in "
    "NVIL's algorithm, which the paper names; without, its gradient is that of the bound on average.",
)
@click.option(
    "--particles",
    type=click.IntRange(min=1),
    help="Samples an image, for iwae and rws.  [default: 5]",
)
@click.option(
    "--start-from",
    help="Begin with this run's model and weights; of its guide, with those that fit. Name a "
    "--source, too.",
)
@click.option(
    "--fit",
    type=click.Choice(["both", "guide", "prior"]),
    default=TrainConfig.fit,
    show_default=True,
    help="What learns: model and guide; or, over --start-from RUN, its guide alone, or its prior "
    "alone, which leaves the guide and what strokes look like as they are.",
)
@click.option(
    "--dream-steps",
    type=click.IntRange(min=0),
    default=TrainConfig.dream_steps,
    show_default=True,
    help="First so many steps on drawings that the model dreams, for the guide alone.",
)
@click.option(
    "--guide", default=TrainConfig.guide, show_default=True, help="A built-in one, or module:Class."
)
@click.option(
    "--beta",
    type=float,
    default=TrainConfig.beta,
    show_default=True,
    help="A stroke must gain β times its KL; of iwae and rws in their first steps only.",
)
@click.option(
    "--practice",
    type=float,
    help="Random doodles that the guide practises on, for each image of the source.  "
    f"[default: {PRACTICE}; 0 for nvil and --fit prior]",
)
@click.option(
    "--scale-learns",
    type=click.Choice(["explored", "drawn"]),
    default=TrainConfig.scale_learns,
    show_default=True,
    help="The likelihood's scale: as often as strokes would be drawn, or from all that training "
    "explores, which makes it larger and harder drawings' log p(x) higher. (nvil explores none.)",
)
@click.option("--learning-rate", type=float, default=TrainConfig.learning_rate, show_default=True)
@click.option("--max-strokes", type=int, default=ModelConfig.max_strokes, show_default=True)
@click.option(
    "--degree",
    type=int,
    default=ModelConfig.degree,
    show_default=True,
    help="Degree of the Bézier curves.",
)
@click.option(
    "--layout-components", type=int, default=ModelConfig.layout_components, show_default=True
)
@click.option(
    "--stroke-components", type=int, default=ModelConfig.stroke_components, show_default=True
)
@click.option(
    "--canvas-size",
    type=int,
    default=ModelConfig.canvas_size,
    show_default=True,
    help="Pixels a side.",
)
@click.option(
    "--control-points",
    type=click.Choice(["chained", "independent"]),
    default=ModelConfig.control_points,
    show_default=True,
    help="The prior of a control point: given those before it, or by itself as in the paper.",
)
@click.option(
    "--corrections",
    type=int,
    default=TrainConfig.corrections,
    show_default=True,
    help="How often the guide looks again at a stroke; 0 is the paper's guide.",
)
@click.option(
    "--pen", type=click.Choice(["latent", "shared"]), default=ModelConfig.pen, show_default=True
)
@click.option(
    "--taper/--no-taper",
    default=ModelConfig.taper,
    show_default=True,
    help="Whether width and darkness may change along a stroke.",
)
@click.option(
    "--likelihood",
    type=click.Choice(["laplace", "gaussian"]),
    default=ModelConfig.likelihood,
    show_default=True,
)
@click.option(
    "--native-resolution/--no-native-resolution",
    default=ModelConfig.native_resolution,
    show_default=True,
    help="Draw on as few pixels as pictures came with, where that is half of the canvas's or more.",
)
@click.option("--tensorboard/--no-tensorboard", default=True, show_default=True)
@options.device
@options.data_dir
@click.pass_context
def train(ctx: click.Context, /, **given: Any) -> None:
    """Trains model and guide on a source, or goes on with a run.

    Ctrl-C saves. A run that was stopped, or killed, goes on with --resume RUN; with --steps, on a
    CPU, it ends with the very weights that it would have had. --steps or --budget may then be
    raised, nothing else changed.
    """
    from dood_pyro.checkpoints import Run
    from dood_pyro.devices import choose_device
    from dood_pyro.progress import print_if_read
    from dood_pyro.recognition import trained_weights

    # The end of the terminal, of which this tells, ends no training.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    device = choose_device(given["device"])
    if given["resume"] is not None:
        _refuse_changes(ctx)
        run = Run(given["resume"])
        if not run.path.exists() and str(run.path) in trained_weights():
            raise UserError(
                f"{run.path} are weights that come with dood-pyro, without what going on needs; start "
                f"from them: --start-from {run.path}"
            )
        run.allow_guide(_named(ctx, "guide"))
        until = run.read_config()[1].raised(given["steps"], given["budget"], *run.progress())
    else:
        run, until = _create(ctx, given, device)
    tensorboard = _named(ctx, "tensorboard")
    if tensorboard is None:  # as the run was told before
        tensorboard = run.logs_for_tensorboard()
    trainer = _train(run, until, device, tensorboard, given)
    picture = _reconstructions(run, trainer, given["data_dir"])
    print_if_read(f"run: {run.path}")
    print_if_read(f"reconstructions, stroke by stroke: {picture}")


MAY_CHANGE = {"resume", "steps", "budget", "device", "data_dir", "tensorboard", "guide"}
"""``guide`` may be named again: a guide of one's own must be (`Run.allow_guide`)."""


def _named(ctx: click.Context, name: str) -> Any:
    """An option's value if it was typed, else None."""
    typed = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    return ctx.params[name] if typed else None


def _option(name: str) -> str:
    """A setting's option as it is typed."""
    return "--model" if name == "program" else "--" + name.replace("_", "-")


def _refuse_changes(ctx: click.Context) -> None:
    for name in ctx.params.keys() - MAY_CHANGE:
        if _named(ctx, name) is not None:
            raise UserError(
                f"{_option(name)} cannot change when a run is resumed; leave it out, or train a new "
                "run with --out"
            )


def _create(ctx: click.Context, given: dict[str, Any], device: Any) -> tuple[Run, Until]:
    from dood_pyro import data
    from dood_pyro.checkpoints import Run, RunConfig, Until
    from dood_pyro.guides import check_guide
    from dood_pyro.programs import PROGRAMS
    from dood_pyro.training import split_held_out

    if given["source"] is None:
        raise UserError(f"say what to train on: --source {'|'.join(data.NAMES)} or a path")
    source = given["source"]
    # The run must find a path again from wherever it is resumed.
    absolute = source if source in data.NAMES else os.path.abspath(os.path.expanduser(source))
    train_names = (
        *("seed", "batch_size", "estimator", "guide", "beta", "learning_rate"),
        *("fit", "corrections", "dream_steps", "practice", "scale_learns", "normalise"),
    )
    settings = {name: given[name] for name in train_names}
    weighs = given["estimator"] in ("iwae", "rws")
    settings["particles"] = given["particles"] or (5 if weighs else 1)
    start = None
    if given["start_from"] is None:
        program = given["program"]
        model = ModelConfig(**{name: given[name] for name in MODEL_OPTIONS})
        model = PROGRAMS[program].configure(model)
    else:
        program, model, start, known = _start(ctx, given["start_from"])
        settings |= known
    config = RunConfig(program, model, TrainConfig(absolute, **settings))
    until = Until(given["steps"], given["budget"])
    # What cannot be is found out before anything is written.
    check_guide(*config.build())
    images, *_ = data.read(source, "train", given["data_dir"])
    split_held_out(len(images))
    out = given["out"]
    out = out or Path("runs") / f"{program}-{data.name_of(source)}-{given['seed']}"
    return Run.create(out, config, until, device, start), until


MODEL_OPTIONS = (
    *("canvas_size", "max_strokes", "degree", "layout_components", "stroke_components"),
    *("control_points", "pen", "taper", "likelihood", "native_resolution"),
)


def _start(ctx: click.Context, name: str) -> tuple[str, Any, dict[str, Any], dict[str, Any]]:
    """Program, model settings and weights of the run to start from, and training settings that
    follow from there being one."""
    from dood_pyro.checkpoints import refuse_not_finite
    from dood_pyro.recognition import open_run

    run = open_run(name)
    config, _ = run.read_config()
    settled = {"program": config.program, "corrections": config.train.corrections}
    settled |= {option: getattr(config.model, option) for option in MODEL_OPTIONS}
    for option, theirs in settled.items():
        if _named(ctx, option) not in (None, theirs):
            raise UserError(
                f"{_option(option)} is that of {name}, which --start-from names: {theirs}"
            )
    run.load_model()  # says what is wrong with the weights
    weights, _ = run.read_tensors("best.safetensors")
    refuse_not_finite(weights, f"{run.path}/best.safetensors")
    # Kept weights are in half precision.
    weights = {key: t.float() if t.is_floating_point() else t for key, t in weights.items()}
    if ctx.params["fit"] == "prior":  # learns from what the run's own guide says
        guide = run.allow_guide(_named(ctx, "guide")).train.guide
    else:
        guide = ctx.params["guide"]
    known: dict[str, Any] = {
        "guide": guide,
        "start": hashlib.sha256((run.path / "best.safetensors").read_bytes()).hexdigest(),
        "corrections": config.train.corrections,
        "guide_channels": config.train.guide_channels,
        # Corrections have been let in already.
        **dict.fromkeys(("trust_begin", "trust_full", "trust_stagger"), 0),
    }
    return config.program, config.model, weights, known


def _train(
    run: Run, until: Until, device: Any, tensorboard: bool, given: dict[str, Any]
) -> Trainer:
    from dood_pyro.progress import print_across, progress_bar
    from dood_pyro.training import train as train_run

    by_steps = until.steps is not None
    unit, total = ("step", until.steps) if by_steps else ("s", round(until.seconds or 0))
    bar: Any = None

    def show(trainer: Trainer, line: dict[str, Any]) -> None:
        nonlocal bar
        come = trainer.step if by_steps else round(trainer.seconds)
        if bar is None:
            name = run.path.resolve().name
            bar = progress_bar(total=total, initial=come, unit=unit, desc=name, bar_format=BAR)
        bar.n = come
        if line["kind"] == "train":
            bar.set_postfix_str(_progress(line))
        elif line["kind"] == "held-out":
            print_across(
                bar,
                f"step {line['step']:>6}  held-out ELBO {_mean(line['elbo'], 1):>8}  "
                f"strokes {_mean(line['strokes'], 2)}  after {line['seconds'] / 60:.1f} min",
            )

    try:
        return train_run(run, device, given["data_dir"], show, tensorboard, until)
    finally:
        if bar is not None:
            bar.close()


def _progress(line: dict[str, Any]) -> str:
    """A line of metrics in short."""
    names = ("elbo", "log_likelihood", "kl_strokes")
    elbo, likelihood, strokes = (_mean(line[name], 0) for name in names)
    return (
        f"ELBO {elbo} = {likelihood} − {strokes} − {_mean(line['kl_stop'], 1)}, "
        f"{_mean(line['strokes'], 2)} strokes, {line['steps_per_second']:.2f} steps/s"
        + (f", {line['skipped']} skipped" if line["skipped"] else "")
    )


def _mean(value: float | None, digits: int) -> str:
    """Of what was never finite there is no mean."""
    return "–" if value is None else f"{value:.{digits}f}"


BAR = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}] {postfix}"


def _reconstructions(run: Run, trainer: Trainer, data_dir: Path | None) -> Path:
    from dood_pyro.recognition import Recognizer
    from dood_pyro.tasks.reconstruct import reconstruct

    recognizer = Recognizer(*run.load("best", trainer.config.train.guide))
    picture = run.path / "reconstructions.png"
    reconstruct(recognizer, trainer.config.train.source, picture, data_dir=data_dir, svg=False)
    return picture
