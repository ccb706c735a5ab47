"""The ``dood-pyro sample`` command: new drawings from a run's prior.
`dood_pyro.registry` names it, and `dood_pyro.tasks.generate` does the work.
"""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command()
@click.argument("run")
@options.count(1024, 64, "Number of drawings")
@options.seed
@click.option(
    "--temperature",
    type=float,
    default=1.0,
    show_default=True,
    help="Below 1, likelier and less varied drawings.",
)
@click.option("--out", type=options.Png(), help="PNG.  [default: RUN-samples.png]")
@options.trained_model
def sample(
    run: str, count: int, seed: int, temperature: float, out: Path | None, use: options.Use
) -> None:
    """Draw new drawings, sampled from RUN's prior.

    Writes a sheet of drawings (Fig. 6), an animation of the sheet, and a folder with a PNG, an SVG and
    a JSON per drawing.
    """
    from dood_pyro.tasks.generate import sample as draw

    model, native_size = use.load_model(run)
    out = out or Path(f"{options.run_name(run)}-samples.png")
    written = draw(model, out, count, seed, native_size, temperature)
    folder = out.with_suffix("")
    sheets = [path for path in written if path.parent != folder]
    for path in sheets:
        click.echo(path)
    click.echo(f"{folder}: {len(written) - len(sheets)} files")
