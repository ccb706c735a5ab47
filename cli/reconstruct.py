"""The ``dood-pyro reconstruct`` command: a target's test images, drawn stroke by stroke.
`dood_pyro.registry` names it, and `dood_pyro.tasks.reconstruct` does the work.
"""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command()
@click.argument("run")
@click.option("--target", required=True, help="Source whose test images are drawn, or a path.")
@options.count(200, 12, "Images")
@click.option("--out", type=options.Png(), help="PNG.  [default: RUN-on-TARGET.png]")
@click.option(
    "--svg/--no-svg",
    default=True,
    show_default=True,
    help="Also write an SVG and a JSON per drawing.",
)
@options.trained
@options.data_dir
def reconstruct(
    run: str,
    target: str,
    count: int,
    out: Path | None,
    svg: bool,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Draw a target's test images stroke by stroke.

    Strokes are coloured by order (Fig. 1 and 3).

    RUN is a run folder, or the name of trained weights that come with the package.
    """
    from dood_pyro import data
    from dood_pyro.tasks.reconstruct import reconstruct as draw

    dood = use.load(run)
    out = out or Path(f"{options.run_name(run)}-on-{data.name_of(target)}.png")
    written = draw(dood, target, out, count, data_dir=data_dir, svg=svg)
    click.echo(f"{written[0]}" + (f" and {len(written) - 1} files beside it" if svg else ""))
