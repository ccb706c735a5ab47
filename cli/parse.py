"""The ``dood-pyro parse`` command: pictures into pen strokes.
`dood_pyro.registry` names it, and `dood_pyro.recognition` does the work.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dood_pyro.errors import UserError

from . import options

if TYPE_CHECKING:
    from dood_pyro.pictures import Polarity

BATCH = 256
"""Number of pictures parsed at once."""
SEARCHED = 8
"""Number of pictures parsed at once by a guide that searches: at seconds per picture, small batches
show progress."""


@click.command()
@click.argument("pictures", nargs=-1, required=True, type=options.PathTo())
@click.option(
    "--run",
    default="omniglot",
    show_default=True,
    help="Run folder, or name of trained weights that come with the package.",
)
@click.option(
    "--out",
    type=options.PathTo(),
    default=Path("."),
    show_default=True,
    help="Folder for the files, which are named after the pictures.",
)
@click.option(
    "--polarity",
    type=click.Choice(["auto", "bright-ink", "dark-ink"]),
    default="auto",
    show_default=True,
    help="Polarity of the pictures; auto judges by their borders.",
)
@options.trained
def parse(
    pictures: tuple[Path, ...], run: str, out: Path, polarity: Polarity, use: options.Use
) -> None:
    """Turn PICTURES into pen strokes.

    Pictures may have any size; each gives an SVG and a JSON.
    """
    stem, count = Counter(path.stem for path in pictures).most_common(1)[0]
    if count > 1:
        raise UserError(f"{count} pictures are called {stem}; parse them into different folders")
    from dood_pyro.files import unwritable

    dood = use.load(run)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"--out {out} is a file; name a folder") from None
    except OSError as error:
        raise unwritable(out, error) from None
    together = SEARCHED if use.guide else BATCH
    for first in range(0, len(pictures), together):
        batch = pictures[first : first + together]
        for path, drawing in zip(batch, dood.parse(list(batch), polarity), strict=True):
            drawing.save(out / path.stem)
            click.echo(f"{path}: {len(drawing)} strokes, {out / path.stem}.svg and .json")
