"""``dood-pyro exemplars`` and ``complete``: the Omniglot tasks that draw (section 3.2)."""

from __future__ import annotations

from pathlib import Path

import click

from . import options

target = click.option("--target", required=True, help="Source whose test images are taken.")
count = click.option("--count", type=click.IntRange(1, 100), default=8, show_default=True)
each = click.option("--each", type=click.IntRange(1, 100), default=8, show_default=True)
seed = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)


def _png(run: str, what: str, name: str, out: Path | None) -> Path:
    return out or Path(f"{Path(run).name}-{what}-{Path(name).stem}.png")


@click.command()
@click.argument("run")
@target
@count
@each
@click.option("--control-noise", type=float, default=0.03, show_default=True, help="Canvas units.")
@click.option(
    "--affine-noise",
    type=float,
    default=1.0,
    show_default=True,
    help="Times the default deviations.",
)
@seed
@click.option("--out", type=options.Png(), help="PNG.")
@options.trained
@options.data_dir
def exemplars(
    run: str,
    target: str,
    count: int,
    each: int,
    control_noise: float,
    affine_noise: float,
    seed: int,
    out: Path | None,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Writes new exemplars of characters: tokens of the types that their parses are (Fig. 7)."""
    from dood_pyro.plots import save_png
    from dood_pyro.tasks.exemplars import draw_exemplars
    from dood_pyro.tokens import TokenNoise

    out = _png(run, "exemplars", target, out)
    default = TokenNoise()
    affine = ("shift", "rotation", "log_scale", "shear")
    noise = TokenNoise(
        control=control_noise, **{name: affine_noise * getattr(default, name) for name in affine}
    )
    dood = use.load(run)
    save_png(out, draw_exemplars(dood, target, count, each, noise, seed, data_dir))
    click.echo(out)


@click.command()
@click.argument("run")
@target
@count
@each
@click.option(
    "--strokes",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Go on from so many strokes of the parse; 0: from the whole picture, a partial one.",
)
@seed
@click.option("--out", type=options.Png(), help="PNG.")
@options.trained
@options.data_dir
def complete(
    run: str,
    target: str,
    count: int,
    each: int,
    strokes: int,
    seed: int,
    out: Path | None,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Goes on with drawings that were begun, in many ways (Fig. 8)."""
    from dood_pyro.plots import save_png
    from dood_pyro.tasks.complete import draw_completions

    out = _png(run, "completions", target, out)
    dood = use.load(run)
    save_png(out, draw_completions(dood, target, count, each, strokes or None, seed, data_dir))
    click.echo(out)
