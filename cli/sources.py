"""The ``dood-pyro sources`` command: the data sources, listed or prepared.
`dood_pyro.registry` names it, and `dood_pyro.data` does the work.
"""

from __future__ import annotations

from pathlib import Path

import click

from dood_pyro.errors import UserError

from . import options


@click.command()
@click.option("--prepare", metavar="NAME", help="Prepare this source, or folder, now.")
@click.option(
    "--skip-bad",
    is_flag=True,
    help="With --prepare FOLDER: leave out its files that are no pictures, then and later.",
)
@options.data_dir
def sources(prepare: str | None, skip_bad: bool, data_dir: Path | None) -> None:
    """List the data sources.

    Prints how many images each source has, and where its data file is.
    """
    from dood_pyro import data
    from dood_pyro.data import prepared
    from dood_pyro.registry import SOURCES

    if prepare is not None:
        data.locate(prepare, data_dir, skip_bad)
    click.echo(f"data folder: {data.data_folder(data_dir)}")
    click.echo(f"{'name':<14} {'train':>7} {'test':>7}  {'pixels':<8} {'what':<52} where")
    for name, source in SOURCES.items():
        path = data.find(name, data_dir)
        what = source.what
        if path is None:
            click.echo(f"{name:<14} {'–':>7} {'–':>7}  {'–':<8} {what:<52} prepared on first use")
            continue
        try:
            shapes = prepared.counts(path)
        except UserError as error:
            click.echo(f"{name:<14} {error}")
            continue
        train, test = (shapes[part] for part in prepared.PARTS)
        pixels = f"{train[1]}×{train[2]}"
        click.echo(f"{name:<14} {train[0]:>7} {test[0]:>7}  {pixels:<8} {what:<52} {path}")
    click.echo(
        "a source may also be the path of a folder of pictures, or of an .npz in the same layout, "
        "or your own code as module:function"
    )
