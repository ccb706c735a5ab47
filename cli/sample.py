"""``dood-pyro sample``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command()
@click.argument("run")
@click.option("--count", type=click.IntRange(1, 1024), default=64, show_default=True)
@options.seed
@click.option("--out", type=options.Png(), help="PNG.  [default: RUN-samples.png]")
@options.trained
def sample(run: str, count: int, seed: int, out: Path | None, use: options.Use) -> None:
    """Draws from the prior of RUN: a sheet, its animation, and SVG and JSON a drawing (Fig. 6)."""
    from dood_pyro.tasks.generate import sample as draw

    dood = use.load(run)
    out = out or Path(f"{Path(run).name}-samples.png")
    written = draw(dood, out, count, seed)
    more = len(written) - 2
    for path in written[:2]:
        click.echo(path)
    if more > 0:
        click.echo(f"{out.with_suffix('')}: {more} files")
